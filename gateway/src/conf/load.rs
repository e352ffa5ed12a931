//! Files become sections, sections become types, and names are checked against each other; every fault of every file
//! comes out of one run. Its surprise: what could be read is handed on even beside faults, so that later stages can
//! look for theirs; `sound` says which parts are whole.

use super::de;
use super::explain::{Settings, defaults, settings};
use super::fault::{Fault, Faults, did_you_mean};
use super::include;
use super::merge::merge;
use super::source::Sources;
use super::tree::{Entry, Node, Origin, Outside, Span, Value, join};
use super::{Server, admin, listen, route, service};
use filters::Policy;
use filters::auth::{jwt, keys};
use filters::filter::BuildError;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The sections that are one table.
pub(super) const SINGLE: &[&str] = &["server", "admin"];
/// The sections of named tables.
pub(super) const NAMED: &[&str] = &["listen", "jwt", "keys", "policy", "service", "route"];
/// The keys of a route that say where a request goes: exactly one of them.
pub(super) const DESTINATIONS: &[&str] = &["to", "redirect", "reply"];
/// Settings of this file were written by nobody.
pub(super) const BUILT_IN: &str = "(built in)";
const DEFAULT_LISTENER: &str = "[listen.http]\naddr = \"0.0.0.0:8080\"\n";

/// How strictly to read.
#[derive(Debug, Default, Clone, Copy)]
pub struct Options {
    /// Accept references that do not resolve on this machine. What comes out is for checking, not for running.
    pub without_secrets: bool,
}

/// The whole configuration, as types.
#[derive(Default)]
pub struct Conf {
    pub server: Server,
    pub admin: admin::Conf,
    /// Never empty: without any, one listener `http` on `0.0.0.0:8080`.
    pub listen: BTreeMap<String, Item<listen::Conf>>,
    pub jwt: BTreeMap<String, Item<jwt::Conf>>,
    pub keys: BTreeMap<String, Item<keys::Conf>>,
    /// The names of all tables that prove identities, of those too that could not be read.
    pub identities: Vec<String>,
    pub service: BTreeMap<String, Item<service::Conf>>,
    pub route: BTreeMap<String, Route>,
    /// The two sections that are one table, for their places.
    single: BTreeMap<&'static str, Node>,
    /// Which table wrote the value at an offset, by offset.
    origins: Vec<(usize, Arc<str>)>,
}

/// A named table.
pub struct Item<T> {
    pub value: T,
    /// The place of its name.
    pub at: Span,
    /// The table as it was written.
    pub node: Node,
    /// Nothing in it was at fault.
    pub sound: bool,
}

impl<T> Item<T> {
    /// The place of a key's value, such as `tls[0].cert`, for a fault that is found later.
    pub fn place(&self, key: &str) -> Span {
        self.node.place(key)
    }
}

/// A route: its own keys, and the steps that its policies and itself ask for.
pub struct Route {
    pub own: route::Conf,
    pub policy: Policy,
    /// The route's own keys and the merged steps, as they were written.
    pub merged: Node,
    /// The place of its name.
    pub at: Span,
    /// Nothing in it was at fault.
    pub sound: bool,
}

impl Route {
    /// The place of a key's value, such as `response.set`, for a fault that is found later.
    pub fn place(&self, key: &str) -> Span {
        self.merged.place(key)
    }
}

