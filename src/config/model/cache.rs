//! The `cache:` section as written: the store that routes with `cache` share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unplaced;
use crate::{
    base::{net::Cidr, units::ByteSize},
    config::tree::Spanned,
};

/// The store of answers. Routes switch it on with `cache: {}`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of memory that stored answers may take up, all that belongs to them counted.
    pub memory: Spanned<ByteSize>,
    /// Larger answers are not kept.
    pub max_object: Spanned<ByteSize>,
    /// What becomes of answers that may have been purged elsewhere while this gateway could
    /// not hear of it: `serve` them, or `revalidate` them with the origin first. Purges are
    /// shared once there is `redis`.
    pub on_purge_link_lost: PurgeLinkLost,
    /// Who may purge with the method `PURGE` on the site's own listeners.
    pub purge: PurgeConfig,
}

/// What becomes of answers older than the loss of the purge link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PurgeLinkLost {
    #[default]
    Serve,
    Revalidate,
}

/// Purging by `PURGE /path`. Everywhere else purges come by the admin API.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeConfig {
    /// Networks whose `PURGE` is obeyed; nobody's if absent.
    pub allow: Vec<Cidr>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory: unplaced(ByteSize(256 << 20)),
            max_object: unplaced(ByteSize(8 << 20)),
            on_purge_link_lost: PurgeLinkLost::default(),
            purge: PurgeConfig::default(),
        }
    }
}
