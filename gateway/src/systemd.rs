//! What systemd is told ([`notify`]), and what it hands over ([`listen_fds`]). Outside of systemd both do nothing.

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

/// Sends a state such as `READY=1` or `STATUS=…`. `Ok(false)`: nobody asked for it.
pub fn notify(state: &str) -> io::Result<bool> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(path) if !path.is_empty() => notify_at(path.as_encoded_bytes(), state).map(|()| true),
        _ => Ok(false),
    }
}

/// `@name` is an abstract address.
fn notify_at(path: &[u8], state: &str) -> io::Result<()> {
    let to = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::str::from_utf8(path).map_err(io::Error::other)?)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to).map(drop)
}

/// The first descriptor that is handed over, by convention.
const FIRST: i32 = 3;

/// The sockets of socket activation. They are handed over once: a second call finds none.
pub fn listen_fds() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| env::var(name).ok().and_then(|v| v.parse::<i32>().ok());
    let ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 1024);
    if !ours || count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return vec![];
    }
    (FIRST..FIRST + count)
        .filter_map(|fd| {
            // SAFETY: fcntl on a number is harmless; it also tells whether the descriptor is open. systemd gave these
            // descriptors to this very process (LISTEN_PID), and TAKEN makes sure that they get one owner only.
            unsafe { (libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == 0).then(|| OwnedFd::from_raw_fd(fd)) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_paths_and_abstract_names() {
        let name = format!("portcullis-test-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, address) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))] {
            notify_at(address.as_bytes(), "READY=1\nSTATUS=x").unwrap();
            let mut buf = [0; 64];
            let n = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"READY=1\nSTATUS=x");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(notify_at(b"/nonexistent/socket", "READY=1").is_err());
    }
}