impl Conf {
    /// The table that wrote the value at an offset, such as `policy.edge`: the name of a counter.
    pub fn origin(&self, offset: usize) -> String {
        let upto = self.origins.partition_point(|(at, _)| *at <= offset);
        self.origins[..upto].last().map_or_else(String::new, |(_, table)| table.to_string())
    }
    /// The place of a value by its whole path, such as `server.log.to` or `route.users.to`.
    pub fn place(&self, path: &str) -> Span {
        self.at(path).map_or(0..0, |(node, key)| node.place(key))
    }
    /// What building a part found wrong, as a fault under its key's path: at the error's own place, or the key's. A step
    /// that a route has from a policy is the policy's fault, told once however many routes use it.
    pub fn fault(&self, path: &str, error: BuildError) -> Fault {
        // a one-line form has no places within
        let span = error.at.filter(|at| !at.is_empty()).unwrap_or_else(|| self.place(path));
        let origin = self.origin(span.start);
        let path = match path.splitn(3, '.').collect::<Vec<_>>()[..] {
            ["route", _, key] if origin.starts_with("policy.") => join(&origin, key),
            _ => path.to_string(),
        };
        Fault::new(span, error.why).at(path).hint(error.hint)
    }
    /// The table that a path lies in, and the rest of the path.
    fn at<'p>(&self, path: &'p str) -> Option<(&Node, &'p str)> {
        let (section, rest) = path.split_once('.').unwrap_or((path, ""));
        if let Some(node) = self.single.get(section) {
            return Some((node, rest));
        }
        let (name, key) = rest.split_once('.').unwrap_or((rest, ""));
        let node = match section {
            "listen" => self.listen.get(name).map(|i| &i.node),
            "jwt" => self.jwt.get(name).map(|i| &i.node),
            "keys" => self.keys.get(name).map(|i| &i.node),
            "service" => self.service.get(name).map(|i| &i.node),
            "route" => self.route.get(name).map(|r| &r.merged),
            _ => None,
        };
        node.map(|n| (n, key))
    }
}

/// What one load brought.
pub struct Loaded {
    pub conf: Conf,
    pub sources: Arc<Sources>,
    /// Every file and folder that the configuration depends on, for watching.
    pub files: Vec<PathBuf>,
    /// The main file.
    main: PathBuf,
    /// Everything could be read. Only `without_secrets` brings an incomplete configuration without faults: a table
    /// that lacks what an unresolved reference would have said is not in `conf`.
    pub complete: bool,
}

impl Loaded {
    /// The folder of the main file: where the relative paths of the configuration start.
    pub fn base(&self) -> &Path {
        self.main.parent().unwrap_or(Path::new(""))
    }
    /// Every setting of a route with its author, and then the defaults that hold beside them; `None` if there is no
    /// such route.
    pub fn explain(&self, route: &str) -> Option<Settings> {
        let route = self.conf.route.get(route)?;
        let mut all = settings(&route.merged, &self.sources);
        all.0.extend(defaults(&route.merged, &super::schema(), "Route").0);
        Some(all)
    }
    /// The running configuration, one setting a line, references as references.
    pub fn settings(&self) -> Settings {
        let conf = &self.conf;
        let single = conf.single.iter().map(|(name, node)| (name.to_string(), node));
        let listen = conf.listen.iter().map(|(name, i)| (format!("listen.{name}"), &i.node));
        let jwt = conf.jwt.iter().map(|(name, i)| (format!("jwt.{name}"), &i.node));
        let keys = conf.keys.iter().map(|(name, i)| (format!("keys.{name}"), &i.node));
        let service = conf.service.iter().map(|(name, i)| (format!("service.{name}"), &i.node));
        let route = conf.route.iter().map(|(name, r)| (format!("route.{name}"), &r.merged));
        let mut all = Settings::default();
        for (name, node) in single.chain(listen).chain(jwt).chain(keys).chain(service).chain(route) {
            for mut s in settings(node, &self.sources).0 {
                s.path = join(&name, &s.path);
                all.0.push(s);
            }
        }
        all
    }
}

// The types hold what references mean, also in fields that are not `Secret`: only what the files say is printed.

impl<T> fmt::Debug for Item<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.merged)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.settings())
    }
}

/// Reads the configuration whole, or says everything that is wrong with it.
pub fn load(main: &Path, options: &Options) -> Result<Loaded, Faults> {
    match read(main, options) {
        (Some(loaded), faults) if faults.is_empty() => Ok(loaded),
        (_, faults) => Err(faults),
    }
}

/// As [`load`], but hands out what could be read beside the faults, for stages that look for more of them. There is
/// nothing when a file has syntax errors or cannot be read, since every name that is missing then would be a fault.
pub fn read(main: &Path, options: &Options) -> (Option<Loaded>, Faults) {
    let env = |name: &str| std::env::var_os(name);
    let mut loader = Loader::new(Outside { env: &env, lenient: options.without_secrets });
    let root = loader.sources.read(main, &loader.outside, &mut loader.faults);
    loader.finish(main, root)
}

