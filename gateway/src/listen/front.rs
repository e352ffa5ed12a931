//! A connection from accept to its end: limits, PROXY header, TLS, then one HTTP/1 request after another, or HTTP/2 streams.
//! HTTP/1 heads are read here and not by Pingora. So one deadline holds for the whole head however it drips in, and a head that two
//! parsers could read differently is refused, answered and logged before any of them sees it.

use super::check::{self, Framing, Refusal};
use super::conn::{Busy, CONN, Conn, Slots};
use super::limits::{Addresses, Total};
use super::link::{Link, Socket};
use super::listeners::{Post, Worker};
use super::plan::Setup;
use super::preamble::{self, Preamble};
use super::tls::{Acceptor, Chosen};
use bytes::BytesMut;
use filters::cx::Tls;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession as H2Session, default_h2_options, handshake,
};
use pingora::protocols::tls::ALPN;
use pingora::protocols::{Digest, GetSocketDigest, SocketDigest, Ssl};
use smol_str::SmolStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Is told of what never became a request.
pub trait Journal: Send + Sync {
    /// A head was refused; `line` is what was sent of its first line, at most [`LINE`] bytes, unchecked.
    /// The answer is the id under which it is remembered, for the client to name.
    fn refused(&self, conn: &Conn, refusal: &Refusal, line: &[u8]) -> SmolStr;
}

/// As much of a refused request's first line is shown to the journal.
pub const LINE: usize = 256;
/// A connection that is going away may still bring the request that its client has sent already.
const LAST_CALL: Duration = Duration::from_secs(1);
/// What a refused client still sends is read for so long, and so much of it, so that it sees its answer and no reset.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);
/// An unread request body is read to its end for so long, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);
/// Malformed HTTP/2 streams that a connection may send.
const MALFORMED: usize = 32;

/// What all connections share.
pub(super) struct Front<A> {
    pub workers: Vec<Worker<A>>,
    /// Connections per worker.
    pub load: Vec<Arc<Total>>,
    pub total: Arc<Total>,
    pub addresses: Arc<Addresses>,
    /// So many connections leave descriptors for upstreams and files.
    pub most: usize,
    pub acceptor: Acceptor,
    pub journal: Arc<dyn Journal>,
    pub next: AtomicU64,
}

/// A connection that was let in.
struct Arrival {
    socket: socket2::Socket,
    peer: Option<SocketAddr>,
    setup: Arc<Setup>,
    slots: Slots,
    worker: usize,
}

