//! The few expressions that look around or refer back (three in CRS 3.3): a backtracking matcher with a budget.
//!
//! Backtracking can take exponential time, so each search has a fixed number of steps; when they are used up the answer is
//! "no match", as with ModSecurity's `SecPcreMatchLimit`. Everything else runs on the linear-time engine.

use crate::transform::ByteSet;

/// Steps that one search may take.
const BUDGET: u32 = 100_000;
/// Groups may nest this deep.
const DEPTH: usize = 64;
/// How far a search may recurse: the stack is bounded, too.
const RECURSION: u32 = 1_000;

#[derive(Debug)]
pub struct Backtracker {
    root: Node,
    groups: usize,
}

#[derive(Debug, Clone)]
enum Node {
    Empty,
    Set(ByteSet),
    Start,
    End,
    Word(bool),
    Back(usize, bool),
    Concat(Vec<Node>),
    Either(Vec<Node>),
    Group(usize, Box<Node>),
    Repeat { node: Box<Node>, min: u32, max: u32, kind: Greed },
    Look { node: Box<Node>, behind: bool, negated: bool },
    Atomic(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

type Groups = Vec<Option<(usize, usize)>>;

impl Backtracker {
    pub fn build(source: &str) -> Result<Backtracker, String> {
        let mut parser = Parser { text: source.as_bytes(), at: 0, groups: 1, fold: false, depth: 0 };
        let root = parser.either()?;
        if parser.at < parser.text.len() {
            return Err("found ) without (".to_owned());
        }
        Ok(Backtracker { root, groups: parser.groups })
    }

    /// The groups of the leftmost match; group 0 is the whole.
    pub fn find(&self, text: &[u8]) -> Option<Groups> {
        let mut run = Run { text, groups: vec![None; self.groups], left: BUDGET, depth: 0 };
        for start in 0..=text.len() {
            run.groups.fill(None);
            let mut end = None;
            if run.step(&self.root, start, &mut |_, at| {
                end = Some(at);
                true
            }) {
                run.groups[0] = end.map(|e| (start, e));
                return Some(run.groups);
            }
            if run.left == 0 {
                return None;
            }
        }
        None
    }
}

struct Run<'t> {
    text: &'t [u8],
    groups: Groups,
    left: u32,
    depth: u32,
}

type Next<'n, 't> = &'n mut dyn FnMut(&mut Run<'t>, usize) -> bool;

impl<'t> Run<'t> {
    fn step(&mut self, node: &Node, at: usize, next: Next<'_, 't>) -> bool {
        if self.left == 0 || self.depth == RECURSION {
            return false;
        }
        self.left -= 1;
        self.depth += 1;
        let found = self.node(node, at, next);
        self.depth -= 1;
        found
    }

