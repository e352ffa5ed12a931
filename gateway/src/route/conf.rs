//! `[route.NAME]`: the keys of a route that are its own. The keys of the steps may stand beside them.

use super::{Entry, Pattern, rewrite};
use crate::destination::{redirect, reply};
use crate::service::{Address, Retry, Timeout};
use filters::expr::{Expr, Key, Var};
use filters::filter::BuildError;
use filters::short::{Bad, One, Short};
use filters::units::Percent;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_spanned::Spanned;
use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};

#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "route")]
pub struct Conf {
    /// The requests it takes: `[METHOD|METHOD ][host]/path`. `{name}` captures one segment, `*` is one segment, `**` or
    /// `{**name}` the rest, which may be nothing. Without a path it takes the whole host.
    #[serde(rename = "match")]
    #[schemars(with = "Pattern")]
    pub pattern: Spanned<Pattern>,
    /// A further condition, such as `header.x-beta == '1'`. Of two routes with the same `match`, the one with `when` is
    /// tried first; of two with different `when`s, the one whose name comes first.
    #[schemars(with = "Option<Expr>")]
    pub when: Option<Spanned<Expr>>,
    /// Tried before all routes of lower priority, however specific they are. Default 0.
    #[serde(default)]
    pub priority: i64,

    /// Where requests go: an address, the name of a service, or a map of such to weights.
    pub to: Option<To>,
    /// Answers with a redirect.
    #[schemars(with = "Option<One<redirect::Conf>>")]
    pub redirect: Option<Spanned<One<redirect::Conf>>>,
    /// Answers by itself: a status, or a table.
    #[schemars(with = "Option<reply::Conf>")]
    pub reply: Option<Spanned<reply::Conf>>,

    /// The policies it is under: a name, or a list merged in its order.
    #[serde(default)]
    pub policy: Names,
    /// What the upstream is asked for instead: a path such as `/internal/{id}`, or a table.
    #[schemars(with = "Option<One<rewrite::Conf>>")]
    pub rewrite: Option<Spanned<One<rewrite::Conf>>>,
    /// Among weighted services, requests with the same key go to the same one: `cookie.session`, `ip`.
    #[schemars(with = "Option<Key>")]
    pub sticky: Option<Spanned<Key>>,
    /// Also sends copies to another service, whose answers are dropped: its name, or a table.
    pub mirror: Option<One<Mirror>>,
    /// Upgrades such as WebSocket are let through. Default `false`.
    #[serde(default)]
    pub upgrade: bool,
    /// How long each part may take; what is not named is as the service has it.
    #[serde(default)]
    pub timeout: Timeout,
    /// What is tried again; what is not named is as the service has it. The `budget` is the service's alone.
    #[serde(default)]
    pub retry: Retry,
}

impl Conf {
    /// Where the route leads, if it says so.
    pub fn destination(&self) -> Option<Destination<'_>> {
        let to = self.to.as_ref().map(Destination::To);
        let redirect = || self.redirect.as_ref().map(Destination::Redirect);
        let reply = || self.reply.as_ref().map(Destination::Reply);
        to.or_else(redirect).or_else(reply)
    }

    /// What matching needs of it.
    pub fn entry(&self, name: &str) -> Entry {
        Entry {
            name: name.into(),
            pattern: self.pattern.get_ref().clone(),
            priority: self.priority,
            when: self.when.as_ref().map(|w| w.get_ref().to_string()),
        }
    }

    /// What no single key shows: keys that speak of others.
    pub fn faults(&self) -> Vec<BuildError> {
        let mut faults = vec![];
        if let Some(sticky) = &self.sticky {
            let captured = self.pattern.get_ref().names();
            for part in sticky.get_ref().parts() {
                if let Var::Capture(name) = part
                    && !captured.contains(name)
                {
                    faults.push(BuildError::new(format!("`match` captures no `{name}`")).at(sticky.span()));
                }
            }
            if self.to.as_ref().is_none_or(|to| to.len() < 2) {
                let fault = BuildError::new("`sticky` without a choice: it tells weighted services apart");
                faults.push(fault.at(sticky.span()).hint("within one service, use its `balance = \"hash\"`"));
            }
        }
        if self.retry.budget.is_some() {
            faults
                .push(BuildError::new("`retry.budget` protects the service: expected it in the service's own `retry`"));
        }
        faults
    }
}

