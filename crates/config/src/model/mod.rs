//! The sections of the YAML as written. Filters stay raw nodes, which their own slices read.

mod admin;
mod cache;
mod extends;
mod file;
mod files;
mod flood_guard;
mod geo;
mod images;
mod listener;
mod names;
mod redis;
mod releases;
mod route;
mod rule;
mod shorthand;
#[cfg(test)]
mod tests;
mod tracing;
mod upstream;
mod upstream_metrics;

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

pub(crate) use self::names::route_name;
pub use self::{
    admin::{AdminConfig, AuditLogConfig},
    cache::{
        CacheConfig, DiskConfig, FanOutConfig, ProfileCacheConfig, ProfileConfig,
        ProfileRouteConfig, PurgeConfig, PurgeLinkLost, SharedConfig, SharedPlace,
    },
    extends::ExtendsConfig,
    file::ROUTE_KEYS,
    files::{
        FilesConfig, IfModifiedSinceConfig, KnownTypes, MediaTypesConfig, PrecompressedConfig,
        SymlinksConfig,
    },
    flood_guard::{BanConfig, FloodChallengeConfig, FloodGuardConfig},
    geo::GeoConfig,
    images::{ImagesAt, ImagesConfig},
    listener::{
        AcmeConfig, CertificateConfig, ChallengeConfig, ClientCertificateConfig, Http2Config,
        LimitsConfig, ListenerConfig, MinVersionConfig, ProxyProtocolConfig, TlsConfig,
        ToHttpsConfig, UnderscoresConfig, UnknownNamesConfig,
    },
    redis::{RedisConfig, RedisMode, RedisTlsConfig, RedisUrl, SentinelConfig},
    releases::{CanaryConfig, CanarySplit, ReleaseOverlap, ReleasesConfig},
    route::{
        MaintenanceConfig, MatchConfig, RedirectConfig, RespondConfig, RewriteConfig, RouteConfig,
        RouteTimeoutsConfig, SatisfyConfig, SpellingConfig, UpstreamRequestConfig, WebsocketConfig,
    },
    rule::{OtherwiseConfig, RuleConfig, SiteConfig, ThenConfig},
    tracing::{SlowConfig, TraceTrust, TracingConfig, TracingProtocol, TracingTlsConfig},
    upstream::{
        App, BackendConfig, BackendTarget, EjectConfig, HealthConfig, InFlightConfig, PoolConfig,
        ProtocolConfig, RestartAtConfig, RetryConfig, RetryOn, ScaleConfig, ScaleManager,
        StatusSet, StickyConfig, TimeoutsConfig, UpstreamConfig, UpstreamTlsConfig,
    },
    upstream_metrics::{SessionsConfig, UpstreamMetricsConfig},
};
pub use super::tree::OneOrMany;
use super::tree::{Key, Node, Spanned, short};
use crate::base::units::Span;

/// A whole configuration as written.
#[derive(Clone, Debug)]
pub struct File {
    pub listeners: Vec<Spanned<ListenerConfig>>,
    pub admin: AdminConfig,
    pub trusted_proxies: Vec<Spanned<String>>,
    pub upstreams: Vec<(Key, Spanned<UpstreamConfig>)>,
    /// Filters of every route that does not override them.
    pub defaults: Vec<(Key, Node)>,
    pub routes: Vec<RouteNode>,
    /// Raw node, read by the `access_log` slice.
    pub access_log: Option<(Key, Node)>,
    pub acme: Option<Spanned<AcmeConfig>>,
    /// Raw nodes, read by the limits.
    pub rate_limits: Vec<(Key, Node)>,
    /// Raw nodes, read by the filter `headers`.
    pub maps: Vec<(Key, Node)>,
    pub audit_log: Option<AuditLogConfig>,
    pub redis: Option<Spanned<RedisConfig>>,
    pub tracing: Option<Spanned<TracingConfig>>,
    pub flood_guard: Option<Spanned<FloodGuardConfig>>,
    pub geo: Option<Spanned<GeoConfig>>,
    pub cache: Option<Spanned<CacheConfig>>,
    /// Raw nodes, from which the overlays are built.
    pub profiles: Vec<(Key, Node)>,
    /// The whole tree as read, for comparison with another file.
    pub tree: Arc<Node>,
    pub drain: Spanned<DrainConfig>,
    pub watch: Option<Spanned<WatchConfig>>,
    /// Preset whose values the other sections already have.
    pub extends: Option<Spanned<ExtendsConfig>>,
    /// Repeated slashes of a path are merged into one, unless this is `false`.
    pub merge_slashes: Option<Spanned<bool>>,
    pub driver: Option<Spanned<DriverConfig>>,
    /// Media types of all routes with `files`.
    pub media_types: Option<Spanned<MediaTypesConfig>>,
    /// Rules that the routes of a site share.
    pub sites: Vec<(Key, Spanned<SiteConfig>)>,
}

/// Caller of the hooks of each request: the gateway's own driver, or Pingora's proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverConfig {
    #[default]
    Gateway,
    Pingora,
}

/// A route as written, its filters left raw.
#[derive(Clone, Debug)]
pub struct RouteNode {
    /// The name as written, or else one from what the route matches.
    pub name: String,
    pub place: crate::diagnostic::Place,
    pub config: RouteConfig,
    /// All keys but those of filters, as written.
    pub keys: Node,
    pub filters: Vec<(Key, Node)>,
}

/// Reloads the configuration when its files change: `true`, or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub struct WatchConfig {
    /// Off with `enabled: false`.
    #[default(true)]
    pub enabled: bool,
    /// Time for which the files must stay unchanged before they are read.
    #[default(Span(Duration::from_millis(500)))]
    pub debounce: Span,
}

/// Draining of connections when the gateway stops, or a listener is removed.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Time for which `/readyz` fails before the gateway stops accepting, so that load balancers in
    /// front can switch first.
    #[default(Span(Duration::ZERO))]
    pub announce: Span,
    /// Time for which idle connections stay open, for a request that the client may have sent
    /// already; `1s` if absent, or all of `deadline` if that is less.
    pub idle: Option<Span>,
    /// Deadline for requests and tunnels in flight, which are then closed.
    #[default(Span(Duration::from_secs(30)))]
    pub deadline: Span,
}

impl DrainConfig {
    /// Returns the time for which idle connections stay open: as written, or what fits into the
    /// deadline.
    pub fn idle(&self) -> Span {
        let fitting = || Span(Duration::from_secs(1).min(self.deadline.0));
        self.idle.unwrap_or_else(fitting)
    }
}

/// Default of a time.
fn seconds<const SECONDS: u64>() -> Span {
    Span::secs(SECONDS)
}

/// Default of a time, which has no place in a file.
fn placed_seconds<const SECONDS: u64>() -> Spanned<Span> {
    Spanned::nowhere(Span::secs(SECONDS))
}

fn number<const NUMBER: u32>() -> u32 {
    NUMBER
}

/// Default of a number, which has no place in a file.
fn placed_number<const NUMBER: u32>() -> Spanned<u32> {
    Spanned::nowhere(NUMBER)
}

fn yes() -> bool {
    true
}