    fn node(&mut self, node: &Node, at: usize, next: Next<'_, 't>) -> bool {
        match node {
            Node::Empty => next(self, at),
            Node::Set(set) => self.text.get(at).is_some_and(|b| set.contains(*b)) && next(self, at + 1),
            Node::Start => at == 0 && next(self, at),
            Node::End => at == self.text.len() && next(self, at),
            Node::Word(wanted) => self.boundary(at) == *wanted && next(self, at),
            Node::Back(n, fold) => match self.back(*n, *fold, at) {
                Some(end) => next(self, end),
                None => false,
            },
            Node::Concat(nodes) => self.concat(nodes, at, next),
            Node::Either(nodes) => nodes.iter().any(|n| self.step(n, at, next)),
            Node::Group(n, inner) => {
                let before = self.groups[*n];
                let found = self.step(inner, at, &mut |run, end| {
                    let saved = run.groups[*n];
                    run.groups[*n] = Some((at, end));
                    next(run, end) || {
                        run.groups[*n] = saved;
                        false
                    }
                });
                if !found {
                    self.groups[*n] = before;
                }
                found
            }
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind, at, next),
            Node::Look { node, behind, negated } => self.look(node, *behind, at) != *negated && next(self, at),
            Node::Atomic(node) => match self.first_end(node, at) {
                Some(end) => next(self, end),
                None => false,
            },
        }
    }

    fn concat(&mut self, nodes: &[Node], at: usize, next: Next<'_, 't>) -> bool {
        match nodes {
            [] => next(self, at),
            [head, tail @ ..] => self.step(head, at, &mut |run, end| run.concat(tail, end, next)),
        }
    }

    fn repeat(&mut self, node: &Node, min: u32, max: u32, kind: Greed, at: usize, next: Next<'_, 't>) -> bool {
        // One byte at a time needs no recursion, and nearly every repetition is of that kind.
        if let Node::Set(set) = node {
            return self.repeat_set(set, min as usize, max as usize, kind, at, next);
        }
        if kind == Greed::Possessive {
            let greedy = Node::Repeat { node: Box::new(node.clone()), min, max, kind: Greed::Greedy };
            return match self.first_end(&greedy, at) {
                Some(end) => next(self, end),
                None => false,
            };
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        if min == 0 && kind == Greed::Lazy && next(self, at) {
            return true;
        }
        if max > 0
            && self.step(node, at, &mut |run, end| {
                (end > at || min > 0) && run.repeat(node, min.saturating_sub(1), max - 1, kind, end, next)
            })
        {
            return true;
        }
        min == 0 && kind == Greed::Greedy && next(self, at)
    }

    fn repeat_set(
        &mut self,
        set: &ByteSet,
        min: usize,
        max: usize,
        kind: Greed,
        at: usize,
        next: Next<'_, 't>,
    ) -> bool {
        let run = self.text[at..].iter().take(max).take_while(|b| set.contains(**b)).count();
        self.left = self.left.saturating_sub(run as u32 / 8);
        if run < min {
            return false;
        }
        match kind {
            Greed::Possessive => next(self, at + run),
            Greed::Greedy => (min..=run).rev().any(|n| self.spend() && next(self, at + n)),
            Greed::Lazy => (min..=run).any(|n| self.spend() && next(self, at + n)),
        }
    }

    fn spend(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }

    fn look(&mut self, node: &Node, behind: bool, at: usize) -> bool {
        if !behind {
            return self.first_end(node, at).is_some();
        }
        (0..=at).rev().any(|start| self.step(node, start, &mut |_, end| end == at))
    }

    fn first_end(&mut self, node: &Node, at: usize) -> Option<usize> {
        let mut found = None;
        self.step(node, at, &mut |_, end| {
            found = Some(end);
            true
        });
        found
    }

    fn boundary(&self, at: usize) -> bool {
        let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        word(at.checked_sub(1).and_then(|i| self.text.get(i))) != word(self.text.get(at))
    }

    fn back(&self, n: usize, fold: bool, at: usize) -> Option<usize> {
        let (start, end) = (*self.groups.get(n)?)?;
        let group = &self.text[start..end];
        let here = self.text.get(at..at + group.len())?;
        (if fold { here.eq_ignore_ascii_case(group) } else { here == group }).then_some(at + group.len())
    }
}

#[derive(PartialEq)]
enum Kind {
    Plain,
    Capture(usize),
    Atomic,
    Look {
        behind: bool,
        negated: bool,
    },
    /// `(?i)`: no group at all.
    Flag,
}

