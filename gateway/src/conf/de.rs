//! The tree as types, through serde's plain derives. Its surprise: a fault does not end the reading. The entry at fault
//! is left out and the table is read again, until nothing new is wrong, so one run finds every fault of a file.
//!
//! `serde(untagged)` and `serde(flatten)` have no place in what is read here: both buffer, and lose every place below.

use super::fault::{Fault, did_you_mean};
use super::tree::{Entry, Node, Origin, Span, Value, join};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// A table with more faults than this is not read to its end: each one costs another reading.
const MOST: usize = 100;

/// Reads `node` as `T`, and pushes every fault. What was wrong is left out of the value: good enough to look for more
/// faults, not to run. `also` are keys that are legal here but read elsewhere, for the hints.
pub fn read<T: DeserializeOwned>(node: &Node, path: &str, also: &[&'static str], faults: &mut Vec<Fault>) -> Option<T> {
    let skip = RefCell::new(BTreeSet::new());
    let before = faults.len();
    loop {
        let e = match T::deserialize(De { node, skip: &skip }) {
            Ok(v) => return Some(v),
            Err(Error(e)) => *e,
        };
        let entry = e.entry;
        if !e.echo {
            faults.push(e.fault(node, path, also));
        }
        match entry {
            Some(id) if faults.len() < before + MOST && skip.borrow_mut().insert(id) => {}
            _ => return None,
        }
    }
}

/// The keys of a struct, as its derive knows them.
pub fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let asked = RefCell::new(&[][..]);
    let _ = T::deserialize(Keys(&asked));
    asked.into_inner()
}

#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug, Default)]
struct Inner {
    what: String,
    span: Option<Span>,
    /// From the inside out.
    path: Vec<String>,
    /// The innermost key or element at fault, by the offset of its first byte.
    entry: Option<usize>,
    /// The place within the string at fault.
    inside: Option<Span>,
    missing: Option<&'static str>,
    /// Said already, or a consequence of what was left out.
    echo: bool,
    unknown: Option<(String, &'static [&'static str])>,
}

