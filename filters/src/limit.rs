//! How often a client may ask: `limit = "100/s per ip burst 200"`, and how many requests it may have under way:
//! `limit = { inflight = 20, per = "ip" }`. Several limits stand in a list.
//!
//! Each key has a bucket that requests fill and the rate drains: `burst` requests fit in at once, then as many as drain.
//! What does not fit gets 429 with `Retry-After`. All limits of a route are tested together and charged together, so a
//! refused request is charged to none. Its surprise: routes that share a policy share its counters (`per = "ip+route"`
//! counts apart), and a request without the key is counted under the client's address.

mod bucket;
mod cells;

use crate::cx::Cx;
use crate::expr::{Key, Var, View};
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::{RequestHead, ResponseHead};
use crate::short::{Bad, Many, Short, words};
use crate::units::{Mode, Rate, Span};
use bucket::{Bucket, Level, seconds};
use cells::{Look, Shard};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use parking_lot::MutexGuard;
use serde_spanned::Spanned;
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use cells::Cells;

/// One limit.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Limit"))]
pub struct Conf {
    /// How many requests in how long, such as `"100/s"` or `"10000/day"`.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Instead of `rate`: how many requests may be under way at a time.
    #[serde(default)]
    pub inflight: Option<u32>,
    /// What requests are counted by: `ip` (the default), `header.NAME`, `cookie.NAME`, `query.NAME`, `path.NAME`,
    /// `cert.cn`, `route`, or several joined with `+`. An IPv6 client is its /64.
    #[serde(default = "Key::ip")]
    pub per: Key,
    /// How many requests pass at once after a pause. The number in `rate` by default.
    #[serde(default)]
    pub burst: Option<u32>,
    /// As how many requests each one counts. 1 by default.
    #[serde(default = "one")]
    pub cost: u32,
    /// What the log, the metrics and the client's headers call this limit. By default the terms: `100/s per ip`.
    #[serde(default)]
    pub name: Option<String>,
    /// How many keys are counted at a time, at 64 bytes each at most; memory is taken as they come. 1,000,000 by default.
    #[serde(default = "million")]
    pub entries: u32,
    /// `enforce` (the default), `observe` or `off`.
    #[serde(default)]
    pub mode: Mode,
}

fn one() -> u32 {
    1
}

fn million() -> u32 {
    1_000_000
}

const FORM: &str = "`per <key>`, `burst <number>` or `observe`";

impl Short for Conf {
    const LINE: &'static str = "a limit such as \"100/s per ip burst 200\"";

    fn line(text: &str) -> Result<Conf, Bad> {
        let mut words = words(text);
        let (at, rate) = words
            .next()
            .ok_or_else(|| Bad::new(0..text.len(), "empty limit: expected \"<rate> [per <key>] [burst <number>]\""))?;
        let rate = rate.parse().map_err(|bad: Bad| bad.shifted(at))?;
        let mut conf = Conf { rate: Some(rate), ..Conf::default() };
        while let Some((at, word)) = words.next() {
            let here = at..at + word.len();
            let mut value =
                |what| words.next().ok_or_else(|| Bad::new(here.clone(), format!("`{word}` without {what}")));
            match word {
                "per" => {
                    let (at, key) = value("a key")?;
                    conf.per = Key::parse(key).map_err(|bad| bad.shifted(at))?;
                }
                "burst" => {
                    let (at, number) = value("a number")?;
                    let wrong = |_| Bad::new(at..at + number.len(), format!("burst \"{number}\": expected a number"));
                    conf.burst = Some(number.parse().map_err(wrong)?);
                }
                "observe" => conf.mode = Mode::Observe,
                _ => return Err(Bad::new(here, format!("found `{word}`, expected {FORM}"))),
            }
        }
        Ok(conf)
    }
}

impl Default for Conf {
    fn default() -> Conf {
        Conf {
            rate: None,
            inflight: None,
            per: Key::ip(),
            burst: None,
            cost: one(),
            name: None,
            entries: million(),
            mode: Mode::default(),
        }
    }
}

/// The limits whose keys are known before anybody is identified.
pub struct ByAddress {
    /// As they were written.
    limits: Box<[Limit]>,
    /// The order in which their tables are locked.
    order: Box<[usize]>,
    /// `RateLimit-Policy`: the enforced ones never change their terms.
    policy: Option<HeaderValue>,
}

