//! Precedence as tables; the tree against the plain way, on routes and requests made to collide.

use super::*;
use proptest::prelude::*;

fn entry(line: &str) -> Entry {
    // "name [priority] [when?] = pattern"
    let (left, pattern) = line.split_once(" = ").expect("name = pattern");
    let mut words = left.split(' ');
    let name = words.next().expect("a name").to_string();
    let mut entry = Entry { name, pattern: Pattern::parse(pattern).expect(pattern), priority: 0, when: None };
    for word in words {
        match word.parse() {
            Ok(priority) => entry.priority = priority,
            Err(_) => entry.when = Some(word.into()),
        }
    }
    entry
}

fn routes(lines: &[&str]) -> Routes {
    Routes::build(lines.iter().map(|l| entry(l)).collect()).unwrap_or_else(|c| panic!("{c:?}"))
}

fn clashes(lines: &[&str]) -> Vec<(ClashKind, String, String)> {
    let entries: Vec<Entry> = lines.iter().map(|l| entry(l)).collect();
    let name = |i: usize| entries[i].name.clone();
    match Routes::build(entries.clone()) {
        Ok(_) => vec![],
        Err(all) => all.into_iter().map(|c| (c.kind, name(c.route), name(c.with))).collect(),
    }
}

/// What takes `METHOD host/path`, where a condition holds if its text is in `holds`: the route and what it captures.
fn ask(routes: &Routes, request: &str, holds: &str) -> String {
    let (method, rest) = request.split_once(' ').expect("a method");
    let (host, path) = rest.split_at(rest.find('/').expect("a path"));
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let when =
        |r: usize, _: &Spans| holds.contains(routes.entries()[r].when.as_deref().expect("asked only with a when"));
    match routes.find(&method, host, path, when) {
        Ok(found) => {
            let entry = &routes.entries()[found.route];
            let names = entry.pattern.names().iter();
            let values = found.captures.iter().map(|&(from, to)| &path[from as usize..to as usize]);
            assert_eq!(names.len(), values.len());
            names.zip(values).fold(entry.name.clone(), |text, (n, v)| format!("{text} {n}={v}"))
        }
        Err(missing) => format!("{} {}", missing.status(), missing.allow().unwrap_or_default()).trim_end().into(),
    }
}

#[test]
fn the_most_specific_wins() {
    let all = routes(&[
        "rest = /**",
        "one = /users/{id}",
        "me = /users/me",
        "orders = /users/{id}/orders",
        "tail = /users/{id}/{**tail}",
        "root = /",
        "slash = /users/",
        "post = POST /users/{id}",
        "beta x = /users/me",
        "host = api.example.com/users/{id}",
        "below = *.example.com/**",
        "deep = *.a.example.com/users/{user}",
        "first 1 = /urgent/**",
    ]);
    for (request, expected) in [
        ("GET x/", "root"),
        ("GET x/a/b/c", "rest"),
        ("GET x/users", "rest"),
        ("GET x/users/", "slash"),
        ("GET x/users/me", "me"),
        ("GET x/users/7", "one id=7"),
        ("POST x/users/7", "post id=7"),
        ("POST x/users/me", "me"),
        ("GET x/users/me/orders", "orders id=me"),
        ("GET x/users/7/a/b", "tail id=7 tail=a/b"),
        ("GET x/users/7/", "tail id=7 tail="),
        ("GET api.example.com/users/7", "host id=7"),
        ("GET api.example.com/users/me", "host id=me"),
        ("GET api.example.com/", "below"),
        ("GET example.com/", "root"),
        ("GET xexample.com/", "root"),
        ("GET v.u.a.example.com/users/7", "deep user=7"),
        ("GET v.a.example.com/x", "below"),
        ("GET api.example.com/urgent/1", "first"),
    ] {
        assert_eq!(ask(&all, request, ""), expected, "{request}");
    }
    assert_eq!(ask(&all, "GET x/users/me", "x"), "beta");
}

#[test]
fn a_dead_end_is_left_again() {
    let all = routes(&["a = /a/b/c", "b = /a/{x}/d", "c = /{y}/b/*/{z}", "d = /{**all}"]);
    assert_eq!(ask(&all, "GET h/a/b/c", ""), "a");
    assert_eq!(ask(&all, "GET h/a/b/d", ""), "b x=b");
    assert_eq!(ask(&all, "GET h/a/b/c/e", ""), "c y=a z=e");
    assert_eq!(ask(&all, "GET h/a/b/e", ""), "d all=a/b/e");
    assert_eq!(ask(&all, "GET h/", ""), "d all=");
}

#[test]
fn a_tree_includes_its_root() {
    let all = routes(&["s = /static/{**file}"]);
    assert_eq!(ask(&all, "GET h/static", ""), "s file=");
    assert_eq!(ask(&all, "GET h/static/", ""), "s file=");
    assert_eq!(ask(&all, "GET h/static/a/b", ""), "s file=a/b");
    assert_eq!(ask(&all, "GET h/statics", ""), "404");
}

