//! Which web pages of other origins may use this API: `cors = { origins = ["https://app.example.com"] }`.
//!
//! The gateway answers preflights itself, with 204, or with 403 for a foreign origin; they carry no credentials, so this
//! comes before `auth`. A plain request of a foreign origin passes without the headers, and the browser keeps the answer
//! from the page: CORS loosens the browser's rule, it protects nothing by itself. The upstream's own
//! `Access-Control-*` headers are replaced, since two voices would contradict each other.

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::{self, RequestHead, ResponseHead};
use crate::short::Bad;
use crate::units::{Mode, Span, Token, Unit, unit};
use ahash::AHashSet;
use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, HeaderValue, ORIGIN,
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Cors"))]
pub struct Conf {
    /// Exact origins (`"https://app.example.com"`), all below a name (`"https://*.example.com"`, without the name
    /// itself), `"null"` for sandboxed pages and local files, or `"*"` for everybody.
    pub origins: Vec<Origin>,
    /// Methods that pages may use, or `["*"]`. By default GET, HEAD and POST.
    #[serde(default = "simple")]
    pub methods: Vec<Token>,
    /// Request headers that pages may set besides the simple ones, or `["*"]`. None by default.
    #[serde(default)]
    pub headers: Vec<Token>,
    /// Response headers that pages may read besides the simple ones, or `["*"]`. None by default.
    #[serde(default)]
    pub expose: Vec<Token>,
    /// Pages may send cookies and client certificates. Excludes `"*"` everywhere.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight; browsers cap it at 2 to 24 hours. 10 minutes by default.
    #[serde(default = "ten_minutes")]
    pub max_age: Span,
    /// `enforce` (the default), `observe` (foreign preflights go to the upstream) or `off`.
    #[serde(default)]
    pub mode: Mode,
}

fn simple() -> Vec<Token> {
    ["GET", "HEAD", "POST"].map(|m| Token(m.into())).to_vec()
}

fn ten_minutes() -> Span {
    Span::secs(600)
}

pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
    mode: Mode,
}

/// What the request was, for the response.
#[derive(Default)]
pub struct Asked {
    /// The origin, if it is one of ours.
    origin: Option<HeaderValue>,
    foreign: bool,
    preflight: bool,
}

/// An origin as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Any,
    /// As browsers send it: lower case, without the usual port; or `null`.
    Exact(String),
    Below(Below),
}

/// `https://*.example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// `https://`
    scheme: String,
    /// `.example.com:8443`
    suffix: String,
}

#[derive(Debug, Default)]
struct Origins {
    any: bool,
    exact: AHashSet<String>,
    below: Vec<Below>,
}

impl Filter for Cors {
    type Conf = Conf;
    type Scratch = Asked;
    const EXAMPLE: &'static str = r#"cors = { origins = ["https://app.example.com", "https://*.example.org"], methods = ["GET", "PUT"], headers = ["X-Token"], expose = ["ETag"], credentials = true, max_age = "1h" }"#;

    fn build(conf: &Conf, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        if conf.mode == Mode::Off {
            return Ok(None);
        }
        let stars = [("methods", &conf.methods), ("headers", &conf.headers), ("expose", &conf.expose)]
            .map(|(key, list)| (key, list.iter().any(|t| t.0 == "*")));
        let any = ("origins", conf.origins.contains(&Origin::Any));
        if let Some((key, _)) = stars.into_iter().chain([any]).find(|(_, star)| *star && conf.credentials) {
            // Fetch, section 3.3.5: with credentials "*" is no wildcard.
            return Err(BuildError::new(format!("`{key}` has \"*\", which `credentials = true` excludes"))
                .hint(format!("list the {key} one by one")));
        }
        if conf.origins.is_empty() {
            return Err(BuildError::new("`origins = []` allows nobody"));
        }
        Ok(Some(Cors {
            origins: Origins::new(&conf.origins),
            credentials: conf.credentials,
            methods: list(&conf.methods).ok_or_else(|| BuildError::new("`methods = []` allows nothing"))?,
            headers: list(&conf.headers),
            expose: list(&conf.expose),
            max_age: HeaderValue::from(conf.max_age.0.as_secs()),
            mode: conf.mode,
        }))
    }