/// The one place a route leads to.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    To(&'a To),
    Redirect(&'a Spanned<One<redirect::Conf>>),
    Reply(&'a Spanned<reply::Conf>),
}

/// Services or addresses, each with its share of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To(Vec<Share>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub target: Target,
    pub weight: u32,
    /// Where it stands in the configuration.
    pub at: Range<usize>,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The name of a `[service.NAME]`.
    Service(String),
    /// `host:port`, `[v6]:port` or `unix:/path`, in its one form: a service of one endpoint.
    Address(String),
}

impl Target {
    const FORM: &str = "the name of a service, or an address such as \"127.0.0.1:3000\" or \"unix:/path\"";

    pub fn parse(text: &str) -> Result<Target, Bad> {
        let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        match text.len() {
            1..=64 if text.bytes().all(name) => Ok(Target::Service(text.into())),
            _ if text.contains(':') => Address::parse(text).map(|a| Target::Address(a.to_string())),
            _ => Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Target::FORM))),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Target::Service(text) | Target::Address(text) => text,
        }
    }
}

impl Deref for To {
    type Target = [Share];
    fn deref(&self) -> &[Share] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<To, D::Error> {
        let to = Spanned::<Shares>::deserialize(d)?;
        let span = to.span();
        let mut shares = to.into_inner().0;
        for share in shares.iter_mut().filter(|s| s.at.is_empty()) {
            share.at = span.clone();
        }
        Ok(To(shares))
    }
}

/// As [`To`], before the place of a lone string is known.
struct Shares(Vec<Share>);

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Shares, D::Error> {
        d.deserialize_any(ToVisitor).map(Shares)
    }
}

struct ToVisitor;

impl<'de> Visitor<'de> for ToVisitor {
    type Value = Vec<Share>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a table of these with weights", Target::FORM)
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<Vec<Share>, E> {
        let target = Target::parse(s).map_err(E::custom)?;
        Ok(vec![Share { target, weight: 1, at: 0..0 }])
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Share>, A::Error> {
        let mut shares = vec![];
        while let Some(name) = map.next_key::<String>()? {
            let weight: Spanned<u32> = map.next_value()?;
            let target = Target::parse(&name).map_err(|bad| de::Error::custom(bad.why))?;
            shares.push(Share { target, at: weight.span(), weight: weight.into_inner() });
        }
        // a table has no order: which one a key is stuck to must not depend on it
        shares.sort_by(|a, b| a.target.text().cmp(b.target.text()));
        if shares.iter().all(|s| s.weight == 0) {
            return Err(de::Error::custom("no weight above 0: nothing would be served"));
        }
        Ok(shares)
    }
}

impl JsonSchema for To {
    fn schema_name() -> Cow<'static, str> {
        "To".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": format!("{}, or a table of these with weights", Target::FORM),
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
                },
            ],
        })
    }
}

/// Where copies of requests go.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "mirror")]
pub struct Mirror {
    /// The service or address that gets the copies.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "target")]
    pub to: Target,
    /// How many of the requests are copied. Default `"100%"`.
    #[serde(default = "whole")]
    pub share: Percent,
}

fn whole() -> Percent {
    Percent(1.0)
}

fn target<'de, D: Deserializer<'de>>(d: D) -> Result<Target, D::Error> {
    struct V;
    impl Visitor<'_> for V {
        type Value = Target;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(Target::FORM)
        }
        fn visit_str<E: de::Error>(self, s: &str) -> Result<Target, E> {
            Target::parse(s).map_err(E::custom)
        }
    }
    d.deserialize_str(V)
}

impl Short for Mirror {
    const LINE: &'static str = "the name of a service";
    fn line(text: &str) -> Result<Mirror, Bad> {
        Ok(Mirror { to: Target::parse(text)?, share: whole() })
    }
}

/// A name, or a list of names; each keeps its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Vec<Spanned<String>>);

