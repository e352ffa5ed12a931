//! The manual, the reference file and the schema hold each other: a key that one of them does not know fails here.
//!
//! Between `<!-- keys: NAME -->` and `<!-- end -->` in `docs/configuration.md` stands a table made of the schema, that is,
//! of the doc comments of the types. `UPDATE=1 cargo test -p portcullis --lib manual` writes them anew.

use super::schema;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the block that is about the file as a whole.
const FILE: &str = "File";
/// Types of values that the manual explains in a section of their own.
const EXPLAINED: &[(&str, &str)] = &[
    ("Span", "[duration](#units)"),
    ("ByteSize", "[size](#units)"),
    ("Percent", "[share](#units)"),
    ("Cidr", "[address block](#units)"),
    ("Key", "[key](#keys)"),
    ("Expr", "[condition](#conditions)"),
    ("Template", "[template](#templates)"),
    ("Pattern", "[pattern](#matching)"),
    ("Pem", "PEM file, or a [reference](#references)"),
    ("Secret", "[reference](#references)"),
    ("Token", "name"),
    ("HeaderNames", "name"),
    ("Address", "address"),
    ("ListenBind", "address"),
    ("AdminAddr", "address"),
    ("LogTo", "text"),
    ("Names", "name, or a list of them"),
    ("To", "name, address, or weights"),
    ("Include", "path, or a list of them"),
    ("HttpsRedirect", "`\"https\"` or `\"https:PORT\"`"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_manual_has_every_key() {
    let path = root().join("docs/configuration.md");
    let text = fs::read_to_string(&path).expect("the manual");
    let manual = Manual { schema: schema(), anchors: anchors(&text) };
    let missing: Vec<_> = manual.tables().filter(|name| !manual.anchors.contains_key(*name)).collect();
    assert!(missing.is_empty(), "docs/configuration.md has no block <!-- keys: NAME --> for {missing:?}");
    let fresh = manual.fill(&text);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &fresh).expect("the manual is writable");
    } else if let Some((old, new)) = text.lines().zip(fresh.lines()).find(|(old, new)| old != new) {
        panic!("docs/configuration.md is out of date, UPDATE=1 writes it anew:\n- {old}\n+ {new}");
    }
}

/// A `<!-- keys: NAME -->` and the link to the heading above it.
fn anchors(text: &str) -> BTreeMap<&str, String> {
    let mut all = BTreeMap::new();
    let mut heading = "";
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        } else if let Some(name) = block(line) {
            // as GitHub makes it
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor = kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
            assert!(all.insert(name, anchor).is_none(), "{name} stands twice");
        }
    }
    all
}

fn block(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- keys: ")?.strip_suffix(" -->")
}

struct Manual<'t> {
    schema: Value,
    anchors: BTreeMap<&'t str, String>,
}

