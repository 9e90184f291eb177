//! Guarded routes: those with filters that protect. No spelling of their paths leads around
//! them.
//!
//! Beside the table there is a second one, of the same routes with folded paths
//! ([`crate::base::spelling`]). A request whose own route lacks a guard that another route has
//! is looked up there, in every reading of its path: a reading that falls to a route with a
//! guard of its own makes the request one of that route.

use std::{collections::BTreeSet, ops::ControlFlow};

use pingora::http::RequestHeader;

use super::{Hit, RouteTable};
use crate::{
    base::{
        spelling::{Reading, readings},
        target::is_plain,
    },
    routes::{Params, Target},
};

/// A path that is longer is looked at by its readings.
const LONGEST_PLAIN: usize = 256;

/// How a route is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarding {
    /// Numbers of what protects it, the same for what is written the same.
    pub guards: BTreeSet<u32>,
    /// Its requests go to an app.
    pub reaches_app: bool,
    /// It takes no other spelling of its paths (`spelling: exact`).
    pub is_exact: bool,
}

impl Guarding {
    /// It is guarded, in every spelling of its paths.
    pub(super) fn takes_spellings(&self) -> bool {
        !self.is_exact && !self.guards.is_empty()
    }
}

/// A route that takes a request by a reading of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    pub route: usize,
    /// The path as it was read.
    pub reading: Box<[u8]>,
    /// Routes whose guards are asked as well: that of the path as it came, and those of other
    /// readings.
    pub also: Vec<usize>,
}

/// What the search for guards goes by.
#[derive(Debug)]
pub(super) struct Guards {
    /// The same routes with folded paths.
    pub(super) folded: Box<RouteTable>,
    /// Those of each route.
    of: Vec<BTreeSet<u32>>,
    /// Of each route: it reaches an app without some guard that another route has.
    lacking: Vec<bool>,
    /// A path that is written plainly may be another spelling of a guarded one too, which is
    /// not.
    has_odd_paths: bool,
}

impl Guards {
    /// `None` if nothing is guarded that could be asked for in another spelling.
    pub(super) fn new(
        guarding: &[Guarding],
        has_odd_paths: bool,
        folded: impl FnOnce() -> RouteTable,
    ) -> Option<Self> {
        let sets: BTreeSet<&BTreeSet<u32>> = guarding
            .iter()
            .filter(|route| route.takes_spellings())
            .map(|route| &route.guards)
            .collect();
        let lacks = |route: &Guarding| {
            route.reaches_app && sets.iter().any(|set| !set.is_subset(&route.guards))
        };
        let lacking: Vec<bool> = guarding.iter().map(lacks).collect();
        lacking.contains(&true).then(|| Self {
            folded: Box::new(folded()),
            of: guarding.iter().map(|route| route.guards.clone()).collect(),
            lacking,
            has_odd_paths,
        })
    }

    /// The same of a path with capitals and nothing else that apps fold, as most are that
    /// come here (names of files by their hashes): it has one reading, and needs no memory.
    fn is_plainly_unguarded(
        &self,
        target: &Target<'_>,
        head: &RequestHeader,
        literal: usize,
    ) -> bool {
        let mut room = [0; LONGEST_PLAIN];
        let Some(small) = room.get_mut(..target.path.len()) else {
            return false;
        };
        if !is_plain(target.path) || self.has_odd_paths {
            return false;
        }
        small.copy_from_slice(target.path);
        small.make_ascii_lowercase();
        let folded = Target {
            path: small,
            ..*target
        };
        let found = self.folded.walk(&folded, &mut |hit: Hit<'_>| {
            let route = hit.leaf.route;
            let predicates = &self.folded.routes[route].predicates;
            match predicates.miss(target, head) {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(route),
            }
        });
        found
            .break_value()
            .is_none_or(|route| self.has_all(literal, route))
    }

    fn has_all(&self, route: usize, other: usize) -> bool {
        self.of[other].is_subset(&self.of[route])
    }
}

impl RouteTable {
    /// Whether another route may have to guard a request of this one, whose path has other
    /// spellings or not.
    #[inline]
    pub fn lacks_guards(&self, route: usize, has_spellings: bool) -> bool {
        let guards = self.guards.as_ref();
        guards
            .is_some_and(|guards| (has_spellings || guards.has_odd_paths) && guards.lacking[route])
    }

    /// The route that guards a request which is one of `literal` by its path as it came.
    /// `params` are its own then, and are left alone if there is none.
    #[cold]
    pub fn guarded(
        &self,
        target: &Target<'_>,
        head: &RequestHeader,
        literal: usize,
        params: &mut Params,
    ) -> Option<Guarded> {
        let guards = self.guards.as_ref()?;
        if guards.is_plainly_unguarded(target, head, literal) {
            return None;
        }
        // `OPTIONS *` has no path.
        if target.path.first() != Some(&b'/') {
            return None;
        }
        let mut found: Option<Guarded> = None;
        let mut readings = readings(target.path);
        if guards
            .folded
            .groups
            .iter()
            .any(|group| group.regexes.is_some())
        {
            let slashed: Vec<Reading> = readings.iter().cloned().map(Reading::with_slash).collect();
            readings.extend(slashed);
        }
        for reading in readings {
            let mut own = Params::default();
            let Some(route) = guards.folded.find_reading(target, head, &reading, &mut own) else {
                continue;
            };
            if guards.has_all(literal, route) {
                continue;
            }
            match &mut found {
                None => {
                    *params = own;
                    found = Some(Guarded {
                        route,
                        reading: reading.path().into(),
                        also: Vec::new(),
                    });
                }
                Some(found) => {
                    let known = |known: &usize| guards.has_all(*known, route);
                    if !known(&found.route) && !found.also.iter().any(known) {
                        found.also.push(route);
                    }
                }
            }
        }
        if let Some(found) = &mut found
            && !guards.has_all(found.route, literal)
        {
            found.also.push(literal);
        }
        found
    }

    /// As [`RouteTable::find`], of the folded table: values are where the path as it came
    /// has them.
    fn find_reading(
        &self,
        target: &Target<'_>,
        head: &RequestHeader,
        reading: &Reading,
        params: &mut Params,
    ) -> Option<usize> {
        let folded = Target {
            path: reading.path(),
            ..*target
        };
        let found = self.walk(&folded, &mut |hit: Hit<'_>| {
            let route = hit.leaf.route;
            if self.routes[route].predicates.miss(target, head).is_some() {
                return ControlFlow::Continue(());
            }
            hit.fill(reading.path(), &self.routes[route].names, params);
            ControlFlow::Break(route)
        });
        params.move_to(|part| reading.origin(part));
        found.break_value()
    }
}
