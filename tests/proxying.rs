//! Everything a user has passes: bodies of any size, streams, upgrades, trailers, early answers, aborts.

use crate::support::h2::{self, H2};
use crate::support::origin::Conn;
use crate::support::socket;
use crate::support::{Client, Gate, Gateway, Origin, Response, get, get_with};
use bytes::Bytes;
use http::Request;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

pub fn before(origin: SocketAddr, keys: &str) -> Gateway {
    Gateway::start(format!("[route.app]\nmatch = \"/**\"\nto = \"{origin}\"\n{keys}\n"))
}

#[test]
fn a_websocket_passes_both_ways_until_one_side_ends() {
    let origin = socket::echo();
    let gateway = before(origin.addr, "upgrade = true");
    let mut client = Client::tcp(gateway.http());
    let answer = client.get("a.test", "/chat", socket::HANDSHAKE);
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for message in [&b"hello"[..], &[0, 255, 13, 10, 13, 10], &[7; 100_000]] {
        client.send(message);
        assert_eq!(client.io.exactly(message.len()).expect("the echo"), message);
    }
    client.finish();
    client.assert_closed();
    assert_eq!(gateway.record("the socket", |r| r["status"] == 101)["path"], "/chat");
}

#[test]
fn bytes_sent_along_with_the_upgrade_arrive_behind_it() {
    let origin = socket::echo();
    let gateway = before(origin.addr, "upgrade = true");
    let mut client = Client::tcp(gateway.http());
    client.send(format!("GET /chat HTTP/1.1\r\nHost: a.test\r\n{}\r\nearly", socket::HANDSHAKE));
    assert_eq!(client.response("GET").expect("an answer").status, 101);
    assert_eq!(client.io.exactly(5).expect("the echo"), b"early");
}

#[test]
fn a_websocket_that_the_upstream_refuses_is_an_ordinary_answer() {
    let origin = Origin::new(|conn| {
        while let Some(seen) = conn.request()? {
            conn.reply(403, "", b"no sockets", &seen)?;
        }
        Ok(())
    });
    let gateway = before(origin.addr, "upgrade = true");
    let answer = get_with(gateway.http(), "/chat", socket::HANDSHAKE);
    assert_eq!((answer.status, answer.text()), (403, "no sockets"));
}

/// Sends an event, and the next only when the gate opens.
fn events(conn: &mut Conn, gate: &Gate) -> io::Result<()> {
    conn.request()?;
    conn.say(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    )?;
    assert!(gate.pass());
    conn.say("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
}

#[test]
fn events_are_passed_on_as_they_come() {
    for compress in ["", "compress = {}"] {
        let gate = Gate::new();
        let passed = gate.clone();
        let origin = Origin::new(move |conn| events(conn, &passed));
        let gateway = before(origin.addr, compress);
        let mut client = Client::tcp(gateway.http());
        client.send("GET /events HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n");
        let head = client.io.head().expect("a head").expect("a head");
        assert!(head.first.contains("200"), "{head:?}");
        // The second event is not sent before the first has arrived here.
        assert_eq!(client.io.chunk().expect("a chunk").as_deref(), Some(&b"data: 1\n\n"[..]));
        gate.open();
        assert_eq!(client.io.chunk().expect("a chunk").as_deref(), Some(&b"data: 2\n\n"[..]));
        assert_eq!(client.io.chunk().expect("the end"), None);
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let origin = Origin::echo();
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let head = client.io.head().expect("a head").expect("a head");
    assert!(head.first.starts_with("HTTP/1.1 100"), "{head:?}");
    let answer = client.send("hello").response("POST").expect("an answer");
    assert_eq!((answer.status, &answer.json()["body"]), (200, &"hello".into()));
}

#[test]
fn a_client_that_asks_first_may_be_refused_at_once() {
    let origin = Origin::echo();
    let gateway = before(origin.addr, "size = { body = \"4B\" }");
    let mut client = Client::tcp(gateway.http());
    let answer = client.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    answer.assert_problem(413);
    assert_eq!(answer.early, [] as [u16; 0]);
    assert!(origin.seen().is_empty());
}

const BIG: usize = 64 << 20;

/// A body that is not the same everywhere, so that lost or doubled pieces show.
fn pattern(at: usize) -> [u8; 65536] {
    let mut piece = [0; 65536];
    for (nth, word) in piece.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&((at + nth * 8) as u64).to_le_bytes());
    }
    piece
}

fn verify(from: &mut impl Read, ahead: Vec<u8>) -> io::Result<usize> {
    let mut from = io::Cursor::new(ahead).chain(from);
    let mut piece = [0; 65536];
    for at in (0..BIG).step_by(piece.len()) {
        from.read_exact(&mut piece)?;
        assert!(piece == pattern(at), "the body differs in the 64 KiB from {at}");
    }
    Ok(BIG)
}