impl Manual<'_> {
    /// Everything that has keys.
    fn tables(&self) -> impl Iterator<Item = &str> {
        let all = self.schema["definitions"].as_object().expect("definitions");
        let keyed = all.iter().filter(|(name, d)| d["properties"].is_object() && *name != "Policy");
        keyed.map(|(name, _)| name.as_str()).chain([FILE])
    }

    fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut skipping = false;
        for line in text.lines() {
            skipping &= line != "<!-- end -->";
            if !skipping {
                out += line;
                out += "\n";
            }
            if let Some(name) = block(line) {
                out += &self.table(name);
                skipping = true;
            }
        }
        assert!(!skipping, "a block is not closed");
        out
    }

    fn table(&self, name: &str) -> String {
        let def = if name == FILE { &self.schema } else { &self.schema["definitions"][name] };
        let keys = def["properties"].as_object().unwrap_or_else(|| panic!("no table is named {name}"));
        let steps = &self.schema["definitions"]["Policy"]["properties"];
        let needed = |key: &str| def["required"].as_array().is_some_and(|all| all.contains(&key.into()));
        let mut rows: Vec<_> = keys.iter().filter(|(k, _)| name != "Route" || steps[k.as_str()].is_null()).collect();
        rows.sort_by_key(|(key, _)| !needed(key));
        let mut out = "| Key | Value | Meaning |\n|---|---|---|\n".to_owned();
        for (key, value) in rows {
            let mut said = value["description"].as_str().unwrap_or_default().replace('\n', " ");
            if let Some(default) = value.get("default").filter(|_| !said.contains("efault") && !needed(key)) {
                let plain = default.as_str().is_none_or(|text| !text.is_empty()) && *default != Value::Array(vec![]);
                if plain && default.as_object().is_none_or(|o| !o.is_empty()) {
                    said += &format!(" Default: `{default}`.");
                }
            }
            let required = if needed(key) { ", required" } else { "" };
            let cells = [format!("`{key}`"), self.form(value) + required, said].map(|cell| cell.replace('|', "\\|"));
            out += &format!("| {} |\n", cells.join(" | "));
        }
        out
    }

    /// What may be written, in few words.
    fn form(&self, value: &Value) -> String {
        let list = |of: &Value| of.as_array().map(|all| all.iter().map(|v| self.form(v)).collect::<Vec<_>>());
        let code = |v: &Value| format!("`{v}`");
        let reference = value.get("$ref").or_else(|| value["allOf"][0].get("$ref"));
        if let Some(name) = reference.and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
            if let Some((_, form)) = EXPLAINED.iter().find(|(known, _)| *known == name) {
                return (*form).to_owned();
            }
            if let Some(anchor) = self.anchors.get(name) {
                return format!("[table](#{anchor})");
            }
            return self.form(&self.schema["definitions"][name]);
        }
        if let Some(parts) = list(&value["anyOf"]).or_else(|| list(&value["oneOf"])) {
            let words = parts.iter().all(|part| part.starts_with('`') && !part.contains(" or "));
            let once = parts.iter().enumerate().filter(|(i, part)| !parts[..*i].contains(part));
            let all: Vec<_> = once.map(|(_, part)| part.as_str()).collect();
            let (last, rest) = all.split_last().expect("an alternative");
            let rest = rest.join(" or ");
            return match last.strip_prefix("list of: ") {
                Some(items) if items == rest => format!("{rest}, or a list"),
                _ => all.join(if words { " " } else { " or " }),
            };
        }
        if let Some(values) = value["enum"].as_array() {
            return values.iter().map(code).collect::<Vec<_>>().join(" ");
        }
        match (value.get("const"), value["type"].as_str()) {
            (Some(one), _) => code(one),
            (_, Some("array")) => format!("list of: {}", self.form(&value["items"])),
            (_, Some("object")) => format!("names, each with: {}", self.form(&value["additionalProperties"])),
            (_, Some("boolean")) => "`true` or `false`".into(),
            (_, Some("integer" | "number")) => "number".into(),
            _ => "text".into(),
        }
    }
}

/// The examples of `conf/`, each as JSON.
fn examples() -> Vec<(PathBuf, Value)> {
    let folder = fs::read_dir(root().join("conf")).expect("conf/");
    let files = folder.map(|f| f.expect("a file").path());
    files.map(|path| (path.clone(), json(&fs::read_to_string(path).expect("an example")))).collect()
}

fn json(text: &str) -> Value {
    let tree: toml::Table = toml::from_str(text).expect("TOML");
    serde_json::to_value(tree).expect("no dates, no infinities")
}

#[test]
fn editors_find_no_fault_in_the_examples() {
    let schema = schema();
    for (path, file) in examples() {
        let mut judge = Judge { schema: &schema, keys: BTreeSet::new() };
        if let Err(why) = judge.accepts(&schema, &file, "") {
            panic!("{}: {why}", path.display());
        }
    }
    for wrong in ["version = 2", "[server]\nthraeds = 2", "[route.a]\nto = \"x\"", "[service.a]\nto = 7"] {
        let mut judge = Judge { schema: &schema, keys: BTreeSet::new() };
        assert!(judge.accepts(&schema, &json(wrong), "").is_err(), "{wrong}");
    }
}

