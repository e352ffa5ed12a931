//! Balancing, health, retries, breakers, bounds, canaries and mirrors.

use crate::support::certs::{Authority, Signed};
use crate::support::message::Reader;
use crate::support::origin::Refusing;
use crate::support::{Client, Dir, Gate, Gateway, Origin, Watched, eventually, get, get_with};
use pingora::tls::ssl::{SslAcceptor, SslFiletype, SslMethod};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};

fn service(keys: &str) -> Gateway {
    Gateway::start(format!(
        "[server]\nthreads = 1\n[service.app]\n{keys}\n[route.app]\nmatch = \"/**\"\nto = \"app\"\n"
    ))
}

fn named(names: &[&str]) -> Vec<Origin> {
    names.iter().map(|name| Origin::saying(name)).collect()
}

/// `["127.0.0.1:1", …]`
fn list(origins: &[Origin]) -> String {
    format!("{:?}", origins.iter().map(|o| o.addr.to_string()).collect::<Vec<_>>())
}

fn counts(gateway: &Gateway, n: usize, headers: impl Fn(usize) -> String) -> HashMap<String, usize> {
    let mut client = Client::tcp(gateway.http());
    let mut counts = HashMap::new();
    for nth in 0..n {
        let answer = client.get("a.test", "/", &headers(nth));
        assert_eq!(answer.status, 200, "{answer:?}");
        *counts.entry(answer.text().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let origins = named(&["a", "b"]);
    let gateway =
        service(&format!("to = [\"{} x3\", \"{}\"]\nbalance = \"round_robin\"", origins[0].addr, origins[1].addr));
    let counts = counts(&gateway, 40, |_| String::new());
    assert_eq!((counts["a"], counts["b"]), (30, 10));
}

#[test]
fn every_way_of_balancing_uses_every_endpoint() {
    for balance in ["p2c", "round_robin", "least_conn", "random", "hash"] {
        let origins = named(&["a", "b", "c"]);
        let hash = if balance == "hash" { "hash = \"header.x-user\"" } else { "" };
        let gateway = service(&format!("to = {}\nbalance = \"{balance}\"\n{hash}", list(&origins)));
        let counts = counts(&gateway, 200, |nth| format!("X-User: {nth}\r\n"));
        assert_eq!(counts.len(), 3, "{balance}: {counts:?}");
    }
}

#[test]
fn equal_keys_go_to_the_same_endpoint() {
    let origins = named(&["a", "b", "c", "d"]);
    let gateway = service(&format!("to = {}\nbalance = \"hash\"\nhash = \"header.x-user\"", list(&origins)));
    let mut used = HashSet::new();
    for user in 0..40 {
        let ask = || get_with(gateway.http(), "/", &format!("X-User: {user}\r\n")).text().to_owned();
        let first = ask();
        assert_eq!(ask(), first, "user {user}");
        used.insert(first);
    }
    assert!(used.len() > 1);
}

#[test]
fn a_backup_serves_only_when_nothing_else_does() {
    let (main, backup) = (Origin::saying("main"), Origin::saying("backup"));
    let dead = Refusing::new();
    let gateway = service(&format!("to = [\"{}\", \"{} backup\"]", main.addr, backup.addr));
    assert_eq!(counts(&gateway, 20, |_| String::new()), HashMap::from([("main".into(), 20)]));
    let gateway = service(&format!(
        "to = [\"{}\", \"{} backup\"]\nretry = {{ tries = 2, on = [\"connect\"], budget = \"100%\" }}",
        dead.addr, backup.addr
    ));
    assert_eq!(get(gateway.http(), "/").text(), "backup");
}

#[test]
fn names_are_resolved() {
    let origin = Origin::saying("by name");
    let gateway = service(&format!("to = [\"localhost:{}\"]", origin.addr.port()));
    assert_eq!(get(gateway.http(), "/").text(), "by name");
}

#[test]
fn an_upstream_may_be_a_unix_socket() {
    let dir = Dir::new();
    let path = dir.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = Reader::new(stream);
            while let Ok(Some(_)) = reader.head() {
                reader.from.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix").expect("the gateway reads");
            }
        }
    });
    assert_eq!(get(service(&format!("to = [\"unix:{}\"]", path.display())).http(), "/").text(), "unix");
}

