//! `[jwt.NAME]`: signed tokens (RFC 7519) as an identity.
//!
//! Everything that RFC 8725 warns of is refused: algorithms that the key does not allow, `none`, encrypted tokens,
//! tokens that bring their own key or address of keys, `crit`, names that stand twice, and more than 16 KiB.
//! A token that was verified once is remembered until it expires; a change of the table forgets them all.

use super::cache::{Cache, Verified};
use super::credential::{Found, Place};
use super::jwk::{self, Key};
use super::{Read, Verdict};
use crate::edit::Name;
use crate::filter::BuildError;
use crate::head::RequestHead;
use crate::identity::{Fact, Facts, Identity, Kind};
use crate::keep::Keep;
use crate::units::{Secret, Span};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use serde::de::{self, SeqAccess, Visitor};
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write};
use std::sync::Arc;

/// Signed tokens: which key signs them, for whom they are, where they stand.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "jwt"))]
pub struct Conf {
    /// The key of HS256, HS384 and HS512, by reference: at least 32, 48 and 64 bytes.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// A public key: the path of a PEM file, or the PEM text itself.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub key: Option<Spanned<String>>,
    /// The path of a JWK set.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub jwks: Option<Spanned<String>>,
    /// The only algorithm, such as `"ES256"`. Default: all that the key allows.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub algorithm: Option<Spanned<String>>,
    /// The `iss` that tokens must have. Default: any.
    #[serde(default)]
    pub issuer: Option<String>,
    /// One of these must be in `aud`; `"*"` is any. Default: only tokens without `aud` (RFC 7519, section 4.1.3).
    #[serde(default)]
    pub audience: Option<Texts>,
    /// How far clocks may differ. Default: `"30s"`.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// The claims that must be there. Default: `["exp"]`; without it a stolen token is good for ever.
    #[serde(default = "require")]
    pub require: Vec<String>,
    /// Where the token stands: `"header"` (the default, `Authorization: Bearer`), `"header.NAME"`, `"cookie.NAME"`,
    /// `"query.NAME"`.
    #[serde(default = "bearer")]
    pub from: Place,
    /// Hand the token on to the upstream. Default: no, so that who runs the upstream cannot use it elsewhere.
    #[serde(default)]
    pub forward: bool,
    /// Headers for the upstream from claims: `{ X-User = "sub" }`. What a client sends under these names never passes.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, String>"))]
    pub claims: BTreeMap<Name, String>,
    /// The path of a list of tokens that are good no more: a `jti:ID` or a `sub:NAME` on each line.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub revoked: Option<Spanned<String>>,
}

fn leeway() -> Span {
    Span::secs(30)
}
fn require() -> Vec<String> {
    vec!["exp".into()]
}
fn bearer() -> Place {
    Place::Bearer
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl<'de> serde::Deserialize<'de> for Texts {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Texts, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut all = vec![];
                while let Some(text) = seq.next_element()? {
                    all.push(text);
                }
                Ok(Texts(all))
            }
        }
        d.deserialize_any(V)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let text = schemars::json_schema!({ "type": "string" });
        schemars::json_schema!({ "anyOf": [text.clone(), { "type": "array", "items": text }] })
    }
}

/// The longest token.
const MAX_TOKEN: usize = 16 << 10;
/// The longest name of a key.
const MAX_KID: usize = 256;
/// So many keys are tried for a token that names none.
const MAX_TRIES: usize = 4;
/// The largest files.
const MAX_PEM: u64 = 64 << 10;
const MAX_JWKS: u64 = 1 << 20;
const MAX_REVOKED: u64 = 64 << 20;
/// After the year 9999 nothing is valid.
const LATEST: f64 = 253_402_300_800.0;

/// A source of identities, ready to verify.
pub struct Jwt {
    name: SmolStr,
    keys: Vec<Key>,
    issuer: Option<String>,
    audience: Option<Vec<String>>,
    /// Milliseconds.
    leeway: u64,
    require: Vec<String>,
    pub(super) from: Place,
    pub(super) forward: bool,
    pub(super) headers: Box<[(HeaderName, Bytes)]>,
    claims: Box<[String]>,
    revoked: HashSet<SmolStr, ahash::RandomState>,
    cache: Arc<Cache>,
}

/// Why a token is refused: for the log, and what the client is told.
#[derive(Debug, PartialEq)]
pub struct Why {
    pub reason: Cow<'static, str>,
    pub told: &'static str,
}

