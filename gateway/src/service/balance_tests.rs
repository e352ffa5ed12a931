use super::super::endpoint::State;
use super::super::outcome::Outcome;
use super::super::tests;
use super::super::{Core, conf};
use super::*;
use pingora::upstreams::peer::HttpPeer;
use proptest::prelude::*;

const S: u64 = 1_000_000_000;

/// Endpoints of these weights; `true` for a backup.
fn endpoints(of: &[(u32, bool)]) -> Vec<Arc<Endpoint>> {
    let (pool, _keep) = tests::pool("to = \"10.0.0.1:1\"");
    let core: Arc<Core> = pool.core.clone();
    let one = |(i, (weight, backup)): (usize, &(u32, bool))| {
        Arc::new(Endpoint {
            name: format!("10.0.{}.{}:80", i / 256, i % 256).into(),
            written: "".into(),
            weight: *weight,
            backup: *backup,
            state: Arc::new(State::new(false)),
            core: core.clone(),
            peer: HttpPeer::new(("10.0.0.1", 80), false, String::new()),
        })
    };
    of.iter().enumerate().map(one).collect()
}

fn equal(count: usize) -> Vec<Arc<Endpoint>> {
    endpoints(&vec![(1, false); count])
}

fn rule(balance: Balance) -> Rule {
    Rule { balance, panic: 0.5, slow_start: 0 }
}

/// How often each was picked.
fn counts(all: &[Arc<Endpoint>], view: &View, by: &By, times: usize) -> Vec<usize> {
    let (mut draws, mut counts) = (Draws(7), vec![0; all.len()]);
    for _ in 0..times {
        counts[view.pick(all, by, &Tried::new(), S, &mut draws).expect("an endpoint")] += 1;
    }
    counts
}

fn eject(endpoint: &Endpoint, now: u64) {
    let conf = conf::Eject { errors: 1, ..conf::Eject::unwritten() };
    assert!(endpoint.state.report(&conf, Outcome::ConnectFailed, now));
}

#[test]
fn random_and_p2c_respect_weights() {
    let all = endpoints(&[(1, false), (2, false), (7, false)]);
    for (balance, by) in [(Balance::Random, By::Random), (Balance::P2c, By::P2c)] {
        let got = counts(&all, &View::build(&all, &rule(balance), 0, S), &by, 100_000);
        for (got, want) in got.iter().zip([10_000.0, 20_000.0, 70_000.0]) {
            assert!((*got as f64 - want).abs() < 1_500.0, "{balance:?}: {got} of {want}");
        }
    }
}

#[test]
fn p2c_prefers_the_less_loaded_and_the_faster() {
    let all = equal(2);
    (0..5).for_each(|_| all[0].state.begin());
    let view = View::build(&all, &rule(Balance::P2c), 0, S);
    let got = counts(&all, &view, &By::P2c, 10_000);
    assert!(got[1] > 9_700 && got[0] > 20, "the loaded one is looked at now and then: {got:?}");

    let all = equal(2);
    let conf = conf::Eject::unwritten();
    all[0].state.report(&conf, Outcome::Success { latency: 50_000_000 }, S);
    all[1].state.report(&conf, Outcome::Success { latency: 1_000_000 }, S);
    let got = counts(&all, &View::build(&all, &rule(Balance::P2c), 0, S), &By::P2c, 10_000);
    assert!(got[1] > 9_700, "{got:?}");
}

#[test]
fn least_conn_takes_the_idlest_for_its_weight() {
    let all = endpoints(&[(1, false), (4, false), (1, false)]);
    (0..2).for_each(|_| all[1].state.begin());
    all[0].state.begin();
    all[2].state.begin();
    let view = View::build(&all, &rule(Balance::LeastConn), 0, S);
    assert_eq!(counts(&all, &view, &By::LeastConn, 50), [0, 50, 0], "3/4 is less than 2/1");
    let all = equal(1000);
    all.iter().take(900).for_each(|e| e.state.begin());
    let got = counts(&all, &View::build(&all, &rule(Balance::LeastConn), 0, S), &By::LeastConn, 1000);
    assert!(got[900..].iter().sum::<usize>() > 700, "1 - 0.9^16 of the picks find an idle one");
}

