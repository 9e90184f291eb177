//! Construction of the table from routes as written: parses patterns, sorts them into groups, and
//! refuses routes that are indistinguishable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    config::{
        diagnostic::{Diagnostic, Diagnostics, Place},
        model::MatchConfig,
    },
    routes::{
        ParamNames, RouteProblem, Slashes,
        params::MAX_PARAMS,
        pattern::{HostPattern, PathPattern, Segment},
        predicate::Predicates,
        trie::{Leaf, Trie},
    },
};

use super::{Group, RegexEntry, Regexes, Route, RouteProtection, RouteTable, guards::Guards};

/// A route with its patterns parsed.
struct ParsedRoute {
    hosts: Vec<(HostPattern, Place)>,
    paths: Vec<(Path, Place)>,
    predicates: Predicates,
    names: ParamNames,
}

enum Path {
    Pattern(PathPattern),
    /// A folded pattern whose last parameter is empty, which some apps allow.
    EmptyEnd(PathPattern),
    Regex(String),
}

/// A path without the names of its parameters, used to compare paths.
///
/// Longer regular expressions come first, then the order of their texts: an arbitrary order, but
/// independent of their positions in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathKey {
    Pattern(Vec<Option<Vec<u8>>>, bool),
    Regex(std::cmp::Reverse<usize>, String),
    CatchAll,
}

/// A route at a host and path.
struct Entry {
    route: usize,
    path: usize,
    place: Place,
}

type Draft = BTreeMap<PathKey, Vec<Entry>>;

impl RouteTable {
    /// Compiles the routes; each place is that of the whole route. Reports every problem, and
    /// returns `None` if there was any.
    pub fn compile(
        routes: &[(&MatchConfig, Place)],
        slashes: Slashes,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let mut own = Diagnostics::default();
        let parsed: Vec<ParsedRoute> = routes
            .iter()
            .map(|(config, place)| parse(config, *place, slashes, &mut own))
            .collect();
        let drafts = draft(&parsed, &mut own);
        warn_of_shadows(&parsed, &drafts, &mut own);
        let table = (!own.has_errors()).then(|| build(parsed, drafts, &mut own));
        let table = table.filter(|_| !own.has_errors());
        diagnostics.extend(own);
        table
    }

    /// Makes the routes guard every spelling of their paths. `routes` are those that the table was
    /// compiled from, and `guarding` is the protection of each.
    pub fn guard(
        &mut self,
        routes: &[(&MatchConfig, Place)],
        guarding: &[RouteProtection],
        slashes: Slashes,
        diagnostics: &mut Diagnostics,
    ) {
        // Problems in them were reported when the table was compiled.
        let mut ignored = Diagnostics::default();
        for (route, guarding) in self.routes.iter_mut().zip(guarding) {
            route.predicates.guard(guarding.has_access);
        }
        let mut parsed = Vec::<ParsedRoute>::with_capacity(routes.len());
        for (config, place) in routes {
            parsed.push(parse(config, *place, slashes, &mut ignored));
        }
        let is_odd = |facts: &ParsedRoute| facts.paths.iter().any(|(path, _)| path.is_odd());
        let odd: Vec<bool> = parsed.iter().map(is_odd).collect();
        self.guarding = guarding.into();
        self.guards = Guards::new(&self.guarding, &odd, || {
            folded(&mut parsed, guarding);
            for (facts, guarding) in parsed.iter_mut().zip(guarding) {
                facts.predicates.guard(guarding.has_access);
            }
            let mut drafts = draft(&parsed, &mut Diagnostics::default());
            for entries in drafts.values_mut().flat_map(BTreeMap::values_mut) {
                // A route that has the path itself comes first. Of two otherwise indistinguishable
                // routes, the one with access control comes first, then the one with more guards.
                entries.sort_by_key(|entry| {
                    let guarding = &guarding[entry.route];
                    let (path, _) = &parsed[entry.route].paths[entry.path];
                    (
                        matches!(path, Path::EmptyEnd(_)),
                        parsed[entry.route].predicates.rank(),
                        !guarding.has_access,
                        std::cmp::Reverse(guarding.guards.len()),
                    )
                });
            }
            build(parsed, drafts, diagnostics)
        });
    }
}

/// Replaces the paths of each route with their forms in every reading, except for routes that take
/// no other spelling.
fn folded(parsed: &mut [ParsedRoute], guarding: &[RouteProtection]) {
    for (facts, guarding) in parsed.iter_mut().zip(guarding) {
        let paths = std::mem::take(&mut facts.paths);
        if guarding.is_exact && !guarding.guards.is_empty() {
            continue;
        }
        for (path, place) in paths {
            match path {
                Path::Pattern(pattern) | Path::EmptyEnd(pattern) => {
                    for form in pattern.folded() {
                        if let Some(empty) = form.with_empty_end() {
                            facts.paths.push((Path::EmptyEnd(empty), place));
                        }
                        if pattern.ends_in_slash() {
                            facts.paths.push((Path::Pattern(form.with_slash()), place));
                        }
                        facts.paths.push((Path::Pattern(form), place));
                    }
                }
                Path::Regex(text) => facts
                    .paths
                    .push((Path::Regex(format!("(?i){text}")), place)),
            }
        }
    }
}

