//! Watcher of a build's folder, so that a deploy needs no reload of the gateway.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use log::{info, warn};

use super::{AssetKind, Build, BuildError, BuildStamp, assets};
use crate::base::error::chain;

/// Interval of checks; each looks at a few files.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The build that is in a folder now.
#[derive(Debug)]
pub struct BuildWatch {
    upstream: Box<str>,
    folder: PathBuf,
    /// True if the gateway serves the app's files itself.
    has_assets: bool,
    build: ArcSwap<Build>,
}

/// Outcome of a check of the folder.
#[derive(Debug)]
pub(super) enum BuildCheck {
    /// The folder is unchanged, or is being written.
    Same,
    /// Another build has replaced the one before.
    Changed(Arc<Build>),
    /// The folder has changed and cannot be read; the build from before stays.
    Broken(BuildError),
}

/// State from the checks before.
#[derive(Debug, Default)]
pub(super) struct WatchState {
    seen: BuildStamp,
    reported: BuildStamp,
}

impl BuildWatch {
    /// Reads the folder of `upstream` ([`Build::read`]). Without a build in it, all paths count as
    /// guarded until there is one.
    pub fn new(upstream: &str, folder: &Path, has_assets: bool) -> (Self, Option<BuildError>) {
        let (build, error) = match Build::read(folder, has_assets) {
            Ok(build) => (build, None),
            Err(error) => (Build::unknown(), Some(error)),
        };
        let watch = Self {
            upstream: upstream.into(),
            folder: folder.to_path_buf(),
            has_assets,
            build: ArcSwap::from_pointee(build),
        };
        (watch, error)
    }

    pub fn now(&self) -> Guard<Arc<Build>> {
        self.build.load()
    }

    /// Returns the folder of the files of this kind.
    pub fn folder_of(&self, kind: AssetKind) -> PathBuf {
        assets::folder_of(&self.folder, kind)
    }

    /// Checks the folder at intervals, for as long as the future is polled.
    pub async fn watch(self: Arc<Self>) {
        every_second(move |state| self.tell(&self.look(state))).await;
    }

    /// Checks the folder once. A new build replaces the old one only if two checks in a row see the
    /// same folder: `next build` writes its files one after the other, and removes `BUILD_ID`
    /// first.
    pub(super) fn look(&self, before: &mut WatchState) -> BuildCheck {
        let stamp = BuildStamp::read(&self.folder);
        let is_settled = before.seen == stamp;
        before.seen = stamp.clone();
        if !is_settled
            || !stamp.has_build()
            || stamp == self.build.load().stamp
            || stamp == before.reported
        {
            return BuildCheck::Same;
        }
        match Build::read(&self.folder, self.has_assets) {
            Ok(build) => {
                let build = Arc::new(build);
                let before = self.build.swap(Arc::clone(&build));
                if before.mark == build.mark {
                    // The folder was copied or touched, but not built again.
                    return BuildCheck::Same;
                }
                BuildCheck::Changed(build)
            }
            Err(error) => {
                before.reported = stamp;
                BuildCheck::Broken(error)
            }
        }
    }

    fn tell(&self, look: &BuildCheck) {
        let (upstream, folder) = (&self.upstream, self.folder.display());
        match look {
            BuildCheck::Same => {}
            BuildCheck::Changed(build) => {
                let id = build.id().unwrap_or_default();
                let matchers = build.matchers();
                info!(upstream:%, folder:%, build = id, matchers; "new build of the app found");
            }
            BuildCheck::Broken(error) => {
                let error = chain(error);
                warn!(upstream:%, folder:%, error:%; "build of the app not read, still using the last one");
            }
        }
    }
}

/// Calls `look` each second with the state from before, on a thread that may block, until the
/// process ends.
pub(in super::super) async fn every_second<State: Default + Send + 'static>(
    look: impl Fn(&mut State) + Clone + Send + 'static,
) {
    let mut state = State::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (look, mut before) = (look.clone(), state);
        let looked = tokio::task::spawn_blocking(move || {
            look(&mut before);
            before
        });
        let Ok(seen) = looked.await else {
            return;
        };
        state = seen;
    }
}
