//! Certificates by name, client certificates and what they guard, protocols; PROXY headers, Unix sockets and IPv6.

use crate::support::certs::{Authority, Signed, Tls};
use crate::support::h2::H2;
use crate::support::{Client, Dir, Gateway, Origin, eventually};
use pingora::tls::ssl::SslVersion;
use std::io;

/// Two names with certificates of their own, the second of which demands one of the client.
struct Edge {
    ca: Authority,
    clients: Authority,
    open: Signed,
    gateway: Gateway,
    _origin: Origin,
}

fn table(signed: &Signed, more: &str) -> String {
    format!("[[listen.https.tls]]\ncert = \"{}\"\nkey = \"{}\"\n{more}\n", signed.cert.display(), signed.key.display())
}

fn edge(client: &str) -> Edge {
    let dir = Dir::new();
    let (ca, clients) = (Authority::new(&dir, "ca"), Authority::new(&dir, "clients"));
    let (open, closed) = (ca.sign(&dir, &["open.test", "*.open.test"]), ca.sign(&dir, &["closed.test"]));
    let origin = Origin::echo();
    let guard = format!("client_ca = \"{}\"\nclient = \"{client}\"", clients.pem.display());
    let config = format!(
        "[listen.https]\naddr = \"127.0.0.1:0\"\n{}{}[route.app]\nmatch = \"/**\"\nto = \"{}\"\nrequest.set = {{ X-Name = \"{{cert.cn}}\" }}\n",
        table(&open, ""),
        table(&closed, &guard),
        origin.addr
    );
    Edge { ca, clients, open, gateway: Gateway::start_in(dir, config), _origin: origin }
}

impl Edge {
    fn connect(&self, tls: &mut Tls) -> io::Result<Client> {
        Client::tls(self.gateway.at("https"), tls)
    }
    /// A client certificate of the right authority.
    fn alice(&self) -> Signed {
        self.clients.sign(&self.gateway.dir, &["alice"])
    }
    /// The status of a request for `host` on a connection made with `tls`; 0 when there is no answer.
    fn ask(&self, tls: &mut Tls, host: &str) -> u16 {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.connect(tls).and_then(|mut client| client.try_ask(request)).map_or(0, |answer| answer.status)
    }
}

#[test]
fn the_name_asked_for_chooses_the_certificate() {
    let edge = edge("optional");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for name in ["open.test", "OPEN.test", "www.open.test"] {
            let mut tls = Tls::to(name).trusting(&edge.ca).only(version);
            assert_eq!(edge.ask(&mut tls, name), 200, "{name}");
            assert_eq!(tls.peer.as_ref(), Some(&edge.open.der), "{name}");
        }
        let mut tls = Tls::to("closed.test").trusting(&edge.ca).only(version);
        assert_eq!(edge.ask(&mut tls, "closed.test"), 200);
        assert_ne!(tls.peer.as_ref(), Some(&edge.open.der));
    }
    let mut nameless = Tls::default();
    edge.connect(&mut nameless).expect("a handshake");
    assert_eq!(nameless.peer.as_ref(), Some(&edge.open.der), "who names nobody gets the first");
}

