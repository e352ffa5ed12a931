//! Upstream services: endpoints, balancing, health, breakers, retries.
//!
//! A request asks the [`Pool`] of its service for a place ([`Pool::admit`]), then for an endpoint ([`Pool::pick`]), and
//! says through the [`Lease`] how it went. What is counted on the way lives in `Keep` under the service's name and is
//! found again by the next generation. Deciding is pure and takes the time as an argument; only `health` and `discover`
//! do I/O, on the control runtime, never in a request.

mod balance;
mod breaker;
mod conf;
pub mod discover;
mod endpoint;
mod gate;
pub mod health;
mod mix;
mod outcome;
mod peer;
mod split;
mod window;

pub use balance::Tried;
pub use breaker::Phase;
pub use conf::{Address, Balance, Conf, Health, Proto, Retry, Target, Timeout, Tls, Tries};
pub use endpoint::{Endpoint, Snapshot};
pub use gate::{Busy, Place};
pub use outcome::{On, Outcome, Trigger};
pub use split::Split;

use arc_swap::ArcSwap;
use balance::{By, Ring, Rule, View};
use breaker::{Breaker, Pass};
use endpoint::State;
use filters::filter::BuildError;
use filters::keep::Keep;
use gate::Gate;
use mix::Draws;
use parking_lot::Mutex;
use peer::Template;
use pingora::upstreams::peer::HttpPeer;
use serde_spanned::Spanned;
use smol_str::{SmolStr, ToSmolStr};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use window::Window;

/// The retry budget's window, and the retries that it grants on top of the share.
const BUDGET_WINDOW: u64 = 10_000_000_000;
const BUDGET_FREE: f64 = 10.0;

/// What was counted about a service; outlives reloads.
#[derive(Default)]
struct Shared {
    states: Keep,
    resolved: Mutex<Resolved>,
    breaker: Breaker,
    /// Requests, and those of them that were retries.
    retries: Window,
    gate: Arc<Gate>,
    /// Counts changes in any endpoint's standing.
    changes: AtomicU64,
    turn: AtomicU64,
    /// A request was seen: endpoints that join now join a running service.
    running: AtomicBool,
}

/// What each name resolved to last, and how often any of it changed.
#[derive(Default)]
struct Resolved {
    addresses: HashMap<String, Vec<SocketAddr>>,
    changes: u64,
}

/// What a service's endpoints share: the settings of their generation, and what was counted.
struct Core {
    name: SmolStr,
    rule: Rule,
    eject: conf::Eject,
    breaker: Option<conf::Breaker>,
    max: Option<conf::Max>,
    retry: Retry,
    shared: Arc<Shared>,
}

/// One service of one generation.
pub struct Pool {
    core: Arc<Core>,
    timeout: Timeout,
    to: Vec<Target>,
    template: Template,
    health: Option<Health>,
    resolve: std::time::Duration,
    set: ArcSwap<Set>,
    /// Told whenever the set of endpoints is another.
    renewed: watch::Sender<()>,
}

/// The endpoints of a moment: replaced as a whole when a name resolves to something else.
struct Set {
    /// The [`Resolved::changes`] that it knows of.
    resolved: u64,
    endpoints: Box<[Arc<Endpoint>]>,
    ring: Option<Ring>,
    view: ArcSwap<View>,
    renewing: Mutex<()>,
}

/// Why there is no endpoint to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// None is known (a name does not resolve), or the active checks rule out all of them.
    NoneUsable,
    /// The breaker is open, for so many nanoseconds more (0: probes are under way).
    BreakerOpen { left: u64 },
}

