//! Counters and histograms for Prometheus, with bounded labels.
//!
//! What is counted per request lies in cells of the counting thread and is added up when somebody looks, so counting
//! costs no cache line that another thread also writes. Whoever counts holds the cells, and `Metrics` only knows them:
//! when the last generation with a route is gone, its series are gone, and a reload that keeps the name keeps the counts.

mod process;
mod text;

use crate::listen::Stat;
use crate::log;
use ahash::AHashMap;
use filters::cx::Decision;
use filters::units::Mode;
use parking_lot::{Mutex, RwLock};
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use text::Exposition;

/// Upper bounds of the latency buckets, in nanoseconds: half a millisecond to half a minute.
const BOUNDS: [u64; 15] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// More rules than this on one route are counted together as rule `other`.
const RULES: usize = 256;
/// More endpoints than this of one service have no series of their own.
const ENDPOINTS: usize = 256;

/// Everything that is counted. One per process; survives reloads.
pub struct Metrics {
    registry: Registry,
    shards: usize,
    routes: Names<RouteCells>,
    services: Names<Sharded<ServiceCell>>,
    certs: Mutex<Vec<Expiry>>,
    reloads: IntCounterVec,
    generation: IntGauge,
    last_reload: IntGauge,
    last_reload_ok: IntGauge,
    mirrored: IntCounterVec,
    /// Access log records that were lost.
    pub log_dropped: IntCounter,
}

/// Living cells by the name of what they count.
type Names<T> = Mutex<BTreeMap<SmolStr, Weak<T>>>;

/// When a certificate ends.
#[derive(Debug, Clone)]
pub struct Expiry {
    pub listener: SmolStr,
    /// A name that the certificate is for.
    pub name: SmolStr,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

/// What a service's pool says about itself at this moment.
#[derive(Debug, Default, Clone)]
pub struct PoolStats {
    pub service: SmolStr,
    pub inflight: u64,
    pub queued: u64,
    pub ejections: u64,
    pub breaker: Breaker,
    pub endpoints: Vec<EndpointStats>,
}

/// Where a breaker stands; exposed as 0, 1, 2.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    #[default]
    Closed,
    HalfOpen,
    Open,
}

/// One endpoint of a pool.
#[derive(Debug, Default, Clone)]
pub struct EndpointStats {
    pub addr: SmolStr,
    /// The health checks say so, or there are none.
    pub healthy: bool,
    pub ejected: bool,
    pub inflight: u64,
}

impl Metrics {
    /// `threads` is how many threads serve requests.
    pub fn new(threads: usize) -> Metrics {
        let registry = Registry::new();
        let m = Metrics {
            shards: threads.clamp(1, 16),
            routes: Names::default(),
            services: Names::default(),
            certs: Mutex::default(),
            reloads: IntCounterVec::new(Opts::new("portcullis_reloads_total", "Reloads, by result"), &["result"])
                .expect("valid names"),
            mirrored: IntCounterVec::new(
                Opts::new(
                    "portcullis_mirrored_total",
                    "Copies of requests, by the service they were for and what became of them",
                ),
                &["service", "result"],
            )
            .expect("valid names"),
            generation: gauge("portcullis_generation", "The number of the running configuration, from 1"),
            last_reload: gauge("portcullis_config_last_reload_timestamp_seconds", "When a reload was last tried"),
            last_reload_ok: gauge("portcullis_config_last_reload_success", "1: the last reload was taken; 0: rejected"),
            log_dropped: IntCounter::new("portcullis_log_dropped_total", "Access log records that were lost")
                .expect("a valid name"),
            registry,
        };
        let all: [Box<dyn prometheus::core::Collector>; 6] = [
            Box::new(m.mirrored.clone()),
            Box::new(m.reloads.clone()),
            Box::new(m.generation.clone()),
            Box::new(m.last_reload.clone()),
            Box::new(m.last_reload_ok.clone()),
            Box::new(m.log_dropped.clone()),
        ];
        for one in all {
            m.registry.register(one).expect("each name once");
        }
        for result in ["ok", "rejected"] {
            m.reloads.with_label_values(&[result]);
        }
        m
    }

