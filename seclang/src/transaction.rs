//! One request and its response, fed in as they come; each `…_end` runs the rules of a phase and gives the decision so far.
//!
//! The request line and headers, then the body in pieces, then the response. A transaction is reused: `reset` keeps its
//! memory. It does no I/O and knows no time; who calls it gives it bytes.

use std::sync::Arc;

use crate::body;
use crate::engine::Engine;
use crate::eval::{Eval, Scratch};
use crate::exec;
use crate::link::Rule;
use crate::parse::{Disruptive, EngineMode, LimitAction};
use crate::plan::Candidates;
use crate::slow::{self, Flow};
use crate::state::State;
use crate::store::{Fields, Span, Store};
use crate::transform::percent_decode;
use crate::vars::Var;
use crate::verdict::{Decision, Match, Scores};

#[derive(Debug)]
pub struct Transaction {
    engine: Arc<Engine>,
    store: Store,
    state: State,
    scratch: Scratch,
    candidates: Candidates,
    /// The rest of this message is run without the plan.
    plain: bool,
    matches: Vec<Match>,
    decision: Decision,
    body: Vec<u8>,
    body_cut: bool,
    body_length: u64,
    response: Vec<u8>,
    allowed: Allowed,
}

/// What an `allow` left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Allowed {
    Nothing,
    /// The phases of the request.
    Request,
    Everything,
}

/// The connection that a request came on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection<'a> {
    pub client: &'a str,
    pub client_port: u16,
    pub server: &'a str,
    pub server_port: u16,
    /// Anything that differs from request to request.
    pub id: &'a str,
}

impl Transaction {
    pub fn new(engine: Arc<Engine>) -> Transaction {
        let state = State::new(engine.initial(), engine.options.engine);
        Transaction {
            engine,
            store: Store::default(),
            state,
            scratch: Scratch::default(),
            candidates: Candidates::default(),
            plain: false,
            matches: Vec::new(),
            decision: Decision::Pass,
            body: Vec::new(),
            body_cut: false,
            body_length: 0,
            response: Vec::new(),
            allowed: Allowed::Nothing,
        }
    }

    /// Ready for the next request.
    pub fn reset(&mut self) {
        const KEEP: usize = 64 << 10;
        self.store.clear();
        self.state.reset(self.engine.initial(), self.engine.options.engine);
        self.candidates.clear();
        self.plain = false;
        self.matches.clear();
        self.decision = Decision::Pass;
        for buffer in [&mut self.body, &mut self.response] {
            buffer.clear();
            buffer.shrink_to(KEEP);
        }
        self.body_cut = false;
        self.body_length = 0;
        self.allowed = Allowed::Nothing;
    }

    /// Ready for the next request, with other rules.
    pub fn reset_with(&mut self, engine: &Arc<Engine>) {
        if !Arc::ptr_eq(engine, &self.engine) {
            self.state = State::new(engine.initial(), engine.options.engine);
            self.candidates = Candidates::default();
            self.engine = engine.clone();
        }
        self.reset();
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn connection(&mut self, c: &Connection<'_>) {
        let s = &mut self.store;
        s.set(Var::RemoteAddr, c.client.as_bytes());
        s.set(Var::RemoteHost, c.client.as_bytes());
        s.set(Var::RemotePort, c.client_port.to_string().as_bytes());
        s.set(Var::ServerAddr, c.server.as_bytes());
        s.set(Var::ServerPort, c.server_port.to_string().as_bytes());
        s.set(Var::UniqueId, c.id.as_bytes());
    }

    /// `target` is the request target as it came: `/path?query`, `http://host/path`, `*` or `host:port`.
    pub fn request_line(&mut self, method: &[u8], target: &[u8], version: &[u8]) {
        let s = &mut self.store;
        let (line, ()) = s.push_with(|out| {
            for (i, part) in [method, target, version].iter().filter(|p| !p.is_empty()).enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                out.extend_from_slice(part);
            }
        });
        s.set_span(Var::RequestLine, line);
        s.set(Var::RequestMethod, method);
        s.set(Var::RequestProtocol, version);
        s.set(Var::RequestUriRaw, target);
        let uri = origin_form(target);
        s.set(Var::RequestUri, uri);
        let no_fragment = &uri[..memchr::memchr(b'#', uri).unwrap_or(uri.len())];
        let (path, query) = match memchr::memchr(b'?', no_fragment) {
            Some(at) => (&no_fragment[..at], &no_fragment[at + 1..]),
            None => (no_fragment, &b""[..]),
        };
        // Decoded once, as the server behind will; REQUEST_URI keeps what came.
        let (file, ()) = s.push_with(|out| percent_decode(path, out));
        s.set_span(Var::RequestFilename, file);
        let base = s.get(file).iter().rposition(|b| matches!(b, b'/' | b'\\')).map_or(0, |i| i as u32 + 1);
        s.set_span(Var::RequestBasename, Span { start: file.start + base, end: file.end });
        s.set(Var::QueryString, query);
        body::form::parse(query, &self.engine.options, Fields::ArgsGet, s);
    }

