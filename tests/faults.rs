//! Upstreams that refuse, reset, stall, lie about their length or send garbage: a clean 502 or 504, or a cut connection if
//! bytes were already sent; never a hang, never two answers glued together. (Garbage of all kinds is in `golden/`.)

use crate::proxying::before;
use crate::support::h2::H2;
use crate::support::origin::{Blackhole, Refusing};
use crate::support::{Client, Gate, Gateway, Origin, eventually, get};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The client must notice that the answer is not whole.
#[track_caller]
fn assert_cut(client: &mut Client) {
    match client.response("GET") {
        Ok(response) => panic!("a broken answer looks whole: {response:?}"),
        Err(e) => assert!(matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{e}"),
    }
}

#[test]
fn a_connection_that_is_never_made_times_out() {
    let hole = Blackhole::new();
    let gateway = before(hole.addr, "timeout = { connect = \"200ms\" }");
    get(gateway.http(), "/").assert_problem(504);
    gateway.record("the timeout", |r| r["status"] == 504 && r["error"] == "connect_timeout");
}

#[test]
fn an_upstream_that_resets_before_it_answers_is_a_502() {
    let origin = Origin::new(|conn| {
        conn.request()?;
        conn.reset()
    });
    let gateway = before(origin.addr, "retry = { tries = 1 }");
    get(gateway.http(), "/").assert_problem(502);
}

#[test]
fn a_kept_connection_that_the_upstream_drops_costs_a_safe_request_nothing() {
    // The first connection serves one request, then breaks on the second.
    let origin = Origin::new(|conn| {
        while let Some(seen) = conn.request()? {
            if conn.nth == 0 && seen.target() == "/second" {
                return conn.reset();
            }
            conn.reply(200, "", b"fine", &seen)?;
        }
        Ok(())
    });
    let gateway =
        Gateway::start(format!("[server]\nthreads = 1\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n", origin.addr));
    assert_eq!(get(gateway.http(), "/first").text(), "fine");
    assert_eq!(get(gateway.http(), "/second").text(), "fine");
    assert_eq!(origin.conns(), 2);
}

#[test]
fn a_request_that_changes_things_is_never_sent_twice() {
    let origin = Origin::new(|conn| {
        conn.request()?;
        conn.reset()
    });
    let gateway = before(origin.addr, "retry = { tries = 3, on = [\"connect\", \"502\", \"503\"] }");
    let answer = Client::tcp(gateway.http()).ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nok");
    answer.assert_problem(502);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn an_upstream_that_never_answers_is_a_504() {
    for (timeout, error) in [("first_byte = \"300ms\"", "deadline"), ("total = \"300ms\"", "deadline")] {
        let origin = Origin::new(|conn| {
            conn.request()?;
            conn.stall();
            Ok(())
        });
        let gateway = before(origin.addr, &format!("timeout = {{ {timeout} }}\nretry = {{ tries = 1 }}"));
        get(gateway.http(), "/").assert_problem(504);
        gateway.record("the timeout", |r| r["status"] == 504 && r["error"] == error);
    }
}

#[test]
fn an_answers_head_that_drips_is_cut_at_the_deadline() {
    let origin = Origin::new(|conn| {
        conn.request()?;
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            conn.say([*byte])?;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    });
    let gateway = before(origin.addr, "timeout = { total = \"400ms\" }");
    get(gateway.http(), "/").assert_problem(504);
}

#[test]
fn a_body_that_stops_is_cut_where_it_stopped() {
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let origin = Origin::new(move |conn| {
            conn.request()?;
            conn.say(format!("HTTP/1.1 200 OK\r\n{framing}"))?;
            conn.stall();
            Ok(())
        });
        let gateway = before(origin.addr, "timeout = { idle = \"300ms\" }");
        let mut client = Client::tcp(gateway.http());
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_cut(&mut client);
    }
}

#[test]
fn a_body_that_ends_too_early_is_cut_and_not_completed() {
    for (framing, reset) in [
        ("Content-Length: 100\r\n\r\nhalf", false),
        ("Content-Length: 100\r\n\r\nhalf", true),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true),
        ("Transfer-Encoding: chunked\r\n\r\n64\r\nhalf", false),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n", false),
    ] {
        let sent = Gate::new();
        let go_on = sent.clone();
        let origin = Origin::new(move |conn| {
            conn.request()?;
            conn.say(format!("HTTP/1.1 200 OK\r\n{framing}"))?;
            // A reset may overtake what was sent: only once the client has it.
            go_on.pass();
            if reset { conn.reset() } else { Ok(()) }
        });
        let gateway = before(origin.addr, "");
        let mut client = Client::tcp(gateway.http());
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        while !client.io.ahead.windows(4).any(|w| w == b"half") {
            assert!(client.io.more().expect("the first half"), "{framing:?}: nothing came");
        }
        sent.open();
        assert_cut(&mut client);
        gateway.record("the broken answer", |r| r["error"].is_string());
    }
}