#[test]
fn connections_to_the_upstream_are_used_again() {
    let origin = Origin::saying("ok");
    let gateway = service(&format!("to = [\"{}\"]", origin.addr));
    for _ in 0..20 {
        assert_eq!(get(gateway.http(), "/").status, 200);
    }
    assert_eq!(origin.conns(), 1);
}

/// Fails `n` times, then serves.
fn failing(n: usize) -> Origin {
    let left = Watched::new(n);
    Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            let fail = left.change(|left| std::mem::replace(left, left.saturating_sub(1)) > 0);
            conn.reply(if fail { 503 } else { 200 }, "", b"tried", &seen)?;
        }
        Ok(())
    })
}

#[test]
fn a_safe_request_is_tried_again_as_often_as_told() {
    for (failures, tries, status, asked) in [(1, 3, 200, 2), (2, 3, 200, 3), (3, 3, 503, 3), (1, 1, 503, 1)] {
        let origin = failing(failures);
        let gateway = service(&format!(
            "to = [\"{}\"]\nretry = {{ tries = {tries}, on = [\"503\"], budget = \"100%\" }}",
            origin.addr
        ));
        assert_eq!(get(gateway.http(), "/").status, status, "{failures} failures, {tries} tries");
        assert_eq!(origin.seen().len(), asked);
    }
}

#[test]
fn a_request_with_a_body_is_tried_again_whole() {
    let origin = failing(1);
    let gateway =
        service(&format!("to = [\"{}\"]\nretry = {{ tries = 2, on = [\"503\"], budget = \"100%\" }}", origin.addr));
    let answer = Client::tcp(gateway.http()).ask("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(answer.status, 200);
    assert!(origin.wait(2).iter().all(|seen| seen.body == b"hello"));
    assert_eq!(gateway.record("the retry", |r| r["attempts"] == 2)["status"], 200);
}

#[test]
fn retries_have_a_budget() {
    let origin = failing(usize::MAX);
    let gateway = service(&format!(
        "to = [\"{}\"]\nretry = {{ tries = 5, on = [\"503\"], budget = \"20%\" }}\neject = {{ errors = 1000000, for = \"1s\" }}",
        origin.addr
    ));
    let mut client = Client::tcp(gateway.http());
    for _ in 0..200 {
        assert_eq!(client.get("a.test", "/", "").status, 503);
    }
    // A few are always granted, or a quiet service would never retry.
    let asked = origin.seen().len();
    assert!(asked > 200, "nothing was tried again");
    assert!(asked < 300, "200 requests became {asked}");
}

#[test]
fn a_breaker_stops_asking_and_asks_again_later() {
    let broken = Watched::new(true);
    let state = broken.clone();
    let origin = Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            let status = if state.change(|broken| *broken) { 500 } else { 200 };
            conn.reply(status, "", b"", &seen)?;
        }
        Ok(())
    });
    let gateway = service(&format!(
        "to = [\"{}\"]\nbreaker = \"50% of 5 in 10s open 500ms\"\nretry = {{ tries = 1 }}",
        origin.addr
    ));
    let ask = || get(gateway.http(), "/");
    for _ in 0..5 {
        assert_eq!(ask().status, 500);
    }
    let refused = ask();
    refused.assert_problem(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let asked = origin.seen().len();
    assert_eq!(ask().status, 503);
    assert_eq!(origin.seen().len(), asked, "an open breaker asks nothing");
    broken.change(|broken| *broken = false);
    eventually("the breaker to close", || (ask().status == 200).then_some(()));
    assert_eq!(ask().status, 200);
}

