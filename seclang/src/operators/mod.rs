//! The operators: what a rule asks of a value.
//!
//! `match_value` gives the answer before negation and, when asked, the captures (`TX:0` to `TX:9`). Captures are copied
//! only on a match, so the common path, no match, allocates nothing.

mod backtrack;
mod encoding;
mod ip;
pub mod pcre;
mod sqli;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use smallvec::SmallVec;

use crate::parse::{Macro, OpSpec};
use crate::transform::ByteSet;
use backtrack::Backtracker;
use ip::IpSet;

/// An operator, ready to run.
#[derive(Debug)]
pub enum Operator {
    /// `SecAction` and `@unconditionalMatch`.
    Always,
    Never,
    Rx(Pattern),
    Pm(Phrases),
    Text(TextOp, Macro),
    Number(NumberOp, Macro),
    ByteRange(ByteSet),
    UrlEncoding,
    Utf8Encoding,
    Ip(IpSet),
    Sqli,
    Xss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextOp {
    Equals,
    Contains,
    ContainsWord,
    BeginsWith,
    EndsWith,
    Within,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberOp {
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
}

/// A regular expression: linear time, or the bounded backtracker for the few that look around or back.
#[derive(Debug)]
pub enum Pattern {
    Linear { source: String, regex: regex::bytes::Regex },
    Backtrack(Backtracker),
}

/// Words sought without case.
pub struct Phrases {
    pub words: Vec<Vec<u8>>,
    finder: Option<AhoCorasick>,
}

impl std::fmt::Debug for Phrases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} phrases", self.words.len())
    }
}

/// What `TX:0` to `TX:9` become.
pub type Captures = SmallVec<[(u8, Vec<u8>); 2]>;

/// An expression whose compiled form is larger than this does not load.
const REGEX_SIZE_LIMIT: usize = 32 << 20;
/// The lazy automaton of one expression, per thread: small, because there are hundreds of expressions.
const REGEX_CACHE: usize = 512 << 10;

impl Operator {
    pub fn build(spec: &OpSpec) -> Result<Operator, String> {
        let text = |op| Ok(Operator::Text(op, Macro::parse(&spec.argument)?));
        let number = |op| Ok(Operator::Number(op, Macro::parse(spec.argument.trim())?));
        match spec.name.as_str() {
            "rx" | "rxglobal" => Pattern::build(&spec.argument).map(Operator::Rx),
            "pm" => Phrases::build(spec.argument.split_whitespace().map(|w| w.as_bytes().to_vec())).map(Operator::Pm),
            "pmfromfile" | "pmf" => Phrases::build(file_lines(spec)).map(Operator::Pm),
            "streq" => text(TextOp::Equals),
            "contains" | "strmatch" => text(TextOp::Contains),
            "containsword" => text(TextOp::ContainsWord),
            "beginswith" => text(TextOp::BeginsWith),
            "endswith" => text(TextOp::EndsWith),
            "within" => text(TextOp::Within),
            "eq" => number(NumberOp::Eq),
            "ge" => number(NumberOp::Ge),
            "gt" => number(NumberOp::Gt),
            "le" => number(NumberOp::Le),
            "lt" => number(NumberOp::Lt),
            "validatebyterange" => encoding::byte_range(&spec.argument).map(Operator::ByteRange),
            "validateurlencoding" => Ok(Operator::UrlEncoding),
            "validateutf8encoding" => Ok(Operator::Utf8Encoding),
            "ipmatch" => IpSet::parse(spec.argument.split([',', ' '])).map(Operator::Ip),
            "ipmatchfromfile" | "ipmatchf" => {
                let lines = file_lines(spec).map(|l| String::from_utf8_lossy(&l).into_owned()).collect::<Vec<_>>();
                IpSet::parse(lines.iter().map(String::as_str)).map(Operator::Ip)
            }
            "detectsqli" => Ok(Operator::Sqli),
            "detectxss" => Ok(Operator::Xss),
            "unconditionalmatch" => Ok(Operator::Always),
            "nomatch" | "rbl" | "geolookup" => Ok(Operator::Never),
            other => Err(format!("unknown operator \"@{other}\"")),
        }
    }

