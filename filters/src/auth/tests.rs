//! The step through the pipeline: who passes, what is answered, what the upstream sees.

use super::*;
use crate::testing::{check, faults};

fn token(name: &str) -> String {
    let all = include_str!("data/tokens.txt");
    all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).expect("a token").into()
}

/// The transcript with `TOKEN` and `BOB` filled in: alice's and bob's tokens.
fn told(conf: &str, transcript: &str) {
    check::<Auth>(conf, &transcript.replace("TOKEN", &token("HS256")).replace("BOB", &token("bob")));
}

#[test]
fn a_token() {
    told(
        r#"auth = "idp""#,
        r#"
        > GET http://h/
        > Authorization: Bearer TOKEN
        > X-User: admin
        > X-Roles: root
        >> -Authorization
        >> X-User: alice
        >> X-Roles: admin,user

        > GET http://h/
        < 401
        < WWW-Authenticate: Bearer realm="idp"
        < "credentials are required"
        ! auth.idp enforce: no credential

        > GET http://h/
        > Authorization: Bearer TOKENx
        < 401
        < WWW-Authenticate: Bearer realm="idp", error="invalid_token", error_description="the token is not valid"
        ! auth.idp enforce: its signature is not good

        > GET http://h/
        > Authorization: Bearer TOKEN
        > Authorization: Bearer TOKEN
        < 401
        ! auth.idp enforce: more than one Authorization header

        > GET http://h/
        > Authorization: Basic YTpi
        < 401
        < WWW-Authenticate: Bearer realm="idp"
        ! auth.idp enforce: no credential

        # 77 years on
        +28000d
        > GET http://h/
        > Authorization: Bearer TOKEN
        < 401
        < WWW-Authenticate: Bearer realm="idp", error="invalid_token", error_description="the token has expired"
        < "the token has expired"
        ! auth.idp enforce: it has expired
        "#,
    );
}

#[test]
fn a_key() {
    told(
        r#"
        auth = "partners"
        request.set = { X-Client = "{key.id}", X-Plan = "{key.plan}", X-None = "{key.none}" }
        "#,
        r#"
        > GET http://h/
        > X-API-Key: gold-key
        > X-None: forged
        >> -X-API-Key
        >> X-Client: acme
        >> X-Plan: gold
        >> -X-None

        > GET http://h/
        > X-API-Key: old-key
        < 401
        < WWW-Authenticate: ApiKey realm="partners", error="invalid_key", error_description="the key has expired"
        ! auth.partners enforce: the key has expired

        > GET http://h/
        > X-API-Key: none
        < 401
        < "the key is not valid"
        ! auth.partners enforce: no such key
        "#,
    );
}

#[test]
fn any_of_them() {
    told(
        r#"auth = { any = ["idp", "partners"] }"#,
        r#"
        > GET http://h/
        > Authorization: Bearer TOKEN
        > X-API-Key: none
        >> X-User: alice
        >> -Authorization
        >> -X-API-Key

        > GET http://h/
        > Authorization: Bearer wrong
        > X-API-Key: gold-key
        > X-User: admin
        >> -X-User
        >> -Authorization

        > GET http://h/
        < 401
        < WWW-Authenticate: Bearer realm="idp", ApiKey realm="partners"
        ! auth.any enforce: no credential

        > GET http://h/
        > X-API-Key: none
        < 401
        < WWW-Authenticate: Bearer realm="idp", ApiKey realm="partners", error="invalid_key", error_description="the key is not valid"
        ! auth.partners enforce: no such key
        "#,
    );
}

#[test]
fn all_of_them() {
    told(
        r#"
        auth = { all = ["idp", "partners"], optional = true }
        request.set = { X-Who = "{jwt.sub}+{key.id}" }
        "#,
        r#"
        > GET http://h/
        > Authorization: Bearer TOKEN
        > X-API-Key: gold-key
        >> X-Who: alice+acme

        > GET http://h/
        >> X-Who: +

        > GET http://h/
        > X-API-Key: gold-key
        < 401
        < WWW-Authenticate: Bearer realm="idp", ApiKey realm="partners"
        ! auth.idp enforce: no credential

        > GET http://h/
        > Authorization: Bearer TOKEN
        > X-API-Key: none
        < 401
        ! auth.partners enforce: no such key
        "#,
    );
}

