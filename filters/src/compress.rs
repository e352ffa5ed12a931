//! Compression of responses for clients that take it: `compress = {}`, or
//! `compress = { algorithms = ["zstd", "br", "gzip"], min_size = "1KiB", types = ["text/*", "application/json"] }`.
//!
//! The body is compressed as it streams, and every piece is flushed, so nothing waits for more; memory per response is
//! bounded by the coder's window of 256 KiB (about 1 MB in all for br and zstd). Left alone: what is encoded already,
//! `Cache-Control: no-transform`, parts (206), gRPC, server-sent events (unless `types` names `text/event-stream`),
//! answers to HTTP/1.0. A strong `ETag` becomes a weak one, since the bytes differ from the upstream's.
//!
//! Security: compressing a secret together with what an attacker can put into the same page leaks the secret through the
//! length (BREACH). Leave pages out that echo input beside a secret.

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, Filter, GO, Step};
use crate::head::{self, RequestHead, ResponseHead};
use crate::short::Bad;
use crate::units::{ByteSize, Unit, unit};
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, StatusCode, Version};
use serde_spanned::Spanned;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

/// The coders' window: 2^18 bytes, which every decoder takes.
const WINDOW: u32 = 18;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Compress"))]
pub struct Conf {
    /// What to offer, best first; the client's own preference wins. `["zstd", "br", "gzip"]` by default.
    #[serde(default = "all")]
    pub algorithms: Vec<Algorithm>,
    /// 1 (fast) to 9 (small), for every algorithm. By default zstd 3, br 4, gzip 5.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u8>", range(min = 1, max = 9)))]
    pub level: Option<Spanned<u8>>,
    /// Shorter bodies are left alone, if their length is told. 1 KiB by default.
    #[serde(default = "kibibyte")]
    pub min_size: ByteSize,
    /// Content types, as `"text/html"`, `"text/*"` or `"*+json"`. By default the usual texts, JSON, XML, scripts, fonts
    /// that are not compressed already, and WebAssembly.
    #[serde(default = "usual")]
    pub types: Vec<Type>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
pub enum Algorithm {
    Zstd,
    Br,
    Gzip,
}

fn all() -> Vec<Algorithm> {
    vec![Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip]
}

fn kibibyte() -> ByteSize {
    ByteSize(1024)
}

fn usual() -> Vec<Type> {
    [
        "text/*",
        "*+json",
        "*+xml",
        "application/json",
        "application/javascript",
        "application/manifest",
        "application/ndjson",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/x-icon",
        "image/vnd.microsoft.icon",
    ]
    .map(|t| t.parse().expect("each is a type"))
    .to_vec()
}

pub struct Compress {
    algorithms: Box<[Algorithm]>,
    level: Option<u8>,
    min_size: u64,
    types: Box<[Type]>,
}

/// A content type, `text/*` or `*+json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

/// What the client takes, and the coder once it is at work. A coder is large, so only an active one has memory.
#[derive(Default)]
pub struct State {
    agreed: Option<Algorithm>,
    coder: Option<Box<Coder>>,
    old_version: bool,
}

impl Filter for Compress {
    type Conf = Conf;
    type Scratch = State;
    const EXAMPLE: &'static str = r#"compress = { algorithms = ["zstd", "br", "gzip"], level = 4, min_size = "1KiB", types = ["text/*", "application/json"] }"#;
    const RESPONSE_BODY: bool = true;

    fn build(conf: &Conf, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        if let Some(level) = conf.level.as_ref().filter(|l| !(1..=9).contains(l.get_ref())) {
            let why = format!("level {}: expected 1 (fast) to 9 (small)", level.get_ref());
            return Err(BuildError::new(why).at(level.span()));
        }
        if conf.algorithms.is_empty() || conf.types.is_empty() {
            return Ok(None);
        }
        Ok(Some(Compress {
            algorithms: conf.algorithms.clone().into(),
            level: conf.level.as_ref().map(|l| *l.get_ref()),
            min_size: conf.min_size.0,
            types: conf.types.clone().into(),
        }))
    }

    /// The client's word is taken here, since later steps may change the head.
    fn request(&self, state: &mut State, head: &mut RequestHead, _: &mut Cx) -> Step {
        state.agreed = self.agree(&head.headers);
        // Without chunks, the end of a body whose length is not told cannot be told from a cut.
        state.old_version = head.version < Version::HTTP_11;
        GO
    }

