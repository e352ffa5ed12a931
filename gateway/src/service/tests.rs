//! Configuration and the pool as a whole. The parts have their own tests.

use super::*;
use crate::service::conf::{Breaker as BreakerConf, Eject};
use filters::short::Short;
use filters::units::Span;
use std::time::Duration;

const S: u64 = 1_000_000_000;
const OK: Outcome = Outcome::Success { latency: 1_000_000 };

pub fn conf(toml: &str) -> Conf {
    toml::from_str(toml).unwrap_or_else(|e| panic!("{toml}: {e}"))
}

/// A service of this configuration, and what keeps its counts.
pub fn pool(toml: &str) -> (Arc<Pool>, Keep) {
    let keep = Keep::default();
    (built(toml, &keep), keep)
}

fn built(toml: &str, keep: &Keep) -> Arc<Pool> {
    Pool::build("s", &conf(toml), keep).unwrap_or_else(|e| panic!("{toml}: {e:?}"))
}

fn faults(toml: &str) -> Vec<String> {
    match Pool::build("s", &conf(toml), &Keep::default()) {
        Ok(_) => vec![],
        Err(all) => all.into_iter().map(|f| f.why).collect(),
    }
}

fn tried() -> Tried {
    Tried::new()
}

fn picked(pool: &Pool, now: u64) -> String {
    let lease = pool.pick(None, &tried(), now);
    lease.map_or_else(|e| format!("{e:?}"), |l| l.endpoint().name.to_string())
}

#[test]
fn lines_and_tables_say_the_same() {
    let c = conf(
        "to = [\"10.0.0.1:80 x3\", { addr = \"[::1]:80\", backup = true }, \"unix:/run/a.sock\", \"App.Test:80\"]\n\
         health = \"HEAD /ok?a=b every 1s\"\neject = \"3 errors for 30s\"\nbreaker = \"50% of 20 in 10s open 15s\"\n\
         timeout = { connect = \"1s\" }\nretry = { tries = 3, on = [\"connect\", \"502\", \"5xx\"] }\n\
         max = { inflight = 5, queue = 2 }\ntls = false\nhash = \"header.x-user\"\nbalance = \"hash\"",
    );
    let to: Vec<_> = c.to.iter().map(|t| t.get_ref()).map(|t| (t.addr.to_string(), t.weight.0, t.backup)).collect();
    let want =
        [("10.0.0.1:80", 3, false), ("[::1]:80", 1, true), ("unix:/run/a.sock", 1, false), ("app.test:80", 1, false)];
    assert_eq!(to, want.map(|(a, w, b)| (a.to_string(), w, b)));
    let health = &c.health.expect("written").0;
    assert_eq!((health.path.as_deref(), &*health.method, health.every), (Some("/ok?a=b"), "HEAD", Span::secs(1)));
    assert_eq!(c.eject.expect("written").0.lasts, Span::secs(30));
    assert_eq!(c.breaker.expect("written").0, BreakerConf::default());
    assert_eq!(c.retry.tries(), 3);
    assert!(c.tls.0.is_none() && conf("to = \"a:1\"\ntls = true").tls.0.is_some_and(|t| t.verify));
    assert_eq!(Health::line("tcp").expect("a valid line").path, None);
}

