//! The action list of a rule: `id:1,phase:2,block,t:none,setvar:'tx.a=+%{tx.b}'`.
//!
//! A comma inside single quotes belongs to the value. Names are case-insensitive; an unknown one is an error.

use super::{EngineMode, engine_mode};
use crate::transform::Transform;
use crate::vars::{Selector, Target, Var};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Id(u64),
    Phase(u8),
    Msg(Macro),
    LogData(Macro),
    Tag(String),
    Ver(String),
    Rev(String),
    Severity(u8),
    Maturity(String),
    Accuracy(String),
    Disruptive(Disruptive),
    Status(u16),
    Log(bool),
    AuditLog(bool),
    Capture,
    Chain,
    MultiMatch,
    /// `None` is `t:none`: forget what came before.
    Transform(Option<Transform>),
    Skip(u32),
    SkipAfter(String),
    SetVar(Assign),
    Ctl(Ctl),
    /// `initcol`, `setsid`, `expirevar` …: state between requests, which this engine does not keep.
    Stateless(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disruptive {
    Pass,
    Block,
    Deny,
    Drop,
    Allow,
    AllowPhase,
    AllowRequest,
    Redirect,
}

/// Text with `%{…}` in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Macro(pub Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Name(MacroName),
}

/// What a `%{…}` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacroName {
    /// One value of the transaction.
    Value(Target),
    RuleId,
    RuleMsg,
    RuleSeverity,
    RuleLogData,
}

impl Macro {
    pub fn parse(text: &str) -> Result<Macro, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("%{") {
            let Some(len) = rest[start..].find('}') else { break };
            if start > 0 {
                pieces.push(Piece::Text(rest[..start].to_owned()));
            }
            pieces.push(Piece::Name(macro_name(&rest[start + 2..start + len])?));
            rest = &rest[start + len + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Macro(pieces))
    }

    /// The text, if it needs no transaction to be known.
    pub fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn macro_name(name: &str) -> Result<MacroName, String> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "rule.id" => return Ok(MacroName::RuleId),
        "rule.msg" => return Ok(MacroName::RuleMsg),
        "rule.severity" => return Ok(MacroName::RuleSeverity),
        "rule.logdata" => return Ok(MacroName::RuleLogData),
        _ => {}
    }
    let (var, key) = match name.split_once(['.', ':']) {
        Some((var, key)) => (var, Some(key)),
        None => (name, None),
    };
    let var_id = Var::parse(var).ok_or_else(|| format!("macro %{{{name}}}: unknown variable {var:?}"))?;
    let selector = match key {
        Some(key) => Selector::Key(key.to_ascii_lowercase().into_bytes().into()),
        None => Selector::All,
    };
    Ok(MacroName::Value(Target { var: var_id, selector, count: false }))
}

/// `setvar`: collection, name and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    pub var: Var,
    pub name: Macro,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Set(Macro),
    Add(Macro),
    Subtract(Macro),
    Unset,
}

impl Assign {
    fn parse(text: &str) -> Result<Assign, String> {
        let (text, unset) = match text.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (name, value) = match split_outside_macro(text, '=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let (collection, key) =
            name.split_once('.').ok_or_else(|| format!("setvar {text:?}: expected <collection>.<name>"))?;
        let var = Var::parse(collection)
            .filter(|v| v.is_writable())
            .ok_or_else(|| format!("setvar {text:?}: {collection:?} cannot be written"))?;
        let change = match value {
            _ if unset => Change::Unset,
            None => Change::Set(Macro(vec![Piece::Text("1".into())])),
            Some(v) => match (v.strip_prefix('+'), v.strip_prefix('-')) {
                (Some(n), _) => Change::Add(Macro::parse(n)?),
                (_, Some(n)) => Change::Subtract(Macro::parse(n)?),
                _ => Change::Set(Macro::parse(v)?),
            },
        };
        Ok(Assign { var, name: Macro::parse(key)?, change })
    }
}

fn split_outside_macro(text: &str, at: char) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    let mut before = '\0';
    for (i, c) in text.char_indices() {
        match c {
            '{' if before == '%' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if c == at && depth == 0 => return Some((&text[..i], &text[i + c.len_utf8()..])),
            _ => {}
        }
        before = c;
    }
    None
}