impl Pool {
    /// Reads the files that `conf` names, opens no connection and resolves no name: see [`discover`].
    pub fn build(name: &str, conf: &Conf, keep: &Keep) -> Result<Arc<Pool>, Vec<BuildError>> {
        let mut faults = check(conf);
        let template = Template::build(conf, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let eject = conf.eject.as_ref().map_or_else(conf::Eject::unwritten, |e| e.0.clone());
        let core = Arc::new(Core {
            name: name.into(),
            rule: Rule {
                balance: conf.balance,
                panic: eject.max.0,
                slow_start: conf.slow_start.map_or(0, |s| s.0.as_nanos() as u64),
            },
            eject,
            breaker: conf.breaker.as_ref().map(|b| b.0.clone()),
            max: conf.max.clone(),
            retry: conf.retry.clone(),
            shared: keep.get(name, Shared::default),
        });
        let to: Vec<Target> = conf.to.iter().map(|t| t.get_ref().clone()).collect();
        let set = Set::build(&core, &template, &to).map_err(|why| vec![BuildError::new(why)])?;
        Ok(Arc::new(Pool {
            core,
            timeout: conf.timeout.clone(),
            to,
            template,
            health: conf.health.as_ref().map(|h| h.0.clone()),
            resolve: conf.resolve.0,
            set: ArcSwap::from_pointee(set),
            renewed: watch::Sender::new(()),
        }))
    }

    pub fn name(&self) -> &SmolStr {
        &self.core.name
    }
    pub fn timeout(&self) -> &Timeout {
        &self.timeout
    }
    pub fn retry(&self) -> &Retry {
        &self.core.retry
    }

    /// A place among the requests under way; may wait in line if the service has one. Cancelling it is safe.
    pub async fn admit(&self) -> Result<Place, Busy> {
        match &self.core.max {
            Some(max) => self.core.shared.gate.enter(max).await,
            None => Ok(Place::FREE),
        }
    }

    /// An endpoint for one try. `key` is what `hash` goes by; `tried` are the endpoints this request met before.
    pub fn pick(&self, key: Option<u64>, tried: &Tried, now: u64) -> Result<Lease, NoEndpoint> {
        let shared = &*self.core.shared;
        if !shared.running.load(Ordering::Relaxed) {
            shared.running.store(true, Ordering::Relaxed);
        }
        let pass = match &self.core.breaker {
            Some(conf) => shared.breaker.admit(conf, now).map_err(|left| NoEndpoint::BreakerOpen { left })?,
            None => Pass::Free,
        };
        let Some(endpoint) = self.choose(key, tried, now) else {
            self.core.unpass(pass, now);
            return Err(NoEndpoint::NoneUsable);
        };
        if tried.is_empty() && self.core.retry.tries() > 1 {
            shared.retries.add(now, BUDGET_WINDOW, 1, 0);
        }
        endpoint.state.begin();
        Ok(Lease { endpoint, pass, reported: false })
    }

    fn choose(&self, key: Option<u64>, tried: &Tried, now: u64) -> Option<Arc<Endpoint>> {
        let (set, core) = (self.set.load(), &*self.core);
        let turn = &core.shared.turn;
        let by = match (core.rule.balance, &set.ring) {
            (Balance::P2c, _) => By::P2c,
            (Balance::RoundRobin, _) => By::RoundRobin(turn),
            (Balance::LeastConn, _) => By::LeastConn,
            (Balance::Hash, Some(ring)) => By::Hash(ring, key),
            (Balance::Hash, None) | (Balance::Random, _) => By::Random,
        };
        let mut draws = draws();
        set.refresh(core, now, false);
        let picked = set.view.load().pick(&set.endpoints, &by, tried, now, &mut draws);
        // Everything in the view fell out since it was made.
        let picked = picked.or_else(|| {
            set.refresh(core, now, true);
            set.view.load().pick(&set.endpoints, &by, tried, now, &mut draws)
        });
        picked.map(|i| set.endpoints[i].clone())
    }

    /// Whether the budget has room for one retry; if so, it is spent.
    pub fn may_retry(&self, now: u64) -> bool {
        let retries = &self.core.shared.retries;
        let spent = retries.sum(now, BUDGET_WINDOW);
        let allowed = BUDGET_FREE + self.core.retry.budget() * spent.all as f64;
        let may = (spent.marked + 1) as f64 <= allowed;
        if may {
            retries.add(now, BUDGET_WINDOW, 0, 1);
        }
        may
    }

    /// Every endpoint at this moment.
    pub fn endpoints(&self, now: u64) -> Vec<Snapshot> {
        self.set.load().endpoints.iter().map(|e| e.snapshot(now)).collect()
    }

    /// The service as a whole at this moment.
    pub fn status(&self, now: u64) -> Status {
        let shared = &self.core.shared;
        let set = self.set.load();
        set.refresh(&self.core, now, false);
        let (view, (admitted, waiting)) = (set.view.load(), shared.gate.count());
        Status {
            breaker: self.core.breaker.as_ref().map(|_| shared.breaker.phase(now)),
            breaker_opened: shared.breaker.opened(),
            panic: view.panics(),
            usable: view.count(),
            admitted,
            waiting,
            retries: shared.retries.sum(now, BUDGET_WINDOW).marked,
        }
    }

    /// Makes the set of endpoints anew from what the names resolve to now; what was counted stays.
    fn renew(&self) {
        match Set::build(&self.core, &self.template, &self.to) {
            Ok(set) => {
                self.set.store(Arc::new(set));
                self.core.shared.states.sweep();
                self.renewed.send_replace(());
            }
            Err(why) => log::error!("service {}: {why}", self.core.name),
        }
    }
}

/// A service at a moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// `None` without a breaker.
    pub breaker: Option<Phase>,
    pub breaker_opened: u64,
    /// Ejection is ignored since too many are ejected.
    pub panic: bool,
    /// Endpoints that requests are sent to.
    pub usable: usize,
    /// Counted only with `max`: requests under way and waiting.
    pub admitted: u32,
    pub waiting: usize,
    /// Retries in the last ten seconds.
    pub retries: u64,
}

