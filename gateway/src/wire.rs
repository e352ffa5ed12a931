//! Between Pingora's session and the house: own answers go out here, dressed like every other response.
//!
//! An own answer keeps the connection where it can: a small request body that is still on its way is read and thrown
//! away first, within a bound, since closing on unread bytes resets the connection and loses the answer.

use crate::exchange::Exchange;
use bytes::Bytes;
use filters::filter::{Body, Reply};
use filters::head::{RequestHead, ResponseHead};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Version};
use pingora::Result;
use pingora::proxy::Session;
use smallvec::SmallVec;
use std::fmt::Write;
use std::time::Duration;

/// The most of an unread body that is thrown away to keep an HTTP/1 connection; beyond it, closing is cheaper.
const DRAIN_H1: usize = 64 << 10;
/// On HTTP/2 a refusal with the body in flight reaches some clients as a reset without a status: read on for longer.
const DRAIN_H2: usize = 4 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Answers with `reply`; the request is over then.
pub async fn reply(session: &mut Session, exchange: &mut Exchange, reply: Reply) -> Result<()> {
    if exchange.leaving() {
        session.set_keepalive(None);
    }
    drain(session).await;
    let (mut head, body) = build(session.req_header(), exchange, reply)?;
    // RFC 9110, section 8.6: 1xx and 204 have no length.
    let measured = !head.status.is_informational() && head.status != 204 && head.status != 304;
    if measured {
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    exchange.dress(&mut head, session.req_header());
    let mut body = Some(body);
    if session.req_header().method == Method::HEAD {
        body = None;
    } else {
        exchange.response_body(&mut body, true);
    }
    if let Some(body) = body.as_ref().filter(|_| measured) {
        // A step may have changed the body, and all of it is here.
        head.remove_header(&TRANSFER_ENCODING);
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    let body = body.unwrap_or_default();
    let bodiless = body.is_empty();
    session.write_response_header(Box::new(head), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// The status that was answered. An informational one is not the answer yet.
pub fn answered(session: &Session) -> Option<u16> {
    let status = session.response_written()?.status;
    (!status.is_informational() || status == 101).then(|| status.as_u16())
}

/// Tells a client that waits for it to send its body. Not left to the upstream: one that knows no `Expect` would wait for
/// the body, and the client for it (RFC 9110, section 10.1.1).
pub async fn go_on(session: &mut Session) -> Result<()> {
    if session.req_header().version == Version::HTTP_10 || session.req_header_mut().remove_header(&EXPECT).is_none() {
        return Ok(());
    }
    session.as_downstream_mut().write_continue_response().await
}

/// A client of HTTP/1.0 knows no chunks: for it the body ends with the connection (RFC 9112, section 6.1).
pub fn unchunk(session: &mut Session, head: &mut ResponseHead) {
    if session.req_header().version == Version::HTTP_10 && head.remove_header(&TRANSFER_ENCODING).is_some() {
        session.set_keepalive(None);
    }
}

/// The head and the body of an own answer, before any filter has dressed it.
fn build(request: &RequestHead, exchange: &Exchange, reply: Reply) -> Result<(ResponseHead, Bytes)> {
    if exchange.cx.grpc && !matches!(reply.body, Body::Bytes(_)) {
        return Ok((grpc(&reply)?, Bytes::new()));
    }
    let mut head = match request.version {
        Version::HTTP_2 => ResponseHead::build_no_case(reply.status, Some(reply.headers.len() + 4))?,
        _ => ResponseHead::build(reply.status, Some(reply.headers.len() + 4))?,
    };
    for (name, value) in reply.headers {
        head.append_header(name, value)?;
    }
    let body = match reply.body {
        Body::Empty => Bytes::new(),
        Body::Bytes(bytes) => bytes,
        Body::Problem { detail } => {
            head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))?;
            problem(reply.status, &detail, &exchange.cx.id)
        }
    };
    Ok((head, body))
}

/// RFC 9457, with the request's id so that a user can name it.
fn problem(status: u16, detail: &str, id: &str) -> Bytes {
    let title = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    let problem = serde_json::json!({ "title": title, "status": status, "detail": detail, "request_id": id });
    Bytes::from(problem.to_string())
}

/// A gRPC client wants 200 and a status of its own, in a response that is all trailers.
fn grpc(reply: &Reply) -> Result<ResponseHead> {
    let mut head = ResponseHead::build_no_case(200, Some(8))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))?;
    head.insert_header("grpc-status", HeaderValue::from(grpc_status(reply.status)))?;
    if let Body::Problem { detail } = &reply.body {
        head.insert_header("grpc-message", percent_encoded(detail))?;
    }
    for (name, value) in &reply.headers {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(head)
}

/// The gRPC status that says what an HTTP status says (gRPC's own mapping, and 413, 429 and 504 by their meaning).
fn grpc_status(status: u16) -> u16 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        408 | 504 => 4,
        413 | 429 | 431 => 8,
        502 | 503 => 14,
        _ if status < 400 => 0,
        _ => 2,
    }
}