pub(super) struct Loader<'a> {
    pub sources: Sources,
    pub faults: Vec<Fault>,
    pub outside: Outside<'a>,
    whole: bool,
    complete: bool,
}

/// The tables of all files, before they are types.
#[derive(Default)]
struct Tables {
    single: BTreeMap<&'static str, Entry>,
    named: BTreeMap<&'static str, Vec<Entry>>,
}

impl Tables {
    fn of(&self, section: &str) -> &[Entry] {
        self.named.get(section).map_or(&[], |v| v)
    }
}

impl<'a> Loader<'a> {
    pub fn new(outside: Outside<'a>) -> Loader<'a> {
        Loader { sources: Sources::default(), faults: vec![], outside, whole: true, complete: true }
    }

    /// From the main file's tree to the end.
    pub fn finish(mut self, main: &Path, root: Option<Node>) -> (Option<Loaded>, Faults) {
        let roots = self.included(main, root);
        let mut conf = None;
        if self.whole {
            let tables = self.tables(roots);
            conf = Some(self.conf(tables));
        }
        self.sources.seal();
        let sources = Arc::new(self.sources);
        let files = sources.files().to_vec();
        let complete = self.complete;
        let loaded =
            conf.map(|conf| Loaded { conf, sources: sources.clone(), files, main: main.to_path_buf(), complete });
        (loaded, Faults::of(self.faults, sources))
    }

    /// The main file and all that it includes, and what these include.
    fn included(&mut self, main: &Path, root: Option<Node>) -> Vec<Node> {
        let identity = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_path_buf());
        let mut seen = HashSet::from([identity(main)]);
        let mut roots = vec![];
        let mut queue = vec![(main.to_path_buf(), root)];
        // a queue, not a stack: files are laid end to end in the order in which they are named
        let mut next = 0;
        while next < queue.len() {
            let (path, root) = std::mem::replace(&mut queue[next], (PathBuf::new(), None));
            next += 1;
            let Some(root) = root else {
                self.whole = false;
                continue;
            };
            for (file, by) in self.includes(&path, &root) {
                if !seen.insert(identity(&file)) {
                    let what = format!("{} is included twice", file.display());
                    self.faults.push(Fault::new(by, what).at("include"));
                    continue;
                }
                let tree = self.sources.read(&file, &self.outside, &mut self.faults);
                queue.push((file, tree));
            }
            roots.push(root);
        }
        roots
    }

    /// The files that one file names, each with the place of its name.
    fn includes(&mut self, file: &Path, root: &Node) -> Vec<(PathBuf, Span)> {
        let Some(entry) = root.entry("include") else { return vec![] };
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut files = vec![];
        for item in entry.node.list() {
            let span = item.span.clone();
            let text = match &item.value {
                Value::Text(t) if t.origin == Origin::Unresolved => continue,
                Value::Text(t) => t,
                Value::Broken => continue,
                other => {
                    let what =
                        format!("found {}, expected a file or a pattern such as \"conf.d/*.toml\"", other.kind());
                    self.faults.push(Fault::new(span, what).at("include"));
                    continue;
                }
            };
            match include::find(folder, &text.value) {
                Ok(found) => {
                    self.sources.files.extend(found.folders);
                    if let [only] = &found.files[..]
                        && !include::is_pattern(&text.value)
                        && let Err(e) = only.metadata()
                    {
                        let what = format!("{} cannot be read: {e}", only.display());
                        self.faults.push(Fault::new(span, what).at("include"));
                        self.sources.files.push(only.clone());
                        self.whole = false;
                        continue;
                    }
                    files.extend(found.files.into_iter().map(|f| (f, span.clone())));
                }
                Err((dir, e)) => {
                    let what = format!("folder {} cannot be read: {e}", dir.display());
                    self.faults.push(Fault::new(span, what).at("include"));
                    self.sources.files.push(dir);
                }
            }
        }
        files
    }

