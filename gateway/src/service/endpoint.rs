//! One place to send to: what is configured of it, and what was counted about it.
//!
//! The counted part ([`State`]) outlives reloads and DNS changes: it is found again by the address.

use super::outcome::Outcome;
use super::{Core, conf};
use pingora::upstreams::peer::HttpPeer;
use smol_str::SmolStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What was counted about an endpoint. Aligned to two cache lines, since processors fetch them in pairs and every
/// request writes here.
#[derive(Debug)]
#[repr(align(128))]
pub struct State {
    inflight: AtomicU32,
    /// Consecutive failures that `eject` counts.
    fails: AtomicU32,
    /// Latency in nanoseconds, exponentially weighted; 0 while unknown.
    ewma: AtomicU64,
    requests: AtomicU64,
    /// Out until this moment; 0 for never ejected.
    ejected_until: AtomicU64,
    /// Ejections without a quiet time between them.
    ejections: AtomicU32,
    ejected: AtomicU64,
    connect_failed: AtomicU64,
    /// When it came (back) into service; 0: was always there, [`UNSEEN`]: new, not yet looked at.
    since: AtomicU64,
    unhealthy: AtomicBool,
    /// Active checks: results seen, and the run of results that contradict the present verdict.
    pub(super) checks: AtomicU32,
    pub(super) streak: AtomicU32,
}

const UNSEEN: u64 = u64::MAX;
/// A failure counts as slow as this at least, or an endpoint that fails fast would look the fastest.
const FAILURE: u64 = 10_000_000;
const SLOWEST: u64 = 60_000_000_000;

impl State {
    /// `new`: joined a service that was already running, so it starts slowly if the service wants that.
    pub fn new(new: bool) -> State {
        State {
            inflight: AtomicU32::new(0),
            fails: AtomicU32::new(0),
            ewma: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            ejected: AtomicU64::new(0),
            connect_failed: AtomicU64::new(0),
            since: AtomicU64::new(if new { UNSEEN } else { 0 }),
            unhealthy: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            streak: AtomicU32::new(0),
        }
    }

    pub fn inflight(&self) -> u32 {
        self.inflight.load(Relaxed)
    }
    pub fn ewma(&self) -> u64 {
        self.ewma.load(Relaxed)
    }
    pub fn healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }
    pub fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Relaxed)
    }
    pub fn ejected(&self, now: u64) -> bool {
        now < self.ejected_until()
    }
    pub fn usable(&self, now: u64) -> bool {
        self.healthy() && !self.ejected(now)
    }

    pub(super) fn begin(&self) {
        self.inflight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }
    pub(super) fn end(&self) {
        self.inflight.fetch_sub(1, Relaxed);
    }

    /// Takes in how a try ended; true if the endpoint is ejected by it.
    pub(super) fn report(&self, eject: &conf::Eject, outcome: Outcome, now: u64) -> bool {
        match outcome {
            Outcome::Success { latency } => {
                self.sample(latency);
                self.calm(eject, now);
            }
            Outcome::Neutral => return false,
            _ => self.sample(self.ewma().saturating_mul(2).max(FAILURE)),
        }
        if outcome == Outcome::ConnectFailed {
            self.connect_failed.fetch_add(1, Relaxed);
        }
        if !eject.on.has(outcome) || self.ejected(now) {
            return false;
        }
        if self.fails.fetch_add(1, Relaxed) + 1 < eject.errors.max(1) {
            return false;
        }
        self.eject(eject, now)
    }

    /// Each further ejection lasts longer, so that a flapping endpoint is tried ever more rarely.
    fn eject(&self, eject: &conf::Eject, now: u64) -> bool {
        let old = self.ejected_until();
        let times = self.ejections.load(Relaxed).saturating_add(1).min(10);
        let until = now.saturating_add(nanos(eject).saturating_mul(times as u64));
        if now < old || self.ejected_until.compare_exchange(old, until, Relaxed, Relaxed).is_err() {
            return false;
        }
        self.ejections.store(times, Relaxed);
        self.fails.store(0, Relaxed);
        self.ejected.fetch_add(1, Relaxed);
        self.since.store(until, Relaxed);
        true
    }

    /// A success ends the run of failures; one long enough after the last ejection ends the growing of ejections.
    fn calm(&self, eject: &conf::Eject, now: u64) {
        if self.fails.load(Relaxed) != 0 {
            self.fails.store(0, Relaxed);
        }
        let times = self.ejections.load(Relaxed);
        if times != 0 && now > self.ejected_until().saturating_add(nanos(eject).saturating_mul(times as u64)) {
            self.ejections.store(0, Relaxed);
        }
    }

    /// A lost update between two threads loses one sample, which an average can bear.
    fn sample(&self, latency: u64) {
        let (old, new) = (self.ewma(), latency.clamp(1, SLOWEST));
        let next = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.ewma.store(next.clamp(1, SLOWEST), Relaxed);
    }

    /// The verdict of the active checks; true if it changed.
    pub(super) fn set_healthy(&self, healthy: bool, now: u64) -> bool {
        let changed = self.unhealthy.swap(!healthy, Relaxed) == healthy;
        if changed && healthy {
            self.since.store(now, Relaxed);
            self.fails.store(0, Relaxed);
        }
        changed
    }

    /// How much of its weight it carries while it starts, from 0.1 to 1.
    pub(super) fn ramp(&self, slow_start: u64, now: u64) -> f64 {
        if self.since.load(Relaxed) == UNSEEN {
            self.since.store(now, Relaxed);
        }
        let since = self.since.load(Relaxed);
        if since == 0 || slow_start == 0 {
            return 1.0;
        }
        (now.saturating_sub(since) as f64 / slow_start as f64).clamp(0.1, 1.0)
    }
}

