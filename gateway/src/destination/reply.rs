//! `reply = { status = 200, body = "…" }`: the gateway answers by itself.
//!
//! Values may fill the body, escaped for its type. Its surprise: only `{name}` is special there, so JSON needs no doubled
//! braces; `{{name}}` is a plain `{name}`.

use bytes::Bytes;
use filters::expr::{Template, View};
use filters::filter::{Body, BuildError, Reply};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// A status alone, or a table.
#[derive(Debug, Clone, Default)]
pub struct Conf(Table);

#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "reply")]
struct Table {
    /// 200 to 599. Default 200, or 204 without a body.
    status: Option<u16>,
    /// The body. `{name}` is what the route captured, or another value; it is escaped for JSON, HTML and XML types.
    body: String,
    /// The body's media type. Default `"text/plain; charset=utf-8"`.
    #[serde(rename = "type")]
    media: Option<String>,
    /// Further headers of the answer.
    headers: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Conf {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Conf, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Conf;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status such as 204, or a table of status, body, type, headers")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Conf, E> {
                let status = u16::try_from(n).map_err(|_| E::custom(format!("status {n}: expected 200 to 599")))?;
                Ok(Conf(Table { status: Some(status), ..Table::default() }))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Conf, E> {
                self.visit_i64(n.try_into().unwrap_or(i64::MAX))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Conf, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(Conf)
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Conf {
    fn schema_name() -> Cow<'static, str> {
        "Reply".into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = g.subschema_for::<Table>();
        schemars::json_schema!({
            "description": "a status such as 204, or a table",
            "anyOf": [{ "type": "integer", "minimum": 200, "maximum": 599 }, table],
        })
    }
}

/// A built answer.
#[derive(Debug)]
pub struct Fixed {
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Content,
}

#[derive(Debug)]
enum Content {
    Constant(Bytes),
    Filled(Template, Escape),
}

/// How a value is kept from meaning more than itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Escape {
    None,
    Json,
    Markup,
}

impl Fixed {
    /// `captures`: the names that the route's pattern captures.
    pub fn build(conf: &Spanned<Conf>, captures: &[SmolStr]) -> Result<Fixed, BuildError> {
        let fault = |why: String| BuildError::new(why).at(conf.span());
        let Conf(table) = conf.get_ref();
        let status = table.status.unwrap_or(if table.body.is_empty() { 204 } else { 200 });
        if !(200..600).contains(&status) {
            return Err(fault(format!("status {status}: expected 200 to 599")));
        }
        if !table.body.is_empty() && matches!(status, 204 | 205 | 304) {
            return Err(fault(format!("a body with status {status}, which has none")));
        }
        let mut headers = vec![];
        for (name, value) in &table.headers {
            headers.push(header(name, value).map_err(fault)?);
        }
        let media = table.media.as_deref().unwrap_or("text/plain; charset=utf-8");
        if !table.body.is_empty() || table.media.is_some() {
            let value =
                HeaderValue::from_str(media).map_err(|_| fault(format!("type {media:?}: expected a media type")))?;
            headers.push((CONTENT_TYPE, value));
        }
        let template = Template::parse(&as_template(&table.body), Some(captures)).map_err(|bad| fault(bad.why))?;
        let body = match template.constant() {
            Some(text) => Content::Constant(Bytes::copy_from_slice(text.as_bytes())),
            None => Content::Filled(template, escape(media)),
        };
        Ok(Fixed { status, headers, body })
    }

    pub fn reply(&self, view: &View) -> Reply {
        let bytes = match &self.body {
            Content::Constant(bytes) => bytes.clone(),
            Content::Filled(template, escape) => {
                let mut text = String::new();
                template.render_with(view, &mut text, |_, value, text| escape.append(value, text));
                text.into()
            }
        };
        let body = if bytes.is_empty() { Body::Empty } else { Body::Bytes(bytes) };
        Reply { status: self.status, headers: self.headers.clone(), body }
    }
}

/// Headers that the connection needs for itself (RFC 9110, section 7.6.1), or that have a key of their own.
const OWN: [&str; 8] =
    ["connection", "content-length", "content-type", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let key =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("header {name:?}: expected a header's name"))?;
    if OWN.contains(&key.as_str()) {
        return Err(format!(
            "header {name}: set by the gateway{}",
            if key == CONTENT_TYPE { ", see `type`" } else { "" }
        ));
    }
    let value = HeaderValue::from_str(value).map_err(|_| format!("header {name}: a value that no header can have"))?;
    Ok((key, value))
}

fn escape(media: &str) -> Escape {
    let essence = media.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        e if e.ends_with("/json") || e.ends_with("+json") => Escape::Json,
        e if e.ends_with("/xml") || e.ends_with("+xml") || e == "text/html" => Escape::Markup,
        _ => Escape::None,
    }
}

