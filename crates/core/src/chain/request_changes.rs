//! Headers that filters change on the way to a backend, as far as they are known in advance.

use http::HeaderName;

/// Request headers that a filter may set, add or remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RequestChanges {
    /// Any header: the names are not known in advance.
    #[default]
    Any,
    /// Headers with these names, or with names that begin with one of the prefixes (in lower case).
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

    /// Returns true if a header of this name, in lower case, is known to change.
    pub fn names_header(&self, name: &str) -> bool {
        let Self::Only { names, prefixes } = self else {
            return false;
        };
        names.iter().any(|each| each == name)
            || prefixes.iter().any(|prefix| name.starts_with(&**prefix))
    }

    /// Combines the changes of two filters.
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
