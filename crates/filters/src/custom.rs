//! Filters that a program built on this library adds. They are registered before any configuration
//! is read, and are treated like built-in filters from then on.

use std::sync::OnceLock;

use edgeway_config::model::ROUTE_KEYS;
use edgeway_core::chain::FilterKind;

use super::{Entry, FILTERS};

/// A kind of filter and its place in the order of requests.
#[derive(Clone, Copy)]
pub struct CustomFilter {
    entry: Entry,
    /// Name of the next filter; without it this filter is the last on requests.
    before: Option<&'static str>,
}

impl CustomFilter {
    /// Places the filter right before the kind `name` on requests, and right after it on responses.
    pub const fn before<K: FilterKind>(name: &'static str) -> Self {
        Self {
            entry: Entry::new::<K>(),
            before: Some(name),
        }
    }

    /// Places the filter after all others on requests, and before them on responses.
    pub const fn last<K: FilterKind>() -> Self {
        Self {
            entry: Entry::new::<K>(),
            before: None,
        }
    }
}

/// Reason why filters cannot be added.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomFilterError {
    #[error("filter name `{0}` is taken: choose another")]
    Taken(&'static str),
    #[error("filter `{0}` is placed before the unknown filter `{1}`")]
    NoPlace(&'static str, &'static str),
    #[error("filters can be added only once, before a configuration is read")]
    TooLate,
}

static ALL: OnceLock<Box<[Entry]>> = OnceLock::new();

/// Adds these filters to the filters of this process.
pub fn register(filters: impl IntoIterator<Item = CustomFilter>) -> Result<(), CustomFilterError> {
    let all = with(filters)?;
    ALL.set(all).map_err(|_| CustomFilterError::TooLate)
}

pub(super) fn all() -> &'static [Entry] {
    ALL.get_or_init(|| FILTERS.into())
}

fn with(list: impl IntoIterator<Item = CustomFilter>) -> Result<Box<[Entry]>, CustomFilterError> {
    let mut all = FILTERS.to_vec();
    for CustomFilter { entry, before } in list {
        let is_taken = all.iter().any(|other| other.name == entry.name);
        if is_taken || ROUTE_KEYS.contains(&entry.name) {
            return Err(CustomFilterError::Taken(entry.name));
        }
        let at = match before {
            None => all.len(),
            Some(name) => all
                .iter()
                .position(|other| other.name == name)
                .ok_or(CustomFilterError::NoPlace(entry.name, name))?,
        };
        all.insert(at, entry);
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use edgeway_config::tree::Spanned;
    use edgeway_core::chain::{CompileContext, Filter, Guard, Phases, Traits};

    /// A filter that does nothing, under a name.
    struct PlaceholderFilter<const NAME: usize>;

    const NAMES: [&str; 3] = ["mine", "cors", "upstream"];

    impl<const NAME: usize> FilterKind for PlaceholderFilter<NAME> {
        const NAME: &'static str = NAMES[NAME];
        type Config = Vec<Spanned<String>>;
        type Filter = Self;

        fn compile(_: Self::Config, _: &mut CompileContext<'_>) -> Option<Self> {
            Some(Self)
        }
    }

    impl<const NAME: usize> Filter for PlaceholderFilter<NAME> {
        fn traits(self: Arc<Self>) -> Traits {
            Traits::new(Phases::NONE, Guard::Nothing)
        }
    }

    #[test]
    fn own_filters_stand_where_they_are_put() {
        let all = with([CustomFilter::before::<PlaceholderFilter<0>>("cors")]).unwrap_or_default();
        let names: Vec<_> = all.iter().map(|entry| entry.name).collect();
        let at = names.iter().position(|name| *name == "mine").unwrap();
        assert_eq!(names[at + 1], "cors");
        assert_eq!(names.len(), FILTERS.len() + 1);
        let last = with([CustomFilter::last::<PlaceholderFilter<0>>()]).unwrap_or_default();
        assert_eq!(last.last().map(|entry| entry.name), Some("mine"));
    }

    #[test]
    fn names_that_are_taken_and_places_that_are_not_there_are_refused() {
        let why = |own: CustomFilter| with([own]).err();
        assert_eq!(
            why(CustomFilter::last::<PlaceholderFilter<1>>()),
            Some(CustomFilterError::Taken("cors"))
        );
        let route_key = Some(CustomFilterError::Taken("upstream"));
        assert_eq!(why(CustomFilter::last::<PlaceholderFilter<2>>()), route_key);
        assert_eq!(
            why(CustomFilter::before::<PlaceholderFilter<0>>("corz")),
            Some(CustomFilterError::NoPlace("mine", "corz"))
        );
        let twice = with([
            CustomFilter::last::<PlaceholderFilter<0>>(),
            CustomFilter::last::<PlaceholderFilter<0>>(),
        ]);
        assert_eq!(twice.err(), Some(CustomFilterError::Taken("mine")));
    }
}
