//! The transformations: bytes to bytes, as ModSecurity defines them, malformed input included.
//!
//! Each writes its result into a buffer and says whether anything changed; most values pass most transformations
//! untouched, and then nothing is copied. What can make a transformation act at all is told by its trigger (`Class`), on
//! which the fast plan rests: no byte of the trigger class in the value means identity.

mod entity;
mod hash;

use std::fmt;

macro_rules! transforms {
    ($($variant:ident $($name:literal)|+,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Transform { $($variant,)* }

        impl Transform {
            pub const ALL: &'static [Transform] = &[$(Transform::$variant,)*];

            /// By its name in rules, without case.
            pub fn parse(name: &str) -> Option<Transform> {
                match name.to_ascii_lowercase().as_str() {
                    $($($name)|+ => Some(Transform::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

transforms! {
    Base64Decode "base64decode",
    Base64DecodeExt "base64decodeext",
    Base64Encode "base64encode",
    CmdLine "cmdline",
    CompressWhitespace "compresswhitespace",
    CssDecode "cssdecode",
    EscapeSeqDecode "escapeseqdecode",
    HexDecode "hexdecode",
    HexEncode "hexencode",
    HtmlEntityDecode "htmlentitydecode",
    JsDecode "jsdecode",
    Length "length",
    Lowercase "lowercase",
    Md5 "md5",
    NormalizePath "normalizepath" | "normalisepath",
    NormalizePathWin "normalizepathwin" | "normalisepathwin",
    RemoveComments "removecomments",
    RemoveCommentsChar "removecommentschar",
    RemoveNulls "removenulls",
    RemoveWhitespace "removewhitespace",
    ReplaceComments "replacecomments",
    ReplaceNulls "replacenulls",
    Sha1 "sha1",
    SqlHexDecode "sqlhexdecode",
    Trim "trim",
    TrimLeft "trimleft",
    TrimRight "trimright",
    Uppercase "uppercase",
    UrlDecode "urldecode",
    UrlDecodeUni "urldecodeuni",
    UrlEncode "urlencode",
    Utf8ToUnicode "utf8tounicode",
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Transform {
    /// Writes the transformed `input` into `out` (cleared first). `false`: the value stays as it is and `out` means
    /// nothing.
    pub fn apply(self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if !self.may_change(input) {
            return false;
        }
        out.clear();
        match self {
            Transform::Base64Decode => base64_decode(input, out, false),
            Transform::Base64DecodeExt => base64_decode(input, out, true),
            Transform::Base64Encode => base64_encode(input, out),
            Transform::CmdLine => cmd_line(input, out),
            Transform::CompressWhitespace => compress_whitespace(input, out),
            Transform::CssDecode => css_decode(input, out),
            Transform::EscapeSeqDecode => escape_seq_decode(input, out),
            Transform::HexDecode => hex_decode(input, out),
            Transform::HexEncode => hex_encode(input, out),
            Transform::HtmlEntityDecode => entity::decode(input, out),
            Transform::JsDecode => js_decode(input, out),
            Transform::Length => out.extend_from_slice(input.len().to_string().as_bytes()),
            Transform::Lowercase => out.extend(input.iter().map(u8::to_ascii_lowercase)),
            Transform::Uppercase => out.extend(input.iter().map(u8::to_ascii_uppercase)),
            Transform::Md5 => out.extend_from_slice(&hash::md5(input)),
            Transform::Sha1 => out.extend_from_slice(&hash::sha1(input)),
            Transform::NormalizePath => normalize_path(input, out, false),
            Transform::NormalizePathWin => normalize_path(input, out, true),
            Transform::RemoveComments => remove_comments(input, out),
            Transform::RemoveCommentsChar => remove_comments_char(input, out),
            Transform::RemoveNulls => out.extend(input.iter().filter(|b| **b != 0)),
            Transform::ReplaceNulls => out.extend(input.iter().map(|b| if *b == 0 { b' ' } else { *b })),
            Transform::RemoveWhitespace => remove_whitespace(input, out),
            Transform::ReplaceComments => replace_comments(input, out),
            Transform::SqlHexDecode => sql_hex_decode(input, out),
            Transform::Trim => out.extend_from_slice(trim_right(trim_left(input))),
            Transform::TrimLeft => out.extend_from_slice(trim_left(input)),
            Transform::TrimRight => out.extend_from_slice(trim_right(input)),
            Transform::UrlDecode | Transform::UrlDecodeUni => {
                url_decode(input, out, self == Transform::UrlDecodeUni);
            }
            Transform::UrlEncode => url_encode(input, out),
            Transform::Utf8ToUnicode => utf8_to_unicode(input, out),
        }
        out.as_slice() != input
    }

    /// Whether a value holds any byte that can make this transformation act.
    fn may_change(self, input: &[u8]) -> bool {
        match self {
            Transform::Length | Transform::Md5 | Transform::Sha1 | Transform::HexEncode | Transform::HexDecode => true,
            Transform::Base64Decode | Transform::Base64DecodeExt | Transform::Base64Encode => !input.is_empty(),
            Transform::CssDecode | Transform::EscapeSeqDecode | Transform::JsDecode => {
                memchr::memchr(b'\\', input).is_some()
            }
            Transform::HtmlEntityDecode => memchr::memchr(b'&', input).is_some(),
            Transform::UrlDecode | Transform::UrlDecodeUni => memchr::memchr2(b'%', b'+', input).is_some(),
            Transform::RemoveNulls | Transform::ReplaceNulls => memchr::memchr(0, input).is_some(),
            Transform::Utf8ToUnicode => !input.is_ascii(),
            Transform::Lowercase => input.iter().any(u8::is_ascii_uppercase),
            _ => {
                let trigger = self.trigger();
                input.iter().any(|b| trigger.contains(*b))
            }
        }
    }

    /// The bytes without any of which this transformation is the identity.
    pub fn trigger(self) -> ByteSet {
        const UPPER: ByteSet = ByteSet::of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        const LOWER: ByteSet = ByteSet::of(b"abcdefghijklmnopqrstuvwxyz");
        const SPACE: ByteSet = ByteSet::of(b" \t\r\n\x0b\x0c\xa0");
        const SHELL: ByteSet = UPPER.union(ByteSet::of(b"\\\"'^,; \t\r\n/("));
        const ESCAPE: ByteSet = ByteSet::of(b"\\");
        const ENTITY: ByteSet = ByteSet::of(b"&");
        const PATH: ByteSet = ByteSet::of(b"/");
        const PATH_WIN: ByteSet = ByteSet::of(b"/\\");
        const COMMENT: ByteSet = ByteSet::of(b"/-#<*");
        const NUL: ByteSet = ByteSet::of(b"\0");
        const HEX: ByteSet = ByteSet::of(b"xX");
        const PERCENT: ByteSet = ByteSet::of(b"%+");
        const PLAIN: ByteSet = UPPER.union(LOWER).union(ByteSet::of(b"0123456789*"));
        match self {
            Transform::Base64Decode
            | Transform::Base64DecodeExt
            | Transform::Base64Encode
            | Transform::HexDecode
            | Transform::HexEncode
            | Transform::Length
            | Transform::Md5
            | Transform::Sha1 => ByteSet::ALL,
            Transform::Lowercase => UPPER,
            Transform::Uppercase => LOWER,
            Transform::CmdLine => SHELL,
            Transform::CompressWhitespace
            | Transform::RemoveWhitespace
            | Transform::Trim
            | Transform::TrimLeft
            | Transform::TrimRight => SPACE,
            Transform::CssDecode | Transform::EscapeSeqDecode | Transform::JsDecode => ESCAPE,
            Transform::HtmlEntityDecode => ENTITY,
            Transform::NormalizePath => PATH,
            Transform::NormalizePathWin => PATH_WIN,
            Transform::RemoveComments | Transform::RemoveCommentsChar => COMMENT,
            Transform::ReplaceComments => PATH,
            Transform::RemoveNulls | Transform::ReplaceNulls => NUL,
            Transform::SqlHexDecode => HEX,
            Transform::UrlDecode | Transform::UrlDecodeUni => PERCENT,
            Transform::UrlEncode => PLAIN.not(),
            Transform::Utf8ToUnicode => ByteSet::HIGH,
        }
    }
}

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    pub const EMPTY: ByteSet = ByteSet([0; 4]);
    pub const ALL: ByteSet = ByteSet([u64::MAX; 4]);
    pub const HIGH: ByteSet = ByteSet([0, 0, u64::MAX, u64::MAX]);

    pub const fn of(bytes: &[u8]) -> ByteSet {
        let mut set = ByteSet([0; 4]);
        let mut i = 0;
        while i < bytes.len() {
            set.0[(bytes[i] >> 6) as usize] |= 1 << (bytes[i] & 63);
            i += 1;
        }
        set
    }

    pub fn insert(&mut self, b: u8) {
        self.0[(b >> 6) as usize] |= 1 << (b & 63);
    }

    pub const fn contains(&self, b: u8) -> bool {
        self.0[(b >> 6) as usize] >> (b & 63) & 1 == 1
    }

    pub const fn not(self) -> ByteSet {
        ByteSet([!self.0[0], !self.0[1], !self.0[2], !self.0[3]])
    }

    pub const fn meets(&self, other: &ByteSet) -> bool {
        self.0[0] & other.0[0] != 0
            || self.0[1] & other.0[1] != 0
            || self.0[2] & other.0[2] != 0
            || self.0[3] & other.0[3] != 0
    }

    pub fn is_subset(&self, other: &ByteSet) -> bool {
        !self.meets(&other.not())
    }

    pub const fn union(self, o: ByteSet) -> ByteSet {
        ByteSet([self.0[0] | o.0[0], self.0[1] | o.0[1], self.0[2] | o.0[2], self.0[3] | o.0[3]])
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The bytes of a value.
    pub fn from_value(value: &[u8]) -> ByteSet {
        let mut set = ByteSet::EMPTY;
        for b in value {
            set.insert(*b);
        }
        set
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [a, b, ..] => Some(hex(*a)? << 4 | hex(*b)?),
        _ => None,
    }
}

/// Full-width ASCII (U+FF01 to U+FF5E) folds onto ASCII, so that `%uff1c` is `<`.
fn unicode_byte(high: u8, low: u8) -> u8 {
    if high == 0xff && low > 0 && low < 0x5f { low + 0x20 } else { low }
}

/// `+`, `%hh` and, for `urlDecodeUni`, `%uhhhh`. Invalid sequences stay as they are.
pub(crate) fn url_decode(input: &[u8], out: &mut Vec<u8>, uni: bool) -> bool {
    let mut valid = true;
    let mut i = 0;
    while i < input.len() {
        let rest = &input[i + 1..];
        match input[i] {
            b'+' => out.push(b' '),
            b'%' if uni && matches!(rest.first(), Some(b'u' | b'U')) => {
                match (rest.get(1..).and_then(hex_pair), rest.get(3..).and_then(hex_pair)) {
                    (Some(high), Some(low)) => {
                        out.push(unicode_byte(high, low));
                        i += 5;
                    }
                    _ => out.push(b'%'),
                }
            }
            b'%' => match hex_pair(rest) {
                Some(byte) => {
                    out.push(byte);
                    i += 2;
                }
                None => {
                    valid = false;
                    out.push(b'%');
                }
            },
            b => out.push(b),
        }
        i += 1;
    }
    valid
}

/// `%hh` only, as paths have it: a `+` in a path is a plus.
pub(crate) fn percent_decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        match (input[i], hex_pair(&input[i + 1..])) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
}

fn url_encode(input: &[u8], out: &mut Vec<u8>) {
    for &b in input {
        match b {
            b' ' => out.push(b'+'),
            b'*' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(b),
            _ => {
                out.push(b'%');
                push_hex(b, out);
            }
        }
    }
}

fn push_hex(b: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(DIGITS[usize::from(b >> 4)]);
    out.push(DIGITS[usize::from(b & 15)]);
}

fn hex_encode(input: &[u8], out: &mut Vec<u8>) {
    input.iter().for_each(|b| push_hex(*b, out));
}

fn hex_decode(input: &[u8], out: &mut Vec<u8>) {
    out.extend(input.chunks_exact(2).map(|p| hex(p[0]).unwrap_or(0) << 4 | hex(p[1]).unwrap_or(0)));
}

fn base64_value(b: u8) -> Option<u32> {
    Some(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    } as u32)
}

/// Decodes up to the first byte that is not base64; the forgiving form skips such bytes.
fn base64_decode(input: &[u8], out: &mut Vec<u8>, forgiving: bool) {
    let (mut bits, mut count) = (0u32, 0u32);
    for &b in input {
        let Some(v) = base64_value(b) else {
            if forgiving || matches!(b, b'\r' | b'\n') {
                continue;
            }
            break;
        };
        bits = bits << 6 | v;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
}

fn base64_encode(input: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in input.chunks(3) {
        let n = u32::from(chunk[0]) << 16
            | u32::from(*chunk.get(1).unwrap_or(&0)) << 8
            | u32::from(*chunk.get(2).unwrap_or(&0));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(ALPHABET[(n >> (18 - 6 * i) & 63) as usize]);
            } else {
                out.push(b'=');
            }
        }
    }
}

/// Undoes what a shell does not see: quotes, carets and backslashes go, separators become one blank, case is folded.
fn cmd_line(input: &[u8], out: &mut Vec<u8>) {
    let mut space = false;
    for &b in input {
        match b {
            b'"' | b'\'' | b'\\' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if !space {
                    out.push(b' ');
                    space = true;
                }
            }
            b'/' | b'(' => {
                if space {
                    out.pop();
                }
                space = false;
                out.push(b);
            }
            _ => {
                out.push(b.to_ascii_lowercase());
                space = false;
            }
        }
    }
}

fn compress_whitespace(input: &[u8], out: &mut Vec<u8>) {
    let mut space = false;
    for &b in input {
        if is_space(b) || b == 0xa0 {
            if !space {
                out.push(b' ');
            }
            space = true;
        } else {
            out.push(b);
            space = false;
        }
    }
}

fn remove_whitespace(input: &[u8], out: &mut Vec<u8>) {
    out.extend(input.iter().filter(|b| !is_space(**b) && **b != 0xa0));
}

fn trim_left(input: &[u8]) -> &[u8] {
    let start = input.iter().position(|b| !is_space(*b)).unwrap_or(input.len());
    &input[start..]
}

fn trim_right(input: &[u8]) -> &[u8] {
    let end = input.iter().rposition(|b| !is_space(*b)).map_or(0, |i| i + 1);
    &input[..end]
}

/// CSS escapes: a backslash and one to six hex digits (one blank after them belongs to the escape), a backslash and a
/// newline (nothing), a backslash and anything else (that character).
fn css_decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        if input[i] != b'\\' {
            out.push(input[i]);
            i += 1;
            continue;
        }
        i += 1;
        let digits = input[i..].iter().take(6).take_while(|b| hex(**b).is_some()).count();
        if digits > 0 {
            let value = input[i..i + digits].iter().fold(0u32, |v, b| v << 4 | u32::from(hex(*b).unwrap_or(0)));
            let low = value as u8;
            // Four digits or more may be full width: only with nothing but zeros above them.
            let full = digits >= 4 && value >> 8 == 0xff;
            out.push(if full { unicode_byte(0xff, low) } else { low });
            i += digits;
            if input.get(i).is_some_and(|b| is_space(*b)) {
                i += 1;
            }
        } else if let Some(&b) = input.get(i) {
            if b != b'\n' {
                out.push(b);
            }
            i += 1;
        }
    }
}

/// ANSI C escapes: `\a \b \f \n \r \t \v \\ \? \' \"`, `\xhh`, `\ooo`. An invalid one stays as it is.
fn escape_seq_decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        let Some(&next) = input.get(i + 1).filter(|_| input[i] == b'\\') else {
            out.push(input[i]);
            i += 1;
            continue;
        };
        let simple = match next {
            b'a' => Some(7),
            b'b' => Some(8),
            b'f' => Some(12),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(11),
            b'\\' | b'?' | b'\'' | b'"' => Some(next),
            _ => None,
        };
        if let Some(b) = simple {
            out.push(b);
            i += 2;
        } else if let Some(b) = (next == b'x' || next == b'X').then(|| input.get(i + 2..).and_then(hex_pair)).flatten()
        {
            out.push(b);
            i += 4;
        } else if let Some((value, len)) = octal(&input[i + 1..]) {
            out.push(value);
            i += 1 + len;
        } else {
            out.push(b'\\');
            i += 1;
        }
    }
}

/// One to three octal digits; three only while the value fits a byte.
fn octal(input: &[u8]) -> Option<(u8, usize)> {
    let len = input.iter().take(3).take_while(|b| (b'0'..=b'7').contains(*b)).count();
    let len = if len == 3 && input[0] > b'3' { 2 } else { len };
    (len > 0).then(|| (input[..len].iter().fold(0u8, |v, b| v << 3 | (b - b'0')), len))
}

/// JavaScript escapes: `\uhhhh`, `\xhh`, `\ooo`, the single letters, and a backslash before anything else goes.
fn js_decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        let Some(&next) = input.get(i + 1).filter(|_| input[i] == b'\\') else {
            out.push(input[i]);
            i += 1;
            continue;
        };
        let rest = &input[i + 2..];
        let wide = rest.get(..2).and_then(hex_pair).zip(rest.get(2..).and_then(hex_pair));
        if let (b'u', Some((high, low))) = (next, wide) {
            out.push(unicode_byte(high, low));
            i += 6;
        } else if let (b'x', Some(b)) = (next, hex_pair(rest)) {
            out.push(b);
            i += 4;
        } else if let Some((value, len)) = octal(&input[i + 1..]) {
            out.push(value);
            i += 1 + len;
        } else {
            out.push(match next {
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                _ => next,
            });
            i += 2;
        }
    }
}

