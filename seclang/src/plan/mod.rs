//! The fast path: which rules can possibly match these bytes.
//!
//! Each value of a message is looked at once. Its classes of bytes tell which transformations can act on it at all (mostly
//! none) and which alphabet it is written in; under that alphabet most rules match nothing, and the rest need certain
//! words. One pass of an automaton finds the words, and what is left are the candidates: only they run, in file order, on
//! only the values that made them candidates. Everything here may err towards too many candidates, never towards too few.

mod classes;
mod fold;
mod require;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex_syntax::hir::Hir;
use smallvec::SmallVec;

pub use fold::Step;

use crate::engine::Engine;
use crate::link::{Key, Link, Look, Program};
use crate::operators::{Operator, Pattern, TextOp};
use crate::store::{Fields, Item, Span, Store};
use crate::transform::{ByteSet, Transform};
use crate::vars::{self, Selector, Var};
use classes::Mask;
use require::Needs;

/// What a value of a benign request is usually made of besides letters and digits, from narrow to wide. Found by reading
/// what browsers, API clients and forms send: ids, paths, headers, prose.
const ALPHABETS: &[&[u8]] = &[
    b"",
    b"_-.",
    b" ",
    b"_-+/=.@",
    b" -.,'_!?:",
    b"_-./:?=&%+, ",
    b"_-/:;,.()+=* ",
    b" -.,'!?:;\"()&\n\r\x80",
    b"{}[]\":,. -_",
];

/// The largest automaton that is unfolded into a table, in bytes.
const TABLE_LIMIT: usize = 5 << 20;

#[derive(Debug)]
pub struct Plan {
    pub steps: [Vec<Step>; 5],
    pub step_at: [Vec<u32>; 5],
    /// Rules whose answer was known at load.
    pub decided: Vec<bool>,
    /// Per rule: the number of its probe, if it has one.
    probe_of: Vec<Option<u32>>,
    probes: usize,
    chains: Vec<ChainProbes>,
    /// Per variable: the probes that look at it.
    by_var: Vec<Option<Bits>>,
    /// The collections and single variables that are looked at, so that each is walked once.
    fields: Vec<Watched>,
    singles: Vec<Var>,
    alphabets: Vec<Alphabet>,
}

type Bits = Box<[u64]>;

/// A collection and the probes for it.
#[derive(Debug)]
struct Watched {
    source: Fields,
    /// For any value.
    values: Bits,
    /// For any key.
    keys: Bits,
    /// For values under one key, in lower case.
    keyed: Vec<(Vec<u8>, Bits)>,
}

type Chain = SmallVec<[Transform; 8]>;

/// A chain of transformations and the probes that want it.
#[derive(Debug)]
struct ChainProbes {
    transforms: Chain,
    probes: Bits,
}

/// The probes as they are under an alphabet.
struct Alphabet {
    mask: Mask,
    finder: Option<AhoCorasick>,
    /// Per literal: the probes and the condition of each that it meets.
    literals: Vec<SmallVec<[(u32, u8); 2]>>,
    /// Per probe: the conditions to meet; `NEVER` if it matches nothing here.
    conditions: Vec<u8>,
    /// Per probe: the conditions on bytes.
    masks: Vec<SmallVec<[Mask; 3]>>,
    /// Probes without conditions on words.
    free: Bits,
    /// Probes that can match at all.
    live: Bits,
}

impl std::fmt::Debug for Alphabet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "alphabet of {:x}, {} literals", self.mask, self.literals.len())
    }
}

/// What the automaton looks for on behalf of one rule.
enum Probe {
    Expression(Option<Hir>),
    Words(Vec<Vec<u8>>),
    /// Matches only if one of these classes occurs.
    Classes(Mask),
    /// Nothing is known: always a candidate.
    Open,
}