    pub fn request_header(&mut self, name: &[u8], value: &[u8]) {
        self.store.add_text(Fields::RequestHeaders, name, value);
        if name.eq_ignore_ascii_case(b"cookie") {
            body::cookies(value, &mut self.store);
        } else if name.eq_ignore_ascii_case(b"host") && self.store.one(Var::ServerName).is_none() {
            self.store.set(Var::ServerName, without_port(value));
        }
    }

    /// All headers are there: phase 1.
    pub fn request_headers_end(&mut self) -> &Decision {
        let processor = self.store.header(b"content-type").map_or("", body::processor);
        self.store.set(Var::ReqbodyProcessor, processor.as_bytes());
        self.store.set(Var::ReqbodyError, b"0");
        self.store.set(Var::ReqbodyProcessorError, b"0");
        self.store.set(Var::MultipartStrictError, b"0");
        self.store.set(Var::MultipartUnmatchedBoundary, b"0");
        self.store.set(Var::InboundDataError, b"0");
        self.store.set(Var::OutboundDataError, b"0");
        self.store.seal_sizes();
        self.phase(0);
        &self.decision
    }

    /// Whether body bytes are wanted at all.
    pub fn wants_body(&self) -> bool {
        self.state.body.request.unwrap_or(self.engine.options.request_body) && self.state.mode != EngineMode::Off
    }

