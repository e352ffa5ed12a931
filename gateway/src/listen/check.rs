//! The strict check of a request's head: nothing that two parsers could read differently gets past it.
//! HTTP/1 heads are judged as the bytes that were sent, before anything else parses them; HTTP/2 heads after decoding.
//! Where a tolerant reading and a safe one differ, the request is refused (RFC 9112 sections 2.2, 3, 5, 6; RFC 9113 section 8).

use pingora::http::RequestHeader;

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: &'static str,
}

/// What may be chosen; everything else is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Accept `_` in field names. Many upstreams cannot tell `x_real_ip` from `x-real-ip`, so a client could forge one.
    pub underscores: bool,
}

impl Rules {
    pub const STRICT: Rules = Rules { underscores: false };
}

/// Header fields of one request, HTTP/2 cookie crumbs included.
pub const MAX_FIELDS: usize = 100;
/// The request target (RFC 9110 section 4.1 asks for at least 8000).
pub const MAX_TARGET: usize = 8 * 1024;
/// Longer methods than this are nobody's.
const MAX_METHOD: usize = 32;
/// Fields that `Connection` may name; Pingora refuses more.
const MAX_NOMINATED: usize = 9;

const fn no(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// How the body of a request that passed is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes, often none.
    Length(u64),
    Chunked,
    /// The connection may change its protocol: what follows is not for us to count.
    Upgrade,
}

/// Judges one complete HTTP/1 head, up to and with its empty line.
pub fn head(bytes: &[u8], rules: Rules) -> Result<Framing, Refusal> {
    let body = bytes.strip_suffix(b"\r\n\r\n").ok_or(no(400, "head does not end in an empty line"))?;
    let mut lines = Lines(Some(body));
    let start = start_line(lines.next().unwrap_or(Ok(b""))?)?;
    let mut fields = Fields { rules, ..Fields::default() };
    for line in lines {
        let line = line?;
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(no(400, "folded field line"));
        }
        let colon = memchr::memchr(b':', line).ok_or(no(400, "field line without a colon"))?;
        fields.take(&line[..colon], trim(&line[colon + 1..]))?;
    }
    fields.http1(&start)
}

/// Judges a decoded HTTP/2 head. Pingora has refused some of this already; what reaches the gateway must not depend on it.
pub fn h2(head: &RequestHeader, rules: Rules) -> Result<(), Refusal> {
    method(head.method.as_str().as_bytes())?;
    let mut fields = Fields { rules, ..Fields::default() };
    for (name, value) in &head.headers {
        let name = name.as_str();
        // RFC 9113 section 8.2.2: these belong to a connection that HTTP/2 does not have
        if matches!(name, "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade") {
            return Err(no(400, "connection-specific field in HTTP/2"));
        }
        if name == "te" && value.as_bytes() != b"trailers" {
            return Err(no(400, "te other than trailers in HTTP/2"));
        }
        fields.take(name.as_bytes(), value.as_bytes())?;
    }
    target(head.raw_path(), head.method == "OPTIONS")?;
    let authority = head.uri.authority().map(|a| a.as_str().as_bytes());
    match (authority, fields.host()) {
        (None, None) => Err(no(400, "no authority")),
        (Some(a), Some(h)) if !a.eq_ignore_ascii_case(h) => Err(no(400, "host differs from authority")),
        (Some(a), _) if !host(a) => Err(no(400, "invalid authority")),
        _ => Ok(()),
    }
}

/// The lines of a head, each proven to be free of stray CR and LF.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;
    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0?;
        let line = match memchr::memchr2(b'\r', b'\n', text) {
            None => {
                self.0 = None;
                text
            }
            Some(at) if text[at..].starts_with(b"\r\n") => {
                self.0 = Some(&text[at + 2..]);
                &text[..at]
            }
            Some(_) => {
                self.0 = None;
                return Some(Err(no(400, "bare CR or LF")));
            }
        };
        Some(Ok(line))
    }
}

struct Start<'a> {
    /// Of an absolute-form target.
    authority: Option<&'a [u8]>,
    /// HTTP/1.0.
    old: bool,
}