/// What scanning found for one message; reused.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Per probe: the values that may match.
    spans: Vec<SmallVec<[Span; 2]>>,
    touched: Vec<u32>,
    met: Vec<u8>,
    met_touched: Vec<u32>,
    seen_fields: Vec<usize>,
    seen_singles: Vec<Option<Span>>,
    hits: Vec<u64>,
    wanted: Vec<u64>,
    texts: Vec<Text>,
    known: Known,
    scratch: [Vec<u8>; 2],
    /// Values scanned and candidates found, for measurements and budgets.
    pub scanned: usize,
    pub found: usize,
}

/// What a mask of classes means, remembered: values come in a few hundred kinds.
#[derive(Debug, Default)]
struct Known {
    index: HashMap<Mask, u32, BuildHasherDefault<Spread>>,
    list: Vec<Kind>,
}

/// Masks are not chosen by an attacker who could gain from it: at most `KINDS` of them are kept.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Debug)]
struct Kind {
    /// Which alphabet it is written in.
    alphabet: usize,
    /// What of the chains may act on such a value, and the probes that can match what comes out.
    active: Vec<(Chain, Bits)>,
    /// The probes of all other chains: they see the value as it is.
    as_it_is: Bits,
    /// The probes that can match such a text, as far as its bytes tell.
    eligible: Bits,
}

/// More kinds than this and remembering begins anew.
const KINDS: usize = 1024;

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    wanted: Vec<u64>,
}

impl Plan {
    pub fn new(engine: &Engine) -> Plan {
        let folded = fold::fold(engine);
        let rules = &engine.program.rules;
        let mut probe_of = vec![None; rules.len()];
        let mut probes = Vec::new();
        let live = folded.steps.iter().flatten().filter_map(|s| match s {
            Step::Rule(index) => Some(*index),
            _ => None,
        });
        for index in live {
            let link = &rules[index as usize].links[0];
            if let Some(probe) = probe(link) {
                probe_of[index as usize] = Some(probes.len() as u32);
                probes.push((index, probe));
            }
        }
        let count = probes.len();
        let link = |index: u32| &rules[index as usize].links[0];
        let chains = chains(&probes, link, count);
        let mut by_var: Vec<Option<Bits>> = vec![None; vars::COUNT];
        for (n, (index, _)) in probes.iter().enumerate() {
            for look in &link(*index).targets {
                set(by_var[look.var as usize].get_or_insert_with(|| empty(count)), n);
            }
        }
        let singles = by_var.iter().enumerate().filter(|(_, bits)| bits.is_some()).filter_map(|(v, _)| single(v));
        let singles: Vec<Var> = singles.collect();
        let fields = watched(&probes, link);
        let mut masks: Vec<Mask> = ALPHABETS.iter().map(|a| a.iter().fold(0, |m, b| m | classes::of(*b))).collect();
        masks.push(Mask::MAX);
        let mut alphabets: Vec<Alphabet> = masks.into_iter().map(|mask| Alphabet::new(mask, &probes)).collect();
        // The first that fits is taken: the one with the fewest live probes first.
        let full = alphabets.pop();
        alphabets.sort_by_key(|a| (a.live.iter().map(|w| w.count_ones()).sum::<u32>(), a.literals.len()));
        alphabets.extend(full);
        Plan {
            steps: folded.steps,
            step_at: folded.step_at,
            decided: folded.decided,
            probe_of,
            probes: count,
            chains,
            by_var,
            fields,
            singles,
            alphabets,
        }
    }

    pub fn probe(&self, rule: u32) -> Option<u32> {
        self.probe_of[rule as usize]
    }

    /// One line per alphabet, for explanations.
    pub fn describe(&self) -> Vec<String> {
        let ones = |bits: &Bits| bits.iter().map(|w| w.count_ones()).sum::<u32>();
        let line = |a: &Alphabet| {
            let size = a.finder.as_ref().map_or(0, AhoCorasick::memory_usage) >> 10;
            let bytes: Vec<u8> = (0x20..0x7f).filter(|b| classes::of(*b) & a.mask != 0).collect();
            format!(
                "{:>4} rules, {:>3} without words, {:>5} words, {size:>5} KiB: {}",
                ones(&a.live),
                ones(&a.free),
                a.literals.len(),
                String::from_utf8_lossy(&bytes)
            )
        };
        self.alphabets.iter().map(line).collect()
    }

