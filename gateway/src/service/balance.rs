//! Which endpoint gets the next request. Pure: time and randomness are arguments.
//!
//! A [`View`] is what the endpoints looked like a moment ago, made ready for choosing: only those that may be used, with
//! the tables that make a choice cost the same for one endpoint and for ten thousand. It is made anew when an endpoint's
//! standing changes, and what it offers is checked once more, so that a stale view costs a second draw and no error.

use super::conf::Balance;
use super::endpoint::Endpoint;
use super::mix::{self, Draws};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How views are made; configured.
#[derive(Debug, Clone)]
pub struct Rule {
    pub balance: Balance,
    /// The share of ejected endpoints above which ejection is ignored.
    pub panic: f64,
    /// Nanoseconds; 0 for at once.
    pub slow_start: u64,
}

/// The endpoints that one request was already sent to.
pub type Tried = SmallVec<[usize; 2]>;

/// What the endpoints looked like a moment ago.
#[derive(Debug)]
pub struct View {
    /// The count of changes it was made from, when it was made, and when it must be made anew at the latest.
    pub seen: u64,
    pub built: u64,
    pub until: u64,
    /// Indexes of those to choose from; and the usable backups, for when all of these were tried.
    members: Box<[u32]>,
    spare: Box<[u32]>,
    /// Ejection is ignored.
    panic: bool,
    weights: Weights,
    /// Turns for `round_robin`.
    wheel: Box<[u32]>,
    /// Membership by endpoint, for `hash`.
    present: Box<[bool]>,
}

impl View {
    pub fn build(all: &[Arc<Endpoint>], rule: &Rule, seen: u64, now: u64) -> View {
        let Candidates { members, spare, panic } = candidates(all, rule, now);
        let ramps: Vec<f64> = members.iter().map(|i| all[*i as usize].state.ramp(rule.slow_start, now)).collect();
        let starting = ramps.iter().any(|r| *r < 1.0);
        let weight = |(i, ramp): (&u32, &f64)| all[*i as usize].weight as f64 * ramp;
        let weights: Vec<f64> = members.iter().zip(&ramps).map(weight).collect();
        let returns = all.iter().map(|e| e.state.ejected_until()).filter(|t| *t > now).min().unwrap_or(u64::MAX);
        let step = if starting { now.saturating_add((rule.slow_start / 20).max(1)) } else { u64::MAX };
        let mut present = vec![false; if rule.balance == Balance::Hash { all.len() } else { 0 }];
        if rule.balance == Balance::Hash {
            members.iter().for_each(|i| present[*i as usize] = true);
        }
        View {
            seen,
            built: now,
            until: returns.min(step),
            wheel: if rule.balance == Balance::RoundRobin { wheel(&weights) } else { Box::default() },
            weights: Weights::new(&weights),
            members: members.into(),
            spare: spare.into(),
            panic,
            present: present.into(),
        }
    }