    /// Sorts every file's tables into their sections.
    fn tables(&mut self, roots: Vec<Node>) -> Tables {
        let mut tables = Tables::default();
        let mut first: HashMap<String, Span> = HashMap::new();
        for entry in roots.into_iter().flat_map(|r| match r.value {
            Value::Table(t) => t,
            _ => vec![],
        }) {
            let find = |sections: &'static [&str]| sections.iter().copied().find(|s| *s == entry.key);
            if let Some(section) = find(SINGLE) {
                if self.is_table(&entry.node, section, &format!("a table `[{section}]`"))
                    && self.is_first(section.to_string(), &entry.at, &mut first)
                {
                    tables.single.insert(section, entry);
                }
            } else if let Some(section) = find(NAMED) {
                if self.is_table(&entry.node, section, &format!("tables such as `[{section}.NAME]`")) {
                    let Value::Table(named) = entry.node.value else { continue };
                    let named = named.into_iter().filter(|e| self.is_named(section, e, &mut first));
                    tables.named.entry(section).or_default().extend(named);
                }
            } else if entry.key == "version" {
                self.version(&entry);
            } else if entry.key != "include" {
                self.unknown(&entry);
            }
        }
        tables
    }

    fn is_table(&mut self, node: &Node, path: &str, expected: &str) -> bool {
        match &node.value {
            Value::Table(_) => true,
            Value::Broken => false,
            other => {
                let what = format!("found {}, expected {expected}", other.kind());
                self.faults.push(Fault::new(node.span.clone(), what).at(path));
                false
            }
        }
    }

    fn is_first(&mut self, path: String, at: &Span, first: &mut HashMap<String, Span>) -> bool {
        match first.get(&path) {
            Some(before) => {
                let fault = Fault::new(at.clone(), "this name is defined twice").also(before.clone(), "first defined");
                self.faults.push(fault.at(path));
                false
            }
            None => {
                first.insert(path, at.clone());
                true
            }
        }
    }

    fn is_named(&mut self, section: &str, entry: &Entry, first: &mut HashMap<String, Span>) -> bool {
        let path = join(section, &super::tree::key(&entry.key));
        if !is_name(&entry.key) {
            let what = format!("name {:?}: expected 1 to 64 of A-Z, a-z, 0-9, `_` and `-`", entry.key);
            self.faults.push(Fault::new(entry.at.clone(), what).at(section));
            return false;
        }
        self.is_table(&entry.node, &path, &format!("a table `[{path}]`")) && self.is_first(path, &entry.at, first)
    }

    fn version(&mut self, entry: &Entry) {
        if !matches!(entry.node.value, Value::Int(1) | Value::Broken) {
            let what = format!("found {}, expected 1, the version this gateway reads", entry.node.value.kind());
            self.faults.push(Fault::new(entry.node.span.clone(), what).at("version"));
        }
    }

    fn unknown(&mut self, entry: &Entry) {
        let table = matches!(&entry.node.value, Value::Table(_))
            || matches!(&entry.node.value, Value::Array(a) if a.iter().all(|n| matches!(n.value, Value::Table(_))));
        let known: Vec<&str> =
            if table { [SINGLE, NAMED].concat() } else { ["version", "include"].into_iter().collect() };
        let hint = did_you_mean(&entry.key, known.iter().copied())
            .or_else(|| did_you_mean(&entry.key, SINGLE.iter().chain(NAMED).copied()))
            .unwrap_or_else(|| format!("known: {}", known.join(", ")));
        let what = format!("unknown {} `{}`", if table { "section" } else { "key" }, entry.key);
        self.faults.push(Fault::new(entry.at.clone(), what).hint(hint));
    }

    fn conf(&mut self, mut tables: Tables) -> Conf {
        self.default_listener(&mut tables);
        let mut conf = Conf { origins: origins(&tables), ..Conf::default() };
        if let Some(server) = self.single(&tables, "server") {
            conf.server = server;
        }
        if let Some(admin) = self.single(&tables, "admin") {
            conf.admin = admin;
        }
        if let (Some(entry), Err((key, why))) = (tables.single.get("admin"), conf.admin.check()) {
            self.faults.push(Fault::new(entry.node.place(key), why).at(join("admin", key)));
        }
        conf.listen = self.named(&tables, "listen");
        conf.jwt = self.named(&tables, "jwt");
        conf.keys = self.named(&tables, "keys");
        let identities = ["jwt", "keys"].into_iter().flat_map(|section| tables.of(section));
        conf.identities = identities.map(|e| e.key.clone()).collect();
        conf.service = self.named(&tables, "service");
        for policy in tables.of("policy") {
            self.partial(policy.node.entries(), &policy.node.span, &format!("policy.{}", policy.key));
        }
        conf.route = self.routes(&tables);
        let redirects = conf.listen.values().any(|l| l.node.entry("redirect").is_some());
        if self.faults.is_empty() && tables.of("route").is_empty() && !redirects {
            let what = "no route is defined: expected at least one table `[route.NAME]`";
            self.faults.push(Fault::new(0..0, what));
        }
        conf.single = tables.single.into_iter().map(|(name, e)| (name, e.node)).collect();
        conf
    }

