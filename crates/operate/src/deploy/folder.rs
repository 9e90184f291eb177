//! Folder with the releases of an app: a folder for each, and the state of the commands.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use edgeway_base::{clock::Clock, out::counted, private_file::if_there, units::Span};
use edgeway_net::log_file::TimestampCache;
use edgeway_status::snapshot::{BackendStatus, UpstreamStatus};
use edgeway_upstreams::{ReleaseSettings, StartMethod};
use serde::{Deserialize, Serialize};

use super::supervise;
use crate::{backends::is_drained, state_file};

/// Names in the folder that no release can have.
pub(super) const RESERVED: [&str; 2] = ["instances", "current"];

/// Kind of what is left of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The whole app: it can be started.
    Whole,
    /// Files for browsers alone.
    Files,
}

/// State of the releases of an upstream, as the commands left it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) releases: BTreeMap<String, ReleaseState>,
    /// Release of the deploy in progress, or of one that was killed.
    pub(super) begun: Option<BegunRelease>,
}

/// A release that is being deployed, and is none of the others yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BegunRelease {
    pub(super) name: String,
    /// True if the deploy copied its folder.
    pub(super) is_copy: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ReleaseState {
    /// Time at which it last became the current one, in seconds since 1970.
    pub(super) since: u64,
    /// Time at which its instances are stopped, if it was replaced.
    pub(super) until: Option<u64>,
    /// True while it is on trial, until the process that ends releases has seen the verdict.
    pub(super) is_tried: bool,
    /// True while it waits for a switch.
    pub(super) is_held: bool,
    /// True if no deploy copied its folder: it is the user's, and none of it is removed.
    pub(super) is_in_place: bool,
}

/// A release in a listing.
#[derive(Debug, Serialize)]
pub(super) struct ListedRelease {
    pub(super) name: String,
    /// `current`, `canary`, `held`, `lingers`, `stopped` or `files`.
    pub(super) state: &'static str,
    /// Part of the visitors that it gets while it is on trial, in percent.
    pub(super) share: Option<f64>,
    /// Number of healthy instances that are not drained.
    pub(super) instances: usize,
    /// Seconds since 1970.
    pub(super) since: u64,
    pub(super) until: Option<u64>,
}

/// Folder with the releases.
pub(super) struct ReleaseFolder {
    root: PathBuf,
}

impl State {
    /// Records that a release has become one of the others, and returns it.
    fn complete(&mut self, release: &str) -> &mut ReleaseState {
        let deployed = self.begun.take_if(|begun| begun.name == release);
        let is_known = self.releases.contains_key(release);
        let complete = self.releases.entry(release.to_owned()).or_default();
        // The record of one that is not known was removed.
        complete.is_in_place |= deployed.map_or(!is_known, |begun| !begun.is_copy);
        complete
    }

    /// Records that `release` has replaced `before`.
    fn switched(&mut self, release: &str, before: Option<&str>, linger: Duration) {
        let now = now();
        let is_in_place = self.complete(release).is_in_place;
        if let Some(before) = before.filter(|before| *before != release) {
            let replaced = self.releases.entry(before.to_owned()).or_default();
            replaced.until = Some(now + linger.as_secs());
        }
        // Two switches within one second have an order too.
        let latest = self.releases.values().map(|state| state.since).max();
        let since = latest.map_or(now, |latest| now.max(latest + 1));
        let current = ReleaseState {
            since,
            is_in_place,
            ..ReleaseState::default()
        };
        self.releases.insert(release.to_owned(), current);
    }

    /// Records what the gateway has decided since the last command: the current release, and ends of
    /// trials. Browsers that have pages of a replaced release get `linger` to leave them, also of one
    /// that has instances but no record. Returns false if there is nothing new.
    pub(super) fn settle(
        &mut self,
        status: &UpstreamStatus,
        instances: &BTreeMap<u16, String>,
        linger: Duration,
    ) -> bool {
        let before = self.current();
        let current = status.current_release.as_ref();
        let current = current.filter(|current| before.as_ref() != Some(*current));
        if let Some(current) = current {
            self.switched(current, before.as_deref(), linger);
        }
        let mut is_new = current.is_some();
        let on_trial = status.canary.as_ref().map(|canary| &canary.release);
        for (name, tried) in &mut self.releases {
            if tried.is_tried && Some(name) != on_trial {
                (tried.is_tried, tried.until) = (false, Some(now() + linger.as_secs()));
                is_new = true;
            }
        }
        for release in instances.values() {
            let is_begun = self.begun.as_ref().is_some_and(|it| it.name == *release);
            if !is_begun && Some(release) != on_trial && !self.releases.contains_key(release) {
                self.complete(release).until = Some(now() + linger.as_secs());
                is_new = true;
            }
        }
        is_new
    }

