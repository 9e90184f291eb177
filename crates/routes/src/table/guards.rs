//! Guarded routes: routes with protecting filters. No spelling of their paths bypasses them.
//!
//! Next to the table there is a second one, of the same routes with folded paths
//! ([`edgeway_base::spelling`]). If a request's own route lacks a guard that another route has, the
//! request is looked up there, in every reading of its path: the guards of the routes found apply
//! to the request, and a route of a reading takes the request if it leads to the same app.

use std::{collections::BTreeSet, iter, ops::ControlFlow, sync::Arc};

use edgeway_base::{
    query::{form_decoded, query_of, values},
    spelling::{Reading, is_image, readings},
    target::is_plain,
};
use pingora::http::RequestHeader;

use super::{LackedGuards, LiteralMatch, RouteCandidate, RouteTable, lacked_guards::work};
use crate::{Params, Target, predicate::PredicateResult};

/// Length limit of the fast path; a longer path is checked by its readings.
const MAX_PLAIN_LEN: usize = 256;

/// Protection of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property")]
pub struct RouteProtection {
    /// Numbers of its guards; equal filters have equal numbers.
    pub guards: BTreeSet<u32>,
    /// True if some guards control access.
    pub has_access: bool,
    /// Upstream that its requests go to.
    pub upstream: Option<Arc<str>>,
    /// True if a filter may choose another one.
    pub chooses: bool,
    /// Name of the folder whose files it serves in place of the upstream.
    pub files: Option<Arc<str>>,
    /// True if it may lead requests to a route or app by their name: with their paths, and past the
    /// guards of these.
    pub leads_on: bool,
    /// Numbers of its filters that may refuse, and protect nothing.
    pub open: BTreeSet<u32>,
    /// True if the app sees other paths than those of the route.
    pub rewrites: bool,
    /// True if the route takes no other spelling of its paths (`spelling: exact`).
    pub is_exact: bool,
}

impl RouteProtection {
    /// Returns true if the route is guarded in every spelling of its paths.
    pub(super) fn takes_spellings(&self) -> bool {
        !self.is_exact && !self.guards.is_empty()
    }

    /// Returns true if some app may get the route's requests.
    fn reaches_apps(&self) -> bool {
        self.upstream.is_some() || self.leads_on
    }

    /// Returns true if the route's paths are those of the app behind the other route.
    fn is_of_app(&self, other: &Self) -> bool {
        !self.rewrites
            && self
                .apps()
                .any(|own| other.apps().any(|other| own == other))
    }

    /// Returns the names of its upstream and of the folder of its files.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<str>> {
        self.upstream.iter().chain(&self.files)
    }
}

/// Guards of a request that result from the readings of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSearchResult {
    /// The route that takes the request: the route of the original path, or of a reading if its app
    /// sees the same path.
    pub route: usize,
    /// The first route that guards a reading, which is in `reading`.
    pub by: usize,
    pub reading: Box<[u8]>,
    /// Routes whose guards apply as well.
    pub also: Vec<usize>,
}

/// Data for the search of guards.
#[derive(Debug)]
pub(super) struct Guards {
    /// The same routes with folded paths.
    pub(super) folded: Box<RouteTable>,
    /// Protection of each route.
    of: Arc<[RouteProtection]>,
    /// For each route, true if it reaches an app without some guard that another route has.
    lacking: Vec<bool>,
    /// True if a plain path may be a spelling of a guarded path that is not plain itself.
    has_odd_paths: bool,
}

/// A reading, and the kinds of routes to compare it with.
struct GuardReading {
    reading: Reading,
    /// True if the reading has a trailing slash that the original path lacks: only regular
    /// expressions could match it.
    only_regexes: bool,
}

