//! The admin endpoint: metrics, health, configuration, reload.
//!
//! It answers on the control runtime, so also while the workers are saturated. Reached from the same machine it needs
//! no password, and so every browser on that machine is a danger: requests that a foreign page could have caused are
//! refused, and nothing changes by GET.

mod http;

use filters::short::Bad;
use filters::units::Secret;
use http::{Answer, Request};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::future::Future;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// At most so many requests at a time.
const CLIENTS: usize = 64;

/// `[admin]`: where the gateway tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "admin")]
pub struct Conf {
    /// `"127.0.0.1:9901"` (default), another address and port, `"unix:/path"` (mode 0660), or `"off"`. An address
    /// that other machines reach needs a `token`.
    pub addr: Addr,
    /// Asked for as `Authorization: Bearer …` by everything but `/healthz` and `/readyz`. A reference such as
    /// `"${env:ADMIN_TOKEN}"`.
    pub token: Option<Secret>,
}

/// Where the admin endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addr {
    Off,
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Conf {
    /// What the types cannot say: the key that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.addr, &self.token) {
            (_, Some(token)) if token.reveal().is_empty() => Err(("token", "the token is empty".into())),
            (Addr::Tcp(at), None) if !at.ip().to_canonical().is_loopback() => Err((
                "addr",
                format!("{at} can be reached by other machines: expected a `token`, or a loopback address"),
            )),
            _ => Ok(()),
        }
    }
}

/// What the endpoint tells comes from here.
pub trait Source: Send + Sync + 'static {
    /// Whether new requests should come here; if not, why: `starting`, `draining`.
    fn ready(&self) -> Result<(), &'static str>;
    fn routes(&self) -> Vec<RouteView>;
    fn config(&self) -> ConfigView;
    /// Appends all series in the text format of Prometheus.
    fn metrics(&self, out: &mut Vec<u8>);
    /// Loads the configuration anew: the new generation's number, or every fault in one line, without values.
    fn reload(&self) -> impl Future<Output = Result<u64, Vec<String>>> + Send;
}

/// One route, for `/routes`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteView {
    pub name: String,
    #[serde(rename = "match")]
    pub pattern: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// The destination, as written.
    pub to: String,
    /// The steps that are at work on it, in order.
    pub steps: Vec<String>,
}

/// The running configuration, for `/config`. Nothing in it holds a secret.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigView {
    pub version: &'static str,
    pub generation: u64,
    /// When this generation began to serve, RFC 3339.
    pub loaded: String,
    /// Every file that it was read from.
    pub files: Vec<String>,
    pub listeners: Vec<ListenerView>,
    /// One line each, references as references.
    pub settings: Vec<String>,
    /// The last reload, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadView>,
}

/// A listener and the address it is bound to; with port 0 in the configuration, the port that was given.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ListenerView {
    pub name: String,
    pub addr: String,
}

/// How the last reload ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReloadView {
    /// RFC 3339.
    pub at: String,
    pub ok: bool,
    /// One line each, without values; empty if it was taken.
    pub faults: Vec<String>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A bound endpoint that does not answer yet.