    /// Whether `value` matches (before negation). `argument` is the expanded argument of the operators that have one.
    pub fn match_value(&self, value: &[u8], argument: &[u8], captures: Option<&mut Captures>) -> bool {
        match self {
            Operator::Always => true,
            Operator::Never => false,
            Operator::Rx(pattern) => pattern.find(value, captures),
            Operator::Pm(phrases) => phrases.find(value, captures),
            Operator::Text(op, _) => op.test(value, argument),
            Operator::Number(op, _) => op.test(number(value), number(argument)),
            Operator::ByteRange(allowed) => !value.iter().all(|b| allowed.contains(*b)),
            Operator::UrlEncoding => !encoding::valid_url(value),
            Operator::Utf8Encoding => !encoding::valid_utf8(value),
            Operator::Ip(set) => std::str::from_utf8(value).is_ok_and(|text| set.holds(text)),
            Operator::Sqli => sqli::detect(value, captures),
            Operator::Xss => might_be_xss(value) && libinjectionrs::detect_xss(value).is_injection(),
        }
    }

    /// The argument to expand before matching, if the operator has one.
    pub fn argument(&self) -> Option<&Macro> {
        match self {
            Operator::Text(_, argument) | Operator::Number(_, argument) => Some(argument),
            _ => None,
        }
    }
}

fn file_lines(spec: &OpSpec) -> impl Iterator<Item = Vec<u8>> + '_ {
    spec.file
        .as_deref()
        .unwrap_or_default()
        .split(|b| *b == b'\n')
        .map(|line| line.trim_ascii().to_vec())
        .filter(|line| !line.is_empty() && line[0] != b'#')
}

/// The number at the start of the text, as C's `atoi` reads it: 0 if there is none.
pub fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = digits
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .fold(0i64, |n, b| n.saturating_mul(10).saturating_add(i64::from(b - b'0')));
    if negative { -value } else { value }
}

impl NumberOp {
    pub fn test(self, value: i64, argument: i64) -> bool {
        match self {
            NumberOp::Eq => value == argument,
            NumberOp::Ge => value >= argument,
            NumberOp::Gt => value > argument,
            NumberOp::Le => value <= argument,
            NumberOp::Lt => value < argument,
        }
    }
}

