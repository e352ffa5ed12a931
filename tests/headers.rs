//! What is added to a request, dropped from it, and never believed; where a golden file is not enough.

use crate::support::h2::H2;
use crate::support::{Client, Gateway, Origin, get};
use http::Request;

fn echo_behind_h2c() -> (Origin, Gateway) {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[listen.h2c]\naddr = \"127.0.0.1:0\"\nh2c = true\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    (origin, gateway)
}

#[test]
fn cookies_that_http2_split_are_joined_again() {
    let (origin, gateway) = echo_behind_h2c();
    // RFC 9113, section 8.2.3
    let request =
        Request::get("http://a.test/").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    let answer = H2::plain(gateway.at("h2c")).ask(request.body(vec![]).expect("a request")).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(origin.only().head.all("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn the_authority_of_http2_becomes_the_host() {
    let (origin, gateway) = echo_behind_h2c();
    assert_eq!(H2::plain(gateway.at("h2c")).get("http://shop.test:8080/x").status, 200);
    let seen = origin.only();
    assert_eq!(seen.head.all("host"), ["shop.test:8080"]);
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.test:8080"));
    assert_eq!(seen.head.first, "GET /x HTTP/1.1");
}

#[test]
fn every_request_has_an_id_of_its_own_which_the_log_has_too() {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!("[route.app]\nmatch = \"/**\"\nto = \"{}\"\n", origin.addr));
    let mut client = Client::tcp(gateway.http());
    client.get("a.test", "/one", "");
    client.get("a.test", "/two", "");
    let ids: Vec<String> = origin.wait(2).iter().filter_map(|s| s.header("x-request-id").map(str::to_owned)).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    for (id, path) in ids.iter().zip(["/one", "/two"]) {
        let record = gateway.record(path, |r| r["id"] == id.as_str());
        assert_eq!(record["path"], path);
    }
}

#[test]
fn a_trace_goes_on_when_a_trusted_proxy_began_it_and_only_then() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (trusted, goes_on) in [("[\"127.0.0.1\"]", true), ("[]", false)] {
        let origin = Origin::echo();
        let gateway = Gateway::start(format!(
            "[server]\nthreads = 1\ntrusted = {trusted}\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
            origin.addr
        ));
        crate::support::get_with(gateway.http(), "/", &format!("traceparent: {PARENT}\r\n"));
        let sent = origin.only().header("traceparent").expect("a trace").to_owned();
        assert_eq!(sent.contains("0af7651916cd43dd8448eb211c80319c"), goes_on, "trusted {trusted}: {sent}");
    }
}

#[test]
fn a_problem_names_the_request_it_belongs_to() {
    let gateway = Gateway::start("[route.a]\nmatch = \"/a\"\nreply = 204\n");
    let problem = get(gateway.http(), "/b").assert_problem(404);
    let record = gateway.record("the refusal", |r| r["status"] == 404);
    let id = record["id"].as_str().expect("an id");
    assert!(problem.to_string().contains(id), "{problem} names no {id}");
}

#[test]
fn headers_of_every_size_below_the_limit_pass_and_larger_heads_are_431() {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[server]\nthreads = 1\nrequest_head = \"8KiB\"\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    for (size, status) in [(100, 200), (4000, 200), (7000, 200), (8200, 431), (100_000, 431)] {
        let mut client = Client::tcp(gateway.http());
        let answer = client.get("a.test", "/", &format!("X-Big: {}\r\n", "x".repeat(size)));
        assert_eq!(answer.status, status, "{size} bytes");
    }
    assert_eq!(origin.seen().len(), 3);
}
