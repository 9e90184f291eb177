//! How a link stands, for people.

use std::time::SystemTime;

use super::{
    super::{Trust, log::Id},
    Link,
};
use crate::base::redis::Unavailable;

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This gateway's name in receipts.
    pub gateway: String,
    /// There is a Redis.
    pub is_shared: bool,
    pub is_leased: bool,
    /// Since when purges may be over without this gateway.
    pub lost_since: Option<SystemTime>,
    /// Why the last question has no answer.
    pub last_error: Option<Unavailable>,
    /// The last entry that is applied.
    pub applied: Option<Id>,
    /// Purges that the others do not know of yet.
    pub unsent: usize,
    /// How often the lease ran out; how often all was dropped since the log had lost this
    /// gateway's place; how many entries were applied after a loss.
    pub losses: u64,
    pub gaps: u64,
    pub replayed: u64,
    pub others: Vec<Other>,
}

/// Another gateway as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    pub gateway: String,
    pub is_leased: bool,
    pub applied: Id,
}

impl Link {
    pub fn status(&self) -> Status {
        let trust = self.trust();
        let state = self.state.lock();
        Status {
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
                .map(|lease| Other {
                    gateway: lease.gateway.clone(),
                    is_leased: lease.left > 0,
                    applied: lease.applied,
                })
                .collect(),
        }
    }
}
