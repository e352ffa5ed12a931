//! Listeners behind real sockets, with a toy application and clients that speak bytes.

use super::*;
use async_trait::async_trait;
use boring::ssl::{SslConnector, SslMethod, SslSession, SslSessionCacheMode, SslVerifyMode, SslVersion};
use boring::x509::X509;
use bytes::Bytes;
use filters::units::{Cidr, Span};
use parking_lot::Mutex;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use smol_str::SmolStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_ssl::SslStream;

use pingora::tls::tokio_ssl;

/// Answers with what it knows of the connection. `/hold` waits until it is told to go on, `/body` echoes, `/panic` panics.
#[derive(Default)]
struct Toy {
    arrived: Notify,
    go_on: Notify,
}

#[async_trait]
impl HttpServerApp for Toy {
    async fn process_new_http(self: &Arc<Self>, mut s: ServerSession, _: &ShutdownWatch) -> Option<ReusedHttpStream> {
        if !s.read_request().await.ok()? {
            return None;
        }
        let path = s.req_header().uri.path().to_owned();
        if path == "/hold" {
            self.arrived.notify_one();
            self.go_on.notified().await;
        }
        assert_ne!(path, "/panic", "as asked");
        let mut body = vec![];
        while let Some(chunk) = s.read_request_body().await.ok()? {
            body.extend_from_slice(&chunk);
        }
        let conn = conn()?;
        let tls = conn.tls.as_ref().map_or(String::new(), |t| {
            let cn = t.cert.as_ref().map_or("", |c| c.cn.as_str());
            format!(" sni={} cn={cn}", t.sni.as_deref().unwrap_or("-"))
        });
        let host = s.get_header("host").and_then(|h| h.to_str().ok()).or(s.req_header().uri.host()).unwrap_or("");
        let status = if conn.misdirected(host) { 421 } else { 200 };
        let text = match path.as_str() {
            "/body" => String::from_utf8(body).ok()?,
            _ => format!("{} {path} client={} n={}{tls}", conn.listener, conn.client, conn.requests()),
        };
        let mut head = ResponseHeader::build(status, Some(2)).ok()?;
        head.insert_header("content-length", text.len()).ok()?;
        s.write_response_header(Box::new(head)).await.ok()?;
        s.write_response_body(Bytes::from(text), true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&s);
        s.finish().await.ok()?.map(|r| ReusedHttpStream::from_reusable_stream(r, settings))
    }
}

/// Remembers the refusals.
#[derive(Default)]
struct Log(Mutex<Vec<(u16, String)>>);

impl Journal for Log {
    fn refused(&self, _: &Conn, refusal: &Refusal, line: &[u8]) -> SmolStr {
        self.0.lock().push((refusal.status, String::from_utf8_lossy(line).into_owned()));
        SmolStr::new_static("id")
    }
}

struct Stage {
    listeners: Listeners<Toy>,
    toy: Arc<Toy>,
    log: Arc<Log>,
    terms: Terms,
}

impl Stage {
    fn new(text: &str) -> Stage {
        Stage::with(text, Terms::default())
    }

    fn with(text: &str, terms: Terms) -> Stage {
        let (toy, log) = (Arc::new(Toy::default()), Arc::new(Log::default()));
        let workers = vec![Worker { handle: Handle::current(), app: toy.clone() }];
        let listeners = Listeners::new(workers, vec![], log.clone()).unwrap();
        let stage = Stage { listeners, toy, log, terms };
        stage.load(text).unwrap();
        stage
    }

    fn load(&self, text: &str) -> Result<(), String> {
        let built = plan(text, &self.terms)?;
        let bound = self.listeners.bind(&built).map_err(|f| told(&f))?;
        self.listeners.apply(built, bound);
        Ok(())
    }

    fn addr(&self, name: &str) -> SocketAddr {
        let all = self.listeners.addresses();
        all.iter().find(|(n, _)| n == name).unwrap().1.parse().unwrap()
    }

    async fn client(&self) -> Raw<TcpStream> {
        Raw(TcpStream::connect(self.addr("a")).await.unwrap())
    }

    /// Waits for what another task is about to do.
    async fn until(&self, done: impl Fn(&Stage) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(10), "does not come");
            tokio::task::yield_now().await;
        }
    }
}

