//! The gateway's own upstream calls, over Pingora's connector: the same pools, TLS and HTTP/2 as proxied requests.

use bytes::{Bytes, BytesMut};
use filters::head::{RequestHead, ResponseHead};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Version};
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};
use std::time::Duration;

/// What an upstream answered.
pub struct Answer {
    pub head: ResponseHead,
    pub body: Bytes,
}

/// Sends one request with its whole body and reads the whole answer, within `time` and at most `most` bytes of body.
/// The connection goes back to the pool only if the answer was read to its end.
pub async fn call(
    connector: &Connector,
    peer: &HttpPeer,
    head: RequestHead,
    body: Bytes,
    time: Duration,
    most: usize,
) -> Result<Answer> {
    let exchange = async {
        let (mut session, _) = connector.get_http_session(peer).await?;
        let answer = exchange(&mut session, head, body, most).await?;
        connector.release_http_session(session, peer, Some(Duration::from_secs(60))).await;
        Ok(answer)
    };
    match tokio::time::timeout(time, exchange).await {
        Ok(done) => done,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, "own call took too long"),
    }
}

async fn exchange(session: &mut HttpSession, head: RequestHead, body: Bytes, most: usize) -> Result<Answer> {
    session.write_request_header(Box::new(framed(session, head, body.len())?)).await?;
    if !body.is_empty() {
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |h| h.status.as_u16());
        if !(100..200).contains(&status) {
            break;
        }
    }
    let Some(head) = session.response_header().cloned() else {
        return Error::e_explain(ErrorType::H1Error, "no response head");
    };
    let mut whole = BytesMut::new();
    while let Some(chunk) = session.read_response_body().await? {
        if whole.len() + chunk.len() > most {
            return Error::e_explain(ErrorType::ReadError, "the answer to an own call is too large");
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Answer { head, body: whole.freeze() })
}

/// The head as the connection's protocol wants it, its length that of the body.
fn framed(session: &HttpSession, mut head: RequestHead, length: usize) -> Result<RequestHead> {
    for name in [TRANSFER_ENCODING, CONNECTION, UPGRADE] {
        head.remove_header(&name);
    }
    if length > 0 || head.headers.contains_key(CONTENT_LENGTH) {
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    if !matches!(session, HttpSession::H2(_)) {
        head.set_version(Version::HTTP_11);
        return Ok(head);
    }
    head.set_version(Version::HTTP_2);
    if head.uri.authority().is_none() {
        let host = head.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let uri = format!("http://{host}{path}").parse().or_err(ErrorType::InvalidHTTPHeader, "own call's target")?;
        head.set_uri(uri);
    }
    head.remove_header(&HOST);
    Ok(head)
}
