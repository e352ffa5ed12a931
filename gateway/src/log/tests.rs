use super::*;
use filters::cx::{Decision, Tls};
use filters::units::Mode;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

fn conf(toml: &str) -> Result<Conf, String> {
    toml::from_str(toml).map_err(|e| e.message().to_string())
}

fn lost() -> IntCounter {
    IntCounter::new("lost", "lost").unwrap()
}

fn written(conf: &Conf, record: &Record<'_>) -> String {
    let mut out = vec![];
    Shape::new(conf, false).write(&mut out, record);
    String::from_utf8(out).unwrap()
}

fn json(toml: &str, record: &Record<'_>) -> Value {
    let line = written(&conf(toml).unwrap(), record);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(&line).unwrap()
}

/// A directory of this test alone, gone with it.
struct Dir(PathBuf);
impl Dir {
    fn new() -> Dir {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let nth = NTH.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("portcullis-log-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn logger(sink: Sink, toml: &str, dropped: &IntCounter) -> Logger {
    let queue = Queue::start("test", sink, 1, Duration::ZERO, dropped.clone()).unwrap();
    Logger { shape: Shape::new(&conf(toml).unwrap(), false), queue: Some(queue) }
}

fn numbered(id: &str) -> Record<'_> {
    Record { id, status: 200, ..Record::default() }
}

#[test]
fn what_the_file_may_say() {
    let all = conf(
        "to = '/var/log/p.log'\nformat = 'text'\nmask = ['Pin']\nquery = true\nheaders = ['X-Tenant']\nlevel = 'warn'",
    )
    .unwrap();
    assert_eq!(all.to, To::File("/var/log/p.log".into()));
    assert_eq!(conf("").unwrap(), Conf::default());
    for (toml, why) in [
        (
            "to = 'stdoud'",
            "\"stdoud\": expected \"stdout\", \"syslog\", \"journald\", \"off\", or a path with a \"/\" in it",
        ),
        ("headers = ['Cookie']", "\"Cookie\": is never written to a log"),
        ("headers = ['a b']", "\"a b\": expected the name of a request header"),
        ("format = 'xml'", "unknown variant `xml`, expected `json` or `text`"),
    ] {
        assert_eq!(conf(toml).unwrap_err(), why);
    }
    assert!(conf("tO = 'stdout'").unwrap_err().contains("unknown field"));
}

#[test]
fn a_full_record() {
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("curl/8.0 \"x\""));
    headers.insert("referer", HeaderValue::from_static("https://a.example/p?token=1"));
    headers.insert("authorization", HeaderValue::from_static("Bearer s3cr3t"));
    headers.insert("cookie", HeaderValue::from_static("sid=s3cr3t"));
    headers.insert("x-tenant", HeaderValue::from_static("blue"));
    let tls = Tls { sni: Some("shop.example".into()), version: "TLSv1.3", ..Tls::default() };
    let decision =
        Decision { step: "limit", rule: "policy.edge".into(), mode: Mode::Observe, reason: "over\n100/s".into() };
    let record = Record {
        wall: 1_709_164_800_001,
        id: "01J",
        client: Some("192.0.2.7".parse().unwrap()),
        peer: Some("10.0.0.1:5000".parse().unwrap()),
        listener: "https",
        method: "GET",
        host: "shop.example",
        path: b"/orders/7",
        query: Some("page=2"),
        protocol: "HTTP/2.0",
        status: 200,
        bytes_in: 0,
        bytes_out: 1234,
        headers: Some(&headers),
        route: "orders",
        service: "orders-v2",
        endpoint: "10.0.1.1:8080",
        attempts: 2,
        upstream_status: 200,
        times: Times { total: 12_345_678, connect: Some(900), first_byte: Some(11_000_000), ..Times::default() },
        tls: Some(&tls),
        decisions: &[decision],
        error: "",
        trace: "4bf92f3577b34da6a3ce929d0e0e4736",
    };
    assert_eq!(
        written(&conf("headers = ['x-tenant', 'x-none']").unwrap(), &record),
        concat!(
            r#"{"time":"2024-02-29T00:00:00.001Z","id":"01J","client":"192.0.2.7","peer":"10.0.0.1:5000","#,
            r#""listener":"https","method":"GET","host":"shop.example","path":"/orders/7","protocol":"HTTP/2.0","#,
            r#""status":200,"bytes_in":0,"bytes_out":1234,"user_agent":"curl/8.0 \"x\"","referer":"https://a.example/p","#,
            r#""headers":{"x-tenant":"blue"},"route":"orders","service":"orders-v2","endpoint":"10.0.1.1:8080","#,
            r#""attempts":2,"upstream_status":200,"total_us":12345,"connect_us":0,"first_byte_us":11000,"#,
            r#""tls":"TLSv1.3","sni":"shop.example","decisions":[{"step":"limit","rule":"policy.edge","mode":"observe","#,
            r#""reason":"over\n100/s"}],"trace":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
            "\n"
        )
    );
    assert_eq!(
        written(&conf("format = 'text'\nquery = true").unwrap(), &record),
        "2024-02-29T00:00:00.001Z 200 GET shop.example/orders/7?page=2 12.3ms 1234B 192.0.2.7 route=orders \
         service=orders-v2 endpoint=10.0.1.1:8080 attempts=2 [limit policy.edge observe: over\\n100/s] id=01J\n"
    );
}