/// Rules by number: `942100`, `942100-942999`, several apart by blanks or commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(pub Vec<(u64, u64)>);

impl Selection {
    pub fn parse(text: &str) -> Result<Selection, String> {
        let mut ranges = Vec::new();
        for word in text.split([' ', ',', '\t']).filter(|w| !w.is_empty()) {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            let bad = |_| format!("rule id {word:?}: expected a number or a range <from>-<to>");
            let (from, to) = (from.trim().parse().map_err(bad)?, to.trim().parse().map_err(bad)?);
            if from > to {
                return Err(format!("rule id {word:?}: expected the smaller number first"));
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() {
            return Err("found no rule id".to_owned());
        }
        Ok(Selection(ranges))
    }

    pub fn holds(&self, id: u64) -> bool {
        self.0.iter().any(|&(from, to)| (from..=to).contains(&id))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ctl {
    Engine(EngineMode),
    RemoveById(Selection),
    RemoveByTag(String),
    RemoveByMsg(String),
    RemoveTarget(CtlTarget, Target),
    BodyProcessor(String),
    ForceBodyVariable(bool),
    RequestBodyAccess(bool),
    ResponseBodyAccess(bool),
    /// `auditEngine`, `auditLogParts`, `debugLogLevel`: about logs that are not this engine's.
    Ignored,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtlTarget {
    Id(Selection),
    Tag(String),
    Msg(String),
}

impl Ctl {
    fn parse(text: &str) -> Result<Ctl, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("ctl {text:?}: expected <name>=<value>"))?;
        let on_off = || match value.to_ascii_lowercase().as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("ctl {text:?}: expected On or Off")),
        };
        let target = || -> Result<(String, Target), String> {
            let (which, target) =
                value.split_once(';').ok_or_else(|| format!("ctl {text:?}: expected <rules>;<target>"))?;
            let (mut targets, excluded) = super::parse_targets(target)?;
            match (targets.pop(), targets.is_empty(), excluded.is_empty()) {
                (Some(t), true, true) => Ok((which.to_owned(), t)),
                _ => Err(format!("ctl {text:?}: expected one target")),
            }
        };
        Ok(match name.to_ascii_lowercase().as_str() {
            "ruleengine" => Ctl::Engine(engine_mode(value)?),
            "ruleremovebyid" => Ctl::RemoveById(Selection::parse(value)?),
            "ruleremovebytag" => Ctl::RemoveByTag(value.to_owned()),
            "ruleremovebymsg" => Ctl::RemoveByMsg(value.to_owned()),
            "ruleremovetargetbyid" => {
                let (which, target) = target()?;
                Ctl::RemoveTarget(CtlTarget::Id(Selection::parse(&which)?), target)
            }
            "ruleremovetargetbytag" => {
                let (which, target) = target()?;
                Ctl::RemoveTarget(CtlTarget::Tag(which), target)
            }
            "ruleremovetargetbymsg" => {
                let (which, target) = target()?;
                Ctl::RemoveTarget(CtlTarget::Msg(which), target)
            }
            "requestbodyprocessor" => match value.to_ascii_uppercase().as_str() {
                v @ ("URLENCODED" | "MULTIPART" | "XML" | "JSON") => Ctl::BodyProcessor(v.to_owned()),
                _ => return Err(format!("ctl {text:?}: expected URLENCODED, MULTIPART, XML or JSON")),
            },
            "forcerequestbodyvariable" => Ctl::ForceBodyVariable(on_off()?),
            "requestbodyaccess" => Ctl::RequestBodyAccess(on_off()?),
            "responsebodyaccess" => Ctl::ResponseBodyAccess(on_off()?),
            "auditengine" | "auditlogparts" | "debugloglevel" => Ctl::Ignored,
            _ => return Err(format!("unknown ctl {name:?}")),
        })
    }
}

/// Reads an action list.
pub fn parse(text: &str) -> Result<Vec<Action>, String> {
    split_list(text)?.into_iter().map(|(name, value)| action(&name, value.as_deref())).collect()
}

fn action(name: &str, value: Option<&str>) -> Result<Action, String> {
    let need = || value.ok_or_else(|| format!("action {name:?}: expected a value"));
    let number = |max: u64| -> Result<u64, String> {
        let v = need()?;
        v.parse::<u64>()
            .ok()
            .filter(|n| *n <= max)
            .ok_or_else(|| format!("{name} {v:?}: expected a number up to {max}"))
    };
    Ok(match name.to_ascii_lowercase().as_str() {
        "id" => Action::Id(number(u64::MAX)?),
        "phase" => Action::Phase(phase(need()?)?),
        "msg" => Action::Msg(Macro::parse(need()?)?),
        "logdata" => Action::LogData(Macro::parse(need()?)?),
        "tag" => Action::Tag(need()?.to_owned()),
        "ver" => Action::Ver(need()?.to_owned()),
        "rev" => Action::Rev(need()?.to_owned()),
        "maturity" => Action::Maturity(need()?.to_owned()),
        "accuracy" => Action::Accuracy(need()?.to_owned()),
        "severity" => Action::Severity(severity(need()?)?),
        "pass" => Action::Disruptive(Disruptive::Pass),
        "block" => Action::Disruptive(Disruptive::Block),
        "deny" => Action::Disruptive(Disruptive::Deny),
        "drop" => Action::Disruptive(Disruptive::Drop),
        "redirect" => Action::Disruptive(Disruptive::Redirect),
        "allow" => Action::Disruptive(match value.map(str::to_ascii_lowercase).as_deref() {
            None => Disruptive::Allow,
            Some("phase") => Disruptive::AllowPhase,
            Some("request") => Disruptive::AllowRequest,
            Some(other) => return Err(format!("allow {other:?}: expected phase, request or nothing")),
        }),
        "status" => Action::Status(number(999)? as u16),
        "log" => Action::Log(true),
        "nolog" => Action::Log(false),
        "auditlog" => Action::AuditLog(true),
        "noauditlog" => Action::AuditLog(false),
        "capture" => Action::Capture,
        "chain" => Action::Chain,
        "multimatch" => Action::MultiMatch,
        "t" => match need()? {
            v if v.eq_ignore_ascii_case("none") => Action::Transform(None),
            v => Action::Transform(Some(Transform::parse(v).ok_or_else(|| format!("unknown transformation {v:?}"))?)),
        },
        "skip" => Action::Skip(number(u32::MAX as u64)? as u32),
        "skipafter" => Action::SkipAfter(need()?.to_owned()),
        "setvar" => Action::SetVar(Assign::parse(need()?)?),
        "ctl" => Action::Ctl(Ctl::parse(need()?)?),
        "initcol" => Action::Stateless("initcol"),
        "setsid" => Action::Stateless("setsid"),
        "setuid" => Action::Stateless("setuid"),
        "setrsc" => Action::Stateless("setrsc"),
        "expirevar" => Action::Stateless("expirevar"),
        "deprecatevar" => Action::Stateless("deprecatevar"),
        "setenv" => Action::Stateless("setenv"),
        "sanitisearg"
        | "sanitiserequestheader"
        | "sanitiseresponseheader"
        | "sanitisematched"
        | "sanitisematchedbytes" => Action::Stateless("sanitise"),
        _ => return Err(format!("unknown action {name:?}")),
    })
}

fn phase(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" => Ok(1),
        "2" | "request" => Ok(2),
        "3" => Ok(3),
        "4" | "response" => Ok(4),
        "5" | "logging" => Ok(5),
        _ => Err(format!("phase {text:?}: expected 1 to 5, request, response or logging")),
    }
}

