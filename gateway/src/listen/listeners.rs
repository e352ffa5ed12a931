//! The listeners of the running process. Start and reload are one path: [`Listeners::bind`] binds what is not bound yet and can fail
//! without having changed anything; [`Listeners::apply`] cannot fail: it starts the new, gives the kept their new terms, and ends
//! the rest.
//!
//! One socket per address, accepted from by every worker; a connection goes to the worker that has the fewest. One socket per worker
//! (SO_REUSEPORT) would spare that hand-over, but the kernel then loses the connections that wait on a socket when it closes, and
//! spreads them by hash, not by load.

use super::conf::Bind;
use super::front::{Front, Journal, stopped};
use super::limits::{Addresses, Total};
use super::plan::{Built, Fault, Setup, key};
use super::socket::{self, Listening};
use super::sys;
use super::tls::Acceptor;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::apps::HttpServerApp;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Descriptors that connections must leave for files, the log, the admin endpoint.
const RESERVED: u64 = 64;
/// Wait after an accept that failed for lack of something.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A thread with its own reactor, and the application that serves the connections placed on it.
pub struct Worker<A> {
    pub handle: Handle,
    pub app: Arc<A>,
}

/// What all workers know of one listening socket.
pub(super) struct Post {
    pub setup: ArcSwap<Setup>,
    pub count: Arc<Total>,
    pub counters: Counters,
    pub stop: watch::Sender<bool>,
    /// The bound address, unless it is a Unix socket.
    pub local: Option<SocketAddr>,
}

/// Since the start of the listener.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    /// Closed at once, for there were too many.
    pub over_limit: AtomicU64,
    pub preambles_refused: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub accept_errors: AtomicU64,
}

/// One address and how it fares.
#[derive(Debug, Clone)]
pub struct Stat {
    pub listener: String,
    /// As bound: with the port that the kernel chose.
    pub addr: String,
    pub connections: usize,
    pub accepted: u64,
    pub over_limit: u64,
    pub preambles_refused: u64,
    pub handshakes_failed: u64,
    pub accept_errors: u64,
}

struct Live {
    post: Arc<Post>,
    listening: Listening,
    addr: String,
    tasks: Vec<JoinHandle<()>>,
}

/// Sockets that were bound for a generation, and do not serve yet.
pub struct Bound(Vec<(String, Arc<Setup>, Listening)>);

