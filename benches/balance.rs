//! What choosing an endpoint costs: pick, report and drop, for each balance and for 1, 100 and 10,000 endpoints, and with
//! a second thread doing the same.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use filters::expr::Key;
use filters::keep::Keep;
use filters::short::Short;
use portcullis::service::{Balance, Conf, Outcome, Pool, Target, Tried};
use serde_spanned::Spanned;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

fn pool(balance: Balance, endpoints: u32) -> Arc<Pool> {
    let target = |i: u32| {
        let line = format!("10.{}.{}.{}:80", i >> 16 & 255, i >> 8 & 255, i & 255);
        Spanned::new(0..0, Target::line(&line).expect("an address"))
    };
    let mut conf = Conf::single(target(0));
    conf.to.0.extend((1..endpoints).map(target));
    conf.balance = balance;
    conf.hash = (balance == Balance::Hash).then(|| Spanned::new(0..0, Key::ip()));
    Pool::build("bench", &conf, &Keep::default()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn once(pool: &Pool, now: u64) {
    let mut lease = pool.pick(Some(now), &Tried::new(), now).expect("an endpoint");
    lease.report(Outcome::Success { latency: 1_000_000 + now % 1000 }, now);
    black_box(lease);
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    let all = [Balance::P2c, Balance::RoundRobin, Balance::LeastConn, Balance::Hash, Balance::Random];
    for balance in all {
        for endpoints in [1, 100, 10_000] {
            let (pool, mut now) = (pool(balance, endpoints), 1_000_000_000);
            group.bench_function(BenchmarkId::new(format!("{balance:?}"), endpoints), |b| {
                b.iter(|| {
                    now += 1_000;
                    once(&pool, now);
                })
            });
        }
    }
    group.finish();
}

fn beside_another_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick beside a second thread");
    for endpoints in [1, 100, 10_000] {
        let (pool, stop) = (pool(Balance::P2c, endpoints), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut now = 1_000_000_000;
                while !stop.load(Relaxed) {
                    now += 1_000;
                    once(&pool, now);
                }
            });
            let mut now = 1_000_000_000;
            group.bench_function(BenchmarkId::from_parameter(endpoints), |b| {
                b.iter(|| {
                    now += 1_000;
                    once(&pool, now);
                })
            });
            stop.store(true, Relaxed);
        });
    }
    group.finish();
}

fn peer(c: &mut Criterion) {
    let pool = pool(Balance::P2c, 100);
    let lease = pool.pick(None, &Tried::new(), 1).expect("an endpoint");
    c.bench_function("peer", |b| b.iter(|| black_box(lease.peer())));
}

criterion_group!(benches, pick, beside_another_thread, peer);
criterion_main!(benches);