fn parse(
    config: &MatchConfig,
    place: Place,
    slashes: Slashes,
    diagnostics: &mut Diagnostics,
) -> ParsedRoute {
    let mut report = |code, place, problem: RouteProblem| {
        diagnostics.push(Diagnostic::error(code, place, problem.message).help(problem.help));
    };
    let mut hosts = Vec::new();
    for host in &config.host.0 {
        match HostPattern::parse(&host.value) {
            Ok(pattern) => hosts.push((pattern, host.place)),
            Err(problem) => report("edgeway::route::bad_host", host.place, problem),
        }
    }
    let mut paths = Vec::new();
    for path in &config.path.0 {
        match PathPattern::parse(&path.value, slashes) {
            Ok(pattern) => paths.push((Path::Pattern(pattern), path.place)),
            Err(problem) => report("edgeway::route::bad_path", path.place, problem),
        }
    }
    if let Some(text) = &config.path_regex {
        match crate::routes::regex(&text.value) {
            Ok(_) if !config.path.0.is_empty() => {
                let problem = RouteProblem::new(
                    "a route has `path` or `path_regex`, not both",
                    "write two routes, or one regular expression for all the paths",
                );
                report("edgeway::route::bad_regex", text.place, problem);
            }
            Ok(_) => paths.push((Path::Regex(text.value.clone()), text.place)),
            Err(problem) => report("edgeway::route::bad_regex", text.place, problem),
        }
    }
    if config.path.0.is_empty() && config.path_regex.is_none() {
        paths.push((Path::Pattern(PathPattern::any()), place));
    }
    let names = ParamNames::of(config);
    if names.len() > MAX_PARAMS {
        let problem = RouteProblem::new(
            format!(
                "the paths of a route may have {MAX_PARAMS} names, these have {}",
                names.len()
            ),
            "use the same names in all of its paths, or write two routes",
        );
        report("edgeway::route::bad_path", place, problem);
    }
    ParsedRoute {
        hosts,
        paths,
        predicates: Predicates::compile(config, diagnostics),
        names,
    }
}

impl Path {
    /// Returns true if another plain-looking path is a spelling of this one.
    fn is_odd(&self) -> bool {
        match self {
            Self::Pattern(pattern) | Self::EmptyEnd(pattern) => {
                pattern.folded() != std::slice::from_ref(pattern)
            }
            Self::Regex(_) => true,
        }
    }

    fn key(&self) -> PathKey {
        match self {
            Self::Pattern(pattern) if pattern.is_any() => PathKey::CatchAll,
            Self::Pattern(pattern) | Self::EmptyEnd(pattern) => {
                let segments = pattern.segments.iter().map(|segment| match segment {
                    Segment::Literal(text) => Some(text.clone()),
                    Segment::Param(_) => None,
                });
                PathKey::Pattern(segments.collect(), pattern.is_prefix)
            }
            Self::Regex(text) => PathKey::Regex(std::cmp::Reverse(text.len()), text.clone()),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern(pattern) | Self::EmptyEnd(pattern) => pattern.fmt(f),
            Self::Regex(text) => f.write_str(text),
        }
    }
}

