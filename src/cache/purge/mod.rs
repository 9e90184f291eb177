//! Purges of stored responses, and their delivery to every gateway.
//!
//! Purges are entries of one stream in Redis ([`log`]). Each gateway reads the stream from the last
//! entry that it has applied ([`follower`]), and holds a lease there that records its position. A
//! purge is over when every gateway with a live lease has applied it or its lease has run out
//! ([`receipt`]). [`link`] runs all of this beside requests.

mod follower;
pub mod link;
mod log;
mod metrics;
mod notes;
mod parse;
mod raw;
mod receipt;
mod written;

pub(in crate::cache) use self::written::{Place, Written, long, place, split_authority};
pub use self::{
    follower::Trust,
    link::{Awaited, Begun, Caches, Link},
    log::{Id, Position},
    metrics::Source,
    notes::{Note, Notes},
    parse::{BadPurge, MOST, Order},
    receipt::{Applied, Instance, Others, Receipt, Shortfall},
};

/// Target of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
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

/// Effect on the purged responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum How {
    /// Removed.
    #[default]
    Hard,
    /// Marked as stale: validated before use, or served during revalidation if their
    /// `stale_while_revalidate` allows it.
    Soft,
}

/// A purge. In JSON: `{"url": "/blog"}`, `{"prefix": …}`, `{"tag": …}` or `{"all": true}`, each
/// with `"soft": true` for a soft one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Purge {
    pub what: What,
    pub how: How,
}

impl Purge {
    pub const ALL: Self = Self {
        what: What::All,
        how: How::Hard,
    };
}