impl Escape {
    fn append(self, value: &str, out: &mut String) {
        for c in value.chars() {
            let piece = match (self, c) {
                (Escape::Json, '"') => "\\\"",
                (Escape::Json, '\\') => "\\\\",
                (Escape::Markup, '<') => "&lt;",
                (Escape::Markup, '>') => "&gt;",
                (Escape::Markup, '&') => "&amp;",
                (Escape::Markup, '"') => "&quot;",
                (Escape::Markup, '\'') => "&#39;",
                (Escape::Json, c) if c.is_control() => {
                    write!(out, "\\u{:04x}", c as u32).expect("a String takes everything");
                    continue;
                }
                (_, c) => {
                    out.push(c);
                    continue;
                }
            };
            out.push_str(piece);
        }
    }
}

/// The body as a [`Template`], which has every plain brace doubled.
fn as_template(body: &str) -> String {
    let mut out = String::with_capacity(body.len() + 8);
    let mut rest = body;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = rest.starts_with("{{");
        match name(&rest[usize::from(plain)..]) {
            Some(len) if plain && rest[len + 1..].starts_with('}') => {
                out.push_str(&rest[..len + 2]);
                rest = &rest[len + 2..];
            }
            Some(len) if !plain => {
                out.push_str(&rest[..len]);
                rest = &rest[len..];
            }
            _ => {
                out.push_str(&rest[..1]);
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// The length of a `{name}` that `text` starts with.
fn name(text: &str) -> Option<usize> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    sound.then_some(name.len() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::cx::{Captures, Cx};
    use filters::head::RequestHead;

    #[derive(serde::Deserialize)]
    struct File {
        reply: Spanned<Conf>,
    }

    fn build(toml: &str) -> Result<Fixed, String> {
        let file: File = toml::from_str(&format!("reply = {toml}")).map_err(|e| e.message().to_string())?;
        Fixed::build(&file.reply, &["id".into()]).map_err(|e| e.why)
    }

    fn ask(toml: &str) -> Reply {
        let mut head = RequestHead::build("GET", b"/users/7'", None).unwrap();
        head.insert_header("x-h", "<\"\\\t&").unwrap();
        let captures = Captures { names: std::sync::Arc::from(["id".into()]), spans: smallvec::smallvec![(7, 9)] };
        let cx = Cx { captures, ..Cx::default() };
        build(toml).unwrap().reply(&View { head: &head, cx: &cx })
    }

    fn body(toml: &str) -> String {
        match ask(toml).body {
            Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers() {
        assert_eq!(ask("204"), Reply::empty(204));
        assert_eq!(ask("{}"), Reply::empty(204));
        let reply = ask("{ status = 503, body = 'soon', headers = { Retry-After = '60' } }");
        assert_eq!(reply.status, 503);
        assert_eq!(reply.headers[0].1, "60");
        assert_eq!(reply.headers[1], (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        assert_eq!(reply.body, Body::Bytes("soon".into()));
        assert_eq!(ask("{ body = 'x', type = 'text/html' }").status, 200);
    }

    #[test]
    fn only_names_are_special_in_a_body() {
        for (text, filled) in [
            ("id {id} on {path}", "id 7' on /users/7'"),
            (r#"{"ok":true}"#, r#"{"ok":true}"#),
            (r#"{"a":{"id":"{id}"}}"#, r#"{"a":{"id":"7'"}}"#),
            ("{} { } {1} }{", "{} { } {1} }{"),
            ("{{id}} {{", "{id} {{"),
            ("é{id}é}", "é7'é}"),
        ] {
            assert_eq!(body(&format!("{{ body = '''{text}''' }}")), filled, "{text}");
        }
    }

    #[test]
    fn values_are_escaped_for_the_type() {
        assert_eq!(body("{ body = '{header.x-h}', type = 'Application/JSON; x' }"), "<\\\"\\\\\\u0009&");
        assert_eq!(body("{ body = '{header.x-h}{id}', type = 'text/html' }"), "&lt;&quot;\\\t&amp;7&#39;");
        assert_eq!(body("{ body = '{header.x-h}' }"), "<\"\\\t&");
    }

    #[test]
    fn faults() {
        for (toml, why) in [
            ("99", "200 to 599"),
            ("-1", "200 to 599"),
            ("'x'", "a status such as 204"),
            ("{ stats = 1 }", "unknown field"),
            ("{ status = 204, body = 'x' }", "which has none"),
            ("{ body = '{idd}' }", "did you mean `id`"),
            ("{ headers = { Content-Length = '1' } }", "set by the gateway"),
            ("{ headers = { Content-Type = 'a' } }", "see `type`"),
            ("{ headers = { 'a b' = '1' } }", "a header's name"),
            ("{ headers = { a = \"x\\ny\" } }", "no header can have"),
            ("{ type = \"x\\ny\" }", "media type"),
        ] {
            let got = build(toml).expect_err(toml);
            assert!(got.contains(why), "{toml}: {got}");
        }
    }
}
