//! The request's target, made canonical once: routed, inspected and forwarded in the same form.
//!
//! A path that could mean two things to two readers (an encoded slash, a hidden dot segment, an overlong encoding) is
//! refused, not repaired; everything else has exactly one form, and making it canonical twice changes nothing.
//! Its surprise: an already canonical target, which is nearly all of them, is only looked at, never copied.

use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest target that is looked at. Heads are limited further up; this bounds the work whoever calls.
const LONGEST: usize = 64 * 1024;

/// What is done with paths that different servers read differently.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "path")]
pub struct PathPolicy {
    /// `%2F` in a path: `reject` (default), `keep` it as part of its segment, or `decode` it into a separator.
    pub encoded_slash: EncodedSlash,
    /// `\` and `%5C` in a path: `reject` (default), `keep` as `%5C`, or take it for a `slash`, as Windows servers do.
    pub backslash: Backslash,
    /// `//` counts as `/` (default `true`). With `false`, empty segments match only `**`.
    pub merge_slashes: bool,
    /// Raw bytes above ASCII: `reject` (default), as RFC 3986 has it, or `encode` them as `%XX`.
    pub non_ascii: NonAscii,
}

impl Default for PathPolicy {
    fn default() -> PathPolicy {
        PathPolicy {
            encoded_slash: EncodedSlash::Reject,
            backslash: Backslash::Reject,
            merge_slashes: true,
            non_ascii: NonAscii::Reject,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlash {
    Reject,
    Keep,
    Decode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backslash {
    Reject,
    Keep,
    Slash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonAscii {
    Reject,
    Encode,
}

/// A canonical target: an absolute path and, after a `?`, its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical<'a> {
    target: Cow<'a, str>,
    path: usize,
}

impl<'a> Canonical<'a> {
    /// Path and query, as forwarded.
    pub fn target(&self) -> &str {
        &self.target
    }
    pub fn path(&self) -> &str {
        &self.target[..self.path]
    }
    /// What follows the first `?`, as sent.
    pub fn query(&self) -> Option<&str> {
        self.target.get(self.path + 1..)
    }
    /// The target differs from what was sent and must be written into the head.
    pub fn changed(&self) -> bool {
        matches!(self.target, Cow::Owned(_))
    }
    pub fn into_target(self) -> Cow<'a, str> {
        self.target
    }
}

/// Why a target is refused. All are the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NotAPath,
    TooLong,
    Escape,
    Control,
    Fragment,
    NonAscii,
    Overlong,
    EncodedSlash,
    Backslash,
    BeyondRoot,
    HiddenDots,
    /// A rewrite would change the structure that the configuration gave it.
    Rewrite,
}

impl Refused {
    pub fn status(self) -> u16 {
        if self == Refused::TooLong { 414 } else { 400 }
    }
    /// For the log and the client.
    pub fn reason(self) -> &'static str {
        match self {
            Refused::NotAPath => "the request target is not a path",
            Refused::TooLong => "the request target is too long",
            Refused::Escape => "a % in the path is not followed by two hexadecimal digits",
            Refused::Control => "a space or control character in the request target",
            Refused::Fragment => "a # in the request target",
            Refused::NonAscii => "a byte outside of ASCII in the request target",
            Refused::Overlong => "an overlong UTF-8 sequence in the path",
            Refused::EncodedSlash => "an encoded slash in the path",
            Refused::Backslash => "a backslash in the path",
            Refused::BeyondRoot => "the path leads above its root",
            Refused::HiddenDots => "a hidden dot segment in the path",
            Refused::Rewrite => "a value does not fit into the rewritten target",
        }
    }
    /// The rule's name in decisions and metrics.
    pub fn rule(self) -> &'static str {
        match self {
            Refused::NotAPath => "path.form",
            Refused::TooLong => "path.length",
            Refused::Escape => "path.escape",
            Refused::Control => "path.control",
            Refused::Fragment => "path.fragment",
            Refused::NonAscii => "path.non_ascii",
            Refused::Overlong => "path.overlong",
            Refused::EncodedSlash => "path.encoded_slash",
            Refused::Backslash => "path.backslash",
            Refused::BeyondRoot => "path.root",
            Refused::HiddenDots => "path.dots",
            Refused::Rewrite => "path.rewrite",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Refused {}

/// The one form of a request's target. Takes origin-form (`/a?b`) and absolute-form (`http://host/a?b`).
pub fn canonical<'a>(target: &'a [u8], policy: &PathPolicy) -> Result<Canonical<'a>, Refused> {
    form(target, policy, true)
}

/// As [`canonical`], for a target put together here: a dot segment in it is refused, since nobody meant it.
pub fn structured<'a>(target: &'a [u8], policy: &PathPolicy) -> Result<Canonical<'a>, Refused> {
    form(target, policy, false)
}

