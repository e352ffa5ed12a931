//! The facts that an expression, a key or a template may name.
//!
//! Its surprise: a fact has two readings. An expression compares what was *meant* (`query.v` and `path.id` decoded); a
//! template copies what was *sent*, so that a percent-encoded line end stays encoded.

use crate::cx::Cx;
use crate::expr::View;
use crate::head;
use crate::identity::{Fact, Kind};
use crate::short::Bad;
use http::{HeaderName, Uri};
use smol_str::SmolStr;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// One fact about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Var {
    Method,
    Path,
    /// `path.NAME`: what the route's pattern captured.
    Capture(SmolStr),
    Host,
    Scheme,
    Ip,
    Query(SmolStr),
    Header(HeaderName),
    Cookie(SmolStr),
    Route,
    Sni,
    TlsVersion,
    CertCn,
    CertSan,
    CertFingerprint,
    Hour,
    Weekday,
    Unix,
    /// `jwt.CLAIM`: of the token that `auth` verified.
    Claim(SmolStr),
    /// `key.id`, `key.LABEL`: of the API key that `auth` knew.
    Label(SmolStr),
}

/// What a fact turned out to be. `Missing` equals nothing and is like nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(f64),
    Ip(IpAddr),
    List(&'a [SmolStr]),
    Bool(bool),
}

/// Names that stand alone.
const PLAIN: &[(&str, Var)] = &[
    ("method", Var::Method),
    ("path", Var::Path),
    ("host", Var::Host),
    ("scheme", Var::Scheme),
    ("ip", Var::Ip),
    ("route", Var::Route),
    ("tls.sni", Var::Sni),
    ("tls.version", Var::TlsVersion),
    ("cert.cn", Var::CertCn),
    ("cert.san", Var::CertSan),
    ("cert.fingerprint", Var::CertFingerprint),
    ("time.hour", Var::Hour),
    ("time.weekday", Var::Weekday),
    ("time.unix", Var::Unix),
];

/// Names that take another name after the point.
const FAMILIES: &[&str] = &["path", "query", "header", "cookie", "jwt", "key"];

