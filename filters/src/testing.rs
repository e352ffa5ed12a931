//! Transcripts: a behaviour of a step, told like a bug report and run through the real pipeline.
//!
//! ```text
//! > POST http://example.com/upload from 10.0.0.1     the client sends
//! > Content-Type: text/plain                         a header
//! > "hello"                                          a piece of the body; `> 600B` is one of 600 bytes
//! >> POST /upload                                    the upstream must get this; `>>` alone: anything
//! >> X-Client: 10.0.0.1                              all values of the header; `>> -X-Other`: it must be absent
//! << 200                                             the upstream answers, in the same notation
//! << "world"
//! < 200                                              the client must get this; bodies are compared decoded
//! < -Server
//! ! ip.deny observe: 10.0.0.1                        a decision; all of them must stand here, in order
//! +1s                                                time passes
//! ```
//! Behind the address: `from IP`, `route=NAME`, `{capture}=VALUE` (a piece of the path), `id=ID`, `grpc`, `h1.0`,
//! `cn=NAME` (a verified client certificate). Lines that begin with `#` are remarks. The clock starts on Monday
//! 2024-01-01, 00:00 UTC. Every exchange must claim something, and a refusal must be told.

use crate::auth::jwt::Jwt;
use crate::auth::keys::{self, Keys};
use crate::auth::{Source, Sources};
use crate::cx::{Captures, Cert, Cx, Decision, Tls};
use crate::filter::{Body, BuildCx, BuildError, Filter, Reply, Step};
use crate::head::{RequestHead, ResponseHead};
use crate::keep::Keep;
use crate::pipeline::{Pipeline, Run};
use crate::units::{ByteSize, Span};
use crate::{KINDS, Policy};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::fmt::Write;
use std::io::Read;
use std::sync::Arc;

/// 2024-01-01T00:00:00Z in milliseconds.
const START: u64 = 1_704_067_200_000;

/// Runs the transcript; panics with what happened if it is not as told. `conf` is the TOML of a policy, in which `F`
/// must be at work.
#[track_caller]
pub fn check<F: Filter>(conf: &str, transcript: &str) {
    let pipeline = pipeline(conf, &capture_names(transcript)).unwrap_or_else(|why| panic!("{conf}\n{why}"));
    let key = key::<F>();
    assert!(pipeline.steps().any(|step| step == key), "`{key}` has nothing to do with\n{conf}");
    if let Err(why) = play(&pipeline, transcript) {
        panic!("{why}");
    }
}

/// Why `conf` is refused, one fault a line; panics if it is not. A step's own faults are `key: why`.
#[track_caller]
pub fn faults(conf: &str) -> String {
    match pipeline(conf, &[]) {
        Ok(_) => panic!("nothing is wrong with\n{conf}"),
        Err(why) => why,
    }
}

