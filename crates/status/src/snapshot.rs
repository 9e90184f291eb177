//! The state of a running gateway at one moment, as plain data.
//!
//! JSON, page and terminal table all use this type. It contains nothing secret: names, addresses
//! and counts, never header values, keys or the text of the configuration.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use derive_more::Display;
use edgeway_base::metrics::Exposition;
use edgeway_gateway::explain::{ExplainError, ExplainRequest, Explanation};
use edgeway_proxy::live::history::RequestHistory;
use serde::{Deserialize, Serialize};

pub use edgeway_cache::{
    purge::link::{OtherGateway, PurgeLinkStatus},
    tier::CacheDiskStatus,
};
pub use edgeway_net::{log_file::LogFailure, redis::RedisStatus};
pub use edgeway_proxy::live::{
    ReloadStatus,
    traffic::{RouteTraffic, SlowRoute, TrafficFigures, TrafficPoint},
    trial::TrialOutcome,
};
pub use edgeway_tls::acme::CertificateStatus;
pub use edgeway_upstreams::{BackendStatus, RestartAt, Scale, UpstreamStatus, UpstreamTraffic};

/// State of the running gateway for the admin listener.
pub trait Source: Send + Sync + 'static {
    /// The complete state, as on `/status`.
    fn snapshot(&self) -> Snapshot;

    /// Banned clients, with the earliest end of a ban first.
    fn bans(&self) -> Vec<BanStatus>;

    /// Explains how a request would be handled, and what the cache holds for it.
    ///
    /// # Errors
    ///
    /// If the input is no valid request.
    fn explain(&self, question: &ExplainRequest) -> Result<Explanation, ExplainError>;

    /// Checks that new requests should be sent here.
    ///
    /// # Errors
    ///
    /// The reasons against it.
    fn ready(&self) -> Result<(), Vec<NotReady>>;

    /// Address of the admin listener over TCP, if there is one.
    fn admin_address(&self) -> Option<SocketAddr>;

    /// The requests that ended last.
    fn history(&self) -> Arc<RequestHistory>;

    /// Checks that requests for an upstream should be sent here; `None` if there is none of this
    /// name.
    fn upstream_ready(&self, upstream: &str) -> Option<bool>;

    /// All metrics in a text format. Called on a thread that may block.
    fn metrics(&self, format: Exposition) -> Vec<u8>;
}

/// Reason why new requests should be sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub enum NotReady {
    /// Not all listeners are open yet.
    #[display("starting")]
    Starting,
    #[display("draining")]
    Draining,
    #[display("no backend of the required upstream `{_0}` is in rotation")]
    Upstream(String),
}

impl NotReady {
    /// Text for clients of `/readyz`, which may be anybody: without names.
    pub fn public(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Upstream(_) => "no backend of a required upstream is in rotation",
        }
    }
}

/// Response of `/readyz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Why it is not ready.
    pub reasons: Vec<String>,
}

/// The state of one gateway process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub version: String,
    pub pid: u32,
    /// Time of the snapshot by the wall clock; RFC 3339, UTC.
    pub at: String,
    /// Start of the process; RFC 3339, UTC.
    pub started: String,
    pub uptime_seconds: u64,
    pub state: State,
    /// Why the gateway is not ready; empty if it is.
    pub not_ready: Vec<String>,
    pub process: ProcessStatus,
    /// Figures of all requests over time.
    pub traffic: TrafficFigures,
    pub config: ConfigStatus,
    /// The last reloads, the newest first.
    pub reloads: Vec<ReloadStatus>,
    /// Predecessors that are still draining.
    pub predecessors: Vec<Predecessor>,
    pub listeners: Vec<ListenerStatus>,
    pub bans: BansStatus,
    /// Certificates managed by ACME.
    pub certificates: Vec<CertificateStatus>,
    /// Expiry of all certificates, the next one first.
    pub expiries: Vec<CertificateExpiry>,
    /// Listeners for which a certificate or CA on disk is unusable.
    pub unusable_certificates: Vec<String>,
    /// Rate limits with their counts.
    pub limits: Vec<LimitStatus>,
    /// Redis, which carries state shared with other gateways, if configured.
    pub redis: Option<RedisStatus>,
    /// The purge link to other gateways, if anything is cached.
    pub purges: Option<PurgeLinkStatus>,
    /// The cache's memory, if anything is cached.
    pub cache: Option<CacheStatus>,
    /// The folder that makes the cache survive restarts, if configured.
    pub cache_disk: Option<CacheDiskStatus>,
    /// Each loaded version of a plugin.
    pub plugins: Vec<PluginStatus>,
    pub routes: Vec<RouteStatus>,
    pub upstreams: Vec<UpstreamStatus>,
    /// Why the last decisions of operators on backends are not saved, if so.
    pub unsaved_decisions: Option<String>,
    /// Logs of the gateway that cannot be written.
    pub failing_logs: Vec<LogFailure>,
    /// Beginnings of the problems that there are.
    pub problem_onsets: Vec<ProblemOnset>,
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum State => name {
        #[default]
        Starting = "starting",
        Serving = "serving",
        /// No new connections. Open ones may finish.
        Draining = "draining",
    }
}

