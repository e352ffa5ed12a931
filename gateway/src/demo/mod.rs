//! `portcullis demo`: example services that the binary carries itself, a real configuration file in front of them, and
//! the `curl` lines worth trying.
//!
//! The services are ordinary servers on loopback ports of the kernel's choice: the gateway knows nothing of them but
//! what the file says. Every line of the tour is run by a test.

mod run;
mod serve;
mod shop;
mod streams;
mod trouble;

pub use run::run;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use tokio::task::AbortHandle;

/// The running example services; they end when this is dropped.
pub struct Services {
    /// The shop's API, as it is and as it will be.
    pub shop: SocketAddr,
    pub shop_next: SocketAddr,
    /// gRPC-like calls over h2c.
    pub grpc: SocketAddr,
    /// A WebSocket echo.
    pub socket: SocketAddr,
    /// Server-sent events.
    pub events: SocketAddr,
    pub slow: SocketAddr,
    pub failing: SocketAddr,
    tasks: Vec<AbortHandle>,
}

impl Drop for Services {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts the example services on the current runtime.
pub async fn services() -> io::Result<Services> {
    let mut tasks = Vec::new();
    let mut start = async |site: serve::Site| -> io::Result<SocketAddr> {
        let (addr, task) = serve::start(site).await?;
        tasks.push(task);
        Ok(addr)
    };
    let (shop, shop_next) = (start(shop::site(1)).await?, start(shop::site(2)).await?);
    let (grpc, socket, events) =
        (start(streams::grpc()).await?, start(streams::socket()).await?, start(streams::events()).await?);
    let (slow, failing) = (start(trouble::slow()).await?, start(trouble::failing()).await?);
    Ok(Services { shop, shop_next, grpc, socket, events, slow, failing, tasks })
}

/// Where the demonstration's gateway listens, on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub http: u16,
    /// HTTP/2 without TLS.
    pub h2c: u16,
    pub admin: u16,
}

impl Ports {
    /// `port` and its two successors; those that are taken (or all, for port 0) are replaced by free ones.
    pub fn near(port: u16) -> io::Result<Ports> {
        // All three are held until all are known, so that no two are the same.
        let hold = |offset: u16| {
            let wish = if port == 0 { 0 } else { port.saturating_add(offset) };
            TcpListener::bind(("127.0.0.1", wish)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        };
        let held = [hold(0)?, hold(1)?, hold(2)?];
        let port = |nth: usize| io::Result::Ok(held[nth].local_addr()?.port());
        Ok(Ports { http: port(0)?, h2c: port(1)?, admin: port(2)? })
    }
}

/// The demonstration's configuration file.
pub fn config(services: &Services, ports: Ports) -> String {
    let values = [
        ("@http", ports.http.to_string()),
        ("@h2c", ports.h2c.to_string()),
        ("@admin", ports.admin.to_string()),
        ("@shop_next", services.shop_next.to_string()),
        ("@shop", services.shop.to_string()),
        ("@grpc", services.grpc.to_string()),
        ("@socket", services.socket.to_string()),
        ("@events", services.events.to_string()),
        ("@slow", services.slow.to_string()),
        ("@failing", services.failing.to_string()),
    ];
    values.iter().fold(include_str!("demo.toml").to_owned(), |text, (name, value)| text.replace(name, value))
}

/// One thing worth trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub title: &'static str,
    /// A shell line: it works when pasted.
    pub line: String,
    /// What its output contains.
    pub shows: &'static str,
}

/// The lines worth trying, in order.
pub fn tour(ports: Ports) -> Vec<Stop> {
    TOUR.iter()
        .map(|&(title, line, shows)| {
            let at = |port: u16| format!("http://127.0.0.1:{port}");
            let line = line.replace("@http", &at(ports.http)).replace("@h2c", &at(ports.h2c));
            Stop { title, line: line.replace("@admin", &at(ports.admin)), shows }
        })
        .collect()
}

/// The tour as it is printed.
pub fn tour_text(ports: Ports) -> String {
    let mut text = String::new();
    for stop in tour(ports) {
        let _ = writeln!(text, "# {}\n{}\n", stop.title, stop.line);
    }
    text
}

const TOUR: [(&str, &str, &str); 15] = [
    ("the shop's products, through the gateway", "curl -s @http/products", "Portcullis chain"),
    (
        "place an order",
        r#"curl -s -H 'Content-Type: application/json' -d '{"product": 1, "count": 2}' @http/orders"#,
        r#""order":"#,
    ),
    ("route by a header: the next version, for those who ask", "curl -s -H 'X-Beta: yes' @http/version", "v2"),
    (
        "a canary: one in five goes to the next version",
        "for i in 1 2 3 4 5 6 7 8 9 10; do curl -s @http/canary/version; done",
        "v1",
    ),
    ("server-sent events, as they come", "curl -sN '@http/events?count=3&every=300ms'", "event 3 of 3"),
    (
        "a WebSocket (the example service greets and closes)",
        "curl -sN -i --output - -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
         -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' '@http/ws?greet'",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ),
    (
        "a gRPC call over HTTP/2 without TLS, with its trailers",
        r"printf '\000\000\000\000\005hello' | curl -s -i --output - --http2-prior-knowledge -H 'TE: trailers' -H 'Content-Type: application/grpc' --data-binary @- @h2c/demo.Echo/Say",
        "grpc-status: 0",
    ),
    ("a service that takes 3 s, behind a timeout of 1 s", "curl -s '@http/slow?for=3s'", "504"),
    (
        "a service of which every second answer fails: retried",
        "for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{http_code}\\n' @http/flaky; done",
        "200",
    ),
    (
        "a service that only fails: the breaker opens and answers at once",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -s -o /dev/null -w '%{http_code} ' @http/broken; done",
        "503",
    ),
    ("a redirect", "curl -si @http/old/products/1", "/products/1"),
    (
        "a CORS preflight",
        "curl -si -X OPTIONS -H 'Origin: https://shop.example' -H 'Access-Control-Request-Method: POST' @http/orders",
        "https://shop.example",
    ),
    ("compression", "curl -s -o /dev/null -D - -H 'Accept-Encoding: gzip' @http/products", "gzip"),
    ("an error is a problem document with the request's id", "curl -s @http/nowhere", "404"),
    ("what the gateway counted", "curl -s @admin/metrics", "portcullis_requests_total"),
];
