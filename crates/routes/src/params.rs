//! Values of path parameters: ranges of the path, in a fixed array.

use std::{ops::Range, sync::Arc};

use edgeway_config::model::MatchConfig;

use super::{Slashes, host_regex::HostRegex, location::Location, pattern::PathPattern};

/// Limit on the parameter names in the paths of one route.
pub(super) const MAX_PARAMS: usize = 8;

/// Names with another meaning in a template.
pub(super) const RESERVED: [&str; 4] = ["host", "path", "query", "rest"];

/// Index of a parameter of a route. Only [`ParamNames`] creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamSlot(pub(super) u8);

impl ParamSlot {
    /// Returns true if the value is a part of the host.
    pub(super) fn is_of_host(self) -> bool {
        self.0 >= OF_HOSTS
    }
}

/// First slot of the names in hosts.
const OF_HOSTS: u8 = 64;

/// The values of one match: ranges of the path that was matched, and what a regular expression has
/// found in the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    values: [(usize, usize); MAX_PARAMS],
    rest: (usize, usize),
    /// Absent unless the route was found by a host with named groups.
    of_host: Option<Arc<[Box<str>]>>,
}

/// The parameter names of a route, over all its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamNames {
    names: Vec<ParamName>,
    /// Names of groups in regular expressions of hosts.
    of_hosts: Vec<ParamName>,
    pub(super) has_rest: bool,
    /// True if all paths are valid; otherwise a missing name needs no report.
    pub(super) is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ParamName {
    text: String,
    /// True if each path of the route has the parameter, so that it always has a value.
    is_everywhere: bool,
}

/// Reason why a name has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSlot {
    Unknown,
    /// Only some of the route's paths have it.
    NotEverywhere,
}

impl Params {
    /// Returns the value of a parameter, given the path that was matched.
    pub fn get<'p>(&'p self, slot: ParamSlot, path: &'p [u8]) -> &'p [u8] {
        if let Some(index) = slot.0.checked_sub(OF_HOSTS) {
            let mut of_host = self.of_host.iter().flat_map(|values| values.iter());
            let value = of_host.nth(usize::from(index));
            return value.map(|value| value.as_bytes()).unwrap_or_default();
        }
        let (start, end) = self.values[usize::from(slot.0)];
        path.get(start..end).unwrap_or_default()
    }

    /// Returns the value of `/*`, without its leading slash.
    pub fn rest<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path.get(self.rest.0..self.rest.1).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn set(&mut self, slot: ParamSlot, range: Range<usize>) {
        self.values[usize::from(slot.0)] = (range.start, range.end);
    }

    /// Maps the range of each value with `place`.
    pub(super) fn move_to(&mut self, place: impl Fn(Range<usize>) -> Range<usize>) {
        for (start, end) in self.values.iter_mut().chain([&mut self.rest]) {
            Range {
                start: *start,
                end: *end,
            } = place(*start..*end);
        }
    }

    pub(super) fn set_of_host(&mut self, values: Vec<Box<str>>) {
        self.of_host = Some(values.into());
    }

    pub(super) fn set_rest(&mut self, range: Range<usize>) {
        self.rest = (range.start, range.end);
    }
}

impl ParamNames {
    /// Collects the names of a route's paths and hosts. Invalid ones are skipped: the route table
    /// reports them.
    pub fn collect(config: &MatchConfig) -> Self {
        let mut names = Self::of_paths(config);
        let hosts: Vec<Option<Vec<String>>> = config
            .host
            .0
            .iter()
            .map(|host| match host.value.strip_prefix('~') {
                Some(regex) => Some(HostRegex::compile(regex).ok()?.names()),
                None => Some(Vec::new()),
            })
            .collect();
        names.is_whole &= hosts.iter().all(Option::is_some);
        for name in hosts.iter().flatten().flatten() {
            if names.of_hosts.iter().all(|known| known.text != *name) {
                let mut others = hosts.iter().flatten();
                names.of_hosts.push(ParamName {
                    text: name.clone(),
                    is_everywhere: others.all(|other| other.contains(name)),
                });
            }
        }
        names
    }

    fn of_paths(config: &MatchConfig) -> Self {
        if let Some(text) = &config.path_regex {
            let regex = super::regex(&text.value).ok();
            let names = regex.iter().flat_map(|r| r.capture_names().flatten());
            return Self {
                names: names
                    .map(|name| ParamName {
                        text: name.to_owned(),
                        is_everywhere: true,
                    })
                    .collect(),
                of_hosts: Vec::new(),
                has_rest: false,
                is_whole: regex.is_some(),
            };
        }
        if let Some(text) = &config.location {
            let location = Location::parse(&text.value).ok();
            let names = location.iter().flat_map(Location::names);
            return Self {
                names: names
                    .map(|text| ParamName {
                        text,
                        is_everywhere: true,
                    })
                    .collect(),
                of_hosts: Vec::new(),
                has_rest: location.as_ref().is_some_and(Location::is_prefix),
                is_whole: location.is_some(),
            };
        }
        let patterns: Vec<PathPattern> = config
            .path
            .0
            .iter()
            .filter_map(|text| PathPattern::parse(&text.value, Slashes::Keep).ok())
            .collect();
        let mut names = Vec::<ParamName>::new();
        for pattern in &patterns {
            for name in pattern.names() {
                if names.iter().all(|known| known.text != name) {
                    names.push(ParamName {
                        text: name.to_owned(),
                        is_everywhere: patterns.iter().all(|p| p.names().any(|n| n == name)),
                    });
                }
            }
        }
        Self {
            names,
            of_hosts: Vec::new(),
            // A route without a path takes every path, as `/*` does.
            has_rest: patterns.iter().all(|p| p.is_prefix),
            is_whole: patterns.len() == config.path.0.len(),
        }
    }

    /// Returns the slot of a parameter that has a value whenever the route matches.
    pub fn slot(&self, name: &str) -> Option<ParamSlot> {
        self.lookup(name).ok()
    }

    /// Returns each name and its slot.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ParamSlot)> {
        self.iter_of_paths().chain(self.iter_of_hosts())
    }

    /// Returns each name in paths and its slot.
    pub(super) fn iter_of_paths(&self) -> impl Iterator<Item = (&str, ParamSlot)> {
        (0u8..)
            .zip(&self.names)
            .map(|(index, name)| (name.text.as_str(), ParamSlot(index)))
    }

    fn iter_of_hosts(&self) -> impl Iterator<Item = (&str, ParamSlot)> {
        (OF_HOSTS..)
            .zip(&self.of_hosts)
            .map(|(index, name)| (name.text.as_str(), ParamSlot(index)))
    }

    /// Returns the names in hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.of_hosts.iter().map(|name| name.text.as_str())
    }

    /// Returns the value of each name in hosts.
    pub(super) fn of_hosts<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Vec<Box<str>> {
        let values = self.hosts().map(|name| value(name).unwrap_or_default());
        values.map(Box::from).collect()
    }

    pub(super) fn lookup(&self, name: &str) -> Result<ParamSlot, NoSlot> {
        let slot = self.any_slot(name).ok_or(NoSlot::Unknown)?;
        let mut all = self.names.iter().chain(&self.of_hosts);
        let is_everywhere = all.any(|known| known.text == name && known.is_everywhere);
        is_everywhere.then_some(slot).ok_or(NoSlot::NotEverywhere)
    }

    /// Returns the slot of a name, even if only some paths have it.
    pub(super) fn any_slot(&self, name: &str) -> Option<ParamSlot> {
        self.iter()
            .find_map(|(known, slot)| (known == name).then_some(slot))
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}