/// Sorts every route to each of its hosts and paths (`None` is any host), and the routes of one
/// host and path by their predicates.
fn draft(
    parsed: &[ParsedRoute],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Option<HostPattern>, Draft> {
    let mut drafts = BTreeMap::<Option<HostPattern>, Draft>::new();
    for (route, facts) in parsed.iter().enumerate() {
        let hosts = facts.hosts.iter().map(|(host, _)| Some(host.clone()));
        let mut hosts: Vec<Option<HostPattern>> = hosts.collect();
        if hosts.is_empty() {
            hosts.push(None);
        }
        for host in hosts {
            let draft = drafts.entry(host).or_default();
            for (path, (pattern, place)) in facts.paths.iter().enumerate() {
                draft.entry(pattern.key()).or_default().push(Entry {
                    route,
                    path,
                    place: *place,
                });
            }
        }
    }
    let mut reported = BTreeSet::new();
    for draft in drafts.values_mut() {
        for entries in draft.values_mut() {
            entries.sort_by_key(|entry| parsed[entry.route].predicates.rank());
            for pair in entries.windows(2) {
                let [first, second] = pair else { continue };
                let rank = |entry: &Entry| parsed[entry.route].predicates.rank();
                if rank(first) == rank(second) && reported.insert((first.route, second.route)) {
                    diagnostics.push(conflict(parsed, first, second));
                }
            }
        }
    }
    drafts
}

fn conflict(parsed: &[ParsedRoute], first: &Entry, second: &Entry) -> Diagnostic {
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
fn warn_of_shadows(
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
        if draft.keys().all(|key| *key == PathKey::CatchAll) {
            continue;
        }
        let shadows = catch_alls_below(parsed, drafts, host.as_ref());
        for (key, entries) in draft.iter().filter(|(key, _)| **key != PathKey::CatchAll) {
            // Hosts with this very path, of which there are few: each is counted once for it.
            let own = having.get(key).unwrap_or(&none);
            let count = shadows.len()
                - own
                    .iter()
                    .filter(|host| shadows.contains_key(*host))
                    .count();
            let found = shadows.iter().filter(|(other, _)| !own.contains(*other));
            let shown: Vec<(&HostPattern, &Entry)> = found
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
    let found = below.filter_map(|(other, draft)| {
        let mut entries = draft.get(&PathKey::CatchAll)?.iter();
        let entry = entries.find(|entry| parsed[entry.route].predicates.is_empty())?;
        Some((other, entry))
    });
    found.collect()
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

fn build(
    parsed: Vec<ParsedRoute>,
    drafts: BTreeMap<Option<HostPattern>, Draft>,
    diagnostics: &mut Diagnostics,
) -> RouteTable {
    let mut table = RouteTable {
        groups: Vec::with_capacity(drafts.len()),
        exact: HashMap::default(),
        below: HashMap::default(),
        any: None,
        routes: Vec::new(),
        guarding: Arc::default(),
        guards: None,
    };
    for (host, draft) in drafts {
        let index = table.groups.len();
        table.groups.push(group(&parsed, draft, diagnostics));
        match host {
            None => table.any = Some(index),
            Some(HostPattern::Exact(name)) => {
                table.exact.insert(name.into(), index);
            }
            Some(HostPattern::Below(name)) => {
                table.below.insert(name.into(), index);
            }
        }
    }
    table.routes = parsed
        .into_iter()
        .map(|facts| Route {
            predicates: facts.predicates,
            names: facts.names,
            hosts: facts.hosts.into_iter().map(|(host, _)| host).collect(),
        })
        .collect();
    table
}

fn group(parsed: &[ParsedRoute], draft: Draft, diagnostics: &mut Diagnostics) -> Group {
    let mut trie = Trie::new();
    let mut catch_all = Vec::new();
    let mut regexes = Vec::new();
    for (key, entries) in draft {
        let leaves: Vec<Leaf> = entries.iter().map(|entry| leaf(parsed, entry)).collect();
        match key {
            PathKey::CatchAll => catch_all = leaves,
            PathKey::Regex(_, text) => regexes.push((text, leaves, entries[0].place)),
            PathKey::Pattern(..) => {
                let first = &entries[0];
                if let (Path::Pattern(pattern) | Path::EmptyEnd(pattern), _) =
                    &parsed[first.route].paths[first.path]
                {
                    trie.insert(pattern, leaves);
                }
            }
        }
    }
    Group {
        trie,
        regexes: regex_set(regexes, diagnostics),
        catch_all,
    }
}

fn leaf(parsed: &[ParsedRoute], entry: &Entry) -> Leaf {
    let facts = &parsed[entry.route];
    let slots = match &facts.paths[entry.path].0 {
        Path::Pattern(pattern) | Path::EmptyEnd(pattern) => pattern
            .names()
            .filter_map(|name| facts.names.any_slot(name))
            .collect(),
        Path::Regex(_) => Box::default(),
    };
    Leaf {
        route: entry.route,
        slots,
    }
}

fn regex_set(
    regexes: Vec<(String, Vec<Leaf>, Place)>,
    diagnostics: &mut Diagnostics,
) -> Option<Regexes> {
    let place = regexes.first()?.2;
    let set = regex::bytes::RegexSetBuilder::new(regexes.iter().map(|(text, ..)| text))
        .unicode(false)
        .build();
    let set = match set {
        Ok(set) => set,
        Err(error) => {
            // Each of them compiled alone before, so only their total can be too large.
            diagnostics.push(
                Diagnostic::error(
                    "edgeway::route::bad_regex",
                    place,
                    format!("the regular expressions of this host are too large: {error}"),
                )
                .help("use `path` where a pattern is enough"),
            );
            return None;
        }
    };
    let entries = regexes.into_iter().map(|(text, leaves, _)| RegexEntry {
        captures: crate::routes::regex(&text)
            .ok()
            .filter(|regex| regex.capture_names().flatten().next().is_some()),
        leaves,
    });
    Some(Regexes {
        set,
        entries: entries.collect(),
    })
}
