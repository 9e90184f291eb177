//! The locations of a host, and the order in which a search visits them.
//!
//! A search prefers an exact path, then the longest prefix if it is marked `^~`, then the first
//! regular expression in the order of the file, then that prefix. Expressions within the prefix come
//! before those around it. A search compares decoded paths, as nginx does, so a regular expression
//! sees the characters and not their encoding.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, ops::ControlFlow};

use edgeway_base::target::encoded_byte;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::{
    ParamNames, Params,
    location::{Location, Matcher, PlacedLocation},
    trie::Leaf,
};

/// The locations of a host.
#[derive(Debug)]
pub(super) struct Locations {
    exact: HashMap<Box<[u8]>, Vec<Leaf>, ahash::RandomState>,
    prefixes: HashMap<Box<[u8]>, Vec<PrefixLocation>, ahash::RandomState>,
    /// Lengths of the prefixes, the longest first.
    lengths: Vec<usize>,
    /// Expressions without look-around, in one pass.
    plain: RegexSet,
    regexes: Vec<RegexLocation>,
    /// True if repeated slashes of a decoded path become one.
    merges_slashes: bool,
    /// True in the table of spellings: an expression that ends at its limit counts as found, so
    /// that its guards apply.
    finds_on_error: bool,
}

#[derive(Debug)]
struct PrefixLocation {
    leaf: Leaf,
    /// Levels whose regular expressions are considered, if this is the longest prefix.
    levels: Vec<usize>,
    depth: usize,
}

#[derive(Debug)]
struct RegexLocation {
    level: usize,
    /// Expressions around it, all of which must be found as well.
    outer: Vec<Expression>,
    own: Expression,
    leaf: Leaf,
}

#[derive(Debug)]
struct Expression {
    matcher: Matcher,
    /// Position in the set of plain expressions.
    in_set: Option<usize>,
}

/// A location that takes a path.
pub(super) struct LocationHit<'a> {
    matcher: Option<&'a Matcher>,
    /// Length of the prefix, in the decoded path.
    prefix: Option<usize>,
    merges_slashes: bool,
}

/// Collects the locations of a host.
#[derive(Debug, Default)]
pub(super) struct LocationsBuilder {
    exact: HashMap<Box<[u8]>, Vec<Leaf>, ahash::RandomState>,
    prefixes: HashMap<Box<[u8]>, Vec<PrefixLocation>, ahash::RandomState>,
    /// Expressions with those around them, the outermost first.
    regexes: Vec<(usize, Vec<Location>, Leaf)>,
    /// Prefixes around the locations of each level; the first level is that of the host.
    levels: Vec<Vec<Location>>,
}

/// Level of the locations that are within no other one.
const OUTERMOST: usize = 0;

impl LocationsBuilder {
    /// Adds a location; regular expressions are added in the order of the file.
    pub(super) fn push(&mut self, location: &PlacedLocation, leaf: Leaf) {
        self.level(&[]);
        match &location.own {
            Location::Exact(text) => {
                let leaves = self.exact.entry(text.as_slice().into()).or_default();
                leaves.push(leaf);
            }
            Location::Prefix { text, .. } => {
                let chain: Vec<Location> = location.chain().cloned().collect();
                let levels = (0..=chain.len()).filter(|depth| {
                    let next = chain.get(*depth);
                    !matches!(next, Some(Location::Prefix { is_final: true, .. }))
                });
                let prefix = PrefixLocation {
                    leaf,
                    levels: levels.map(|depth| self.level(&chain[..depth])).collect(),
                    depth: chain.len(),
                };
                let leaves = self.prefixes.entry(text.as_slice().into()).or_default();
                leaves.push(prefix);
            }
            Location::Regex { .. } => {
                let depth = location.within.iter().filter(|it| it.is_prefix()).count();
                let level = self.level(&location.within[..depth]);
                let chain: Vec<Location> = location.chain().skip(depth).cloned().collect();
                // An expression within another one comes before it.
                let mut known = self.regexes.iter();
                let outer = known
                    .position(|(other, outer, _)| {
                        *other == level && outer.len() < chain.len() && chain.starts_with(outer)
                    })
                    .unwrap_or(self.regexes.len());
                self.regexes.insert(outer, (level, chain, leaf));
            }
        }
    }

