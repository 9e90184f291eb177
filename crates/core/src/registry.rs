//! Filters of the process: the program hands them over at its start, before it reads any
//! configuration. Those of a program built on this library are treated like built-in ones.

use std::sync::{Arc, OnceLock};

use edgeway_config::{
    diagnostic::Diagnostics,
    model::ROUTE_KEYS,
    tree::{self, Node},
};
use schemars::{Schema, SchemaGenerator};

use crate::chain::{CompileContext, CompiledFilter, FilterKind};

/// Makes `$filter` a [`FilterKind`] whose configuration compiles itself, and knows its secret names if
/// it has some; `None` means that it cannot be compiled.
#[macro_export]
macro_rules! filter_kind {
    ($filter:ty: $config:ty = $name:literal $(, on_by_default = $is_on:literal)? $(; $secret_names:ident)?) => {
        impl $crate::chain::FilterKind for $filter {
            const NAME: &'static str = $name;
            $(const ON_BY_DEFAULT: bool = $is_on;)?
            type Config = $config;

            $(fn $secret_names(config: &$config) -> Vec<String> {
                config.$secret_names()
            })?

            fn compile(
                config: $config,
                cx: &mut $crate::chain::CompileContext<'_>,
            ) -> Option<Self> {
                config.compile(cx).into()
            }
        }
    };
}

/// A kind of filter with its types erased.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub on_by_default: bool,
    /// True if filters with the same settings are alike on every route, so that routes may share one.
    pub is_shareable: bool,
    /// True if the program brought it beside the built-in ones.
    pub is_custom: bool,
    /// Reads and compiles the filter; `None` means that problems were reported.
    pub compile: fn(&Node, &mut CompileContext<'_>) -> Option<CompiledFilter>,
    /// Returns the query parameters whose values a configuration declares secret; none if it cannot
    /// be read, which [`Self::compile`] reports.
    pub secret_names: fn(&Node) -> Vec<String>,
    /// Returns the configuration with every default filled in; `None` if it cannot be read, which
    /// [`Self::compile`] reports.
    pub print: fn(&Node) -> Option<serde_json::Value>,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Entry {
    pub const fn new<K: FilterKind>() -> Self {
        Self {
            name: K::NAME,
            on_by_default: K::ON_BY_DEFAULT,
            is_shareable: false,
            is_custom: false,
            compile: |node, cx| {
                let config = tree::read_value::<K::Config>(K::NAME, None, node, cx.diagnostics)?;
                let filter = cx.checked(|cx| K::compile(config, cx))??;
                Some(CompiledFilter::new(K::NAME, Arc::new(filter)))
            },
            secret_names: |node| {
                let config = tree::read::<K::Config>(node, &mut Diagnostics::default());
                config.map_or_else(Vec::new, |config| K::secret_names(&config))
            },
            print: |node| {
                let config: K::Config = tree::read(node, &mut Diagnostics::default())?;
                serde_json::to_value(config).ok()
            },
            schema: |generator| generator.subschema_for::<K::Config>(),
        }
    }

    /// Returns this kind as one whose filters routes may share: it makes no use of the route's name,
    /// and keeps nothing of one route.
    #[must_use]
    pub const fn shareable(mut self) -> Self {
        self.is_shareable = true;
        self
    }
}

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

/// Makes the built-in filters and those of the program, at their places, the filters of this process.
pub fn register(
    built_in: &[Entry],
    custom: impl IntoIterator<Item = CustomFilter>,
) -> Result<(), CustomFilterError> {
    let all = joined(built_in, custom)?;
    ALL.set(all).map_err(|_| CustomFilterError::TooLate)
}

/// Returns the filters of this process, in the order in which requests meet them.
///
/// # Panics
/// Panics if there are none yet.
pub fn all() -> &'static [Entry] {
    let all = ALL.get();
    all.expect("the filters are handed over first: `edgeway_filters::register()` in a test")
}

fn joined(
    built_in: &[Entry],
    custom: impl IntoIterator<Item = CustomFilter>,
) -> Result<Box<[Entry]>, CustomFilterError> {
    let mut all = built_in.to_vec();
    for CustomFilter { entry, before } in custom {
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
        let is_custom = true;
        all.insert(at, Entry { is_custom, ..entry });
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chain::{Filter, Guard, Phases, Traits};
    use edgeway_config::tree::Spanned;

    const BUILT_IN: &[Entry] = &[
        Entry::new::<PlaceholderFilter<3>>(),
        Entry::new::<PlaceholderFilter<1>>(),
    ];

    /// A filter that does nothing, under a name.
    struct PlaceholderFilter<const NAME: usize>;

    const NAMES: [&str; 4] = ["mine", "cors", "upstream", "access"];

    impl<const NAME: usize> FilterKind for PlaceholderFilter<NAME> {
        const NAME: &'static str = NAMES[NAME];
        type Config = Vec<Spanned<String>>;

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
        let names = |custom: &[CustomFilter]| {
            let all = joined(BUILT_IN, custom.iter().copied()).unwrap_or_default();
            let own: Vec<_> = all.iter().filter(|entry| entry.is_custom).collect();
            assert_eq!(own.len(), custom.len());
            all.iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["access", "cors"]);
        let before = CustomFilter::before::<PlaceholderFilter<0>>("cors");
        assert_eq!(names(&[before]), ["access", "mine", "cors"]);
        let last = CustomFilter::last::<PlaceholderFilter<0>>();
        assert_eq!(names(&[last]), ["access", "cors", "mine"]);
    }

    #[test]
    fn names_that_are_taken_and_places_that_are_not_there_are_refused() {
        let why = |own: CustomFilter| joined(BUILT_IN, [own]).err();
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
        let twice = [CustomFilter::last::<PlaceholderFilter<0>>(); 2];
        let twice = joined(BUILT_IN, twice);
        assert_eq!(twice.err(), Some(CustomFilterError::Taken("mine")));
    }

    /// Invariant: a process has one list of filters from its start to its end, and reads no
    /// configuration without it.
    #[test]
    fn filters_are_handed_over_once_and_before_they_are_asked_for() {
        let early = std::panic::catch_unwind(all).err();
        let message = early.and_then(|why| why.downcast::<String>().ok());
        assert!(message.unwrap().contains("edgeway_filters::register()"));
        assert_eq!(register(BUILT_IN, []), Ok(()));
        assert_eq!(register(&[], []), Err(CustomFilterError::TooLate));
        assert_eq!(all().len(), BUILT_IN.len());
    }
}
