//! What is wrong with the configuration: where, which key, what was found and expected, and perhaps what was meant.
//!
//! Two forms. The full one shows the source line with a caret, and so whatever else stands in that line: it is for
//! `check` on a terminal alone. [`Faults::lines`] is for logs and status pages.

use super::source::{Place, Sources, floor};
use super::tree::Span;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    pub span: Span,
    /// The key's path, such as `route.users.to`; empty where there is none.
    pub path: String,
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Other places that matter.
    also: Vec<(Span, String)>,
    /// A key is missing, rather than something present being wrong.
    pub(super) missing: bool,
}

impl Fault {
    pub fn new(span: Span, what: impl Into<String>) -> Fault {
        Fault { span, path: String::new(), what: what.into(), hint: None, also: vec![], missing: false }
    }
    pub fn at(mut self, path: impl Into<String>) -> Fault {
        self.path = path.into();
        self
    }
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Fault {
        self.hint = hint.into();
        self
    }
    /// Another place that matters, and what is there: `also(span, "first defined")`.
    pub fn also(mut self, span: Span, what: impl Into<String>) -> Fault {
        self.also.push((span, what.into()));
        self
    }
    pub(super) fn missing(mut self, missing: bool) -> Fault {
        self.missing = missing;
        self
    }

    fn head(&self, place: &Place, sources: &Sources) -> String {
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", brief(&clean(&self.path))) };
        format!("{place}: {path}{}", brief(&clean(&sources.hide(&self.what))))
    }
    fn advice(&self, sources: &Sources) -> Option<String> {
        self.hint.as_deref().map(|h| clean(&sources.hide(h)))
    }

    fn one_line(&self, sources: &Sources) -> String {
        let mut line = self.head(&sources.locate(self.span.start), sources);
        if let Some(hint) = self.advice(sources) {
            let _ = write!(line, "; {hint}");
        }
        for (at, what) in &self.also {
            let _ = write!(line, " ({what} at {})", sources.locate(at.start));
        }
        line
    }

    /// With the source line and a caret under the place.
    fn full(&self, sources: &Sources) -> String {
        let place = sources.locate(self.span.start);
        let mut out = self.head(&place, sources);
        let hint = self.advice(sources).unwrap_or_default();
        if place.exact && !place.text.is_empty() {
            let wide = sources.slice(&self.span).lines().next().unwrap_or("").chars().count();
            let (line, before, wide) = window(place.text, place.column - 1, wide.max(1));
            let _ = write!(out, "\n{:>5} | {line}\n      | {:before$}{:^<wide$}", place.line, "", "");
            if !hint.is_empty() {
                let _ = write!(out, " {hint}");
            }
        } else if !hint.is_empty() {
            let _ = write!(out, "\n      = {hint}");
        }
        for (at, what) in &self.also {
            let _ = write!(out, "\n      = {what} at {}", sources.locate(at.start));
        }
        out
    }
}

/// Lines longer than this are shown in part.
const WIDEST: usize = 160;

/// The part of a line around the caret, safe to print: the text, the columns before the caret, and the caret's width.
fn window(line: &str, before: usize, wide: usize) -> (String, usize, usize) {
    let all: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if all.len() <= WIDEST {
        return (all.iter().collect(), before, wide.min(all.len().saturating_sub(before)).max(1));
    }
    let from = before.saturating_sub(WIDEST / 2).min(all.len() - WIDEST);
    let to = from + WIDEST;
    let (left, right) = (if from > 0 { "…" } else { "" }, if to < all.len() { "…" } else { "" });
    let text: String = all[from..to].iter().collect();
    let before = before - from + left.chars().count();
    (format!("{left}{text}{right}"), before, wide.min(to.saturating_sub(from + before)).max(1))
}

/// A message quotes what files and peers wrote: nothing of it may drive a terminal or break a log line.
fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// What a file says may be of any length, a line of a log may not.
fn brief(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((at, _)) => format!("{} … {}", &text[..floor(text, at - 40)], &text[floor(text, text.len() - 40)..]),
    }
}

/// Everything that is wrong, in the order of the files. `Display` is the full form, each with its line's end.
pub struct Faults {
    list: Vec<Fault>,
    sources: Arc<Sources>,
}

impl Faults {
    /// None yet: for what is found after the files were read.
    pub fn new(sources: Arc<Sources>) -> Faults {
        Faults { list: vec![], sources }
    }
    pub(super) fn of(mut list: Vec<Fault>, sources: Arc<Sources>) -> Faults {
        // stable: of two faults at one place the first that was found stays, which is the table's own
        list.sort_by_key(|f| (f.span.start, f.span.end));
        list.dedup_by(|b, a| a.span == b.span);
        Faults { list, sources }
    }
    /// Adds one; `path` is the key's, `span` its place (`Item::place`, `Route::place`).
    pub fn push(&mut self, span: Span, path: impl Into<String>, what: impl Into<String>, hint: Option<String>) {
        self.add(Fault::new(span, what).at(path).hint(hint));
    }
    pub fn add(&mut self, fault: Fault) {
        let key = |f: &Fault| (f.span.start, f.span.end);
        if let Err(at) = self.list.binary_search_by_key(&key(&fault), key) {
            self.list.insert(at, fault);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    pub fn len(&self) -> usize {
        self.list.len()
    }
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }
    /// The files that were read, complete or not: a fix to any of them is worth another try.
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }
    /// One line each, without the source's text: for logs, status pages and service managers.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|f| f.one_line(&self.sources))
    }
    /// The first fault, and how many more there are.
    pub fn one_line(&self) -> String {
        let first = self.lines().next().unwrap_or_default();
        match self.list.len() {
            0 | 1 => first,
            n => format!("{first} (and {} more)", n - 1),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|fault| writeln!(f, "{}", fault.full(&self.sources)))
    }
}

/// As printed: a fault's text is more use than its fields, and hides what must be hidden.
impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Faults {}

/// The nearest name, if it is near enough to be a slip of the finger.
pub fn did_you_mean<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(found, known).map(|k| format!("did you mean `{k}`?"))
}

pub(super) fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|k| k.len().abs_diff(found.len()) <= slack(found, k))
        .map(|k| (strsim::damerau_levenshtein(found, k), k))
        .filter(|(d, k)| *d <= slack(found, k) && *d < k.len())
        .min()
        .map(|(_, k)| k)
}

fn slack(a: &str, b: &str) -> usize {
    1 + a.len().max(b.len()) / 4
}
