//! Host, then path, then predicates: the table that finds a request's route.
//!
//! A search visits host groups from the most to the least specific and, within each, the paths in
//! the order of [`Trie::walk`], then regular expressions, then `/*`. It continues until a route's
//! predicates hold too. [`RouteTable::explain`] is the same search, but does not stop.
//! The routes of a host may have locations instead of paths: these are visited in nginx's order.

mod beside;
mod build;
mod guards;
mod lacked_guards;

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use edgeway_base::expression::Undecided;
use pingora::http::RequestHeader;
use regex::bytes::{Regex, RegexSet};

use self::guards::Guards;
#[doc(hidden)]
pub use self::lacked_guards::work;
pub use self::{
    guards::{GuardSearchResult, RouteProtection},
    lacked_guards::{LackedGuards, LackedGuardsBy},
};

use super::{
    ParamNames, Params, Target,
    host_regex::HostRegex,
    locations::{LocationHit, Locations},
    pattern::HostPattern,
    predicate::{PredicateResult, Predicates},
    trie::{Captures, Leaf, Trie},
};

/// All routes of a gateway, compiled. Routes are indices into the list that was compiled.
#[derive(Debug, Default)]
pub struct RouteTable {
    groups: Vec<Group>,
    exact: HashMap<Box<str>, usize, ahash::RandomState>,
    /// Groups by the domain after the `*.`.
    below: HashMap<Box<str>, usize, ahash::RandomState>,
    /// Groups by the beginning before the `.*`.
    after: HashMap<Box<str>, usize, ahash::RandomState>,
    /// Groups by regular expression, in the order of the file.
    matching: Vec<(HostRegex, usize)>,
    any: Option<usize>,
    /// True for the table of spellings: what cannot be decided counts as found, so that its guards
    /// apply.
    is_folded: bool,
    routes: Vec<Route>,
    /// Protection of each route, which also matters for ambiguous values of a request, whatever its
    /// path.
    guarding: Arc<[RouteProtection]>,
    /// `None` if no path is guarded, or all are guarded alike.
    guards: Option<Guards>,
}

/// Data of a route that the search needs.
#[derive(Debug)]
struct Route {
    predicates: Predicates,
    names: ParamNames,
    /// Host patterns; any host if empty.
    hosts: Vec<HostPattern>,
}

/// The routes of one host pattern.
#[derive(Debug)]
struct Group {
    trie: Trie,
    regexes: Option<Regexes>,
    /// The routes that take every path.
    catch_all: Vec<Leaf>,
    /// The routes with a location; then the host has no others.
    locations: Option<Box<Locations>>,
}

/// The regular expressions of a group, in the order of comparison.
#[derive(Debug)]
struct Regexes {
    set: RegexSet,
    entries: Vec<RegexEntry>,
}

#[derive(Debug)]
struct RegexEntry {
    /// Present only if the expression has named groups: their values are the route's parameters.
    captures: Option<Regex>,
    leaves: Vec<Leaf>,
}

/// A route whose host and path match the request; its predicates are not checked yet.
struct RouteCandidate<'a> {
    leaf: &'a Leaf,
    matched: PathMatch<'a>,
    /// Regular expression that took the host, and the host.
    host: Option<(&'a HostRegex, &'a str)>,
}

enum PathMatch<'a> {
    Pattern(&'a Captures),
    Regex(Option<&'a Regex>),
    Location(LocationHit<'a>),
}

/// A route, and its result in a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredEntry {
    pub route: usize,
    pub why: RouteReason,
}

/// Reason why a route was chosen, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteReason {
    Matched,
    /// The route matches too, but this one comes first.
    LessSpecific(usize),
    /// Host and path match; this predicate does not hold.
    Predicate(String),
    Path,
    Host,
}

/// The route of a request by its original path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralMatch {
    pub route: usize,
    /// Other routes that take the request if the app uses another value of a repeated name, and
    /// that have guards which this route lacks.
    pub also: Vec<usize>,
}