#[test]
fn big_answers_pass_in_constant_memory() {
    let origin = Origin::new(|conn| {
        while conn.request()?.is_some() {
            conn.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n"))?;
            for at in (0..BIG).step_by(65536) {
                conn.say(pattern(at))?;
            }
        }
        Ok(())
    });
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    let mut once = || {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let head = client.io.head().expect("a head").expect("a head");
        assert_eq!(head.header("content-length"), Some(BIG.to_string().as_str()));
        let ahead = std::mem::take(&mut client.io.ahead);
        assert_eq!(verify(&mut client.io.from, ahead).expect("the whole body"), BIG);
    };
    once();
    gateway.reset_peak();
    let before = gateway.peak_memory();
    once();
    let grown = gateway.peak_memory().saturating_sub(before);
    assert!(grown < 20 << 20, "memory grew by {grown} bytes");
}

#[test]
fn big_requests_pass_in_constant_memory() {
    let origin = Origin::new(|conn| {
        while let Some(seen) = conn.head()? {
            let ahead = std::mem::take(&mut conn.io.ahead);
            let got = verify(&mut conn.io.from, ahead)?;
            conn.reply(200, "", got.to_string().as_bytes(), &seen)?;
        }
        Ok(())
    });
    let gateway = Gateway::start(format!(
        "[server]\nthreads = 1\nrequest_body = \"1GB\"\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    let mut client = Client::tcp(gateway.http());
    let mut once = || -> Response {
        client.send(format!("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {BIG}\r\n\r\n"));
        for at in (0..BIG).step_by(65536) {
            client.io.from.write_all(&pattern(at)).expect("the gateway takes the body");
        }
        client.response("PUT").expect("an answer")
    };
    assert_eq!(once().text(), BIG.to_string());
    gateway.reset_peak();
    let before = gateway.peak_memory();
    assert_eq!(once().text(), BIG.to_string());
    let grown = gateway.peak_memory().saturating_sub(before);
    assert!(grown < 20 << 20, "memory grew by {grown} bytes");
}

#[test]
fn a_body_beyond_the_default_limit_is_refused_with_and_without_a_length() {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[server]\nthreads = 1\nrequest_body = \"1KB\"\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    let answer = Client::tcp(gateway.http())
        .ask(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000)));
    answer.assert_problem(413);
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let answer = Client::tcp(gateway.http())
        .ask(format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"));
    answer.assert_problem(413);
    assert!(origin.seen().iter().all(|seen| seen.body.is_empty()), "no whole request may have arrived");
}

#[test]
fn an_answer_before_the_body_was_read_reaches_the_client() {
    let origin = Origin::new(|conn| {
        if let Some(seen) = conn.head()? {
            conn.reply(413, "Connection: close\r\n", b"too much", &seen)?;
            // The rest of the body is not read.
            conn.stall();
        }
        Ok(())
    });
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nsome of it");
    let answer = client.response("POST").expect("an answer");
    assert_eq!((answer.status, answer.text()), (413, "too much"));
}

#[test]
fn a_client_that_goes_away_takes_its_request_to_the_upstream_with_it() {
    for leave in [Client::reset, drop] {
        abort(leave);
    }
}

fn abort(leave: fn(Client)) {
    let (asked, gone) = (Gate::new(), Gate::new());
    let (open_asked, open_gone) = (asked.clone(), gone.clone());
    let origin = Origin::new(move |conn| {
        conn.request()?;
        open_asked.open();
        if conn.stall() {
            open_gone.open();
        }
        Ok(())
    });
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(asked.pass(), "the origin was not asked");
    leave(client);
    assert!(gone.pass(), "the origin was left working for nobody");
    gateway.record("the abort", |r| r["path"] == "/slow" && r["error"] == "client_closed");
}

#[test]
fn two_requests_at_once_on_one_connection_are_answered_in_order_or_not_at_all() {
    let origin = Origin::echo();
    let gateway = before(origin.addr, "");
    let mut client = Client::tcp(gateway.http());
    client.send("GET /one HTTP/1.1\r\nHost: a.test\r\n\r\nGET /two HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response("GET").expect("the first").json()["target"], "/one");
    match client.response("GET") {
        Ok(second) => assert_eq!(second.json()["target"], "/two"),
        Err(e) => assert!(matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{e}"),
    }
}

fn grpc_gateway() -> Gateway {
    let origin = h2::grpc();
    Gateway::start(format!(
        "[listen.grpc]\naddr = \"127.0.0.1:0\"\nh2c = true\n[service.calls]\nto = [\"{origin}\"]\nproto = \"h2c\"\n\
         [route.calls]\nmatch = \"POST /demo.Calls/**\"\nto = \"calls\"\n"
    ))
}

fn call(method: &str, body: &[u8]) -> Request<Vec<u8>> {
    Request::post(format!("http://a.test/demo.Calls/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body.to_vec())
        .expect("a request")
}

#[test]
fn a_grpc_call_keeps_its_trailers() {
    let gateway = grpc_gateway();
    let answer = H2::plain(gateway.at("grpc")).ask(call("Echo", b"\0\0\0\0\x05hello")).expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\0\0\0\x05hello"[..]));
    assert_eq!(answer.trailer("grpc-status"), Some("0"));
    assert_eq!(answer.trailer("x-te"), Some("trailers"), "`te: trailers` must reach a gRPC server");
}

#[test]
fn a_grpc_failure_without_a_body_passes() {
    let answer = H2::plain(grpc_gateway().at("grpc")).ask(call("Fail", b"\0\0\0\0\0")).expect("an answer");
    assert_eq!(
        (answer.status, answer.header("grpc-status"), answer.header("grpc-message")),
        (200, Some("5"), Some("not here"))
    );
}

#[test]
fn a_grpc_stream_flows_both_ways_at_once() {
    let gateway = grpc_gateway();
    let H2 { runtime, requests } = H2::plain(gateway.at("grpc"));
    runtime.block_on(async {
        tokio::time::timeout(crate::support::PATIENCE, async {
            let (parts, _) = call("Echo", b"").into_parts();
            let mut requests = requests.ready().await.expect("ready");
            let (answer, mut send) = requests.send_request(Request::from_parts(parts, ()), false).expect("sent");
            send.send_data(Bytes::from_static(b"first"), false).expect("sent");
            let mut body = answer.await.expect("an answer before the request ended").into_body();
            // Each piece is sent only after the one before came back.
            for (sent, next) in [("first", Some("second")), ("second", Some("third")), ("third", None)] {
                let mut got = Vec::new();
                while got.len() < sent.len() {
                    got.extend_from_slice(&body.data().await.expect("a piece").expect("a piece"));
                }
                assert_eq!(got, sent.as_bytes());
                send.send_data(Bytes::from_static(next.unwrap_or_default().as_bytes()), next.is_none()).expect("sent");
            }
            assert!(body.data().await.is_none_or(|piece| piece.expect("the end").is_empty()));
            let trailers = body.trailers().await.expect("trailers").expect("trailers");
            assert_eq!(trailers["grpc-status"], "0");
        })
        .await
        .expect("in time");
    });
}

#[test]
fn a_stream_that_the_upstream_breaks_does_not_look_complete() {
    let gateway = grpc_gateway();
    let answer = H2::plain(gateway.at("grpc")).ask(call("Reset", b"\0\0\0\0\0"));
    match answer {
        Err(error) => assert!(error.is_reset() || error.is_remote(), "{error}"),
        Ok(answer) => {
            assert_ne!(answer.trailer("grpc-status").or(answer.header("grpc-status")), Some("0"), "{answer:?}")
        }
    }
}

#[test]
fn a_refused_grpc_call_gets_a_grpc_status() {
    let gateway = grpc_gateway();
    let request = Request::post("http://a.test/no.Such/Call").header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(b"\0\0\0\0\0".to_vec()).expect("a request");
    let answer = H2::plain(gateway.at("grpc")).ask(request).expect("an answer");
    // 12: UNIMPLEMENTED, as the gRPC project maps 404.
    let status = answer.header("grpc-status").or(answer.trailer("grpc-status"));
    assert_eq!((answer.status, status), (200, Some("12")), "{answer:?}");
}

#[test]
fn answers_are_compressed_where_client_and_type_allow_it() {
    let text = "compress me ".repeat(500);
    let origin = Origin::saying(&text);
    let gateway = before(origin.addr, "compress = { algorithms = [\"gzip\"], types = [\"text/*\"] }");
    let plain = get(gateway.http(), "/");
    assert_eq!((plain.header("content-encoding"), plain.text()), (None, text.as_str()));
    let packed = get_with(gateway.http(), "/", "Accept-Encoding: gzip, br\r\n");
    assert_eq!(packed.header("content-encoding"), Some("gzip"), "{packed:?}");
    assert!(packed.head.all("vary").iter().any(|v| v.to_ascii_lowercase().contains("accept-encoding")));
    assert!(packed.body.len() < text.len() / 4 && packed.body.starts_with(&[0x1f, 0x8b]));
    let dir = crate::support::Dir::new();
    let file = dir.write("body.gz", &packed.body);
    let unpacked = std::process::Command::new("gzip").arg("-dc").arg(file).output().expect("gzip");
    assert_eq!(String::from_utf8_lossy(&unpacked.stdout), text);
}

#[test]
fn http2_clients_are_served_by_http1_upstreams() {
    let origin = Origin::echo();
    let gateway = Gateway::start(format!(
        "[listen.h2c]\naddr = \"127.0.0.1:0\"\nh2c = true\n[route.app]\nmatch = \"/**\"\nto = \"{}\"\n",
        origin.addr
    ));
    let mut client = H2::plain(gateway.at("h2c"));
    let body = vec![b'x'; 300_000];
    let request = Request::post("http://a.test/up?x=1").body(body.clone()).expect("a request");
    let answer = client.ask(request).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["body"].as_str().map(str::len), Some(body.len()));
    assert_eq!(client.get("http://a.test/down").json()["target"], "/down");
}