#[test]
fn over_http2_a_broken_answer_is_a_reset_stream() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let gateway = Gateway::start(format!(
        "[listen.h2c]\naddr = \"127.0.0.1:0\"\nh2c = true\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    let mut client = H2::plain(gateway.at("h2c"));
    let request = http::Request::get("http://a.test/").body(vec![]).expect("a request");
    let error = client.ask(request).expect_err("a broken answer looks whole");
    assert!(error.is_reset(), "{error}");
}

#[test]
fn after_a_broken_answer_nothing_else_follows_on_that_connection() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let all = client.rest().unwrap_or_default();
    let text = String::from_utf8_lossy(&all);
    assert_eq!(text.matches("HTTP/1.").count(), 1, "two answers glued together: {text}");
    assert!(text.ends_with("half"), "{text}");
}

#[test]
fn a_head_of_absurd_size_is_a_502() {
    for head in [format!("X: {}\r\n", "x".repeat(2_000_000)), "X: y\r\n".repeat(100_000)] {
        let origin = Origin::answering_once(format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok"));
        let gateway = before(origin.addr, "retry = { tries = 1 }");
        get(gateway.http(), "/").assert_problem(502);
    }
}

#[test]
fn one_dead_endpoint_of_two_costs_no_request() {
    let (dead, alive) = (Refusing::new(), Origin::saying("alive"));
    let gateway = Gateway::start(format!(
        "[service.app]\nto = [\"{}\", \"{}\"]\n[route.app]\nmatch = \"/**\"\nto = \"app\"\n",
        dead.addr, alive.addr
    ));
    for nth in 0..100 {
        let body = "x".repeat(nth);
        let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {nth}\r\n\r\n{body}");
        let answer = Client::tcp(gateway.http()).ask(request);
        assert_eq!((answer.status, answer.text()), (200, "alive"), "request {nth}");
    }
}

#[test]
fn an_upstream_that_trickles_does_not_disturb_others() {
    let (slow, fast) = (
        Origin::new(|conn| conn.stall().then_some(()).ok_or_else(|| ErrorKind::TimedOut.into())),
        Origin::saying("fast"),
    );
    let gateway = Gateway::start(format!(
        "[server]\nthreads = 1\n[route.slow]\nmatch = \"/slow\"\nto = \"{}\"\n[route.fast]\nmatch = \"/fast\"\nto = \"{}\"\n",
        slow.addr, fast.addr
    ));
    let waiting: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::tcp(gateway.http());
            client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
            client
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(get(gateway.http(), "/fast").text(), "fast");
    }
    drop(waiting);
}

#[test]
fn the_gateway_lives_on_after_every_fault_at_once() {
    let nth = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |conn| {
        conn.request()?;
        match nth.fetch_add(1, Relaxed) % 5 {
            0 => conn.reset(),
            1 => conn.say("garbage\r\n\r\n"),
            2 => conn.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            3 => Ok(()),
            _ => conn.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
        }
    });
    let gateway = before(origin.addr, "retry = { tries = 1 }");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let addr = gateway.http();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let outcome = Client::tcp(addr).try_ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    if let Ok(answer) = outcome {
                        assert!(matches!(answer.status, 200 | 502 | 503), "{answer:?}");
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().expect("no surprise"));
    assert!(!gateway.errors().contains("panicked"), "{}", gateway.errors());
    let inflight = "portcullis_requests_inflight{route=\"app\"}";
    eventually("all requests to be over", || (gateway.metric(inflight) == 0.0).then_some(()));
}

#[test]
fn a_refusal_says_whether_its_connection_lives_on() {
    let (dead, alive) = (Refusing::new(), Origin::saying("alive"));
    let gateway = Gateway::start(format!(
        "[route.dead]\nmatch = \"/dead\"\nto = \"{}\"\n[route.alive]\nmatch = \"/alive\"\nto = \"{}\"\n",
        dead.addr, alive.addr
    ));
    let mut client = Client::tcp(gateway.http());
    for nth in 0..5 {
        let refused = client.get("a.test", "/dead", "");
        assert!(matches!(refused.status, 502 | 503), "{refused:?}");
        if refused.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
            client.assert_closed();
            client = Client::tcp(gateway.http());
        }
        assert_eq!(client.get("a.test", "/alive", "").text(), "alive", "after refusal {nth}");
    }
}
