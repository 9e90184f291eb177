//! Transfer of stored responses from a process to its successor.
//!
//! The predecessor writes its complete entries into a pipe, the most requested first (`export`).
//! The successor reads them beside its requests, as long as it has room ([`InheritingStore`]). After each
//! batch both ends pause for as long as the batch took, so that requests come first. A broken pipe
//! leaves a colder cache, and nothing else.
//!
//! A purge wins. The successor takes its mark before it can receive any purge, so that everything
//! purged since its start stays out, in whatever order purges and entries arrive. Entries purged
//! before that are not written to the pipe. Purges reach the successor in three ways: through its
//! own listeners, through the log in Redis, which it follows from its predecessor's position, and
//! from the predecessor, for requests in flight there that still purge ([`super::purge::SuccessorPurges`]).

mod export;
mod import;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{export::give, import::InheritingStore};

/// Bytes that are encoded or stored between two pauses.
const BATCH: usize = 1 << 20;

/// Frame of one entry in the pipe: the length of all that follows, the hit count, the length of the
/// route's name, that name, and the entry in the encoding of the lower tiers. A length of zero ends
/// the stream.
const LENGTH: usize = 4;
const FIXED: usize = 3;

/// Totals of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferTotals {
    pub entries: u64,
    /// Bytes as they are in the pipe.
    pub bytes: u64,
    /// Entries read but not stored: purged meanwhile, older than the stored one, of a route that
    /// no longer stores responses, invalid, or beyond the memory.
    pub left_out: u64,
    pub took: Duration,
}
