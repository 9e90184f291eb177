//! Locations as in nginx: an exact path, the longest prefix, or the first regular expression.
//!
//! A search prefers an exact path, then the longest prefix if it is marked `^~`, then the first
//! regular expression in the order of the file, then that prefix. It compares decoded paths, as
//! nginx does, so a regular expression sees the characters and not their encoding.

use std::{borrow::Cow, collections::HashMap, fmt, ops::ControlFlow, ops::Range};

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::{ParamNames, Params, RouteProblem, trie::Leaf};
use crate::base::target::encoded_byte;

/// Steps that a regular expression with look-around may take before the request is refused: its
/// time may grow with the square of a path's length, or worse.
const MAX_STEPS: usize = 20_000;

/// A location as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Exact(Vec<u8>),
    Prefix {
        text: Vec<u8>,
        /// True with `^~`: regular expressions are not considered.
        is_final: bool,
    },
    Regex {
        text: String,
        ignores_case: bool,
    },
}

impl Location {
    pub(super) fn parse(text: &str) -> Result<Self, RouteProblem> {
        let text = text.trim();
        let regex = |regex: &str, ignores_case| {
            let regex = regex.trim_start();
            if regex.is_empty() {
                return Err(RouteProblem::new(
                    format!("invalid location `{text}`: it has no regular expression"),
                    "write one behind the `~`, such as `~ \\.php$`",
                ));
            }
            let location = Self::Regex {
                text: regex.to_owned(),
                ignores_case,
            };
            Matcher::of(&location).map(|_| location)
        };
        if let Some(rest) = text.strip_prefix("~*") {
            return regex(rest, true);
        }
        if let Some(rest) = text.strip_prefix('~') {
            return regex(rest, false);
        }
        if let Some(rest) = text.strip_prefix("^~") {
            return Ok(Self::Prefix {
                text: plain(text, rest.trim_start())?,
                is_final: true,
            });
        }
        if let Some(rest) = text.strip_prefix('=') {
            return Ok(Self::Exact(plain(text, rest.trim_start())?));
        }
        Ok(Self::Prefix {
            text: plain(text, text)?,
            is_final: false,
        })
    }

    pub(super) fn is_regex(&self) -> bool {
        matches!(self, Self::Regex { .. })
    }

    pub(super) fn is_prefix(&self) -> bool {
        matches!(self, Self::Prefix { .. })
    }

    /// Returns the names of its groups.
    pub(super) fn names(&self) -> Vec<String> {
        match Matcher::of(self) {
            Ok(Some(matcher)) => matcher.names(),
            _ => Vec::new(),
        }
    }

    /// Returns its forms in every reading of a path: in lower case and without a final slash.
    pub(super) fn folded(&self) -> Vec<Self> {
        let small = |text: &[u8]| text.to_ascii_lowercase();
        let trimmed = |text: &[u8]| match text {
            [start @ .., b'/'] if !start.is_empty() => Some(small(start)),
            _ => None,
        };
        match self {
            Self::Exact(text) => {
                let shorter = trimmed(text).map(Self::Exact);
                shorter
                    .into_iter()
                    .chain([Self::Exact(small(text))])
                    .collect()
            }
            Self::Prefix { text, is_final } => {
                let same = Self::Prefix {
                    text: small(text),
                    is_final: *is_final,
                };
                let shorter = trimmed(text).map(Self::Exact);
                shorter.into_iter().chain([same]).collect()
            }
            Self::Regex { text, .. } => vec![Self::Regex {
                text: text.clone(),
                ignores_case: true,
            }],
        }
    }

    /// Returns the pattern with its flags.
    fn pattern(text: &str, ignores_case: bool) -> String {
        let flag = if ignores_case { "(?i)" } else { "" };
        format!("{flag}{text}")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "= {}", String::from_utf8_lossy(text)),
            Self::Prefix { text, is_final } => {
                let mark = if *is_final { "^~ " } else { "" };
                write!(f, "{mark}{}", String::from_utf8_lossy(text))
            }
            Self::Regex { text, ignores_case } => {
                write!(f, "~{} {text}", if *ignores_case { "*" } else { "" })
            }
        }
    }
}

