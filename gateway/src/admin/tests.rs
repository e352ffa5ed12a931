use super::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[derive(Default)]
struct Toy {
    draining: AtomicBool,
    broken: AtomicBool,
    generation: AtomicU64,
}

impl Source for Toy {
    fn ready(&self) -> Result<(), &'static str> {
        if self.draining.load(SeqCst) { Err("draining") } else { Ok(()) }
    }
    fn routes(&self) -> Vec<RouteView> {
        vec![RouteView {
            name: "users".into(),
            pattern: "/v1/**".into(),
            steps: vec!["ip".into()],
            ..RouteView::default()
        }]
    }
    fn config(&self) -> ConfigView {
        let listener = ListenerView { name: "http".into(), addr: "127.0.0.1:8080".into() };
        ConfigView { generation: self.generation.load(SeqCst), listeners: vec![listener], ..ConfigView::default() }
    }
    fn metrics(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"portcullis_generation 1\n");
    }
    async fn reload(&self) -> Result<u64, Vec<String>> {
        tokio::task::yield_now().await;
        if self.broken.load(SeqCst) {
            return Err(vec!["portcullis.toml:3:1: route.users: unknown key".into()]);
        }
        Ok(self.generation.fetch_add(1, SeqCst) + 1)
    }
}

/// An endpoint on a runtime of its own.
struct Served {
    admin: Admin,
    toy: Arc<Toy>,
    _runtime: tokio::runtime::Runtime,
}

fn served(conf: &str) -> Served {
    let conf: Conf = toml::from_str(conf).unwrap();
    conf.check().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let toy = Arc::new(Toy::default());
    let admin = bind(&conf).unwrap().unwrap().start(toy.clone(), runtime.handle()).unwrap();
    Served { admin, toy, _runtime: runtime }
}

