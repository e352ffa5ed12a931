//! A reload takes the whole file or nothing of it, and no connection notices; the end waits for what is under way.

use crate::support::{Client, Gate, Gateway, Origin, eventually, get};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

fn saying(text: &str) -> String {
    format!("[route.a]\nmatch = \"/**\"\nreply = {{ status = 200, body = \"{text}\" }}\n")
}

#[test]
fn a_connection_lives_through_a_reload_and_sees_the_new_file() {
    let mut gateway = Gateway::start(saying("old"));
    let mut client = Client::tcp(gateway.http());
    assert_eq!(client.get("a.test", "/", "").text(), "old");
    gateway.reload(saying("new"));
    assert_eq!(client.get("a.test", "/", "").text(), "new");
    assert_eq!(gateway.metric("portcullis_generation"), 2.0);
}

#[test]
fn a_request_under_way_ends_as_it_began() {
    let (asked, gate) = (Gate::new(), Gate::new());
    let (open, pass) = (asked.clone(), gate.clone());
    let origin = Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            open.open();
            pass.pass();
            conn.reply(200, "", b"old upstream", &seen)?;
        }
        Ok(())
    });
    let config = |header: &str| {
        format!(
            "[route.a]\nmatch = \"/**\"\nto = \"{}\"\nresponse.set = {{ X-Generation = \"{header}\" }}\n",
            origin.addr
        )
    };
    let mut gateway = Gateway::start(config("first"));
    let mut client = Client::tcp(gateway.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(asked.pass());
    gateway.reload(config("second"));
    gate.open();
    assert_eq!(client.response("GET").expect("an answer").header("x-generation"), Some("first"));
    assert_eq!(client.get("a.test", "/", "").header("x-generation"), Some("second"));
}

#[test]
fn a_wrong_file_changes_nothing_and_says_why() {
    let mut gateway = Gateway::start(saying("old"));
    for (wrong, complaint) in [
        ("[route.a]\nmatch = \"/**\"\nrepyl = 200\n", "repyl"),
        ("[route.a]\nmatch = \"/**\"\nto = \"nowhere\"\n", "nowhere"),
        ("[route.a\n", "portcullis.toml:1:"),
    ] {
        gateway.reload(wrong);
        gateway.complaint(complaint);
        assert_eq!(get(gateway.http(), "/").text(), "old");
        assert_eq!(gateway.metric("portcullis_config_last_reload_success"), 0.0);
    }
    let config = gateway.admin("GET", "/config").expect("an answer");
    assert!(config.text().contains("portcullis.toml:1:"), "the last refusal is told: {}", config.text());
    gateway.reload(saying("new"));
    assert_eq!(get(gateway.http(), "/").text(), "new");
    assert_eq!(gateway.metric("portcullis_config_last_reload_success"), 1.0);
}

#[test]
fn the_admin_endpoint_reloads_too() {
    let gateway = Gateway::start(saying("old"));
    gateway.rewrite(saying("new"));
    let answer = gateway.admin("POST", "/reload").expect("an answer");
    assert!(answer.status < 300, "{answer:?}");
    assert_eq!(get(gateway.http(), "/").text(), "new");
    gateway.rewrite("nonsense");
    let answer = gateway.admin("POST", "/reload").expect("an answer");
    assert!(answer.status >= 400 && answer.text().contains("portcullis.toml:1:"), "{answer:?}");
    assert_eq!(get(gateway.http(), "/").text(), "new");
}

#[test]
fn a_storm_of_reloads_costs_no_request_and_no_connection() {
    let origin = Origin::saying("upstream");
    let config = |nth: usize| {
        format!(
            "[service.app]\nto = [\"{}\"]\n[route.app]\nmatch = \"/**\"\nto = \"app\"\nresponse.set = {{ X-Nth = \"{nth}\" }}\n",
            origin.addr
        )
    };
    let mut gateway = Gateway::start(config(0));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (addr, stop, served) = (gateway.http(), stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut client = Client::tcp(addr);
                while !stop.load(Relaxed) {
                    assert_eq!(client.get("a.test", "/", "").text(), "upstream");
                    assert_eq!(get(addr, "/").text(), "upstream");
                    served.fetch_add(2, Relaxed);
                }
            })
        })
        .collect();
    for nth in 1..=20 {
        gateway.reload(config(nth));
    }
    let before = served.load(Relaxed);
    eventually("requests after the storm", || (served.load(Relaxed) > before + 20).then_some(()));
    stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no request failed"));
    assert_eq!(get(gateway.http(), "/").header("x-nth"), Some("20"));
}

#[test]
fn asked_to_end_it_finishes_what_is_under_way() {
    let (asked, gate) = (Gate::new(), Gate::new());
    let (open, pass) = (asked.clone(), gate.clone());
    let origin = Origin::new(move |conn| {
        while let Some(seen) = conn.request()? {
            open.open();
            pass.pass();
            conn.reply(200, "", b"finished", &seen)?;
        }
        Ok(())
    });
    let mut gateway = Gateway::start(format!(
        "[route.a]\nmatch = \"/**\"\nto = \"{}\"\n[route.idle]\nmatch = \"/idle\"\nreply = 204\n",
        origin.addr
    ));
    let addr = gateway.http();
    let mut idle = Client::tcp(addr);
    assert_eq!(idle.get("a.test", "/idle", "").status, 204);
    let mut busy = Client::tcp(addr);
    busy.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(asked.pass());
    gateway.signal(libc::SIGTERM);
    idle.assert_closed();
    eventually("no more new connections", || std::net::TcpStream::connect(addr).is_err().then_some(()));
    gate.open();
    let answer = busy.response("GET").expect("the answer that was under way");
    assert_eq!((answer.text(), answer.header("connection")), ("finished", Some("close")));
    assert!(gateway.wait().success());
}

#[test]
fn the_end_does_not_wait_longer_than_drain_says() {
    let asked = Gate::new();
    let open = asked.clone();
    let origin = Origin::new(move |conn| {
        conn.request()?;
        open.open();
        conn.stall();
        Ok(())
    });
    let mut gateway = Gateway::start(format!(
        "[server]\nthreads = 1\ndrain = \"200ms\"\n[route.a]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    let mut client = Client::tcp(gateway.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(asked.pass());
    assert!(gateway.stop().success());
}
