//! A table that can also be written as one line of text: `limit = "100/s per ip"` is `limit = { rate = "100/s", per = "ip" }`.
//! Its surprise: a fault's place *inside* the string travels through serde as text, see [`Bad`].

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_spanned::Spanned;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::{fmt, vec};

/// A wrong piece of a string: where in it (bytes), and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub at: Range<usize>,
    pub why: String,
}

impl Bad {
    pub fn new(at: Range<usize>, why: impl Into<String>) -> Bad {
        Bad { at, why: why.into() }
    }
    /// The same fault, `by` bytes further right: for a piece that was cut out of a longer text.
    pub fn shifted(self, by: usize) -> Bad {
        Bad { at: self.at.start + by..self.at.end + by, why: self.why }
    }
}

/// `{}` is for people. `{:#}` also carries the place, for the configuration's deserializer, since serde errors carry text alone.
impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            write!(f, "\u{1}{}..{}\u{1}{}", self.at.start, self.at.end, self.why)
        } else {
            f.write_str(&self.why)
        }
    }
}

impl std::error::Error for Bad {}

/// A table that has a one-line form.
pub trait Short: DeserializeOwned {
    /// How the line reads; shown when something else was found.
    const LINE: &'static str;
    fn line(text: &str) -> Result<Self, Bad>;
}

/// The words of a line, each with its place.
pub fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_ascii_whitespace().map(|w| (w.as_ptr() as usize - line.as_ptr() as usize, w))
}

/// Exactly one `T`: a string or a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct One<T>(pub T);

impl<T> Deref for One<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Any number of `T`: a string, a table, or a list of both. Every element keeps its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Many<T>(pub Vec<Spanned<T>>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Many(vec![])
    }
}

impl<T> Deref for Many<T> {
    type Target = [Spanned<T>];
    fn deref(&self) -> &[Spanned<T>] {
        &self.0
    }
}

/// `MANY` also takes a list.
struct V<T, const MANY: bool>(PhantomData<T>);

enum Got<T> {
    One(T),
    List(Vec<Spanned<One<T>>>),
}

impl<'de, T: Short, const MANY: bool> Visitor<'de> for V<T, MANY> {
    type Value = Got<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a table{}", T::LINE, if MANY { ", or a list of these" } else { "" })
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<Got<T>, E> {
        T::line(s).map(Got::One).map_err(E::custom)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Got<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Got::One)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Got<T>, A::Error> {
        if !MANY {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let mut all = vec![];
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(Got::List(all))
    }
}

impl<'de, T: Short> Deserialize<'de> for Got<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(V::<T, true>(PhantomData))
    }
}

impl<'de, T: Short> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let got = Spanned::<Got<T>>::deserialize(d)?;
        let span = got.span();
        Ok(Many(match got.into_inner() {
            Got::One(t) => vec![Spanned::new(span, t)],
            Got::List(l) => l.into_iter().map(|s| Spanned::new(s.span(), s.into_inner().0)).collect(),
        }))
    }
}

impl<'de, T: Short> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match d.deserialize_any(V::<T, false>(PhantomData))? {
            Got::One(t) => Ok(One(t)),
            Got::List(_) => Err(de::Error::custom("a list where one is expected")),
        }
    }
}

#[cfg(feature = "schema")]
impl<T: Short + schemars::JsonSchema> schemars::JsonSchema for Many<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Many{}", T::schema_name()).into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = <One<T> as schemars::JsonSchema>::json_schema(g);
        schemars::json_schema!({ "description": T::LINE, "anyOf": [one.clone(), { "type": "array", "items": one }] })
    }
}

#[cfg(feature = "schema")]
impl<T: Short + schemars::JsonSchema> schemars::JsonSchema for One<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("One{}", T::schema_name()).into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = g.subschema_for::<T>();
        schemars::json_schema!({ "description": T::LINE, "anyOf": [{ "type": "string" }, table] })
    }
}