impl Core {
    /// Gives a breaker's pass back that was not used.
    fn unpass(&self, pass: Pass, now: u64) {
        if let Some(conf) = &self.breaker {
            self.shared.breaker.report(conf, pass, Outcome::Neutral, now);
        }
    }
    /// An endpoint's standing changed: views are made anew.
    fn changed(&self) {
        self.shared.changes.fetch_add(1, Ordering::Release);
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "service {}", self.name)
    }
}

impl Set {
    fn build(core: &Arc<Core>, template: &Template, to: &[Target]) -> Result<Set, String> {
        let new = core.shared.running.load(Ordering::Relaxed);
        let mut endpoints = vec![];
        let mut seen = HashSet::new();
        let mut add = |name: SmolStr, target: &Target, peer: HttpPeer| {
            // Two names may share an address; the first that stands in `to` has it.
            if seen.insert(name.clone()) {
                endpoints.push(Arc::new(Endpoint {
                    state: core.shared.states.get(&name, || State::new(new)),
                    written: target.addr.to_smolstr(),
                    weight: target.weight.0,
                    backup: target.backup,
                    core: core.clone(),
                    peer,
                    name,
                }));
            }
        };
        let resolved = core.shared.resolved.lock();
        for target in to {
            match &target.addr {
                Address::Ip(addr) => add(addr.to_smolstr(), target, template.inet(*addr, None)),
                Address::Unix(path) => add(target.addr.to_smolstr(), target, template.unix(path)?),
                Address::Name { host, .. } => {
                    for addr in resolved.addresses.get(&target.addr.to_string()).into_iter().flatten() {
                        add(addr.to_smolstr(), target, template.inet(*addr, Some(host)));
                    }
                }
            }
        }
        let ring = (core.rule.balance == Balance::Hash).then(|| Ring::new(&endpoints));
        // The first request makes the view that counts, since only it knows the time.
        let view = ArcSwap::from_pointee(View::build(&[], &core.rule, u64::MAX, 0));
        Ok(Set { resolved: resolved.changes, endpoints: endpoints.into(), ring, view, renewing: Mutex::new(()) })
    }

    /// Makes the view anew if it is out of date. With many endpoints that is dear, so it is done at most every so often
    /// and by one thread; meanwhile a view that is out of date serves, whose offers are checked anyway.
    fn refresh(&self, core: &Core, now: u64, at_once: bool) {
        let changes = || core.shared.changes.load(Ordering::Acquire);
        let stale = |view: &View| view.seen != changes() || now >= view.until;
        let view = self.view.load();
        if !stale(&view) {
            return;
        }
        let first = view.seen == u64::MAX;
        let pause = self.endpoints.len() as u64 * 2_000;
        if !first && !at_once && now < view.built.saturating_add(pause) {
            return;
        }
        // A stale view serves whoever comes second; where there is none to serve, they wait for the first.
        let lock = if first || at_once { Some(self.renewing.lock()) } else { self.renewing.try_lock() };
        if lock.is_some() && stale(&self.view.load()) {
            self.view.store(Arc::new(View::build(&self.endpoints, &core.rule, changes(), now)));
        }
    }
}

