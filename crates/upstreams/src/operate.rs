//! Operations on the backends of a running upstream: drain one, undrain it, add one, remove one.
//! They hold until undone, over reloads and restarts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BackendStatus, Upstream,
    backend::{Backend, BackendOrigin},
    operator_decisions::{AddedBackend, OperatorDecisions},
    target::{Target, parse_target},
};
use crate::base::{error::InvalidValue, out::listed};

/// Permission for operations that leave users without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    No,
    Yes,
}

/// Backend to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Address as `IP:PORT` or `unix:PATH`.
    pub address: String,
    /// Weight, at least 1.
    #[serde(default = "one")]
    pub weight: u16,
    /// True if the backend gets no requests before [`Upstream::undrain`].
    #[serde(default)]
    pub drained: bool,
    /// Release of the app that runs there, if the upstream has releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

const fn one() -> u16 {
    1
}

/// Reason why an operation was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MemberError {
    #[error("upstream `{upstream}` has no backend `{address}`; it has {known}")]
    Unknown {
        upstream: String,
        address: String,
        /// Addresses of the present backends, as text.
        known: String,
    },
    #[error(
        "`{address}` is the last backend in rotation of upstream `{upstream}`: without it clients \
         get 503; force it if that is intended"
    )]
    Last { upstream: String, address: String },
    #[error(
        "`{address}` is the last backend in rotation of the current release `{release}`: without it \
         clients get another release; force it if that is intended"
    )]
    LastOfRelease { release: Arc<str>, address: String },
    #[error("{}; {}", .0.message, .0.help)]
    BadAddress(InvalidValue),
    #[error("a backend's weight must be at least 1")]
    BadWeight,
    #[error("upstream `{upstream}` already has backend `{address}`")]
    Exists { upstream: String, address: String },
    #[error(
        "`{address}` is written in the configuration: remove it there and reload; until then \
         `edgeway drain` keeps requests away"
    )]
    Written { address: String },
    #[error("`{address}` comes from DNS: change the DNS record")]
    FromDns { address: String },
    #[error("`{address}` still gets requests: drain it first, or force it")]
    NotDrained { address: String },
    #[error(
        "upstream `{0}` has no `releases`: write them in its configuration, or add the \
         backend without one"
    )]
    NoReleases(String),
    #[error(
        "invalid name of a release `{0}`; write letters, digits, `.`, `-` and `_`, at most \
         100, the first of them a letter or a digit"
    )]
    BadRelease(String),
    #[error("no backend of release `{0}` is in rotation: start its instances first, or force it")]
    ReleaseDown(String),
    #[error(
        "upstream `{0}` has no current release to compare a new one with: deploy the first \
         release without a canary"
    )]
    NoCurrentRelease(String),
    #[error("release `{0}` is the current one already")]
    IsCurrent(String),
    #[error(
        "release `{release}` of upstream `{upstream}` is on trial: wait for the verdict, or end \
         the trial with `edgeway rollback {upstream}`"
    )]
    CanaryRuns { upstream: String, release: String },
    #[error("no release of upstream `{0}` is on trial")]
    NoCanary(String),
    #[error("invalid share `{share}%` of a canary; write one between 0% and 100%, such as `5%`")]
    BadShare { share: f64 },
    #[error("`{address}` has {in_flight} requests in flight: wait for them, or force it")]
    Busy { address: String, in_flight: u32 },
}

impl MemberError {
    /// Returns the HTTP status of a refusal.
    pub fn status(&self) -> u16 {
        self.row().0
    }

