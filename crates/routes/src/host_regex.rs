//! Regular expressions of hosts, and what their named groups match.

use edgeway_base::expression::{Expression, Undecided};

use super::{InvalidValue, ParamNames};

/// Compiled regular expression of a host. Hosts are in lower case, so case does not matter.
#[derive(Clone, Debug)]
pub(super) struct HostRegex(Expression);

impl HostRegex {
    pub(super) fn compile(text: &str) -> Result<Self, InvalidValue> {
        Expression::new(text, true).map(Self).map_err(|reason| {
            InvalidValue::new(
                format!("invalid host `~{text}`: {reason}"),
                "the syntax is that of Rust's `regex`, with look-around and back-references",
            )
        })
    }

    pub(super) fn is_match(&self, host: &str) -> Result<bool, Undecided> {
        self.0.is_match(host)
    }

    /// Returns the names of its groups.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.0.names().into_iter().flatten();
        names.map(str::to_owned).collect()
    }

    /// Returns what the groups have matched, for the names of the hosts of a route in their order.
    pub(super) fn values(&self, host: &str, names: &ParamNames) -> Vec<Box<str>> {
        // It matched: it was decided.
        let groups = self.0.groups(host).ok().flatten();
        names.of_hosts(|name| Some(groups.as_ref()?.name(name)?.as_str()))
    }
}