/// Checks that requests can have this path once it is decoded.
fn plain(whole: &str, path: &str) -> Result<Vec<u8>, RouteProblem> {
    let refuse = |why: &str, help: String| {
        Err(RouteProblem::new(
            format!("invalid location `{whole}`: {why}"),
            help,
        ))
    };
    if path.starts_with('@') {
        return refuse(
            "a name with `@` is not a path",
            "write the route that it stands for".to_owned(),
        );
    }
    if !path.starts_with('/') {
        return refuse(
            "it does not begin with `/`",
            format!("write `/{path}`, or `~ {path}` for a regular expression"),
        );
    }
    if let Some((before, _)) = path.split_once('?') {
        return refuse(
            "it has a query",
            format!("write `{before}` and the query in `query`"),
        );
    }
    if path.contains('%') {
        return refuse(
            "locations are compared with decoded paths",
            "write the characters themselves, such as a space for `%20`".to_owned(),
        );
    }
    let is_dot = |segment: &str| segment == "." || segment == "..";
    if path.contains("//") || path.split('/').any(is_dot) {
        return refuse(
            "empty and dot segments are removed before paths are compared",
            "write the path without them".to_owned(),
        );
    }
    Ok(path.as_bytes().to_vec())
}

/// A compiled regular expression.
#[derive(Debug)]
pub(super) enum Matcher {
    /// In linear time.
    Plain(Regex),
    /// With look-around or back-references, in a limited number of steps.
    Around(Box<fancy_regex::Regex>),
}

impl Matcher {
    /// Compiles the expression of a location; `None` if it has none.
    fn of(location: &Location) -> Result<Option<Self>, RouteProblem> {
        let Location::Regex { text, ignores_case } = location else {
            return Ok(None);
        };
        let pattern = Location::pattern(text, *ignores_case);
        let problem = match super::regex(&pattern) {
            Ok(regex) => return Ok(Some(Self::Plain(regex))),
            Err(problem) => problem,
        };
        let around = fancy_regex::RegexBuilder::new(&pattern)
            .backtrack_limit(MAX_STEPS)
            .build();
        match around {
            Ok(regex) => Ok(Some(Self::Around(Box::new(regex)))),
            Err(_) => Err(RouteProblem {
                help: "the syntax is that of Rust's `regex`, with look-around and back-references"
                    .to_owned(),
                ..problem
            }),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Plain(regex) => named(regex.capture_names()),
            Self::Around(regex) => named(regex.capture_names()),
        }
    }

    /// Returns the range of a group in the path.
    fn range(&self, path: &[u8], name: &str) -> Option<Range<usize>> {
        match self {
            Self::Plain(regex) => Some(regex.captures(path)?.name(name)?.range()),
            Self::Around(regex) => {
                // A path that is not UTF-8 has other offsets once it is converted.
                let text = std::str::from_utf8(path).ok()?;
                Some(regex.captures(text).ok()??.name(name)?.range())
            }
        }
    }
}

fn named<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<String> {
    names.flatten().map(str::to_owned).collect()
}

/// The locations of a host.
#[derive(Debug)]
pub(super) struct Locations {
    exact: HashMap<Box<[u8]>, Vec<Leaf>, ahash::RandomState>,
    prefixes: HashMap<Box<[u8]>, Vec<(Leaf, bool)>, ahash::RandomState>,
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
struct RegexLocation {
    matcher: Matcher,
    /// Position in the set of plain expressions.
    in_set: Option<usize>,
    leaf: Leaf,
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
    prefixes: HashMap<Box<[u8]>, Vec<(Leaf, bool)>, ahash::RandomState>,
    regexes: Vec<(String, Matcher, Leaf)>,
}

impl LocationsBuilder {
    /// Adds a location; regular expressions are added in the order of the file.
    pub(super) fn push(&mut self, location: &Location, leaf: Leaf) {
        match location {
            Location::Exact(text) => {
                let leaves = self.exact.entry(text.as_slice().into()).or_default();
                leaves.push(leaf);
            }
            Location::Prefix { text, is_final } => {
                let leaves = self.prefixes.entry(text.as_slice().into()).or_default();
                leaves.push((leaf, *is_final));
            }
            Location::Regex { text, ignores_case } => {
                if let Ok(Some(matcher)) = Matcher::of(location) {
                    let pattern = Location::pattern(text, *ignores_case);
                    self.regexes.push((pattern, matcher, leaf));
                }
            }
        }
    }

