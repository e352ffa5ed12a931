//! What rules write while they run: `TX` and its kin, what matched last, which rules and targets are switched off.

use std::borrow::Cow;
use std::sync::Arc;

use crate::link::{CAPTURE_SLOTS, Key, Look, Names};
use crate::operators::{Captures, number};
use crate::parse::EngineMode;
use crate::vars::Var;

/// A value of `TX`. Scores are numbers, and numbers need no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    #[default]
    Unset,
    Number(i64),
    Text(Vec<u8>),
}

impl Value {
    /// Text that is a number in its plain form is kept as one.
    pub fn of(text: &[u8]) -> Value {
        let plain = match text {
            [b'0'] => true,
            [b'-', b'1'..=b'9', rest @ ..] | [b'1'..=b'9', rest @ ..] => {
                rest.len() < 17 && rest.iter().all(u8::is_ascii_digit)
            }
            _ => false,
        };
        if plain { Value::Number(number(text)) } else { Value::Text(text.to_vec()) }
    }

    pub fn text(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Value::Unset => None,
            Value::Number(n) => Some(Cow::Owned(n.to_string().into_bytes())),
            Value::Text(t) => Some(Cow::Borrowed(t)),
        }
    }

    pub fn number(&self) -> i64 {
        match self {
            Value::Unset => 0,
            Value::Number(n) => *n,
            Value::Text(t) => number(t),
        }
    }

    pub fn is_set(&self) -> bool {
        *self != Value::Unset
    }
}

/// A value that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    pub var: Var,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Matched {
    /// `ARGS:name`, or `REQUEST_URI`.
    pub fn name(&self) -> Vec<u8> {
        let mut name = self.var.name().as_bytes().to_vec();
        if !self.key.is_empty() {
            name.push(b':');
            name.extend_from_slice(&self.key);
        }
        name
    }
}

#[derive(Debug)]
pub struct State {
    pub slots: Vec<Value>,
    /// Names of `TX` that no rule spells out, and the other collections that rules write.
    pub extra: Vec<(Var, Vec<u8>, Value)>,
    /// The matches of the link that ran last.
    pub matched: Vec<Matched>,
    pub mode: EngineMode,
    pub removed_rules: Vec<Arc<[u32]>>,
    pub removed_targets: Vec<(Arc<[u32]>, Look)>,
    pub highest_severity: u8,
    /// What `ctl` said about bodies.
    pub body: BodyControl,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct BodyControl {
    pub processor: Option<String>,
    pub force_variable: bool,
    pub request: Option<bool>,
    pub response: Option<bool>,
}

/// Rules that write more dynamic names than this per request write no more.
const EXTRA_LIMIT: usize = 4096;

impl State {
    pub fn new(initial: &[Value], mode: EngineMode) -> State {
        State {
            slots: initial.to_vec(),
            extra: Vec::new(),
            matched: Vec::new(),
            mode,
            removed_rules: Vec::new(),
            removed_targets: Vec::new(),
            highest_severity: 255,
            body: BodyControl::default(),
        }
    }

    pub fn reset(&mut self, initial: &[Value], mode: EngineMode) {
        self.slots.clone_from_slice(initial);
        self.extra.clear();
        self.matched.clear();
        self.mode = mode;
        self.removed_rules.clear();
        self.removed_targets.clear();
        self.highest_severity = 255;
        self.body = BodyControl::default();
    }

    /// Captures replace all ten.
    pub fn capture(&mut self, captures: &mut Captures) {
        self.slots[..CAPTURE_SLOTS].fill(Value::Unset);
        for (i, text) in captures.drain(..) {
            self.slots[usize::from(i)] = Value::Text(text);
        }
    }

    pub fn is_removed(&self, rule: u32) -> bool {
        self.removed_rules.iter().any(|list| list.binary_search(&rule).is_ok())
    }

    pub fn is_target_removed(&self, rule: u32, var: Var, key: &[u8]) -> bool {
        self.removed_targets.iter().any(|(list, look)| list.binary_search(&rule).is_ok() && look.covers(var, key))
    }

    /// The place of a value, made if there is none.
    pub fn entry(&mut self, names: &Names, var: Var, name: &[u8]) -> Option<&mut Value> {
        if var == Var::Tx
            && let Some(slot) = names.find(name)
        {
            return Some(&mut self.slots[slot as usize]);
        }
        let found = self.extra.iter().position(|(v, n, _)| *v == var && n.eq_ignore_ascii_case(name));
        let at = match found {
            Some(at) => at,
            None if self.extra.len() >= EXTRA_LIMIT => return None,
            None => {
                self.extra.push((var, name.to_vec(), Value::Unset));
                self.extra.len() - 1
            }
        };
        Some(&mut self.extra[at].2)
    }

    /// The values of a collection that rules write: key and text.
    pub fn collect(&self, names: &Names, look: &Look, mut each: impl FnMut(&[u8], &Value)) {
        if look.var == Var::Tx {
            match &look.key {
                Key::Slot(slot) => {
                    let value = &self.slots[*slot as usize];
                    if value.is_set() {
                        each(names.name(*slot), value);
                    }
                    return;
                }
                key => {
                    for (slot, value) in self.slots.iter().enumerate().filter(|(_, v)| v.is_set()) {
                        let name = names.name(slot as u32);
                        if holds(key, name) {
                            each(name, value);
                        }
                    }
                }
            }
        }
        for (_, name, value) in
            self.extra.iter().filter(|(v, n, x)| *v == look.var && x.is_set() && holds(&look.key, n))
        {
            each(name, value);
        }
    }
}

fn holds(key: &Key, name: &[u8]) -> bool {
    match key {
        Key::All => true,
        Key::Some(selector) => selector.holds(name),
        Key::Slot(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text() {
        for text in ["0", "5", "-7", "05", "5a", "", "-", "-0", "123456789012345678901234567890"] {
            assert_eq!(Value::of(text.as_bytes()).text().unwrap().as_ref(), text.as_bytes());
        }
    }
}
