//! Active checks: each endpoint is asked on its own clock whether it is well, over Pingora's connector, so a check takes
//! the same way (TLS, HTTP/2, Unix socket) as a request.
//!
//! The verdict lives with the endpoint's counts, so a reload neither forgets that an endpoint is down nor checks all of
//! them in one moment. The very first check decides alone: a dead endpoint should not get traffic until three fail.

use super::conf::Health;
use super::endpoint::{Endpoint, State};
use super::{Core, Pool};
use crate::clock;
use http::Version;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Checks of one service that run at the same time.
const AT_ONCE: usize = 64;

/// What all checks share: one connector, since each has a TLS context of its own.
pub struct Checker {
    connector: Arc<Connector>,
    on: Handle,
}

/// Checks until it is dropped.
#[derive(Debug)]
pub struct HealthTask(AbortHandle);

impl Drop for HealthTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checker {
    pub fn new(on: &Handle) -> Checker {
        Checker { connector: Arc::new(Connector::new(None)), on: on.clone() }
    }

    /// Checks the endpoints of this service, also those that it will have; `None` if it wants no checks.
    pub fn start(&self, pool: &Arc<Pool>) -> Option<HealthTask> {
        let health = Arc::new(pool.health.clone()?);
        let (pool, connector) = (pool.clone(), self.connector.clone());
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let task = self.on.spawn(async move {
            let mut renewed = pool.renewed.subscribe();
            loop {
                renewed.mark_unchanged();
                // Dropping the set ends the checks of endpoints that are gone.
                let mut all = JoinSet::new();
                for endpoint in pool.set.load().endpoints.iter() {
                    let check =
                        Check { health: health.clone(), endpoint: endpoint.clone(), connector: connector.clone() };
                    all.spawn(check.forever(places.clone()));
                }
                if renewed.changed().await.is_err() {
                    return;
                }
            }
        });
        Some(HealthTask(task.abort_handle()))
    }
}

struct Check {
    health: Arc<Health>,
    endpoint: Arc<Endpoint>,
    connector: Arc<Connector>,
}

impl Check {
    async fn forever(self, places: Arc<Semaphore>) {
        let state = &self.endpoint.state;
        if state.checks.load(Relaxed) > 0 {
            // Known from before a reload: somewhere within the interval, so that not all are checked at once.
            sleep(self.health.every.0.mul_f64(super::draws().unit())).await;
        }
        loop {
            {
                let _place = places.acquire().await;
                let result = self.once().await;
                judge(&self.endpoint.core, &self.health, &self.endpoint, result, clock::now());
            }
            sleep(self.pause()).await;
        }
    }

    fn pause(&self) -> Duration {
        let jitter = self.health.jitter.0 * (2.0 * super::draws().unit() - 1.0);
        self.health.every.0.mul_f64((1.0 + jitter).max(0.0)).max(Duration::from_millis(10))
    }

    async fn once(&self) -> Result<(), String> {
        let mut peer = self.endpoint.peer.clone();
        // One stream for each connection: a check must prove that a connection can be made.
        peer.options.max_h2_streams = 1;
        let limit = self.health.timeout.0;
        peer.options.connection_timeout = Some(limit);
        peer.options.total_connection_timeout = Some(limit);
        peer.options.read_timeout = Some(limit);
        match timeout(limit, self.ask(&peer)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {}", self.health.timeout)),
        }
    }

    async fn ask(&self, peer: &HttpPeer) -> Result<(), String> {
        let why = |e: Box<pingora::Error>| e.to_string();
        let (mut session, _) = self.connector.get_http_session(peer).await.map_err(why)?;
        let Some(path) = &self.health.path else { return Ok(()) };
        let request = self.request(path, peer, &session).map_err(why)?;
        session.write_request_header(Box::new(request)).await.map_err(why)?;
        session.finish_request_body().await.map_err(why)?;
        loop {
            session.read_response_header().await.map_err(why)?;
            let status = session.response_header().map_or(0, |r| r.status.as_u16());
            match status {
                100..=199 => continue,
                _ if self.expects(status) => return Ok(()),
                _ => return Err(format!("status {status}")),
            }
        }
    }

