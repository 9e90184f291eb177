//! Findings about routes beside each other: repeated ones, mixed kinds, and routes that no request
//! reaches.

use std::collections::{BTreeMap, BTreeSet};

use edgeway_config::diagnostic::{Diagnostic, Diagnostics};

use super::build::{Draft, Entry, ParsedRoute, Path, PathKey};
use crate::pattern::HostPattern;

/// Reports regular expressions of locations that an earlier route has too: the later route would
/// get no request.
pub(super) fn repeated_regexes(
    parsed: &[ParsedRoute],
    draft: &Draft,
    diagnostics: &mut Diagnostics,
) {
    let mut known = BTreeMap::<&str, Vec<&Entry>>::new();
    for (key, entries) in draft {
        let (PathKey::LocationRegex(_, text), [entry, ..]) = (key, &entries[..]) else {
            continue;
        };
        let earlier = known.entry(text).or_default();
        let rank = |entry: &Entry| &parsed[entry.route].predicates.rank;
        if let Some(first) = earlier.iter().find(|first| rank(first) == rank(entry)) {
            diagnostics.push(conflict(parsed, first, entry));
        }
        earlier.push(entry);
    }
}

/// Refuses locations within one that no route of the host has: no request would reach them.
pub(super) fn refuse_missing_outer(
    parsed: &[ParsedRoute],
    draft: &Draft,
    diagnostics: &mut Diagnostics,
) {
    let located = |entry: &Entry| match &parsed[entry.route].paths[entry.path] {
        (Path::Location(location), place) => Some((location, *place)),
        _ => None,
    };
    let all: Vec<_> = draft.values().flatten().filter_map(located).collect();
    for (location, place) in &all {
        let Some((outer, around)) = location.within.split_last() else {
            continue;
        };
        if !all
            .iter()
            .any(|(other, _)| other.own == *outer && other.within == around)
        {
            diagnostics
                .at(*place, "edgeway::route::bad_location")
                .error(
                    format!("no route of this host has the location `{outer}` of `within`"),
                    "add that route, or write `within` as its `location` is written",
                );
        }
    }
}

/// Refuses hosts of which some routes have locations and others have paths: the order of nginx and
/// that by the most specific path cannot both apply.
pub(super) fn refuse_mixtures(
    drafts: &BTreeMap<Option<HostPattern>, Draft>,
    diagnostics: &mut Diagnostics,
) {
    let mut reported = BTreeSet::new();
    for draft in drafts.values() {
        let first = |is_location: bool| {
            let mut keys = draft.iter();
            let (_, entries) = keys.find(|(key, _)| key.is_location() == is_location)?;
            entries.first()
        };
        let (Some(location), Some(path)) = (first(true), first(false)) else {
            continue;
        };
        if reported.insert((location.route, path.route)) {
            diagnostics.push(
                Diagnostic::error(
                    "edgeway::route::mixed_locations",
                    path.place,
                    "other routes of this host have `location`, but this one does not",
                )
                .help(
                    "write `location` for each route of the host (`location: /` for every path), \
                     or `path` for all of them",
                )
                .related(location.place, "has a location"),
            );
        }
    }
}

pub(super) fn conflict(parsed: &[ParsedRoute], first: &Entry, second: &Entry) -> Diagnostic {
    let (path, _) = &parsed[second.route].paths[second.path];
    if first.route == second.route {
        return Diagnostic::error(
            "edgeway::route::conflict",
            second.place,
            format!("`{path}` (or the host beside it) is in this route twice"),
        )
        .help("leave one of them out");
    }
    Diagnostic::error(
        "edgeway::route::conflict",
        second.place,
        format!("two routes match the same requests: `{path}`"),
    )
    .related(first.place, "the other one")
    .help("remove one, or tell them apart by host, path, method, header, query or cookie")
}

/// Warns of shadowed routes. A host's own `/*` comes before every route without that host, however
/// exact the path of that route is, which the author may not have intended.
pub(super) fn warn_of_shadows(
    parsed: &[ParsedRoute],
    drafts: &BTreeMap<Option<HostPattern>, Draft>,
    diagnostics: &mut Diagnostics,
) {
    let mut having = BTreeMap::<&PathKey, BTreeSet<&HostPattern>>::new();
    for (host, draft) in drafts {
        let Some(host) = host else { continue };
        for key in draft.keys() {
            having.entry(key).or_default().insert(host);
        }
    }
    let none = BTreeSet::new();
    let mut reported = BTreeSet::new();
    // An exact host has no host below it that could take its requests.
    let wide = |host: &Option<HostPattern>| !matches!(host, Some(HostPattern::Exact(_)));
    for (host, draft) in drafts.iter().filter(|(host, _)| wide(host)) {
        if draft.keys().all(PathKey::takes_every_path) {
            continue;
        }
        let shadows = catch_alls_below(parsed, drafts, host.as_ref());
        let is_partial = |key: &PathKey| !key.takes_every_path() && !key.is_location();
        for (key, entries) in draft.iter().filter(|(key, _)| is_partial(key)) {
            // Hosts with this very path, of which there are few: each is counted once for it.
            let hosts = having.get(key).unwrap_or(&none);
            let count = shadows.len()
                - hosts
                    .iter()
                    .filter(|host| shadows.contains_key(*host))
                    .count();
            let others = shadows.iter().filter(|(other, _)| !hosts.contains(*other));
            let shown: Vec<(&HostPattern, &Entry)> = others
                .take(SHOWN_SHADOWS)
                .map(|(host, entry)| (*host, *entry))
                .collect();
            for entry in entries {
                if count > 0 && reported.insert((entry.route, entry.path)) {
                    diagnostics.push(shadow(parsed, entry, &shown, count));
                }
            }
        }
    }
}

/// Returns the hosts below `host` with a `/*` that takes each request, and its place.
fn catch_alls_below<'a>(
    parsed: &[ParsedRoute],
    drafts: &'a BTreeMap<Option<HostPattern>, Draft>,
    host: Option<&HostPattern>,
) -> BTreeMap<&'a HostPattern, &'a Entry> {
    let named = drafts
        .iter()
        .filter_map(|(other, draft)| Some((other.as_ref()?, draft)));
    let below = named
        .filter(|(other, _)| Some(*other) != host && host.is_none_or(|host| host.covers(other)));
    let catch_alls = below.filter_map(|(other, draft)| {
        let (_, entries) = draft.iter().find(|(key, _)| key.takes_every_path())?;
        let entry = entries
            .iter()
            .find(|entry| parsed[entry.route].predicates.is_empty())?;
        Some((other, entry))
    });
    catch_alls.collect()
}

/// Hosts that a warning names.
const SHOWN_SHADOWS: usize = 3;

fn shadow(
    parsed: &[ParsedRoute],
    entry: &Entry,
    shown: &[(&HostPattern, &Entry)],
    count: usize,
) -> Diagnostic {
    let hosts: Vec<String> = shown.iter().map(|(host, _)| format!("`{host}`")).collect();
    let more = match count - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (path, _) = &parsed[entry.route].paths[entry.path];
    let hosts = hosts.join(", ");
    let mut diagnostic = Diagnostic::warning(
        "edgeway::route::shadowed",
        entry.place,
        format!("`{path}` is never reached for {hosts}{more}: the host is matched before the path"),
    )
    .help("add these hosts to this route's `host` if it is meant for them too");
    for (host, shadow) in shown {
        diagnostic = diagnostic.related(shadow.place, format!("matches every path of `{host}`"));
    }
    diagnostic
}
