//! `[service.NAME]` as written. Everything but `to` has a default, and every default is safe: timeouts are set, TLS is
//! verified, only connect failures are retried. A route writes the same `timeout` and `retry` tables over these.

use super::outcome::{On, Trigger};
use filters::expr::Key;
use filters::short::{Bad, Many, One, Short, words};
use filters::units::{Percent, Span, Unit};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_spanned::Spanned;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// A group of endpoints that answer alike.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Service")]
pub struct Conf {
    /// Where the service is: `host:port [xWEIGHT] [backup]`, `[v6]:port` or `unix:/path`, one or a list. DNS names are
    /// resolved again and again, every address of a name is an endpoint. A backup is used when nothing else is usable.
    pub to: Many<Target>,
    /// The protocol spoken: `h1` (default), `h2` over TLS, `h2c` without TLS, `auto` (whatever TLS negotiates).
    #[serde(default)]
    pub proto: Proto,
    /// TLS towards the endpoints: `true`, or a table. The certificate is verified unless `verify = false`.
    #[serde(default)]
    pub tls: TlsSwitch,
    /// How an endpoint is chosen: `p2c` (default: the less loaded of two), `round_robin`, `least_conn`, `hash`, `random`.
    #[serde(default)]
    pub balance: Balance,
    /// The key of `balance = "hash"`: requests with the same key go to the same endpoint.
    #[schemars(with = "Option<Key>")]
    pub hash: Option<Spanned<Key>>,
    /// Active checks: `"GET /healthz every 5s"`, `"tcp every 5s"`, or a table. Default: none, every endpoint counts as
    /// healthy until it fails.
    pub health: Option<One<Health>>,
    /// Ejection of endpoints that fail: `"5 errors for 30s"` or a table. Default: 5 connect failures in a row for 10s.
    pub eject: Option<One<Eject>>,
    /// How long each part of an exchange may take.
    #[serde(default)]
    pub timeout: Timeout,
    /// What is tried again, how often, and how much of it in all.
    #[serde(default)]
    pub retry: Retry,
    /// Stops sending for a while when too much fails: `"50% of 20 in 10s open 15s"` or a table. Default: none.
    pub breaker: Option<One<Breaker>>,
    /// How many requests may be under way, and how many may wait for their turn. Default: no bound.
    pub max: Option<Max>,
    /// How long an endpoint that comes back takes to grow to its full share. Default: at once.
    pub slow_start: Option<Span>,
    /// How often DNS names are resolved again; default 10s.
    #[serde(default = "ten_seconds")]
    pub resolve: Span,
    /// How long an idle connection is kept for the next request; default 60s. Below the upstream's own idle timeout,
    /// or requests meet connections that are just being closed.
    #[serde(default = "one_minute")]
    pub keepalive: Span,
}

fn ten_seconds() -> Span {
    Span::secs(10)
}
fn one_minute() -> Span {
    Span::secs(60)
}

impl Conf {
    /// Files that are named relatively are seen from `base`, the folder of the configuration.
    pub fn settle(&mut self, base: &Path) {
        let Some(tls) = &mut self.tls.0 else { return };
        for file in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
            let path = base.join(file.get_ref());
            *file.get_mut() = path.to_string_lossy().into_owned();
        }
    }

    /// The service behind a route's bare address: `to = "127.0.0.1:3000"`.
    pub fn single(target: Spanned<Target>) -> Conf {
        Conf {
            to: Many(vec![target]),
            proto: Proto::default(),
            tls: TlsSwitch::default(),
            balance: Balance::default(),
            hash: None,
            health: None,
            eject: None,
            timeout: Timeout::default(),
            retry: Retry::default(),
            breaker: None,
            max: None,
            slow_start: None,
            resolve: ten_seconds(),
            keepalive: one_minute(),
        }
    }
}

/// The protocol spoken to the endpoints.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ServiceProto")]
pub enum Proto {
    #[default]
    H1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    Auto,
}