    fn request(&self, asked: &mut Asked, head: &mut RequestHead, cx: &mut Cx) -> Step {
        let Some(origin) = head.headers.get(ORIGIN) else { return GO };
        let preflight = head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        // Two origins are none: whoever reads the other one must not be led astray.
        let one = head.headers.get_all(ORIGIN).iter().count() == 1;
        let text = std::str::from_utf8(origin.as_bytes()).unwrap_or_default();
        if one && self.origins.contains(text) {
            asked.origin = Some(if self.origins.any { HeaderValue::from_static("*") } else { origin.clone() });
            asked.preflight = preflight;
            return if preflight { Step::Break(Box::new(Reply::empty(204))) } else { GO };
        }
        asked.foreign = true;
        if !preflight {
            return GO;
        }
        let reason = format!("origin {:?} is not allowed", text.chars().take(100).collect::<String>());
        cx.refuse(self.mode, "origin", reason, || Reply::problem(403, "this origin may not use the API"))
    }

    fn response(&self, asked: &mut Asked, head: &mut ResponseHead, _: &RequestHead, _: &mut Cx) {
        if self.mode == Mode::Enforce || !asked.foreign {
            OURS.iter().for_each(|name| _ = head.remove_header(name));
        }
        if !self.origins.any {
            // Also without an Origin: a cache must not give this answer to a page.
            head::vary(head, "Origin");
        }
        let Some(origin) = asked.origin.take() else { return };
        put(head, ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
        if self.credentials {
            put(head, ACCESS_CONTROL_ALLOW_CREDENTIALS, &HeaderValue::from_static("true"));
        }
        if !asked.preflight {
            return self.expose.iter().for_each(|names| put(head, ACCESS_CONTROL_EXPOSE_HEADERS, names));
        }
        put(head, ACCESS_CONTROL_ALLOW_METHODS, &self.methods);
        self.headers.iter().for_each(|names| put(head, ACCESS_CONTROL_ALLOW_HEADERS, names));
        put(head, ACCESS_CONTROL_MAX_AGE, &self.max_age);
        head::vary(head, "Access-Control-Request-Method");
        head::vary(head, "Access-Control-Request-Headers");
    }
}

/// What the gateway alone says.
const OURS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

fn put(head: &mut ResponseHead, name: HeaderName, value: &HeaderValue) {
    // Fails only when the map is full, at 32768 headers.
    _ = head.insert_header(name, value);
}

fn list(items: &[Token]) -> Option<HeaderValue> {
    let joined = items.iter().map(|t| &*t.0).collect::<Vec<_>>().join(", ");
    if joined.is_empty() { None } else { HeaderValue::try_from(joined).ok() }
}

impl Unit for Origin {
    const FORM: &'static str =
        "an origin such as \"https://app.example.com\" or \"https://*.example.com\", \"null\" or \"*\"";
    const PATTERN: &'static str = r"^(\*|null|[A-Za-z0-9-]+://[^/?#@]+)$";
    fn parse(text: &str) -> Result<Origin, Bad> {
        let wrong = || Bad::new(0..text.len(), format!("\"{text}\": expected {}, without a path", Self::FORM));
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = match lower.as_str() {
            "*" => return Ok(Origin::Any),
            "null" => return Ok(Origin::Exact(lower)),
            _ => lower.split_once("://").ok_or_else(wrong)?,
        };
        let (host, below) = rest.strip_prefix("*.").map_or((rest, false), |host| (host, true));
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || !is_host(host) {
            return Err(wrong());
        }
        // Browsers leave the usual port out.
        let host = match scheme {
            "https" => host.strip_suffix(":443").unwrap_or(host),
            "http" => host.strip_suffix(":80").unwrap_or(host),
            _ => host,
        };
        Ok(if below {
            Origin::Below(Below { scheme: format!("{scheme}://"), suffix: format!(".{host}") })
        } else {
            Origin::Exact(format!("{scheme}://{host}"))
        })
    }
}
unit!(Origin, "Origin");

impl Origins {
    fn new(all: &[Origin]) -> Origins {
        let mut origins = Origins::default();
        for origin in all {
            match origin {
                Origin::Any => origins.any = true,
                Origin::Exact(origin) => _ = origins.exact.insert(origin.clone()),
                Origin::Below(below) => origins.below.push(below.clone()),
            }
        }
        origins
    }