struct Limit {
    name: SmolStr,
    key: Key,
    bucket: Bucket,
    /// Counts requests under way: what `done` gives back.
    inflight: bool,
    mode: Mode,
    cells: Arc<Cells>,
    /// The most cells in one shard of it.
    most: usize,
}

/// What came of one request.
#[derive(Default)]
pub struct Counted {
    /// How full each enforced limit is, this request included if it passed.
    levels: SmallVec<[Level; 2]>,
    /// What to give back: the limit and the key.
    held: SmallVec<[(usize, cells::Key); 1]>,
}

/// A limit while all of them are tested.
struct Test<'a> {
    key: cells::Key,
    look: Look,
    shard: MutexGuard<'a, Shard>,
}

impl Filter for ByAddress {
    type Conf = Many<Conf>;
    type Scratch = Counted;
    const EXAMPLE: &'static str = r#"limit = ["100/s per ip burst 200", { rate = "10000/day", per = "header.x-api-key", name = "daily" }, { inflight = 20, per = "ip" }]"#;

    fn build(conf: &Many<Conf>, cx: &BuildCx) -> Result<Option<Self>, BuildError> {
        let mut limits: Vec<Limit> = vec![];
        for (nth, one) in conf.iter().enumerate() {
            let mut limit = Limit::build(one, counter(&conf[..=nth], cx), cx)?;
            let namesakes = limits.iter().filter(|l| l.name.split(" #").next() == Some(&limit.name)).count();
            if namesakes > 0 {
                limit.name = SmolStr::from(format!("{} #{}", limit.name, namesakes + 1));
            }
            limits.push(limit);
        }
        limits.retain(|l| l.mode != Mode::Off);
        if limits.is_empty() {
            return Ok(None);
        }
        let mut order: Box<[usize]> = (0..limits.len()).collect();
        order.sort_by_key(|i| limits[*i].cells.rank());
        let policy =
            limits.iter().filter(|l| l.mode == Mode::Enforce).map(Limit::policy).collect::<Vec<_>>().join(", ");
        let policy = HeaderValue::try_from(policy).ok().filter(|p| !p.is_empty());
        Ok(Some(ByAddress { limits: limits.into(), order, policy }))
    }

    fn request(&self, counted: &mut Counted, head: &mut RequestHead, cx: &mut Cx) -> Step {
        let mut tests = self.test(&View { head, cx });
        let over = |(test, limit): &(&Test, &Limit)| limit.bucket.is_full(test.look.level);
        let refused = tests.iter().zip(&self.limits).any(|both| both.1.mode == Mode::Enforce && over(&both));
        let mut findings: SmallVec<[(usize, Finding); 2]> = SmallVec::new();
        for (i, (test, limit)) in tests.iter_mut().zip(&self.limits).enumerate() {
            if limit.bucket.is_full(test.look.level) {
                findings.push((i, Finding::Over(limit.wait(test.look.stored, cx.now))));
            } else if !refused {
                if test.shard.fill(&mut test.look, test.key, cx.now, &limit.bucket, limit.most) {
                    findings.push((i, Finding::Forgot));
                }
                if limit.inflight {
                    counted.held.push((i, test.key));
                }
            }
            if limit.mode == Mode::Enforce {
                counted.levels.push(test.look.stored);
            }
        }
        drop(tests);
        if findings.is_empty() { GO } else { self.judge(&findings, cx) }
    }

    fn response(&self, counted: &mut Counted, head: &mut ResponseHead, _: &RequestHead, cx: &mut Cx) {
        let Some(policy) = self.policy.as_ref().filter(|_| !counted.levels.is_empty()) else { return };
        let mut now = String::with_capacity(40 * counted.levels.len());
        let enforced = self.limits.iter().filter(|l| l.mode == Mode::Enforce);
        for (limit, level) in enforced.zip(&counted.levels) {
            limit.state(*level, cx.now, &mut now);
        }
        // Both are lists: what the upstream says of limits of its own stays. Adding fails only when the map is full, at
        // 32768 headers.
        _ = head.append_header(RATE_LIMIT_POLICY, policy);
        if let Ok(now) = HeaderValue::try_from(now) {
            _ = head.append_header(RATE_LIMIT, now);
        }
    }

