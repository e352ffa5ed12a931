//! The configuration, built: one immutable generation. A request takes one and sees it to its end.
//!
//! Building finds every fault, not the first: what could not be built is left out and the rest is built all the same,
//! only so that its faults are found too. A table comes out only if there were none.

use crate::conf::{Conf, Fault, Faults, Loaded};
use crate::destination::{Destination, Leg, Services};
use crate::destination::{redirect::Redirect, reply::Fixed};
use crate::identities;
use crate::listen;
use crate::metrics::{Metrics, RouteMetrics};
use crate::mirror::Mirror;
use crate::path::PathPolicy;
use crate::route::{self, ClashKind, Rewrite, Routes, Target, To};
use crate::service::{self, Pool, Split};
use filters::auth::Sources;
use filters::expr::{Expr, Key};
use filters::filter::{BuildCx, BuildError};
use filters::keep::Keep;
use filters::pipeline::Pipeline;
use filters::short::Short;
use filters::units::{Cidr, Mode};
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One generation.
pub struct Table {
    pub generation: u64,
    /// When it was built: milliseconds since the Unix epoch.
    pub since: u64,
    /// The proxies whose forwarded headers count.
    pub trusted: Box<[Cidr]>,
    pub path: PathPolicy,
    /// How long running requests may take to end when the process does.
    pub drain: Duration,
    pub matcher: Routes,
    /// By the number that the matcher gives.
    pub routes: Box<[Route]>,
    /// By name; a bare address is a service of that name.
    pub pools: BTreeMap<String, Arc<Pool>>,
    /// The running configuration, one setting a line, references as references.
    pub settings: crate::conf::Settings,
    pub files: Box<[std::path::PathBuf]>,
}

/// One route, ready to serve.
pub struct Route {
    pub name: SmolStr,
    /// The names of what its pattern captures.
    pub captures: Arc<[SmolStr]>,
    pub when: Option<Expr>,
    pub pipeline: Pipeline,
    pub destination: Destination,
    pub rewrite: Option<Rewrite>,
    pub mirror: Option<Mirror>,
    pub upgrade: bool,
    pub metrics: RouteMetrics,
}

/// What reading a configuration brought: what could be read, and what was wrong.
pub type Read = (Option<Loaded>, Faults);

/// Builds a generation and the terms of its listeners. The faults of reading are joined by those of building.
pub fn build(
    (loaded, mut faults): Read,
    keep: &Keep,
    metrics: &Metrics,
    generation: u64,
) -> Result<(Table, listen::Built), Faults> {
    let Some(mut loaded) = loaded else { return Err(faults) };
    let body = loaded.conf.server.request_body;
    for route in loaded.conf.route.values_mut() {
        route.policy.size.get_or_insert_default().body.get_or_insert(body);
    }
    let base = loaded.base().to_owned();
    loaded.conf.service.values_mut().for_each(|service| service.value.settle(&base));
    let built = parts(&loaded, keep, metrics, &mut faults);
    match built {
        Some((matcher, routes, pools, listeners, read)) if faults.is_empty() => {
            let settings = loaded.settings();
            let Loaded { conf, mut files, .. } = loaded;
            files.extend(read);
            let table = Table {
                generation,
                since: crate::clock::wall(),
                trusted: conf.server.trusted.into(),
                path: conf.server.path,
                drain: conf.server.drain.0,
                matcher,
                routes: routes.into(),
                pools,
                settings,
                files: files.into(),
            };
            Ok((table, listeners))
        }
        _ => Err(faults),
    }
}

/// What a configuration comes to.
pub struct Parts {
    pub listeners: usize,
    pub services: usize,
    pub routes: usize,
}

/// Builds everything and keeps nothing: what `check` says.
pub fn examine((loaded, faults): Read) -> Result<Parts, Faults> {
    let Some(loaded) = loaded else { return Err(faults) };
    let counts = Parts {
        listeners: loaded.conf.listen.len(),
        services: loaded.conf.service.len(),
        routes: loaded.conf.route.len(),
    };
    // Without its secrets a configuration may lack tables that others name: only its form can be judged.
    if faults.is_empty() && !loaded.complete {
        return Ok(counts);
    }
    build((Some(loaded), faults), &Keep::default(), &Metrics::new(1), 0).map(|_| counts)
}

type Built = (Routes, Vec<Route>, BTreeMap<String, Arc<Pool>>, listen::Built, Vec<PathBuf>);