/// How an endpoint is chosen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ServiceBalance")]
pub enum Balance {
    /// The less loaded of two that are drawn at random: latency, requests under way and weight decide.
    #[default]
    P2c,
    /// In turn, smoothly: a heavy endpoint's turns are spread out.
    RoundRobin,
    /// The fewest requests under way for its weight. Exact up to 32 endpoints, above that the best of 16 drawn.
    LeastConn,
    /// Consistent hashing of the key under `hash`.
    Hash,
    Random,
}

/// One place to send to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServiceTarget")]
pub struct Target {
    /// `host:port`, `[v6]:port` or `unix:/path`.
    pub addr: Address,
    /// Its share relative to the others, 1 (default) to 1000.
    #[serde(default = "one")]
    pub weight: Weight,
    /// Used only when no other endpoint is usable.
    #[serde(default)]
    pub backup: bool,
}

fn one() -> Weight {
    Weight(1)
}

/// A relative share, 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u32);

impl Weight {
    fn check(n: u64) -> Option<Weight> {
        (1..=1000).contains(&n).then_some(Weight(n as u32))
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Weight, D::Error> {
        let n = u64::deserialize(d)?;
        Weight::check(n).ok_or_else(|| de::Error::custom(format_args!("weight {n}: expected 1 to 1000")))
    }
}

impl JsonSchema for Weight {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Weight".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 1000 })
    }
}

impl Short for Target {
    const LINE: &'static str = "an address such as \"10.0.0.1:8080 x3 backup\"";
    fn line(text: &str) -> Result<Target, Bad> {
        let mut words = words(text);
        let Some((at, addr)) = words.next() else {
            return Err(Bad::new(0..text.len(), format!("expected {}", Self::LINE)));
        };
        let mut target =
            Target { addr: Address::parse(addr).map_err(|b| b.shifted(at))?, weight: one(), backup: false };
        for (at, word) in words {
            let place = at..at + word.len();
            match word.strip_prefix('x').map(|n| n.parse().ok().and_then(Weight::check)) {
                Some(Some(weight)) => target.weight = weight,
                Some(None) => return Err(Bad::new(place, format!("weight \"{word}\": expected x1 to x1000"))),
                None if word == "backup" => target.backup = true,
                None => return Err(Bad::new(place, format!("\"{word}\": expected xWEIGHT or \"backup\""))),
            }
        }
        Ok(target)
    }
}

/// An endpoint's address as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(SocketAddr),
    Name { host: String, port: u16 },
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(addr) => addr.fmt(f),
            Address::Name { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Address {
    pub const FORM: &'static str = "host:port, [v6]:port or unix:/path";

    pub fn parse(text: &str) -> Result<Address, Bad> {
        let bad = |at, why: &str| Err(Bad::new(at, format!("address \"{text}\": {why}")));
        let all = 0..text.len();
        if let Some(path) = text.strip_prefix("unix:") {
            // sockaddr_un holds 108 bytes, one of them the final NUL.
            return match path.starts_with('/') && path.len() < 108 && !path.contains('\0') {
                true => Ok(Address::Unix(path.into())),
                false => bad(5..text.len(), "expected an absolute path of at most 107 bytes after \"unix:\""),
            };
        }
        if let Some(scheme) = ["http://", "https://"].into_iter().find(|s| text.starts_with(s)) {
            return bad(0..scheme.len(), "expected no scheme; TLS is switched on by the service's `tls`");
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { bad(all, "expected a port from 1 to 65535") } else { Ok(Address::Ip(addr)) };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return bad(all, &format!("expected {}", Self::FORM));
        };
        let Some(port) = port.parse::<u16>().ok().filter(|p| *p > 0) else {
            return bad(host.len() + 1..text.len(), "expected a port from 1 to 65535");
        };
        if host.contains(':') {
            return bad(0..host.len(), "expected an IPv6 address in brackets, such as [::1]:8080");
        }
        match name(host) {
            true => Ok(Address::Name { host: host.to_ascii_lowercase(), port }),
            false => bad(0..host.len(), "expected a host name or an IP address before the port"),
        }
    }

    /// The name that TLS asks for and verifies, unless the service says another.
    pub fn host(&self) -> Option<&str> {
        match self {
            Address::Name { host, .. } => Some(host),
            _ => None,
        }
    }
}

/// A host name: RFC 1123 labels, with underscores, which service names in clusters have. All digits and dots is a
/// mistyped address, not a name.
fn name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label) && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Address;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Address::FORM)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Address, E> {
                Address::parse(s).map_err(E::custom)
            }
        }
        d.deserialize_str(V)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": Address::FORM })
    }
}

