//! What a value must hold for an expression to match it at all: necessary conditions, never sufficient ones.
//!
//! An expression is looked at under an alphabet: if a value has only bytes of a set A, the expression matches it exactly
//! when the expression with every class cut down to A does. Under a small alphabet most expressions match nothing, and the
//! ones with evasion noise between their letters become plain words. All literals are in lower case; texts are scanned
//! without case.

use regex_syntax::hir::{Class, Hir, HirKind};

use super::classes::{self, Mask};
use crate::transform::ByteSet;

/// Alternatives of literals of which one must occur.
pub type AnyOf = Vec<Vec<u8>>;

/// All of these must hold.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    pub literals: Vec<AnyOf>,
    /// One byte of each mask must occur.
    pub masks: Vec<Mask>,
}

/// Most alternatives that stay exact.
const EXACT_LIMIT: usize = 128;
/// Longest literal: longer ones make automata larger and filter hardly better.
const LITERAL_LIMIT: usize = 6;
/// Most conditions per expression; they are numbered in a byte.
pub const CONDITIONS: usize = 2;

/// Reads a translated expression. `None`: it cannot be analysed, so nothing is known of it.
pub fn parse(source: &str) -> Option<Hir> {
    regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .dot_matches_new_line(true)
        .nest_limit(500)
        .build()
        .parse(source)
        .ok()
}

/// The needs of an expression under an alphabet; `None` if it matches nothing there.
pub fn needs(hir: &Hir, alphabet: &ByteSet) -> Option<Needs> {
    let info = look(hir, alphabet)?;
    Some(select(info.into_conditions()))
}

/// The needs of a list of words.
pub fn words<'a>(words: impl Iterator<Item = &'a [u8]>, alphabet: &ByteSet) -> Option<Needs> {
    let fits = |w: &&[u8]| w.iter().all(|b| alphabet.contains(*b));
    let list: AnyOf = words.filter(fits).map(|w| w.to_ascii_lowercase()).collect();
    if list.is_empty() {
        return None;
    }
    Some(select(vec![Condition::Literals(list)]))
}

#[derive(Debug, Clone)]
enum Condition {
    Literals(AnyOf),
    Mask(Mask),
}

/// What is known of a piece of an expression.
struct Info {
    /// All strings that it matches, if they are few.
    exact: Option<AnyOf>,
    conditions: Vec<Condition>,
}

impl Info {
    fn exact(list: AnyOf) -> Info {
        Info { exact: Some(list), conditions: Vec::new() }
    }

    fn nothing() -> Info {
        Info { exact: None, conditions: Vec::new() }
    }

    fn into_conditions(self) -> Vec<Condition> {
        let mut conditions = self.conditions;
        if let Some(list) = self.exact {
            conditions.extend(condition(list));
        }
        conditions
    }
}

/// A list that can be empty text needs nothing.
fn condition(list: AnyOf) -> Option<Condition> {
    list.iter().all(|l| !l.is_empty()).then_some(Condition::Literals(list))
}

fn look(hir: &Hir, alphabet: &ByteSet) -> Option<Info> {
    Some(match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Info::exact(vec![Vec::new()]),
        HirKind::Literal(literal) => {
            if !literal.0.iter().all(|b| alphabet.contains(*b)) {
                return None;
            }
            Info::exact(vec![literal.0.to_ascii_lowercase()])
        }
        HirKind::Class(class) => look_class(class, alphabet)?,
        HirKind::Capture(capture) => look(&capture.sub, alphabet)?,
        HirKind::Repetition(r) => match (look(&r.sub, alphabet), r.min, r.max) {
            (None, 0, _) => Info::exact(vec![Vec::new()]),
            (None, ..) => return None,
            (Some(Info { exact: Some(mut list), .. }), 0, Some(1)) => {
                list.push(Vec::new());
                Info::exact(unique(list))
            }
            (Some(_), 0, _) => Info::nothing(),
            (Some(info), 1, Some(1)) => info,
            (Some(Info { exact: Some(list), .. }), min, max) => repeated(list, min, max),
            (Some(info), ..) => Info { exact: None, conditions: info.conditions },
        },
        HirKind::Concat(parts) => look_concat(parts, alphabet)?,
        HirKind::Alternation(branches) => look_alternation(branches, alphabet)?,
    })
}

