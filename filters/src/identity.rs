//! Who sent a request, as far as the step `auth` could prove it: the facts that `jwt.CLAIM` and `key.LABEL` name.
//!
//! Claims are read once, when their token is verified, into a form that conditions can look at without allocating. Its
//! surprise is the number: whole numbers that a double cannot tell apart are kept as text, so that no two users are one.

use http::HeaderValue;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use smol_str::{SmolStr, ToSmolStr};
use std::borrow::Cow;
use std::fmt;

/// A proven identity.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name of the table that proved it, such as `idp` of `[jwt.idp]`.
    pub source: SmolStr,
    pub kind: Kind,
    /// The claims of a token; `id` and the labels of an API key.
    pub facts: Facts,
    /// What the upstream is told of it: one value for each header of the source, in its order.
    pub told: Box<[Option<HeaderValue>]>,
}

/// What proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Jwt,
    Key,
}

/// Facts by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts(Vec<(SmolStr, Fact)>);

#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// `null`, and a number beyond what can be told apart.
    Nothing,
    Text(SmolStr),
    Number(f64),
    Bool(bool),
    /// Its elements as text; tables and lists within are left out.
    List(Box<[SmolStr]>),
    Table(Facts),
}

/// The most names in one table: repeated ones are looked for one by one.
const MAX_NAMES: usize = 256;
/// Whole numbers are exact up to here.
const EXACT: u64 = 1 << 53;

impl Facts {
    pub fn new(facts: Vec<(SmolStr, Fact)>) -> Facts {
        Facts(facts)
    }

    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, fact)| fact)
    }

    /// The fact at a path such as `realm_access.roles`. A name may hold points itself: the longest one wins.
    pub fn at(&self, path: &str) -> Option<&Fact> {
        if let Some(fact) = self.get(path) {
            return Some(fact);
        }
        path.rmatch_indices('.').find_map(|(dot, _)| match self.get(&path[..dot]) {
            Some(Fact::Table(inner)) => inner.at(&path[dot + 1..]),
            _ => None,
        })
    }
}

impl Fact {
    /// As one text: a list's elements joined with commas. An element that holds a comma would pass for two and is left
    /// out. Nothing for a table.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Fact::Nothing | Fact::Table(_) => return None,
            Fact::Text(text) => Cow::Borrowed(text),
            Fact::Number(n) => n.to_string().into(),
            Fact::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Fact::List(all) => {
                let whole: Vec<_> = all.iter().map(SmolStr::as_str).filter(|e| !e.contains(',')).collect();
                whole.join(",").into()
            }
        })
    }
}

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Fact, D::Error> {
        d.deserialize_any(Reader)
    }
}

/// A table, in which no name stands twice (RFC 7519, section 4: readers that take different ones are fooled).
impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Facts, D::Error> {
        match d.deserialize_map(Reader)? {
            Fact::Table(facts) => Ok(facts),
            _ => Err(de::Error::custom("expected a table")),
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Fact;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Fact, E> {
        Ok(Fact::Nothing)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Fact, E> {
        Ok(Fact::Bool(b))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Fact, E> {
        Ok(if n <= EXACT { Fact::Number(n as f64) } else { Fact::Text(n.to_smolstr()) })
    }
    fn visit_i64<E>(self, n: i64) -> Result<Fact, E> {
        Ok(if n.unsigned_abs() <= EXACT { Fact::Number(n as f64) } else { Fact::Text(n.to_smolstr()) })
    }
    fn visit_f64<E>(self, n: f64) -> Result<Fact, E> {
        Ok(if n.abs() <= EXACT as f64 { Fact::Number(n) } else { Fact::Nothing })
    }
    fn visit_str<E>(self, text: &str) -> Result<Fact, E> {
        Ok(Fact::Text(text.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Fact, A::Error> {
        let mut all = vec![];
        while let Some(fact) = seq.next_element::<Fact>()? {
            match fact {
                Fact::Text(text) => all.push(text),
                Fact::Number(_) | Fact::Bool(_) => all.extend(fact.text().map(SmolStr::from)),
                Fact::Nothing | Fact::List(_) | Fact::Table(_) => {}
            }
        }
        Ok(Fact::List(all.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fact, A::Error> {
        let mut facts = Facts::default();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if facts.get(&name).is_some() {
                return Err(de::Error::custom("a name stands twice"));
            }
            if facts.0.len() == MAX_NAMES {
                return Err(de::Error::custom("too many names"));
            }
            facts.0.push((name.as_ref().into(), map.next_value()?));
        }
        Ok(Fact::Table(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(json: &str) -> Facts {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn paths() {
        let facts = facts(r#"{"a":{"b":{"c":"1"},"b.c":"2"},"x.y":"3","x":{"y":"4"},"n":null}"#);
        for (path, value) in [("a.b.c", Some("2")), ("x.y", Some("3")), ("a.b", None), ("a.z", None), ("n", None)] {
            assert_eq!(facts.at(path).and_then(Fact::text).as_deref(), value, "{path}");
        }
    }

    #[test]
    fn numbers_that_a_double_confuses_stay_apart() {
        let facts = facts(r#"{"a":9007199254740993,"b":9007199254740992,"c":1e300,"d":-3,"e":1.5}"#);
        assert_eq!(facts.get("a"), Some(&Fact::Text("9007199254740993".into())));
        assert_eq!(facts.get("b"), Some(&Fact::Number(9007199254740992.0)));
        assert_eq!(facts.get("c"), Some(&Fact::Nothing));
        assert_eq!(facts.get("d").unwrap().text().unwrap(), "-3");
        assert_eq!(facts.get("e").unwrap().text().unwrap(), "1.5");
    }

    #[test]
    fn lists_are_flat_texts() {
        let facts = facts(r#"{"l":["a",1,true,null,{"x":1},["y"],"b,admin"]}"#);
        let Some(Fact::List(all)) = facts.get("l") else { panic!() };
        assert_eq!(all.join("|"), "a|1|true|b,admin");
        assert_eq!(facts.get("l").unwrap().text().unwrap(), "a,1,true", "nobody becomes admin by a comma");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_every_depth() {
        for json in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"b":2}]}"#, r#"{"a":1,"\u0061":2}"#]
        {
            assert!(serde_json::from_str::<Facts>(json).is_err(), "{json}");
        }
        let many: Vec<_> = (0..300).map(|n| format!("\"{n}\":0")).collect();
        assert!(serde_json::from_str::<Facts>(&format!("{{{}}}", many.join(","))).is_err());
        assert!(serde_json::from_str::<Facts>(&"[".repeat(10_000)).is_err(), "depth is bounded");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(json in "[\\[\\]{}\":,0-9a-z.-]{0,64}") {
            let _ = serde_json::from_str::<Facts>(&json);
        }
    }
}
