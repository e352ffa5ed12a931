//! Which route a request takes: by specificity over host, path, method and conditions.
//!
//! The order is total, so the order in the file means nothing: `priority` first; then an exact host beats `*.example.com`
//! beats none; then, segment by segment, a literal beats a capture beats `*` beats `**`; then a method list beats none,
//! and a `when` beats none. Two routes that still tie are refused, as is one that can never match.
//! Its surprise: the order is decided once, while building; a request only walks a tree and takes the first that fits.

mod conf;
mod pattern;
pub mod rewrite;
pub(crate) mod text;
mod tree;

pub use conf::{Conf, Destination, Mirror, Names, Share, Target, To};
pub use pattern::Pattern;
pub use rewrite::Rewrite;

use http::Method;
use pattern::{Host, Methods};
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use tree::Tree;

/// Ranges of the path that captures stand for, in the order of [`Pattern::names`].
pub type Spans = SmallVec<[(u32, u32); 4]>;

/// One route, as far as matching goes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub pattern: Pattern,
    /// Higher is tried first, before all else.
    pub priority: i64,
    /// The text of the route's condition.
    pub when: Option<String>,
}

/// All routes, ready to be matched. Routes are known by their number in the list they were built from.
#[derive(Debug, Default)]
pub struct Routes {
    entries: Vec<Entry>,
    /// The numbers of the routes, most specific first.
    order: Vec<u32>,
    /// One per priority, highest first.
    tiers: Vec<Tier>,
}

/// The routes of one priority, by host.
#[derive(Debug, Default)]
struct Tier {
    exact: HashMap<SmolStr, Tree, tree::Hash>,
    /// By the name that follows `*.`.
    below: HashMap<SmolStr, Tree, tree::Hash>,
    any: Tree,
}

/// The route that a request takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub route: usize,
    pub captures: Spans,
}

/// Why no route takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// 404: nothing is there.
    Path,
    /// 405: something is there for other methods, which these are (RFC 9110, section 15.5.6).
    Method(Vec<Method>),
}

