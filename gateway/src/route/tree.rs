//! A tree of segments: what makes the cost of a match depend on the path's depth, not on the number of routes.
//!
//! At each node the literal is tried before the capture before `*` before `**`, so the first candidate that is accepted
//! is the most specific one. A node is reached by one way only: however a path is chosen, no node is visited twice.

use super::Spans;
use super::pattern::Piece;
use ahash::AHasher;
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// A route at the end of its pattern.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub route: u32,
    /// See [`super::pattern::Methods::set`].
    pub methods: u8,
    pub when: bool,
    /// How many captures its pattern has; one more than was captured on the way means that its `**` has a name.
    pub captures: u8,
}

#[derive(Debug)]
pub(super) struct Tree(Vec<Node>);

#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    capture: Option<Id>,
    any: Option<Id>,
    /// The routes whose pattern ends here, in order.
    end: SmallVec<[Candidate; 2]>,
    /// The routes whose pattern has `**` here, in order.
    rest: SmallVec<[Candidate; 2]>,
}

type Id = std::num::NonZeroU32;

/// The children of a node by their segment: most nodes have few, and comparing is then quicker than hashing.
#[derive(Debug)]
enum Literals {
    Few(Vec<(SmolStr, Id)>),
    Many(HashMap<SmolStr, Id, Hash>),
}

/// With fixed keys: only the configuration puts anything in, so nobody can fill one chain.
pub(super) type Hash = BuildHasherDefault<AHasher>;

const FEW: usize = 6;

impl Default for Literals {
    fn default() -> Literals {
        Literals::Few(vec![])
    }
}

impl Literals {
    fn child(&self, segment: &str) -> Option<Id> {
        match self {
            Literals::Few(few) => few.iter().find(|(s, _)| s == segment).map(|(_, id)| *id),
            Literals::Many(many) => many.get(segment).copied(),
        }
    }
    fn insert(&mut self, segment: SmolStr, id: Id) {
        match self {
            Literals::Few(few) if few.len() < FEW => few.push((segment, id)),
            Literals::Few(few) => {
                let mut many: HashMap<_, _, _> = few.drain(..).collect();
                many.insert(segment, id);
                *self = Literals::Many(many);
            }
            Literals::Many(many) => {
                many.insert(segment, id);
            }
        }
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree(vec![Node::default()])
    }
}

impl Tree {
    /// Candidates of one place are tried in the order they are inserted.
    pub fn insert(&mut self, pieces: &[Piece], candidate: Candidate) {
        let mut at = 0;
        for piece in pieces {
            let new = Id::new(self.0.len() as u32).expect("the root is there");
            let node = &mut self.0[at];
            let child = match piece {
                Piece::Literal(segment) => match node.literals.child(segment) {
                    Some(id) => id,
                    None => {
                        node.literals.insert(segment.clone(), new);
                        new
                    }
                },
                Piece::Capture => *node.capture.get_or_insert(new),
                Piece::Any => *node.any.get_or_insert(new),
                Piece::Rest { .. } => return node.rest.push(candidate),
            };
            if child == new {
                self.0.push(Node::default());
            }
            at = child.get() as usize;
        }
        self.0[at].end.push(candidate);
    }

    /// The first candidate, by specificity, that `accept` takes; `spans` are then what it captured.
    pub fn walk(
        &self,
        path: &str,
        spans: &mut Spans,
        accept: &mut impl FnMut(&Candidate, &Spans) -> bool,
    ) -> Option<u32> {
        debug_assert!(path.starts_with('/'), "a canonical path is absolute");
        self.step(&self.0[0], path, Some(1), spans, accept)
    }

    /// `from`: where the next segment starts; `None` when the path is used up. As deep as the deepest pattern, at most.
    fn step(
        &self,
        node: &Node,
        path: &str,
        from: Option<usize>,
        spans: &mut Spans,
        accept: &mut impl FnMut(&Candidate, &Spans) -> bool,
    ) -> Option<u32> {
        let taken = match from {
            Some(from) => self.children(node, path, from, spans, accept),
            None => first(&node.end, spans, accept),
        };
        if taken.is_some() || node.rest.is_empty() {
            return taken;
        }
        let rest = (from.unwrap_or(path.len()) as u32, path.len() as u32);
        node.rest.iter().find_map(|c| {
            let known = spans.len();
            if c.captures as usize > known {
                spans.push(rest);
            }
            if accept(c, spans) {
                return Some(c.route);
            }
            spans.truncate(known);
            None
        })
    }

    fn children(
        &self,
        node: &Node,
        path: &str,
        from: usize,
        spans: &mut Spans,
        accept: &mut impl FnMut(&Candidate, &Spans) -> bool,
    ) -> Option<u32> {
        let to = memchr::memchr(b'/', &path.as_bytes()[from..]).map_or(path.len(), |n| from + n);
        let next = (to < path.len()).then_some(to + 1);
        let segment = &path[from..to];
        if let Some(id) = node.literals.child(segment)
            && let Some(route) = self.step(self.node(id), path, next, spans, accept)
        {
            return Some(route);
        }
        if segment.is_empty() {
            return None;
        }
        if let Some(id) = node.capture {
            spans.push((from as u32, to as u32));
            if let Some(route) = self.step(self.node(id), path, next, spans, accept) {
                return Some(route);
            }
            spans.pop();
        }
        self.step(self.node(node.any?), path, next, spans, accept)
    }

    /// A candidate that `accept` takes and whose pattern matches every path that `pieces` match.
    pub fn covering(&self, pieces: &[Piece], accept: &mut impl FnMut(&Candidate) -> bool) -> Option<u32> {
        self.covers(&self.0[0], pieces, accept)
    }

    fn covers(&self, node: &Node, pieces: &[Piece], accept: &mut impl FnMut(&Candidate) -> bool) -> Option<u32> {
        let mut taken = |all: &[Candidate]| all.iter().find(|c| accept(c)).map(|c| c.route);
        if let Some(route) = taken(&node.rest) {
            return Some(route);
        }
        let Some((piece, pieces)) = pieces.split_first() else { return taken(&node.end) };
        let (literal, wild) = match piece {
            Piece::Literal(segment) => (node.literals.child(segment), !segment.is_empty()),
            Piece::Capture | Piece::Any => (None, true),
            Piece::Rest { .. } => (None, false),
        };
        let wild = [node.capture, node.any].into_iter().flatten().filter(|_| wild);
        literal.into_iter().chain(wild).find_map(|id| self.covers(self.node(id), pieces, accept))
    }

    fn node(&self, id: Id) -> &Node {
        &self.0[id.get() as usize]
    }
}

fn first(all: &[Candidate], spans: &Spans, accept: &mut impl FnMut(&Candidate, &Spans) -> bool) -> Option<u32> {
    all.iter().find(|c| accept(c, spans)).map(|c| c.route)
}