    /// Returns the level of the locations within these prefixes.
    fn level(&mut self, within: &[Location]) -> usize {
        let known = self.levels.iter().position(|level| level == within);
        known.unwrap_or_else(|| {
            self.levels.push(within.to_vec());
            self.levels.len() - 1
        })
    }

    /// Compiles the locations.
    ///
    /// # Errors
    /// Fails if the regular expressions are too large in total.
    pub(super) fn build(
        mut self,
        merges_slashes: bool,
        finds_on_error: bool,
    ) -> Result<Locations, regex::Error> {
        let levels = &self.levels;
        // The innermost level comes first.
        self.regexes
            .sort_by_key(|(level, ..)| Reverse(levels[*level].len()));
        for prefixes in self.prefixes.values_mut() {
            // The inner one of the same path is chosen.
            prefixes.sort_by_key(|prefix| Reverse(prefix.depth));
            for prefix in prefixes {
                let has = |level: &usize| self.regexes.iter().any(|(own, ..)| own == level);
                prefix.levels.retain(has);
            }
        }
        let mut plain = Vec::new();
        let mut regexes = Vec::with_capacity(self.regexes.len());
        for (level, chain, leaf) in self.regexes {
            let expressions = chain
                .iter()
                .map(|location| expression(location, &mut plain));
            let mut outer: Vec<Expression> = expressions.flatten().collect();
            if let Some(own) = outer.pop() {
                regexes.push(RegexLocation {
                    level,
                    outer,
                    own,
                    leaf,
                });
            }
        }
        let mut lengths: Vec<usize> = self.prefixes.keys().map(|text| text.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Ok(Locations {
            exact: self.exact,
            prefixes: self.prefixes,
            lengths,
            plain: RegexSetBuilder::new(plain).unicode(false).build()?,
            regexes,
            merges_slashes,
            finds_on_error,
        })
    }
}

/// Compiles the expression of a location, and adds it to the plain ones if it is one.
fn expression(location: &Location, plain: &mut Vec<String>) -> Option<Expression> {
    let Location::Regex { text, ignores_case } = location else {
        return None;
    };
    let matcher = Matcher::compile(location).ok()??;
    let in_set = matches!(matcher, Matcher::Plain(_)).then(|| {
        plain.push(Location::pattern(text, *ignores_case));
        plain.len() - 1
    });
    Some(Expression { matcher, in_set })
}

impl Locations {
    pub(super) fn has_regexes(&self) -> bool {
        !self.regexes.is_empty()
    }

    /// Visits the locations that take `path`, the first choice first, until `visit` breaks. `holds`
    /// says whether the other conditions of a route hold: a route for which they do not is no
    /// choice, as if it were not there.
    pub(super) fn walk(
        &self,
        path: &[u8],
        holds: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(&Leaf, LocationHit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if path == b"*" {
            // `OPTIONS *` addresses the whole gateway, which only `/` takes.
            for prefix in self.prefixes.get(&b"/"[..]).into_iter().flatten() {
                visit(&prefix.leaf, self.hit(None, Some(1)))?;
            }
            return ControlFlow::Continue(());
        }
        let path = decoded(path, self.merges_slashes);
        for leaf in self.exact.get(&*path).into_iter().flatten() {
            visit(leaf, self.hit(None, None))?;
        }
        // Only the first prefix that holds is a choice; those after it are for searches that go on.
        let mut visited: Option<&[usize]> = None;
        for (prefix, length) in self.prefixes_of(&path) {
            if visited != Some(&prefix.levels) && holds(prefix.leaf.route) {
                visited = Some(&prefix.levels);
                self.walk_regexes(&path, &prefix.levels, visit)?;
            }
            visit(&prefix.leaf, self.hit(None, Some(length)))?;
        }
        match visited {
            Some([OUTERMOST]) => ControlFlow::Continue(()),
            _ => self.walk_regexes(&path, &[OUTERMOST], visit),
        }
    }

    fn hit<'a>(&self, matcher: Option<&'a Matcher>, prefix: Option<usize>) -> LocationHit<'a> {
        LocationHit {
            matcher,
            prefix,
            merges_slashes: self.merges_slashes,
        }
    }