pub struct Listeners<A> {
    front: Arc<Front<A>>,
    live: Mutex<BTreeMap<String, Live>>,
    inherited: Mutex<Vec<socket2::Socket>>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Listeners<A> {
    /// `inherited` are listening sockets that systemd or a predecessor handed over; they are used where an address fits.
    pub fn new(
        workers: Vec<Worker<A>>,
        inherited: Vec<OwnedFd>,
        journal: Arc<dyn Journal>,
    ) -> io::Result<Listeners<A>> {
        assert!(!workers.is_empty(), "somebody must serve");
        // a connection needs a descriptor for its upstream, too
        let most = (sys::raise_descriptors().saturating_sub(RESERVED) / 2).max(16);
        let front = Front {
            load: workers.iter().map(|_| Arc::default()).collect(),
            workers,
            total: Arc::default(),
            addresses: Arc::new(Addresses::default()),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            acceptor: Acceptor::new().map_err(io::Error::other)?,
            journal,
            next: AtomicU64::new(1),
        };
        let inherited = inherited.into_iter().map(socket2::Socket::from).collect();
        Ok(Listeners { front: Arc::new(front), live: Mutex::default(), inherited: Mutex::new(inherited) })
    }

    /// Binds the addresses that are not bound yet. After a failure everything is as it was.
    pub fn bind(&self, built: &Built) -> Result<Bound, Vec<Fault>> {
        let live = self.live.lock();
        let mut inherited = self.inherited.lock();
        let (mut bound, mut faults) = (vec![], vec![]);
        for planned in &built.listeners {
            let name = planned.setup.name.as_str();
            for addr in &planned.addrs {
                let key = key(name, &addr.get_ref().at);
                if live.contains_key(&key) {
                    continue;
                }
                match socket::open(addr.get_ref(), &mut inherited) {
                    Ok(listening) => bound.push((key, planned.setup.clone(), listening)),
                    Err(error) => {
                        faults.push(Fault { listener: name.to_owned(), key: "addr", error: error.at(addr.span()) })
                    }
                }
            }
        }
        if faults.is_empty() {
            return Ok(Bound(bound));
        }
        inherited.extend(bound.into_iter().filter(|(_, _, l)| l.inherited).map(|(_, _, l)| l.socket));
        Err(faults)
    }

    /// Serves this generation: cannot fail. Connections of addresses that are gone finish what they do and then close.
    pub fn apply(&self, built: Built, bound: Bound) {
        let mut live = self.live.lock();
        let mut wanted = BTreeMap::new();
        for planned in built.listeners {
            for addr in &planned.addrs {
                wanted.insert(key(&planned.setup.name, &addr.get_ref().at), planned.setup.clone());
            }
        }
        live.retain(|key, kept| match wanted.remove(key) {
            Some(setup) => {
                kept.post.setup.store(setup);
                true
            }
            None => {
                kept.stop();
                false
            }
        });
        for (key, setup, listening) in bound.0 {
            live.insert(key, self.start(setup, listening));
        }
    }

    fn start(&self, setup: Arc<Setup>, listening: Listening) -> Live {
        let address = listening.address();
        let addr = address.as_ref().map_or_else(String::new, Bind::to_string);
        let local = match address {
            Some(Bind::Tcp(at)) => Some(at),
            _ => None,
        };
        let post = Arc::new(Post {
            setup: ArcSwap::new(setup),
            count: Arc::default(),
            counters: Counters::default(),
            stop: watch::Sender::new(false),
            local,
        });
        let tasks = (0..self.front.workers.len())
            .filter_map(|nth| {
                let socket = listening.socket.try_clone().map_err(|e| log::error!("listener {addr}: {e}")).ok()?;
                let task = accept(self.front.clone(), post.clone(), socket, nth);
                Some(self.front.workers[nth].handle.spawn(task))
            })
            .collect();
        Live { post, listening, addr, tasks }
    }

    /// Name and address of each listener, as bound.
    pub fn addresses(&self) -> Vec<(String, String)> {
        let live = self.live.lock();
        live.values().map(|l| (l.post.setup.load().name.to_string(), l.addr.clone())).collect()
    }

    pub fn stats(&self) -> Vec<Stat> {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let live = self.live.lock();
        live.values()
            .map(|l| Stat {
                listener: l.post.setup.load().name.to_string(),
                addr: l.addr.clone(),
                connections: l.post.count.count(),
                accepted: read(&l.post.counters.accepted),
                over_limit: read(&l.post.counters.over_limit),
                preambles_refused: read(&l.post.counters.preambles_refused),
                handshakes_failed: read(&l.post.counters.handshakes_failed),
                accept_errors: read(&l.post.counters.accept_errors),
            })
            .collect()
    }

    /// Connections in all, those of listeners that are gone included.
    pub fn connections(&self) -> usize {
        self.front.total.count()
    }

    /// Connections per worker.
    pub fn loads(&self) -> Vec<usize> {
        self.front.load.iter().map(|l| l.count()).collect()
    }

    /// Inherited sockets that no listener wanted; they are closed.
    pub fn drop_unused(&self) -> Vec<String> {
        let unused = std::mem::take(&mut *self.inherited.lock());
        unused.iter().map(|s| s.local_addr().map_or_else(|e| e.to_string(), |a| format!("{a:?}"))).collect()
    }

    /// Copies of the listening sockets, for a successor.
    pub fn hand_over(&self) -> io::Result<Vec<OwnedFd>> {
        let live = self.live.lock();
        live.values().map(|l| l.listening.socket.try_clone().map(OwnedFd::from)).collect()
    }

    /// Accepts no more, closes what idles, and waits until the rest is done: `false` if the deadline came first.
    /// With a `successor` the files of Unix sockets stay.
    pub async fn drain(&self, deadline: Duration, successor: bool) -> bool {
        let ended: Vec<Live> = std::mem::take(&mut *self.live.lock()).into_values().collect();
        for mut live in ended {
            if successor {
                live.listening.leave_file();
            }
            live.stop();
            // with the last copy of the socket gone, clients are refused and do not hang
            drop(live.listening);
            for task in live.tasks {
                let _ = task.await;
            }
        }
        tokio::time::timeout(deadline, self.front.total.idle()).await.is_ok()
    }
}

impl Live {
    fn stop(&self) {
        self.post.stop.send_replace(true);
    }
}

/// Accepts until the listener goes away.
async fn accept<A: HttpServerApp + Send + Sync + 'static>(
    front: Arc<Front<A>>,
    post: Arc<Post>,
    socket: socket2::Socket,
    here: usize,
) {
    let listener = match sys::watch(socket) {
        Ok(listener) => listener,
        Err(e) => return log::error!("listener {}: {e}", post.setup.load().name),
    };
    let mut stop = post.stop.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return last(&front, &post, listener.get_ref(), here),
            accepted = listener.async_io(Interest::READABLE, |socket| socket.accept()) => accepted,
        };
        match accepted {
            Ok((socket, peer)) => front.admit(&post, socket, peer.as_socket(), here),
            Err(e) if passing(&e) => {}
            Err(e) => {
                // descriptors or buffers are used up: spinning would only make it worse
                if post.counters.accept_errors.fetch_add(1, Ordering::Relaxed).is_multiple_of(20) {
                    log::warn!("listener {} cannot accept: {e}", post.setup.load().name);
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Takes in who waits already: the kernel would reset them with the socket. They have one call, see `read_head`.
fn last<A: HttpServerApp + Send + Sync + 'static>(
    front: &Arc<Front<A>>,
    post: &Arc<Post>,
    socket: &socket2::Socket,
    here: usize,
) {
    for _ in 0..socket::BACKLOG {
        match socket.accept() {
            Ok((socket, peer)) => front.admit(post, socket, peer.as_socket(), here),
            Err(e) if passing(&e) => {}
            Err(_) => return,
        }
    }
}

/// Faults of the one connection that was to be accepted (accept(2)).
fn passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset)
        || matches!(
            e.raw_os_error(),
            Some(
                libc::EPROTO
                    | libc::ENETDOWN
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTUNREACH
            )
        )
}
