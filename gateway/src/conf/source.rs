//! The files of one load, laid end to end: an offset names file, line and column, so no node carries a path or a line.

use super::fault::Fault;
use super::tree::{Node, Outside, Reading, Span};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The largest configuration file.
const LARGEST: u64 = 64 << 20;

struct Source {
    name: String,
    text: String,
    base: usize,
    /// The offset of every line's first byte, within the file.
    lines: Vec<usize>,
    /// Nothing of it could be read, so a line and a column would be invented.
    blank: bool,
}

/// Every file that was read, and what must not be printed.
#[derive(Default)]
pub struct Sources {
    sources: Vec<Source>,
    /// The values of references, with the reference.
    resolved: Vec<(String, String)>,
    /// Every file and folder that the configuration depends on.
    pub(super) files: Vec<PathBuf>,
}

/// The names alone: what the files say may be secret.
impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|s| &s.name)).finish()
    }
}

/// A place as people read it: line and column from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub file: &'a str,
    pub line: usize,
    pub column: usize,
    /// The whole line, without its end.
    pub text: &'a str,
    /// There is a line and a column at all.
    pub(super) exact: bool,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.exact { write!(f, "{}:{}:{}", self.file, self.line, self.column) } else { f.write_str(self.file) }
    }
}

impl Sources {
    /// Every file and folder that the configuration depends on, for watching.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads one file into a tree; `None` if there is none, and `faults` says why.
    pub(super) fn read(&mut self, path: &Path, outside: &Outside, faults: &mut Vec<Fault>) -> Option<Node> {
        let name = path.display().to_string();
        self.files.push(path.to_path_buf());
        match bytes(path) {
            Ok(bytes) => self.parse(&name, bytes, path.parent().unwrap_or(Path::new("")), outside, faults),
            Err(e) => {
                let base = self.add(&name, String::new(), true);
                faults.push(Fault::new(base..base, format!("cannot be read: {e}")));
                None
            }
        }
    }

