//! How a link stands, for people.

use std::time::SystemTime;

use super::super::log::Id;
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