#[test]
fn wrong_lines_name_the_wrong_word() {
    let at = |r: Result<Target, filters::short::Bad>| r.map(|_| ()).map_err(|b| b.at);
    let rows: [(&str, std::ops::Range<usize>); 12] = [
        ("", 0..0),
        ("10.0.0.1", 0..8),
        ("10.0.0.1:0", 0..10),
        ("10.0.0.1:99999", 9..14),
        ("10.0.0.256:80", 0..10),
        ("::1:80", 0..3),
        ("https://a.test:80", 0..8),
        ("unix:relative", 5..13),
        ("a..b:80", 0..4),
        ("a:80 x0", 5..7),
        ("a:80 3", 5..6),
        ("a:80 x2 spare", 8..13),
    ];
    for (text, range) in rows {
        assert_eq!(at(Target::line(text)), Err(range), "{text}");
    }
    for text in ["5 errors", "0 errors for 1s", "x errors for 1s", "5 errors for 1"] {
        assert!(Eject::line(text).is_err(), "{text}");
    }
    for text in ["", "/healthz", "GET", "GET healthz", "GET /a each 5s", "GET /a every 5", "GET /a every 5s now"] {
        assert!(Health::line(text).is_err(), "{text}");
    }
    for text in ["50%", "50 of 20 in 10s open 15s", "50% of 0 in 10s open 15s"] {
        assert!(BreakerConf::line(text).is_err(), "{text}");
    }
    for text in
        ["to = \"a:1\"\nwat = 1", "to = \"a:1\"\nretry = { tries = 9 }", "to = \"a:1\"\nretry = { on = [\"404\"] }"]
    {
        assert!(toml::from_str::<Conf>(text).is_err(), "{text}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let rows = [
        ("to = []", "names no endpoint"),
        ("to = \"10.0.0.1:1 backup\"", "only backups"),
        ("to = [\"10.0.0.1:1\", \"10.0.0.1:1 x2\"]", "stands here twice"),
        ("to = \"10.0.0.1:1\"\nbalance = \"hash\"", "needs a key"),
        ("to = \"10.0.0.1:1\"\nhash = \"ip\"", "without effect"),
        ("to = \"10.0.0.1:1\"\ntls = true", "needs a host name to verify"),
        ("to = \"a.test:1\"\ntls = { sni = \"\" }", "expected a host name"),
        ("to = \"a.test:1\"\ntls = { cert = \"/none\" }", "expected `key` beside it"),
        ("to = \"a.test:1\"\ntls = { ca = \"/none\" }", "cannot read /none"),
        ("to = \"a.test:1\"\nproto = \"h2\"", "needs `tls`"),
        ("to = \"a.test:1\"\nproto = \"h2c\"\ntls = true", "without TLS"),
        ("to = \"a.test:1\"\ntimeout = { idle = \"0s\" }", "above 0"),
        ("to = \"a.test:1\"\nmax = { inflight = 0 }", "above 0"),
        ("to = \"a.test:1\"\nhealth = { path = \"x\" }", "expected a path"),
        ("to = \"a.test:1\"\nhealth = { host = \"a b\" }", "expected a host"),
    ];
    for (toml, want) in rows {
        let got = faults(toml);
        assert!(got.len() == 1 && got[0].contains(want), "{toml}: {got:?}");
    }
    let all = faults("to = \"10.0.0.1:1\"\nbalance = \"hash\"\nproto = \"h2c\"\ntls = { ca = \"/none\" }");
    assert_eq!(all.len(), 4, "all at once: {all:?}");
    assert_eq!(faults("to = \"10.0.0.1:1\"\ntls = { verify = false }"), [""; 0]);
    assert_eq!(faults("to = \"10.0.0.1:1\"\ntls = { sni = \"a.test\" }"), [""; 0]);
}

#[test]
fn a_routes_tables_stand_over_the_services() {
    let service =
        conf("to = \"a:1\"\ntimeout = { connect = \"1s\", idle = \"9s\" }\nretry = { tries = 3, on = [\"503\"] }");
    let route = conf("to = \"a:1\"\ntimeout = { idle = \"5s\" }\nretry = { methods = [\"POST\"] }");
    let (timeout, retry) = (route.timeout.over(&service.timeout), route.retry.over(&service.retry));
    assert_eq!((timeout.connect(), timeout.idle()), (Duration::from_secs(1), Duration::from_secs(5)));
    assert_eq!((timeout.first_byte(), timeout.total()), (Duration::from_secs(15), None));
    assert_eq!(retry.tries(), 3);
    assert!(retry.allows(Outcome::Status(503), "POST", true));
    assert!(!retry.allows(Outcome::Status(503), "GET", true), "the list of methods replaces the default");
    assert!(!retry.allows(Outcome::ConnectFailed, "POST", false), "`on` replaces the default");
    let default = Retry::default();
    assert!(default.allows(Outcome::ConnectFailed, "POST", false), "nothing was sent");
    assert!(!default.allows(Outcome::Status(503), "GET", true));
}

#[test]
fn peers_have_every_timeout_and_the_right_protocol() {
    let (p, _keep) =
        pool("to = \"10.0.0.1:80\"\ntimeout = { connect = \"1s\", first_byte = \"90s\" }\nkeepalive = \"7s\"");
    let lease = p.pick(None, &tried(), S).expect("one endpoint");
    let options = lease.peer().options;
    let secs = |d: Option<Duration>| d.expect("never endless").as_secs();
    assert_eq!((secs(options.connection_timeout), secs(options.total_connection_timeout)), (1, 2));
    assert_eq!((secs(options.read_timeout), secs(options.write_timeout), secs(options.idle_timeout)), (90, 60, 7));
    let route = Timeout { idle: Some(Span::secs(100)), ..Timeout::default() };
    assert_eq!(secs(lease.peer_within(&route.over(p.timeout())).options.read_timeout), 100);

    let peer = |toml: &str| {
        let (pool, _keep) = pool(toml);
        pool.core
            .shared
            .resolved
            .lock()
            .addresses
            .insert("a.test:1".into(), vec!["10.0.0.1:1".parse().expect("valid")]);
        pool.renew();
        pool.pick(None, &tried(), S).expect("one endpoint").peer()
    };
    let plain = peer("to = \"a.test:1\"");
    assert_eq!((plain.is_tls(), &*plain.sni, plain.options.alpn.get_max_http_version()), (false, "", 1));
    let h2c = peer("to = \"a.test:1\"\nproto = \"h2c\"");
    assert_eq!((h2c.is_tls(), h2c.options.alpn.get_min_http_version(), h2c.options.max_h2_streams), (false, 2, 128));
    let tls = peer("to = \"a.test:1\"\nproto = \"auto\"\ntls = true");
    assert_eq!(
        (tls.is_tls(), &*tls.sni, tls.options.verify_cert, tls.options.verify_hostname),
        (true, "a.test", true, true)
    );
    assert_eq!((tls.options.alpn.get_min_http_version(), tls.options.alpn.get_max_http_version()), (1, 2));
    let bare = peer("to = \"a.test:1\"\ntls = { verify = false, sni = \"b.test\" }");
    assert_eq!((&*bare.sni, bare.options.verify_cert), ("b.test", false));
    assert_ne!(tls.group_key, bare.group_key, "connections that were made differently are not shared");
    assert_ne!(plain.group_key, h2c.group_key);
}

#[test]
fn a_lease_counts_until_it_is_dropped() {
    let (p, _keep) = pool("to = \"10.0.0.1:80\"");
    let mut a = p.pick(None, &tried(), S).expect("one endpoint");
    let b = p.pick(None, &tried(), S).expect("one endpoint");
    assert_eq!(p.endpoints(S)[0].inflight, 2);
    a.report(OK, S);
    drop((a, b));
    let end = &p.endpoints(S)[0];
    assert_eq!((end.inflight, end.requests), (0, 2));
    assert!(end.ewma > 0);
}

#[test]
fn counts_outlive_a_reload_and_failed_builds_touch_nothing() {
    let keep = Keep::default();
    let old = built("to = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\neject = \"1 error for 30s\"", &keep);
    let mut lease = old.pick(None, &tried(), S).expect("an endpoint");
    lease.report(Outcome::Reset, S);
    let dead = lease.endpoint().name.clone();
    let new = built("to = [\"10.0.0.1:80\", \"10.0.0.2:80\", \"10.0.0.3:80\"]", &keep);
    let seen = new.endpoints(2 * S).into_iter().find(|e| e.name == dead).expect("the same address");
    assert!(seen.ejected && seen.inflight == 1);
    assert!((0..50).all(|_| picked(&new, 2 * S) != dead.as_str()));
    drop(lease);
    assert!(new.endpoints(2 * S).iter().all(|e| e.inflight == 0));
    assert!(Pool::build("s", &conf("to = []"), &keep).is_err());
    assert!((0..50).all(|_| picked(&new, 2 * S) != dead.as_str()));
}

#[test]
fn ejected_ones_are_avoided_until_too_many_are() {
    let (p, _keep) = pool("to = [\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\"]\neject = \"1 error for 30s\"");
    let fail = |name: &str| {
        let set = p.set.load();
        let endpoint = set.endpoints.iter().find(|e| e.name == name).expect("a known one").clone();
        endpoint.state.begin();
        Lease { endpoint, pass: Pass::Free, reported: false }.report(Outcome::ConnectFailed, S);
    };
    fail("10.0.0.1:1");
    assert!((0..99).all(|_| picked(&p, S) != "10.0.0.1:1"));
    fail("10.0.0.2:1");
    assert!(p.status(2 * S).panic, "two of three are more than half");
    let some = |name: &str| (0..999).any(|_| picked(&p, 2 * S) == name);
    assert!(some("10.0.0.1:1") && some("10.0.0.2:1") && some("10.0.0.3:1"));
    assert!(!p.status(32 * S).panic, "their time is over");
}

#[test]
fn backups_serve_only_when_nothing_else_can() {
    let (p, _keep) = pool("to = [\"10.0.0.1:1\", \"10.0.0.9:1 backup\"]");
    assert!((0..99).all(|_| picked(&p, S) == "10.0.0.1:1"));
    let mut met = tried();
    p.pick(None, &met, S).expect("an endpoint").note(&mut met);
    let second = p.pick(None, &met, S).expect("an endpoint");
    assert_eq!(second.endpoint().name, "10.0.0.9:1", "a second try goes elsewhere");
    second.note(&mut met);
    assert!(p.pick(None, &met, S).is_ok(), "all were tried: any is better than none");
    let set = p.set.load();
    set.endpoints[0].state.set_healthy(false, S);
    p.core.changed();
    assert!((0..99).all(|_| picked(&p, S) == "10.0.0.9:1"));
    set.endpoints[1].state.set_healthy(false, S);
    p.core.changed();
    assert_eq!(picked(&p, S), "NoneUsable", "an active check is a verdict");
}

#[test]
fn the_breaker_refuses_and_unused_probes_are_given_back() {
    let (p, _keep) = pool("to = \"10.0.0.1:1\"\nbreaker = { share = \"50%\", of = 2, open = \"15s\", probes = 1 }");
    for _ in 0..2 {
        p.pick(None, &tried(), S).expect("closed").report(Outcome::Status(500), S);
    }
    assert_eq!(p.pick(None, &tried(), 2 * S).err(), Some(NoEndpoint::BreakerOpen { left: 14 * S }));
    drop(p.pick(None, &tried(), 16 * S).expect("a probe, whose client went away"));
    let mut probe = p.pick(None, &tried(), 16 * S).expect("another probe");
    assert_eq!(p.pick(None, &tried(), 16 * S).err(), Some(NoEndpoint::BreakerOpen { left: 0 }));
    probe.report(OK, 16 * S);
    assert_eq!(p.status(16 * S).breaker, Some(Phase::Closed));
}

#[test]
fn retries_stay_within_the_budget() {
    let (p, _keep) = pool("to = \"10.0.0.1:1\"\nretry = { budget = \"20%\" }");
    let granted = |now| (0..1000).filter(|_| p.may_retry(now)).count();
    assert_eq!(granted(S), 10, "the free ones");
    (0..500).for_each(|_| drop(p.pick(None, &tried(), S)));
    assert_eq!(granted(S), 100, "a fifth of 500");
    assert_eq!(granted(12 * S), 10, "the window has passed");
}

#[tokio::test(start_paused = true)]
async fn admission_is_bounded_across_generations() {
    let keep = Keep::default();
    let toml = "to = \"10.0.0.1:1\"\nmax = { inflight = 1 }";
    let (old, new) = (built(toml, &keep), built(toml, &keep));
    let place = old.admit().await.expect("room");
    assert_eq!(new.admit().await.err(), Some(Busy::Full));
    drop(place);
    assert!(new.admit().await.is_ok());
    let (free, _keep) = pool("to = \"10.0.0.1:1\"");
    assert!(free.admit().await.is_ok());
}

#[test]
fn certificates_and_keys_must_be_there_and_match() {
    let dir = std::env::temp_dir().join(format!("portcullis-service-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a writable temporary directory");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a writable directory");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).expect("a certificate");
        write(&format!("{name}.pem"), &made.cert.pem());
        write(&format!("{name}.key"), &made.signing_key.serialize_pem());
    }
    write("none.pem", "not PEM\n");
    let tls = |ca: &str, cert: &str, key: &str| {
        let path = |name: &str| dir.join(name).display().to_string();
        format!("to = \"a.test:1\"\ntls = {{ ca = {:?}, cert = {:?}, key = {:?} }}", path(ca), path(cert), path(key))
    };
    assert_eq!(faults(&tls("a.pem", "a.pem", "a.key")), [""; 0]);
    let mismatch = faults(&tls("a.pem", "a.pem", "b.key"));
    assert!(mismatch.len() == 1 && mismatch[0].contains("does not belong to the certificate"), "{mismatch:?}");
    let all = faults(&tls("none.pem", "none.pem", "a.pem"));
    assert_eq!(all.iter().filter(|f| f.contains("found no certificate")).count(), 2, "{all:?}");
    assert!(all.iter().any(|f| f.contains("found no private key")), "{all:?}");
    let group = |toml: &str| Template::build(&conf(toml), &mut vec![]).inet(([127, 0, 0, 1], 1).into(), None).group_key;
    assert_ne!(group(&tls("a.pem", "a.pem", "a.key")), group(&tls("b.pem", "a.pem", "a.key")), "another CA");
    std::fs::remove_dir_all(&dir).expect("it is there");
}

#[test]
fn relative_files_are_seen_from_the_configuration() {
    let mut conf = conf("to = \"h:1\"\ntls = { ca = \"tls/ca.pem\", cert = \"/etc/a.pem\", key = \"a.key\" }");
    conf.settle(std::path::Path::new("/srv/edge"));
    let tls = conf.tls.0.expect("it is on");
    let files = [tls.ca, tls.cert, tls.key].map(|file| file.expect("it is named").into_inner());
    assert_eq!(files, ["/srv/edge/tls/ca.pem", "/etc/a.pem", "/srv/edge/a.key"]);
}