impl Deref for Names {
    type Target = [Spanned<String>];
    fn deref(&self) -> &[Spanned<String>] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Names, D::Error> {
        let names = Spanned::<OneOrMany>::deserialize(d)?;
        let span = names.span();
        Ok(Names(match names.into_inner() {
            OneOrMany::One(name) => vec![Spanned::new(span, name)],
            OneOrMany::Many(names) => names,
        }))
    }
}

enum OneOrMany {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<OneOrMany, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a list of names")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(s.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut names = vec![];
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(OneOrMany::Many(names))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let name = schemars::json_schema!({ "type": "string" });
        schemars::json_schema!({
            "description": "a name, or a list of names",
            "anyOf": [name.clone(), { "type": "array", "items": name }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Conf, String> {
        toml::from_str(toml).map_err(|e| e.message().to_string())
    }

    #[test]
    fn a_whole_route() {
        let text = r#"
            match = "GET api.example.com/v1/users/{id}"
            when = "header.x-beta == '1'"
            priority = 5
            to = { users = 95, "10.0.0.1:80" = 5 }
            policy = ["edge", "members"]
            rewrite = { strip = "/v1", prefix = "/v2" }
            sticky = "path.id"
            mirror = { to = "shadow", share = "10%" }
            upgrade = true
            timeout = { total = "10s" }
            retry = { tries = 1 }
        "#;
        let conf = read(text).unwrap();
        let to = conf.to.as_ref().unwrap();
        assert_eq!((to[0].target.text(), to[0].weight), ("10.0.0.1:80", 5));
        assert_eq!(&text[to[0].at.clone()], "5");
        assert_eq!(to[1].target, Target::Service("users".into()));
        assert_eq!(conf.policy.iter().map(|p| p.get_ref().as_str()).collect::<Vec<_>>(), ["edge", "members"]);
        assert_eq!(conf.mirror.as_ref().unwrap().share, Percent(0.1));
        assert!(conf.faults().is_empty() && conf.upgrade);
        assert!(matches!(conf.destination(), Some(Destination::To(_))));
        let entry = conf.entry("users");
        assert_eq!((entry.priority, entry.when.as_deref()), (5, Some("header.x-beta == '1'")));
    }

    #[test]
    fn short_forms() {
        let text = "match = '/**'\nto = '[::1]:3000'\npolicy = 'edge'\nmirror = 'shadow'\nrewrite = '/x'";
        let conf = read(text).unwrap();
        assert_eq!(&text[conf.to.as_ref().unwrap()[0].at.clone()], "'[::1]:3000'");
        assert_eq!(conf.policy[0].get_ref(), "edge");
        assert_eq!(conf.mirror.unwrap().share, Percent(1.0));
        let conf = read("match = '/**'\nredirect = 'https://{host}{path}'").unwrap();
        assert!(matches!(conf.destination(), Some(Destination::Redirect(_))));
        let conf = read("match = '/**'\nreply = 204").unwrap();
        assert!(matches!(conf.destination(), Some(Destination::Reply(_))));
    }

    #[test]
    fn faults() {
        for (toml, why) in [
            ("to = 'a:1'", "missing field `match`"),
            ("match = '/a//b'", "empty segment"),
            ("match = '/'\nwhn = 'x'", "unknown field"),
            ("match = '/'\nto = 'http://h:1'", "no scheme"),
            ("match = '/'\nto = '10.0.0.1'", "the name of a service, or an address"),
            ("match = '/'\nto = 'unix:x'", "absolute path"),
            ("match = '/'\nto = 'a b'", "the name of a service"),
            ("match = '/'\nto = 5", "the name of a service"),
            ("match = '/'\nto = { a = 0 }", "no weight above 0"),
            ("match = '/'\nto = {}", "no weight above 0"),
            ("match = '/'\nto = { a = -1 }", "u32"),
            ("match = '/'\nsticky = 'host'", "tells no clients apart"),
            ("match = '/'\nmirror = { to = 'x', share = '200%' }", "0% to 100%"),
        ] {
            let got = read(toml).expect_err(toml);
            assert!(got.contains(why), "{toml}: {got}");
        }
        let conf = read("match = '/{id}'\nto = 'a'\nsticky = 'path.idd'").unwrap();
        let faults = conf.faults();
        assert!(
            faults[0].why.contains("captures no `idd`") && faults[1].why.contains("without a choice"),
            "{faults:?}"
        );
    }
}
