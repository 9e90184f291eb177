//! Routing: the route of a request, its action, and the request's class.
//!
//! [`normalise`] converts a request target to normal form, [`RouteTable`] finds the most specific
//! route for it, [`Action`] is what that route does, and [`classify`] determines the class of the
//! request. `docs/routing.md` has the rules for users.

mod action;
mod class;
mod host_regex;
mod location;
mod locations;
mod params;
mod pattern;
mod predicate;
mod rules;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod trie;
pub mod values;

#[doc(hidden)]
pub use self::table::work;
pub use self::{
    action::{Action, HostHeader, Otherwise, Respond, ServeFiles, UpstreamRequest},
    class::classify,
    params::{ParamNames, Params, Slot},
    rules::{RuleCourse, Rules, move_to},
    table::{
        GuardSearchResult, LackedGuards, LackedGuardsBy, LiteralMatch, RouteProtection,
        RouteReason, RouteTable,
    },
};
use edgeway_base::expression::reason_of;
pub use edgeway_base::{
    host::host_of,
    target::{InvalidTarget, Slashes, Target, normalise},
};

/// A problem in a piece of the configuration, before its place is known.
#[derive(Debug, PartialEq, Eq)]
struct RouteProblem {
    message: String,
    help: String,
}

impl RouteProblem {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

impl From<RouteProblem> for (String, String) {
    fn from(problem: RouteProblem) -> Self {
        (problem.message, problem.help)
    }
}

/// Compiles a regular expression over raw bytes: `.` and classes know ASCII only.
fn regex(text: &str) -> Result<regex::bytes::Regex, RouteProblem> {
    regex::bytes::RegexBuilder::new(text)
        .unicode(false)
        .build()
        .map_err(|error| {
            let reason = reason_of(&error);
            RouteProblem::new(
                format!("invalid regular expression `{text}`: {reason}"),
                "the syntax is that of Rust's `regex`: no look-around, no back-references",
            )
        })
}