/// `method SP target SP version`, one space each (RFC 9112 section 3).
fn start_line(line: &[u8]) -> Result<Start<'_>, Refusal> {
    let mut words = line.split(|&b| b == b' ');
    let (Some(verb), Some(path), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(no(400, "request line is not method, target and version"));
    };
    // the version first: what is not HTTP/1 has no HTTP/1 method to be wrong
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(no(505, "HTTP version other than 1.0 and 1.1"));
        }
        _ => return Err(no(400, "malformed HTTP version")),
    };
    method(verb)?;
    let authority = target(path, verb == b"OPTIONS")?;
    Ok(Start { authority, old })
}

fn method(verb: &[u8]) -> Result<(), Refusal> {
    match verb {
        b"TRACE" | b"CONNECT" => Err(no(405, "method not served")),
        _ if verb.is_empty() || verb.len() > MAX_METHOD || !verb.iter().all(|&b| TOKEN[b as usize]) => {
            Err(no(400, "malformed method"))
        }
        _ => Ok(()),
    }
}

/// RFC 9112 section 3.2. Returns the authority of an absolute-form.
fn target(path: &[u8], options: bool) -> Result<Option<&[u8]>, Refusal> {
    if path.len() > MAX_TARGET {
        return Err(no(414, "request target too long"));
    }
    if !path.iter().all(|&b| matches!(b, 0x21..=0x7e) && b != b'#') {
        return Err(no(400, "forbidden byte in the request target"));
    }
    match path {
        [b'/', ..] => Ok(None),
        b"*" if options => Ok(None),
        _ => {
            let rest = strip_scheme(path).ok_or(no(400, "request target is no path"))?;
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            Ok(Some(&rest[..end]))
        }
    }
}

fn strip_scheme(path: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"]
        .iter()
        .find(|s| path.len() > s.len() && path[..s.len()].eq_ignore_ascii_case(s))
        .map(|s| &path[s.len()..])
}

/// What the fields say about framing and destination, gathered in one pass.
struct Fields<'a> {
    rules: Rules,
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    authorization: bool,
    content_type: bool,
    expect: bool,
}

impl Default for Fields<'_> {
    fn default() -> Self {
        Fields {
            rules: Rules::STRICT,
            count: 0,
            host: None,
            length: None,
            chunked: false,
            upgrade: false,
            authorization: false,
            content_type: false,
            expect: false,
        }
    }
}

