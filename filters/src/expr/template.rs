//! Text with facts in it: `https://{host}{path}?from={header.x-region}`.
//!
//! `{name}` is what the route captured under that name, else the variable. `{{` and `}}` are plain braces. Values are
//! copied as the client sent them, so a percent-encoded line end stays encoded; a header's value may still hold what
//! its new place forbids, so whoever renders checks the result.

use super::View;
use super::var::Var;
use crate::short::Bad;
use crate::units::{Unit, unit};
use smol_str::SmolStr;
use std::fmt;

const MAX_LENGTH: usize = 64 * 1024;

/// Compiled text. Prints as it was written.
#[derive(Clone, PartialEq)]
pub struct Template {
    pieces: Vec<Piece>,
    text: SmolStr,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Var(Var),
}

impl Template {
    /// `captures` are the names that the route's pattern captures; `None` when they are not known yet: then any plain
    /// name may be one, and [`Template::bind`] settles it.
    pub fn parse(text: &str, captures: Option<&[SmolStr]>) -> Result<Template, Bad> {
        if text.len() > MAX_LENGTH {
            return Err(Bad::new(0..text.len(), format!("a text of {} bytes, the most is {MAX_LENGTH}", text.len())));
        }
        let (mut pieces, mut plain, mut from) = (vec![], String::new(), 0);
        while let Some(brace) = text[from..].find(['{', '}']).map(|i| from + i) {
            plain.push_str(&text[from..brace]);
            let c = &text[brace..=brace];
            if text[brace + 1..].starts_with(c) {
                plain.push_str(c);
                from = brace + 2;
                continue;
            }
            if c == "}" {
                return Err(Bad::new(brace..brace + 1, "a `}` that closes nothing; a plain brace is written `}}`"));
            }
            let end = text[brace..].find('}').map(|i| brace + i).ok_or_else(|| {
                Bad::new(brace..text.len(), "a `{` that is never closed; a plain brace is written `{{`")
            })?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            let name = &text[brace + 1..end];
            pieces.push(Piece::Var(named(name, captures).map_err(|bad| bad.shifted(brace + 1))?));
            from = end + 1;
        }
        plain.push_str(&text[from..]);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces, text: text.into() })
    }

    /// The same text for a route that captures these names and no others.
    pub fn bind(&self, captures: &[SmolStr]) -> Result<Template, Bad> {
        Template::parse(&self.text, Some(captures))
    }

    /// The text, if it has no facts in it.
    pub fn constant(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the text for this request behind `out`. A missing fact is empty.
    pub fn render(&self, view: &View, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Var(var) => out.push_str(&var.sent(view).unwrap_or_default()),
            }
        }
    }

    /// As [`Template::render`]; `put` appends each value in the form that its place asks for.
    pub fn render_with(&self, view: &View, out: &mut String, mut put: impl FnMut(&Var, &str, &mut String)) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Var(var) => put(var, &var.sent(view).unwrap_or_default(), out),
            }
        }
    }

    pub fn text(&self, view: &View) -> String {
        let mut out = String::new();
        self.render(view, &mut out);
        out
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn named(name: &str, captures: Option<&[SmolStr]>) -> Result<Var, Bad> {
    let capture = |name: &str| Ok(Var::Capture(name.into()));
    if captures.is_some_and(|known| known.iter().any(|n| n == name)) {
        return capture(name);
    }
    match (Var::parse(name), captures) {
        (Ok(Var::Capture(name)), Some(known)) if !known.contains(&name) => {
            Err(Bad::new(0..name.len() + "path.".len(), missing(&name, known)))
        }
        (Ok(var), _) => Ok(var),
        (Err(_), None) if is_name(name) => capture(name),
        (Err(_), Some(known)) if is_name(name) && !is_family(name) => {
            Err(Bad::new(0..name.len(), missing(name, known)))
        }
        (Err(bad), _) => Err(bad),
    }
}

fn is_family(name: &str) -> bool {
    matches!(name, "header" | "query" | "cookie")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !is_family(name) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn missing(name: &str, known: &[SmolStr]) -> String {
    if known.is_empty() {
        return format!("`{name}` is no variable, and the route's `match` captures nothing");
    }
    let near = known.iter().find(|k| strsim::osa_distance(name, k) <= 2).map(|k| format!(", did you mean `{k}`?"));
    let hint = near.unwrap_or_else(|| format!("; the route captures {}", known.join(", ")));
    format!("`{name}` is neither captured by the route's `match` nor a variable{hint}")
}

impl Unit for Template {
    const FORM: &'static str = "text, in which {host}, {header.NAME} or the name of a capture stand for values";
    const PATTERN: &'static str = "";
    fn parse(text: &str) -> Result<Template, Bad> {
        Template::parse(text, None)
    }
}
unit!(Template, "Template");

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cx::{Captures, Cx};
    use crate::head::RequestHead;
    use proptest::prelude::*;
    use smallvec::smallvec;
    use std::sync::Arc;

    fn names(all: &[&str]) -> Vec<SmolStr> {
        all.iter().map(|n| (*n).into()).collect()
    }

    fn render(template: &str) -> String {
        let mut head = RequestHead::build("GET", b"/users/a%0Db?q=%0A", None).unwrap();
        head.insert_header("x-region", "eu").unwrap();
        let captures = Captures { names: Arc::from(names(&["id"])), spans: smallvec![(7, 12)] };
        let cx = Cx { host: "example.com".into(), captures, ..Cx::default() };
        Template::parse(template, Some(&names(&["id"]))).unwrap().text(&View { head: &head, cx: &cx })
    }

    #[test]
    fn renders() {
        for (template, text) in [
            ("https://{host}{path}?x={header.x-region}", "https://example.com/users/a%0Db?x=eu"),
            ("{id}/{path.id}", "a%0Db/a%0Db"),
            ("{{{scheme}}} {query.q}{cookie.none}", "{http} %0A"),
            ("", ""),
        ] {
            assert_eq!(render(template), text, "{template}");
        }
    }

    #[test]
    fn what_was_asked_survives_a_rewrite() {
        let head = RequestHead::build("GET", b"/internal", None).unwrap();
        let captures = Captures { names: Arc::from(names(&["id"])), spans: smallvec![(7, 8)] };
        let cx = Cx { asked: Some("/users/7?a=1".parse().unwrap()), captures, ..Cx::default() };
        let template = Template::parse("{id} {path} {query.a}", None).unwrap();
        assert_eq!(template.text(&View { head: &head, cx: &cx }), "7 /users/7 1");
    }

    #[test]
    fn a_capture_wins_over_a_variable_of_its_name() {
        let early: Template = "{host}".parse().unwrap();
        assert_eq!(early.pieces, [Piece::Var(Var::Host)]);
        assert_eq!(early.bind(&names(&["host"])).unwrap().pieces, [Piece::Var(Var::Capture("host".into()))]);
        assert_eq!("a}}b".parse::<Template>().unwrap().constant(), Some("a}b"));
        assert_eq!(early.constant(), None);
    }

    #[test]
    fn faults_have_their_place() {
        for (text, at, why) in [
            ("a{", 1..2, "never closed"),
            ("a}b", 1..2, "closes nothing"),
            ("{}", 1..1, "unknown variable"),
            ("x{headr.y}", 2..9, "did you mean `header.y`"),
            ("x{header}", 2..8, "needs a name"),
            ("{idd}", 1..4, "did you mean `id`"),
            ("{path.other}", 1..11, "the route captures id"),
        ] {
            let bad = Template::parse(text, Some(&names(&["id"]))).unwrap_err();
            assert!(bad.at == at && bad.why.contains(why), "{text}: {bad:?}");
        }
        assert!("{anything}".parse::<Template>().is_ok(), "it may be a capture");
        assert!("{any.thing}".parse::<Template>().is_err(), "a capture has no point");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_has_a_place(text in "[a-z{}.é]{0,40}") {
            match text.parse::<Template>() {
                Ok(t) => prop_assert_eq!(t.as_str(), &text),
                Err(bad) => prop_assert!(text.get(bad.at.clone()).is_some(), "{:?}", bad),
            }
        }
        #[test]
        fn doubled_braces_are_plain_text(text in any::<String>()) {
            let written = text.replace('{', "{{").replace('}', "}}");
            let template: Template = written.parse().unwrap();
            prop_assert_eq!(template.constant(), Some(&*text));
        }
    }
}
