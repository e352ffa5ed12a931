//! How many connections there may be: in all, per listener, and per client address. IPv6 clients are counted by their /64, which is
//! what one customer is usually given. A connection holds its [`Slot`]s until it is gone, whatever ended it.

use ahash::AHashMap;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// A counter with an end that can be waited for.
#[derive(Debug, Default)]
pub struct Total {
    count: AtomicUsize,
    zero: Notify,
}

impl Total {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// One more, unless that is above `cap`.
    pub fn enter(self: &Arc<Self>, cap: usize) -> Option<Slot> {
        let entered = self.count.fetch_add(1, Ordering::AcqRel) < cap;
        let slot = Slot(self.clone());
        // a slot that is over the cap gives itself back
        entered.then_some(slot)
    }

    /// Waits until nobody is left.
    pub async fn idle(&self) {
        loop {
            let zero = self.zero.notified();
            let mut zero = std::pin::pin!(zero);
            zero.as_mut().enable(); // before looking, so that no end is missed
            if self.count() == 0 {
                return;
            }
            zero.await;
        }
    }
}

/// One place in a [`Total`].
#[derive(Debug)]
pub struct Slot(Arc<Total>);

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.zero.notify_waiters();
        }
    }
}

const SHARDS: usize = 16;

/// Connections per client address.
#[derive(Debug, Default)]
pub struct Addresses {
    shards: [Mutex<AHashMap<u128, usize>>; SHARDS],
}

impl Addresses {
    pub fn enter(self: &Arc<Self>, ip: IpAddr, cap: usize) -> Option<Place> {
        let key = key(ip);
        let mut shard = self.shard(key).lock();
        let count = shard.entry(key).or_insert(0);
        if *count >= cap {
            if *count == 0 {
                shard.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(Place { of: self.clone(), key })
    }

    fn shard(&self, key: u128) -> &Mutex<AHashMap<u128, usize>> {
        let mixed = (key ^ (key >> 64)) as u64;
        &self.shards[(mixed ^ (mixed >> 17) ^ (mixed >> 7)) as usize % SHARDS]
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

/// One place of an address.
#[derive(Debug)]
pub struct Place {
    of: Arc<Addresses>,
    key: u128,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.of.shard(self.key).lock();
        if let Some(count) = shard.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.key);
            }
        }
    }
}

fn key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) & !u128::from(u64::MAX) | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_give_back() {
        let total = Arc::new(Total::default());
        let a = total.enter(2);
        let b = total.enter(2);
        assert!(a.is_some() && b.is_some() && total.enter(2).is_none());
        drop(a);
        assert_eq!(total.count(), 1);
        assert!(total.enter(2).is_some());
    }

    #[tokio::test]
    async fn the_end_is_heard() {
        let total = Arc::new(Total::default());
        total.idle().await;
        let slot = total.enter(1);
        let wait = tokio::spawn({
            let total = total.clone();
            async move { total.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!wait.is_finished());
        drop(slot);
        wait.await.unwrap();
    }

    #[test]
    fn one_v6_network_is_one_client() {
        let all = Arc::new(Addresses::default());
        let ip = |s: &str| s.parse().unwrap();
        let a = all.enter(ip("2001:db8::1"), 1);
        assert!(a.is_some());
        assert!(all.enter(ip("2001:db8::2"), 1).is_none());
        assert!(all.enter(ip("2001:db8:0:1::2"), 1).is_some());
        let v4 = all.enter(ip("1.2.3.4"), 1);
        assert!(v4.is_some());
        assert!(all.enter(ip("::ffff:1.2.3.4"), 1).is_none());
        drop((a, v4));
        assert_eq!(all.count(), 0);
    }
}
