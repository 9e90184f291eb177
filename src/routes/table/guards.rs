//! Guarded routes: those with filters that protect. No spelling of their paths leads around
//! them.
//!
//! Beside the table there is a second one, of the same routes with folded paths
//! ([`crate::base::spelling`]). A request whose own route lacks a guard that another route has
//! is looked up there, in every reading of its path: what the routes of readings ask of a
//! request is asked, and a route of a reading takes the request if it leads to the same app.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use pingora::http::RequestHeader;

use super::{Found, Hit, Literal, RouteTable};
use crate::{
    base::{
        spelling::{Reading, readings},
        target::is_plain,
    },
    routes::{Params, Target, predicate::Fit},
};

/// A path that is longer is looked at by its readings.
const LONGEST_PLAIN: usize = 256;

/// How a route is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarding {
    /// Numbers of what protects it, the same for what is written the same.
    pub guards: BTreeSet<u32>,
    /// Some of them say who may pass.
    pub has_access: bool,
    /// The upstream that its requests go to.
    pub upstream: Option<Arc<str>>,
    /// The app sees other paths than those of the route.
    pub rewrites: bool,
    /// It takes no other spelling of its paths (`spelling: exact`).
    pub is_exact: bool,
}

impl Guarding {
    /// It is guarded, in every spelling of its paths.
    pub(super) fn takes_spellings(&self) -> bool {
        !self.is_exact && !self.guards.is_empty()
    }

    /// Some requests reach an app by it past a guard of the other one.
    pub fn leads_past(&self, other: &Self) -> bool {
        self.upstream.is_some() && !other.guards.is_subset(&self.guards)
    }

    /// Its paths are those of the app that the other route's requests reach.
    fn is_of_app(&self, other: &Self) -> bool {
        self.upstream.is_some() && self.upstream == other.upstream && !self.rewrites
    }
}

/// What guards a request by the readings of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The route that takes the request: the one of the path as it came, or one of a reading
    /// whose app sees the same path.
    pub route: usize,
    /// The first route that guards a reading, and that reading.
    pub by: usize,
    pub reading: Box<[u8]>,
    /// Routes whose guards are asked as well.
    pub also: Vec<usize>,
}

/// What the search for guards goes by.
#[derive(Debug)]
pub(super) struct Guards {
    /// The same routes with folded paths.
    pub(super) folded: Box<RouteTable>,
    /// How each route is protected.
    of: Arc<[Guarding]>,
    /// Of each route: it reaches an app without some guard that another route has.
    lacking: Vec<bool>,
    /// A path that is written plainly may be another spelling of a guarded one too, which is
    /// not.
    has_odd_paths: bool,
}

/// A reading, and the routes that it is compared with.
struct Look {
    reading: Reading,
    /// The path as it came has no slash at its end, and this has one: only regular expressions
    /// could ask for it.
    only_regexes: bool,
}

