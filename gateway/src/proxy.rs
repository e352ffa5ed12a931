//! Pingora's hooks: short, and free of policy. What a request may do is decided in `ingress` and by the filters, where
//! it goes in `service`, what a failure means in `rescue`; here these meet Pingora's session.

use crate::destination::Destination;
use crate::exchange::Exchange;
use crate::house::House;
use crate::rescue::{self, Rescue};
use crate::service::{Busy, NoEndpoint, Outcome};
use crate::{clock, deadline, forwarded, ingress, mirror, wire};
use async_trait::async_trait;
use bytes::Bytes;
use filters::expr::View;
use filters::filter::Reply;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Version};
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::server::ShutdownWatch;
use pingora::upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorSource, ErrorType, Result};
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a client may pause within a request body, and within reading the answer.
const CLIENT_PAUSE: Duration = Duration::from_secs(60);

/// The most often that one request is sent, whatever the configuration says.
pub const MAX_TRIES: u32 = 10;

/// The gateway as Pingora sees it: one for each worker, all with the same house.
pub struct Gateway {
    pub house: Arc<House>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    // Boxed, so that Pingora's futures, which hold it by value, stay small.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Box<Exchange> {
        Box::new(Exchange::new(self.house.clone()))
    }

    // The default would put a compression module into every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<bool> {
        limits(session, exchange);
        exchange.host = forwarded::asked(session.req_header());
        match ingress::admit(session.req_header_mut(), exchange) {
            ControlFlow::Continue(()) => wire::go_on(session).await.map(|()| false),
            ControlFlow::Break(reply) => wire::reply(session, exchange, *reply).await.map(|()| true),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<Box<HttpPeer>> {
        exchange.times.attempt = clock::now();
        exchange.upstream.attempts += 1;
        if exchange.upstream.leg.is_none() {
            choose(session, exchange).await?;
        }
        lease(session, exchange)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        fd: RawFd,
        _: Option<&Digest>,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        exchange.times.connected = clock::now();
        exchange.upstream.fd = Some(fd);
        if let Some(leg) = exchange.leg() {
            leg.metrics.connected(reused);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut pingora::http::RequestHeader,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        let trailers = exchange.cx.grpc && head.version == Version::HTTP_2;
        if let Some(trace) = &exchange.trace {
            forwarded::write(head, &exchange.cx, exchange.host.as_ref(), exchange.peer, exchange.trusted, trace)?;
        }
        if trailers {
            // Pingora strips it for HTTP/1 clients; a gRPC server insists on it.
            head.insert_header("te", "trailers")?;
        }
        if let Some(watch) = &exchange.watch {
            // A shared HTTP/2 connection must not be shut down for one request.
            watch.upstream(exchange.upstream.fd.filter(|_| head.version != Version::HTTP_2 && !exchange.upgrade));
        }
        mirror::begin(head, exchange);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        exchange.bytes_in += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if session.was_upgraded() {
            return Ok(());
        }
        let was_some = chunk.is_some();
        if let ControlFlow::Break(reply) = exchange.request_body(chunk, end) {
            let status = reply.status;
            exchange.refusal = Some(reply);
            return Err(Error::new(ErrorType::HTTPStatus(status)));
        }
        if was_some && chunk.is_none() && !end {
            // To Pingora, nothing means the end of the body.
            *chunk = Some(Bytes::new());
        }
        mirror::chunk(chunk.as_ref(), end, exchange);
        if end {
            // The request is complete: the upstream's first byte is awaited from now.
            exchange.await_first_byte();
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut pingora::http::ResponseHeader,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != 101 {
            return Ok(());
        }
        if head.status == 101 && !exchange.upgrade {
            // Nobody asked to switch (RFC 9110, section 15.2.2): what follows would be a second answer to the client.
            return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
        }
        let now = clock::now();
        exchange.times.first_byte = now;
        exchange.upstream.status = head.status.as_u16();
        let latency = now.saturating_sub(exchange.times.connected);
        let outcome = Outcome::of_status(head.status.as_u16(), latency);
        if let Some(lease) = &mut exchange.upstream.lease {
            lease.report(outcome, now);
        }
        if may_retry(session, exchange, outcome) {
            let mut error = Error::new_up(ErrorType::HTTPStatus(head.status.as_u16()));
            error.set_retry(true);
            return Err(error);
        }
        // The first byte was awaited; from here on the pauses between reads count, and the end.
        exchange.due(if exchange.upgrade { u64::MAX } else { exchange.times.due });
        if exchange.times.due == u64::MAX || wire::bodiless(session, head) {
            exchange.release_upstream();
        }
        wire::strip_hop_by_hop(head);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut pingora::http::ResponseHeader,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != 101 {
            return Ok(());
        }
        if exchange.leaving() {
            session.set_keepalive(None);
        }
        wire::unchunk(session, head);
        exchange.dress(head, session.req_header());
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<Duration>> {
        if !session.was_upgraded() {
            exchange.response_body(chunk, end);
        }
        exchange.bytes_out += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if end {
            exchange.release_upstream();
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        exchange: &mut Box<Exchange>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        settle(exchange, Outcome::ConnectFailed);
        if let Some(leg) = exchange.leg() {
            leg.metrics.failed();
        }
        error.set_retry(may_retry(session, exchange, Outcome::ConnectFailed));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Box<Exchange>,
        client_reused: bool,
    ) -> Box<Error> {
        exchange.release_upstream();
        if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
            // Decided in a filter: the upstream's status was reported there, a refusal is not its fault.
            return error;
        }
        let rang = exchange.watch.as_ref().is_some_and(|w| w.rang());
        let outcome = match (error.esource(), error.etype()) {
            _ if rang => Outcome::Timeout,
            (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Outcome::Timeout,
            (ErrorSource::Upstream, _) => Outcome::Reset,
            _ => Outcome::Neutral,
        };
        settle(exchange, outcome);
        // A kept connection that died under the request was most likely closed while idle: a fresh one is not another
        // try in the operator's sense.
        let stale = client_reused && outcome == Outcome::Reset && exchange.times.first_byte < exchange.times.attempt;
        let idempotent = session.req_header().method.is_idempotent();
        let fresh = stale && idempotent && may_repeat(session) && exchange.upstream.attempts < MAX_TRIES;
        let again = !rang && (fresh || may_retry(session, exchange, outcome));
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Box<Exchange>) -> FailToProxy {
        let rang = exchange.watch.as_ref().is_some_and(|w| w.rang());
        let Rescue { status, cause, detail } = rescue::rescue_of(error, rang);
        let refusal = exchange.refusal.take();
        exchange.fail(match refusal {
            Some(_) => "refused",
            None => cause,
        });
        let answered = wire::answered(session);
        if answered.is_some() || status == 0 {
            // Something was sent, or nobody is there: the connection ends, so that the client knows.
            exchange.status = answered.unwrap_or(if status == 0 { 499 } else { 0 });
            return FailToProxy { error_code: status, can_reuse_downstream: false };
        }
        let reply = refusal.map_or_else(|| Reply::problem(status, detail), |r| *r);
        // Pingora closes after a failure, whatever is returned here: the answer says so, lest a client's next request be lost.
        session.set_keepalive(None);
        let _ = wire::reply(session, exchange, reply).await;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Box<Exchange>) {
        if let Some(error) = error {
            let rang = exchange.watch.as_ref().is_some_and(|w| w.rang());
            exchange.fail(rescue::rescue_of(error, rang).cause);
        }
        if let Some(status) = wire::answered(session) {
            exchange.status = status;
        }
        exchange.bytes_out = exchange.bytes_out.max(session.body_bytes_sent() as u64);
        exchange.end(Some(&session.req_header().headers));
    }

    // Every failure is in the access log, with its cause.
    fn suppress_error_log(&self, _: &Session, _: &Box<Exchange>, _: &Error) -> bool {
        true
    }
    fn suppress_proxy_warn_log(&self, _: &Session, _: &Box<Exchange>, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// How long this connection may wait for its client, and whether it lives on.
fn limits(session: &mut Session, exchange: &Exchange) {
    // Without the question, a connection that must close after an ambiguous request would be kept.
    if session.get_keepalive().is_some() {
        // Between requests the listener waits, with a limit of its own.
        session.set_keepalive((!exchange.leaving()).then_some(60));
    }
    let downstream = session.as_downstream_mut();
    downstream.set_read_timeout(Some(CLIENT_PAUSE));
    downstream.set_write_timeout(Some(CLIENT_PAUSE));
    downstream.set_total_drain_timeout(Some(Duration::from_secs(5)));
}

/// The service that this request goes to, and leave to go there.
async fn choose(session: &Session, exchange: &mut Exchange) -> Result<()> {
    let view = View { head: session.req_header(), cx: &exchange.cx };
    let Some(Destination::Services(services)) = exchange.route().map(|r| &r.destination) else {
        return Err(Error::new(ErrorType::InternalError));
    };
    let n = services.choose(&view);
    let leg = &services.legs[n];
    let (pool, total) = (leg.pool.clone(), leg.timeout.total().filter(|_| !exchange.upgrade));
    exchange.upstream.leg = Some(n);
    exchange.times.due = total.map_or(u64::MAX, |t| exchange.times.start + t.as_nanos() as u64);
    exchange.due(exchange.times.due);
    exchange.times.asked = exchange.times.attempt;
    let admitted = pool.admit().await;
    exchange.times.admitted = clock::now();
    match admitted {
        Ok(place) => exchange.upstream.place = Some(place),
        Err(why) => return Err(unavailable(exchange, busy(why), None)),
    }
    Ok(())
}

/// An endpoint of the chosen service, and how to connect to it.
fn lease(session: &Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
    let Some(leg) = exchange.leg() else { return Err(Error::new(ErrorType::InternalError)) };
    let view = View { head: session.req_header(), cx: &exchange.cx };
    let key = leg.key(&view);
    match leg.pool.pick(key, &exchange.upstream.tried, exchange.times.attempt) {
        Ok(lease) => {
            let mut peer = lease.peer_within(&leg.timeout);
            if exchange.upgrade {
                peer.options.alpn = ALPN::H1;
            } else {
                peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
            }
            exchange.upstream.endpoint = lease.endpoint().name.clone();
            lease.note(&mut exchange.upstream.tried);
            exchange.upstream.lease = Some(lease);
            Ok(peer)
        }
        Err(NoEndpoint::NoneUsable) => Err(unavailable(exchange, "no_endpoint", None)),
        Err(NoEndpoint::BreakerOpen { left }) => Err(unavailable(exchange, "breaker_open", Some(left))),
    }
}

/// 503 in the gateway's own words; `left` is how long it will last, in nanoseconds, where that is known.
fn unavailable(exchange: &mut Exchange, cause: &'static str, left: Option<u64>) -> Box<Error> {
    exchange.fail(cause);
    let mut reply = Reply::problem(503, "the service is not available at the moment");
    if let Some(left) = left {
        reply = reply.with(RETRY_AFTER, HeaderValue::from(left.div_ceil(1_000_000_000).max(1)));
    }
    exchange.refusal = Some(Box::new(reply));
    Error::new(ErrorType::HTTPStatus(503))
}

fn busy(why: Busy) -> &'static str {
    match why {
        Busy::Full => "queue_full",
        Busy::Waited => "queue_timeout",
    }
}

/// Tells the endpoint how the attempt went, and lets it go.
fn settle(exchange: &mut Exchange, outcome: Outcome) {
    if let Some(mut lease) = exchange.upstream.lease.take() {
        lease.report(outcome, clock::now());
    }
}

/// Another try is wanted after this outcome, and is within the route's tries, its deadline and the service's budget.
fn may_retry(session: &Session, exchange: &Exchange, outcome: Outcome) -> bool {
    let Some(leg) = exchange.leg() else { return false };
    let now = clock::now();
    let sent = outcome != Outcome::ConnectFailed;
    leg.retry.allows(outcome, session.req_header().method.as_str(), sent)
        && may_repeat(session)
        && exchange.upstream.attempts < leg.retry.tries()
        && now < exchange.times.due
        && leg.pool.may_retry(now)
        && {
            leg.metrics.retried();
            true
        }
}

/// The request can be sent once more: nothing was answered, and its body is still there.
fn may_repeat(session: &Session) -> bool {
    wire::answered(session).is_none() && !session.as_downstream().retry_buffer_truncated()
}

/// A worker's application: Pingora's proxy, with a deadline around every request.
pub struct App {
    proxy: Arc<HttpProxy<Gateway>>,
}

impl App {
    pub fn new(proxy: HttpProxy<Gateway>) -> App {
        App { proxy: Arc::new(proxy) }
    }
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        stop: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let conn = crate::listen::conn();
        let mut timer = conn.as_ref().map(|c| std::mem::take(&mut *c.timer.lock())).unwrap_or_default();
        let done = deadline::guard(&mut timer, self.proxy.process_new_http(session, stop)).await;
        if let Some(conn) = conn {
            *conn.timer.lock() = timer;
        }
        done.flatten()
    }
}