/// `tls`: absent, `true`, `false` or a table.
#[derive(Debug, Default)]
pub struct TlsSwitch(pub Option<Tls>);

impl<'de> Deserialize<'de> for TlsSwitch {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<TlsSwitch, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = TlsSwitch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<TlsSwitch, E> {
                Ok(TlsSwitch(on.then(Tls::default)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TlsSwitch, A::Error> {
                Tls::deserialize(MapAccessDeserializer::new(map)).map(|t| TlsSwitch(Some(t)))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for TlsSwitch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ServiceTlsSwitch".into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = g.subschema_for::<Tls>();
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, table] })
    }
}

/// TLS towards the endpoints.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ServiceTls")]
pub struct Tls {
    /// The name that is asked for (SNI) and that the certificate must carry; default: the host in `to`. Needed where
    /// `to` has IP addresses.
    #[schemars(with = "Option<String>")]
    pub sni: Option<Spanned<String>>,
    /// A PEM file of the authorities that are trusted; default: the system's.
    #[schemars(with = "Option<String>")]
    pub ca: Option<Spanned<String>>,
    /// A PEM file with the client certificate and its chain, for endpoints that ask for one; with `key`.
    #[schemars(with = "Option<String>")]
    pub cert: Option<Spanned<String>>,
    /// A PEM file with the client certificate's private key.
    #[schemars(with = "Option<String>")]
    pub key: Option<Spanned<String>>,
    /// Whether the endpoint's certificate is verified; default true. Without it anyone on the way can read and change
    /// everything.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { sni: None, ca: None, cert: None, key: None, verify: true }
    }
}

/// An active check of every endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ServiceHealth")]
pub struct Health {
    /// The path asked for, with its query; without it the check is a TCP connect (and TLS handshake, if the service
    /// speaks TLS).
    pub path: Option<String>,
    /// The method; default GET.
    pub method: String,
    /// The `Host` header; default: the host of the endpoint as written in `to`.
    pub host: Option<String>,
    /// The time between two checks of one endpoint; default 5s.
    pub every: Span,
    /// How long a check may take in all; default 2s.
    pub timeout: Span,
    /// Successes in a row that make an endpoint healthy; default 2. The very first check decides alone.
    pub up: u32,
    /// Failures in a row that make an endpoint unhealthy; default 3.
    pub down: u32,
    /// Status codes that count as success; default: any from 200 to 399.
    pub expect: Vec<u16>,
    /// How much each pause varies at random, so that checks do not march in step; default 20%.
    pub jitter: Percent,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            path: None,
            method: "GET".into(),
            host: None,
            every: Span::secs(5),
            timeout: Span::secs(2),
            up: 2,
            down: 3,
            expect: vec![],
            jitter: Percent(0.2),
        }
    }
}

impl Short for Health {
    const LINE: &'static str = "a check such as \"GET /healthz every 5s\" or \"tcp every 5s\"";
    fn line(text: &str) -> Result<Health, Bad> {
        let mut words = words(text).peekable();
        let mut health = Health::default();
        let bad = |place, what: &str| Err(Bad::new(place, format!("{what}: expected {}", Self::LINE)));
        match words.next() {
            Some((_, "tcp")) => {}
            Some((at, method)) => {
                health.method = method.into();
                match words.next() {
                    Some((_, path)) if path.starts_with('/') => health.path = Some(path.into()),
                    _ => return bad(at..text.len(), &format!("\"{text}\"")),
                }
            }
            None => return bad(0..text.len(), "nothing"),
        }
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some((_, "every")), Some((at, span)), None) => {
                health.every = Span::parse(span).map_err(|b| b.shifted(at))?;
            }
            (Some((at, word)), ..) => return bad(at..text.len(), &format!("\"{word}\"")),
        }
        Ok(health)
    }
}