    /// Bytes that the automata take.
    pub fn memory(&self) -> usize {
        self.alphabets.iter().filter_map(|a| a.finder.as_ref()).map(AhoCorasick::memory_usage).sum()
    }

    /// The candidate rules by id, and how many values each has to look at.
    pub fn candidates(&self, c: &Candidates, program: &Program) -> Vec<(u64, usize)> {
        let rules = self.probe_of.iter().zip(&program.rules);
        let touched = rules.filter_map(|(probe, rule)| Some((rule.id, c.spans.get((*probe)? as usize)?.len())));
        touched.filter(|(_, n)| *n > 0).collect()
    }

    /// Scans what is new in the store since the last call.
    pub fn scan(&self, store: &Store, c: &mut Candidates) {
        c.prepare(self);
        for (n, watched) in self.fields.iter().enumerate() {
            let list = store.fields(watched.source);
            let from = std::mem::replace(&mut c.seen_fields[n], list.len());
            for field in &list[from.min(list.len())..] {
                let key = store.get(field.key);
                let keyed = watched.keyed.iter().find(|(k, _)| k.len() == key.len() && k.eq_ignore_ascii_case(key));
                let bits = keyed.map_or(&watched.values, |(_, bits)| bits);
                self.scan_value(store, field.value, bits, c);
                self.scan_value(store, field.key, &watched.keys, c);
            }
        }
        for (n, var) in self.singles.iter().enumerate() {
            let Some(span) = store.span(*var) else { continue };
            if c.seen_singles[n].replace(span) != Some(span)
                && let Some(bits) = &self.by_var[*var as usize]
            {
                self.scan_value(store, span, bits, c);
            }
        }
    }

    fn scan_value(&self, store: &Store, span: Span, wanted: &Bits, c: &mut Candidates) {
        if wanted.iter().all(|w| *w == 0) {
            return;
        }
        let value = store.get(span);
        c.scanned += 1;
        let mask = classes::of_value(value);
        let mut known = std::mem::take(&mut c.known);
        let number = known.number(self, mask);
        let kind = &known.list[number];
        c.hits.fill(0);
        // Chains that cannot act on this value see it as it is; each other text is made once.
        c.wanted.clear();
        c.wanted.extend(kind.as_it_is.iter().zip(wanted).map(|(a, b)| a & b));
        let mut used = 0;
        for (chain, useful) in &kind.active {
            if !meets(useful, wanted) {
                continue;
            }
            let [a, b] = &mut c.scratch;
            let text = apply(chain, value, a, b);
            // The scan does not see case.
            if text.eq_ignore_ascii_case(value) {
                or_and(&mut c.wanted, useful, wanted);
            } else if let Some(same) = c.texts[..used].iter_mut().find(|t| t.bytes == text) {
                or_and(&mut same.wanted, useful, wanted);
            } else {
                if used == c.texts.len() {
                    c.texts.push(Text::default());
                }
                let slot = &mut c.texts[used];
                used += 1;
                slot.bytes.clear();
                slot.bytes.extend_from_slice(text);
                slot.wanted.clear();
                slot.wanted.resize(wanted.len(), 0);
                or_and(&mut slot.wanted, useful, wanted);
            }
        }
        let mut raw = std::mem::take(&mut c.wanted);
        raw.iter_mut().zip(&kind.eligible).for_each(|(w, e)| *w &= e);
        self.scan_text(value, kind.alphabet, &raw, c);
        c.wanted = raw;
        c.known = known;
        for n in 0..used {
            let mut text = std::mem::take(&mut c.texts[n]);
            let mask = classes::special(classes::of_value(&text.bytes));
            let alphabet = self.alphabet(mask);
            self.alphabets[alphabet].cut(mask, &mut text.wanted);
            self.scan_text(&text.bytes, alphabet, &text.wanted, c);
            c.texts[n] = text;
        }
        c.record(span);
    }

