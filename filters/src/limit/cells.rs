//! What was counted, by key: bounded memory, exact counts, and nobody gains by being forgotten.
//!
//! A cell whose bucket has drained says no more than no cell at all, so drained cells make room first. When a table is
//! full of others, the least filled of a few is forgotten, and from then on whoever has no cell begins at the level of
//! the fullest that was forgotten, which drains like any other. So a key never gets more than its limit, not even when
//! it is forgotten and comes back; newcomers may get less while more clients are counted than fit.

use super::bucket::{Bucket, Level, ONE};
use parking_lot::{Mutex, MutexGuard};
use std::hash::{BuildHasher, RandomState};

/// A keyed hash of 128 bits: long enough to stand for what was hashed, and nobody can choose values that fall together.
pub type Key = [u64; 2];

const EMPTY: Key = [0; 2];
/// As many requests as this decide at the same time without waiting for each other.
const SHARDS: usize = 256;
/// Cells looked at for each newcomer: at four or more, drained cells go faster than new ones come.
const LOOKS: usize = 8;

/// The counters of one limit. Kept across reloads.
pub struct Cells {
    seeds: [u64; 2],
    shards: Box<[Padded]>,
}

/// A lock has a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Padded(Mutex<Shard>);

/// Open addressing with linear probing. Two thirds of the cells are in use at most.
#[derive(Default)]
pub struct Shard {
    cells: Box<[Cell]>,
    used: usize,
    /// Where the search for drained cells goes on.
    hand: usize,
    /// The fullest that was forgotten.
    forgotten: Level,
}

#[derive(Default, Clone, Copy)]
#[repr(align(32))]
struct Cell {
    key: Key,
    level: Level,
}

/// What stands under a key at this moment. Good as long as the shard stays locked.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// As it is stored.
    pub stored: Level,
    /// How full that is now.
    pub level: u64,
    cell: Option<usize>,
}

impl Default for Cells {
    fn default() -> Cells {
        Cells {
            seeds: [RandomState::new().hash_one(0), RandomState::new().hash_one(0)],
            shards: (0..SHARDS).map(|_| Padded::default()).collect(),
        }
    }
}

impl Cells {
    /// What keys are hashed with: known to nobody.
    pub fn seeds(&self) -> [u64; 2] {
        self.seeds
    }

    /// The part of the table that holds `key`. Whoever locks more than one table does so in the order of [`Cells::rank`].
    #[inline]
    pub fn lock(&self, key: Key) -> MutexGuard<'_, Shard> {
        self.shards[(key[0] >> 56) as usize].0.lock()
    }

    /// Differs between living tables.
    pub fn rank(&self) -> usize {
        self.shards.as_ptr() as usize
    }

    /// Cells that one shard may use so that `keys` keys fit in all: the keys' share, and six times its deviation.
    pub fn share(keys: usize) -> usize {
        let mean = keys.div_ceil(SHARDS);
        mean + 6 * mean.isqrt() + 6
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let cells: usize = self.shards.iter().map(|s| s.0.lock().cells.len()).sum();
        cells * size_of::<Cell>() + SHARDS * size_of::<Padded>()
    }
}

impl Shard {
    #[inline]
    pub fn look(&self, key: Key, now: u64, bucket: &Bucket) -> Look {
        let cell = self.find(key);
        let stored = cell.map_or(self.forgotten, |i| self.cells[i].level);
        Look { stored, level: bucket.level(stored, now), cell }
    }

    /// Fills what was looked at by one request. `true` if somebody had to be forgotten for it; `most` is how many cells
    /// may be in use.
    #[inline]
    pub fn fill(&mut self, look: &mut Look, key: Key, now: u64, bucket: &Bucket, most: usize) -> bool {
        // Another thread may have read the clock later and come first.
        look.stored = Level { level: bucket.filled(look.level), at: look.stored.at.max(now) };
        match look.cell {
            Some(i) => {
                self.cells[i].level = look.stored;
                false
            }
            None => {
                let forgot = self.make_room(now, bucket, most);
                self.insert(Cell { key, level: look.stored });
                forgot
            }
        }
    }

    /// Takes out what one request had filled.
    pub fn take(&mut self, key: Key) {
        let Some(i) = self.find(key) else { return };
        let level = &mut self.cells[i].level.level;
        *level = level.saturating_sub(ONE);
        if *level == 0 {
            self.remove(i);
        }
    }