    /// The counters of a route, for one generation. `services` are those it may send to; a request is counted under
    /// its place in that list. The route `""` counts what had none.
    pub fn route(&self, name: &str, services: &[&str]) -> RouteMetrics {
        let cells = named(&self.routes, name, || RouteCells::new(self.shards));
        let by_service = std::iter::once("").chain(services.iter().copied());
        let by_service = by_service.map(|s| named(&cells.by_service, s, || Sharded::new(self.shards))).collect();
        RouteMetrics { cells, by_service }
    }

    /// The counters of a service.
    pub fn service(&self, name: &str) -> ServiceMetrics {
        ServiceMetrics(named(&self.services, name, || Sharded::new(self.shards)))
    }

    /// The certificates in use, all of them.
    pub fn certs(&self, all: Vec<Expiry>) {
        *self.certs.lock() = all;
    }

    /// A copy of a request was `sent`, or `failed`, `dropped`, `unavailable` or `too_large`.
    pub fn mirrored(&self, service: &str, result: &str) {
        self.mirrored.with_label_values(&[service, result]).inc();
    }

    /// A configuration began to serve; the first one is no reload.
    pub fn loaded(&self, generation: u64, wall_ms: u64) {
        self.generation.set(generation as i64);
        self.last_reload.set((wall_ms / 1000) as i64);
        self.last_reload_ok.set(1);
        if generation > 1 {
            self.reloads.with_label_values(&["ok"]).inc();
        }
    }

    /// A reload was rejected.
    pub fn rejected(&self, wall_ms: u64) {
        self.last_reload.set((wall_ms / 1000) as i64);
        self.last_reload_ok.set(0);
        self.reloads.with_label_values(&["rejected"]).inc();
    }

    /// Appends all series in the text format of Prometheus (version 0.0.4).
    pub fn write(&self, pools: &[PoolStats], listeners: &[Stat], wall_ms: u64, out: &mut Vec<u8>) {
        let mut e = Exposition::new(out);
        self.write_routes(&mut e);
        self.write_services(&mut e);
        write_pools(&mut e, pools);
        write_listeners(&mut e, listeners);
        self.write_certs(&mut e, wall_ms);
        e.family("portcullis_build_info", "gauge", "The version that runs");
        e.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        process::write(&mut e);
        // Encoding fails only when writing does, and a Vec takes everything.
        let _ = TextEncoder::new().encode(&self.registry.gather(), out);
    }
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}

/// The cells of that name; new ones if no living generation has them.
fn named<T>(names: &Names<T>, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
    let mut names = names.lock();
    if let Some(living) = names.get(name).and_then(Weak::upgrade) {
        return living;
    }
    let new = Arc::new(make());
    names.insert(name.into(), Arc::downgrade(&new));
    new
}

/// The living ones, in order; forgets the others.
fn living<T>(names: &Names<T>) -> Vec<(SmolStr, Arc<T>)> {
    let mut all = vec![];
    names.lock().retain(|name, cells| match cells.upgrade() {
        Some(cells) => {
            all.push((name.clone(), cells));
            true
        }
        None => false,
    });
    all
}

/// Which cell is this thread's: threads are numbered as they first count.
pub(crate) fn slot() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: usize = THREADS.fetch_add(1, Relaxed);
    }
    SLOT.with(|slot| *slot)
}

/// A cell for each thread, made when it first counts: ten thousand routes without traffic cost little.
struct Sharded<C>(Box<[OnceLock<Box<C>>]>);

impl<C: Default> Sharded<C> {
    fn new(shards: usize) -> Sharded<C> {
        Sharded((0..shards).map(|_| OnceLock::new()).collect())
    }
    fn mine(&self) -> &C {
        self.0[slot() % self.0.len()].get_or_init(Box::default)
    }
    fn used(&self) -> bool {
        self.0.iter().any(|cell| cell.get().is_some())
    }
    fn sum(&self, counter: impl Fn(&C) -> &AtomicU64) -> u64 {
        self.0.iter().filter_map(OnceLock::get).map(|c| counter(c).load(Relaxed)).sum()
    }
    /// Up in one thread and down in another is still level.
    fn level(&self, gauge: impl Fn(&C) -> &AtomicI64) -> i64 {
        self.0.iter().filter_map(OnceLock::get).map(|c| gauge(c).load(Relaxed)).sum::<i64>().max(0)
    }
}

