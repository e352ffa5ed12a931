//! What one request leaves behind, and the three forms it is written in: JSON, text for people, and journal fields.
//!
//! Nothing is collected for the log: a record borrows from the request that ends. Only what exists is written, so a
//! request that never had a route has no `route`, and a malformed one still has its line.

use super::text::{address, escape, escape_capped, number, socket, time};
use super::{Conf, Format, To};
use filters::cx::{Decision, Tls};
use filters::units::Mode;
use http::header::{HeaderMap, HeaderName, REFERER, USER_AGENT};
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};

/// The longest that is written of a value which a peer chose, in bytes.
const LONG: usize = 4096;
const SHORT: usize = 512;
/// At most so many decisions are written.
const DECISIONS: usize = 32;

/// One request. An empty text and a zero status mean: there was none.
#[derive(Debug, Default)]
pub struct Record<'a> {
    /// When it began: milliseconds since the Unix epoch.
    pub wall: u64,
    pub id: &'a str,
    /// Whose request it is, after trusted proxies were believed.
    pub client: Option<IpAddr>,
    /// Who the connection came from.
    pub peer: Option<SocketAddr>,
    pub listener: &'a str,
    pub method: &'a str,
    pub host: &'a str,
    /// The canonical path; of a malformed request, what was sent.
    pub path: &'a [u8],
    pub query: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2.0` …
    pub protocol: &'static str,
    pub status: u16,
    /// Body bytes from and to the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The request's headers: `user-agent`, `referer` and those that the configuration asks for are written.
    pub headers: Option<&'a HeaderMap>,
    pub route: &'a str,
    pub service: &'a str,
    pub endpoint: &'a str,
    /// How often an upstream was tried.
    pub attempts: u32,
    pub upstream_status: u16,
    pub times: Times,
    pub tls: Option<&'a Tls>,
    pub decisions: &'a [Decision],
    /// What went wrong, as a short fixed word: `upstream_reset`, `client_aborted` …
    pub error: &'a str,
    /// The trace id of `traceparent`.
    pub trace: &'a str,
}

/// How long the stages took, in nanoseconds; written in microseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Times {
    pub total: u64,
    /// The request head: from its first byte to its last.
    pub head: Option<u64>,
    /// The steps, on the way in.
    pub steps: Option<u64>,
    /// Waiting for a free slot of the service.
    pub queue: Option<u64>,
    /// Getting an upstream connection; about nothing if one was reused.
    pub connect: Option<u64>,
    /// From the request's start until the upstream's response head was there.
    pub first_byte: Option<u64>,
}

/// How records are written: the configuration, made ready.
pub(super) struct Shape {
    format: Format,
    journal: bool,
    colour: bool,
    query: bool,
    /// Lower case.
    mask: Box<[Box<[u8]>]>,
    headers: Box<[HeaderName]>,
}

/// Parameters that are secrets in most applications; `mask` adds to them.
const SECRETS: &[&str] = &[
    "access_token",
    "api_key",
    "apikey",
    "api-key",
    "auth",
    "authorization",
    "client_assertion",
    "client_secret",
    "code",
    "id_token",
    "jwt",
    "key",
    "pass",
    "passwd",
    "password",
    "pwd",
    "refresh_token",
    "secret",
    "session",
    "sig",
    "signature",
    "token",
    "x-amz-signature",
];

impl Shape {
    pub(super) fn new(conf: &Conf, colour: bool) -> Shape {
        let own = conf.mask.iter().map(String::as_str);
        let lower = |name: &str| name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        Shape {
            format: conf.format,
            journal: conf.to == To::Journald,
            colour,
            query: conf.query,
            mask: SECRETS.iter().copied().chain(own).map(lower).collect(),
            headers: conf.headers.iter().map(|h| h.0.clone()).collect(),
        }
    }

    /// Appends one record, complete with what ends it.
    pub(super) fn write(&self, out: &mut Vec<u8>, r: &Record<'_>) {
        if self.journal {
            self.fields(out, r);
        }
        match self.format {
            Format::Json => self.json(out, r),
            Format::Text => self.text(out, r),
        }
        out.push(b'\n');
        if self.journal {
            out.push(b'\n');
        }
    }

    fn json(&self, out: &mut Vec<u8>, r: &Record<'_>) {
        out.extend_from_slice(b"{\"time\":\"");
        time(out, r.wall);
        out.push(b'"');
        text(out, "id", r.id.as_bytes(), SHORT);
        if let Some(ip) = r.client {
            quoted(out, "client", |out| address(out, ip));
        }
        if let Some(at) = r.peer {
            quoted(out, "peer", |out| socket(out, at));
        }
        text(out, "listener", r.listener.as_bytes(), SHORT);
        text(out, "method", r.method.as_bytes(), SHORT);
        text(out, "host", r.host.as_bytes(), SHORT);
        text(out, "path", r.path, LONG);
        if let Some(query) = r.query.filter(|_| self.query) {
            quoted(out, "query", |out| self.query(out, query.as_bytes()));
        }
        text(out, "protocol", r.protocol.as_bytes(), SHORT);
        count(out, "status", r.status.into());
        key(out, "bytes_in");
        number(out, r.bytes_in);
        key(out, "bytes_out");
        number(out, r.bytes_out);
        if let Some(headers) = r.headers {
            self.json_headers(out, headers);
        }
        json_upstream(out, r);
        json_times(out, &r.times);
        if let Some(tls) = r.tls {
            json_tls(out, tls);
        }
        json_decisions(out, r.decisions);
        text(out, "error", r.error.as_bytes(), SHORT);
        text(out, "trace", r.trace.as_bytes(), SHORT);
        out.push(b'}');
    }

    fn json_headers(&self, out: &mut Vec<u8>, headers: &HeaderMap) {
        if let Some(agent) = headers.get(USER_AGENT) {
            text(out, "user_agent", agent.as_bytes(), SHORT);
        }
        if let Some(from) = headers.get(REFERER) {
            quoted(out, "referer", |out| self.url(out, from.as_bytes()));
        }
        let mut wanted = self.headers.iter().filter_map(|name| Some((name, headers.get(name)?))).peekable();
        if wanted.peek().is_none() {
            return;
        }
        key(out, "headers");
        let mut before = b'{';
        for (name, value) in wanted {
            out.extend_from_slice(&[before, b'"']);
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b"\":\"");
            self.unless_masked(out, name.as_str().as_bytes(), value.as_bytes());
            out.push(b'"');
            before = b',';
        }
        out.push(b'}');
    }

    /// An address of another page: without its query, unless queries are asked for.
    fn url(&self, out: &mut Vec<u8>, url: &[u8]) {
        let mark = memchr::memchr(b'?', url).unwrap_or(url.len());
        escape_capped(out, &url[..mark], LONG);
        if self.query && mark < url.len() {
            out.push(b'?');
            self.query(out, &url[mark + 1..]);
        }
    }

    /// A query with the values of secret parameters replaced. Some servers also split at `;`, so it splits here.
    fn query(&self, out: &mut Vec<u8>, query: &[u8]) {
        let (mut rest, mut room) = (query, LONG);
        loop {
            let end = memchr::memchr2(b'&', b';', rest).unwrap_or(rest.len());
            let (pair, cut) = (&rest[..end.min(room)], end > room);
            match memchr::memchr(b'=', pair) {
                Some(is) => {
                    escape(out, &pair[..=is]);
                    self.unless_masked(out, &pair[..is], &pair[is + 1..]);
                }
                None => escape(out, pair),
            }
            if cut {
                return out.extend_from_slice("…".as_bytes());
            }
            let Some(&separator) = rest.get(end) else { return };
            out.push(separator);
            room = room.saturating_sub(end + 1);
            rest = &rest[end + 1..];
        }
    }

    fn unless_masked(&self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        if self.masked(name) { out.extend_from_slice(b"***") } else { escape_capped(out, value, LONG) }
    }

    /// Compares as the application will: percent-decoded, any case, and `user[password]` by each of its words.
    fn masked(&self, name: &[u8]) -> bool {
        let mut plain = SmallVec::<[u8; 64]>::new();
        let mut rest = name;
        while let Some((&b, after)) = rest.split_first() {
            rest = after;
            let decoded = (b == b'%').then(|| rest.get(..2).and_then(hex)).flatten();
            if decoded.is_some() {
                rest = &rest[2..];
            }
            plain.push(decoded.unwrap_or(b).to_ascii_lowercase());
        }
        let word = |w: &[u8]| self.mask.iter().any(|m| **m == *w);
        word(&plain) || plain.split(|b| matches!(b, b'[' | b']' | b'.')).any(word)
    }

    fn text(&self, out: &mut Vec<u8>, r: &Record<'_>) {
        self.paint(out, "2", |out| time(out, r.wall));
        out.push(b' ');
        self.paint(out, colour(r.status), |out| number(out, r.status.into()));
        out.push(b' ');
        word(out, if r.method.is_empty() { b"-" } else { r.method.as_bytes() });
        out.push(b' ');
        escape_capped(out, r.host.as_bytes(), SHORT);
        word(out, r.path);
        if let Some(query) = r.query.filter(|_| self.query) {
            out.push(b'?');
            self.query(out, query.as_bytes());
        }
        out.push(b' ');
        duration(out, r.times.total);
        out.push(b' ');
        number(out, r.bytes_out);
        out.push(b'B');
        if let Some(ip) = r.client {
            out.push(b' ');
            address(out, ip);
        }
        for (name, value) in [("route", r.route), ("service", r.service), ("endpoint", r.endpoint)] {
            self.pair(out, name, value);
        }
        if r.attempts > 1 {
            out.extend_from_slice(b" attempts=");
            number(out, r.attempts.into());
        }
        for d in r.decisions.iter().take(DECISIONS) {
            out.extend_from_slice(b" [");
            for part in [d.step, " ", &d.rule, " ", mode(d.mode), ": ", &d.reason, "]"] {
                escape_capped(out, part.as_bytes(), SHORT);
            }
        }
        self.pair(out, "error", r.error);
        self.pair(out, "id", r.id);
    }

    fn pair(&self, out: &mut Vec<u8>, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        out.push(b' ');
        self.paint(out, "2", |out| out.extend_from_slice(name.as_bytes()));
        out.push(b'=');
        word(out, value.as_bytes());
    }

    fn paint(&self, out: &mut Vec<u8>, colour: &str, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.colour {
            return write(out);
        }
        for part in ["\x1b[", colour, "m"] {
            out.extend_from_slice(part.as_bytes());
        }
        write(out);
        out.extend_from_slice(b"\x1b[0m");
    }

    /// What `journalctl PORTCULLIS_ROUTE=…` selects by; the message follows.
    fn fields(&self, out: &mut Vec<u8>, r: &Record<'_>) {
        out.extend_from_slice(b"SYSLOG_IDENTIFIER=portcullis\nPRIORITY=");
        out.push(if r.status >= 500 { b'4' } else { b'6' });
        out.push(b'\n');
        let mut field = |name: &str, value: &[u8]| {
            if !value.is_empty() {
                out.extend_from_slice(b"PORTCULLIS_");
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                escape_capped(out, value, SHORT);
                out.push(b'\n');
            }
        };
        field("ID", r.id.as_bytes());
        field("ROUTE", r.route.as_bytes());
        field("SERVICE", r.service.as_bytes());
        field("METHOD", r.method.as_bytes());
        field("HOST", r.host.as_bytes());
        field("ERROR", r.error.as_bytes());
        let mut digits = Vec::with_capacity(40);
        number(&mut digits, r.status.into());
        field("STATUS", &digits);
        if let Some(ip) = r.client {
            digits.clear();
            address(&mut digits, ip);
            field("CLIENT", &digits);
        }
        out.extend_from_slice(b"MESSAGE=");
    }
}

fn json_upstream(out: &mut Vec<u8>, r: &Record<'_>) {
    text(out, "route", r.route.as_bytes(), SHORT);
    text(out, "service", r.service.as_bytes(), SHORT);
    text(out, "endpoint", r.endpoint.as_bytes(), SHORT);
    count(out, "attempts", r.attempts.into());
    count(out, "upstream_status", r.upstream_status.into());
}

fn json_times(out: &mut Vec<u8>, times: &Times) {
    key(out, "total_us");
    number(out, times.total / 1000);
    let stages = [
        ("head_us", times.head),
        ("steps_us", times.steps),
        ("queue_us", times.queue),
        ("connect_us", times.connect),
        ("first_byte_us", times.first_byte),
    ];
    for (name, ns) in stages {
        if let Some(ns) = ns {
            key(out, name);
            number(out, ns / 1000);
        }
    }
}

fn json_tls(out: &mut Vec<u8>, tls: &Tls) {
    text(out, "tls", tls.version.as_bytes(), SHORT);
    text(out, "sni", tls.sni.as_deref().unwrap_or_default().as_bytes(), SHORT);
    if let Some(cert) = &tls.cert {
        text(out, "cert_cn", cert.cn.as_bytes(), SHORT);
    }
}

fn json_decisions(out: &mut Vec<u8>, decisions: &[Decision]) {
    if decisions.is_empty() {
        return;
    }
    key(out, "decisions");
    let mut before = b'[';
    for d in decisions.iter().take(DECISIONS) {
        out.push(before);
        out.extend_from_slice(b"{\"step\":\"");
        escape(out, d.step.as_bytes());
        out.push(b'"');
        text(out, "rule", d.rule.as_bytes(), SHORT);
        text(out, "mode", mode(d.mode).as_bytes(), SHORT);
        text(out, "reason", d.reason.as_bytes(), SHORT);
        out.push(b'}');
        before = b',';
    }
    out.push(b']');
    if decisions.len() > DECISIONS {
        count(out, "decisions_omitted", (decisions.len() - DECISIONS) as u64);
    }
}

/// The word for a mode, in log and metrics.
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn quoted(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    key(out, name);
    out.push(b'"');
    value(out);
    out.push(b'"');
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8], most: usize) {
    if !value.is_empty() {
        quoted(out, name, |out| escape_capped(out, value, most));
    }
}

fn count(out: &mut Vec<u8>, name: &str, n: u64) {
    if n != 0 {
        key(out, name);
        number(out, n);
    }
}

/// A value in a line of text: in quotes only if it has a blank.
fn word(out: &mut Vec<u8>, value: &[u8]) {
    let blank = value.contains(&b' ');
    if blank {
        out.push(b'"');
    }
    escape_capped(out, value, LONG);
    if blank {
        out.push(b'"');
    }
}

/// Three digits are enough for people: `850us`, `12.3ms`, `4.2s`.
fn duration(out: &mut Vec<u8>, ns: u64) {
    let (whole, tenth, unit) = match ns {
        0..1_000_000 => (ns / 1000, None, "us"),
        1_000_000..1_000_000_000 => (ns / 1_000_000, Some(ns / 100_000 % 10), "ms"),
        _ => (ns / 1_000_000_000, Some(ns / 100_000_000 % 10), "s"),
    };
    number(out, whole);
    if let Some(tenth) = tenth {
        out.push(b'.');
        number(out, tenth);
    }
    out.extend_from_slice(unit.as_bytes());
}

fn colour(status: u16) -> &'static str {
    match status {
        200..300 => "32",
        300..400 => "36",
        400..500 => "33",
        _ => "31",
    }
}

fn hex(two: &[u8]) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(two[0])? * 16 + digit(two[1])?) as u8)
}