#[test]
fn a_malformed_request_has_its_line_too() {
    let record = Record { path: b"\x16\x03\x01\xff \"", status: 400, error: "bad_request_line", ..Record::default() };
    let value = json("", &record);
    assert_eq!(value["path"], "\u{16}\u{3}\u{1}\u{fffd} \"");
    assert_eq!(value["error"], "bad_request_line");
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["bytes_in", "bytes_out", "error", "path", "status", "time", "total_us"]);
}

#[test]
fn secrets_in_queries_are_masked() {
    let query = |raw: &str| {
        let record = Record { query: Some(raw), ..Record::default() };
        json("query = true\nmask = ['PIN']", &record)["query"].as_str().unwrap().to_string()
    };
    for (raw, logged) in [
        ("a=1&token=abc&b=2", "a=1&token=***&b=2"),
        ("Token=abc;b=2", "Token=***;b=2"),
        ("t%6Fken=abc", "t%6Fken=***"),
        ("user[password]=abc&x=1", "user[password]=***&x=1"),
        ("pin=1234", "pin=***"),
        ("token=a=b", "token=***"),
        ("tokens=a&broken=%zz&=1&&x", "tokens=a&broken=%zz&=1&&x"),
        ("token", "token"),
        ("", ""),
    ] {
        assert_eq!(query(raw), logged, "{raw}");
    }
    let long = query(&"x".repeat(9000));
    assert!(long.len() < 5000 && long.ends_with('…'));
    let record = Record { query: Some("a=1"), ..Record::default() };
    assert!(json("", &record).get("query").is_none(), "off by default");
}

#[test]
fn asked_for_headers_can_be_masked() {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("s3cr3t"));
    headers.insert("referer", HeaderValue::from_static("http://a/?code=1&x=2"));
    let record = Record { headers: Some(&headers), ..Record::default() };
    let value = json("headers = ['X-Api-Key']\nmask = ['x-api-key']\nquery = true", &record);
    assert_eq!(value["headers"]["x-api-key"], "***");
    assert_eq!(value["referer"], "http://a/?code=***&x=2");
}

#[test]
fn a_record_is_bounded() {
    let decision = Decision {
        step: "waf",
        rule: "x".repeat(10_000).into(),
        mode: Mode::Enforce,
        reason: "y".repeat(10_000).into(),
    };
    let decisions = vec![decision; 1000];
    let long = vec![b'"'; 1 << 20];
    let record = Record { path: &long, decisions: &decisions, ..Record::default() };
    let line = written(&conf("").unwrap(), &record);
    assert!(line.len() < 64 << 10, "{}", line.len());
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["decisions_omitted"], 968);
}

#[test]
fn a_stuck_reader_costs_records_and_nothing_else() {
    let (reader, writer) = std::io::pipe().unwrap();
    let dropped = lost();
    let log = logger(Sink::descriptor(writer.as_fd()).unwrap(), "", &dropped);
    drop(writer);
    let mut put = 0_u64;
    eventually("the buffers are full", || {
        for _ in 0..1000 {
            log.write(&numbered("stuck"));
        }
        put += 1000;
        dropped.get() > 0
    });
    assert!(!log.close(Duration::ZERO), "the writer is still stuck");
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(|l| l.unwrap());
        lines.filter(|l| serde_json::from_str::<Value>(l).unwrap()["id"] == "stuck").count() as u64
    });
    assert!(log.close(Duration::from_secs(20)));
    drop(log);
    assert_eq!(reading.join().unwrap() + dropped.get(), put, "each record was written or counted");
}

#[test]
fn a_full_disk_and_a_closed_pipe_are_counted() {
    let dropped = lost();
    let log = logger(Sink::file(Path::new("/dev/full")).unwrap(), "", &dropped);
    log.write(&numbered("1"));
    log.write(&numbered("2"));
    assert!(log.close(Duration::from_secs(20)));
    assert_eq!(dropped.get(), 2);

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let log = logger(Sink::descriptor(writer.as_fd()).unwrap(), "", &dropped);
    log.write(&numbered("3"));
    assert!(log.close(Duration::from_secs(20)));
    assert_eq!(dropped.get(), 3);
    log.write(&numbered("4"));
    assert_eq!(dropped.get(), 4, "after the end, records are dropped and counted");
}