    /// Returns the release that became the current one last.
    pub(super) fn current(&self) -> Option<String> {
        let current = self.releases.iter().max_by_key(|(_, state)| state.since);
        let (name, _) = current.filter(|(_, state)| state.since > 0)?;
        Some(name.clone())
    }

    /// Returns the current release, and those whose instances still run for pages in browsers.
    pub(super) fn in_browsers(&self) -> Vec<String> {
        let (current, now) = (self.current(), now());
        let releases = self.releases.iter().filter(|(name, state)| {
            Some(*name) == current.as_ref() || state.until.is_some_and(|until| until > now)
        });
        releases.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the release that was the current one before the present one, among those that
    /// `is_whole` accepts.
    pub(super) fn before_current(&self, is_whole: impl Fn(&String) -> bool) -> Option<String> {
        let mut by_time: Vec<_> = self.releases.iter().collect();
        by_time.sort_by_key(|(_, state)| std::cmp::Reverse(state.since));
        by_time
            .into_iter()
            .skip(1)
            // One that was rolled back has never been the current one.
            .filter(|(_, state)| state.since > 0)
            .map(|(name, _)| name.clone())
            .find(is_whole)
    }
}

impl ReleaseFolder {
    pub(super) fn new(settings: &ReleaseSettings) -> Self {
        Self {
            root: settings.folder.clone(),
        }
    }

    pub(super) fn release(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path of a link that leads an instance to its release.
    pub(super) fn instance(&self, port: u16) -> PathBuf {
        self.root.join("instances").join(port.to_string())
    }

    /// Returns the ports of the instances that run or should, and their releases, in order.
    pub(super) fn instances(&self) -> BTreeMap<u16, String> {
        let links = fs::read_dir(self.root.join("instances"));
        let links = links.into_iter().flatten().flatten();
        links
            .filter_map(|link| {
                let port = link.file_name().to_str()?.parse().ok()?;
                let release = fs::read_link(link.path()).ok()?;
                Some((port, release.file_name()?.to_str()?.to_owned()))
            })
            .collect()
    }

    /// Returns a path for the commands' own files.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.root.join(".state").join(name)
    }

    fn state_path(&self) -> PathBuf {
        self.own("releases.json")
    }

    pub(super) fn state(&self) -> Result<State, String> {
        state_file::read(&self.state_path())
    }

    /// Changes the state, alone.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<(), String> {
        let _alone = self.lock("state", "another command writes the state of the releases")?;
        let mut state = self.state()?;
        change(&mut state);
        state_file::write(&self.state_path(), &state)
    }

    /// Returns the state with what the gateway has decided since the last command. Writes nothing if
    /// there is nothing new: a rollback is possible while the disk is full.
    pub(super) fn settled(
        &self,
        status: &UpstreamStatus,
        linger: Duration,
    ) -> Result<State, String> {
        let (mut state, instances) = (self.state()?, self.instances());
        if state.settle(status, &instances, linger) {
            self.change(|state| state.settle(status, &instances, linger))?;
        }
        Ok(state)
    }

