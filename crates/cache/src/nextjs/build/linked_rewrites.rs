//! Rewrites of an app's configuration, and which of them the app may apply in a row.

use super::rules::{Condition, Rewrites, Rule, Rules};
use crate::base::{expression::Expression, spelling::is_image};

/// A rewrite, and the later ones that the app may apply after it.
pub(super) struct LinkedRewrite<'r> {
    pub(super) rule: &'r Rule,
    pub(super) paths: Option<Expression>,
    /// Places among all rewrites.
    pub(super) then: Vec<usize>,
}

impl Rules {
    fn rewrites(&self) -> impl Iterator<Item = &Rule> {
        let rewrites = match &self.rewrites {
            Some(Rewrites::ByPhase {
                before_files,
                after_files,
                fallback,
            }) => [&before_files[..], after_files, fallback],
            Some(Rewrites::List(rules)) => [&rules[..], &[], &[]],
            None => [&[][..]; 3],
        };
        rewrites.into_iter().flatten()
    }

    /// Returns the rewrites in the order in which the app tries them.
    pub(super) fn linked_rewrites(&self) -> Vec<LinkedRewrite<'_>> {
        let mut all: Vec<LinkedRewrite<'_>> = Vec::new();
        for (place, rule) in self.rewrites().enumerate() {
            let paths = rule.paths();
            for earlier in &mut all {
                if earlier.rule.leads_to(rule, paths.as_ref()) {
                    earlier.then.push(place);
                }
            }
            let then = Vec::new();
            all.push(LinkedRewrite { rule, paths, then });
        }
        all
    }
}

impl Rule {
    /// Returns true if the app may apply the `later` rewrite after this one. Parameters of either may
    /// be any text.
    fn leads_to(&self, later: &Self, paths: Option<&Expression>) -> bool {
        let end = self.destination.find(['?', '#']);
        let path = &self.destination[..end.unwrap_or(self.destination.len())];
        // Another server gets the request, or no request meets the conditions of both.
        let mut conditions = self.has.iter();
        let is_excluded = conditions.any(|one| later.has.iter().any(|other| one.excludes(other)));
        if !path.starts_with('/') || is_excluded {
            return false;
        }
        if is_image(path.as_bytes()) {
            // The app asks itself for the source of the image.
            return true;
        }
        let start = fixed_start(path);
        if start == path {
            return paths.is_none_or(|paths| paths.is_match(path).unwrap_or(true));
        }
        let [start, other] =
            [start, fixed_start(&later.source)].map(|start| start.trim_end_matches('/').as_bytes());
        let least = start.len().min(other.len());
        start[..least].eq_ignore_ascii_case(&other[..least])
    }
}

impl Condition {
    /// Returns true if no request meets both, whatever rewrites add to its query.
    fn excludes(&self, other: &Self) -> bool {
        let is_one = self.key == other.key && self.r#type != "query";
        let literal = |one: &Self| {
            let text = one.value.as_deref()?.replace("\\.", ".");
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            text.bytes().all(is_plain).then_some(text.into_bytes())
        };
        let differ = |(one, other): (Vec<u8>, Vec<u8>)| {
            // A dot may stand for any byte.
            let is_other =
                |(one, other): (&u8, &u8)| one != other && ![one, other].contains(&&b'.');
            one.len() != other.len() || one.iter().zip(&other).any(is_other)
        };
        self.r#type == other.r#type
            && is_one
            && literal(self).zip(literal(other)).is_some_and(differ)
    }
}

/// Returns the part of a path before its first parameter, group or modifier.
fn fixed_start(path: &str) -> &str {
    let end = path.find([':', '(', '{', '*', '+', '\\']);
    &path[..end.unwrap_or(path.len())]
}