fn look_class(class: &Class, alphabet: &ByteSet) -> Option<Info> {
    let mut members = ByteSet::EMPTY;
    match class {
        Class::Bytes(class) => {
            class.iter().flat_map(|r| r.start()..=r.end()).for_each(|b| members.insert(b));
        }
        Class::Unicode(class) => {
            for range in class.iter() {
                let (start, end) = (u32::from(range.start()), u32::from(range.end()));
                (start..=end.min(127)).for_each(|c| members.insert(c as u8));
                if end > 127 {
                    members = members.union(ByteSet::HIGH);
                }
            }
        }
    }
    let folded: Vec<u8> = (0..=255u8).filter(|b| members.contains(*b) && alphabet.contains(*b)).collect();
    if folded.is_empty() {
        return None;
    }
    let list = unique(folded.iter().map(|b| vec![b.to_ascii_lowercase()]).collect());
    if list.len() <= 8 && matches!(class, Class::Bytes(_)) {
        return Some(Info::exact(list));
    }
    let mask = folded.iter().fold(0, |m, b| m | classes::of(*b));
    let conditions = if folded.iter().any(|b| classes::of(*b) == 0) { vec![] } else { vec![Condition::Mask(mask)] };
    Some(Info { exact: None, conditions })
}

fn repeated(list: AnyOf, min: u32, max: Option<u32>) -> Info {
    let mut power = vec![Vec::new()];
    for _ in 0..min.min(4) {
        match product(&power, &list) {
            Some(next) => power = next,
            None => return Info { exact: None, conditions: condition(list).into_iter().collect() },
        }
    }
    match max == Some(min) && min <= 4 {
        true => Info::exact(power),
        false => Info { exact: None, conditions: condition(power).into_iter().collect() },
    }
}

fn product(a: &AnyOf, b: &AnyOf) -> Option<AnyOf> {
    if a.len() * b.len() > EXACT_LIMIT {
        return None;
    }
    let joined = a.iter().flat_map(|x| b.iter().map(move |y| [x.as_slice(), y].concat()));
    let list = unique(joined.collect());
    // A set with one long member is precise enough; more of it only grows.
    list.iter().all(|l| l.len() <= 4 * LITERAL_LIMIT).then_some(list)
}

fn unique(mut list: AnyOf) -> AnyOf {
    list.sort_unstable();
    list.dedup();
    list
}

fn look_concat(parts: &[Hir], alphabet: &ByteSet) -> Option<Info> {
    let mut conditions = Vec::new();
    let mut run: AnyOf = vec![Vec::new()];
    let mut whole = true;
    for part in parts {
        let info = look(part, alphabet)?;
        conditions.extend(info.conditions);
        match info.exact {
            Some(list) => match product(&run, &list) {
                Some(longer) => run = longer,
                None => {
                    conditions.extend(condition(std::mem::replace(&mut run, list)));
                    whole = false;
                }
            },
            None => {
                conditions.extend(condition(std::mem::replace(&mut run, vec![Vec::new()])));
                whole = false;
            }
        }
    }
    if whole {
        return Some(Info { exact: Some(run), conditions });
    }
    conditions.extend(condition(run));
    Some(Info { exact: None, conditions })
}

fn look_alternation(branches: &[Hir], alphabet: &ByteSet) -> Option<Info> {
    let infos: Vec<Info> = branches.iter().filter_map(|b| look(b, alphabet)).collect();
    if infos.is_empty() {
        return None;
    }
    let total: usize = infos.iter().map(|i| i.exact.as_ref().map_or(usize::MAX / 1024, Vec::len)).sum();
    if total <= EXACT_LIMIT {
        let list = infos.into_iter().filter_map(|i| i.exact).flatten().collect();
        return Some(Info::exact(unique(list)));
    }
    let conditions: Vec<Vec<Condition>> = infos.into_iter().map(Info::into_conditions).collect();
    let mut out = Vec::new();
    let best: Option<Vec<AnyOf>> = conditions.iter().map(|c| best_literals(c)).collect();
    if let Some(lists) = best {
        out.push(Condition::Literals(unique(lists.into_iter().flatten().collect())));
    }
    let masks: Option<Vec<Mask>> = conditions.iter().map(|c| best_mask(c)).collect();
    if let Some(masks) = masks {
        out.push(Condition::Mask(masks.into_iter().fold(0, |a, b| a | b)));
    }
    Some(Info { exact: None, conditions: out })
}

