//! State of a link for the status page.

use std::time::SystemTime;

use edgeway_net::redis::Unavailable;

use super::{
    super::{Trust, log::Id},
    PurgeLink,
};

/// State of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// This gateway's name in receipts.
    pub gateway: String,
    /// True if a Redis is configured.
    pub is_shared: bool,
    pub is_leased: bool,
    /// Time since which purges may be over without this gateway.
    pub lost_since: Option<SystemTime>,
    /// Error of the last query.
    pub last_error: Option<Unavailable>,
    /// The last applied entry.
    pub applied: Option<Id>,
    /// Number of purges that the other gateways do not know yet.
    pub unsent: usize,
    /// Number of times that the lease ran out; that everything was dropped because the log had lost
    /// this gateway's position; and of entries applied after a loss.
    pub losses: u64,
    pub gaps: u64,
    pub replayed: u64,
    pub others: Vec<PeerStatus>,
}

/// Another gateway, according to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub gateway: String,
    pub is_leased: bool,
    pub applied: Id,
}

impl PurgeLink {
    pub fn status(&self) -> LinkStatus {
        let trust = self.trust();
        let state = self.state.lock();
        LinkStatus {
            gateway: self.name.clone(),
            is_shared: state.settings.is_some(),
            is_leased: state.settings.is_some() && trust == Trust::All,
            lost_since: match trust {
                Trust::All => None,
                Trust::OnlyAfter(since) => Some(since),
            },
            last_error: state.last_error,
            applied: state.follower.position().map(|position| position.id),
            unsent: state.unsent.len() + state.writes.len(),
            losses: state.losses,
            gaps: state.gaps,
            replayed: state.replayed,
            others: state
                .others
                .iter()
                .map(|lease| PeerStatus {
                    gateway: lease.gateway.clone(),
                    is_leased: lease.left > 0,
                    applied: lease.applied,
                })
                .collect(),
        }
    }
}