fn form<'a>(target: &'a [u8], policy: &PathPolicy, dots: bool) -> Result<Canonical<'a>, Refused> {
    if target.len() > LONGEST {
        return Err(Refused::TooLong);
    }
    let target = origin_form(target)?;
    let path = memchr::memchr(b'?', target).unwrap_or(target.len());
    let query = &target[path..];
    let query_is_ascii = check_query(query, policy)?;
    if query_is_ascii
        && is_canonical(&target[..path], policy)
        && let Ok(target) = std::str::from_utf8(target)
    {
        return Ok(Canonical { target: Cow::Borrowed(target), path });
    }
    let mut out = Writer { policy, dots, text: Vec::with_capacity(target.len() + 16), segment: 0 };
    out.path(&target[..path])?;
    let path = out.text.len();
    query.iter().for_each(|&b| if b < 0x80 { out.text.push(b) } else { out.escape(b) });
    let target = String::from_utf8(out.text).expect("every byte written is ASCII");
    Ok(Canonical { target: Cow::Owned(target), path })
}

/// Cuts the scheme and authority off an absolute-form target (RFC 9112, section 3.2.2).
fn origin_form(target: &[u8]) -> Result<&[u8], Refused> {
    if target.first() == Some(&b'/') {
        return Ok(target);
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|s| target.len() > s.len() && target[..s.len()].eq_ignore_ascii_case(s))
        .ok_or(Refused::NotAPath)?;
    let rest = &target[scheme.len()..];
    match rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')) {
        Some(0) => Err(Refused::NotAPath),
        Some(at) => Ok(&rest[at..]),
        None => Ok(b"/"),
    }
}

/// Whether the query is ASCII; it stays as it was sent, but for what no reader should have to see.
fn check_query(query: &[u8], policy: &PathPolicy) -> Result<bool, Refused> {
    if pairs(query, |b, _| (b > b' ') & (b < 0x7f) & (b != b'#')) {
        return Ok(true);
    }
    let mut ascii = true;
    for &b in query {
        match b {
            0..=b' ' | 0x7f => return Err(Refused::Control),
            b'#' => return Err(Refused::Fragment),
            0x80.. if policy.non_ascii == NonAscii::Reject => return Err(Refused::NonAscii),
            0x80.. => ascii = false,
            _ => {}
        }
    }
    Ok(ascii)
}

/// Whether `sound(byte, next byte)` holds all along; the last byte is followed by a letter. Sixteen at a time and without
/// a branch per byte, so that the compiler makes vector instructions of it.
#[inline(always)]
fn pairs(bytes: &[u8], sound: impl Fn(u8, u8) -> bool) -> bool {
    let block = |here: &[u8; 16], next: &[u8; 16]| (0..16).fold(true, |all, i| all & sound(here[i], next[i]));
    let mut rest = bytes;
    while let (Some(here), Some(next)) = (rest.first_chunk(), rest.get(1..).and_then(|r| r.first_chunk())) {
        if !block(here, next) {
            return false;
        }
        rest = &rest[16..];
    }
    let mut tail = [b'a'; 18];
    tail[..rest.len()].copy_from_slice(rest);
    block(tail.first_chunk().expect("18 > 16"), tail[1..].first_chunk().expect("17 > 16"))
}

/// What a byte of the path means to the scan.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Stands for itself wherever it is.
    Plain,
    Slash,
    Dot,
    Percent,
    /// Must be encoded, refused, or decided by the policy.
    Other,
}

/// RFC 3986, section 3.3: the characters of a segment.
const CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut b = 0;
    while b < 128 {
        let byte = b as u8;
        table[b] = match byte {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Class::Plain,
            _ if unreserved(byte) => Class::Plain,
            _ => Class::Other,
        };
        b += 1;
    }
    table
};

