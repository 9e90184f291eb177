//! Follows a build's folder, so that a deploy needs no reload of the gateway.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use log::{info, warn};

use super::{Build, BuildError, Stamp};
use crate::base::error::chain;

/// How often the folder is looked at: a handful of file names.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The build that is in a folder now.
#[derive(Debug)]
pub struct BuildWatch {
    upstream: Box<str>,
    folder: PathBuf,
    build: ArcSwap<Build>,
}

/// What a look at the folder came to.
#[derive(Debug)]
pub(super) enum Look {
    /// It is as it was, or is being written.
    Same,
    /// Another build has taken the place.
    Changed(Arc<Build>),
    /// It changed into what cannot be read; the build that was there stays.
    Broken(BuildError),
}

/// What was seen before.
#[derive(Debug, Default)]
pub(super) struct Before {
    seen: Stamp,
    told: Stamp,
}

impl BuildWatch {
    /// Reads the folder of `upstream`. Without a build in it all paths count as guarded
    /// until there is one.
    pub fn new(upstream: &str, folder: &Path) -> (Self, Option<BuildError>) {
        let (build, error) = match Build::read(folder) {
            Ok(build) => (build, None),
            Err(error) => (Build::unknown(), Some(error)),
        };
        let watch = Self {
            upstream: upstream.into(),
            folder: folder.to_path_buf(),
            build: ArcSwap::from_pointee(build),
        };
        (watch, error)
    }

    pub fn now(&self) -> Guard<Arc<Build>> {
        self.build.load()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks at the folder from time to time, for as long as it is polled.
    pub async fn watch(self: Arc<Self>) {
        let mut before = Before::default();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let own = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let look = own.look(&mut before);
                (before, look)
            });
            let Ok((seen, look)) = looked.await else {
                // The process is ending.
                return;
            };
            before = seen;
            self.tell(&look);
        }
    }

    /// One look. A build takes the other's place once the folder has been the same for two
    /// looks: `next build` writes its files one after the other, and takes `BUILD_ID` away
    /// first.
    pub(super) fn look(&self, before: &mut Before) -> Look {
        let stamp = Stamp::of(&self.folder);
        let is_settled = before.seen == stamp;
        before.seen = stamp.clone();
        if !is_settled
            || !stamp.has_build()
            || stamp == *self.build.load().stamp()
            || stamp == before.told
        {
            return Look::Same;
        }
        match Build::read(&self.folder) {
            Ok(build) => {
                let build = Arc::new(build);
                let before = self.build.swap(Arc::clone(&build));
                if before.mark() == build.mark() {
                    // Copied or touched, and not built again.
                    return Look::Same;
                }
                Look::Changed(build)
            }
            Err(error) => {
                before.told = stamp;
                Look::Broken(error)
            }
        }
    }

    fn tell(&self, look: &Look) {
        let (upstream, folder) = (&self.upstream, self.folder.display());
        match look {
            Look::Same => {}
            Look::Changed(build) => {
                let id = build.id().unwrap_or_default();
                let matchers = build.matchers();
                info!(upstream:%, folder:%, build = id, matchers; "another build of the app is there");
            }
            Look::Broken(error) => {
                let error = chain(error);
                warn!(upstream:%, folder:%, error:%; "the app's build cannot be read, the last one counts");
            }
        }
    }
}
