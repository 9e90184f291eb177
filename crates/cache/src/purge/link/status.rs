//! State of a link for the status page.

use edgeway_base::clock::rfc3339;
use serde::{Deserialize, Serialize};

use super::{super::Trust, PurgeLink};

/// The purge link between gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeLinkStatus {
    /// This gateway's name in receipts.
    pub gateway: String,
    /// True if there is a Redis. Without it this gateway knows no others.
    pub shared: bool,
    /// True if every purge waits for this gateway.
    pub leased: bool,
    /// Time since which purges may complete without this gateway; RFC 3339, UTC.
    pub lost_since: Option<String>,
    /// Error of the last request to Redis, if it failed.
    pub last_error: Option<String>,
    /// The last entry of the log that is applied here.
    pub applied: Option<String>,
    /// Purges that have not been sent to the others yet.
    pub unsent: usize,
    /// Number of times that the lease expired.
    pub losses: u64,
    /// Number of times that the whole cache was dropped because the log no longer had this
    /// gateway's position.
    pub gaps: u64,
    /// Entries that were applied after a lost lease.
    pub replayed: u64,
    pub others: Vec<OtherGateway>,
}

/// Another gateway according to the purge log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherGateway {
    pub gateway: String,
    pub leased: bool,
    pub applied: String,
}

impl PurgeLink {
    pub fn status(&self) -> PurgeLinkStatus {
        let trust = self.trust();
        let state = self.state.lock();
        PurgeLinkStatus {
            gateway: self.name.clone(),
            shared: state.settings.is_some(),
            leased: state.settings.is_some() && trust == Trust::All,
            lost_since: match trust {
                Trust::All => None,
                Trust::OnlyAfter(since) => Some(rfc3339(since)),
            },
            last_error: state.last_error.map(|error| error.to_string()),
            applied: state.follower.position().map(|it| it.id.to_string()),
            unsent: state.unsent.len() + state.writes.len(),
            losses: state.losses,
            gaps: state.gaps,
            replayed: state.replayed,
            others: state
                .others
                .iter()
                .map(|lease| OtherGateway {
                    gateway: lease.gateway.clone(),
                    leased: lease.left > 0,
                    applied: lease.applied.to_string(),
                })
                .collect(),
        }
    }
}