    /// Sets the bits of the wanted probes that this text may match. Wanted are only probes whose conditions on bytes hold.
    fn scan_text(&self, text: &[u8], alphabet: usize, wanted: &[u64], c: &mut Candidates) {
        let alphabet = &self.alphabets[alphabet];
        let mut open = false;
        for ((hit, w), free) in c.hits.iter_mut().zip(wanted).zip(&alphabet.free) {
            *hit |= w & free;
            open |= w & !free != 0;
        }
        let Some(finder) = alphabet.finder.as_ref().filter(|_| open) else { return };
        for found in finder.find_overlapping_iter(text) {
            for &(probe, bit) in &alphabet.literals[found.pattern().as_usize()] {
                let met = &mut c.met[probe as usize];
                if *met == 0 {
                    c.met_touched.push(probe);
                }
                *met |= bit;
            }
        }
        for probe in c.met_touched.drain(..) {
            let met = std::mem::take(&mut c.met[probe as usize]);
            let (word, bit) = (probe as usize / 64, 1u64 << (probe % 64));
            if met == alphabet.conditions[probe as usize] && wanted[word] & bit != 0 {
                c.hits[word] |= bit;
            }
        }
    }

    /// The narrowest alphabet that holds these classes; the last holds all.
    fn alphabet(&self, special: Mask) -> usize {
        self.alphabets.iter().position(|a| special & !a.mask == 0).unwrap_or(self.alphabets.len() - 1)
    }

    fn kind(&self, mask: Mask) -> Kind {
        let mut as_it_is = empty(self.probes);
        let mut active: Vec<(Chain, Bits)> = Vec::new();
        // Few different things can come out of all chains.
        let mut outcomes: SmallVec<[(Mask, Bits); 4]> = SmallVec::new();
        for chain in &self.chains {
            let reduced = reduce(&chain.transforms, mask);
            if reduced.is_empty() {
                as_it_is.iter_mut().zip(&chain.probes).for_each(|(a, b)| *a |= b);
                continue;
            }
            let out = outcome(&reduced, mask);
            let at = outcomes.iter().position(|(m, _)| *m == out).unwrap_or_else(|| {
                outcomes.push((out, self.eligible(out)));
                outcomes.len() - 1
            });
            let useful: Bits = outcomes[at].1.iter().zip(&chain.probes).map(|(a, b)| a & b).collect();
            if useful.iter().all(|w| *w == 0) {
                continue;
            }
            match active.iter_mut().find(|(c, _): &&mut (Chain, Bits)| *c == reduced) {
                Some((_, bits)) => bits.iter_mut().zip(&useful).for_each(|(a, b)| *a |= b),
                None => active.push((reduced, useful)),
            }
        }
        Kind { alphabet: self.alphabet(classes::special(mask)), active, as_it_is, eligible: self.eligible(mask) }
    }

    /// The probes that can match a text of these classes, as far as its classes tell. More classes never mean fewer probes.
    fn eligible(&self, mask: Mask) -> Bits {
        let special = classes::special(mask);
        let alphabet = &self.alphabets[self.alphabet(special)];
        let mut bits = alphabet.live.clone();
        alphabet.cut(special, &mut bits);
        bits
    }
}

/// The classes that may be in a value of the classes `mask` after a chain: most transformations take bytes away or make
/// blanks of them, decoders may make anything.
fn outcome(transforms: &[Transform], mask: Mask) -> Mask {
    transforms.iter().fold(mask, |mask, t| match t {
        Transform::CmdLine
        | Transform::CompressWhitespace
        | Transform::RemoveComments
        | Transform::RemoveCommentsChar
        | Transform::RemoveNulls
        | Transform::RemoveWhitespace
        | Transform::ReplaceComments
        | Transform::ReplaceNulls
        | Transform::Trim
        | Transform::TrimLeft
        | Transform::TrimRight
        | Transform::NormalizePath => mask | classes::of(b' '),
        Transform::NormalizePathWin => mask | classes::of(b'/'),
        Transform::Lowercase => mask,
        Transform::Length => 0,
        _ if !acts(*t, mask) => mask,
        Transform::UrlDecodeUni | Transform::UrlDecode if mask & classes::of(b'%') == 0 => mask | classes::of(b' '),
        _ => Mask::MAX,
    })
}

