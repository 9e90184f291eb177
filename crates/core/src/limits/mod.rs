//! Rate limits and limits on requests in flight: the algorithms, the keys of requests, and the
//! stored counts. Knows requests, but no filters and no responses.

pub mod address;
pub mod bans;
pub mod clearance;
pub mod config;
pub mod flood;
pub mod gcra;
pub mod key;
pub mod lease;
pub mod limit;
pub mod memory;
pub mod shared;
mod strikes;

use edgeway_base::units::ByteSize;

pub use self::{
    address::Address,
    bans::{Ban, BanOrigin, Bans},
    strikes::StrikeRule,
};

/// Maximum size of a request's body where `body_limit` says nothing else.
pub const DEFAULT_BODY_LIMIT: ByteSize = ByteSize(1 << 20);
