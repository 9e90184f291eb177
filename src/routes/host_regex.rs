//! Regular expressions of hosts, and what their named groups match.

use super::{ParamNames, RouteProblem};

/// Steps that an expression with look-around may take; a host for which it needs more does not
/// match.
const MAX_STEPS: usize = 20_000;

/// Compiled regular expression of a host. Hosts are in lower case, so case does not matter.
#[derive(Clone, Debug)]
pub(super) enum HostRegex {
    /// In linear time.
    Plain(regex::Regex),
    /// With look-around or back-references, in a limited number of steps.
    Around(Box<fancy_regex::Regex>),
}

impl HostRegex {
    pub(super) fn compile(text: &str) -> Result<Self, RouteProblem> {
        let problem = match regex::RegexBuilder::new(text)
            .case_insensitive(true)
            .build()
        {
            Ok(regex) => return Ok(Self::Plain(regex)),
            Err(error) => error.to_string(),
        };
        let around = fancy_regex::RegexBuilder::new(&format!("(?i){text}"))
            .backtrack_limit(MAX_STEPS)
            .build();
        around
            .map(|regex| Self::Around(Box::new(regex)))
            .map_err(|_| {
                let reason = problem.lines().last().unwrap_or_default().trim();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                RouteProblem::new(
                    format!("invalid host `~{text}`: {reason}"),
                    "the syntax is that of Rust's `regex`, with look-around and back-references",
                )
            })
    }

    pub(super) fn is_match(&self, host: &str) -> bool {
        match self {
            Self::Plain(regex) => regex.is_match(host),
            Self::Around(regex) => regex.is_match(host).unwrap_or(false),
        }
    }

    /// Returns the names of its groups.
    pub(super) fn names(&self) -> Vec<String> {
        let names: Vec<Option<&str>> = match self {
            Self::Plain(regex) => regex.capture_names().collect(),
            Self::Around(regex) => regex.capture_names().collect(),
        };
        names.into_iter().flatten().map(str::to_owned).collect()
    }

    /// Returns what the groups have matched, for the names of the hosts of a route in their order.
    pub(super) fn values(&self, host: &str, names: &ParamNames) -> Vec<Box<str>> {
        match self {
            Self::Plain(regex) => {
                let captures = regex.captures(host);
                let value = |name: &str| Some(captures.as_ref()?.name(name)?.as_str());
                names.of_hosts(value)
            }
            Self::Around(regex) => {
                let captures = regex.captures(host).ok().flatten();
                let value = |name: &str| Some(captures.as_ref()?.name(name)?.as_str());
                names.of_hosts(value)
            }
        }
    }
}
