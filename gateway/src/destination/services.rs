//! The services that a route's requests are shared among, each with what the route says about it.

use crate::metrics::ServiceMetrics;
use crate::service::{Pool, Retry, Split, Timeout};
use filters::expr::{Key, View};
use std::sync::Arc;

/// One service, or several with weights.
pub struct Services {
    pub split: Split,
    /// Whose requests stay together; without it every request is drawn anew.
    pub sticky: Option<Key>,
    pub legs: Box<[Leg]>,
}

/// One of them: the service, and the route's times and retries over the service's own.
pub struct Leg {
    pub pool: Arc<Pool>,
    pub timeout: Timeout,
    pub retry: Retry,
    /// What `balance = "hash"` goes by.
    pub hash: Option<Key>,
    pub metrics: ServiceMetrics,
}

/// Keep the choice of a service and the choice of its endpoint apart, where both go by the same key.
const STICKY: u64 = 0x7374_6963_6b79;
const HASH: u64 = 0x6861_7368;

impl Leg {
    /// The hash that chooses the endpoint, if the service balances by one.
    pub fn key(&self, view: &View) -> Option<u64> {
        self.hash.as_ref().map(|key| key.hash(view, HASH))
    }
}

impl Services {
    /// The index of the leg that this request takes.
    pub fn choose(&self, view: &View) -> usize {
        if self.legs.len() == 1 {
            return 0;
        }
        let key = match &self.sticky {
            Some(key) => key.hash(view, STICKY),
            None => crate::id::random(),
        };
        self.split.pick(key).unwrap_or(0)
    }
}
