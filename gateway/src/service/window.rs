//! Counts of the recent past in a fixed ring of ten slots, without a lock.
//!
//! A slot is one word: when it began, how many, how many of them marked. A slot that is older than the window is simply
//! not counted and is overwritten when its turn comes, so nothing has to tidy up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SLOTS: u64 = 10;
const COUNT: u64 = (1 << 20) - 1;

/// How many in the window, and how many of them were marked (failed, or retried).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    pub all: u64,
    pub marked: u64,
}

/// Epoch (24 bits), all (20), marked (20).
#[derive(Debug, Default)]
pub struct Window([AtomicU64; SLOTS as usize]);

impl Window {
    /// Counts at `now`; `length` is the whole window's, in nanoseconds. A slot that is full (a million in
    /// a tenth of the window) halves both counts first, which keeps their ratio.
    pub fn add(&self, now: u64, length: u64, all: u64, marked: u64) {
        let epoch = epoch(now, length);
        let slot = &self.0[(epoch % SLOTS) as usize];
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let (old, mut sum) = unpack(word);
            if old != epoch & 0xff_ffff {
                sum = Sum::default();
            }
            if sum.all + all > COUNT || sum.marked + marked > COUNT {
                sum = Sum { all: sum.all / 2, marked: sum.marked / 2 };
            }
            Some(epoch << 40 | (sum.all + all) << 20 | (sum.marked + marked))
        });
    }

    pub fn sum(&self, now: u64, length: u64) -> Sum {
        let epoch = epoch(now, length);
        self.0.iter().fold(Sum::default(), |total, slot| {
            let (old, sum) = unpack(slot.load(Relaxed));
            match epoch.wrapping_sub(old) & 0xff_ffff < SLOTS {
                true => Sum { all: total.all + sum.all, marked: total.marked + sum.marked },
                false => total,
            }
        })
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|slot| slot.store(0, Relaxed));
    }
}

/// Counted from 16, so that an empty slot (epoch 0) is outside every window.
fn epoch(now: u64, length: u64) -> u64 {
    now / (length / SLOTS).max(1) + 16
}

fn unpack(word: u64) -> (u64, Sum) {
    (word >> 40, Sum { all: word >> 20 & COUNT, marked: word & COUNT })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn old_slots_stop_counting() {
        let window = Window::default();
        for second in 0..10 {
            window.add(second * S, 10 * S, 2, 1);
        }
        assert_eq!(window.sum(9 * S, 10 * S), Sum { all: 20, marked: 10 });
        assert_eq!(window.sum(14 * S, 10 * S), Sum { all: 10, marked: 5 });
        assert_eq!(window.sum(19 * S, 10 * S), Sum::default());
        window.add(19 * S, 10 * S, 1, 0);
        assert_eq!(window.sum(19 * S, 10 * S), Sum { all: 1, marked: 0 }, "the old slot was overwritten");
    }

    #[test]
    fn a_full_slot_keeps_its_ratio() {
        let window = Window::default();
        window.add(0, 10 * S, COUNT, COUNT / 4);
        window.add(0, 10 * S, 1, 1);
        let sum = window.sum(0, 10 * S);
        assert!(sum.all > COUNT / 3 && sum.all < COUNT, "{sum:?}");
        assert!((sum.marked as f64 / sum.all as f64 - 0.25).abs() < 0.01, "{sum:?}");
    }

    #[test]
    fn an_empty_window_is_empty_at_any_time() {
        assert_eq!(Window::default().sum(0, 10 * S), Sum::default());
        assert_eq!(Window::default().sum(u64::MAX / 2, S), Sum::default());
    }
}