    /// A piece of the request body. Beyond the limit the rules' limit action decides.
    pub fn request_body(&mut self, piece: &[u8]) -> &Decision {
        self.body_length += piece.len() as u64;
        if !self.wants_body() {
            return &self.decision;
        }
        let room = self.engine.options.request_body_limit.saturating_sub(self.body.len());
        self.body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            self.body_cut = true;
            self.store.set(Var::InboundDataError, b"1");
            if self.engine.options.limit_action == LimitAction::Reject && self.state.mode == EngineMode::On {
                self.decision = Decision::TooLarge;
            }
        }
        &self.decision
    }

    /// The whole body is there: it is taken apart, and phase 2 runs.
    pub fn request_body_end(&mut self) -> &Decision {
        if self.decision.stops() {
            return &self.decision;
        }
        self.store.set(Var::RequestBodyLength, self.body_length.to_string().as_bytes());
        if self.wants_body() && !self.body.is_empty() {
            let body = std::mem::take(&mut self.body);
            if let Some(processor) = self.state.body.processor.take() {
                self.store.set(Var::ReqbodyProcessor, processor.as_bytes());
            }
            body::read(&body, self.body_cut, self.state.body.force_variable, &self.engine.options, &mut self.store);
            self.body = body;
        }
        self.store.seal_sizes();
        self.phase(1);
        &self.decision
    }

    pub fn response_line(&mut self, version: &[u8], status: u16) {
        let text = status.to_string();
        self.store.set(Var::ResponseStatus, text.as_bytes());
        self.store.set(Var::ResponseProtocol, version);
    }

    pub fn response_header(&mut self, name: &[u8], value: &[u8]) {
        self.store.add_text(Fields::ResponseHeaders, name, value);
        if name.eq_ignore_ascii_case(b"content-type") {
            let kind = value.split(|b| *b == b';').next().unwrap_or_default();
            self.store.set(Var::ResponseContentType, kind.trim_ascii());
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.store.set(Var::ResponseContentLength, value);
        }
    }

    pub fn response_headers_end(&mut self) -> &Decision {
        self.phase(2);
        &self.decision
    }

    pub fn wants_response_body(&self) -> bool {
        let options = &self.engine.options;
        let kind = self.store.one(Var::ResponseContentType).unwrap_or_default();
        self.state.mode != EngineMode::Off
            && self.state.body.response.unwrap_or(options.response_body)
            && (options.response_types.is_empty()
                || options.response_types.iter().any(|t| t.as_bytes().eq_ignore_ascii_case(kind)))
    }

    pub fn response_body(&mut self, piece: &[u8]) {
        if self.wants_response_body() {
            let room = self.engine.options.response_body_limit.saturating_sub(self.response.len());
            self.response.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                self.store.set(Var::OutboundDataError, b"1");
            }
        }
    }

    pub fn response_body_end(&mut self) -> &Decision {
        if self.wants_response_body() {
            let body = std::mem::take(&mut self.response);
            self.store.set(Var::ResponseBody, &body);
            self.response = body;
        }
        self.phase(3);
        &self.decision
    }

    /// The logging phase. It runs whatever was decided.
    pub fn finish(&mut self) -> &Decision {
        self.phase(4);
        &self.decision
    }

    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The rules that matched and say `log`, in the order in which they ran.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    pub fn scores(&self) -> Scores {
        self.engine.scores(&self.state)
    }

    /// Why the body could not be taken apart, if it could not.
    pub fn body_error(&self) -> Option<&[u8]> {
        self.store.one(Var::ReqbodyErrorMsg)
    }

    /// A value of `TX`, for tests and explanations.
    pub fn tx(&self, name: &str) -> Option<Vec<u8>> {
        let slot = self.engine.program.names.find(name.as_bytes())?;
        self.state.slots[slot as usize].text().map(|t| t.into_owned())
    }

    /// Values scanned and candidates found by the plan, for measurements.
    pub fn scanned(&self) -> (usize, usize) {
        (self.candidates.scanned, self.candidates.found)
    }

    /// The rules that the plan could not rule out, with the number of values each had to look at.
    pub fn candidates(&self) -> Vec<(u64, usize)> {
        match &self.engine.plan {
            Some(plan) => plan.candidates(&self.candidates, &self.engine.program),
            None => Vec::new(),
        }
    }

    fn phase(&mut self, phase: usize) {
        let logging = phase == 4;
        if self.state.mode == EngineMode::Off || (self.decision.stops() && !logging) {
            return;
        }
        if !logging && (self.allowed == Allowed::Everything || (self.allowed == Allowed::Request && phase < 2)) {
            return;
        }
        let engine = self.engine.clone();
        let mut eval = Eval { engine: &engine, store: &self.store, state: &mut self.state, scratch: &mut self.scratch };
        let (matches, decision, allowed) = (&mut self.matches, &mut self.decision, &mut self.allowed);
        let found = |eval: &mut Eval<'_>, rule: &Rule, hit: Match| {
            // Rules that do not log are bookkeeping, and the plan leaves most of them out.
            if rule.log {
                matches.push(hit);
            }
            decide(eval.state.mode, rule, decision, allowed)
        };
        match &engine.plan {
            Some(plan) if !self.plain => {
                self.plain = exec::run(&mut eval, plan, &mut self.candidates, phase, found);
            }
            _ => slow::run(&mut eval, phase, found),
        }
    }
}

fn decide(mode: EngineMode, rule: &Rule, decision: &mut Decision, allowed: &mut Allowed) -> Flow {
    let status = rule.status.unwrap_or(403);
    match (mode, rule.disruptive) {
        (EngineMode::Off, _) => Flow::Stop,
        (EngineMode::DetectionOnly, Disruptive::Deny | Disruptive::Drop | Disruptive::Redirect) => {
            if *decision == Decision::Pass {
                *decision = Decision::Observe { status, rule: rule.id };
            }
            Flow::On
        }
        (EngineMode::DetectionOnly, _) | (_, Disruptive::Pass | Disruptive::Block) => Flow::On,
        (_, Disruptive::Deny | Disruptive::Drop | Disruptive::Redirect) => {
            if !decision.stops() {
                *decision = Decision::Deny { status, rule: rule.id };
            }
            Flow::Stop
        }
        (_, Disruptive::AllowPhase) => Flow::Stop,
        (_, Disruptive::AllowRequest) => {
            *allowed = (*allowed).max(Allowed::Request);
            Flow::Stop
        }
        (_, Disruptive::Allow) => {
            *allowed = Allowed::Everything;
            Flow::Stop
        }
    }
}

/// The target without scheme and authority.
fn origin_form(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let Some(at) = memchr::memmem::find(target, b"://") else { return target };
    let scheme = &target[..at];
    if scheme.is_empty() || !scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')) {
        return target;
    }
    let rest = &target[at + 3..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    &rest[end..]
}

/// `host:80` without the port.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| *b == b':') {
        Some(at) if host[at + 1..].iter().all(u8::is_ascii_digit) => &host[..at],
        _ => host,
    }
}