/// Resolves `.` and `..`, doubled slashes; for Windows, backslashes are slashes first.
fn normalize_path(input: &[u8], out: &mut Vec<u8>, windows: bool) {
    let slash = |b: u8| b == b'/' || (windows && b == b'\\');
    let absolute = input.first().is_some_and(|b| slash(*b));
    let ends_open = input.last().is_some_and(|b| slash(*b));
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut trailing = ends_open;
    let parts: Vec<&[u8]> = input.split(|b| slash(*b)).collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        match *part {
            b"" => {}
            b"." => trailing |= last,
            b".." => {
                trailing |= last;
                match segments.last() {
                    Some(&top) if top != b".." => {
                        segments.pop();
                    }
                    _ if absolute => {}
                    _ => segments.push(b".."),
                }
            }
            _ => segments.push(part),
        }
    }
    if absolute {
        out.push(b'/');
    }
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 {
            out.push(b'/');
        }
        out.extend_from_slice(segment);
    }
    if trailing && !segments.is_empty() && segments.last() != Some(&&b".."[..]) {
        out.push(b'/');
    }
}

/// `/* … */` becomes one blank; one that is not closed runs to the end.
fn replace_comments(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        if !input[i..].starts_with(b"/*") {
            out.push(input[i]);
            i += 1;
            continue;
        }
        out.push(b' ');
        i = match memchr::memmem::find(&input[i + 2..], b"*/") {
            Some(end) => i + 2 + end + 2,
            None => input.len(),
        };
    }
}