/// A file with `[NAME]` tables instead of `[listen.NAME]`.
fn plan(text: &str, terms: &Terms) -> Result<Built, String> {
    let confs: std::collections::BTreeMap<String, Conf> = toml::from_str(text).map_err(|e| e.to_string())?;
    build(confs.iter().map(|(n, c)| (n.as_str(), c)), terms).map_err(|f| told(&f))
}

fn told(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("{}.{}: {}\n", f.listener, f.key, f.error.why)).collect()
}

/// A client that speaks bytes.
struct Raw<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    async fn send(&mut self, text: &str) -> &mut Self {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self
    }

    /// One response: status and body.
    async fn answer(&mut self) -> (u16, String) {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let n = self.0.read(&mut byte).await.unwrap();
            assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (head[9..12].parse().unwrap(), String::from_utf8(body).unwrap())
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await.answer().await
    }

    /// The connection ends without another byte.
    async fn closed(&mut self) -> bool {
        let end = tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut [0; 1])).await;
        matches!(end.expect("stays open"), Ok(0) | Err(_))
    }
}

const PLAIN: &str = "a.addr = '127.0.0.1:0'";

#[tokio::test]
async fn requests_follow_each_other_on_a_connection() {
    let stage = Stage::new(PLAIN);
    let mut c = stage.client().await;
    assert_eq!(c.get("/x").await, (200, "a /x client=127.0.0.1 n=1".into()));
    assert_eq!(c.get("/y").await, (200, "a /y client=127.0.0.1 n=2".into()));
    let post = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(c.send(post).await.answer().await, (200, "hello".into()));
    let chunked = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(c.send(chunked).await.answer().await, (200, "abc".into()));
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(c.send(close).await.answer().await.0, 200);
    assert!(c.closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::new(PLAIN);
    let mut c = stage.client().await;
    let post = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    c.send(&[get("/1").as_str(), post, &get("/2"), &get("/3")].concat()).await;
    assert!(c.answer().await.1.contains("/1 "));
    assert_eq!(c.answer().await.1, "hello");
    assert!(c.answer().await.1.contains("/2 "));
    assert!(c.answer().await.1.contains("/3 "));
    // while one is being answered, the next arrives in pieces
    c.send(&get("/hold")).await;
    stage.toy.arrived.notified().await;
    let next = get("/4");
    c.send(&next[..9]).await;
    tokio::task::yield_now().await;
    stage.toy.go_on.notify_one();
    assert!(c.answer().await.1.contains("/hold "));
    assert!(c.send(&next[9..]).await.answer().await.1.contains("/4 "));
}

#[tokio::test]
async fn refused_heads_are_answered_closed_and_told() {
    let stage = Stage::new(PLAIN);
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}", 400),
    ] {
        let mut c = stage.client().await;
        let (found, body) = c.send(text).await.answer().await;
        assert_eq!(found, status, "{text:?}: {body}");
        assert!(c.closed().await);
        let (told, line) = stage.log.0.lock().pop().unwrap();
        assert_eq!((told, line.as_str()), (status, text.split(['\r', '\n']).next().unwrap()));
    }
    let mut c = stage.client().await;
    c.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let field = format!("A: {}\r\n", "x".repeat(1000));
    c.send(&field.repeat(33)).await;
    assert_eq!(c.answer().await.0, 431);
    // a good request before a bad one is answered first
    let mut c = stage.client().await;
    c.send("GET /ok HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(c.answer().await.0, 200);
    assert_eq!(c.answer().await.0, 400);
}

