//! What lives as long as the process: the current generation, the log, the metrics, the state that reloads keep.

use crate::log::Logger;
use crate::metrics::{Metrics, RouteMetrics};
use crate::table::Table;
use arc_swap::ArcSwapOption;
use filters::keep::Keep;
use pingora::connectors::http::Connector;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub struct House {
    /// Empty only until the first table is built, before any listener serves.
    table: ArcSwapOption<Table>,
    pub keep: Keep,
    pub log: Arc<Logger>,
    pub metrics: Arc<Metrics>,
    /// Counts what no route took.
    pub unrouted: RouteMetrics,
    /// Everything that is not a request runs here: health checks, mirrors, reloads.
    pub control: Handle,
    /// For the gateway's own calls.
    pub connector: Connector,
    /// Leave to mirror.
    pub copies: Arc<Semaphore>,
}

impl House {
    pub fn new(log: Arc<Logger>, metrics: Arc<Metrics>, control: Handle) -> House {
        House {
            table: ArcSwapOption::empty(),
            keep: Keep::default(),
            log,
            unrouted: metrics.route("", &[]),
            metrics,
            control,
            connector: Connector::new(None),
            copies: Arc::new(Semaphore::new(crate::mirror::MAX_COPIES)),
        }
    }

    /// The generation that serves now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full().expect("set before a listener serves")
    }

    /// The generation that serves now, if there is one yet.
    pub fn current(&self) -> Option<Arc<Table>> {
        self.table.load_full()
    }

    /// From now on new requests see `table`; those under way keep theirs.
    pub fn swap(&self, table: Arc<Table>) {
        let old = self.table.swap(Some(table));
        // Freeing a large table takes a while; not on a thread that serves.
        self.control.spawn_blocking(move || drop(old));
        self.keep.sweep();
    }
}