    fn contains(&self, origin: &str) -> bool {
        self.any || self.exact.contains(origin) || self.below.iter().any(|b| b.contains(origin))
    }
}

impl Below {
    /// What stands for the `*` must be one or more labels and nothing else: `https://evil.com/.example.com` or
    /// `https://u@evil.com:1.example.com` are none of ours.
    fn contains(&self, origin: &str) -> bool {
        let star = origin.strip_prefix(&self.scheme).and_then(|o| o.strip_suffix(&self.suffix));
        let label = |l: &str| {
            !l.is_empty() && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        star.is_some_and(|star| star.split('.').all(label))
    }
}

/// A name or an address, and perhaps a port.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(i) if !host.ends_with(']') => (&host[..i], &host[i + 1..]),
        _ => (host, "1"),
    };
    let v6 = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let plain = |n: &str| {
        n.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
    };
    port.parse::<u16>().is_ok() && v6.map_or_else(|| plain(name), |n| n.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, faults};
    use proptest::prelude::*;

    #[test]
    fn a_preflight_is_answered_here() {
        check::<Cors>(
            Cors::EXAMPLE,
            r#"
            > OPTIONS http://h/orders
            > Origin: https://app.example.com
            > Access-Control-Request-Method: PUT
            < 204
            < Access-Control-Allow-Origin: https://app.example.com
            < Access-Control-Allow-Credentials: true
            < Access-Control-Allow-Methods: GET, PUT
            < Access-Control-Allow-Headers: X-Token
            < Access-Control-Max-Age: 3600
            < -Access-Control-Expose-Headers
            < Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers

            > OPTIONS http://h/orders
            > Origin: https://evil.example
            > Access-Control-Request-Method: PUT
            < 403
            < -Access-Control-Allow-Origin
            < Vary: Origin
            ! cors.origin enforce: origin "https://evil.example" is not allowed

            # OPTIONS alone is no preflight
            > OPTIONS http://h/orders
            > Origin: https://app.example.com
            >> OPTIONS /orders
            "#,
        );
    }

    #[test]
    fn the_upstreams_own_headers_are_replaced() {
        check::<Cors>(
            Cors::EXAMPLE,
            "
            > GET http://h/
            > Origin: https://a.b.example.org
            << 200
            << Access-Control-Allow-Origin: *
            << Vary: Accept
            < Access-Control-Allow-Origin: https://a.b.example.org
            < Access-Control-Expose-Headers: ETag
            < Vary: Accept, Origin

            > GET http://h/
            > Origin: https://evil.example
            << 200
            << Access-Control-Allow-Origin: *
            < -Access-Control-Allow-Origin
            < -Access-Control-Allow-Credentials
            < Vary: Origin

            # no page asks, but a cache may keep the answer
            > GET http://h/
            << 200
            << Vary: origin
            < -Access-Control-Allow-Origin
            < Vary: origin
            ",
        );
    }

    #[test]
    fn everybody() {
        check::<Cors>(
            r#"cors = { origins = ["*"], headers = ["*"] }"#,
            "
            > GET http://h/
            > Origin: null
            < Access-Control-Allow-Origin: *
            < -Vary

            > OPTIONS http://h/
            > Origin: https://any.example
            > Access-Control-Request-Method: GET
            < 204
            < Access-Control-Allow-Origin: *
            < Access-Control-Allow-Headers: *
            < Access-Control-Allow-Methods: GET, HEAD, POST
            < Access-Control-Max-Age: 600
            ",
        );
    }