#[test]
fn slow_start_gives_a_growing_share() {
    let all = equal(2);
    all[0].state.set_healthy(false, S);
    all[0].state.set_healthy(true, 10 * S);
    let rule = Rule { balance: Balance::RoundRobin, panic: 0.5, slow_start: 10 * S };
    let share = |now| {
        let view = View::build(&all, &rule, 0, now);
        (counts(&all, &view, &By::RoundRobin(&AtomicU64::new(0)), 1100)[0] as f64 / 1100.0, view.until)
    };
    let (at_first, until) = share(10 * S);
    assert!((at_first - 0.1 / 1.1).abs() < 0.01, "{at_first}");
    assert!(until < 11 * S, "the share grows soon");
    assert!((share(15 * S).0 - 0.5 / 1.5).abs() < 0.01);
    assert_eq!(share(20 * S), (0.5, u64::MAX));
}

#[test]
fn the_view_ends_when_an_ejection_does() {
    let all = equal(4);
    eject(&all[2], S);
    let view = View::build(&all, &rule(Balance::P2c), 0, S);
    assert_eq!((view.count(), view.until), (3, 11 * S));
    assert_eq!(View::build(&all, &rule(Balance::P2c), 0, 11 * S).count(), 4);
}

#[test]
fn a_stale_view_offers_no_dead_endpoint() {
    for (balance, ring) in [(Balance::P2c, false), (Balance::Random, false), (Balance::Hash, true)] {
        let all = equal(20);
        let view = View::build(&all, &rule(balance), 0, S);
        all[..19].iter().for_each(|e| eject(e, S));
        let ring = if ring { Ring::new(&all) } else { Ring::default() };
        let by = |key| match balance {
            Balance::Hash => By::Hash(&ring, Some(key)),
            Balance::P2c => By::P2c,
            _ => By::Random,
        };
        let mut draws = Draws(1);
        assert!((0..200).all(|k| view.pick(&all, &by(k), &Tried::new(), S, &mut draws) == Some(19)), "{balance:?}");
    }
}

fn owners(all: &[Arc<Endpoint>], keys: u64) -> Vec<String> {
    let (view, ring) = (View::build(all, &rule(Balance::Hash), 0, S), Ring::new(all));
    let mut draws = Draws(1);
    let mut owner = |key| view.pick(all, &By::Hash(&ring, Some(key)), &Tried::new(), S, &mut draws).expect("one");
    (0..keys).map(|key| all[owner(key)].name.to_string()).collect()
}

#[test]
fn one_of_a_hundred_moves_a_hundredth_of_the_keys() {
    let all = equal(100);
    let before = owners(&all, 100_000);
    let gone = all[41].name.to_string();
    let fewer: Vec<_> = all.iter().filter(|e| e.name != gone.as_str()).cloned().collect();
    let after = owners(&fewer, 100_000);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!((700..1300).contains(&moved), "{moved} of 100000");
    assert!(before.iter().zip(&after).all(|(a, b)| a == b || *a == gone), "only the keys of the one that left");

    eject(&all[41], S);
    assert_eq!(owners(&all, 100_000), after, "one that is out for a while moves the same keys");
}

#[test]
fn keys_spread_by_weight() {
    let mut of = vec![(1, false); 20];
    of[3].0 = 5;
    let got = owners(&endpoints(&of), 100_000);
    let count = |name: &str| got.iter().filter(|o| *o == name).count() as f64;
    assert!((count("10.0.0.3:80") - 100_000.0 * 5.0 / 24.0).abs() < 4_000.0);
    assert!((1..20).filter(|i| *i != 3).all(|i| (2_800.0..5_800.0).contains(&count(&format!("10.0.0.{i}:80")))));
}

#[test]
fn a_big_ring_is_bounded() {
    let ring = Ring::new(&endpoints(&vec![(1000, false); 300]));
    let count = ring.points.len() as u64;
    assert!(count <= MOST_POINTS && count > MOST_POINTS / 4, "{count}");
}

