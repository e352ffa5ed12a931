use super::*;
use crate::testing::{check, decode, faults};
use proptest::prelude::*;

fn step(conf: &str) -> Compress {
    let conf: Conf = toml::from_str(conf).unwrap();
    let keep = crate::keep::Keep::default();
    let cx =
        BuildCx { keep: &keep, origin: &|_| String::new(), route: "", captures: &[], sources: &Default::default() };
    Compress::build(&conf, &cx).unwrap().unwrap()
}

#[test]
fn the_head_tells_of_it() {
    check::<Compress>(
        "compress = {}",
        r#"
        > GET http://h/
        > Accept-Encoding: gzip
        << 200
        << Content-Type: text/html; charset=utf-8
        << Content-Length: 2000
        << ETag: "abc"
        << Accept-Ranges: bytes
        << Content-MD5: x
        << 2000B
        < 200
        < Content-Encoding: gzip
        < Transfer-Encoding: chunked
        < ETag: W/"abc"
        < Vary: Accept-Encoding
        < -Content-Length
        < -Accept-Ranges
        < -Content-MD5
        < 2000B
        "#,
    );
}

#[test]
fn every_algorithm_decodes() {
    for coding in ["gzip", "br", "zstd"] {
        check::<Compress>(
            "compress = {}",
            &format!(
                r#"
                > GET http://h/
                > Accept-Encoding: {coding}
                << 200
                << Content-Type: application/problem+json
                << "one "
                << "two "
                << 5000B
                < Content-Encoding: {coding}
                # the frame stays as it was
                < -Transfer-Encoding
                < "one two "
                < 5000B

                # an empty body of unknown length is a valid empty stream
                > GET http://h/
                > Accept-Encoding: {coding}
                << 200
                << Content-Type: text/plain
                < Content-Encoding: {coding}
                < ""
                "#
            ),
        );
    }
}

#[test]
fn left_alone() {
    for (status, header) in [
        ("200", "Content-Type: image/png"),
        ("200", "Content-Type: text/event-stream"),
        ("200", "Content-Type: application/grpc+json"),
        ("200", "Content-Type: text/plain\n << Content-Encoding: deflate"),
        ("200", "Content-Type: text/plain\n << Cache-Control: public, No-Transform"),
        ("200", "Content-Type: text/plain\n << Content-Length: 1023"),
        ("206", "Content-Type: text/plain\n << Content-Range: bytes 0-1/9"),
        ("304", "Content-Type: text/plain"),
        ("204", "Content-Type: text/plain"),
        ("200", "X-No: type"),
    ] {
        check::<Compress>(
            "compress = {}",
            &format!(
                "
                > GET http://h/
                > Accept-Encoding: br, gzip
                << {status}
                << {header}
                << ETag: \"abc\"
                << \"body\"
                < {status}
                < ETag: \"abc\"
                < -Vary
                < -Transfer-Encoding
                < \"body\"
                "
            ),
        );
    }
}

#[test]
fn a_cache_must_know_that_it_might_have_been() {
    check::<Compress>(
        "compress = {}",
        "
        > GET http://h/
        << 200
        << Content-Type: text/html
        << Vary: Cookie
        << \"body\"
        < Vary: Cookie, Accept-Encoding
        < -Content-Encoding
        < \"body\"
        ",
    );
}

#[test]
fn a_head_request_gets_the_head_alone() {
    check::<Compress>(
        "compress = {}",
        "
        > HEAD http://h/
        > Accept-Encoding: br
        << 200
        << Content-Type: text/html
        << Content-Length: 5000
        < Content-Encoding: br
        < -Content-Length
        < -Transfer-Encoding
        < Vary: Accept-Encoding
        ",
    );
}

#[test]
fn old_clients_cannot_tell_an_end_from_a_cut() {
    check::<Compress>(
        "compress = {}",
        "
        > GET http://h/ h1.0
        > Accept-Encoding: gzip
        << 200
        << Content-Type: text/html
        << \"body\"
        < -Content-Encoding
        < \"body\"
        ",
    );
}

#[test]
fn what_the_client_takes_is_asked_before_the_header_is_changed() {
    check::<Compress>(
        "compress = {}\nrequest.remove = ['Accept-Encoding']",
        "
        > GET http://h/
        > Accept-Encoding: gzip
        >> -Accept-Encoding
        << 200
        << Content-Type: text/html
        << \"body\"
        < Content-Encoding: gzip
        < \"body\"
        ",
    );
}

