//! The `cache:` section as written: the store that routes with `cache` share.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::unplaced;
use crate::{
    base::{
        net::Cidr,
        secret::Secret,
        units::{ByteSize, Span},
    },
    config::tree::{
        Spanned,
        short::{self, Short, read_short},
    },
};

/// The store of answers. Routes switch it on with `cache: {}`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of memory that stored answers may take up, all that belongs to them counted.
    pub memory: Spanned<ByteSize>,
    /// Larger answers are not kept.
    pub max_object: Spanned<ByteSize>,
    /// Where else answers are kept, for all gateways: `redis`, or a mapping.
    pub shared: Option<Spanned<SharedConfig>>,
    /// A folder of this gateway's own, for what is to survive its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Spanned<DiskConfig>>,
    /// What becomes of answers that may have been purged elsewhere while this gateway could
    /// not hear of it: `serve` them, or `revalidate` them with the origin first. Purges are
    /// shared once there is `redis`.
    pub on_purge_link_lost: PurgeLinkLost,
    /// Who may purge with the method `PURGE` on the site's own listeners.
    pub purge: PurgeConfig,
    /// The instances of an app that are told of purges before the gateways are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<FanOutConfig>,
}

/// Where instances of an app take out what they have cached themselves.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FanOutConfig {
    /// The upstream whose backends are told, all of them.
    pub upstream: Spanned<String>,
    /// The path that takes it, such as `/api/edgeway/revalidate`.
    pub path: Spanned<String>,
    /// What the gateway shows there, as `Authorization: Bearer TOKEN`.
    pub token: Spanned<Secret>,
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

/// What is said otherwise as long as the profile is switched on (`edgeway profile NAME`).
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileConfig {
    /// For every route with a cache. `ttl` and `browser_ttl` count on routes that have them
    /// themselves, so that nothing is kept that was not kept before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<ProfileCacheConfig>,
    /// For single routes, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, ProfileRouteConfig>,
}

/// What is said otherwise of one route.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileRouteConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<ProfileCacheConfig>,
}

/// The keys of a route's `cache` that a profile may say otherwise.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileCacheConfig {
    /// For how long an answer is fresh if the origin does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// For how long a stale answer is served while a new one is fetched, if the origin does
    /// not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate: Option<Span>,
    /// For how long a stale answer is served when the origin fails, if the origin does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<Span>,
    /// What browsers are told as `max-age` instead of what the origin says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub browser_ttl: Option<Span>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory: unplaced(ByteSize(256 << 20)),
            max_object: unplaced(ByteSize(8 << 20)),
            shared: None,
            disk: None,
            on_purge_link_lost: PurgeLinkLost::default(),
            purge: PurgeConfig::default(),
            fan_out: None,
        }
    }
}

/// Where answers are kept over restarts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// For this gateway alone; beside the file of the configuration if it is relative. It is
    /// made if it is not there.
    pub folder: Spanned<String>,
    /// Bytes that the files of answers may take up, each rounded up to 4 KiB.
    pub size: Spanned<ByteSize>,
    /// Larger answers are kept in memory only; by default all that memory takes go to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_object: Option<Spanned<ByteSize>>,
}

/// The cache's level 2, in the Redis of the section `redis`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub struct SharedConfig {
    /// Where it is: `redis`, or `none` for no level 2.
    #[serde(rename = "in")]
    pub place: SharedPlace,
    /// Larger answers are kept in memory only.
    pub max_object: Spanned<ByteSize>,
}

/// Where gateways share answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SharedPlace {
    #[default]
    Redis,
    None,
}

impl Default for SharedConfig {
    fn default() -> Self {
        Self {
            place: SharedPlace::default(),
            max_object: unplaced(ByteSize(1 << 20)),
        }
    }
}

impl Short for SharedConfig {
    const WHAT: &'static str = "`redis`, `none` or a mapping such as `{ max_object: 1MiB }`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        let place = match text {
            "redis" => SharedPlace::Redis,
            "none" => SharedPlace::None,
            _ => return Some(Err(format!("expected {}, found `{text}`", Self::WHAT))),
        };
        Some(Ok(Self {
            place,
            ..Self::default()
        }))
    }
}

impl<'de> Deserialize<'de> for SharedConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_short(d)
    }
}

impl Serialize for SharedConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}
