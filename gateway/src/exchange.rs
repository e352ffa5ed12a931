//! One request from its head to its log record: what Pingora's hooks share.
//!
//! Its surprise is `Drop`: Pingora skips `logging()` when a request's future is dropped, so the record, the metrics and
//! the end of the filters are done by the exchange itself, exactly once, at the latest when it is dropped.

use crate::deadline::Watch;
use crate::destination::Leg;
use crate::house::House;
use crate::id::Trace;
use crate::listen::Conn;
use crate::log::{self, Record};
use crate::metrics::RouteMetrics;
use crate::service::{Lease, Place, Tried};
use crate::table::{Route, Table};
use bytes::Bytes;
use filters::cx::Cx;
use filters::filter::{Reply, Step};
use filters::head::{RequestHead, ResponseHead};
use filters::pipeline::Run;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use smol_str::SmolStr;
use std::net::IpAddr;
use std::sync::Arc;

/// One request and everything that is known of it.
pub struct Exchange {
    pub house: Arc<House>,
    /// The generation that this request sees from its beginning to its end.
    pub table: Arc<Table>,
    pub conn: Option<Arc<Conn>>,
    pub watch: Option<Arc<Watch>>,
    pub cx: Cx,
    pub run: Run,
    /// Index of the route in the table.
    pub route: Option<usize>,
    pub method: Method,
    /// As it arrived: method, target and version are logged even if the session is gone.
    pub uri: Uri,
    pub version: Version,
    /// The address of the peer, behind a PROXY protocol header its source.
    pub peer: IpAddr,
    /// The peer is a trusted proxy.
    pub trusted: bool,
    /// The W3C trace context that goes upstream.
    pub trace: Option<Trace>,
    /// The host as the client sent it, before anything changed it.
    pub host: Option<HeaderValue>,
    /// The client asked for an upgrade that the route allows.
    pub upgrade: bool,
    pub upstream: Upstream,
    pub times: Times,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Why it failed, in one word.
    pub cause: Option<&'static str>,
    /// What to answer once Pingora asks, after a hook has refused.
    pub refusal: Option<Box<Reply>>,
    ended: bool,
}

/// The upstream's side of an exchange.
#[derive(Default)]
pub struct Upstream {
    /// Index of the service among those of the route.
    pub leg: Option<usize>,
    /// Its place among the requests that the service takes at a time.
    pub place: Option<Place>,
    pub lease: Option<Lease>,
    pub tried: Tried,
    pub attempts: u32,
    pub status: u16,
    pub endpoint: SmolStr,
    pub fd: Option<std::os::fd::RawFd>,
    pub mirror: Option<crate::mirror::Copy>,
}

/// Moments, in monotonic nanoseconds; zero where it did not come so far.
#[derive(Default, Clone, Copy)]
pub struct Times {
    pub start: u64,
    /// The filters let it pass.
    pub passed: u64,
    /// It asked its service for a place, and got it.
    pub asked: u64,
    pub admitted: u64,
    /// The last attempt began.
    pub attempt: u64,
    pub connected: u64,
    /// The upstream's response head arrived.
    pub first_byte: u64,
    /// By when all of it must be over; `u64::MAX` for never.
    pub due: u64,
}

impl Exchange {
    pub fn new(house: Arc<House>) -> Exchange {
        let start = crate::clock::now();
        let conn = crate::listen::conn();
        let peer = conn.as_ref().map_or(IpAddr::from([0; 4]), |c| c.client);
        let mut cx = Cx::new(start, crate::clock::wall(), peer);
        cx.id = crate::id::request();
        Exchange {
            table: house.table(),
            house,
            watch: Watch::current(),
            cx,
            run: Run::default(),
            route: None,
            method: Method::default(),
            uri: Uri::default(),
            version: Version::HTTP_11,
            peer,
            trusted: false,
            trace: None,
            host: None,
            upgrade: false,
            upstream: Upstream::default(),
            times: Times { start, due: u64::MAX, ..Times::default() },
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            cause: None,
            refusal: None,
            ended: false,
            conn,
        }
    }

    /// The route that matched.
    pub fn route(&self) -> Option<&Route> {
        self.route.map(|n| &self.table.routes[n])
    }

    /// The service that was chosen.
    pub fn leg(&self) -> Option<&Leg> {
        self.route()?.destination.legs().get(self.upstream.leg?)
    }

    /// The request takes this route from now on.
    pub fn enter(&mut self, route: usize) {
        self.route = Some(route);
        let route = &self.table.routes[route];
        self.cx.route = route.name.clone();
        route.metrics.entered();
    }

    /// The connection is asked to end: the next request belongs on another.
    pub fn leaving(&self) -> bool {
        self.conn.as_ref().is_some_and(|c| c.draining())
    }

