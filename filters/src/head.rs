//! What a filter sees of a message: Pingora's header types, which carry no session and no socket, and the look-ups
//! that more than one filter needs. The request's path is canonical before any filter sees it.

pub use pingora_http::{RequestHeader as RequestHead, ResponseHeader as ResponseHead};

use http::HeaderMap;

/// The value of a header as text; `None` if it is absent or not UTF-8.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
}

/// The first cookie of that name. Names are case-sensitive (RFC 6265, section 5.4).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|v| std::str::from_utf8(v.as_bytes()).ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim_start().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value.trim_matches('"'))
}

/// The first query parameter of that name, as sent (not percent-decoded).
pub fn query<'a>(head: &'a RequestHead, name: &str) -> Option<&'a str> {
    head.uri
        .query()?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}