/// Counts the requests of one route.
pub struct RouteMetrics {
    cells: Arc<RouteCells>,
    by_service: Box<[Arc<Sharded<ClassCell>>]>,
}

struct RouteCells {
    cells: Sharded<RouteCell>,
    by_service: Names<Sharded<ClassCell>>,
    refusals: RwLock<Refusals>,
}

#[repr(align(128))]
#[derive(Default)]
struct RouteCell {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    total_ns: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    inflight: AtomicI64,
}

#[repr(align(64))]
#[derive(Default)]
struct ClassCell([AtomicU64; CLASSES.len()]);

/// By step and mode, then by rule: so that a lookup needs no owned text.
#[derive(Default)]
struct Refusals {
    by_step: AHashMap<(&'static str, bool), AHashMap<Cow<'static, str>, AtomicU64>>,
    rules: usize,
}

impl RouteCells {
    fn new(shards: usize) -> RouteCells {
        RouteCells { cells: Sharded::new(shards), by_service: Names::default(), refusals: RwLock::default() }
    }
}

impl RouteMetrics {
    /// A request took this route. [`left`](Self::left) must follow, whatever happens: call it where the request's
    /// context is dropped.
    pub fn entered(&self) {
        self.cells.cells.mine().inflight.fetch_add(1, Relaxed);
    }

    pub fn left(&self) {
        self.cells.cells.mine().inflight.fetch_sub(1, Relaxed);
    }

    /// A request is over. `service` is its place in the route's list, `None` if the gateway answered; the status is 0
    /// if there was no answer.
    pub fn done(&self, service: Option<usize>, status: u16, ns: u64, bytes_in: u64, bytes_out: u64) {
        let class = match status / 100 {
            hundred @ 1..=5 => usize::from(hundred),
            _ => 0,
        };
        let by_service = self.by_service.get(service.map_or(0, |s| s + 1)).unwrap_or(&self.by_service[0]);
        by_service.mine().0[class].fetch_add(1, Relaxed);
        let cell = self.cells.cells.mine();
        let bucket = BOUNDS.iter().position(|&bound| ns <= bound).unwrap_or(BOUNDS.len());
        cell.buckets[bucket].fetch_add(1, Relaxed);
        cell.total_ns.fetch_add(ns, Relaxed);
        if bytes_in > 0 {
            cell.bytes_in.fetch_add(bytes_in, Relaxed);
        }
        if bytes_out > 0 {
            cell.bytes_out.fetch_add(bytes_out, Relaxed);
        }
    }

