//! What the safe libraries do not offer: the limit on descriptors, and readiness of a listening socket that hands out sockets which
//! no reactor watches yet, so that any worker may take them. The only `unsafe` of the listeners.

use socket2::Socket;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Raises the soft limit on open descriptors to the hard one and returns what holds now.
pub fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct that is passed, which lives on this stack frame.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return 1024;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        if limit.rlim_cur < limit.rlim_max && libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
            limit = raised;
        }
    }
    limit.rlim_cur
}

/// Watches a listening socket on the current reactor.
pub fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, which it neither closes nor exchanges before it is dropped, and `AsyncFd` owns the
    // `Socket`, so the descriptor stays the same and open for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}