#[test]
fn the_ring_is_entered_where_a_search_would() {
    for count in [0, 1, 2, 100] {
        let ring = Ring::new(&equal(count));
        for key in 0..10_000 {
            let at = ring.points.partition_point(|(point, _)| *point < mix::one(key));
            let slow = ring.points[at..].iter().chain(&ring.points).next().map(|(_, i)| *i as usize);
            assert_eq!(ring.walk(key).next(), slow, "key {key} among {count}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_wheel_gives_every_weight_its_turns_and_spreads_them(weights in prop::collection::vec(1u32..20, 1..12)) {
        let all = endpoints(&weights.iter().map(|w| (*w, false)).collect::<Vec<_>>());
        let view = View::build(&all, &rule(Balance::RoundRobin), 0, S);
        let turn = AtomicU64::new(0);
        let by = By::RoundRobin(&turn);
        let divisor = weights.iter().fold(0, |a, b| gcd(a as u64, *b as u64) as u32);
        let total: u32 = weights.iter().map(|w| w / divisor).sum();
        let got = counts(&all, &view, &by, total as usize);
        let want: Vec<usize> = weights.iter().map(|w| (w / divisor) as usize).collect();
        prop_assert_eq!(got, want, "one round is exactly fair");
        // In every prefix each has what it is due, give or take the number of endpoints that may crowd in front.
        for prefix in 1..=total as usize {
            let turn = AtomicU64::new(0);
            let part = counts(&all, &view, &By::RoundRobin(&turn), prefix);
            for (got, weight) in part.iter().zip(&weights) {
                let due = prefix as f64 * (*weight / divisor) as f64 / total as f64;
                prop_assert!((*got as f64 - due).abs() <= 2.5, "{} of {due} after {prefix}: {weights:?}", got);
            }
        }
    }

    #[test]
    fn nothing_dead_is_picked_while_something_lives(
        states in prop::collection::vec((1u32..9, any::<bool>(), 0u8..3), 1..40),
        seed: u64,
        kind in 0usize..5,
    ) {
        let all = endpoints(&states.iter().map(|(w, backup, _)| (*w, *backup)).collect::<Vec<_>>());
        for (endpoint, (_, _, state)) in all.iter().zip(&states) {
            match state {
                0 => {}
                1 => eject(endpoint, S),
                _ => { endpoint.state.set_healthy(false, S); }
            }
        }
        let balances = [Balance::P2c, Balance::RoundRobin, Balance::LeastConn, Balance::Hash, Balance::Random];
        let rule = Rule { balance: balances[kind], panic: 0.999, slow_start: 0 };
        let (view, ring, turn) = (View::build(&all, &rule, 0, S), Ring::new(&all), AtomicU64::new(seed));
        let by = [By::P2c, By::RoundRobin(&turn), By::LeastConn, By::Hash(&ring, Some(seed)), By::Random];
        let mut draws = Draws(seed);
        let primary = all.iter().any(|e| !e.backup && e.state.usable(S));
        let any = all.iter().any(|e| e.state.usable(S));
        for _ in 0..20 {
            let picked = view.pick(&all, &by[kind], &Tried::new(), S, &mut draws);
            match picked.map(|i| &all[i]) {
                Some(e) => {
                    prop_assert!(e.state.healthy(), "the active checks have the last word");
                    prop_assert!(!any || e.state.usable(S));
                    prop_assert!(!primary || !e.backup);
                }
                None => prop_assert!(all.iter().all(|e| !e.state.healthy())),
            }
        }
    }

    #[test]
    fn the_alias_table_has_the_weights(weights in prop::collection::vec(1u32..1000, 2..50)) {
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let mut got = vec![0.0; weights.len()];
        match Weights::new(&weights) {
            Weights::Equal(count) => got = vec![1.0 / count as f64; count],
            Weights::Alias(columns) => for (i, (own, other, _)) in columns.iter().enumerate() {
                let own = *own as f64 / u32::MAX as f64;
                got[i] += own / columns.len() as f64;
                got[*other as usize] += (1.0 - own) / columns.len() as f64;
            },
        }
        let sum: f64 = weights.iter().sum();
        for (got, weight) in got.iter().zip(&weights) {
            prop_assert!((got - weight / sum).abs() < 1e-6, "{got} for {weight} of {sum}");
        }
    }
}