    /// Returns the reason for responses, the audit log and metrics.
    pub fn reason(&self) -> &'static str {
        self.row().1
    }

    /// Returns the HTTP status and the reason word of a refusal.
    fn row(&self) -> (u16, &'static str) {
        match self {
            Self::Unknown { .. } => (404, "no_such_backend"),
            Self::NoCanary { .. } => (404, "no_canary"),
            Self::Last { .. } | Self::LastOfRelease { .. } => (409, "last_backend"),
            Self::Exists { .. } => (409, "backend_exists"),
            Self::Written { .. } => (409, "backend_written"),
            Self::FromDns { .. } => (409, "backend_from_dns"),
            Self::NotDrained { .. } => (409, "not_drained"),
            Self::Busy { .. } => (409, "busy"),
            Self::ReleaseDown { .. } => (409, "release_down"),
            Self::NoCurrentRelease { .. } => (409, "no_current_release"),
            Self::IsCurrent { .. } => (409, "is_current"),
            Self::CanaryRuns { .. } => (409, "canary_runs"),
            Self::BadAddress(_) => (422, "bad_address"),
            Self::BadWeight => (422, "bad_weight"),
            Self::NoReleases { .. } => (422, "no_releases"),
            Self::BadRelease { .. } => (422, "bad_release"),
            Self::BadShare { .. } => (422, "bad_share"),
        }
    }
}

impl Upstream {
    /// Drains the backend at `address`: it gets no new requests; those in flight go on.
    ///
    /// # Errors
    /// When there is none, or when no other would be left and that is not forced.
    pub fn drain(&self, address: &str, force: Force) -> Result<BackendStatus, MemberError> {
        let mut decisions = self.shared.live.decisions();
        let backend = self.known(address)?;
        if force == Force::No && !backend.is_drained() {
            self.check_not_last(&backend)?;
        }
        decisions.drained.insert(backend.address().to_string());
        if backend.state.set_drained(true) {
            self.keep(&decisions);
            let in_flight = backend.in_flight();
            log::info!(
                upstream = &*self.name, backend = &**backend.address(), in_flight;
                "backend drained, it gets no new requests"
            );
            self.members_changed();
        }
        Ok(self.backend_status(&backend, self.shared.now()))
    }

    /// Undrains a backend, with a slow start if `slow_start` is set. An earlier ejection ends: an
    /// operator who undrains a backend declares it healthy.
    ///
    /// # Errors
    /// When there is none.
    pub fn undrain(&self, address: &str) -> Result<BackendStatus, MemberError> {
        let mut decisions = self.shared.live.decisions();
        let backend = self.known(address)?;
        let now = self.shared.now();
        decisions.drained.remove(&**backend.address());
        if backend.is_drained() {
            backend.state.ejection.lock().ended_early(now);
            backend.state.readmit(now);
            backend.state.set_returned_at(Some(now));
            backend.state.set_drained(false);
            self.keep(&decisions);
            log::info!(
                upstream = &*self.name, backend = &**backend.address();
                "backend no longer drained"
            );
            self.members_changed();
        }
        Ok(self.backend_status(&backend, now))
    }

    /// Adds a backend beside those in the configuration, until it is removed again.
    ///
    /// # Errors
    /// When its address is invalid, or when there is one of that address.
    pub fn add_member(&self, new: &NewMember) -> Result<BackendStatus, MemberError> {
        let target = parse_target(&new.address).map_err(MemberError::BadAddress)?;
        self.check_release(new.release.as_deref())?;
        if new.weight == 0 {
            return Err(MemberError::BadWeight);
        }
        let address = target.to_string();
        let mut decisions = self.shared.live.decisions();
        if self.known(&address).is_ok() {
            return Err(MemberError::Exists {
                upstream: self.name.to_string(),
                address,
            });
        }
        // DNS may have removed it before: earlier decisions no longer apply.
        decisions.drained.remove(&address);
        if new.drained {
            decisions.drained.insert(address.clone());
        }
        decisions.added.retain(|added| added.target != target);
        decisions.added.push(AddedBackend {
            target,
            weight: new.weight,
            release: new.release.as_deref().map(Arc::from),
        });
        self.keep(&decisions);
        let (backend, drained) = (address.as_str(), new.drained);
        log::info!(upstream = &*self.name, backend, drained; "backend added");
        self.apply(decisions);
        let added = self.known(&address)?;
        Ok(self.backend_status(&added, self.shared.now()))
    }

