//! Values of path parameters: ranges of the path, in a fixed array.

use std::ops::Range;

use crate::config::model::MatchConfig;

use super::{Slashes, location::Location, pattern::PathPattern};

/// Limit on the parameter names in the paths of one route.
pub(super) const MAX_PARAMS: usize = 8;

/// Names with another meaning in a template.
pub(super) const RESERVED: [&str; 4] = ["host", "path", "query", "rest"];

/// Index of a parameter of a route. Only [`ParamNames`] creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u8);

/// The values of one match, as ranges of the path that was matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    values: [(usize, usize); MAX_PARAMS],
    rest: (usize, usize),
}

/// The parameter names of a route, over all its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamNames {
    names: Vec<Name>,
    has_rest: bool,
    /// True if all paths are valid; otherwise a missing name needs no report.
    is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
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
    pub fn get<'p>(&self, slot: Slot, path: &'p [u8]) -> &'p [u8] {
        let (start, end) = self.values[usize::from(slot.0)];
        path.get(start..end).unwrap_or_default()
    }

    /// Returns the value of `/*`, without its leading slash.
    pub fn rest<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path.get(self.rest.0..self.rest.1).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn set(&mut self, slot: Slot, range: Range<usize>) {
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

    pub(super) fn set_rest(&mut self, range: Range<usize>) {
        self.rest = (range.start, range.end);
    }
}

impl ParamNames {
    /// Collects the names of a route's paths. Invalid paths are skipped: the route table reports
    /// them.
    pub fn of(config: &MatchConfig) -> Self {
        if let Some(text) = &config.path_regex {
            let regex = super::regex(&text.value).ok();
            let names = regex.iter().flat_map(|r| r.capture_names().flatten());
            return Self {
                names: names
                    .map(|name| Name {
                        text: name.to_owned(),
                        is_everywhere: true,
                    })
                    .collect(),
                has_rest: false,
                is_whole: regex.is_some(),
            };
        }
        if let Some(text) = &config.location {
            let location = Location::parse(&text.value).ok();
            let names = location.iter().flat_map(Location::names);
            return Self {
                names: names
                    .map(|text| Name {
                        text,
                        is_everywhere: true,
                    })
                    .collect(),
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
        let mut names = Vec::<Name>::new();
        for pattern in &patterns {
            for name in pattern.names() {
                if names.iter().all(|known| known.text != name) {
                    names.push(Name {
                        text: name.to_owned(),
                        is_everywhere: patterns.iter().all(|p| p.names().any(|n| n == name)),
                    });
                }
            }
        }
        Self {
            names,
            // A route without a path takes every path, as `/*` does.
            has_rest: patterns.iter().all(|p| p.is_prefix),
            is_whole: patterns.len() == config.path.0.len(),
        }
    }

    /// Returns the slot of a parameter that has a value whenever the route matches.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.lookup(name).ok()
    }

    /// Returns each name and its slot.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Slot)> {
        (0u8..)
            .zip(&self.names)
            .map(|(index, name)| (name.text.as_str(), Slot(index)))
    }

    pub(super) fn lookup(&self, name: &str) -> Result<Slot, NoSlot> {
        let index = self
            .names
            .iter()
            .position(|known| known.text == name)
            .ok_or(NoSlot::Unknown)?;
        if !self.names[index].is_everywhere {
            return Err(NoSlot::NotEverywhere);
        }
        u8::try_from(index).map(Slot).map_err(|_| NoSlot::Unknown)
    }

    /// Returns the slot of a name, even if only some paths have it.
    pub(super) fn any_slot(&self, name: &str) -> Option<Slot> {
        self.iter()
            .find_map(|(known, slot)| (known == name).then_some(slot))
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn has_rest(&self) -> bool {
        self.has_rest
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }
}
