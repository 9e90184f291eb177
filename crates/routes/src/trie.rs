//! A tree of path segments that finds all patterns of a path, the most specific first.

use std::{collections::HashMap, ops::ControlFlow};

use super::{
    params::{MAX_PARAMS, ParamSlot},
    pattern::{PathPattern, Segment},
};

/// A route at the end of a pattern.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub route: usize,
    /// Slots of the route for the values of the pattern's parameters, in order.
    pub slots: Box<[ParamSlot]>,
}

/// Ranges captured by the parameters so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Captures {
    ranges: [(usize, usize); MAX_PARAMS],
    count: usize,
    /// Start of the part that `/*` matches; the path's end for a pattern without.
    pub rest: usize,
}

/// The tree as a list of nodes, the root first.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

/// A node: the beginning of a pattern, without the names of its parameters.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<[u8]>, usize, ahash::RandomState>,
    param: Option<usize>,
    /// Routes whose pattern ends here.
    exact: Vec<Leaf>,
    /// Routes whose pattern ends here with `/*`.
    prefix: Vec<Leaf>,
}

impl Captures {
    /// Creates captures of `/*` alone.
    pub(super) fn of_rest(rest: usize) -> Self {
        Self {
            rest,
            ..Self::default()
        }
    }

    pub(super) fn ranges(&self) -> &[(usize, usize)] {
        &self.ranges[..self.count]
    }
}

impl Trie {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }

    /// Adds the routes of one pattern, in the order of comparison.
    pub(super) fn insert(&mut self, pattern: &PathPattern, leaves: Vec<Leaf>) {
        let mut index = 0;
        for segment in &pattern.segments {
            let next = self.nodes.len();
            let node = &mut self.nodes[index];
            index = match segment {
                Segment::Literal(text) => {
                    *node.literals.entry(text.as_slice().into()).or_insert(next)
                }
                Segment::Param(_) => *node.param.get_or_insert(next),
            };
            if index == next {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[index];
        if pattern.is_prefix {
            node.prefix.extend(leaves);
        } else {
            node.exact.extend(leaves);
        }
    }

    /// Visits the routes whose pattern matches `path` (which begins with `/`), the most specific
    /// first, until `visit` breaks.
    pub(super) fn walk<B>(
        &self,
        path: &[u8],
        visit: &mut impl FnMut(&Leaf, &Captures) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        Walk {
            trie: self,
            path,
            visit,
            captures: Captures::default(),
        }
        .from(0, Some(1))
    }
}

struct Walk<'a, F> {
    trie: &'a Trie,
    path: &'a [u8],
    visit: &'a mut F,
    captures: Captures,
}

impl<F> Walk<'_, F> {
    /// Continues at a node with the segment that begins at `offset`, or with none if the path has
    /// ended. Each node has only one parent, so it is visited at most once.
    fn from<B>(&mut self, node: usize, offset: Option<usize>) -> ControlFlow<B>
    where
        F: FnMut(&Leaf, &Captures) -> ControlFlow<B>,
    {
        let node = &self.trie.nodes[node];
        let Some(start) = offset else {
            self.leaves(&node.exact, self.path.len())?;
            return self.leaves(&node.prefix, self.path.len());
        };
        if !node.literals.is_empty() || node.param.is_some() {
            let left = &self.path[start..];
            let length = left.iter().position(|&b| b == b'/');
            let segment = &left[..length.unwrap_or(left.len())];
            let next = length.map(|length| start + length + 1);
            if let Some(&child) = node.literals.get(segment) {
                self.from(child, next)?;
            }
            if let Some(child) = node.param
                && !segment.is_empty()
            {
                let index = self.captures.count;
                self.captures.ranges[index] = (start, start + segment.len());
                self.captures.count += 1;
                self.from(child, next)?;
                self.captures.count -= 1;
            }
        }
        self.leaves(&node.prefix, start)
    }

    fn leaves<B>(&mut self, leaves: &[Leaf], rest: usize) -> ControlFlow<B>
    where
        F: FnMut(&Leaf, &Captures) -> ControlFlow<B>,
    {
        self.captures.rest = rest;
        for leaf in leaves {
            (self.visit)(leaf, &self.captures)?;
        }
        ControlFlow::Continue(())
    }
}