impl Served {
    fn stream(&self) -> Box<dyn ReadWrite> {
        match self.admin.addr() {
            Addr::Tcp(at) => Box::new(TcpStream::connect(at).unwrap()),
            Addr::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
            Addr::Off => unreachable!(),
        }
    }
    /// Sends bytes, reads to the end: status and everything.
    fn raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = self.stream();
        stream.write_all(bytes).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        (all.split(' ').nth(1).unwrap().parse().unwrap(), all)
    }
    fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        self.raw(format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes())
    }
    fn get(&self, path: &str) -> (u16, String) {
        let (status, all) = self.ask(&format!("GET {path}"), "Host: 127.0.0.1:9901\r\n");
        (status, all.split_once("\r\n\r\n").unwrap().1.to_string())
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

const TCP: &str = "addr = '127.0.0.1:0'";
/// A `Secret` is written by a reference; here as what the reference becomes.
const TOKEN: &str = "addr = '127.0.0.1:0'\ntoken = 's3cr3t'";

#[test]
fn every_page_answers() {
    let s = served(TCP);
    assert_eq!(s.get("/healthz"), (200, "alive\n".into()));
    assert_eq!(s.get("/readyz?x=1"), (200, "ready\n".into()));
    assert_eq!(s.get("/metrics"), (200, "portcullis_generation 1\n".into()));
    let routes: Value = serde_json::from_str(&s.get("/routes").1).unwrap();
    assert_eq!(routes[0]["match"], "/v1/**");
    let config: Value = serde_json::from_str(&s.get("/config").1).unwrap();
    assert_eq!(config["listeners"][0]["addr"], "127.0.0.1:8080");
    let index = s.get("/").1;
    assert!(PAGES.iter().all(|(path, ..)| index.contains(path)));
    assert_eq!(s.get("/nothing").0, 404);
    let (status, all) = s.ask("HEAD /metrics", "Host: localhost\r\n");
    assert!(status == 200 && all.contains("content-length: 24\r\n") && all.ends_with("\r\n\r\n"), "{all}");
}

#[test]
fn draining_is_alive_but_not_ready() {
    let s = served(TCP);
    s.toy.draining.store(true, SeqCst);
    assert_eq!(s.get("/healthz").0, 200);
    assert_eq!(s.get("/readyz"), (503, "draining\n".into()));
}

#[test]
fn reload_needs_a_post_and_tells_its_outcome() {
    let s = served(TCP);
    let host = "Host: 127.0.0.1\r\n";
    let (status, all) = s.ask("GET /reload", host);
    assert!(status == 405 && all.contains("allow: POST"), "{all}");
    assert_eq!(s.toy.generation.load(SeqCst), 0, "nothing changes by GET");
    assert_eq!(s.ask("HEAD /reload", host).0, 405);
    assert_eq!(s.ask("POST /metrics", host).0, 405);
    let (status, all) = s.ask("POST /reload", &format!("{host}Content-Length: 0\r\n"));
    assert!(status == 200 && all.contains("\"generation\": 1"), "{all}");
    s.toy.broken.store(true, SeqCst);
    let (status, all) = s.raw(format!("POST /reload HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\n{{}}").as_bytes());
    assert!(status == 422 && all.contains("portcullis.toml:3:1"), "{all}");
    assert_eq!(s.toy.generation.load(SeqCst), 1);
}

#[test]
fn pages_of_other_sites_get_nothing() {
    let s = served(TCP);
    for (line, headers, status) in [
        ("GET /config", "Host: 127.0.0.1:9901\r\n", 200),
        ("GET /config", "Host: localhost:9901\r\n", 200),
        ("GET /config", "Host: [::1]:9901\r\n", 200),
        ("GET /config", "Host: evil.example:9901\r\n", 403),
        ("GET /healthz", "Host: evil.example\r\n", 403),
        ("GET /none", "Host: evil.example\r\n", 403),
        ("GET /config", "Host: 127.0.0.1.evil.example\r\n", 403),
        ("GET /config", "Host: localhost.evil.example\r\n", 403),
        ("GET /config", "Host: 127.0.0.1:9901@evil.example\r\n", 403),
        ("GET /config", "Host: [::1\r\n", 403),
        ("GET /config", "Host: \r\n", 403),
        ("POST /reload", "Host: 127.0.0.1:9901\r\nOrigin: http://evil.example\r\n", 403),
        ("POST /reload", "Host: 127.0.0.1:9901\r\nOrigin: null\r\n", 403),
        ("POST /reload", "Host: 127.0.0.1:9901\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("POST /reload", "Host: 127.0.0.1:9901\r\nSec-Fetch-Site: same-site\r\n", 403),
        (
            "POST /reload",
            "Host: 127.0.0.1:9901\r\nOrigin: http://127.0.0.1:9901\r\nSec-Fetch-Site: same-origin\r\n",
            200,
        ),
        ("GET /config", "Host: 127.0.0.1:9901\r\nSec-Fetch-Site: cross-site\r\n", 200),
    ] {
        assert_eq!(s.ask(line, headers).0, status, "{line} {headers}");
    }
    assert_eq!(s.toy.generation.load(SeqCst), 1);
}

#[test]
fn a_token_is_asked_for() {
    let s = served(TOKEN);
    let with = |value: &str| format!("Host: gateway.internal:9901\r\nAuthorization: {value}\r\n");
    let (status, all) = s.ask("GET /metrics", "Host: gateway.internal\r\n");
    assert!(status == 401 && all.contains("www-authenticate: Bearer\r\n"), "{all}");
    for (value, status) in [
        ("Bearer s3cr3t", 200),
        ("bearer s3cr3t", 200),
        ("Bearer s3cr3", 401),
        ("Bearer s3cr3tx", 401),
        ("Bearer S3cr3t", 401),
        ("Bearer ", 401),
        ("Basic s3cr3t", 401),
        ("s3cr3t", 401),
    ] {
        assert_eq!(s.ask("GET /metrics", &with(value)).0, status, "{value}");
    }
    assert_eq!(s.ask("POST /reload", "Host: a\r\n").0, 401);
    assert_eq!(s.ask("GET /none", "Host: a\r\n").0, 401, "what exists is not told either");
    assert_eq!(s.ask("GET /healthz", "Host: a\r\n").0, 200);
    assert_eq!(s.ask("GET /readyz", "Host: a\r\n").0, 200);
}

#[test]
fn malformed_requests() {
    let s = served(TCP);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        ("GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n x\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: 127.0.0.1\r\n\r\n", 400),
        ("\x16\x03\x01\r\n\r\n", 400),
        ("POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        ("POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (&long, 431),
    ] {
        assert_eq!(s.raw(bytes.as_bytes()).0, status, "{}", &bytes[..bytes.len().min(80)]);
    }
    assert_eq!(s.toy.generation.load(SeqCst), 0);
}

#[test]
fn a_unix_socket_is_for_its_group_and_survives_a_crash() {
    let dir = std::env::temp_dir().join(format!("portcullis-admin-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("admin.sock");
    drop(UnixListener::bind(&path).unwrap()); // as a crashed process leaves it
    let s = served(&format!("addr = 'unix:{}'", path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(s.ask("GET /healthz", "Host: anything\r\n").0, 200);
    let conf = Conf { addr: Addr::Unix(path), token: None };
    assert_eq!(bind(&conf).err().unwrap().kind(), io::ErrorKind::AddrInUse, "a living one is not replaced");
    let file = dir.join("file");
    fs::write(&file, "precious").unwrap();
    assert!(bind(&Conf { addr: Addr::Unix(file.clone()), token: None }).is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    drop(s);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_the_file_may_say() {
    let read = |toml: &str| toml::from_str::<Conf>(toml).map_err(|e| e.message().to_string());
    assert_eq!(read("").unwrap().addr.to_string(), "127.0.0.1:9901");
    assert_eq!(read("addr = 'unix:/run/p.sock'").unwrap().addr.to_string(), "unix:/run/p.sock");
    assert!(bind(&read("addr = 'off'").unwrap()).unwrap().is_none());
    for wrong in ["9901", "localhost", "unix:relative", ""] {
        let why = read(&format!("addr = '{wrong}'")).unwrap_err();
        assert_eq!(why, format!("\"{wrong}\": expected {}", Addr::FORM));
    }
    for (toml, key) in [
        ("addr = '0.0.0.0:9901'", Some("addr")),
        ("addr = '[::]:9901'", Some("addr")),
        ("addr = '0.0.0.0:9901'\ntoken = 's'", None),
        ("token = ''", Some("token")),
        ("addr = '[::1]:9901'", None),
        ("addr = '[::ffff:127.0.0.1]:9901'", None),
    ] {
        assert_eq!(read(toml).unwrap().check().err().map(|(key, _)| key), key, "{toml}");
    }
}