    fn expects(&self, status: u16) -> bool {
        match &self.health.expect[..] {
            [] => (200..400).contains(&status),
            codes => codes.contains(&status),
        }
    }

    fn request(&self, path: &str, peer: &HttpPeer, session: &HttpSession) -> pingora::Result<RequestHeader> {
        let unix = self.endpoint.written.starts_with("unix:");
        let host = match &self.health.host {
            Some(host) => host.as_str(),
            None if unix => "localhost",
            None => self.endpoint.written.as_str(),
        };
        let mut request = RequestHeader::build(self.health.method.as_str(), path.as_bytes(), None)?;
        request.insert_header("user-agent", "portcullis-health")?;
        if matches!(session, HttpSession::H2(_)) {
            // RFC 9113 section 8.3.1: scheme and authority instead of Host.
            let scheme = if peer.tls() { "https" } else { "http" };
            let uri = http::Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
            request.set_uri(uri.map_err(|e| pingora::Error::because(pingora::ErrorType::InvalidHTTPHeader, "uri", e))?);
            request.set_version(Version::HTTP_2);
        } else {
            request.insert_header("host", host)?;
            request.insert_header("connection", "close")?;
        }
        Ok(request)
    }
}

/// Takes a result in: a verdict turns after enough results in a row against it.
fn judge(core: &Core, health: &Health, endpoint: &Endpoint, result: Result<(), String>, now: u64) {
    let state = &endpoint.state;
    let (good, first) = (result.is_ok(), state.checks.fetch_add(1, Relaxed) == 0);
    let needed = if first { 1 } else { if good { health.up } else { health.down }.max(1) };
    if !turns(state, good, needed) || !state.set_healthy(good, now) {
        return;
    }
    core.changed();
    match result {
        Ok(()) => log::info!("service {}: {} is healthy", core.name, endpoint.name),
        Err(why) => log::warn!("service {}: {} is unhealthy: {why}", core.name, endpoint.name),
    }
}