fn why(reason: impl Into<Cow<'static, str>>) -> Why {
    Why { reason: reason.into(), told: "the token is not valid" }
}

impl Jwt {
    /// Reads what the table names; every fault is told.
    pub fn build(name: &str, conf: &Conf, read: Read, keep: &Keep) -> Result<Jwt, Vec<BuildError>> {
        let mut faults = vec![];
        let mut files = vec![];
        let mut keys = keys(conf, read, &mut files).unwrap_or_else(|fault| {
            faults.push(fault);
            vec![]
        });
        if let Some(named) = &conf.algorithm
            && faults.is_empty()
        {
            faults.extend(narrow(&mut keys, named).err());
        }
        let revoked = revoked(conf, read, &mut files, &mut faults);
        let headers = conf.claims.keys().map(|name| (name.header(), Bytes::from(name.written().to_owned()))).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Jwt {
            name: name.into(),
            keys,
            issuer: conf.issuer.clone(),
            audience: conf.audience.as_ref().map(|a| a.0.clone()),
            leeway: conf.leeway.0.as_millis() as u64,
            require: conf.require.clone(),
            from: conf.from.clone(),
            forward: conf.forward,
            headers,
            claims: conf.claims.values().cloned().collect(),
            revoked,
            cache: keep.get(&fingerprint(name, conf, &files), Cache::default),
        })
    }

    pub(super) fn judge(&self, head: &RequestHead, wall: u64) -> Verdict {
        let token = match self.from.find(head) {
            Found::Nothing => return Verdict::Absent,
            Found::Unclear(reason) => return Verdict::Bad(why(reason)),
            Found::One(token) => token,
        };
        if let Some(identity) = self.cache.get(&token, wall) {
            return Verdict::Good(identity);
        }
        match self.verify(&token, wall) {
            Ok(verified) => {
                let identity = verified.identity.clone();
                self.cache.put(&token, verified);
                Verdict::Good(identity)
            }
            Err(why) => Verdict::Bad(why),
        }
    }

    /// From the token's text to its claims, or why not.
    pub fn verify(&self, token: &str, wall: u64) -> Result<Verified, Why> {
        let parts = split(token)?;
        let (algorithm, kid) = header(parts.header)?;
        self.signature(&parts, algorithm, kid.as_deref())?;
        let claims = table(parts.claims).map_err(|_| why("its claims are no JSON object, or a name stands twice"))?;
        self.claims(claims, wall)
    }

    /// RFC 7515, section 5.2, with a key that was named beforehand.
    fn signature(&self, parts: &Parts, algorithm: Algorithm, kid: Option<&str>) -> Result<(), Why> {
        let meant = |key: &&Key| match (kid, &key.id) {
            (Some(kid), Some(id)) => kid == id,
            _ => true,
        };
        let mut tried = 0;
        for key in self.keys.iter().filter(meant).filter(|k| k.algorithms.contains(&algorithm)).take(MAX_TRIES) {
            tried += 1;
            if jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), &key.key, algorithm) == Ok(true) {
                return Ok(());
            }
        }
        Err(why(match tried {
            0 if kid.is_some() && !self.keys.iter().any(|k| meant(&k)) => "no key has its kid",
            0 => "no key allows its algorithm",
            _ => "its signature is not good",
        }))
    }

    /// RFC 7519, sections 4.1 and 7.2.
    fn claims(&self, facts: Facts, wall: u64) -> Result<Verified, Why> {
        for name in &self.require {
            if matches!(facts.get(name), None | Some(Fact::Nothing)) {
                return Err(why(format!("it lacks the claim {name}")));
            }
        }
        let (exp, nbf, _) = (date(&facts, "exp")?, date(&facts, "nbf")?, date(&facts, "iat")?);
        let until = exp.map_or(u64::MAX, |t| t.saturating_add(self.leeway));
        let from = nbf.map_or(0, |t| t.saturating_sub(self.leeway));
        if wall >= until {
            return Err(Why { reason: "it has expired".into(), told: "the token has expired" });
        }
        if wall < from {
            return Err(Why { reason: "it is not valid yet".into(), told: "the token is not valid yet" });
        }
        let issuer = string(&facts, "iss")?;
        if self.issuer.is_some() && issuer != self.issuer.as_deref() {
            return Err(why("it is of another issuer"));
        }
        self.audience(&facts)?;
        for name in ["jti", "sub"] {
            if let Some(value) = string(&facts, name)?
                && !self.revoked.is_empty()
                && self.revoked.contains(format!("{name}:{value}").as_str())
            {
                return Err(Why { reason: format!("its {name} is revoked").into(), told: "the token is revoked" });
            }
        }
        let told = |claim: &String| HeaderValue::try_from(facts.at(claim)?.text()?.as_ref()).ok();
        let told = self.claims.iter().map(|claim| told(claim).filter(|v| !v.is_empty())).collect();
        let identity = Identity { source: self.name.clone(), kind: Kind::Jwt, facts, told };
        Ok(Verified { identity: Arc::new(identity), from, until })
    }

    /// RFC 7519, section 4.1.3: who is not among the audience must refuse.
    fn audience(&self, facts: &Facts) -> Result<(), Why> {
        let ours = |aud: &SmolStr| self.audience.iter().flatten().any(|a| a == "*" || a == aud);
        match (facts.get("aud"), &self.audience) {
            (None | Some(Fact::Nothing), None) => Ok(()),
            (None | Some(Fact::Nothing), Some(named)) if named.iter().any(|a| a == "*") => Ok(()),
            (None | Some(Fact::Nothing), Some(_)) => Err(why("it lacks the claim aud")),
            (Some(Fact::Text(aud)), Some(_)) if ours(aud) => Ok(()),
            (Some(Fact::List(all)), Some(_)) if all.iter().any(ours) => Ok(()),
            (Some(_), None) => Err(why("it is for an audience, and the configuration names none")),
            (Some(_), Some(_)) => Err(why("it is for another audience")),
        }
    }
}

