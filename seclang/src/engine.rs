//! A program with the settings of one place: paranoia, thresholds, methods, mode. Built at load, shared by all requests.

use std::sync::Arc;

use crate::link::{Options, Program};
use crate::parse::EngineMode;
use crate::plan::Plan;
use crate::state::{State, Value};
use crate::verdict::{SCORE_NAMES, Scores};

/// What a deployment sets on top of the rules.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Overrides `SecRuleEngine`.
    pub mode: Option<EngineMode>,
    /// Values of `TX` before the first rule. Rules cannot overwrite them with a plain `setvar`.
    pub set: Vec<(String, String)>,
    /// Overrides `SecRequestBodyLimit`, in bytes.
    pub request_body_limit: Option<usize>,
    /// Overrides `SecResponseBodyAccess`.
    pub response_body: Option<bool>,
    /// Run every rule on every value, in file order: the oracle. Slow.
    pub plain: bool,
}

impl Settings {
    /// The paranoia levels of the Core Rule Set: what counts for blocking, and what is detected.
    pub fn paranoia(mut self, blocking: u8, detection: u8) -> Self {
        self.set.push(("blocking_paranoia_level".into(), blocking.to_string()));
        self.set.push(("detection_paranoia_level".into(), detection.max(blocking).to_string()));
        // The names of CRS 3.
        self.set.push(("paranoia_level".into(), blocking.to_string()));
        self.set.push(("executing_paranoia_level".into(), detection.max(blocking).to_string()));
        self
    }

    /// The score at which a request is refused.
    pub fn threshold(mut self, inbound: u32) -> Self {
        self.set.push(("inbound_anomaly_score_threshold".into(), inbound.to_string()));
        self
    }
}

#[derive(Debug)]
pub struct Engine {
    pub program: Arc<Program>,
    pub options: Options,
    pub(crate) plan: Option<Plan>,
    initial: Vec<Value>,
    pinned: Vec<bool>,
    scores: [Option<u32>; 12],
}

impl Engine {
    pub fn new(program: Arc<Program>, settings: &Settings) -> Engine {
        let mut initial = vec![Value::Unset; program.names.len()];
        let mut pinned = vec![false; program.names.len()];
        for (name, value) in &settings.set {
            // A name that no rule mentions has no effect on any rule.
            if let Some(slot) = program.names.find(name.as_bytes()) {
                initial[slot as usize] = Value::of(value.as_bytes());
                pinned[slot as usize] = true;
            }
        }
        let mut options = program.options.clone();
        options.engine = settings.mode.unwrap_or(options.engine);
        options.request_body_limit = settings.request_body_limit.unwrap_or(options.request_body_limit);
        options.response_body = settings.response_body.unwrap_or(options.response_body);
        let scores = SCORE_NAMES.map(|names| names.iter().find_map(|n| program.names.find(n.as_bytes())));
        let mut engine = Engine { program, options, plan: None, initial, pinned, scores };
        engine.plan = (!settings.plain).then(|| Plan::new(&engine));
        engine
    }

    /// The fast plan in lines: what it looks for under each alphabet.
    pub fn describe_plan(&self) -> Vec<String> {
        self.plan.as_ref().map(Plan::describe).unwrap_or_default()
    }

    /// Bytes that the fast plan's automata take.
    pub fn plan_memory(&self) -> usize {
        self.plan.as_ref().map_or(0, Plan::memory)
    }

    pub fn is_pinned(&self, slot: u32) -> bool {
        self.pinned[slot as usize]
    }

    pub(crate) fn initial(&self) -> &[Value] {
        &self.initial
    }

    pub(crate) fn scores(&self, state: &State) -> Scores {
        Scores::from_list(self.scores.map(|slot| slot.map_or(0, |s| state.slots[s as usize].number())))
    }
}