/// Counts results against the present verdict; true once there are enough in a row.
fn turns(state: &State, good: bool, needed: u32) -> bool {
    if good == state.healthy() {
        state.streak.store(0, Relaxed);
        return false;
    }
    let streak = state.streak.fetch_add(1, Relaxed) + 1;
    if streak >= needed {
        state.streak.store(0, Relaxed);
    }
    streak >= needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::pool;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound").to_string();
        (listener, addr)
    }

    /// The next request's head on a connection of its own.
    async fn request(listener: &TcpListener) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().await.expect("a check");
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("a head") > 0, "{head:?}");
        }
        (stream, String::from_utf8(head).expect("ASCII"))
    }

    async fn answer(mut stream: TcpStream, status: &str) {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("the check listens");
    }

    fn check(toml: &str) -> Check {
        let (pool, _keep) = pool(toml);
        let endpoint = pool.set.load().endpoints[0].clone();
        let health = Arc::new(pool.health.clone().expect("`health` is set"));
        Check { health, endpoint, connector: Arc::new(Connector::new(None)) }
    }

    #[tokio::test]
    async fn a_status_decides() {
        let (listener, addr) = listener().await;
        let line = check(&format!("to = \"{addr}\"\nhealth = \"GET /ok?x=1 every 1s\""));
        let table = check(&format!("to = \"{addr}\"\nhealth = {{ path = \"/\", expect = [401], host = \"a.test\" }}"));
        for (check, status, good) in [
            (&line, "200 OK", true),
            (&line, "302 Found", true),
            (&line, "404 Not Found", false),
            (&line, "503 Busy", false),
            (&table, "401 Unauthorized", true),
            (&table, "200 OK", false),
        ] {
            let server = async {
                let (stream, head) = request(&listener).await;
                answer(stream, status).await;
                head.to_ascii_lowercase()
            };
            let (result, head) = tokio::join!(check.once(), server);
            assert_eq!(result.is_ok(), good, "{status}: {result:?}");
            let host = check.health.host.clone().unwrap_or(addr.clone());
            assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
            assert!(head.starts_with(if check.health.host.is_some() {
                "get / http/1.1"
            } else {
                "get /ok?x=1 http/1.1"
            }));
        }
    }

    #[tokio::test]
    async fn interim_responses_are_skipped_and_garbage_is_not_health() {
        let (listener, addr) = listener().await;
        let check = check(&format!("to = \"{addr}\"\nhealth = \"GET / every 1s\""));
        let served = |text: &'static str| async {
            let (mut stream, _) = request(&listener).await;
            stream.write_all(text.as_bytes()).await.expect("the check listens");
        };
        let (result, ()) =
            tokio::join!(check.once(), served("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 Fine\r\n\r\n"));
        assert_eq!(result, Ok(()));
        let (result, ()) = tokio::join!(check.once(), served("SSH-2.0-OpenSSH_9.6\r\n\r\n"));
        assert!(result.is_err());
    }

    #[tokio::test]
    async fn refused_silent_and_tcp() {
        let (silent, addr) = listener().await;
        let http = format!("to = \"{addr}\"\nhealth = {{ path = \"/\", timeout = \"50ms\" }}");
        let result = check(&http).once().await;
        assert_eq!(result, Err("no answer within 50ms".into()), "accepted by the kernel, never answered");
        let tcp = check(&format!("to = \"{addr}\"\nhealth = \"tcp every 1s\""));
        assert_eq!(tcp.once().await, Ok(()));
        drop(silent);
        assert!(tcp.once().await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn h2c_is_asked_over_h2() {
        let (listener, addr) = listener().await;
        let check = check(&format!("to = \"{addr}\"\nproto = \"h2c\"\nhealth = \"GET /ok every 1s\""));
        let server = async {
            let (stream, _) = listener.accept().await.expect("a check");
            let mut h2 = h2::server::handshake(stream).await.expect("HTTP/2");
            let (request, mut respond) = h2.accept().await.expect("a stream").expect("a request");
            respond.send_response(http::Response::new(()), true).expect("the stream is open");
            // Polls the connection until the check hangs up.
            while h2.accept().await.is_some() {}
            request.map(|_| Bytes::new()).into_parts().0
        };
        let (result, head) = tokio::join!(async { check.once().await }, server);
        assert_eq!(result, Ok(()));
        assert_eq!(head.uri.to_string(), format!("http://{addr}/ok"));
    }

    /// When a check arrives, the verdict on the one before it is in.
    #[tokio::test]
    async fn the_task_turns_the_verdict_by_the_thresholds() {
        let (listener, addr) = listener().await;
        let health = "{ path = \"/\", every = \"10ms\", up = 2, down = 2, timeout = \"60s\" }";
        let (pool, _keep) = pool(&format!("to = \"{addr}\"\nhealth = {health}"));
        let _task = Checker::new(&Handle::current()).start(&pool).expect("`health` is set");
        let usable = || pool.pick(None, &Default::default(), clock::now()).is_ok();
        let script = [
            ("503 Busy", true),
            ("200 OK", false), // the first check decides alone
            ("503 Busy", false),
            ("200 OK", false),
            ("200 OK", false), // one good one is not enough
            ("503 Busy", true),
            ("200 OK", true), // one bad one is not enough
        ];
        for (step, (status, before)) in script.into_iter().enumerate() {
            let (stream, _) = request(&listener).await;
            assert_eq!(usable(), before, "before answer {step}");
            answer(stream, status).await;
        }
    }

    #[tokio::test]
    async fn dropping_the_task_ends_the_checks() {
        let (listener, addr) = listener().await;
        let (pool, _keep) = pool(&format!("to = \"{addr}\"\nhealth = {{ path = \"/\", every = \"10ms\" }}"));
        let task = Checker::new(&Handle::current()).start(&pool).expect("`health` is set");
        let (mut stream, _) = request(&listener).await;
        drop(task);
        let mut rest = vec![];
        let end = stream.read_to_end(&mut rest).await;
        assert!(end.is_err() || rest.is_empty(), "the check under way is dropped, and its connection with it");
    }
}
