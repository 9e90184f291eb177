//! What is kept, from a process to the one that takes its place.
//!
//! The process that is relieved writes its whole entries into a pipe, those first that are
//! asked for most ([`give`]); the one that serves reads them beside its requests, for as long
//! as there is room ([`Heir`]). Between them both rest as long as they work, so that requests
//! come first. A pipe that breaks leaves a cache that is colder, and nothing else.
//!
//! A purge wins. The heir takes its mark before it hears of any purge, so that whatever it is
//! told to purge from its start on stays out, in whatever order things come. What was purged
//! before that is not among what is given. Purges come to it by three ways: by its own
//! listeners, by the log in Redis, which it follows from where the process before it was, and
//! from that process itself, for what requests under way there still purge
//! ([`super::purge::Notes`]).

mod give;
mod take;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{give::give, take::Heir};

/// So much is coded, or put in, before there is a rest.
const BATCH: usize = 1 << 20;

/// One entry in the pipe: the length of all that follows, how warm it is, the length of its
/// route's name, that name, and the entry as lower tiers have it. The length of nothing ends
/// it all.
const LENGTH: usize = 4;
const FIXED: usize = 3;

/// What has come over, or has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub entries: u64,
    /// As they are in the pipe.
    pub bytes: u64,
    /// What came and was not put in: purged meanwhile, older than what was there, of a route
    /// that keeps nothing any more, or too much.
    pub left_out: u64,
    pub took: Duration,
}
