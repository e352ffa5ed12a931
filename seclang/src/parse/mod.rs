//! SecLang text to rules as written: lines joined, quotes undone, every directive known or refused.
//!
//! The reader is strict where ModSecurity is lax. A directive, operator, action or transformation that this engine does
//! not know is an error with file and line: a rule that silently never matches is worse than a file that does not load.

mod actions;
mod rule;

pub use actions::{Action, Assign, Change, Ctl, CtlTarget, Disruptive, Macro, MacroName, Piece, Selection};
pub use rule::{OpSpec, RuleText, parse_targets};

use std::fmt;
use std::sync::Arc;

/// Gives the bytes of a file that a rule file names (`Include`, `@pmFromFile`, `@ipMatchFromFile`).
pub trait Loader {
    /// `name` as written; `from` is the file that names it.
    fn load(&self, name: &str, from: &str) -> Result<Vec<u8>, String>;
    /// The files that an `Include` names, in order (a glob may name several).
    fn expand(&self, pattern: &str, from: &str) -> Result<Vec<String>, String>;
}

/// A loader for text that includes nothing.
pub struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, name: &str, _: &str) -> Result<Vec<u8>, String> {
        Err(format!("file {name:?}: this rule text may not name files"))
    }
    fn expand(&self, pattern: &str, _: &str) -> Result<Vec<String>, String> {
        Err(format!("include {pattern:?}: this rule text may not name files"))
    }
}

/// Where something stands: file and line, for errors and for the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why rules do not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    pub place: Option<Place>,
    pub reason: String,
}

