//! What the admin endpoint tells: the running generation, the listeners, the last reload.

use crate::admin::{ConfigView, ListenerView, ReloadView, RouteView, Source};
use crate::destination::Destination;
use crate::house::House;
use crate::listen::Listeners;
use crate::metrics::{Breaker, EndpointStats, PoolStats};
use crate::proxy::App;
use crate::reload::{Done, Reloader};
use crate::service::{Phase, Pool};
use crate::table::Route;
use crate::{clock, systemd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct View {
    house: Arc<House>,
    listeners: Arc<Listeners<App>>,
    reloader: Arc<Reloader>,
    draining: AtomicBool,
}

impl View {
    pub fn new(house: Arc<House>, listeners: Arc<Listeners<App>>, reloader: Arc<Reloader>) -> View {
        View { house, listeners, reloader, draining: AtomicBool::new(false) }
    }

    /// No new requests, please.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl Source for View {
    fn ready(&self) -> Result<(), &'static str> {
        match (self.house.current(), self.draining.load(Ordering::Relaxed)) {
            (None, _) => Err("starting"),
            (_, true) => Err("draining"),
            _ => Ok(()),
        }
    }

    fn routes(&self) -> Vec<RouteView> {
        let Some(table) = self.house.current() else { return vec![] };
        let view = |n: usize| {
            let (entry, route) = (&table.matcher.entries()[n], &table.routes[n]);
            RouteView {
                name: entry.name.clone(),
                pattern: entry.pattern.to_string(),
                when: entry.when.clone(),
                priority: entry.priority,
                to: destination(route),
                steps: route.pipeline.steps().map(str::to_owned).collect(),
            }
        };
        table.matcher.order().map(view).collect()
    }

    fn config(&self) -> ConfigView {
        let listeners = self.listeners.addresses();
        let listeners = listeners.into_iter().map(|(name, addr)| ListenerView { name, addr }).collect();
        let last = self.reloader.last();
        let last_reload = last.as_ref().map(|last| ReloadView {
            at: crate::log::timestamp(last.at),
            ok: last.rejected.is_empty(),
            faults: last.rejected.clone(),
        });
        let mut view =
            ConfigView { version: env!("CARGO_PKG_VERSION"), listeners, last_reload, ..ConfigView::default() };
        if let Some(table) = self.house.current() {
            view.generation = table.generation;
            view.loaded = crate::log::timestamp(table.since);
            view.files = table.files.iter().map(|f| f.display().to_string()).collect();
            view.settings = table.settings.to_string().lines().map(str::to_owned).collect();
        }
        view
    }

    fn metrics(&self, out: &mut Vec<u8>) {
        let table = self.house.current();
        let pools: Vec<_> = table.iter().flat_map(|t| t.pools.values()).map(|pool| pool_stats(pool)).collect();
        self.house.metrics.write(&pools, &self.listeners.stats(), clock::wall(), out);
    }

    async fn reload(&self) -> Result<u64, Vec<String>> {
        let reloader = self.reloader.clone();
        let done = tokio::task::spawn_blocking(move || reload(&reloader)).await;
        done.unwrap_or_else(|e| Err(vec![e.to_string()]))
    }
}

/// Reloads, and tells the log and systemd what came of it.
pub fn reload(reloader: &Reloader) -> Result<u64, Vec<String>> {
    match reloader.reload() {
        Ok(Done { generation, waiting }) => {
            log::info!("generation {generation} serves");
            if waiting {
                log::warn!("[server] threads and log, and [admin], change with a restart");
            }
            told(&format!("STATUS=generation {generation}"));
            Ok(generation)
        }
        Err(faults) => {
            faults.lines().for_each(|line| log::error!("the reload was rejected: {line}"));
            told(&format!("STATUS=reload rejected: {}", faults.one_line()));
            Err(faults.lines().collect())
        }
    }
}

/// Tells systemd, if it asked.
pub fn told(state: &str) {
    if let Err(e) = systemd::notify(state) {
        log::warn!("systemd was not told: {e}");
    }
}

fn destination(route: &Route) -> String {
    match &route.destination {
        Destination::Services(services) => {
            services.legs.iter().map(|leg| leg.pool.name().as_str()).collect::<Vec<_>>().join(", ")
        }
        Destination::Redirect(_) => "redirect".to_owned(),
        Destination::Reply(_) => "reply".to_owned(),
    }
}

fn pool_stats(pool: &Pool) -> PoolStats {
    let now = clock::now();
    let (status, endpoints) = (pool.status(now), pool.endpoints(now));
    PoolStats {
        service: pool.name().clone(),
        inflight: endpoints.iter().map(|e| u64::from(e.inflight)).sum(),
        queued: status.waiting as u64,
        ejections: endpoints.iter().map(|e| e.ejections).sum(),
        breaker: match status.breaker {
            Some(Phase::HalfOpen) => Breaker::HalfOpen,
            Some(Phase::Open) => Breaker::Open,
            Some(Phase::Closed) | None => Breaker::Closed,
        },
        endpoints: endpoints
            .into_iter()
            .map(|e| EndpointStats {
                addr: e.name,
                healthy: e.healthy,
                ejected: e.ejected,
                inflight: e.inflight.into(),
            })
            .collect(),
    }
}