impl Guards {
    /// Builds the search data; `None` if no guarded path could be requested in another spelling.
    /// `odd`: true for routes whose own paths are not plain.
    pub(super) fn new(
        guarding: &Arc<[RouteProtection]>,
        odd: &[bool],
        folded: impl FnOnce() -> RouteTable,
    ) -> Option<Self> {
        let taking = guarding.iter().filter(|route| route.takes_spellings());
        let all: BTreeSet<u32> = taking.flat_map(|route| &route.guards).copied().collect();
        let lacks = |route: &RouteProtection| {
            work::count();
            route.reaches_apps() && !all.is_subset(&route.guards)
        };
        let lacking: Vec<bool> = guarding.iter().map(lacks).collect();
        let mut open = LackedGuards::default();
        for (number, route) in guarding.iter().enumerate() {
            if route.reaches_apps() {
                open.push(number, &route.guards);
            }
        }
        let is_lacked = |route: &RouteProtection| {
            route.takes_spellings() && open.first_without(&route.guards).is_some()
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

    /// Checks the common case fast: a path with capitals and nothing else that apps fold, such as
    /// file names with hashes. It has one reading, and needs no allocation.
    fn is_plainly_unguarded(
        &self,
        target: &Target<'_>,
        request: &RequestHeader,
        literal: usize,
    ) -> bool {
        let mut room = [0; MAX_PLAIN_LEN];
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
        self.search(&folded, (target, request), literal, false, &mut |_| {
            is_guarded = true;
        });
        !is_guarded
    }

    /// Visits the routes that match a reading of a path and that have guards which `literal` lacks.
    /// Ends at the first route that certainly belongs to the app.
    fn search(
        &self,
        reading: &Target<'_>,
        (target, head): (&Target<'_>, &RequestHeader),
        literal: usize,
        only_regexes: bool,
        visit: &mut impl FnMut(&RouteCandidate<'_>),
    ) {
        let literal_guards = &self.of[literal];
        let holds = |route: usize| {
            let fit = self.folded.routes[route].predicates.fit(target, head);
            !matches!(fit, PredicateResult::No(_))
        };
        let mut is_of_host = false;
        let _end = self
            .folded
            .walk(reading, &holds, &mut |hit: RouteCandidate<'_>| {
                let route = hit.leaf.route;
                // The original path's own route takes the reading too, before what comes after it.
                // A route that takes no other spelling takes its own requests only.
                let is_exact = self.of[route].is_exact && !self.of[route].guards.is_empty();
                let is_skipped = only_regexes && !hit.is_regex() || is_exact;
                if is_skipped && route != literal {
                    return ControlFlow::Continue(());
                }
                let is_certain = match self.folded.routes[route].predicates.fit(target, head) {
                    PredicateResult::No(_) => return ControlFlow::Continue(()),
                    PredicateResult::Unclear { .. } => false,
                    PredicateResult::Yes => true,
                };
                // A route that refuses all other hosts protects nothing of a host that has a route
                // for every path.
                if hit.takes_every_path(reading.path) {
                    let is_for_all = self.folded.routes[route].hosts.is_empty();
                    if is_of_host && is_for_all && !self.of[route].reaches_apps() {
                        return ControlFlow::Continue(());
                    }
                    is_of_host |= is_certain && !is_for_all;
                }
                if !is_skipped && !self.has_all(literal, route) {
                    visit(&hit);
                }
                // Redirects and routes of other apps do not tell how this app treats the path.
                if is_certain && (route == literal || self.of[route].is_of_app(literal_guards)) {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
    }

    fn has_all(&self, route: usize, other: usize) -> bool {
        self.of[other].guards.is_subset(&self.of[route].guards)
    }

    /// Returns true if this route takes the path in its other form, with or without a slash at its
    /// end, and the route of the original path comes before it there: it is open on purpose.
    fn is_behind(
        &self,
        form: &Target<'_>,
        (target, head): (&Target<'_>, &RequestHeader),
        literal: usize,
        route: usize,
    ) -> bool {
        let holds = |route: usize| {
            let fit = self.folded.routes[route].predicates.fit(target, head);
            matches!(fit, PredicateResult::Yes)
        };
        let (mut is_behind, mut is_found) = (false, false);
        let _end = self
            .folded
            .walk(form, &holds, &mut |hit: RouteCandidate<'_>| {
                let taken = hit.leaf.route;
                is_behind |= taken == literal && holds(taken);
                is_found = taken == route;
                if is_found {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
        is_behind && is_found
    }
}

impl RouteTable {
    /// Returns true if another route may have to guard a request of this one. `has_spellings` is
    /// that of the request's path.
    #[inline]
    pub fn lacks_guards(&self, route: usize, has_spellings: bool) -> bool {
        let guards = self.guards.as_ref();
        guards
            .is_some_and(|guards| (has_spellings || guards.has_odd_paths) && guards.lacking[route])
    }

    /// Returns the routes of `others`, each once, that have guards which neither `route` nor an
    /// earlier one of them has.
    #[cold]
    pub(super) fn lacked(
        &self,
        route: usize,
        others: impl IntoIterator<Item = usize>,
    ) -> Vec<usize> {
        // Empty until the protection of the routes is set.
        let Some(guarding) = self.guarding.get(route) else {
            return Vec::new();
        };
        let mut covered = guarding.guards.clone();
        let mut lacked = Vec::new();
        for other in others {
            let guards = &self.guarding[other].guards;
            if !guards.is_subset(&covered) {
                covered.extend(guards);
                lacked.push(other);
            }
        }
        lacked
    }

    /// Returns the guards of a request by the readings of its path, if some app treats the path as
    /// a guarded one. `actions` are the pages that have the server action of the request, `pages` other
    /// paths of its page; without these, each guard applies. `params` are set to those of
    /// the route that takes the request, and stay unchanged if that is the route of the original path.
    #[cold]
    pub fn guarded(
        &self,
        target: &Target<'_>,
        request: &RequestHeader,
        literal: &LiteralMatch,
        (actions, pages): (&[Box<[u8]>], Option<&[String]>),
        params: &mut Params,
    ) -> Option<GuardSearchResult> {
        let guards = self.guards.as_ref()?;
        let is_open = |path| {
            let target = Target { path, ..*target };
            guards.is_plainly_unguarded(&target, request, literal.route)
        };
        // What an open page has too is open.
        let action = actions
            .first()
            .filter(|_| !actions.iter().any(|page| is_open(page)));
        // `OPTIONS *` has no path.
        let is_alone = action.is_none() && pages.is_some_and(<[_]>::is_empty);
        if is_alone && is_open(target.path) || target.path.first() != Some(&b'/') {
            return None;
        }
        let own = &guards.of[literal.route];
        let known = pages;
        let pages = || known.into_iter().flatten().map(String::as_bytes);
        let mut optimizers = iter::once(target.path).chain(pages());
        let source = optimizers.find_map(|path| image_source(path, request));
        let sources = source
            .as_deref()
            .into_iter()
            .chain(action.map(|page| &**page))
            .chain(pages());
        let paths = iter::once(target.path).chain(sources);
        let looks =
            paths.flat_map(|path| guards.looks(path).into_iter().map(move |look| (path, look)));
        let mut first = None;
        let mut routes: Vec<usize> = Vec::new();
        let mut moved = None;
        for (path, look) in looks {
            let GuardReading {
                reading,
                only_regexes,
            } = look;
            let has_slash = matches!(path, [_, .., b'/']);
            let folded = Target {
                path: reading.path(),
                ..*target
            };
            // The path with a slash at its end as without one, or the other way round.
            let form = match reading.path() {
                [start @ .., b'/'] if !start.is_empty() && !has_slash => Some(start.to_vec()),
                [_, .., b'/'] => None,
                path => has_slash.then(|| [path, b"/"].concat()),
            };
            let form = form.as_deref().map(|path| Target { path, ..*target });
            let mut visit = |hit: &RouteCandidate<'_>| {
                let route = hit.leaf.route;
                let is_open = |form: &Target<'_>| {
                    guards.is_behind(form, (target, request), literal.route, route)
                };
                if routes.contains(&route) || form.as_ref().is_some_and(is_open) {
                    return;
                }
                routes.push(route);
                first.get_or_insert_with(|| (route, Box::from(reading.path())));
                // With a rewrite, the app gets a path derived from the original one.
                let is_moved = guards.of[route].is_of_app(own) && !own.rewrites;
                if moved.is_none() && is_moved && path == target.path {
                    moved = Some(route);
                    *params = Params::default();
                    let names = &guards.folded.routes[route].names;
                    hit.fill(reading.path(), names, params);
                    params.move_to(|part| reading.origin(part));
                }
            };
            let of = (target, request);
            guards.search(&folded, of, literal.route, only_regexes, &mut visit);
        }
        if known.is_none() {
            routes.extend(0..guards.of.len());
            let mut all = routes.iter();
            let lacked = all.find(|route| !guards.has_all(literal.route, **route));
            first = first.or_else(|| Some((*lacked?, target.path.into())));
        }
        let (by, reading) = first?;
        let route = moved.unwrap_or(literal.route);
        let others = routes.into_iter().chain(literal.also.iter().copied());
        let also = self.lacked(route, others.chain([literal.route]));
        Some(GuardSearchResult {
            route,
            by,
            reading,
            also,
        })
    }
}

/// Returns the path of an image's source, which the optimizer of Next.js fetches past the routes.
fn image_source(path: &[u8], request: &RequestHeader) -> Option<Vec<u8>> {
    let query = query_of(request.raw_path()).filter(|_| is_image(path))?;
    let url = form_decoded(values(query, b"url").next()?);
    url.starts_with(b"/").then(|| url.into_owned())
}

impl Guards {
    /// Returns the readings of a path, and their forms with a trailing slash where that may matter.
    fn looks(&self, path: &[u8]) -> Vec<GuardReading> {
        let has_slash = matches!(path, [_, .., b'/']);
        let has_regexes = || {
            let mut groups = self.folded.groups.iter();
            groups.any(|group| {
                let locations = group.locations.as_ref();
                group.regexes.is_some() || locations.is_some_and(|own| own.has_regexes())
            })
        };
        let readings = readings(path);
        let slashed: Vec<GuardReading> = if has_slash || has_regexes() {
            let slashed = readings.iter().cloned().map(|reading| GuardReading {
                reading: reading.with_slash(),
                only_regexes: !has_slash,
            });
            slashed.collect()
        } else {
            Vec::new()
        };
        let plain = readings.into_iter().map(|reading| GuardReading {
            reading,
            only_regexes: false,
        });
        plain.chain(slashed).collect()
    }
}
