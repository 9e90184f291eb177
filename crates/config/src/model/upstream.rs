//! The sections of an upstream as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{
    images::ImagesConfig,
    number, placed_number,
    releases::ReleasesConfig,
    route::RouteTimeoutsConfig,
    shorthand::{at_least_one, or_a_path, or_a_status_number},
    upstream_metrics::UpstreamMetricsConfig,
};
use crate::{
    base::units::{ByteSize, Percent, Span},
    tree::{Spanned, short},
};

/// A named group of backends.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Preset for the kind of app: sets the pool's idle time and the request headers that are
    /// removed.
    #[serde(default)]
    pub app: App,
    /// `127.0.0.1:3000`, `unix:/run/app.sock`, `{ address: …, weight: 2 }` or `{ dns:
    /// "api.internal:5000" }`.
    ///
    /// May be left out with `releases`, whose instances `edgeway deploy` adds.
    #[serde(default)]
    pub backends: Vec<Spanned<BackendConfig>>,
    /// `round_robin`, `least_conn`, `p2c`, `node` (by the load that apps with the module
    /// `edgeway-node` report) or `hash:<key>` with a key of `client.ip`, `path`, `uri`,
    /// `header:NAME`, `cookie:NAME` or `query:NAME`. `least_conn` if absent.
    pub balance: Option<Spanned<String>>,
    /// Keeps a browser on its backend.
    pub sticky: Option<StickyConfig>,
    /// Active health checks. If absent, only ejected backends are checked, by a TCP connect each
    /// second; `false` for no checks at all. Drained backends are checked in any case.
    pub health: Option<Spanned<HealthConfig>>,
    /// True if `/readyz` reports not ready while no backend of this upstream is in rotation.
    #[serde(default)]
    pub required: bool,
    /// Metrics beyond the usual ones.
    #[serde(default)]
    pub metrics: UpstreamMetricsConfig,
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    #[serde(default)]
    pub retry: RetryConfig,
    /// Passive health: a backend that keeps failing leaves rotation for a while.
    #[serde(default)]
    pub eject: EjectConfig,
    #[serde(default)]
    pub max_in_flight: InFlightConfig,
    /// Concurrent streams to one backend: each WebSocket, event feed (`text/event-stream`) and gRPC
    /// call whose response has begun. They do not count towards `max_in_flight`; requests beyond
    /// the limit get 503.
    #[serde(default = "number::<10_000>", deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    pub max_streams: u32,
    /// A recovered backend reaches its full share over this time; `0` for at once.
    pub slow_start: Option<Span>,
    #[serde(default)]
    pub pool: PoolConfig,
    /// Uses TLS to the backends: `true`, or a mapping.
    pub tls: Option<Spanned<UpstreamTlsConfig>>,
    /// Protocol to the backends: `http1` or `h2` (gRPC).
    #[serde(default)]
    pub protocol: ProtocolConfig,
    /// Units with which `edgeway scale` starts and stops the apps.
    pub scale: Option<Spanned<ScaleConfig>>,
    /// Releases of the app, each in a folder of its own: `edgeway deploy` puts them into place.
    /// Browsers that still have an earlier release get responses of that release.
    pub releases: Option<Spanned<ReleasesConfig>>,
    /// Memory of a Node app at which `edgeway rollout --watch` restarts it, before the system kills
    /// it. The apps report it with the module `edgeway-node`.
    pub restart_at: Option<Spanned<RestartAtConfig>>,
    /// Build folder of a Next.js app (`.next`): its build id, the paths that its middleware guards
    /// and the sizes of images are read there.
    pub folder: Option<Spanned<PathBuf>>,
    /// Serves `/_next/static` and `public/` of a Next.js app from `folder`, without the app.
    pub static_files: Option<Spanned<bool>>,
    /// Images of a Next.js app (`/_next/image`): made by the `app` itself, or by the gateway
    /// (`edge`), which needs `folder` or `releases`, and `cache` on the route.
    pub images: Option<Spanned<ImagesConfig>>,
    /// Paths of a Next.js app whose responses are never shared, in place of the list in its build:
    /// `/account/*` is the path and everything below it, `/secret` the path alone; `[]` for none.
    pub guarded: Option<Vec<Spanned<String>>>,
    /// Substrings of `User-Agent`, in any case, that identify crawlers; a list of some sixty if
    /// absent. With `app: nextjs` their misses wait for permits of `revalidations`.
    pub crawlers: Option<Spanned<Vec<String>>>,
    /// Cached responses that may be revalidated at once, and pages that may be rendered for
    /// crawlers.
    #[serde(default = "placed_number::<4>")]
    pub revalidations: Spanned<u32>,
}

