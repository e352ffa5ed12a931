//! What a route's settings are and who wrote each of them; and the whole configuration as it was read, one key a line.
//! References are shown as references.

use super::source::Sources;
use super::tree::{Node, Value, join, key};
use serde_json::Value as Json;
use std::collections::BTreeMap;
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

/// What holds where nobody wrote anything: the defaults that the schema knows, of every table that `node` has.
pub fn defaults(node: &Node, schema: &Json, definition: &str) -> Settings {
    let mut all = vec![];
    absent(node, &[&schema["definitions"][definition]], schema, "", &mut all);
    Settings(all)
}

fn absent(node: &Node, shapes: &[&Json], root: &Json, path: &str, all: &mut Vec<Setting>) {
    let mut properties = BTreeMap::new();
    shapes.iter().for_each(|shape| collect(shape, root, &mut properties, 0));
    for (name, shape) in properties {
        let path = join(path, &key(name));
        match node.entry(name) {
            Some(e) if matches!(e.node.value, Value::Table(_)) => absent(&e.node, &[shape], root, &path, all),
            Some(_) => {}
            None => {
                if let Some(value) = shape.get("default").and_then(toml) {
                    all.push(Setting { path, value, origin: "default".into() });
                }
            }
        }
    }
}

/// The properties of a shape, through references and alternatives. A chain of references has an end, as types have.
fn collect<'s>(shape: &'s Json, root: &'s Json, to: &mut BTreeMap<&'s str, &'s Json>, depth: usize) {
    if depth > 8 {
        return;
    }
    let target = shape.get("$ref").and_then(Json::as_str).and_then(|r| root.pointer(r.trim_start_matches('#')));
    let alternatives = ["allOf", "anyOf", "oneOf"].iter().filter_map(|k| shape.get(k)?.as_array()).flatten();
    for inner in target.into_iter().chain(alternatives) {
        collect(inner, root, to, depth + 1);
    }
    for (name, property) in shape.get("properties").and_then(Json::as_object).into_iter().flatten() {
        to.insert(name, property);
    }
}

/// A default as TOML writes it; nothing for what only says that there is nothing.
fn toml(value: &Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::Array(a) if a.is_empty() => None,
        Json::Array(a) => Some(format!("[{}]", a.iter().map(Json::to_string).collect::<Vec<_>>().join(", "))),
        Json::Object(_) => None,
        other => Some(other.to_string()),
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