    /// Creates a folder below that of the releases, and not that one: the process that ends releases
    /// works on while somebody removes it.
    pub(super) fn make(&self, below: &str) -> io::Result<()> {
        match fs::create_dir(self.root.join(below)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes a lock for as long as the file is open.
    pub(super) fn lock(&self, name: &str, busy: &str) -> Result<File, String> {
        let path = self.own(name).with_extension("lock");
        let failed = |error: io::Error| format!("cannot lock `{}`: {error}", path.display());
        self.make(".state").map_err(failed)?;
        let mut open = OpenOptions::new();
        // It has the process id of the one that holds the lock.
        let open = open.create(true).truncate(false).write(true);
        let file = open.open(&path).map_err(failed)?;
        for _ in 0..50 {
            match file.try_lock() {
                Ok(()) => {
                    file.set_len(0).map_err(failed)?;
                    return Ok(file);
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(format!("{busy}: wait for its end"))
    }

    /// Keeps other deploys out. `gateway` is the file of the configuration that the gateway serves:
    /// two gateways would stop and remove the releases of each other.
    pub(super) fn begin_deploy(&self, gateway: &str) -> Result<File, String> {
        let cannot_make = |error| format!("cannot create `{}`: {error}", self.root.display());
        fs::create_dir_all(&self.root).map_err(cannot_make)?;
        let alone = self.lock("deploy", "another deploy of this upstream has not ended")?;
        let path = self.own("gateway");
        let failed = |error: io::Error| format!("cannot use `{}`: {error}", path.display());
        match if_there(fs::read_to_string(&path)).map_err(failed)? {
            Some(other) if other != gateway => Err(format!(
                "the releases in `{}` belong to the gateway that serves `{other}`: write another \
                 folder for this gateway, or remove `{}` if the other one is gone",
                self.root.display(),
                path.display()
            )),
            Some(_) => Ok(alone),
            None => {
                fs::write(&path, gateway).map_err(failed)?;
                Ok(alone)
            }
        }
    }

    /// Copies a release into place. Returns false for a release that is there already: it stays as
    /// it is.
    pub(super) fn put(&self, from: &Path, name: &str) -> Result<bool, String> {
        let to = self.release(name);
        let build = from.join(".next/BUILD_ID");
        if !from.is_dir() {
            return Err(format!("there is no folder `{}`", from.display()));
        }
        if !build.is_file() {
            return Err(format!(
                "`{}` has no build: `{}` is missing; run `next build` first",
                from.display(),
                build.display()
            ));
        }
        if to.exists() {
            let is_same = fs::canonicalize(from).ok() == fs::canonicalize(&to).ok();
            return if is_same {
                self.begun(name, false).map(|()| false)
            } else {
                Err(format!(
                    "there is a release `{name}` already: choose another name"
                ))
            };
        }
        self.begun(name, true)?;
        if let Err(why) = self.copy(from, name) {
            self.remove_new(name, true)?;
            return Err(why);
        }
        Ok(true)
    }

    fn copy(&self, from: &Path, name: &str) -> Result<(), String> {
        let to = self.release(name);
        let new = self.root.join(format!(".new-{name}"));
        let failed =
            |what: &str, error: io::Error| format!("cannot {what} `{}`: {error}", new.display());
        remove(&new).map_err(|error| failed("remove", error))?;
        copy_content(from, &new)?;
        let build = new.join(".next");
        if build.is_symlink() {
            // The next build would change it, and what it leads to is not ours to remove.
            remove(&build).map_err(|error| failed("change", error))?;
            copy_content(&from.join(".next"), &build)?;
        }
        fs::rename(&new, &to).map_err(|error| failed("rename", error))
    }

    /// Records that a release is being deployed, for the command after one that was killed.
    fn begun(&self, name: &str, is_copy: bool) -> Result<(), String> {
        self.change(|state| {
            let name = name.to_owned();
            let is_known = state.releases.contains_key(&name);
            state.begun = (!is_known).then_some(BegunRelease { name, is_copy });
        })
    }

    /// Removes a release that is none of the others, if its folder `is_copy`, and its record.
    pub(super) fn remove_new(&self, name: &str, is_copy: bool) -> Result<(), String> {
        let is_known = self.state()?.releases.contains_key(name);
        if is_copy && !is_known {
            for folder in [self.root.join(format!(".new-{name}")), self.release(name)] {
                remove(&folder)
                    .map_err(|error| format!("cannot remove `{}`: {error}", folder.display()))?;
            }
        }
        self.change(|state| state.begun.take_if(|begun| begun.name == name))
    }

    /// Records that `release` has replaced `before`.
    pub(super) fn switched(
        &self,
        release: &str,
        before: Option<&str>,
        linger: Duration,
    ) -> Result<(), String> {
        self.change(|state| state.switched(release, before, linger))
    }

    /// Records that a release is on trial.
    pub(super) fn trial_began(&self, release: &str) -> Result<(), String> {
        self.change(|state| {
            let tried = state.complete(release);
            (tried.is_tried, tried.until) = (true, None);
        })
    }

    /// Records that a release waits for a switch, for as long as a replaced one would stay.
    pub(super) fn held(&self, release: &str, linger: Duration) -> Result<(), String> {
        self.change(|state| {
            let held = state.complete(release);
            (held.is_held, held.until) = (true, Some(now() + linger.as_secs()));
        })
    }

    /// Removes the record of a release.
    pub(super) fn forget(&self, release: &str) -> Result<(), String> {
        self.change(|state| {
            state.releases.remove(release);
        })
    }

    pub(super) fn kind(&self, name: &str) -> Option<Kind> {
        let folder = self.release(name);
        if !folder.join(".next/BUILD_ID").is_file() {
            return None;
        }
        let has_app = folder.join(".next/server").is_dir();
        Some(if has_app { Kind::Whole } else { Kind::Files })
    }

    /// Returns all releases, the latest first.
    pub(super) fn list(
        &self,
        status: &UpstreamStatus,
        linger: Duration,
    ) -> Result<Vec<ListedRelease>, String> {
        let mut state = self.state()?;
        state.settle(status, &self.instances(), linger);
        // The gateway may have lost their backends. The link of a unit leaves with the unit.
        let releases = status.releases.as_ref();
        let is_unit = releases.is_some_and(|own| matches!(own.start, StartMethod::Unit { .. }));
        let supervised = self.instances().into_iter();
        let supervised =
            supervised.filter(|(port, _)| is_unit || supervise::is_running(self, *port));
        let supervised: HashSet<String> = supervised.map(|(_, release)| release).collect();
        let mut list: Vec<ListedRelease> = self
            .names()
            .into_iter()
            .filter_map(|name| {
                let kind = self.kind(&name)?;
                let record = state.releases.get(&name).copied().unwrap_or_default();
                let is_in_rotation = |backend: &&BackendStatus| {
                    let is_own = backend.release.as_ref() == Some(&name);
                    is_own && backend.healthy && !is_drained(backend)
                };
                let instances = status.backends.iter().filter(is_in_rotation).count();
                let runs = instances > 0 || supervised.contains(&name);
                let is_current = status.current_release.as_ref() == Some(&name);
                let canary = status.canary.as_ref();
                let share = canary.filter(|canary| canary.release == name);
                Some(ListedRelease {
                    share: share.map(|canary| canary.share),
                    state: match kind {
                        _ if is_current => "current",
                        _ if share.is_some() => "canary",
                        Kind::Whole if runs && record.is_held => "held",
                        Kind::Whole if runs => "lingers",
                        Kind::Whole => "stopped",
                        Kind::Files => "files",
                    },
                    instances,
                    since: record.since,
                    until: record.until,
                    name,
                })
            })
            .collect();
        list.sort_by(|a, b| (b.since, &b.name).cmp(&(a.since, &a.name)));
        Ok(list)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && !RESERVED.contains(&name.as_str()))
            .collect()
    }
}

/// Copies what is in a folder. Keeps links, times and permissions, and shares blocks where the file
/// system can.
fn copy_content(from: &Path, to: &Path) -> Result<(), String> {
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .arg(from.join("."))
        .arg(to)
        .output();
    let copied = copied.map_err(|error| format!("cannot run `cp`: {error}"))?;
    if copied.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&copied.stderr);
    let why = why.lines().next().unwrap_or("cp failed");
    Err(format!("cannot copy `{}`: {why}", from.display()))
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if_there(removed).map(drop)
}

pub(super) fn now() -> u64 {
    let since = Clock::machine()
        .wall()
        .duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Returns the time as the name of a release, such as `20261123-154200`.
pub(super) fn name_of_now() -> String {
    let mut text = Vec::new();
    TimestampCache::default().put_rfc3339(&mut text, Clock::machine().wall());
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).take(14);
    let mut name: String = digits.map(|byte| char::from(*byte)).collect();
    name.insert(8, '-');
    name
}

/// Formats a listing for people.
pub(super) fn table(list: &[ListedRelease]) -> String {
    if list.is_empty() {
        return "no releases yet".to_owned();
    }
    let now = now();
    let serves = list
        .iter()
        .any(|listed| listed.state == "current" && listed.instances > 0);
    let line = |listed: &ListedRelease| {
        let (name, state, instances) = (&listed.name, listed.state, listed.instances);
        let state = listed.share.map_or_else(
            || state.to_owned(),
            |share| format!("{state} with {share} % of the visitors"),
        );
        let left = listed
            .until
            .filter(|_| ["lingers", "held"].contains(&listed.state));
        let left = left.map(|until| match until.saturating_sub(now) {
            0 if !serves => ", until the current one serves".to_owned(),
            0 => ", being stopped".to_owned(),
            left => format!(", for {}", Span(Duration::from_secs(left))),
        });
        let left = left.unwrap_or_default();
        match instances {
            0 => format!("{name}  {state}{left}"),
            _ => format!("{name}  {state}, {}{left}", counted(instances, "instance")),
        }
    };
    list.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_without_a_record_end_in_their_time() {
        let status = UpstreamStatus {
            current_release: Some("two".to_owned()),
            ..UpstreamStatus::default()
        };
        let names = ["one", "two", "new"].map(str::to_owned);
        let instances = (4000..).zip(names).collect();
        let mut state = State {
            begun: Some(BegunRelease {
                name: "new".to_owned(),
                is_copy: true,
            }),
            ..State::default()
        };
        let linger = Duration::from_mins(1);
        assert!(state.settle(&status, &instances, linger));
        assert_eq!(state.current().as_deref(), Some("two"));
        let ends = |name: &str| state.releases.get(name).map(|own| own.until.is_some());
        assert_eq!(
            ["one", "two", "new"].map(ends),
            [Some(true), Some(false), None]
        );
        // They may be folders of the user.
        assert!(state.releases.values().all(|own| own.is_in_place));
        assert!(!state.settle(&status, &instances, linger));
    }
}
