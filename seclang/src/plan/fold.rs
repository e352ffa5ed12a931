//! Control rules, evaluated at load. Most rules of the Core Rule Set that are not about attacks ask `TX` for settings: is a
//! default missing, is the paranoia level high enough. With the settings known, so are the answers.
//!
//! Knowledge is kept per `TX` name while walking the phases in order: a value, or "anything". What cannot be decided stays
//! a rule and makes everything it writes "anything". Folding is undone at run time (the plain interpreter takes over)
//! whenever a rule switches off a rule that was folded away.

use crate::engine::Engine;
use crate::link::{CAPTURE_SLOTS, Effect, Key, Link, Look, Part, Rule, SetChange, SetName, Template};
use crate::operators::Operator;
use crate::parse::Disruptive;
use crate::state::Value;
use crate::vars::Var;

/// What a phase comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What folded rules would have written.
    Write(Vec<(u32, Value)>),
    /// A rule that certainly matches; only its effects depend on the request.
    Effects(u32),
    Rule(u32),
}

/// The steps of all phases, and which rules are gone.
pub struct Folded {
    pub steps: [Vec<Step>; 5],
    /// Per phase: the first step at or behind a position of the program.
    pub step_at: [Vec<u32>; 5],
    pub gone: Vec<bool>,
    /// Rules that are known to match: when a request switches one of them off, folding is off for it.
    pub decided: Vec<bool>,
}

/// `None`: anything.
type Known = Vec<Option<Value>>;

enum Outcome {
    No,
    /// It matches and writes these.
    Yes(Vec<(u32, Value)>),
    /// It matches; what it writes is not known.
    YesUnknown,
    Unknown,
}

pub fn fold(engine: &Engine) -> Folded {
    let program = &engine.program;
    let mut known: Known = engine.initial().iter().cloned().map(Some).collect();
    known[..CAPTURE_SLOTS].fill(None);
    let none = vec![false; program.rules.len()];
    let mut folded =
        Folded { steps: Default::default(), step_at: Default::default(), gone: none.clone(), decided: none };
    for phase in 0..5 {
        let (gone, decided) = (&mut folded.gone, &mut folded.decided);
        let folder = Folder { engine, known: &mut known, gone, decided, steps: Vec::new(), step_at: Vec::new() };
        (folded.steps[phase], folded.step_at[phase]) = folder.phase(phase);
    }
    folded
}

struct Folder<'a> {
    engine: &'a Engine,
    known: &'a mut Known,
    gone: &'a mut Vec<bool>,
    decided: &'a mut Vec<bool>,
    steps: Vec<Step>,
    step_at: Vec<u32>,
}

