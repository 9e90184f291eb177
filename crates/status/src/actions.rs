//! Operator actions on a running gateway, as plain data: requests, results and refusals.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf, pin::Pin, str::FromStr};

use derive_more::Display;
use edgeway_base::{
    secret::Secret,
    units::{Percent, Span},
};
use edgeway_cache::purge::{PurgeRequest, Receipt};
use edgeway_config::{
    changes::Changes,
    diagnostic::{Diagnostics, Problem, Style},
    source::Sources,
};
use edgeway_gateway::WarmUpRequest;
use edgeway_proxy::live::audit::Actor;
use edgeway_upstreams::{CanaryStatus, CanaryVerdict, NewMember};
use serde::{Deserialize, Serialize};

use super::{
    http::RejectionReason,
    snapshot::{BackendStatus, BanStatus},
};

/// Future of an action. With `#[async_trait]`, it would take half a second to compile: below its
/// bounds of lifetimes, of which the compiler caches nothing, all that an action reaches would be
/// proved again to be `Send`.
pub type Action<'a> = Pin<Box<dyn Future<Output = Result<Done, ActionError>> + Send + 'a>>;

/// Actions of the admin API on the running gateway.
pub trait Actions: Send + Sync + 'static {
    /// Token that clients over TCP must present, if any.
    fn token(&self) -> Option<Secret>;

    /// Records that a request for `path` was rejected.
    fn turned_away(&self, who: Actor, reason: RejectionReason, path: &str);

    /// Records that a session of the status page began or ended, or that a link to it was made.
    fn session_changed(&self, who: Actor, action: &'static str);

    /// Performs an action.
    ///
    /// One that has begun is completed and written to the audit log, even if the client disconnects.
    fn perform(&self, who: Actor, operation: Operation) -> Action<'_>;
}

/// Action of an operator, with what it is about. Upstreams are named by a `String`.
#[derive(Debug)]
pub enum Operation {
    /// Reads the configuration again and serves it if it is valid, on trial for a time if one is
    /// given.
    Reload(Option<NewConfigTrial>),
    /// Replaces this process with a new one, started from this file or from the same program again.
    Upgrade(Option<PathBuf>),
    /// Drains a backend. `force` allows it even if no other backend is left.
    Drain { backend: BackendName, force: bool },
    /// Sends requests to a drained backend again.
    Undrain(BackendName),
    /// Adds a backend to the configured ones.
    AddBackend(String, NewMember),
    /// Removes an added backend. `force` allows it even with requests in flight.
    RemoveBackend { backend: BackendName, force: bool },
    /// Sends the requests that belong to no other release to this one.
    SwitchRelease(String, ReleaseSwitch),
    /// Sends a part of the visitors to a new release.
    BeginCanary(String, NewCanary),
    /// Ends the trial of a release: all visitors get the current one.
    EndCanary(String),
    /// Lets the caller fetch responses of a release that is not the current one yet, and returns
    /// requests for those that visitors of the current one want most.
    BeginWarmUp(String, NewWarmUp),
    /// Ends a warm-up.
    EndWarmUp(String),
    /// Serves with another profile, or with none.
    Profile(ProfileSelection),
    /// Bans a client: all of its requests are refused.
    Ban(NewBan),
    /// Lifts a client's ban and returns it.
    Unban(String),
    /// Purges stored responses, here and on the other gateways.
    Purge(PurgeRequest),
}

/// Result of an [`Operation`].
#[derive(Serialize)]
#[serde(untagged)]
pub enum Done {
    Reload(ReloadResult),
    Upgrade(UpgradeResult),
    Backend(BackendResult),
    Release(ReleaseResult),
    Canary(CanaryStatus),
    Verdict(CanaryVerdict),
    WarmUp(WarmUpPlan),
    WarmedUp(WarmUpResult),
    Profile(SwitchResult),
    Banned(BanStatus),
    Unbanned(BanStatus),
    Purged(Receipt),
}

/// Trial of a configuration that is about to begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewConfigTrial {
    pub length: Span,
    /// Share of the clients that get the configuration meanwhile.
    pub share: Percent,
}

impl NewConfigTrial {
    pub const SHARE: Percent = Percent(10.0);
}

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadResult {
    /// The number of the configuration that serves now.
    pub generation: u64,
    /// Time for which the configuration is on trial, if it is.
    pub trial: Option<Span>,
    /// Share of the clients that get it meanwhile.
    pub share: Option<Percent>,
    pub took_ms: f64,
    pub changes: Changes,
    pub zones: ZoneChanges,
    /// Warnings about the configuration, as `edgeway check` prints them on one line each.
    pub warnings: Vec<String>,
}

/// Changes of live state in a reload, by the names of its zones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneChanges {
    pub kept: Vec<String>,
    pub added: Vec<String>,
    pub dropped: Vec<String>,
}

/// Result of an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeResult {
    /// Process id of the new process.
    pub pid: u32,
    pub version: String,
    pub took_ms: f64,
}

/// The profile to switch on. Absent to switch all off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSelection {
    pub name: Option<String>,
}

/// The defined profiles, and the active one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profiles {
    pub active: Option<String>,
    pub profiles: Vec<String>,
}

