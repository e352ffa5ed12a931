//! The regression suite of the Core Rule Set, run in this process: its YAML tests become transactions, its expectations are
//! held against the log that the rules write.
//!
//! The suite was written for a web server with a back end that answers `POST /reflect` with what the body says. Both are
//! imitated here (`http`, `backend`), as far as the tests can see them.

mod backend;
pub mod corpus;
mod http;
mod suite;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Connection, Decision, Engine, EngineMode, LoadError, Loader, Program, Settings, Source, Transaction};

pub use http::Request;
pub use suite::{Stage, Test, load};

/// Reads rule files from a directory tree; names are relative to the file that names them.
pub struct Files;

impl Loader for Files {
    fn load(&self, name: &str, from: &str) -> Result<Vec<u8>, String> {
        let path = near(name, from);
        fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn expand(&self, pattern: &str, from: &str) -> Result<Vec<String>, String> {
        let path = near(pattern, from);
        let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(Vec::new()) };
        let name = name.to_string_lossy();
        let Some((before, after)) = name.split_once('*') else {
            return Ok(path.is_file().then(|| path.to_string_lossy().into_owned()).into_iter().collect());
        };
        sorted(folder, |f| f.starts_with(before) && f.ends_with(after) && f.len() >= before.len() + after.len())
            .map(|list| list.into_iter().map(|p| p.to_string_lossy().into_owned()).collect())
            .map_err(|e| format!("{}: {e}", folder.display()))
    }
}

fn near(name: &str, from: &str) -> PathBuf {
    match Path::new(name).is_absolute() {
        true => PathBuf::from(name),
        false => Path::new(from).parent().unwrap_or(Path::new("")).join(name),
    }
}

fn sorted(folder: &Path, wanted: impl Fn(&str) -> bool) -> std::io::Result<Vec<PathBuf>> {
    let mut list = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| wanted(&n.to_string_lossy())) {
            list.push(path);
        }
    }
    list.sort();
    Ok(list)
}

/// Reads a rule set directory: `crs-setup.conf` (or its `.example`) and `rules/*.conf`, or just `*.conf`.
pub fn read_directory(source: &mut Source, folder: &Path) -> Result<(), LoadError> {
    let fail = |path: &Path, e: std::io::Error| LoadError { place: None, reason: format!("{}: {e}", path.display()) };
    let setup = ["crs-setup.conf", "crs-setup.conf.example"].map(|n| folder.join(n)).into_iter().find(|p| p.is_file());
    let rules = folder.join("rules");
    let rules = if rules.is_dir() { rules } else { folder.to_owned() };
    let list = sorted(&rules, |n| n.ends_with(".conf") && n != "crs-setup.conf").map_err(|e| fail(&rules, e))?;
    for path in setup.into_iter().chain(list) {
        let text = fs::read_to_string(&path).map_err(|e| fail(&path, e))?;
        source.read(&path.to_string_lossy(), &text, &Files)?;
    }
    Ok(())
}

/// The settings under which the suite is meant to run: all paranoia levels, nothing refused, and the limits that some
/// tests exceed.
const SETUP: &str = r#"
SecRequestBodyAccess On
SecResponseBodyAccess On
SecRequestBodyLimit 13107200
SecResponseBodyMimeType text/plain text/html text/xml application/json
SecAction "id:900005,phase:1,pass,nolog,ctl:ruleEngine=DetectionOnly,setvar:tx.blocking_paranoia_level=4,setvar:tx.detection_paranoia_level=4,setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,setvar:tx.max_num_args=255,setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535"
"#;

/// A rule set as the suite wants it.
pub fn program(folder: &Path) -> Result<Program, LoadError> {
    let mut source = Source::new();
    source.read("conformance", SETUP, &Files)?;
    read_directory(&mut source, folder)?;
    Program::link(source)
}

/// What became of one test.
#[derive(Debug)]
pub struct Outcome {
    /// `920100-2`.
    pub name: String,
    /// The paranoia level of the rule that it tests; 0 for rules without one.
    pub paranoia: u8,
    pub failure: Option<String>,
}

/// Passed and total.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub total: usize,
}

/// Results by paranoia level.
pub fn tally(outcomes: &[Outcome]) -> BTreeMap<u8, Tally> {
    let mut map: BTreeMap<u8, Tally> = BTreeMap::new();
    for outcome in outcomes {
        let entry = map.entry(outcome.paranoia).or_default();
        entry.total += 1;
        entry.passed += usize::from(outcome.failure.is_none());
    }
    map
}

