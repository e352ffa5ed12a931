//! The log has one record for each request, the metrics count it, the admin endpoint tells.

use crate::support::{Client, Dir, Gateway, Origin, Watched, eventually, get, get_with};
use std::os::unix::net::UnixDatagram;

#[test]
fn a_record_says_what_happened() {
    let origin = Origin::saying("hello");
    let gateway = Gateway::start(format!(
        "[service.app]\nto = [\"{}\"]\n[route.app]\nmatch = \"/users/{{id}}\"\nto = \"app\"\n",
        origin.addr
    ));
    get_with(
        gateway.http(),
        "/users/7?token=secret",
        "User-Agent: test \"agent\"\r\nAuthorization: Bearer secret\r\nCookie: secret=1\r\n",
    );
    let record = gateway.record("the request", |r| r["path"] == "/users/7");
    for (field, value) in [
        ("method", "GET"),
        ("host", "a.test"),
        ("client", "127.0.0.1"),
        ("listener", "http"),
        ("route", "app"),
        ("service", "app"),
        ("user_agent", "test \"agent\""),
    ] {
        assert_eq!(record[field], value, "{field} in {record}");
    }
    assert_eq!(record["endpoint"], origin.addr.to_string());
    for (field, value) in [("status", 200), ("bytes_out", 5), ("attempts", 1), ("upstream_status", 200)] {
        assert_eq!(record[field], value, "{field} in {record}");
    }
    let (total, first) = (record["total_us"].as_u64(), record["first_byte_us"].as_u64());
    assert!(first.is_some() && first <= total && total < Some(20_000_000), "{record}");
    assert!(!record.to_string().contains("secret"), "{record}");
}

#[test]
fn a_hostile_value_stays_within_its_record() {
    let gateway = Gateway::start("[route.a]\nmatch = \"/**\"\nreply = 204\n");
    let mut client = Client::tcp(gateway.http());
    client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\nUser-Agent: \"}\xc2\x9b31m\xff\xfe \\ \t end\r\n\r\n".as_slice());
    assert_eq!(client.response("GET").expect("an answer").status, 204);
    let record = gateway.record("the request", |r| r["path"] == "/x");
    let agent = record["user_agent"].as_str().expect("text");
    assert!(agent.starts_with("\"}") && agent.ends_with("end"), "{agent:?}");
}

#[test]
fn malformed_requests_have_a_record_each() {
    let gateway = Gateway::start("[route.a]\nmatch = \"/**\"\nreply = 204\n");
    for nonsense in
        ["garbage\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: a.test\r\n\r\n"]
    {
        assert_eq!(Client::tcp(gateway.http()).ask(nonsense).status, 400, "{nonsense:?}");
    }
    eventually("three records", || {
        let records = gateway.records();
        assert!(records.len() <= 3, "{records:#?}");
        (records.iter().filter(|r| r["status"] == 400).count() == 3).then_some(())
    });
    let counted = "portcullis_requests_total{route=\"\",service=\"\",status=\"4xx\"}";
    eventually("three requests", || (gateway.metric(counted) == 3.0).then_some(()));
}

#[test]
fn requests_are_counted_by_route_service_and_class() {
    let origin = Origin::saying("hello");
    let gateway = Gateway::start(format!(
        "[service.app]\nto = [\"{}\"]\n[route.app]\nmatch = \"/app/**\"\nto = \"app\"\n[route.no]\nmatch = \"/no\"\nip = {{ allow = [\"192.0.2.1\"] }}\nreply = 204\n",
        origin.addr
    ));
    let mut client = Client::tcp(gateway.http());
    for nth in 0..7 {
        client.get("a.test", &format!("/app/{nth}"), "");
    }
    client.get("a.test", "/no", "");
    // A request is counted when it is over, which may be after its answer arrived.
    let last = "portcullis_requests_total{route=\"no\",service=\"\",status=\"4xx\"}";
    eventually("the last request", || (gateway.metric(last) == 1.0).then_some(()));
    let text = gateway.metrics();
    for (series, value) in [
        ("portcullis_requests_total{route=\"app\",service=\"app\",status=\"2xx\"}", 7.0),
        ("portcullis_request_duration_seconds_count{route=\"app\"}", 7.0),
        ("portcullis_refusals_total{route=\"no\",step=\"ip\",rule=\"allow\",mode=\"enforce\"}", 1.0),
        ("portcullis_upstream_connections_total{service=\"app\",result=\"new\"}", 1.0),
        ("portcullis_upstream_connections_total{service=\"app\",result=\"reused\"}", 6.0),
        ("portcullis_requests_inflight{route=\"app\"}", 0.0),
    ] {
        assert_eq!(gateway.metric(series), value, "{series} in\n{text}");
    }
    assert!(!text.contains("/app/"), "no path may be a label");
    assert!(text.lines().all(|l| l.starts_with('#')
        || l.is_empty()
        || l.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<f64>().is_ok())));
}

#[test]
fn the_number_of_series_does_not_grow_with_what_clients_ask() {
    let gateway = Gateway::start("[route.a]\nmatch = \"/a/**\"\nreply = 204\n");
    let mut client = Client::tcp(gateway.http());
    let mut ask = |from: usize| {
        for nth in from..from + 50 {
            client.get(&format!("h{nth}.test"), &format!("/a/{nth}"), "");
            client.get(&format!("h{nth}.test"), &format!("/{nth}"), "");
        }
    };
    ask(0);
    let before = gateway.metrics().lines().count();
    ask(50);
    assert_eq!(gateway.metrics().lines().count(), before);
}