impl<A: HttpServerApp + Send + Sync + 'static> Front<A> {
    /// Lets a connection in and gives it to a worker, or closes it. Costs nobody else anything.
    pub fn admit(self: &Arc<Self>, post: &Arc<Post>, socket: socket2::Socket, peer: Option<SocketAddr>, here: usize) {
        let setup = post.setup.load_full();
        let worker = self.place(here);
        let Some(slots) = self.slots(post, &setup, peer, worker) else {
            post.counters.over_limit.fetch_add(1, Ordering::Relaxed);
            return;
        };
        post.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let (front, post) = (self.clone(), post.clone());
        let task = async move { front.connection(&post, Arrival { socket, peer, setup, slots, worker }).await };
        if worker == here {
            tokio::spawn(task)
        } else {
            self.workers[worker].handle.spawn(task)
        };
    }

    /// The worker with the fewest connections, or this one if it has hardly more: whoever wakes first must not get them all.
    fn place(&self, here: usize) -> usize {
        let loads = self.load.iter().map(|t| t.count()).enumerate();
        match loads.min_by_key(|(_, load)| *load) {
            Some((least, load)) if self.load[here].count() > load + 1 => least,
            _ => here,
        }
    }

    fn slots(&self, post: &Post, setup: &Setup, peer: Option<SocketAddr>, worker: usize) -> Option<Slots> {
        let (total, own, _) = setup.caps;
        let peer = peer.map(|p| p.ip());
        let mut slots = Slots {
            total: Some(self.total.enter(total.min(self.most))?),
            listener: Some(post.count.enter(own)?),
            worker: self.load[worker].enter(usize::MAX),
            address: None,
        };
        // behind a load balancer, the client is counted once it is known
        match peer {
            Some(ip) if !setup.believes(Some(ip)) => self.client(&mut slots, setup, ip).then_some(slots),
            _ => Some(slots),
        }
    }

    fn client(&self, slots: &mut Slots, setup: &Setup, ip: IpAddr) -> bool {
        let cap = setup.caps.2;
        if cap == usize::MAX {
            return true;
        }
        slots.address = self.addresses.enter(ip, cap);
        slots.address.is_some()
    }

    async fn connection(&self, post: &Arc<Post>, arrival: Arrival) {
        let setup = arrival.setup.clone();
        let app = self.workers[arrival.worker].app.clone();
        // boxed: a connection that waits for requests must not hold the room that its handshake needed
        let Some((link, conn)) = Box::pin(self.open(post, arrival)).await else { return };
        if setup.h2c || link.selected_alpn_proto() == Some(ALPN::H2) {
            Box::pin(self.h2(link, conn, &setup, app)).await;
        } else {
            self.h1(link, conn, &setup, &app).await;
        }
    }

    /// PROXY header and TLS handshake, each under its deadline.
    async fn open(&self, post: &Arc<Post>, arrival: Arrival) -> Option<(Box<Link>, Arc<Conn>)> {
        let Arrival { socket, peer, setup, mut slots, .. } = arrival;
        let mut local = post.local.filter(|l| !l.ip().is_unspecified());
        if local.is_none() && peer.is_some() {
            local = socket.local_addr().ok().and_then(|a| a.as_socket());
        }
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        let mut socket = register(socket, peer.is_some()).ok()?;
        let mut client = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |p| p.ip());
        if setup.believes(peer.map(|p| p.ip())) {
            let Ok(addresses) = read_preamble(&mut socket, setup.handshake_timeout).await else {
                post.counters.preambles_refused.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            if let Some((from, to)) = addresses {
                (client, local) = (from.ip(), Some(to));
            }
            if peer.is_some() && !self.client(&mut slots, &setup, client) {
                post.counters.over_limit.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        let _ = digest.peer_addr.set(Some(SocketAddr::new(client, peer.map_or(0, |p| p.port())).into()));
        let mut tls = None;
        let link = match &setup.certs {
            None => Link::plain(socket, digest),
            Some(certs) => {
                let accepted = timeout(setup.handshake_timeout, self.acceptor.accept(certs.clone(), socket)).await;
                let Ok(Ok((stream, facts, chosen))) = accepted else {
                    post.counters.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                    return None;
                };
                tls = Some((Arc::new(facts), chosen));
                Link::tls(stream, digest)
            }
        };
        let conn = self.conn(post, &setup, (peer, client, local), tls, slots);
        Some((Box::new(link), conn))
    }

    fn conn(
        &self,
        post: &Post,
        setup: &Setup,
        (peer, client, local): (Option<SocketAddr>, IpAddr, Option<SocketAddr>),
        tls: Option<(Arc<Tls>, Chosen)>,
        slots: Slots,
    ) -> Arc<Conn> {
        let (tls, chosen) = tls.unzip();
        Arc::new(Conn {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            listener: setup.name.clone(),
            peer,
            client: client.to_canonical(),
            local,
            tls,
            redirect: setup.redirect,
            rules: setup.rules,
            chosen,
            requests: AtomicU64::new(0),
            inflight: AtomicUsize::new(0),
            quiet: Notify::new(),
            draining: post.stop.subscribe(),
            timer: Default::default(),
            _slots: slots,
        })
    }

    /// One request after another, until either side has had enough.
    async fn h1(&self, mut link: Box<Link>, conn: Arc<Conn>, setup: &Setup, app: &Arc<A>) {
        let mut stop = conn.draining.clone();
        let mut first = true;
        loop {
            link.rest();
            link.allow(u64::MAX);
            let mut buf = BytesMut::new();
            match read_head(&mut link, &mut buf, setup, &mut stop, first).await {
                Ok((end, framing)) => bound(&mut link, &mut buf, end, framing),
                Err(End::Closed) => return close(&mut link).await,
                Err(End::Refused(refusal)) => {
                    let line = &buf[..buf.len().min(LINE)];
                    let end = memchr::memchr2(b'\r', b'\n', line).unwrap_or(line.len());
                    let id = self.journal.refused(&conn, &refusal, &line[..end]);
                    return Box::pin(refuse(&mut link, &refusal, &id)).await;
                }
            }
            let mut session = ServerSession::new_http1(link);
            // only whether it is kept alive counts: how long is decided above
            session.set_keepalive((!conn.draining()).then_some(setup.idle.as_secs().max(1)));
            session.set_total_drain_timeout(Some(DRAIN));
            session.set_pipelined_prefix(buf);
            let busy = Busy::new(&conn);
            let reuse = CONN.scope(conn.clone(), app.process_new_http(session, &stop)).await;
            drop(busy);
            let Some((stream, _)) = reuse.map(|r| r.consume()) else { return };
            let Ok(again) = stream.into_any().downcast::<Link>() else { return };
            (link, first) = (again, false);
        }
    }

    /// Streams until the client leaves, is silent for too long, or the listener goes away.
    async fn h2(&self, link: Box<Link>, conn: Arc<Conn>, setup: &Setup, app: Arc<A>) {
        let digest = Arc::new(Digest {
            ssl_digest: link.get_ssl_digest(),
            socket_digest: link.get_socket_digest(),
            ..Digest::default()
        });
        // the preface and the first request share the head's deadline
        let mut until = Instant::now() + setup.head_timeout;
        let Ok(Ok(mut h2)) = timeout_at(until, handshake(link, Some(h2_options(setup)))).await else { return };
        let mut stop = conn.draining.clone();
        let (mut leaving, mut malformed) = (false, 0);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop), if !leaving => {
                    h2.graceful_shutdown();
                    (leaving, until) = (true, Instant::now() + LAST_CALL);
                }
                accepted = H2Session::from_h2_conn(&mut h2, digest.clone()) => match accepted {
                    Ok(Some(H2Accept::Session(stream))) => spawn_stream(stream, &conn, &app),
                    Ok(Some(H2Accept::Rejected)) if malformed < MALFORMED => malformed += 1,
                    Ok(Some(H2Accept::Rejected)) => {
                        h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        let _ = timeout(LAST_CALL, std::future::poll_fn(|cx| h2.poll_closed(cx))).await;
                        return;
                    }
                    Ok(None) | Err(_) => return,
                },
                () = conn.quiet.notified() => {
                    until = Instant::now() + if leaving { LAST_CALL } else { setup.idle };
                }
                () = sleep_until(until), if conn.inflight() == 0 => {
                    if leaving || conn.requests() == 0 {
                        return;
                    }
                    h2.graceful_shutdown();
                    (leaving, until) = (true, Instant::now() + LAST_CALL);
                }
            }
        }
    }
}