    /// Removes a backend that was added at run time. Its requests in flight are finished.
    ///
    /// # Errors
    /// When it was not added at run time, or when it still serves and that is not forced.
    pub fn remove_member(&self, address: &str, force: Force) -> Result<BackendStatus, MemberError> {
        let mut decisions = self.shared.live.decisions();
        let backend = self.known(address)?;
        let address = backend.address().to_string();
        match backend.origin {
            BackendOrigin::File => return Err(MemberError::Written { address }),
            BackendOrigin::Dns => return Err(MemberError::FromDns { address }),
            BackendOrigin::Added => {}
        }
        let in_flight = backend.in_flight();
        if force == Force::No && !backend.is_drained() {
            return Err(MemberError::NotDrained { address });
        }
        if force == Force::No && in_flight > 0 {
            return Err(MemberError::Busy { address, in_flight });
        }
        let last = self.backend_status(&backend, self.shared.now());
        decisions
            .added
            .retain(|added| added.target != backend.target);
        decisions.drained.remove(&address);
        self.keep(&decisions);
        log::info!(
            upstream = &*self.name, backend = address.as_str(), in_flight;
            "backend removed"
        );
        self.apply(decisions);
        Ok(last)
    }

    /// Drops decisions that have no meaning with this configuration, which serves alone from now on.
    pub fn tidy_decisions(&self) {
        let mut decisions = self.shared.live.decisions();
        // A backend that is written now no longer counts as added.
        decisions
            .added
            .retain(|added| !self.sources.has(&added.target));
        if self.sources.names().is_empty() {
            decisions
                .drained
                .retain(|address| self.known(address).is_ok());
        }
        // A predecessor may have failed to save them.
        if *decisions != self.shared.keeper.decisions(&self.name) {
            self.keep(&decisions);
        }
    }

    /// Applies a change of the members.
    pub(super) fn apply(&self, decisions: parking_lot::MutexGuard<'_, OperatorDecisions>) {
        // The members are built from the decisions.
        drop(decisions);
        self.rebuild();
        self.members_changed();
    }

    /// Returns the decisions of operators for a predecessor.
    pub fn decided(&self) -> Value {
        json!(&*self.shared.live.decisions())
    }

    /// Applies the decisions that a successor has, and stores.
    pub fn follow(&self, decided: &Value) {
        let mut decisions = self.shared.live.decisions();
        *decisions = OperatorDecisions::from_json(decided);
        for backend in &self.members.load().list {
            let is_drained = decisions.drained.contains(&**backend.address());
            backend.state.set_drained(is_drained);
        }
        self.apply(decisions);
    }

    pub(super) fn keep(&self, decisions: &OperatorDecisions) {
        self.shared.keeper.keep(&self.name, decisions);
    }

    /// Wakes waiting requests and the supervisor, which updates its checks.
    fn members_changed(&self) {
        self.look_round();
        self.shared.live.changed.notify_one();
    }

    /// Checks that another backend would be left in rotation without `backend`: of the current
    /// release, if this one is of it.
    fn check_not_last(&self, backend: &Backend) -> Result<(), MemberError> {
        let now = self.shared.now();
        let members = self.members.load();
        let current = members.current.as_ref();
        let current = current.filter(|current| backend.is_of(Some(current)));
        let is_other = |other: &&Arc<Backend>| {
            let is_own = current.is_none_or(|current| other.is_of(Some(current)));
            other.id() != backend.id() && !other.is_drained() && is_own
        };
        let mut others = members.list.iter().filter(is_other).peekable();
        // If the others are out as well, panic mode uses them.
        let is_last = others.peek().is_none()
            || (backend.state.is_up(now) && !others.any(|other| other.state.is_up(now)));
        let address = backend.address().to_string();
        match current {
            _ if !is_last => Ok(()),
            Some(release) => Err(MemberError::LastOfRelease {
                release: Arc::clone(release),
                address,
            }),
            None => Err(MemberError::Last {
                upstream: self.name.to_string(),
                address,
            }),
        }
    }

    fn known(&self, address: &str) -> Result<Arc<Backend>, MemberError> {
        let members = self.members.load();
        let parsed: Option<Target> = parse_target(address).ok();
        let backend = members.list.iter().find(|backend| {
            **backend.address() == *address || Some(&backend.target) == parsed.as_ref()
        });
        backend.cloned().ok_or_else(|| MemberError::Unknown {
            upstream: self.name.to_string(),
            address: address.to_owned(),
            known: listed(members.list.iter().map(|backend| backend.address())),
        })
    }
}