/// Whether a transformation can act on a value of these classes. Small letters and digits have no class: what acts on them
/// acts always.
fn acts(t: Transform, mask: Mask) -> bool {
    static TRIGGERS: LazyLock<Vec<Mask>> = LazyLock::new(|| {
        let letters = |t: &Transform| (b'a'..=b'z').chain(b'0'..=b'9').any(|b| t.trigger().contains(b));
        Transform::ALL.iter().map(|t| if letters(t) { Mask::MAX } else { classes::of_set(&t.trigger()) }).collect()
    });
    let trigger = TRIGGERS[t as usize];
    trigger == Mask::MAX || trigger & mask != 0
}

impl Known {
    fn number(&mut self, plan: &Plan, mask: Mask) -> usize {
        if let Some(number) = self.index.get(&mask) {
            return *number as usize;
        }
        // Not in the middle of a value: a kind in use must stay where it is.
        self.list.push(plan.kind(mask));
        self.index.insert(mask, self.list.len() as u32 - 1);
        self.list.len() - 1
    }
}

impl Candidates {
    fn prepare(&mut self, plan: &Plan) {
        if self.spans.len() == plan.probes && self.seen_fields.len() == plan.fields.len() {
            return;
        }
        let words = plan.probes.div_ceil(64);
        *self = Candidates {
            spans: vec![SmallVec::new(); plan.probes],
            met: vec![0; plan.probes],
            seen_fields: vec![0; plan.fields.len()],
            seen_singles: vec![None; plan.singles.len()],
            hits: vec![0; words],
            wanted: vec![0; words],
            ..Candidates::default()
        };
    }

    pub fn clear(&mut self) {
        for probe in self.touched.drain(..) {
            self.spans[probe as usize].clear();
        }
        self.seen_fields.fill(0);
        self.seen_singles.fill(None);
        if self.known.list.len() > KINDS {
            self.known = Known::default();
        }
        self.scanned = 0;
        self.found = 0;
    }

    /// Notes a value for all probes that it hit.
    fn record(&mut self, span: Span) {
        for (word, bits) in self.hits.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let probe = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if self.spans[probe].is_empty() {
                    self.touched.push(probe as u32);
                }
                self.spans[probe].push(span);
                self.found += 1;
            }
        }
    }

    /// Whether a rule has any value to look at.
    pub fn any(&self, probe: u32) -> bool {
        !self.spans[probe as usize].is_empty()
    }

    /// Keeps the items that made the rule a candidate.
    pub fn keep(&self, probe: u32, items: &mut Vec<Item>) {
        let spans = &self.spans[probe as usize];
        items.retain(|item| spans.contains(&item.value));
    }
}

/// Only rules that look at the message itself, and whose operator says yes because of something in the value.
fn probe(link: &Link) -> Option<Probe> {
    let looks_at_message = |look: &Look| {
        !look.count
            && !matches!(look.key, Key::Slot(_))
            && !look.var.is_writable()
            && !matches!(
                look.var,
                Var::MatchedVar | Var::MatchedVarName | Var::MatchedVars | Var::MatchedVarsNames | Var::HighestSeverity
            )
    };
    if link.negated || link.targets.is_empty() || !link.targets.iter().all(looks_at_message) {
        return None;
    }
    Some(match &link.op {
        Operator::Rx(Pattern::Linear { source, .. }) => Probe::Expression(require::parse(source)),
        Operator::Rx(Pattern::Backtrack(_)) => Probe::Open,
        Operator::Pm(phrases) => Probe::Words(phrases.words.clone()),
        Operator::Text(
            TextOp::Contains | TextOp::BeginsWith | TextOp::EndsWith | TextOp::Equals | TextOp::ContainsWord,
            argument,
        ) => match argument.constant() {
            Some(text) if !text.is_empty() => Probe::Words(vec![text.as_bytes().to_vec()]),
            _ => return None,
        },
        Operator::Sqli => Probe::Classes(Mask::MAX & !classes::of(b'_')),
        Operator::Xss => Probe::Classes(b"<>=`\"'".iter().fold(0, |m, b| m | classes::of(*b))),
        Operator::UrlEncoding => Probe::Classes(classes::of(b'%')),
        Operator::Utf8Encoding => Probe::Classes(classes::of(0x80)),
        Operator::ByteRange(allowed) => {
            let refused = allowed.not();
            let letters = (0..=255u8).any(|b| refused.contains(b) && classes::of(b) == 0);
            if letters { Probe::Open } else { Probe::Classes(classes::special(classes::of_set(&refused))) }
        }
        _ => return None,
    })
}