#[test]
fn http2_is_agreed_on_where_both_want_it() {
    let edge = edge("optional");
    for (offer, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let mut tls = Tls::to("open.test").offering(offer);
        edge.connect(&mut tls).expect("a handshake");
        assert_eq!(tls.alpn.as_deref(), agreed, "offered {offer:?}");
    }
    let mut client = H2::tls(edge.gateway.at("https"), &Tls::to("open.test").trusting(&edge.ca)).expect("HTTP/2");
    let answer = client.get("https://open.test/x");
    assert_eq!((answer.status, &answer.json()["target"]), (200, &"/x".into()));
    let headers = answer.json()["headers"].to_string();
    assert!(headers.contains(r#"["x-forwarded-proto","https"]"#), "{headers}");
}

#[test]
fn old_versions_of_tls_are_refused() {
    let edge = edge("optional");
    for (version, welcome) in [(SslVersion::TLS1, false), (SslVersion::TLS1_1, false), (SslVersion::TLS1_2, true)] {
        assert_eq!(edge.connect(&mut Tls::to("open.test").only(version)).is_ok(), welcome, "{version:?}");
    }
}

#[test]
fn a_name_that_demands_a_certificate_gets_one_or_nothing() {
    let edge = edge("require");
    let stranger = Authority::new(&edge.gateway.dir, "strangers").sign(&edge.gateway.dir, &["mallory"]);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let to = || Tls::to("closed.test").trusting(&edge.ca).only(version);
        assert_eq!(edge.ask(&mut to(), "closed.test"), 0, "without a certificate");
        assert_eq!(edge.ask(&mut to().with(&stranger), "closed.test"), 0, "with a stranger's certificate");
        let mut client = edge.connect(&mut to().with(&edge.alice())).expect("a handshake");
        let answer = client.get("closed.test", "/", "");
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(r#"["X-Name","alice"]"#), "{answer:?}");
    }
}

#[test]
fn a_guarded_host_is_not_served_on_a_connection_for_another_name() {
    let edge = edge("require");
    let mut client = edge.connect(&mut Tls::to("open.test")).expect("a handshake");
    assert_eq!(client.get("open.test", "/", "").status, 200);
    assert_eq!(client.get("closed.test", "/", "").status, 421);
    let mut client = H2::tls(edge.gateway.at("https"), &Tls::to("open.test")).expect("HTTP/2");
    assert_eq!(client.get("https://closed.test/").status, 421);
    assert_eq!(client.get("https://open.test/").status, 200);
}

#[test]
fn a_session_made_elsewhere_does_not_open_the_guarded_name() {
    let edge = edge("require");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut open = Tls::to("open.test").only(version);
        // A request, so that the tickets of TLS 1.3 have arrived.
        assert_eq!(edge.ask(&mut open, "open.test"), 200);
        let session = open.sessions.lock().expect("no panic").last().cloned().expect("a session to resume");

        let mut again = Tls { session: Some(session.clone()), ..Tls::to("open.test").only(version) };
        assert_eq!(edge.ask(&mut again, "open.test"), 200);
        assert!(again.resumed, "{version:?}: the session is good where it was made");

        let mut guarded = Tls { session: Some(session), ..Tls::to("closed.test").only(version) };
        assert_eq!(edge.ask(&mut guarded, "closed.test"), 0, "{version:?}: the session let a stranger in");
    }
}

#[test]
fn a_new_certificate_is_served_after_a_reload() {
    let dir = Dir::new();
    let ca = Authority::new(&dir, "ca");
    let (old, new) = (ca.sign(&dir, &["a.test"]), ca.sign(&dir, &["a.test"]));
    let config = |signed: &Signed| {
        format!(
            "[listen.https]\naddr = \"127.0.0.1:0\"\n{}[route.a]\nmatch = \"/**\"\nreply = 204\n",
            table(signed, "")
        )
    };
    let mut gateway = Gateway::start_in(dir, config(&old));
    let served = |gateway: &Gateway| {
        let mut tls = Tls::to("a.test").trusting(&ca);
        Client::tls(gateway.at("https"), &mut tls).expect("a handshake");
        tls.peer
    };
    let mut kept = Client::tls(gateway.at("https"), &mut Tls::to("a.test")).expect("a handshake");
    assert_eq!(kept.get("a.test", "/", "").status, 204);
    assert_eq!(served(&gateway), Some(old.der.clone()));
    gateway.reload(config(&new));
    assert_eq!(served(&gateway), Some(new.der));
    assert_eq!(kept.get("a.test", "/", "").status, 204, "the old connection goes on");
    assert!(gateway.metrics().contains("portcullis_cert_expiry_seconds{"), "the certificate's end is counted");
}

#[test]
fn everything_on_the_plain_port_is_sent_to_https() {
    let gateway = Gateway::start(
        "[listen.http]\naddr = \"127.0.0.1:0\"\nredirect = \"https:8443\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
    );
    let answer = Client::tcp(gateway.http()).get("a.test:8080", "/x?y=z", "");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://a.test:8443/x?y=z")));
}

fn proxied(trusted: &str) -> (Origin, Gateway) {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[server]\nthreads = 1\ntrusted = {trusted}\n[listen.http]\naddr = \"127.0.0.1:0\"\nproxy_protocol = true\n\
         [route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    (origin, gateway)
}

#[test]
fn a_proxy_header_tells_the_client_when_the_peer_is_trusted() {
    let v2 = |source: [u8; 4]| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend_from_slice(&source);
        header.extend_from_slice(&[10, 0, 0, 1, 0x1f, 0x90, 0x00, 0x50]);
        header
    };
    let headers = [b"PROXY TCP4 203.0.113.7 10.0.0.1 1234 80\r\n".to_vec(), v2([203, 0, 113, 7])];
    for header in headers {
        let (origin, gateway) = proxied("[\"127.0.0.0/8\"]");
        let mut client = Client::tcp(gateway.http());
        client.send(&header);
        assert_eq!(client.get("a.test", "/", "").status, 200);
        gateway.record("the client", |r| r["client"] == "203.0.113.7");
        assert!(origin.only().header("x-forwarded-for").is_some_and(|v| v.starts_with("203.0.113.7")));

        let (origin, gateway) = proxied("[\"192.0.2.1\"]");
        let mut client = Client::tcp(gateway.http());
        client.send(&header).send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert!(client.response("GET").map_or(true, |answer| answer.status == 400), "a stranger's PROXY header");
        assert!(origin.seen().is_empty());
    }
}

