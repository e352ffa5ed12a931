//! `rewrite`: what the upstream is asked for instead of what the client asked for.
//!
//! The result is canonical again, and has the structure that the configuration gave it: a value can fill a segment, but
//! not add a dot segment, another parameter or nothing at all. Its surprise: for that reason applying it can fail.

use super::text;
use crate::path::{self, PathPolicy, Refused};
use filters::expr::{Template, Var, View};
use filters::filter::BuildError;
use filters::short::{Bad, One, Short};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::ops::Range;

/// The parts of a target that change; what is not named stays.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "rewrite")]
pub struct Conf {
    /// A leading piece of the path, of whole segments, that is taken away: `/v1` makes `/v1/users` into `/users`. A path
    /// that does not begin with it stays as it is.
    #[schemars(with = "Option<String>")]
    pub strip: Option<Spanned<String>>,
    /// What is put before the path, after `strip`: `/v2`.
    #[schemars(with = "Option<String>")]
    pub prefix: Option<Spanned<String>>,
    /// The whole new path: `/internal/{id}`. Not beside `strip` or `prefix`.
    #[schemars(with = "Option<Template>")]
    pub path: Option<Spanned<Template>>,
    /// The whole new query, without `?`; `""` removes it. Default: as sent.
    #[schemars(with = "Option<Template>")]
    pub query: Option<Spanned<Template>>,
    /// The `Host` that the upstream is asked for. Default: as sent.
    #[schemars(with = "Option<Template>")]
    pub host: Option<Spanned<Template>>,
}

impl Short for Conf {
    const LINE: &'static str = "a path such as \"/internal/{id}\"";
    /// A path, and behind a `?` also a query.
    fn line(line: &str) -> Result<Conf, Bad> {
        let (path, query) = line.split_once('?').map_or((line, None), |(path, query)| (path, Some(query)));
        let part = |part: &str, from: usize| {
            Template::parse(part, None).map(|t| Some(Spanned::new(0..0, t))).map_err(|bad| bad.shifted(from))
        };
        let query = query.map_or(Ok(None), |query| part(query, path.len() + 1))?;
        Ok(Conf { path: part(path, 0)?, query, ..Conf::default() })
    }
}

/// A built rewrite.
#[derive(Debug)]
pub struct Rewrite {
    path: Path,
    query: Option<Template>,
    host: Option<Template>,
    policy: PathPolicy,
}

#[derive(Debug)]
enum Path {
    /// Both without a slash at their end, so that either may be empty.
    Swap {
        strip: String,
        prefix: String,
    },
    New(Template),
}

impl Rewrite {
    /// `captures`: the names that the route's pattern captures.
    pub fn build(conf: &Spanned<One<Conf>>, captures: &[SmolStr], policy: &PathPolicy) -> Result<Rewrite, BuildError> {
        let whole = conf.span();
        let conf = &conf.get_ref().0;
        let path = match (&conf.path, &conf.strip, &conf.prefix) {
            (Some(path), None, None) => Path::New(new_path(path, captures, &whole, policy)?),
            (Some(_), Some(other), _) | (Some(_), _, Some(other)) => {
                let fault = BuildError::new("`path` is the whole new path: expected no `strip` or `prefix` beside it");
                return Err(fault.at(other.span()));
            }
            (None, strip, prefix) => Path::Swap { strip: lead(strip, policy)?, prefix: lead(prefix, policy)? },
        };
        let query = conf.query.as_ref().map(|q| bind(q, captures, &whole)).transpose()?;
        let host = conf.host.as_ref().map(|h| bind(h, captures, &whole)).transpose()?;
        if let (Some(host), Some(text)) = (&conf.host, host.as_ref().and_then(Template::constant))
            && path::host(text).is_none()
        {
            return Err(BuildError::new(format!("\"{text}\" is not a host")).at(host.span()));
        }
        Ok(Rewrite { path, query, host, policy: policy.clone() })
    }

