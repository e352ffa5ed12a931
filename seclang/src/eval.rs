//! One rule on one message: values gathered, transformed, tested; effects on a match.
//!
//! Both executors end here, so they can differ only in which rules and values they leave out, and that is what the
//! differential tests watch. Effects run once per matching value, as in ModSecurity: two bad arguments score twice.

use crate::engine::Engine;
use crate::link::{Effect, Key, Link, Look, Part, Rule, SetChange, SetName, Template};
use crate::operators::Captures;
use crate::state::{Matched, State, Value};
use crate::store::{Item, Span, Store};
use crate::transform::Transform;
use crate::vars::Var;
use crate::verdict::{self, Match};

/// Buffers that live from rule to rule.
#[derive(Debug, Default)]
pub struct Scratch {
    items: Vec<Item>,
    own: Vec<u8>,
    argument: Vec<u8>,
    buffers: Buffers,
    captures: Captures,
}

/// Two buffers for a chain of transformations to go back and forth between.
#[derive(Debug, Default)]
pub struct Buffers {
    a: Vec<u8>,
    b: Vec<u8>,
}

pub struct Eval<'a> {
    pub engine: &'a Engine,
    pub store: &'a Store,
    pub state: &'a mut State,
    pub scratch: &'a mut Scratch,
}