#[test]
fn an_endpoint_that_fails_is_left_alone() {
    let (bad, good) = (failing(usize::MAX), Origin::saying("good"));
    let gateway = service(&format!(
        "to = [\"{}\", \"{}\"]\nbalance = \"round_robin\"\neject = \"3 errors for 1h\"\nretry = {{ tries = 1 }}",
        bad.addr, good.addr
    ));
    let mut client = Client::tcp(gateway.http());
    let statuses: Vec<u16> = (0..40).map(|_| client.get("a.test", "/", "").status).collect();
    assert_eq!(statuses.iter().filter(|s| **s != 200).count(), 3, "{statuses:?}");
    assert_eq!(bad.seen().len(), 3);
    assert!(gateway.metric("portcullis_ejections_total{service=\"app\"}") >= 1.0);
}

#[test]
fn health_checks_take_an_endpoint_out_and_back_in() {
    let sick = Watched::new(false);
    let state = sick.clone();
    let origin = Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            let status = if seen.target() == "/healthz" && state.change(|sick| *sick) { 500 } else { 200 };
            conn.reply(status, "", b"checked", &seen)?;
        }
        Ok(())
    });
    let other = Origin::saying("other");
    let gateway = service(&format!(
        "to = [\"{}\", \"{}\"]\nbalance = \"round_robin\"\nhealth = {{ path = \"/healthz\", every = \"20ms\", up = 1, down = 1 }}",
        origin.addr, other.addr
    ));
    let answers = || counts(&gateway, 10, |_| String::new());
    eventually("both to serve", || (answers().len() == 2).then_some(()));
    sick.change(|sick| *sick = true);
    eventually("the sick one to be out", || (answers() == HashMap::from([("other".into(), 10)])).then_some(()));
    sick.change(|sick| *sick = false);
    eventually("it to be back", || (answers().len() == 2).then_some(()));
}

#[test]
fn all_endpoints_down_is_a_503_at_once() {
    let dead = Refusing::new();
    let gateway = service(&format!(
        "to = [\"{}\"]\neject = {{ errors = 1, for = \"1h\", max = \"100%\" }}\nretry = {{ tries = 1 }}",
        dead.addr
    ));
    get(gateway.http(), "/").assert_problem(502);
    get(gateway.http(), "/").assert_problem(503);
}

#[test]
fn a_service_takes_so_many_requests_at_a_time_and_lets_so_many_wait() {
    let (entered, gate) = (Watched::new(0), Gate::new());
    let (count, pass) = (entered.clone(), gate.clone());
    let origin = Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            count.change(|n| *n += 1);
            pass.pass();
            conn.reply(200, "", b"served", &seen)?;
        }
        Ok(())
    });
    let gateway = service(&format!("to = [\"{}\"]\nmax = {{ inflight = 1, queue = 1 }}", origin.addr));
    let mut first = Client::tcp(gateway.http());
    first.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    entered.until(|n| (*n == 1).then_some(())).expect("the first is served");
    let mut second = Client::tcp(gateway.http());
    second.send("GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    eventually("the second to wait", || {
        (gateway.metric("portcullis_service_queued{service=\"app\"}") == 1.0).then_some(())
    });
    get(gateway.http(), "/3").assert_problem(503);
    gate.open();
    for client in [&mut first, &mut second] {
        assert_eq!(client.response("GET").expect("an answer").text(), "served");
    }
    assert_eq!(origin.seen().len(), 2);
}

fn canary(keys: &str, origins: &[Origin]) -> Gateway {
    Gateway::start(format!(
        "[service.now]\nto = [\"{}\"]\n[service.next]\nto = [\"{}\"]\n\
         [route.app]\nmatch = \"/**\"\nto = {{ now = 80, next = 20 }}\n{keys}\n",
        origins[0].addr, origins[1].addr
    ))
}

