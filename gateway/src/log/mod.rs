//! One record per request: what is written, in which form, and where to.
//!
//! A request never waits for the log. It formats its record into a buffer of its thread, and one writer thread empties
//! the buffers; what finds no room is dropped and counted. So the lines of different threads may stand up to 100 ms
//! out of order, and a log that cannot be written to costs records, never traffic.

pub mod process;
mod queue;
mod record;
mod sink;
mod text;

pub use record::{Record, Times, mode};
pub use text::escape;

use filters::short::Bad;
use http::HeaderName;
use prometheus::IntCounter;
use queue::Queue;
use record::Shape;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use sink::Sink;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// `[server] log`: where the access log goes and what stands in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Log")]
pub struct Conf {
    /// `"stdout"` (default), a path with a `/` in it (appended to; reopened on SIGHUP and SIGUSR1), `"syslog"`,
    /// `"journald"`, or `"off"`. The process's own messages always go to standard error.
    pub to: To,
    /// `"json"` (default): one object per line. `"text"`: one line for people, coloured on a terminal.
    pub format: Format,
    /// Names of query parameters and headers whose values are written as `***`, besides the usual ones (`token`,
    /// `password`, `code` …). Any case. `Authorization` and cookies are never written.
    pub mask: Vec<String>,
    /// Writes the query too, with masked values. Default: false, since queries carry personal data.
    pub query: bool,
    /// Request headers to write besides `User-Agent` and `Referer`.
    pub headers: Vec<Header>,
    /// The process's own messages: `"error"`, `"warn"`, `"info"` (default), `"debug"`.
    pub level: Level,
}

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum To {
    Off,
    #[default]
    Stdout,
    Syslog,
    Journald,
    File(PathBuf),
}

/// The form of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LogFormat")]
pub enum Format {
    #[default]
    Json,
    Text,
}

/// Which of the process's own messages are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LogLevel")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// A request header that may stand in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header(pub HeaderName);

/// The running access log. Cheap to write to from any thread; the last owner's drop ends it once all is written.
pub struct Logger {
    shape: Shape,
    queue: Option<Queue>,
}

impl Logger {
    /// Opens the destination and starts the writer. `threads` is how many threads will write; records that are lost
    /// count in `dropped`. A file that cannot be opened is an error; a journal or syslog that is not there is waited for.
    pub fn start(conf: &Conf, threads: usize, dropped: IntCounter) -> io::Result<Logger> {
        let (sink, colour) = match &conf.to {
            To::Off => return Ok(Logger { shape: Shape::new(conf, false), queue: None }),
            To::Stdout => (Sink::stdout()?, conf.format == Format::Text && sink::colourful()),
            To::File(path) => (Sink::file(path)?, false),
            To::Syslog => (Sink::syslog("/dev/log"), false),
            To::Journald => (Sink::journald("/run/systemd/journal/socket"), false),
        };
        let queue = Queue::start("access log", sink, threads, Duration::from_millis(100), dropped)?;
        Ok(Logger { shape: Shape::new(conf, colour), queue: Some(queue) })
    }

    /// Writes one record; never waits.
    pub fn write(&self, record: &Record<'_>) {
        if let Some(queue) = &self.queue {
            queue.put(|out| self.shape.write(out, record));
        }
    }

    /// The writer opens its file anew, after the old one was moved away; what was written until now goes to the old one.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.reopen();
        }
    }

    /// Writes what is left and ends the writer; false if that took longer than `patience`. Later records are dropped.
    pub fn close(&self, patience: Duration) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.close(patience))
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn timestamp(wall_ms: u64) -> String {
    let mut out = Vec::with_capacity(24);
    text::time(&mut out, wall_ms);
    String::from_utf8(out).expect("digits and signs")
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<To, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = To;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(To::FORM)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<To, E> {
                To::parse(s).map_err(E::custom)
            }
        }
        d.deserialize_str(V)
    }
}

impl To {
    const FORM: &'static str = "\"stdout\", \"syslog\", \"journald\", \"off\", or a path with a \"/\" in it";

    fn parse(s: &str) -> Result<To, Bad> {
        match s {
            "off" => Ok(To::Off),
            "stdout" => Ok(To::Stdout),
            "syslog" => Ok(To::Syslog),
            "journald" => Ok(To::Journald),
            // A misspelt word must not become a file of that name.
            path if path.contains('/') && !path.contains('\0') => Ok(To::File(path.into())),
            _ => Err(Bad::new(0..s.len(), format!("\"{s}\": expected {}", To::FORM))),
        }
    }
}

impl schemars::JsonSchema for To {
    fn schema_name() -> Cow<'static, str> {
        "LogTo".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": To::FORM, "pattern": "^(stdout|syslog|journald|off|.*/.*)$" })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Header, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a request header")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Header, E> {
                Header::parse(s).map_err(E::custom)
            }
        }
        d.deserialize_str(V)
    }
}

impl Header {
    fn parse(s: &str) -> Result<Header, Bad> {
        const NEVER: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
        let bad = |why: &str| Bad::new(0..s.len(), format!("\"{s}\": {why}"));
        let name: HeaderName = s.parse().map_err(|_| bad("expected the name of a request header"))?;
        if NEVER.contains(&name.as_str()) { Err(bad("is never written to a log")) } else { Ok(Header(name)) }
    }
}

impl schemars::JsonSchema for Header {
    fn schema_name() -> Cow<'static, str> {
        "LogHeader".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "the name of a request header" })
    }
}

#[cfg(test)]
mod tests;