impl Eval<'_> {
    /// Runs a whole rule. The match, if all links of the chain match.
    pub fn rule(&mut self, index: u32, rule: &Rule) -> Option<Match> {
        self.rule_among(index, rule, |_| {})
    }

    /// The same, with the values of the first link cut down by `keep`.
    pub fn rule_among(&mut self, index: u32, rule: &Rule, keep: impl FnOnce(&mut Vec<Item>)) -> Option<Match> {
        self.state.matched.clear();
        let (first, rest) = rule.links.split_first()?;
        if !self.link(index, rule, first, keep) || !rest.iter().all(|link| self.link(index, rule, link, |_| {})) {
            return None;
        }
        Some(self.report(index, rule))
    }

    /// Only what a rule does, for one that is known to match.
    pub fn effects_of(&mut self, rule: &Rule) {
        for link in &rule.links {
            self.effects(rule, link);
        }
    }

    fn link(&mut self, index: u32, rule: &Rule, link: &Link, keep: impl FnOnce(&mut Vec<Item>)) -> bool {
        if link.targets.is_empty() {
            self.effects(rule, link);
            return true;
        }
        let mut argument = std::mem::take(&mut self.scratch.argument);
        argument.clear();
        if let Some(template) = &link.argument {
            self.expand(rule, template, &mut argument);
        }
        let mut items = std::mem::take(&mut self.scratch.items);
        items.clear();
        self.scratch.own.clear();
        link.targets.iter().for_each(|look| self.gather(look, &mut items));
        keep(&mut items);
        self.state.matched.clear();
        let own = std::mem::take(&mut self.scratch.own);
        let mut matched = false;
        for item in &items {
            let bytes = |span: Span| match item.own {
                true => &own[span.start as usize..span.end as usize],
                false => self.store.get(span),
            };
            let (key, value) = (bytes(item.key), bytes(item.value));
            if self.is_excluded(index, link, item.var, key) {
                continue;
            }
            matched |= self.test(rule, link, item.var, key, value, &argument);
        }
        self.scratch.own = own;
        self.scratch.items = items;
        self.scratch.argument = argument;
        matched
    }

    fn is_excluded(&self, index: u32, link: &Link, var: Var, key: &[u8]) -> bool {
        link.excluded.iter().any(|look| look.covers(var, key))
            || (!self.state.removed_targets.is_empty() && self.state.is_target_removed(index, var, key))
    }

    /// Transforms one value and asks the operator; on a match, does what the link does.
    fn test(&mut self, rule: &Rule, link: &Link, var: Var, key: &[u8], value: &[u8], argument: &[u8]) -> bool {
        let mut buffers = std::mem::take(&mut self.scratch.buffers);
        let mut matched = false;
        if link.multi_match {
            matched |= self.ask(rule, link, var, key, value, argument);
            let mut current = value.to_vec();
            for transform in &link.transforms {
                if transform.apply(&current, &mut buffers.a) {
                    std::mem::swap(&mut current, &mut buffers.a);
                    matched |= self.ask(rule, link, var, key, &current, argument);
                }
            }
        } else {
            let text = transformed(value, &link.transforms, &mut buffers);
            matched = self.ask(rule, link, var, key, text, argument);
        }
        self.scratch.buffers = buffers;
        matched
    }

    fn ask(&mut self, rule: &Rule, link: &Link, var: Var, key: &[u8], text: &[u8], argument: &[u8]) -> bool {
        let mut captures = std::mem::take(&mut self.scratch.captures);
        captures.clear();
        let wanted = (link.capture && !link.negated).then_some(&mut captures);
        let matched = link.op.match_value(text, argument, wanted) != link.negated;
        if matched {
            if link.capture {
                self.state.capture(&mut captures);
            }
            self.state.matched.push(Matched { var, key: key.to_vec(), value: text.to_vec() });
            self.effects(rule, link);
        }
        self.scratch.captures = captures;
        matched
    }

    /// The values of a target, from the message or from what rules wrote.
    fn gather(&mut self, look: &Look, items: &mut Vec<Item>) {
        if look.count {
            let n = self.count(look);
            let key = match &look.key {
                Key::Some(crate::vars::Selector::Key(k)) => k.to_vec(),
                Key::Slot(slot) => self.engine.program.names.name(*slot).to_vec(),
                _ => Vec::new(),
            };
            self.push_own(look.var, &key, n.to_string().as_bytes(), items);
            return;
        }
        match look.var {
            v if v.is_writable() => {
                let own = &mut self.scratch.own;
                self.state.collect(&self.engine.program.names, look, |name, value| {
                    let text = value.text().unwrap_or_default();
                    items.push(push_item(own, look.var, name, &text));
                });
            }
            Var::MatchedVar | Var::MatchedVarName => {
                let Some(last) = self.state.matched.last() else { return };
                let text = if look.var == Var::MatchedVar { last.value.clone() } else { last.name() };
                let (var, key) = (last.var, last.key.clone());
                self.push_own(var, &key, &text, items);
            }
            Var::MatchedVars | Var::MatchedVarsNames => {
                let own = &mut self.scratch.own;
                for m in &self.state.matched {
                    let text = if look.var == Var::MatchedVars { m.value.clone() } else { m.name() };
                    items.push(push_item(own, m.var, &m.key, &text));
                }
            }
            Var::HighestSeverity => {
                let text = self.state.highest_severity.to_string();
                self.push_own(look.var, b"", text.as_bytes(), items);
            }
            _ => self.store.collect(look, items),
        }
    }

    fn push_own(&mut self, var: Var, key: &[u8], value: &[u8], items: &mut Vec<Item>) {
        items.push(push_item(&mut self.scratch.own, var, key, value));
    }

    fn count(&self, look: &Look) -> usize {
        match look.var {
            v if v.is_writable() => {
                let mut n = 0;
                self.state.collect(&self.engine.program.names, look, |_, _| n += 1);
                n
            }
            Var::MatchedVars | Var::MatchedVarsNames => self.state.matched.len(),
            _ => self.store.count(look),
        }
    }

    fn effects(&mut self, rule: &Rule, link: &Link) {
        for effect in &link.effects {
            self.effect(rule, effect);
        }
    }

    pub fn effect(&mut self, rule: &Rule, effect: &Effect) {
        match effect {
            Effect::Set { var, name, change } => self.set(rule, *var, name, change),
            Effect::Engine(mode) => self.state.mode = *mode,
            Effect::RemoveRules(list) => self.state.removed_rules.push(list.clone()),
            Effect::RemoveTarget(list, look) => self.state.removed_targets.push((list.clone(), look.clone())),
            Effect::BodyProcessor(name) => self.state.body.processor = Some(name.clone()),
            Effect::ForceBodyVariable(on) => self.state.body.force_variable = *on,
            Effect::RequestBodyAccess(on) => self.state.body.request = Some(*on),
            Effect::ResponseBodyAccess(on) => self.state.body.response = Some(*on),
        }
    }

    fn set(&mut self, rule: &Rule, var: Var, name: &SetName, change: &SetChange) {
        if let SetName::Slot(slot) = name
            && self.engine.is_pinned(*slot)
        {
            return;
        }
        let new = match change {
            SetChange::Set(t) => self.value(rule, t),
            SetChange::Add(t) | SetChange::Subtract(t) => Value::Number(self.value(rule, t).number()),
            SetChange::Unset => Value::Unset,
        };
        let place = match name {
            SetName::Slot(slot) => Some(&mut self.state.slots[*slot as usize]),
            SetName::Dynamic(template) => {
                let mut text = Vec::new();
                self.expand(rule, template, &mut text);
                self.state.entry(&self.engine.program.names, var, &text)
            }
        };
        let Some(place) = place else { return };
        *place = match (change, new) {
            (SetChange::Add(_), Value::Number(n)) => Value::Number(place.number().saturating_add(n)),
            (SetChange::Subtract(_), Value::Number(n)) => Value::Number(place.number().saturating_sub(n)),
            (_, new) => new,
        };
    }

    fn value(&mut self, rule: &Rule, template: &Template) -> Value {
        match template.0.as_slice() {
            [Part::Slot(slot)] => match &self.state.slots[*slot as usize] {
                Value::Unset => Value::Text(Vec::new()),
                set => set.clone(),
            },
            [Part::Text(text)] => Value::of(text),
            _ => {
                let mut text = Vec::new();
                self.expand(rule, template, &mut text);
                Value::of(&text)
            }
        }
    }

    /// Appends the text of a template.
    pub fn expand(&mut self, rule: &Rule, template: &Template, out: &mut Vec<u8>) {
        for part in &template.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Slot(slot) => {
                    if let Some(text) = self.state.slots[*slot as usize].text() {
                        out.extend_from_slice(&text);
                    }
                }
                Part::RuleId => out.extend_from_slice(rule.id.to_string().as_bytes()),
                Part::RuleSeverity => {
                    out.extend(rule.severity.map(|s| b'0' + s));
                }
                Part::RuleMsg | Part::RuleLogData => {
                    let inner = if *part == Part::RuleMsg { &rule.msg } else { &rule.logdata };
                    // One level: a message that names itself would never end.
                    for part in inner.iter().flat_map(|t| &t.0) {
                        if let Part::Text(text) = part {
                            out.extend_from_slice(text);
                        }
                    }
                }
                Part::Value(look) => {
                    let mut items = Vec::new();
                    let start = self.scratch.own.len();
                    self.gather(look, &mut items);
                    if let Some(item) = items.first() {
                        let (a, b) = (item.value.start as usize, item.value.end as usize);
                        out.extend_from_slice(if item.own {
                            &self.scratch.own[a..b]
                        } else {
                            self.store.get(item.value)
                        });
                    }
                    self.scratch.own.truncate(start);
                }
            }
        }
    }

    fn report(&mut self, index: u32, rule: &Rule) -> Match {
        let text = |this: &mut Self, template: &Option<Template>| {
            let mut out = Vec::new();
            if let Some(template) = template {
                this.expand(rule, template, &mut out);
            }
            verdict::printable(&out, verdict::TEXT_LIMIT)
        };
        let (message, data) = match rule.log {
            true => (text(self, &rule.msg), text(self, &rule.logdata)),
            false => (String::new(), String::new()),
        };
        if let Some(severity) = rule.severity {
            self.state.highest_severity = self.state.highest_severity.min(severity);
        }
        let shown = if rule.log { verdict::PARTS_LIMIT } else { 0 };
        let part = |m: &Matched| verdict::Part {
            name: verdict::printable(&m.name(), verdict::PART_LIMIT),
            value: verdict::printable(&m.value, verdict::PART_LIMIT),
        };
        Match {
            rule: rule.id,
            phase: rule.phase as u8 + 1,
            paranoia: rule.paranoia,
            severity: rule.severity,
            message,
            data,
            parts: self.state.matched.iter().take(shown).map(part).collect(),
            disruptive: is_disruptive(rule),
            index,
        }
    }
}

pub fn is_disruptive(rule: &Rule) -> bool {
    use crate::parse::Disruptive;
    matches!(rule.disruptive, Disruptive::Deny | Disruptive::Drop | Disruptive::Redirect)
}

fn push_item(own: &mut Vec<u8>, var: Var, key: &[u8], value: &[u8]) -> Item {
    let mut push = |text: &[u8]| {
        let start = own.len() as u32;
        own.extend_from_slice(text);
        Span { start, end: own.len() as u32 }
    };
    Item { var, key: push(key), value: push(value), own: true }
}

/// A value after a chain of transformations; borrowed as long as none of them acts.
pub fn transformed<'b>(value: &'b [u8], transforms: &[Transform], buffers: &'b mut Buffers) -> &'b [u8] {
    let Buffers { a, b } = buffers;
    let mut owned = false;
    for transform in transforms {
        let changed = if owned { transform.apply(a, b) } else { transform.apply(value, b) };
        if changed {
            std::mem::swap(a, b);
            owned = true;
        }
    }
    if owned { a } else { value }
}