#[test]
fn the_client_chooses() {
    use Algorithm::*;
    let all = step("");
    let gzip = step("algorithms = ['gzip']");
    for (accept, of_all, of_gzip) in [
        ("gzip, deflate, br, zstd", Some(Zstd), Some(Gzip)),
        ("br;q=0.9, gzip", Some(Gzip), Some(Gzip)),
        ("gzip;q=0.5, br ; Q = 0.5", Some(Br), Some(Gzip)),
        ("*", Some(Zstd), Some(Gzip)),
        ("zstd;q=0, *;q=0.1", Some(Br), Some(Gzip)),
        ("X-GZIP", Some(Gzip), Some(Gzip)),
        ("gzip;q=0", None, None),
        ("gzip;q=zero", None, None),
        ("gzip;q=2", None, None),
        ("gzip;q=NaN", None, None),
        ("identity, gzip;q=0.5", None, None),
        ("identity;q=0.5, gzip", Some(Gzip), Some(Gzip)),
        ("deflate", None, None),
        (", ,;", None, None),
        ("", None, None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
        assert_eq!((all.agree(&headers), gzip.agree(&headers)), (of_all, of_gzip), "{accept}");
    }
    assert_eq!(all.agree(&HeaderMap::new()), None);
}

#[test]
fn content_types() {
    let usual = step("");
    for (ours, content_type) in [
        (true, "TEXT/HTML;charset=x"),
        (true, "application/vnd.api+json"),
        (true, "image/svg+xml"),
        (true, "application/json"),
        (false, "application/jsonx"),
        (false, "application/octet-stream"),
        (false, "application/grpc"),
        (false, "application/grpc-web+json"),
        (false, "text"),
        (false, ""),
    ] {
        assert_eq!(usual.fits(content_type), ours, "{content_type}");
    }
    assert!(step("types = ['text/event-stream']").fits("text/event-stream"), "asked for by name");
    assert!(!step("types = ['text/*']").fits("text/event-stream"));
}

#[test]
fn wrong() {
    for (conf, why) in [
        ("level = 0", "level 0: expected 1 (fast) to 9 (small)"),
        ("level = 10", "level 10"),
        ("types = ['text']", "\"text\": expected a content type such as"),
        ("types = ['*']", "expected a content type"),
        ("types = ['text/*; q=1']", "expected a content type"),
        ("algorithms = ['lzma']", "unknown variant `lzma`"),
    ] {
        assert!(faults(&format!("compress = {{ {conf} }}")).contains(why), "{conf}");
    }
}

/// A server-sent event, a row of a long query: what went in can be read at once.
#[test]
fn no_piece_waits_for_the_next() {
    for (algorithm, name) in [(Algorithm::Gzip, "gzip"), (Algorithm::Br, "br"), (Algorithm::Zstd, "zstd")] {
        let mut coder = Coder::new(algorithm, None).unwrap();
        let (mut sent, mut told) = (vec![], String::new());
        for i in 0..20 {
            let piece = format!("event {i}\n");
            told.push_str(&piece);
            sent.extend_from_slice(&coder.feed(piece.as_bytes()).unwrap());
            assert_eq!(so_far(name, &sent), told, "{name}");
        }
        sent.extend_from_slice(&coder.finish(b"").unwrap());
        assert_eq!(decode(Some(name.as_bytes()), &sent), told.as_bytes(), "{name}: a whole stream at the end");
    }
}

/// Decodes a stream that is not over yet.
fn so_far(coding: &str, sent: &[u8]) -> String {
    let mut reader: Box<dyn io::Read> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(sent)),
        "br" => Box::new(brotli::Decompressor::new(sent, 4096)),
        _ => Box::new(zstd::stream::read::Decoder::new(sent).unwrap()),
    };
    let (mut plain, mut buffer) = (vec![], [0; 4096]);
    while let Ok(n @ 1..) = reader.read(&mut buffer) {
        plain.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(plain).unwrap()
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        algorithm in prop::sample::select(all()),
        level in 1..=9_u8,
    ) {
        let mut coder = Coder::new(algorithm, Some(level)).unwrap();
        let mut sent = vec![];
        for piece in &pieces {
            sent.extend_from_slice(&coder.feed(piece).unwrap());
        }
        sent.extend_from_slice(&coder.finish(b"").unwrap());
        prop_assert_eq!(decode(Some(algorithm.name().as_bytes()), &sent), pieces.concat());
    }

    #[test]
    fn any_preference_is_read(accept in "[a-z*;=q0-9., ]{0,40}") {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
        step("").agree(&headers);
    }
}
