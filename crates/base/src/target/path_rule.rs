//! Paths in lists of a configuration: one alone, or one with all below it.

use super::{Slashes, normalise};

/// Path in normal form, or a path with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    Exact(Box<[u8]>),
    /// The prefix without its trailing slash, and all below it.
    Below(Box<[u8]>),
}

impl PathRule {
    /// Reads `/exact`, or `/prefix/*`; `None` for a text that is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let below = text.strip_suffix("/*");
        let path = below.unwrap_or(text);
        if below == Some("") {
            return Some(Self::Below([].into()));
        }
        if !path.starts_with('/') || path.contains(['*', '{', '?']) {
            return None;
        }
        let path = normalise(path.as_bytes(), Slashes::Keep).ok()?.path;
        Some(match below {
            Some(_) => Self::Below(path.into()),
            None => Self::Exact(path.into()),
        })
    }

    /// Returns true if the rule is about this path, which is in normal form.
    pub fn takes(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Below(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_takes_what_it_says_in_any_spelling_of_the_operator() {
        for (text, takes, leaves) in [
            ("/a", "/a", "/a/"),
            ("/a/*", "/a", "/ab"),
            ("/a/*", "/a/b", "/b"),
            ("/*", "/a", "*"),
            ("/caf%c3%a9/*", "/caf%C3%A9/x", "/caf%c3%a9/x"),
        ] {
            let rule = PathRule::parse(text).unwrap();
            assert!(rule.takes(takes.as_bytes()), "{text} {takes}");
            assert!(!rule.takes(leaves.as_bytes()), "{text} {leaves}");
        }
        for text in ["", "*", "a", "/pub*", "/a/{id}", "/b/*/c", "/x?y", "/%2e/x"] {
            assert_eq!(PathRule::parse(text), None, "{text}");
        }
    }
}