/// RFC 3986, section 2.3: these mean the same encoded and not, so the canonical form has them plain.
const fn unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// The fast look: true only if the path is canonical; false may still mean that it is.
fn is_canonical(path: &[u8], policy: &PathPolicy) -> bool {
    if path.is_empty() {
        return false;
    }
    if pairs(path, |b, next| plain(b) & !((b == b'/') & ((next == b'/') | (next == b'.')))) {
        return true;
    }
    let mut i = 0;
    while let Some(&b) = path.get(i) {
        i += 1;
        match CLASS[b as usize] {
            Class::Plain => {}
            Class::Slash => match path.get(i) {
                Some(b'/') if policy.merge_slashes => return false,
                Some(b'.') if suspicious_dots(&path[i..]) => return false,
                _ => {}
            },
            Class::Dot => {}
            Class::Percent => match path.get(i..i + 2) {
                Some(hex) if settled_escape(hex) => i += 2,
                _ => return false,
            },
            Class::Other => return false,
        }
    }
    true
}

/// [`Class::Plain`], a slash or a dot, as arithmetic.
fn plain(b: u8) -> bool {
    // from & to ; all are legal, then @ and the letters, then the few others
    (b.wrapping_sub(b'&') <= b';' - b'&')
        | (b.wrapping_sub(b'@') <= b'Z' - b'@')
        | (b.wrapping_sub(b'a') <= b'z' - b'a')
        | (b == b'_')
        | (b == b'=')
        | (b == b'~')
        | (b == b'!')
        | (b == b'$')
}

/// The segment that starts here is `.` or `..`, or hides one before a `;` or an escape.
fn suspicious_dots(rest: &[u8]) -> bool {
    let dots = rest.iter().take(3).take_while(|&&b| b == b'.').count();
    dots <= 2 && matches!(rest.get(dots), None | Some(b'/' | b';' | b'%'))
}

/// An escape in upper case of a byte that no rule speaks of.
fn settled_escape(hex: &[u8]) -> bool {
    let upper = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    upper(hex[0])
        && upper(hex[1])
        && match byte(hex[0], hex[1]) {
            Some(b) => {
                b >= b' ' && !unreserved(b) && !matches!(b, b'/' | b'\\' | b';' | 0x7f | 0xc0 | 0xc1 | 0xe0 | 0xf0)
            }
            None => false,
        }
}

fn byte(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

/// Writes the canonical path. One pass: a segment is judged when it ends.
struct Writer<'p> {
    policy: &'p PathPolicy,
    /// Dot segments are resolved, not refused.
    dots: bool,
    text: Vec<u8>,
    /// Where the segment being written starts, after its slash.
    segment: usize,
}

impl Writer<'_> {
    fn path(&mut self, path: &[u8]) -> Result<(), Refused> {
        self.text.push(b'/');
        self.segment = 1;
        let mut i = usize::from(path.first() == Some(&b'/'));
        while let Some(&b) = path.get(i) {
            i += 1;
            match CLASS[b as usize] {
                Class::Plain | Class::Dot => self.text.push(b),
                Class::Slash => self.slash()?,
                Class::Percent => {
                    let hex = path.get(i..i + 2).ok_or(Refused::Escape)?;
                    let b = byte(hex[0], hex[1]).ok_or(Refused::Escape)?;
                    i += 2;
                    self.escaped(b)?;
                }
                Class::Other => self.illegal(b)?,
            }
        }
        self.end_segment()
    }

    /// A byte that came as `%XX`.
    fn escaped(&mut self, b: u8) -> Result<(), Refused> {
        match b {
            0..b' ' | 0x7f => return Err(Refused::Control),
            b'/' => match self.policy.encoded_slash {
                EncodedSlash::Reject => return Err(Refused::EncodedSlash),
                EncodedSlash::Keep => self.escape(b),
                EncodedSlash::Decode => self.slash()?,
            },
            b'\\' => self.backslash()?,
            _ if unreserved(b) => self.text.push(b),
            _ => self.escape(b),
        }
        Ok(())
    }

    /// A raw byte that may not stand in a path.
    fn illegal(&mut self, b: u8) -> Result<(), Refused> {
        match b {
            0..=b' ' | 0x7f => return Err(Refused::Control),
            b'#' => return Err(Refused::Fragment),
            b'\\' => self.backslash()?,
            0x80.. if self.policy.non_ascii == NonAscii::Reject => return Err(Refused::NonAscii),
            _ => self.escape(b),
        }
        Ok(())
    }

    fn backslash(&mut self) -> Result<(), Refused> {
        match self.policy.backslash {
            Backslash::Reject => return Err(Refused::Backslash),
            Backslash::Keep => self.escape(b'\\'),
            Backslash::Slash => self.slash()?,
        }
        Ok(())
    }

    fn escape(&mut self, b: u8) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.text.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }

    fn slash(&mut self) -> Result<(), Refused> {
        let before = self.segment;
        let empty = self.text.len() == before;
        self.end_segment()?;
        // a dot segment goes with its slash (RFC 3986, section 5.2.4)
        let dots = self.text.len() == self.segment && !empty;
        if !(dots || empty && self.policy.merge_slashes) {
            self.text.push(b'/');
            self.segment = self.text.len();
        }
        Ok(())
    }

    /// Judges the segment just written; a dot segment is taken back, with what it undoes.
    fn end_segment(&mut self) -> Result<(), Refused> {
        match &self.text[self.segment..] {
            b"." | b".." if !self.dots => return Err(Refused::Rewrite),
            b"." => self.text.truncate(self.segment),
            b".." => {
                let parent = self.segment - 1;
                let above = self.text[..parent].iter().rposition(|&b| b == b'/').ok_or(Refused::BeyondRoot)?;
                self.segment = above + 1;
                self.text.truncate(self.segment);
            }
            segment if hides_dots(segment) => return Err(Refused::HiddenDots),
            segment if overlong(segment) => return Err(Refused::Overlong),
            _ => {}
        }
        Ok(())
    }
}