/// Long and few is good; a list with a one-byte member filters nothing.
fn score(list: &AnyOf) -> i32 {
    let shortest = list.iter().map(Vec::len).min().unwrap_or(0).min(6) as i32;
    shortest * 8 - (list.len() as f32).log2() as i32
}

fn best_literals(conditions: &[Condition]) -> Option<AnyOf> {
    let lists = conditions.iter().filter_map(|c| match c {
        Condition::Literals(list) => Some(list),
        Condition::Mask(_) => None,
    });
    lists.max_by_key(|l| score(l)).cloned()
}

/// The mask with the fewest classes.
fn best_mask(conditions: &[Condition]) -> Option<Mask> {
    conditions.iter().filter_map(mask_of).min_by_key(|m| m.count_ones())
}

/// A list of literals as a mask: one special byte of each, if each has one.
fn mask_of(condition: &Condition) -> Option<Mask> {
    match condition {
        Condition::Mask(mask) => Some(*mask),
        Condition::Literals(list) => {
            let special = |l: &Vec<u8>| l.iter().map(|b| classes::of(*b)).filter(|m| *m != 0).max();
            list.iter().map(special).try_fold(0, |all, m| Some(all | m?))
        }
    }
}

/// The conditions worth testing: masks (nearly free), and the best lists.
fn select(conditions: Vec<Condition>) -> Needs {
    let mut needs = Needs::default();
    for condition in &conditions {
        needs.masks.extend(mask_of(condition));
    }
    needs.masks.sort_unstable_by_key(|m| m.count_ones());
    needs.masks.dedup();
    let mut lists: Vec<AnyOf> = conditions
        .into_iter()
        .filter_map(|c| match c {
            Condition::Literals(list) => Some(list),
            Condition::Mask(_) => None,
        })
        .filter(|list| list.iter().all(|l| l.len() > 1))
        .collect();
    lists.sort_by_key(|l| -score(l));
    for mut list in lists {
        list.iter_mut().for_each(|l| l.truncate(LITERAL_LIMIT));
        let list = unique(list);
        if !needs.literals.contains(&list) {
            needs.literals.push(list);
        }
        if needs.literals.len() == CONDITIONS {
            break;
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, alphabet: &ByteSet) -> Option<Needs> {
        needs(&parse(source).unwrap(), alphabet)
    }

    fn text(list: &AnyOf) -> Vec<String> {
        list.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect()
    }

    #[test]
    fn literals_are_required() {
        let n = of(r"(?i)foo\d+ba[rz]", &ByteSet::ALL).unwrap();
        assert_eq!(n.literals.iter().map(text).collect::<Vec<_>>(), [vec!["foo"], vec!["bar", "baz"]]);
        let n = of(r"x*", &ByteSet::ALL).unwrap();
        assert!(n.literals.is_empty() && n.masks.is_empty());
    }

    #[test]
    fn an_alphabet_turns_noise_into_words() {
        let noisy = r#"(?i)b["'\\]*u["'\\]*s["'\\]*y"#;
        let plain = ByteSet::of(b"abcdefghijklmnopqrstuvwxyz");
        let n = of(noisy, &plain).unwrap();
        assert_eq!(n.literals.iter().map(text).collect::<Vec<_>>(), [vec!["busy"]]);
        assert!(of(r"<script", &plain).is_none());
        assert!(of(r"a|<", &plain).is_some());
    }

    #[test]
    fn masks_of_special_bytes() {
        let n = of(r"[<>][a-z]+", &ByteSet::ALL).unwrap();
        assert_eq!(n.masks, [classes::of(b'<') | classes::of(b'>')]);
    }
}