/// Random numbers for one choice. Each thread has its own stream, since a shared one would be a cache line that all
/// threads fight over.
fn draws() -> Draws {
    thread_local! {
        static STREAM: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    STREAM.with(|stream| {
        let mut draws = Draws(stream.get());
        stream.set(draws.draw());
        draws
    })
}

/// One try at one endpoint. Dropping it takes the request off the endpoint's count, whatever happened to it.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    pass: Pass,
    reported: bool,
}

impl Lease {
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What Pingora connects to, with the service's timeouts.
    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.endpoint.peer.clone())
    }

    /// The same with a route's timeouts, which must hold the service's where the route is silent ([`Timeout::over`]).
    pub fn peer_within(&self, timeout: &Timeout) -> Box<HttpPeer> {
        let mut peer = self.peer();
        peer::set_timeouts(&mut peer.options, timeout);
        peer
    }

    /// Remembers this endpoint as tried.
    pub fn note(&self, tried: &mut Tried) {
        tried.push(balance::id(&self.endpoint));
    }

    /// How the try ended. The first report counts, later ones are ignored.
    pub fn report(&mut self, outcome: Outcome, now: u64) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let core = &self.endpoint.core;
        if let Some(conf) = &core.breaker {
            core.shared.breaker.report(conf, self.pass, outcome, now);
        }
        if self.endpoint.state.report(&core.eject, outcome, now) {
            core.changed();
            let left = self.endpoint.state.ejected_until().saturating_sub(now) / 1_000_000_000;
            log::warn!("service {}: {} is ejected for {left}s after {outcome:?}", core.name, self.endpoint.name);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.state.end();
        if !self.reported {
            self.endpoint.core.unpass(self.pass, 0);
        }
    }
}

/// What the types of `conf` do not rule out.
fn check(conf: &Conf) -> Vec<BuildError> {
    let mut faults = vec![];
    let mut seen = HashSet::new();
    for target in conf.to.iter() {
        if !seen.insert(&target.get_ref().addr) {
            faults.push(BuildError::new(format!("{} stands here twice", target.get_ref().addr)).at(target.span()));
        }
    }
    let mut say = |wrong: bool, why: &str| {
        if wrong {
            faults.push(BuildError::new(why));
        }
    };
    say(conf.to.iter().all(|t| t.get_ref().backup), "`to` names no endpoint, or only backups; expected at least one");
    say(conf.balance == Balance::Hash && conf.hash.is_none(), "balance \"hash\" needs a key under `hash`");
    say(conf.resolve.0.is_zero(), "resolve: expected a time above 0");
    say(conf.max.as_ref().is_some_and(|m| m.inflight == 0), "max.inflight: expected a number above 0");
    say(conf.breaker.as_ref().is_some_and(|b| b.window.0.is_zero()), "breaker: expected a window above 0");
    let zero = |t: Option<filters::units::Span>| t.is_some_and(|s| s.0.is_zero());
    let t = &conf.timeout;
    let any_zero = [t.connect, t.first_byte, t.idle, t.total].into_iter().any(zero);
    say(any_zero, "timeout: expected times above 0; a timeout cannot be switched off");
    if let Some(health) = &conf.health {
        say(health.every.0.is_zero() || health.timeout.0.is_zero(), "health: expected times above 0");
        say(
            health.expect.iter().any(|c| !(200..600).contains(c)),
            "health.expect: expected status codes from 200 to 599",
        );
        say(health.method.parse::<http::Method>().is_err(), "health.method: expected an HTTP method");
        let path = health.path.as_deref().unwrap_or("/");
        let valid = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        say(!valid, "health.path: expected a path such as \"/healthz\"");
        let host = health.host.as_deref().unwrap_or("localhost");
        say(host.parse::<http::uri::Authority>().is_err(), "health.host: expected a host, with or without a port");
    }
    if let Some(hash) = conf.hash.as_ref().filter(|_| conf.balance != Balance::Hash) {
        faults.push(unused_key(hash));
    }
    faults
}

fn unused_key(hash: &Spanned<filters::expr::Key>) -> BuildError {
    BuildError::new("a key without effect").at(hash.span()).hint("set balance = \"hash\"")
}

#[cfg(test)]
mod tests;