    fn done(&self, counted: &mut Counted, _: &Cx) {
        for (i, key) in counted.held.drain(..) {
            self.limits[i].cells.lock(key).take(key);
        }
    }
}

/// draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What is worth telling of one limit.
enum Finding {
    /// The request does not fit, for so many nanoseconds.
    Over(u64),
    /// It fits, but for its counter another one had to be forgotten.
    Forgot,
}

impl ByAddress {
    /// Locks and looks, in the order of the limits. Everything stays locked until the tests are dropped, so that no
    /// other request comes between test and charge.
    fn test(&self, view: &View) -> SmallVec<[Test<'_>; 2]> {
        let now = view.cx.now;
        let one = |limit: &'_ Limit| cells::key(limit.key.hash128(view, limit.cells.seeds()));
        if let [limit] = &*self.limits {
            let key = one(limit);
            let shard = limit.cells.lock(key);
            return SmallVec::from_iter([Test { key, look: shard.look(key, now, &limit.bucket), shard }]);
        }
        let keys: SmallVec<[cells::Key; 4]> = self.limits.iter().map(one).collect();
        let mut locked: SmallVec<[(usize, MutexGuard<Shard>); 4]> =
            self.order.iter().map(|&i| (i, self.limits[i].cells.lock(keys[i]))).collect();
        locked.sort_unstable_by_key(|(i, _)| *i);
        let mut tests = SmallVec::new();
        for (i, shard) in locked {
            tests.push(Test { key: keys[i], look: shard.look(keys[i], now, &self.limits[i].bucket), shard });
        }
        tests
    }

    /// Writes down what was found, and refuses if an enforced limit says so: by the one that lasts longest, since who
    /// comes back earlier is refused again.
    #[cold]
    fn judge(&self, findings: &[(usize, Finding)], cx: &mut Cx) -> Step {
        let mut longest: Option<(u64, &Limit)> = None;
        for (i, finding) in findings {
            let limit = &self.limits[*i];
            match finding {
                Finding::Forgot => {
                    let reason = format!("`{}` counts more clients than its `entries`", limit.name);
                    cx.refuse(Mode::Observe, "full", reason, || Reply::empty(429))?;
                }
                Finding::Over(wait) if limit.mode == Mode::Enforce => {
                    if longest.is_none_or(|(most, _)| *wait > most) {
                        longest = Some((*wait, limit));
                    }
                }
                Finding::Over(wait) => {
                    cx.refuse(limit.mode, limit.name.to_string(), limit.reason(*wait), || Reply::empty(429))?;
                }
            }
        }
        let Some((wait, limit)) = longest else { return GO };
        cx.refuse(Mode::Enforce, limit.name.to_string(), limit.reason(wait), || {
            let seconds = seconds(wait);
            let detail = match limit.inflight {
                true => "too many requests at a time".to_string(),
                false => format!("too many requests, the next one in {seconds} s"),
            };
            Reply::problem(429, detail).with(RETRY_AFTER, HeaderValue::from(seconds))
        })
    }
}

/// The name of the last one's counter: the table that wrote it, its key, and its number there. Three routes with one
/// policy share its counters, and a limit that is added elsewhere renames none.
fn counter(upto: &[Spanned<Conf>], cx: &BuildCx) -> String {
    let name = |one: &Spanned<Conf>| {
        let kind = if one.get_ref().inflight.is_some() { "inflight" } else { "rate" };
        format!("{}/{kind}/{}", (cx.origin)(one.span().start), one.get_ref().per)
    };
    let (last, before) = upto.split_last().expect("itself is one of them");
    let nth = before.iter().filter(|b| name(b) == name(last)).count();
    format!("{}/{nth}", name(last))
}

impl Limit {
    fn build(conf: &Spanned<Conf>, counter: String, cx: &BuildCx) -> Result<Limit, BuildError> {
        let (span, conf) = (conf.span(), conf.get_ref());
        let (bucket, terms) = match bucket_of(conf) {
            Ok(both) => both,
            Err(why) => return Err(BuildError::new(why).at(span)),
        };
        known_captures(&conf.per, cx, &span)?;
        let name = match &conf.name {
            Some(name) if !is_name(name) => {
                let why = format!("name {name:?}: expected 1 to 64 printable ASCII characters, no `\"` and no `\\`");
                return Err(BuildError::new(why).at(span));
            }
            Some(name) => name.clone(),
            None => format!("{terms} per {}", conf.per).replace(|c: char| !is_plain(c), "_"),
        };
        if conf.entries == 0 {
            return Err(BuildError::new("`entries = 0` counts nobody").at(span));
        }
        Ok(Limit {
            name: name.into(),
            key: conf.per.clone(),
            inflight: conf.inflight.is_some(),
            bucket,
            mode: conf.mode,
            cells: cx.keep.get(&counter, Cells::default),
            // As many requests are under way as the connections allow: to forget one would let another in.
            most: if conf.inflight.is_some() { usize::MAX } else { Cells::share(conf.entries as usize) },
        })
    }

