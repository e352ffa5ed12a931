//! A share of the traffic, sent a second time to another service whose answer nobody sees.
//!
//! The copy is made while the request passes, and sent from the control runtime once the request is complete: the
//! client never waits for it. Bodies over the bound and copies over the limit are dropped and counted.

use crate::client;
use crate::exchange::Exchange;
use crate::service::Pool;
use bytes::{Bytes, BytesMut};
use filters::head::RequestHead;
use std::sync::Arc;
use std::time::Duration;

/// The largest body that is mirrored.
const MAX_BODY: usize = 64 << 10;
/// Copies under way at once; more are dropped.
pub const MAX_COPIES: usize = 256;
/// How much of the answer is read, to keep the connection.
const MAX_ANSWER: usize = 1 << 20;
const TIME: Duration = Duration::from_secs(15);

/// Where copies go, and how many.
pub struct Mirror {
    pub pool: Arc<Pool>,
    /// 0 to 1.
    pub share: f64,
}

/// A copy in the making.
pub struct Copy {
    head: RequestHead,
    body: BytesMut,
    pool: Arc<Pool>,
}

/// Starts a copy of this request, if the route wants one and the draw says so; only for the first attempt.
pub fn begin(head: &RequestHead, exchange: &mut Exchange) {
    let Some(mirror) = exchange.route().and_then(|r| r.mirror.as_ref()) else { return };
    let drawn = (crate::id::random() >> 11) as f64 / (1_u64 << 53) as f64;
    if exchange.upstream.attempts > 1 || exchange.upgrade || drawn >= mirror.share {
        return;
    }
    let mut head = head.clone();
    // Said to the copy, so that a service can tell it from the original.
    if head.insert_header("X-Portcullis-Mirror", "1").is_err() {
        return;
    }
    exchange.upstream.mirror = Some(Copy { head, body: BytesMut::new(), pool: mirror.pool.clone() });
}

/// A chunk of the request's body went upstream; at its end the copy goes too.
pub fn chunk(chunk: Option<&Bytes>, end: bool, exchange: &mut Exchange) {
    let Some(copy) = &mut exchange.upstream.mirror else { return };
    if let Some(chunk) = chunk {
        if copy.body.len() + chunk.len() > MAX_BODY {
            exchange.house.metrics.mirrored(copy.pool.name(), "too_large");
            exchange.upstream.mirror = None;
            return;
        }
        copy.body.extend_from_slice(chunk);
    }
    if end && let Some(copy) = exchange.upstream.mirror.take() {
        send(copy, exchange);
    }
}

fn send(copy: Copy, exchange: &Exchange) {
    let house = exchange.house.clone();
    let Ok(permit) = house.copies.clone().try_acquire_owned() else {
        house.metrics.mirrored(copy.pool.name(), "dropped");
        return;
    };
    let control = house.control.clone();
    control.spawn(async move {
        let _permit = permit;
        let Ok(lease) = copy.pool.pick(None, &Default::default(), crate::clock::now()) else {
            house.metrics.mirrored(copy.pool.name(), "unavailable");
            return;
        };
        let peer = lease.peer();
        let sent = client::call(&house.connector, &peer, copy.head, copy.body.freeze(), TIME, MAX_ANSWER).await;
        house.metrics.mirrored(copy.pool.name(), if sent.is_ok() { "sent" } else { "failed" });
    });
}