impl Inner {
    fn fault(self, node: &Node, path: &str, also: &[&'static str]) -> Fault {
        let hint = self.unknown.map(|(key, known)| {
            let also = also.iter().filter(|_| self.path.len() == 1);
            let known: Vec<_> = known.iter().chain(also).copied().collect();
            did_you_mean(&key, known.iter().copied()).unwrap_or_else(|| format!("known: {}", known.join(", ")))
        });
        let path = self.path.iter().rev().fold(path.to_string(), |p, step| join(&p, step));
        let span = self.span.unwrap_or_else(|| node.span.clone());
        Fault::new(span, self.what).at(path).hint(hint).missing(self.missing.is_some())
    }
}

impl Error {
    fn new(what: impl Into<String>) -> Error {
        Error(Box::new(Inner { what: what.into(), ..Default::default() }))
    }
    fn echo() -> Error {
        Error(Box::new(Inner { echo: true, ..Default::default() }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    /// `{:#}` asks a [`filters::short::Bad`] for its place inside the string; any other deserializer never sees it.
    fn custom<T: fmt::Display>(msg: T) -> Error {
        let text = format!("{msg:#}");
        let Some((at, what)) = text.strip_prefix('\u{1}').and_then(|t| t.split_once('\u{1}')) else {
            return Error::new(text);
        };
        let mut e = Error::new(what);
        e.0.inside = at.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        e
    }
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Error {
        Error::new(format!("found {}, expected {}", Found(found), wanted(expected)))
    }
    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Error {
        Error::invalid_type(found, expected)
    }
    fn invalid_length(found: usize, expected: &dyn de::Expected) -> Error {
        Error::new(format!("found {found} elements, expected {}", wanted(expected)))
    }
    fn unknown_field(field: &str, known: &'static [&'static str]) -> Error {
        let mut e = Error::new(format!("unknown key `{field}`"));
        e.0.unknown = Some((field.into(), known));
        e
    }
    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Error {
        let known: Vec<_> = known.iter().map(|k| format!("\"{k}\"")).collect();
        Error::new(format!("found \"{found}\", expected {}", known.join(" or ")))
    }
    fn missing_field(field: &'static str) -> Error {
        let mut e = Error::new(format!("missing key `{field}`"));
        e.0.missing = Some(field);
        e
    }
}

/// Serde's words for what it wants, in the reader's.
fn wanted(e: &dyn de::Expected) -> String {
    match e.to_string().as_str() {
        "i64" | "i32" | "i16" | "i8" => "an integer".into(),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "f64" | "f32" => "a number".into(),
        "a nonzero u64" | "a nonzero usize" => "a whole number, 1 or more".into(),
        "a nonzero u32" => "a whole number from 1 to 4294967295".into(),
        "a nonzero u16" => "a whole number from 1 to 65535".into(),
        "a nonzero u8" => "a whole number from 1 to 255".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        other => other.into(),
    }
}

/// Serde's words for what it found, in TOML's.
struct Found<'a>(de::Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use de::Unexpected::*;
        match self.0 {
            Seq => f.write_str("an array"),
            Map => f.write_str("a table"),
            Float(x) => write!(f, "float {x}"),
            Signed(i) => write!(f, "integer {i}"),
            Bool(b) => write!(f, "{b}"),
            other => other.fmt(f),
        }
    }
}

impl Value {
    /// What was found, in a message.
    pub fn kind(&self) -> String {
        match self {
            Value::Text(t) => format!("string {:?}", t.shown()),
            Value::Int(i) => format!("integer {i}"),
            Value::Float(x) => format!("float {x}"),
            Value::Bool(b) => b.to_string(),
            Value::Array(_) => "an array".into(),
            Value::Table(_) => "a table".into(),
            Value::Broken => "nothing that can be read".into(),
        }
    }
}

const LITERAL: &str =
    "found a literal secret, expected a reference: \"${env:NAME}\", \"${file:/path}\" or \"${cred:NAME}\"";

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    skip: &'a RefCell<BTreeSet<usize>>,
}

impl De<'_> {
    /// Gives an error that has no place yet this node's place.
    fn place(self, mut error: Error) -> Error {
        let e = &mut *error.0;
        if e.span.is_some() {
            return error;
        }
        e.span = Some(self.node.span.clone());
        match &self.node.value {
            // missing because it was left out, under this name or one so near that it was meant
            Value::Table(t) if e.missing.is_some() => {
                let skip = self.skip.borrow();
                let missing = e.missing.unwrap_or_default();
                e.echo |= t.iter().any(|x| {
                    skip.contains(&x.at.start) && (x.key == missing || did_you_mean(&x.key, [missing]).is_some())
                });
            }
            // what is said of a whole may come from a part that was left out
            Value::Table(t) => e.echo |= t.iter().any(|x| self.skip.borrow().contains(&x.at.start)),
            Value::Array(a) => e.echo |= a.iter().any(|n| self.skip.borrow().contains(&n.span.start)),
            Value::Text(t) if t.origin == Origin::Unresolved => e.echo = true,
            Value::Text(t) if t.origin == Origin::Reference => {
                let shown = t.shown();
                e.what = format!("the value of {shown} does not fit here (not shown, it comes from a reference)");
            }
            // inside the string only where the text stands in the file as it is: no escapes, no multi-line quotes
            Value::Text(t) if self.node.span.len() == t.value.len() + 2 => {
                if let Some(i) = e.inside.take().filter(|i| i.start <= t.value.len()) {
                    let from = self.node.span.start + 1;
                    e.span = Some(from + i.start..from + i.end.max(i.start + 1));
                }
            }
            _ => {}
        }
        error
    }
    fn fail<T>(self, what: impl Into<String>) -> Result<T, Error> {
        Err(self.place(Error::new(what)))
    }
}