impl Folder<'_> {
    fn phase(mut self, phase: usize) -> (Vec<Step>, Vec<u32>) {
        let engine = self.engine;
        let list = &engine.program.phases[phase];
        // Behind a rule that may skip, nothing is certain to run until where it skips to.
        let mut unsure_until = 0;
        let mut at = 0;
        while at < list.len() {
            self.step_at.resize(at + 1, self.steps.len() as u32);
            let index = list[at];
            let rule = &engine.program.rules[index as usize];
            at += 1;
            let mut outcome = self.outcome(rule);
            let plain = rule.disruptive == Disruptive::Pass && !rule.log && rule.severity.is_none();
            let certain = at > unsure_until;
            let matched = !matches!(outcome, Outcome::No);
            if matched && !(plain && certain) {
                outcome = Outcome::Unknown;
            }
            match outcome {
                Outcome::No => self.gone[index as usize] = true,
                Outcome::Yes(writes) => {
                    self.gone[index as usize] = true;
                    self.decided[index as usize] = true;
                    self.write(writes);
                }
                Outcome::YesUnknown => {
                    self.decided[index as usize] = true;
                    self.forget(rule);
                    self.steps.push(Step::Effects(index));
                }
                Outcome::Unknown => {
                    self.forget(rule);
                    self.steps.push(Step::Rule(index));
                    unsure_until = unsure_until.max(rule.skip_to.map_or(0, |to| to as usize));
                    continue;
                }
            }
            if let Some(to) = rule.skip_to.filter(|_| matched) {
                // Certain to skip: what lies between never runs.
                for skipped in at..(to as usize).min(list.len()) {
                    self.gone[list[skipped] as usize] = true;
                }
                at = to as usize;
            }
        }
        self.step_at.resize(list.len() + 1, self.steps.len() as u32);
        (self.steps, self.step_at)
    }

    fn write(&mut self, writes: Vec<(u32, Value)>) {
        if writes.is_empty() {
            return;
        }
        for (slot, value) in &writes {
            self.known[*slot as usize] = Some(value.clone());
        }
        // A new step each time: a rule between two writes may see the first.
        match self.steps.last_mut() {
            Some(Step::Write(list)) => list.extend(writes),
            _ => self.steps.push(Step::Write(writes)),
        }
    }

    /// Everything that a rule may write is anything from now on.
    fn forget(&mut self, rule: &Rule) {
        for link in &rule.links {
            if link.capture {
                self.known[..CAPTURE_SLOTS].fill(None);
            }
            for effect in &link.effects {
                let Effect::Set { var: Var::Tx, name, .. } = effect else { continue };
                match name {
                    SetName::Slot(slot) => {
                        if !self.engine.is_pinned(*slot) {
                            self.known[*slot as usize] = None;
                        }
                    }
                    SetName::Dynamic(template) => {
                        let prefix = match template.0.first() {
                            Some(Part::Text(text)) => text.to_ascii_lowercase(),
                            _ => Vec::new(),
                        };
                        for slot in 0..self.known.len() {
                            if self.engine.program.names.name(slot as u32).starts_with(&prefix) {
                                self.known[slot] = None;
                            }
                        }
                    }
                }
            }
        }
    }

    fn outcome(&self, rule: &Rule) -> Outcome {
        let mut writes = Vec::new();
        let mut known = None;
        let mut values = true;
        for (i, link) in rule.links.iter().enumerate() {
            let state = known.as_ref().unwrap_or(self.known);
            match self.link_matches(link, state) {
                Some(true) => {}
                // An earlier link may have written before a later one failed.
                Some(false) if writes.is_empty() && values && rule.links[..i].iter().all(|l| l.effects.is_empty()) => {
                    return Outcome::No;
                }
                _ => return Outcome::Unknown,
            }
            if link.capture {
                return Outcome::Unknown;
            }
            for effect in &link.effects {
                let state = known.get_or_insert_with(|| self.known.clone());
                match self.effect(effect, state) {
                    Some(Some((slot, value))) => {
                        state[slot as usize] = Some(value.clone());
                        writes.push((slot, value));
                    }
                    Some(None) => {}
                    None if reads_only_slots(effect) => values = false,
                    None => return Outcome::Unknown,
                }
            }
            if !values && rule.links.len() > 1 {
                return Outcome::Unknown;
            }
        }
        if values { Outcome::Yes(writes) } else { Outcome::YesUnknown }
    }

    /// What an effect writes: `Some(None)` for nothing, `None` for not known.
    #[expect(clippy::option_option, reason = "known to be nothing is not the same as not known")]
    fn effect(&self, effect: &Effect, known: &Known) -> Option<Option<(u32, Value)>> {
        let Effect::Set { var: Var::Tx, name: SetName::Slot(slot), change } = effect else { return None };
        if self.engine.is_pinned(*slot) {
            return Some(None);
        }
        let before = || known[*slot as usize].as_ref().map(Value::number);
        let value = match change {
            SetChange::Unset => Value::Unset,
            SetChange::Set(t) => value(t, known)?,
            SetChange::Add(t) => Value::Number(before()?.saturating_add(value(t, known)?.number())),
            SetChange::Subtract(t) => Value::Number(before()?.saturating_sub(value(t, known)?.number())),
        };
        Some(Some((*slot, value)))
    }

    fn link_matches(&self, link: &Link, known: &Known) -> Option<bool> {
        if link.targets.is_empty() {
            return Some(true);
        }
        // Effects run once per matching value: more than one target may mean more than once.
        if link.targets.len() > 1 || !link.excluded.is_empty() || link.multi_match || matches!(link.op, Operator::Rx(_))
        {
            return None;
        }
        let argument = match &link.argument {
            Some(template) => value(template, known)?.text().unwrap_or_default().into_owned(),
            None => Vec::new(),
        };
        let mut matched = false;
        for target in &link.targets {
            let Look { var: Var::Tx, key: Key::Slot(slot), count } = target else { return None };
            let value = known[*slot as usize].as_ref()?;
            let text = match (count, value.text()) {
                (true, text) => {
                    if text.is_some() {
                        b"1".to_vec()
                    } else {
                        b"0".to_vec()
                    }
                }
                (false, Some(text)) => text.into_owned(),
                (false, None) => continue,
            };
            let mut buffers = crate::eval::Buffers::default();
            let text = crate::eval::transformed(&text, &link.transforms, &mut buffers);
            matched |= link.op.match_value(text, &argument, None) != link.negated;
        }
        Some(matched)
    }
}

/// Whether an effect sets one known name to something made of names.
fn reads_only_slots(effect: &Effect) -> bool {
    let Effect::Set { var: Var::Tx, name: SetName::Slot(_), change } = effect else { return false };
    match change {
        SetChange::Unset => true,
        SetChange::Set(t) | SetChange::Add(t) | SetChange::Subtract(t) => {
            t.0.iter().all(|part| matches!(part, Part::Text(_) | Part::Slot(_)))
        }
    }
}

/// The value of a template, if it depends on nothing but known names.
fn value(template: &Template, known: &Known) -> Option<Value> {
    if let [Part::Slot(slot)] = template.0.as_slice() {
        return Some(match known[*slot as usize].as_ref()? {
            Value::Unset => Value::Text(Vec::new()),
            set => set.clone(),
        });
    }
    let mut text = Vec::new();
    for part in &template.0 {
        match part {
            Part::Text(t) => text.extend_from_slice(t),
            Part::Slot(slot) => text.extend_from_slice(&known[*slot as usize].as_ref()?.text().unwrap_or_default()),
            _ => return None,
        }
    }
    Some(Value::of(&text))
}
