//! `redirect = "https://{host}{path}"`: sends the client elsewhere.
//!
//! Where to is the configuration's choice: a value fills a place in the URL, it cannot name another host. Its surprise:
//! the query goes along unless the new URL has one of its own.

use crate::path;
use crate::route::{rewrite, text};
use filters::expr::{Template, Var, View};
use filters::filter::{BuildError, Reply};
use filters::short::{Bad, One, Short};
use http::HeaderValue;
use http::header::LOCATION;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_spanned::Spanned;
use smol_str::SmolStr;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "redirect")]
pub struct Conf {
    /// The new URL: absolute, or a path. `{host}`, `{path}`, the names of captures and other values fill it.
    #[schemars(with = "Template")]
    pub to: Spanned<Template>,
    /// 301, 302, 303, 307 or 308. Default 308: permanent, with the same method and body.
    #[serde(default)]
    pub status: Status,
}

/// The statuses that send a client elsewhere (RFC 9110, section 15.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "u16")]
#[schemars(extend("enum" = [301, 302, 303, 307, 308]), with = "u16")]
pub struct Status(u16);

impl Default for Status {
    fn default() -> Status {
        Status(308)
    }
}

impl TryFrom<u16> for Status {
    type Error = String;
    fn try_from(status: u16) -> Result<Status, String> {
        match status {
            301 | 302 | 303 | 307 | 308 => Ok(Status(status)),
            _ => Err(format!("status {status}: expected 301, 302, 303, 307 or 308")),
        }
    }
}

impl Short for Conf {
    const LINE: &'static str = "a URL such as \"https://{host}{path}\"";
    fn line(line: &str) -> Result<Conf, Bad> {
        Ok(Conf { to: Spanned::new(0..0, Template::parse(line, None)?), status: Status::default() })
    }
}

/// A built redirect.
#[derive(Debug)]
pub struct Redirect {
    to: Template,
    fragment: String,
    has_query: bool,
    status: u16,
}

impl Redirect {
    /// `captures`: the names that the route's pattern captures.
    pub fn build(conf: &Spanned<One<Conf>>, captures: &[SmolStr]) -> Result<Redirect, BuildError> {
        let whole = conf.span();
        let conf = &conf.get_ref().0;
        let bound = rewrite::bind(&conf.to, captures, &whole)?;
        let text = bound.as_str();
        let span = if conf.to.span().is_empty() { whole } else { conf.to.span() };
        let fault = |why: &str| BuildError::new(format!("\"{text}\": {why}")).at(span.clone());
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(fault("expected a URL, with what is no letter, digit or sign percent-encoded"));
        }
        let (to, fragment) = text.split_once('#').unwrap_or((text, ""));
        if fragment.contains(['{', '}']) {
            return Err(fault("values cannot stand in the fragment"));
        }
        start(to, captures).map_err(fault)?;
        let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
        let has_query = to.contains('?');
        let to = Template::parse(to, Some(captures)).map_err(|bad| fault(&bad.why))?;
        Ok(Redirect { to, fragment, has_query, status: conf.status.0 })
    }

    pub fn reply(&self, view: &View) -> Reply {
        match self.location(view) {
            Some(location) => Reply::empty(self.status).with(LOCATION, location),
            None => Reply::problem(400, "the request has no valid redirect"),
        }
    }

    fn location(&self, view: &View) -> Option<HeaderValue> {
        let mut url = String::with_capacity(128);
        self.to.render_with(view, &mut url, |var, value, url| match zone(url) {
            Zone::Authority if matches!(var, Var::Host | Var::Path) => url.push_str(value),
            Zone::Authority => label(value, url),
            Zone::Path => text::in_path(var, value, url),
            Zone::Query => text::in_query(var, value, url),
        });
        if let Some(relative) = url.strip_prefix('/') {
            // `//host` is another host to a browser
            let inner = relative.trim_start_matches('/').len();
            url.replace_range(1..url.len() - inner, "");
        } else {
            let authority = url.split_once("://")?.1;
            path::host(authority.split(['/', '?']).next()?)?;
        }
        if let (false, Some(query)) = (self.has_query, view.cx.asked.as_ref().unwrap_or(&view.head.uri).query()) {
            url.push('?');
            url.push_str(query);
        }
        url.push_str(&self.fragment);
        HeaderValue::try_from(url).ok()
    }
}

