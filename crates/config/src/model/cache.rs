//! The `cache:` section as written: the store that routes with `cache` share.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::{
    base::{
        net::Cidr,
        secret::Secret,
        units::{ByteSize, Span},
    },
    tree::{
        Spanned,
        short::{self, Short, short_form},
    },
};

/// The store of cached responses. Routes switch it on with `cache: {}`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of memory for stored responses, including all their metadata.
    #[default(Spanned::nowhere(ByteSize(256 << 20)))]
    pub memory: Spanned<ByteSize>,
    /// Largest response to store; `8MiB` if absent, or a quarter of `memory` if that is less.
    pub max_object: Option<Spanned<ByteSize>>,
    /// Second level of the cache, shared by all gateways: `redis`, or a mapping.
    pub shared: Option<Spanned<SharedConfig>>,
    /// A folder of this gateway alone, for responses that survive a restart.
    pub disk: Option<Spanned<DiskConfig>>,
    /// Treatment of responses that may have been purged elsewhere while the purge link of this
    /// gateway was lost: `serve` them, or `revalidate` them with the origin first. Purges are
    /// shared once there is `redis`.
    pub on_purge_link_lost: PurgeLinkLost,
    /// Access to purging with the method `PURGE` on the site's own listeners.
    pub purge: PurgeConfig,
    /// The instances of an app that are notified of purges before the gateways are.
    pub fan_out: Option<FanOutConfig>,
}

/// The endpoint at which instances of an app purge their own caches.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FanOutConfig {
    /// The upstream whose backends are notified, all of them.
    pub upstream: Spanned<String>,
    /// The path of the endpoint, such as `/api/edgeway/revalidate`.
    pub path: Spanned<String>,
    /// The token that the gateway sends, as `Authorization: Bearer TOKEN`.
    pub token: Spanned<Secret>,
}

/// Treatment of responses older than the loss of the purge link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PurgeLinkLost {
    #[default]
    Serve,
    Revalidate,
}

/// Purging by `PURGE /path`. All other purges use the admin API.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeConfig {
    /// Networks that may send `PURGE`; none if absent.
    pub allow: Vec<Cidr>,
}

/// Settings that apply while the profile is switched on (`edgeway profile NAME`).
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileConfig {
    /// Settings for every route with a cache. `ttl` and `browser_ttl` apply only to routes that set
    /// them themselves, so that a profile stores no further responses.
    pub cache: Option<ProfileCacheConfig>,
    /// Settings for single routes, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, ProfileRouteConfig>,
}

/// Settings of one route in a profile.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileRouteConfig {
    pub cache: Option<ProfileCacheConfig>,
}

/// The keys of a route's `cache` that a profile may override.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileCacheConfig {
    /// Time for which a response is fresh if the origin sets none.
    pub ttl: Option<Span>,
    /// Time for which a stale response is served while a new one is fetched, if the origin sets
    /// none.
    pub stale_while_revalidate: Option<Span>,
    /// Time for which a stale response is served when the origin fails, if the origin sets none.
    pub stale_if_error: Option<Span>,
    /// The `max-age` sent to browsers in place of the origin's.
    pub browser_ttl: Option<Span>,
}

impl CacheConfig {
    /// Returns the size of the largest response to store: as written, or what fits into `memory`.
    pub fn max_object(&self) -> ByteSize {
        let fitting = || ByteSize((8 << 20).min(self.memory.value.0 / 4));
        self.max_object
            .as_ref()
            .map_or_else(fitting, |written| written.value)
    }
}

/// The part of the cache that survives restarts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Folder for this gateway alone; next to the configuration file if it is relative. It is
    /// created if it does not exist.
    pub folder: Spanned<String>,
    /// Bytes that the files of stored responses may take up, each rounded up to 4 KiB.
    pub size: Spanned<ByteSize>,
    /// Larger responses are kept in memory only; by default every response that memory accepts goes
    /// to disk.
    pub max_object: Option<Spanned<ByteSize>>,
}

/// The cache's level 2, in the Redis of the section `redis`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub struct SharedConfig {
    /// Place of level 2: `redis`, or `none` for no level 2.
    #[serde(rename = "in")]
    pub place: SharedPlace,
    /// Larger responses are kept in memory only.
    #[default(Spanned::nowhere(ByteSize(1 << 20)))]
    pub max_object: Spanned<ByteSize>,
}

/// The store that gateways share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SharedPlace {
    #[default]
    Redis,
    None,
}

impl Short for SharedConfig {
    const WHAT: &'static str = "`redis`, `none` or a mapping such as `{ max_object: 1MiB }`";

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

short_form!(SharedConfig);