    /// Compiles the locations.
    ///
    /// # Errors
    /// Fails if the regular expressions are too large in total.
    pub(super) fn build(
        self,
        merges_slashes: bool,
        finds_on_error: bool,
    ) -> Result<Locations, regex::Error> {
        let mut plain = Vec::new();
        let mut regexes = Vec::with_capacity(self.regexes.len());
        for (pattern, matcher, leaf) in self.regexes {
            let in_set = matches!(matcher, Matcher::Plain(_)).then(|| {
                plain.push(pattern);
                plain.len() - 1
            });
            regexes.push(RegexLocation {
                matcher,
                in_set,
                leaf,
            });
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
            for (leaf, _) in self.prefixes.get(&b"/"[..]).into_iter().flatten() {
                visit(leaf, self.hit(None, Some(1)))?;
            }
            return ControlFlow::Continue(());
        }
        let path = decoded(path, self.merges_slashes);
        for leaf in self.exact.get(&*path).into_iter().flatten() {
            visit(leaf, self.hit(None, None))?;
        }
        let best = self.prefixes_of(&path).find(|(leaf, ..)| holds(leaf.route));
        if let Some((leaf, true, length)) = best {
            visit(leaf, self.hit(None, Some(length)))?;
        }
        self.walk_regexes(&path, visit)?;
        for (leaf, _, length) in self.prefixes_of(&path) {
            visit(leaf, self.hit(None, Some(length)))?;
        }
        ControlFlow::Continue(())
    }

    fn hit<'a>(&self, matcher: Option<&'a Matcher>, prefix: Option<usize>) -> LocationHit<'a> {
        LocationHit {
            matcher,
            prefix,
            merges_slashes: self.merges_slashes,
        }
    }

    /// Returns the prefixes of a path, the longest first.
    fn prefixes_of(&self, path: &[u8]) -> impl Iterator<Item = (&Leaf, bool, usize)> {
        let lengths = self.lengths.iter().copied();
        lengths.flat_map(move |length| {
            let text = path.get(..length);
            let leaves = text.and_then(|text| self.prefixes.get(text));
            let leaves = leaves.into_iter().flatten();
            leaves.map(move |(leaf, is_final)| (leaf, *is_final, length))
        })
    }

    fn walk_regexes(
        &self,
        path: &[u8],
        visit: &mut dyn FnMut(&Leaf, LocationHit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // Listing the matches needs an allocation; checking for any match needs none.
        let plain = self.plain.is_match(path).then(|| self.plain.matches(path));
        for entry in &self.regexes {
            let takes = match (&entry.matcher, entry.in_set) {
                (Matcher::Around(regex), _) => {
                    match regex.is_match(&*String::from_utf8_lossy(path)) {
                        Ok(takes) => takes,
                        Err(_) if self.finds_on_error => true,
                        // Neither found nor not found: no route may take the request.
                        Err(_) => return ControlFlow::Break(()),
                    }
                }
                (Matcher::Plain(_), in_set) => {
                    let matches = plain.as_ref().zip(in_set);
                    matches.is_some_and(|(matches, index)| matches.matched(index))
                }
            };
            if takes {
                visit(&entry.leaf, self.hit(Some(&entry.matcher), None))?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl LocationHit<'_> {
    pub(super) fn is_regex(&self) -> bool {
        self.matcher.is_some()
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
    let mut at = 0;
    let mut last = None;
    while let Some(&byte) = path.get(at) {
        let (decoded, length) = match encoded_byte(path, at) {
            Some(decoded) if byte == b'%' => (decoded, 3),
            _ => (byte, 1),
        };
        if !(merges_slashes && decoded == b'/' && last == Some(b'/')) {
            push(decoded, at);
        }
        last = Some(decoded);
        at += length;
    }
}
