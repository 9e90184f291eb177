//! Paths that the app's middleware runs for.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{super::paths, BuildError, rules::Languages};
use crate::base::expression::Expression;

#[derive(Debug, Default)]
pub(super) struct Guards {
    /// Matchers; a path that one cannot decide about counts as a match.
    matchers: Vec<Expression>,
    has_all: bool,
    /// Languages of the app's paths.
    pub(super) languages: Option<Languages>,
}

/// Content of `server/functions-config-manifest.json`.
#[derive(Deserialize)]
pub(super) struct Functions {
    #[serde(default)]
    functions: BTreeMap<String, Function>,
}

/// Content of `server/middleware-manifest.json`: the middleware of all pages is `/`.
#[derive(Deserialize)]
pub(super) struct Middleware {
    #[serde(default)]
    middleware: BTreeMap<String, Function>,
}

#[derive(Deserialize)]
struct Function {
    /// Matchers of the function; `None` means that it runs for every path.
    matchers: Option<Vec<Matcher>>,
}

#[derive(Deserialize)]
pub(super) struct Matcher {
    regexp: String,
}

/// Matchers of each middleware; `None` means all paths.
pub(super) type Matchers = Vec<Option<Vec<Matcher>>>;

impl Functions {
    pub(super) fn matchers(mut self) -> Matchers {
        let entry = self.functions.remove("/_middleware");
        entry.into_iter().map(|entry| entry.matchers).collect()
    }
}

impl Middleware {
    pub(super) fn matchers(self) -> Matchers {
        let all = self.middleware.into_values();
        all.map(|own| own.matchers).collect()
    }
}

impl Guards {
    pub(super) fn everything() -> Self {
        Self {
            has_all: true,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, file: &Path, middleware: Matchers) -> Result<(), BuildError> {
        for matchers in middleware {
            let Some(matchers) = matchers else {
                self.has_all = true;
                continue;
            };
            for Matcher { regexp } in matchers {
                let compiled = Expression::parse(&regexp, false);
                self.matchers
                    .push(compiled.map_err(|source| BuildError::Matcher {
                        file: file.to_path_buf(),
                        matcher: regexp,
                        source,
                    })?);
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.matchers.len() + usize::from(self.has_all)
    }

    /// Returns true if a middleware runs for the path, which lies below `base`. Matches the path as
    /// sent and as decoded, with a default language if it has none, like Next.js, and in no other
    /// form: a negated matcher would match less under more lenient rules.
    pub(super) fn have(&self, path: &[u8], base: &str) -> bool {
        if self.has_all {
            return true;
        }
        if self.matchers.is_empty() {
            return false;
        }
        // Resolving the path could lead the middleware to another one.
        if paths::may_be_another(path) {
            return true;
        }
        let Ok(raw) = std::str::from_utf8(path) else {
            return true;
        };
        let languages = self.languages.as_ref();
        let localized = languages.and_then(|all| all.localized(raw, base));
        let mut localized = localized.into_iter().flatten();
        self.matches(raw) || localized.any(|path| self.matches(&path))
    }

    fn matches(&self, path: &str) -> bool {
        let is_match = |path: &str| {
            let mut matchers = self.matchers.iter();
            matchers.any(|matcher| matcher.is_match(path).unwrap_or(true))
        };
        let decoded = paths::decoded(path.as_bytes());
        is_match(path)
            || *decoded != *path.as_bytes() && std::str::from_utf8(&decoded).is_ok_and(is_match)
    }
}