struct Parser<'s> {
    text: &'s [u8],
    at: usize,
    groups: usize,
    fold: bool,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, prefix: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(prefix);
        self.at += if found { prefix.len() } else { 0 };
        found
    }

    fn either(&mut self) -> Result<Node, String> {
        let mut branches = vec![self.concat()?];
        while self.eat(b"|") {
            branches.push(self.concat()?);
        }
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Either(branches) })
    }

    fn concat(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(b) = self.peek().filter(|b| !matches!(b, b'|' | b')')) {
            self.at += 1;
            let node = self.atom(b)?;
            nodes.push(self.quantified(node)?);
        }
        Ok(Node::Concat(nodes))
    }

    fn atom(&mut self, b: u8) -> Result<Node, String> {
        Ok(match b {
            b'^' => Node::Start,
            b'$' => Node::End,
            b'.' => Node::Set(ByteSet::ALL),
            b'(' => self.group()?,
            b'[' => Node::Set(self.class()?),
            b'\\' => self.escape()?,
            _ => Node::Set(self.folded(b)),
        })
    }

    fn folded(&self, b: u8) -> ByteSet {
        match self.fold {
            true => ByteSet::of(&[b.to_ascii_lowercase(), b.to_ascii_uppercase()]),
            false => ByteSet::of(&[b]),
        }
    }

    fn quantified(&mut self, node: Node) -> Result<Node, String> {
        let (min, max) = match self.peek() {
            Some(b'*') => (0, u32::MAX),
            Some(b'+') => (1, u32::MAX),
            Some(b'?') => (0, 1),
            Some(b'{') => match self.counted() {
                Some(range) => range,
                None => return Ok(node),
            },
            _ => return Ok(node),
        };
        self.at += 1;
        let kind = if self.eat(b"?") {
            Greed::Lazy
        } else if self.eat(b"+") {
            Greed::Possessive
        } else {
            Greed::Greedy
        };
        Ok(Node::Repeat { node: Box::new(node), min, max, kind })
    }

    /// At `{`: moves to its `}` when it is a repetition.
    fn counted(&mut self) -> Option<(u32, u32)> {
        let rest = &self.text[self.at + 1..];
        let len = rest.iter().position(|b| *b == b'}')?;
        let inner = std::str::from_utf8(&rest[..len]).ok()?;
        let range = match inner.split_once(',') {
            Some((low, "")) => (low.parse().ok()?, u32::MAX),
            Some((low, high)) => (low.parse().ok()?, high.parse().ok()?),
            None => (inner.parse().ok()?, inner.parse().ok()?),
        };
        self.at += 1 + len;
        Some(range)
    }

    fn group(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("groups nest deeper than {DEPTH}"));
        }
        let fold = self.fold;
        let kind = self.kind()?;
        if kind == Kind::Flag {
            self.depth -= 1;
            return Ok(Node::Empty);
        }
        let node = Box::new(self.either()?);
        if !self.eat(b")") {
            return Err("found no closing )".to_owned());
        }
        self.fold = fold;
        self.depth -= 1;
        Ok(match kind {
            Kind::Look { behind, negated } => Node::Look { node, behind, negated },
            Kind::Capture(n) => Node::Group(n, node),
            Kind::Atomic => Node::Atomic(node),
            Kind::Plain | Kind::Flag => *node,
        })
    }

    /// What stands after the `(`.
    fn kind(&mut self) -> Result<Kind, String> {
        const LOOKS: [(&[u8], bool, bool); 4] =
            [(b"?=", false, false), (b"?!", false, true), (b"?<=", true, false), (b"?<!", true, true)];
        for (prefix, behind, negated) in LOOKS {
            if self.eat(prefix) {
                return Ok(Kind::Look { behind, negated });
            }
        }
        if self.eat(b"?:") {
            return Ok(Kind::Plain);
        }
        if self.eat(b"?>") {
            return Ok(Kind::Atomic);
        }
        if self.eat(b"?i:") {
            self.fold = true;
            return Ok(Kind::Plain);
        }
        if self.eat(b"?i)") {
            self.fold = true;
            return Ok(Kind::Flag);
        }
        if self.peek() == Some(b'?') {
            return Err("this kind of group is not supported with looking around".to_owned());
        }
        self.groups += 1;
        Ok(Kind::Capture(self.groups - 1))
    }

    fn class(&mut self) -> Result<ByteSet, String> {
        let negated = self.eat(b"^");
        let mut set = ByteSet::EMPTY;
        let mut first = true;
        loop {
            let b = self.peek().ok_or("found no closing ]")?;
            self.at += 1;
            if b == b']' && !first {
                break;
            }
            first = false;
            let low = match self.class_item(b)? {
                Ok(byte) => byte,
                Err(many) => {
                    set = set.union(many);
                    continue;
                }
            };
            let range = self.peek() == Some(b'-') && self.text.get(self.at + 1).is_some_and(|b| *b != b']');
            if !range {
                set = set.union(self.folded(low));
                continue;
            }
            self.at += 2;
            let end = self.text[self.at - 1];
            let high = self.class_item(end)?.map_err(|_| "a range needs two characters")?;
            for b in low..=high {
                set = set.union(self.folded(b));
            }
        }
        Ok(if negated { set.not() } else { set })
    }

    fn class_item(&mut self, b: u8) -> Result<Result<u8, ByteSet>, String> {
        if b != b'\\' {
            return Ok(Ok(b));
        }
        match self.escape()? {
            Node::Word(_) => Ok(Ok(8)),
            Node::Set(set) => {
                let mut members = (0..=255u8).filter(|b| set.contains(*b));
                match (members.next(), members.next()) {
                    (Some(only), None) => Ok(Ok(only)),
                    _ => Ok(Err(set)),
                }
            }
            _ => Err("this escape does not belong into a class".to_owned()),
        }
    }

    fn escape(&mut self) -> Result<Node, String> {
        let b = self.peek().ok_or("found \\ at the end")?;
        self.at += 1;
        let digits = ByteSet::of(b"0123456789");
        let word = ByteSet::of(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        let space = ByteSet::of(b" \t\r\n\x0b\x0c");
        Ok(Node::Set(match b {
            b'd' => digits,
            b'D' => digits.not(),
            b'w' => word,
            b'W' => word.not(),
            b's' => space,
            b'S' => space.not(),
            b'n' => ByteSet::of(b"\n"),
            b'r' => ByteSet::of(b"\r"),
            b't' => ByteSet::of(b"\t"),
            b'f' => ByteSet::of(b"\x0c"),
            b'v' => ByteSet::of(b"\n\x0b\x0c\r\x85"),
            b'x' => {
                let text = &self.text[self.at..];
                let len = text.iter().take(2).take_while(|b| b.is_ascii_hexdigit()).count();
                let hex = std::str::from_utf8(&text[..len]).unwrap_or_default();
                self.at += len;
                self.folded(u8::from_str_radix(hex, 16).unwrap_or(0))
            }
            b'b' => return Ok(Node::Word(true)),
            b'B' => return Ok(Node::Word(false)),
            b'A' => return Ok(Node::Start),
            b'z' => return Ok(Node::End),
            b'1'..=b'9' => return Ok(Node::Back(usize::from(b - b'0'), self.fold)),
            b if b.is_ascii_alphanumeric() => return Err(format!("unknown escape \\{}", char::from(b))),
            b => self.folded(b),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(source: &str, text: &str) -> bool {
        Backtracker::build(source).unwrap().find(text.as_bytes()).is_some()
    }

    #[test]
    fn looks_around() {
        assert!(finds(r"<\?(?!xml)", "<?php"));
        assert!(!finds(r"<\?(?!xml)", "<?xml"));
        assert!(finds(r"(?<!&amp|&apos);|['=]", "a;b"));
        assert!(!finds(r"(?<!&amp|&apos);|['=]", "a&amp;b"));
        assert!(finds(r"a(?=b)b", "xab"));
    }

    #[test]
    fn refers_back() {
        assert!(finds(r"(?i:\b(\w+)\b\s*=\s*\b\1\b)", "x AB = ab"));
        assert!(!finds(r"\b(\d+)=(?!\b\1\b)\d+", "1=1"));
        assert!(finds(r"\b(\d+)=(?!\b\1\b)\d+", "1=2"));
    }

    #[test]
    fn groups_are_where_they_matched() {
        let groups = Backtracker::build(r"(a+)(?=b)(b)").unwrap().find(b"xaab").unwrap();
        assert_eq!(groups, [Some((1, 4)), Some((1, 3)), Some((3, 4))]);
    }

    #[test]
    fn possessive_gives_nothing_back() {
        assert!(!finds(r"a*+a(?=)", "aaa"));
        assert!(finds(r"a*a(?=)", "aaa"));
    }

    #[test]
    fn a_hopeless_search_ends() {
        assert!(!finds(r"(?=a)(a|aa)+$b", &"a".repeat(5000)));
    }
}
