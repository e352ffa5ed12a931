//! The file as a tree that remembers where everything stood. Its surprise: a text keeps both what the file says and
//! what it means once references are resolved; only the first is ever printed.
//!
//! References: `${env:NAME}`, `${file:/path}`, `${cred:NAME}` (systemd credentials); `$${` is a literal `${`.

use super::fault::Fault;
use serde_spanned::Spanned;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeInteger, DeTable, DeValue};

/// A place: bytes, counted over all files of one load, so that a plain range names file, line and column.
pub type Span = Range<usize>;

/// A value and its place.
#[derive(Clone)]
pub struct Node {
    pub span: Span,
    pub value: Value,
}

/// One key of a table.
#[derive(Clone)]
pub struct Entry {
    pub key: String,
    /// The key's own place.
    pub at: Span,
    pub node: Node,
}

#[derive(Clone)]
pub enum Value {
    Text(Text),
    Int(i64),
    Float(f64),
    Bool(bool),
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    /// What was here is already a fault; reading leaves it out without another word.
    Broken,
}

/// A string of the file.
#[derive(Clone)]
pub struct Text {
    /// What it means.
    pub value: String,
    /// What the file says, where that differs.
    shown: Option<String>,
    pub origin: Origin,
}

/// Where a text's meaning comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Literal,
    /// A reference stands in it: its value is never printed.
    Reference,
    /// A reference that is not resolved on this machine, and need not be.
    Unresolved,
}

impl Text {
    /// What the file says.
    pub fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.value)
    }
}

impl Node {
    pub fn table(span: Span, entries: Vec<Entry>) -> Node {
        Node { span, value: Value::Table(entries) }
    }
    /// The entries of a table; of anything else, none.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(t) => t,
            _ => &[],
        }
    }
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }
    /// The text of a string.
    pub fn text(&self) -> Option<&Text> {
        match &self.value {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }
    /// The elements of an array, or the node itself: what may be written as one value or as a list.
    pub fn list(&self) -> &[Node] {
        match &self.value {
            Value::Array(a) => a,
            _ => std::slice::from_ref(self),
        }
    }
    /// The place of the value at a path such as `tls[0].cert`, or of the nearest table around it.
    pub fn place(&self, path: &str) -> Span {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|s| !s.is_empty()) {
            let next = match (&node.value, step.strip_suffix(']').and_then(|n| n.parse::<usize>().ok())) {
                (Value::Array(a), Some(n)) => a.get(n),
                _ => node.entry(step).map(|e| &e.node),
            };
            let Some(next) = next else { break };
            node = next;
        }
        node.span.clone()
    }
}

/// What the file says, in TOML; never what a reference means.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Text(t) => write!(f, "{:?}", t.shown()),
            Value::Int(i) => i.fmt(f),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Bool(b) => b.fmt(f),
            Value::Array(a) => {
                f.write_char('[')?;
                for (i, n) in a.iter().enumerate() {
                    write!(f, "{}{n}", if i == 0 { "" } else { ", " })?;
                }
                f.write_char(']')
            }
            Value::Table(t) if t.is_empty() => f.write_str("{}"),
            Value::Table(t) => {
                for (i, e) in t.iter().enumerate() {
                    write!(f, "{} {} = {}", if i == 0 { "{" } else { "," }, key(&e.key), e.node)?;
                }
                f.write_str(" }")
            }
            Value::Broken => f.write_str("?"),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A key as TOML writes it: bare where that is legal.
pub fn key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_string() } else { format!("{key:?}") }
}

/// What references are resolved with.
pub struct Outside<'a> {
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// References that do not resolve are accepted.
    pub lenient: bool,
}

/// A parsed file on its way to become a tree.
pub struct Reading<'a> {
    pub outside: &'a Outside<'a>,
    /// The offset of the file among all files.
    pub base: usize,
    /// Where relative paths start.
    pub folder: &'a Path,
    pub faults: &'a mut Vec<Fault>,
    /// Every resolved value and its reference.
    pub resolved: &'a mut Vec<(String, String)>,
    /// The files that references named.
    pub files: &'a mut Vec<PathBuf>,
    /// The keys down to the value at hand.
    pub path: Vec<String>,
}

/// The most that a reference to a file may bring.
const LONGEST: u64 = 1 << 20;

