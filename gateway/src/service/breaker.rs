//! The circuit breaker of a service: closed, open, and half open while a few requests probe.
//!
//! Closed is the only phase that requests meet at full speed, and it takes no lock: one flag is read.

use super::conf;
use super::outcome::Outcome;
use super::window::Window;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The counted state; outlives reloads.
#[derive(Debug, Default)]
pub struct Breaker {
    window: Window,
    /// Not closed: look at `trouble`.
    troubled: AtomicBool,
    trouble: Mutex<Trouble>,
    opened: AtomicU64,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Open before, half open from then on.
    until: u64,
    /// Probes under way, and those that succeeded.
    running: u32,
    good: u32,
    /// Which trouble this is; a probe of an earlier one says nothing about this one.
    round: u32,
}

/// The permission to send one request; given back with [`Breaker::report`], whatever happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Free,
    Probe { round: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    HalfOpen,
}

impl Breaker {
    /// `Err`: open, for so many nanoseconds more (0: probes are under way).
    pub fn admit(&self, conf: &conf::Breaker, now: u64) -> Result<Pass, u64> {
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(Pass::Free);
        }
        let mut trouble = self.trouble.lock();
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(Pass::Free);
        }
        if now < trouble.until {
            return Err(trouble.until - now);
        }
        if trouble.running + trouble.good >= conf.probes.max(1) {
            return Err(0);
        }
        trouble.running += 1;
        Ok(Pass::Probe { round: trouble.round })
    }

    pub fn report(&self, conf: &conf::Breaker, pass: Pass, outcome: Outcome, now: u64) {
        match pass {
            Pass::Free => self.count(conf, outcome, now),
            Pass::Probe { round } => self.probed(conf, round, outcome, now),
        }
    }

    fn count(&self, conf: &conf::Breaker, outcome: Outcome, now: u64) {
        if outcome == Outcome::Neutral || self.troubled.load(Ordering::Acquire) {
            return;
        }
        let length = conf.window.0.as_nanos() as u64;
        let failed = outcome.failed();
        self.window.add(now, length, 1, failed as u64);
        if failed {
            let sum = self.window.sum(now, length);
            if sum.all >= conf.of as u64 && sum.marked as f64 >= conf.share.0 * sum.all as f64 {
                let mut trouble = self.trouble.lock();
                if !self.troubled.load(Ordering::Acquire) {
                    self.open(conf, &mut trouble, now);
                }
            }
        }
    }

    fn probed(&self, conf: &conf::Breaker, round: u32, outcome: Outcome, now: u64) {
        let mut trouble = self.trouble.lock();
        if trouble.round != round || !self.troubled.load(Ordering::Acquire) {
            return;
        }
        trouble.running = trouble.running.saturating_sub(1);
        if outcome.failed() {
            self.open(conf, &mut trouble, now);
        } else if outcome != Outcome::Neutral {
            trouble.good += 1;
            if trouble.good >= conf.probes.max(1) {
                self.window.clear();
                self.troubled.store(false, Ordering::Release);
            }
        }
    }

    fn open(&self, conf: &conf::Breaker, trouble: &mut Trouble, now: u64) {
        let until = now.saturating_add(conf.open.0.as_nanos() as u64);
        *trouble = Trouble { until, running: 0, good: 0, round: trouble.round.wrapping_add(1) };
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.troubled.store(true, Ordering::Release);
    }

    pub fn phase(&self, now: u64) -> Phase {
        if !self.troubled.load(Ordering::Acquire) {
            Phase::Closed
        } else if now < self.trouble.lock().until {
            Phase::Open
        } else {
            Phase::HalfOpen
        }
    }

    /// How often it opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::short::Short;

    const S: u64 = 1_000_000_000;
    const OK: Outcome = Outcome::Success { latency: 1 };
    const BAD: Outcome = Outcome::Status(503);

    fn conf() -> conf::Breaker {
        conf::Breaker::line("50% of 20 in 10s open 15s").expect("a valid line")
    }

    fn send(b: &Breaker, outcome: Outcome, now: u64) -> bool {
        let pass = b.admit(&conf(), now);
        pass.map(|p| b.report(&conf(), p, outcome, now)).is_ok()
    }

    fn opened(at: u64) -> Breaker {
        let b = Breaker::default();
        (0..20).for_each(|_| assert!(send(&b, BAD, at)));
        assert_eq!(b.phase(at), Phase::Open);
        b
    }

    #[test]
    fn opens_at_the_share_and_not_below_the_count() {
        let b = Breaker::default();
        (0..19).for_each(|_| assert!(send(&b, BAD, S)));
        assert_eq!(b.phase(S), Phase::Closed, "19 are too few to judge");
        assert!(send(&b, BAD, S));
        assert_eq!(b.admit(&conf(), S), Err(15 * S));

        let b = Breaker::default();
        (0..30).for_each(|_| assert!(send(&b, OK, S)));
        (0..29).for_each(|_| assert!(send(&b, BAD, S)));
        assert_eq!(b.phase(S), Phase::Closed, "29 of 59 are less than half");
        assert!(send(&b, BAD, S));
        assert_eq!(b.phase(S), Phase::Open);
    }

    #[test]
    fn failures_outside_the_window_are_forgotten() {
        let b = Breaker::default();
        (0..19).for_each(|_| assert!(send(&b, BAD, S)));
        (0..19).for_each(|_| assert!(send(&b, BAD, 12 * S)));
        assert_eq!(b.phase(12 * S), Phase::Closed);
    }

    #[test]
    fn half_open_lets_a_bounded_number_probe() {
        let b = opened(S);
        assert!(b.admit(&conf(), 15 * S).is_err());
        let probes: Vec<_> = (0..10).filter_map(|_| b.admit(&conf(), 16 * S).ok()).collect();
        assert_eq!(probes.len(), 3);
        assert_eq!(b.phase(16 * S), Phase::HalfOpen);
        b.report(&conf(), probes[0], Outcome::Neutral, 16 * S);
        assert!(b.admit(&conf(), 16 * S).is_ok(), "a probe that says nothing gives its place back");
    }

    #[test]
    fn good_probes_close_and_one_bad_probe_opens_again() {
        let b = opened(S);
        (0..3).for_each(|_| assert!(send(&b, OK, 16 * S)));
        assert_eq!(b.phase(16 * S), Phase::Closed);
        assert!(send(&b, BAD, 16 * S));
        assert_eq!(b.phase(16 * S), Phase::Closed, "the old failures are gone");

        let b = opened(S);
        let late = b.admit(&conf(), 16 * S).expect("a probe");
        assert!(send(&b, BAD, 16 * S));
        assert_eq!(b.admit(&conf(), 17 * S), Err(14 * S));
        b.report(&conf(), late, OK, 17 * S);
        assert_eq!(b.phase(17 * S), Phase::Open, "a probe of the last round does not count");
        assert_eq!(b.opened(), 2);
    }
}
