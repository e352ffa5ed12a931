//! The keys that tokens are verified with, and which algorithms each of them allows.
//!
//! The algorithm comes from the key, never from the token (RFC 8725, section 3.1): a public RSA key never verifies an
//! HMAC, whatever the token says. Keys are judged when the file is read, since a weak one would only refuse later.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use smol_str::SmolStr;

use Algorithm::*;

const RSA: &[Algorithm] = &[RS256, RS384, RS512, PS256, PS384, PS512];
/// The most keys of one set.
const MAX_KEYS: usize = 256;

/// A key that verifies.
pub struct Key {
    /// Its name; without one it may be meant by every token.
    pub id: Option<SmolStr>,
    pub algorithms: Vec<Algorithm>,
    pub key: DecodingKey,
}

/// The bytes are the key. RFC 7518, section 3.2: no shorter than the hash.
pub fn secret(bytes: &[u8]) -> Result<Key, String> {
    let algorithms: Vec<_> = [(HS256, 32), (HS384, 48), (HS512, 64)]
        .iter()
        .filter(|(_, least)| bytes.len() >= *least)
        .map(|a| a.0)
        .collect();
    if algorithms.is_empty() {
        return Err(format!("a secret of {} bytes, expected at least 32 (RFC 7518, section 3.2)", bytes.len()));
    }
    Ok(Key { id: None, algorithms, key: DecodingKey::from_secret(bytes) })
}