    /// Ejection is ignored, since too many are ejected.
    pub fn panics(&self) -> bool {
        self.panic
    }
    /// How many it chooses from.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The index of the endpoint to use. Prefers those not yet tried, then backups not yet tried, then any.
    pub fn pick(&self, all: &[Arc<Endpoint>], by: &By, tried: &Tried, now: u64, draws: &mut Draws) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let fits = |i: usize| self.fits(&all[i], now) && !tried.contains(&id(&all[i]));
        for _ in 0..4 {
            let i = self.propose(all, by, &fits, draws);
            if fits(i) {
                return Some(i);
            }
        }
        let from = draws.below(self.members.len());
        let around = || self.members[from..].iter().chain(&self.members[..from]).map(|i| *i as usize);
        around()
            .find(|i| fits(*i))
            .or_else(|| self.spare.iter().map(|i| *i as usize).find(|i| fits(*i)))
            .or_else(|| around().find(|i| self.fits(&all[*i], now)))
    }

    fn fits(&self, endpoint: &Endpoint, now: u64) -> bool {
        if self.panic { endpoint.state.healthy() } else { endpoint.state.usable(now) }
    }

    fn propose(&self, all: &[Arc<Endpoint>], by: &By, fits: &impl Fn(usize) -> bool, draws: &mut Draws) -> usize {
        let nth = match by {
            By::P2c => self.p2c(all, draws),
            By::LeastConn => self.least_conn(all, draws),
            By::RoundRobin(turn) => {
                self.wheel[(turn.fetch_add(1, Relaxed) % self.wheel.len() as u64) as usize] as usize
            }
            By::Hash(ring, Some(key)) => {
                let found = ring.walk(*key).find(|i| self.present[*i] && fits(*i));
                return found.unwrap_or(self.members[0] as usize);
            }
            By::Random | By::Hash(_, None) => self.weights.draw(draws),
        };
        self.members[nth] as usize
    }

    /// The less loaded of two. Where weights differ both are drawn by weight and may be the same one, which then gets
    /// its share whatever the load; where they are equal two different ones are compared.
    fn p2c(&self, all: &[Arc<Endpoint>], draws: &mut Draws) -> usize {
        let count = self.members.len();
        if count == 1 {
            return 0;
        }
        let (a, b) = match self.weights.equal() {
            true => {
                let a = draws.below(count);
                (a, (a + 1 + draws.below(count - 1)) % count)
            }
            false => (self.weights.draw(draws), self.weights.draw(draws)),
        };
        // Now and then the first draw stands, so that a slow endpoint's recovery is noticed.
        if a == b || draws.draw().is_multiple_of(64) || !self.lighter(all, b, a) {
            return a;
        }
        b
    }

    /// Whether `a` promises a faster answer than `b`: requests under way for its weight, times its latency. An endpoint
    /// whose latency is unknown counts as fast as the other, or a new one would be flooded before it first answers.
    fn lighter(&self, all: &[Arc<Endpoint>], a: usize, b: usize) -> bool {
        let state = |n: usize| &all[self.members[n] as usize].state;
        let load = |n: usize| state(n).inflight() as f64 / self.weights.relative(n) + 1.0;
        let (la, lb) = (state(a).ewma() as f64, state(b).ewma() as f64);
        if la == 0.0 || lb == 0.0 { load(a) < load(b) } else { load(a) * la < load(b) * lb }
    }

    fn least_conn(&self, all: &[Arc<Endpoint>], draws: &mut Draws) -> usize {
        let count = self.members.len();
        let load =
            |n: &usize| (all[self.members[*n] as usize].state.inflight() as f64 + 1.0) / self.weights.relative(*n);
        let least = |a: usize, b: usize| if load(&b) < load(&a) { b } else { a };
        match count {
            1 => 0,
            2..=32 => {
                let from = draws.below(count);
                (0..count).map(|n| (from + n) % count).reduce(least).unwrap_or(0)
            }
            _ => (0..16).map(|_| draws.below(count)).reduce(least).unwrap_or(0),
        }
    }
}

/// An endpoint's identity among those tried.
pub fn id(endpoint: &Endpoint) -> usize {
    Arc::as_ptr(&endpoint.state) as usize
}

