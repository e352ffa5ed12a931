//! One `SecRule` or `SecAction`: targets, operator, actions.

use super::actions::{self, Action};
use super::{LoadError, Loader, Place};
use crate::vars::{Selector, Target, Var};

/// A rule or a link of a chain, as written.
#[derive(Debug, Clone)]
pub struct RuleText {
    pub targets: Vec<Target>,
    pub excluded: Vec<Target>,
    /// `None` for a `SecAction`.
    pub operator: Option<OpSpec>,
    pub actions: Vec<Action>,
}

/// An operator by name with its argument; files already read.
#[derive(Debug, Clone)]
pub struct OpSpec {
    pub negated: bool,
    pub name: String,
    pub argument: String,
    /// The lines of the file that the argument names.
    pub file: Option<Vec<u8>>,
}

impl RuleText {
    pub(super) fn rule(
        targets: &str,
        operator: &str,
        list: &str,
        place: &Place,
        loader: &dyn Loader,
        warnings: &mut Vec<String>,
    ) -> Result<RuleText, LoadError> {
        let fail = |reason: String| LoadError::new(place, reason);
        let (targets, excluded) = parse_targets(targets).map_err(fail)?;
        if targets.is_empty() {
            return Err(fail("SecRule: found no target".to_owned()));
        }
        let mut spec = operator_spec(operator);
        match spec.name.as_str() {
            "pmfromfile" | "pmf" | "ipmatchfromfile" | "ipmatchf" => {
                let mut lines = Vec::new();
                for name in spec.argument.split_whitespace() {
                    lines.extend(loader.load(name, &place.file).map_err(|e| LoadError::new(place, e))?);
                    lines.push(b'\n');
                }
                spec.file = Some(lines);
            }
            "rbl" | "geolookup" => {
                warnings.push(format!("{place}: @{} needs a network or a database and never matches here", spec.name));
            }
            _ => {}
        }
        let actions = actions::parse(list).map_err(|reason| LoadError::new(place, reason))?;
        Ok(RuleText { targets, excluded, operator: Some(spec), actions })
    }

    pub(super) fn action(list: &str, place: &Place) -> Result<RuleText, LoadError> {
        let actions = actions::parse(list).map_err(|reason| LoadError::new(place, reason))?;
        Ok(RuleText { targets: Vec::new(), excluded: Vec::new(), operator: None, actions })
    }
}

/// `@rx a`, `!@rx a`, or a bare regular expression.
fn operator_spec(text: &str) -> OpSpec {
    let text = text.trim_start();
    let (negated, rest) = match text.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    match rest.strip_prefix('@') {
        Some(named) => {
            let end = named.find(char::is_whitespace).unwrap_or(named.len());
            let argument = named[end..].strip_prefix([' ', '\t']).unwrap_or("");
            OpSpec { negated, name: named[..end].to_ascii_lowercase(), argument: argument.to_owned(), file: None }
        }
        None => OpSpec { negated, name: "rx".to_owned(), argument: rest.to_owned(), file: None },
    }
}

/// `ARGS|!ARGS:secret|&REQUEST_HEADERS:Host|XML:/*`: what to look at, and what to leave out.
pub fn parse_targets(text: &str) -> Result<(Vec<Target>, Vec<Target>), String> {
    let mut targets = Vec::new();
    let mut excluded = Vec::new();
    for word in split_targets(text) {
        let word = word.trim();
        if word.is_empty() {
            continue;
        }
        let (word, exclude) = match word.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (word, false),
        };
        let (word, count) = match word.strip_prefix('&') {
            Some(rest) => (rest, true),
            None => (word, false),
        };
        let target = target(word, count)?;
        if exclude { excluded.push(target) } else { targets.push(target) }
    }
    Ok((targets, excluded))
}

/// Apart at `|` or `,`, but not inside `/…/` or quotes.
fn split_targets(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut regex, mut quote, mut escaped) = (0, false, false, false);
    let mut before = '\0';
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quote = !quote,
            // `XML:/*` and `XML://@*` are paths, not expressions.
            '/' if regex => regex = false,
            '/' if before == ':' && !is_xpath(&text[i..]) => regex = true,
            '|' | ',' if !regex && !quote => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        before = c;
    }
    out.push(&text[start..]);
    out
}

fn is_xpath(text: &str) -> bool {
    let end = text.find(['|', ',']).unwrap_or(text.len());
    matches!(&text[..end], "/*" | "//*" | "//@*")
}

fn target(word: &str, count: bool) -> Result<Target, String> {
    let (name, key) = match word.split_once(':') {
        Some((name, key)) => (name, Some(key)),
        None => (word, None),
    };
    if name.eq_ignore_ascii_case("XML") {
        let var = match key {
            None | Some("/*" | "//*") => Var::XmlText,
            Some("//@*") => Var::XmlAttributes,
            Some(path) => return Err(format!("XML:{path}: expected /* or //@*")),
        };
        return Ok(Target { var, selector: Selector::All, count });
    }
    let var = Var::parse(name).ok_or_else(|| format!("unknown variable {name:?}"))?;
    let selector = match key {
        None => Selector::All,
        Some(_) if !var.is_collection() => return Err(format!("{word:?}: {name} takes no key")),
        Some(key) => selector(key)?,
    };
    Ok(Target { var, selector, count })
}

fn selector(key: &str) -> Result<Selector, String> {
    let key = match (key.strip_prefix('\''), key.strip_suffix('\'')) {
        (Some(rest), Some(_)) if key.len() >= 2 => &rest[..rest.len() - 1],
        _ => key,
    };
    if key.len() >= 2
        && let Some(pattern) = key.strip_prefix('/').and_then(|k| k.strip_suffix('/'))
    {
        return Selector::pattern(pattern);
    }
    Ok(Selector::Key(key.to_ascii_lowercase().into_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_exclusions() {
        let (t, x) = parse_targets("ARGS|!ARGS:/^a|b$/|&REQUEST_HEADERS:Host|XML:/*|XML://@*").unwrap();
        assert_eq!(
            t.iter().map(|t| t.var).collect::<Vec<_>>(),
            [Var::Args, Var::RequestHeaders, Var::XmlText, Var::XmlAttributes]
        );
        assert!(t[1].count);
        assert_eq!(x.len(), 1);
        assert!(x[0].selector.holds(b"xb"));
    }

    #[test]
    fn bad_targets_are_named() {
        assert_eq!(parse_targets("ARGZ").unwrap_err(), "unknown variable \"ARGZ\"");
        assert_eq!(parse_targets("REQUEST_URI:a").unwrap_err(), "\"REQUEST_URI:a\": REQUEST_URI takes no key");
    }
}
