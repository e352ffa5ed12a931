//! What one access log record costs the thread that serves the request: formatting and handing over.

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use portcullis::log::{Conf, Format, Logger, Record, Times, To};
use prometheus::IntCounter;
use std::hint::black_box;

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
        ),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("referer", "https://shop.example.com/products/overview"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn record(headers: &HeaderMap, nth: u64) -> Record<'_> {
    Record {
        wall: 1_760_000_000_000 + nth / 50,
        id: "0199c1f2a7b04c6d8e90a1b2c3d4e5f6",
        client: Some([192, 0, 2, 7].into()),
        peer: Some(([192, 0, 2, 7], 50123).into()),
        listener: "https",
        method: "GET",
        host: "shop.example.com",
        path: b"/v1/users/12345/orders/67890",
        query: Some("page=2&sort=date"),
        protocol: "HTTP/1.1",
        status: 200,
        bytes_out: 5120 + nth % 1000,
        headers: Some(headers),
        route: "users",
        service: "users-v2",
        endpoint: "10.0.1.17:8080",
        attempts: 1,
        upstream_status: 200,
        times: Times { total: 1_234_567, connect: Some(12_000), first_byte: Some(1_100_000), ..Times::default() },
        ..Record::default()
    }
}

/// Into `/dev/null`, with the writer at work on another core.
fn logging(c: &mut Criterion) {
    let headers = headers();
    for (name, format) in [("json", Format::Json), ("text", Format::Text)] {
        let dropped = IntCounter::new("dropped", "dropped").expect("a valid name");
        let conf = Conf { to: To::File("/dev/null".into()), format, ..Conf::default() };
        let log = Logger::start(&conf, 1, dropped.clone()).expect("/dev/null opens");
        let mut nth = 0;
        c.bench_function(&format!("log/{name}"), |b| {
            b.iter(|| {
                nth += 1;
                log.write(black_box(&record(&headers, nth)));
            });
        });
        println!("log/{name}: {} of {nth} records dropped", dropped.get());
    }
}

criterion_group!(benches, logging);
criterion_main!(benches);
