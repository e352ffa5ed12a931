//! What one decision of `limit` costs with a million clients counted: by address, by header, with several limits, for
//! newcomers, when the table is full, and with a second thread doing the same. At that size the memory is slower than the
//! arithmetic, so what the memory alone costs comes first.

use criterion::{Criterion, criterion_group, criterion_main};
use filters::Policy;
use filters::cx::Cx;
use filters::filter::BuildCx;
use filters::head::RequestHead;
use filters::keep::Keep;
use filters::pipeline::{Pipeline, Run};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const CLIENTS: u32 = 1_000_000;

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

/// Requests of many clients, one after the other.
struct Clients {
    pipeline: Arc<Pipeline>,
    head: RequestHead,
    cx: Cx,
    next: u32,
}

impl Clients {
    fn new(pipeline: &Arc<Pipeline>) -> Clients {
        let mut head = RequestHead::build("GET", b"/v1/users", None).expect("a target");
        for (name, value) in [("Host", "api.example.com"), ("X-Api-Key", "0123456789abcdef0123456789abcdef")] {
            head.insert_header(name, value).expect("a header");
        }
        Clients { pipeline: pipeline.clone(), head, cx: Cx::default(), next: 1 }
    }

    /// The next request: whose it is looks random, as the addresses of a million clients do.
    #[inline]
    fn ask(&mut self, of: u32) -> bool {
        self.next = self.next.wrapping_mul(2_654_435_761).wrapping_add(12345);
        self.one(((u64::from(self.next) * u64::from(of)) >> 32) as u32)
    }

    #[inline]
    fn one(&mut self, client: u32) -> bool {
        self.cx.ip = Ipv4Addr::from_bits(client).into();
        self.cx.now += 1000;
        let mut run = Run::default();
        let passed = self.pipeline.request(&mut run, &mut self.head, &mut self.cx).is_continue();
        self.pipeline.done(&mut run, &self.cx);
        if !self.cx.decisions.is_empty() {
            self.cx.decisions.clear();
        }
        passed
    }

    fn all(mut self, count: u32) -> Clients {
        (0..count).for_each(|client| _ = self.one(client));
        self
    }
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    for (name, toml, of) in [
        ("nothing", "", CLIENTS),
        ("one client", "limit = '1000/h burst 4000000000'", 1),
        ("a million clients", "limit = '1000/h burst 4000000000'", CLIENTS),
        ("a million clients, refused", "limit = { rate = '1/d', burst = 1 }", CLIENTS),
        ("by header", "limit = '1000/h per header.x-api-key burst 4000000000'", 1),
        ("two limits", "limit = ['1000/h burst 4000000000', '2000/h burst 4000000000']", CLIENTS),
        ("under way", "limit = { inflight = 20 }", CLIENTS),
    ] {
        let mut clients = Clients::new(&Arc::new(pipeline(toml))).all(of);
        group.bench_function(name, |b| b.iter(|| black_box(clients.ask(of))));
    }
    group.finish();
}

fn newcomers(c: &mut Criterion) {
    let mut group = c.benchmark_group("newcomers");
    for (name, toml, before) in [
        // Each is drained a millisecond, a thousand newcomers, later.
        ("soon drained", "limit = '1000/s burst 10'", 100_000),
        ("full table", "limit = { rate = '1000/h', burst = 4000000000, entries = 1000000 }", CLIENTS + CLIENTS / 8),
    ] {
        let mut clients = Clients::new(&Arc::new(pipeline(toml))).all(before);
        let mut client = before;
        group.bench_function(name, |b| {
            b.iter(|| {
                client = client.wrapping_add(1);
                black_box(clients.one(client))
            })
        });
    }
    group.finish();
}

fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("beside another thread");
    for (name, of) in [("one client", 1), ("a million clients", CLIENTS)] {
        let pipeline = Arc::new(pipeline("limit = '1000/h burst 4000000000'"));
        let mut clients = Clients::new(&pipeline).all(of);
        let stop = Arc::new(AtomicBool::new(false));
        let other = {
            let (stop, mut clients) = (stop.clone(), Clients::new(&pipeline));
            clients.next = 7;
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    black_box(clients.ask(of));
                }
            })
        };
        group.bench_function(name, |b| b.iter(|| black_box(clients.ask(of))));
        stop.store(true, Relaxed);
        other.join().expect("the other thread ends");
    }
    group.finish();
}

/// What no table of that size can beat: one counter anywhere in as many bytes as a million cells take.
fn memory(c: &mut Criterion) {
    let mut cells = vec![[1_u64; 4]; 1_600_000];
    let (mut next, mut seen) = (1_u64, 0);
    c.bench_function("memory alone", |b| {
        b.iter(|| {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1 + (seen & 2));
            let i = ((u128::from(next) * cells.len() as u128) >> 64) as usize;
            cells[i][0] += 1;
            seen = cells[i][0];
            black_box(seen)
        })
    });
}

criterion_group!(benches, memory, decisions, newcomers, two_threads);
criterion_main!(benches);