fn single(var: usize) -> Option<Var> {
    let var = vars::from_index(var);
    Store::sources(var).is_none().then_some(var)
}

/// The collections that probes look at.
fn watched<'l>(probes: &[(u32, Probe)], link: impl Fn(u32) -> &'l Link) -> Vec<Watched> {
    let count = probes.len();
    let mut out: Vec<Watched> = Vec::new();
    let looks = || probes.iter().enumerate().flat_map(|(n, (i, _))| link(*i).targets.iter().map(move |look| (n, look)));
    for (n, look) in looks() {
        let Some((sources, names)) = Store::sources(look.var) else { continue };
        for source in sources {
            let at = out.iter().position(|w| w.source == *source).unwrap_or_else(|| {
                let (values, keys) = (empty(count), empty(count));
                out.push(Watched { source: *source, values, keys, keyed: Vec::new() });
                out.len() - 1
            });
            let watched = &mut out[at];
            match &look.key {
                _ if names => set(&mut watched.keys, n),
                Key::Some(Selector::Key(key)) => {
                    let known = watched.keyed.iter().position(|(k, _)| **k == **key);
                    let at = known.unwrap_or_else(|| {
                        watched.keyed.push((key.to_vec(), empty(count)));
                        watched.keyed.len() - 1
                    });
                    set(&mut watched.keyed[at].1, n);
                }
                _ => set(&mut watched.values, n),
            }
        }
    }
    for watched in &mut out {
        for (_, bits) in &mut watched.keyed {
            bits.iter_mut().zip(&watched.values).for_each(|(a, b)| *a |= b);
        }
    }
    out
}

/// All chains of transformations; a rule with `multiMatch` wants every step of its own.
fn chains<'l>(probes: &[(u32, Probe)], link: impl Fn(u32) -> &'l Link, count: usize) -> Vec<ChainProbes> {
    let mut out: Vec<ChainProbes> = Vec::new();
    for (n, (index, _)) in probes.iter().enumerate() {
        let link = link(*index);
        let from = if link.multi_match { 0 } else { link.transforms.len() };
        for length in from..=link.transforms.len() {
            let transforms = &link.transforms[..length];
            let at = out.iter().position(|c| *c.transforms == *transforms).unwrap_or_else(|| {
                out.push(ChainProbes { transforms: transforms.into(), probes: empty(count) });
                out.len() - 1
            });
            set(&mut out[at].probes, n);
        }
    }
    out
}

/// What is left of a chain for values of these classes: without the steps that cannot act on anything that reaches them,
/// and without folding of case where only the scan, which does not see case, comes after it.
fn reduce(transforms: &[Transform], mask: Mask) -> Chain {
    let mut left = Chain::new();
    let mut reaches = mask;
    for &t in transforms {
        if acts(t, reaches) {
            left.push(t);
            reaches = outcome(&[t], reaches);
        }
    }
    let folds = left.iter().rposition(|t| !blind_to_case(*t)).map_or(0, |i| i + 1);
    let mut n = 0;
    left.retain(|t| {
        n += 1;
        n <= folds || *t != Transform::Lowercase
    });
    left
}

