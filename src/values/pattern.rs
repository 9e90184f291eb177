//! Regular expressions over values: in linear time, or with look-around and back-references within a
//! limit of steps.

use regex::RegexBuilder;

/// Steps of an expression with look-around. A value that needs more does not match.
const MAX_STEPS: usize = 20_000;

/// Compiled expression.
#[derive(Debug)]
pub(crate) enum Pattern {
    Plain(regex::Regex),
    Around(Box<fancy_regex::Regex>),
}

/// Groups of an expression that matched a value.
#[derive(Debug)]
pub(crate) enum Groups<'v> {
    Plain(regex::Captures<'v>),
    Around(fancy_regex::Captures<'v, str>),
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Returns the reason, in one line.
    pub(crate) fn new(text: &str, ignores_case: bool) -> Result<Self, String> {
        let plain = RegexBuilder::new(text)
            .case_insensitive(ignores_case)
            .build();
        let error = match plain {
            Ok(regex) => return Ok(Self::Plain(regex)),
            Err(error) => error.to_string(),
        };
        let around = fancy_regex::RegexBuilder::new(text)
            .case_insensitive(ignores_case)
            .backtrack_limit(MAX_STEPS)
            .build();
        around
            .map(|regex| Self::Around(Box::new(regex)))
            .map_err(|_| {
                let reason = error.lines().last().unwrap_or_default().trim();
                reason.trim_start_matches("error: ").to_owned()
            })
    }

    /// Compiles an expression behind a `~`, or behind `~*` without regard to case; `None` if the text
    /// does not begin so.
    pub(crate) fn of_text(text: &str) -> Option<Result<Self, String>> {
        let text = text.strip_prefix('~')?;
        Some(match text.strip_prefix('*') {
            Some(text) => Self::new(text, true),
            None => Self::new(text, false),
        })
    }

    pub(crate) fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Plain(regex) => regex.is_match(value),
            Self::Around(regex) => regex.is_match(value).unwrap_or_default(),
        }
    }

    pub(crate) fn groups<'v>(&self, value: &'v str) -> Option<Groups<'v>> {
        match self {
            Self::Plain(regex) => regex.captures(value).map(Groups::Plain),
            Self::Around(regex) => {
                let found = regex.captures(value).ok().flatten();
                found.map(Groups::Around)
            }
        }
    }

    /// Returns the number of a group, named or numbered.
    pub(super) fn group(&self, name: &str) -> Option<usize> {
        let (count, mut names) = match self {
            Self::Plain(regex) => {
                let names: Vec<_> = regex.capture_names().collect();
                (regex.captures_len(), names.into_iter())
            }
            Self::Around(regex) => {
                let names: Vec<_> = regex.capture_names().collect();
                (regex.captures_len(), names.into_iter())
            }
        };
        let number = name.parse().ok().filter(|number| *number < count);
        number.or_else(|| names.position(|own| own == Some(name)))
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Plain(regex) => regex.as_str(),
            Self::Around(regex) => regex.as_str(),
        }
    }
}

impl Groups<'_> {
    /// Returns the text of a group; an empty one if the group took no part.
    pub(crate) fn get(&self, index: usize) -> &str {
        match self {
            Self::Plain(found) => found.get(index).map_or("", |group| group.as_str()),
            Self::Around(found) => found.get(index).map_or("", |group| group.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_with_and_without_look_around() {
        for (text, value, expected) in [
            ("~^/a/(?<rest>.*)$", "/a/b", Some("b")),
            ("~*^/A/(?<rest>.*)$", "/a/b", Some("b")),
            ("~^/(?!a)(?<rest>.*)$", "/b", Some("b")),
            ("~^/(?!a)(?<rest>.*)$", "/a", None),
        ] {
            let pattern = Pattern::of_text(text).unwrap().unwrap();
            let groups = pattern.groups(value);
            let index = pattern.group("rest").unwrap();
            assert_eq!(
                groups.as_ref().map(|own| own.get(index)),
                expected,
                "{text}"
            );
            assert_eq!(pattern.is_match(value), expected.is_some(), "{text}");
            assert_eq!((pattern.group("1"), pattern.group("2")), (Some(1), None));
        }
        assert!(Pattern::of_text("a").is_none());
        let problem = Pattern::of_text("~(").unwrap().unwrap_err();
        assert_eq!(problem, "unclosed group");
    }

    #[test]
    fn an_expression_with_too_many_steps_does_not_match() {
        let pattern = Pattern::new("^(?=(a+)+$)b", false).unwrap();
        assert!(!pattern.is_match(&format!("{}c", "a".repeat(60))));
    }
}
