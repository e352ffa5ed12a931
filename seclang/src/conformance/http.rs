//! A request off the wire, read as forgivingly as the servers are for which the suite was written, and refused where they
//! refuse.

/// A request, raw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub version: Vec<u8>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v.as_slice())
    }
}

/// Reads a whole request; `Err` is the status of a server that does not accept it.
pub fn read(bytes: &[u8]) -> Result<Request, u16> {
    let mut request = Request::default();
    let mut rest = bytes;
    let line = next_line(&mut rest).ok_or(400u16)?;
    let mut words = line.split(|b| *b == b' ');
    request.method = words.next().unwrap_or_default().to_vec();
    request.target = words.next().ok_or(400u16)?.to_vec();
    request.version = words.next().unwrap_or_default().to_vec();
    if words.next().is_some() {
        return Err(400);
    }
    while let Some(line) = next_line(&mut rest) {
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return Err(400) };
        add_header(&mut request, &line[..colon], line[colon + 1..].trim_ascii())?;
    }
    refuse(&request)?;
    if request.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case(b"chunked")) {
        request.body = dechunk(rest);
        // RFC 9112, section 6.1: the length is not the sender's any more.
        request.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(b"content-length"));
    } else if let Some(length) = request.header("content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|t| t.parse().ok()).unwrap_or(usize::MAX);
        request.body = rest[..rest.len().min(length)].to_vec();
    }
    Ok(request)
}

/// Repeated fields become one list (RFC 9110, section 5.3), except those that must not repeat.
fn add_header(request: &mut Request, name: &[u8], value: &[u8]) -> Result<(), u16> {
    let found = request.headers.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name));
    match found {
        Some(_) if [&b"host"[..], b"content-length"].iter().any(|n| n.eq_ignore_ascii_case(name)) => return Err(400),
        Some((_, before)) => {
            before.extend_from_slice(b", ");
            before.extend_from_slice(value);
        }
        None => request.headers.push((name.to_vec(), value.to_vec())),
    }
    Ok(())
}

fn next_line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    if rest.is_empty() {
        return None;
    }
    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    let line = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// What a server refuses by RFC 9112: a method or header name that is no token, control characters, a missing or odd
/// Host, a length that is no number, a target in none of the four forms, a version that is none.
fn refuse(request: &Request) -> Result<(), u16> {
    let headers = || request.headers.iter();
    let host = request.header("host");
    let odd = !token(&request.method)
        || !is_version(&request.version)
        || !is_target(&request.method, &request.target)
        || headers().any(|(n, v)| !token(n) || v.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f))
        || (request.version == b"HTTP/1.1" && host.is_none_or(<[u8]>::is_empty))
        || host.is_some_and(|h| !h.iter().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(b)))
        || request.header("content-length").is_some_and(|v| !v.iter().all(u8::is_ascii_digit));
    if odd { Err(400) } else { Ok(()) }
}

fn token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// `HTTP/1.1`; nothing older than 1.0.
fn is_version(text: &[u8]) -> bool {
    match text.strip_prefix(b"HTTP/") {
        Some([major @ b'1'..=b'9', b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some([b'2'..=b'9']) => true,
        _ => false,
    }
}

fn is_target(method: &[u8], target: &[u8]) -> bool {
    if target.iter().any(|b| *b <= 0x20 || matches!(b, 0x7f | b'#')) {
        return false;
    }
    match (method, target) {
        (b"CONNECT", authority) => authority.contains(&b':'),
        (b"OPTIONS", b"*") => true,
        (_, [b'/', ..]) => true,
        (_, absolute) => memchr::memmem::find(absolute, b"://").is_some(),
    }
}

fn dechunk(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while let Some(line) = next_line(&mut rest) {
        let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(digits).ok().and_then(|t| usize::from_str_radix(t, 16).ok()).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size..).unwrap_or_default();
        let _ = next_line(&mut rest);
    }
    out
}