#[test]
fn a_canary_gets_its_share() {
    let origins = named(&["now", "next"]);
    let counts = counts(&canary("", &origins), 500, |_| String::new());
    // 100 expected; six standard deviations are 54.
    assert!((46..=154).contains(&counts["next"]), "{counts:?}");
}

#[test]
fn a_sticky_canary_keeps_each_client_on_its_side() {
    let origins = named(&["now", "next"]);
    let gateway = canary("sticky = \"cookie.session\"", &origins);
    let mut sides = HashMap::<String, usize>::new();
    for user in 0..100 {
        let ask = || get_with(gateway.http(), "/", &format!("Cookie: session=user-{user}\r\n")).text().to_owned();
        let side = ask();
        assert_eq!(ask(), side, "user {user}");
        *sides.entry(side).or_default() += 1;
    }
    assert!((2..60).contains(&sides["next"]), "{sides:?}");
}

#[test]
fn a_mirror_sees_the_request_and_nobody_waits_for_it() {
    let gate = Gate::new();
    let closed = gate.clone();
    let mirror = Origin::new(move |conn| {
        if conn.request()?.is_some() {
            closed.pass();
        }
        Ok(())
    });
    let main = Origin::saying("main");
    let gateway = Gateway::start(format!(
        "[service.copy]\nto = [\"{}\"]\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\nmirror = {{ to = \"copy\", share = \"100%\" }}\n",
        mirror.addr, main.addr
    ));
    let answer =
        Client::tcp(gateway.http()).ask("POST /x?y=1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(answer.text(), "main");
    let copy = mirror.only();
    assert_eq!((copy.target(), &copy.body[..], copy.header("host")), ("/x?y=1", &b"hello"[..], Some("a.test")));
    gate.open();
}

#[test]
fn a_dead_mirror_is_no_ones_problem() {
    let (main, dead) = (Origin::saying("main"), Refusing::new());
    let gateway = Gateway::start(format!(
        "[service.copy]\nto = [\"{}\"]\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\nmirror = \"copy\"\n",
        dead.addr, main.addr
    ));
    for _ in 0..20 {
        assert_eq!(get(gateway.http(), "/").text(), "main");
    }
}

/// An origin that speaks HTTP/1 over TLS and tells the name it was asked for.
fn tls_origin(signed: &Signed) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("an acceptor");
    acceptor.set_certificate_chain_file(&signed.cert).expect("a certificate");
    acceptor.set_private_key_file(&signed.key, SslFiletype::PEM).expect("a key");
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut stream) = acceptor.accept(stream) else { continue };
            let name = stream.ssl().servername(pingora::tls::ssl::NameType::HOST_NAME).unwrap_or("-").to_owned();
            if let Ok(Some(_)) = Reader::new(&mut stream).head() {
                let length = name.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{name}");
                let _ = stream.flush();
            }
        }
    });
    addr
}

#[test]
fn an_upstreams_certificate_is_verified() {
    let dir = Dir::new();
    let (ours, other) = (Authority::new(&dir, "ours"), Authority::new(&dir, "other"));
    let addr = tls_origin(&ours.sign(&dir, &["backend.test"]));
    let (ca, wrong_ca) = (ours.pem.display().to_string(), other.pem.display().to_string());
    for (tls, status) in [
        (format!("{{ sni = \"backend.test\", ca = \"{ca}\" }}"), 200),
        (format!("{{ sni = \"somebody.test\", ca = \"{ca}\" }}"), 502),
        (format!("{{ sni = \"backend.test\", ca = \"{wrong_ca}\" }}"), 502),
        ("{ sni = \"backend.test\" }".to_owned(), 502),
        ("{ sni = \"backend.test\", verify = false }".to_owned(), 200),
    ] {
        let gateway = service(&format!("to = [\"{addr}\"]\ntls = {tls}\nretry = {{ tries = 1 }}"));
        let answer = get(gateway.http(), "/");
        assert_eq!(answer.status, status, "tls = {tls}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.text(), "backend.test");
        }
    }
}
