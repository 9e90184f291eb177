//! What an operator may ask of a running gateway, as plain data: the questions, what comes
//! of them, and how they are refused.

use std::{borrow::Cow, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    http::Reason,
    snapshot::{BackendStatus, BanStatus},
};
use crate::{
    base::{secret::Secret, units::Span},
    cache::purge::{Order, Receipt},
    config::{
        changes::Changes,
        diagnostic::{Diagnostics, Problem, Style},
        source::Sources,
    },
    runtime::audit::Who,
};

/// What the admin API asks of the running gateway.
///
/// An action that has begun is finished and written to the audit log, whatever becomes of
/// the one who waits for it.
#[async_trait]
pub trait Actions: Send + Sync + 'static {
    /// What clients over TCP must show, if anything.
    fn token(&self) -> Option<Secret>;

    /// Somebody was turned away who asked for `path`.
    fn turned_away(&self, who: Who, reason: Reason, path: &str);

    /// Reads the configuration anew and serves it, if nothing is wrong with it.
    async fn reload(&self, who: Who) -> Result<Reloaded, Refused>;

    /// Puts a new process in the place of this one; this program again where no `binary`
    /// is named.
    async fn upgrade(&self, who: Who, binary: Option<PathBuf>) -> Result<Upgraded, Refused>;

    /// Sends a backend no new requests; with `force` even if no other is left.
    async fn drain(&self, who: Who, backend: BackendName, force: bool) -> Result<Done, Refused>;

    /// Sends a drained backend requests again.
    async fn undrain(&self, who: Who, backend: BackendName) -> Result<Done, Refused>;

    /// Adds a backend beside those that are written.
    async fn add_backend(
        &self,
        who: Who,
        upstream: String,
        backend: NewBackend,
    ) -> Result<Done, Refused>;

    /// Takes away a backend that was added; with `force` even if it still has requests.
    async fn remove_backend(
        &self,
        who: Who,
        backend: BackendName,
        force: bool,
    ) -> Result<Done, Refused>;

    /// Serves with another profile, or with none.
    async fn profile(&self, who: Who, to: SwitchTo) -> Result<Switched, Refused>;

    /// Refuses a client whatever it asks for.
    async fn ban(&self, who: Who, ban: NewBan) -> Result<BanStatus, Refused>;

    /// Lets a banned client pass again; gives the ban that it had.
    async fn unban(&self, who: Who, address: String) -> Result<BanStatus, Refused>;

    /// Takes stored answers out of the cache, here and at the other gateways.
    async fn purge(&self, who: Who, order: Order) -> Result<Receipt, Refused>;
}

/// A configuration was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// The number of the configuration that serves now.
    pub generation: u64,
    pub took_ms: f64,
    pub changes: Changes,
    pub zones: ZoneChanges,
    /// What is worth changing in it, as `edgeway check` says it on one line each.
    pub warnings: Vec<String>,
}

/// What became of live state at a reload, by the names of its zones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneChanges {
    pub kept: Vec<String>,
    pub added: Vec<String>,
    pub dropped: Vec<String>,
}

/// Another process serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upgraded {
    /// Of the new process.
    pub pid: u32,
    pub version: String,
    pub took_ms: f64,
}

/// The profile to switch on; none at all if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchTo {
    pub name: Option<String>,
}

/// The profiles that there are, and the one that is switched on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profiles {
    pub active: Option<String>,
    pub profiles: Vec<String>,
}

/// Another profile is switched on, or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switched {
    pub active: Option<String>,
    pub profiles: Vec<String>,
    /// The number of the configuration that serves now.
    pub generation: u64,
    /// Stored answers that have other times than before.
    pub reset: usize,
    pub took_ms: f64,
}

/// A backend by its upstream and its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendName {
    pub upstream: String,
    pub address: String,
}

/// A backend to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    pub address: String,
    #[serde(default = "one")]
    pub weight: u16,
    /// It waits for an `undrain` before it gets requests.
    #[serde(default)]
    pub drained: bool,
}

/// A client to ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBan {
    pub address: String,
    #[serde(rename = "for", default = "ban_time")]
    pub lasts: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How long a ban lasts if nobody says so.
pub const fn ban_time() -> Span {
    Span::secs(600)
}

const fn one() -> u16 {
    1
}

/// A backend after an action; one that was removed, as it was last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    pub upstream: String,
    pub backend: BackendStatus,
}

/// The reason of [`Refused`] where another process serves by now: it can be asked.
pub const SUCCEEDED: &str = "succeeded";

/// The reason of [`Refused`] where a token is asked for and none was shown.
pub const TOKEN_MISSING: &str = "token_missing";

/// Why an action was not done, or not to its end. It left everything as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Of the HTTP answer.
    pub status: u16,
    /// The fixed word of answer, audit log and metric.
    pub reason: Cow<'static, str>,
    /// One sentence.
    pub message: String,
    /// What is wrong with the configuration, if it is that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The problems as `edgeway check` prints them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub report: String,
}

impl Refused {
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            problems: Vec::new(),
            report: String::new(),
        }
    }

    /// The configuration has errors: 422, reason `config`.
    pub fn configuration(sources: &Sources, diagnostics: &Diagnostics) -> Self {
        let first = diagnostics
            .sorted()
            .into_iter()
            .find(|problem| problem.severity == crate::config::diagnostic::Severity::Error)
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
    use crate::gateway;

    #[test]
    fn a_refused_configuration_is_told_whole() {
        let loaded = gateway::load_text("x.yaml", "listners: []\nroutes: []\n");
        let refused = Refused::configuration(&loaded.sources, &loaded.diagnostics);
        assert_eq!(refused.status, 422);
        assert!(refused.message.contains("x.yaml:1:1: error: "), "{refused}");
        let first = &refused.problems[0];
        assert_eq!((first.file.as_str(), first.line), ("x.yaml", 1));
        assert!(refused.report.contains("listners"), "{}", refused.report);
        let json = serde_json::to_value(&refused).unwrap();
        assert_eq!(serde_json::from_value::<Refused>(json).unwrap(), refused);
    }

    #[test]
    fn a_plain_refusal_has_no_problems() {
        let refused = Refused::new(404, "no_upstream", "there is no upstream `web`");
        assert_eq!(
            serde_json::to_string(&refused).unwrap(),
            r#"{"status":404,"reason":"no_upstream","message":"there is no upstream `web`"}"#
        );
    }
}