/// Resources of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// CPU time per second, of the last ten seconds: 1.0 is one processor in full use.
    pub cpu: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// File descriptors that it may have; `None` for no limit.
    pub max_descriptors: Option<u64>,
    /// True if none was left within the last minute.
    pub lacked_descriptors: bool,
}

/// Expiry of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateExpiry {
    /// RFC 3339, UTC.
    pub expires: String,
    pub listener: String,
    pub name: String,
}

/// Counts of a rate limit since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitStatus {
    pub name: String,
    pub passed: u64,
    pub delayed: u64,
    pub refused: u64,
    pub exempt: u64,
    /// Requests for which Redis could not be asked.
    pub without_redis: u64,
}

/// The beginning of a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProblemOnset {
    pub kind: String,
    pub subject: String,
    /// RFC 3339, UTC.
    pub since: String,
}

/// The cache's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    pub objects: u64,
    pub bytes: u64,
    pub budget_bytes: u64,
    /// Responses evicted to make room, since the process began.
    pub evictions: u64,
}

/// The configuration that serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    pub file: String,
    /// Number of configurations that this process has served, from 1.
    pub generation: u64,
    /// RFC 3339, UTC.
    pub loaded_at: String,
    /// Why the last reload was refused; `None` if it was not, or there was none.
    pub last_error: Option<String>,
    /// The active profile.
    pub profile: Option<String>,
    /// The defined profiles.
    pub profiles: Vec<String>,
    /// Trial of the configuration that serves: `edgeway reload --canary`.
    pub canary: Option<ConfigCanaryStatus>,
    /// Verdict on the last trial.
    pub canary_verdict: Option<ConfigVerdictStatus>,
}

/// Trial of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigCanaryStatus {
    pub generation: u64,
    /// RFC 3339, UTC.
    pub until: String,
    /// Share of the clients that get it, in percent.
    pub share: f64,
}

/// Verdict on a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigVerdictStatus {
    pub generation: u64,
    pub outcome: TrialOutcome,
    /// RFC 3339, UTC.
    pub at: String,
    /// Sentence with the figures.
    pub text: String,
}

/// A predecessor that is draining.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Predecessor {
    pub pid: u32,
    pub version: String,
    /// Connections that are still open.
    pub connections: u64,
    /// Requests in flight by `UPSTREAM/ADDRESS`, without zeros.
    pub in_flight: BTreeMap<String, u64>,
    /// Commands of its successors that it has carried out.
    pub commands: u64,
    /// Start of the drain; RFC 3339, UTC.
    pub since: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    pub name: String,
    pub address: String,
    /// Connections open now.
    pub connections: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
}

/// Counts of clients that are banned, or may be soon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BansStatus {
    pub active: usize,
    /// Clients with recent refusals that may lead to a ban.
    pub struck: usize,
}

/// A banned client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BanStatus {
    /// An IPv4 address, or an IPv6 /64.
    pub address: String,
    pub reason: String,
    /// `rule` or `operator`.
    pub by: String,
    /// RFC 3339, UTC.
    pub since: String,
    pub until: String,
    /// The refusals that led to the ban; zero if an operator set it.
    pub strikes: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    pub name: String,
    /// The requests it matches, such as `GET shop.example.com/api/*`.
    #[serde(rename = "match")]
    pub matches: String,
    /// Its action, such as `upstream web` or `redirect 308`.
    pub action: String,
    /// Upstream that its action names.
    pub upstream: Option<String>,
    /// The YAML keys of its filters, in the order of the chain.
    pub filters: Vec<String>,
    pub traffic: RouteTraffic,
}

/// A loaded plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginStatus {
    pub name: String,
    pub file: String,
    /// A short hash of its files.
    pub version: String,
    /// RFC 3339, UTC.
    pub loaded_at: String,
    pub isolates: usize,
    /// Total of its isolates, as of the last measurement.
    pub heap_bytes: u64,
    pub routes: Vec<PluginRouteStatus>,
}

/// A plugin on one route, since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginRouteStatus {
    pub route: String,
    /// Number of hooks that ran.
    pub calls: u64,
    /// Failures by kind, as in metrics, without zeros.
    pub failures: BTreeMap<String, u64>,
    /// Failures in the last minute.
    pub recent_failures: u64,
    /// The text of a recent failure.
    pub last_failure: Option<String>,
    /// True if the plugin failed too often and is suspended for a while.
    pub left_out: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_gateway_can_be_read() {
        let text = r#"{ "upstreams": [{ "name": "web", "waiting_since": 1.5 }], "moon": "full" }"#;
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!(snapshot.upstreams[0].name, "web");
    }

    #[test]
    fn an_older_gateway_can_be_read() {
        let snapshot: Snapshot = serde_json::from_str(r#"{ "version": "0.0.9" }"#).unwrap();
        assert_eq!(snapshot.version, "0.0.9");
        assert_eq!(snapshot.listeners, []);
    }
}
