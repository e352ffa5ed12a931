//! Who may come in, by what they can prove: `auth = "idp"` asks for a token that `[jwt.idp]` verifies.
//!
//! `auth = { any = ["idp", "partners"] }` takes the first identity that is good, `{ all = […] }` asks for every one of
//! them. With `optional = true` a request without any credential passes as nobody; a wrong credential is refused all the
//! same. Refusals are 401 with the challenge that belongs to the source (RFC 6750). What is proven can be named
//! afterwards: `jwt.sub`, `key.id`.
//!
//! Credentials end here unless the source says `forward = true`. In `observe` they pass, since nothing was enforced; the
//! headers that a source makes of its claims are never taken from a client, in `observe` either.

mod cache;
pub mod credential;
mod jwk;
pub mod jwt;
pub mod keys;

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::RequestHead;
use crate::identity::Identity;
use crate::short::{Bad, One, Short};
use crate::units::Mode;
use bytes::Bytes;
use credential::Place;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue};
use jwt::{Jwt, Why};
use keys::Keys;
use serde_spanned::Spanned;
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a source gets at a file that its table names, no larger than so many bytes.
pub type Read<'a> = &'a dyn Fn(&Spanned<String>, u64) -> Result<Vec<u8>, BuildError>;

/// Which identities a request must have.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Auth"))]
pub struct Conf {
    /// One of these sources must know the request: names of `[jwt.NAME]` and `[keys.NAME]`, asked in this order.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub any: Vec<Spanned<String>>,
    /// Every one of these sources must.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub all: Vec<Spanned<String>>,
    /// A request without any credential passes as nobody. Default: no.
    pub optional: bool,
    /// `enforce` (the default), `observe` or `off`.
    pub mode: Mode,
}

impl Short for Conf {
    const LINE: &'static str = "the name of a source such as \"idp\", of `[jwt.idp]`";
    fn line(text: &str) -> Result<Conf, Bad> {
        let name = text.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Bad::new(0..text.len(), format!("\"{text}\": expected {}", Conf::LINE)));
        }
        // The line has one place: the key's.
        Ok(Conf { any: vec![Spanned::new(0..0, name.into())], ..Conf::default() })
    }
}

/// What proves identities, by the names of their tables.
#[derive(Default)]
pub struct Sources(BTreeMap<String, Option<Source>>);

/// A table that proves identities.
#[derive(Clone)]
pub enum Source {
    Jwt(Arc<Jwt>),
    Keys(Arc<Keys>),
}

/// What a source says of a request.
pub enum Verdict {
    Absent,
    Good(Arc<Identity>),
    Bad(Why),
}

impl Sources {
    /// `None`: there is such a table, but it is at fault, which is told where it stands.
    pub fn add(&mut self, name: &str, source: Option<Source>) {
        self.0.insert(name.into(), source);
    }

    fn find(&self, name: &Spanned<String>) -> Result<Option<&Source>, BuildError> {
        let text = name.get_ref();
        if let Some(found) = self.0.get(text) {
            return Ok(found.as_ref());
        }
        let near = self.0.keys().map(|known| (strsim::osa_distance(text, known), known)).min();
        let error = BuildError::new(format!("no source is named `{text}`, expected a [jwt.{text}] or [keys.{text}]"));
        let error = if name.span().is_empty() { error } else { error.at(name.span()) };
        Err(match near.filter(|(distance, _)| *distance <= 1 + text.len() / 4) {
            Some((_, known)) => error.hint(format!("did you mean `{known}`?")),
            None => error,
        })
    }
}

impl Source {
    fn judge(&self, head: &RequestHead, wall: u64) -> Verdict {
        match self {
            Source::Jwt(jwt) => jwt.judge(head, wall),
            Source::Keys(keys) => keys.judge(head, wall),
        }
    }
    /// Where its credential stands, if that ends here.
    fn ends(&self) -> Option<&Place> {
        match self {
            Source::Jwt(jwt) => (!jwt.forward).then_some(&jwt.from),
            Source::Keys(keys) => (!keys.forward).then_some(&keys.from),
        }
    }
    /// The headers that it tells the upstream.
    fn headers(&self) -> &[(HeaderName, Bytes)] {
        match self {
            Source::Jwt(jwt) => &jwt.headers,
            Source::Keys(_) => &[],
        }
    }
    /// RFC 6750, section 3, and its like for keys.
    fn challenge(&self, name: &str, told: Option<&str>) -> HeaderValue {
        let (scheme, error) = match self {
            Source::Jwt(_) => ("Bearer", "invalid_token"),
            Source::Keys(_) => ("ApiKey", "invalid_key"),
        };
        let error = told.map_or(String::new(), |t| format!(", error=\"{error}\", error_description=\"{t}\""));
        HeaderValue::try_from(format!("{scheme} realm=\"{name}\"{error}")).expect("a name and our own words")
    }
}

pub struct Auth {
    sources: Box<[(SmolStr, Source)]>,
    all: bool,
    optional: bool,
    mode: Mode,
    /// Of a request that has no credential.
    challenges: Arc<[HeaderValue]>,
}

/// A refusal: whose, why, and what the client is told.
struct Refusal {
    /// Index of the source; `None` if none was asked for anything.
    source: Option<usize>,
    why: Why,
}

