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
    action::{
        Action, HostHeader, Otherwise, PAGE_STYLE, Respond, Rewrite, ServeFiles, UpstreamRequest,
    },
    class::{action_of, classify},
    params::{ParamNames, ParamSlot, Params},
    predicate::methods,
    rules::{RuleCourse, Rules, move_to},
    table::{
        GuardSearchResult, LackedGuards, LackedGuardsBy, LiteralMatch, RouteProtection,
        RouteReason, RouteTable,
    },
};
use edgeway_base::{error::InvalidValue, expression::reason_of};
pub use edgeway_base::{
    host::host_of,
    target::{InvalidTarget, Slashes, Target, normalise},
};

/// Compiles a regular expression over raw bytes: `.` and classes know ASCII only.
fn regex(text: &str) -> Result<regex::bytes::Regex, InvalidValue> {
    regex::bytes::RegexBuilder::new(text)
        .unicode(false)
        .build()
        .map_err(|error| {
            let reason = reason_of(&error);
            InvalidValue::new(
                format!("invalid regular expression `{text}`: {reason}"),
                "the syntax is that of Rust's `regex`: no look-around, no back-references",
            )
        })
}
