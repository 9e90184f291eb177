//! Rules of routes and sites as written: conditions and rewrites, in their order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{base::units::ByteSize, tree::Spanned};

/// Rules that run for all routes of this site, before the final route is chosen.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SiteConfig {
    /// Conditions and rewrites, in their order.
    pub rules: Vec<Spanned<RuleConfig>>,
}

/// Condition, rewrite, or a rewrite under a condition.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Value to compare: text with the placeholders of `headers`, such as `{cookie.session}`. If
    /// absent, the rule applies to every request.
    #[serde(rename = "if")]
    pub value: Option<Spanned<String>>,
    /// Text that the value must be; `~` begins a regular expression that it must match, `~*` one
    /// without regard to case, and `\\~` a text that begins with `~`. If absent, the value must be
    /// neither empty nor `0`.
    pub is: Option<Spanned<String>>,
    /// True to reverse the condition.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// The rule applies if the request declares a body longer than this. nginx checks that before
    /// everything else in a location, with `status: 413`.
    pub body_over: Option<ByteSize>,
    /// Regular expression that the path must match, without its percent-encoding. `{group.1}` and
    /// `{group.NAME}` in `with`, `to` and `body` are its groups.
    pub regex: Option<Spanned<String>>,
    /// New path, with a new query after `?`. The request's own query follows, unless this ends in
    /// `?`.
    pub with: Option<Spanned<String>>,
    /// Next step after this rule; the following rules if absent.
    pub then: Option<ThenConfig>,
    /// Name of a route (`match: { named: true }`) that takes the request after all rules, unless a
    /// later one names another; with `status`, or before such a rule, the route whose headers the
    /// response has.
    pub route: Option<Spanned<String>>,
    /// Status of a response in place of a rewrite; 444 closes the connection.
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<Spanned<u16>>,
    /// Target of a redirect, with placeholders. Without `regex`, `{group.1}` and `{group.NAME}` are
    /// groups of the expression in `is`.
    pub to: Option<Spanned<String>>,
    /// Body, with the placeholders of `to`; the built-in page of an error if absent.
    pub body: Option<Spanned<String>>,
    /// Media type of the body; `*` for that of a file with the request's path, by `media_types`.
    pub content_type: Option<Spanned<String>>,
}

/// Next step after a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThenConfig {
    /// No further rule, and the route stays.
    Stop,
    /// No further rule; the new path chooses the route.
    Reroute,
    /// The rules that follow, then the new path chooses the route.
    Later,
}

/// Next step of a request without a file.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtherwiseConfig {
    /// Name of a route; it may be a named one (`match: { named: true }`).
    pub route: Option<Spanned<String>>,
    /// Path, which chooses the route, with the placeholders of `headers`.
    pub reroute: Option<Spanned<String>>,
    /// Status of the response, such as 404.
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<Spanned<u16>>,
}