/// A public key: `PUBLIC KEY` or `RSA PUBLIC KEY`.
pub fn pem(text: &str) -> Result<Key, String> {
    let mut tags = text.lines().filter_map(|l| l.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    let tag = tags.next().ok_or("no PEM block, expected `-----BEGIN PUBLIC KEY-----`")?;
    if tags.next().is_some() {
        return Err("several PEM blocks, expected one public key".into());
    }
    match tag {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        "CERTIFICATE" => {
            return Err("a certificate, expected a public key: `openssl x509 -pubkey -noout -in FILE` prints it".into());
        }
        _ if tag.contains("PRIVATE") => {
            return Err("a private key, expected the public one: who only verifies must not be able to sign".into());
        }
        _ => return Err(format!("a PEM block `{}`, expected `PUBLIC KEY`", &tag[..tag.len().min(40)])),
    }
    let bytes = text.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        let der = key.try_get_as_bytes().map_err(|e| e.to_string())?;
        let (n, _) = (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(der)
            .map_err(|_| "an RSA key that cannot be read")?;
        modulus(&n)?;
        return Ok(Key { id: None, algorithms: RSA.to_vec(), key });
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        let algorithm = curve(key.try_get_as_bytes().map_err(|e| e.to_string())?)?;
        return Ok(Key { id: None, algorithms: vec![algorithm], key });
    }
    let key = DecodingKey::from_ed_pem(bytes)
        .map_err(|_| "a key that cannot be read, expected RSA, EC P-256, EC P-384 or Ed25519")?;
    edwards(key.try_get_as_bytes().map_err(|e| e.to_string())?)?;
    Ok(Key { id: None, algorithms: vec![EdDSA], key })
}

/// A set of keys (RFC 7517, section 5). Those for other uses and of unknown types are passed over, as it demands.
pub fn set(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let json: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
    let list = json["keys"].as_array().ok_or("no `keys`, expected a JWK set: {\"keys\": [...]}")?;
    if list.len() > MAX_KEYS {
        return Err(format!("{} keys, the most are {MAX_KEYS}", list.len()));
    }
    let mut keys = vec![];
    for (i, jwk) in list.iter().enumerate() {
        keys.extend(one(jwk).map_err(|why| format!("keys[{i}]: {why}"))?);
    }
    if keys.is_empty() {
        return Err("no key in it can verify a token".into());
    }
    Ok(keys)
}

/// `None` if the key is for something else.
fn one(jwk: &Value) -> Result<Option<Key>, String> {
    let text = |name: &str| jwk[name].as_str();
    if text("use").is_some_and(|u| u != "sig") {
        return Ok(None);
    }
    if let Some(ops) = jwk["key_ops"].as_array()
        && !ops.iter().any(|op| op == "verify")
    {
        return Ok(None);
    }
    let made = match (text("kty"), text("crv")) {
        (Some("oct"), _) => secret(&number(jwk, "k")?)?,
        (Some("RSA" | "EC" | "OKP"), _) if !jwk["d"].is_null() => {
            return Err("a private key, expected the public one".into());
        }
        (Some("RSA"), _) => {
            let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
            modulus(&n)?;
            Key { id: None, algorithms: RSA.to_vec(), key: DecodingKey::from_rsa_raw_components(&n, &e) }
        }
        (Some("EC"), Some("P-256" | "P-384")) => {
            let point = [&[4][..], &number(jwk, "x")?, &number(jwk, "y")?].concat();
            Key { id: None, algorithms: vec![curve(&point)?], key: DecodingKey::from_ec_der(&point) }
        }
        (Some("OKP"), Some("Ed25519")) => {
            let x = number(jwk, "x")?;
            edwards(&x)?;
            Key { id: None, algorithms: vec![EdDSA], key: DecodingKey::from_ed_der(&x) }
        }
        (None, _) => return Err("no `kty`".into()),
        _ => return Ok(None),
    };
    let id = text("kid").map(SmolStr::new);
    let algorithms = match text("alg") {
        None => made.algorithms,
        Some(named) => made.algorithms.into_iter().filter(|a| named.parse() == Ok(*a)).collect(),
    };
    Ok((!algorithms.is_empty()).then_some(Key { id, algorithms, ..made }))
}

fn number(jwk: &Value, name: &str) -> Result<Vec<u8>, String> {
    let text = jwk[name].as_str().ok_or_else(|| format!("no `{name}`"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is not base64url"))
}

fn modulus(n: &[u8]) -> Result<(), String> {
    let n = &n[n.iter().position(|b| *b != 0).unwrap_or(n.len())..];
    let bits = n.first().map_or(0, |b| n.len() * 8 - b.leading_zeros() as usize);
    if (2048..=8192).contains(&bits) {
        return Ok(());
    }
    Err(format!("an RSA key of {bits} bits, expected 2048 to 8192"))
}

/// The algorithm of a point, which must lie on its curve.
fn curve(point: &[u8]) -> Result<Algorithm, String> {
    let (algorithm, by) = match point.len() {
        65 => (ES256, &ECDSA_P256_SHA256_FIXED),
        97 => (ES384, &ECDSA_P384_SHA384_FIXED),
        _ => return Err("an EC key of another curve, expected P-256 or P-384".into()),
    };
    ParsedPublicKey::new(by, point).map_err(|_| "an EC key that is no point of P-256 or P-384")?;
    Ok(algorithm)
}

fn edwards(bytes: &[u8]) -> Result<(), String> {
    ParsedPublicKey::new(&ED25519, bytes).map(drop).map_err(|_| "an Ed25519 key that is no point".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> String {
        std::fs::read_to_string(format!("{}/src/auth/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn a_key_says_its_algorithms() {
        for (file, algorithms) in [
            ("rsa.pub.pem", RSA),
            ("rsa.pkcs1.pem", RSA),
            ("p256.pub.pem", &[ES256]),
            ("p384.pub.pem", &[ES384]),
            ("ed25519.pub.pem", &[EdDSA]),
        ] {
            assert_eq!(pem(&data(file)).map(|k| k.algorithms).as_deref(), Ok(algorithms), "{file}");
        }
        assert_eq!(secret(&[7; 32]).map(|k| k.algorithms), Ok(vec![HS256]));
        assert_eq!(secret(&[7; 63]).map(|k| k.algorithms), Ok(vec![HS256, HS384]));
        assert_eq!(secret(&[7; 64]).map(|k| k.algorithms), Ok(vec![HS256, HS384, HS512]));
    }

    #[test]
    fn keys_that_are_refused() {
        let two = format!("{}{}", data("rsa.pub.pem"), data("p256.pub.pem"));
        for (text, why) in [
            (data("rsa1024.pub.pem").as_str(), "an RSA key of 1024 bits"),
            (data("secp256k1.pub.pem").as_str(), "no point of P-256"),
            (two.as_str(), "several PEM blocks"),
            ("", "no PEM block"),
            ("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----", "a private key"),
            ("-----BEGIN CERTIFICATE-----\nMC4=\n-----END CERTIFICATE-----", "openssl x509"),
            ("-----BEGIN PUBLIC KEY-----\nMC4=\n-----END PUBLIC KEY-----", "cannot be read"),
            ("-----BEGIN PUBLIC KEY-----\n%%\n-----END PUBLIC KEY-----", "cannot be read"),
            ("-----BEGIN DH PARAMETERS-----\nMC4=\n-----END DH PARAMETERS-----", "`DH PARAMETERS`"),
        ] {
            let found = pem(text).map(|k| k.algorithms).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        assert!(secret(&[7; 31]).is_err());
    }

    #[test]
    fn sets() {
        let keys = set(data("jwks.json").as_bytes()).unwrap();
        let said: Vec<_> = keys.iter().map(|k| (k.id.as_deref().unwrap_or(""), k.algorithms.len())).collect();
        assert_eq!(said, [("rsa-1", 1), ("rsa-any", 6), ("p256", 1), ("p384", 1), ("ed", 1)], "others are passed over");
    }

    #[test]
    fn sets_that_are_refused() {
        let many = format!("{{\"keys\":[{}]}}", vec!["{}"; 257].join(","));
        for (text, why) in [
            ("", "not JSON"),
            ("[]", "no `keys`"),
            (r#"{"keys":{}}"#, "no `keys`"),
            (r#"{"keys":[]}"#, "no key in it"),
            (r#"{"keys":[{"kty":"XYZ"},{"kty":"EC","crv":"P-521"}]}"#, "no key in it"),
            (r#"{"keys":[{"kty":"RSA","use":"enc"}]}"#, "no key in it"),
            (r#"{"keys":[{"kty":"RSA","key_ops":["sign"]}]}"#, "no key in it"),
            (r#"{"keys":[1]}"#, "keys[0]: no `kty`"),
            (r#"{"keys":[{"kty":"RSA","d":"AA"}]}"#, "keys[0]: a private key"),
            (r#"{"keys":[{"kty":"RSA"}]}"#, "keys[0]: no `n`"),
            (r#"{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}"#, "keys[0]: an RSA key of 1 bits"),
            (r#"{"keys":[{"kty":"RSA","n":"+/==","e":"AQAB"}]}"#, "`n` is not base64url"),
            (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}]}"#, "another curve"),
            (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AQ"}]}"#, "no point"),
            (r#"{"keys":[{"kty":"oct","k":"AQ"}]}"#, "a secret of 1 bytes"),
            (many.as_str(), "257 keys"),
        ] {
            let found = set(text.as_bytes()).map(|k| k.len()).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