/// Whether a transformation does the same to a value in small letters, but for case.
fn blind_to_case(t: Transform) -> bool {
    matches!(
        t,
        Transform::Lowercase
            | Transform::CmdLine
            | Transform::CompressWhitespace
            | Transform::RemoveWhitespace
            | Transform::RemoveNulls
            | Transform::ReplaceNulls
            | Transform::ReplaceComments
            | Transform::RemoveComments
            | Transform::RemoveCommentsChar
            | Transform::NormalizePath
            | Transform::NormalizePathWin
            | Transform::Trim
            | Transform::TrimLeft
            | Transform::TrimRight
    )
}

impl Alphabet {
    fn new(mask: Mask, probes: &[(u32, Probe)]) -> Alphabet {
        let bytes = if mask == Mask::MAX { ByteSet::ALL } else { classes::alphabet(mask) };
        let count = probes.len();
        let mut alphabet = Alphabet {
            mask,
            finder: None,
            literals: Vec::new(),
            conditions: vec![0; count],
            masks: vec![SmallVec::new(); count],
            free: empty(count),
            live: empty(count),
        };
        let mut index = std::collections::HashMap::new();
        let mut words: Vec<Vec<u8>> = Vec::new();
        for (n, (_, probe)) in probes.iter().enumerate() {
            let Some(needs) = needs_of(probe, mask, &bytes) else { continue };
            set(&mut alphabet.live, n);
            for (bit, list) in needs.literals.into_iter().enumerate() {
                alphabet.conditions[n] |= 1 << bit;
                for word in list {
                    let id = *index.entry(word.clone()).or_insert_with(|| {
                        words.push(word);
                        alphabet.literals.push(SmallVec::new());
                        words.len() - 1
                    });
                    alphabet.literals[id].push((n as u32, 1 << bit));
                }
            }
            if alphabet.conditions[n] == 0 {
                set(&mut alphabet.free, n);
            }
            alphabet.masks[n] = needs.masks.into_iter().take(3).collect();
        }
        alphabet.finder = finder(&words);
        alphabet
    }

    /// Takes away the probes that match nothing here or miss a byte.
    fn cut(&self, special: Mask, bits: &mut [u64]) {
        for (n, word) in bits.iter_mut().enumerate() {
            *word &= self.live[n];
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                if self.masks[n * 64 + bit as usize].iter().any(|m| m & special == 0) {
                    *word &= !(1 << bit);
                }
            }
        }
    }
}

fn needs_of(probe: &Probe, mask: Mask, bytes: &ByteSet) -> Option<Needs> {
    match probe {
        Probe::Expression(Some(hir)) => require::needs(hir, bytes),
        Probe::Words(words) => require::words(words.iter().map(Vec::as_slice), bytes),
        Probe::Classes(wanted) => (wanted & mask != 0).then(|| Needs { literals: Vec::new(), masks: vec![*wanted] }),
        Probe::Expression(None) | Probe::Open => Some(Needs::default()),
    }
}

fn finder(words: &[Vec<u8>]) -> Option<AhoCorasick> {
    if words.is_empty() {
        return None;
    }
    let build = |kind| {
        AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(kind))
            .build(words)
            .ok()
    };
    let compact = build(AhoCorasickKind::ContiguousNFA);
    // A table is twice as fast and about eight times as large.
    let small = compact.as_ref().is_some_and(|c| c.memory_usage() * 8 < TABLE_LIMIT);
    if small { build(AhoCorasickKind::DFA).or(compact) } else { compact }
}

fn apply<'t>(transforms: &[Transform], value: &'t [u8], a: &'t mut Vec<u8>, b: &'t mut Vec<u8>) -> &'t [u8] {
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

fn empty(count: usize) -> Bits {
    vec![0; count.div_ceil(64)].into()
}

fn set(bits: &mut [u64], n: usize) {
    bits[n / 64] |= 1 << (n % 64);
}

fn meets(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).any(|(a, b)| a & b != 0)
}

/// `out |= a & b`.
fn or_and(out: &mut [u64], a: &[u64], b: &[u64]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out |= a & b;
    }
}
