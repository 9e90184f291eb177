//! Files of a Next.js app that the gateway serves from the app's folder, or from the folders of its
//! releases.

use std::{borrow::Cow, sync::Arc};

use edgeway_base::clock::Clock;
use edgeway_cache::nextjs::{AssetKind, Build, BuildWatch, PathSet, Releases};
use edgeway_files::{BrowserCache, Files};

/// Output of builds and `public/` of one app.
#[derive(Clone, Debug)]
pub struct AppFiles {
    builds: Builds,
    /// Paths that the operator keeps from caches, because only the app decides who gets them.
    guarded: Option<PathSet>,
    output: Files,
    public: Files,
}

#[derive(Clone, Debug)]
enum Builds {
    Folder(Arc<BuildWatch>),
    Releases {
        releases: Arc<Releases>,
        /// True if files of `public/` are served too.
        has_public: bool,
    },
}

impl AppFiles {
    pub(super) fn new(build: &Arc<BuildWatch>, guarded: Option<PathSet>, clock: &Clock) -> Self {
        let of = |kind, policy| Files::plain(build.folder_of(kind), policy, false, clock);
        Self {
            builds: Builds::Folder(Arc::clone(build)),
            guarded,
            // As Next.js itself has them.
            output: of(AssetKind::Static, BrowserCache::Immutable),
            public: of(AssetKind::Public, BrowserCache::Revalidated),
        }
    }

    /// Returns the files of releases. Those of `public/` are among them if `has_public`.
    pub(super) fn of_releases(
        releases: &Arc<Releases>,
        has_public: bool,
        guarded: Option<PathSet>,
        clock: &Clock,
    ) -> Self {
        let of = |policy, serves_dot_files| {
            Files::plain(releases.folder.clone(), policy, serves_dot_files, clock)
        };
        Self {
            builds: Builds::Releases {
                releases: Arc::clone(releases),
                has_public,
            },
            guarded,
            output: of(BrowserCache::Immutable, true),
            public: of(BrowserCache::Revalidated, false),
        }
    }

    /// Reads the build of the folder, or that of the release that the request goes to.
    pub(super) fn with_build<T>(
        &self,
        release: Option<&str>,
        read: impl FnOnce(&Build) -> T,
    ) -> Option<T> {
        match &self.builds {
            Builds::Folder(build) => Some(read(&build.now())),
            Builds::Releases { releases, .. } => Some(read(&*releases.build(release?)?)),
        }
    }

    /// Returns the seconds for which one of these files is fresh to the app itself.
    pub(super) fn age_of(&self, files: &Files) -> u64 {
        if std::ptr::eq(files, &raw const self.output) {
            31_536_000
        } else {
            0
        }
    }

    /// Returns true if the operator keeps this path from caches.
    pub(super) fn is_guarded(&self, path: &[u8]) -> bool {
        self.guarded.as_ref().is_some_and(|paths| paths.have(path))
    }

    /// Returns the files among which this raw path is looked up, and its path there. `None` if the
    /// request is for the app. `release` is the one that the request goes to, and whether that
    /// runs.
    pub fn find<'p>(
        &self,
        path: &'p [u8],
        release: Option<(&str, bool)>,
    ) -> Option<(&Files, Cow<'p, [u8]>)> {
        let (kind, file) = match &self.builds {
            Builds::Folder(build) => {
                let (kind, below) = build.now().asset(path)?;
                (kind, Cow::Borrowed(below))
            }
            Builds::Releases {
                releases,
                has_public,
            } => {
                let (name, is_up) = release?;
                let build = releases.build(name)?;
                let (kind, below) = match build.asset(path) {
                    Some((AssetKind::Public, _)) if !has_public => return None,
                    Some(asset) => asset,
                    // Rules of the configuration are the app's, as long as that runs.
                    None if is_up => return None,
                    None => (AssetKind::Static, build.output(path)?),
                };
                (kind, Cow::Owned(releases.path_of(name, kind, below)))
            }
        };
        if self.is_guarded(path) {
            return None;
        }
        let files = match kind {
            AssetKind::Static => &self.output,
            AssetKind::Public => &self.public,
        };
        Some((files, file))
    }
}
