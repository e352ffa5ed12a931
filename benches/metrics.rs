//! What counting one request costs the thread that serves it, and what one scrape of many routes costs.

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::metrics::Metrics;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn counting(c: &mut Criterion) {
    let metrics = Metrics::new(2);
    let route = Arc::new(metrics.route("users", &["v1", "v2"]));
    let request = |nth: u64| {
        route.entered();
        route.done(Some(1), 200, black_box(1_000_000 + nth % 1024), 0, 5120);
        route.left();
    };
    let mut nth = 0;
    c.bench_function("metrics/request", |b| {
        b.iter(|| {
            nth += 1;
            request(nth);
        });
    });
    // The same route counted by another thread all the while.
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut nth = 0;
            while !stop.load(Relaxed) {
                nth += 1;
                request(nth);
            }
        });
        c.bench_function("metrics/request, two threads", |b| {
            b.iter(|| {
                nth += 1;
                request(nth);
            });
        });
        stop.store(true, Relaxed);
    });
}

fn scraping(c: &mut Criterion) {
    let metrics = Metrics::new(2);
    let routes: Vec<_> = (0..1000).map(|nth| metrics.route(&format!("route-{nth}"), &["users"])).collect();
    routes.iter().for_each(|route| route.done(Some(0), 200, 1_000_000, 0, 5120));
    c.bench_function("metrics/scrape, 1000 routes", |b| {
        b.iter(|| {
            let mut out = vec![];
            metrics.write(&[], &[], 0, &mut out);
            out.len()
        });
    });
}

criterion_group!(benches, counting, scraping);
criterion_main!(benches);