fn spawn_stream<A: HttpServerApp + Send + Sync + 'static>(stream: H2Session, conn: &Arc<Conn>, app: &Arc<A>) {
    let busy = Busy::new(conn);
    let (conn, app) = (conn.clone(), app.clone());
    tokio::spawn(async move {
        let _busy = busy;
        let stop = conn.draining.clone();
        CONN.scope(conn, app.process_new_http(ServerSession::new_http2(stream), &stop)).await;
    });
}

fn h2_options(setup: &Setup) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_header_list_size(setup.head.min(u32::MAX as usize) as u32)
        .max_concurrent_streams(100)
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        // what waits for a client that does not read, per stream
        .max_send_buffer_size(64 * 1024);
    options
}

/// Resolves when the listener goes away. A function of its own, since what `wait_for` returns must not live across an await.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Makes the worker's reactor watch the socket.
fn register(socket: socket2::Socket, tcp: bool) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    if tcp {
        tokio::net::TcpStream::from_std(socket.into()).map(Socket::tcp)
    } else {
        tokio::net::UnixStream::from_std(socket.into()).map(Socket::unix)
    }
}

/// What the PROXY header says; what follows it stays to be read.
async fn read_preamble(socket: &mut Socket, limit: Duration) -> Result<Option<(SocketAddr, SocketAddr)>, ()> {
    let deadline = Instant::now() + limit;
    let mut buf = BytesMut::with_capacity(256);
    loop {
        match timeout_at(deadline, socket.read_buf(&mut buf)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => return Err(()),
        }
        match preamble::parse(&buf) {
            Ok(Preamble::More) => {}
            Ok(Preamble::Done { len, addresses }) => {
                let _ = buf.split_to(len);
                socket.unread(buf);
                return Ok(addresses);
            }
            Err(_) => return Err(()),
        }
    }
}