    /// A step refused, or would have.
    pub fn refused(&self, decision: &Decision) {
        let key = (decision.step, decision.mode == Mode::Enforce);
        let count = |refusals: &Refusals, rule: &str| {
            let counter = refusals.by_step.get(&key).and_then(|rules| rules.get(rule));
            counter.inspect(|c| _ = c.fetch_add(1, Relaxed)).is_some()
        };
        if count(&self.cells.refusals.read(), &decision.rule) {
            return;
        }
        let mut refusals = self.cells.refusals.write();
        let rule = if refusals.rules < RULES { decision.rule.clone() } else { Cow::Borrowed("other") };
        if !count(&refusals, &rule) {
            refusals.by_step.entry(key).or_default().insert(rule, AtomicU64::new(1));
            refusals.rules += 1;
        }
    }
}

/// Counts what happens with a service's upstream connections.
pub struct ServiceMetrics(Arc<Sharded<ServiceCell>>);

#[repr(align(64))]
#[derive(Default)]
struct ServiceCell {
    new: AtomicU64,
    reused: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
}

impl ServiceMetrics {
    /// A request got its upstream connection.
    pub fn connected(&self, reused: bool) {
        let cell = self.0.mine();
        if reused { &cell.reused } else { &cell.new }.fetch_add(1, Relaxed);
    }
    /// A connection could not be made.
    pub fn failed(&self) {
        self.0.mine().failed.fetch_add(1, Relaxed);
    }
    /// A request is sent again.
    pub fn retried(&self) {
        self.0.mine().retries.fetch_add(1, Relaxed);
    }
}

impl Metrics {
    fn write_routes(&self, e: &mut Exposition<'_>) {
        let routes = living(&self.routes);
        e.family("portcullis_requests_total", "counter", "Requests, by route, service and class of status");
        for (route, cells) in &routes {
            for (service, classes) in living(&cells.by_service) {
                for (nth, class) in CLASSES.iter().enumerate() {
                    let n = classes.sum(|c| &c.0[nth]);
                    if n > 0 {
                        e.sample("", &[("route", route), ("service", &service), ("status", class)], n);
                    }
                }
            }
        }
        // A route that never had a request has no series: ten thousand idle routes are two hundred thousand lines.
        let used: Vec<_> = routes.iter().filter(|(_, r)| r.cells.used()).collect();
        e.family("portcullis_request_duration_seconds", "histogram", "From the request's head to the response's end");
        for (route, r) in &used {
            write_histogram(e, route, &r.cells);
        }
        e.family("portcullis_requests_inflight", "gauge", "Requests under way");
        for (route, r) in &used {
            e.sample("", &[("route", route)], r.cells.level(|c| &c.inflight) as u64);
        }
        e.family("portcullis_request_bytes_total", "counter", "Bytes of request bodies");
        for (route, r) in &used {
            e.sample("", &[("route", route)], r.cells.sum(|c| &c.bytes_in));
        }
        e.family("portcullis_response_bytes_total", "counter", "Bytes of response bodies");
        for (route, r) in &used {
            e.sample("", &[("route", route)], r.cells.sum(|c| &c.bytes_out));
        }
        e.family("portcullis_refusals_total", "counter", "What a step refused, or in mode observe would have");
        for (route, r) in &routes {
            for ((step, enforced), rules) in &r.refusals.read().by_step {
                let mode = log::mode(if *enforced { Mode::Enforce } else { Mode::Observe });
                for (rule, n) in rules {
                    let labels = [("route", route.as_str()), ("step", step), ("rule", rule), ("mode", mode)];
                    e.sample("", &labels, n.load(Relaxed));
                }
            }
        }
    }

    fn write_services(&self, e: &mut Exposition<'_>) {
        let services = living(&self.services);
        e.family("portcullis_upstream_connections_total", "counter", "Upstream connections that requests asked for");
        for (service, cells) in &services {
            for (result, n) in [
                ("new", cells.sum(|c| &c.new)),
                ("reused", cells.sum(|c| &c.reused)),
                ("failed", cells.sum(|c| &c.failed)),
            ] {
                e.sample("", &[("service", service), ("result", result)], n);
            }
        }
        e.family("portcullis_upstream_retries_total", "counter", "Requests that were sent again");
        for (service, cells) in &services {
            e.sample("", &[("service", service)], cells.sum(|c| &c.retries));
        }
    }

