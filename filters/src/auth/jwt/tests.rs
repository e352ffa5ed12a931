//! Tokens of another implementation (PyJWT; `data/tokens.txt`, good until 2100), and everything that RFC 7515, 7519 and
//! 8725 want refused.

use super::*;
use crate::testing::SECRET;
use aws_lc_rs::hmac;
use proptest::prelude::*;

/// 2024-01-01T00:00:00Z.
const NOW: u64 = 1_704_067_200_000;
const CLAIMS: &str = r#"{"iss":"https://idp.example.com/","aud":"api","sub":"alice","exp":4102444800}"#;

fn data(name: &str) -> String {
    std::fs::read_to_string(format!("{}/src/auth/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn token(name: &str) -> String {
    let all = data("tokens.txt");
    let found = all.lines().find_map(|l| l.split_once(' ').filter(|(n, _)| *n == name));
    found.unwrap_or_else(|| panic!("no token {name}")).1.into()
}

fn conf(text: &str) -> Conf {
    let text = text.replace("SECRET", &format!("\"{SECRET}\""));
    let common = "issuer = \"https://idp.example.com/\"\naudience = [\"web\", \"api\"]\n";
    let common = if text.contains("audience") || text.contains("issuer") { "" } else { common };
    toml::from_str(&format!("{common}{text}")).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Files are those of `data`, or the text behind `=`.
fn read(file: &Spanned<String>, _: u64) -> Result<Vec<u8>, BuildError> {
    match file.get_ref().strip_prefix('=') {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Ok(data(file.get_ref()).into_bytes()),
    }
}

fn jwt(text: &str) -> Jwt {
    Jwt::build("idp", &conf(text), &read, &Keep::default()).unwrap_or_else(|why| panic!("{text}: {why:?}"))
}

fn faults(text: &str) -> String {
    match Jwt::build("idp", &conf(text), &read, &Keep::default()) {
        Ok(_) => panic!("nothing is wrong with {text}"),
        Err(all) => all.into_iter().map(|f| f.why).collect::<Vec<_>>().join("; "),
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// HS256 by the secret.
fn signed(header: &str, claims: &str) -> String {
    raw(&encoded(header), &encoded(claims))
}

fn raw(header: &str, claims: &str) -> String {
    let text = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{text}.{}", encoded(hmac::sign(&key, text.as_bytes())))
}

fn hs(claims: &str) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

fn verify(jwt: &Jwt, token: &str) -> Result<String, String> {
    let verified = jwt.verify(token, NOW).map_err(|why| why.reason.into_owned())?;
    Ok(verified.identity.facts.get("sub").and_then(Fact::text).unwrap_or_default().into_owned())
}

#[test]
fn tokens_of_another_implementation() {
    for (conf, tokens) in [
        ("secret = SECRET", &["HS256", "HS384", "HS512"][..]),
        ("key = 'rsa.pub.pem'", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "RS256-nokid", "RS256-kid"]),
        ("key = 'rsa.pkcs1.pem'", &["RS256", "PS512"]),
        ("key = 'p256.pub.pem'", &["ES256"]),
        ("key = 'p384.pub.pem'", &["ES384"]),
        ("key = 'ed25519.pub.pem'", &["EdDSA"]),
        ("jwks = 'jwks.json'", &["RS256", "PS512", "ES256", "ES384", "EdDSA", "RS256-kid", "RS256-nokid"]),
        ("key = 'rsa.pub.pem'\nalgorithm = 'PS256'", &["PS256"]),
    ] {
        let jwt = jwt(conf);
        for name in tokens {
            assert_eq!(verify(&jwt, &token(name)).as_deref(), Ok("alice"), "{conf}: {name}");
        }
    }
    let inline = jwt(&format!("key = '''{}'''", data("p256.pub.pem")));
    assert_eq!(verify(&inline, &token("ES256")).as_deref(), Ok("alice"));
}

#[test]
fn the_key_decides_and_not_the_token() {
    for (conf, tokens) in [
        ("secret = SECRET", &["RS256", "ES256", "EdDSA", "confusion"][..]),
        ("key = 'rsa.pub.pem'", &["HS256", "confusion", "ES256", "EdDSA", "RS256-evil", "RS256-jwk"]),
        ("key = 'rsa.pub.pem'\nalgorithm = 'RS256'", &["RS384", "PS256", "confusion"]),
        ("key = 'p256.pub.pem'", &["ES384", "ES256K", "ES512", "HS256", "RS256"]),
        ("key = 'ed25519.pub.pem'", &["ES256", "HS256"]),
        // PS256 by a key that is for RS256; a key for encryption; keys of unknown curves; kids that do not fit
        ("jwks = 'jwks.json'", &["PS256-kid-rs", "RS256-enc", "ES256K", "ES512", "HS256", "confusion", "RS256-evil"]),
    ] {
        let jwt = jwt(conf);
        for name in tokens {
            assert!(verify(&jwt, &token(name)).is_err(), "{conf}: {name}");
        }
    }
}

/// Headers over good claims, signed with the right key.
#[test]
fn headers_that_are_refused() {
    let long = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(257));
    let jwt = jwt("secret = SECRET");
    for (header, why) in [
        (r#"{"alg":"none"}"#, "algorithm is not known"),
        (r#"{"alg":"None"}"#, "algorithm is not known"),
        (r#"{"alg":"NONE"}"#, "algorithm is not known"),
        (r#"{"alg":"nOnE"}"#, "algorithm is not known"),
        (r#"{"alg":""}"#, "algorithm is not known"),
        (r#"{"alg":"hs256"}"#, "algorithm is not known"),
        (r#"{"alg":"HS256 "}"#, "algorithm is not known"),
        (r#"{"alg":"HS1"}"#, "algorithm is not known"),
        (r#"{"alg":null}"#, "names no algorithm"),
        (r#"{"alg":1}"#, "names no algorithm"),
        (r#"{"alg":["HS256"]}"#, "names no algorithm"),
        (r#"{"typ":"JWT"}"#, "names no algorithm"),
        (r#"{"ALG":"HS256"}"#, "names no algorithm"),
        (r#"{"alg":"RS256"}"#, "no key allows"),
        (r#"{"alg":"HS256","alg":"none"}"#, "twice"),
        (r#"{"alg":"none","alg":"HS256"}"#, "twice"),
        (r#"{"alg":"HS256","\u0061lg":"none"}"#, "twice"),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#, "its own key"),
        (r#"{"alg":"HS256","jku":"https://evil.example/keys"}"#, "its own key"),
        (r#"{"alg":"HS256","x5u":"https://evil.example/cert"}"#, "its own key"),
        (r#"{"alg":"HS256","x5c":["AA"]}"#, "its own key"),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "demands an extension"),
        (r#"{"alg":"HS256","crit":[]}"#, "demands an extension"),
        (r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, "demands an extension"),
        (r#"{"alg":"HS256","b64":false}"#, "demands an extension"),
        (r#"{"alg":"dir","enc":"A256GCM"}"#, "is encrypted"),
        (r#"{"alg":"HS256","zip":"DEF"}"#, "is encrypted"),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, "typ"),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, "typ"),
        (r#"{"alg":"HS256","typ":""}"#, "typ"),
        (r#"{"alg":"HS256","typ":1}"#, "typ"),
        (r#"{"alg":"HS256","kid":1}"#, "kid is no short text"),
        (r#"{"alg":"HS256","kid":null}"#, "kid is no short text"),
        (r#"{"alg":"HS256","kid":["a"]}"#, "kid is no short text"),
        (long.as_str(), "kid is no short text"),
        ("", "a part of it is empty"),
        ("[]", "no JSON object"),
        ("\"HS256\"", "no JSON object"),
        (r#"{"alg":"HS256"}}"#, "no JSON object"),
        (r#"{"alg":"HS256"} {}"#, "no JSON object"),
        (r#"{"alg":"HS256""#, "no JSON object"),
        ("{\"alg\":\"HS256\",\"x\":\"\u{0}\"}", "no JSON object"),
    ] {
        let found = verify(&jwt, &signed(header, CLAIMS)).unwrap_err();
        assert!(found.contains(why), "{header}: {found}");
    }
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+JWT"}"#,
        r#"{"alg":"HS256","kid":"any; a secret has no name"}"#,
        r#"{"alg":"HS256","x5t":"AA","cty":"JWT"}"#,
    ] {
        assert_eq!(verify(&jwt, &signed(header, CLAIMS)).as_deref(), Ok("alice"), "{header}");
    }
}

/// A kid is compared and nothing else: it opens no file and asks no database.
#[test]
fn kids_that_are_refused() {
    let jwt = jwt("jwks = 'jwks.json'");
    for kid in
        ["../../../../dev/null", "rsa-1' OR '1'='1", "rsa-1\\u0000", "RSA-1", "", "https://evil.example/k", "|id"]
    {
        let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
        assert_eq!(verify(&jwt, &signed(&header, CLAIMS)), Err("no key has its kid".into()), "{kid}");
    }
}

/// Claims, signed with the right key.
#[test]
fn claims_that_are_refused() {
    let jwt = jwt("secret = SECRET");
    let with = |more: &str| format!("{},{more}}}", CLAIMS.strip_suffix('}').unwrap());
    let without = |name: &str| {
        let all = CLAIMS.trim_matches(['{', '}']).split(',').filter(|c| !c.starts_with(&format!("\"{name}\"")));
        format!("{{{}}}", all.collect::<Vec<_>>().join(","))
    };
    let instead =
        |name: &str, value: &str| format!("{},\"{name}\":{value}}}", without(name).strip_suffix('}').unwrap());
    for (claims, why) in [
        (without("exp"), "lacks the claim exp"),
        (instead("exp", "null"), "lacks the claim exp"),
        (instead("exp", "\"4102444800\""), "exp is no date"),
        (instead("exp", "true"), "exp is no date"),
        (instead("exp", "[4102444800]"), "exp is no date"),
        (instead("exp", "-1"), "exp is no date"),
        (instead("exp", "1e300"), "lacks the claim exp"),
        (instead("exp", "9007199254740993"), "exp is no date"),
        (instead("exp", "99999999999999999999999"), "lacks the claim exp"),
        (instead("exp", "1e999"), "no JSON object"),
        (instead("exp", "NaN"), "no JSON object"),
        (instead("exp", "0"), "expired"),
        (instead("exp", "1704067170"), "expired"),
        (instead("exp", "1.7e9"), "expired"),
        (with("\"nbf\":1704067231"), "not valid yet"),
        (with("\"nbf\":\"0\""), "nbf is no date"),
        (with("\"nbf\":null"), "nbf is no date"),
        (with("\"iat\":\"now\""), "iat is no date"),
        (with("\"exp\":4102444800"), "twice"),
        (with("\"sub\":\"admin\""), "twice"),
        (with("\"x\":{\"a\":1,\"a\":2}"), "twice"),
        (without("iss"), "another issuer"),
        (instead("iss", "\"https://idp.example.com\""), "another issuer"),
        (instead("iss", "\"https://IDP.example.com/\""), "another issuer"),
        (instead("iss", "\"https://idp.example.com/\\u0000\""), "another issuer"),
        (instead("iss", "[\"https://idp.example.com/\"]"), "iss is no text"),
        (instead("iss", "null"), "another issuer"),
        (without("aud"), "lacks the claim aud"),
        (instead("aud", "\"ap\""), "another audience"),
        (instead("aud", "\"API\""), "another audience"),
        (instead("aud", "\"api \""), "another audience"),
        (instead("aud", "\"*\""), "another audience"),
        (instead("aud", "[]"), "another audience"),
        (instead("aud", "[\"x\",\"y\"]"), "another audience"),
        (instead("aud", "{\"api\":true}"), "another audience"),
        (instead("aud", "1"), "another audience"),
        (instead("sub", "7"), "sub is no text"),
        (with("\"jti\":7"), "jti is no text"),
        ("[]".into(), "no JSON object"),
        ("\"alice\"".into(), "no JSON object"),
        ("null".into(), "no JSON object"),
        ("{".into(), "no JSON object"),
        (format!("{CLAIMS}{CLAIMS}"), "no JSON object"),
        (with(&format!("\"x\":{}", "[".repeat(200))), "no JSON object"),
    ] {
        let found = verify(&jwt, &hs(&claims)).unwrap_err();
        assert!(found.contains(why), "{claims}: {found}");
    }
    for claims in [
        instead("aud", "[\"x\",\"api\"]"),
        instead("exp", "1704067171"),
        instead("exp", "1704067200.5"),
        with("\"nbf\":1704067230"),
        with("\"iat\":4102444800"),
    ] {
        assert_eq!(verify(&jwt, &hs(&claims)).as_deref(), Ok("alice"), "{claims}");
    }
}

/// The text of a token, changed.
#[test]
fn tokens_that_are_refused() {
    let good = hs(CLAIMS);
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let jwt = jwt("secret = SECRET");
    assert_eq!(verify(&jwt, &good).as_deref(), Ok("alice"));
    let none = encoded(r#"{"alg":"none"}"#);
    let other = encoded(CLAIMS.replace("alice", "admin"));
    let mut flipped = signature.to_owned();
    let first = if flipped.starts_with('A') { "B" } else { "A" };
    flipped.replace_range(0..1, first);
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        "a.b.c.d.e".into(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!(".{claims}.{signature}"),
        format!("{header}..{signature}"),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{other}.{signature}"),
        format!("{header}.{claims}.{flipped}"),
        format!("{header}.{claims}.{}", &signature[..signature.len() - 1]),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.{signature}A"),
        format!("{header}.{claims}.{}", encoded([0; 32])),
        format!("{header}.{claims}.{signature}."),
        format!("{good}.x.y"),
        format!("{good}.{signature}"),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}\n"),
        format!(" {good}"),
        good.replace('.', ". "),
        good.to_ascii_uppercase(),
        raw(&format!("{header}=="), claims),
        raw(header, &format!("{claims}=")),
        raw(header, &claims.replace(['A', 'e'], "+")),
        raw(header, "%7B%7D"),
        raw("é", claims),
        hs(&format!("{{\"x\":\"{}\"}}", "x".repeat(16 << 10))),
        "x".repeat(1 << 20),
    ] {
        assert!(verify(&jwt, &token).is_err(), "{}", &token[..token.len().min(200)]);
    }
}

/// CVE-2022-21449: a signature of zeros, and numbers at the edge of the group.
#[test]
fn signatures_of_nothing() {
    let (es, ed) = (jwt("key = 'p256.pub.pem'"), jwt("key = 'ed25519.pub.pem'"));
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let n: Vec<u8> = (0..64).step_by(2).map(|i| u8::from_str_radix(&order[i..i + 2], 16).unwrap()).collect();
    let zero = [0; 32];
    for (jwt, name) in [(&es, "ES256"), (&ed, "EdDSA")] {
        let good = token(name);
        let signed = good.rsplit_once('.').unwrap().0;
        let der = [&[0x30, 6, 2, 1, 1, 2, 1, 1][..]].concat();
        for signature in
            [[zero, zero].concat(), [&n[..], &n].concat(), [&n[..], &zero].concat(), [&zero[..], &n].concat(), der]
        {
            assert!(verify(jwt, &format!("{signed}.{}", encoded(signature))).is_err(), "{name}");
        }
    }
}

#[test]
fn revoked_tokens() {
    let jwt = jwt("secret = SECRET\nrevoked = \"=# stolen\\njti:t-1\\n\\nsub:bob\\n\"");
    assert_eq!(verify(&jwt, &token("HS256")), Err("its jti is revoked".into()));
    assert_eq!(verify(&jwt, &token("bob")), Err("its sub is revoked".into()));
    assert_eq!(verify(&jwt, &hs(CLAIMS)).as_deref(), Ok("alice"));
}

#[test]
fn audiences() {
    let without = CLAIMS.replace(r#""aud":"api","#, "");
    let (none, any) =
        (jwt("secret = SECRET\nissuer = 'https://idp.example.com/'"), jwt("secret = SECRET\naudience = '*'"));
    assert!(verify(&none, &hs(CLAIMS)).unwrap_err().contains("names none"));
    assert_eq!(verify(&none, &hs(&without)).as_deref(), Ok("alice"));
    assert_eq!(verify(&any, &hs(CLAIMS)).as_deref(), Ok("alice"));
    assert_eq!(verify(&any, &hs(&without)).as_deref(), Ok("alice"));
    let forever = jwt("secret = SECRET\naudience = 'api'\nrequire = []");
    assert_eq!(verify(&forever, &hs(r#"{"aud":"api","sub":"x"}"#)).as_deref(), Ok("x"));
}

#[test]
fn files_that_are_refused() {
    for (text, why) in [
        ("", "no key, expected one of"),
        ("secret = SECRET\nkey = 'rsa.pub.pem'", "several keys"),
        ("key = 'rsa1024.pub.pem'", "1024 bits"),
        ("jwks = '={}'", "no `keys`"),
        ("jwks = 'https://idp.example.com/jwks.json'", "an address, expected the path of a file"),
        ("secret = SECRET\nalgorithm = 'HS265'", "algorithm \"HS265\": expected HS256"),
        ("secret = SECRET\nalgorithm = 'none'", "algorithm \"none\""),
        ("secret = SECRET\nalgorithm = 'RS256'", "no key allows RS256"),
        ("secret = SECRET\nrevoked = '=t-1'", "line 1: expected jti:ID or sub:NAME"),
        ("secret = 'short'", "a secret of 5 bytes, expected at least 32"),
    ] {
        assert!(faults(text).contains(why), "{text}: {}", faults(text));
    }
}

#[test]
fn a_changed_table_forgets_what_was_verified() {
    let keep = Keep::default();
    let build = |text: &str| Jwt::build("idp", &conf(text), &read, &keep).unwrap_or_else(|why| panic!("{why:?}"));
    let judged = |jwt: &Jwt| {
        let mut head = RequestHead::build("GET", b"/", None).unwrap();
        head.append_header("authorization", format!("Bearer {}", token("HS256"))).unwrap();
        matches!(jwt.judge(&head, NOW), Verdict::Good(_))
    };
    let first = build("secret = SECRET");
    assert!(judged(&first) && judged(&first));
    assert!(Arc::ptr_eq(&first.cache, &build("secret = SECRET").cache), "the same table, the same memory");
    for changed in [
        "secret = SECRET\nrevoked = '=jti:t-1'",
        "secret = SECRET\nissuer = 'https://other.example/'",
        "secret = SECRET\naudience = 'other'",
        "secret = SECRET\nrequire = ['tenant']",
        "secret = 'another secret of at least thirty-two bytes'",
        "key = 'rsa.pub.pem'",
    ] {
        assert!(!judged(&build(changed)), "{changed}");
    }
}

#[test]
fn a_remembered_token_still_expires() {
    let jwt = jwt("secret = SECRET");
    let token = hs(&CLAIMS.replace("4102444800", "1704067260"));
    let mut head = RequestHead::build("GET", b"/", None).unwrap();
    head.append_header("authorization", format!("Bearer {token}")).unwrap();
    for (wall, good) in [(NOW, true), (NOW + 89_999, true), (NOW + 90_000, false), (NOW, true)] {
        assert_eq!(matches!(jwt.judge(&head, wall), Verdict::Good(_)), good, "{wall}");
    }
}

proptest! {
    #[test]
    fn any_text_is_judged(text in any::<String>(), parts in "[A-Za-z0-9_=.-]{0,80}") {
        let jwt = jwt("secret = SECRET");
        prop_assert!(jwt.verify(&text, NOW).is_err());
        prop_assert!(jwt.verify(&parts, NOW).is_err());
    }
    #[test]
    fn any_json_is_judged(header in "\\{[\"a-z0-9:,\\[\\]{}HS]{0,40}\\}", claims in any::<String>()) {
        let jwt = jwt("secret = SECRET");
        prop_assert!(jwt.verify(&signed(&header, &claims), NOW).is_err());
    }
    /// No single byte of a token can be another one.
    #[test]
    fn every_byte_counts(at in 0_usize..300, byte in "[A-Za-z0-9_.-]") {
        let good = token("ES256");
        let at = at % good.len();
        let mut other = good.clone();
        other.replace_range(at..=at, &byte);
        let jwt = jwt("key = 'p256.pub.pem'");
        prop_assert_eq!(jwt.verify(&other, NOW).is_ok(), other == good);
    }
}