/// Runs all tests under `tests` on an engine made from `program`.
pub fn run(program: Arc<Program>, tests: &[Test], settings: &Settings) -> Vec<Outcome> {
    let engine = Arc::new(Engine::new(program, settings));
    let mut tx = Transaction::new(engine);
    tests.iter().map(|test| run_test(&mut tx, test)).collect()
}

fn run_test(tx: &mut Transaction, test: &Test) -> Outcome {
    let mut failure = None;
    for (n, stage) in test.stages.iter().enumerate() {
        if let Err(reason) = run_stage(tx, stage) {
            failure = Some(if test.stages.len() > 1 { format!("stage {}: {reason}", n + 1) } else { reason });
            break;
        }
    }
    let rule = tx.engine().program.rule(test.rule);
    Outcome { name: test.name(), paranoia: rule.map_or(0, |r| r.paranoia), failure }
}

/// Runs the request of a stage and holds what came out against what the stage expects.
fn run_stage(tx: &mut Transaction, stage: &Stage) -> Result<(), String> {
    let (status, log) = match stage.request() {
        Ok(request) => exchange(tx, &request),
        // A server that cannot read a request answers 400, and no rule sees it.
        Err(status) => {
            tx.reset();
            (status, String::new())
        }
    };
    stage.check(status, &log)
}

/// One request through all phases, answered by the imitated back end. The status and the log.
fn exchange(tx: &mut Transaction, request: &Request) -> (u16, String) {
    tx.reset();
    feed_request(tx, request);
    let mut status = decided(tx);
    if status.is_none() {
        let response = backend::answer(request);
        tx.response_line(b"HTTP/1.1", response.status);
        for (name, value) in &response.headers {
            tx.response_header(name.as_bytes(), value.as_bytes());
        }
        tx.response_headers_end();
        tx.response_body(&response.body);
        tx.response_body_end();
        status = Some(decided(tx).unwrap_or(response.status));
    }
    tx.finish();
    (status.unwrap_or(200), log(tx))
}

/// Feeds line, headers and body of a request, running phases 1 and 2.
pub fn feed_request(tx: &mut Transaction, request: &Request) {
    tx.connection(&Connection {
        client: "127.0.0.1",
        client_port: 40000,
        server: "127.0.0.1",
        server_port: 80,
        id: "conformance",
    });
    tx.request_line(&request.method, &request.target, &request.version);
    for (name, value) in &request.headers {
        tx.request_header(name, value);
    }
    if tx.request_headers_end().stops() {
        return;
    }
    tx.request_body(&request.body);
    tx.request_body_end();
}

fn decided(tx: &Transaction) -> Option<u16> {
    match tx.decision() {
        Decision::Deny { status, .. } => Some(*status),
        Decision::TooLarge => Some(413),
        Decision::Pass | Decision::Observe { .. } => None,
    }
}

/// The log as ModSecurity writes it, as far as tests look at it.
pub fn log(tx: &Transaction) -> String {
    let mut out = String::new();
    if let Some(error) = tx.body_error() {
        out.push_str(&format!("[msg \"{}\"]\n", String::from_utf8_lossy(error)));
    }
    for hit in tx.matches() {
        let parts: Vec<String> = hit.parts.iter().map(|p| format!("{} at {}", p.value, p.name)).collect();
        out.push_str(&format!(
            "Matched {} [id \"{}\"] [msg \"{}\"] [data \"{}\"]\n",
            parts.join(", "),
            hit.rule,
            hit.message,
            hit.data
        ));
    }
    out
}

/// What an engine makes of a request, in all that a user can see. Two executors must agree on it to the byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub decision: Decision,
    pub scores: crate::Scores,
    pub matches: Vec<(u64, String, String, Vec<crate::Part>)>,
}

/// Runs a request and the imitated response.
pub fn see(tx: &mut Transaction, request: &Request) -> Seen {
    exchange(tx, request);
    let matches = tx.matches().iter();
    Seen {
        decision: tx.decision().clone(),
        scores: tx.scores(),
        matches: matches.map(|m| (m.rule, m.message.clone(), m.data.clone(), m.parts.clone())).collect(),
    }
}

/// Every request of the suite that a server would accept, for measurements and comparisons.
pub fn requests(tests: &[Test]) -> Vec<Request> {
    tests.iter().flat_map(|t| &t.stages).filter_map(|s| s.request().ok()).collect()
}

/// The engine mode under which the suite runs, for callers that build their own settings.
pub const MODE: EngineMode = EngineMode::DetectionOnly;