fn parts(loaded: &Loaded, keep: &Keep, metrics: &Metrics, faults: &mut Faults) -> Option<Built> {
    let conf = &loaded.conf;
    let listeners = listeners(loaded, faults);
    let pools = pools(conf, keep, faults);
    let (sources, files) = identities::build(conf, loaded.base(), keep, faults);
    let mut work = Work { conf, keep, metrics, pools, sources, faults };
    let (mut entries, mut routes, mut places) = (vec![], vec![], vec![]);
    for (name, route) in conf.route.iter().filter(|(_, r)| r.sound) {
        if let Some(built) = work.route(name, route) {
            entries.push(route.own.entry(name));
            places.push((name.as_str(), route.own.pattern.span()));
            routes.push(built);
        }
    }
    let Work { pools, faults, .. } = work;
    let matcher = match Routes::build(entries) {
        Ok(matcher) => matcher,
        Err(clashes) => {
            clashes.iter().for_each(|clash| faults.add(clash_fault(clash, &places)));
            return None;
        }
    };
    Some((matcher, routes, pools, listeners?, files))
}

fn clash_fault(clash: &route::Clash, places: &[(&str, Range<usize>)]) -> Fault {
    let ((name, at), (other, there)) = (&places[clash.route], &places[clash.with]);
    let what = match clash.kind {
        ClashKind::Tie => format!("ties with route `{other}`: nothing decides between the two"),
        ClashKind::Shadowed => format!("can never match: route `{other}` takes all its requests before"),
    };
    Fault::new(at.clone(), what)
        .at(format!("route.{name}.match"))
        .also(there.clone(), format!("route `{other}`"))
        .hint(Some("give one a `priority` or a `when`".to_owned()))
}

fn listeners(loaded: &Loaded, faults: &mut Faults) -> Option<listen::Built> {
    let (conf, server) = (&loaded.conf, &loaded.conf.server);
    let terms = listen::Terms {
        base: loaded.base().to_owned(),
        trusted: server.trusted.clone().into(),
        head: server.request_head.0 as usize,
        max_connections: server.max_connections.map(|n| n.get() as usize),
        per_address: server.max_connections_per_ip.map(|n| n.get() as usize),
    };
    let named = conf.listen.iter().filter(|(_, l)| l.sound).map(|(name, item)| (name.as_str(), &item.value));
    match listen::build(named, &terms) {
        Ok(built) => Some(built),
        Err(found) => {
            found.into_iter().for_each(|fault| faults.add(listener_fault(conf, fault)));
            None
        }
    }
}

/// A listener's fault under its key.
fn listener_fault(conf: &Conf, fault: listen::Fault) -> Fault {
    conf.fault(&format!("listen.{}.{}", fault.listener, fault.key), fault.error)
}

fn pools(conf: &Conf, keep: &Keep, faults: &mut Faults) -> BTreeMap<String, Arc<Pool>> {
    let mut pools = BTreeMap::new();
    for (name, item) in conf.service.iter().filter(|(_, s)| s.sound) {
        match Pool::build(name, &item.value, keep) {
            Ok(pool) => {
                pools.insert(name.clone(), pool);
            }
            Err(found) => {
                let path = format!("service.{name}");
                found.into_iter().for_each(|error| faults.add(conf.fault(&path, error)));
            }
        }
    }
    pools
}

/// What building a route needs.
struct Work<'a> {
    conf: &'a Conf,
    keep: &'a Keep,
    metrics: &'a Metrics,
    pools: BTreeMap<String, Arc<Pool>>,
    sources: Sources,
    faults: &'a mut Faults,
}