/// The pipeline of a policy's TOML, for a route that captures these names.
pub fn pipeline(conf: &str, captures: &[SmolStr]) -> Result<Pipeline, String> {
    let policy: Policy = toml::from_str(conf).map_err(|e| e.message().to_string())?;
    let keep = Keep::default();
    let sources = sources(&keep);
    let cx = BuildCx { keep: &keep, origin: &|_| "policy.test".into(), route: "test", captures, sources: &sources };
    let mut wrong: Vec<(&str, BuildError)> = vec![];
    let pipeline = Pipeline::build(&policy, &cx, &mut wrong);
    if wrong.is_empty() {
        return Ok(pipeline);
    }
    let line = |(key, e): &(&str, BuildError)| match &e.hint {
        Some(hint) => format!("{key}: {} ({hint})", e.why),
        None => format!("{key}: {}", e.why),
    };
    Err(wrong.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// Two sources that every test may name: `idp`, tokens of HS256 with [`SECRET`], and `partners`, with the keys `gold-key`
/// (id `acme`, plan `gold`) and `old-key` (id `old`, expired in 2023).
pub fn sources(keep: &Keep) -> Sources {
    let mut sources = Sources::default();
    let read = |_: &Spanned<String>, _: u64| {
        let (gold, old) = (keys::line("acme", "gold-key"), keys::line("old", "old-key"));
        Ok(format!("{gold} plan=gold\n{old} expires=2023-01-01T00:00:00Z").into_bytes())
    };
    let idp = format!("secret = \"{SECRET}\"\nissuer = \"https://idp.example.com/\"\naudience = \"api\"\n{IDP}");
    let idp = toml::from_str(&idp).expect("a constant");
    let idp = Jwt::build("idp", &idp, &read, keep).unwrap_or_else(|why| panic!("{why:?}"));
    sources.add("idp", Some(Source::Jwt(Arc::new(idp))));
    let partners = toml::from_str("file = \"partners\"").expect("a constant");
    let partners = Keys::build("partners", &partners, &read).unwrap_or_else(|why| panic!("{why:?}"));
    sources.add("partners", Some(Source::Keys(Arc::new(partners))));
    sources
}

/// The secret of the source `idp`.
pub const SECRET: &str = "a secret of sixty-four bytes, which every HS algorithm may use!!";
const IDP: &str = "claims = { X-User = \"sub\", X-Roles = \"realm_access.roles\" }";

fn key<F: Filter>() -> &'static str {
    let name = std::any::type_name::<F>().rsplit("::").next().unwrap_or_default();
    KINDS.iter().find(|k| k.name == name).map(|k| k.key).expect("a step of the list")
}

/// The names of all `{name}=value` in the transcript.
fn capture_names(transcript: &str) -> Vec<SmolStr> {
    let mut names: Vec<SmolStr> = vec![];
    for word in transcript.lines().filter(|l| l.trim_start().starts_with("> ")).flat_map(str::split_ascii_whitespace) {
        if let Some((name, _)) = word.strip_prefix('{').and_then(|w| w.split_once("}="))
            && !names.iter().any(|n| n == name)
        {
            names.push(name.into());
        }
    }
    names
}

/// One request and its answer as told.
#[derive(Default)]
struct Told<'t> {
    first_line: usize,
    client_says: Vec<&'t str>,
    upstream_gets: Vec<&'t str>,
    upstream_says: Vec<&'t str>,
    client_gets: Vec<&'t str>,
    decisions: Vec<&'t str>,
}

impl Told<'_> {
    fn claims_nothing(&self) -> bool {
        self.upstream_gets.is_empty() && self.client_gets.is_empty() && self.decisions.is_empty()
    }
    fn is_answered(&self) -> bool {
        !(self.claims_nothing() && self.upstream_says.is_empty())
    }
}

fn play(pipeline: &Pipeline, transcript: &str) -> Result<(), String> {
    let mut elapsed = 0;
    let mut told = Told::default();
    for (i, line) in transcript.lines().enumerate() {
        let line = line.trim();
        let wrong = |why: &str| format!("line {}: `{line}`: {why}", i + 1);
        match line.split_at_checked(2) {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some((">>", rest)) => told.upstream_gets.push(rest.trim()),
            Some(("<<", rest)) => told.upstream_says.push(rest.trim()),
            Some(("> ", rest)) => {
                if told.is_answered() {
                    exchange(pipeline, &std::mem::take(&mut told), elapsed)?;
                }
                if told.client_says.is_empty() {
                    told.first_line = i + 1;
                }
                told.client_says.push(rest.trim());
            }
            Some(("< ", rest)) => told.client_gets.push(rest.trim()),
            Some(("! ", rest)) => told.decisions.push(rest.trim()),
            _ if line.starts_with('+') => {
                if !told.client_says.is_empty() {
                    exchange(pipeline, &std::mem::take(&mut told), elapsed)?;
                }
                let span: Span = line[1..].parse().map_err(|_| wrong("expected such as `+1s`"))?;
                elapsed += span.0.as_nanos() as u64;
            }
            _ => return Err(wrong("expected a line with `>`, `>>`, `<<`, `<`, `!`, `+` or `#`")),
        }
    }
    exchange(pipeline, &told, elapsed)
}