fn severity(text: &str) -> Result<u8, String> {
    const NAMES: [&str; 8] = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];
    let lower = text.to_ascii_lowercase();
    if let Some(n) = NAMES.iter().position(|name| *name == lower) {
        return Ok(n as u8);
    }
    text.parse()
        .ok()
        .filter(|n| *n < 8)
        .ok_or_else(|| format!("severity {text:?}: expected 0 to 7 or {}", NAMES.join(", ")))
}

/// `name:value` items apart at commas that stand outside single quotes.
fn split_list(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let mut items = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find([':', ',']).unwrap_or(rest.len());
        let name = rest[..end].trim().to_owned();
        if name.is_empty() {
            return Err(format!("found {rest:?}, expected an action"));
        }
        if !rest[end..].starts_with(':') {
            rest = rest[end..].strip_prefix(',').unwrap_or("").trim_start();
            items.push((name, None));
            continue;
        }
        let value = rest[end + 1..].trim_start();
        if let Some(body) = value.strip_prefix('\'') {
            let (inner, after) = single_quoted(body).ok_or_else(|| format!("action {name:?}: found no closing '"))?;
            items.push((name, Some(inner)));
            rest = match after.trim_start().strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.trim().is_empty() => "",
                None => return Err(format!("found {after:?} after a quoted value, expected a comma")),
            };
        } else {
            // A setvar without outer quotes may quote its value: setvar:tx.a='b,c'.
            let end = comma_outside_quotes(value);
            let raw = value[..end].trim();
            items.push((name, Some(inner_quotes(raw))));
            rest = value[end..].strip_prefix(',').unwrap_or("").trim_start();
        }
    }
    Ok(items)
}

