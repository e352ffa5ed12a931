//! A deadline for a whole request, which Pingora does not have: its timeouts are per read.
//!
//! The request's future runs beside a timer in the same task. When the deadline passes, the upstream's socket is shut
//! down, so that Pingora sees a failed upstream and takes its ordinary way to an answer, or to a cut connection if
//! bytes were already sent. A request that is not over soon after is dropped. The timer belongs to the connection:
//! one that is set for an earlier moment is left alone and set anew when it rings, so most requests touch no timer.

use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a request may take to end once its deadline has passed.
const GRACE: Duration = Duration::from_secs(1);
const NEVER: u64 = u64::MAX;
const NONE: RawFd = -1;

tokio::task_local! {
    static WATCH: Arc<Watch>;
}

/// The deadline of the request at hand. Set and read in one task; atomics only because Pingora's futures must be `Send`.
#[derive(Debug)]
pub struct Watch {
    /// Monotonic nanoseconds, see [`crate::clock`].
    due: AtomicU64,
    upstream: AtomicI32,
    rang: AtomicBool,
}

impl Watch {
    /// The watch of the request whose future is being polled.
    pub fn current() -> Option<Arc<Watch>> {
        WATCH.try_with(Arc::clone).ok()
    }
    /// The request must be over at `due` (nanoseconds); `u64::MAX` for never.
    pub fn set(&self, due: u64) {
        self.due.store(due, Relaxed);
    }
    /// The socket of the HTTP/1 upstream connection that serves this request from now on; `None` once its response
    /// may be kept or its connection may be someone else's.
    pub fn upstream(&self, fd: Option<RawFd>) {
        self.upstream.store(fd.unwrap_or(NONE), Relaxed);
    }
    /// The deadline has passed.
    pub fn rang(&self) -> bool {
        self.rang.load(Relaxed)
    }

    fn ring(&self) {
        self.rang.store(true, Relaxed);
        let fd = self.upstream.swap(NONE, Relaxed);
        if fd != NONE {
            // SAFETY: the proxy clears `upstream` in the hooks that run before the connection is released or closed,
            // and all of this happens in one task, so the descriptor is open and still the one that was noted.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A connection's timer, used by one request after another.
#[derive(Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready when `due` has passed.
    fn poll(&mut self, due: u64, cx: &mut Context<'_>) -> Poll<()> {
        let at = crate::clock::instant(due);
        let sleep = match &mut self.0 {
            Some(sleep) => {
                // A timer that rings too early costs one wake-up; setting it for every request would cost more.
                if sleep.deadline() > at || sleep.is_elapsed() {
                    sleep.as_mut().reset(at);
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// Runs one request under a watch of its own; `None` if it had to be dropped.
pub async fn guard<F: Future>(timer: &mut Timer, request: F) -> Option<F::Output> {
    let watch = Arc::new(Watch { due: NEVER.into(), upstream: NONE.into(), rang: false.into() });
    let mut request = pin!(WATCH.scope(watch.clone(), request));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(output) = request.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let due = watch.due.load(Relaxed);
            if due == NEVER || timer.poll(due, cx).is_pending() {
                return Poll::Pending;
            }
            if watch.rang() {
                return Poll::Ready(None);
            }
            watch.ring();
            watch.set(crate::clock::now() + GRACE.as_nanos() as u64);
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use tokio::time::{advance, pause};

    fn in_ms(ms: u64) -> u64 {
        crate::clock::now() + ms * 1_000_000
    }

    #[tokio::test]
    async fn a_request_in_time_is_untouched() {
        let mut timer = Timer::default();
        assert_eq!(guard(&mut timer, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn the_upstream_is_cut_at_the_deadline_and_the_request_ends_its_own_way() {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        far.set_nonblocking(true).expect("non-blocking");
        let far = tokio::net::UnixStream::from_std(far).expect("a stream");
        let mut timer = Timer::default();
        let outcome = guard(&mut timer, async {
            let watch = Watch::current().expect("inside a guard");
            watch.upstream(Some(std::os::fd::AsRawFd::as_raw_fd(&far)));
            watch.set(in_ms(20));
            far.readable().await.expect("readable: the end");
            watch.rang()
        })
        .await;
        assert_eq!(outcome, Some(true));
        assert_eq!(near.read(&mut [0; 1]).expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_dropped() {
        pause();
        let mut timer = Timer::default();
        let request = async {
            Watch::current().expect("inside a guard").set(in_ms(10));
            std::future::pending::<()>().await
        };
        let mut guarded = pin!(guard(&mut timer, request));
        assert!(futures_poll(&mut guarded).await.is_pending());
        advance(Duration::from_secs(3)).await;
        assert_eq!(guarded.await, None);
    }

    async fn futures_poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }
}
