//! Purges of stored responses, and their delivery to every gateway.
//!
//! Purges are entries of one stream in Redis (`log`). Each gateway reads the stream from the last
//! entry that it has applied (`follower`), and holds a lease there that records its position. A
//! purge is over when every gateway with a live lease has applied it or its lease has run out
//! (`receipt`). [`link`] runs all of this beside requests.

mod follower;
pub(crate) mod ledger;
pub mod link;
mod log;
mod metrics;
mod parse;
mod raw_response;
mod receipt;
pub(crate) mod stamps;
mod successor_purges;
mod target;
mod write_target;

pub use self::{
    follower::Trust,
    link::{Caches, PurgeLink, StartedPurge, WaitScope},
    log::{Id, Position},
    metrics::PurgeSource,
    parse::{InvalidPurge, MAX_PURGES, PurgeRequest},
    receipt::{AppliedGateway, Instance, PeerStates, Receipt, Shortfall},
    successor_purges::{SuccessorPurge, SuccessorPurges},
};
pub(crate) use self::{
    target::{PurgeMatcher, without_slash},
    write_target::{HostPath, WriteTarget, long, split_authority},
};

/// Target of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PurgeTarget {
    /// A URL in all forms: every scheme, encoding, variant and RSC form. A path alone (`/x?y`)
    /// stands for any host. Without a query only the path without a query is purged, whatever its
    /// `_rsc`.
    Url(String),
    /// Every URL that begins with this text; `/blog/` alone stands for any host.
    Prefix(String),
    /// Every response that carries exactly this tag.
    Tag(String),
    /// The responses that a write to this URL has changed (`purge_on_write`): the item and the list
    /// that contains it, with any query, with or without a trailing slash. Only gateways send it.
    Written(String),
    All,
}

edgeway_base::enum_table! {
    /// Effect on the purged responses.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum PurgeEffect => name {
        /// Removed.
        #[default]
        Hard = "hard",
        /// Marked as stale: validated before use, or served during revalidation if their
        /// `stale_while_revalidate` allows it.
        Soft = "soft",
    }
}

/// A purge. In JSON: `{"url": "/blog"}`, `{"prefix": …}`, `{"tag": …}` or `{"all": true}`, each
/// with `"soft": true` for a soft one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Purge {
    pub target: PurgeTarget,
    pub effect: PurgeEffect,
}

impl Purge {
    pub const ALL: Self = Self {
        target: PurgeTarget::All,
        effect: PurgeEffect::Hard,
    };
}
