//! Allows or denies clients by their address.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::net::CidrSet;
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Reply, Traits, Verdict};
use http::StatusCode;

/// The compiled filter.
#[derive(Debug)]
pub struct Access {
    /// Only these pass, unless empty.
    allow: CidrSet,
    /// Networks that never pass.
    deny: CidrSet,
}

filter_kind!(Access: config::AccessConfig = "access");

impl Filter for Access {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST, Guard::Access)
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.verdict(ex)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        self.verdict(ex).explain()
    }
}

impl Access {
    fn verdict(&self, ex: &Exchange<'_>) -> Verdict {
        let ip = ex.facts.client.ip;
        let passes = !self.deny.contains(ip) && (self.allow.is_empty() || self.allow.contains(ip));
        if passes {
            return Verdict::Next;
        }
        Reply::refuse(StatusCode::FORBIDDEN, "access")
            .detail("Your address is not allowed here.")
            .into()
    }
}