/// As gRPC wants `grpc-message`: printable ASCII, everything else and `%` escaped.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if (b' '..=b'~').contains(&b) && b != b'%' {
            out.push(b as char);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// Reads what is left of a request body and throws it away, within bounds. A client that waits for `100 Continue` sends
/// nothing, so there is nothing to wait for.
async fn drain(session: &mut Session) {
    if session.is_body_done() || session.req_header().headers.contains_key(EXPECT) {
        return;
    }
    let most = if session.as_downstream().is_http2() { DRAIN_H2 } else { DRAIN_H1 };
    let declared = session.req_header().headers.get(CONTENT_LENGTH);
    let declared = declared.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|n| n > most) {
        return;
    }
    let _ = tokio::time::timeout(DRAIN_TIME, async {
        let mut seen = 0;
        while let Ok(Some(chunk)) = session.as_downstream_mut().read_request_body().await {
            seen += chunk.len();
            if seen > most {
                break;
            }
        }
    })
    .await;
}

/// HTTP/2 may split cookies over several fields; upstreams and filters see one (RFC 9113, section 8.2.3).
pub fn merge_cookies(head: &mut RequestHead) {
    let crumbs = head.headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let mut whole = Vec::with_capacity(crumbs.iter().map(|c| c.len() + 2).sum());
    for crumb in crumbs {
        if !whole.is_empty() {
            whole.extend_from_slice(b"; ");
        }
        whole.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&whole) {
        let _ = head.insert_header(COOKIE, value);
    }
}

/// No body follows this head (RFC 9112, section 6.3).
pub fn bodiless(session: &Session, head: &ResponseHead) -> bool {
    let empty = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    empty || session.req_header().method == Method::HEAD || head.status == 204 || head.status == 304
}

/// Removes what concerns only the connection to the upstream (RFC 9110, section 7.6.1). `Connection` itself is
/// written by Pingora; an accepted upgrade keeps its `Upgrade`.
pub fn strip_hop_by_hop(head: &mut ResponseHead) {
    if head.status == 101 {
        return;
    }
    if let Some(nominated) = head.headers.get(http::header::CONNECTION).cloned() {
        for token in nominated.to_str().unwrap_or_default().split(',').map(str::trim).take(16) {
            if let Ok(name) = HeaderName::try_from(token)
                && name != CONTENT_LENGTH
                && name != http::header::TRANSFER_ENCODING
            {
                head.remove_header(&name);
            }
        }
    }
    let ours = |name: &HeaderName| HOP_BY_HOP.into_iter().find(|hop| *hop == name.as_str());
    let present: SmallVec<[&str; 5]> = head.headers.keys().filter_map(ours).collect();
    for name in present {
        head.remove_header(name);
    }
}

const HOP_BY_HOP: [&str; 5] = ["keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_become_one_cookie() {
        let mut head = RequestHead::build("GET", b"/", None).expect("a request");
        head.append_header("cookie", "a=1").expect("a header");
        head.append_header("cookie", "b=2; c=3").expect("a header");
        merge_cookies(&mut head);
        let all: Vec<_> = head.headers.get_all(COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn hop_by_hop_fields_of_a_response_stay_here() {
        let mut head = ResponseHead::build(200, None).expect("a response");
        for (name, value) in [
            ("connection", "close, X-Internal"),
            ("x-internal", "secret"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ] {
            head.append_header(name, value).expect("a header");
        }
        strip_hop_by_hop(&mut head);
        for gone in ["x-internal", "keep-alive", "upgrade"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
        }
        assert!(head.headers.contains_key("x-kept"));
    }

    #[test]
    fn grpc_messages_are_printable() {
        assert_eq!(percent_encoded("too large: 100% ä\n"), "too large: 100%25 %C3%A4%0A");
        assert_eq!((grpc_status(503), grpc_status(429), grpc_status(401)), (14, 8, 16));
    }

    #[test]
    fn a_problem_names_the_request() {
        let json: serde_json::Value = serde_json::from_slice(&problem(403, "no \"entry\"", "abc")).expect("JSON");
        assert_eq!(json["status"], 403);
        assert_eq!(json["title"], "Forbidden");
        assert_eq!(json["detail"], "no \"entry\"");
        assert_eq!(json["request_id"], "abc");
    }
}