/// Starting and stopping of the apps by `edgeway scale`: one unit of systemd for each port. All
/// backends of the upstream must then be at one address with ports of one range.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleConfig {
    /// The unit of the app on a port, such as `node-app@{port}.service`.
    pub unit: Spanned<String>,
    /// Port range of the apps, both ends included, such as `3000-3031`.
    pub ports: Spanned<String>,
    /// Manager of the units: the `system`, or the `user` who runs `edgeway scale`.
    #[serde(default)]
    pub manager: ScaleManager,
    /// Address at which the apps listen; `127.0.0.1` if absent.
    pub address: Option<Spanned<String>>,
}

edgeway_base::enum_table! {
    /// The systemd manager of the units.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum ScaleManager => as_str {
        /// `systemctl`.
        #[default]
        System = "system",
        /// `systemctl --user`.
        User = "user",
    }
}

/// Memory at which an app is restarted: at least one of the two keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartAtConfig {
    /// Resident memory of the process, below the limit at which the system kills it, such as
    /// `900MiB`.
    pub rss: Option<Spanned<ByteSize>>,
    /// JavaScript heap in use, below `--max-old-space-size`, such as `600MiB`. It includes objects
    /// that the next garbage collection frees.
    pub heap: Option<Spanned<ByteSize>>,
}

/// TLS to backends: `true`, `false`, or a mapping. Certificates are always verified.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub struct UpstreamTlsConfig {
    /// Off with `enabled: false`.
    #[default(true)]
    pub enabled: bool,
    /// The name for SNI, which the certificate must be valid for. If absent: the `dns` name of the
    /// backends, which they must share.
    pub name: Option<Spanned<String>>,
    /// A PEM file of CA certificates, instead of the system's.
    pub ca: Option<Spanned<PathBuf>>,
    /// A client certificate, in PEM, with its `key`.
    pub cert: Option<Spanned<PathBuf>>,
    /// The private key of `cert`, in PEM.
    pub key: Option<Spanned<PathBuf>>,
}

/// Protocol to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ProtocolConfig {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2, by ALPN with `tls` and with prior knowledge without.
    #[serde(rename = "h2")]
    H2,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum App {
    #[default]
    None,
    Node,
    Nextjs,
}

/// A backend: `127.0.0.1:3000`, `unix:/run/app.sock`, or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "BackendMapping")]
#[schemars(with = "BackendMapping", rename = "Backend", transform = short::or_text)]
#[schemars(description = "A backend as a mapping: `address` or `dns`, not both.")]
#[schemars(extend("oneOf" = [{ "required": ["address"] }, { "required": ["dns"] }]))]
pub struct BackendConfig {
    pub target: BackendTarget,
    /// Share of the requests, at least 1.
    pub weight: u16,
    /// True if it gets requests only while no other backend can take them.
    pub backup: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// `IP:PORT` or `unix:PATH`.
    Address(String),
    /// `NAME:PORT`, resolved again when its TTL ends.
    Dns(String),
}

/// A backend as a mapping: `address` or `dns`, not both.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendMapping {
    /// `127.0.0.1:3000` or `unix:/run/app.sock`.
    pub(super) address: Option<String>,
    /// A name and a port, `api.internal:5000`, resolved again when its TTL ends.
    pub(super) dns: Option<String>,
    /// Share of the requests, relative to the weights of the others.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub(super) weight: u16,
    /// Gets requests only while all other backends are out of rotation, full, or were attempted
    /// (nginx: `backup`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) backup: bool,
}

fn one() -> u16 {
    1
}

/// A cookie that names the backend.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyConfig {
    /// The cookie's name.
    pub cookie: Spanned<String>,
    /// Time for which the browser keeps it; for the session if absent.
    pub max_age: Option<Span>,
}

/// Active health checks: a mapping, the path alone, or `false` for none.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = or_a_path, transform = short::or_flag)]
pub struct HealthConfig {
    /// Off with `enabled: false`.
    #[default(true)]
    pub enabled: bool,
    /// HTTP check of this path; a TCP connect if absent.
    pub path: Option<Spanned<String>>,
    /// The `Host` of the check; if absent the backend's address, or with `tls` the name in its
    /// certificate.
    pub host: Option<String>,
    /// Statuses that count as healthy: `200`, `200-399`, a list of both; `200-399` if absent.
    pub expect: Option<Spanned<StatusSet>>,
    /// Reads a JSON body's `status`: `ok` and `degraded` keep the backend, `down` ejects it.
    pub json: bool,
    /// Time between two checks of a healthy backend, ± 10 %.
    #[default(Span::secs(5))]
    pub interval: Span,
    /// Time between two checks of a backend that is down.
    #[default(Span::secs(1))]
    pub interval_down: Span,
    /// Time limit of one whole check.
    #[default(Span::secs(2))]
    pub timeout: Span,
    /// Successes in a row until a backend is healthy again.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(2)]
    pub rise: u32,
    /// Failures in a row until a backend is down.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(3)]
    pub fall: u32,
    /// True if backends count as down until their first check passes.
    pub start_down: bool,
}

