//! From the configuration to what listeners need: files read, certificates proven, contradictions told. Touches no socket, so that
//! `check` says the same as `run`.

use super::check::Rules;
use super::conf::{Addr, Bind, Conf};
use super::tls::{self, Certificate, Certs};
use filters::filter::BuildError;
use filters::units::Cidr;
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What `[server]` says to all listeners.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Where relative paths start: the configuration file's directory.
    pub base: PathBuf,
    /// The peers whose PROXY header is believed.
    pub trusted: Arc<[Cidr]>,
    /// The largest request head, in bytes.
    pub head: usize,
    /// Connections in all; the descriptors the process may open bound them too.
    pub max_connections: Option<usize>,
    /// Connections per client address.
    pub per_address: Option<usize>,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { base: PathBuf::new(), trusted: Arc::new([]), head: 32 * 1024, max_connections: None, per_address: None }
    }
}

/// What is wrong with a listener, and under which of its keys; the error may have a closer place.
#[derive(Debug, Clone)]
pub struct Fault {
    pub listener: String,
    pub key: &'static str,
    pub error: BuildError,
}

/// A generation of listeners, ready to be bound.
pub struct Built {
    pub(super) listeners: Vec<Planned>,
}

pub(super) struct Planned {
    pub setup: Arc<Setup>,
    pub addrs: Vec<Spanned<Addr>>,
}

/// The terms of one listener. A connection keeps those under which it was accepted.
pub(super) struct Setup {
    pub name: SmolStr,
    pub certs: Option<Arc<Certs>>,
    pub proxy_protocol: bool,
    pub trusted: Arc<[Cidr]>,
    pub h2c: bool,
    pub redirect: Option<u16>,
    pub rules: Rules,
    pub head: usize,
    pub idle: Duration,
    pub head_timeout: Duration,
    pub handshake_timeout: Duration,
    /// In all, on this listener, and per address.
    pub caps: (usize, usize, usize),
}

impl Setup {
    /// Is the PROXY header of this peer to be read? Whoever reaches a Unix socket was let in by its permissions.
    pub fn believes(&self, peer: Option<IpAddr>) -> bool {
        self.proxy_protocol && peer.is_none_or(|ip| self.trusted.iter().any(|net| net.contains(ip)))
    }
}

/// Reads and proves everything the listeners name. All faults at once.
pub fn build<'a>(confs: impl IntoIterator<Item = (&'a str, &'a Conf)>, terms: &Terms) -> Result<Built, Vec<Fault>> {
    let mut faults = vec![];
    let mut listeners = vec![];
    let mut taken = HashMap::new();
    for (name, conf) in confs {
        let before = faults.len();
        let mut fault = |key, error| faults.push(Fault { listener: name.to_owned(), key, error });
        contradictions(conf, terms).into_iter().for_each(|(key, error)| fault(key, error));
        for addr in conf.addr.iter() {
            let at = &addr.get_ref().at;
            let known = key(name, at);
            if let Some(other) = taken.insert(known, name.to_owned()) {
                let error = BuildError::new(format!("{at} is already the address of listen.{other}"));
                fault("addr", error.at(addr.span()));
            }
        }
        let certs = match certs(conf, &terms.base) {
            Ok(certs) => certs,
            Err(these) => {
                these.into_iter().for_each(|error| fault("tls", error));
                None
            }
        };
        if faults.len() == before {
            let setup = Arc::new(setup(name, conf, terms, certs));
            listeners.push(Planned { setup, addrs: conf.addr.0.clone() });
        }
    }
    if faults.is_empty() { Ok(Built { listeners }) } else { Err(faults) }
}

impl Built {
    /// Every certificate with the name of its listener.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, &Certificate)> {
        let of = |planned: &Planned| planned.setup.certs.clone();
        self.listeners.iter().filter(move |p| of(p).is_some()).flat_map(|p| {
            let certs = p.setup.certs.iter().flat_map(|c| c.certificates());
            certs.map(|c| (p.setup.name.as_str(), c))
        })
    }
}

/// One address has one socket, whichever listener it belongs to; free ports are each listener's own.
pub(super) fn key(listener: &str, at: &Bind) -> String {
    match at {
        Bind::Tcp(addr) if addr.port() == 0 => format!("{listener} {at}"),
        _ => at.to_string(),
    }
}

fn contradictions(conf: &Conf, terms: &Terms) -> Vec<(&'static str, BuildError)> {
    let mut all = vec![];
    if conf.addr.is_empty() {
        all.push(("addr", BuildError::new("addr: expected at least one address")));
    }
    if conf.h2c && !conf.tls.is_empty() {
        let error = BuildError::new("h2c is unencrypted, and tls is set");
        all.push(("h2c", error.hint("over TLS, alpn offers h2 by itself")));
    }
    if conf.redirect.is_some() && !conf.tls.is_empty() {
        all.push(("redirect", BuildError::new("redirect leads to https, and this listener is https already")));
    }
    let tcp = conf.addr.iter().any(|a| matches!(a.get_ref().at, Bind::Tcp(_)));
    if conf.proxy_protocol && tcp && terms.trusted.is_empty() {
        let error = BuildError::new("proxy_protocol is on, but [server] trusted names nobody who may send it");
        all.push(("proxy_protocol", error.hint("trusted = [\"address of the load balancer\"]")));
    }
    for addr in conf.addr.iter() {
        if matches!(addr.get_ref().at, Bind::Tcp(_)) && addr.get_ref().mode.is_some() {
            all.push(("addr", BuildError::new("mode is for Unix sockets").at(addr.span())));
        }
    }
    for tls in conf.tls.iter() {
        if tls.get_ref().alpn.is_empty() {
            all.push(("tls", BuildError::new("alpn: expected at least one protocol").at(tls.span())));
        }
    }
    for (key, span) in
        [("idle", conf.idle), ("head_timeout", conf.head_timeout), ("handshake_timeout", conf.handshake_timeout)]
    {
        if span.0.is_zero() {
            all.push((key, BuildError::new(format!("{key} is zero: nobody could ask for anything"))));
        }
    }
    all
}

fn certs(conf: &Conf, base: &Path) -> Result<Option<Arc<Certs>>, Vec<BuildError>> {
    if conf.tls.is_empty() {
        return Ok(None);
    }
    tls::build(&conf.tls, base).map(|certs| Some(Arc::new(certs)))
}

fn setup(name: &str, conf: &Conf, terms: &Terms, certs: Option<Arc<Certs>>) -> Setup {
    let most = |cap: Option<usize>| cap.unwrap_or(usize::MAX);
    Setup {
        name: name.into(),
        certs,
        proxy_protocol: conf.proxy_protocol,
        trusted: terms.trusted.clone(),
        h2c: conf.h2c,
        redirect: conf.redirect.map(|r| r.0),
        rules: Rules { underscores: conf.underscores },
        head: terms.head,
        idle: conf.idle.0,
        head_timeout: conf.head_timeout.0,
        handshake_timeout: conf.handshake_timeout.0,
        caps: (most(terms.max_connections), most(conf.max_connections), most(terms.per_address)),
    }
}