    #[inline]
    fn find(&self, key: Key) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let mut i = self.home(key);
        loop {
            let found = self.cells[i].key;
            if found == key {
                return Some(i);
            }
            if found == EMPTY {
                return None;
            }
            i = self.after(i);
        }
    }

    /// Where a key's search begins.
    #[inline]
    fn home(&self, key: Key) -> usize {
        ((u128::from(key[1]) * self.cells.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, i: usize) -> usize {
        if i + 1 == self.cells.len() { 0 } else { i + 1 }
    }

    /// Room for one more: drained cells among the next few are removed; if there are none and `most` are in use, the
    /// least filled of these few is forgotten.
    fn make_room(&mut self, now: u64, bucket: &Bucket, most: usize) -> bool {
        let before = self.used;
        let mut least: Option<(u64, usize)> = None;
        let mut looked = 0;
        while looked < LOOKS.min(self.cells.len()) || (self.used >= most && self.used == before && least.is_none()) {
            looked += 1;
            if self.hand >= self.cells.len() {
                self.hand = 0;
            }
            let Cell { key, level } = self.cells[self.hand];
            if key == EMPTY {
                self.hand += 1;
                continue;
            }
            match bucket.level(level, now) {
                // What stood behind it moves up, so the hand stays.
                0 => self.remove(self.hand),
                level => {
                    least = Some(least.map_or((level, self.hand), |least| least.min((level, self.hand))));
                    self.hand += 1;
                }
            }
        }
        match least {
            Some((level, i)) if self.used >= most && self.used == before => {
                self.forget(level, i, now, bucket);
                true
            }
            _ => false,
        }
    }

    fn forget(&mut self, level: u64, i: usize, now: u64, bucket: &Bucket) {
        let level = level.max(bucket.level(self.forgotten, now));
        self.forgotten = Level { level, at: now.max(self.forgotten.at).max(self.cells[i].level.at) };
        self.remove(i);
    }

    /// The key must not be there.
    fn insert(&mut self, cell: Cell) {
        if (self.used + 1) * 3 > self.cells.len() * 2 {
            self.grow();
        }
        let mut i = self.home(cell.key);
        while self.cells[i].key != EMPTY {
            i = self.after(i);
        }
        self.cells[i] = cell;
        self.used += 1;
    }

    /// By a quarter, so that a key never takes more than 60 bytes but for the first few.
    fn grow(&mut self) {
        let len = self.cells.len() + self.cells.len() / 4 + 16;
        let old = std::mem::replace(&mut self.cells, vec![Cell::default(); len].into());
        self.used = 0;
        old.iter().filter(|c| c.key != EMPTY).for_each(|c| self.insert(*c));
    }

    /// Closes the gap, so that every search still ends at an empty cell: who stands behind it moves up, unless that
    /// would bring him before his home.
    fn remove(&mut self, mut gap: usize) {
        let mut i = gap;
        loop {
            i = self.after(i);
            let cell = self.cells[i];
            if cell.key == EMPTY {
                break;
            }
            if self.way(self.home(cell.key), i) >= self.way(gap, i) {
                self.cells[gap] = cell;
                gap = i;
            }
        }
        self.cells[gap] = Cell::default();
        self.used -= 1;
    }

    /// Steps from one cell to another, round the end.
    fn way(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.cells.len() - from }
    }
}

