//! What a purge takes out, and how it reaches every gateway.

use serde::{Deserialize, Serialize};

/// What a purge is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// One URL with all its forms: every scheme, encoding, variant and RSC form of it. With
    /// a path alone (`/x?y`) it is of any host. Without a query only the path without one,
    /// whatever its `_rsc`.
    Url(String),
    /// Every URL that begins with it; `/blog/` alone is of any host.
    Prefix(String),
    /// Every answer that carries exactly this tag.
    Tag(String),
    All,
}

/// What becomes of what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// It is gone.
    #[default]
    Hard,
    /// It is stale: validated before it is used, or served while that happens where its
    /// `stale_while_revalidate` allows.
    Soft,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Purge {
    #[serde(flatten)]
    pub what: What,
    #[serde(default)]
    pub how: How,
}
