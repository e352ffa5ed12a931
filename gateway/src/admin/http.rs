//! As much HTTP/1.1 as the admin endpoint needs: one request per connection, everything bounded, nothing tolerated.

use super::io;
use serde::Serialize;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The largest head, and the largest body that is thrown away.
const HEAD: usize = 8 << 10;
const BODY: usize = 64 << 10;
/// For the whole request to arrive, and for the whole answer to leave.
const ASKING: Duration = Duration::from_secs(5);
const ANSWERING: Duration = Duration::from_secs(30);
/// For a client whose request was refused unread.
const LINGER: Duration = Duration::from_secs(1);

/// A request's head.
pub(super) struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Names in lower case, each once.
    headers: Vec<(String, String)>,
}

/// What is answered.
pub(super) struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    extra: Option<(&'static str, &'static str)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    pub(super) fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, kind, body: body.into(), extra: None }
    }
    pub(super) fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body.into())
    }
    pub(super) fn json(status: u16, value: &impl Serialize) -> Answer {
        let mut body = serde_json::to_vec_pretty(value).expect("maps with text keys only");
        body.push(b'\n');
        Answer::new(status, "application/json", body)
    }
    pub(super) fn problem(status: u16, detail: &str) -> Answer {
        let body = serde_json::json!({ "status": status, "title": reason(status), "detail": detail });
        Answer { kind: "application/problem+json", ..Answer::json(status, &body) }
    }
    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Answer {
        self.extra = Some((name, value));
        self
    }
}

/// Reads one request, has it answered, and closes.
pub(super) async fn exchange<C: AsyncRead + AsyncWrite + Unpin>(
    mut stream: C,
    answer: impl AsyncFnOnce(Request) -> Answer,
) -> io::Result<()> {
    let (answer, head_only, read_all) = match timeout(ASKING, read(&mut stream)).await {
        Err(_) => (Answer::problem(408, "the request did not arrive in time"), false, false),
        Ok(Err(Fault::Io(e))) => return Err(e),
        Ok(Err(Fault::Bad(status, why))) => (Answer::problem(status, why), false, false),
        Ok(Ok(request)) => {
            let head_only = request.method == "HEAD";
            (answer(request).await, head_only, true)
        }
    };
    let out = wire(&answer, head_only);
    timeout(ANSWERING, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    })
    .await??;
    if !read_all {
        // A close with unread bytes is a reset, and takes the answer away from the client.
        let mut rest = stream.take(BODY as u64);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
    Ok(())
}

enum Fault {
    Io(io::Error),
    Bad(u16, &'static str),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

async fn read<C: AsyncRead + Unpin>(stream: &mut C) -> Result<Request, Fault> {
    let mut bytes = Vec::with_capacity(1024);
    let end = loop {
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break at;
        }
        if bytes.len() >= HEAD {
            return Err(Fault::Bad(431, "the request's head is too large"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let request = std::str::from_utf8(&bytes[..end]).ok().and_then(parse);
    let request = request.ok_or(Fault::Bad(400, "the request is malformed"))?;
    let length = match request.header("content-length") {
        Some(n) if n.bytes().all(|b| b.is_ascii_digit()) => n.parse().unwrap_or(usize::MAX),
        Some(_) => return Err(Fault::Bad(400, "the request is malformed")),
        None => 0,
    };
    if length > BODY || request.header("transfer-encoding").is_some() {
        return Err(Fault::Bad(413, "no request here has a body"));
    }
    // A body means nothing here, but is read, for the same reason as in `exchange`.
    let mut rest = (end + 4 + length).saturating_sub(bytes.len());
    while rest > 0 {
        bytes.clear();
        match stream.read_buf(&mut bytes).await? {
            0 => return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into())),
            n => rest = rest.saturating_sub(n),
        }
    }
    Ok(request)
}

/// A strict reading of RFC 9112: what is unusual is malformed.
fn parse(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let visible = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic());
    if words.next().is_some() || !token(method) || !target.starts_with('/') || !visible(target) {
        return None;
    }
    let mut headers: Vec<(String, String)> = vec![];
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let (name, value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']));
        let single = !headers.iter().any(|(n, _)| *n == name) || matches!(name.as_str(), "accept" | "via");
        if !token(&name) || !single || value.chars().any(char::is_control) {
            return None;
        }
        headers.push((name, value.to_string()));
    }
    let hosted = headers.iter().any(|(name, _)| name == "host");
    match version {
        "HTTP/1.1" if hosted => {}
        "HTTP/1.0" => {}
        _ => return None,
    }
    let path = target.split(['?', '#']).next()?.to_string();
    Some(Request { method: method.to_string(), path, headers })
}

fn token(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn wire(answer: &Answer, head_only: bool) -> Vec<u8> {
    let Answer { status, kind, body, extra } = answer;
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n",
        reason(*status),
        body.len()
    );
    if let Some((name, value)) = extra {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut out = head.into_bytes();
    if !head_only {
        out.extend_from_slice(body);
    }
    out
}

fn reason(status: u16) -> &'static str {
    ::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("")
}
