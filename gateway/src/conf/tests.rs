//! The messages as people see them, and what must hold for any file whatever.

use super::de::{keys, read};
use super::load::{DESTINATIONS, Loader};
use super::merge::GROW;
use super::tree::Outside;
use super::*;
use filters::Policy;
use filters::short::{Bad, Many, One, Short, words};
use filters::units::{Mode, Percent, Rate, Secret};
use serde::Deserialize;
use serde_spanned::Spanned;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const SECRET: &str = "hunter2-very-secret";

fn env(name: &str) -> Option<OsString> {
    match name {
        "SEC" => Some(SECRET.into()),
        "QUOTED" => Some("a\"quoted\"\nsecret".into()),
        "PORT" => Some("80".into()),
        "HOST" => Some("10.0.0.1:8080".into()),
        _ => None,
    }
}

fn loader(lenient: bool) -> Loader<'static> {
    Loader::new(Outside { env: &env, lenient })
}

/// Loads one text as `a.toml`, with the environment above.
fn text(bytes: impl Into<Vec<u8>>) -> (Option<Loaded>, Faults) {
    let mut loader = loader(false);
    let root = loader.sources.parse("a.toml", bytes.into(), Path::new(""), &loader.outside, &mut loader.faults);
    loader.finish(Path::new("a.toml"), root)
}

fn good(config: &str) -> Loaded {
    let (loaded, faults) = text(config);
    assert!(faults.is_empty(), "{faults}");
    loaded.expect("no faults, so it was read")
}

fn bad(bytes: impl Into<Vec<u8>>) -> String {
    let (_, faults) = text(bytes);
    assert!(!faults.is_empty(), "this was accepted");
    shown(&faults)
}

/// Reads one text as `T`, below the path `t`.
fn table<T: serde::de::DeserializeOwned>(toml: &str) -> (Option<T>, String) {
    let mut loader = loader(false);
    let root = loader.sources.parse("t.toml", toml.into(), Path::new(""), &loader.outside, &mut loader.faults);
    let value = root.and_then(|root| read::<T>(&root, "t", &["elsewhere"], &mut loader.faults));
    let faults = Faults::of(loader.faults, loader.sources.into());
    (value, shown(&faults))
}

/// As on a terminal, without the last line's end.
fn shown(faults: &Faults) -> String {
    faults.to_string().trim_end_matches('\n').to_string()
}

/// A folder of its own for one test, gone afterwards.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("portcullis-conf-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("conf.d")).expect("the temporary folder can be written");
        Dir(dir)
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the temporary folder can be written");
        path
    }
    fn load(&self) -> Result<Loaded, Faults> {
        load(&self.0.join("main.toml"), &Options::default())
    }
    /// The faults, with the folder's name cut off.
    fn faults(&self) -> String {
        let faults = shown(&self.load().expect_err("this was accepted"));
        faults.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const ROUTE: &str = "[route.r]\nmatch = \"/\"\nto = \"127.0.0.1:1\"\n";

// ---- a table of every kind of key ----

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    rate: Rate,
    #[serde(default)]
    per: Option<String>,
    #[serde(default)]
    burst: Option<u32>,
}

