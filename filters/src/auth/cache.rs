//! Tokens that were verified already: found again by a keyed hash, compared byte for byte.
//!
//! Only tokens with a good signature enter, so that only who can sign can fill it; it is bounded in bytes all the same.
//! Each shard has two halves: what is used moves to the young one, and when that is full the old one is forgotten.

use crate::identity::Identity;
use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

const SHARDS: usize = 16;
/// The bytes of one half of one shard: 32 MiB in all.
const HALF: usize = (32 << 20) / SHARDS / 2;

/// A token that was found good, and when.
#[derive(Debug, Clone)]
pub struct Verified {
    pub identity: Arc<Identity>,
    /// Good from here on, in milliseconds since the Unix epoch.
    pub from: u64,
    /// And before this.
    pub until: u64,
}

impl Verified {
    pub fn holds(&self, wall: u64) -> bool {
        self.from <= wall && wall < self.until
    }
}

pub struct Cache {
    /// With random keys: nobody can choose tokens that fall together.
    hash: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    young: HashMap<Box<str>, Verified, RandomState>,
    old: HashMap<Box<str>, Verified, RandomState>,
    /// What `young` takes, roughly.
    bytes: usize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache { hash: RandomState::new(), shards: Default::default() }
    }
}

/// Token, claims and table, roughly: claims are three quarters of the token and take a few times that once read.
fn cost(token: &str) -> usize {
    token.len() * 4 + 512
}

impl Cache {
    fn shard(&self, token: &str) -> &Mutex<Shard> {
        // the tables use the low and the highest bits
        &self.shards[(self.hash.hash_one(token) >> 32) as usize % SHARDS]
    }

    pub fn get(&self, token: &str, wall: u64) -> Option<Arc<Identity>> {
        let mut shard = self.shard(token).lock();
        if let Some(known) = shard.young.get(token) {
            return known.holds(wall).then(|| known.identity.clone());
        }
        let (key, known) = shard.old.remove_entry(token).filter(|(_, known)| known.holds(wall))?;
        let identity = known.identity.clone();
        shard.put(key, known);
        Some(identity)
    }

    pub fn put(&self, token: &str, verified: Verified) {
        self.shard(token).lock().put(token.into(), verified);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock()).map(|s| s.young.len() + s.old.len()).sum()
    }
}

impl Shard {
    fn put(&mut self, token: Box<str>, verified: Verified) {
        let cost = cost(&token);
        if self.bytes + cost > HALF {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        if self.young.insert(token, verified).is_none() {
            self.bytes += cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Facts, Kind};

    fn verified(from: u64, until: u64) -> Verified {
        let identity = Identity { source: "a".into(), kind: Kind::Jwt, facts: Facts::default(), told: [].into() };
        Verified { identity: Arc::new(identity), from, until }
    }

    #[test]
    fn known_while_good() {
        let cache = Cache::default();
        cache.put("t", verified(10, 20));
        for (wall, known) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(cache.get("t", wall).is_some(), known, "{wall}");
        }
        assert!(cache.get("u", 10).is_none());
    }

    #[test]
    fn bounded_and_what_is_used_stays() {
        let cache = Cache::default();
        cache.put("used", verified(0, 9));
        let most = SHARDS * 2 * HALF / cost("token-000000");
        for n in 0..most * 2 {
            cache.put(&format!("token-{n:06}"), verified(0, 9));
            assert!(n % 64 != 0 || cache.get("used", 1).is_some(), "{n}");
        }
        assert!(cache.len() <= most + 1, "{} of {most}", cache.len());
        assert!(cache.get("token-000000", 1).is_none());
    }
}
