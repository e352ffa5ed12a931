use super::*;
use crate::cx::{Captures, Cert, Tls};
use crate::head::RequestHead;
use http::HeaderValue;
use proptest::prelude::*;
use smallvec::smallvec;
use std::sync::Arc;

/// Monday 2024-01-01, 13:30 UTC.
const WALL: u64 = 1_704_115_800_000;

fn request() -> (RequestHead, Cx) {
    let mut head = RequestHead::build("GET", b"/users/a%20b?v=2&r=%61dmin&empty=", None).unwrap();
    for (name, value) in [
        ("x-beta", "1"),
        ("x-age", "9"),
        ("x-empty", ""),
        ("x-scope", "orders:read users:read"),
        ("x-many", "a"),
        ("x-many", "b"),
        ("cookie", "session=abc; theme=dark"),
    ] {
        head.append_header(name, value).unwrap();
    }
    head.append_header("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap()).unwrap();
    let mut cx = Cx::new(0, WALL, "::ffff:10.1.2.3".parse().unwrap());
    cx.host = "api.example.com".into();
    cx.route = "users".into();
    cx.captures = Captures { names: Arc::from(["id".into()]), spans: smallvec![(7, 12)] };
    let cert =
        Cert { cn: "alice".into(), san: vec!["a.example".into(), "b.example".into()], fingerprint: "00ff".into() };
    cx.tls = Some(Arc::new(Tls { sni: None, version: "TLSv1.3", cipher: "", cert: Some(cert) }));
    (head, cx)
}

fn holds(text: &str) -> bool {
    let (head, cx) = request();
    let expr: Expr = text.parse().unwrap_or_else(|bad| panic!("{text}: {bad:?}"));
    expr.test(&View { head: &head, cx: &cx })
}

#[test]
fn true_of_the_request() {
    for text in [
        "method == 'GET'",
        "path == '/users/a%20b'",
        "path.id == 'a b'",
        "host ends '.example.com' and host starts \"api.\" and host contains 'example'",
        "scheme == 'http'",
        "ip == '10.1.2.3'",
        "ip == '::ffff:10.1.2.3'",
        "ip != '10.1.2.4'",
        "ip in '10.0.0.0/8'",
        "ip in ['192.168.0.0/16', '10.1.2.3']",
        "ip starts '10.'",
        "query.v in ['2','3']",
        "query.v in [1, 2,]",
        "query.v > 1.5",
        "query.r == 'admin'",
        "query.empty == ''",
        "header.x-beta == '1' and query.v in ['2','3']",
        "header.X-Beta",
        "header.x-beta == 1",
        "1 == header.x-beta",
        "header.x-age < '10'",
        "header.x-bytes",
        "header.x-many == 'a, b'",
        "header.x-many has 'b'",
        "header.x-scope has 'orders:read'",
        "not header.x-scope has 'orders'",
        "cookie.theme == 'dark'",
        "cookie.session matches '^[a-c]+$'",
        "route == 'users'",
        "tls.version >= 'TLSv1.2'",
        "cert.cn == 'alice'",
        "cert.san has 'b.example'",
        "cert.fingerprint == '00ff'",
        "time.hour >= 9 and time.hour < 17",
        "time.hour == 13",
        "time.weekday in ['mon', 'tue']",
        "time.unix > 1700000000",
        "header.none != 'x'",
        "not header.none == 'x'",
        "not (header.none or cookie.none) and (header.x-beta or header.none)",
        "header.none and header.none or header.x-beta",
        "not header.none and header.x-beta",
    ] {
        assert!(holds(text), "{text}");
    }
}

#[test]
fn false_of_the_request() {
    for text in [
        "header.none",
        "header.x-empty",
        "query.empty",
        "header.none == ''",
        "header.none == header.none",
        "header.none < 1",
        "header.none >= ''",
        "header.none in ['']",
        "header.none matches ''",
        "header.none contains ''",
        "tls.sni",
        "header.x-beta == '01'",
        "header.x-beta != '1'",
        "header.x-scope > 1",
        "cookie.Theme",
        "ip in '::/0'",
        "cert.san == 'a.example'",
        "cert.san has ''",
        "header.x-many has ''",
        "header.x-beta and header.none",
    ] {
        assert!(!holds(text), "{text}");
    }
}

#[test]
fn faults_have_their_place() {
    let deep = "(".repeat(40);
    let long = "header.x or ".repeat(400);
    for (text, at, why) in [
        ("", 0..0, "the expression ends here, expected a variable"),
        ("header.x ==", 11..11, "expected a value"),
        ("header.x = '1'", 9..10, "found `=`, expected `==`"),
        ("header.x && path", 9..11, "expected `and`"),
        ("!header.x", 0..1, "expected `not`"),
        ("headr.x", 0..7, "did you mean `header.x`?"),
        ("hots == 'a'", 0..4, "did you mean `host`?"),
        ("header == 'a'", 0..6, "needs a name"),
        ("token.sub == 'a'", 0..9, "unknown variable `token.sub`"),
        ("header.x == 'a", 12..14, "text without its closing '"),
        ("header.x == 10.0.0.1", 12..20, "text stands in quotes: '10.0.0.1'"),
        ("ip in 'bogus'", 7..12, "an address block such as"),
        ("ip in ['10.0.0.0/8', '10.0.0.0/99']", 22..33, "an address block such as"),
        ("ip in 5", 6..7, "expected an address block in quotes"),
        ("ip == '10.0.0.0/8'", 7..17, "a block is asked for with `in`"),
        ("ip == 5", 6..7, "`ip` is text"),
        ("query.v in '2'", 11..14, "expected a list such as"),
        ("query.v in []", 12..13, "expected text in quotes or a number"),
        ("query.v in ['a' 'b']", 16..19, "expected `,` or `]`"),
        ("query.v in ['a', host]", 17..21, "expected text in quotes or a number"),
        ("path matches '(a'", 14..16, "regular expression: unclosed group"),
        ("path matches 5", 13..14, "expected a regular expression in quotes"),
        ("path matches '(\\w{99}){99}'", 14..26, "regular expression: "),
        ("'a' == 'a'", 0..10, "compares two constants"),
        ("'a'", 0..3, "a constant alone"),
        ("host == 'a' == 'b'", 12..14, "expected `and`, `or` or the end"),
        ("(host == 'a'", 12..12, "expected `)`"),
        ("host == 'a')", 11..12, "expected `and`, `or` or the end"),
        ("time.weekday == 'monday'", 17..23, "`time.weekday` is never `monday`, only one of mon"),
        ("time.hour > '9'", 12..15, "`time.hour` is a number"),
        ("host == 'ä' ä", 13..15, "found `ä`"),
        (&deep, 32..33, "nested deeper than 32 levels"),
        (&long, 0..4800, "the most is 4096"),
    ] {
        let bad = text.parse::<Expr>().expect_err(text);
        assert!(bad.at == at && bad.why.contains(why), "{text}: {bad:?}");
    }
}

#[test]
fn values() {
    let (head, cx) = request();
    let view = View { head: &head, cx: &cx };
    let value = |text: &str| text.parse::<Expr>().unwrap().value(&view);
    assert_eq!(value("cert.cn"), Value::Text("alice".into()));
    assert_eq!(value("path.id"), Value::Text("a b".into()));
    assert_eq!(value("header.none"), Value::Missing);
    assert_eq!(value("time.hour"), Value::Number(13.0));
    assert_eq!(value("not header.none"), Value::Bool(true));
    assert!(matches!(value("cert.san"), Value::List(l) if l.len() == 2));
}

/// The text of a tree, fully bracketed, by a road of its own.
fn print(node: &Node) -> String {
    let list = |parts: &[Node], word| parts.iter().map(|p| format!("({})", print(p))).collect::<Vec<_>>().join(word);
    let operand = |o: &Operand| match o {
        Operand::Var(v) => v.to_string(),
        Operand::Text(t) if t.contains('\'') => format!("\"{t}\""),
        Operand::Text(t) => format!("'{t}'"),
        Operand::Number(n) => n.to_string(),
    };
    let two = |a, word, b| format!("{} {word} {}", operand(a), operand(b));
    match node {
        Node::All(parts) => list(parts, " and "),
        Node::Any(parts) => list(parts, " or "),
        Node::Not(part) => format!("not ({})", print(part)),
        Node::Test(test) => match &**test {
            Test::Present(v) => v.to_string(),
            Test::Compare(a, order, b) => {
                let sign = match order {
                    Order::Equal => "==",
                    Order::Unequal => "!=",
                    Order::Less => "<",
                    Order::LessOrEqual => "<=",
                    Order::Greater => ">",
                    Order::GreaterOrEqual => ">=",
                };
                two(a, sign, b)
            }
            Test::In(a, all) => {
                format!("{} in [{}]", operand(a), all.iter().map(operand).collect::<Vec<_>>().join(", "))
            }
            Test::Within(_, blocks) => {
                format!("ip in [{}]", blocks.iter().map(|b| format!("'{b}'")).collect::<Vec<_>>().join(", "))
            }
            Test::Has(a, b) => two(a, "has", b),
            Test::Contains(a, b) => two(a, "contains", b),
            Test::Starts(a, b) => two(a, "starts", b),
            Test::Ends(a, b) => two(a, "ends", b),
            Test::Matches(a, p) => two(a, "matches", &Operand::Text(p.0.as_str().into())),
        },
    }
}

fn any_text() -> impl Strategy<Value = Operand> {
    prop_oneof!["[^']{0,8}", "[^\"]{0,8}"].prop_map(|t: String| Operand::Text(t.into()))
}

fn any_var() -> impl Strategy<Value = Operand> {
    prop_oneof![
        Just(Var::Method),
        Just(Var::Path),
        Just(Var::Host),
        "[a-z][a-z0-9_-]{0,6}".prop_map(|n| Var::Query(n.into())),
        "[a-z][a-z0-9_-]{0,6}".prop_map(|n| Var::Header(n.parse().unwrap())),
        "[a-z][a-z0-9._-]{0,6}".prop_map(|n| Var::Cookie(n.into())),
    ]
    .prop_map(Operand::Var)
}

fn any_test() -> impl Strategy<Value = Node> {
    let number = (-1_000_000_i32..1_000_000).prop_map(|n| Operand::Number(f64::from(n) / 8.0));
    let constant = prop_oneof![any_text(), number].boxed();
    let order = prop_oneof![
        Just(Order::Equal),
        Just(Order::Unequal),
        Just(Order::Less),
        Just(Order::LessOrEqual),
        Just(Order::Greater),
        Just(Order::GreaterOrEqual)
    ];
    let block = (any::<u32>(), 0..=32_u8)
        .prop_map(|(a, len)| format!("{}/{len}", std::net::Ipv4Addr::from_bits(a)).parse::<Cidr>().unwrap());
    let right = prop_oneof![constant.clone(), any_var()];
    prop_oneof![
        any_var().prop_map(|v| match v {
            Operand::Var(v) => Test::Present(v),
            _ => unreachable!("any_var makes variables"),
        }),
        (any_var(), order, right.clone()).prop_map(|(a, o, b)| Test::Compare(a, o, b)),
        (any_var(), prop::collection::vec(constant, 1..4)).prop_map(|(a, all)| Test::In(a, all)),
        prop::collection::vec(block, 1..4).prop_map(|b| Test::Within(Nets::new(&b), b)),
        (any_var(), right.clone(), 0..4_u8).prop_map(|(a, b, which)| match which {
            0 => Test::Has(a, b),
            1 => Test::Contains(a, b),
            2 => Test::Starts(a, b),
            _ => Test::Ends(a, b),
        }),
        (any_var(), "[a-z]{0,4}[0-9]?").prop_map(|(a, p)| Test::Matches(a, Pattern(Regex::new(&p).unwrap()))),
    ]
    .prop_map(|t| Node::Test(Box::new(t)))
}

fn any_node() -> impl Strategy<Value = Node> {
    any_test().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::Any),
            inner.prop_map(|n| Node::Not(Box::new(n))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(node in any_node()) {
        let text = print(&node);
        prop_assume!(text.len() <= 4096);
        let expr: Expr = text.parse().map_err(|bad| TestCaseError::fail(format!("{text}: {bad:?}")))?;
        prop_assert_eq!(&expr.node, &node);
        let (head, cx) = request();
        let view = View { head: &head, cx: &cx };
        prop_assert_ne!(expr.test(&view), format!("not ({text})").parse::<Expr>().unwrap().test(&view));
    }

    #[test]
    fn any_text_parses_or_has_a_place(text in any::<String>()) {
        if let Err(bad) = text.parse::<Expr>() {
            prop_assert!(text.get(bad.at.clone()).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn any_words_parse_or_have_a_place(words in prop::collection::vec(prop::sample::select(vec![
        "not", "and", "or", "(", ")", "[", "]", ",", "==", "!=", "<", "in", "has", "matches", "ip", "host", "'a'", "\"", "7",
        "header.x", "path.", "é", "-", "time.weekday", "'10.0.0.0/8'",
    ]), 0..12), gap in prop::sample::select(vec!["", " "])) {
        let text = words.join(gap);
        if let Err(bad) = text.parse::<Expr>() {
            prop_assert!(text.get(bad.at.clone()).is_some(), "{text} {bad:?}");
        }
    }
}
