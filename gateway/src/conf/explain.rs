//! What a route's settings are and who wrote each of them; and the whole configuration as it was read, one key a line.
//! References are shown as references.

use super::source::Sources;
use super::tree::{Node, Value, join, key};
use std::fmt;

/// One setting: a key's whole path, what the file says, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub path: String,
    pub value: String,
    /// `edge.toml:3`, or `default` where nobody wrote it.
    pub origin: String,
}

/// Every setting below `node`, leaf by leaf.
pub fn settings(node: &Node, sources: &Sources) -> Settings {
    let mut all = vec![];
    walk(node, String::new(), sources, &mut all);
    Settings(all)
}

/// Printed one a line: `path = value   # origin`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings(pub Vec<Setting>);

/// Origins start here unless a setting is longer.
const COLUMN: usize = 60;

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.0 {
            let line = format!("{} = {}", s.path, s.value);
            writeln!(f, "{line:<COLUMN$} # {}", s.origin)?;
        }
        Ok(())
    }
}

fn walk(node: &Node, path: String, sources: &Sources, all: &mut Vec<Setting>) {
    match &node.value {
        Value::Table(t) if !t.is_empty() => {
            t.iter().for_each(|e| walk(&e.node, join(&path, &key(&e.key)), sources, all));
        }
        // a list of several is shown element by element where they may have several authors or are tables
        Value::Array(a) if spread(a, sources) => {
            a.iter().enumerate().for_each(|(i, n)| walk(n, join(&path, &format!("[{i}]")), sources, all));
        }
        _ => all.push(Setting { path, value: node.to_string(), origin: origin(node, sources) }),
    }
}

fn spread(items: &[Node], sources: &Sources) -> bool {
    let table = |n: &Node| matches!(n.value, Value::Table(_));
    let mut origins = items.iter().map(|n| origin(n, sources));
    let first = origins.next();
    items.iter().any(table) || origins.any(|o| Some(&o) != first.as_ref())
}

fn origin(node: &Node, sources: &Sources) -> String {
    let place = sources.locate(node.span.start);
    if place.file == super::load::BUILT_IN { "default".into() } else { format!("{}:{}", place.file, place.line) }
}