    fn default_listener(&mut self, tables: &mut Tables) {
        if tables.named.contains_key("listen") {
            return;
        }
        let text = DEFAULT_LISTENER.as_bytes().to_vec();
        let root = self.sources.parse(BUILT_IN, text, Path::new(""), &self.outside, &mut self.faults);
        let listen = root.as_ref().and_then(|r| r.entry("listen")).map(|e| e.node.entries().to_vec());
        tables.named.insert("listen", listen.unwrap_or_default());
    }

    /// Reads one table, and whether it was sound.
    fn table<T: DeserializeOwned>(&mut self, node: &Node, path: &str, also: &[&'static str]) -> Option<(T, bool)> {
        let before = self.faults.len();
        let value = de::read::<T>(node, path, also, &mut self.faults);
        let sound = self.faults.len() == before;
        self.complete &= value.is_some();
        value.map(|v| (v, sound))
    }

    fn single<T: DeserializeOwned>(&mut self, tables: &Tables, section: &str) -> Option<T> {
        let empty = Node::table(0..0, vec![]);
        let node = tables.single.get(section).map_or(&empty, |e| &e.node);
        self.table(node, section, &[]).map(|(value, _)| value)
    }

    fn named<T: DeserializeOwned>(&mut self, tables: &Tables, section: &str) -> BTreeMap<String, Item<T>> {
        let mut all = BTreeMap::new();
        for e in tables.of(section) {
            if let Some((value, sound)) = self.table(&e.node, &format!("{section}.{}", e.key), &[]) {
                all.insert(e.key.clone(), Item { value, at: e.at.clone(), node: e.node.clone(), sound });
            }
        }
        all
    }

    /// Judges steps that another table may complete: everything but what is missing from them.
    fn partial(&mut self, steps: &[Entry], span: &Span, path: &str) {
        let mut merged = vec![];
        merge(&mut merged, steps);
        let mut found = vec![];
        de::read::<Policy>(&Node::table(span.clone(), merged), path, &[], &mut found);
        // a list is never completed by another table
        self.faults.extend(found.into_iter().filter(|f| !f.missing || f.path.contains('[')));
    }

    fn routes(&mut self, tables: &Tables) -> BTreeMap<String, Route> {
        let policies: HashMap<&str, &Entry> = tables.of("policy").iter().map(|e| (e.key.as_str(), e)).collect();
        let services: HashSet<&str> = tables.of("service").iter().map(|e| e.key.as_str()).collect();
        let mut all = BTreeMap::new();
        for e in tables.of("route") {
            let before = self.faults.len();
            if let Some(mut route) = self.route(e, &policies, &services) {
                route.sound = self.faults.len() == before;
                all.insert(e.key.clone(), route);
            }
        }
        all
    }

    fn route(&mut self, e: &Entry, policies: &HashMap<&str, &Entry>, services: &HashSet<&str>) -> Option<Route> {
        let path = format!("route.{}", e.key);
        // the keys of the steps belong to the policy, all others to the route
        let (steps, own): (Vec<Entry>, Vec<Entry>) =
            e.node.entries().iter().cloned().partition(|k| Policy::KEYS.contains(&k.key.as_str()));
        let own = Node::table(e.node.span.clone(), own);
        let typed = self.table::<route::Conf>(&own, &path, Policy::KEYS);
        if typed.as_ref().is_some_and(|(_, sound)| *sound) {
            self.destination(&own, &path);
        }
        self.services(&own, &path, services);
        self.partial(&steps, &e.node.span, &path);

        let mut merged = vec![];
        for name in own.entry("policy").map_or(&[][..], |p| p.node.list()) {
            let Some(text) = name.text().filter(|t| t.origin != Origin::Unresolved) else { continue };
            match policies.get(text.value.as_str()) {
                Some(policy) => merge(&mut merged, policy.node.entries()),
                None => {
                    self.dangling(&name.span, &text.value, "policy", &join(&path, "policy"), policies.keys().copied())
                }
            }
        }
        merge(&mut merged, &steps);
        let merged = Node::table(e.node.span.clone(), merged);
        let (policy, _) = self.table::<Policy>(&merged, &path, &[])?;
        let (conf, _) = typed?;
        let all = [own.entries(), merged.entries()].concat();
        let merged = Node::table(e.node.span.clone(), all);
        Some(Route { own: conf, policy, merged, at: e.at.clone(), sound: true })
    }

    /// A route goes to exactly one place.
    fn destination(&mut self, own: &Node, path: &str) {
        let mut given = own.entries().iter().filter(|e| DESTINATIONS.contains(&e.key.as_str()));
        let Some(first) = given.next() else {
            let what = format!("no destination, expected one of {}", DESTINATIONS.join(", "));
            self.faults.push(Fault::new(own.span.clone(), what).at(path));
            return;
        };
        for more in given {
            let what = format!("`{}` beside `{}`, expected one destination", more.key, first.key);
            let fault = Fault::new(more.at.clone(), what).at(join(path, &more.key));
            self.faults.push(fault.also(first.at.clone(), "the other"));
        }
    }

    /// The services that a route names must exist.
    fn services(&mut self, own: &Node, path: &str, services: &HashSet<&str>) {
        for key in ["to", "mirror"] {
            let Some(entry) = own.entry(key) else { continue };
            let path = join(path, key);
            match &entry.node.value {
                Value::Table(t) if key == "to" => {
                    for e in t {
                        self.service(&e.key, &e.at, &path, services);
                    }
                }
                Value::Table(_) => {
                    if let Some(to) = entry.node.entry("to")
                        && let Some(t) = to.node.text().filter(|t| t.origin != Origin::Unresolved)
                    {
                        self.service(&t.value, &to.node.span, &join(&path, "to"), services);
                    }
                }
                Value::Text(t) if t.origin != Origin::Unresolved => {
                    self.service(&t.value, &entry.node.span, &path, services);
                }
                _ => {}
            }
        }
    }

    fn service(&mut self, name: &str, at: &Span, path: &str, services: &HashSet<&str>) {
        // anything else is an address, and judged where addresses are read
        if is_name(name) && !services.contains(name) {
            self.dangling(at, name, "service", path, services.iter().copied());
        }
    }

    fn dangling<'n>(&mut self, at: &Span, name: &str, kind: &str, path: &str, known: impl Iterator<Item = &'n str>) {
        // a search among thousands for each of thousands would take minutes
        let near = if self.faults.len() < 100 { did_you_mean(name, known) } else { None };
        let hint = near.or_else(|| (kind == "service").then(|| "or an address, `host:port`".into()));
        self.faults.push(Fault::new(at.clone(), format!("no {kind} is named `{name}`")).at(path).hint(hint));
    }
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Which table wrote the node at each offset; exact even where `[a.b]` headers scatter a table over the file.
fn origins(tables: &Tables) -> Vec<(usize, Arc<str>)> {
    fn note(node: &Node, table: &Arc<str>, all: &mut Vec<(usize, Arc<str>)>) {
        all.push((node.span.start, table.clone()));
        match &node.value {
            Value::Table(t) => t.iter().for_each(|e| note(&e.node, table, all)),
            Value::Array(a) => a.iter().for_each(|n| note(n, table, all)),
            _ => {}
        }
    }
    let mut all = vec![];
    for (section, entry) in &tables.single {
        note(&entry.node, &Arc::from(*section), &mut all);
    }
    for (section, entries) in &tables.named {
        for e in entries {
            note(&e.node, &format!("{section}.{}", e.key).into(), &mut all);
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all
}