impl Reading<'_> {
    pub fn table(&mut self, span: Span, table: DeTable<'_>) -> Node {
        let mut entries: Vec<Entry> = table.into_iter().map(|(key, value)| self.entry(key, value)).collect();
        // the parser sorts by name; people read top-down
        entries.sort_by_key(|e| e.at.start);
        Node::table(self.global(span), entries)
    }

    fn entry(&mut self, key: Spanned<std::borrow::Cow<'_, str>>, value: Spanned<DeValue<'_>>) -> Entry {
        let at = self.global(key.span());
        let name = key.into_inner().into_owned();
        self.path.push(name);
        let node = self.node(value);
        Entry { key: self.path.pop().expect("just pushed"), at, node }
    }

    fn global(&self, span: Span) -> Span {
        span.start + self.base..span.end + self.base
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>) -> Node {
        let span = value.span();
        let at = self.global(span.clone());
        let value = match value.into_inner() {
            DeValue::Table(t) => return self.table(span, t),
            DeValue::Array(a) => Value::Array(self.array(a.into_iter())),
            DeValue::String(s) => self.resolve(&s).map_or_else(|why| self.broken(&at, why), Value::Text),
            DeValue::Integer(i) => integer(&i)
                .map_or_else(|| self.broken(&at, (format!("integer {i}: too large to count"), None)), Value::Int),
            DeValue::Float(x) => match x.as_str().parse::<f64>() {
                Ok(x) if x.is_finite() => Value::Float(x),
                _ => self.broken(&at, (format!("found {x}, expected a number that can be counted"), None)),
            },
            DeValue::Boolean(b) => Value::Bool(b),
            DeValue::Datetime(d) => {
                self.broken(&at, (format!("found the date {d}, which no key takes"), Some("put text in quotes".into())))
            }
        };
        Node { span: at, value }
    }

    fn array<'i>(&mut self, items: impl Iterator<Item = Spanned<DeValue<'i>>>) -> Vec<Node> {
        let mut nodes = vec![];
        for (i, item) in items.enumerate() {
            self.path.push(format!("[{i}]"));
            nodes.push(self.node(item));
            self.path.pop();
        }
        nodes
    }

    fn broken(&mut self, at: &Span, (what, hint): Why) -> Value {
        let path = self.path.iter().fold(String::new(), |p, k| join(&p, k));
        self.faults.push(Fault::new(at.clone(), what).at(path).hint(hint));
        Value::Broken
    }

    fn resolve(&mut self, text: &str) -> Result<Text, Why> {
        if !text.contains("${") {
            return Ok(Text { value: text.into(), shown: None, origin: Origin::Literal });
        }
        let (mut value, mut rest, mut origin) = (String::new(), text, Origin::Literal);
        while let Some(dollar) = rest.find('$') {
            value.push_str(&rest[..dollar]);
            rest = &rest[dollar..];
            if let Some(after) = rest.strip_prefix("$${") {
                value.push_str("${");
                rest = after;
            } else if rest.starts_with("${") {
                let end = rest.find('}').ok_or_else(|| {
                    (
                        format!("reference {rest}: expected a closing `}}`"),
                        Some("a literal `${` is written `$${`".into()),
                    )
                })?;
                let reference = &rest[..=end];
                match self.fetch(&reference[2..end]) {
                    Ok(v) => {
                        value.push_str(&v);
                        self.resolved.push((v, reference.to_string()));
                        origin = if origin == Origin::Unresolved { origin } else { Origin::Reference };
                    }
                    Err(Missing::Here(_)) if self.outside.lenient => {
                        value.push_str(reference);
                        origin = Origin::Unresolved;
                    }
                    Err(Missing::Here(why)) => return Err((format!("reference {reference}: {why}"), None)),
                    Err(Missing::Wrong(why, hint)) => return Err((format!("reference {reference}: {why}"), hint)),
                }
                rest = &rest[end + 1..];
            } else {
                value.push('$');
                rest = &rest[1..];
            }
        }
        value.push_str(rest);
        Ok(Text { value, shown: Some(text.into()), origin })
    }

    fn fetch(&mut self, reference: &str) -> Result<String, Missing> {
        match reference.split_once(':') {
            Some((_, "")) => Err(Missing::Wrong("expected a name after the `:`".into(), None)),
            Some(("env", name)) => self.env(name),
            Some(("file", path)) => self.file(self.folder.join(path)),
            Some(("cred", name)) if name.contains('/') || name == ".." || name == "." => {
                Err(Missing::Wrong("expected the name of a credential, not a path".into(), None))
            }
            Some(("cred", name)) => {
                let dir = (self.outside.env)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    Missing::Here("no credentials were handed over (CREDENTIALS_DIRECTORY is not set)".into())
                })?;
                self.file(Path::new(&dir).join(name))
            }
            _ => Err(Missing::Wrong(
                "expected env:, file: or cred:".into(),
                Some("a literal `${` is written `$${`".into()),
            )),
        }
    }

    fn env(&self, name: &str) -> Result<String, Missing> {
        (self.outside.env)(name)
            .ok_or_else(|| Missing::Here(format!("the environment has no {name}")))?
            .into_string()
            .map_err(|_| Missing::Here(format!("the value of {name} is not UTF-8")))
    }

    fn file(&mut self, path: PathBuf) -> Result<String, Missing> {
        self.files.push(path.clone());
        let mut bytes = vec![];
        std::fs::File::open(path)
            .and_then(|f| f.take(LONGEST + 1).read_to_end(&mut bytes))
            .map_err(|e| Missing::Here(e.to_string()))?;
        if bytes.len() as u64 > LONGEST {
            return Err(Missing::Here("the file is larger than 1 MiB".into()));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| Missing::Here("the file is not UTF-8".into()))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// What is wrong, and perhaps what to do.
type Why = (String, Option<String>);

enum Missing {
    /// The reference is well formed, but this machine lacks what it names.
    Here(String),
    Wrong(String, Option<String>),
}

fn integer(i: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(i.as_str(), i.radix()).ok()
}

/// `a.b` and `[0]` become `a.b[0]`.
pub fn join(path: &str, step: &str) -> String {
    match (path, step) {
        ("", step) => step.into(),
        (path, step) if step.starts_with('[') => format!("{path}{step}"),
        (path, step) => format!("{path}.{step}"),
    }
}