impl Guards {
    /// `None` if nothing is guarded that could be asked for in another spelling. `odd`: the
    /// routes with paths that are spelled oddly themselves.
    pub(super) fn new(
        guarding: &Arc<[Guarding]>,
        odd: &[bool],
        folded: impl FnOnce() -> RouteTable,
    ) -> Option<Self> {
        let sets: BTreeSet<&BTreeSet<u32>> = guarding
            .iter()
            .filter(|route| route.takes_spellings())
            .map(|route| &route.guards)
            .collect();
        let lacks = |route: &Guarding| {
            route.upstream.is_some() && sets.iter().any(|set| !set.is_subset(&route.guards))
        };
        let lacking: Vec<bool> = guarding.iter().map(lacks).collect();
        let is_lacked = |route: &Guarding| {
            route.takes_spellings() && guarding.iter().any(|other| other.leads_past(route))
        };
        let mut odd = guarding.iter().zip(odd);
        let has_odd_paths = odd.any(|(route, is_odd)| *is_odd && is_lacked(route));
        lacking.contains(&true).then(|| Self {
            folded: Box::new(folded()),
            of: Arc::clone(guarding),
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
        let mut is_guarded = false;
        self.search(&folded, (target, head), literal, false, &mut |_| {
            is_guarded = true;
        });
        !is_guarded
    }

    /// Visits the routes that a reading of a path falls to and that have guards which
    /// `literal` lacks. It ends at the first route that is the app's for certain.
    fn search(
        &self,
        reading: &Target<'_>,
        (target, head): (&Target<'_>, &RequestHeader),
        literal: usize,
        only_regexes: bool,
        visit: &mut impl FnMut(&Hit<'_>),
    ) {
        let own = &self.of[literal];
        let _end = self.folded.walk(reading, &mut |hit: Hit<'_>| {
            let route = hit.leaf.route;
            if only_regexes && !matches!(hit.found, Found::Regex(_)) {
                return ControlFlow::Continue(());
            }
            let is_certain = match self.folded.routes[route].predicates.fit(target, head) {
                Fit::No(_) => return ControlFlow::Continue(()),
                Fit::Unclear { .. } => false,
                Fit::Yes => true,
            };
            if !self.has_all(literal, route) {
                visit(&hit);
            }
            // Redirects, and what other apps serve, say nothing of what this one takes the
            // path for.
            if is_certain && (route == literal || self.of[route].is_of_app(own)) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
    }

    fn has_all(&self, route: usize, other: usize) -> bool {
        self.of[other].guards.is_subset(&self.of[route].guards)
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

    /// Those of `others`, each once, that have guards which neither `route` has nor one
    /// before them.
    #[cold]
    pub(super) fn lacked(
        &self,
        route: usize,
        others: impl IntoIterator<Item = usize>,
    ) -> Vec<usize> {
        // Empty until the routes are told how they are protected.
        let Some(own) = self.guarding.get(route) else {
            return Vec::new();
        };
        let mut asked = own.guards.clone();
        let mut lacked = Vec::new();
        for other in others {
            let guards = &self.guarding[other].guards;
            if !guards.is_subset(&asked) {
                asked.extend(guards);
                lacked.push(other);
            }
        }
        lacked
    }

    /// The guards of a request by the readings of its path, if some app takes the path for one
    /// that is guarded. `params` are those of the route that takes the request then, and are
    /// left alone if that is the route of the path as it came.
    #[cold]
    pub fn guarded(
        &self,
        target: &Target<'_>,
        head: &RequestHeader,
        literal: &Literal,
        params: &mut Params,
    ) -> Option<Guarded> {
        let guards = self.guards.as_ref()?;
        // `OPTIONS *` has no path.
        if guards.is_plainly_unguarded(target, head, literal.route)
            || target.path.first() != Some(&b'/')
        {
            return None;
        }
        let own = &guards.of[literal.route];
        let mut first = None;
        let mut asked: Vec<usize> = Vec::new();
        let mut moved = None;
        for Look {
            reading,
            only_regexes,
        } in guards.looks(target.path)
        {
            let folded = Target {
                path: reading.path(),
                ..*target
            };
            let mut visit = |hit: &Hit<'_>| {
                let route = hit.leaf.route;
                if asked.contains(&route) {
                    return;
                }
                asked.push(route);
                first.get_or_insert_with(|| (route, Box::from(reading.path())));
                // With a rewrite the app gets what was made of the path as it was read.
                if moved.is_none() && guards.of[route].is_of_app(own) && !own.rewrites {
                    moved = Some(route);
                    *params = Params::default();
                    let names = &guards.folded.routes[route].names;
                    hit.fill(reading.path(), names, params);
                    params.move_to(|part| reading.origin(part));
                }
            };
            let of = (target, head);
            guards.search(&folded, of, literal.route, only_regexes, &mut visit);
        }
        let (by, reading) = first?;
        let route = moved.unwrap_or(literal.route);
        let others = asked.into_iter().chain(literal.also.iter().copied());
        let also = self.lacked(route, others.chain([literal.route]));
        Some(Guarded {
            route,
            by,
            reading,
            also,
        })
    }
}

impl Guards {
    /// The readings of a path, with a slash at their end too where that may count.
    fn looks(&self, path: &[u8]) -> Vec<Look> {
        let has_slash = matches!(path, [_, .., b'/']);
        let has_regexes = || {
            let mut groups = self.folded.groups.iter();
            groups.any(|group| group.regexes.is_some())
        };
        let readings = readings(path);
        let slashed: Vec<Look> = if has_slash || has_regexes() {
            let slashed = readings.iter().cloned().map(|reading| Look {
                reading: reading.with_slash(),
                only_regexes: !has_slash,
            });
            slashed.collect()
        } else {
            Vec::new()
        };
        let plain = readings.into_iter().map(|reading| Look {
            reading,
            only_regexes: false,
        });
        plain.chain(slashed).collect()
    }
}