/// Ejection of endpoints that fail.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ServiceEject")]
pub struct Eject {
    /// Failures in a row that eject an endpoint; default 5.
    pub errors: u32,
    /// How long it stays out; default 10s. Each further ejection lasts as much longer, up to ten times.
    #[serde(rename = "for")]
    pub lasts: Span,
    /// What counts: `connect`, `reset`, `timeout`, status codes, `5xx`. Default: all of connect, reset, timeout, 502,
    /// 503 and 504 where `eject` is written.
    pub on: On,
    /// When more than this share of the endpoints is ejected, ejection is ignored, since then it is not one
    /// endpoint that is at fault; default 50%.
    pub max: Percent,
}

impl Default for Eject {
    fn default() -> Eject {
        let status = [502, 503, 504].map(|c| Trigger::Status(c, c));
        let on = [Trigger::Connect, Trigger::Reset, Trigger::Timeout].into_iter().chain(status).collect();
        Eject { errors: 5, lasts: Span::secs(10), on: On(on), max: Percent(0.5) }
    }
}

impl Eject {
    /// What happens where nothing is written: an endpoint that cannot be reached is left alone for a while. Answers
    /// are not judged, or whoever can provoke a 503 could thin out the endpoints.
    pub fn unwritten() -> Eject {
        Eject { on: On([Trigger::Connect].into_iter().collect()), ..Eject::default() }
    }
}

impl Short for Eject {
    const LINE: &'static str = "an ejection such as \"5 errors for 30s\"";
    fn line(text: &str) -> Result<Eject, Bad> {
        let all: Vec<_> = words(text).collect();
        match all[..] {
            [(at, errors), (_, "errors" | "error"), (_, "for"), (span_at, span)] => Ok(Eject {
                errors: count(errors, at, "errors")?,
                lasts: Span::parse(span).map_err(|b| b.shifted(span_at))?,
                ..Eject::default()
            }),
            _ => Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::LINE))),
        }
    }
}

fn count(word: &str, at: usize, what: &str) -> Result<u32, Bad> {
    word.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Bad::new(at..at + word.len(), format!("\"{word}\": expected a whole number of {what} above 0")))
}

/// How long each part of an exchange may take. A route's keys stand over its service's.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Timeout")]
pub struct Timeout {
    /// Until the connection stands, and as long again for TLS; default 2s.
    pub connect: Option<Span>,
    /// From the request's end to the response's first byte; default 15s.
    pub first_byte: Option<Span>,
    /// Between two pieces of a body, either way; default 60s.
    pub idle: Option<Span>,
    /// For the whole request with all its tries; default: none, since streams and downloads have no natural end.
    pub total: Option<Span>,
}

impl Timeout {
    /// These, and what `under` says where these are silent.
    pub fn over(&self, under: &Timeout) -> Timeout {
        Timeout {
            connect: self.connect.or(under.connect),
            first_byte: self.first_byte.or(under.first_byte),
            idle: self.idle.or(under.idle),
            total: self.total.or(under.total),
        }
    }
    pub fn connect(&self) -> Duration {
        self.connect.map_or(Duration::from_secs(2), |s| s.0)
    }
    pub fn first_byte(&self) -> Duration {
        self.first_byte.map_or(Duration::from_secs(15), |s| s.0)
    }
    pub fn idle(&self) -> Duration {
        self.idle.map_or(Duration::from_secs(60), |s| s.0)
    }
    pub fn total(&self) -> Option<Duration> {
        self.total.map(|s| s.0)
    }
}

