//! What is known of a connection, for as long as it lives. The hooks of a request find it through [`conn`]: it is task-local, since
//! Pingora hands nothing of its own through for HTTP/2.

use super::limits::{Place, Slot};
use super::tls::Chosen;
use filters::cx::Tls;
use smol_str::SmolStr;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, watch};

tokio::task_local! {
    pub(super) static CONN: Arc<Conn>;
}

/// The connection that the running request came over.
pub fn conn() -> Option<Arc<Conn>> {
    CONN.try_with(Arc::clone).ok()
}

/// One accepted connection.
pub struct Conn {
    /// Unique within the process.
    pub id: u64,
    /// The listener's name.
    pub listener: SmolStr,
    /// The other end of the socket; none for Unix sockets.
    pub peer: Option<SocketAddr>,
    /// The client: the peer, or whom its PROXY header names. Clients of a Unix socket are `127.0.0.1`.
    pub client: IpAddr,
    /// This end of the socket, or where the client connected to according to the PROXY header.
    pub local: Option<SocketAddr>,
    pub tls: Option<Arc<Tls>>,
    /// Everything is to be redirected to `https` at this port.
    pub redirect: Option<u16>,
    /// The strictness that HTTP/2 heads are to be judged with.
    pub rules: super::check::Rules,
    pub(super) chosen: Option<Chosen>,
    pub(super) requests: AtomicU64,
    pub(super) inflight: AtomicUsize,
    /// Nothing is in flight any more.
    pub(super) quiet: Notify,
    pub(super) draining: watch::Receiver<bool>,
    /// For the deadlines of the requests, one after the other.
    pub timer: parking_lot::Mutex<crate::deadline::Timer>,
    pub(super) _slots: Slots,
}

/// What the connection takes from the limits, until it is dropped.
#[derive(Default)]
#[expect(dead_code, reason = "held for their end, never read")]
pub(super) struct Slots {
    pub total: Option<Slot>,
    pub listener: Option<Slot>,
    pub worker: Option<Slot>,
    pub address: Option<Place>,
}

impl Conn {
    /// Requests so far, this one included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that are being worked on.
    pub fn inflight(&self) -> usize {
        self.inflight.load(Ordering::Relaxed)
    }

    /// The listener is going away: say `Connection: close`.
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Must a request for this host be refused with 421, since its TLS terms are not the ones this connection was made on?
    pub fn misdirected(&self, host: &str) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| !chosen.covers(host))
    }
}

/// Counts a request while it lives.
pub(super) struct Busy(Arc<Conn>);

impl Busy {
    pub fn new(conn: &Arc<Conn>) -> Busy {
        conn.requests.fetch_add(1, Ordering::Relaxed);
        conn.inflight.fetch_add(1, Ordering::AcqRel);
        Busy(conn.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.inflight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.quiet.notify_one();
        }
    }
}
