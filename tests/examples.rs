//! Every file in `conf/` is checked and served as it stands, with its addresses replaced by ones of the test; every line of the
//! demonstration's tour is run.

use crate::support::certs::{Authority, Tls};
use crate::support::h2::H2;
use crate::support::origin::Origin;
use crate::support::{Client, Dir, Gateway, PATIENCE, Watched, socket};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

fn conf() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

/// Replaces `10.0.…:port` and the application of the smallest file by an origin of the test, listeners by free ports, and the
/// files under /etc by ones that exist.
fn local(text: &str, origin: SocketAddr, dir: &Dir) -> String {
    let upstream = regex::Regex::new(r"10\.0\.\d+\.\d+:\d+|127\.0\.0\.1:3000").expect("a pattern");
    let listener = regex::Regex::new(r"0\.0\.0\.0:\d+").expect("a pattern");
    // Every address stays a different one: the origin listens on all of 127.0.0.0/8.
    let distinct = |found: &regex::Captures| {
        let ip = found[0].split(':').next().expect("an address").replacen("10.0", "127.0", 1);
        format!("{ip}:{}", origin.port())
    };
    let text = upstream.replace_all(text, distinct);
    let text = listener.replace_all(&text, "127.0.0.1:0");
    let text = text.replace("\"127.0.0.1:9901\"", &format!("\"unix:{}\"", dir.path().join("admin.sock").display()));
    let text = text.replace("token = \"${env:ADMIN_TOKEN}\"", "");
    text.replace("/etc/portcullis", dir.path().to_str().expect("text"))
}

/// The certificates that the examples name.
fn certificates(dir: &Dir) -> Authority {
    let ca = Authority::new(dir, "ca");
    let files = [
        ("cert.pem", "key.pem", "api.example.com"),
        ("www.pem", "www.key", "www.example.com"),
        ("partners.pem", "partners.key", "partners.example.com"),
        ("client.pem", "client.key", "client"),
    ];
    for (cert, key, name) in files {
        let signed = ca.sign(dir, &[name, "app.example.com"][..if cert == "cert.pem" { 2 } else { 1 }]);
        for (from, to) in [(signed.cert, cert), (signed.key, key)] {
            dir.write(&format!("tls/{to}"), fs::read(from).expect("a file"));
        }
    }
    for authority in ["partners-ca.pem", "internal-ca.pem"] {
        dir.write(&format!("tls/{authority}"), fs::read(&ca.pem).expect("a file"));
    }
    for (name, file) in [("jwks.json", "jwks.json"), ("staff.pem", "p256.pub.pem")] {
        dir.write(&format!("auth/{name}"), fs::read(identities().join(file)).expect("a key"));
    }
    dir.write("auth/revoked", "jti:stolen\n");
    dir.write("auth/internal.secret", "a secret of more than thirty-two bytes");
    dir.write("auth/partners.keys", filters::auth::keys::line("acme", "gold-key") + " plan=gold\n");
    ca
}

/// Tokens and keys that another implementation made.
fn identities() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/src/auth/data")
}

/// One of these tokens, as a header.
fn bearer(name: &str) -> String {
    let all = fs::read_to_string(identities().join("tokens.txt")).expect("tokens");
    let token = all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).expect("a token");
    format!("Authorization: Bearer {token}\r\n")
}

struct Example {
    gateway: Gateway,
    origin: Origin,
    ca: Authority,
}

fn example_before(name: &str, origin: Origin) -> Example {
    let dir = Dir::new();
    let ca = certificates(&dir);
    let text = fs::read_to_string(conf().join(name)).expect("an example");
    let text = local(&text, origin.addr, &dir);
    let file = dir.write("check.toml", &text);
    let output = crate::support::gateway::run(&["check", file.to_str().expect("text")]);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Example { gateway: Gateway::start_in(dir, text), origin, ca }
}

fn everywhere() -> TcpListener {
    TcpListener::bind("0.0.0.0:0").expect("a port")
}