pub struct Bound {
    socket: Socket,
    token: Option<Secret>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Takes the address; `None` if the endpoint is off. A Unix socket that a dead process left behind is replaced.
pub fn bind(conf: &Conf) -> io::Result<Option<Bound>> {
    let socket = match &conf.addr {
        Addr::Off => return Ok(None),
        Addr::Tcp(at) => {
            let socket = TcpListener::bind(at)?;
            socket.set_nonblocking(true)?;
            Socket::Tcp(socket)
        }
        Addr::Unix(path) => {
            let socket = bind_unix(path)?;
            socket.set_nonblocking(true)?;
            Socket::Unix(socket, path.clone())
        }
    };
    Ok(Some(Bound { socket, token: conf.token.clone() }))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixListener::bind(path).or_else(|e| {
        let left_behind = e.kind() == io::ErrorKind::AddrInUse
            && fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
            && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !left_behind {
            return Err(e);
        }
        fs::remove_file(path)?;
        UnixListener::bind(path)
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(socket)
}

/// A serving endpoint; it ends when this is dropped.
pub struct Admin {
    task: JoinHandle<()>,
    addr: Addr,
}

impl Admin {
    /// Where it listens: with port 0 in the configuration, the port that was given.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bound {
    /// Begins to answer, on the given runtime: not on one that serves requests.
    pub fn start<S: Source>(self, source: Arc<S>, runtime: &Handle) -> io::Result<Admin> {
        let _inside = runtime.enter();
        let local = matches!(self.socket, Socket::Unix(..));
        let desk = Arc::new(Desk { source, token: self.token, local });
        let (task, addr) = match self.socket {
            Socket::Tcp(socket) => {
                let addr = Addr::Tcp(socket.local_addr()?);
                let socket = tokio::net::TcpListener::from_std(socket)?;
                (runtime.spawn(serve(socket, desk)), addr)
            }
            Socket::Unix(socket, path) => {
                let socket = tokio::net::UnixListener::from_std(socket)?;
                (runtime.spawn(serve(socket, desk)), Addr::Unix(path))
            }
        };
        Ok(Admin { task, addr })
    }
}

/// A listening socket of either kind.
trait Accept: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes one connection after the other, never more than [`CLIENTS`] at a time.
async fn serve<S: Source>(socket: impl Accept, desk: Arc<Desk<S>>) {
    let seats = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let seat = seats.clone().acquire_owned().await.expect("never closed");
        match socket.next().await {
            Ok(stream) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    // A client that went away has nobody to tell.
                    let _ = http::exchange(stream, async |request| desk.answer(&request).await).await;
                    drop(seat);
                });
            }
            // Out of files, most likely: give the others time to close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Who answers.
struct Desk<S> {
    source: Arc<S>,
    token: Option<Secret>,
    /// Behind a Unix socket: whoever may open it may ask.
    local: bool,
}

/// Path, method, and what it is good for.
const PAGES: &[(&str, &str, &str)] = &[
    ("/", "GET", "this list"),
    ("/healthz", "GET", "200 while the process lives"),
    ("/readyz", "GET", "200 while new requests are welcome, 503 while starting or draining"),
    ("/metrics", "GET", "all series, in the text format of Prometheus"),
    ("/config", "GET", "the running configuration and the outcome of the last reload"),
    ("/routes", "GET", "every route: match, destination, steps"),
    ("/reload", "POST", "load the configuration anew; 422 with all faults if it is rejected"),
];

impl<S: Source> Desk<S> {
    async fn answer(&self, request: &Request) -> Answer {
        let Some((path, method, _)) = PAGES.iter().find(|(path, ..)| *path == request.path) else {
            return self.refusal(request, "").unwrap_or_else(|| Answer::problem(404, "no such page; GET / lists them"));
        };
        if let Some(no) = self.refusal(request, path) {
            return no;
        }
        let asked = if request.method == "HEAD" { "GET" } else { &request.method };
        if asked != *method {
            let allow = if *method == "GET" { "GET, HEAD" } else { method };
            return Answer::problem(405, "another method is expected").with("allow", allow);
        }
        self.page(path).await
    }

    async fn page(&self, path: &str) -> Answer {
        match path {
            "/healthz" => Answer::text(200, "alive\n"),
            "/readyz" => match self.source.ready() {
                Ok(()) => Answer::text(200, "ready\n"),
                Err(why) => Answer::text(503, format!("{why}\n")),
            },
            "/metrics" => {
                let mut text = Vec::with_capacity(64 << 10);
                self.source.metrics(&mut text);
                Answer::new(200, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/config" => Answer::json(200, &self.source.config()),
            "/routes" => Answer::json(200, &self.source.routes()),
            "/reload" => match self.source.reload().await {
                Ok(generation) => Answer::json(200, &serde_json::json!({ "ok": true, "generation": generation })),
                Err(faults) => Answer::json(422, &serde_json::json!({ "ok": false, "faults": faults })),
            },
            _ => Answer::text(200, index()),
        }
    }

    /// Why this request gets no answer. The order matters: a page that guesses tokens must not learn if one is right.
    fn refusal(&self, request: &Request, path: &str) -> Option<Answer> {
        let open = matches!(path, "/healthz" | "/readyz");
        if self.foreign(request) {
            return Some(Answer::problem(403, "asked by another site's page"));
        }
        match &self.token {
            _ if open => None,
            Some(token) if !bears(request, token) => Some(
                Answer::problem(401, "expected Authorization: Bearer with the token")
                    .with("www-authenticate", "Bearer"),
            ),
            _ => None,
        }
    }

    /// A browser may have been tricked into asking this. A name in `Host` may have been made to point here (DNS
    /// rebinding): only addresses and `localhost` cannot. With a token names are fine, since a page does not have it.
    fn foreign(&self, request: &Request) -> bool {
        let named = request.header("host").is_some_and(|host| !literal(host));
        let rebound = named && !self.local && self.token.is_none();
        let origin = request.header("origin").is_some_and(|origin| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_none() || authority != request.header("host")
        });
        let site = request.header("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
        rebound || origin || (site && request.method != "GET")
    }
}

fn index() -> String {
    PAGES.iter().map(|(path, method, what)| format!("{method:<4} {path:<9} {what}\n")).collect()
}

/// An address or `localhost`, with or without a port.
fn literal(host: &str) -> bool {
    let port =
        |rest: &str| rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if let Some((v6, rest)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok() && port(rest);
    }
    let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
    port(rest) && (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok())
}

/// In the same time wherever the difference is. The length of the token is no secret.
fn bears(request: &Request, token: &Secret) -> bool {
    let given = request.header("authorization").and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token.trim());
    let (given, right) = (given.as_bytes(), token.reveal().as_bytes());
    let differ = right.iter().enumerate().fold(0, |sum, (at, b)| sum | (b ^ given.get(at).copied().unwrap_or(0)));
    black_box(differ) == 0 && given.len() == right.len()
}

impl Default for Addr {
    fn default() -> Addr {
        Addr::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Off => f.write_str("off"),
            Addr::Tcp(at) => at.fmt(f),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Addr {
    const FORM: &'static str = "an address and port such as \"127.0.0.1:9901\", \"unix:/path\" or \"off\"";

    fn parse(s: &str) -> Result<Addr, Bad> {
        match s.strip_prefix("unix:") {
            _ if s == "off" => Ok(Addr::Off),
            Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(Addr::Unix(path.into())),
            None if s.parse::<SocketAddr>().is_ok() => Ok(Addr::Tcp(s.parse().expect("parsed just now"))),
            _ => Err(Bad::new(0..s.len(), format!("\"{s}\": expected {}", Addr::FORM))),
        }
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Addr, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Addr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Addr::FORM)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Addr, E> {
                Addr::parse(s).map_err(E::custom)
            }
        }
        d.deserialize_str(V)
    }
}

impl JsonSchema for Addr {
    fn schema_name() -> Cow<'static, str> {
        "AdminAddr".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": Addr::FORM })
    }
}

#[cfg(test)]
mod tests;
