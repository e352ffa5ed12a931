//! What a filter sees of a message: Pingora's header types, which carry no session and no socket, and the look-ups
//! that more than one filter needs. The request's path is canonical before any filter sees it.

pub use pingora_http::{RequestHeader as RequestHead, ResponseHeader as ResponseHead};

use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

/// The first value of a header as text; `None` if it is absent or not UTF-8.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
}

/// All values of a header as one list (RFC 9110, section 5.3). A second line cannot hide behind the first, and bytes
/// that are not UTF-8 become U+FFFD rather than making the header absent.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut lines = headers.get_all(name).iter().map(text);
    let first = lines.next()?;
    Some(lines.fold(first, |all, line| Cow::Owned(format!("{all}, {line}"))))
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// The elements of a list header, over all its lines; empty ones are left out (RFC 9110, section 5.6.1).
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| std::str::from_utf8(v.as_bytes()).ok())
        .flat_map(|line| line.split(','))
        .map(|item| item.trim_matches([' ', '\t']))
        .filter(|item| !item.is_empty())
}

/// Adds a name to `Vary`, unless it is there already.
pub fn vary(head: &mut ResponseHead, name: &'static str) {
    if !list(&head.headers, &http::header::VARY).any(|v| v == "*" || v.eq_ignore_ascii_case(name)) {
        // Fails only when the map is full, at 32768 headers.
        _ = head.append_header(http::header::VARY, name);
    }
}

/// The first cookie of that name. Names are case-sensitive (RFC 6265, section 5.4).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|v| std::str::from_utf8(v.as_bytes()).ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| unquoted(value))
}

/// One pair of quotes, not any number.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

/// The first query parameter of that name, as sent (not percent-decoded).
pub fn query<'a>(head: &'a RequestHead, name: &str) -> Option<&'a str> {
    query_of(head.uri.query(), name)
}

/// As [`query`]. The parameter's name may be percent-encoded: `r%6fle` is `role` to the upstream too.
pub fn query_of<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(n, _)| *n == name || (n.contains(['%', '+']) && decoded(n, true) == name))
        .map(|(_, value)| value)
}

/// Percent-decoded; in a query `plus` is a space. What is no UTF-8 becomes U+FFFD, a lone `%` stays.
pub fn decoded(text: &str, plus: bool) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Cow::Borrowed(text);
    }
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(i) {
        i += 1;
        match (byte, hex(bytes.get(i)), hex(bytes.get(i + 1))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', ..) if plus => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(target: &str, headers: &[(&'static str, &'static [u8])]) -> RequestHead {
        let mut head = RequestHead::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, HeaderValue::from_bytes(value).unwrap()).unwrap();
        }
        head
    }

    #[test]
    fn cookies() {
        let r = request("/", &[("cookie", b"a=1; b=\"2\";c =3"), ("cookie", b"d=4=5 ; a=9; e=\"\"; f=\"")]);
        for (name, value) in [("a", Some("1")), ("b", Some("2")), ("c", None), ("d", Some("4=5")), ("A", None)] {
            assert_eq!(cookie(&r.headers, name), value, "{name}");
        }
        assert_eq!(cookie(&r.headers, "e"), Some(""));
        assert_eq!(cookie(&r.headers, "f"), Some("\""), "half a pair of quotes is part of the value");
    }

    #[test]
    fn queries() {
        let r = request("/p?a=1&b&c=%20x&a=2&r%6Fle=admin", &[]);
        for (name, value) in
            [("a", Some("1")), ("b", Some("")), ("c", Some("%20x")), ("z", None), ("role", Some("admin"))]
        {
            assert_eq!(query(&r, name), value, "{name}");
        }
        assert_eq!(query(&request("/p", &[]), "a"), None);
    }

    #[test]
    fn decoding() {
        for (sent, plain) in
            [("a%20b", "a b"), ("a+b", "a b"), ("%zz%4", "%zz%4"), ("%25%32", "%2"), ("%ff", "\u{fffd}")]
        {
            assert_eq!(decoded(sent, true), plain, "{sent}");
        }
        assert_eq!(decoded("a+b", false), "a+b");
    }

    #[test]
    fn many_lines_are_one_value() {
        let r = request("/", &[("x-a", b"1"), ("x-a", b"2, 3"), ("x-b", b"\xff"), ("x-c", b" ,, q")]);
        assert_eq!(joined(&r.headers, &HeaderName::from_static("x-a")).as_deref(), Some("1, 2, 3"));
        assert_eq!(joined(&r.headers, &HeaderName::from_static("x-b")).as_deref(), Some("\u{fffd}"));
        assert_eq!(joined(&r.headers, &HeaderName::from_static("x-z")), None);
        assert_eq!(list(&r.headers, &HeaderName::from_static("x-a")).collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(list(&r.headers, &HeaderName::from_static("x-c")).collect::<Vec<_>>(), ["q"]);
        assert_eq!((header(&r.headers, "x-a"), header(&r.headers, "x-b")), (Some("1"), None));
    }

    proptest! {
        #[test]
        fn decoding_takes_any_text(text in "[%+0-9a-fA-Fxé]{0,24}", plus: bool) {
            prop_assert!(decoded(&text, plus).len() <= text.len() * 3);
        }
        #[test]
        fn encoding_is_undone(text in any::<String>()) {
            let sent: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(decoded(&sent, true), text);
        }
    }
}
