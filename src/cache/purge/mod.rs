//! What a purge takes out, and how it reaches every gateway.
//!
//! Purges are entries of one stream in Redis ([`log`]). Each gateway reads it from the last
//! entry that it has applied ([`follower`]), and holds a lease there that says how far it
//! is. A purge is over when every gateway with a live lease has applied it or its lease has
//! run out ([`receipt`]). [`link`] runs all of that beside requests.

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

/// What a purge is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// One URL with all its forms: every scheme, encoding, variant and RSC form of it. With
    /// a path alone (`/x?y`) it is of any host. Without a query only the path without one,
    /// whatever its `_rsc`.
    Url(String),
    /// Every URL that begins with it; `/blog/` alone is of any host.
    Prefix(String),
    /// Every answer that carries exactly this tag.
    Tag(String),
    /// What a write to this URL of a path has changed (`purge_on_write`): the item and the list
    /// that it is in, whatever their queries, with a slash at the end or without. Only gateways
    /// say so.
    Written(String),
    All,
}

/// What becomes of what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum How {
    /// It is gone.
    #[default]
    Hard,
    /// It is stale: validated before it is used, or served while that happens where its
    /// `stale_while_revalidate` allows.
    Soft,
}

/// One purge. As JSON `{"url": "/blog"}`, `{"prefix": …}`, `{"tag": …}` or `{"all": true}`,
/// each with `"soft": true` where that is meant.
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