impl RouteTable {
    /// Finds the most specific route that takes the request, and sets its parameter values.
    pub fn find(
        &self,
        target: &Target<'_>,
        request: &RequestHeader,
        params: &mut Params,
    ) -> Option<LiteralMatch> {
        let mut chosen = None;
        let mut also = Vec::new();
        let holds = self.holding(target, request);
        let _found = self.walk(target, &holds, &mut |hit| {
            let route = hit.leaf.route;
            let (is_taken, goes_on) = match self.routes[route].predicates.fit(target, request) {
                PredicateResult::No(_) => return ControlFlow::Continue(()),
                PredicateResult::Yes => (true, ControlFlow::Break(())),
                PredicateResult::Unclear { is_taken } => (is_taken, ControlFlow::Continue(())),
            };
            if is_taken && chosen.is_none() {
                hit.fill(target.path, &self.routes[route].names, params);
                chosen = Some(route);
            } else {
                also.push(route);
            }
            goes_on
        });
        let route = chosen?;
        if !also.is_empty() {
            also = self.lacked(route, also);
        }
        Some(LiteralMatch { route, also })
    }

    /// Returns the result for each route when this request is looked up: first those whose host and
    /// path match, in the order of comparison, then the others.
    pub fn explain(&self, target: &Target<'_>, request: &RequestHeader) -> Vec<ConsideredEntry> {
        let mut list = Vec::<ConsideredEntry>::new();
        let mut matched = None;
        let holds = self.holding(target, request);
        let _goes_through = self.walk(target, &holds, &mut |hit| {
            let route = hit.leaf.route;
            if list.iter().any(|considered| considered.route == route) {
                return ControlFlow::Continue(());
            }
            let fit = self.routes[route].predicates.fit(target, request);
            let why = match (fit, matched) {
                (PredicateResult::No(miss), _) => RouteReason::Predicate(miss.to_string()),
                (PredicateResult::Unclear { is_taken: false }, _) => {
                    RouteReason::Predicate("only some of several values match".to_owned())
                }
                (_, Some(first)) => RouteReason::LessSpecific(first),
                (_, None) => {
                    matched = Some(route);
                    RouteReason::Matched
                }
            };
            list.push(ConsideredEntry { route, why });
            ControlFlow::Continue(())
        });
        for (route, facts) in self.routes.iter().enumerate() {
            if list.iter().all(|considered| considered.route != route) {
                let fits = |host: &HostPattern| host.matches(target.host);
                let why = if facts.hosts.is_empty() || facts.hosts.iter().any(fits) {
                    RouteReason::Path
                } else {
                    RouteReason::Host
                };
                list.push(ConsideredEntry { route, why });
            }
        }
        list
    }