#[test]
fn the_wrong_method_is_told_the_right_ones() {
    let all =
        routes(&["g = GET /a", "p = POST|PUT /a", "d = DELETE /{x}", "w beta = PATCH /a", "h = HEAD /b", "b = GET /b"]);
    assert_eq!(ask(&all, "OPTIONS h/a", ""), "405 GET, HEAD, POST, PUT, DELETE");
    assert_eq!(ask(&all, "OPTIONS h/a", "beta"), "405 PATCH, GET, HEAD, POST, PUT, DELETE");
    assert_eq!(ask(&all, "OPTIONS h/c", ""), "405 DELETE");
    assert_eq!(ask(&all, "GET h/a/b", ""), "404");
    assert_eq!(ask(&all, "HEAD h/a", ""), "g");
    assert_eq!(ask(&all, "HEAD h/b", ""), "h");
    assert_eq!(ask(&all, "GET h/b", ""), "b");
    let all = routes(&["p = PURGE|GET /a", "l = LINK /a"]);
    assert_eq!(ask(&all, "PURGE h/a", ""), "p");
    assert_eq!(ask(&all, "LINK h/a", ""), "l");
    assert_eq!(ask(&all, "SEARCH h/a", ""), "405 LINK, PURGE, GET, HEAD");
}

#[test]
fn conditions_are_tried_in_order() {
    let all = routes(&["a 1st = /x", "b 2nd = /x", "c = /x", "d 3rd = /y"]);
    assert_eq!(ask(&all, "GET h/x", ""), "c");
    assert_eq!(ask(&all, "GET h/x", "2nd"), "b");
    assert_eq!(ask(&all, "GET h/x", "1st 2nd"), "a");
    assert_eq!(ask(&all, "GET h/y", ""), "404");
}

#[test]
fn ties_are_refused() {
    use ClashKind::Tie;
    let tie = |a: &str, b: &str| vec![(Tie, b.to_string(), a.to_string())];
    assert_eq!(clashes(&["a = /x/{id}", "b = /x/{name}"]), tie("a", "b"));
    assert_eq!(clashes(&["a = /**", "b = /{**rest}"]), tie("a", "b"));
    assert_eq!(clashes(&["a = GET|POST /x", "b = POST|PUT /x"]), tie("a", "b"));
    assert_eq!(clashes(&["a = EXAMPLE.com/x", "b = example.com./x"]), tie("a", "b"));
    assert_eq!(clashes(&["a = /~x", "b = /%7Ex"]), tie("a", "b"));
    assert_eq!(clashes(&["a same = /x", "b same = /x"]), tie("a", "b"));
    assert_eq!(clashes(&["a = /x", "b = /x", "c = /x"]).len(), 2);
    for fine in [
        &["a = /x", "b w = /x"][..],
        &["a w = /x", "b v = /x"],
        &["a = GET /x", "b = POST /x"],
        &["a = GET /x", "b = /x"],
        &["a = GET /x", "b = HEAD /x"],
        &["a = h/x", "b = /x"],
        &["a = /x/{id}/y", "b = /x/y/{id}"],
        &["a = /x", "b = /x/"],
        &["a = /x", "b = /x/**"],
    ] {
        assert_eq!(clashes(fine), [], "{fine:?}");
    }
}

#[test]
fn routes_that_never_match_are_refused() {
    use ClashKind::Shadowed;
    let shadowed = |route: &str, with: &str| vec![(Shadowed, route.to_string(), with.to_string())];
    assert_eq!(clashes(&["a = /x/{id}", "b = /x/*"]), shadowed("b", "a"));
    assert_eq!(clashes(&["all 1 = /**", "b = GET h/x/{y}"]), shadowed("b", "all"));
    assert_eq!(clashes(&["all 1 = *.com/x/**", "b = *.h.com/x"]), shadowed("b", "all"));
    assert_eq!(clashes(&["all 1 = GET /x", "b = HEAD /x"]), shadowed("b", "all"));
    assert_eq!(clashes(&["a 2 = /x", "b 1 = /x"]), shadowed("b", "a"));
    for fine in [
        &["all 1 w = /**", "b = /x"][..],
        &["all 1 = GET /**", "b = /x"],
        &["all 1 = h.com/**", "b = *.com/x"],
        &["all 1 = *.h.com/**", "b = h.com/x"],
        &["a = /x/{id}", "b = /x/*/**"],
        &["a 1 = /x/{id}", "b = /x/**"],
        &["a 1 = /x/*", "b = /x/"],
        &["a = GET /x/{id}", "b = /x/*"],
    ] {
        assert_eq!(clashes(fine), [], "{fine:?}");
    }
}

