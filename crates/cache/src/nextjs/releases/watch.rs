//! Watcher of the folder with the releases.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};

use super::{
    ReleaseTable,
    release::{self, Release},
};
use crate::{
    base::error::chain,
    nextjs::{
        AssetKind, Build,
        build::{BuildStamp, every_second},
    },
};

/// Most releases that are read; older ones do not count.
const MAX_RELEASES: usize = 64;

/// The releases that are in a folder now.
#[derive(Debug)]
pub struct Releases {
    upstream: Box<str>,
    pub folder: PathBuf,
    table: ArcSwap<ReleaseTable>,
}

/// State from the checks before: by the name of a release, the state of its folder, and whether
/// that was read.
#[derive(Debug, Default)]
pub(super) struct WatchState(BTreeMap<String, WatchedBuild>);

#[derive(Debug, Default)]
struct WatchedBuild {
    stamp: BuildStamp,
    is_read: bool,
    release: Option<Arc<Release>>,
}

impl Releases {
    /// Reads the releases in `folder`.
    pub fn new(upstream: &str, folder: &Path) -> Self {
        let releases = Self {
            upstream: upstream.into(),
            folder: folder.to_path_buf(),
            table: ArcSwap::default(),
        };
        let mut state = WatchState::default();
        // A folder counts once two checks saw the same.
        releases.look(&mut state);
        releases.look(&mut state);
        releases
    }

    pub fn now(&self) -> Guard<Arc<ReleaseTable>> {
        self.table.load()
    }

    /// Returns the build of a release.
    pub fn build(&self, name: &str) -> Option<Arc<Build>> {
        self.now().build(name).cloned()
    }

    /// Returns the path of a file below the folder of the releases: of `below` among the files of
    /// this kind.
    pub fn path_of(&self, name: &str, kind: AssetKind, below: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match kind {
            AssetKind::Static => b"/.next/static",
            AssetKind::Public => b"/public",
        };
        [b"/", name.as_bytes(), kind, below].concat()
    }

    /// Checks the folder at intervals, for as long as the future is polled.
    pub async fn watch(self: Arc<Self>) {
        every_second(move |state| self.look(state)).await;
    }

    /// Checks the folder once. A release counts once two checks in a row saw the same.
    pub(super) fn look(&self, state: &mut WatchState) {
        let mut names: Vec<String> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort_unstable();
        let mut is_changed = false;
        state.0.retain(|name, seen| {
            let stays = names.binary_search(name).is_ok();
            is_changed |= !stays && seen.release.is_some();
            stays
        });
        for name in names {
            let folder = self.folder.join(&name);
            let stamp = release::stamp(&folder);
            if !stamp.has_build() && !state.0.contains_key(&name) {
                continue;
            }
            let seen = state.0.entry(name.clone()).or_default();
            let is_settled = seen.stamp == stamp;
            if !is_settled {
                seen.stamp = stamp;
                seen.is_read = false;
            } else if !seen.is_read {
                seen.is_read = true;
                is_changed |= self.read(&name, &folder, seen);
            }
        }
        if is_changed {
            let mut list: Vec<Arc<Release>> = state
                .0
                .values()
                .filter_map(|seen| seen.release.clone())
                .collect();
            list.sort_by_key(|release| std::cmp::Reverse(release.since));
            list.truncate(MAX_RELEASES);
            self.table.store(Arc::new(ReleaseTable(list.into())));
        }
    }

    /// Reads one release. Returns true if that changed anything.
    fn read(&self, name: &str, folder: &Path, seen: &mut WatchedBuild) -> bool {
        let upstream = &self.upstream;
        match Release::read(name, folder) {
            Ok(release) => {
                let known = self.now();
                if known.named(name).is_none() {
                    let build = release.build.id().unwrap_or_default();
                    log::info!(upstream:%, release = name, build; "release of the app found");
                }
                seen.release = Some(Arc::new(release));
                true
            }
            Err(error) if seen.stamp.has_build() => {
                let error = chain(&error);
                log::warn!(
                    upstream:%, release = name, error:%;
                    "release of the app not read, its requests go to the current release"
                );
                false
            }
            Err(_) => seen.release.take().is_some(),
        }
    }
}
