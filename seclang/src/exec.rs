//! The fast executor: the same rules in the same order as `slow`, without those that cannot match.

use crate::eval::Eval;
use crate::link::{Effect, Rule};
use crate::parse::EngineMode;
use crate::plan::{Candidates, Plan, Step};
use crate::slow::{self, Flow};
use crate::verdict::Match;

/// Runs one phase. Returns whether the rest of this message must be run plainly.
pub fn run(
    eval: &mut Eval<'_>,
    plan: &Plan,
    candidates: &mut Candidates,
    phase: usize,
    mut found: impl FnMut(&mut Eval<'_>, &Rule, Match) -> Flow,
) -> bool {
    let program = eval.engine.program.clone();
    plan.scan(eval.store, candidates);
    let steps = &plan.steps[phase];
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        let index = match step {
            Step::Write(list) => {
                for (slot, value) in list {
                    eval.state.slots[*slot as usize].clone_from(value);
                }
                continue;
            }
            Step::Effects(index) => {
                if !eval.state.is_removed(*index) {
                    eval.effects_of(&program.rules[*index as usize]);
                }
                continue;
            }
            Step::Rule(index) => *index,
        };
        let rule = &program.rules[index as usize];
        let probe = plan.probe(index);
        if probe.is_some_and(|p| !candidates.any(p)) || eval.state.is_removed(index) {
            continue;
        }
        let hit = match probe {
            Some(probe) => eval.rule_among(index, rule, |items| candidates.keep(probe, items)),
            None => eval.rule(index, rule),
        };
        // A link that matched may have switched rules off even if the chain did not match.
        let undone = unfolds(eval, plan, rule);
        let Some(hit) = hit else {
            if undone {
                slow::run_from(eval, phase, rule.position as usize + 1, found);
                return true;
            }
            continue;
        };
        if found(eval, rule, hit) == Flow::Stop {
            return undone;
        }
        if undone {
            let next = rule.skip_to.map_or(rule.position as usize + 1, |to| to as usize);
            slow::run_from(eval, phase, next, found);
            return true;
        }
        if let Some(to) = rule.skip_to {
            at = plan.step_at[phase].get(to as usize).map_or(steps.len(), |s| *s as usize);
        }
    }
    false
}

/// Whether a rule has switched off something that was decided at load.
fn unfolds(eval: &Eval<'_>, plan: &Plan, rule: &Rule) -> bool {
    let removes = |e: &Effect| matches!(e, Effect::RemoveRules(_) | Effect::RemoveTarget(..));
    if eval.state.mode == EngineMode::Off || !rule.links.iter().flat_map(|l| &l.effects).any(removes) {
        return false;
    }
    let decided = |list: &[u32]| list.iter().any(|i| plan.decided[*i as usize]);
    eval.state.removed_rules.iter().any(|list| decided(list))
        || eval.state.removed_targets.iter().any(|(list, _)| decided(list))
}