/// Why there is no head.
enum End {
    Closed,
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

const TOO_SLOW: Refusal = Refusal { status: 408, reason: "head not complete in time" };

/// Reads until the head is complete and judges it. Returns its length and how its body is delimited; `buf` may hold more.
async fn read_head(
    link: &mut Link,
    buf: &mut BytesMut,
    setup: &Setup,
    stop: &mut watch::Receiver<bool>,
    first: bool,
) -> Result<(usize, Framing), End> {
    let start = Instant::now();
    let wait = if first { setup.head_timeout } else { setup.idle };
    let some = tokio::select! {
        biased;
        some = timeout_at(start + wait, link.fill(buf)) => some,
        () = stopped(stop) => if first { timeout(LAST_CALL.min(wait), link.fill(buf)).await } else { return Err(End::Closed) },
    };
    match some {
        Ok(Ok(n)) if n > 0 => {}
        Err(_) if first => return Err(TOO_SLOW.into()),
        _ => return Err(End::Closed),
    }
    let deadline = if first { start } else { Instant::now() } + setup.head_timeout;
    let mut scan = Scan::default();
    loop {
        if let Some(end) = scan.end(buf, setup.head)? {
            return Ok((end, check::head(&buf[..end], setup.rules)?));
        }
        match timeout_at(deadline, link.fill(buf)).await {
            Ok(Ok(n)) if n > 0 => {}
            Err(_) => return Err(TOO_SLOW.into()),
            _ => return Err(End::Closed),
        }
    }
}

/// Finds the end of a head that arrives in pieces, looking at each byte once.
#[derive(Default)]
struct Scan {
    from: usize,
    begun: bool,
    line: bool,
}

impl Scan {
    fn end(&mut self, buf: &mut BytesMut, most: usize) -> Result<Option<usize>, Refusal> {
        if !self.begun {
            // one empty line before a request is forgiven (RFC 9112 section 2.2)
            match &buf[..] {
                [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => drop(buf.split_to(2)),
                _ => {}
            }
            match buf.first() {
                None => return Ok(None),
                Some(&byte) if byte == b'\r' || !check::begins(byte) => {
                    return Err(Refusal { status: 400, reason: "not an HTTP request" });
                }
                Some(_) => self.begun = true,
            }
        }
        while let Some(at) = memchr::memchr(b'\n', &buf[self.from..]).map(|n| self.from + n) {
            if at == 0 || buf[at - 1] != b'\r' {
                return Err(Refusal { status: 400, reason: "bare CR or LF" });
            }
            if at >= 3 && &buf[at - 3..at] == b"\r\n\r" {
                return if at < most { Ok(Some(at + 1)) } else { Err(TOO_LARGE) };
            }
            (self.from, self.line) = (at + 1, true);
        }
        self.from = buf.len();
        match buf.len() >= most {
            true if self.line => Err(TOO_LARGE),
            true => Err(Refusal { status: 414, reason: "request target too long" }),
            false => Ok(None),
        }
    }
}

const TOO_LARGE: Refusal = Refusal { status: 431, reason: "request head too large" };

/// Gives the reader of this request exactly its bytes; the next request's wait.
fn bound(link: &mut Link, buf: &mut BytesMut, head: usize, framing: Framing) {
    let Framing::Length(length) = framing else { return };
    let here = (buf.len() - head) as u64;
    if here > length {
        link.keep(buf.split_off(head + length as usize)); // fits: it is less than what is here
    }
    link.allow(length.saturating_sub(here));
}

async fn close(link: &mut Link) {
    let _ = timeout(LINGER.0, link.shutdown()).await;
}

/// Answers, and takes in what the client still sends, for else it might see a reset instead of the answer.
async fn refuse(link: &mut Link, refusal: &Refusal, id: &str) {
    let _ = timeout(LINGER.0, async {
        link.allow(u64::MAX);
        link.write_all(answer(refusal, id).as_bytes()).await?;
        link.shutdown().await?;
        let (mut sink, mut left) = (BytesMut::new(), LINGER.1);
        while left > 0 {
            match link.fill(&mut sink).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
            sink.clear();
        }
        io::Result::Ok(())
    })
    .await;
}

fn answer(refusal: &Refusal, id: &str) -> String {
    let Refusal { status, reason } = refusal;
    let title = http::StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused");
    let body = format!(r#"{{"title":"{title}","status":{status},"detail":"{reason}","request_id":"{id}"}}"#);
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]], most: usize) -> Result<Option<usize>, u16> {
        let (mut buf, mut scan) = (BytesMut::new(), Scan::default());
        let mut last = Ok(None);
        for piece in pieces {
            buf.extend_from_slice(piece);
            last = scan.end(&mut buf, most).map_err(|r| r.status);
            if last != Ok(None) {
                break;
            }
        }
        last
    }

    #[test]
    fn heads_end_wherever_they_are_cut() {
        let whole = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let end = whole.len() - 2 - 4;
        for cut in 1..whole.len() {
            assert_eq!(scan(&[&whole[..cut], &whole[cut..]], 1024), Ok(Some(end)), "{cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(scan(&bytes, 1024), Ok(Some(end)));
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        assert_eq!(scan(&[b"\x16\x03\x01"], 1024), Err(400));
        assert_eq!(scan(&[b"\r\n\r\n"], 1024), Err(400));
        assert_eq!(scan(&[b"\rG"], 1024), Err(400));
        assert_eq!(scan(&[b"GET / HTTP/1.1\n"], 1024), Err(400));
        assert_eq!(scan(&[&[b'x'; 1024]], 1024), Err(414));
        assert_eq!(scan(&[b"GET / HTTP/1.1\r\n", &[b'x'; 1024]], 1024), Err(431));
        assert_eq!(scan(&[b"GET / HTTP/1.1\r\nA: b\r\n\r\n"], 20), Err(431));
        assert_eq!(scan(&[b"\r"], 1024), Ok(None));
    }

    #[test]
    fn answers_are_complete() {
        let text = answer(&TOO_SLOW, "id");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"] == 408);
    }
}