/// What is tried again. A route's keys stand over its service's.
#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Retry")]
pub struct Retry {
    /// Tries in all, the first one included, 1 to 5; default 2.
    pub tries: Option<Tries>,
    /// What is tried again: `connect`, `reset`, `timeout`, status codes, `5xx`; default `["connect"]`. Never after a
    /// byte of the response went to the client.
    pub on: Option<On>,
    /// Retries in ten seconds are at most this share of the requests in that time, and ten more; default 20%. Set by
    /// the service alone, since the budget protects the service.
    pub budget: Option<Percent>,
    /// The methods that may be tried again once the request was sent; default: the idempotent ones. A failed connect is
    /// tried again for every method, since nothing was sent.
    pub methods: Option<Vec<String>>,
}

/// Tries in all, 1 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries(pub u32);

impl<'de> Deserialize<'de> for Tries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Tries, D::Error> {
        match u64::deserialize(d)? {
            n @ 1..=5 => Ok(Tries(n as u32)),
            n => Err(de::Error::custom(format_args!("tries {n}: expected 1 to 5"))),
        }
    }
}

impl JsonSchema for Tries {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tries".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 5 })
    }
}

impl Retry {
    /// These, and what `under` says where these are silent.
    pub fn over(&self, under: &Retry) -> Retry {
        Retry {
            tries: self.tries.or(under.tries),
            on: self.on.clone().or_else(|| under.on.clone()),
            budget: self.budget.or(under.budget),
            methods: self.methods.clone().or_else(|| under.methods.clone()),
        }
    }
    /// Tries in all.
    pub fn tries(&self) -> u32 {
        self.tries.map_or(2, |t| t.0)
    }
    pub fn budget(&self) -> f64 {
        self.budget.map_or(0.2, |p| p.0)
    }
    /// Whether a try that ended so may be followed by another; `sent`: the upstream may have seen the request.
    pub fn allows(&self, outcome: super::Outcome, method: &str, sent: bool) -> bool {
        let on = match &self.on {
            Some(on) => on.has(outcome),
            None => outcome == super::Outcome::ConnectFailed,
        };
        on && (!sent || self.repeatable(method))
    }
    /// RFC 9110 section 9.2.2: the idempotent methods, unless the user names others.
    fn repeatable(&self, method: &str) -> bool {
        match &self.methods {
            Some(all) => all.iter().any(|m| m == method),
            None => matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        }
    }
}

/// Stops sending for a while when too much fails.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ServiceBreaker")]
pub struct Breaker {
    /// Opens when at least this share of the requests in the window failed; default 50%.
    pub share: Percent,
    /// The fewest requests in the window that are judged; default 20.
    pub of: u32,
    /// The window's length; default 10s.
    #[serde(rename = "in")]
    pub window: Span,
    /// How long it stays open before a few requests probe the service; default 15s.
    pub open: Span,
    /// Requests that probe at a time, and that must succeed in a row to close it; default 3.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { share: Percent(0.5), of: 20, window: Span::secs(10), open: Span::secs(15), probes: 3 }
    }
}

impl Short for Breaker {
    const LINE: &'static str = "a breaker such as \"50% of 20 in 10s open 15s\"";
    fn line(text: &str) -> Result<Breaker, Bad> {
        let all: Vec<_> = words(text).collect();
        match all[..] {
            [(a, share), (_, "of"), (b, of), (_, "in"), (c, window), (_, "open"), (d, open)] => Ok(Breaker {
                share: Percent::parse(share).map_err(|e| e.shifted(a))?,
                of: count(of, b, "requests")?,
                window: Span::parse(window).map_err(|e| e.shifted(c))?,
                open: Span::parse(open).map_err(|e| e.shifted(d))?,
                ..Breaker::default()
            }),
            _ => Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::LINE))),
        }
    }
}

/// How many requests may be under way.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServiceMax")]
pub struct Max {
    /// Requests under way in the whole service.
    pub inflight: u32,
    /// Requests that may wait for a place, first come first served; default 0: refuse with 503 at once.
    #[serde(default)]
    pub queue: u32,
    /// How long one waits at most; default 1s.
    #[serde(default = "one_second")]
    pub wait: Span,
}

fn one_second() -> Span {
    Span::secs(1)
}