/// Result of a profile switch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwitchResult {
    pub active: Option<String>,
    pub profiles: Vec<String>,
    /// The number of the configuration that serves now.
    pub generation: u64,
    /// Number of stored responses whose lifetimes have changed.
    pub reset: usize,
    pub took_ms: f64,
}

/// A backend by its upstream and its address.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[display("{upstream}/{address}")]
pub struct BackendName {
    pub upstream: String,
    pub address: String,
}

impl BackendName {
    pub fn new(upstream: &str, address: impl std::fmt::Display) -> Self {
        Self {
            upstream: upstream.to_owned(),
            address: address.to_string(),
        }
    }
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            // The path of a unix socket has slashes of its own.
            Some((upstream, address)) if !upstream.is_empty() && !address.is_empty() => {
                Ok(BackendName::new(upstream, address))
            }
            _ => Err("write UPSTREAM/ADDRESS, such as web/127.0.0.1:3001".to_owned()),
        }
    }
}

/// A release to switch to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSwitch {
    pub release: String,
    /// True if it becomes the current one even if none of its backends is in rotation.
    #[serde(default)]
    pub force: bool,
}

/// A release to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCanary {
    pub release: String,
    /// Part of the visitors that it gets at first; the first of the configured steps if absent.
    pub share: Option<Percent>,
}

/// A release to prepare for its visitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWarmUp {
    pub release: String,
    /// Number of responses to prepare.
    pub responses: usize,
}

/// Requests that prepare a release. They reach it only with the secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmUpPlan {
    /// Header that has the secret.
    pub header: String,
    pub secret: String,
    /// Time for which the secret is valid.
    pub seconds: u64,
    /// The most requested one first.
    pub requests: Vec<WarmUpRequest>,
    /// Number of responses among the most requested ones that only their own clients can ask for.
    pub left_out: usize,
    /// Address of each listener that the requests name.
    pub listeners: BTreeMap<String, String>,
}

/// Result of a warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmUpResult {
    /// Number of requests that had the secret.
    pub requests: u64,
}

/// Result of a switch to another release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseResult {
    pub upstream: String,
    pub release: String,
    /// Release that was the current one.
    pub before: Option<String>,
}

/// A link that opens the status page once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageLink {
    pub url: String,
    /// Time for which it can be used.
    pub seconds: u64,
}

/// A client to ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBan {
    pub address: String,
    #[serde(rename = "for", default = "ban_time")]
    pub lasts: Span,
    pub reason: Option<String>,
}

/// Default duration of a ban.
pub const fn ban_time() -> Span {
    Span::secs(600)
}

/// State of a backend after an action. A removed backend has its last state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendResult {
    pub upstream: String,
    pub backend: BackendStatus,
    /// Why a crash would undo the action.
    pub warning: Option<String>,
}

/// Reason of [`ActionError`] after an upgrade: the successor accepts the request.
pub const SUCCEEDED: &str = "succeeded";

/// Reason of [`ActionError`] if a required token is missing.
pub const TOKEN_MISSING: &str = "token_missing";

/// Reason of [`ActionError`] if the gateway serves another configuration than the request names.
pub const OTHER_CONFIGURATION: &str = "other_configuration";

/// Error of an action that was not done, or not completed. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ActionError {
    /// Status of the HTTP response.
    pub status: u16,
    /// The fixed reason for response, audit log and metric.
    pub reason: Cow<'static, str>,
    /// Message of one sentence.
    pub message: String,
    /// Problems of the configuration, if that is the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The problems as `edgeway check` prints them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub report: String,
}

impl ActionError {
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            problems: Vec::new(),
            report: String::new(),
        }
    }

    /// Creates the error of an invalid configuration: 422, reason `config`.
    pub fn configuration(sources: &Sources, diagnostics: &Diagnostics) -> Self {
        let first = diagnostics
            .sorted()
            .into_iter()
            .find(|problem| problem.severity == edgeway_config::diagnostic::Severity::Error)
            .map_or_else(String::new, |problem| {
                format!(": {}", problem.line(sources))
            });
        Self {
            problems: diagnostics.problems(sources),
            report: diagnostics.render(sources, Style::Graphical { colour: false }),
            ..Self::new(
                422,
                "config",
                format!("the configuration has errors{first}"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_gateway as gateway;

    #[test]
    fn a_refused_configuration_is_reported_in_full() {
        edgeway_core::chain::testkit::without_filters();
        let loaded = gateway::load_text("x.yaml", "listners: []\nroutes: []\n");
        let refused = ActionError::configuration(&loaded.sources, &loaded.diagnostics);
        assert_eq!(refused.status, 422);
        assert!(refused.message.contains("x.yaml:1:1: error: "), "{refused}");
        let first = &refused.problems[0];
        assert_eq!((first.file.as_str(), first.line), ("x.yaml", 1));
        assert!(refused.report.contains("listners"), "{}", refused.report);
        let json = serde_json::to_value(&refused).unwrap();
        assert_eq!(
            serde_json::from_value::<ActionError>(json).unwrap(),
            refused
        );
    }

    #[test]
    fn a_plain_refusal_has_no_problems() {
        let refused = ActionError::new(404, "no_upstream", "unknown upstream `web`");
        assert_eq!(
            serde_json::to_string(&refused).unwrap(),
            r#"{"status":404,"reason":"no_upstream","message":"unknown upstream `web`"}"#
        );
    }
}