    /// The target for the upstream. `target` is the canonical one that was routed; `view` the request it belongs to.
    pub fn apply<'t>(&self, target: &'t str, view: &View) -> Result<Cow<'t, str>, Refused> {
        let at = target.find('?').unwrap_or(target.len());
        let (path, query) = target.split_at(at);
        let mut new = match &self.path {
            Path::Swap { strip, prefix } => {
                let rest = stripped(path, strip);
                if prefix.is_empty() && self.query.is_none() && rest.starts_with('/') {
                    return Ok(Cow::Borrowed(&target[path.len() - rest.len()..]));
                }
                let root = if rest.is_empty() && prefix.is_empty() { "/" } else { "" };
                [prefix, root, rest].concat()
            }
            Path::New(template) => self.new_path(template, view)?,
        };
        match &self.query {
            None => new.push_str(query),
            Some(template) => {
                let before = new.len();
                new.push('?');
                template.render_with(view, &mut new, text::in_query);
                if new.len() == before + 1 {
                    new.truncate(before);
                }
            }
        }
        Ok(Cow::Owned(new))
    }

    /// The host to ask the upstream for, if it is another one.
    pub fn host(&self, view: &View) -> Result<Option<Cow<'_, str>>, Refused> {
        let Some(template) = &self.host else { return Ok(None) };
        if let Some(host) = template.constant() {
            return Ok(Some(Cow::Borrowed(host)));
        }
        let host = template.text(view);
        if path::host(&host).is_some() { Ok(Some(Cow::Owned(host))) } else { Err(Refused::Rewrite) }
    }

    fn new_path(&self, template: &Template, view: &View) -> Result<String, Refused> {
        let mut missing = false;
        let mut new = String::new();
        template.render_with(view, &mut new, |var, value, out| {
            // the rest of a path may be nothing; a header that is not there would let segments move up
            missing |= value.is_empty() && !matches!(var, Var::Capture(_));
            text::in_path(var, value, out);
        });
        if missing {
            return Err(Refused::Rewrite);
        }
        path::structured(new.as_bytes(), &self.policy).map(|c| c.into_target().into_owned())
    }
}

/// `path` behind `strip`, or all of it.
fn stripped<'p>(path: &'p str, strip: &str) -> &'p str {
    match path.strip_prefix(strip) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

/// A constant path that others follow: canonical, and without the slash at its end.
fn lead(text: &Option<Spanned<String>>, policy: &PathPolicy) -> Result<String, BuildError> {
    let Some(text) = text else { return Ok(String::new()) };
    let fault = |why: String| Err(BuildError::new(format!("\"{}\": {why}", text.get_ref())).at(text.span()));
    if text.get_ref().contains(['{', '}', '?']) {
        return fault("expected a plain path; `path` and `query` take values".into());
    }
    let policy = PathPolicy { non_ascii: path::NonAscii::Encode, ..policy.clone() };
    match path::canonical(text.get_ref().as_bytes(), &policy) {
        Ok(path) if text.get_ref().starts_with('/') => {
            Ok(path.path().strip_suffix('/').unwrap_or(path.path()).to_string())
        }
        Ok(_) => fault("expected a path that begins with /".into()),
        Err(why) => fault(why.to_string()),
    }
}

fn new_path(
    path: &Spanned<Template>,
    captures: &[SmolStr],
    whole: &Range<usize>,
    policy: &PathPolicy,
) -> Result<Template, BuildError> {
    let template = bind(path, captures, whole)?;
    let text = template.as_str();
    let fault = |why: &str| Err(BuildError::new(format!("\"{text}\": {why}")).at(place(path, whole)));
    let starts = text.starts_with('/') || (text.starts_with("{path}") && !captures.iter().any(|c| c == "path"));
    if !starts {
        return fault("expected a path that begins with /");
    }
    if text.contains(['?', '#']) {
        return fault("expected a path alone; `query` has a key of its own");
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return fault("a dot segment in the new path");
    }
    if let Some(constant) = template.constant()
        && let Err(why) = path::canonical(constant.as_bytes(), policy)
    {
        return fault(why.reason());
    }
    Ok(template)
}