/// A hash as a key; no key is the empty one.
pub fn key(hash: [u64; 2]) -> Key {
    if hash == EMPTY { [0, 1] } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A hash as SipHash might give it.
    fn named(n: u64) -> Key {
        let mix = |x: u64| {
            let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (x >> 32)
        };
        key([mix(n + 1), mix(mix(n + 7))])
    }

    fn bucket(rate: &str, burst: u32) -> Bucket {
        Bucket::new(rate.parse().unwrap(), burst, 1)
    }

    /// One request: whether it passes, and whether somebody was forgotten.
    fn ask(shard: &mut Shard, key: Key, now: u64, bucket: &Bucket, most: usize) -> (bool, bool) {
        let mut look = shard.look(key, now, bucket);
        let full = bucket.is_full(look.level);
        (!full, !full && shard.fill(&mut look, key, now, bucket, most))
    }

    #[test]
    fn drained_cells_make_room_before_anybody_is_forgotten() {
        let (mut shard, bucket) = (Shard::default(), bucket("1/s", 1));
        for n in 0..10_000 {
            // Twenty requests a second, each of another client, each drained after a second: twenty live at a time.
            let (passed, forgot) = ask(&mut shard, named(n), n * 50_000_000, &bucket, 64);
            assert!(passed && !forgot, "{n}");
        }
        assert!(shard.used <= 64 && shard.cells.len() <= 96, "{} of {}", shard.used, shard.cells.len());
    }

    #[test]
    fn a_full_table_forgets_the_least_filled_and_nobody_gains_by_it() {
        let (mut shard, bucket) = (Shard::default(), bucket("1/d", 3));
        let heavy = named(0);
        (0..3).for_each(|_| assert!(ask(&mut shard, heavy, 0, &bucket, 8).0));
        let mut forgotten = 0;
        let mut passed = 0;
        for n in 1..1000 {
            let (pass, forgot) = ask(&mut shard, named(n), 0, &bucket, 8);
            forgotten += u32::from(forgot);
            passed += u32::from(pass);
            assert!(!ask(&mut shard, heavy, 0, &bucket, 8).0, "the heavy one stays refused");
        }
        assert_eq!(shard.used, 8);
        // The first seven have room; then each newcomer begins where the fullest forgotten one stood, until all
        // cells are full.
        assert!(forgotten > 0 && (7 + 7..=7 * 3 + 1).contains(&passed), "{forgotten} forgotten, {passed} passed");
        assert!(!ask(&mut shard, named(5000), 0, &bucket, 8).0, "no room: refused, not uncounted");
        let day = 86_400_000_000_000;
        assert!(ask(&mut shard, named(5000), day, &bucket, 8).0, "what was forgotten drains like the rest");
    }

    #[test]
    fn a_key_takes_at_most_64_bytes() {
        let (cells, bucket) = (Cells::default(), bucket("1/d", 1));
        let most = Cells::share(1_000_000);
        let mut worst = 0;
        for n in 1..=150_000 {
            let key = named(n);
            assert_eq!(ask(&mut cells.lock(key), key, 0, &bucket, most), (true, false));
            if n >= 50_000 && n % 5000 == 0 {
                worst = worst.max(cells.bytes() as u64 / n);
            }
        }
        assert!((48..=64).contains(&worst), "{worst} bytes");
    }

    #[test]
    fn a_table_holds_the_entries_it_promises() {
        let (cells, bucket) = (Cells::default(), bucket("1/d", 1));
        for n in 0..20_000 {
            let key = named(n);
            assert_eq!(ask(&mut cells.lock(key), key, 0, &bucket, Cells::share(20_000)), (true, false), "{n}");
        }
    }

    proptest! {
        /// Whatever comes and goes, the table agrees with a map, and its size with what is in it.
        #[test]
        fn as_a_map(steps in prop::collection::vec((0..60_u64, any::<bool>()), 1..400)) {
            let (mut shard, bucket, mut map) = (Shard::default(), Bucket::standing(3), HashMap::new());
            for (n, come) in steps {
                let key = named(n);
                if come {
                    let held = map.entry(n).or_insert(0);
                    prop_assert_eq!(ask(&mut shard, key, 0, &bucket, usize::MAX).0, *held < 3);
                    *held = 3.min(*held + 1);
                } else {
                    shard.take(key);
                    map.entry(n).and_modify(|held| *held -= 1);
                }
                map.retain(|_, held| *held > 0);
                prop_assert_eq!(shard.used, map.len());
                for (n, held) in &map {
                    prop_assert_eq!(shard.look(named(*n), 0, &bucket).level, held * ONE);
                }
            }
        }

        /// No key gets more than its burst and its rate, in any window, however often it was forgotten.
        #[test]
        fn nobody_gets_more(steps in prop::collection::vec((0..40_u64, 0..300_000_000_u64), 1..600),
                            count in 1..20_u64, burst in 1..6_u32, most in 6..30_usize) {
            let bucket = Bucket::new(crate::units::Rate { count, seconds: 1 }, burst, 1);
            let (mut shard, mut now, mut passed) = (Shard::default(), 0, HashMap::<u64, Vec<u64>>::new());
            for (n, later) in steps {
                now += later / 10;
                // A few ask most of the time.
                let n = if n < 20 { n % 3 } else { n };
                if ask(&mut shard, named(n), now, &bucket, most).0 {
                    passed.entry(n).or_default().push(now);
                }
                prop_assert!(shard.used <= most);
            }
            for times in passed.values() {
                for (i, from) in times.iter().enumerate() {
                    for (j, to) in times.iter().enumerate().skip(i) {
                        // passed <= burst + rate * time, without rounding
                        let (passed, time) = ((j - i + 1) as u64, to - from);
                        prop_assert!(passed * 1_000_000_000 <= u64::from(burst) * 1_000_000_000 + count * time);
                    }
                }
            }
        }
    }
}