    #[test]
    fn observed() {
        check::<Cors>(
            r#"cors = { origins = ["https://app.example.com"], mode = "observe" }"#,
            "
            > OPTIONS http://h/
            > Origin: https://evil.example
            > Access-Control-Request-Method: GET
            >> OPTIONS /
            << 204
            << Access-Control-Allow-Origin: *
            < Access-Control-Allow-Origin: *
            ! cors.origin observe
            ",
        );
    }

    #[test]
    fn tricks_with_origins() {
        let origins = Origins::new(
            &["https://App.example.com:443", "https://*.example.org", "http://*.dev.example:8080", "http://[::1]:3000"]
                .map(|o| o.parse().unwrap()),
        );
        for ours in [
            "https://app.example.com",
            "https://a.example.org",
            "https://a-1.b_2.example.org",
            "http://x.dev.example:8080",
            "http://[::1]:3000",
        ] {
            assert!(origins.contains(ours), "{ours}");
        }
        for foreign in [
            "",
            "null",
            "*",
            "http://app.example.com",
            "https://app.example.com.",
            "https://app.example.com:444",
            "https://app.example.com.evil.com",
            "https://evilapp.example.com",
            "https://APP.example.com",
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://evilexample.org",
            "https://a.example.org.evil.com",
            "https://evil.com/.example.org",
            "https://evil.com?.example.org",
            "https://evil.com#.example.org",
            "https://evil.com:1.example.org",
            "https://user@evil.com@.example.org",
            "https://evil.com%2f.example.org",
            "https://evil.com\t.example.org",
            "http://x.dev.example",
        ] {
            assert!(!origins.contains(foreign), "{foreign}");
        }
        check::<Cors>(
            r#"cors = { origins = ["https://app.example.com", "null"] }"#,
            "
            > GET http://h/
            > Origin: null
            < Access-Control-Allow-Origin: null

            > GET http://h/
            > Origin: https://app.example.com
            > Origin: https://evil.example
            < -Access-Control-Allow-Origin
            ",
        );
    }

    #[test]
    fn wrong() {
        for (conf, why) in [
            (r#"origins = ["*"], credentials = true"#, "`origins` has \"*\""),
            (r#"origins = ["https://a.b"], headers = ["*"], credentials = true"#, "`headers` has \"*\""),
            (r#"origins = []"#, "allows nobody"),
            (r#"origins = ["app.example.com"]"#, "expected an origin such as"),
            (r#"origins = ["https://app.example.com/"]"#, "without a path"),
            (r#"origins = ["https://*"]"#, "expected an origin"),
            (r#"origins = ["https://a.*.com"]"#, "expected an origin"),
            (r#"origins = ["https://*a.com"]"#, "expected an origin"),
            (r#"origins = ["https://a:99999"]"#, "expected an origin"),
            (r#"origins = ["https://u@a"]"#, "expected an origin"),
            (r#"origins = ["https://[::g]"]"#, "expected an origin"),
            (r#"origins = ["*"], methods = []"#, "allows nothing"),
            (r#"origins = ["*"], methods = ["G T"]"#, "\"G T\": expected a name"),
            (r#"origins = ["*"], headers = ["X:"]"#, "\"X:\": expected a name"),
        ] {
            assert!(faults(&format!("cors = {{ {conf} }}")).contains(why), "{conf}");
        }
    }

    proptest! {
        /// Whatever passes for `https://*.example.org` is an origin whose host really lies below it.
        #[test]
        fn nothing_slips_below_a_name(star in "[a-z.:/@#?%\\[\\]_-]{0,12}", tail in "(\\.example\\.org)?[a-z.:/]{0,3}") {
            let origins = Origins::new(&["https://*.example.org".parse().unwrap()]);
            let origin = format!("https://{star}{tail}");
            if origins.contains(&origin) {
                let uri: http::Uri = origin.parse().unwrap();
                prop_assert!(uri.host().is_some_and(|h| h.ends_with(".example.org")), "{}", origin);
                prop_assert!(uri.port().is_none() && uri.path() == "/");
            }
        }
    }
}