    /// Returns true if `is` holds for one of the routes that match this host and path, whatever
    /// their predicates.
    pub fn some_route(&self, target: &Target<'_>, is: impl Fn(usize) -> bool) -> bool {
        let flow = self.walk(target, &|_| true, &mut |hit| {
            if is(hit.leaf.route) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        flow.is_break()
    }

    /// Returns true if some route takes requests for this host, whatever their path. If no route
    /// names a host, that is every host.
    pub fn serves_host(&self, host: &str) -> bool {
        let is_below =
            |(dot, _): (usize, &str)| dot > 0 && self.below.contains_key(&host[dot + 1..]);
        let is_after = |(dot, _): (usize, &str)| self.after.contains_key(&host[..dot]);
        let has_none = self.exact.is_empty()
            && self.below.is_empty()
            && self.after.is_empty()
            && self.matching.is_empty();
        self.any.is_some()
            || has_none
            || self.exact.contains_key(host)
            || host.match_indices('.').any(is_below)
            || host.match_indices('.').any(is_after)
            || self
                .matching
                .iter()
                .any(|(regex, _)| regex.is_match(host) != Ok(false))
    }

    /// Returns the parameter names of a route.
    pub fn params_of(&self, route: usize) -> &ParamNames {
        &self.routes[route].names
    }

    /// Returns a test whether the predicates of a route hold for a request.
    fn holding(&self, target: &Target<'_>, request: &RequestHeader) -> impl Fn(usize) -> bool {
        move |route| match self.routes[route].predicates.fit(target, request) {
            PredicateResult::No(_) => false,
            PredicateResult::Yes => true,
            PredicateResult::Unclear { is_taken } => is_taken,
        }
    }

    fn walk(
        &self,
        target: &Target<'_>,
        holds: &dyn Fn(usize) -> bool,
        visit: &mut impl FnMut(RouteCandidate<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(&group) = self.exact.get(target.host) {
            self.groups[group].walk(target.path, holds, visit)?;
        }
        if !self.below.is_empty() {
            // The first byte is skipped: `.example.com` is not a host below `example.com`.
            for (dot, _) in target.host.match_indices('.').filter(|(dot, _)| *dot > 0) {
                if let Some(&group) = self.below.get(&target.host[dot + 1..]) {
                    self.groups[group].walk(target.path, holds, visit)?;
                }
            }
        }
        if !self.after.is_empty() {
            for (dot, _) in target.host.rmatch_indices('.') {
                if let Some(&group) = self.after.get(&target.host[..dot]) {
                    self.groups[group].walk(target.path, holds, visit)?;
                }
            }
        }
        for (regex, group) in &self.matching {
            let takes = match regex.is_match(target.host) {
                Ok(takes) => takes,
                Err(Undecided) if self.is_folded => true,
                // Neither this host nor another one: no route may take the request.
                Err(Undecided) => return ControlFlow::Break(()),
            };
            if takes {
                let host = Some((regex, target.host));
                self.groups[*group].walk(target.path, holds, &mut |hit: RouteCandidate<'_>| {
                    visit(RouteCandidate { host, ..hit })
                })?;
            }
        }
        match self.any {
            Some(group) => self.groups[group].walk(target.path, holds, visit),
            None => ControlFlow::Continue(()),
        }
    }
}

impl Group {
    fn walk(
        &self,
        path: &[u8],
        holds: &dyn Fn(usize) -> bool,
        visit: &mut impl FnMut(RouteCandidate<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(locations) = &self.locations {
            return locations.walk(path, holds, &mut |leaf, hit| {
                visit(RouteCandidate::new(leaf, PathMatch::Location(hit)))
            });
        }
        // `OPTIONS *` addresses the whole gateway, which only `/*` matches.
        if path.first() == Some(&b'/') {
            self.trie.walk(path, &mut |leaf, captures| {
                visit(RouteCandidate::new(leaf, PathMatch::Pattern(captures)))
            })?;
            if let Some(regexes) = &self.regexes {
                regexes.walk(path, visit)?;
            }
        }
        let captures = Captures::of_rest(path.len().min(1));
        for leaf in &self.catch_all {
            visit(RouteCandidate::new(leaf, PathMatch::Pattern(&captures)))?;
        }
        ControlFlow::Continue(())
    }
}

impl Regexes {
    fn walk(
        &self,
        path: &[u8],
        visit: &mut impl FnMut(RouteCandidate<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // Listing the matches needs an allocation; checking for any match needs none.
        if !self.set.is_match(path) {
            return ControlFlow::Continue(());
        }
        for index in self.set.matches(path) {
            let entry = &self.entries[index];
            for leaf in &entry.leaves {
                let matched = PathMatch::Regex(entry.captures.as_ref());
                visit(RouteCandidate::new(leaf, matched))?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl<'a> RouteCandidate<'a> {
    /// Returns a candidate whose host has no regular expression.
    fn new(leaf: &'a Leaf, matched: PathMatch<'a>) -> Self {
        Self {
            leaf,
            matched,
            host: None,
        }
    }

    fn is_regex(&self) -> bool {
        match &self.matched {
            PathMatch::Pattern(_) => false,
            PathMatch::Regex(_) => true,
            PathMatch::Location(hit) => hit.is_regex(),
        }
    }

    /// Returns true if its pattern is `/*`, or its location `/`.
    fn takes_every_path(&self, path: &[u8]) -> bool {
        match &self.matched {
            PathMatch::Pattern(captures) => captures.rest == 1 && path.len() > 1,
            PathMatch::Regex(_) => false,
            PathMatch::Location(hit) => hit.is_root(),
        }
    }

    fn fill(&self, path: &[u8], names: &ParamNames, params: &mut Params) {
        params.clear();
        if let Some((regex, host)) = self.host
            && names.hosts().next().is_some()
        {
            params.set_of_host(regex.values(host, names));
        }
        match &self.matched {
            PathMatch::Location(hit) => hit.fill(path, names, params),
            PathMatch::Pattern(captures) => {
                for (slot, &(start, end)) in self.leaf.slots.iter().zip(captures.ranges()) {
                    params.set(*slot, start..end);
                }
                params.set_rest(captures.rest..path.len());
            }
            PathMatch::Regex(regex) => {
                let Some(captures) = regex.and_then(|regex| regex.captures(path)) else {
                    return;
                };
                for (name, slot) in names.iter_of_paths() {
                    if let Some(value) = captures.name(name) {
                        params.set(slot, value.range());
                    }
                }
            }
        }
    }
}