/// Statuses: `200`, `200-399`, or a list of both. Ranges include both ends.
#[derive(Clone, Debug, PartialEq, Eq, SmartDefault)]
pub struct StatusSet(#[default(vec![(200, 399)])] pub Vec<(u16, u16)>);

impl StatusSet {
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// Time limits of each step towards a backend: a mapping, or one time for all of them but `total`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub struct TimeoutsConfig {
    /// TCP connect (and TLS handshake).
    #[default(Span::secs(1))]
    pub connect: Span,
    /// Time from the last byte sent to the end of the response headers, without the time that the
    /// gateway waits for more of the client's body.
    // As long as nginx waits, so that a long poll that passes there passes here.
    #[default(Span::secs(60))]
    pub first_byte: Span,
    /// Time between two chunks of a response. With `protocol: h2` the longer of this and
    /// `first_byte` limits both.
    #[default(Span::secs(60))]
    pub idle: Span,
    /// Time between two messages of a WebSocket or of a gRPC call, or two events of an SSE feed.
    #[default(Span::secs(3600))]
    pub stream_idle: Span,
    /// Time limit of the whole request, retries included; none if absent. Streams are not limited.
    pub total: Option<Span>,
}

impl TimeoutsConfig {
    /// Returns these with the ones that a route sets.
    #[must_use]
    pub fn with(&self, route: &RouteTimeoutsConfig) -> Self {
        Self {
            connect: route.connect.unwrap_or(self.connect),
            first_byte: route.first_byte.unwrap_or(self.first_byte),
            idle: route.idle.unwrap_or(self.idle),
            stream_idle: route.stream_idle.unwrap_or(self.stream_idle),
            total: route.total.or(self.total),
        }
    }
}

/// Conditions for a retry on another backend. Only listed conditions are retried. A request that is
/// not idempotent is never retried after it was sent.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Total attempts; 1 for no retries.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(2)]
    pub attempts: u32,
    /// Failures after which a request is sent again: `connect`, `reset`, `500`, `502`, `503`,
    /// `504`.
    #[default(vec![RetryOn::Connect, RetryOn::Reset])]
    pub on: Vec<RetryOn>,
    /// Retries allowed as a share of requests over the last 10 s (and at least 3 in any 10 s).
    #[default(Percent(10.0))]
    pub budget: Percent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = or_a_status_number)]
pub enum RetryOn {
    /// The connection could not be established.
    #[serde(rename = "connect")]
    Connect,
    /// Reset or close before the first byte of a response.
    #[serde(rename = "reset")]
    Reset,
    #[serde(rename = "500")]
    Status500,
    #[serde(rename = "502")]
    Status502,
    #[serde(rename = "503")]
    Status503,
    #[serde(rename = "504")]
    Status504,
}

/// Passive health.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct EjectConfig {
    /// Failures in a row (no connection, reset, timeout, 502, 503 or 504) until ejection; 0 for
    /// never.
    #[default(5)]
    pub errors: u32,
    /// Length of the first ejection; each further one is twice as long.
    #[serde(rename = "for")]
    #[default(Span::secs(10))]
    pub span: Span,
    /// Longest ejection.
    #[default(Span::secs(300))]
    pub max: Span,
}

/// Limits on requests in flight: a mapping, or `per_backend` alone.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_number)]
pub struct InFlightConfig {
    /// Requests in flight to one backend.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(1024)]
    pub per_backend: u32,
    /// Requests that may wait for a permit.
    #[default(256)]
    pub queue: u32,
    /// Longest wait of a request before it gets 503.
    #[default(Span::secs(1))]
    pub wait: Span,
}

/// Idle connections kept to backends.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Longest idle time of a connection. If absent: 4 s for `node` and `nextjs` (Node closes at 5
    /// s), 60 s otherwise; and a second less than the backend's own `Keep-Alive: timeout`.
    pub idle: Option<Span>,
}
