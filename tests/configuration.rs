//! Files that are wrong: all errors at once, each with its place, what was found, what was expected; exit 1; nothing half-started.

use crate::support::Dir;
use crate::support::certs::Authority;
use crate::support::gateway::run;
use std::net::TcpListener;

/// What `check` says of a file, and whether it is content.
fn check_in(dir: &Dir, config: &str) -> (bool, String) {
    let file = dir.write("portcullis.toml", config);
    let output = run(&["check", file.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {said}", output.status);
    (output.status.success(), said)
}

const APP: &str = "[route.app]\nmatch = \"/**\"\nto = \"127.0.0.1:3000\"\n";

#[test]
fn the_smallest_file_is_good() {
    assert!(check_in(&Dir::new(), APP).0);
}

#[test]
fn every_fault_is_told_with_its_place() {
    let mut wrong = Vec::new();
    // The file, and what must be said of it.
    for (config, parts) in [
        ("[route.app]\nmacth = \"/**\"\nto = \"127.0.0.1:1\"\n", &["2:1", "macth", "match"][..]),
        ("[rote.app]\nmatch = \"/**\"\n", &["1:", "rote", "route"]),
        ("[route.app]\nmatch = 7\nto = \"127.0.0.1:1\"\n", &["2:9", "7"]),
        (
            "[route.app]\nmatch = \"/**\"\nto = \"usres\"\n[service.users]\nto = [\"127.0.0.1:1\"]\n",
            &["3:6", "usres", "users"],
        ),
        ("[route.app]\nmatch = \"/**\"\n", &["1:1", "route.app", "to"]),
        ("[route.app]\nmatch = \"/**\"\nto = \"127.0.0.1:1\"\nreply = 204\n", &["route.app", "reply"]),
        (
            "[route.a]\nmatch = \"/x\"\nreply = 204\n[route.b]\nmatch = \"/x\"\nreply = 204\n",
            &["5:9", "route.b", "ties with route `a`"],
        ),
        ("[route.app]\nmatch = \"/**\"\nwhen = \"path matches '('\"\nreply = 204\n", &["3:", "("]),
        ("[route.app]\nmatch = \"/**\"\nwhen = \"ip in 'bogus'\"\nreply = 204\n", &["3:", "bogus"]),
        ("[route.app]\nmatch = \"/**\"\nwhen = \"heder.x\"\nreply = 204\n", &["3:9", "heder", "header"]),
        ("[route.app]\nmatch = \"/{id\"\nreply = 204\n", &["2:", "{id"]),
        ("[route.app]\nmatch = \"/**\"\nreply = 99\n", &["3:9", "99"]),
        ("[route.app]\nmatch = \"/**\"\npolicy = \"egde\"\nreply = 204\n[policy.edge]\n", &["3:10", "egde", "edge"]),
        ("[policy.edge]\nsize = { body = \"10 MB\" }\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["2:", "10 MB"]),
        ("[policy.edge]\nip = { alow = [] }\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["2:8", "alow", "allow"]),
        ("[service.a]\nto = [\"127.0.0.1\"]\n[route.app]\nmatch = \"/**\"\nto = \"a\"\n", &["2:", "127.0.0.1", "port"]),
        ("[service.a]\nto = [\"127.0.0.1:1 x0\"]\n[route.app]\nmatch = \"/**\"\nto = \"a\"\n", &["2:", "x0"]),
        (
            "[service.a]\nto = [\"127.0.0.1:1\"]\nbreaker = \"lots\"\n[route.app]\nmatch = \"/**\"\nto = \"a\"\n",
            &["3:", "lots"],
        ),
        ("[service.a]\nto = [\"127.0.0.1:1\"]\ntls = true\n[route.app]\nmatch = \"/**\"\nto = \"a\"\n", &["2:", "sni"]),
        ("[listen.http]\naddr = \"8080\"\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["2:", "8080"]),
        (
            "[listen.https]\naddr = \"127.0.0.1:0\"\ntls = { cert = \"/no/cert.pem\", key = \"/no/key.pem\" }\n[route.app]\nmatch = \"/**\"\nreply = 204\n",
            &["3:", "/no/cert.pem"],
        ),
        ("[admin]\ntoken = \"literal-secret\"\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["2:9", "${env:"]),
        (
            "[admin]\ntoken = \"${env:PORTCULLIS_TEST_UNSET}\"\n[route.app]\nmatch = \"/**\"\nreply = 204\n",
            &["2:9", "PORTCULLIS_TEST_UNSET"],
        ),
        (
            "[admin]\ntoken = \"${file:/no/secret}\"\n[route.app]\nmatch = \"/**\"\nreply = 204\n",
            &["2:9", "/no/secret"],
        ),
        ("version = 2\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["1:11", "2"]),
        ("include = [\"/no/such/*.toml\"]\n[route.app\n", &["2:"]),
        ("[route.app]\nmatch = \"/**\"\nmatch = \"/x\"\nreply = 204\n", &["3:", "match"]),
        ("[server]\nthreads = 0\n[route.app]\nmatch = \"/**\"\nreply = 204\n", &["2:11", "0"]),
    ] {
        let (good, said) = check_in(&Dir::new(), config);
        let silent: Vec<_> = parts.iter().filter(|part| !said.contains(**part)).collect();
        if good || !silent.is_empty() {
            wrong.push(format!("{silent:?} not said, good: {good}, of\n{config}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
}

#[test]
fn all_faults_are_told_at_once() {
    let config = "[server]\ndrain = \"30 seconds\"\n[service.a]\nto = [\"x:0\"]\n[route.a]\nmatch = \"nonsense\"\nto = \"b\"\n\
                  [route.b]\nmatch = \"/b\"\nreplay = 204\n[listen.http]\naddr = \"x\"\n";
    let (good, said) = check_in(&Dir::new(), config);
    assert!(!good);
    for place in ["2:", "4:", "7:6", "10:1", "12:"] {
        assert!(said.contains(&format!("portcullis.toml:{place}")), "no fault at {place}:\n{said}");
    }
}

#[test]
fn certificates_that_cannot_serve_are_refused() {
    let dir = Dir::new();
    let ca = Authority::new(&dir, "ca");
    let (one, two) = (ca.sign(&dir, &["a.test"]), ca.sign(&dir, &["b.test"]));
    let expired = ca.sign_with(&dir, &["a.test"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let text = dir.write("text.pem", "no certificate");
    let check = |cert: &std::path::Path, key: &std::path::Path| {
        let tls = format!("tls = {{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display());
        check_in(
            &dir,
            &format!("[listen.https]\naddr = \"127.0.0.1:0\"\n{tls}\n[route.a]\nmatch = \"/**\"\nreply = 204\n"),
        )
    };
    assert!(check(&one.cert, &one.key).0, "a good pair");
    for (cert, key, about) in
        [(&one.cert, &two.key, "key"), (&expired.cert, &expired.key, "expired"), (&text, &one.key, "text.pem")]
    {
        let (good, said) = check(cert, key);
        assert!(!good && said.contains(about) && said.contains("3:"), "{about:?} is not said:\n{said}");
    }
}

#[test]
fn run_refuses_what_check_refuses_and_starts_nothing() {
    let dir = Dir::new();
    let file = dir.write("portcullis.toml", "[route.app]\nmacth = \"/**\"\n");
    let output = run(&["run", "-c", file.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2:1"), "{output:?}");
}

#[test]
fn a_port_in_use_is_named_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let dir = Dir::new();
    let admin = dir.path().join("admin.sock");
    let config = format!("[listen.web]\naddr = \"{addr}\"\n[admin]\naddr = \"unix:{}\"\n{APP}", admin.display());
    let file = dir.write("portcullis.toml", config);
    let output = run(&["run", "-c", file.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("web") && said.contains(&addr), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    for command in [&["check", "/no/such.toml"][..], &["run", "-c", "/no/such.toml"]] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such.toml"), "{output:?}");
    }
}

#[test]
fn a_name_in_two_files_is_a_fault_that_names_both() {
    let dir = Dir::new();
    dir.write("conf.d/one.toml", "[route.app]\nmatch = \"/one\"\nreply = 204\n");
    dir.write("conf.d/two.toml", "[route.app]\nmatch = \"/two\"\nreply = 204\n");
    let (good, said) = check_in(&dir, "include = [\"conf.d/*.toml\"]\n");
    assert!(!good && said.contains("one.toml") && said.contains("two.toml"), "{said}");
}

#[test]
fn secrets_may_be_lacking_where_they_are_not_needed() {
    let dir = Dir::new();
    let file = dir.write("portcullis.toml", format!("[admin]\ntoken = \"${{env:PORTCULLIS_TEST_UNSET}}\"\n{APP}"));
    assert_eq!(run(&["check", file.to_str().expect("text")]).status.code(), Some(1));
    assert_eq!(run(&["check", "--without-secrets", file.to_str().expect("text")]).status.code(), Some(0));
}

#[test]
fn explain_says_where_a_setting_comes_from_and_where_a_request_goes() {
    let dir = Dir::new();
    let file = dir.write(
        "portcullis.toml",
        "[policy.edge]\nsize = { body = \"1MB\" }\n[route.users]\nmatch = \"GET a.test/users/{id}\"\nto = \"127.0.0.1:3000\"\npolicy = \"edge\"\n\
         [route.rest]\nmatch = \"/**\"\nreply = 404\n",
    );
    let file = file.to_str().expect("text");
    let said = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let settings = said(&["explain", file, "users"]);
    assert!(settings.contains("1MB") && settings.contains(":2"), "{settings}");
    let chosen = said(&["explain", file, "--request", "GET http://a.test/users/7"]);
    assert!(chosen.contains("users") && chosen.contains("127.0.0.1:3000"), "{chosen}");
}

#[test]
fn the_other_commands_answer() {
    for (args, part) in [
        (&["--version"][..], env!("CARGO_PKG_VERSION")),
        (&["schema"], "\"additionalProperties\": false"),
        (&["completions", "bash"], "portcullis"),
        (&["man"], ".TH"),
        (&["--help"], "explain"),
    ] {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{args:?} says nothing of {part:?}");
    }
    let schema = run(&["schema"]).stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).expect("the schema is JSON");
    assert!(schema["properties"]["route"].is_object());
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
}