impl Short for Limit {
    const LINE: &'static str = "a limit such as \"100/s per ip burst 200\"";
    fn line(text: &str) -> Result<Limit, Bad> {
        let mut w = words(text);
        let (at, rate) = w.next().ok_or_else(|| Bad::new(0..0, "empty limit"))?;
        let rate = rate.parse().map_err(|e: Bad| e.shifted(at))?;
        let mut limit = Limit { rate, per: None, burst: None };
        while let Some((at, word)) = w.next() {
            let value = w.next().ok_or_else(|| Bad::new(at..at + word.len(), format!("`{word}` without a value")))?;
            match word {
                "per" => limit.per = Some(value.1.into()),
                "burst" => {
                    let bad = |_| Bad::new(value.0..value.0 + value.1.len(), "expected a number");
                    limit.burst = Some(value.1.parse().map_err(bad)?);
                }
                _ => return Err(Bad::new(at..at + word.len(), format!("found `{word}`, expected `per` or `burst`"))),
            }
        }
        Ok(limit)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[expect(dead_code, reason = "only read")]
    body: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct All {
    limit: Many<Limit>,
    one: Option<One<Limit>>,
    mode: Mode,
    share: Option<Percent>,
    secret: Option<Secret>,
    place: Option<Spanned<String>>,
    inner: Option<Inner>,
    list: Vec<u8>,
    flag: bool,
    float: f64,
    big: i64,
}

#[test]
fn every_fault_of_a_table_in_one_run() {
    let (value, faults) = table::<All>(concat!(
        "mode = \"enforced\"\n",
        "limit = [\"100/ss per ip\", { rate = 5, brust = 3 }, { per = \"ip\" }, \"9/s pr ip\", 7]\n",
        "share = \"120%\"\n",
        "secret = \"literal\"\n",
        "place = 5\n",
        "inner = { bodyy = 1 }\n",
        "list = [1, \"x\", 300, -1]\n",
        "flag = \"yes\"\n",
        "float = true\n",
        "big = 99999999999999999999\n",
        "flg = true\n",
        "zzz = 1979-05-27\n",
        "one = [\"1/s\"]\n",
    ));
    assert!(value.is_some(), "what could be read is handed on");
    assert_eq!(
        faults,
        r#"t.toml:1:8: t.mode: found "enforced", expected "off" or "observe" or "enforce"
    1 | mode = "enforced"
      |        ^^^^^^^^^^
t.toml:2:15: t.limit[0]: rate "100/ss": expected <number>/<unit>, unit s, m, h or d
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |               ^^
t.toml:2:36: t.limit[1].rate: found integer 5, expected a rate such as "100/s" (s, m, h, d)
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |                                    ^
t.toml:2:39: t.limit[1].brust: unknown key `brust`
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |                                       ^^^^^ did you mean `burst`?
t.toml:2:52: t.limit[2]: missing key `rate`
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |                                                    ^^^^^^^^^^^^^^
t.toml:2:73: t.limit[3]: found `pr`, expected `per` or `burst`
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |                                                                         ^^
t.toml:2:81: t.limit[4]: found integer 7, expected a limit such as "100/s per ip burst 200", or a table
    2 | limit = ["100/ss per ip", { rate = 5, brust = 3 }, { per = "ip" }, "9/s pr ip", 7]
      |                                                                                 ^
t.toml:3:10: t.share: "120%": expected a percentage such as "20%", from 0% to 100%
    3 | share = "120%"
      |          ^^^^
t.toml:4:10: t.secret: found a literal secret, expected a reference: "${env:NAME}", "${file:/path}" or "${cred:NAME}"
    4 | secret = "literal"
      |          ^^^^^^^^^
t.toml:5:9: t.place: found integer 5, expected a string
    5 | place = 5
      |         ^
t.toml:6:11: t.inner.bodyy: unknown key `bodyy`
    6 | inner = { bodyy = 1 }
      |           ^^^^^ did you mean `body`?
t.toml:7:12: t.list[1]: found string "x", expected a whole number from 0 to 255
    7 | list = [1, "x", 300, -1]
      |            ^^^
t.toml:7:17: t.list[2]: found integer 300, expected a whole number from 0 to 255
    7 | list = [1, "x", 300, -1]
      |                 ^^^
t.toml:7:22: t.list[3]: found integer -1, expected a whole number from 0 to 255
    7 | list = [1, "x", 300, -1]
      |                      ^^
t.toml:8:8: t.flag: found string "yes", expected true or false
    8 | flag = "yes"
      |        ^^^^^
t.toml:9:9: t.float: found true, expected a number
    9 | float = true
      |         ^^^^
t.toml:10:7: big: integer 99999999999999999999: too large to count
   10 | big = 99999999999999999999
      |       ^^^^^^^^^^^^^^^^^^^^
t.toml:11:1: t.flg: unknown key `flg`
   11 | flg = true
      | ^^^ did you mean `flag`?
t.toml:12:1: t.zzz: unknown key `zzz`
   12 | zzz = 1979-05-27
      | ^^^ known: limit, one, mode, share, secret, place, inner, list, flag, float, big, elsewhere
t.toml:12:7: zzz: found the date 1979-05-27, which no key takes
   12 | zzz = 1979-05-27
      |       ^^^^^^^^^^ put text in quotes
t.toml:13:7: t.one: found an array, expected a limit such as "100/s per ip burst 200", or a table
   13 | one = ["1/s"]
      |       ^^^^^^^"#
    );
}

#[test]
fn a_line_is_its_table() {
    let expected = Limit { rate: Rate { count: 100, seconds: 1 }, per: Some("ip".into()), burst: Some(200) };
    for toml in [
        "limit = \"100/s per ip burst 200\"",
        "limit = { rate = \"100/s\", per = \"ip\", burst = 200 }",
        "limit = [\"100/s per ip burst 200\"]",
        "[[limit]]\nrate = \"100/s\"\nper = \"ip\"\nburst = 200",
        "[limit]\nrate = \"100/s\"\nper = \"ip\"\nburst = 200",
        "limit.rate = \"100/s\"\nlimit.per = \"ip\"\nlimit.burst = 200",
    ] {
        let (value, faults) = table::<All>(toml);
        assert_eq!(faults, "", "{toml}");
        let limits = value.expect("no faults").limit;
        assert_eq!(limits.len(), 1, "{toml}");
        assert_eq!(limits[0].get_ref(), &expected, "{toml}");
    }
}

#[test]
fn escapes_are_underlined_whole() {
    let (_, faults) = table::<All>("share = \"\\u0031x%\"\n");
    assert!(faults.ends_with("    1 | share = \"\\u0031x%\"\n      |         ^^^^^^^^^^"), "{faults}");
    // a quote that is longer than what it says
    let (_, faults) = table::<All>("share = '''1x%'''\n");
    assert!(faults.ends_with("      |         ^^^^^^^^^"), "{faults}");
}

#[test]
fn missing_keys_point_at_their_table() {
    let (_, faults) = table::<Inner>("");
    assert!(faults.starts_with("t.toml:1:1: t: missing key `body`"), "{faults}");
    let (_, faults) = table::<All>("flag = true\n[inner]\n");
    assert_eq!(faults, "t.toml:2:2: t.inner: missing key `body`\n    2 | [inner]\n      |  ^^^^^");
}

#[test]
fn a_table_full_of_faults_is_given_up() {
    let toml: String = (0..5000).map(|i| format!("nope{i} = 1\n")).collect();
    let (value, faults) = table::<All>(&toml);
    assert!(value.is_none());
    assert_eq!(faults.matches("unknown key").count(), 100);
}

#[test]
fn the_keys_of_a_struct() {
    assert_eq!(keys::<Limit>(), ["rate", "per", "burst"]);
    assert_eq!(keys::<u8>(), [""; 0]);
}

// ---- whole files ----

#[test]
fn the_smallest_file() {
    let loaded = good("[route.app]\nmatch = \"/**\"\nto = \"127.0.0.1:3000\"\n");
    assert_eq!(loaded.conf.route.len(), 1);
    assert_eq!(loaded.conf.listen.keys().collect::<Vec<_>>(), ["http"]);
    assert_eq!(loaded.conf.server.drain, filters::units::Span::secs(30));
    assert!(loaded.complete);
    assert!(loaded.settings().to_string().contains("listen.http.addr = \"0.0.0.0:8080\""));
}

#[test]
fn sections_names_and_versions() {
    assert_eq!(
        bad(concat!(
            "version = 2\n",
            "verison = 1\n",
            "route.r = 5\n",
            "[serivce.x]\nto = []\n",
            "[route.\"a b\"]\n",
            "[[listen]]\n",
            "[server]\nthreads = 0\ndrain = 30\nmax_connections = 5000000000\n",
        )),
        r#"a.toml:1:11: version: found integer 2, expected 1, the version this gateway reads
    1 | version = 2
      |           ^
a.toml:2:1: unknown key `verison`
    2 | verison = 1
      | ^^^^^^^ did you mean `version`?
a.toml:3:11: route.r: found integer 5, expected a table `[route.r]`
    3 | route.r = 5
      |           ^
a.toml:4:2: unknown section `serivce`
    4 | [serivce.x]
      |  ^^^^^^^ did you mean `service`?
a.toml:6:8: route: name "a b": expected 1 to 64 of A-Z, a-z, 0-9, `_` and `-`
    6 | [route."a b"]
      |        ^^^^^
a.toml:7:1: listen: found an array, expected tables such as `[listen.NAME]`
    7 | [[listen]]
      | ^^^^^^^^^^
a.toml:9:11: server.threads: found integer 0, expected a whole number from 1 to 65535
    9 | threads = 0
      |           ^
a.toml:10:9: server.drain: found integer 30, expected a duration such as "5s" (ms, s, m, h, d)
   10 | drain = 30
      |         ^^
a.toml:11:19: server.max_connections: found integer 5000000000, expected a whole number from 1 to 4294967295
   11 | max_connections = 5000000000
      |                   ^^^^^^^^^^"#
    );
}

#[test]
fn listeners_and_routes_through_their_own_types() {
    let (_, faults) = text(concat!(
        "[listen.a]\naddr = \"0.0.0.0\"\ntls = { cert = \"/c\", kee = \"/k\" }\n",
        "[listen.b]\nadr = \"0.0.0.0:1\"\n",
        "[route.r]\nmatch = \"GTE /a/{x}/{x}\"\nto = { s = \"x\" }\nwhen = \"header.x == \"\n",
        "[route.q]\nmatch = \"/b\"\nto = \"http://127.0.0.1:1\"\n",
    ));
    let places: Vec<_> = faults.lines().map(|l| l.splitn(5, ':').take(4).collect::<Vec<_>>().join(":")).collect();
    assert_eq!(
        places,
        [
            "a.toml:2:9: listen.a.addr",
            "a.toml:3:22: listen.a.tls.kee",
            "a.toml:5:1: listen.b.adr",
            "a.toml:7:10: route.r.match",
            "a.toml:8:8: route.r.to",
            "a.toml:8:12: route.r.to.s",
            "a.toml:9:21: route.r.when",
            "a.toml:12:7: route.q.to",
        ],
        "{faults}"
    );
}

#[test]
fn an_admin_endpoint_for_everybody_needs_a_token() {
    let faults = bad(format!("[admin]\naddr = \"0.0.0.0:9901\"\n{ROUTE}"));
    assert!(faults.starts_with("a.toml:2:8: admin.addr: 0.0.0.0:9901 can be reached by other machines"), "{faults}");
    good(&format!("[admin]\naddr = \"0.0.0.0:9901\"\ntoken = \"${{env:SEC}}\"\n{ROUTE}"));
}

#[test]
fn syntax() {
    assert_eq!(
        bad("[route.a]\nmatch = \"x\nto = \"y\"\nto=\"z\"\n[route.b]\nto = 1\n[route.a]\nx = 1\n"),
        r#"a.toml:2:11: invalid basic string, expected `"`
    2 | match = "x
      |           ^
a.toml:4:1: duplicate key `to`
    4 | to="z"
      | ^^
      = first defined at a.toml:3:1
a.toml:7:8: duplicate key `a`
    7 | [route.a]
      |        ^
      = first defined at a.toml:1:1"#
    );
}

#[test]
fn names_that_dangle() {
    assert_eq!(
        bad(concat!(
            "[service.users]\nto = [\"10.0.0.1:80\"]\n",
            "[policy.edge]\n",
            "[route.a]\nmatch = \"/a\"\nto = \"usres\"\npolicy = [\"egde\", \"edge\", \"zzz\"]\nmirror = \"shadow\"\n",
            "[route.b]\nmatch = \"/b\"\nto = { users = 95, user = 5 }\nmirror = { to = \"user\", share = \"10%\" }\n",
        )),
        r#"a.toml:6:6: route.a.to: no service is named `usres`
    6 | to = "usres"
      |      ^^^^^^^ did you mean `users`?
a.toml:7:11: route.a.policy: no policy is named `egde`
    7 | policy = ["egde", "edge", "zzz"]
      |           ^^^^^^ did you mean `edge`?
a.toml:7:27: route.a.policy: no policy is named `zzz`
    7 | policy = ["egde", "edge", "zzz"]
      |                           ^^^^^
a.toml:8:10: route.a.mirror: no service is named `shadow`
    8 | mirror = "shadow"
      |          ^^^^^^^^ or an address, `host:port`
a.toml:11:20: route.b.to: no service is named `user`
   11 | to = { users = 95, user = 5 }
      |                    ^^^^ did you mean `users`?
a.toml:12:17: route.b.mirror.to: no service is named `user`
   12 | mirror = { to = "user", share = "10%" }
      |                 ^^^^^^ did you mean `users`?"#
    );
}

#[test]
fn exactly_one_destination() {
    assert_eq!(
        bad(concat!(
            "[route.none]\nmatch = \"/a\"\n",
            "[route.two]\nmatch = \"/b\"\nto = \"127.0.0.1:1\"\nreply = 204\n",
            "[route.lost]\nto = \"127.0.0.1:1\"\n",
            "[route.typo]\nmatch = \"/c\"\ntoo = \"127.0.0.1:1\"\n",
        )),
        r#"a.toml:1:1: route.none: no destination, expected one of to, redirect, reply
    1 | [route.none]
      | ^^^^^^^^^^^^
a.toml:6:1: route.two.reply: `reply` beside `to`, expected one destination
    6 | reply = 204
      | ^^^^^
      = the other at a.toml:5:1
a.toml:7:1: route.lost: missing key `match`
    7 | [route.lost]
      | ^^^^^^^^^^^^
a.toml:11:1: route.typo.too: unknown key `too`
   11 | too = "127.0.0.1:1"
      | ^^^ did you mean `to`?"#
    );
}

#[test]
fn a_policy_is_judged_though_nobody_uses_it() {
    let faults = bad(format!("[policy.idle]\nresponse.sett = {{ A = \"1\" }}\nresponze = {{}}\n{ROUTE}"));
    assert!(faults.contains("a.toml:2:10: policy.idle.response.sett: unknown key `sett`"), "{faults}");
    assert!(faults.contains("a.toml:3:1: policy.idle.responze: unknown key `responze`"), "{faults}");
    assert!(faults.contains("did you mean `response`?"), "{faults}");
}

#[test]
fn an_empty_file_serves_nothing() {
    assert_eq!(bad(""), "a.toml:1:1: no route is defined: expected at least one table `[route.NAME]`");
    good("[listen.http]\naddr = \"0.0.0.0:80\"\nredirect = \"https\"\n");
}

#[test]
fn encodings() {
    assert_eq!(
        bad(b"[route.a]\nmatch = \"\xff\"\n"),
        "a.toml:2:10: byte 0xff is not UTF-8\n    2 | match = \"\u{fffd}\"\n      |          ^"
    );
    good(&format!("\u{feff}{}", ROUTE.replace('\n', "\r\n")));
    assert!(bad(format!("\u{feff}x = 1\r\n{ROUTE}")).starts_with("a.toml:1:1: unknown key `x`\n    1 | x = 1\n"));
    // columns are characters
    assert!(bad(format!("\"ä\" = \"ö\"\n{ROUTE}")).starts_with("a.toml:1:1: unknown key `ä`"));
}

#[test]
fn what_is_printed_cannot_drive_a_terminal() {
    let faults = bad(format!("\"\\u001b[2J\" = 1\n{ROUTE}"));
    assert!(!faults.contains('\u{1b}'), "{faults:?}");
    let (_, faults) = text(format!("\"a\\nb\" = 1\n{ROUTE}"));
    assert!(faults.lines().all(|l| !l.contains('\n')));
    // a line of any length is shown in part
    for (before, after) in [(0, 500), (20, 500), (250, 250), (500, 20), (500, 0)] {
        let (before, after) = ("p".repeat(before), "a".repeat(after));
        let faults =
            bad(format!("server = {{ drain = \"1s\", p{before} = 1, \tÄ = 2, a{after} = 1 }}\n").replace('Ä', "\"Ä\""));
        assert!(faults.lines().all(|l| l.chars().count() < 1000), "{faults}");
        let at = faults.lines().position(|l| l.ends_with("unknown key `Ä`")).expect("it is a fault");
        let [line, caret] = [1, 2].map(|n| faults.lines().nth(at + n).expect("a line and its caret"));
        let under: String = line.chars().skip(caret.find('^').expect("a caret")).take(3).collect();
        assert_eq!(under, "\"Ä\"", "{line}\n{caret}");
    }
}

// ---- references and secrets ----

#[test]
fn references() {
    let (value, faults) = table::<All>("secret = \"${env:SEC}\"\nplace = \"http://${env:HOST}/$${x}$\"\n");
    assert_eq!(faults, "");
    let value = value.expect("no faults");
    assert_eq!(value.secret.expect("it is there").reveal(), SECRET);
    assert_eq!(value.place.expect("it is there").get_ref(), "http://10.0.0.1:8080/${x}$");

    let dir = Dir::new("references");
    let key = dir.write("key", "from a file\r\n");
    dir.write("relative", "beside\n\n");
    let (value, faults) = table::<All>(&format!("place = \"${{file:{}}}!\"", key.display()));
    assert_eq!(
        (value.expect("read").place.expect("read").into_inner().as_str(), faults.as_str()),
        ("from a file!", "")
    );
    dir.write("main.toml", format!("{ROUTE}[admin]\ntoken = \"${{file:relative}}\"\n"));
    let loaded = dir.load().expect("a relative path starts at the file");
    assert!(loaded.files.contains(&dir.0.join("relative")), "{:?}", loaded.files);
}

#[test]
fn references_that_do_not_resolve() {
    let (_, faults) = table::<All>(concat!(
        "secret = \"${env:NOT_THERE}\"\n",
        "place = \"${vault:x}\"\n",
        "mode = \"${env:SEC\"\n",
        "share = \"${cred:x}\"\n",
        "limit = [\"${cred:../x}\", \"${file:/no/such}\", \"${env:}\"]\n",
    ));
    assert_eq!(
        faults,
        r#"t.toml:1:10: secret: reference ${env:NOT_THERE}: the environment has no NOT_THERE
    1 | secret = "${env:NOT_THERE}"
      |          ^^^^^^^^^^^^^^^^^^
t.toml:2:9: place: reference ${vault:x}: expected env:, file: or cred:
    2 | place = "${vault:x}"
      |         ^^^^^^^^^^^^ a literal `${` is written `$${`
t.toml:3:8: mode: reference ${env:SEC: expected a closing `}`
    3 | mode = "${env:SEC"
      |        ^^^^^^^^^^^ a literal `${` is written `$${`
t.toml:4:9: share: reference ${cred:x}: no credentials were handed over (CREDENTIALS_DIRECTORY is not set)
    4 | share = "${cred:x}"
      |         ^^^^^^^^^^^
t.toml:5:10: limit[0]: reference ${cred:../x}: expected the name of a credential, not a path
    5 | limit = ["${cred:../x}", "${file:/no/such}", "${env:}"]
      |          ^^^^^^^^^^^^^^
t.toml:5:26: limit[1]: reference ${file:/no/such}: No such file or directory (os error 2)
    5 | limit = ["${cred:../x}", "${file:/no/such}", "${env:}"]
      |                          ^^^^^^^^^^^^^^^^^^
t.toml:5:46: limit[2]: reference ${env:}: expected a name after the `:`
    5 | limit = ["${cred:../x}", "${file:/no/such}", "${env:}"]
      |                                              ^^^^^^^^^"#
    );
}

#[test]
fn what_a_reference_brings_is_never_printed() {
    let (loaded, faults) = text(concat!(
        "[policy.p]\nresponse = \"${env:SEC}\"\n",
        "[service.s]\nto = [\"${env:HOST}\"]\nbalance = 5\n",
        "[route.r]\nmatch = \"${env:QUOTED}\"\nto = \"${env:SEC}\"\npolicy = \"${env:QUOTED}\"\n",
        "[admin]\ntoken = \"${env:SEC}\"\naddr = 5\n",
    ));
    let printed = [
        faults.to_string(),
        faults.lines().collect::<Vec<_>>().join("\n"),
        faults.one_line(),
        format!("{faults:?}"),
        format!("{loaded:?}"),
        loaded.as_ref().map(|l| l.settings().to_string()).unwrap_or_default(),
    ]
    .join("\n");
    assert!(printed.contains("no service is named `${env:SEC}`"), "{printed}");
    assert!(printed.contains("no policy is named `${env:QUOTED}`"), "{printed}");
    let printed = format!("{:?}", loaded.map(|l| l.conf.admin)) + &printed;
    assert!(!printed.contains(SECRET) && !printed.contains("quoted"), "{printed}");
}

#[test]
fn short_values_do_not_garble_messages() {
    let mut loader = loader(false);
    let toml = "a = \"${env:PORT}\"\n".into();
    loader.sources.parse("t.toml", toml, Path::new(""), &loader.outside, &mut loader.faults);
    assert_eq!(
        loader.sources.hide("port 80 is not 8080, x80 or 80"),
        "port ${env:PORT} is not 8080, x80 or ${env:PORT}"
    );
}

#[test]
fn checking_without_the_secrets() {
    let config = concat!(
        "[service.s]\nto = \"${env:NOWHERE}\"\n",
        "[route.r]\nmatch = \"/\"\nto = \"${env:ELSEWHERE}\"\n",
        "[admin]\ntoken = \"${cred:token}\"\naddr = \"127.0.0.1:${file:/no/such}\"\n",
        "[server]\ndrain = \"${env:NOWHERE}\"\nthreads = 2\n",
    );
    let check = |config: &str| {
        let mut loader = loader(true);
        let root = loader.sources.parse("a.toml", config.into(), Path::new(""), &loader.outside, &mut loader.faults);
        loader.finish(Path::new("a.toml"), root)
    };
    let (loaded, faults) = check(config);
    assert!(faults.is_empty(), "{faults}");
    let loaded = loaded.expect("no faults");
    assert_eq!(loaded.conf.server.threads.map(u16::from), Some(2));
    assert!(!loaded.complete, "a service without its addresses is not one");
    let (_, faults) = check(&config.replace("cred:token", "crud:token").replace("threads", "treads"));
    assert_eq!(faults.len(), 2, "form and keys are checked all the same: {faults}");
}

// ---- several files ----

#[test]
fn includes() {
    let dir = Dir::new("includes");
    dir.write("main.toml", "include = [\"conf.d/*.toml\", \"extra.toml\"]\n[service.users]\nto = [\"10.0.0.1:1\"]\n");
    dir.write("conf.d/20.toml", "[route.b]\nmatch = \"/b\"\nto = \"users\"\n");
    dir.write("conf.d/10.toml", "[route.a]\nmatch = \"/a\"\nto = \"users\"\n");
    dir.write("conf.d/.hidden.toml", "nonsense");
    dir.write("conf.d/10.toml.bak", "nonsense");
    dir.write("extra.toml", "[route.c]\nmatch = \"/c\"\nto = \"users\"\n");
    let loaded = dir.load().expect("all of this is right");
    assert_eq!(loaded.base(), dir.0);
    assert_eq!(loaded.conf.route.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for watched in ["main.toml", "conf.d", "conf.d/10.toml", "conf.d/20.toml", "extra.toml"] {
        assert!(loaded.files.contains(&dir.0.join(watched)), "{watched}: {:?}", loaded.files);
    }
    assert!(loaded.explain("b").expect("it is there").to_string().contains("/conf.d/20.toml:2"));
}

#[test]
fn a_name_in_two_files_names_both() {
    let dir = Dir::new("twice");
    dir.write("main.toml", format!("include = \"conf.d/*.toml\"\n[server]\nthreads = 1\n{ROUTE}"));
    dir.write("conf.d/more.toml", format!("[server]\ndrain = \"1s\"\n{ROUTE}"));
    assert_eq!(
        dir.faults(),
        r#"conf.d/more.toml:1:2: server: this name is defined twice
    1 | [server]
      |  ^^^^^^
      = first defined at main.toml:2:2
conf.d/more.toml:3:8: route.r: this name is defined twice
    3 | [route.r]
      |        ^
      = first defined at main.toml:4:8"#
    );
}

#[test]
fn includes_that_cannot_be_read() {
    let dir = Dir::new("unreadable");
    dir.write(
        "main.toml",
        "include = [\"none.toml\", \"nodir/*.toml\", \"conf.d/*.toml\", \"conf.d\", 5, \"main.toml\"]\n",
    );
    dir.write("conf.d/latin1.toml", b"# \xe9\n");
    let line = "include = [\"none.toml\", \"nodir/*.toml\", \"conf.d/*.toml\", \"conf.d\", 5, \"main.toml\"]";
    assert_eq!(
        dir.faults(),
        format!(
            "main.toml:1:12: include: none.toml cannot be read: No such file or directory (os error 2)
    1 | {line}
      |            ^^^^^^^^^^^
main.toml:1:25: include: folder nodir cannot be read: No such file or directory (os error 2)
    1 | {line}
      |                         ^^^^^^^^^^^^^^
main.toml:1:68: include: found integer 5, expected a file or a pattern such as \"conf.d/*.toml\"
    1 | {line}
      |                                                                    ^
main.toml:1:71: include: main.toml is included twice
    1 | {line}
      |                                                                       ^^^^^^^^^^^
conf.d/latin1.toml:1:3: byte 0xe9 is not UTF-8
    1 | # \u{fffd}
      |   ^
conf.d: cannot be read: it is a directory, expected a file"
        )
    );
}

#[test]
fn the_main_file_that_cannot_be_read() {
    let dir = Dir::new("main");
    assert_eq!(dir.faults(), "main.toml: cannot be read: No such file or directory (os error 2)");
    std::fs::create_dir(dir.0.join("main.toml")).expect("the temporary folder can be written");
    assert_eq!(dir.faults(), "main.toml: cannot be read: it is a directory, expected a file");
    std::fs::remove_dir(dir.0.join("main.toml")).expect("just made");
    // sparse: it takes no room
    let huge = std::fs::File::create(dir.0.join("main.toml")).expect("the temporary folder can be written");
    huge.set_len((64 << 20) + 1).expect("a sparse file");
    assert_eq!(dir.faults(), "main.toml: cannot be read: it is larger than 64 MiB");
    let faults = dir.load().expect_err("too large");
    assert!(faults.sources().files().contains(&dir.0.join("main.toml")), "a fix to it is worth another try");
}

// ---- merging ----

#[test]
fn merging_keeps_who_wrote_what() {
    let mut loader = loader(false);
    let mut root = |name: &str, text: &str| {
        let bytes = text.as_bytes().to_vec();
        loader.sources.parse(name, bytes, Path::new(""), &loader.outside, &mut loader.faults).expect("it parses")
    };
    let a = root(
        "a.toml",
        "\nlimit = \"100/s\"\nheaders.remove = [\"Server\"]\nheaders.set = { A = \"1\" }\nauth = { issuer = \"x\", secret = \"${env:SEC}\" }\n",
    );
    let b = root(
        "b.toml",
        "limit = [\"5/s per jwt.sub\"]\nheaders.set = { B = \"2\" }\nauth.issuer = \"y\"\nwaf = { mode = \"observe\" }\n",
    );
    let own = root("c.toml", "waf = \"off\"\nlimit = \"1/m\"\n");
    let mut merged = vec![];
    for node in [&a, &b, &own] {
        merge::merge(&mut merged, node.entries());
    }
    let shown = explain::settings(&Node::table(0..0, merged), &loader.sources).to_string();
    let shown: Vec<_> = shown.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        shown,
        [
            "limit[0] = \"100/s\" # a.toml:2",
            "limit[1] = \"5/s per jwt.sub\" # b.toml:1",
            "limit[2] = \"1/m\" # c.toml:2",
            "headers.remove = [\"Server\"] # a.toml:3",
            "headers.set.A = \"1\" # a.toml:4",
            "headers.set.B = \"2\" # b.toml:2",
            "auth.issuer = \"y\" # b.toml:3",
            "auth.secret = \"${env:SEC}\" # a.toml:5",
            "waf = \"off\" # c.toml:1",
        ]
    );
}

#[test]
fn none_clears_what_came_before() {
    let limits = |tables: &[&str]| {
        let mut loader = loader(false);
        let mut merged = vec![];
        for t in tables {
            let bytes = t.as_bytes().to_vec();
            let node = loader.sources.parse("t", bytes, Path::new(""), &loader.outside, &mut loader.faults);
            merge::merge(&mut merged, node.expect("it parses").entries());
        }
        Node::table(0..0, merged).entry("limit").map(|e| e.node.to_string()).unwrap_or_default()
    };
    assert_eq!(GROW, ["limit", "allow"]);
    assert_eq!(limits(&["limit = \"1/s\"", "limit = [\"none\", \"2/s\"]", "limit = \"3/s\""]), "[\"2/s\", \"3/s\"]");
    assert_eq!(limits(&["limit = [\"1/s\", \"none\", \"2/s\"]"]), "[\"2/s\"]");
    assert_eq!(limits(&["limit = \"1/s\"", "limit = \"none\""]), "");
}

#[test]
fn origins_are_the_tables_that_wrote() {
    let config = "[policy.edge]\nresponse = {}\n[route.r]\nmatch = \"/\"\nto = \"127.0.0.1:1\"\npolicy = \"edge\"\n[server]\nthreads = 1\n";
    let conf = good(config).conf;
    let route = &conf.route["r"];
    assert_eq!(conf.origin(route.place("response").start), "policy.edge");
    assert_eq!(conf.origin(route.place("match").start), "route.r");
    assert_eq!(conf.origin(conf.place("server.threads").start), "server");
}

#[test]
fn places_for_faults_that_are_found_later() {
    let loaded = good(&format!("[service.s]\nto = [\"10.0.0.1:1\", \"10.0.0.2:1\"]\n{ROUTE}"));
    let mut faults = Faults::new(loaded.sources.clone());
    let service = &loaded.conf.service["s"];
    faults.push(service.place("to[1]"), "service.s.to[1]", "no such host", Some("look again".into()));
    faults.push(service.place("to[1]"), "service.s.to[1]", "said twice", None);
    faults.push(service.place("tls.cert"), "service.s", "first in the file", None);
    assert_eq!(
        faults.lines().collect::<Vec<_>>(),
        ["a.toml:1:1: service.s: first in the file", "a.toml:2:21: service.s.to[1]: no such host; look again"]
    );
    assert_eq!(faults.one_line(), "a.toml:1:1: service.s: first in the file (and 1 more)");
}

#[test]
fn a_step_that_cannot_be_built_is_its_authors_fault() {
    let config = "[policy.edge]\nresponse = {}\n[route.r]\nmatch = \"/\"\nto = \"127.0.0.1:1\"\npolicy = \"edge\"\n";
    let loaded =
        good(&format!("{config}[route.s]\nmatch = \"/s\"\nto = \"127.0.0.1:1\"\nresponse = {{}}\npolicy = \"edge\"\n"));
    let mut faults = Faults::new(loaded.sources.clone());
    for path in ["route.r.response", "route.s.response", "route.s.to"] {
        faults.add(loaded.conf.fault(path, filters::filter::BuildError::new("no").hint("yes")));
    }
    assert_eq!(
        faults.lines().collect::<Vec<_>>(),
        ["a.toml:2:12: policy.edge.response: no; yes", "a.toml:9:6: route.s.to: no; yes"]
    );
}

#[test]
fn no_step_is_named_like_a_key_of_a_route() {
    let own = keys::<route::Conf>();
    for destination in DESTINATIONS {
        assert!(own.contains(destination), "`{destination}` is not a key of a route: {own:?}");
    }
    for key in Policy::KEYS {
        assert!(!own.contains(key), "the step `{key}` is also a key of a route");
    }
}

// ---- what must hold for any file ----

const DECENT: &str = include_str!("decent.toml");

#[test]
fn cut_anywhere_it_is_read_or_refused_with_a_place() {
    good(DECENT);
    for end in (0..DECENT.len()).filter(|&i| DECENT.is_char_boundary(i)) {
        let (loaded, faults) = text(&DECENT[..end]);
        assert!(loaded.is_some() || !faults.is_empty(), "cut at {end}");
        for line in faults.lines() {
            let place = line.strip_prefix("a.toml:").expect("a fault names its file");
            let mut numbers = place.splitn(3, ':').map(|n| n.parse::<usize>());
            assert!(matches!(numbers.next(), Some(Ok(1..))), "cut at {end}: {line}");
            assert!(matches!(numbers.next(), Some(Ok(1..))), "cut at {end}: {line}");
        }
    }
}

#[test]
fn every_misspelt_key_is_found() {
    let mut seen = 0;
    let mut offset = 0;
    for (n, line) in DECENT.lines().enumerate() {
        // the keys of this line: words before ` = `, and the first word of a header
        let header = line.starts_with('[').then_some(1);
        let keys = line.match_indices(" =").map(|(at, _)| line[..at].rfind([' ', '{', '.', ',']).map_or(0, |i| i + 1));
        for at in keys.chain(header).filter(|_| !line.starts_with('#')) {
            let mut wrong = DECENT.to_string();
            wrong.insert_str(offset + at, "qq");
            let (_, faults) = text(wrong.as_str());
            // names of headers and services are free to choose
            let free = line.contains("set = {") || line.starts_with("to = {");
            assert!(!faults.is_empty() || free, "line {}: {line}", n + 1);
            assert!(
                faults.is_empty() || faults.lines().any(|l| l.starts_with(&format!("a.toml:{}:", n + 1))) || free,
                "line {}: {line}\n{faults}",
                n + 1
            );
            seen += 1;
        }
        offset += line.len() + 1;
    }
    assert!(seen > 20, "only {seen} keys were tried");
}

#[test]
fn wrong_values_anywhere_never_panic() {
    for (n, line) in DECENT.lines().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        for value in [
            "[]",
            "{}",
            "\"\"",
            "-1",
            "1.5",
            "nan",
            "true",
            "[[[1]]]",
            "{ a = { b = [] } }",
            "1979-05-27",
            "\"\u{1}0..9\u{1}x\"",
        ] {
            let wrong: String = DECENT
                .lines()
                .enumerate()
                .map(|(i, l)| if i == n { format!("{key} = {value}\n") } else { format!("{l}\n") })
                .collect();
            let (_, faults) = text(wrong);
            assert!(faults.lines().all(|l| l.starts_with("a.toml:")), "{faults}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_bytes_are_read_or_refused(at in 0..DECENT.len(), cut in 0..9_usize, new in proptest::collection::vec(proptest::num::u8::ANY, 0..9)) {
        let mut bytes = DECENT.as_bytes().to_vec();
        bytes.splice(at..(at + cut).min(DECENT.len()), new);
        let (loaded, faults) = text(bytes);
        assert!(loaded.is_some() || !faults.is_empty());
        assert!(faults.lines().all(|l| l.starts_with("a.toml:")), "{faults}");
        let _ = faults.to_string();
    }
}

#[test]
fn defaults_are_told_apart() {
    let node = |toml: &str| {
        let mut loader = loader(false);
        loader.sources.parse("t", toml.into(), Path::new(""), &loader.outside, &mut loader.faults).expect("it parses")
    };
    let shown = |toml: &str| explain::defaults(&node(toml), &schema(), "server").to_string();
    assert!(shown("path.non_ascii = \"encode\"").contains("path.merge_slashes = true"), "{}", shown("path = {}"));
    assert!(!shown("path.merge_slashes = false").contains("path.merge_slashes"));
    assert!(shown("").contains("drain = \"30s\""), "{}", shown(""));

    let explained = good(DECENT).explain("users").expect("it is there").to_string();
    let explained: Vec<_> = explained.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "match = \"GET|POST api.example.com/v1/users/{id}\" # a.toml:44",
        "to.users = 95 # a.toml:45",
        "response.set.Strict-Transport-Security = \"max-age=31536000\" # a.toml:24",
        "size.body = \"1MB\" # a.toml:30",
        "size.mode = \"enforce\" # a.toml:47",
        "compress.min_size = \"2KiB\" # a.toml:29",
        "compress.algorithms = [\"zstd\", \"br\", \"gzip\"] # default",
        "cors.max_age = \"10m\" # default",
        "ip.mode = \"enforce\" # default",
    ] {
        assert!(explained.iter().any(|l| l == line), "{line} is not in {explained:#?}");
    }
}

#[test]
fn depth_is_bounded() {
    let (_, faults) = text(format!("a = {}1{}\n{ROUTE}", "[".repeat(10_000), "]".repeat(10_000)));
    assert!(!faults.is_empty());
    let (_, faults) = text(format!("{}b = 1\n{ROUTE}", "a.".repeat(10_000)));
    assert!(!faults.is_empty());
}

#[test]
fn thousands_of_tables() {
    let mut config = String::from("[policy.edge]\nresponse = {}\n");
    for i in 0..5000 {
        config += &format!("[service.s{i}]\nto = [\"10.0.0.1:8080\"]\n");
        config += &format!("[route.r{i}]\nmatch = \"/v1/r{i}\"\nto = \"s{i}\"\npolicy = \"edge\"\n");
    }
    assert_eq!(good(&config).conf.route.len(), 5000);
    let (_, faults) = text(config.replace("policy = ", "polcy = ").replace("to = \"s", "to = \"x"));
    assert_eq!(faults.len(), 10_000);
}

#[test]
fn schema_is_strict_and_knows_no_null() {
    fn walk(at: &str, v: &serde_json::Value, objects: &mut usize) {
        match v {
            serde_json::Value::Object(o) => {
                if o.get("properties").is_some_and(|p| p.is_object()) && at != "/properties" {
                    *objects += 1;
                    assert_eq!(o.get("additionalProperties"), Some(&false.into()), "{at} takes unknown keys");
                }
                if o.get("type").is_some_and(|t| t == "object") {
                    assert!(o.contains_key("additionalProperties"), "{at} says nothing about other keys");
                }
                assert_ne!(o.get("type"), Some(&"null".into()), "{at}");
                o.iter().for_each(|(k, v)| walk(&format!("{at}/{k}"), v, objects));
            }
            serde_json::Value::Array(a) => {
                a.iter().enumerate().for_each(|(i, v)| walk(&format!("{at}/{i}"), v, objects));
            }
            serde_json::Value::Null => panic!("{at} is null"),
            other => assert_ne!(other, "null", "{at}"),
        }
    }
    let schema = schema();
    let mut objects = 0;
    walk("", &schema, &mut objects);
    assert!(objects >= 6, "{objects}");
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    for section in ["version", "include", "server", "admin", "listen", "policy", "service", "route"] {
        assert!(!schema["properties"][section].is_null(), "{section}");
    }
    let route = &schema["definitions"]["Route"]["properties"];
    for key in keys::<route::Conf>().iter().chain(Policy::KEYS) {
        assert!(!route[key].is_null(), "{key} is missing from a route: {route:#}");
    }
}