fn example(name: &str) -> Example {
    example_before(name, Origin::echo_on(everywhere()))
}

impl Example {
    fn get(&self, listener: &str, host: &str, target: &str, headers: &str) -> crate::support::Response {
        Client::tcp(self.gateway.at(listener)).get(host, target, headers)
    }
    fn get_tls(&self, host: &str, target: &str, headers: &str) -> crate::support::Response {
        let mut client =
            Client::tls(self.gateway.at("https"), &mut Tls::to(host).trusting(&self.ca)).expect("a handshake");
        client.get(host, target, headers)
    }
}

#[test]
fn every_example_is_served_by_a_test_here() {
    let files: BTreeSet<String> =
        fs::read_dir(conf()).expect("conf/").map(|f| f.expect("a file").file_name().to_string_lossy().into()).collect();
    let served = [
        "canary.toml",
        "everything.toml",
        "grpc-websocket.toml",
        "jwt.toml",
        "limits.toml",
        "minimal.toml",
        "tls.toml",
        "usual.toml",
    ];
    assert_eq!(files, served.map(String::from).into());
}

#[test]
fn minimal() {
    let text = fs::read_to_string(conf().join("minimal.toml")).expect("the example");
    assert!(text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).count() <= 3, "three lines are enough");
    let example = example("minimal.toml");
    let answer = example.get("http", "any.test", "/x?y", "");
    assert_eq!((answer.status, &answer.json()["target"]), (200, &"/x?y".into()));
}

#[test]
fn usual() {
    let example = example("usual.toml");
    let answer = example.get("http", "api.example.com", "/v1/users/7", "");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://api.example.com/v1/users/7")));
    let answer = example.get_tls("api.example.com", "/v1/users/7", "Origin: https://app.example.com\r\n");
    assert_eq!((answer.status, &answer.json()["target"]), (200, &"/v1/users/7".into()));
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(example.get_tls("api.example.com", "/internal/x", "").status, 403);
    assert_eq!(example.get_tls("app.example.com", "/", "").status, 200);
    assert_eq!(example.get_tls("api.example.com", "/", "").header("location"), Some("https://docs.example.com/"));
    assert_eq!(example.get_tls("api.example.com", "/nothing", "").status, 404);
}

#[test]
fn jwt() {
    let example = example("jwt.toml");
    let get = |target: &str, headers: &str| example.get("http", "api.example.com", target, headers);
    let answer = get("/v1/orders/7", &format!("{}X-User: admin\r\nX-Client: admin\r\n", bearer("ES256")));
    let seen = answer.json();
    let values = |name: &str| -> Vec<String> {
        let all = seen["headers"].as_array().expect("headers").iter();
        all.filter(|h| h[0].as_str().expect("a name").eq_ignore_ascii_case(name)).map(|h| h[1].to_string()).collect()
    };
    assert_eq!((answer.status, values("x-user")), (200, vec!["\"alice\"".to_owned()]), "{seen}");
    assert_eq!((values("authorization"), values("x-client")), (vec![], vec![]), "{seen}");
    let answer = get("/v1/orders/7", "X-API-Key: gold-key\r\n");
    assert!(answer.text().contains("acme") && !answer.text().contains("gold-key"), "{answer:?}");
    let answer = get("/v1/orders/7", "");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"idp\"")), "{answer:?}");
    for wrong in ["HS256", "confusion", "RS256-evil", "RS256-jwk", "ES256K"] {
        assert_eq!(get("/v1/orders/7", &bearer(wrong)).status, 401, "{wrong}");
    }
    assert_eq!(get("/v1/users/bob", &bearer("RS256-kid")).status, 200, "an administrator");
    assert_eq!(example.get("http", "shop.example.com", "/", "").status, 200);
    assert_eq!(example.get("http", "shop.example.com", "/", "Authorization: Bearer x\r\n").status, 401);
    let record = example.gateway.record("a refusal", |r| r["status"] == 401);
    assert!(record.to_string().contains("auth"), "{record}");
    assert!(!example.gateway.records().iter().any(|r| r.to_string().contains("gold-key")), "no credential is logged");
}