    fn response(&self, state: &mut State, head: &mut ResponseHead, request: &RequestHead, _: &mut Cx) {
        if state.old_version || !self.compressible(head) {
            return;
        }
        // Also if this client takes none: a cache must ask again for one that does.
        head::vary(head, "Accept-Encoding");
        let Some(algorithm) = state.agreed else { return };
        let bodiless = request.method == Method::HEAD;
        if !bodiless {
            let Ok(coder) = Coder::new(algorithm, self.level) else { return };
            state.coder = Some(Box::new(coder));
        }
        relabel(head, algorithm, bodiless);
    }

    fn response_body(&self, state: &mut State, chunk: &mut Option<Bytes>, end: bool, _: &mut Cx) {
        let Some(coder) = &mut state.coder else { return };
        let plain = chunk.take().unwrap_or_default();
        if plain.is_empty() && !end {
            return;
        }
        let out = if end { std::mem::replace(&mut **coder, Coder::Spent).finish(&plain) } else { coder.feed(&plain) };
        if out.is_err() {
            // Writing to memory does not fail. Should it, the rest is missing, and the client's decoder says so.
            **coder = Coder::Spent;
        }
        *chunk = out.ok();
    }
}

impl Compress {
    /// The best of what the client takes: by its weights, then by our order (RFC 9110, section 12.5.3).
    fn agree(&self, headers: &HeaderMap) -> Option<Algorithm> {
        let (mut weights, mut others, mut plain) = ([None; 3], None, 0);
        for item in head::list(headers, &ACCEPT_ENCODING) {
            let (coding, weight) = weighted(item);
            match CODINGS.iter().find(|(name, _)| coding.eq_ignore_ascii_case(name)) {
                Some((_, algorithm)) => weights[*algorithm as usize] = Some(weight),
                None if coding.eq_ignore_ascii_case("identity") => plain = weight,
                None if coding == "*" => others = Some(weight),
                None => {}
            }
        }
        let weight = |a: Algorithm| weights[a as usize].or(others).unwrap_or(0);
        // `max_by_key` would take the last of equals.
        let best = self.algorithms.iter().copied().rev().max_by_key(|a| weight(*a))?;
        (weight(best) > 0 && weight(best) >= plain).then_some(best)
    }

    /// Could this answer be compressed for a client that takes it?
    fn compressible(&self, head: &ResponseHead) -> bool {
        let has_body = match head.status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT => false,
            StatusCode::NOT_MODIFIED => false,
            status => !status.is_informational(),
        };
        let headers = &head.headers;
        let length = head::header(headers, "content-length").and_then(|l| l.parse::<u64>().ok());
        has_body
            && length.is_none_or(|l| l >= self.min_size.max(1))
            && !headers.contains_key(CONTENT_ENCODING)
            && !headers.contains_key(CONTENT_RANGE)
            && !head::list(headers, &CACHE_CONTROL).any(|d| d.eq_ignore_ascii_case("no-transform"))
            && head::header(headers, "content-type").is_some_and(|t| self.fits(t))
    }

    fn fits(&self, content_type: &str) -> bool {
        let sent = content_type.split(';').next().unwrap_or_default().trim();
        let upper = sent.bytes().any(|b| b.is_ascii_uppercase());
        let essence = if upper { Cow::Owned(sent.to_ascii_lowercase()) } else { Cow::Borrowed(sent) };
        let exact = |e: &str| self.types.iter().any(|t| matches!(t, Type::Exact(x) if x == e));
        match &*essence {
            // gRPC compresses its own messages, and events should not wait in a decoder.
            grpc if grpc.starts_with("application/grpc") => false,
            "text/event-stream" => exact("text/event-stream"),
            _ => self.types.iter().any(|t| t.matches(&essence)),
        }
    }
}

/// `gzip;q=0.5` is gzip at 500. A weight that cannot be read counts as 0, like a coding that is not wanted.
fn weighted(item: &str) -> (&str, u16) {
    let (coding, rest) = item.split_once(';').unwrap_or((item, ""));
    let weight = rest
        .split(';')
        .find_map(|p| p.trim().strip_prefix(['q', 'Q']).and_then(|p| p.trim_start().strip_prefix('=')))
        .map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
    (coding.trim(), if (0.0..=1.0).contains(&weight) { (weight * 1000.0) as u16 } else { 0 })
}