/// `..;x`, and `..%2F` or `..%5C` where these are kept: a dot segment for a reader that cuts parameters off, or decodes.
fn hides_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    loop {
        let dots = rest.iter().take_while(|&&b| b == b'.').count();
        let after = &rest[dots..];
        let ends =
            after.is_empty() || after[0] == b';' || [&b"%2F"[..], b"%5C", b"%3B"].iter().any(|e| after.starts_with(e));
        if (1..=2).contains(&dots) && ends {
            return true;
        }
        let Some(cut) = after.windows(3).position(|w| w == b"%2F" || w == b"%5C") else { return false };
        rest = &after[cut + 3..];
    }
}

/// UTF-8 that spells a character longer than needed, which a lax decoder reads as `.` or `/` (RFC 3629, section 10).
fn overlong(segment: &[u8]) -> bool {
    segment.windows(6).any(|w| {
        w[0] == b'%'
            && w[3] == b'%'
            && match (byte(w[1], w[2]), byte(w[4], w[5])) {
                (Some(0xc0 | 0xc1), Some(next)) => (0x80..0xc0).contains(&next),
                (Some(0xe0), Some(next)) => (0x80..0xa0).contains(&next),
                (Some(0xf0), Some(next)) => (0x80..0x90).contains(&next),
                _ => false,
            }
    })
}

/// Who was asked for: the host in its one form, and the port if it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower case, no final dot; an IPv6 literal keeps its brackets, in the form of RFC 5952.
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Reads a `Host` header or `:authority`. `None`: not a valid host (RFC 9110, section 7.2; userinfo is not allowed).
/// Names follow RFC 1123, and may have underscores, which are not in it but in use.
pub fn host(text: &str) -> Option<Authority<'_>> {
    if let Some(rest) = text.strip_prefix('[') {
        let (literal, port) = rest.split_once(']')?;
        let address: Ipv6Addr = literal.parse().ok()?;
        let canonical = format!("[{address}]");
        let host = match text.get(..literal.len() + 2) {
            Some(same) if same == canonical => Cow::Borrowed(same),
            _ => Cow::Owned(canonical),
        };
        return Some(Authority {
            host,
            port: if port.is_empty() { None } else { self::port(port.strip_prefix(':')?)? },
        });
    }
    let (name, port) = match memchr::memchr(b':', text.as_bytes()) {
        Some(colon) => (&text[..colon], self::port(&text[colon + 1..])?),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let upper = labels(name)?;
    let host = if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    Some(Authority { host, port })
}

/// Whether a valid name has letters in upper case.
fn labels(name: &str) -> Option<bool> {
    let mut upper = false;
    let mut before = b'.';
    let mut length = 0;
    for &b in name.as_bytes() {
        match b {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => {}
            b'A'..=b'Z' => upper = true,
            b'-' if before != b'.' => {}
            b'.' if before != b'.' && before != b'-' => length = 0,
            _ => return None,
        }
        length += usize::from(b != b'.');
        if length > 63 {
            return None;
        }
        before = b;
    }
    (name.len() <= 253 && before != b'.' && before != b'-').then_some(upper)
}