    /// Nanoseconds until a refused request might pass. When one under way ends is anybody's guess.
    fn wait(&self, of: Level, now: u64) -> u64 {
        self.bucket.wait(of, now).unwrap_or(1_000_000_000)
    }

    /// Nothing in it comes from the client: a key may be a secret.
    fn reason(&self, wait: u64) -> String {
        let most = self.bucket.quota().0;
        match self.inflight {
            true => format!("{most} under way"),
            false => format!("{most} spent, the next in {}", Span(Duration::from_millis(wait.div_ceil(1_000_000)))),
        }
    }

    fn policy(&self) -> String {
        match self.bucket.quota() {
            (most, Some(window)) => format!("\"{}\";q={most};w={window}", self.name),
            (most, None) => format!("\"{}\";q={most};qu=\"concurrent-requests\"", self.name),
        }
    }

    /// How many more requests pass now, and in which time they come back; if none does, in which time one will.
    fn state(&self, of: Level, now: u64, out: &mut String) {
        let bucket = &self.bucket;
        let left = bucket.left(bucket.level(of, now));
        let comma = if out.is_empty() { "" } else { ", " };
        let time = if left > 0 { bucket.rest(of, now) } else { bucket.wait(of, now) };
        let told = match time {
            Some(time) => write!(out, "{comma}\"{}\";r={left};t={}", self.name, seconds(time)),
            None => write!(out, "{comma}\"{}\";r={left}", self.name),
        };
        told.expect("a String takes everything");
    }
}

/// The bucket of a limit, and its terms as people write them.
fn bucket_of(conf: &Conf) -> Result<(Bucket, String), String> {
    match (conf.rate, conf.inflight) {
        (Some(rate), None) => {
            let count = u32::try_from(rate.count).map_err(|_| format!("rate \"{rate}\": more than can be counted"))?;
            let burst = conf.burst.unwrap_or(count);
            match conf.cost {
                _ if burst == 0 => Err("`burst = 0` lets nothing through".into()),
                0 => Err("`cost = 0` counts nothing".into()),
                cost if cost > burst => Err(format!("`cost = {cost}` never fits in a burst of {burst}")),
                cost => Ok((Bucket::new(rate, burst, cost), rate.to_string())),
            }
        }
        (None, Some(0)) => Err("`inflight = 0` lets nothing through".into()),
        (None, Some(_)) if conf.burst.is_some() => Err("`burst` belongs to a `rate`, not to `inflight`".into()),
        (None, Some(_)) if conf.cost != 1 => Err("`cost` belongs to a `rate`, not to `inflight`".into()),
        (None, Some(most)) => Ok((Bucket::standing(most), format!("{most} inflight"))),
        (Some(_), Some(_)) => Err("`rate` and `inflight` in one limit: write two".into()),
        (None, None) => Err("missing key `rate` or `inflight`".into()),
    }
}

fn known_captures(key: &Key, cx: &BuildCx, span: &Range<usize>) -> Result<(), BuildError> {
    let unknown = key.parts().iter().find_map(|part| match part {
        Var::Capture(name) if !cx.captures.contains(name) => Some(name),
        _ => None,
    });
    if let Some(part) = key.parts().iter().find(|part| part.is_identity()) {
        let why = format!("`{part}` is not known where limits are counted, before `auth`");
        return Err(BuildError::new(why).at(span.clone()));
    }
    match unknown {
        Some(name) => Err(BuildError::new(format!("`match` captures no `{name}`")).at(span.clone())),
        None => Ok(()),
    }
}

/// What a structured field's string may hold as it is (RFC 9651, section 3.3.3).
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') && c != '"' && c != '\\'
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests;