type Proven = SmallVec<[(usize, Arc<Identity>); 1]>;

impl Filter for Auth {
    type Conf = One<Conf>;
    type Scratch = ();
    const EXAMPLE: &'static str = r#"auth = { any = ["idp", "partners"] }"#;

    fn build(conf: &One<Conf>, cx: &BuildCx) -> Result<Option<Self>, BuildError> {
        if conf.mode == Mode::Off {
            return Ok(None);
        }
        let names = match (&conf.any[..], &conf.all[..]) {
            ([], []) => {
                return Err(BuildError::new("no source, expected a name, or `any` or `all` with a list of names"));
            }
            (_, []) => &conf.any,
            ([], _) => &conf.all,
            _ => return Err(BuildError::new("`any` beside `all`, expected one of them")),
        };
        let mut sources: Vec<(SmolStr, Source)> = vec![];
        for name in names {
            let found = cx.sources.find(name)?;
            if sources.iter().any(|(known, _)| known == name.get_ref()) {
                return Err(BuildError::new(format!("`{}` stands twice", name.get_ref())).at(name.span()));
            }
            // One that is at fault is told elsewhere; nothing is served then.
            sources.extend(found.map(|source| (name.get_ref().into(), source.clone())));
        }
        let challenges = sources.iter().map(|(name, source)| source.challenge(name, None)).collect();
        let (all, optional, mode) = (!conf.all.is_empty(), conf.optional, conf.mode);
        Ok(Some(Auth { sources: sources.into(), all, optional, mode, challenges }))
    }

    fn request(&self, _: &mut (), head: &mut RequestHead, cx: &mut Cx) -> Step {
        let outcome = if self.all { self.all(head, cx.wall) } else { self.any(head, cx.wall) };
        for (name, _) in self.sources.iter().flat_map(|(_, source)| source.headers()) {
            head.remove_header(name);
        }
        let proven = match outcome {
            Ok(proven) => proven,
            Err(refusal) => {
                cx.challenges = Some(self.challenges.clone());
                return self.refuse(cx, refusal);
            }
        };
        if self.mode == Mode::Enforce {
            self.sources.iter().filter_map(|(_, source)| source.ends()).for_each(|place| place.strip(head));
        }
        for (source, identity) in &proven {
            for ((_, written), value) in self.sources[*source].1.headers().iter().zip(&identity.told) {
                if let Some(value) = value {
                    // Fails only when the map is full, at 32768 headers.
                    _ = head.insert_header(written.clone(), value.clone());
                }
            }
        }
        if proven.is_empty() {
            cx.challenges = Some(self.challenges.clone());
        }
        cx.identities = proven.into_iter().map(|(_, identity)| identity).collect();
        GO
    }
}

impl Auth {
    fn any(&self, head: &RequestHead, wall: u64) -> Result<Proven, Refusal> {
        let mut wrong = None;
        for (n, (_, source)) in self.sources.iter().enumerate() {
            match source.judge(head, wall) {
                Verdict::Good(identity) => return Ok(SmallVec::from_iter([(n, identity)])),
                Verdict::Bad(why) => _ = wrong.get_or_insert(Refusal { source: Some(n), why }),
                Verdict::Absent => {}
            }
        }
        match wrong {
            Some(refusal) => Err(refusal),
            None if self.optional => Ok(Proven::new()),
            None => Err(Refusal::missing(None)),
        }
    }

    fn all(&self, head: &RequestHead, wall: u64) -> Result<Proven, Refusal> {
        let (mut proven, mut missing) = (Proven::new(), None);
        for (n, (_, source)) in self.sources.iter().enumerate() {
            match source.judge(head, wall) {
                Verdict::Good(identity) => proven.push((n, identity)),
                Verdict::Bad(why) => return Err(Refusal { source: Some(n), why }),
                Verdict::Absent => _ = missing.get_or_insert(n),
            }
        }
        match missing {
            Some(_) if self.optional && proven.is_empty() => Ok(proven),
            Some(n) => Err(Refusal::missing(Some(n))),
            None => Ok(proven),
        }
    }

    #[cold]
    fn refuse(&self, cx: &mut Cx, refusal: Refusal) -> Step {
        let rule = match (refusal.source, &self.sources[..]) {
            (Some(n), _) => self.sources[n].0.to_string(),
            (None, [(name, _)]) => name.to_string(),
            (None, _) => "any".into(),
        };
        let told = refusal.why.told;
        cx.refuse(self.mode, rule, refusal.why.reason, || {
            let challenges = self.sources.iter().enumerate().map(|(n, (name, source))| {
                let wrong = refusal.source == Some(n) && told != MISSING;
                source.challenge(name, wrong.then_some(told))
            });
            challenges.fold(Reply::problem(401, told), |reply, value| reply.with(WWW_AUTHENTICATE, value))
        })
    }
}

/// RFC 6750, section 3.1: who sent no credential is told no error.
const MISSING: &str = "credentials are required";

impl Refusal {
    fn missing(source: Option<usize>) -> Refusal {
        Refusal { source, why: Why { reason: "no credential".into(), told: MISSING } }
    }
}

#[cfg(test)]
mod tests;