/// What a choice goes by.
#[derive(Debug)]
pub enum By<'a> {
    P2c,
    RoundRobin(&'a AtomicU64),
    LeastConn,
    Hash(&'a Ring, Option<u64>),
    Random,
}

struct Candidates {
    members: Vec<u32>,
    spare: Vec<u32>,
    panic: bool,
}

/// The usable primaries; else the usable backups; else, if too many are ejected for it to be their own fault, everything
/// that the active checks do not rule out. An active check is a verdict, an ejection only a suspicion.
fn candidates(all: &[Arc<Endpoint>], rule: &Rule, now: u64) -> Candidates {
    let those = |test: &dyn Fn(&Endpoint) -> bool| -> Vec<u32> {
        all.iter().enumerate().filter(|(_, e)| test(e)).map(|(i, _)| i as u32).collect()
    };
    let healthy = those(&|e| !e.backup && e.state.healthy());
    let usable = those(&|e| !e.backup && e.state.usable(now));
    let backups = those(&|e| e.backup && e.state.usable(now));
    let too_many = (healthy.len() - usable.len()) as f64 > rule.panic * healthy.len() as f64;
    if !usable.is_empty() {
        let members = if too_many { healthy } else { usable };
        return Candidates { members, spare: backups, panic: too_many };
    }
    if !backups.is_empty() {
        return Candidates { members: backups, spare: vec![], panic: false };
    }
    if rule.panic >= 1.0 {
        return Candidates { members: vec![], spare: vec![], panic: false };
    }
    let members = if healthy.is_empty() { those(&|e| e.state.healthy()) } else { healthy };
    Candidates { members, spare: vec![], panic: true }
}

/// Draws an index with the probability of its weight in constant time (Vose's alias method).
#[derive(Debug)]
enum Weights {
    Equal(usize),
    /// For each column: its own share of it in 2^32nds, whom the rest belongs to, the weight relative to the heaviest.
    Alias(Box<[(u32, u32, f32)]>),
}

impl Weights {
    fn new(weights: &[f64]) -> Weights {
        let count = weights.len();
        if weights.iter().all(|w| *w == weights[0]) {
            return Weights::Equal(count);
        }
        let (sum, heaviest) = (weights.iter().sum::<f64>(), weights.iter().copied().fold(0.0, f64::max));
        let mut share: Vec<f64> = weights.iter().map(|w| w * count as f64 / sum).collect();
        let mut columns: Vec<(u32, u32, f32)> =
            weights.iter().enumerate().map(|(i, w)| (u32::MAX, i as u32, (w / heaviest) as f32)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|i| share[*i] < 1.0);
        while let (Some(&s), Some(&l)) = (small.last(), large.last()) {
            small.pop();
            columns[s].0 = (share[s] * u32::MAX as f64) as u32;
            columns[s].1 = l as u32;
            share[l] -= 1.0 - share[s];
            if share[l] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        Weights::Alias(columns.into())
    }

    fn equal(&self) -> bool {
        matches!(self, Weights::Equal(_))
    }

    /// Above 0, at most 1.
    fn relative(&self, nth: usize) -> f64 {
        match self {
            Weights::Equal(_) => 1.0,
            Weights::Alias(columns) => columns[nth].2 as f64,
        }
    }

    fn draw(&self, draws: &mut Draws) -> usize {
        match self {
            Weights::Equal(count) => draws.below(*count),
            Weights::Alias(columns) => {
                let column = draws.below(columns.len());
                let (own, other, _) = columns[column];
                if draws.draw() as u32 <= own { column } else { other as usize }
            }
        }
    }
}

/// One whole round of turns, each index as often as its weight says and its turns evenly apart: turn k of a weight w lies
/// at (k + phase) / w of the round. The phases follow the golden ratio, so that equal ones do not bunch together.
fn wheel(weights: &[f64]) -> Box<[u32]> {
    let turns = turns(weights);
    let mut wheel: Vec<(f64, u32)> = Vec::with_capacity(turns.iter().map(|t| *t as usize).sum());
    for (i, count) in turns.iter().enumerate() {
        let phase = ((i as f64 + 1.0) * 0.618_033_988_749_894_9).fract();
        wheel.extend((0..*count).map(|k| ((k as f64 + phase) / *count as f64, i as u32)));
    }
    wheel.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    wheel.into_iter().map(|(_, i)| i).collect()
}

/// Weights as small whole numbers; a wheel has at most 8 turns for each index, or 4096, whichever is more.
fn turns(weights: &[f64]) -> Vec<u32> {
    // A tenth is the smallest step that slow start and whole weights are rounded to.
    let tenths: Vec<u64> = weights.iter().map(|w| (w * 10.0).round().max(1.0) as u64).collect();
    let divisor = tenths.iter().copied().fold(0, gcd).max(1);
    let total: u64 = tenths.iter().map(|w| w / divisor).sum();
    let most = (weights.len() as u64 * 8).max(4096);
    let scale = if total > most { most as f64 / total as f64 } else { 1.0 };
    tenths.iter().map(|w| ((w / divisor) as f64 * scale).round().max(1.0) as u32).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Consistent hashing: points on a ring for every endpoint, and a key belongs to the first point at or after it.
///
/// The points come from the endpoint's name alone, so adding or removing one moves only the keys that it gains or loses.
/// It is made of all endpoints, usable or not; the keys of one that is out go to those next on the ring and come back.
#[derive(Debug, Default)]
pub struct Ring {
    points: Box<[(u64, u32)]>,
    /// Where the points begin whose hash starts with these bits, about four of them each: hashes are spread evenly, so
    /// this finds the place at once, where a search through a big ring would miss the cache at every step.
    starts: Box<[u32]>,
    bits: u32,
}

const POINTS: u64 = 160;
const MOST_POINTS: u64 = 1 << 21;

impl Ring {
    pub fn new(all: &[Arc<Endpoint>]) -> Ring {
        let total: u64 = all.iter().map(|e| e.weight as u64 * POINTS).sum();
        // Halved until it fits: the points that remain are the same ones.
        let halvings = (0..).find(|h| total >> h <= MOST_POINTS).unwrap_or(0);
        let mut points: Vec<(u64, u32)> = all
            .iter()
            .enumerate()
            .flat_map(|(i, e)| {
                let seed = mix::text(&e.name);
                let count = ((e.weight as u64 * POINTS) >> halvings).max(1);
                (0..count).map(move |p| (mix::pair(seed, p), i as u32))
            })
            .collect();
        points.sort_unstable();
        let bits = (points.len() / 4).max(1).ilog2();
        let start = |top: u64| points.partition_point(|(point, _)| leading(*point, bits) < top) as u32;
        let starts = (0..=1u64 << bits).map(start).collect();
        Ring { points: points.into(), starts, bits }
    }

    /// The endpoints in the order in which they would serve this key; with repetitions.
    fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let hash = mix::one(key);
        let top = leading(hash, self.bits) as usize;
        let near = match self.starts.get(top..top + 2) {
            Some(range) => range[0] as usize..range[1] as usize,
            None => 0..0,
        };
        let at = near.start + self.points[near].partition_point(|(point, _)| *point < hash);
        self.points[at..].iter().chain(&self.points[..at]).map(|(_, i)| *i as usize)
    }
}

/// The first `bits` bits of a hash, of which there may be none.
fn leading(hash: u64, bits: u32) -> u64 {
    hash.checked_shr(64 - bits).unwrap_or(0)
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