fn remove_comments(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        let rest = &input[i..];
        let close: &[u8] = if rest.starts_with(b"/*") {
            b"*/"
        } else if rest.starts_with(b"<!--") {
            b"-->"
        } else if rest.starts_with(b"--") || rest.starts_with(b"#") {
            return;
        } else {
            out.push(input[i]);
            i += 1;
            continue;
        };
        match memchr::memmem::find(&rest[2..], close) {
            Some(end) => i += 2 + end + close.len(),
            None => return,
        }
    }
}

fn remove_comments_char(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        let rest = &input[i..];
        i += if rest.starts_with(b"<!--") {
            4
        } else if rest.starts_with(b"-->") {
            3
        } else if rest.starts_with(b"/*") || rest.starts_with(b"*/") || rest.starts_with(b"--") {
            2
        } else if rest[0] == b'#' {
            1
        } else {
            out.push(rest[0]);
            1
        };
    }
}

/// `0x…` becomes the bytes that it writes.
fn sql_hex_decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        let digits = match input[i..] {
            [b'0', b'x' | b'X', ref rest @ ..] => rest.iter().take_while(|b| hex(**b).is_some()).count() & !1,
            _ => 0,
        };
        if digits == 0 {
            out.push(input[i]);
            i += 1;
            continue;
        }
        hex_decode(&input[i + 2..i + 2 + digits], out);
        i += 2 + digits;
    }
}

