//! Parse, build, bind, swap; or keep the old generation and say why.
//!
//! One reload at a time. Everything that can fail is done before anything changes, so a rejected file changes nothing.

use crate::clock;
use crate::conf::{self, Conf, Fault, Faults, Options};
use crate::house::House;
use crate::listen::{self, Bound, Built, Certificate, Listeners};
use crate::metrics::Expiry;
use crate::proxy::App;
use crate::service::Pool;
use crate::service::discover::{self, DiscoverTask};
use crate::service::health::{Checker, HealthTask};
use crate::table::{self, Read, Table};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The configuration of a running gateway, and how it changes.
pub struct Reloader {
    config: PathBuf,
    house: Arc<House>,
    listeners: Arc<Listeners<App>>,
    checker: Checker,
    state: Mutex<State>,
}

/// How long a generation waits for its names to resolve before it serves.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    generation: u64,
    /// Health checks and name resolution of the generation that serves.
    upkeep: Vec<(Option<HealthTask>, Option<DiscoverTask>)>,
    /// What cannot change while the process lives, as it was at the start.
    fixed: Option<String>,
    last: Option<Last>,
}

/// How the last reload ended.
#[derive(Clone)]
pub struct Last {
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    /// Every reason, a line each, without values; empty if it was taken.
    pub rejected: Vec<String>,
}

/// What a reload came to.
pub struct Done {
    pub generation: u64,
    /// The file also changed what only a restart can change: threads, the log, the admin endpoint.
    pub waiting: bool,
}

impl Reloader {
    pub fn new(config: PathBuf, house: Arc<House>, listeners: Arc<Listeners<App>>) -> Reloader {
        let checker = Checker::new(&house.control);
        Reloader { config, house, listeners, checker, state: Mutex::default() }
    }

    /// Loads the file anew and lets it serve.
    pub fn reload(&self) -> Result<Done, Faults> {
        self.take(conf::read(&self.config, &Options::default()))
    }

    /// Lets a loaded configuration serve. This is the first start, too.
    pub fn take(&self, read: Read) -> Result<Done, Faults> {
        let mut state = self.state.lock();
        match self.build(state.generation + 1, read) {
            Ok(next) => {
                let waiting = state.fixed.as_ref().filter(|old| **old != next.fixed).is_some();
                state.fixed.get_or_insert(next.fixed);
                state.generation = next.table.generation;
                if state.generation > 1 {
                    state.last = Some(Last { at: clock::wall(), rejected: vec![] });
                }
                let pools: Vec<_> = next.table.pools.values().cloned().collect();
                self.house.metrics.certs(expiries(&next.built));
                self.house.swap(next.table);
                self.listeners.apply(next.built, next.bound);
                state.upkeep = self.upkeep(&pools);
                self.house.metrics.loaded(state.generation, clock::wall());
                Ok(Done { generation: state.generation, waiting })
            }
            Err(faults) => {
                state.last = Some(Last { at: clock::wall(), rejected: faults.lines().collect() });
                self.house.metrics.rejected(clock::wall());
                Err(faults)
            }
        }
    }

    /// Health checks and name resolution, from now on.
    fn upkeep(&self, pools: &[Arc<Pool>]) -> Vec<(Option<HealthTask>, Option<DiscoverTask>)> {
        let on = &self.house.control;
        pools.iter().map(|pool| (self.checker.start(pool), discover::start(pool, discover::System, on))).collect()
    }

    /// Everything that can fail, and the first look-up of the names.
    fn build(&self, generation: u64, read: Read) -> Result<Next, Faults> {
        let fixed = read.0.as_ref().map_or_else(String::new, |loaded| fixed(&loaded.conf));
        let sources = read.1.sources().clone();
        let (table, built) = table::build(read, &self.house.keep, &self.house.metrics, generation)?;
        let bound = self.listeners.bind(&built).map_err(|found| {
            let mut faults = Faults::new(sources);
            found.into_iter().for_each(|fault| faults.add(bind_fault(fault)));
            faults
        })?;
        // A name that does not resolve in time is no fault of the file: its service answers 503 until it does.
        let pools: Vec<_> = table.pools.values().cloned().collect();
        self.house.control.block_on(discover::first(&pools, &discover::System, PATIENCE));
        Ok(Next { table: Arc::new(table), built, bound, fixed })
    }

    /// How the last reload ended, if there was one.
    pub fn last(&self) -> Option<Last> {
        self.state.lock().last.clone()
    }
}

/// A generation that is ready to serve.
struct Next {
    table: Arc<Table>,
    built: Built,
    bound: Bound,
    fixed: String,
}

/// A socket that could not be bound: its address has its place.
fn bind_fault(fault: listen::Fault) -> Fault {
    let at = fault.error.at.unwrap_or(0..0);
    Fault::new(at, fault.error.why).at(format!("listen.{}.{}", fault.listener, fault.key)).hint(fault.error.hint)
}

/// When each certificate ends, under its first name.
fn expiries(built: &Built) -> Vec<Expiry> {
    let expiry = |(listener, cert): (&str, &Certificate)| Expiry {
        listener: listener.into(),
        name: cert.names.first().map_or("", String::as_str).into(),
        not_after: cert.not_after,
    };
    built.certificates().map(expiry).collect()
}

/// What a running process cannot change, as text to compare.
fn fixed(conf: &Conf) -> String {
    format!("{:?} {:?} {:?}", conf.server.threads, conf.server.log, conf.admin)
}