/// A token, taken apart.
struct Parts<'t> {
    header: &'t str,
    claims: &'t str,
    signature: &'t str,
    /// What the signature is over.
    signed: &'t str,
}

/// RFC 7515, section 7.1.
fn split(token: &str) -> Result<Parts<'_>, Why> {
    if token.len() > MAX_TOKEN {
        return Err(why(format!("{} bytes, the most are {MAX_TOKEN}", token.len())));
    }
    let mut parts = token.split('.');
    let (header, claims, signature) = match (parts.next(), parts.next(), parts.next(), parts.count()) {
        (Some(header), Some(claims), Some(signature), 0) => (header, claims, signature),
        (_, _, _, 2) => return Err(why("it is encrypted, expected a signed one")),
        _ => return Err(why("it is no signed token: expected three parts")),
    };
    if header.is_empty() || claims.is_empty() || signature.is_empty() {
        return Err(why("a part of it is empty"));
    }
    Ok(Parts { header, claims, signature, signed: &token[..header.len() + 1 + claims.len()] })
}

/// The algorithm and the name of the key.
fn header(part: &str) -> Result<(Algorithm, Option<SmolStr>), Why> {
    let header = table(part).map_err(|_| why("its header is no JSON object, or a name stands twice"))?;
    // A token that says where its key is would be its own judge (RFC 8725, section 3.10).
    if ["jwk", "jku", "x5u", "x5c"].iter().any(|name| header.get(name).is_some()) {
        return Err(why("it brings its own key"));
    }
    if header.get("crit").is_some() || header.get("b64").is_some() {
        return Err(why("it demands an extension"));
    }
    if header.get("enc").is_some() || header.get("zip").is_some() {
        return Err(why("it is encrypted, expected a signed one"));
    }
    // Tokens for other purposes say so (RFC 8725, section 3.11); those for access are "JWT" or "at+jwt" (RFC 9068).
    match header.get("typ") {
        None => {}
        Some(Fact::Text(typ))
            if ["jwt", "at+jwt", "application/at+jwt"].iter().any(|t| typ.eq_ignore_ascii_case(t)) => {}
        Some(_) => return Err(why("its typ is not JWT or at+jwt")),
    }
    let algorithm = match header.get("alg") {
        Some(Fact::Text(name)) => name.parse().map_err(|_| why("its algorithm is not known"))?,
        _ => return Err(why("it names no algorithm")),
    };
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Fact::Text(kid)) if kid.len() <= MAX_KID => Ok((algorithm, Some(kid.clone()))),
        Some(_) => Err(why("its kid is no short text")),
    }
}

fn table(part: &str) -> Result<Facts, ()> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(drop)?;
    serde_json::from_slice(&bytes).map_err(drop)
}

