//! Values with units, parsed while the configuration is read: a wrong one is a fault with its place, never a default.

use crate::short::Bad;
use ipnet::IpNet;
use serde::de::{self, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

/// A value that is written as text, such as `"5s"`.
pub trait Unit: Sized {
    /// How it is written: `a duration such as "5s"`.
    const FORM: &'static str;
    /// A regular expression for editors, and examples.
    const PATTERN: &'static str;
    fn parse(text: &str) -> Result<Self, Bad>;
}

pub(crate) struct Text<U>(pub PhantomData<U>);

impl<U: Unit> Visitor<'_> for Text<U> {
    type Value = U;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(U::FORM)
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<U, E> {
        U::parse(s).map_err(E::custom)
    }
}

/// Deserialize, FromStr and the schema of a unit all come from its `parse`.
macro_rules! unit {
    ($Type:ty, $name:literal) => {
        impl<'de> serde::Deserialize<'de> for $Type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str($crate::units::Text::<$Type>(std::marker::PhantomData))
            }
        }
        impl std::str::FromStr for $Type {
            type Err = $crate::short::Bad;
            fn from_str(s: &str) -> Result<Self, $crate::short::Bad> {
                <$Type as $crate::units::Unit>::parse(s)
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $Type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": <$Type as $crate::units::Unit>::FORM,
                    "pattern": <$Type as $crate::units::Unit>::PATTERN,
                })
            }
        }
    };
}

pub(crate) use unit;

/// Splits `12.5ms` into its number and what follows.
fn number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// A length of time: `"250ms"`, `"5s"`, `"2m"`, `"1h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    pub const fn secs(s: u64) -> Span {
        Span(Duration::from_secs(s))
    }
    pub const fn millis(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }
}

impl Unit for Span {
    const FORM: &'static str = "a duration such as \"5s\" (ms, s, m, h, d)";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$";
    fn parse(text: &str) -> Result<Span, Bad> {
        let (count, unit) = number(text);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(Bad::new(count.len()..text.len(), format!("\"{text}\": expected {}", Self::FORM))),
        };
        let count: f64 =
            count.parse().map_err(|_| Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::FORM)))?;
        Duration::try_from_secs_f64(count * scale)
            .map(Span)
            .map_err(|_| Bad::new(0..text.len(), format!("\"{text}\": longer than can be counted")))
    }
}
unit!(Span, "Span");

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0 => f.write_str("0s"),
            _ if !ms.is_multiple_of(1000) => write!(f, "{ms}ms"),
            _ if !ms.is_multiple_of(60_000) => write!(f, "{}s", ms / 1000),
            _ if !ms.is_multiple_of(3_600_000) => write!(f, "{}m", ms / 60_000),
            _ => write!(f, "{}h", ms / 3_600_000),
        }
    }
}

/// A number of bytes: `"512B"`, `"32KiB"`, `"10MB"` (1000), `"10MiB"` (1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl Unit for ByteSize {
    const FORM: &'static str = "a size such as \"10MB\" (B, KB, MB, GB, KiB, MiB, GiB)";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)$";
    fn parse(text: &str) -> Result<ByteSize, Bad> {
        let (count, unit) = number(text);
        let scale: u64 = match unit {
            "B" => 1,
            "KB" | "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(Bad::new(count.len()..text.len(), format!("\"{text}\": expected {}", Self::FORM))),
        };
        let bad = || Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::FORM));
        let bytes = count.parse::<f64>().map_err(|_| bad())? * scale as f64;
        if bytes < u64::MAX as f64 { Ok(ByteSize(bytes as u64)) } else { Err(bad()) }
    }
}
unit!(ByteSize, "ByteSize");

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n.is_multiple_of(1_000_000) => write!(f, "{}MB", n / 1_000_000),
            n if n > 0 && n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

/// A share of a whole, 0 to 1: `"20%"`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl Unit for Percent {
    const FORM: &'static str = "a percentage such as \"20%\"";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)?%$";
    fn parse(text: &str) -> Result<Percent, Bad> {
        let bad = || Bad::new(0..text.len(), format!("\"{text}\": expected {}, from 0% to 100%", Self::FORM));
        let share = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok()).ok_or_else(bad)?;
        if (0.0..=100.0).contains(&share) { Ok(Percent(share / 100.0)) } else { Err(bad()) }
    }
}
unit!(Percent, "Percent");

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// So many in so long: `"100/s"`, `"10000/day"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: u64,
    /// The window's length in seconds.
    pub seconds: u64,
}

