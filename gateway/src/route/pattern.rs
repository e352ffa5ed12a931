//! `match = "GET|POST api.example.com/v1/users/{id}"`: what a route matches, as written.
//!
//! Literals are held in the form of the canonical path, so `/café` in the file meets `/caf%C3%A9` on the wire.
//! Its surprise: `/static/**` also matches `/static` itself, lest a protected tree stand open at its root.

use super::Spans;
use crate::path::{self, Backslash, EncodedSlash, NonAscii, PathPolicy};
use filters::short::{Bad, words};
use http::Method;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How deep a pattern may be; it bounds the depth of matching.
const DEEPEST: usize = 64;
const FORM: &str = "a pattern such as \"GET api.example.com/users/{id}\": [METHOD|METHOD ][host]/path";

/// A set of requests: methods, host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    pub(super) methods: Methods,
    pub(super) host: Host,
    pub(super) pieces: Box<[Piece]>,
    names: Arc<[SmolStr]>,
}

/// One segment of a pattern's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(SmolStr),
    /// `{name}`: one segment, not empty.
    Capture,
    /// `*`: one segment, not empty.
    Any,
    /// `**` or `{**name}`: none, one or more segments; only at the end.
    Rest {
        named: bool,
    },
}

/// The hosts of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Exact(SmolStr),
    /// `*.example.com`, held as `example.com`: every name below it, at any depth, but not itself.
    Below(SmolStr),
    Any,
}

impl Host {
    pub fn takes(&self, host: &str) -> bool {
        match self {
            Host::Exact(name) => name == host,
            Host::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
            }
            Host::Any => true,
        }
    }
}

/// The methods of a pattern; none written means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Methods(pub(super) SmallVec<[Method; 2]>);

impl Methods {
    pub fn all(&self) -> bool {
        self.0.is_empty()
    }
    /// Takes this method, as written.
    pub fn names(&self, method: &Method) -> bool {
        self.0.contains(method)
    }
    /// Takes this method: whoever answers GET answers HEAD (RFC 9110, section 9.1).
    pub fn take(&self, method: &Method) -> bool {
        self.all() || self.names(method) || (*method == Method::HEAD && self.names(&Method::GET))
    }
    /// The methods that [`Methods::take`] takes as bits, for a quick look; [`OTHER`] stands for all that have no bit.
    pub fn set(&self) -> u8 {
        match self.all() {
            true => u8::MAX,
            false => {
                self.0.iter().fold(0, |set, m| set | bit(m) | if *m == Method::GET { bit(&Method::HEAD) } else { 0 })
            }
        }
    }
    pub fn overlap(&self, other: &Methods) -> bool {
        self.all() || other.all() || self.0.iter().any(|m| other.names(m))
    }
    pub fn cover(&self, other: &Methods) -> bool {
        self.all() || (!other.all() && other.0.iter().all(|m| self.take(m)))
    }
}

/// The bit of the methods that have none of their own.
pub(super) const OTHER: u8 = 1 << 7;