impl TextOp {
    pub fn test(self, value: &[u8], argument: &[u8]) -> bool {
        match self {
            TextOp::Equals => value == argument,
            TextOp::Contains => contains(value, argument),
            TextOp::ContainsWord => contains_word(value, argument),
            TextOp::BeginsWith => value.starts_with(argument),
            TextOp::EndsWith => value.ends_with(argument),
            TextOp::Within => contains(argument, value),
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn contains_word(haystack: &[u8], needle: &[u8]) -> bool {
    let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    needle.is_empty()
        || memchr::memmem::find_iter(haystack, needle)
            .any(|i| !word(i.checked_sub(1).and_then(|j| haystack.get(j))) && !word(haystack.get(i + needle.len())))
}

impl Pattern {
    pub fn build(source: &str) -> Result<Pattern, String> {
        let translated = match pcre::translate(source) {
            Ok(translated) => translated,
            Err(reason @ pcre::Untranslatable::Backtracks(_)) => {
                return Backtracker::build(source)
                    .map(Pattern::Backtrack)
                    .map_err(|e| format!("expression {source:?}: {reason}; {e}"));
            }
            Err(reason) => return Err(format!("expression {source:?}: {reason}")),
        };
        let regex = regex::bytes::RegexBuilder::new(&translated)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(REGEX_SIZE_LIMIT)
            .dfa_size_limit(REGEX_CACHE)
            .build()
            .map_err(|e| format!("expression {source:?}: {e}"))?;
        Ok(Pattern::Linear { source: translated, regex })
    }

    fn find(&self, value: &[u8], captures: Option<&mut Captures>) -> bool {
        match (self, captures) {
            (Pattern::Linear { regex, .. }, None) => regex.is_match(value),
            (Pattern::Linear { regex, .. }, Some(out)) => {
                if !regex.is_match(value) {
                    return false;
                }
                let Some(found) = regex.captures(value) else { return false };
                for i in 0..found.len().min(10) {
                    if let Some(m) = found.get(i) {
                        out.push((i as u8, m.as_bytes().to_vec()));
                    }
                }
                true
            }
            (Pattern::Backtrack(engine), out) => match engine.find(value) {
                Some(groups) => {
                    if let Some(out) = out {
                        let spans = groups.iter().take(10).enumerate();
                        out.extend(spans.filter_map(|(i, g)| g.map(|(a, b)| (i as u8, value[a..b].to_vec()))));
                    }
                    true
                }
                None => false,
            },
        }
    }
}

impl Phrases {
    fn build(words: impl Iterator<Item = Vec<u8>>) -> Result<Phrases, String> {
        let words: Vec<Vec<u8>> = words.collect();
        let finder = match words.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .ascii_case_insensitive(true)
                    .match_kind(MatchKind::Standard)
                    .kind(Some(AhoCorasickKind::ContiguousNFA))
                    .build(&words)
                    .map_err(|e| e.to_string())?,
            ),
        };
        Ok(Phrases { words, finder })
    }

    fn find(&self, value: &[u8], captures: Option<&mut Captures>) -> bool {
        let Some(found) = self.finder.as_ref().and_then(|f| f.find(value)) else { return false };
        if let Some(out) = captures {
            out.push((0, value[found.range()].to_vec()));
        }
        true
    }
}

/// Every finding needs a tag, or one of the characters that leave an attribute value: all of `<`, quotes, a backtick,
/// `=`, or a blank between attributes.
pub fn might_be_xss(value: &[u8]) -> bool {
    value.iter().any(|b| matches!(b, b'<' | b'>' | b'=' | b'`' | b'"' | b'\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(name: &str, argument: &str) -> Operator {
        let spec = OpSpec { negated: false, name: name.into(), argument: argument.into(), file: None };
        Operator::build(&spec).unwrap()
    }

    fn matches(name: &str, argument: &str, value: &[u8]) -> bool {
        op(name, argument).match_value(value, argument.as_bytes(), None)
    }

    #[test]
    fn text_and_numbers() {
        assert!(matches("within", "GET POST", b"GET"));
        assert!(!matches("within", "GET POST", b"PUT"));
        assert!(matches("endswith", ".pdf", b"a.pdf"));
        assert!(matches("containsword", "cat", b"a cat!"));
        assert!(!matches("containsword", "cat", b"concat"));
        assert!(matches("gt", "5", b"12abc"));
        assert!(matches("eq", "0", b"abc"));
        assert!(matches("lt", "0", b"-3"));
    }

    #[test]
    fn expressions_are_bytes_without_lines() {
        assert!(matches("rx", r"^a.b$", b"a\nb"));
        assert!(!matches("rx", r"a$", b"a\n"));
        assert!(matches("rx", r"\x{c2}", b"\xc2"));
        assert!(matches("rx", r"[\w-[]+", b"["));
    }

    #[test]
    fn captures_are_numbered() {
        let mut out = Captures::new();
        assert!(op("rx", r"(a)(x)?(b)").match_value(b"-ab-", b"", Some(&mut out)));
        assert_eq!(out.as_slice(), [(0, b"ab".to_vec()), (1, b"a".to_vec()), (3, b"b".to_vec())]);
        out.clear();
        assert!(op("pm", "foo bar").match_value(b"xBARx", b"", Some(&mut out)));
        assert_eq!(out.as_slice(), [(0, b"BAR".to_vec())]);
    }

    #[test]
    fn unknown_operators_are_refused() {
        let spec = OpSpec { negated: false, name: "magic".into(), argument: String::new(), file: None };
        assert_eq!(Operator::build(&spec).unwrap_err(), "unknown operator \"@magic\"");
    }

    #[test]
    fn injections() {
        assert!(matches("detectsqli", "", b"1' or '1'='1"));
        assert!(!matches("detectsqli", "", b"hello_world"));
        assert!(matches("detectxss", "", b"<script>alert(1)</script>"));
        assert!(!matches("detectxss", "", b"a b c"));
    }
}