#[test]
fn a_listener_may_be_a_unix_socket_or_ipv6() {
    let dir = Dir::new();
    let path = dir.path().join("http.sock");
    let gateway = Gateway::start_in(
        dir,
        format!(
            "[listen.local]\naddr = \"unix:{}\"\n[listen.six]\naddr = \"[::1]:0\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
            path.display()
        ),
    );
    assert_eq!(Client::unix(&path).expect("a socket").get("a.test", "/", "").status, 204);
    assert_eq!(Client::tcp(gateway.at("six")).get("a.test", "/", "").status, 204);
}

#[test]
fn a_head_that_drips_is_answered_408_at_its_deadline() {
    let gateway = Gateway::start(
        "[listen.http]\naddr = \"127.0.0.1:0\"\nhead_timeout = \"300ms\"\n[route.a]\nmatch = \"/**\"\nreply = 204\n",
    );
    let mut client = Client::tcp(gateway.http());
    let started = std::time::Instant::now();
    eventually("the end of patience", || {
        client.send("X");
        std::thread::sleep(std::time::Duration::from_millis(20));
        (started.elapsed().as_millis() > 350).then_some(())
    });
    let answer = client.response("GET").expect("an answer");
    assert_eq!(answer.status, 408);
    gateway.record("the slow client", |r| r["status"] == 408);
}

#[test]
fn one_address_may_hold_so_many_connections() {
    let gateway =
        Gateway::start("[server]\nthreads = 1\nmax_connections_per_ip = 3\n[route.a]\nmatch = \"/**\"\nreply = 204\n");
    let mut held: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::tcp(gateway.http());
            assert_eq!(client.get("a.test", "/", "").status, 204);
            client
        })
        .collect();
    let refused = Client::tcp(gateway.http()).try_ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(refused.as_ref().map_or(true, |answer| answer.status == 503), "{refused:?}");
    held.pop();
    eventually("a free place", || {
        let answer = Client::tcp(gateway.http()).try_ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
        (answer.status == 204).then_some(())
    });
}
