//! How a try ended, and the words that configuration has for it. One vocabulary serves `retry.on` and `eject.on`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use smallvec::SmallVec;
use std::fmt;

/// How a try ended, from the endpoint's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response came whose status is no fault of the endpoint; the time until its head, in nanoseconds.
    Success { latency: u64 },
    /// No connection, no TLS.
    ConnectFailed,
    /// The connection broke, or what came was not HTTP.
    Reset,
    /// Too slow.
    Timeout,
    /// A response with a status of 500 or above.
    Status(u16),
    /// The client gave up, or the gateway stopped the exchange: says nothing about the endpoint.
    Neutral,
}

impl Outcome {
    /// A response's status as an outcome.
    pub fn of_status(status: u16, latency: u64) -> Outcome {
        if status >= 500 { Outcome::Status(status) } else { Outcome::Success { latency } }
    }
    /// The breaker counts this as a failure. 501 and 505 are answers about the request, not about the service.
    pub fn failed(self) -> bool {
        match self {
            Outcome::Success { .. } | Outcome::Neutral => false,
            Outcome::Status(code) => !matches!(code, 501 | 505),
            _ => true,
        }
    }
}

/// One word of a list such as `["connect", "502", "5xx"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Connect,
    Reset,
    Timeout,
    /// Status codes from, to, both included.
    Status(u16, u16),
}

impl Trigger {
    const FORM: &'static str = "\"connect\", \"reset\", \"timeout\", \"5xx\" or a status code from 500 to 599";

    fn parse(text: &str) -> Option<Trigger> {
        Some(match text {
            "connect" => Trigger::Connect,
            "reset" => Trigger::Reset,
            "timeout" => Trigger::Timeout,
            "5xx" => Trigger::Status(500, 599),
            code => {
                let code = code.parse().ok().filter(|c| (500..600).contains(c))?;
                Trigger::Status(code, code)
            }
        })
    }
    fn is(self, outcome: Outcome) -> bool {
        match (self, outcome) {
            (Trigger::Connect, Outcome::ConnectFailed)
            | (Trigger::Reset, Outcome::Reset)
            | (Trigger::Timeout, Outcome::Timeout) => true,
            (Trigger::Status(from, to), Outcome::Status(code)) => (from..=to).contains(&code),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Trigger {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Trigger, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Trigger;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Trigger::FORM)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Trigger, E> {
                Trigger::parse(s).ok_or_else(|| E::custom(format_args!("\"{s}\": expected {}", Trigger::FORM)))
            }
        }
        d.deserialize_str(V)
    }
}

impl JsonSchema for Trigger {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Trigger".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": Trigger::FORM,
            "pattern": "^(connect|reset|timeout|5xx|5[0-9][0-9])$",
        })
    }
}

/// A list of what counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct On(pub SmallVec<[Trigger; 6]>);

impl On {
    pub fn has(&self, outcome: Outcome) -> bool {
        self.0.iter().any(|t| t.is(outcome))
    }
}

impl<'de> Deserialize<'de> for On {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<On, D::Error> {
        Vec::<Trigger>::deserialize(d).map(|all| On(all.into()))
    }
}

impl JsonSchema for On {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Triggers".into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Vec::<Trigger>::json_schema(g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_what_they_cover() {
        let on = |words: &[&str]| On(words.iter().map(|w| Trigger::parse(w).expect("a known word")).collect());
        assert!(on(&["connect"]).has(Outcome::ConnectFailed));
        assert!(!on(&["connect"]).has(Outcome::Reset));
        assert!(on(&["5xx"]).has(Outcome::Status(503)));
        assert!(on(&["timeout", "503"]).has(Outcome::Status(503)));
        assert!(!on(&["503"]).has(Outcome::Status(502)));
        assert!(!on(&["5xx", "connect", "reset", "timeout"]).has(Outcome::Neutral));
        for wrong in ["", "4xx", "404", "600", "Connect"] {
            assert_eq!(Trigger::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn statuses_that_blame_the_service() {
        assert_eq!(Outcome::of_status(404, 7), Outcome::Success { latency: 7 });
        assert!(Outcome::of_status(500, 7).failed());
        assert!(!Outcome::of_status(501, 7).failed(), "an unknown method is the client's");
        assert!(!Outcome::Neutral.failed());
    }
}
