//! Where a credential stands in a request, and how it is taken out: `from = "cookie.session"`.
//!
//! Exactly one, or it is refused: which of two tokens the upstream would read is anybody's guess.

use crate::head::{RequestHead, decoded};
use crate::short::Bad;
use crate::units::{Unit, unit};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, HeaderValue};
use std::borrow::Cow;
use std::fmt;

/// Where a credential stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer …` (RFC 6750, section 2.1).
    Bearer,
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

/// What stood there.
#[derive(Debug, PartialEq)]
pub enum Found<'a> {
    Nothing,
    One(Cow<'a, str>),
    /// Something that cannot be read in one way only.
    Unclear(&'static str),
}

impl Unit for Place {
    const FORM: &'static str = "\"header\" (Authorization: Bearer), \"header.NAME\", \"cookie.NAME\" or \"query.NAME\"";
    const PATTERN: &'static str = r"^(header|(header|cookie|query)\.[^\s]+)$";
    fn parse(text: &str) -> Result<Place, Bad> {
        let bad = || Bad::new(0..text.len(), format!("\"{text}\": expected {}", Place::FORM));
        if text == "header" {
            return Ok(Place::Bearer);
        }
        let (family, name) = text.split_once('.').ok_or_else(bad)?;
        let token = HeaderName::from_bytes(name.as_bytes());
        match (family, token) {
            ("query", _) if !name.is_empty() && !name.contains(['&', '=', '#', ' ']) => Ok(Place::Query(name.into())),
            ("header", Ok(name)) if name == AUTHORIZATION => Ok(Place::Bearer),
            ("header", Ok(name)) if name != COOKIE && name != http::header::HOST => Ok(Place::Header(name)),
            ("cookie", Ok(_)) => Ok(Place::Cookie(name.into())),
            _ => Err(bad()),
        }
    }
}
unit!(Place, "CredentialPlace");

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Bearer => f.write_str("header"),
            Place::Header(name) => write!(f, "header.{name}"),
            Place::Cookie(name) => write!(f, "cookie.{name}"),
            Place::Query(name) => write!(f, "query.{name}"),
        }
    }
}

#[cfg(feature = "schema")]
crate::units::written!(Place);

impl Place {
    pub fn find<'a>(&self, head: &'a RequestHead) -> Found<'a> {
        match self {
            Place::Bearer => bearer(head),
            Place::Header(name) => single(head.headers.get_all(name).iter().map(HeaderValue::as_bytes)),
            Place::Cookie(name) => {
                let pairs = head.headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
                single(pairs.filter_map(|pair| crumb(pair, name)))
            }
            Place::Query(name) => match single(parameters(head).filter_map(|pair| parameter(pair, name))) {
                Found::One(Cow::Borrowed(value)) => Found::One(decoded(value, true)),
                other => other,
            },
        }
    }

    /// Takes it out, so that the upstream does not get it.
    pub fn strip(&self, head: &mut RequestHead) {
        if self.find(head) == Found::Nothing {
            return;
        }
        match self {
            Place::Bearer => _ = head.remove_header(&AUTHORIZATION),
            Place::Header(name) => _ = head.remove_header(name),
            Place::Cookie(name) => {
                let pairs = head.headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
                let rest: Vec<_> = pairs.map(<[u8]>::trim_ascii).filter(|p| crumb(p, name).is_none()).collect();
                let rest = HeaderValue::from_bytes(&rest.join(&b"; "[..])).expect("pieces of a header fit in one");
                head.remove_header(&COOKIE);
                if !rest.is_empty() {
                    // Fails only when the map is full, and a header was just removed.
                    _ = head.insert_header(COOKIE, rest);
                }
            }
            Place::Query(name) => {
                let rest: Vec<_> = parameters(head).filter(|p| parameter(p, name).is_none()).collect();
                let mark = if rest.is_empty() { "" } else { "?" };
                let target = format!("{}{mark}{}", head.uri.path(), rest.join("&"));
                // A target that was valid stays so when parameters leave it.
                _ = head.set_raw_path(target.as_bytes());
            }
        }
    }
}

fn bearer(head: &RequestHead) -> Found<'_> {
    let mut lines = head.headers.get_all(AUTHORIZATION).iter();
    let Some(first) = lines.next() else { return Found::Nothing };
    if lines.next().is_some() {
        return Found::Unclear("more than one Authorization header");
    }
    let line = first.as_bytes().trim_ascii();
    let (scheme, rest) = line.split_at(line.iter().position(|b| *b == b' ').unwrap_or(line.len()));
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Found::Nothing;
    }
    single(std::iter::once(rest.trim_ascii_start()))
}

/// The one value there is, if it is text.
fn single<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Found<'a> {
    let Some(first) = values.next() else { return Found::Nothing };
    if values.next().is_some() {
        return Found::Unclear("more than one credential in one place");
    }
    match std::str::from_utf8(first) {
        Ok("") => Found::Unclear("an empty credential"),
        Ok(text) => Found::One(Cow::Borrowed(text)),
        Err(_) => Found::Unclear("a credential that is not text"),
    }
}