fn nanos(eject: &conf::Eject) -> u64 {
    eject.lasts.0.as_nanos() as u64
}

/// One place to send to.
#[derive(Debug)]
pub struct Endpoint {
    /// The address as logs and metrics show it.
    pub name: SmolStr,
    /// What stands in `to`, such as a host name that this address came from.
    pub written: SmolStr,
    pub weight: u32,
    pub backup: bool,
    pub state: Arc<State>,
    pub(super) core: Arc<Core>,
    pub(super) peer: HttpPeer,
}

/// An endpoint at a moment, for metrics and the admin endpoint.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub name: SmolStr,
    pub weight: u32,
    pub backup: bool,
    pub healthy: bool,
    pub ejected: bool,
    pub inflight: u32,
    /// Nanoseconds; 0 while unknown.
    pub ewma: u64,
    pub requests: u64,
    pub ejections: u64,
    pub connect_failed: u64,
}

impl Endpoint {
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let s = &self.state;
        Snapshot {
            name: self.name.clone(),
            weight: self.weight,
            backup: self.backup,
            healthy: s.healthy(),
            ejected: s.ejected(now),
            inflight: s.inflight(),
            ewma: s.ewma(),
            requests: s.requests.load(Relaxed),
            ejections: s.ejected.load(Relaxed),
            connect_failed: s.connect_failed.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::short::Short;

    const S: u64 = 1_000_000_000;

    fn eject() -> conf::Eject {
        conf::Eject::line("3 errors for 10s").expect("a valid line")
    }

    fn fail(state: &State, times: u32, now: u64) -> bool {
        (0..times).fold(false, |_, _| state.report(&eject(), Outcome::ConnectFailed, now))
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while() {
        let state = State::new(false);
        assert!(!fail(&state, 2, S));
        state.report(&eject(), Outcome::Success { latency: 5 }, S);
        assert!(!fail(&state, 2, S), "the success ended the run");
        assert!(fail(&state, 1, S));
        assert!(!state.usable(10 * S) && state.usable(11 * S));
    }

    #[test]
    fn flapping_lasts_ever_longer_until_it_ends() {
        let state = State::new(false);
        assert!(fail(&state, 3, S));
        assert!(fail(&state, 3, 11 * S));
        assert!(!state.usable(30 * S) && state.usable(31 * S), "the second lasts 20s");
        state.report(&eject(), Outcome::Success { latency: 5 }, 52 * S);
        assert!(fail(&state, 3, 53 * S));
        assert!(state.usable(63 * S), "after a quiet time the next lasts 10s again");
    }

    #[test]
    fn only_what_counts_counts() {
        let state = State::new(false);
        (0..9).for_each(|_| assert!(!state.report(&eject(), Outcome::Neutral, S)));
        (0..9).for_each(|_| assert!(!state.report(&eject(), Outcome::Status(500), S)));
        let unwritten = conf::Eject::unwritten();
        (0..9).for_each(|_| assert!(!state.report(&unwritten, Outcome::Status(503), S)));
        assert_eq!((0..5).filter(|_| state.report(&unwritten, Outcome::ConnectFailed, S)).count(), 1);
    }

    #[test]
    fn failing_fast_does_not_look_fast() {
        let state = State::new(false);
        state.report(&eject(), Outcome::Success { latency: 1_000_000 }, S);
        let before = state.ewma();
        state.report(&eject(), Outcome::ConnectFailed, S);
        assert!(state.ewma() > before);
    }

    #[test]
    fn the_start_is_slow_after_an_ejection_a_recovery_and_a_birth() {
        let state = State::new(false);
        assert_eq!(state.ramp(10 * S, S), 1.0);
        fail(&state, 3, S);
        assert_eq!(state.ramp(10 * S, 11 * S), 0.1);
        assert_eq!(state.ramp(10 * S, 16 * S), 0.5);
        assert!(
            state.set_healthy(false, 30 * S) && state.set_healthy(true, 40 * S) && !state.set_healthy(true, 41 * S)
        );
        assert_eq!(state.ramp(10 * S, 45 * S), 0.5);
        let born = State::new(true);
        assert_eq!((born.ramp(10 * S, 70 * S), born.ramp(10 * S, 90 * S)), (0.1, 1.0));
    }
}
