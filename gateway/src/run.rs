//! The life of the process: bind, serve, reload, drain, end.
//!
//! Every worker is one thread with a runtime, a proxy and so an upstream pool of its own; whatever is not a request
//! runs on a small runtime beside them. Ready is said only when every listener is bound and the first table serves.

use crate::admin;
use crate::conf::{self, Options};
use crate::house::House;
use crate::listen::{Conn, Journal, Listeners, Refusal, Worker};
use crate::log::{Logger, Record, process};
use crate::metrics::Metrics;
use crate::proxy::{App, Gateway, MAX_TRIES};
use crate::reload::Reloader;
use crate::view::{self, View, told};
use crate::{clock, systemd, table};
use filters::cx::Decision;
use filters::units::Mode;
use pingora::server::configuration::ServerConf;
use pingora_runtime::NoStealRuntime;
use smol_str::SmolStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Upstream connections that a worker keeps for later requests, over all services.
const KEPT: usize = 1024;

/// Serves the configuration until a signal ends it.
pub fn run(config: &Path) -> ExitCode {
    match Process::start(config, conf::read(config, &Options::default())) {
        Ok(process) => process.live(),
        Err(why) => {
            why.iter().for_each(|line| eprintln!("{line}"));
            ExitCode::FAILURE
        }
    }
}

/// The signals that a process obeys. Made before anything else, since the default of most is the end of the process.
struct Signals {
    reload: Signal,
    reopen: Signal,
    end: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

struct Process {
    control: Runtime,
    workers: NoStealRuntime,
    signals: Signals,
    house: Arc<House>,
    listeners: Arc<Listeners<App>>,
    reloader: Arc<Reloader>,
    view: Arc<View>,
    _desk: Option<admin::Admin>,
}

impl Process {
    /// Fails with every reason, a line each: they may end up in a journal, so they hold no source lines.
    fn start(config: &Path, read: table::Read) -> Result<Process, Vec<String>> {
        let said = |e: std::io::Error| vec![e.to_string()];
        let Some(loaded) = read.0.as_ref().filter(|_| read.1.is_empty()) else {
            let faults = table::examine(read).err();
            return Err(faults.iter().flat_map(|f| f.lines()).collect());
        };
        let server = loaded.conf.server.clone();
        let admin = &loaded.conf.admin;
        let desk = admin::bind(admin).map_err(|e| vec![format!("admin.addr: {:?}: {e}", admin.addr)])?;
        let threads = server.threads.map_or_else(cores, |n| n.get() as usize);
        process::start(server.log.level, server.log.format).map_err(said)?;
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(said)?;
        let entered = control.enter();
        let signals = Signals::new().map_err(said)?;
        let metrics = Arc::new(Metrics::new(threads));
        let log = Logger::start(&server.log, threads, metrics.log_dropped.clone())
            .map_err(|e| vec![format!("server.log.to: {e}")])?;
        let house = Arc::new(House::new(Arc::new(log), metrics, control.handle().clone()));
        let workers = NoStealRuntime::new(threads, "worker", Default::default(), Default::default());
        let apps =
            (0..threads).map(|n| Worker { handle: workers.get_runtime_at(n).clone(), app: app(&house) }).collect();
        let journal = Arc::new(Heads(house.clone()));
        let listeners = Listeners::new(apps, systemd::listen_fds(), journal).map_err(said)?;
        let listeners = Arc::new(listeners);
        let reloader = Arc::new(Reloader::new(config.to_owned(), house.clone(), listeners.clone()));
        reloader.take(read).map_err(|faults| faults.lines().collect::<Vec<_>>())?;
        let view = Arc::new(View::new(house.clone(), listeners.clone(), reloader.clone()));
        let desk = match desk {
            Some(desk) => Some(desk.start(view.clone(), control.handle()).map_err(said)?),
            None => None,
        };
        drop(entered);
        Ok(Process { control, workers, signals, house, listeners, reloader, view, _desk: desk })
    }

    /// Serves until a signal ends it.
    fn live(self) -> ExitCode {
        let Process { control, workers, mut signals, house, listeners, reloader, view, _desk } = self;
        for (name, addr) in listeners.addresses() {
            log::info!("listener {name} on {addr}");
        }
        told("READY=1\nSTATUS=generation 1");
        let drained = control.block_on(async {
            loop {
                tokio::select! {
                    _ = signals.reload.recv() => reload(&house, &reloader).await,
                    _ = signals.reopen.recv() => house.log.reopen(),
                    _ = signals.end.recv() => break,
                    _ = signals.interrupt.recv() => break,
                }
            }
            told("STOPPING=1");
            view.drain();
            let drain = house.table().drain;
            log::info!("draining: at most {drain:?}");
            tokio::select! {
                drained = listeners.drain(drain, false) => drained,
                _ = signals.end.recv() => false,
                _ = signals.interrupt.recv() => false,
            }
        });
        if !drained {
            log::warn!("ended with {} connections still open", listeners.connections());
        }
        workers.shutdown_timeout(Duration::from_millis(100));
        house.log.close(Duration::from_secs(2));
        process::close(Duration::from_secs(1));
        control.shutdown_timeout(Duration::from_millis(100));
        ExitCode::SUCCESS
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A worker's proxy.
fn app(house: &Arc<House>) -> Arc<App> {
    let conf = ServerConf {
        threads: 1,
        max_retries: MAX_TRIES as usize,
        upstream_keepalive_pool_size: KEPT,
        ..ServerConf::default()
    };
    Arc::new(App::new(pingora::proxy::http_proxy(&Arc::new(conf), Gateway { house: house.clone() })))
}

async fn reload(house: &Arc<House>, reloader: &Arc<Reloader>) {
    house.log.reopen();
    let reloader = reloader.clone();
    // Reading and building take a while; the control runtime has better things to do.
    let outcome = Handle::current().spawn_blocking(move || view::reload(&reloader)).await;
    if let Err(e) = outcome {
        log::error!("the reload failed: {e}");
    }
}

/// Heads that were refused before Pingora saw them have their record too.
struct Heads(Arc<House>);

impl Journal for Heads {
    fn refused(&self, conn: &Conn, refusal: &Refusal, line: &[u8]) -> SmolStr {
        let id = crate::id::request();
        let mut words = line.split(|b| *b == b' ');
        let method = words.next().and_then(|m| std::str::from_utf8(m).ok()).unwrap_or_default();
        let decision =
            Decision { step: "normalise", rule: "head".into(), mode: Mode::Enforce, reason: refusal.reason.into() };
        self.0.unrouted.refused(&decision);
        self.0.unrouted.done(None, refusal.status, 0, 0, 0);
        self.0.log.write(&Record {
            wall: clock::wall(),
            id: &id,
            client: Some(conn.client),
            peer: conn.peer,
            listener: &conn.listener,
            method,
            path: words.next().unwrap_or_default(),
            status: refusal.status,
            tls: conn.tls.as_deref(),
            decisions: &[decision],
            error: "bad_request",
            ..Record::default()
        });
        id
    }
}