#[test]
fn canary() {
    let example = example("canary.toml");
    let get = |target: &str, headers: &str| example.get("http", "shop.example.com", target, headers);
    assert_eq!(get("/cart", "Cookie: session=7\r\n").status, 200);
    let preview = get("/cart", "X-Preview: v2\r\n");
    assert!(preview.text().contains(r#"["X-Preview","yes"]"#), "{preview:?}");
    assert_eq!(get("/search?q=x", "").status, 200);
    assert!(!example.origin.seen().is_empty());
}

#[test]
fn limits() {
    let example = example("limits.toml");
    let mut client = Client::tcp(example.gateway.at("http"));
    // More than may be under way at a time, one after the other: each is given back.
    for n in 0..60 {
        let answer = client.get("any.test", "/v1/things", "X-Api-Key: 7\r\n");
        assert_eq!((answer.status, answer.head.all("ratelimit").len()), (200, 1), "{n}: {answer:?}");
    }
    let policy =
        r#""100/s per ip";q=200;w=2, "50 inflight per ip";q=50;qu="concurrent-requests", "daily";q=10000;w=86400"#;
    let answer = client.get("any.test", "/v1/things", "X-Api-Key: 8\r\n");
    assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    assert!(answer.header("ratelimit").is_some_and(|now| now.contains("\"daily\";r=9999;t=9")), "{answer:?}");
    let search = client.get("any.test", "/v1/search", "X-Api-Key: 8\r\n");
    assert!(search.header("ratelimit").is_some_and(|now| now.contains("\"daily\";r=9998;t=")), "{search:?}");
    assert!(search.header("ratelimit").is_some_and(|now| now.contains("\"search\";r=5;t=5")), "{search:?}");
    let mut login = || client.ask("POST /login HTTP/1.1\r\nHost: any.test\r\nContent-Length: 0\r\n\r\n");
    for n in 0..10 {
        assert_eq!(login().status, 200, "{n}");
    }
    let refused = login();
    refused.assert_problem(429);
    assert!(refused.header("retry-after").is_some_and(|wait| (1..=12).contains(&wait.parse().expect("seconds"))));
    let status = client.get("any.test", "/status", "");
    assert_eq!(status.header("ratelimit-policy"), Some("\"1000/s per ip\";q=1000;w=1"));
}

#[test]
fn tls() {
    let example = example("tls.toml");
    assert_eq!(
        example.get("http", "www.example.com", "/x", "").header("location"),
        Some("https://www.example.com:8443/x")
    );
    assert_eq!(example.get_tls("www.example.com", "/x", "").status, 200);
    assert_eq!(example.get_tls("www.example.com", "/x", "").json()["target"], "/x");
    let mut client = Client::tls(example.gateway.at("https"), &mut Tls::to("www.example.com").trusting(&example.ca))
        .expect("a handshake");
    assert_eq!(client.get("partners.example.com", "/", "").status, 421);
    let alice = example.ca.sign(&example.gateway.dir, &["alice"]);
    let mut partner = Tls::to("partners.example.com").trusting(&example.ca).with(&alice);
    let mut client = Client::tls(example.gateway.at("https"), &mut partner).expect("a handshake");
    // The origin speaks no TLS, so the upstream cannot be trusted: this is the gateway refusing to go on.
    assert!(matches!(client.get("partners.example.com", "/", "").status, 502 | 504));
}

#[test]
fn grpc_and_websocket() {
    let example = example_before("grpc-websocket.toml", socket::echo_on(everywhere()));
    let mut client = Client::tcp(example.gateway.at("http"));
    assert_eq!(client.get("a.test", "/chat", socket::HANDSHAKE).status, 101);
    assert_eq!(client.send("hello").io.exactly(5).expect("the echo"), b"hello");

    let dir = Dir::new();
    let text = fs::read_to_string(conf().join("grpc-websocket.toml")).expect("the example");
    let gateway = Gateway::start(local(&text, crate::support::h2::grpc_on(everywhere()), &dir));
    let request = http::Request::post("http://a.test/helloworld.Greeter/Echo");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let answer = H2::plain(gateway.at("grpc")).ask(request.body(b"\0\0\0\0\0".to_vec()).expect("a request"));
    assert_eq!(answer.expect("an answer").trailer("grpc-status"), Some("0"));
}

#[test]
fn everything() {
    let example = example("everything.toml");
    let mut client = Client::tls(
        example.gateway.at("https"),
        &mut Tls::to("api.example.com").trusting(&example.ca).offering(&["http/1.1"]),
    )
    .expect("a handshake");
    let answer = client.get("api.example.com", "/v1/users/7", "X-Beta: 1\r\nCookie: session=12\r\n");
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"), "{answer:?}");
    assert!(matches!(answer.status, 200 | 502), "5 % go to a service that speaks TLS: {answer:?}");
    let mut moved = Client::tcp(example.gateway.at("http"));
    assert_eq!(moved.get("old.example.com", "/a/b", "").header("location"), Some("https://old.example.com/new/a/b"));
    let teapot = moved.get("x.test", "/teapot", "");
    assert_eq!((teapot.status, teapot.text()), (418, "short and stout\n"));
    assert_eq!(client.get("api.example.com", "/v1/orders/1", "").status, 401);
    assert!(matches!(client.get("api.example.com", "/v1/orders/1", &bearer("ES256")).status, 200 | 502));
    let legacy = moved.get("x.test", "/api/v1/things?q=1", "");
    assert_eq!(legacy.json()["target"], "/internal/v1/things?q=1");
}

/// Every key that the schema knows stands in the reference, even if commented.
#[test]
fn the_reference_leaves_no_key_out() {
    let schema = crate::support::gateway::run(&["schema"]).stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).expect("JSON");
    let text = fs::read_to_string(conf().join("everything.toml")).expect("the reference");
    let mut keys = BTreeSet::new();
    collect(&schema, &mut keys);
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = keys.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "conf/everything.toml says nothing of {missing:?}");
}