enum Zone {
    Authority,
    Path,
    Query,
}

/// Where the end of `url` is.
fn zone(url: &str) -> Zone {
    if url.contains('?') {
        return Zone::Query;
    }
    match url.split_once("://") {
        Some((_, authority)) if !authority.contains('/') => Zone::Authority,
        _ => Zone::Path,
    }
}

/// A value that is one label of a host's name; anything else makes the host invalid.
fn label(value: &str, url: &mut String) {
    let sound = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    url.push_str(if sound { value } else { "%" });
}

/// The configuration, not the client, says which host it is.
fn start(to: &str, captures: &[SmolStr]) -> Result<(), &'static str> {
    const FORM: &str = "expected a URL that begins with https://, http://, {scheme}:// or /";
    let variable = |name: &str| to.starts_with(name) && !captures.iter().any(|c| *c == name[1..name.len() - 1]);
    if to.starts_with('/') || variable("{path}") {
        return if to.starts_with("//") { Err(FORM) } else { Ok(()) };
    }
    let (scheme, rest) = to.split_once("://").ok_or(FORM)?;
    if !(matches!(scheme, "http" | "https") || scheme == "{scheme}" && variable("{scheme}")) {
        return Err(FORM);
    }
    let captured = |name: &str| captures.iter().any(|c| c == name);
    let mut authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if let Some(at) = authority.find("{path}").filter(|_| !captured("path")) {
        authority = &authority[..at];
    }
    if authority.is_empty() {
        return Err("a URL without a host");
    }
    let (literal, below) = match authority.strip_prefix('{').and_then(|a| a.split_once('}')) {
        Some(("host", port)) if !captured("host") => (format!("h{port}"), true),
        Some((_, domain)) => (format!("h{domain}"), domain.starts_with('.') && domain.len() > 1),
        None => (authority.to_string(), true),
    };
    if !below || literal.contains(['{', '}']) {
        return Err(
            "a value here lets the client choose the host: expected a / before it, or a . and a domain after it",
        );
    }
    path::host(&literal).map(drop).ok_or("not a valid host")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Pattern;
    use filters::cx::{Captures, Cx};
    use filters::head::RequestHead;
    use proptest::prelude::*;

    #[derive(Deserialize)]
    struct File {
        redirect: Spanned<One<Conf>>,
    }

    fn build(toml: &str, pattern: &Pattern) -> Result<Redirect, BuildError> {
        let file: File = toml::from_str(&format!("redirect = {toml}")).unwrap_or_else(|e| panic!("{toml}: {e}"));
        Redirect::build(&file.redirect, pattern.names())
    }

    fn ask(pattern: &str, redirect: &str, target: &str, header: &str) -> (u16, String) {
        let pattern = Pattern::parse(pattern).unwrap();
        let redirect = build(redirect, &pattern).unwrap_or_else(|e| panic!("{redirect}: {}", e.why));
        let mut head = RequestHead::build("GET", target.as_bytes(), None).unwrap();
        head.insert_header("x-h", header).unwrap();
        let spans = pattern.captures(head.uri.path()).expect("the pattern matches");
        let captures = Captures { names: pattern.names().clone(), spans };
        let cx = Cx { host: "example.com".into(), captures, ..Cx::default() };
        let reply = redirect.reply(&View { head: &head, cx: &cx });
        let location = reply.headers.iter().find(|(n, _)| n == LOCATION).map(|(_, v)| v.to_str().unwrap().to_string());
        (reply.status, location.unwrap_or_default())
    }

    #[test]
    fn sends_elsewhere() {
        for (pattern, redirect, target, status, location) in [
            ("/**", "'https://{host}{path}'", "/a/b?c=d", 308, "https://example.com/a/b?c=d"),
            ("/**", "'{scheme}://{host}{path}'", "/", 308, "http://example.com/"),
            ("/**", "{ to = 'https://{host}:8443{path}', status = 301 }", "/a", 301, "https://example.com:8443/a"),
            ("/old/{id}", "'/new/{id}?from=old#top'", "/old/a&b?c", 308, "/new/a&b?from=old#top"),
            ("/old/{id}", "'/new#top'", "/old/7?c=d", 308, "/new?c=d#top"),
            ("/old/{id}", "'/new?id={id}&h={header.x-h}'", "/old/a&b", 308, "/new?id=a%26b&h=x%09y%2F"),
            ("/old/{id}", "'/new/{header.x-h}'", "/old/7", 308, "/new/x%09y%2F"),
            ("/{t}/{**rest}", "'https://{t}.example.org/{rest}'", "/blue/x/y", 308, "https://blue.example.org/x/y"),
            ("/{t}/**", "'https://{t}.example.org'", "/a.b/", 400, ""),
            ("/{t}/**", "'https://{t}.example.org'", "/evil.com:80/", 400, ""),
            ("/go/{**rest}", "'/{rest}'", "/go//evil.com", 308, "/evil.com"),
            ("/**", "'{path}/'", "//evil.com", 308, "/evil.com/"),
        ] {
            let got = ask(pattern, redirect, target, "x\ty/");
            assert_eq!(got, (status, location.to_string()), "{redirect} of {target}");
        }
    }

    #[test]
    fn the_client_cannot_choose_the_host() {
        let pattern = Pattern::parse("/{id}/{**rest}").unwrap();
        for (redirect, why) in [
            ("'{rest}'", "begins with"),
            ("'{id}://x'", "begins with"),
            ("'//example.com'", "begins with"),
            ("'ftp://example.com'", "begins with"),
            ("'javascript:alert(1)'", "begins with"),
            ("'https://{id}'", "choose the host"),
            ("'https://{id}/x'", "choose the host"),
            ("'https://{header.x-h}/x'", "choose the host"),
            ("'https://example.com{rest}'", "choose the host"),
            ("'https://example.com:{id}/'", "choose the host"),
            ("'https://{id}.{rest}.com/'", "choose the host"),
            ("'https://{host}{id}'", "choose the host"),
            ("'https://user@example.com/'", "not a valid host"),
            ("'https:///x'", "without a host"),
            ("'/x y'", "percent-encoded"),
            ("'/x#{id}'", "fragment"),
            ("'/x/{nope}'", "captures id, rest"),
        ] {
            let fault = build(redirect, &pattern).expect_err(redirect);
            assert!(fault.why.contains(why) && fault.at.is_some(), "{redirect}: {}", fault.why);
        }
        let status = toml::from_str::<File>("redirect = { to = '/', status = 200 }").err().unwrap().to_string();
        assert!(status.contains("expected 301, 302, 303, 307 or 308"), "{status}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_sent_stays_on_the_host(path in "/[!-~]{0,12}", header in "[ -~]{0,12}") {
            if path.contains(['?', '#', '<', '>', '"', '`', '^', '\\', '{', '}', '|']) {
                return Ok(());
            }
            let (_, location) = ask("/**", "'https://{host}/x{path}?h={header.x-h}'", &path, &header);
            prop_assert!(location.starts_with("https://example.com/x/"));
            prop_assert_eq!(location.matches(['?', '&', '=']).count() - path.matches(['&', '=']).count(), 2);
            let (_, location) = ask("/**", "'{path}'", &path, &header);
            prop_assert!(location.starts_with('/') && !location.starts_with("//"));
        }
    }
}