    /// Returns the prefixes of a path and their lengths, the longest first.
    fn prefixes_of(&self, path: &[u8]) -> impl Iterator<Item = (&PrefixLocation, usize)> {
        let lengths = self.lengths.iter().copied();
        lengths.flat_map(move |length| {
            let text = path.get(..length);
            let prefixes = text.and_then(|text| self.prefixes.get(text));
            let prefixes = prefixes.into_iter().flatten();
            prefixes.map(move |prefix| (prefix, length))
        })
    }

    /// Visits the regular expressions of these levels that are found in a path.
    fn walk_regexes(
        &self,
        path: &[u8],
        levels: &[usize],
        visit: &mut dyn FnMut(&Leaf, LocationHit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if levels.is_empty() {
            return ControlFlow::Continue(());
        }
        // Listing the matches needs an allocation; checking for any match needs none.
        let plain = self.plain.is_match(path).then(|| self.plain.matches(path));
        let finds = |expression: &Expression| match (&expression.matcher, expression.in_set) {
            (Matcher::Around(regex), _) => {
                match regex.is_match(&String::from_utf8_lossy(path)) {
                    Err(_) if self.finds_on_error => ControlFlow::Continue(true),
                    // Neither found nor not found: no route may take the request.
                    Err(_) => ControlFlow::Break(()),
                    Ok(is_found) => ControlFlow::Continue(is_found),
                }
            }
            (Matcher::Plain(_), in_set) => {
                let matches = plain.as_ref().zip(in_set);
                let is_found = matches.is_some_and(|(matches, index)| matches.matched(index));
                ControlFlow::Continue(is_found)
            }
        };
        'regexes: for entry in &self.regexes {
            if !levels.contains(&entry.level) {
                continue;
            }
            for expression in entry.outer.iter().chain([&entry.own]) {
                if !finds(expression)? {
                    continue 'regexes;
                }
            }
            visit(&entry.leaf, self.hit(Some(&entry.own.matcher), None))?;
        }
        ControlFlow::Continue(())
    }
}

impl LocationHit<'_> {
    pub(super) fn is_regex(&self) -> bool {
        self.matcher.is_some()
    }

    /// Returns true for `location /`, which takes every path.
    pub(super) fn is_root(&self) -> bool {
        self.prefix == Some(1)
    }

    /// Sets the parameters of a match, as ranges of the original path.
    pub(super) fn fill(&self, path: &[u8], names: &ParamNames, params: &mut Params) {
        let text = decoded(path, self.merges_slashes);
        if let Some(matcher) = self.matcher {
            for (name, slot) in names.iter_of_paths() {
                if let Some(range) = matcher.range(&text, name) {
                    params.set(slot, range);
                }
            }
        }
        let rest = self.prefix.unwrap_or(text.len());
        let slash = usize::from(text.get(rest) == Some(&b'/'));
        params.set_rest(rest + slash..text.len());
        if matches!(text, Cow::Owned(_)) {
            let offsets = offsets(path, self.merges_slashes);
            params.move_to(|range| offsets[range.start]..offsets[range.end]);
        }
    }
}

/// Returns a path with its encoded bytes decoded, once.
fn decoded(path: &[u8], merges_slashes: bool) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', path).is_none() {
        return Cow::Borrowed(path);
    }
    let mut text = Vec::with_capacity(path.len());
    decode(path, merges_slashes, |byte, _| text.push(byte));
    Cow::Owned(text)
}

/// Returns the original offset of each byte of a decoded path, and that of its end.
fn offsets(path: &[u8], merges_slashes: bool) -> Vec<usize> {
    let mut offsets = Vec::with_capacity(path.len() + 1);
    decode(path, merges_slashes, |_, at| offsets.push(at));
    offsets.push(path.len());
    offsets
}

fn decode(path: &[u8], merges_slashes: bool, mut push: impl FnMut(u8, usize)) {
    let mut index = 0;
    let mut last = None;
    while let Some(&byte) = path.get(index) {
        let (decoded, length) = match encoded_byte(path, index) {
            Some(decoded) if byte == b'%' => (decoded, 3),
            _ => (byte, 1),
        };
        if !(merges_slashes && decoded == b'/' && last == Some(b'/')) {
            push(decoded, index);
        }
        last = Some(decoded);
        index += length;
    }
}