impl<'de> IntoDeserializer<'de, Error> for De<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for De<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text(t) => v.visit_borrowed_str(&t.value),
            Value::Int(i) => v.visit_i64(*i),
            Value::Float(x) => v.visit_f64(*x),
            Value::Bool(b) => v.visit_bool(*b),
            Value::Array(a) => v.visit_seq(Items { rest: a.iter().enumerate(), skip: self.skip }),
            Value::Table(t) => v.visit_map(Entries { rest: t.iter(), now: None, skip: self.skip }),
            Value::Broken => Err(Error::echo()),
        }
        .map_err(|e| self.place(e))
    }

    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        v.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, v: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text(t) if name == "$secret" && t.origin == Origin::Literal => self.fail(LITERAL),
            _ => v.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        if serde_spanned::de::is_spanned(name) {
            return v.visit_map(serde_spanned::de::SpannedDeserializer::new(self, self.node.span.clone()));
        }
        match &self.node.value {
            Value::Table(_) | Value::Broken => self.deserialize_any(v),
            other => self.fail(format!("found {}, expected a table of {}", other.kind(), fields.join(", "))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text(t) => v.visit_enum(IntoDeserializer::<Error>::into_deserializer(t.value.as_str())),
            Value::Table(t) if t.len() == 1 => {
                let one = Entries { rest: t.iter(), now: None, skip: self.skip };
                MapAccessDeserializer::new(one).deserialize_enum(name, variants, v)
            }
            Value::Broken => Err(Error::echo()),
            other => {
                let known: Vec<_> = variants.iter().map(|k| format!("\"{k}\"")).collect();
                Err(Error::new(format!("found {}, expected {}", other.kind(), known.join(" or "))))
            }
        }
        .map_err(|e| self.place(e))
    }

    forward_to_deserialize_any! { bool u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 char str string seq bytes byte_buf map unit
    ignored_any unit_struct tuple_struct tuple identifier i128 u128 }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    now: Option<&'a Entry>,
    skip: &'a RefCell<BTreeSet<usize>>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(e) = self.rest.by_ref().find(|e| !self.skip.borrow().contains(&e.at.start)) else { return Ok(None) };
        self.now = Some(e);
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(e.key.as_str()))
            .map(Some)
            .map_err(|err: Error| locate(err, &e.at, &e.key, e.at.start, None))
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let e = self.now.take().expect("a value follows its key");
        seed.deserialize(De { node: &e.node, skip: self.skip })
            .map_err(|err| locate(err, &e.node.span, &e.key, e.at.start, Some(&e.at)))
    }
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    skip: &'a RefCell<BTreeSet<usize>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((i, n)) = self.rest.by_ref().find(|(_, n)| !self.skip.borrow().contains(&n.span.start)) else {
            return Ok(None);
        };
        seed.deserialize(De { node: n, skip: self.skip })
            .map(Some)
            .map_err(|e| locate(e, &n.span, &format!("[{i}]"), n.span.start, None))
    }
}

/// Notes one step of the way out of the tree.
fn locate(mut err: Error, span: &Span, step: &str, id: usize, key: Option<&Span>) -> Error {
    let e = &mut *err.0;
    // a missing key has no place of its own: point at its table's name, and leave the whole table out
    if let (Some(_), true, Some(key)) = (e.missing, e.path.is_empty(), key) {
        e.span = Some(key.clone());
    }
    e.span.get_or_insert_with(|| span.clone());
    e.entry.get_or_insert(id);
    e.path.push(step.into());
    err
}

/// Answers every question with an error, and remembers which keys a struct asked for.
struct Keys<'a>(&'a RefCell<&'static [&'static str]>);

impl<'de> de::Deserializer<'de> for Keys<'_> {
    type Error = Error;
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::echo())
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.replace(fields);
        Err(Error::echo())
    }
    forward_to_deserialize_any! { bool u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 char str string seq bytes byte_buf map unit
    ignored_any unit_struct newtype_struct tuple_struct tuple identifier i128 u128 option enum }
}