impl Work<'_> {
    fn fault(&mut self, route: &str, key: &str, error: BuildError) {
        self.faults.add(self.conf.fault(&format!("route.{route}.{key}"), error));
    }

    fn route(&mut self, name: &str, route: &crate::conf::Route) -> Option<Route> {
        let own = &route.own;
        let captures: Arc<[SmolStr]> = own.pattern.get_ref().names().clone();
        own.faults().into_iter().for_each(|error| self.fault(name, "match", error));
        let pipeline = self.pipeline(name, route, &captures);
        self.identity(name, route);
        let rewrite = match own.rewrite.as_ref().map(|r| Rewrite::build(r, &captures, &self.conf.server.path)) {
            Some(Err(error)) => {
                self.fault(name, "rewrite", error);
                None
            }
            built => built.and_then(Result::ok),
        };
        let mirror = own.mirror.as_ref().and_then(|m| {
            let pool = self.pool(name, &m.to, route.place("mirror"))?;
            Some(Mirror { pool, share: m.share.0 })
        });
        let destination = self.destination(name, route, &captures)?;
        let services: Vec<_> = destination.legs().iter().map(|leg| leg.pool.name().as_str()).collect();
        Some(Route {
            metrics: self.metrics.route(name, &services),
            destination,
            name: SmolStr::new(name),
            when: own.when.as_ref().map(|w| w.get_ref().clone()),
            upgrade: own.upgrade,
            captures,
            pipeline,
            rewrite,
            mirror,
        })
    }

    fn pipeline(&mut self, name: &str, route: &crate::conf::Route, captures: &[SmolStr]) -> Pipeline {
        let conf = self.conf;
        let origin = |offset| conf.origin(offset);
        let mut found = vec![];
        let cx = BuildCx { keep: self.keep, origin: &origin, route: name, captures, sources: &self.sources };
        let pipeline = Pipeline::build(&route.policy, &cx, &mut found);
        for (key, error) in found {
            self.fault(name, key, error);
        }
        pipeline
    }

    /// Who it is is known only after `auth`: not to `when`, and never where nothing asks.
    fn identity(&mut self, name: &str, route: &crate::conf::Route) {
        let looks = |condition: &Expr| condition.vars().into_iter().find(|v| v.is_identity()).map(|v| v.to_string());
        if let Some(when) = &route.own.when
            && let Some(var) = looks(when.get_ref())
        {
            let why = format!("`{var}` is not known before the route is chosen, expected a condition of `allow`");
            self.fault(name, "when", BuildError::new(why).at(when.span()));
        }
        if route.policy.auth.as_ref().is_some_and(|auth| auth.mode != Mode::Off) {
            return;
        }
        for rule in route.policy.allow.iter().flat_map(|allow| allow.iter()) {
            if let Some(var) = looks(&rule.get_ref().condition) {
                let error = BuildError::new(format!("`{var}` is never known: this route has no `auth`"));
                self.fault(name, "allow", error.at(rule.span()));
            }
        }
    }

    fn destination(&mut self, name: &str, route: &crate::conf::Route, captures: &[SmolStr]) -> Option<Destination> {
        match route.own.destination()? {
            route::Destination::To(to) => self.services(name, route, to).map(Destination::Services),
            route::Destination::Redirect(conf) => match Redirect::build(conf, captures) {
                Ok(redirect) => Some(Destination::Redirect(Box::new(redirect))),
                Err(error) => {
                    self.fault(name, "redirect", error);
                    None
                }
            },
            route::Destination::Reply(conf) => match Fixed::build(conf, captures) {
                Ok(reply) => Some(Destination::Reply(Box::new(reply))),
                Err(error) => {
                    self.fault(name, "reply", error);
                    None
                }
            },
        }
    }

    fn services(&mut self, name: &str, route: &crate::conf::Route, to: &To) -> Option<Services> {
        let own = &route.own;
        let mut legs = vec![];
        for share in to.iter() {
            let pool = self.pool(name, &share.target, share.at.clone())?;
            let (timeout, retry) = (own.timeout.over(pool.timeout()), own.retry.over(pool.retry()));
            let metrics = self.metrics.service(pool.name());
            let service = self.conf.service.get(share.target.text());
            let hash = service.and_then(|s| s.value.hash.as_ref()).map(|key| key.get_ref().clone());
            legs.push(Leg { pool, timeout, retry, hash, metrics });
        }
        let split = Split::new(to.iter().map(|share| (share.target.text(), share.weight)));
        let sticky: Option<Key> = own.sticky.as_ref().map(|key| key.get_ref().clone());
        Some(Services { split, sticky, legs: legs.into() })
    }

    /// The service of that name, or one made of a bare address.
    fn pool(&mut self, route: &str, target: &Target, at: Range<usize>) -> Option<Arc<Pool>> {
        if let Some(pool) = self.pools.get(target.text()) {
            return Some(pool.clone());
        }
        let Target::Address(text) = target else {
            // The name dangles, which is said where names are checked, or its table was at fault.
            return None;
        };
        let single = service::Target::line(text).map_err(|bad| vec![BuildError::new(bad.why)]);
        let single = single.map(|target| service::Conf::single(Spanned::new(at.clone(), target)));
        match single.and_then(|conf| Pool::build(text, &conf, self.keep)) {
            Ok(pool) => {
                self.pools.insert(text.clone(), pool.clone());
                Some(pool)
            }
            Err(found) => {
                for error in found {
                    self.fault(route, "to", error.at(at.clone()));
                }
                None
            }
        }
    }
}