impl Missing {
    pub fn status(&self) -> u16 {
        if *self == Missing::Path { 404 } else { 405 }
    }
    /// The value of the `Allow` header, which a 405 must have.
    pub fn allow(&self) -> Option<String> {
        match self {
            Missing::Path => None,
            Missing::Method(methods) => Some(methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Two routes that cannot stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    pub kind: ClashKind,
    /// The route at fault, and the one it collides with.
    pub route: usize,
    pub with: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClashKind {
    /// Both match the same requests and nothing decides between them.
    Tie,
    /// Every request of `route` is taken by `with` before.
    Shadowed,
}

/// What became of one route when a request was matched; for `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It takes the request.
    Taken,
    /// It would take the request, but a more specific one does.
    Outranked,
    /// Its condition does not hold.
    When,
    Method,
    Path,
    Host,
}

impl Routes {
    /// Every clash is found, not only the first.
    pub fn build(entries: Vec<Entry>) -> Result<Routes, Vec<Clash>> {
        let mut order: Vec<u32> = (0..entries.len()).map(|i| i as u32).collect();
        order.sort_by(|&a, &b| rank(&entries[a as usize], &entries[b as usize]));
        let mut routes = Routes { entries, order, tiers: vec![] };
        routes.plant();
        let clashes = routes.clashes();
        if clashes.is_empty() { Ok(routes) } else { Err(clashes) }
    }

    /// Puts every route into its tree; a tree tries the routes of one place in the order they came.
    fn plant(&mut self) {
        let mut priority = None;
        for &route in &self.order {
            let entry = &self.entries[route as usize];
            if priority != Some(entry.priority) {
                priority = Some(entry.priority);
                self.tiers.push(Tier::default());
            }
            let tier = self.tiers.last_mut().expect("the first route makes the first tier");
            let tree = match &entry.pattern.host {
                Host::Exact(host) => tier.exact.entry(host.clone()).or_default(),
                Host::Below(host) => tier.below.entry(host.clone()).or_default(),
                Host::Any => &mut tier.any,
            };
            tree.insert(
                &entry.pattern.pieces,
                tree::Candidate {
                    route,
                    methods: entry.pattern.methods.set(),
                    when: entry.when.is_some(),
                    captures: entry.pattern.names().len() as u8,
                },
            );
        }
    }

    /// The route for a request: `host` in lower case without port, `path` canonical. `when(route, captures)` tells whether
    /// that route's condition holds; it is asked only of routes that have one and match otherwise.
    pub fn find(
        &self,
        method: &Method,
        host: &str,
        path: &str,
        mut when: impl FnMut(usize, &Spans) -> bool,
    ) -> Result<Found, Missing> {
        let mut spans = Spans::new();
        let bit = pattern::bit(method);
        for tree in self.trees(host) {
            let taken = tree.walk(path, &mut spans, &mut |c, spans| {
                c.methods & bit != 0
                    && (bit != pattern::OTHER || self.methods(c).take(method))
                    && (!c.when || when(c.route as usize, spans))
            });
            if let Some(route) = taken {
                return Ok(Found { route: route as usize, captures: spans });
            }
        }
        Err(self.missing(method, host, path, when))
    }

    /// 405 only if the method alone is at fault: a route whose condition fails is not there for this client.
    #[cold]
    fn missing(&self, method: &Method, host: &str, path: &str, mut when: impl FnMut(usize, &Spans) -> bool) -> Missing {
        let mut allowed: Vec<Method> = vec![];
        let mut allow = |m: &Method| {
            if !allowed.contains(m) {
                allowed.push(m.clone());
            }
        };
        for tree in self.trees(host) {
            tree.walk(path, &mut Spans::new(), &mut |c, spans| {
                let methods = self.methods(c);
                if !methods.take(method) && (!c.when || when(c.route as usize, spans)) {
                    for m in &methods.0 {
                        allow(m);
                        if *m == Method::GET {
                            allow(&Method::HEAD);
                        }
                    }
                }
                false
            });
        }
        if allowed.is_empty() { Missing::Path } else { Missing::Method(allowed) }
    }

    fn methods(&self, candidate: &tree::Candidate) -> &Methods {
        &self.entries[candidate.route as usize].pattern.methods
    }

    /// The trees that may hold a request's route, most specific first.
    fn trees<'t>(&'t self, host: &'t str) -> impl Iterator<Item = &'t Tree> {
        self.tiers.iter().flat_map(move |tier| tier.trees(Some(host), parent(host)))
    }

    /// Every route in the order of precedence, and why it does or does not take the request. The plain way to match,
    /// pattern by pattern: for `explain`, and the twin that tests hold [`Routes::find`] to.
    pub fn explain(
        &self,
        method: &Method,
        host: &str,
        path: &str,
        mut when: impl FnMut(usize, &Spans) -> bool,
    ) -> Vec<(usize, Why)> {
        let mut taken = false;
        let mut judge = |route: usize| {
            let entry = &self.entries[route];
            if !entry.pattern.host.takes(host) {
                return Why::Host;
            }
            let Some(spans) = entry.pattern.captures(path) else { return Why::Path };
            if !entry.pattern.methods.take(method) {
                return Why::Method;
            }
            if entry.when.is_some() && !when(route, &spans) {
                return Why::When;
            }
            if std::mem::replace(&mut taken, true) { Why::Outranked } else { Why::Taken }
        };
        self.order.iter().map(|&route| (route as usize, judge(route as usize))).collect()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
    /// The numbers of the routes in the order of precedence.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.order.iter().map(|&r| r as usize)
    }

    fn clashes(&self) -> Vec<Clash> {
        let mut clashes = vec![];
        let mut places = vec![0; self.entries.len()];
        for (place, &route) in self.order.iter().enumerate() {
            places[route as usize] = place;
        }
        let mut group = 0..0;
        for (place, &route) in self.order.iter().enumerate() {
            let entry = &self.entries[route as usize];
            let same = |first: &u32| same_shape(&self.entries[*first as usize], entry);
            let starts = if self.order.get(group.start).is_some_and(same) { group.start } else { place };
            group = starts..place;
            let tie = self.order[group.clone()].iter().find(|&&other| ties(&self.entries[other as usize], entry));
            let clash = match tie {
                Some(&with) => Some((ClashKind::Tie, with)),
                None => self.shadow(route, &places).map(|with| (ClashKind::Shadowed, with)),
            };
            if let Some((kind, with)) = clash {
                clashes.push(Clash { kind, route: route as usize, with: with as usize });
            }
        }
        clashes
    }

    /// A route that comes before this one and takes all that it could take.
    fn shadow(&self, route: u32, places: &[usize]) -> Option<u32> {
        let entry = &self.entries[route as usize];
        let (exact, below) = match &entry.pattern.host {
            Host::Exact(host) => (Some(host.as_str()), parent(host)),
            Host::Below(host) => (None, Some(host.as_str())),
            Host::Any => (None, None),
        };
        let trees = self.tiers.iter().flat_map(|tier| tier.trees(exact, below));
        let mut earlier = |c: &tree::Candidate| {
            !c.when
                && places[c.route as usize] < places[route as usize]
                && self.methods(c).cover(&entry.pattern.methods)
        };
        trees.into_iter().find_map(|tree| tree.covering(&entry.pattern.pieces, &mut earlier))
    }
}

impl Tier {
    /// The trees for an exact host, for the names it is below of, and for any.
    fn trees<'t>(&'t self, exact: Option<&str>, below: Option<&'t str>) -> impl Iterator<Item = &'t Tree> {
        let exact = exact.filter(|_| !self.exact.is_empty()).and_then(|host| self.exact.get(host));
        let below = below.filter(|_| !self.below.is_empty());
        let below = std::iter::successors(below, |name| parent(name)).filter_map(|name| self.below.get(name));
        exact.into_iter().chain(below).chain(std::iter::once(&self.any))
    }
}

/// `b.c` of `a.b.c`.
fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent)
}

/// Which of two routes is tried first.
fn rank(a: &Entry, b: &Entry) -> Ordering {
    let host = |e: &Entry| match &e.pattern.host {
        Host::Exact(name) => (0, Reverse(0), name.clone()),
        Host::Below(name) => (1, Reverse(name.split('.').count()), name.clone()),
        Host::Any => (2, Reverse(0), SmolStr::default()),
    };
    let last = |e: &Entry| (e.pattern.methods.all(), e.when.is_none(), !e.pattern.methods.names(&Method::HEAD));
    b.priority
        .cmp(&a.priority)
        .then_with(|| host(a).cmp(&host(b)))
        .then_with(|| a.pattern.shape().cmp(b.pattern.shape()))
        .then_with(|| last(a).cmp(&last(b)))
        .then_with(|| a.name.cmp(&b.name))
}

/// The same priority, host and path: only method and condition can tell them apart.
fn same_shape(a: &Entry, b: &Entry) -> bool {
    a.priority == b.priority && a.pattern.host == b.pattern.host && a.pattern.shape().eq(b.pattern.shape())
}

/// Nothing tells two routes of the same shape apart. Different conditions are trusted to do so, in the order of names.
fn ties(a: &Entry, b: &Entry) -> bool {
    let (one, other) = (&a.pattern.methods, &b.pattern.methods);
    a.when == b.when && one.all() == other.all() && one.overlap(other)
}

#[cfg(test)]
mod tests;
