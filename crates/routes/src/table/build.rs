//! Construction of the table from routes as written: parses patterns, sorts them into groups, and
//! refuses routes that are indistinguishable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use derive_more::Display;
use edgeway_config::{
    diagnostic::{Diagnostic, Diagnostics, Place},
    model::MatchConfig,
};

use crate::{
    InvalidValue, ParamNames, Slashes,
    host_regex::HostRegex,
    location::{Location, PlacedLocation},
    locations::LocationsBuilder,
    params::{MAX_PARAMS, RESERVED},
    pattern::{HostPattern, PathPattern, Segment},
    predicate::Predicates,
    trie::{Leaf, Trie},
};

use super::{
    Group, Locations, RegexEntry, Regexes, Route, RouteProtection, RouteTable,
    beside::{conflict, refuse_missing_outer, refuse_mixtures, repeated_regexes, warn_of_shadows},
    guards::Guards,
};

/// A route with its patterns parsed.
pub(super) struct ParsedRoute {
    hosts: Vec<(HostPattern, Place)>,
    pub(super) paths: Vec<(Path, Place)>,
    pub(super) predicates: Predicates,
    names: ParamNames,
    /// True if a host or predicate is missing here, since it has a problem.
    is_partial: bool,
}

#[derive(Display)]
pub(super) enum Path {
    Pattern(PathPattern),
    /// A folded pattern whose last parameter is empty, which some apps allow.
    EmptyEnd(PathPattern),
    Regex(String),
    Location(PlacedLocation),
}

/// A path without the names of its parameters, used to compare paths.
///
/// Longer regular expressions come first, then the order of their texts: an arbitrary order, but
/// independent of their positions in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathKey {
    Pattern(Vec<Option<Vec<u8>>>, bool),
    Regex(std::cmp::Reverse<usize>, String),
    CatchAll,
    /// An exact path, or with true a prefix, and the locations around it.
    Location(Vec<u8>, bool, String),
    /// Position of its route: such locations are compared in the order of the file.
    LocationRegex(usize, String),
}

impl PathKey {
    pub(super) fn is_location(&self) -> bool {
        matches!(self, Self::Location(..) | Self::LocationRegex(..))
    }

    pub(super) fn takes_every_path(&self) -> bool {
        match self {
            Self::CatchAll => true,
            Self::Location(text, is_prefix, _) => *is_prefix && text == b"/",
            _ => false,
        }
    }
}

/// A route at a host and path.
pub(super) struct Entry {
    pub(super) route: usize,
    pub(super) path: usize,
    pub(super) place: Place,
}

pub(super) type Draft = BTreeMap<PathKey, Vec<Entry>>;

impl RouteTable {
    /// Compiles the routes; each place is that of the whole route. Reports every problem, and
    /// returns `None` if there was any.
    pub fn compile(
        routes: &[(&MatchConfig, Place)],
        slashes: Slashes,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let mut new = Diagnostics::default();
        let parsed: Vec<ParsedRoute> = routes
            .iter()
            .map(|(config, place)| parse(config, *place, slashes, &mut new))
            .collect();
        let drafts = draft(&parsed, &mut new);
        refuse_mixtures(&drafts, &mut new);
        warn_of_shadows(&parsed, &drafts, &mut new);
        let table = (!new.has_errors()).then(|| build(parsed, drafts, (slashes, false), &mut new));
        let table = table.filter(|_| !new.has_errors());
        diagnostics.extend(new);
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
            folded(&mut parsed);
            for (facts, guarding) in parsed.iter_mut().zip(guarding) {
                facts.predicates.guard(guarding.has_access);
            }
            let mut drafts = draft(&parsed, &mut Diagnostics::default());
            for entries in drafts.values_mut().flat_map(BTreeMap::values_mut) {
                // A route that has the path itself comes first. Of two otherwise indistinguishable
                // routes, the one that takes other spellings comes first, then the one with access
                // control, then the one with more guards.
                entries.sort_by_key(|entry| {
                    let guarding = &guarding[entry.route];
                    let (path, _) = &parsed[entry.route].paths[entry.path];
                    (
                        matches!(path, Path::EmptyEnd(_)),
                        &parsed[entry.route].predicates.rank,
                        guarding.is_exact,
                        !guarding.has_access,
                        std::cmp::Reverse(guarding.guards.len()),
                    )
                });
            }
            build(parsed, drafts, (slashes, true), diagnostics)
        });
    }
}