impl LoadError {
    pub fn new(place: &Place, reason: impl Into<String>) -> Self {
        LoadError { place: Some(place.clone()), reason: reason.into() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for LoadError {}

/// One directive, understood.
#[derive(Debug)]
pub enum Directive {
    Rule(Box<RuleText>),
    Marker(String),
    DefaultAction(Vec<Action>),
    RemoveById(Selection),
    RemoveByTag(String),
    RemoveByMsg(String),
    UpdateTargetById(Selection, String),
    UpdateTargetByTag(String, String),
    UpdateTargetByMsg(String, String),
    UpdateActionById(u64, Option<usize>, Vec<Action>),
    Engine(EngineMode),
    RequestBodyAccess(bool),
    ResponseBodyAccess(bool),
    RequestBodyLimit(u64),
    RequestBodyLimitAction(LimitAction),
    ResponseBodyLimit(u64),
    ResponseBodyMimeType(Vec<String>),
    ArgumentsLimit(u64),
    JsonDepthLimit(u64),
    ArgumentSeparator(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineMode {
    On,
    DetectionOnly,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitAction {
    Reject,
    ProcessPartial,
}

/// A directive and its place.
#[derive(Debug)]
pub struct Item {
    pub place: Place,
    pub directive: Directive,
}

/// Everything read so far. Feed files in order; the order is the meaning.
#[derive(Default)]
pub struct Source {
    pub items: Vec<Item>,
    /// Things that load but do nothing here, for the operator to know.
    pub warnings: Vec<String>,
}

/// An `Include` may include; this deep and no deeper.
const INCLUDE_DEPTH: usize = 16;
/// A rule file larger than this is not a rule file.
const FILE_LIMIT: usize = 16 << 20;

impl Source {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `text`, named `file` in messages.
    pub fn read(&mut self, file: &str, text: &str, loader: &dyn Loader) -> Result<(), LoadError> {
        self.read_at(file, text, loader, 0)
    }

    fn read_at(&mut self, file: &str, text: &str, loader: &dyn Loader, depth: usize) -> Result<(), LoadError> {
        let name: Arc<str> = file.into();
        if text.len() > FILE_LIMIT {
            return Err(LoadError {
                place: None,
                reason: format!("{file}: found {} bytes, expected at most {FILE_LIMIT}", text.len()),
            });
        }
        for (line, logical) in logical_lines(text) {
            let place = Place { file: name.clone(), line };
            let words = split_words(&logical).map_err(|reason| LoadError::new(&place, reason))?;
            let Some((head, args)) = words.split_first() else { continue };
            if head.eq_ignore_ascii_case("Include") || head.eq_ignore_ascii_case("IncludeOptional") {
                let optional = head.len() > "Include".len();
                self.include(&place, args, loader, depth, optional)?;
                continue;
            }
            if let Some(directive) = self.directive(&place, head, args, loader)? {
                self.items.push(Item { place, directive });
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        place: &Place,
        args: &[String],
        loader: &dyn Loader,
        depth: usize,
        optional: bool,
    ) -> Result<(), LoadError> {
        let [pattern] = args else {
            return Err(LoadError::new(place, "Include: expected one path"));
        };
        if depth >= INCLUDE_DEPTH {
            return Err(LoadError::new(place, format!("Include: more than {INCLUDE_DEPTH} files deep")));
        }
        let files = loader.expand(pattern, &place.file).map_err(|e| LoadError::new(place, e))?;
        if files.is_empty() && !optional {
            return Err(LoadError::new(place, format!("Include {pattern:?}: no such file")));
        }
        for file in files {
            let bytes = loader.load(&file, &place.file).map_err(|e| LoadError::new(place, e))?;
            let text = String::from_utf8(bytes).map_err(|_| LoadError::new(place, format!("{file}: not UTF-8")))?;
            self.read_at(&file, &text, loader, depth + 1)?;
        }
        Ok(())
    }

    fn directive(
        &mut self,
        place: &Place,
        head: &str,
        args: &[String],
        loader: &dyn Loader,
    ) -> Result<Option<Directive>, LoadError> {
        let fail = |reason: String| LoadError::new(place, reason);
        let one = || match args {
            [a] => Ok(a.as_str()),
            _ => Err(fail(format!("{head}: found {} arguments, expected 1", args.len()))),
        };
        let two = || match args {
            [a, b] => Ok((a.as_str(), b.as_str())),
            _ => Err(fail(format!("{head}: found {} arguments, expected 2", args.len()))),
        };
        let on_off = || match one()?.to_ascii_lowercase().as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(fail(format!("{head} {other:?}: expected On or Off"))),
        };
        let number = || one()?.parse::<u64>().map_err(|_| fail(format!("{head}: expected a number")));
        let directive = match head.to_ascii_lowercase().as_str() {
            "secrule" => match args {
                [t, o] => Directive::Rule(Box::new(RuleText::rule(t, o, "", place, loader, &mut self.warnings)?)),
                [t, o, a] => Directive::Rule(Box::new(RuleText::rule(t, o, a, place, loader, &mut self.warnings)?)),
                _ => return Err(fail(format!("SecRule: found {} arguments, expected 2 or 3", args.len()))),
            },
            "secaction" => Directive::Rule(Box::new(RuleText::action(one()?, place)?)),
            "secmarker" => Directive::Marker(one()?.to_owned()),
            "secdefaultaction" => Directive::DefaultAction(actions::parse(one()?).map_err(fail)?),
            "secruleremovebyid" => Directive::RemoveById(Selection::parse(&args.join(" ")).map_err(fail)?),
            "secruleremovebytag" => Directive::RemoveByTag(one()?.to_owned()),
            "secruleremovebymsg" => Directive::RemoveByMsg(one()?.to_owned()),
            "secruleupdatetargetbyid" => {
                let (id, targets) = two()?;
                Directive::UpdateTargetById(Selection::parse(id).map_err(fail)?, targets.to_owned())
            }
            "secruleupdatetargetbytag" => {
                let (tag, targets) = two()?;
                Directive::UpdateTargetByTag(tag.to_owned(), targets.to_owned())
            }
            "secruleupdatetargetbymsg" => {
                let (msg, targets) = two()?;
                Directive::UpdateTargetByMsg(msg.to_owned(), targets.to_owned())
            }
            "secruleupdateactionbyid" => {
                let (id, list) = two()?;
                let (id, link) = match id.split_once(':') {
                    Some((id, link)) => {
                        (id, Some(link.parse().map_err(|_| fail(format!("{link:?}: expected a number")))?))
                    }
                    None => (id, None),
                };
                let id = id.parse().map_err(|_| fail(format!("{head} {id:?}: expected a rule id")))?;
                Directive::UpdateActionById(id, link, actions::parse(list).map_err(fail)?)
            }
            "secruleengine" => Directive::Engine(engine_mode(one()?).map_err(fail)?),
            "secrequestbodyaccess" => Directive::RequestBodyAccess(on_off()?),
            "secresponsebodyaccess" => Directive::ResponseBodyAccess(on_off()?),
            "secrequestbodylimit" => Directive::RequestBodyLimit(number()?),
            "secrequestbodylimitaction" => Directive::RequestBodyLimitAction(limit_action(one()?).map_err(fail)?),
            "secresponsebodylimit" => Directive::ResponseBodyLimit(number()?),
            "secresponsebodymimetype" => Directive::ResponseBodyMimeType(args.to_vec()),
            "secargumentslimit" => Directive::ArgumentsLimit(number()?),
            "secrequestbodyjsondepthlimit" => Directive::JsonDepthLimit(number()?),
            "secargumentseparator" => match one()?.as_bytes() {
                [b] => Directive::ArgumentSeparator(*b),
                _ => return Err(fail("SecArgumentSeparator: expected one character".to_owned())),
            },
            // Said about the product, about logs and temporary files: nothing of it concerns an engine without I/O.
            "seccomponentsignature" | "secserversignature" | "secwebappid" | "secsensorid" => return Ok(None),
            "secauditengine"
            | "secauditlog"
            | "secauditlog2"
            | "secauditlogdirmode"
            | "secauditlogfilemode"
            | "secauditlogformat"
            | "secauditlogparts"
            | "secauditlogrelevantstatus"
            | "secauditlogstoragedir"
            | "secauditlogtype"
            | "secdebuglog"
            | "secdebugloglevel"
            | "sectmpdir"
            | "secdatadir"
            | "secuploaddir"
            | "secuploadfilelimit"
            | "secuploadfilemode"
            | "secuploadkeepfiles"
            | "seccookieformat"
            | "seccollectiontimeout"
            | "secstatusengine"
            | "secrequestbodynofileslimit"
            | "secrequestbodyinmemorylimit"
            | "secresponsebodylimitaction"
            | "secunicodemapfile"
            | "secpcrematchlimit"
            | "secpcrematchlimitrecursion"
            | "sectmpsaveuploadedfiles"
            | "secxmlexternalentity"
            | "secdisablebackendcompression"
            | "secrxprefilter" => {
                self.warnings.push(format!("{place}: {head} is accepted and has no effect here"));
                return Ok(None);
            }
            _ => return Err(fail(format!("unknown directive {head:?}"))),
        };
        Ok(Some(directive))
    }
}

pub fn engine_mode(text: &str) -> Result<EngineMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(EngineMode::On),
        "detectiononly" => Ok(EngineMode::DetectionOnly),
        "off" => Ok(EngineMode::Off),
        _ => Err(format!("engine {text:?}: expected On, DetectionOnly or Off")),
    }
}

fn limit_action(text: &str) -> Result<LimitAction, String> {
    match text.to_ascii_lowercase().as_str() {
        "reject" => Ok(LimitAction::Reject),
        "processpartial" => Ok(LimitAction::ProcessPartial),
        _ => Err(format!("limit action {text:?}: expected Reject or ProcessPartial")),
    }
}

/// Lines joined at a trailing backslash, comments and blank lines dropped, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut out = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (n, raw) in text.lines().enumerate() {
        let line = raw.strip_suffix('\r').unwrap_or(raw);
        if open.is_none() {
            let trimmed = line.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
        }
        let (start, mut joined) = open.take().unwrap_or((n as u32 + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(rest) => {
                joined.push_str(rest);
                open = Some((start, joined));
            }
            None => {
                joined.push_str(line);
                out.push((start, joined));
            }
        }
    }
    out.extend(open);
    out
}

/// Words apart at blanks. A word in double or single quotes may hold blanks; `\"` inside is a quote, any other
/// backslash stays, because a regular expression needs it.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            let (word, after) = quoted(&rest[1..], first)?;
            words.push(word);
            rest = after.trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
    }
    Ok(words)
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            return Ok((word, &text[i + c.len_utf8()..]));
        }
        if c == '\\' {
            match chars.next() {
                Some((_, next)) if next == quote => word.push(quote),
                Some((_, next)) => {
                    word.push('\\');
                    word.push(next);
                }
                None => word.push('\\'),
            }
            continue;
        }
        word.push(c);
    }
    Err(format!("found no closing {quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_numbered() {
        let lines = logical_lines("# c\nSecRule A \\\n  \"b\"\n\nSecMarker X\n");
        assert_eq!(lines, vec![(2, "SecRule A   \"b\"".to_owned()), (5, "SecMarker X".to_owned())]);
    }

    #[test]
    fn quotes_keep_other_backslashes() {
        let words = split_words(r#"SecRule ARGS "@rx \"\d\x5c\\" "id:1""#).unwrap();
        assert_eq!(words, ["SecRule", "ARGS", r#"@rx "\d\x5c\\"#, "id:1"]);
    }

    #[test]
    fn unknown_directive_names_its_line() {
        let error = Source::new().read("a.conf", "\n\nSecMagic On", &NoFiles).unwrap_err();
        assert_eq!(error.to_string(), "a.conf:3: unknown directive \"SecMagic\"");
    }

    #[test]
    fn open_quote_is_an_error() {
        let error = Source::new().read("a.conf", "SecRule ARGS \"@rx a", &NoFiles).unwrap_err();
        assert_eq!(error.to_string(), "a.conf:1: found no closing \"");
    }
}