#[test]
fn optional_is_not_careless() {
    told(
        r#"auth = { any = ["idp"], optional = true }"#,
        r#"
        > GET http://h/
        > X-User: admin
        >> -X-User

        > GET http://h/
        > Authorization: Bearer wrong
        < 401
        ! auth.idp enforce: it is no signed token
        "#,
    );
}

#[test]
fn observed() {
    told(
        r#"
        auth = { any = ["idp"], mode = "observe" }
        allow = [{ if = "jwt.scope has 'orders:read'", mode = "observe" }]
        "#,
        r#"
        > GET http://h/
        > Authorization: Bearer wrong
        > X-User: admin
        >> Authorization: Bearer wrong
        >> -X-User
        < 200
        ! auth.idp observe: it is no signed token
        ! allow.jwt.scope has 'orders:read' observe: nobody is authenticated

        > GET http://h/
        > Authorization: Bearer TOKEN
        >> X-User: alice
        "#,
    );
}

#[test]
fn allow_knows_who_it_is() {
    told(
        r#"
        auth = { any = ["idp", "partners"], optional = true }
        allow = ["jwt.scope has 'orders:read' or key.plan == 'gold'", "path.id == jwt.sub or jwt.realm_access.roles has 'admin' or key.id"]
        "#,
        r#"
        > GET http://h/users/bob {id}=bob
        > Authorization: Bearer TOKEN
        >>

        > GET http://h/users/bob {id}=bob
        > Authorization: Bearer BOB
        < 403
        < -WWW-Authenticate
        ! allow.jwt.scope has 'orders:read' or key.plan == 'gold' enforce: it does not hold

        > GET http://h/users/bob {id}=bob
        > X-API-Key: gold-key
        >>

        > GET http://h/users/bob {id}=bob
        < 401
        < WWW-Authenticate: Bearer realm="idp", ApiKey realm="partners"
        ! allow.jwt.scope has 'orders:read' or key.plan == 'gold' enforce: it does not hold: nobody is authenticated
        "#,
    );
}

#[test]
fn claims_of_every_kind() {
    let conf = |allow: &str| format!("auth = 'idp'\nallow = [\"{allow}\"]");
    for holds in [
        "jwt.level == 7",
        "jwt.level > 6",
        "jwt.level in ['6', 7]",
        "jwt.email_verified",
        "jwt.email_verified == 'true'",
        "jwt.groups has 'b'",
        "jwt.scope has 'orders:write'",
        "jwt.realm_access.roles has 'user'",
        "jwt.aud == 'api'",
        "not jwt.none",
        "not jwt.realm_access",
        "not key.id",
    ] {
        told(&conf(holds), "> GET http://h/\n> Authorization: Bearer TOKEN\n>>");
    }
    for fails in ["jwt.level == 8", "jwt.groups has 'a,b'", "jwt.groups == 'a'", "jwt.scope has 'orders'", "jwt.SUB"] {
        let transcript =
            "> GET http://h/\n> Authorization: Bearer TOKEN\n< 403\n! allow.RULE enforce: it does not hold";
        told(&conf(fails), &transcript.replace("RULE", fails));
    }
}

#[test]
fn wrong() {
    for (conf, why) in [
        ("auth = 'idq'", "no source is named `idq`, expected a [jwt.idq] or [keys.idq] (did you mean `idp`?)"),
        ("auth = { any = ['nobody'] }", "no source is named `nobody`"),
        ("auth = {}", "no source, expected a name"),
        ("auth = { any = [] }", "no source, expected a name"),
        ("auth = { any = ['idp'], all = ['partners'] }", "`any` beside `all`"),
        ("auth = { any = ['idp', 'idp'] }", "`idp` stands twice"),
        ("auth = ['idp', 'partners']", "expected the name of a source such as"),
        ("auth = 'idp partners'", "expected the name of a source"),
        ("auth = { any = ['idp'], optionl = true }", "unknown field `optionl`"),
    ] {
        assert!(faults(conf).contains(why), "{conf}: {}", faults(conf));
    }
}

#[test]
fn off_is_off() {
    assert_eq!(crate::testing::pipeline("auth = { mode = 'off' }", &[]).unwrap().steps().count(), 0);
}