    fn write_certs(&self, e: &mut Exposition<'_>, wall_ms: u64) {
        e.family("portcullis_cert_expiry_seconds", "gauge", "Until a certificate ends; negative once it has ended");
        for cert in self.certs.lock().iter() {
            let left = cert.not_after - (wall_ms / 1000) as i64;
            e.sample("", &[("listener", &cert.listener), ("name", &cert.name)], left);
        }
    }
}

fn write_histogram(e: &mut Exposition<'_>, route: &str, cells: &Sharded<RouteCell>) {
    let mut upto = 0;
    for (nth, le) in LE.iter().enumerate() {
        upto += cells.sum(|c| &c.buckets[nth]);
        e.sample("_bucket", &[("route", route), ("le", le)], upto);
    }
    e.sample("_sum", &[("route", route)], cells.sum(|c| &c.total_ns) as f64 / 1e9);
    e.sample("_count", &[("route", route)], upto);
}

/// [`BOUNDS`] in seconds, as text.
const LE: [&str; BOUNDS.len() + 1] = [
    "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30",
    "+Inf",
];

fn write_listeners(e: &mut Exposition<'_>, listeners: &[Stat]) {
    let mut each = |name, kind, help, value: &dyn Fn(&Stat) -> u64| {
        e.family(name, kind, help);
        for l in listeners {
            e.sample("", &[("listener", &l.listener), ("address", &l.addr)], value(l));
        }
    };
    each("portcullis_connections", "gauge", "Open client connections", &|l| l.connections as u64);
    each("portcullis_connections_accepted_total", "counter", "Client connections that were let in", &|l| l.accepted);
    each("portcullis_connections_over_limit_total", "counter", "Connections closed since there were too many", &|l| {
        l.over_limit
    });
    each("portcullis_proxy_headers_refused_total", "counter", "Connections closed for their PROXY header", &|l| {
        l.preambles_refused
    });
    each("portcullis_tls_handshakes_failed_total", "counter", "TLS handshakes that failed", &|l| l.handshakes_failed);
    each("portcullis_accept_errors_total", "counter", "Connections that the system could not give", &|l| {
        l.accept_errors
    });
}

fn write_pools(e: &mut Exposition<'_>, pools: &[PoolStats]) {
    let mut each = |name, kind, help, value: &dyn Fn(&PoolStats) -> u64| {
        e.family(name, kind, help);
        for pool in pools {
            e.sample("", &[("service", &pool.service)], value(pool));
        }
    };
    each("portcullis_service_inflight", "gauge", "Requests that a service has in hand", &|p| p.inflight);
    each("portcullis_service_queued", "gauge", "Requests that wait for a free slot of a service", &|p| p.queued);
    each("portcullis_ejections_total", "counter", "Endpoints that were taken out after errors", &|p| p.ejections);
    each("portcullis_breaker_state", "gauge", "0: closed, 1: half open, 2: open", &|p| p.breaker as u64);
    e.family("portcullis_endpoints", "gauge", "Endpoints of a service, by state");
    for pool in pools {
        let count = |of: &dyn Fn(&EndpointStats) -> bool| pool.endpoints.iter().filter(|p| of(p)).count() as u64;
        for (state, n) in [
            ("up", count(&|p| p.healthy && !p.ejected)),
            ("down", count(&|p| !p.healthy)),
            ("ejected", count(&|p| p.healthy && p.ejected)),
        ] {
            e.sample("", &[("service", &pool.service), ("state", state)], n);
        }
    }
    e.family("portcullis_endpoint_up", "gauge", "1: the endpoint takes requests");
    for pool in pools {
        for p in pool.endpoints.iter().take(ENDPOINTS) {
            let up = u64::from(p.healthy && !p.ejected);
            e.sample("", &[("service", &pool.service), ("endpoint", &p.addr)], up);
        }
    }
    e.family("portcullis_endpoint_inflight", "gauge", "Requests that an endpoint has in hand");
    for pool in pools {
        for p in pool.endpoints.iter().take(ENDPOINTS) {
            e.sample("", &[("service", &pool.service), ("endpoint", &p.addr)], p.inflight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn text(m: &Metrics, pools: &[PoolStats], listeners: &[Stat]) -> String {
        let mut out = vec![];
        m.write(pools, listeners, 1_000_000, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn line<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '))
    }

    fn refusal(rule: impl Into<Cow<'static, str>>, mode: Mode) -> Decision {
        Decision { step: "limit", rule: rule.into(), mode, reason: "".into() }
    }

    #[test]
    fn a_request_is_counted_once_everywhere() {
        let m = Metrics::new(2);
        let route = m.route("users", &["v1", "v2"]);
        route.entered();
        route.entered();
        route.left();
        route.done(Some(1), 200, 3_000_000, 10, 20);
        route.done(None, 404, 500_000, 0, 5);
        route.done(Some(0), 0, 40_000_000_000, 0, 0);
        let all = text(&m, &[], &[]);
        for (series, value) in [
            ("portcullis_requests_total{route=\"users\",service=\"v2\",status=\"2xx\"}", "1"),
            ("portcullis_requests_total{route=\"users\",service=\"\",status=\"4xx\"}", "1"),
            ("portcullis_requests_total{route=\"users\",service=\"v1\",status=\"other\"}", "1"),
            ("portcullis_request_duration_seconds_bucket{route=\"users\",le=\"0.0005\"}", "1"),
            ("portcullis_request_duration_seconds_bucket{route=\"users\",le=\"0.0025\"}", "1"),
            ("portcullis_request_duration_seconds_bucket{route=\"users\",le=\"0.005\"}", "2"),
            ("portcullis_request_duration_seconds_bucket{route=\"users\",le=\"30\"}", "2"),
            ("portcullis_request_duration_seconds_bucket{route=\"users\",le=\"+Inf\"}", "3"),
            ("portcullis_request_duration_seconds_sum{route=\"users\"}", "40.0035"),
            ("portcullis_request_duration_seconds_count{route=\"users\"}", "3"),
            ("portcullis_requests_inflight{route=\"users\"}", "1"),
            ("portcullis_request_bytes_total{route=\"users\"}", "10"),
            ("portcullis_response_bytes_total{route=\"users\"}", "25"),
        ] {
            assert_eq!(line(&all, series), Some(value), "{series}\n{all}");
        }
    }

    #[test]
    fn the_bounds_are_what_they_are_called() {
        for (ns, le) in BOUNDS.iter().zip(LE) {
            assert_eq!(le.parse::<f64>().unwrap(), *ns as f64 / 1e9);
        }
    }

    #[test]
    fn counts_of_all_threads_add_up() {
        let m = Metrics::new(4);
        let route = m.route("r", &["s"]);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| (0..1000).for_each(|_| route.done(Some(0), 200, 1, 0, 0)));
            }
        });
        let all = text(&m, &[], &[]);
        let series = "portcullis_requests_total{route=\"r\",service=\"s\",status=\"2xx\"}";
        assert_eq!(line(&all, series), Some("8000"));
    }

    #[test]
    fn a_reload_keeps_counts_and_drops_what_is_gone() {
        let m = Metrics::new(1);
        let old = (m.route("stays", &["a"]), m.route("goes", &["a"]));
        old.0.done(Some(0), 200, 1, 0, 0);
        old.1.done(Some(0), 200, 1, 0, 0);
        let new = m.route("stays", &["b", "a"]);
        drop(old);
        new.done(Some(1), 200, 1, 0, 0);
        let all = text(&m, &[], &[]);
        let series = "portcullis_requests_total{route=\"stays\",service=\"a\",status=\"2xx\"}";
        assert_eq!(line(&all, series), Some("2"));
        assert!(!all.contains("goes"), "{all}");
        drop(new);
        assert!(!text(&m, &[], &[]).contains("stays"));
    }

    #[test]
    fn refusals_are_counted_by_rule_up_to_a_bound() {
        let m = Metrics::new(1);
        let route = m.route("r", &[]);
        for _ in 0..3 {
            route.refused(&refusal("a \"quoted\"\nrule", Mode::Enforce));
        }
        route.refused(&refusal("a", Mode::Observe));
        for nth in 0..100_000 {
            route.refused(&refusal(nth.to_string(), Mode::Enforce));
        }
        let all = text(&m, &[], &[]);
        let series = |rule, mode| {
            format!("portcullis_refusals_total{{route=\"r\",step=\"limit\",rule=\"{rule}\",mode=\"{mode}\"}}")
        };
        assert_eq!(line(&all, &series("a \\\"quoted\\\"\\nrule", "enforce")), Some("3"));
        assert_eq!(line(&all, &series("a", "observe")), Some("1"));
        assert_eq!(line(&all, &series("other", "enforce")), Some((100_000 - (RULES - 2)).to_string().as_str()));
        assert_eq!(all.matches("portcullis_refusals_total{").count(), RULES + 1);
    }

    #[test]
    fn services_listeners_pools_reloads() {
        let m = Metrics::new(2);
        let service = m.service("users");
        service.connected(false);
        service.connected(true);
        service.connected(true);
        service.failed();
        service.retried();
        let listener = Stat {
            listener: "https".into(),
            addr: "[::]:443".into(),
            connections: 1,
            accepted: 2,
            over_limit: 3,
            preambles_refused: 4,
            handshakes_failed: 5,
            accept_errors: 6,
        };
        m.certs(vec![Expiry { listener: "https".into(), name: "a.example".into(), not_after: 900 }]);
        m.loaded(1, 5000);
        m.loaded(2, 6000);
        m.rejected(7000);
        let endpoints = (0..300).map(|nth| EndpointStats {
            addr: format!("10.0.0.{nth}:80").into(),
            healthy: nth != 0,
            ejected: nth == 1,
            inflight: nth,
        });
        let pool = PoolStats {
            service: "users".into(),
            breaker: Breaker::Open,
            ejections: 4,
            endpoints: endpoints.collect(),
            ..PoolStats::default()
        };
        let all = text(&m, &[pool], &[listener]);
        for (series, value) in [
            ("portcullis_upstream_connections_total{service=\"users\",result=\"new\"}", "1"),
            ("portcullis_upstream_connections_total{service=\"users\",result=\"reused\"}", "2"),
            ("portcullis_upstream_connections_total{service=\"users\",result=\"failed\"}", "1"),
            ("portcullis_upstream_retries_total{service=\"users\"}", "1"),
            ("portcullis_connections{listener=\"https\",address=\"[::]:443\"}", "1"),
            ("portcullis_connections_accepted_total{listener=\"https\",address=\"[::]:443\"}", "2"),
            ("portcullis_connections_over_limit_total{listener=\"https\",address=\"[::]:443\"}", "3"),
            ("portcullis_proxy_headers_refused_total{listener=\"https\",address=\"[::]:443\"}", "4"),
            ("portcullis_tls_handshakes_failed_total{listener=\"https\",address=\"[::]:443\"}", "5"),
            ("portcullis_accept_errors_total{listener=\"https\",address=\"[::]:443\"}", "6"),
            ("portcullis_cert_expiry_seconds{listener=\"https\",name=\"a.example\"}", "-100"),
            ("portcullis_breaker_state{service=\"users\"}", "2"),
            ("portcullis_ejections_total{service=\"users\"}", "4"),
            ("portcullis_endpoints{service=\"users\",state=\"up\"}", "298"),
            ("portcullis_endpoints{service=\"users\",state=\"ejected\"}", "1"),
            ("portcullis_endpoint_up{service=\"users\",endpoint=\"10.0.0.1:80\"}", "0"),
            ("portcullis_endpoint_inflight{service=\"users\",endpoint=\"10.0.0.9:80\"}", "9"),
            ("portcullis_reloads_total{result=\"ok\"}", "1"),
            ("portcullis_reloads_total{result=\"rejected\"}", "1"),
            ("portcullis_generation", "2"),
            ("portcullis_config_last_reload_success", "0"),
            ("portcullis_config_last_reload_timestamp_seconds", "7"),
            ("portcullis_log_dropped_total", "0"),
        ] {
            assert_eq!(line(&all, series), Some(value), "{series}\n{all}");
        }
        assert_eq!(all.matches("portcullis_endpoint_up{").count(), ENDPOINTS);
        let rss: u64 = line(&all, "process_resident_memory_bytes").unwrap().parse().unwrap();
        assert!(rss > 1 << 20);
        let fds: u64 = line(&all, "process_open_fds").unwrap().parse().unwrap();
        let most: u64 = line(&all, "process_max_fds").unwrap().parse().unwrap();
        assert!(fds > 2 && most >= fds);
    }

    #[test]
    fn every_series_stands_once_under_its_family_and_in_the_docs() {
        let m = Metrics::new(1);
        let route = m.route("r", &["s"]);
        route.done(Some(0), 200, 1, 0, 0);
        route.refused(&refusal("a", Mode::Enforce));
        let _keep = m.service("s");
        let pool = PoolStats { endpoints: vec![EndpointStats::default()], ..PoolStats::default() };
        let all = text(&m, &[pool], &[]);
        let docs = include_str!("../../docs/metrics.md");
        let (mut families, mut series) = (HashSet::new(), HashSet::new());
        let mut family = "";
        for l in all.lines() {
            if let Some(rest) = l.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert!(families.insert(family), "{family} twice");
                assert!(docs.contains(&format!("`{family}`")), "{family} is not in docs/metrics.md");
            } else if !l.starts_with('#') {
                assert!(l.starts_with(family), "{l} is not of {family}");
                let (name, value) = l.rsplit_once(' ').unwrap();
                assert!(series.insert(name), "{name} twice");
                assert!(value.parse::<f64>().is_ok(), "{l}");
            }
        }
    }
}
