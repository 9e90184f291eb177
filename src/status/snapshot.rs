//! The state of a running gateway at one moment, as plain data.
//!
//! JSON, page and terminal table all read this one shape. It holds nothing secret: names,
//! addresses and counts, never header values, keys or the text of the configuration.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::gateway::explain::{ExplainError, Explanation, Question};

/// What the admin listener asks of the running gateway.
pub trait Source: Send + Sync + 'static {
    /// Everything `/status` shows.
    fn snapshot(&self) -> Snapshot;

    /// Clients that are banned, the one that is free again first foremost.
    fn bans(&self) -> Vec<BanStatus>;

    /// What would become of a request, and what the cache has for it.
    ///
    /// # Errors
    /// When it is no request.
    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError>;

    /// Whether new requests should be sent here.
    ///
    /// # Errors
    /// The reasons why not, each one sentence.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// All metrics in Prometheus' text format 0.0.4.
    fn metrics_text(&self) -> Vec<u8>;
}

/// The state of one gateway process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub version: String,
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started: String,
    pub uptime_seconds: u64,
    pub state: State,
    /// Why the gateway is not ready; empty if it is.
    pub not_ready: Vec<String>,
    pub config: ConfigStatus,
    /// Processes that this one took over from, as long as they finish their connections.
    pub predecessors: Vec<Predecessor>,
    pub listeners: Vec<ListenerStatus>,
    pub bans: BansStatus,
    /// Those that ACME looks after.
    pub certificates: Vec<CertificateStatus>,
    /// What is shared with other gateways goes through it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStatus>,
    /// How purges reach other gateways, if anything is cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purges: Option<PurgeLinkStatus>,
    /// Where the cache survives restarts, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_disk: Option<CacheDiskStatus>,
    /// Each version that is loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginStatus>,
    pub routes: Vec<RouteStatus>,
    pub upstreams: Vec<UpstreamStatus>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Starting,
    Serving,
    /// No new connections; those that are open are being finished.
    Draining,
}

/// The configuration that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    pub file: String,
    /// Counts the configurations that this process has served, from 1.
    pub generation: u64,
    /// RFC 3339, UTC.
    pub loaded_at: String,
    /// Why the last reload was refused; `None` if it was not, or there was none.
    pub last_error: Option<String>,
    /// The profile that is switched on.
    pub profile: Option<String>,
    /// Those that there are.
    pub profiles: Vec<String>,
}

/// An older process of the gateway, on its way out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Predecessor {
    pub pid: u32,
    pub version: String,
    /// Connections that it still has.
    pub connections: u64,
    /// Requests that it has under way, by `UPSTREAM/ADDRESS`, where there are some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub in_flight: BTreeMap<String, u64>,
    /// When it was relieved; RFC 3339, UTC.
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

/// How many clients are refused whatever they ask for, or soon will be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BansStatus {
    pub active: usize,
    /// Clients that were refused of late, where that may become a ban.
    pub struck: usize,
}

/// A client that is banned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BanStatus {
    /// An address of IPv4, or a /64 of IPv6.
    pub address: String,
    pub reason: String,
    /// `rule` or `operator`.
    pub by: String,
    /// RFC 3339, UTC.
    pub since: String,
    pub until: String,
    /// The refusals that it was banned for; none if an operator did it.
    pub strikes: u32,
}

/// A certificate by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    pub name: String,
    /// RFC 3339, UTC; none while a self-signed one stands in.
    pub expires: Option<String>,
    /// When the next one is asked for; none if another gateway does that.
    pub next: Option<String>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Why the last one did.
    pub problem: Option<String>,
}

/// Whether Redis can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedisStatus {
    /// `single`, `cluster` or `sentinel`.
    pub mode: String,
    /// Without user and password.
    pub address: String,
    pub up: bool,
    /// Since when it is, or is not; RFC 3339, UTC.
    pub since: String,
    /// What was wrong last, kept once it is right again.
    pub last_error: Option<String>,
}

/// The folder of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheDiskStatus {
    pub folder: String,
    /// `up`; `opening`, `busy` (another process has the folder), `catching_up` (with purges) or
    /// `off` (given to the process that serves now); or what is wrong: `full`, `read_only`,
    /// `missing`, `permission`, `slow`, `io`.
    pub state: String,
    /// Since when; RFC 3339, UTC.
    pub since: String,
    /// What was wrong last, kept once it is right again.
    pub last_error: Option<String>,
    pub objects: usize,
    pub bytes: u64,
    pub budget_bytes: u64,
}

/// The link of purges between gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeLinkStatus {
    /// This gateway's name in receipts.
    pub gateway: String,
    /// There is a Redis; without one this gateway knows of no other.
    pub shared: bool,
    /// Every purge waits for this gateway.
    pub leased: bool,
    /// Since when purges may be over without it; RFC 3339, UTC.
    pub lost_since: Option<String>,
    /// Why the last question to Redis has no answer.
    pub last_error: Option<String>,
    /// The last entry of the log that is applied here.
    pub applied: Option<String>,
    /// Purges that the others do not know of yet.
    pub unsent: usize,
    /// How often the lease ran out.
    pub losses: u64,
    /// How often everything was dropped since the log had lost this gateway's place.
    pub gaps: u64,
    /// Entries that were applied after a loss.
    pub replayed: u64,
    pub others: Vec<OtherGateway>,
}