const WEEKDAYS: &[&str] = &["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Var {
    pub fn parse(text: &str) -> Result<Var, Bad> {
        if let Some((_, var)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(var.clone());
        }
        let whole = 0..text.len();
        let (family, name) = text.split_once('.').unwrap_or((text, ""));
        if !FAMILIES.contains(&family) {
            return Err(Bad::new(whole, unknown(text, family, name)));
        }
        if name.is_empty() {
            return Err(Bad::new(whole, format!("`{family}` needs a name: `{family}.NAME`")));
        }
        Ok(match family {
            "path" => Var::Capture(name.into()),
            "query" => Var::Query(name.into()),
            "cookie" => Var::Cookie(name.into()),
            "jwt" => Var::Claim(name.into()),
            "key" => Var::Label(name.into()),
            _ => Var::Header(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| Bad::new(family.len() + 1..text.len(), format!("`{name}` is not a header's name")))?,
            ),
        })
    }

    /// The only texts that this fact can be, if they are few.
    pub(super) fn domain(&self) -> Option<&'static [&'static str]> {
        match self {
            Var::Weekday => Some(WEEKDAYS),
            Var::Scheme => Some(&["http", "https"]),
            _ => None,
        }
    }

    /// Known only after `auth`.
    pub fn is_identity(&self) -> bool {
        matches!(self, Var::Claim(_) | Var::Label(_))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Var::Hour | Var::Unix)
    }

    /// The fact as it is meant: decoded, for comparing.
    pub fn value<'a>(&self, view: &View<'a>) -> Value<'a> {
        let cx = view.cx;
        match self {
            Var::Capture(name) => cx
                .captures
                .get(name, asked(view).path())
                .map_or(Value::Missing, |v| Value::Text(head::decoded(v, false))),
            Var::Query(name) => head::query_of(asked(view).query(), name)
                .map_or(Value::Missing, |v| Value::Text(head::decoded(v, true))),
            Var::Ip => Value::Ip(cx.ip.to_canonical()),
            Var::CertSan => match cert(cx) {
                Some(cert) if !cert.san.is_empty() => Value::List(&cert.san),
                _ => Value::Missing,
            },
            Var::Hour => Value::Number((cx.wall / 3_600_000 % 24) as f64),
            Var::Unix => Value::Number((cx.wall / 1000) as f64),
            Var::Claim(_) | Var::Label(_) => match self.fact(cx) {
                None | Some(Fact::Nothing | Fact::Table(_)) => Value::Missing,
                Some(Fact::Text(text)) => Value::Text(Cow::Borrowed(text)),
                Some(Fact::Number(n)) => Value::Number(*n),
                Some(Fact::Bool(b)) => Value::Bool(*b),
                Some(Fact::List(all)) => Value::List(all),
            },
            _ => self.sent(view).map_or(Value::Missing, Value::Text),
        }
    }

    /// The fact as it was sent: for copying into a header, a path or a key. Absent and empty differ.
    pub fn sent<'a>(&self, view: &View<'a>) -> Option<Cow<'a, str>> {
        let cx = view.cx;
        let text = match self {
            Var::Method => view.head.method.as_str(),
            Var::Path => asked(view).path(),
            Var::Capture(name) => cx.captures.get(name, asked(view).path())?,
            Var::Host => present(&cx.host)?,
            Var::Scheme => ["http", "https"][usize::from(cx.secure)],
            Var::Query(name) => head::query_of(asked(view).query(), name)?,
            Var::Header(name) => return head::joined(&view.head.headers, name),
            Var::Cookie(name) => head::cookie(&view.head.headers, name)?,
            Var::Route => present(&cx.route)?,
            Var::Sni => cx.tls.as_ref()?.sni.as_deref()?,
            Var::TlsVersion => cx.tls.as_ref()?.version,
            Var::CertCn => present(&cert(cx)?.cn)?,
            Var::CertFingerprint => present(&cert(cx)?.fingerprint)?,
            // 1970-01-01 was a Thursday.
            Var::Weekday => WEEKDAYS[((cx.wall / 86_400_000 + 3) % 7) as usize],
            Var::Ip => return Some(cx.ip.to_canonical().to_string().into()),
            Var::CertSan => return Some(cert(cx)?.san.join(",").into()),
            Var::Hour => return Some((cx.wall / 3_600_000 % 24).to_string().into()),
            Var::Unix => return Some((cx.wall / 1000).to_string().into()),
            Var::Claim(_) | Var::Label(_) => return self.fact(cx)?.text(),
        };
        Some(Cow::Borrowed(text))
    }

    /// What an identity says of it: the first of its kind that says anything.
    fn fact<'a>(&self, cx: &'a Cx) -> Option<&'a Fact> {
        let of = |kind| cx.identities.iter().filter(move |identity| identity.kind == kind);
        match self {
            Var::Claim(path) => of(Kind::Jwt).find_map(|identity| identity.facts.at(path)),
            Var::Label(name) => of(Kind::Key).find_map(|identity| identity.facts.get(name)),
            _ => None,
        }
    }
}

/// What the client asked for, also after the route's rewrite changed the head.
fn asked<'a>(view: &View<'a>) -> &'a Uri {
    view.cx.asked.as_ref().unwrap_or(&view.head.uri)
}

fn cert(cx: &Cx) -> Option<&crate::cx::Cert> {
    cx.tls.as_ref()?.cert.as_ref()
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn unknown(text: &str, family: &str, name: &str) -> String {
    let near = |word: &str, known: &str| strsim::osa_distance(word, known) <= 1 + word.len() / 5;
    if let Some((known, _)) = PLAIN.iter().find(|(known, _)| near(text, known)) {
        return format!("unknown variable `{text}`, did you mean `{known}`?");
    }
    if let Some(known) = FAMILIES.iter().find(|known| near(family, known)) {
        let name = if name.is_empty() { "NAME" } else { name };
        return format!("unknown variable `{text}`, did you mean `{known}.{name}`?");
    }
    let plain: Vec<_> = PLAIN.iter().map(|(name, _)| *name).collect();
    let families: Vec<_> = FAMILIES.iter().map(|f| format!("{f}.NAME")).collect();
    format!("unknown variable `{text}`, expected one of {}, {}", plain.join(", "), families.join(", "))
}

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Var::Capture(n) => write!(f, "path.{n}"),
            Var::Query(n) => write!(f, "query.{n}"),
            Var::Header(n) => write!(f, "header.{n}"),
            Var::Cookie(n) => write!(f, "cookie.{n}"),
            Var::Claim(n) => write!(f, "jwt.{n}"),
            Var::Label(n) => write!(f, "key.{n}"),
            _ => f.write_str(PLAIN.iter().find(|(_, v)| v == self).expect("every other variable is in the list").0),
        }
    }
}