    /// The filters' say on the request.
    pub fn request(&mut self, head: &mut RequestHead) -> Step {
        let Some(n) = self.route else { return filters::filter::GO };
        self.table.routes[n].pipeline.request(&mut self.run, head, &mut self.cx)
    }

    /// The filters' say on a chunk of the request's body.
    pub fn request_body(&mut self, chunk: &mut Option<Bytes>, end: bool) -> Step {
        match self.route.map(|n| &self.table.routes[n].pipeline) {
            Some(pipeline) if pipeline.request_bodies() => {
                pipeline.request_body(&mut self.run, chunk, end, &mut self.cx)
            }
            _ => filters::filter::GO,
        }
    }

    /// The filters' say on the response's head, whoever made it.
    pub fn dress(&mut self, head: &mut ResponseHead, request: &RequestHead) {
        if let Some(n) = self.route {
            self.table.routes[n].pipeline.response(&mut self.run, head, request, &mut self.cx);
        }
    }

    /// The filters' say on a chunk of the response's body.
    pub fn response_body(&mut self, chunk: &mut Option<Bytes>, end: bool) {
        if let Some(pipeline) = self.route.map(|n| &self.table.routes[n].pipeline)
            && pipeline.response_bodies()
        {
            pipeline.response_body(&mut self.run, chunk, end, &mut self.cx);
        }
    }

    /// The request must be over at `at`.
    pub fn due(&self, at: u64) {
        if let Some(watch) = &self.watch {
            watch.set(at);
        }
    }

    /// The upstream's connection may be kept for others from now on: no deadline of this request may cut it.
    pub fn release_upstream(&self) {
        if let Some(watch) = &self.watch {
            watch.upstream(None);
        }
    }

    /// The upstream has the whole request: its answer must begin within the route's time.
    pub fn await_first_byte(&self) {
        if let Some(leg) = self.leg().filter(|_| self.times.first_byte < self.times.attempt) {
            let by = crate::clock::now() + leg.timeout.first_byte().as_nanos() as u64;
            self.due(by.min(self.times.due));
        }
    }

    /// How strictly an HTTP/2 head is judged on this connection.
    pub fn rules(&self) -> crate::listen::Rules {
        self.conn.as_ref().map_or(crate::listen::Rules::STRICT, |c| c.rules)
    }

    /// The gateway's own words for an upstream's status, where the exchange gave up on it.
    pub fn fail(&mut self, cause: &'static str) {
        self.cause.get_or_insert(cause);
    }

    /// The request is over; `headers` are those it came with, if they are still there. Only the first call counts.
    pub fn end(&mut self, headers: Option<&HeaderMap>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let total = crate::clock::now().saturating_sub(self.times.start);
        match self.route.map(|n| &self.table.routes[n]) {
            Some(route) => {
                route.pipeline.done(&mut self.run, &self.cx);
                route.metrics.left();
                self.count(&route.metrics, total);
            }
            None => self.count(&self.house.unrouted, total),
        }
        self.house.log.write(&self.record(total, headers));
    }

    fn count(&self, metrics: &RouteMetrics, total: u64) {
        metrics.done(self.upstream.leg, self.status, total, self.bytes_in, self.bytes_out);
        self.cx.decisions.iter().for_each(|decision| metrics.refused(decision));
    }

    fn record<'a>(&'a self, total: u64, headers: Option<&'a HeaderMap>) -> Record<'a> {
        let t = &self.times;
        let between = |from: u64, to: u64| (from > 0 && to >= from).then(|| to - from);
        Record {
            wall: self.cx.wall,
            id: &self.cx.id,
            client: Some(self.cx.ip),
            peer: self.conn.as_ref().and_then(|c| c.peer),
            listener: self.conn.as_ref().map_or("", |c| c.listener.as_str()),
            method: self.method.as_str(),
            host: &self.cx.host,
            path: self.uri.path().as_bytes(),
            query: self.uri.query(),
            protocol: protocol(self.version),
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            headers,
            route: &self.cx.route,
            service: self.leg().map_or("", |leg| leg.pool.name()),
            endpoint: &self.upstream.endpoint,
            attempts: self.upstream.attempts,
            upstream_status: self.upstream.status,
            times: log::Times {
                total,
                head: None,
                steps: between(t.start, t.passed),
                queue: between(t.asked, t.admitted),
                connect: between(t.attempt, t.connected),
                first_byte: between(t.start, t.first_byte),
            },
            tls: self.cx.tls.as_deref(),
            decisions: &self.cx.decisions,
            error: self.cause.unwrap_or(""),
            trace: self.trace.as_ref().map_or("", Trace::id),
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            let rang = self.watch.as_ref().is_some_and(|w| w.rang());
            self.fail(if rang { "deadline" } else { "aborted" });
            self.end(None);
        }
    }
}
