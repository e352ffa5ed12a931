//! What each step costs a request on its way in and out, by its own example; all of them together; and what the
//! expression language, keys and long address lists cost. Thousands of distinct requests, so that nothing stays warm that
//! would not in service. Bodies are not part of it, so `compress` stands for its decision alone.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use filters::cx::Cx;
use filters::expr::{Expr, Key, Template, View};
use filters::filter::BuildCx;
use filters::head::{RequestHead, ResponseHead};
use filters::keep::Keep;
use filters::pipeline::{Pipeline, Run};
use filters::{KINDS, Policy};
use std::hint::black_box;
use std::net::Ipv4Addr;

const REQUESTS: usize = 4096;

fn pipeline(toml: &str) -> Pipeline {
    let policy: Policy = toml::from_str(toml).expect("a policy");
    let (keep, mut faults) = (Keep::default(), vec![]);
    let cx = BuildCx {
        keep: &keep,
        origin: &|_| "bench".into(),
        route: "bench",
        captures: &[],
        sources: &Default::default(),
    };
    let pipeline = Pipeline::build(&policy, &cx, &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    pipeline
}

/// What a browser sends to an API, and what the gateway knows of it.
fn requests() -> Vec<(RequestHead, Cx)> {
    let one = |i: usize| {
        let target = format!("/v1/users/{}/orders?page={}&v=2", i * 7919, i % 50);
        let mut head = RequestHead::build("GET", target.as_bytes(), None).expect("a target");
        let session = format!("theme=dark; session={:016x}; seen=1", i.wrapping_mul(0x9e37_79b9));
        for (name, value) in [
            ("Host", "api.example.com"),
            ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            ("Accept", "application/json, text/plain, */*"),
            ("Accept-Language", "en-US,en;q=0.5"),
            ("Accept-Encoding", "gzip, deflate, br, zstd"),
            ("Origin", "https://app.example.com"),
            ("X-Beta", "1"),
            ("Cookie", &session),
        ] {
            head.insert_header(name.to_string(), value).expect("a header");
        }
        let ip = Ipv4Addr::from_bits(0x0a00_0000 | ((i as u32).wrapping_mul(2_654_435_761) >> 8));
        let mut cx = Cx::new(0, 1_704_067_200_000, ip.into());
        cx.host = "api.example.com".into();
        cx.route = "users".into();
        (head, cx)
    };
    (0..REQUESTS).map(one).collect()
}

fn response() -> ResponseHead {
    let mut head = ResponseHead::build(200, None).expect("a status");
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("Content-Length", "512"),
        ("Server", "origin/1.0"),
        ("ETag", "\"5f3c\""),
        ("Cache-Control", "private, max-age=0"),
    ] {
        head.insert_header(name, value).expect("a header");
    }
    head
}

fn steps(c: &mut Criterion) {
    let requests = requests();
    let all = KINDS.iter().map(|k| k.example).collect::<Vec<_>>().join("\n");
    let examples = KINDS.iter().map(|k| (k.key, k.example)).chain([("nothing", ""), ("all", &all)]);
    let mut group = c.benchmark_group("steps");
    for (name, example) in examples {
        let (pipeline, mut next) = (pipeline(example), 0);
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    next = (next + 1) % REQUESTS;
                    let (head, mut cx) = (requests[next].0.clone(), Cx::default());
                    (cx.ip, cx.host, cx.route) =
                        (requests[next].1.ip, requests[next].1.host.clone(), requests[next].1.route.clone());
                    (head, cx, response())
                },
                |(head, cx, response)| {
                    let mut run = Run::default();
                    let passed = pipeline.request(&mut run, head, cx).is_continue();
                    pipeline.response(&mut run, response, head, cx);
                    pipeline.done(&mut run, cx);
                    passed
                },
                // As many as stay in the cache: in service the head was parsed a moment ago.
                BatchSize::NumIterations(32),
            )
        });
    }
    group.finish();
}

fn expressions(c: &mut Criterion) {
    let requests = requests();
    let mut group = c.benchmark_group("expr");
    let mut over = |name: &str, look: &dyn Fn(&View) -> u64| {
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % REQUESTS;
                let (head, cx) = &requests[next];
                black_box(look(&View { head, cx }))
            })
        });
    };
    for text in [
        "header.x-beta == '1' and query.v in ['2','3']",
        "ip in ['10.0.0.0/9', '192.168.0.0/16']",
        "cookie.session starts 'a' or method != 'GET'",
        "path matches '^/v[0-9]+/users/[0-9]+/orders$'",
    ] {
        let expr = Expr::parse(text).expect("an expression");
        over(text, &|view| u64::from(expr.test(view)));
    }
    for text in ["ip", "cookie.session", "ip+route"] {
        let key = Key::parse(text).expect("a key");
        over(&format!("key {text}"), &|view| key.hash(view, 42));
    }
    let template = Template::parse("https://{host}{path}?from={header.x-beta}", Some(&[])).expect("a template");
    over("template", &|view| template.text(view).len() as u64);
    group.finish();
}

fn long_lists(c: &mut Criterion) {
    let requests = requests();
    let mut group = c.benchmark_group("ip.deny");
    for blocks in [1_u32, 100, 100_000] {
        let one = |i: u32| format!("'{}/28'", Ipv4Addr::from_bits(0xc000_0000 | (i.wrapping_mul(40_503) << 6)));
        let list = (0..blocks).map(one).collect::<Vec<_>>().join(",");
        let (pipeline, mut next) = (pipeline(&format!("ip.deny = [{list}]")), 0);
        let mut head = requests[0].0.clone();
        let mut cx = Cx::default();
        group.bench_function(blocks.to_string(), |b| {
            b.iter(|| {
                next = (next + 1) % REQUESTS;
                cx.ip = requests[next].1.ip;
                pipeline.request(&mut Run::default(), &mut head, &mut cx).is_continue()
            })
        });
    }
    group.finish();
}

criterion_group!(benches, steps, expressions, long_lists);
criterion_main!(benches);