/// A method's bit in [`Methods::set`].
pub(super) fn bit(method: &Method) -> u8 {
    const OWN: [Method; 7] =
        [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
    OWN.iter().position(|own| own == method).map_or(OTHER, |n| 1 << n)
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, Bad> {
        let all: Vec<_> = words(text).collect();
        let (methods, (at, target)) = match all[..] {
            [] => return Err(Bad::new(0..text.len(), format!("empty: expected {FORM}"))),
            [target] => (Methods::default(), target),
            [(at, list), target] => (methods(list).map_err(|e| e.shifted(at))?, target),
            [_, _, (at, extra), ..] => {
                return Err(Bad::new(
                    at..at + extra.len(),
                    format!("found \"{extra}\" after the path: expected {FORM}"),
                ));
            }
        };
        let slash = target.find('/').unwrap_or(target.len());
        let (host, path) = target.split_at(slash);
        if path.is_empty() && all.len() == 1 && KNOWN.contains(&host) {
            return Err(Bad::new(
                at..at + host.len(),
                format!("method {host} without a host or path: expected {FORM}"),
            ));
        }
        let host = self::host(host).map_err(|e| e.shifted(at))?;
        let (pieces, names) = pieces(if path.is_empty() { "/**" } else { path }).map_err(|e| e.shifted(at + slash))?;
        Ok(Pattern { text: text.into(), methods, host, pieces: pieces.into(), names: names.into() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// The names of the captures, in the order of the captured ranges.
    pub fn names(&self) -> &Arc<[SmolStr]> {
        &self.names
    }
    /// The methods that were written; empty: all.
    pub fn methods(&self) -> &[Method] {
        &self.methods.0
    }
    /// The path without the names in it; in the order of specificity, segment by segment.
    pub(super) fn shape(&self) -> impl Iterator<Item = (u8, &str)> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Literal(segment) => (0, segment.as_str()),
            Piece::Capture => (1, ""),
            Piece::Any => (2, ""),
            Piece::Rest { .. } => (3, ""),
        })
    }
    /// What is captured from `path`, if the pattern matches it: piece by piece, as the manual says it.
    pub(crate) fn captures(&self, path: &str) -> Option<Spans> {
        let mut spans = Spans::new();
        let mut from = 1;
        for piece in &self.pieces {
            if let Piece::Rest { named } = piece {
                let from = from.min(path.len());
                spans.extend(named.then_some((from as u32, path.len() as u32)));
                return Some(spans);
            }
            let rest = path.get(from..)?;
            let segment = rest.split('/').next().unwrap_or("");
            match piece {
                Piece::Literal(literal) if literal == segment => {}
                Piece::Capture if !segment.is_empty() => spans.push((from as u32, (from + segment.len()) as u32)),
                Piece::Any if !segment.is_empty() => {}
                _ => return None,
            }
            from += segment.len() + 1;
        }
        (from > path.len()).then_some(spans)
    }
    /// The one host of this pattern, if it has exactly one.
    pub fn exact_host(&self) -> Option<&str> {
        match &self.host {
            Host::Exact(host) => Some(host),
            _ => None,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The methods in use, for finding slips; others are taken as they are.
const KNOWN: [&str; 22] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "PURGE",
    "LINK",
    "UNLINK",
    "QUERY",
];

fn methods(list: &str) -> Result<Methods, Bad> {
    let mut methods = Methods::default();
    let mut at = 0;
    for name in list.split('|') {
        let place = at..at + name.len();
        at = place.end + 1;
        let bad = |why: String| Err(Bad::new(place.clone(), why));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return bad(format!("method \"{name}\": expected upper case letters, as in GET|POST"));
        }
        if name == "CONNECT" || name == "TRACE" {
            return bad(format!("method {name} is never proxied"));
        }
        let slip = |k: &&&str| strsim::damerau_levenshtein(name, k) == 1 && name.len() > 2;
        if let (false, Some(meant)) = (KNOWN.contains(&name), KNOWN.iter().find(slip)) {
            return bad(format!("method \"{name}\": did you mean {meant}?"));
        }
        let method = Method::from_bytes(name.as_bytes()).expect("upper case letters and - are a token");
        if methods.names(&method) {
            return bad(format!("method {name} stands twice"));
        }
        methods.0.push(method);
    }
    Ok(methods)
}

fn host(text: &str) -> Result<Host, Bad> {
    let bad = |at: Range<usize>, why: &str| Err(Bad::new(at, format!("host \"{text}\": {why}")));
    let (name, below) = match text {
        "" | "*" => return Ok(Host::Any),
        _ => text.strip_prefix("*.").map_or((text, false), |name| (name, true)),
    };
    if let Some(at) = name.find(['*', '{', '}']) {
        let at = at + text.len() - name.len();
        return bad(at..at + 1, "only a leading *. stands for other names");
    }
    match path::host(name) {
        Some(a) if a.port.is_some() => {
            let colon = text.rfind(':').expect("a port follows a colon");
            bad(colon..text.len(), "a route matches the name alone, without a port")
        }
        Some(a) if below => Ok(Host::Below(a.host.into())),
        Some(a) => Ok(Host::Exact(a.host.into())),
        None => bad(0..text.len(), "expected a host name, *.name, or an address (IPv6 in brackets)"),
    }
}

/// Reads `/a/{b}/**`.
fn pieces(path: &str) -> Result<(Vec<Piece>, Vec<SmolStr>), Bad> {
    let mut pieces = vec![];
    let mut names: Vec<SmolStr> = vec![];
    let mut at = 1;
    for segment in path[1..].split('/') {
        let place = at..at + segment.len();
        at = place.end + 1;
        let last = place.end == path.len();
        let bad = |why: String| Err(Bad::new(place.clone(), why));
        if pieces.len() == DEEPEST {
            return Err(Bad::new(place.start..path.len(), format!("more than {DEEPEST} segments")));
        }
        let inner = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let piece = match (segment, inner) {
            ("*", _) => Piece::Any,
            ("**", _) => Piece::Rest { named: false },
            ("", _) if !last => return bad("an empty segment: slashes are merged, this would never match".into()),
            (_, Some(name)) => {
                let (rest, name) = name.strip_prefix("**").map_or((false, name), |name| (true, name));
                if name.is_empty()
                    || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
                {
                    return bad(format!("capture \"{segment}\": expected {{name}} or {{**name}}, of a-z 0-9 _ -"));
                }
                if names.iter().any(|n| n == name) {
                    return bad(format!("capture {{{name}}} stands twice"));
                }
                names.push(name.into());
                if rest { Piece::Rest { named: true } } else { Piece::Capture }
            }
            (_, None) => Piece::Literal(literal(segment).map_err(|e| e.shifted(place.start))?),
        };
        if matches!(piece, Piece::Rest { .. }) && !last {
            return bad(format!("{segment} stands for all the rest: nothing can follow it"));
        }
        pieces.push(piece);
    }
    Ok((pieces, names))
}

/// A literal segment in the canonical form; what no canonical path has is a fault.
fn literal(segment: &str) -> Result<SmolStr, Bad> {
    if let Some(at) = segment.find(['{', '}', '*', '?', '#']) {
        let why = match segment.as_bytes()[at] {
            b'{' | b'}' => "a capture is a whole segment: expected /{name}/",
            b'*' => "a * is a whole segment, ** is the rest: expected /*/ or /**",
            _ => "a pattern has no query: use when = \"query.NAME == '…'\"",
        };
        return Err(Bad::new(at..at + 1, why));
    }
    let keep = PathPolicy {
        encoded_slash: EncodedSlash::Keep,
        backslash: Backslash::Keep,
        non_ascii: NonAscii::Encode,
        merge_slashes: true,
    };
    let path = format!("/{segment}");
    match path::canonical(path.as_bytes(), &keep) {
        Ok(c) if segment.is_empty() || c.path().len() > 1 => Ok(c.path()[1..].into()),
        Ok(_) | Err(path::Refused::BeyondRoot) => {
            Err(Bad::new(0..segment.len(), "a dot segment: paths are resolved before matching, this would never match"))
        }
        Err(why) => Err(Bad::new(0..segment.len(), why.reason())),
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Pattern, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Pattern;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(FORM)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Pattern, E> {
                Pattern::parse(s).map_err(E::custom)
            }
        }
        d.deserialize_str(V)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pattern".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": FORM, "examples": ["/**", "GET|POST api.example.com/v1/users/{id}"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(s: &str) -> Piece {
        Piece::Literal(s.into())
    }

    #[test]
    fn reads_the_grammar() {
        let p = Pattern::parse("GET|POST API.example.com/v1/users/{id}/*/{**tail}").unwrap();
        assert_eq!(p.methods(), [Method::GET, Method::POST]);
        assert_eq!(p.host, Host::Exact("api.example.com".into()));
        let pieces = [lit("v1"), lit("users"), Piece::Capture, Piece::Any, Piece::Rest { named: true }];
        assert_eq!(*p.pieces, pieces);
        assert_eq!(**p.names(), ["id", "tail"]);
        assert_eq!(Pattern::parse("*.Example.com").unwrap().host, Host::Below("example.com".into()));
        assert_eq!(*Pattern::parse("example.com").unwrap().pieces, [Piece::Rest { named: false }]);
        assert_eq!(Pattern::parse("[::1]/").unwrap().host, Host::Exact("[::1]".into()));
        assert_eq!(*Pattern::parse("/").unwrap().pieces, [lit("")]);
        assert_eq!(*Pattern::parse("/a/").unwrap().pieces, [lit("a"), lit("")]);
        assert_eq!(*Pattern::parse("/café/%7e%c3").unwrap().pieces, [lit("caf%C3%A9"), lit("~%C3")]);
        assert_eq!(Pattern::parse("PURGE  */x").unwrap().host, Host::Any);
        assert_eq!(Pattern::parse("M-SEARCH /x").unwrap().methods().len(), 1);
    }

    #[test]
    fn faults_have_places() {
        for (text, piece, why) in [
            ("", "", "empty"),
            ("GET", "GET", "without a host"),
            ("get /x", "get", "upper case"),
            ("GET| /x", "", "upper case"),
            ("GTE /x", "GTE", "did you mean GET?"),
            ("POTS|GET /x", "POTS", "did you mean POST?"),
            ("GET|GET /x", "GET", "twice"),
            ("CONNECT /x", "CONNECT", "never proxied"),
            ("GET /x y", "y", "after the path"),
            ("a.com:80/x", ":80", "without a port"),
            ("a.*.com/x", "*", "only a leading *."),
            ("{t}.a.com/x", "{", "only a leading *."),
            ("a..b/x", "a..b", "expected a host name"),
            ("/a//b", "", "empty segment"),
            ("/a/{id}.json", "{", "whole segment"),
            ("/a/{ID}", "{ID}", "a-z"),
            ("/a/{}", "{}", "a-z"),
            ("/{a}/{a}", "{a}", "twice"),
            ("/**/a", "**", "nothing can follow"),
            ("/{**a}/b", "{**a}", "nothing can follow"),
            ("/a*", "*", "whole segment"),
            ("/a?b=c", "?", "no query"),
            ("/a/../b", "..", "dot segment"),
            ("/a/%2e/b", "%2e", "dot segment"),
            ("/a%zz", "a%zz", "hexadecimal"),
        ] {
            let bad = Pattern::parse(text).expect_err(text);
            assert!(bad.why.contains(why), "{text}: {bad}");
            assert_eq!(&text[bad.at.clone()], piece, "{text}: {bad}");
        }
        assert!(Pattern::parse(&"/a".repeat(DEEPEST)).is_ok());
        assert!(Pattern::parse(&"/a".repeat(DEEPEST + 1)).is_err());
    }
}
