//! The plain interpreter: every rule of a phase, in file order, on every value. It is the meaning of the rules; the fast
//! plan is held to it.

use crate::eval::Eval;
use crate::link::Rule;
use crate::verdict::Match;

/// Runs one phase. `found` gets each match and says whether to go on.
pub fn run(eval: &mut Eval<'_>, phase: usize, found: impl FnMut(&mut Eval<'_>, &Rule, Match) -> Flow) {
    run_from(eval, phase, 0, found);
}

/// The same from a position in the phase on.
pub fn run_from(
    eval: &mut Eval<'_>,
    phase: usize,
    from: usize,
    mut found: impl FnMut(&mut Eval<'_>, &Rule, Match) -> Flow,
) {
    let program = eval.engine.program.clone();
    let list = &program.phases[phase];
    let mut at = from;
    while let Some(&index) = list.get(at) {
        at += 1;
        if !eval.state.removed_rules.is_empty() && eval.state.is_removed(index) {
            continue;
        }
        let rule = &program.rules[index as usize];
        let Some(hit) = eval.rule(index, rule) else { continue };
        if found(eval, rule, hit) == Flow::Stop {
            return;
        }
        if let Some(to) = rule.skip_to {
            at = to as usize;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    On,
    Stop,
}