#[test]
fn the_reference_file_has_every_key() {
    let (schema, path) = (schema(), root().join("conf/everything.toml"));
    let text = fs::read_to_string(path).expect("the reference");
    let mut judge = Judge { schema: &schema, keys: BTreeSet::new() };
    judge.accepts(&schema, &json(&text), "").unwrap_or_else(|why| panic!("{why}"));
    let comments: String = text.lines().filter_map(|l| l.split_once('#')).map(|(_, said)| said).collect();
    let steps = &schema["definitions"]["Policy"]["properties"];
    let mut missing = vec![];
    for (name, def) in schema["definitions"].as_object().expect("definitions") {
        for key in def["properties"].as_object().into_iter().flat_map(|keys| keys.keys()) {
            let told = judge.keys.contains(&(name.clone(), key.clone())) || comments.contains(&format!("{key} = "));
            // a policy's keys need not stand in a route once more
            if !told && (name != "Route" || steps[key].is_null()) {
                missing.push(format!("{name}.{key}"));
            }
        }
    }
    assert!(missing.is_empty(), "conf/everything.toml says nothing of {missing:?}");
}

/// As much of JSON Schema as ours uses; remembers which keys of which table it met.
struct Judge<'s> {
    schema: &'s Value,
    keys: BTreeSet<(String, String)>,
}

impl Judge<'_> {
    fn accepts(&mut self, rule: &Value, value: &Value, at: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{at}: {what}, found {value}"));
        if let Some(name) = rule["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
            let schema = self.schema;
            let rule = &schema["definitions"][name];
            if let (Some(keys), true) = (value.as_object(), rule["properties"].is_object()) {
                self.keys.extend(keys.keys().map(|key| (name.to_owned(), key.clone())));
            }
            return self.accepts(rule, value, at);
        }
        for part in rule["allOf"].as_array().into_iter().flatten() {
            self.accepts(part, value, at)?;
        }
        for any in [&rule["anyOf"], &rule["oneOf"]] {
            let Some(any) = any.as_array() else { continue };
            if !any.iter().any(|part| self.accepts(part, value, at).is_ok()) {
                return wrong("fits no alternative");
            }
        }
        let fits = match rule["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => true,
        };
        if !fits {
            return wrong("another type is expected");
        }
        if rule["enum"].as_array().is_some_and(|all| !all.contains(value))
            || rule.get("const").is_some_and(|c| c != value)
        {
            return wrong("another value is expected");
        }
        if let (Some(pattern), Some(text)) = (rule["pattern"].as_str(), value.as_str())
            && !regex::Regex::new(pattern).expect("a pattern").is_match(text)
        {
            return wrong(&format!("`{pattern}` is expected"));
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            self.accepts(&rule["items"], item, &format!("{at}[{i}]"))?;
        }
        self.keys(rule, value, at)
    }

    fn keys(&mut self, rule: &Value, value: &Value, at: &str) -> Result<(), String> {
        let Some(keys) = value.as_object() else { return Ok(()) };
        for needed in rule["required"].as_array().into_iter().flatten() {
            if !keys.contains_key(needed.as_str().unwrap_or_default()) {
                return Err(format!("{at}: {needed} is missing"));
            }
        }
        for (key, value) in keys {
            let at = format!("{at}.{key}");
            match (rule["properties"].get(key), &rule["additionalProperties"]) {
                (Some(rule), _) => self.accepts(rule, value, &at)?,
                (None, Value::Bool(false)) => return Err(format!("{at}: unknown key")),
                (None, rule) => self.accepts(rule, value, &at)?,
            }
        }
        Ok(())
    }
}
