//! Releases of an app: which backends run which, and which release gets the requests that belong to
//! no other. The gateway itself starts nothing: `edgeway deploy` reads the settings and does.

mod warm_up;

use std::{
    borrow::Cow,
    fs, io,
    net::IpAddr,
    path::{self, PathBuf},
    sync::Arc,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

pub use self::warm_up::WARM_UP_TIME;
pub(super) use self::warm_up::WarmUp;

use super::{
    Upstream,
    backend::Backend,
    balance::Members,
    canary::{self, CanarySettings},
    operate::{Force, MemberError},
    scale,
};
use crate::{
    chain::CompileContext,
    config::{
        diagnostic::Place,
        model::{App, ReleaseOverlap, UpstreamConfig},
        tree::Spanned,
    },
};

const CODE: &str = "edgeway::upstream::bad_releases";

/// Most responses that a new release can be warmed with.
const MAX_WARM: u32 = 2000;

/// Longest name of a release.
const MAX_NAME: usize = 100;

/// Settings for the releases of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseSettings {
    /// Absolute path of the folder with a folder for each release.
    pub folder: PathBuf,
    pub first_port: u16,
    pub last_port: u16,
    pub address: IpAddr,
    #[serde(flatten)]
    pub start: StartMethod,
    /// Number of instances of a release.
    pub instances: u32,
    /// Instances that may run while a release replaces another one.
    #[serde(default)]
    pub overlap: ReleaseOverlap,
    /// Number of responses that are fetched from a new release before it gets visitors.
    #[serde(default)]
    pub warm: u32,
    /// Time for which a replaced release still gets its requests, in seconds.
    pub linger: u64,
    /// Number of releases kept whole.
    pub keep: u32,
    /// Time for which files of older releases are kept, in seconds.
    pub vault: u64,
    /// Limit on the size of all kept files, in bytes.
    pub vault_size: u64,
    #[serde(default)]
    pub canary: CanarySettings,
}

impl ReleaseSettings {
    /// Returns the id of the process that ends replaced releases, if one runs: it locks the file.
    pub fn retiring(&self) -> Option<u32> {
        let file = fs::File::open(self.folder.join(".state/retire.lock")).ok()?;
        let is_free = file.try_lock_shared().is_ok();
        let id = io::read_to_string(file).ok().filter(|_| !is_free)?;
        id.trim().parse().ok()
    }

    /// Tells the process that ends replaced releases to end, if one runs.
    pub fn stop_retiring(&self) {
        if let Some(id) = self
            .retiring()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
        {
            // It may have ended by itself.
            let _sent = kill_process(id, Signal::TERM);
        }
    }
}

/// Way in which an instance is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMethod {
    Unit {
        /// Name of the unit, with `{port}` in it.
        name: String,
        /// `system` or `user`.
        manager: Cow<'static, str>,
    },
    /// Program and its arguments.
    Command(Vec<String>),
}

impl ReleaseSettings {
    /// Compiles the settings; `None` if a problem was reported or nothing is configured.
    pub(super) fn compile(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let Spanned { value, place } = config.releases.as_ref()?;
        if config.app != App::Nextjs {
            cx.at(*place, CODE).error(
                "`releases` needs `app: nextjs`",
                "add `app: nextjs`; other apps are deployed with `edgeway rollout`",
            );
        }
        if config.scale.is_some() {
            cx.at(*place, CODE).error(
                "`releases` and `scale` exclude each other",
                "remove `scale`: `edgeway deploy` starts the instances of a release, as many as \
                 `releases.instances`",
            );
        }
        let start = start(config, *place, cx);
        let ports = scale::ports(&value.ports, cx);
        let address = scale::address(value.address.as_ref(), cx);
        let (first_port, last_port) = ports?;
        let instances = u64::from(value.instances);
        let (needed, used) = match value.overlap {
            ReleaseOverlap::All => (
                2 * instances,
                format!("two releases with {instances} instances each"),
            ),
            ReleaseOverlap::One => (instances + 1, format!("{} instances", instances + 1)),
        };
        if u64::from(last_port - first_port) + 1 < needed {
            cx.at(value.ports.place, CODE).error(
                format!("`ports` has too few ports for {used}"),
                format!("write a range of at least {needed} ports, such as `4000-4031`"),
            );
        }
        if value.warm.value > MAX_WARM {
            cx.at(value.warm.place, CODE).error(
                format!("`warm: {}` is more than {MAX_WARM}", value.warm.value),
                "write as many as `edgeway deploy` can fetch in a minute, such as `200`",
            );
        }
        let folder = cx.folder.join(&value.folder.value);
        Some(Self {
            folder: path::absolute(&folder).unwrap_or(folder),
            first_port,
            last_port,
            address: address?,
            start: start?,
            instances: value.instances,
            overlap: value.overlap,
            warm: value.warm.value,
            linger: value.linger.0.as_secs(),
            keep: value.keep,
            vault: value.vault.0.as_secs(),
            vault_size: value.vault_size.0,
            canary: canary::compile(&value.canary, cx),
        })
    }
}