#[test]
fn explain_says_why() {
    let all = routes(&["a w = GET /x/y", "b = POST /x/{id}", "c = /x/**", "d = /**", "e = h/z", "f = o/z"]);
    let why = all.explain(&Method::GET, "h", "/x/y", |_, _| false);
    let why: Vec<_> = why.into_iter().map(|(r, w)| (all.entries()[r].name.as_str(), w)).collect();
    assert_eq!(
        why,
        [
            ("e", Why::Path),
            ("f", Why::Host),
            ("a", Why::When),
            ("b", Why::Method),
            ("c", Why::Taken),
            ("d", Why::Outranked)
        ]
    );
}

fn pattern() -> impl Strategy<Value = String> {
    let host = proptest::sample::select(vec!["", "", "a.b", "*.b", "c.a.b", "*.a.b"]);
    let method = proptest::sample::select(vec!["", "", "GET ", "POST ", "GET|POST ", "HEAD ", "PURGE "]);
    let piece = proptest::sample::select(vec!["a", "b", "{}", "*"]);
    let end = proptest::sample::select(vec!["", "", "/", "/**", "/{**r}"]);
    (method, host, prop::collection::vec(piece, 0..4), end).prop_map(|(method, host, pieces, end)| {
        let path: String = pieces
            .iter()
            .enumerate()
            .map(|(i, p)| if *p == "{}" { format!("/{{c{i}}}") } else { format!("/{p}") })
            .collect();
        let path = if path.is_empty() && end.is_empty() { "/".to_string() } else { path + end };
        format!("{method}{host}{path}")
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (pattern(), 0..2_i64, proptest::option::weighted(0.3, 0..4_u8));
    prop::collection::vec(entry, 1..24).prop_map(|all| {
        let entry = |(i, (pattern, priority, when)): (usize, (String, i64, Option<u8>))| Entry {
            name: format!("r{i:02}"),
            pattern: Pattern::parse(&pattern).expect(&pattern),
            priority,
            when: when.map(|w| w.to_string()),
        };
        all.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the routes and the request, the tree finds what the plain way finds; and no route that was refused as
    /// shadowed ever takes a request.
    #[test]
    fn tree_equals_list(
        entries in entries(),
        requests in prop::collection::vec((
            proptest::sample::select(vec![Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::from_bytes(b"PURGE").unwrap()]),
            proptest::sample::select(vec!["a.b", "b", "c.a.b", "x.c.a.b", "z"]),
            "(/[abc]?){1,5}",
            0..16_u8,
        ), 1..16),
    ) {
        let mut entries = entries;
        let mut dead = vec![];
        while let Err(clashes) = Routes::build(entries.clone()) {
            let mut gone: Vec<usize> = clashes.iter().map(|c| c.route).collect();
            dead.extend(clashes.into_iter().map(|c| (c.kind, entries[c.route].clone(), entries[c.with].clone())));
            gone.sort();
            gone.dedup();
            gone.iter().rev().for_each(|&i| { entries.remove(i); });
        }
        let routes = Routes::build(entries).expect("clashes are gone");
        for (method, host, path, holds) in requests {
            let holds = |text: &str| holds >> text.parse::<u8>().unwrap() & 1 == 1;
            let when = |r: usize, _: &Spans| holds(routes.entries()[r].when.as_deref().unwrap());
            let found = routes.find(&method, host, &path, when);
            let plain = routes.explain(&method, host, &path, when);
            let first = plain.iter().find(|(_, why)| *why == Why::Taken).map(|(r, _)| *r);
            prop_assert_eq!(found.as_ref().ok().map(|f| f.route), first, "{} {}{}", method, host, path);
            match found {
                Ok(f) => prop_assert_eq!(Some(f.captures), routes.entries()[f.route].pattern.captures(&path)),
                Err(missing) => {
                    let other = plain.iter().any(|&(r, why)| {
                        why == Why::Method && routes.entries()[r].when.as_deref().is_none_or(holds)
                    });
                    prop_assert_eq!(missing.status(), if other { 405 } else { 404 });
                }
            }
            for (kind, route, with) in &dead {
                if *kind == ClashKind::Shadowed
                    && route.pattern.host.takes(host)
                    && route.pattern.captures(&path).is_some()
                    && route.pattern.methods.take(&method)
                {
                    prop_assert!(with.pattern.host.takes(host) && with.pattern.methods.take(&method) && with.when.is_none());
                    prop_assert!(with.pattern.captures(&path).is_some(), "{} does not cover {}", with.pattern, route.pattern);
                }
            }
        }
    }

    #[test]
    fn patterns_never_panic(text in "[GETa-z|/{}*. :\\[\\]%é]{0,24}") {
        if let Err(bad) = Pattern::parse(&text) {
            prop_assert!(text.get(bad.at.clone()).is_some(), "{:?} in {}", bad, text);
        }
    }
}