#[test]
fn the_admin_endpoint_tells_what_runs() {
    let gateway = Gateway::start("[route.users]\nmatch = \"GET a.test/users/{id}\"\nreply = 204\n");
    assert_eq!(gateway.admin("GET", "/healthz").expect("an answer").status, 200);
    assert_eq!(gateway.admin("GET", "/readyz").expect("an answer").status, 200);
    let routes = gateway.admin("GET", "/routes").expect("an answer").text().to_owned();
    assert!(routes.contains("users") && routes.contains("GET a.test/users/{id}"), "{routes}");
    assert_eq!(gateway.admin("GET", "/nothing").expect("an answer").status, 404);
    assert_eq!(gateway.admin("GET", "/reload").expect("an answer").status, 405, "GET changes nothing");
}

#[test]
fn the_admin_endpoint_wants_its_token() {
    let dir = Dir::new();
    let token = dir.write("token", "let me in");
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let file = dir.write(
        "portcullis.toml",
        format!(
            "[listen.http]\naddr = \"127.0.0.1:0\"\n[admin]\naddr = \"{probe}\"\ntoken = \"${{file:{}}}\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
            token.display()
        ),
    );
    let mut child = std::process::Command::new(crate::support::gateway::BINARY)
        .args(["run", "-c"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let ask = |host: &str, auth: &str| {
        let mut client = crate::support::client::tcp(probe).ok().map(|_| Client::tcp(probe))?;
        client.try_ask(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n{auth}Connection: close\r\n\r\n")).ok()
    };
    let right = "Authorization: Bearer let me in\r\n";
    let statuses = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the admin endpoint", || ask("127.0.0.1", right).filter(|a| a.status == 200));
        [("127.0.0.1", ""), ("127.0.0.1", "Authorization: Bearer wrong\r\n"), ("localhost", right)]
            .map(|(host, auth)| ask(host, auth).map_or(0, |answer| answer.status))
    }));
    let _ = child.kill();
    let _ = child.wait();
    let [missing, wrong, fine] = statuses.expect("answers");
    assert_eq!((missing, wrong, fine), (401, 401, 200));
}

#[test]
fn a_log_file_is_opened_anew_when_asked() {
    let dir = Dir::new();
    let path = dir.path().join("access.log");
    let gateway = Gateway::start_in(
        dir,
        format!(
            "[server]\nthreads = 1\nlog = {{ to = \"{}\" }}\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
            path.display()
        ),
    );
    let has = |part: &str| std::fs::read_to_string(&path).ok().filter(|text| text.contains(part)).map(drop);
    get(gateway.http(), "/one");
    eventually("the first record", || has("/one"));
    let moved = path.with_extension("1");
    std::fs::rename(&path, &moved).expect("moved away");
    gateway.signal(libc::SIGUSR1);
    eventually("the new file", || path.exists().then_some(()));
    get(gateway.http(), "/two");
    eventually("the second record", || has("/two"));
    assert!(!std::fs::read_to_string(&moved).expect("the old file").contains("/two"));
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_requests_up() {
    // The pipe of standard output is never read: 64 KiB fill it.
    let dir = Dir::new();
    let admin = dir.path().join("admin.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let file = dir.write(
        "portcullis.toml",
        format!(
            "[listen.http]\naddr = \"{port}\"\n[admin]\naddr = \"unix:{}\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
            admin.display()
        ),
    );
    let mut child = std::process::Command::new(crate::support::gateway::BINARY)
        .args(["run", "-c"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let outcome = std::panic::catch_unwind(|| {
        eventually("readiness", || std::net::TcpStream::connect(port).ok());
        let mut client = Client::tcp(port);
        let agent = format!("User-Agent: {}\r\n", "x".repeat(400));
        for _ in 0..1000 {
            assert_eq!(client.get("a.test", "/", &agent).status, 204);
        }
    });
    let _ = child.kill();
    let _ = child.wait();
    outcome.expect("every request was served");
}

#[test]
fn readiness_is_told_to_systemd() {
    let dir = Dir::new();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let told = Watched::new(String::new());
    let own = told.clone();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(n) = socket.recv(&mut message) {
            own.change(|all| all.push_str(&String::from_utf8_lossy(&message[..n])));
            own.change(|all| all.push('\n'));
        }
    });
    let config = format!(
        "[listen.http]\naddr = \"127.0.0.1:0\"\n[admin]\naddr = \"unix:{}\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
        dir.path().join("admin.sock").display()
    );
    let file = dir.write("portcullis.toml", config);
    let mut command = std::process::Command::new(crate::support::gateway::BINARY);
    command.args(["run", "-c"]).arg(&file).env("NOTIFY_SOCKET", &path);
    let mut gateway = Gateway::spawn(dir, file, command);
    let heard = |part: &str| told.until(|all| all.contains(part).then_some(())).unwrap_or_else(|| panic!("no {part}"));
    heard("READY=1");
    gateway.stop();
    heard("STOPPING=1");
}