fn start(
    config: &UpstreamConfig,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Option<StartMethod> {
    let written = &config.releases.as_ref()?.value;
    let (place, message, help) = match (&written.unit, &written.start) {
        (Some(unit), None) => {
            return Some(StartMethod::Unit {
                name: scale::unit(unit, cx)?,
                manager: written.manager.as_str().into(),
            });
        }
        (None, Some(start)) if start.value.first().is_some_and(|word| !word.is_empty()) => {
            return Some(StartMethod::Command(start.value.clone()));
        }
        (None, Some(start)) => (
            start.place,
            "`start` has no program",
            "write the program and its arguments, such as `start: [npm, start]`",
        ),
        (Some(_), Some(start)) => (
            start.place,
            "`start` and `unit` exclude each other",
            "keep `unit` if systemd runs the app, or `start` if nothing else does",
        ),
        (None, None) => (
            place,
            "`releases` cannot start an instance",
            "write `unit: web@{port}.service`, or `start: [npm, start]` without systemd",
        ),
    };
    cx.at(place, CODE).refuse(message, help)
}

/// Returns true for a name that a release can have: a folder's, and part of a header and a log.
pub fn is_release_name(name: &str) -> bool {
    let begins = name
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    begins && name.len() <= MAX_NAME && name.bytes().all(is_part)
}

impl Members {
    /// Returns true if a backend of this release is in rotation; for `None`, one without a release.
    pub(super) fn has_up(&self, release: Option<&str>, now: u64) -> bool {
        let is_up =
            |backend: &Arc<Backend>| backend.is_of(release) && backend.state.is_in_rotation(now);
        self.list.iter().any(is_up)
    }

    /// Returns the release that gets the requests of `asked`: itself while it is in rotation, else the
    /// current one, else the one before that.
    pub(super) fn serving<'a>(&'a self, asked: Option<&'a str>, now: u64) -> Option<&'a str> {
        // Without instances of releases, the app from before them serves.
        if self.list.iter().all(|backend| backend.release.is_none()) {
            return None;
        }
        let current = self.current.as_deref();
        let mut releases = [asked, current, self.before.as_deref()].into_iter();
        let serving = releases.find(|release| self.has_up(*release, now));
        serving.unwrap_or(current)
    }
}

impl Backend {
    /// Returns true if this release runs here; for `None`, if the backend has no release.
    pub(super) fn is_of(&self, release: Option<&str>) -> bool {
        self.release.as_deref() == release
    }
}

impl Upstream {
    /// Returns the release that gets the requests that belong to no other.
    pub fn current_release(&self) -> Option<Arc<str>> {
        self.members.load().current.clone()
    }

    /// Returns true if a backend of this release is in rotation.
    pub fn is_release_up(&self, release: &str) -> bool {
        self.members.load().has_up(Some(release), self.shared.now())
    }

    /// Sends the requests that belong to no other release to `release`.
    ///
    /// # Errors
    /// When no backend of the release is in rotation and that is not forced.
    pub fn switch_release(
        &self,
        release: &str,
        force: Force,
    ) -> Result<Option<Arc<str>>, MemberError> {
        self.check_release(Some(release))?;
        let is_possible = force == Force::Yes || self.is_release_up(release);
        if is_possible && let Ok(ended) = self.end_canary() {
            log::info!(upstream = &*self.name, release; "the trial of `{}` ends", ended.release);
        }
        let mut decisions = self.shared.live.decisions();
        if force == Force::No {
            self.check_up(release)?;
        }
        let before = decisions.current.replace(release.into());
        if before.as_deref() != Some(release) {
            // A release that this takes back does not return, not even to stand in.
            let is_back = decisions.before.as_deref() == Some(release);
            decisions.before = before.clone().filter(|_| !is_back);
            self.keep(&decisions);
            let was = before.as_deref().unwrap_or("none");
            log::info!(upstream = &*self.name, release, before = was; "current release switched");
            self.apply(decisions);
        }
        Ok(before)
    }

    /// Checks that a backend may have this release.
    pub(super) fn check_up(&self, release: &str) -> Result<(), MemberError> {
        if self.is_release_up(release) {
            return Ok(());
        }
        Err(MemberError::ReleaseDown(release.to_owned()))
    }

    pub(super) fn check_release(&self, release: Option<&str>) -> Result<(), MemberError> {
        let Some(release) = release else {
            return Ok(());
        };
        if self.releases.is_none() {
            return Err(MemberError::NoReleases(self.name.to_string()));
        }
        if !is_release_name(release) {
            let shown = release.chars().take(MAX_NAME).collect();
            return Err(MemberError::BadRelease(shown));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        BackendStatus, Force, MemberError, NewMember, Outcome, Unavailable, Upstream,
        tests::{Bench, CLIENT, head},
    };
    use crate::LeaseRequest;

    pub(super) const RELEASES: &str = "app: nextjs, health: false, \
                            releases: { folder: /srv/web, ports: 4000-4031, start: [npm, start] }";

    #[track_caller]
    fn messages(yaml: &str) -> Vec<String> {
        let (upstream, diagnostics) = Bench::new().try_compile(yaml);
        assert_eq!(upstream.is_none(), diagnostics.has_errors());
        let list = diagnostics.list().iter();
        list.map(|d| d.message.clone()).collect()
    }

    pub(super) fn add(
        upstream: &Upstream,
        port: u16,
        release: &str,
    ) -> Result<BackendStatus, MemberError> {
        upstream.add_member(&NewMember {
            address: format!("127.0.0.1:{port}"),
            weight: 1,
            drained: false,
            release: Some(release.to_owned()),
        })
    }

    /// Returns the port of the backend that a request for this release gets.
    async fn port(upstream: &Upstream, release: Option<&str>) -> Result<String, Unavailable> {
        let head = head("/");
        let ask = LeaseRequest {
            head: &head,
            client: CLIENT,
            at: upstream.shared.clock.now(),
            tried: &[],
            is_upgrade: false,
            release,
        };
        let lease = upstream.acquire(&ask).await?;
        let address = lease.backend.address().to_string();
        lease.finish(Outcome::Status(200));
        Ok(address.rsplit_once(':').unwrap().1.to_owned())
    }

    #[test]
    fn mistakes_are_reported_with_a_remedy() {
        let cases = [
            (
                "{ releases: { folder: r, ports: 4000-4031, start: [npm, start] } }",
                "`releases` needs `app: nextjs`",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4031 } }",
                "`releases` cannot start an instance",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4031, start: [] } }",
                "`start` has no program",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4031, start: [npm], unit: 'a@{port}' } }",
                "`start` and `unit` exclude each other",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4002, start: [npm] } }",
                "`ports` has too few ports for two releases with 2 instances each",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4001, start: [npm], overlap: one } }",
                "`ports` has too few ports for 3 instances",
            ),
            (
                "{ app: nextjs, releases: { folder: r, ports: 4000-4031, start: [npm], warm: 2001 } }",
                "`warm: 2001` is more than 2000",
            ),
        ];
        for (yaml, message) in cases {
            assert_eq!(messages(yaml), [message], "{yaml}");
        }
        assert!(messages(&format!("{{ {RELEASES} }}")).is_empty());
        let one = "{ app: nextjs, releases: { folder: r, ports: 4000-4002, start: [npm], overlap: one, \
                   warm: 200 } }";
        assert!(messages(one).is_empty());
    }

    #[tokio::test]
    async fn a_request_gets_a_backend_of_its_release_as_long_as_one_is_in_rotation() {
        let upstream = Bench::new().upstream(&format!("{{ {RELEASES} }}"));
        assert_eq!(
            port(&upstream, None).await,
            Err(Unavailable::NoBackend),
            "nothing was deployed yet"
        );
        add(&upstream, 4000, "one").unwrap();
        add(&upstream, 4001, "one").unwrap();
        add(&upstream, 4002, "two").unwrap();
        for _ in 0..20 {
            assert_eq!(port(&upstream, Some("two")).await.unwrap(), "4002");
            assert_ne!(port(&upstream, Some("one")).await.unwrap(), "4002");
        }
        upstream.drain("127.0.0.1:4002", Force::No).unwrap();
        assert!(!upstream.is_release_up("two"));
        assert_eq!(
            port(&upstream, Some("two")).await,
            Err(Unavailable::NoBackend)
        );
        upstream.switch_release("one", Force::No).unwrap();
        for other in ["two", "three"] {
            assert_ne!(port(&upstream, Some(other)).await.unwrap(), "4002");
        }
    }

    #[tokio::test]
    async fn the_release_before_the_current_one_stands_in_and_no_other() {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ {RELEASES} }}"));
        for (port, release) in [
            (4000, "one"),
            (4001, "two"),
            (4002, "three"),
            (4003, "held"),
        ] {
            add(&upstream, port, release).unwrap();
        }
        for release in ["one", "two", "three"] {
            upstream.switch_release(release, Force::No).unwrap();
        }
        drop(upstream);
        let restarted = Bench {
            keeper: bench.keeper.clone(),
            ..Bench::new()
        };
        let upstream = restarted.upstream(&format!("{{ {RELEASES} }}"));
        assert_eq!(port(&upstream, None).await.unwrap(), "4002");
        upstream.drain("127.0.0.1:4002", Force::Yes).unwrap();
        for release in [None, Some("three")] {
            for _ in 0..20 {
                assert_eq!(port(&upstream, release).await.unwrap(), "4001");
            }
        }
        assert_eq!(port(&upstream, Some("one")).await.unwrap(), "4000");
        upstream.drain("127.0.0.1:4001", Force::Yes).unwrap();
        let down = Err(Unavailable::NoBackend);
        assert_eq!(port(&upstream, None).await, down);
    }

    #[tokio::test]
    async fn a_release_that_was_taken_back_does_not_stand_in() {
        let upstream = Bench::new().upstream(&format!("{{ {RELEASES} }}"));
        add(&upstream, 4000, "one").unwrap();
        add(&upstream, 4001, "two").unwrap();
        for release in ["one", "two", "one"] {
            upstream.switch_release(release, Force::No).unwrap();
        }
        upstream.drain("127.0.0.1:4000", Force::Yes).unwrap();
        let down = Err(Unavailable::NoBackend);
        assert_eq!(port(&upstream, None).await, down);
    }

    #[test]
    fn a_trial_beside_a_release_that_is_down_comes_to_its_end() {
        let canary = "canary: { steps: [50%], step: 1s, requests: 5 }";
        let yaml = RELEASES.replace("ports", &format!("{canary}, ports"));
        let upstream = Bench::new().upstream(&format!("{{ {yaml} }}"));
        add(&upstream, 4000, "one").unwrap();
        add(&upstream, 4001, "two").unwrap();
        upstream.switch_release("one", Force::No).unwrap();
        upstream.begin_canary("two", None).unwrap();
        upstream.drain("127.0.0.1:4000", Force::Yes).unwrap();
        for client in 0..100 {
            let client = std::net::Ipv4Addr::from_bits(client).into();
            let (_, trial) = upstream.release_for(client, &http::HeaderMap::new());
            if let Some(trial) = trial {
                assert!(trial.is_new, "the other one has no requests");
                trial.ended(false, None);
            }
        }
        for second in 1..4 {
            upstream.judge_canary(upstream.shared.now() + second * 1_000_000_000);
        }
        assert_eq!(upstream.current_release().as_deref(), Some("two"));
    }

    #[test]
    fn a_switch_needs_a_backend_in_rotation_and_outlives_the_process() {
        let bench = Bench::new();
        let yaml = format!("{{ {RELEASES} }}");
        let upstream = bench.upstream(&yaml);
        let down = MemberError::ReleaseDown("one".to_owned());
        assert_eq!(upstream.switch_release("one", Force::No), Err(down));
        add(&upstream, 4000, "one").unwrap();
        assert_eq!(upstream.switch_release("one", Force::No), Ok(None));
        assert_eq!(upstream.current_release().as_deref(), Some("one"));
        drop(upstream);
        let restarted = Bench {
            keeper: bench.keeper.clone(),
            ..Bench::new()
        };
        let upstream = restarted.upstream(&yaml);
        assert_eq!(upstream.current_release().as_deref(), Some("one"));
        assert!(upstream.is_release_up("one"));
        // Its last backend stays in rotation, whatever runs beside it.
        add(&upstream, 4001, "two").unwrap();
        let last = upstream.drain("127.0.0.1:4000", Force::No).unwrap_err();
        assert_eq!(last.reason(), "last_backend");
        upstream.drain("127.0.0.1:4001", Force::No).unwrap();
        upstream.drain("127.0.0.1:4000", Force::Yes).unwrap();
        for bad in ["", ".hidden", "a/b", "../up", "-x"] {
            assert!(add(&upstream, 4001, bad).is_err(), "{bad}");
        }
        let without = Bench::new().upstream("{ backends: [10.0.0.1:80] }");
        assert!(matches!(
            add(&without, 4001, "one"),
            Err(MemberError::NoReleases(_))
        ));
    }
}