/// Each well-formed multi-byte UTF-8 sequence becomes `%uhhhh`; other bytes stay.
fn utf8_to_unicode(input: &[u8], out: &mut Vec<u8>) {
    for chunk in input.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_ascii() {
                out.push(c as u8);
            } else {
                out.extend_from_slice(format!("%u{:04x}", c as u32).as_bytes());
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(t: &str, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match Transform::parse(t).unwrap().apply(input, &mut out) {
            true => out,
            false => input.to_vec(),
        }
    }

    #[track_caller]
    fn is(t: &str, input: &[u8], expected: &[u8]) {
        let got = run(t, input);
        assert_eq!(got, expected, "{t}: {:?}", String::from_utf8_lossy(&got));
    }

    #[test]
    fn url() {
        is("urlDecodeUni", b"a+%41%u0041%uff1c%zz%", b"a AA<%zz%");
        is("urlDecode", b"%u0041%41", b"%u0041A");
        is("urlEncode", b"a b/", b"a+b%2f");
    }

    #[test]
    fn escapes() {
        is("jsDecode", br"\u0041\x42\103\n\q\u12", b"ABC\nqu12");
        is("jsDecode", br"\uff1c", b"<");
        is("cssDecode", br"\41 b\000062\zc\", b"Abbzc");
        is("escapeSeqDecode", br"\x41\102\n\q", b"AB\n\\q");
        is("htmlEntityDecode", b"&lt;&#60;&#x3c;&#x3C&quot;&nbsp;&foo;&", b"<<<<\"\xa0&foo;&");
    }

    #[test]
    fn commands() {
        is("cmdLine", b"C^md /c \"who\"ami,  x ;y", b"cmd/c whoami x y");
    }

    #[test]
    fn paths() {
        is("normalizePath", b"/a/./b/../../c//d", b"/c/d");
        is("normalizePath", b"a/../../b/", b"../b/");
        is("normalizePathWin", br"\a\..\etc\passwd", b"/etc/passwd");
        is("normalizePath", b"/..", b"/");
    }

    #[test]
    fn comments() {
        is("replaceComments", b"UNION/**/SELECT/*", b"UNION SELECT ");
        is("removeCommentsChar", b"a/*b*/--c#d", b"abcd");
    }

    #[test]
    fn codes() {
        is("base64Decode", b"aGVsbG8=", b"hello");
        is("base64Decode", b"aGVsbG8!x", b"hello");
        is("base64Encode", b"hello", b"aGVsbG8=");
        is("sqlHexDecode", b"x=0x414243", b"x=ABC");
        is("utf8toUnicode", "a\u{e9}\u{ff1c}".as_bytes(), b"a%u00e9%uff1c");
        is("length", b"abc", b"3");
        assert_eq!(run("hexEncode", &run("sha1", b"abc")), b"a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(run("hexEncode", &run("md5", b"abc")), b"900150983cd24fb0d6963f7d28e17f72");
    }

    /// The fast plan skips a transformation when no trigger byte is in the value: that must be the identity.
    #[test]
    fn nothing_changes_without_a_trigger() {
        for &t in Transform::ALL.iter().filter(|t| t.trigger() != ByteSet::ALL) {
            let calm: Vec<u8> = (0..=255u8).filter(|b| !t.trigger().contains(*b)).collect();
            assert!(!t.apply(&calm, &mut Vec::new()), "{t}");
        }
    }
}