/// The head of a compressed body.
fn relabel(head: &mut ResponseHead, algorithm: Algorithm, bodiless: bool) {
    let told = head.remove_header(&CONTENT_LENGTH).is_some();
    head.remove_header(&ACCEPT_RANGES);
    // Digests of the bytes as the upstream sent them.
    for name in ["content-md5", "content-digest", "repr-digest", "digest"] {
        head.remove_header(name);
    }
    _ = head.insert_header(CONTENT_ENCODING, algorithm.name());
    if told && !bodiless {
        // What its length framed is framed by chunks: Pingora goes by this header and drops it for HTTP/2. A body whose
        // length was not told keeps its frame.
        _ = head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // RFC 9110, section 8.8.1: the same meaning in other bytes shares only a weak validator.
    let weak = head.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).map(|tag| {
        let mut weak = b"W/".to_vec();
        weak.extend_from_slice(tag.as_bytes());
        HeaderValue::from_maybe_shared(Bytes::from(weak))
    });
    if let Some(Ok(weak)) = weak {
        _ = head.insert_header(ETAG, weak);
    }
}

/// The names in `Accept-Encoding`; `x-gzip` is gzip (RFC 9110, section 8.4.1.3).
const CODINGS: [(&str, Algorithm); 4] =
    [("gzip", Algorithm::Gzip), ("br", Algorithm::Br), ("zstd", Algorithm::Zstd), ("x-gzip", Algorithm::Gzip)];

impl Algorithm {
    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Algorithm::Zstd => "zstd",
            Algorithm::Br => "br",
            Algorithm::Gzip => "gzip",
        })
    }
}

impl Unit for Type {
    const FORM: &'static str = "a content type such as \"text/html\", \"text/*\" or \"*+json\"";
    const PATTERN: &'static str = r"^([^*;, ]+/(\*|[^*;, ]+)|\*\+[^*;, ]+)$";
    fn parse(text: &str) -> Result<Type, Bad> {
        let lower = text.to_ascii_lowercase();
        let plain = |t: &str| !t.is_empty() && !t.contains(['*', ';', ' ', ',']);
        match (lower.strip_suffix("/*"), lower.strip_prefix("*+")) {
            (Some(main), _) if plain(main) && !main.contains('/') => Ok(Type::Prefix(format!("{main}/"))),
            (_, Some(suffix)) if plain(suffix) && !suffix.contains('/') => Ok(Type::Suffix(format!("+{suffix}"))),
            (None, None) if plain(&lower) && lower.matches('/').count() == 1 => Ok(Type::Exact(lower)),
            _ => Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::FORM))),
        }
    }
}
unit!(Type, "ContentType");
#[cfg(feature = "schema")]
crate::units::written!(Type);

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Exact(t) => f.write_str(t),
            Type::Prefix(t) => write!(f, "{t}*"),
            Type::Suffix(t) => write!(f, "*{t}"),
        }
    }
}

impl Type {
    fn matches(&self, essence: &str) -> bool {
        match self {
            Type::Exact(t) => essence == t,
            Type::Prefix(t) => essence.starts_with(&**t),
            Type::Suffix(t) => essence.ends_with(&**t),
        }
    }
}

enum Coder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    /// Done, or broken: it swallows what comes, since plain bytes may not follow coded ones.
    Spent,
}

impl Coder {
    fn new(algorithm: Algorithm, level: Option<u8>) -> io::Result<Coder> {
        let level = |usual: u8| level.unwrap_or(usual);
        Ok(match algorithm {
            Algorithm::Zstd => {
                let mut coder = zstd::stream::write::Encoder::new(vec![], level(3).into())?;
                coder.window_log(WINDOW)?;
                Coder::Zstd(coder)
            }
            Algorithm::Br => Coder::Br(Box::new(brotli::CompressorWriter::new(vec![], 4096, level(4).into(), WINDOW))),
            Algorithm::Gzip => {
                Coder::Gzip(flate2::write::GzEncoder::new(vec![], flate2::Compression::new(level(5).into())))
            }
        })
    }

    /// The bytes for the client; all that went in can be decoded from what came out so far.
    fn feed(&mut self, plain: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Coder::Zstd(c) => pushed(c, plain)?.get_mut(),
            Coder::Br(c) => pushed(&mut **c, plain)?.get_mut(),
            Coder::Gzip(c) => pushed(c, plain)?.get_mut(),
            Coder::Spent => return Ok(Bytes::new()),
        };
        Ok(std::mem::take(out).into())
    }

    fn finish(self, plain: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Coder::Zstd(mut c) => {
                c.write_all(plain)?;
                c.finish()?
            }
            Coder::Br(mut c) => {
                c.write_all(plain)?;
                c.into_inner()
            }
            Coder::Gzip(mut c) => {
                c.write_all(plain)?;
                c.finish()?
            }
            Coder::Spent => vec![],
        };
        Ok(out.into())
    }
}

fn pushed<'c, W: Write>(coder: &'c mut W, plain: &[u8]) -> io::Result<&'c mut W> {
    coder.write_all(plain)?;
    coder.flush()?;
    Ok(coder)
}

#[cfg(test)]
mod tests;