/// A NumericDate (RFC 7519, section 2) in milliseconds.
fn date(facts: &Facts, name: &str) -> Result<Option<u64>, Why> {
    match facts.get(name) {
        None => Ok(None),
        Some(Fact::Number(t)) if (0.0..LATEST).contains(t) => Ok(Some((t * 1000.0) as u64)),
        Some(_) => Err(why(format!("its {name} is no date"))),
    }
}

fn string<'f>(facts: &'f Facts, name: &str) -> Result<Option<&'f str>, Why> {
    match facts.get(name) {
        None | Some(Fact::Nothing) => Ok(None),
        Some(Fact::Text(text)) => Ok(Some(text)),
        Some(_) => Err(why(format!("its {name} is no text"))),
    }
}

fn keys(conf: &Conf, read: Read, files: &mut Vec<Vec<u8>>) -> Result<Vec<Key>, BuildError> {
    let at = |field: &Spanned<String>, why: String| BuildError::new(why).at(field.span());
    match (&conf.secret, &conf.key, &conf.jwks) {
        (Some(secret), None, None) => jwk::secret(secret.reveal().as_bytes()).map(|k| vec![k]).map_err(BuildError::new),
        (None, Some(key), None) => {
            let inline = key.get_ref().trim_start().starts_with("-----BEGIN");
            let bytes = if inline { key.get_ref().clone().into_bytes() } else { read(key, MAX_PEM)? };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            files.push(bytes);
            jwk::pem(&text).map(|k| vec![k]).map_err(|why| at(key, why))
        }
        (None, None, Some(jwks)) if jwks.get_ref().contains("://") => {
            Err(at(jwks, "an address, expected the path of a file that holds a JWK set".into()))
        }
        (None, None, Some(jwks)) => {
            files.push(read(jwks, MAX_JWKS)?);
            jwk::set(&files[files.len() - 1]).map_err(|why| at(jwks, why))
        }
        (None, None, None) => Err(BuildError::new("no key, expected one of `secret`, `key` and `jwks`")),
        _ => Err(BuildError::new("several keys, expected one of `secret`, `key` and `jwks`")),
    }
}

/// Only this algorithm is left to the keys.
fn narrow(keys: &mut Vec<Key>, named: &Spanned<String>) -> Result<(), BuildError> {
    let known = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA";
    let only: Algorithm = named.get_ref().parse().map_err(|_| {
        BuildError::new(format!("algorithm \"{}\": expected {known}", named.get_ref())).at(named.span())
    })?;
    keys.retain_mut(|key| {
        key.algorithms.retain(|a| *a == only);
        !key.algorithms.is_empty()
    });
    if keys.is_empty() {
        return Err(BuildError::new(format!("no key allows {}", named.get_ref())).at(named.span()));
    }
    Ok(())
}

fn revoked(
    conf: &Conf,
    read: Read,
    files: &mut Vec<Vec<u8>>,
    faults: &mut Vec<BuildError>,
) -> HashSet<SmolStr, ahash::RandomState> {
    let mut all = HashSet::default();
    let Some(file) = &conf.revoked else { return all };
    let bytes = match read(file, MAX_REVOKED) {
        Ok(bytes) => bytes,
        Err(fault) => {
            faults.push(fault);
            return all;
        }
    };
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line.trim_ascii());
        match line.split_once(':') {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some(("jti" | "sub", value)) if !value.is_empty() => _ = all.insert(line.as_ref().into()),
            _ => {
                let what = format!("line {}: expected jti:ID or sub:NAME", n + 1);
                faults.push(BuildError::new(what).at(file.span()));
                return all;
            }
        }
    }
    files.push(bytes);
    all
}

/// Everything that a verified token was verified against.
fn fingerprint(name: &str, conf: &Conf, files: &[Vec<u8>]) -> String {
    let mut hash = Context::new(&SHA256);
    let secret = conf.secret.as_ref().map_or(&[][..], |s| s.reveal().as_bytes());
    let algorithm = conf.algorithm.as_ref().map(Spanned::get_ref);
    let text = format!("{:?}", (algorithm, &conf.issuer, &conf.audience, conf.leeway, &conf.require, &conf.claims));
    for part in [text.as_bytes(), secret].into_iter().chain(files.iter().map(Vec::as_slice)) {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().iter().fold(format!("{name} "), |mut all, b| {
        let _ = write!(all, "{b:02x}");
        all
    })
}

#[cfg(test)]
mod tests;
