//! Which request goes where; the rest is in `golden/`.

use crate::support::{Client, Gateway, Origin, get};
use std::fmt::Write;

#[test]
fn ten_thousand_routes_each_lead_to_their_own_answer() {
    let mut config = String::new();
    for nth in 0..10_000 {
        let _ = writeln!(
            config,
            "[route.r{nth}]\nmatch = \"GET /svc{nth}/users/{{id}}\"\nreply = {{ status = 200, body = \"{nth}\" }}"
        );
    }
    let gateway = Gateway::start(config);
    let mut client = Client::tcp(gateway.http());
    for nth in [0, 1, 4999, 9998, 9999] {
        let answer = client.get("a.test", &format!("/svc{nth}/users/7"), "");
        assert_eq!((answer.status, answer.text()), (200, nth.to_string().as_str()));
    }
    assert_eq!(client.get("a.test", "/svc10000/users/7", "").status, 404);
}

#[test]
fn hosts_exact_below_and_any() {
    let gateway = Gateway::start(
        r#"
        [route.exact]
        match = "api.test/**"
        reply = { status = 200, body = "exact" }
        [route.below]
        match = "*.test/**"
        reply = { status = 200, body = "below" }
        [route.any]
        match = "/**"
        reply = { status = 200, body = "any" }
        "#,
    );
    let mut client = Client::tcp(gateway.http());
    for (host, expected) in [
        ("api.test", "exact"),
        ("API.Test.", "exact"),
        ("api.test:8080", "exact"),
        ("web.test", "below"),
        ("a.b.test", "below"),
        ("test", "any"),
        ("api.test.evil", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(client.get(host, "/x", "").text(), expected, "{host}");
    }
}

#[test]
fn priority_comes_before_all_else() {
    let gateway = Gateway::start(
        r#"
        [route.low]
        match = "api.test/literal"
        reply = { status = 200, body = "literal" }
        [route.high]
        match    = "/**"
        when     = "header.x-maintenance"
        priority = 1
        reply    = { status = 503, body = "later" }
        "#,
    );
    let mut client = Client::tcp(gateway.http());
    assert_eq!(client.get("api.test", "/literal", "").text(), "literal");
    assert_eq!(client.get("api.test", "/literal", "X-Maintenance: 1\r\n").status, 503);
}

#[test]
fn the_path_that_was_matched_is_the_path_that_is_forwarded() {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[route.admin]\nmatch = \"/admin/**\"\nreply = 403\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    for target in ["/admin/x", "/a/../admin/x", "/%61dmin/x", "//admin/x", "/./admin", "/admin", "/a/%2e%2e/admin/x"] {
        assert_eq!(get(gateway.http(), target).status, 403, "{target}");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn a_head_request_is_matched_by_get() {
    let gateway = Gateway::start("[route.a]\nmatch = \"GET /a\"\nreply = { status = 200, body = \"hello\" }\n");
    let answer = Client::tcp(gateway.http()).ask("HEAD /a HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
}

#[test]
fn a_redirect_cannot_be_bent_to_another_host() {
    let gateway = Gateway::start("[route.old]\nmatch = \"/old/{**rest}\"\nredirect = \"/new/{rest}\"\n");
    for target in ["/old//evil.test/x", "/old/%2f%2fevil.test", "/old/\\evil.test", "/old/x%0d%0aSet-Cookie:%20a=b"] {
        let answer = get(gateway.http(), target);
        let location = answer.header("location").unwrap_or("/");
        assert!(location.starts_with('/') && !location.starts_with("//"), "{target}: {location}");
        assert_eq!(answer.header("set-cookie"), None, "{target}");
    }
}