/// A message as it was seen somewhere.
#[derive(Default)]
struct Seen {
    start: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn exchange(pipeline: &Pipeline, told: &Told, elapsed: u64) -> Result<(), String> {
    let wrong = |why: String| format!("the exchange of line {}: {why}", told.first_line);
    let (mut head, chunks, mut cx) = request(&told.client_says, elapsed).map_err(wrong)?;
    let mut run = Run::default();
    let (upstream, stopped) = inward(pipeline, &mut run, &mut head, chunks, &mut cx);
    let (response, chunks) = match stopped {
        Some(reply) => own(&reply),
        None => response(&told.upstream_says).map_err(wrong)?,
    };
    let client = outward(pipeline, &mut run, response, chunks, &head, &mut cx);
    pipeline.done(&mut run, &cx);

    let mut faults = vec![];
    if told.claims_nothing() {
        faults.push("the transcript claims nothing".into());
    }
    match &upstream {
        Some(seen) => expect(&told.upstream_gets, seen, &mut faults),
        None if !told.upstream_gets.is_empty() || !told.upstream_says.is_empty() => {
            faults.push("the request never reached the upstream".into());
        }
        None if told.client_gets.is_empty() => faults.push("a refusal that the transcript does not tell".into()),
        None => {}
    }
    expect(&told.client_gets, &client, &mut faults);
    expect_decisions(&told.decisions, &cx.decisions, &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(wrong(report(&faults, upstream.as_ref(), &client, &cx))) }
}

/// The way in. What the upstream saw, if it saw anything; and the answer, if a step gave one.
fn inward(
    pipeline: &Pipeline,
    run: &mut Run,
    head: &mut RequestHead,
    chunks: Vec<Bytes>,
    cx: &mut Cx,
) -> (Option<Seen>, Option<Reply>) {
    if let Step::Break(reply) = pipeline.request(run, head, cx) {
        return (None, Some(*reply));
    }
    let mut seen = Seen { start: format!("{} {}", head.method, head.uri), headers: head.headers.clone(), body: vec![] };
    for (mut chunk, end) in with_end(chunks) {
        if let Step::Break(reply) = pipeline.request_body(run, &mut chunk, end, cx) {
            return (Some(seen), Some(*reply));
        }
        seen.body.extend_from_slice(&chunk.unwrap_or_default());
    }
    (Some(seen), None)
}

fn outward(
    pipeline: &Pipeline,
    run: &mut Run,
    mut head: ResponseHead,
    chunks: Vec<Bytes>,
    request: &RequestHead,
    cx: &mut Cx,
) -> Seen {
    pipeline.response(run, &mut head, request, cx);
    let mut body = vec![];
    for (mut chunk, end) in with_end(chunks) {
        pipeline.response_body(run, &mut chunk, end, cx);
        body.extend_from_slice(&chunk.unwrap_or_default());
    }
    let encoding = head.headers.get("content-encoding").map(|v| v.as_bytes());
    let body = if body.is_empty() { body } else { decode(encoding, &body) };
    Seen { start: head.status.as_u16().to_string(), headers: head.headers.clone(), body }
}

/// The last piece carries the end; a message without a body has an end alone.
fn with_end(chunks: Vec<Bytes>) -> Vec<(Option<Bytes>, bool)> {
    let last = chunks.len().max(1);
    let mut all: Vec<_> = chunks.into_iter().map(Some).collect();
    all.resize(last, None);
    all.into_iter().enumerate().map(|(i, c)| (c, i + 1 == last)).collect()
}

/// What the content codings hide.
pub fn decode(encoding: Option<&[u8]>, body: &[u8]) -> Vec<u8> {
    let mut plain = vec![];
    let read = match encoding {
        Some(b"gzip") => flate2::read::GzDecoder::new(body).read_to_end(&mut plain),
        Some(b"br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut plain),
        Some(b"zstd") => zstd::stream::copy_decode(body, &mut plain).map(|()| 0),
        _ => return body.to_vec(),
    };
    read.expect("the body is encoded as its header says");
    plain
}

fn request(lines: &[&str], elapsed: u64) -> Result<(RequestHead, Vec<Bytes>, Cx), String> {
    let (first, rest) = lines.split_first().ok_or("nothing is sent")?;
    let mut words = first.split_ascii_whitespace();
    let (method, url) = words.next().zip(words.next()).ok_or("expected a method and an address")?;
    let (secure, from_host) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme == "https", rest),
        None => (false, url),
    };
    let (host, target) = from_host.split_at(from_host.find('/').unwrap_or(from_host.len()));
    let target = if target.is_empty() { "/" } else { target };
    let mut head = RequestHead::build(method, target.as_bytes(), None).map_err(|e| e.to_string())?;
    let mut cx = Cx::new(elapsed, START + elapsed / 1_000_000, [10, 0, 0, 1].into());
    cx.secure = secure;
    cx.host = host.into();
    if !host.is_empty() {
        head.insert_header("Host", host).map_err(|e| e.to_string())?;
    }
    while let Some(word) = words.next() {
        if word == "from" {
            cx.ip = words.next().and_then(|ip| ip.parse().ok()).ok_or("expected an address behind `from`")?;
        } else {
            fact(word, &mut cx, &mut head)?;
        }
    }
    let mut chunks = vec![];
    for line in rest {
        match chunk(line) {
            Some(bytes) => chunks.push(bytes),
            None => {
                let (name, value) = field(line)?;
                head.append_header(name, value).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok((head, chunks, cx))
}

/// One of the words behind the address.
fn fact(word: &str, cx: &mut Cx, head: &mut RequestHead) -> Result<(), String> {
    match word.split_once('=') {
        Some(("route", name)) => cx.route = name.into(),
        Some(("id", id)) => cx.id = id.into(),
        Some(("cn", cn)) => {
            let cert = Cert { cn: cn.into(), ..Cert::default() };
            cx.tls = Some(Arc::new(Tls { cert: Some(cert), version: "TLSv1.3", ..Tls::default() }));
        }
        Some((name, value)) if name.starts_with('{') && name.ends_with('}') => {
            let path = head.uri.path();
            let from = path.find(value).ok_or_else(|| format!("`{value}` is no piece of the path"))?;
            let mut names = cx.captures.names.to_vec();
            names.push(name[1..name.len() - 1].into());
            let mut spans = std::mem::take(&mut cx.captures.spans);
            spans.push((from as u32, (from + value.len()) as u32));
            cx.captures = Captures { names: names.into(), spans };
        }
        None if word == "grpc" => cx.grpc = true,
        None if word == "h1.0" => head.set_version(Version::HTTP_10),
        _ => return Err(format!("`{word}` means nothing behind an address")),
    }
    Ok(())
}

fn response(lines: &[&str]) -> Result<(ResponseHead, Vec<Bytes>), String> {
    let (status, rest) = lines.split_first().unwrap_or((&"200", &[]));
    let status: u16 = status.parse().map_err(|_| format!("`{status}`: expected a status"))?;
    let mut head = ResponseHead::build(status, None).map_err(|e| e.to_string())?;
    let mut chunks = vec![];
    for line in rest {
        match chunk(line) {
            Some(bytes) => chunks.push(bytes),
            None => {
                let (name, value) = field(line)?;
                head.append_header(name, value).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok((head, chunks))
}

/// The gateway's own answer, roughly as the gateway writes it.
fn own(reply: &Reply) -> (ResponseHead, Vec<Bytes>) {
    let mut head = ResponseHead::build(reply.status, None).expect("a reply's status is one");
    for (name, value) in &reply.headers {
        head.append_header(name, value.clone()).expect("a reply's headers fit");
    }
    let body = match &reply.body {
        Body::Empty => return (head, vec![]),
        Body::Problem { detail } => {
            head.insert_header("content-type", "application/problem+json").expect("a constant");
            Bytes::from(detail.clone())
        }
        Body::Bytes(bytes) => bytes.clone(),
    };
    head.insert_header("content-length", body.len()).expect("a number fits");
    (head, vec![body])
}

/// `"text"`, or `600B`.
fn chunk(line: &str) -> Option<Bytes> {
    if let Some(text) = line.strip_prefix('"').and_then(|l| l.strip_suffix('"')) {
        return Some(Bytes::copy_from_slice(text.as_bytes()));
    }
    let size: ByteSize = line.parse().ok()?;
    Some(vec![b'x'; size.0 as usize].into())
}

fn field(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("`{line}`: expected `Name: value`"))?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|e| format!("`{line}`: {e}"))?;
    Ok((name, HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|e| format!("`{line}`: {e}"))?))
}

fn expect(lines: &[&str], seen: &Seen, faults: &mut Vec<String>) {
    let mut body: Option<Vec<u8>> = None;
    for (i, line) in lines.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
        if let Some(bytes) = chunk(line) {
            body.get_or_insert_default().extend_from_slice(&bytes);
        } else if let Some(name) = line.strip_prefix('-') {
            if seen.headers.contains_key(name) {
                faults.push(format!("`{name}` is there"));
            }
        } else if let (true, Ok((name, value))) = (i > 0 || !is_start(line), field(line)) {
            let all: Vec<_> =
                seen.headers.get_all(&name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            if all.join(", ").as_bytes() != value.as_bytes() || all.is_empty() {
                faults.push(format!("expected `{line}`, found {all:?}"));
            }
        } else if seen.start != *line {
            faults.push(format!("expected `{line}`, found `{}`", seen.start));
        }
    }
    if body.is_some_and(|body| body != seen.body) {
        faults.push("the body is another".into());
    }
}

/// A status, or a method and a target.
fn is_start(line: &str) -> bool {
    line.parse::<u16>().is_ok() || line.split_once(' ').is_some_and(|(method, _)| !method.ends_with(':'))
}

fn expect_decisions(told: &[&str], made: &[Decision], faults: &mut Vec<String>) {
    let told_all: Vec<_> = told.iter().map(|line| line.split_once(": ").unwrap_or((line, ""))).collect();
    let same = told_all.len() == made.len()
        && told_all.iter().zip(made).all(|((what, why), d)| {
            *what == format!("{}.{} {}", d.step, d.rule, d.mode.as_str()) && d.reason.contains(why)
        });
    if !same {
        faults.push(format!("expected the decisions {told:?}"));
    }
}

/// What happened, in the transcript's own notation.
fn report(faults: &[String], upstream: Option<&Seen>, client: &Seen, cx: &Cx) -> String {
    let mut out = format!("{}\n\nwhat happened:\n", faults.join("\n"));
    let mut message = |sign: &str, seen: &Seen| {
        let _ = writeln!(out, "{sign} {}", seen.start);
        for (name, value) in &seen.headers {
            let _ = writeln!(out, "{sign} {name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        match std::str::from_utf8(&seen.body) {
            Ok("") => {}
            Ok(text) if text.len() < 200 => _ = writeln!(out, "{sign} {text:?}"),
            _ => _ = writeln!(out, "{sign} {}B", seen.body.len()),
        }
    };
    if let Some(seen) = upstream {
        message(">>", seen);
    }
    message("<", client);
    for d in &cx.decisions {
        let _ = writeln!(out, "! {}.{} {}: {}", d.step, d.rule, d.mode.as_str(), d.reason);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a transcript played against a policy that refuses 10.6.6.6 and strips `Server`.
    fn fault(transcript: &str) -> String {
        let conf = "ip.deny = ['10.6.6.6']\nresponse.remove = ['Server']";
        play(&pipeline(conf, &[]).unwrap(), transcript).err().unwrap_or_default()
    }

    #[test]
    fn a_true_transcript_is_silent() {
        let told = "
            # passes
            > GET http://h/a
            > \"ab\"
            > \"c\"
            >> GET /a
            >> Host: h
            >> \"abc\"
            << 201
            << Server: x
            << 5B
            < 201
            < -Server
            < \"xxxxx\"
            +1s
            > GET http://h/a from 10.6.6.6
            < 403
            ! ip.deny enforce: 10.6.6.6";
        assert_eq!(fault(told), "");
    }

    #[test]
    fn every_lie_is_found() {
        for (told, why) in [
            ("> GET http://h/", "claims nothing"),
            ("> GET http://h/ from 10.6.6.6\n! ip.deny enforce", "a refusal that the transcript does not tell"),
            ("> GET http://h/ from 10.6.6.6\n< 403", "expected the decisions []"),
            ("> GET http://h/ from 10.6.6.6\n>>\n! ip.deny enforce", "never reached the upstream"),
            ("> GET http://h/ from 10.6.6.6\n< 403\n! ip.deny observe", "expected the decisions"),
            ("> GET http://h/ from 10.6.6.6\n< 403\n! ip.deny enforce: 10.9", "expected the decisions"),
            ("> GET http://h/\n< 403", "expected `403`, found `200`"),
            ("> GET http://h/\n>> GET /x", "expected `GET /x`, found `GET /`"),
            ("> GET http://h/\n>> X-A: 1", "expected `X-A: 1`, found []"),
            ("> GET http://h/\n>> -Host", "`Host` is there"),
            ("> GET http://h/\n> \"a\"\n>> \"b\"", "the body is another"),
            ("> GET http://h/\n<< 200\n<< X: 1\n< X: 2", "expected `X: 2`"),
            ("> GET http://h/ sideways", "means nothing"),
            ("? GET", "line 1"),
            ("+1", "expected such as `+1s`"),
            ("", "nothing is sent"),
        ] {
            assert!(fault(told).contains(why), "{told}\n{}", fault(told));
        }
    }
}