#[tokio::test]
async fn no_dripping_stretches_the_head_deadline() {
    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nhead_timeout = '150ms'");
    let start = Instant::now();
    let mut silent = stage.client().await;
    assert_eq!(silent.answer().await.0, 408);
    let mut drip = stage.client().await;
    let text = "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut sent = 0;
    let status = loop {
        tokio::select! {
            biased;
            answer = drip.answer() => break answer.0,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let _ = drip.0.write_all(&text.as_bytes()[sent..sent + 1]).await;
        sent += 1;
    };
    assert_eq!(status, 408);
    assert!(sent > 2, "it was dripping");
    assert!(start.elapsed() < Duration::from_secs(5));
    // the deadline of a later request starts with its first byte, and idling is not its business
    let mut again = stage.client().await;
    assert_eq!(again.get("/").await.0, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(again.get("/").await.0, 200);
    assert_eq!(again.send("GET /").await.answer().await.0, 408);
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_word() {
    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nidle = '50ms'");
    let mut c = stage.client().await;
    assert_eq!(c.get("/").await.0, 200);
    assert!(c.closed().await);
    assert!(stage.log.0.lock().is_empty());
}

#[tokio::test]
async fn connections_are_capped_and_places_given_back() {
    let terms = Terms { per_address: Some(2), ..Terms::default() };
    let stage = Stage::with(PLAIN, terms);
    let (mut a, mut b) = (stage.client().await, stage.client().await);
    assert_eq!((a.get("/").await.0, b.get("/").await.0), (200, 200));
    assert!(stage.client().await.closed().await);
    assert_eq!(stage.listeners.stats()[0].over_limit, 1);
    // a panic in the application gives its place back, too
    a.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(a.closed().await);
    stage.until(|s| s.listeners.connections() == 1).await;
    assert_eq!(stage.client().await.get("/").await.0, 200);
    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nmax_connections = 1");
    let mut only = stage.client().await;
    assert_eq!(only.get("/").await.0, 200);
    assert!(stage.client().await.closed().await);
}

#[tokio::test]
async fn proxy_headers_are_believed_from_trusted_peers_alone() {
    let text = "[a]\naddr = '127.0.0.1:0'\nproxy_protocol = true\nhandshake_timeout = '100ms'";
    let trust = |cidr: &str| Terms { trusted: Arc::new([cidr.parse::<Cidr>().unwrap()]), ..Terms::default() };
    let stage = Stage::with(text, trust("127.0.0.0/8"));
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut c = stage.client().await;
    c.send("PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n").await;
    assert!(c.send(get).await.answer().await.1.contains("client=192.0.2.7 "));
    assert!(c.get("/").await.1.contains("client=192.0.2.7 "));
    let mut c = stage.client().await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc0\0\x02\x01\x04\xd2\0\x50";
    c.0.write_all(&[&v2[..], get.as_bytes()].concat()).await.unwrap();
    assert!(c.answer().await.1.contains("client=192.0.2.9 "));
    for wrong in [get, "PROXY TCP4 x y 1 2\r\n", ""] {
        let mut c = stage.client().await;
        assert!(c.send(wrong).await.closed().await, "{wrong:?}");
    }
    assert_eq!(stage.listeners.stats()[0].preambles_refused, 3);
    let stage = Stage::with(text, trust("10.0.0.0/8"));
    let mut c = stage.client().await;
    assert_eq!(c.send("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n\r\n").await.answer().await.0, 400);
    let mut c = stage.client().await;
    assert!(c.send(get).await.answer().await.1.contains("client=127.0.0.1 "));
    assert!(plan(text, &Terms::default()).err().unwrap().contains("names nobody"));
}

#[tokio::test]
async fn unix_sockets_serve_and_go_away() {
    let dir = Dir::new("unix");
    let path = dir.path("s");
    let stage = Stage::new(&format!("[a]\naddr = 'unix:{}'", path.display()));
    let mut c = Raw(UnixStream::connect(&path).await.unwrap());
    assert!(c.get("/").await.1.contains("client=127.0.0.1 "));
    drop(c);
    assert!(stage.listeners.drain(Duration::from_secs(10), false).await);
    assert!(!path.exists());
}

#[tokio::test]
async fn draining_finishes_what_runs_and_closes_what_idles() {
    let stage = Stage::new(PLAIN);
    let addr = stage.addr("a");
    let (mut idle, mut busy) = (stage.client().await, stage.client().await);
    assert_eq!(idle.get("/").await.0, 200);
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stage.toy.arrived.notified().await;
    let drain = async {
        assert!(!stage.listeners.drain(Duration::ZERO, false).await);
        assert!(TcpStream::connect(addr).await.is_err(), "still listening");
        assert!(idle.closed().await);
        stage.toy.go_on.notify_one();
        assert_eq!(busy.answer().await.0, 200);
        assert!(busy.closed().await);
        assert!(stage.listeners.drain(Duration::from_secs(10), false).await);
    };
    drain.await;
    assert_eq!(stage.listeners.connections(), 0);
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_still_answered() {
    use std::io::{Read, Write};
    let stage = Stage::new(PLAIN);
    // blocking: the accept loop, on this same thread, has no chance before the drain
    let mut c = std::net::TcpStream::connect(stage.addr("a")).unwrap();
    c.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(stage.listeners.drain(Duration::from_secs(10), false).await);
    let mut all = String::new();
    c.read_to_string(&mut all).unwrap();
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_the_connection_lives_on() {
    let (dir, _) = tls_dir("large");
    let stage = Stage::with(&format!("{TLS}\n[b]\naddr = '127.0.0.1:0'"), dir.terms());
    let body = (0..300_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect::<String>();
    let mut plain = Raw(TcpStream::connect(stage.addr("b")).await.unwrap());
    exchange(&mut plain, &body).await;
    let mut tls = greet(stage.addr("a"), &Hello { sni: "a.test", ..Hello::default() }).await.unwrap();
    exchange(&mut tls.client, &body).await;
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Raw<S>, body: &str) {
    let length = format!("POST /body HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "POST /body HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for request in [length, chunked] {
        let (status, echo) = client.send(&request).await.answer().await;
        assert!(status == 200 && echo == body, "{status}, {} bytes", echo.len());
    }
    assert_eq!(client.get("/").await.0, 200);
}

#[tokio::test]
async fn each_certificate_has_its_own_oldest_version() {
    let (dir, _) = tls_dir("min");
    let text = "[a]\naddr = '127.0.0.1:0'\ntls = ['a.pem a.key', { cert = 'b.pem', key = 'b.key', min = '1.3' }]";
    let stage = Stage::with(text, dir.terms());
    let old = |sni| Hello { sni, max: Some(SslVersion::TLS1_2), ..Hello::default() };
    assert!(greet(stage.addr("a"), &old("a.test")).await.is_ok());
    assert!(greet(stage.addr("a"), &old("b.test")).await.is_err());
    assert!(greet(stage.addr("a"), &Hello { sni: "b.test", ..Hello::default() }).await.is_ok());
}

#[tokio::test]
async fn listeners_come_change_and_go_at_run_time() {
    let stage = Stage::new(PLAIN);
    let (first, mut kept) = (stage.addr("a"), stage.client().await);
    assert_eq!(kept.get("/").await.0, 200);
    stage.load("a = { addr = '127.0.0.1:0', max_connections = 1 }\nb.addr = '127.0.0.1:0'").unwrap();
    assert_eq!(stage.addr("a"), first);
    assert_eq!(kept.get("/").await.0, 200, "a reload cuts nobody");
    assert!(stage.client().await.closed().await, "new terms hold at once");
    let b = stage.addr("b");
    let mut c = Raw(TcpStream::connect(b).await.unwrap());
    assert!(c.get("/").await.1.starts_with("b "));
    // one that cannot be bound changes nothing
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = busy.local_addr().unwrap();
    let fault = stage.load(&format!("c.addr = '{taken}'")).unwrap_err();
    assert!(fault.starts_with("c.addr: ") && fault.contains(&taken.to_string()), "{fault}");
    assert_eq!((kept.get("/").await.0, c.get("/").await.0), (200, 200));
    stage.load("a.addr = '127.0.0.1:0'").unwrap();
    assert!(c.closed().await);
    stage.until(|_| std::net::TcpStream::connect(b).is_err()).await;
    assert_eq!(kept.get("/").await.0, 200);
}

#[tokio::test]
async fn connections_spread_over_the_workers() {
    let toy = Arc::new(Toy::default());
    let log = Arc::new(Log::default());
    let runtimes: Vec<_> = (0..2)
        .map(|_| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
        .collect();
    let workers = runtimes.iter().map(|r| Worker { handle: r.handle().clone(), app: toy.clone() }).collect();
    let listeners = Listeners::new(workers, vec![], log).unwrap();
    let built = plan(PLAIN, &Terms::default()).unwrap();
    let bound = listeners.bind(&built).unwrap();
    listeners.apply(built, bound);
    let addr: SocketAddr = listeners.addresses()[0].1.parse().unwrap();
    let mut clients = vec![];
    for _ in 0..40 {
        let mut c = Raw(TcpStream::connect(addr).await.unwrap());
        assert_eq!(c.get("/").await.0, 200);
        clients.push(c);
    }
    let loads = listeners.loads();
    assert_eq!(loads.iter().sum::<usize>(), 40);
    assert!(loads.iter().all(|n| (18..=22).contains(n)), "{loads:?}");
    runtimes.into_iter().for_each(|r| r.shutdown_background());
}

// --- TLS ---

/// A directory that is gone in the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("portcullis-listen-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn terms(&self) -> Terms {
        Terms { base: self.0.clone(), ..Terms::default() }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority that writes NAME.pem and NAME.key.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, dir: &Path, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join(format!("{file}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// What a TLS client offers.
#[derive(Clone, Default)]
struct Hello<'a> {
    sni: &'a str,
    alpn: &'a [u8],
    max: Option<SslVersion>,
    cert: Option<PathBuf>,
    session: Option<SslSession>,
}

struct Greeted {
    client: Raw<SslStream<TcpStream>>,
    sessions: Arc<Mutex<Vec<SslSession>>>,
}

impl Greeted {
    fn cn(&self) -> String {
        let cert: X509 = self.client.0.ssl().peer_certificate().unwrap();
        let name = cert.subject_name().entries_by_nid(boring::nid::Nid::COMMONNAME).next().unwrap();
        name.data().as_utf8().unwrap().to_string()
    }
    fn resumed(&self) -> bool {
        self.client.0.ssl().session_reused()
    }
}

async fn greet(addr: SocketAddr, hello: &Hello<'_>) -> Result<Greeted, String> {
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_session_cache_mode(SslSessionCacheMode::CLIENT);
    connector.set_max_proto_version(hello.max).unwrap();
    if let Some(path) = &hello.cert {
        connector.set_certificate_chain_file(path.with_extension("pem")).unwrap();
        connector.set_private_key_file(path.with_extension("key"), boring::ssl::SslFiletype::PEM).unwrap();
    }
    if !hello.alpn.is_empty() {
        connector.set_alpn_protos(hello.alpn).unwrap();
    }
    let sessions = Arc::new(Mutex::new(vec![]));
    let keep = sessions.clone();
    connector.set_new_session_callback(move |_, session| keep.lock().push(session));
    let mut config = connector.build().configure().unwrap();
    config.set_use_server_name_indication(!hello.sni.is_empty());
    if let Some(session) = &hello.session {
        // SAFETY: the session is of this process and its library, and it is used by this one connection attempt
        unsafe { config.set_session(session) }.unwrap();
    }
    let ssl = config.into_ssl(if hello.sni.is_empty() { "none" } else { hello.sni }).unwrap();
    let mut stream = SslStream::new(ssl, TcpStream::connect(addr).await.unwrap()).unwrap();
    Pin::new(&mut stream).connect().await.map_err(|e| e.to_string())?;
    Ok(Greeted { client: Raw(stream), sessions })
}

/// One request over a new connection: status and body, or how it failed.
async fn ask(addr: SocketAddr, hello: &Hello<'_>, host: &str) -> Result<(u16, String), String> {
    let mut greeted = greet(addr, hello).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    greeted.client.0.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut all = vec![];
    match greeted.client.0.read_to_end(&mut all).await {
        Err(e) if all.is_empty() => return Err(e.to_string()),
        _ if all.is_empty() => return Err("closed".into()),
        _ => {}
    }
    let text = String::from_utf8(all).unwrap();
    Ok((text[9..12].parse().unwrap(), text.split_once("\r\n\r\n").unwrap().1.to_owned()))
}

const TLS: &str = "[a]\naddr = '127.0.0.1:0'\ntls = ['a.pem a.key', 'b.pem b.key', { cert = 'm.pem', key = 'm.key', client_ca = 'ca.pem' }]";

fn tls_dir(name: &str) -> (Dir, Authority) {
    let (dir, ca) = (Dir::new(name), Authority::new());
    ca.issue(&dir.0, "a", &["a.test", "*.wild.test"], |_| {});
    ca.issue(&dir.0, "b", &["b.test"], |_| {});
    ca.issue(&dir.0, "m", &["m.test"], |_| {});
    ca.issue(&dir.0, "alice", &["alice.example"], |_| {});
    Authority::new().issue(&dir.0, "mallory", &[], |_| {});
    std::fs::write(dir.path("ca.pem"), &ca.pem).unwrap();
    (dir, ca)
}

#[tokio::test]
async fn sni_chooses_the_certificate_and_alpn_the_protocol() {
    let (dir, ca) = tls_dir("sni");
    let stage = Stage::with(TLS, dir.terms());
    let addr = stage.addr("a");
    for max in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (sni, cn) in
            [("a.test", "a"), ("B.test", "b"), ("x.wild.test", "a"), ("x.y.wild.test", "a"), ("?", "a"), ("", "a")]
        {
            let sni = if sni == "?" { "unknown.test" } else { sni };
            let greeted = greet(addr, &Hello { sni, max: Some(max), ..Hello::default() }).await.unwrap();
            assert_eq!(greeted.cn(), cn, "{sni}");
        }
    }
    for (alpn, chosen) in [
        (&b"\x02h2\x08http/1.1"[..], Some(&b"h2"[..])),
        (b"\x08http/1.1\x02h2", Some(b"h2")),
        (b"\x08http/1.1", Some(b"http/1.1")),
        (b"", None),
    ] {
        let greeted = greet(addr, &Hello { sni: "a.test", alpn, ..Hello::default() }).await.unwrap();
        assert_eq!(greeted.client.0.ssl().selected_alpn_protocol(), chosen);
    }
    assert!(greet(addr, &Hello { sni: "a.test", alpn: b"\x03foo", ..Hello::default() }).await.is_err());
    assert!(greet(addr, &Hello { sni: "a.test", max: Some(SslVersion::TLS1_1), ..Hello::default() }).await.is_err());

    // a new certificate serves the next handshake, and the old connection goes on
    let mut old = greet(addr, &Hello { sni: "b.test", ..Hello::default() }).await.unwrap();
    assert_eq!(old.client.get("/").await.0, 421);
    ca.issue(&dir.0, "b", &["b.test"], |p| p.distinguished_name.push(DnType::CommonName, "b renewed"));
    stage.load(TLS).unwrap();
    let new = greet(addr, &Hello { sni: "b.test", ..Hello::default() }).await.unwrap();
    assert_eq!(new.cn(), "b renewed");
    old.client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").await;
    assert_eq!(old.client.answer().await, (200, "a / client=127.0.0.1 n=2 sni=b.test cn=".into()));
}

#[tokio::test]
async fn client_certificates_are_demanded_and_known() {
    let (dir, _) = tls_dir("mtls");
    let stage = Stage::with(TLS, dir.terms());
    let addr = stage.addr("a");
    let (alice, mallory) = (Some(dir.path("alice")), Some(dir.path("mallory")));
    for max in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let hello = |sni, cert: &Option<PathBuf>| Hello { sni, cert: cert.clone(), max: Some(max), ..Hello::default() };
        let good = ask(addr, &hello("m.test", &alice), "m.test").await.unwrap();
        assert_eq!(good, (200, "a / client=127.0.0.1 n=1 sni=m.test cn=alice".into()));
        assert!(ask(addr, &hello("m.test", &None), "m.test").await.is_err());
        assert!(ask(addr, &hello("m.test", &mallory), "m.test").await.is_err());
        // other names do not ask, and the certificate's host cannot be had through them
        assert!(ask(addr, &hello("a.test", &alice), "a.test").await.unwrap().1.ends_with("cn="));
        assert_eq!(ask(addr, &hello("a.test", &None), "m.test").await.unwrap().0, 421);
        assert_eq!(ask(addr, &hello("a.test", &None), "M.test:443").await.unwrap().0, 421);
        assert_eq!(ask(addr, &hello("", &None), "m.test").await.unwrap().0, 421);
        assert_eq!(ask(addr, &hello("", &None), "b.test").await.unwrap().0, 200);
        assert_eq!(ask(addr, &hello("a.test", &None), "b.test").await.unwrap().0, 421);
        assert_eq!(ask(addr, &hello("a.test", &None), "x.wild.test").await.unwrap().0, 200);
    }
    assert!(stage.listeners.stats()[0].handshakes_failed >= 2);
}

/// The table of who may resume what. A session of another name must never spare a client the certificate.
#[tokio::test]
async fn sessions_resume_at_their_own_name_alone() {
    let (dir, _) = tls_dir("resume");
    let stage = Stage::with(TLS, dir.terms());
    let addr = stage.addr("a");
    let alice = Some(dir.path("alice"));
    for max in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let session = async |sni: &str, cert: &Option<PathBuf>| {
            let mut g =
                greet(addr, &Hello { sni, cert: cert.clone(), max: Some(max), ..Hello::default() }).await.unwrap();
            // TLS 1.3 sends tickets after the handshake: with the first answer they are there
            let request = format!("GET / HTTP/1.1\r\nHost: {sni}\r\n\r\n");
            assert_eq!(g.client.send(&request).await.answer().await.0, 200);
            g.sessions.lock().pop().expect("a session")
        };
        let resume =
            |sni, session: SslSession| Hello { sni, session: Some(session), max: Some(max), ..Hello::default() };
        let a = session("a.test", &None).await;
        assert!(greet(addr, &resume("a.test", a)).await.unwrap().resumed(), "own name");
        // without a certificate, at the name that demands one
        let a = session("a.test", &None).await;
        let hello = resume("m.test", a);
        assert!(ask(addr, &hello, "m.test").await.is_err(), "bypass");
        let a = session("a.test", &None).await;
        assert!(!greet(addr, &resume("b.test", a)).await.unwrap().resumed());
        // the certificate's name resumes with the certificate's facts, and is told apart elsewhere
        let m = session("m.test", &alice).await;
        let again = ask(addr, &resume("m.test", m), "m.test").await.unwrap();
        assert!(again.1.ends_with("cn=alice"), "{again:?}");
        let m = session("m.test", &alice).await;
        let elsewhere = greet(addr, &resume("a.test", m)).await.unwrap();
        assert!(!elsewhere.resumed());
        // and sessions outlive a reload
        let a = session("a.test", &None).await;
        stage.load(TLS).unwrap();
        assert!(greet(addr, &resume("a.test", a)).await.unwrap().resumed(), "after a reload");
    }
}

#[tokio::test]
async fn wrong_certificates_are_told_exactly_and_all_at_once() {
    let (dir, ca) = tls_dir("faults");
    ca.issue(&dir.0, "old", &["old.test"], |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1));
    ca.issue(&dir.0, "new", &["new.test"], |p| p.not_before = rcgen::date_time_ymd(2999, 1, 1));
    std::fs::write(dir.path("junk.pem"), "junk").unwrap();
    for (tls, expected) in [
        ("'none.pem a.key'", "cert \"none.pem\": no such file"),
        ("'. a.key'", "cert \".\": a directory, not a file"),
        ("'junk.pem a.key'", "cert \"junk.pem\": expected certificates in PEM form"),
        ("'a.key a.key'", "a private key where a certificate is expected"),
        ("'a.pem junk.pem'", "key \"junk.pem\": expected a private key in PEM form"),
        ("'a.pem b.key'", "key \"b.key\" does not belong to cert \"a.pem\""),
        ("'old.pem old.key'", "cert \"old.pem\" expired at Jan  1 00:00:00 2020"),
        ("'new.pem new.key'", "is not valid before"),
        ("['a.pem a.key', 'a.pem a.key']", "two certificates for \"a.test\""),
        ("{ cert = 'a.pem', key = 'a.key', client = 'require' }", "client_ca is missing"),
        ("{ cert = 'a.pem', key = 'a.key', names = ['a*'] }", "expected a host name"),
        ("{ cert = 'a.pem', key = 'a.key', alpn = [] }", "alpn: expected at least one protocol"),
    ] {
        let found = plan(&format!("a = {{ addr = '127.0.0.1:0', tls = {tls} }}"), &dir.terms()).err().unwrap();
        assert!(found.contains(expected), "{tls}: {found}");
    }
    let all = plan(
        "a = { addr = '127.0.0.1:1', tls = 'x y', h2c = true, idle = '0s' }\nb.addr = '127.0.0.1:1'\nc = { addr = [] }",
        &dir.terms(),
    );
    let all = all.err().unwrap();
    let keys: Vec<_> = all.lines().map(|l| l.split_once(':').unwrap().0).collect();
    assert_eq!(keys, ["a.h2c", "a.idle", "a.tls", "a.tls", "b.addr", "c.addr"], "{all}");
    let good = plan(TLS, &dir.terms()).unwrap();
    let certificates: Vec<_> =
        good.certificates().map(|(l, c)| (l.to_owned(), c.names[0].clone(), c.files.len())).collect();
    assert_eq!(certificates[2], ("a".into(), "m.test".into(), 3));
}

#[tokio::test]
async fn unfinished_handshakes_are_counted_and_ended() {
    let (dir, _) = tls_dir("silent");
    let stage = Stage::with(&format!("{TLS}\nhandshake_timeout = '100ms'\nmax_connections = 1"), dir.terms());
    let mut silent = stage.client().await;
    stage.until(|s| s.listeners.connections() == 1).await;
    assert!(stage.client().await.closed().await, "a handshake counts");
    assert!(silent.closed().await);
}

// --- HTTP/2 ---

async fn h2_client<S>(io: S) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    (send, tokio::spawn(connection))
}

async fn h2_get(send: &mut h2::client::SendRequest<Bytes>, uri: &str) -> (u16, String) {
    let request = http::Request::get(uri).body(()).unwrap();
    let (response, _) = send.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut all = vec![];
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    (status, String::from_utf8(all).unwrap())
}

#[tokio::test]
async fn http2_over_tls_and_without() {
    let (dir, _) = tls_dir("h2");
    let stage = Stage::with(TLS, dir.terms());
    let greeted = greet(stage.addr("a"), &Hello { sni: "a.test", alpn: b"\x02h2", ..Hello::default() }).await.unwrap();
    let (mut send, _) = h2_client(greeted.client.0).await;
    let answer = h2_get(&mut send, "https://a.test/x").await;
    assert_eq!(answer, (200, "a /x client=127.0.0.1 n=1 sni=a.test cn=".into()));
    assert!(h2_get(&mut send, "https://a.test/y").await.1.contains("n=2"));
    assert_eq!(h2_get(&mut send, "https://m.test/").await.0, 421);

    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nh2c = true");
    let (mut send, _) = h2_client(stage.client().await.0).await;
    assert_eq!(h2_get(&mut send, "http://a.test/x").await.0, 200);
    // HTTP/1 is not spoken here
    let mut all = vec![];
    let mut c = stage.client().await;
    let _ = c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.0.read_to_end(&mut all).await;
    assert!(!all.starts_with(b"HTTP/1"));
}

#[tokio::test]
async fn silent_http2_connections_end() {
    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nh2c = true\nhead_timeout = '100ms'\nidle = '100ms'");
    // nothing at all; the preface alone; half a HEADERS frame
    for sent in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x40\x01\x04\0\0\0\x01\x82",
    ] {
        let mut c = stage.client().await;
        c.0.write_all(sent).await.unwrap();
        let mut all = vec![];
        let end = tokio::time::timeout(Duration::from_secs(10), c.0.read_to_end(&mut all)).await;
        assert!(end.is_ok(), "stays open");
    }
    let (mut send, connection) = h2_client(stage.client().await.0).await;
    assert_eq!(h2_get(&mut send, "http://a.test/").await.0, 200);
    assert!(
        tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap().is_ok(),
        "GOAWAY when idle"
    );
}

#[tokio::test]
async fn draining_lets_streams_finish() {
    let stage = Stage::new("[a]\naddr = '127.0.0.1:0'\nh2c = true");
    let (mut send, connection) = h2_client(stage.client().await.0).await;
    assert_eq!(h2_get(&mut send, "http://a.test/").await.0, 200);
    let mut other = send.clone();
    let held = tokio::spawn(async move { h2_get(&mut other, "http://a.test/hold").await });
    stage.toy.arrived.notified().await;
    assert!(!stage.listeners.drain(Duration::ZERO, false).await);
    stage.toy.go_on.notify_one();
    assert_eq!(held.await.unwrap().0, 200);
    assert!(stage.listeners.drain(Duration::from_secs(10), false).await);
    assert!(connection.await.unwrap().is_ok());
}

#[test]
fn defaults_are_as_documented() {
    let confs: std::collections::BTreeMap<String, Conf> = toml::from_str(PLAIN).unwrap();
    let conf = &confs["a"];
    assert_eq!(
        (conf.idle, conf.head_timeout, conf.handshake_timeout),
        (Span::secs(60), Span::secs(10), Span::secs(10))
    );
}
