//! What a match costs as routes grow: an API of many resources, asked for hits and misses in turn. And what every request
//! pays for its canonical path.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use portcullis::path::{PathPolicy, canonical, host};
use portcullis::route::{Entry, Pattern, Routes};
use std::hint::black_box;

/// `n` routes over resources, as an API gateway has them: collections, items, sub-collections, some hosts, some methods.
fn routes(n: usize) -> Routes {
    let patterns = (0..n).map(|i| match i % 5 {
        0 => format!("/api/v1/resource-{i}"),
        1 => format!("GET /api/v1/resource-{i}/{{id}}"),
        2 => format!("/api/v1/resource-{i}/{{id}}/items/{{item}}"),
        3 => format!("host-{}.example.com/service-{i}/**", i % 97),
        _ => format!("GET|POST /api/v2/team-{}/resource-{i}/{{id}}", i % 50),
    });
    let entry = |(i, text): (usize, String)| Entry {
        name: format!("r{i}"),
        pattern: Pattern::parse(&text).expect("a pattern"),
        priority: 0,
        when: None,
    };
    Routes::build(patterns.enumerate().map(entry).collect()).expect("no clashes")
}

/// Requests spread over all routes, so that caches hold no more of the tree than they would in service.
fn requests(n: usize) -> Vec<(Method, String, String)> {
    let request = |k: usize| {
        let i = k.wrapping_mul(7919) % n;
        let (host, path) = match i % 5 {
            0 => ("api.example.com".into(), format!("/api/v1/resource-{i}")),
            1 => ("api.example.com".into(), format!("/api/v1/resource-{i}/8842")),
            2 => ("api.example.com".into(), format!("/api/v1/resource-{i}/8842/items/17")),
            3 => (format!("host-{}.example.com", i % 97), format!("/service-{i}/a/b/c.css")),
            _ => ("api.example.com".into(), format!("/api/v2/team-{}/resource-{i}/8842", i % 50)),
        };
        (Method::GET, host, path)
    };
    (0..4096).map(request).collect()
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    for n in [1, 100, 1_000, 10_000] {
        let routes = routes(n);
        let requests = requests(n);
        let mut next = requests.iter().cycle();
        group.bench_function(format!("{n} routes, hit"), |b| {
            b.iter(|| {
                let (method, host, path) = next.next().expect("a cycle");
                let found = routes.find(method, black_box(host), black_box(path), |_, _| true);
                assert!(found.is_ok());
                found
            })
        });
        let misses: Vec<_> = requests.iter().map(|(_, host, path)| (host, format!("{path}/none/x"))).collect();
        let mut next = misses.iter().filter(|(host, _)| host.starts_with("api")).cycle();
        if n > 1 {
            group.bench_function(format!("{n} routes, miss"), |b| {
                b.iter(|| {
                    let (host, path) = next.next().expect("a cycle");
                    let found = routes.find(&Method::GET, black_box(host), black_box(path), |_, _| true);
                    assert!(found.is_err());
                    found
                })
            });
        }
    }
    group.finish();
    c.bench_function("build 10,000 routes", |b| b.iter(|| routes(10_000)));
}

fn paths(c: &mut Criterion) {
    let policy = PathPolicy::default();
    let mut group = c.benchmark_group("path");
    for (name, target) in [
        ("canonical", "/api/v1/users/8842/orders?from=2024-01-01&limit=50"),
        ("canonical, escapes", "/files/Quarterly%20Report%20%C3%A9t%C3%A9.pdf"),
        ("rewritten", "/api//v1/./users/%7e8842/../orders?limit=50"),
        ("refused", "/api/v1/..%2f..%2fetc/passwd"),
    ] {
        group.bench_function(name, |b| b.iter(|| canonical(black_box(target.as_bytes()), &policy).is_ok()));
    }
    group.bench_function("host", |b| b.iter(|| host(black_box("api.example.com:8443"))));
    group.finish();
}

criterion_group!(benches, matching, paths);
criterion_main!(benches);
