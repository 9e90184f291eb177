//! Headers that filters change on the way to a backend, as far as that is known beforehand.

use http::HeaderName;

/// Headers of requests that a filter may set, add or remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestChanges {
    /// Nobody can tell which.
    Any,
    /// These, and those whose names begin so (in lower case).
    Only {
        names: Vec<HeaderName>,
        prefixes: Vec<Box<str>>,
    },
}

impl RequestChanges {
    pub const NONE: Self = Self::Only {
        names: Vec::new(),
        prefixes: Vec::new(),
    };

    pub fn names(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self::Only {
            names: names.into_iter().collect(),
            prefixes: Vec::new(),
        }
    }

    /// The changes of two filters.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Only {
                    mut names,
                    mut prefixes,
                },
                Self::Only {
                    names: more_names,
                    prefixes: more_prefixes,
                },
            ) => {
                names.extend(more_names);
                prefixes.extend(more_prefixes);
                Self::Only { names, prefixes }
            }
            _ => Self::Any,
        }
    }
}