/// Another gateway as the log of purges knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherGateway {
    pub gateway: String,
    pub leased: bool,
    pub applied: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    pub name: String,
    /// What it takes, such as `GET shop.example.com/api/*`.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, such as `upstream web` or `redirect 308`.
    pub action: String,
    /// The YAML keys of its filters, in the order of the chain.
    pub filters: Vec<String>,
}

/// A plugin that is loaded.
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
    /// Of all its isolates, as they were last looked at.
    pub heap_bytes: u64,
    pub routes: Vec<PluginRouteStatus>,
}

/// A plugin on one route, since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginRouteStatus {
    pub route: String,
    /// Hooks that were run.
    pub calls: u64,
    /// By kind, as in metrics; only those that there were.
    pub failures: BTreeMap<String, u64>,
    /// It has failed too often and is not called for a while.
    pub left_out: bool,
}

/// One upstream, as `upstreams::snapshot` tells it; what is not named here is kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    pub name: String,
    pub balance: String,
    /// `http1` or `h2`.
    pub protocol: String,
    /// The name in the backends' certificates, if TLS is spoken to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    pub backends: Vec<BackendStatus>,
    /// How `edgeway scale` starts and stops the apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStatus>,
    /// Requests that wait for a place.
    pub queue: u64,
    /// All backends are out of rotation, so all are used.
    pub panic: bool,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    pub address: String,
    pub weight: u64,
    /// `healthy`, `slow_start`, `ejected` or `down`; `draining` or `drained` while it is to
    /// get no requests.
    pub state: String,
    /// What active checks say; true where there are none.
    pub healthy: bool,
    /// `file`, `dns` or `added`: whether it is written, or who gave it.
    pub origin: String,
    pub in_flight: u64,
    pub requests: u64,
    pub failures: u64,
    /// Average time to the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ewma_ms: Option<f64>,
    /// Seconds until it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_for: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeStatus>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The last active check of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeStatus {
    pub passed: bool,
    pub text: String,
    pub took_ms: f64,
    /// Seconds since.
    pub ago: f64,
    /// How many checks have ended so far.
    pub count: u64,
    /// How many of the last passed, without one between that did not.
    pub passed_in_a_row: u64,
    /// Another one is under way.
    pub running: bool,
}

/// How the apps of an upstream are started, as `upstreams::Scale` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleStatus {
    /// With `{port}` in it.
    pub unit: String,
    pub first_port: u16,
    pub last_port: u16,
    /// `system` or `user`.
    pub manager: String,
    pub address: IpAddr,
}

impl UpstreamStatus {
    /// Reads what an upstream says of itself. What is not of the expected shape is kept
    /// under `unread`, so that a status is never refused for one upstream.
    pub fn from_value(value: Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_else(|_| Self {
            name: value
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or("?")
                .to_owned(),
            more: Map::from_iter([("unread".to_owned(), value)]),
            ..Self::default()
        })
    }
}

impl BackendStatus {
    /// Counts requests that other processes of this gateway have under way as well.
    pub fn add_in_flight(&mut self, more: u64) {
        self.in_flight += more;
        if more > 0 && self.state == "drained" {
            "draining".clone_into(&mut self.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_upstream_keeps_what_only_it_knows() {
        let value = json!({
            "name": "web",
            "balance": "least_conn",
            "protocol": "http1",
            "backends": [{
                "address": "127.0.0.1:3000", "weight": 1, "state": "healthy", "in_flight": 2,
                "healthy": true, "origin": "file",
                "requests": 7, "failures": 1, "ewma_ms": 1.5, "slow_start": 0.3,
                "probe": {
                    "passed": true, "text": "200", "took_ms": 0.4, "ago": 2.0,
                    "count": 9, "passed_in_a_row": 4, "running": false,
                },
            }],
            "queue": 3,
            "panic": false,
            "waiting_since": 1.5,
        });
        let status = UpstreamStatus::from_value(value.clone());
        assert_eq!(status.backends[0].in_flight, 2);
        assert_eq!(serde_json::to_value(&status).unwrap(), value);
    }

    #[test]
    fn an_unknown_shape_is_shown_rather_than_refused() {
        let status = UpstreamStatus::from_value(json!({ "name": "web", "backends": 3 }));
        assert_eq!(status.name, "web");
        assert_eq!(status.more["unread"]["backends"], 3);
    }

    #[test]
    fn an_older_gateway_can_be_read() {
        let snapshot: Snapshot = serde_json::from_str(r#"{ "version": "0.0.9" }"#).unwrap();
        assert_eq!(snapshot.version, "0.0.9");
        assert_eq!(snapshot.listeners, []);
    }
}