impl Unit for Rate {
    const FORM: &'static str = "a rate such as \"100/s\" (s, m, h, d)";
    const PATTERN: &'static str = r"^[0-9]+/(s|sec|second|m|min|minute|h|hour|d|day)$";
    fn parse(text: &str) -> Result<Rate, Bad> {
        let (count, unit) = text.split_once('/').unwrap_or((text, ""));
        let seconds = match unit {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            "d" | "day" => 86400,
            _ => {
                let from = (count.len() + 1).min(text.len());
                return Err(Bad::new(
                    from..text.len(),
                    format!("rate \"{text}\": expected <number>/<unit>, unit s, m, h or d"),
                ));
            }
        };
        match count.parse() {
            Ok(count) if count > 0 => Ok(Rate { count, seconds }),
            _ => Err(Bad::new(
                0..count.len(),
                format!("rate \"{text}\": expected a whole number above 0 before the \"/\""),
            )),
        }
    }
}
unit!(Rate, "Rate");

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.seconds {
            1 => "s",
            60 => "m",
            3600 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// A block of addresses: `"10.0.0.0/8"`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(pub IpNet);

impl Cidr {
    /// An IPv4 address that arrives mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl Unit for Cidr {
    const FORM: &'static str = "an address block such as \"10.0.0.0/8\", or one address";
    const PATTERN: &'static str = r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$";
    fn parse(text: &str) -> Result<Cidr, Bad> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|n| Cidr(n.trunc()))
            .map_err(|_| Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::FORM)))
    }
}
unit!(Cidr, "Cidr");

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a header or a method (RFC 9110, section 5.6.2), or `*` where all are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token(pub String);

impl Unit for Token {
    const FORM: &'static str = "a name without spaces, such as \"X-Token\" or \"PUT\"";
    const PATTERN: &'static str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";
    fn parse(text: &str) -> Result<Token, Bad> {
        let wrong = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+.^_`|~-".contains(c)));
        match wrong {
            None if !text.is_empty() => Ok(Token(text.into())),
            _ => Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Self::FORM))),
        }
    }
}
unit!(Token, "Token");

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As they are written: this is how a default comes into the schema.
#[cfg(feature = "schema")]
macro_rules! written {
    ($($Type:ty),*) => {$(
        impl serde::Serialize for $Type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )*};
}
#[cfg(feature = "schema")]
pub(crate) use written;
#[cfg(feature = "schema")]
written!(Span, ByteSize, Percent, Rate, Cidr, Token);

/// Off, watched, or enforced: the switch of every protection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
pub enum Mode {
    Off,
    /// Logs and counts what `enforce` would have refused.
    Observe,
    #[default]
    Enforce,
}

impl Mode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// A value that only a reference may give, and that nothing prints.
#[derive(serde::Deserialize, Clone, PartialEq, Eq)]
#[serde(rename = "$secret")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Secret"))]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!("250ms".parse(), Ok(Span::millis(250)));
        assert_eq!("1.5s".parse(), Ok(Span::millis(1500)));
        assert_eq!("2h".parse(), Ok(Span::secs(7200)));
        for wrong in ["", "5", "s", "5 s", "-1s", "1e3s", "99999999999999999999d"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
        assert_eq!(Span::secs(90).to_string(), "90s");
    }

    #[test]
    fn sizes() {
        assert_eq!("10MB".parse(), Ok(ByteSize(10_000_000)));
        assert_eq!("32KiB".parse(), Ok(ByteSize(32768)));
        assert_eq!("0B".parse(), Ok(ByteSize(0)));
        for wrong in ["", "5", "MB", "1TB", "-1B"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_percents_blocks() {
        assert_eq!("100/s".parse(), Ok(Rate { count: 100, seconds: 1 }));
        assert_eq!("100/ss".parse::<Rate>().unwrap_err().at, 4..6);
        assert!("0/s".parse::<Rate>().is_err());
        assert_eq!("100/sec".parse::<Rate>().unwrap().to_string(), "100/s");
        assert_eq!("20%".parse(), Ok(Percent(0.2)));
        assert!("120%".parse::<Percent>().is_err());
        assert!("10.0.0.0/8".parse::<Cidr>().unwrap().contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!"::1".parse::<Cidr>().unwrap().contains("::2".parse().unwrap()));
    }
}