    /// Makes one file's bytes a tree; every syntax error and every failed reference is a fault.
    pub(super) fn parse(
        &mut self,
        name: &str,
        bytes: Vec<u8>,
        folder: &Path,
        outside: &Outside,
        faults: &mut Vec<Fault>,
    ) -> Option<Node> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text),
            Err(e) => {
                let (at, byte) = (e.utf8_error().valid_up_to(), e.as_bytes()[e.utf8_error().valid_up_to()]);
                let at = at + self.add(name, String::from_utf8_lossy(e.as_bytes()).into_owned(), false);
                faults.push(Fault::new(at..at + 1, format!("byte 0x{byte:02x} is not UTF-8")));
                return None;
            }
        };
        let base = self.add(name, text, false);
        let text = std::mem::take(&mut self.sources.last_mut().expect("just added").text);
        let (root, errors) = DeTable::parse_recoverable(&text);
        let sound = errors.is_empty();
        for e in errors {
            let span = e.span().unwrap_or(0..0);
            faults.push(syntax(&text, span, base, e.message()));
        }
        // a tree with holes would only breed false faults
        let node = sound.then(|| {
            let span = root.span();
            let mut reading = Reading {
                outside,
                base,
                folder,
                faults,
                resolved: &mut self.resolved,
                files: &mut self.files,
                path: vec![],
            };
            reading.table(span, root.into_inner())
        });
        self.sources.last_mut().expect("just added").text = text;
        node
    }

    /// Lays a file behind the others; returns its offset.
    fn add(&mut self, name: &str, text: String, blank: bool) -> usize {
        let base = self.sources.last().map_or(0, |s| s.base + s.text.len() + 1);
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|i| i + 1)).collect();
        self.sources.push(Source { name: name.into(), text, base, lines, blank });
        base
    }

    fn source(&self, at: usize) -> Option<&Source> {
        self.sources[..self.sources.partition_point(|s| s.base <= at)].last()
    }

    pub fn locate(&self, at: usize) -> Place<'_> {
        let Some(source) = self.source(at) else {
            return Place { file: "configuration", line: 1, column: 1, text: "", exact: false };
        };
        let at = floor(&source.text, at - source.base);
        let line = source.lines.partition_point(|&l| l <= at);
        let start = source.lines[line - 1];
        let text = source.text[start..].lines().next().unwrap_or("");
        let column = source.text[start..at].chars().count() + 1;
        Place { file: &source.name, line, column, text, exact: !source.blank }
    }

    /// What the file says there.
    pub fn slice(&self, span: &Span) -> &str {
        self.source(span.start).map_or("", |s| {
            let start = floor(&s.text, span.start - s.base);
            &s.text[start..floor(&s.text, span.end.saturating_sub(s.base)).max(start)]
        })
    }

    /// Puts every resolved reference back to what the file says. Every message goes through here.
    ///
    /// A short value (a port, `on`) is put back only where it stands alone, or it would garble every message.
    pub fn hide(&self, text: &str) -> String {
        let mut values: Vec<&(String, String)> =
            self.resolved.iter().filter(|(v, _)| !v.is_empty() && text.contains(v.as_str())).collect();
        // the longest first: one value may stand inside another
        values.sort_by_key(|(v, _)| std::cmp::Reverse(v.len()));
        values.iter().fold(text.to_string(), |text, (value, shown)| {
            if value.len() < 8 { replace_word(&text, value, shown) } else { text.replace(value.as_str(), shown) }
        })
    }

    /// Notes a value that is printed escaped as well as plain.
    pub(super) fn seal(&mut self) {
        let escaped: Vec<_> = self
            .resolved
            .iter()
            .map(|(v, shown)| (v.escape_debug().to_string(), shown.clone()))
            .zip(&self.resolved)
            .filter(|((escaped, _), (plain, _))| escaped != plain)
            .map(|(e, _)| e)
            .collect();
        self.resolved.extend(escaped);
        self.resolved.sort();
        self.resolved.dedup();
        self.files.sort();
        self.files.dedup();
    }
}

/// A syntax error. The parser does not say where a key that stands twice was first: the same words are looked for,
/// for a key since its table's header, for a header in the whole file.
fn syntax(text: &str, span: Span, base: usize, message: &str) -> Fault {
    let at = span.start + base..span.end + base;
    let key = text.get(span.clone()).unwrap_or("").trim();
    if message != "duplicate key" || key.is_empty() {
        return Fault::new(at, message);
    }
    let fault = Fault::new(at, format!("duplicate key `{key}`"));
    let start = text[..span.start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[start..].lines().next().unwrap_or("").trim();
    let header = line.starts_with('[');
    let mut first = None;
    let mut offset = 0;
    for candidate in text[..start].split_inclusive('\n') {
        let (shown, indent) = (candidate.trim(), candidate.len() - candidate.trim_start().len());
        if header && shown == line {
            first = first.or(Some(offset + indent));
        } else if !header && shown.starts_with('[') {
            first = None;
        } else if !header && shown.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])) {
            first = first.or(Some(offset + indent));
        }
        offset += candidate.len();
    }
    match first {
        Some(first) => fault.also(first + base..first + base + key.len(), "first defined"),
        None => fault,
    }
}

fn replace_word(text: &str, word: &str, by: &str) -> String {
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = text[at + word.len()..].chars().next().is_some_and(char::is_alphanumeric);
        if at >= from && !before && !after {
            out.push_str(&text[from..at]);
            out.push_str(by);
            from = at + word.len();
        }
    }
    out + &text[from..]
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::Error::other("it is a directory, expected a file"));
    }
    let mut bytes = Vec::new();
    if about.len() <= LARGEST {
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    }
    if about.len().max(bytes.len() as u64) > LARGEST {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    Ok(bytes)
}

/// The nearest character boundary at or before `at`.
pub(super) fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}