fn comma_outside_quotes(text: &str) -> usize {
    let mut inside = false;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => inside = !inside,
            ',' if !inside => return i,
            _ => {}
        }
    }
    text.len()
}

fn inner_quotes(raw: &str) -> String {
    match raw.split_once("='") {
        Some((name, value)) if value.ends_with('\'') => format!("{name}={}", &value[..value.len() - 1]),
        _ => raw.to_owned(),
    }
}

fn single_quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[i + 1..])),
            '\\' => match chars.next() {
                Some((_, '\'')) => out.push('\''),
                Some((_, next)) => {
                    out.push('\\');
                    out.push(next);
                }
                None => out.push('\\'),
            },
            _ => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_stay() {
        let list = parse(r"id:7,msg:'a, \'b\'',t:none,t:lowercase,setvar:'tx.a=+%{tx.b}'").unwrap();
        assert_eq!(list.len(), 5);
        assert_eq!(list[1], Action::Msg(Macro::parse("a, 'b'").unwrap()));
        let Action::SetVar(assign) = &list[4] else { panic!("{list:?}") };
        assert_eq!(assign.name.constant(), Some("a"));
        assert!(matches!(assign.change, Change::Add(_)));
    }

    #[test]
    fn unknown_things_are_named() {
        assert_eq!(parse("id:1,explode").unwrap_err(), "unknown action \"explode\"");
        assert_eq!(parse("t:rot13").unwrap_err(), "unknown transformation \"rot13\"");
        assert_eq!(parse("msg:'%{nothing}'").unwrap_err(), "macro %{nothing}: unknown variable \"nothing\"");
        assert_eq!(parse("phase:9").unwrap_err(), "phase \"9\": expected 1 to 5, request, response or logging");
    }

    #[test]
    fn selections() {
        let s = Selection::parse("1 5-9").unwrap();
        assert!(s.holds(1) && s.holds(7) && !s.holds(2));
        assert!(Selection::parse("9-5").is_err());
    }
}