/// Replaces the paths of each route with their forms in every reading.
fn folded(parsed: &mut [ParsedRoute]) {
    for facts in parsed {
        for (path, place) in std::mem::take(&mut facts.paths) {
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
                Path::Location(location) => {
                    let forms = location.folded().into_iter();
                    facts
                        .paths
                        .extend(forms.map(|form| (Path::Location(form), place)));
                }
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
    let mut report = |code, place, problem: InvalidValue| {
        diagnostics
            .at(place, code)
            .error(problem.message, problem.help);
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
        match crate::regex(&text.value) {
            Ok(_) if !config.path.0.is_empty() => {
                let problem = InvalidValue::new(
                    "a route has `path` or `path_regex`, not both",
                    "write two routes, or one regular expression for all the paths",
                );
                report("edgeway::route::bad_regex", text.place, problem);
            }
            Ok(_) => paths.push((Path::Regex(text.value.clone()), text.place)),
            Err(problem) => report("edgeway::route::bad_regex", text.place, problem),
        }
    }
    if let Some(text) = &config.location {
        let within = config.within.0.iter().map(|outer| &*outer.value);
        match PlacedLocation::parse(within, &text.value) {
            Ok(_) if !config.path.0.is_empty() || config.path_regex.is_some() => {
                let problem = InvalidValue::new(
                    "a route has `location`, `path` or `path_regex`, and not two of them",
                    "write two routes",
                );
                report("edgeway::route::bad_location", text.place, problem);
            }
            Ok(location) => paths.push((Path::Location(location), text.place)),
            Err(problem) => report("edgeway::route::bad_location", text.place, problem),
        }
    }
    if let Some(outer) = config.within.0.first()
        && config.location.is_none()
    {
        let problem = InvalidValue::new(
            "`within` has no effect without `location`",
            "write the location that is within it, or remove it",
        );
        report("edgeway::route::bad_location", outer.place, problem);
    }
    let has_path = !paths.is_empty() || config.path_regex.is_some() || config.location.is_some();
    if config.named {
        // Nothing but its name leads to it.
        if has_path || !hosts.is_empty() {
            let problem = InvalidValue::new(
                "a named route has no host and no path",
                "leave them out, or `named`",
            );
            report("edgeway::route::named", place, problem);
        }
    } else if !has_path && config.path.0.is_empty() {
        paths.push((Path::Pattern(PathPattern::any()), place));
    }
    let names = ParamNames::collect(config);
    if names.len() > MAX_PARAMS {
        let problem = InvalidValue::new(
            format!(
                "the paths of a route may have {MAX_PARAMS} names, these have {}",
                names.len()
            ),
            "use the same names in all of its paths, or write two routes",
        );
        report("edgeway::route::bad_path", place, problem);
    }
    if let Some(problem) = names_of_hosts(&names) {
        report("edgeway::route::bad_host", place, problem);
    }
    let errors = diagnostics.errors();
    let predicates = Predicates::compile(config, diagnostics);
    ParsedRoute {
        is_partial: hosts.len() < config.host.0.len() || diagnostics.errors() > errors,
        hosts,
        paths,
        predicates,
        names,
    }
}

/// Returns the problem of the names in a route's hosts, if there is one.
fn names_of_hosts(names: &ParamNames) -> Option<InvalidValue> {
    if names.hosts().count() > MAX_PARAMS {
        return Some(InvalidValue::new(
            format!("the hosts of a route have more than {MAX_PARAMS} names"),
            "write `(?:…)` for groups without a name",
        ));
    }
    let is_taken = |name: &&str| {
        RESERVED.contains(name) || names.iter_of_paths().any(|(other, _)| other == *name)
    };
    let taken = names.hosts().find(is_taken)?;
    Some(InvalidValue::new(
        format!("a host uses the name `{taken}`, which has another meaning already"),
        format!("write another name, such as `(?<host_{taken}>…)`"),
    ))
}

impl Path {
    /// Returns true if another plain-looking path is a spelling of this one.
    fn is_odd(&self) -> bool {
        match self {
            Self::Pattern(pattern) | Self::EmptyEnd(pattern) => {
                pattern.folded() != std::slice::from_ref(pattern)
            }
            Self::Regex(_) => true,
            Self::Location(location) => location.folded() != std::slice::from_ref(location),
        }
    }

    fn key(&self, route: usize) -> PathKey {
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
            Self::Location(location) => match &location.own {
                Location::Exact(text) => PathKey::Location(text.clone(), false, String::new()),
                Location::Prefix { text, .. } => {
                    PathKey::Location(text.clone(), true, location.around())
                }
                Location::Regex { .. } => PathKey::LocationRegex(route, location.to_string()),
            },
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
                draft.entry(pattern.key(route)).or_default().push(Entry {
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
            entries.sort_by_key(|entry| &parsed[entry.route].predicates.rank);
            for pair in entries.windows(2) {
                let [first, second] = pair else { continue };
                let rank = |entry: &Entry| &parsed[entry.route].predicates.rank;
                if [first, second]
                    .iter()
                    .any(|own| parsed[own.route].is_partial)
                {
                    continue;
                }
                if rank(first) == rank(second) && reported.insert((first.route, second.route)) {
                    diagnostics.push(conflict(parsed, first, second));
                }
            }
        }
        repeated_regexes(parsed, draft, diagnostics);
        refuse_missing_outer(parsed, draft, diagnostics);
    }
    drafts
}

fn build(
    parsed: Vec<ParsedRoute>,
    drafts: BTreeMap<Option<HostPattern>, Draft>,
    (slashes, is_folded): (Slashes, bool),
    diagnostics: &mut Diagnostics,
) -> RouteTable {
    let mut table = RouteTable {
        groups: Vec::with_capacity(drafts.len()),
        is_folded,
        ..RouteTable::default()
    };
    let mut matching = Vec::new();
    for (host, draft) in drafts {
        let index = table.groups.len();
        let group = group(&parsed, draft, (slashes, is_folded), diagnostics);
        table.groups.push(group);
        match host {
            None => table.any = Some(index),
            Some(HostPattern::Exact(name)) => {
                table.exact.insert(name.into(), index);
            }
            Some(HostPattern::Below(name)) => {
                table.below.insert(name.into(), index);
            }
            Some(HostPattern::After(name)) => {
                table.after.insert(name.into(), index);
            }
            Some(HostPattern::Regex(text)) => {
                // One that does not compile was reported.
                if let Ok(regex) = HostRegex::compile(&text) {
                    matching.push((text, regex, index));
                }
            }
        }
    }
    if !matching.is_empty() {
        let order = order_of_regexes(&parsed);
        matching.sort_by_key(|(text, ..)| order.get(text).copied());
        let sorted = matching.into_iter().map(|(_, regex, index)| (regex, index));
        table.matching = sorted.collect();
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

/// Returns the place of each regular expression of a host in the order of the file.
fn order_of_regexes(parsed: &[ParsedRoute]) -> HashMap<String, usize> {
    let mut order = HashMap::new();
    for (host, _) in parsed.iter().flat_map(|facts| &facts.hosts) {
        if let HostPattern::Regex(text) = host {
            let next = order.len();
            order.entry(text.clone()).or_insert(next);
        }
    }
    order
}

fn group(
    parsed: &[ParsedRoute],
    draft: Draft,
    (slashes, is_folded): (Slashes, bool),
    diagnostics: &mut Diagnostics,
) -> Group {
    if draft.keys().all(PathKey::is_location) {
        return Group {
            trie: Trie::new(),
            regexes: None,
            catch_all: Vec::new(),
            locations: locations(parsed, &draft, (slashes, is_folded), diagnostics),
        };
    }
    let mut trie = Trie::new();
    let mut catch_all = Vec::new();
    let mut regexes = Vec::new();
    for (key, entries) in draft {
        let leaves: Vec<Leaf> = entries.iter().map(|entry| leaf(parsed, entry)).collect();
        match key {
            PathKey::CatchAll => catch_all = leaves,
            PathKey::Regex(_, text) => regexes.push((text, leaves, entries[0].place)),
            // Beside paths they were reported.
            PathKey::Location(..) | PathKey::LocationRegex(..) => {}
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
        locations: None,
    }
}

fn locations(
    parsed: &[ParsedRoute],
    draft: &Draft,
    (slashes, is_folded): (Slashes, bool),
    diagnostics: &mut Diagnostics,
) -> Option<Box<Locations>> {
    let mut builder = LocationsBuilder::default();
    let mut place = None;
    for entry in draft.values().flatten() {
        if let (Path::Location(location), written_at) = &parsed[entry.route].paths[entry.path] {
            builder.push(location, leaf(parsed, entry));
            let is_regex = matches!(location.own, Location::Regex { .. });
            place = place.or(is_regex.then_some(*written_at));
        }
    }
    match builder.build(slashes == Slashes::Merge, is_folded) {
        Ok(locations) => Some(Box::new(locations)),
        Err(error) => {
            let place = place.unwrap_or_default();
            diagnostics.push(too_large(place, &error));
            None
        }
    }
}

/// Returns the problem of expressions each of which compiled alone, so that only their total can be
/// too large.
fn too_large(place: Place, error: &regex::Error) -> Diagnostic {
    Diagnostic::error(
        "edgeway::route::bad_regex",
        place,
        format!("the regular expressions of this host are too large: {error}"),
    )
    .help("use `path` where a pattern is enough")
}

fn leaf(parsed: &[ParsedRoute], entry: &Entry) -> Leaf {
    let facts = &parsed[entry.route];
    let slots = match &facts.paths[entry.path].0 {
        Path::Pattern(pattern) | Path::EmptyEnd(pattern) => pattern
            .names()
            .filter_map(|name| facts.names.any_slot(name))
            .collect(),
        Path::Regex(_) | Path::Location(_) => Box::default(),
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
            diagnostics.push(too_large(place, &error));
            return None;
        }
    };
    let entries = regexes.into_iter().map(|(text, leaves, _)| RegexEntry {
        captures: crate::regex(&text)
            .ok()
            .filter(|regex| regex.capture_names().flatten().next().is_some()),
        leaves,
    });
    Some(Regexes {
        set,
        entries: entries.collect(),
    })
}