#[test]
fn a_moved_file_is_opened_anew() {
    let dir = Dir::new();
    let (path, moved) = (dir.file("access.log"), dir.file("access.log.1"));
    let dropped = lost();
    let log = logger(Sink::file(&path).unwrap(), "", &dropped);
    std::fs::rename(&path, &moved).unwrap();
    log.write(&numbered("old"));
    log.reopen();
    eventually("the file is there again", || path.exists());
    log.write(&numbered("new"));
    assert!(log.close(Duration::from_secs(20)));
    assert!(std::fs::read_to_string(&moved).unwrap().contains("\"old\""));
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"new\""));
    assert_eq!(dropped.get(), 0);
}

#[test]
fn a_dropped_logger_still_writes_what_it_has() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let log = logger(Sink::descriptor(writer.as_fd()).unwrap(), "", &lost());
    drop(writer);
    log.write(&numbered("last"));
    drop(log);
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    assert!(all.contains("\"last\""));
}

#[test]
fn syslog_gets_a_datagram_per_record_and_may_restart() {
    let dir = Dir::new();
    let socket = dir.file("log");
    let mut sink = Sink::syslog(&socket);
    assert_eq!(sink.write(b"a\nb\n").unwrap_err().0, 2, "nobody listens yet");
    for _ in 0..2 {
        let daemon = UnixDatagram::bind(&socket).unwrap();
        sink.write(b"{\"id\":1}\n{\"id\":2}\n").unwrap();
        for nth in ["1", "2"] {
            let mut buf = [0; 200];
            let n = daemon.recv(&mut buf).unwrap();
            let want = format!("<30>portcullis[{}]: {{\"id\":{nth}}}", std::process::id());
            assert_eq!(std::str::from_utf8(&buf[..n]).unwrap(), want);
        }
        std::fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn journald_gets_fields_and_the_message() {
    let dir = Dir::new();
    let socket = dir.file("journal");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    let dropped = lost();
    let log = logger(Sink::journald(&socket), "to = 'journald'\nformat = 'text'", &dropped);
    let record =
        Record { route: "users", status: 503, host: "a\nPRIORITY=0", method: "GET", path: b"/\n\n", ..numbered("7") };
    log.write(&record);
    log.write(&numbered("8"));
    assert!(log.close(Duration::from_secs(20)));
    assert_eq!(dropped.get(), 0);
    let mut buf = [0; 1000];
    let n = daemon.recv(&mut buf).unwrap();
    assert_eq!(
        std::str::from_utf8(&buf[..n]).unwrap(),
        "SYSLOG_IDENTIFIER=portcullis\nPRIORITY=4\nPORTCULLIS_ID=7\nPORTCULLIS_ROUTE=users\nPORTCULLIS_METHOD=GET\n\
         PORTCULLIS_HOST=a\\nPRIORITY=0\nPORTCULLIS_STATUS=503\n\
         MESSAGE=1970-01-01T00:00:00.000Z 503 GET a\\nPRIORITY=0/\\n\\n 0us 0B route=users id=7\n"
    );
    let n = daemon.recv(&mut buf).unwrap();
    assert!(std::str::from_utf8(&buf[..n]).unwrap().contains("PORTCULLIS_ID=8\n"));
}

proptest! {
    #[test]
    fn any_request_is_one_line_of_json(
        path in proptest::collection::vec(any::<u8>(), 0..80),
        host in ".{0,20}", query in ".{0,40}",
        agent in proptest::collection::vec(any::<u8>().prop_filter("legal", |b| *b >= 0x20 && *b != 0x7f), 0..40),
        reason in ".{0,20}",
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_bytes(&agent).unwrap());
        headers.insert("referer", HeaderValue::from_bytes(&agent).unwrap());
        let decision = Decision { step: "x", rule: "y".into(), mode: Mode::Enforce, reason: reason.clone().into() };
        let record = Record {
            path: &path, host: &host, query: Some(&query), headers: Some(&headers), decisions: &[decision],
            ..Record::default()
        };
        let value = json("query = true", &record);
        prop_assert_eq!(value["decisions"][0]["reason"].as_str().unwrap_or_default(), reason);
        if !path.is_empty() {
            prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(&path));
        }
        let text = written(&conf("format = 'text'\nquery = true").unwrap(), &record);
        prop_assert!(text.ends_with('\n') && !text[..text.len() - 1].chars().any(char::is_control));
    }
}