/// The template for a route with these captures; a fault has its place in the string where that is known.
pub(crate) fn bind(
    template: &Spanned<Template>,
    captures: &[SmolStr],
    whole: &Range<usize>,
) -> Result<Template, BuildError> {
    template.get_ref().bind(captures).map_err(|bad| {
        let span = place(template, whole);
        let plain = span.len() == template.get_ref().as_str().len() + 2;
        let at = if plain { span.start + 1 + bad.at.start..span.start + 1 + bad.at.end } else { span };
        BuildError::new(bad.why).at(at)
    })
}

/// A piece of a one-line form has no place of its own.
fn place<T>(piece: &Spanned<T>, whole: &Range<usize>) -> Range<usize> {
    if piece.span().is_empty() { whole.clone() } else { piece.span() }
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
        rewrite: Spanned<One<Conf>>,
    }

    fn build(toml: &str, pattern: &Pattern) -> Result<Rewrite, BuildError> {
        let file: File = toml::from_str(&format!("rewrite = {toml}")).unwrap_or_else(|e| panic!("{toml}: {e}"));
        Rewrite::build(&file.rewrite, pattern.names(), &PathPolicy::default())
    }

    /// What the upstream of `[route]` with this `match` and `rewrite` is asked for.
    fn ask(pattern: &str, rewrite: &str, target: &str, header: &str) -> Result<String, Refused> {
        let pattern = Pattern::parse(pattern).unwrap();
        let rewrite = build(rewrite, &pattern).unwrap_or_else(|e| panic!("{rewrite}: {}", e.why));
        let mut head = RequestHead::build("GET", target.as_bytes(), None).unwrap();
        head.insert_header("x-h", header).unwrap();
        let spans = pattern.captures(head.uri.path()).expect("the pattern matches");
        let captures = Captures { names: pattern.names().clone(), spans };
        let cx = Cx { host: "example.com".into(), captures, ..Cx::default() };
        let view = View { head: &head, cx: &cx };
        let host = rewrite.host(&view)?.map(|h| format!("{h} ")).unwrap_or_default();
        rewrite.apply(target, &view).map(|t| host + &t)
    }

    #[test]
    fn rewrites() {
        for (pattern, rewrite, target, new) in [
            ("/**", "{ strip = '/v1' }", "/v1/users?a=b", "/users?a=b"),
            ("/**", "{ strip = '/v1/' }", "/v1/users/", "/users/"),
            ("/**", "{ strip = '/v1' }", "/v1?a", "/?a"),
            ("/**", "{ strip = '/v1' }", "/v1/", "/"),
            ("/**", "{ strip = '/v1' }", "/v10/users", "/v10/users"),
            ("/**", "{ prefix = '/app/' }", "/", "/app/"),
            ("/**", "{ prefix = '/app' }", "/x?y", "/app/x?y"),
            ("/**", "{ strip = '/v1', prefix = '/v2' }", "/v1/x", "/v2/x"),
            ("/**", "{ strip = '/v1', prefix = '/v2' }", "/v1", "/v2"),
            ("/**", "{ strip = '/café' }", "/caf%C3%A9/x", "/x"),
            ("/u/{id}", "'/internal/{id}'", "/u/a%20b;c?q=1", "/internal/a%20b;c?q=1"),
            ("/u/{id}", "'/internal?id={id}'", "/u/a&admin=1?q=1", "/internal?id=a%26admin%3D1"),
            ("/u/{id}", "{ path = '/x', query = '' }", "/u/7?q=1", "/x"),
            (
                "/u/{id}",
                "{ query = 'q={query.q}&id={id}&h={header.x-h}' }",
                "/u/7?q=a+b%26",
                "/u/7?q=a+b%26&id=7&h=x%20y%26z",
            ),
            ("/u/{**rest}", "'/new/{rest}'", "/u/a/b", "/new/a/b"),
            ("/u/{**rest}", "'/new/{rest}'", "/u", "/new/"),
            ("/u/{**rest}", "'/new/{rest}/end'", "/u", "/new/end"),
            ("/**", "'{path}/tail'", "/a/b", "/a/b/tail"),
            ("/**", "'/h/{header.x-h}'", "/a", "/h/x%20y%26z"),
            ("/**", "{ host = 'inner.example.com:81' }", "/a?b", "inner.example.com:81 /a?b"),
            ("/{t}/**", "{ host = '{t}.example.com' }", "/blue/x", "blue.example.com /blue/x"),
        ] {
            assert_eq!(ask(pattern, rewrite, target, "x y&z").as_deref(), Ok(new), "{rewrite} of {target}");
        }
    }

    #[test]
    fn a_value_cannot_change_the_structure() {
        for (rewrite, header) in [
            ("'/a/{header.x-h}/b'", ".."),
            ("'/a/.{header.x-h}/b'", "."),
            ("'/a/{header.x-h}/b'", "x/../y"),
            ("'/a/{header.x-h}/b'", "..;x"),
            ("'/a/{header.x-h}/b'", ""),
            ("'/a/{header.none}/b'", "x"),
            ("{ host = '{header.x-h}' }", "a b"),
            ("{ host = '{header.x-h}.com' }", "evil@x"),
        ] {
            assert!(ask("/**", rewrite, "/x", header).is_err(), "{rewrite} {header}");
        }
        assert!(ask("/{id}", "'/a/.{id}'", "/x", "").is_ok());
        assert!(ask("/{**id}", "'/a/.{id}'", "/", "").is_err(), "it would end in a dot segment");
        assert!(ask("/**", "'/a/{query.p}'", "/?p=%2e%2e", "").is_err());
        assert!(ask("/**", "'/a/{query.p}'", "/?p=x%2fy", "").is_err());
    }

    #[test]
    fn nothing_is_copied_when_a_prefix_is_cut_off() {
        let rewrite = build("{ strip = '/v1' }", &Pattern::parse("/**").unwrap()).unwrap();
        let (head, cx) = (RequestHead::build("GET", b"/", None).unwrap(), Cx::default());
        let view = View { head: &head, cx: &cx };
        assert!(matches!(rewrite.apply("/v1/a?b", &view), Ok(Cow::Borrowed("/a?b"))));
    }

    #[test]
    fn faults_have_places() {
        let pattern = Pattern::parse("/u/{id}").unwrap();
        for (rewrite, piece, why) in [
            ("'/x/{idd}'", "idd", "did you mean `id`"),
            ("{ path = '/x/{idd}' }", "idd", "did you mean `id`"),
            ("{ query = 'a={nme}' }", "nme", "captures id"),
            ("'x'", "'x'", "begins with /"),
            ("{ path = 'x' }", "'x'", "begins with /"),
            ("{ path = '/x?y' }", "'/x?y'", "a key of its own"),
            ("'/x/../y'", "'/x/../y'", "dot segment"),
            ("{ strip = 'v1' }", "'v1'", "not a path"),
            ("{ prefix = '/{id}' }", "'/{id}'", "plain path"),
            ("{ prefix = '/a', path = '/b' }", "'/a'", "`strip` or `prefix`"),
            ("{ host = 'a b' }", "'a b'", "not a host"),
            ("'/a%zz'", "'/a%zz'", "hexadecimal"),
        ] {
            let fault = build(rewrite, &pattern).expect_err(rewrite);
            let text = format!("rewrite = {rewrite}");
            assert!(fault.why.contains(why), "{rewrite}: {}", fault.why);
            assert_eq!(&text[fault.at.unwrap()], piece, "{rewrite}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever fills the template, what comes out is canonical and has as many segments as it should.
        #[test]
        fn the_result_is_canonical(id in "[a-z.%&=+;:@]{1,8}", header in "[ -~]{0,8}") {
            let sent = format!("/u/{id}");
            let Ok(path) = path::canonical(sent.as_bytes(), &PathPolicy::default()) else { return Ok(()) };
            let path = path.into_target();
            if Pattern::parse("/u/{id}").unwrap().captures(&path).is_none() || path.contains('?') {
                return Ok(());
            }
            if let Ok(new) = ask("/u/{id}", "'/n/.{id}/{header.x-h}?a={id}&b={header.x-h}'", &path, &header) {
                let again = path::canonical(new.as_bytes(), &PathPolicy::default()).unwrap();
                prop_assert_eq!(again.target(), &new);
                prop_assert_eq!(again.path().split('/').count(), 4);
                prop_assert_eq!(again.query().unwrap().matches(['&', '=']).count(), 3);
            }
        }
    }
}