fn collect(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            if let Some(properties) = map.get("properties").and_then(|p| p.as_object()) {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| collect(value, keys));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

#[test]
fn every_line_of_the_tour_works_when_pasted() {
    let mut child = Command::new(crate::support::gateway::BINARY)
        .args(["demo", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let out = child.stdout.take().expect("piped");
    let lines = Watched::new(Vec::new());
    let own = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            own.change(|lines: &mut Vec<String>| lines.push(line));
        }
    });
    let outcome = std::panic::catch_unwind(|| tour(&lines));
    let _ = child.kill();
    let _ = child.wait();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Reads what the demonstration prints and does as a reader would.
fn tour(lines: &Watched<Vec<String>>) {
    let last = "/metrics";
    let printed = lines
        .until(|lines| lines.iter().any(|l| l.starts_with("curl") && l.ends_with(last)).then(|| lines.clone()))
        .expect("the demonstration prints its tour");
    let port = |name: &str| -> u16 {
        let table = printed.iter().position(|l| l == name).expect("a table");
        let addr = printed[table + 1].rsplit(':').next().expect("an address");
        addr.trim_end_matches('"').parse().expect("a port")
    };
    let ports =
        portcullis::demo::Ports { http: port("[listen.http]"), h2c: port("[listen.h2c]"), admin: port("[admin]") };
    let started = std::time::Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", ports.http)).is_err() {
        assert!(started.elapsed() < PATIENCE, "the demonstration does not serve");
    }
    for stop in portcullis::demo::tour(ports) {
        assert!(printed.contains(&stop.line), "not printed: {}", stop.line);
        let output = Command::new("sh").args(["-c", &stop.line]).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(stop.shows), "{}\n{}\n{said}", stop.title, stop.line);
    }
}
