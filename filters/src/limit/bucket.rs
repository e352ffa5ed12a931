//! The arithmetic of one limit: a bucket that every request fills by its cost and that drains at the rate.
//!
//! What is stored is how full the bucket was and when, never a time with the rate baked in: a changed rate then applies
//! at once to what was already counted. Levels are whole numbers of 2⁻³² requests. Draining is rounded down, and only an
//! admitted request stores anything, so a bucket is late by at most 2⁻³² requests for each one it admitted, and never
//! early.

use crate::units::Rate;

/// One request.
pub const ONE: u64 = 1 << 32;

/// What is counted: how full a bucket was, in [`ONE`]s, and when.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Level {
    pub level: u64,
    pub at: u64,
}

/// The terms of a limit, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Requests that drain in `per` nanoseconds; none if only time under way counts.
    count: u64,
    per: u64,
    /// The most that fits, and what a request fills, in [`ONE`]s.
    burst: u64,
    cost: u64,
    /// Nanoseconds after which a full bucket is empty.
    whole: u64,
}

impl Bucket {
    /// `burst` and `cost` in requests; a cost above the burst would let nothing through.
    pub fn new(rate: Rate, burst: u32, cost: u32) -> Bucket {
        let (count, per) = (rate.count.min(u64::from(u32::MAX)), rate.seconds * 1_000_000_000);
        let mut bucket = Bucket { count, per, burst: u64::from(burst) * ONE, cost: u64::from(cost) * ONE, whole: 0 };
        bucket.whole = bucket.time(bucket.burst).unwrap_or(u64::MAX);
        bucket
    }

    /// A bucket that does not drain: what went in is taken out by hand.
    pub fn standing(most: u32) -> Bucket {
        Bucket { count: 0, per: 1, burst: u64::from(most) * ONE, cost: ONE, whole: u64::MAX }
    }

    /// How full the bucket is at `now`.
    #[inline]
    pub fn level(&self, of: Level, now: u64) -> u64 {
        let elapsed = now.saturating_sub(of.at);
        let level = of.level.min(self.burst);
        if level == 0 || elapsed == 0 || self.count == 0 {
            return level;
        }
        if elapsed >= self.whole {
            return 0;
        }
        // Within `whole` the product is at most the burst times `per`, which is below 2^111.
        let gone = ((u128::from(elapsed) * u128::from(self.count)) << 32) / u128::from(self.per);
        level.saturating_sub(gone as u64)
    }

    /// No further request fits in.
    #[inline]
    pub fn is_full(&self, level: u64) -> bool {
        level > self.burst - self.cost
    }

    /// With one more request in it.
    #[inline]
    pub fn filled(&self, level: u64) -> u64 {
        level + self.cost
    }

    /// How many further requests fit in.
    pub fn left(&self, level: u64) -> u64 {
        self.burst.saturating_sub(level) / self.cost
    }

    /// Nanoseconds from `now` until one more request fits in; `None` if time alone does not make room.
    pub fn wait(&self, of: Level, now: u64) -> Option<u64> {
        self.until(of, self.burst - self.cost, now)
    }

    /// Nanoseconds from `now` until it is empty.
    pub fn rest(&self, of: Level, now: u64) -> Option<u64> {
        self.until(of, 0, now)
    }

    /// Reckoned from what is stored, not from the rounded level of now.
    fn until(&self, of: Level, low: u64, now: u64) -> Option<u64> {
        let whole = self.time(of.level.min(self.burst).saturating_sub(low))?;
        Some(whole.saturating_sub(now.saturating_sub(of.at)))
    }

    /// Nanoseconds in which so much drains, rounded up.
    fn time(&self, level: u64) -> Option<u64> {
        let rate = u128::from(self.count) << 32;
        let time = (u128::from(level) * u128::from(self.per)).checked_add(rate.checked_sub(1)?)? / rate;
        Some(u64::try_from(time).unwrap_or(u64::MAX))
    }

    /// Requests at most, and the seconds in which so many drain: what a client is told of the terms.
    pub fn quota(&self) -> (u64, Option<u64>) {
        (self.burst / self.cost, self.time(self.burst).map(seconds))
    }
}

/// Whole seconds, rounded up.
pub fn seconds(ns: u64) -> u64 {
    ns.div_ceil(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(rate: &str, burst: u32, cost: u32) -> Bucket {
        Bucket::new(rate.parse().unwrap(), burst, cost)
    }

    fn level(level: u64, at: u64) -> Level {
        Level { level, at }
    }

    #[test]
    fn drains_to_the_nanosecond() {
        let b = bucket("2/s", 2, 1);
        assert_eq!(b.level(level(2 * ONE, 1_000), 1_000 + 500_000_000), ONE);
        assert!(b.level(level(2 * ONE, 1_000), 1_000 + 499_999_999) > ONE);
        assert_eq!(b.level(level(2 * ONE, 1_000), 1_000 + 1_000_000_000), 0);
        assert_eq!(b.level(level(ONE, 1_000), 0), ONE, "a clock that was read earlier drains nothing");
        assert_eq!(b.level(level(9 * ONE, 0), 0), 2 * ONE, "more than fits was counted under other terms");
    }

    #[test]
    fn what_clients_are_told() {
        let b = bucket("10/m", 30, 5);
        assert_eq!(b.quota(), (6, Some(180)));
        assert_eq!((b.left(0), b.left(26 * ONE), b.left(25 * ONE)), (6, 0, 1));
        assert_eq!(b.wait(level(30 * ONE, 0), 0), Some(30_000_000_000));
        assert_eq!(b.wait(level(30 * ONE, 0), 1), Some(29_999_999_999));
        assert_eq!(b.wait(level(ONE, 0), 0), Some(0));
        assert_eq!(b.rest(level(ONE, 0), 1_000_000_000), Some(5_000_000_000));
        let standing = Bucket::standing(3);
        assert_eq!((standing.wait(level(3 * ONE, 0), 0), standing.quota()), (None, (3, None)));
        assert_eq!(standing.level(level(2 * ONE, 0), u64::MAX), 2 * ONE);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        for rate in ["1/d", "4294967295/d", "4294967295/s", "18446744073709551615/s"] {
            let b = bucket(rate, u32::MAX, u32::MAX);
            assert!(b.is_full(1) && !b.is_full(0), "{rate}");
            let full = b.filled(0);
            let whole = b.rest(level(full, 0), 0).unwrap();
            assert_eq!(b.level(level(full, 0), whole), 0, "{rate}");
            assert!(b.level(level(full, 0), whole - 1) > 0, "{rate}");
            let half = b.level(level(full, 0), whole / 2);
            assert!(whole == u64::MAX || half.abs_diff(full / 2) <= full / whole + 1, "{rate}");
        }
    }

    proptest! {
        /// The wait that is told suffices, and nothing shorter does.
        #[test]
        fn the_wait_is_exact(count in 1..5000_u64, unit in 0..4_usize, burst in 1..1000_u32, cost in 1..1000_u32,
                             filled in 0.0..1.0, later in 0.0..1.0) {
            let cost = cost.min(burst);
            let b = Bucket::new(Rate { count, seconds: [1, 60, 3600, 86400][unit] }, burst, cost);
            let of = level((f64::from(burst) * filled * ONE as f64) as u64, 5);
            let now = 5 + (b.wait(of, 5).unwrap() as f64 * later) as u64;
            let wait = b.wait(of, now).unwrap();
            prop_assert!(!b.is_full(b.level(of, now + wait)));
            if wait > 0 {
                prop_assert!(b.is_full(b.level(of, now + wait - 1)));
            }
        }
    }
}