/// A port; an empty one counts as not written (RFC 3986, section 3.2.3).
fn port(text: &str) -> Option<Option<u16>> {
    match text {
        "" => Some(None),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().filter(|p| *p > 0).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canon(target: &str) -> Result<String, Refused> {
        with(&PathPolicy::default(), target)
    }
    fn with(policy: &PathPolicy, target: &str) -> Result<String, Refused> {
        canonical(target.as_bytes(), policy).map(|c| c.into_target().into_owned())
    }

    #[test]
    fn one_form() {
        for (sent, form) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/.", "/"),
            ("/a/b/../../c", "/c"),
            ("/%2e/a", "/a"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/%7euser/%41", "/~user/A"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a|b[c]", "/a%7Cb%5Bc%5D"),
            ("/...", "/..."),
            ("/..a", "/..a"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a?b=/../c", "/a?b=/../c"),
            ("/a/../?x=%2e", "/?x=%2e"),
            ("/a?", "/a?"),
            ("/a?x=100%", "/a?x=100%"),
            ("http://h/a/../b?c", "/b?c"),
            ("HTTPS://h:1", "/"),
            ("http://h?c", "/?c"),
        ] {
            assert_eq!(canon(sent).as_deref(), Ok(form), "{sent}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (sent, why) in [
            ("", Refused::NotAPath),
            ("*", Refused::NotAPath),
            ("a/b", Refused::NotAPath),
            ("ftp://h/a", Refused::NotAPath),
            ("http:///a", Refused::NotAPath),
            ("h:443", Refused::NotAPath),
            ("/a%2fb", Refused::EncodedSlash),
            ("/a%5cb", Refused::Backslash),
            ("/a\\..\\b", Refused::Backslash),
            ("/a%00", Refused::Control),
            ("/a%0d%0aX: y", Refused::Control),
            ("/a b", Refused::Control),
            ("/a\tb", Refused::Control),
            ("/a#b", Refused::Fragment),
            ("/a?b#c", Refused::Fragment),
            ("/a?b\nc", Refused::Control),
            ("/%", Refused::Escape),
            ("/%4", Refused::Escape),
            ("/%u002f", Refused::Escape),
            ("/%zz", Refused::Escape),
            ("/%+1", Refused::Escape),
            ("/..", Refused::BeyondRoot),
            ("/../a", Refused::BeyondRoot),
            ("/a/../../b", Refused::BeyondRoot),
            ("/a/..;/b", Refused::HiddenDots),
            ("/a/..;x=y/b", Refused::HiddenDots),
            ("/a/.;/b", Refused::HiddenDots),
            ("/a/..%3b/b", Refused::HiddenDots),
            ("/a/%2e%2e;/b", Refused::HiddenDots),
            ("/%c0%ae%c0%ae/", Refused::Overlong),
            ("/%c0%af", Refused::Overlong),
            ("/%e0%80%af", Refused::Overlong),
            ("/%f0%80%80%af", Refused::Overlong),
            ("/café", Refused::NonAscii),
            ("/a?é", Refused::NonAscii),
        ] {
            assert_eq!(canon(sent), Err(why), "{sent}");
        }
        assert_eq!(canonical(&vec![b'/'; LONGEST + 1], &PathPolicy::default()), Err(Refused::TooLong));
    }

    #[test]
    fn policies() {
        let base = PathPolicy::default;
        let keep = PathPolicy { encoded_slash: EncodedSlash::Keep, backslash: Backslash::Keep, ..base() };
        assert_eq!(with(&keep, "/a%2fb\\c").as_deref(), Ok("/a%2Fb%5Cc"));
        for hidden in ["/a/..%2fb", "/a%2f..", "/x%2f..%2fy", "/a%5c..%5cb", "/a%2F.%2Fb", "/a%2f..;x"] {
            assert_eq!(with(&keep, hidden), Err(Refused::HiddenDots), "{hidden}");
        }
        let decode = PathPolicy { encoded_slash: EncodedSlash::Decode, backslash: Backslash::Slash, ..base() };
        assert_eq!(with(&decode, "/a%2f..%5cb\\c").as_deref(), Ok("/b/c"));
        assert_eq!(with(&decode, "/a%2f..%2f..%2fb"), Err(Refused::BeyondRoot));
        let apart = PathPolicy { merge_slashes: false, ..base() };
        assert_eq!(with(&apart, "//a//b/").as_deref(), Ok("//a//b/"));
        assert_eq!(with(&apart, "/a//../b").as_deref(), Ok("/a/b"));
        let encode = PathPolicy { non_ascii: NonAscii::Encode, ..base() };
        assert_eq!(with(&encode, "/café?é").as_deref(), Ok("/caf%C3%A9?%C3%A9"));
    }

    #[test]
    fn canonical_targets_are_not_copied() {
        for target in ["/", "/v1/users/42?x=y", "/a/.well-known/..x/%20%C3%A9/;v", "/static/app.min.js"] {
            let got = canonical(target.as_bytes(), &PathPolicy::default()).unwrap();
            assert!(!got.changed(), "{target}");
        }
        let c = canonical(b"/a/%2e/b?c?d", &PathPolicy::default()).unwrap();
        assert_eq!((c.path(), c.query(), c.changed()), ("/a/b", Some("c?d"), true));
        assert_eq!(canonical(b"/a", &PathPolicy::default()).unwrap().query(), None);
    }

    #[test]
    fn the_arithmetic_agrees_with_the_table() {
        for b in 0..=255 {
            let table = matches!(CLASS[usize::from(b)], Class::Plain | Class::Slash | Class::Dot);
            assert_eq!(plain(b), table, "{b}");
        }
        for length in 0..50 {
            let text = vec![b'a'; length];
            assert!(pairs(&text, |b, next| b == b'a' && next == b'a'));
            for at in 0..length {
                let mut text = text.clone();
                text[at] = b'x';
                assert!(!pairs(&text, |b, _| b == b'a') && (at == 0 || !pairs(&text, |_, next| next == b'a')));
            }
        }
    }

    #[test]
    fn hosts() {
        for (text, host_, port) in [
            ("example.com", "example.com", None),
            ("Example.COM.:8443", "example.com", Some(8443)),
            ("a_b.local:", "a_b.local", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]:3000", "[::1]", Some(3000)),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]", None),
        ] {
            let got = host(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((&*got.host, got.port), (host_, port), "{text}");
        }
        for wrong in [
            "",
            ".",
            "a..b",
            "-a.com",
            "a-.com",
            "u@h",
            "u:p@h",
            "h:0",
            "h:65536",
            "h:+1",
            "h:x",
            "[::1",
            "[::1]x",
            "[v1.x]",
            "::1",
            "a b",
            "a/b",
            "a%41",
            "é.com",
            "h:1:2",
            "[fe80::1%25eth0]",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        assert_eq!(host(&format!("{}.com", "a".repeat(64))), None);
        assert_eq!(host(&"a.".repeat(127)), host(&"a.".repeat(127)));
        assert!(host(&"a.".repeat(128)).is_none());
    }

    /// The slow twin: the same rules as separate passes over whole strings.
    fn twin(target: &str, policy: &PathPolicy) -> Result<String, ()> {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        if policy.non_ascii == NonAscii::Reject && !query.is_ascii() {
            return Err(());
        }
        if !path.starts_with('/') || query.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#') {
            return Err(());
        }
        let mut decoded = String::new();
        let mut rest = path;
        while let Some(c) = rest.chars().next() {
            let (value, escaped, len) = match c {
                '%' => {
                    let hex = rest.get(1..3).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(())?;
                    (u8::from_str_radix(hex, 16).map_err(drop)?, true, 3)
                }
                c if c.is_ascii() => (c as u8, false, 1),
                c if policy.non_ascii == NonAscii::Encode => {
                    c.to_string().bytes().for_each(|b| decoded += &format!("%{b:02X}"));
                    rest = &rest[c.len_utf8()..];
                    continue;
                }
                _ => return Err(()),
            };
            rest = &rest[len..];
            let kept = format!("%{value:02X}");
            decoded += &match value {
                b' ' if escaped => kept,
                0..=b' ' | 0x7f => return Err(()),
                b'#' if !escaped => return Err(()),
                b'\\' => match policy.backslash {
                    Backslash::Reject => return Err(()),
                    Backslash::Keep => kept,
                    Backslash::Slash => "/".into(),
                },
                b'/' if escaped => match policy.encoded_slash {
                    EncodedSlash::Reject => return Err(()),
                    EncodedSlash::Keep => kept,
                    EncodedSlash::Decode => "/".into(),
                },
                b if unreserved(b) => (b as char).to_string(),
                b if !escaped && (b == b'/' || b"!$&'()*+,;=:@".contains(&b)) => (b as char).to_string(),
                _ => kept,
            };
        }
        let segments: Vec<&str> = decoded[1..].split('/').collect();
        let last = segments.len() - 1;
        let mut stack: Vec<&str> = vec![];
        for (i, segment) in segments.iter().enumerate() {
            match *segment {
                "" if policy.merge_slashes && i < last => {}
                "." | ".." => {
                    if *segment == ".." {
                        stack.pop().ok_or(())?;
                    }
                    if i == last {
                        stack.push("");
                    }
                }
                s => {
                    let pieces = s.replace("%5C", "%2F");
                    let pieces: Vec<&str> = pieces.split("%2F").collect();
                    for piece in pieces {
                        let bare = piece.replace("%3B", ";");
                        if matches!(bare.split(';').next(), Some("." | "..")) {
                            return Err(());
                        }
                    }
                    for lead in ["%C0", "%C1", "%E0", "%F0"] {
                        for (at, _) in s.match_indices(lead) {
                            let next = s.get(at + 3..at + 6).filter(|n| n.starts_with('%')).map(|n| &n[1..]);
                            let next = next.and_then(|n| u8::from_str_radix(n, 16).ok()).unwrap_or(0);
                            let end = match lead {
                                "%E0" => 0xa0,
                                "%F0" => 0x90,
                                _ => 0xc0,
                            };
                            if (0x80..end).contains(&next) {
                                return Err(());
                            }
                        }
                    }
                    stack.push(s);
                }
            }
        }
        Ok(format!(
            "/{}{}",
            stack.join("/"),
            query.bytes().fold(String::new(), |q, b| match b {
                0x80.. => q + &format!("%{b:02X}"),
                b => q + &(b as char).to_string(),
            })
        ))
    }

    fn policy() -> impl Strategy<Value = PathPolicy> {
        use proptest::sample::select;
        (
            select(vec![EncodedSlash::Reject, EncodedSlash::Keep, EncodedSlash::Decode]),
            select(vec![Backslash::Reject, Backslash::Keep, Backslash::Slash]),
            any::<bool>(),
            select(vec![NonAscii::Reject, NonAscii::Encode]),
        )
            .prop_map(|(encoded_slash, backslash, merge_slashes, non_ascii)| PathPolicy {
                encoded_slash,
                backslash,
                merge_slashes,
                non_ascii,
            })
    }

    /// Targets made of the pieces that matter, so that nearly every case is an interesting one.
    fn target() -> impl Strategy<Value = String> {
        let piece = proptest::sample::select(vec![
            "/", "/", "/", ".", "..", "a", "b", "Z", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", "%00", "%20", "%25", "%",
            "%4", "%41", ";", "%3b", "%3B", "?", "#", " ", "é", "%c0", "%C1", "%e0", "%f0", "%80", "%af", "%AE", "~",
            "[", "\"", "\u{7f}",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|p| format!("/{}", p.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn fast_equals_slow(target in target(), policy in policy()) {
            let fast = canonical(target.as_bytes(), &policy);
            prop_assert_eq!(fast.clone().map(|c| c.into_target().into_owned()).map_err(drop), twin(&target, &policy));
            if let Ok(c) = fast {
                prop_assert_eq!(!c.changed() , !c.changed() && c.target() == target);
            }
        }

        #[test]
        fn twice_is_once(target in target(), policy in policy()) {
            if let Ok(once) = canonical(target.as_bytes(), &policy) {
                let twice = canonical(once.target().as_bytes(), &policy);
                prop_assert_eq!(twice.as_ref().map(|t| t.target()), Ok(once.target()));
                let dots = |s: &str| matches!(s.split([';']).next(), Some("." | ".."));
                prop_assert!(!once.path().split('/').any(dots), "{}", once.path());
                prop_assert!(once.target().is_ascii() && !once.target().contains(['\\', '#', ' ']) || once.query().is_some());
            }
        }

        #[test]
        fn any_bytes(target in prop::collection::vec(any::<u8>(), 0..64), policy in policy()) {
            let _ = canonical(&target, &policy);
            let _ = host(&String::from_utf8_lossy(&target));
        }
    }
}