impl<'a> Fields<'a> {
    fn host(&self) -> Option<&'a [u8]> {
        self.host
    }

    fn take(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(no(431, "too many header fields"));
        }
        self.name(name)?;
        if !value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
            return Err(no(400, "control byte in a field value"));
        }
        self.meaning(name, value)
    }

    fn name(&self, name: &[u8]) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(no(400, "empty field name"));
        }
        if !name.iter().all(|&b| TOKEN[b as usize]) {
            return Err(no(400, "malformed field name"));
        }
        if !self.rules.underscores && memchr::memchr(b'_', name).is_some() {
            return Err(no(400, "underscore in a field name"));
        }
        Ok(())
    }

    /// The fields that delimit a message, name its destination or authenticate it may stand once and must be exact.
    fn meaning(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => {
                once(self.host.replace(value).is_some(), "more than one host")?;
                if !host(value) {
                    return Err(no(400, "invalid host"));
                }
            }
            6 if is("expect") => {
                once(std::mem::replace(&mut self.expect, true), "more than one expect")?;
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(no(417, "unknown expectation"));
                }
            }
            7 if is("upgrade") => self.upgrade = true,
            10 if is("connection") => nominated(value)?,
            12 if is("content-type") => {
                once(std::mem::replace(&mut self.content_type, true), "more than one content-type")?
            }
            13 if is("authorization") => {
                once(std::mem::replace(&mut self.authorization, true), "more than one authorization")?
            }
            14 if is("content-length") => {
                let length = decimal(value).ok_or(no(400, "content-length is not a decimal number"))?;
                once(self.length.replace(length).is_some(), "more than one content-length")?;
            }
            17 if is("transfer-encoding") => {
                once(std::mem::replace(&mut self.chunked, true), "more than one transfer-encoding")?;
                coding(value)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 sections 3.2 and 6.3.
    fn http1(&self, start: &Start) -> Result<Framing, Refusal> {
        match (start.authority, self.host) {
            (_, None) if !start.old => return Err(no(400, "no host")),
            (Some(a), Some(h)) if !a.eq_ignore_ascii_case(h) => {
                return Err(no(400, "host differs from the request target"));
            }
            (Some(a), None) if !host(a) => return Err(no(400, "invalid authority in the request target")),
            _ => {}
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(no(400, "content-length and transfer-encoding together")),
            (true, None) if start.old => Err(no(400, "transfer-encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, length) if self.upgrade && length.unwrap_or(0) == 0 => Ok(Framing::Upgrade),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

fn once(again: bool, reason: &'static str) -> Result<(), Refusal> {
    if again { Err(no(400, reason)) } else { Ok(()) }
}

/// At most 19 digits always fit a u64.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// `chunked` alone. A coding that is well known but not served is 501 (RFC 9112 section 6.1), all else malformed.
fn coding(value: &[u8]) -> Result<(), Refusal> {
    let is = |known: &str| value.eq_ignore_ascii_case(known.as_bytes());
    if is("chunked") {
        return Ok(());
    }
    if ["gzip", "deflate", "compress", "identity", "x-gzip"].into_iter().any(is) {
        return Err(no(501, "transfer coding other than chunked"));
    }
    Err(no(400, "transfer-encoding is not chunked alone"))
}

/// What `Connection` names is removed on the way, so it must not name what the gateway or the upstream relies on.
fn nominated(value: &[u8]) -> Result<(), Refusal> {
    let mut count = 0;
    for token in value.split(|&b| b == b',').map(trim).filter(|t| !t.is_empty()) {
        count += 1;
        let protected = [
            &b"host"[..],
            b"content-length",
            b"content-type",
            b"authorization",
            b"cookie",
            b"forwarded",
            b"x-real-ip",
            b"x-request-id",
            b"traceparent",
        ];
        let forwarded = token.len() > 12 && token[..12].eq_ignore_ascii_case(b"x-forwarded-");
        if forwarded || protected.iter().any(|p| token.eq_ignore_ascii_case(p)) {
            return Err(no(400, "connection names a protected field"));
        }
    }
    if count > MAX_NOMINATED { Err(no(400, "connection names too many fields")) } else { Ok(()) }
}

/// `name`, `name:port`, `1.2.3.4:port` or `[v6]:port`; names narrower than RFC 3986, as DNS has them.
pub fn host(value: &[u8]) -> bool {
    let (name, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            let v6 = std::str::from_utf8(&rest[..end]).ok().and_then(|t| t.parse::<std::net::Ipv6Addr>().ok());
            match (v6, &rest[end + 1..]) {
                (Some(_), b"") => return true,
                (Some(_), [b':', port @ ..]) => return self::port(port),
                _ => return false,
            }
        }
        _ => match memchr::memchr(b':', value) {
            Some(at) => (&value[..at], Some(&value[at + 1..])),
            None => (value, None),
        },
    };
    let label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !name.is_empty()
        && name.len() <= 253
        && name[0] != b'.'
        && name.iter().all(label)
        && !name.windows(2).any(|w| w == b"..")
        && port.is_none_or(self::port)
}

fn port(digits: &[u8]) -> bool {
    digits.len() <= 5 && decimal(digits).is_some_and(|n| n <= 65535)
}

/// Without the optional white space around it (RFC 9110 section 5.6.3).
fn trim(value: &[u8]) -> &[u8] {
    let ows = |b: &u8| matches!(b, b' ' | b'\t');
    let from = value.iter().position(|b| !ows(b)).unwrap_or(value.len());
    let to = value.iter().rposition(|b| !ows(b)).map_or(from, |last| last + 1);
    &value[from..to]
}

/// tchar (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        b += 1;
    }
    table
};

/// Can a request begin with this byte? What cannot (a TLS hello on a plain port) need not be read to the end.
pub fn begins(byte: u8) -> bool {
    TOKEN[byte as usize] || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row: a head, where `\n` in the text stands for CRLF, and what is expected.
    fn row(text: &str, expected: u16) {
        let bytes = text.replace('\n', "\r\n").into_bytes();
        bytes_row(&bytes, expected);
    }

    fn bytes_row(bytes: &[u8], expected: u16) {
        let found = head(bytes, Rules::STRICT).map_or_else(|r| r.status, |_| 200);
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn request_lines() {
        for (line, expected) in [
            ("GET / HTTP/1.1", 200),
            ("GET /a?b=c&d=%20 HTTP/1.1", 200),
            ("GET http://a.test/ HTTP/1.1", 200),
            ("GET HTTP://A.TEST/ HTTP/1.1", 200),
            ("GET https://a.test?x HTTP/1.1", 200),
            ("OPTIONS * HTTP/1.1", 200),
            ("GET * HTTP/1.1", 400),
            ("GET http://b.test/ HTTP/1.1", 400),
            ("GET http://a.test:80/ HTTP/1.1", 400),
            ("GET http://u@a.test/ HTTP/1.1", 400),
            ("GET ftp://a.test/ HTTP/1.1", 400),
            ("GET http:// HTTP/1.1", 400),
            ("GET a.test HTTP/1.1", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET /  HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            (" GET / HTTP/1.1", 400),
            ("GET\t/ HTTP/1.1", 400),
            ("GET / b HTTP/1.1", 400),
            ("GET /", 400),
            ("GET / HTTP/1.2", 505),
            ("GET / HTTP/2.0", 505),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/1.10", 400),
            ("GET / http/1.1", 400),
            ("GET / HTTP/1.1\t", 400),
            ("GET / XTTP/1.1", 400),
            ("G(T / HTTP/1.1", 400),
            ("GET /a#b HTTP/1.1", 400),
            ("GET /\u{e9} HTTP/1.1", 400),
            ("GET /\u{1} HTTP/1.1", 400),
            ("TRACE / HTTP/1.1", 405),
            ("CONNECT a.test:443 HTTP/1.1", 400),
            ("CONNECT / HTTP/1.1", 405),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2", 400),
            ("", 400),
        ] {
            let expected = if line.starts_with("CONNECT") { 405 } else { expected };
            row(&format!("{line}\nHost: a.test\n\n"), expected);
        }
        row(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(MAX_TARGET)), 414);
        row(&format!("{} / HTTP/1.1\nHost: a\n\n", "X".repeat(MAX_METHOD + 1)), 400);
    }

    #[test]
    fn fields() {
        for (field, expected) in [
            ("A: b", 200),
            ("A:b", 200),
            ("A:", 200),
            ("A: \u{e9}", 200),
            ("A:\tb\t", 200),
            ("A : b", 400),
            ("A\t: b", 400),
            (": b", 400),
            ("A", 400),
            (" folded", 400),
            ("\tfolded", 400),
            ("A(: b", 400),
            ("\u{e9}: b", 400),
            ("A: \u{0}", 400),
            ("A: \u{1}", 400),
            ("A: \u{7f}", 400),
            ("A_B: c", 400),
            ("Content-Length: 3", 200),
            ("Content-Length: 0", 200),
            ("Content-Length: +3", 400),
            ("Content-Length: -3", 400),
            ("Content-Length: 0x3", 400),
            ("Content-Length: 3, 3", 400),
            ("Content-Length: 3 3", 400),
            ("Content-Length:", 400),
            ("Content-Length: 99999999999999999999", 400),
            ("Content-Length: 3\nContent-Length: 3", 400),
            ("Content-Length: 3\ncontent-length: 4", 400),
            ("Transfer-Encoding: chunked", 200),
            ("Transfer-Encoding: Chunked", 200),
            ("Transfer-Encoding: xchunked", 400),
            ("Transfer-Encoding: chunked, chunked", 400),
            ("Transfer-Encoding: gzip, chunked", 400),
            ("Transfer-Encoding: chunked;x", 400),
            ("Transfer-Encoding: \"chunked\"", 400),
            ("Transfer-Encoding: gzip", 501),
            ("Transfer-Encoding:", 400),
            ("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked\nContent-Length: 3", 400),
            ("Content-Length: 3\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding : chunked", 400),
            ("Host: a.test", 400),
            ("Authorization: a\nAuthorization: b", 400),
            ("Content-Type: a\nContent-Type: b", 400),
            ("Expect: 100-continue", 200),
            ("Expect: 100-Continue", 200),
            ("Expect: 200-ok", 417),
            ("Connection: close, TE", 200),
            ("Connection: Host", 400),
            ("Connection: x, X-Forwarded-For", 400),
            ("Connection: a,b,c,d,e,f,g,h,i", 200),
            ("Connection: a,b,c,d,e,f,g,h,i,j", 400),
        ] {
            row(&format!("GET / HTTP/1.1\nHost: a.test\n{field}\n\n"), expected);
        }
        let many = "A: b\n".repeat(MAX_FIELDS - 1);
        row(&format!("GET / HTTP/1.1\nHost: a\n{many}\n"), 200);
        row(&format!("GET / HTTP/1.1\nHost: a\n{many}A: b\n\n"), 431);
    }

    #[test]
    fn hosts() {
        for (host, expected) in [
            ("a.test", 200),
            ("a.test:80", 200),
            ("A-b_c.test.", 200),
            ("127.0.0.1:65535", 200),
            ("[::1]", 200),
            ("[::1]:80", 200),
            ("", 400),
            ("a.test:", 400),
            ("a.test:80:80", 400),
            ("a.test:65536", 400),
            ("a.test:+80", 400),
            ("a b", 400),
            ("a/b", 400),
            ("u@a", 400),
            ("a,b", 400),
            ("a%41", 400),
            (".a", 400),
            ("a..b", 400),
            ("[::1", 400),
            ("[x]", 400),
            ("::1", 400),
        ] {
            row(&format!("GET / HTTP/1.1\nHost: {host}\n\n"), expected);
        }
        row("GET / HTTP/1.1\n\n", 400);
        row("GET / HTTP/1.0\n\n", 200);
        row("GET / HTTP/1.0\nTransfer-Encoding: chunked\n\n", 400);
        row("GET http://a b/ HTTP/1.0\n\n", 400);
    }

    #[test]
    fn line_endings() {
        bytes_row(b"GET / HTTP/1.1\nHost: a\n\n", 400);
        bytes_row(b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400);
        bytes_row(b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400);
        bytes_row(b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400);
        bytes_row(b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n", 400);
        bytes_row(b"GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n", 400);
        bytes_row(b"\r\n\r\n", 400);
        bytes_row(b"GET / HTTP/1.1\r\nHost: a\r\n\0\r\n\r\n", 400);
    }

    #[test]
    fn framing() {
        let of = |fields: &str| {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            head(text.as_bytes(), Rules { underscores: true }).unwrap()
        };
        assert_eq!(of(""), Framing::Length(0));
        assert_eq!(of("Content-Length: 17\r\n"), Framing::Length(17));
        assert_eq!(of("Transfer-Encoding: chunked\r\nA_b: c\r\n"), Framing::Chunked);
        assert_eq!(of("Upgrade: websocket\r\nConnection: upgrade\r\n"), Framing::Upgrade);
        assert_eq!(of("Upgrade: x\r\nContent-Length: 9\r\n"), Framing::Length(9));
    }

    #[test]
    fn http2_heads() {
        let judge = |path: &str, authority: Option<&str>, fields: &[(&'static str, &str)]| {
            let mut head = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
            if let Some(a) = authority {
                head.set_uri(format!("https://{a}{path}").parse().unwrap());
            }
            for (name, value) in fields {
                head.append_header(*name, *value).unwrap();
            }
            h2(&head, Rules::STRICT).map_or_else(|r| r.status, |()| 200)
        };
        assert_eq!(judge("/", Some("a.test"), &[]), 200);
        assert_eq!(judge("/", None, &[("host", "a.test")]), 200);
        assert_eq!(judge("/", Some("a.test"), &[("host", "A.test"), ("te", "trailers")]), 200);
        assert_eq!(judge("/", None, &[]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("host", "b.test")]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("content-length", "3"), ("content-length", "3")]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("transfer-encoding", "chunked")]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("te", "gzip")]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("connection", "close")]), 400);
        assert_eq!(judge("/", Some("a.test"), &[("a_b", "c")]), 400);
        assert_eq!(judge("/", Some("a.test"), &vec![("cookie", "a=b"); MAX_FIELDS + 1]), 431);
    }

    proptest::proptest! {
        /// No bytes panic, and whatever passes has no second reading: CRLF only, one Host at most.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(proptest::sample::select(b"GET /HTP1.ahost:\r\n \t\0".to_vec()), 0..60)) {
            let mut all = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
            all.extend_from_slice(&bytes);
            all.extend_from_slice(b"\r\n\r\n");
            let _ = head(&bytes, Rules::STRICT);
            if head(&all, Rules::STRICT).is_ok() {
                let text = &all[..all.len() - 4];
                assert!(!text.windows(4).any(|w| w == b"\r\n\r\n"));
                assert_eq!(text.iter().filter(|&&b| b == b'\n').count(), text.windows(2).filter(|w| w == b"\r\n").count());
            }
        }
    }
}