/// The value of a cookie's pair, if it is this cookie's.
fn crumb<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
}

fn parameters(head: &RequestHead) -> impl Iterator<Item = &str> {
    head.uri.query().into_iter().flat_map(|q| q.split('&'))
}

/// The value of a query's pair, if its name, decoded, is this one.
fn parameter<'a>(pair: &'a str, name: &str) -> Option<&'a [u8]> {
    let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
    (decoded(found, true) == name).then_some(value.as_bytes())
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

    /// What is found: the value, `-` for nothing, `?` for what is unclear.
    fn found(place: &str, head: &RequestHead) -> String {
        match place.parse::<Place>().unwrap().find(head) {
            Found::Nothing => "-".into(),
            Found::One(value) => value.into_owned(),
            Found::Unclear(_) => "?".into(),
        }
    }

    #[test]
    fn places() {
        for (lines, value) in [
            (&[&b"Bearer abc"[..]][..], "abc"),
            (&[b"bEARER   abc "], "abc"),
            (&[b"Bearer"], "?"),
            (&[b"Bearer "], "?"),
            (&[b"Bearer \xff"], "?"),
            (&[b"Bearerabc"], "-"),
            (&[b"Basic abc"], "-"),
            (&[b""], "-"),
            (&[], "-"),
            (&[b"Bearer a", b"Bearer b"], "?"),
            (&[b"Basic a", b"Bearer b"], "?"),
        ] {
            let headers: Vec<_> = lines.iter().map(|l| ("authorization", *l)).collect();
            assert_eq!(found("header", &request("/", &headers)), value, "{lines:?}");
        }
        let head = request(
            "/?key=a%2Bb&k2=&k%33=x&k3=y",
            &[("cookie", b"a=1; b=\"2\"; c="), ("cookie", b"d=4; d=5"), ("x-key", b"k")],
        );
        for (place, value) in [
            ("cookie.a", "1"),
            ("cookie.b", "2"),
            ("cookie.c", "?"),
            ("cookie.d", "?"),
            ("cookie.e", "-"),
            ("header.X-Key", "k"),
            ("header.X-None", "-"),
            ("query.key", "a+b"),
            ("query.k2", "?"),
            ("query.k3", "?"),
            ("query.none", "-"),
        ] {
            assert_eq!(found(place, &head), value, "{place}");
        }
    }

    #[test]
    fn stripped() {
        let cookies: &[(&str, &[u8])] = &[("cookie", b"a=1; t=2;b=3"), ("cookie", b"t=4"), ("x-k", b"1")];
        for (place, target, cookie) in [
            ("cookie.t", "/p?t=1&u=2&%74=3", "a=1; b=3"),
            ("query.t", "/p?u=2", "a=1; t=2;b=3, t=4"),
            ("header.x-k", "/p?t=1&u=2&%74=3", "a=1; t=2;b=3, t=4"),
        ] {
            let mut head = request("/p?t=1&u=2&%74=3", &[]);
            for (name, value) in cookies {
                head.append_header(*name, HeaderValue::from_bytes(value).unwrap()).unwrap();
            }
            let place: Place = place.parse().unwrap();
            place.strip(&mut head);
            assert_eq!(place.find(&head), Found::Nothing, "{place}");
            assert_eq!(head.uri.to_string(), target, "{place}");
            let all = crate::head::joined(&head.headers, &COOKIE).unwrap();
            assert_eq!(all, cookie, "{place}");
        }
        let mut head = request("/?t=1", &[("cookie", b"t=1"), ("authorization", b"Bearer x")]);
        for place in ["query.t", "cookie.t", "header"] {
            place.parse::<Place>().unwrap().strip(&mut head);
        }
        assert_eq!((head.uri.to_string().as_str(), head.headers.len()), ("/", 0));
    }

    #[test]
    fn what_is_no_place() {
        for text in
            ["", "headers", "cookie", "cookie.", "cookie.a b", "query.a&b", "header.", "header.Cookie", "body.x"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        for text in ["header", "header.x-key", "cookie.a", "query.a"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_found_and_stripped(value in prop::collection::vec(32u8..=255, 0..64), query in "[a-c=&%0-9]{0,24}") {
            let value = HeaderValue::from_bytes(&value.into_iter().filter(|b| *b != 127).collect::<Vec<_>>()).unwrap();
            let mut head = RequestHead::build("GET", format!("/?{query}").as_bytes(), None).unwrap();
            for name in ["authorization", "cookie", "x-a"] {
                head.append_header(name, value.clone()).unwrap();
            }
            for place in ["header", "header.x-a", "cookie.a", "query.a"] {
                let place: Place = place.parse().unwrap();
                place.strip(&mut head);
                prop_assert_eq!(place.find(&head), Found::Nothing);
            }
        }
    }
}
