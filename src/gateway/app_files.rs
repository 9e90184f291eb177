//! Files of a Next.js app that the gateway serves from the app's folder.

use std::sync::Arc;

use crate::{
    base::clock::Clock,
    cache::nextjs::{AssetKind, BuildWatch, PathSet},
    files::{BrowserCache, Files},
};

/// Output of a build and `public/` of one app.
#[derive(Clone, Debug)]
pub struct AppFiles {
    build: Arc<BuildWatch>,
    /// Paths that the operator keeps from caches, because only the app decides who gets them.
    guarded: Option<PathSet>,
    output: Files,
    public: Files,
}

impl AppFiles {
    pub(super) fn new(build: &Arc<BuildWatch>, guarded: Option<PathSet>, clock: &Clock) -> Self {
        let of = |kind, policy| Files::plain(build.folder_of(kind), policy, clock);
        Self {
            build: Arc::clone(build),
            guarded,
            // As Next.js itself has them.
            output: of(AssetKind::Static, BrowserCache::Immutable),
            public: of(AssetKind::Public, BrowserCache::Revalidated),
        }
    }

    /// Returns the files among which this raw path is looked up, and its path there. `None` if the
    /// request is for the app.
    pub fn find<'p>(&self, path: &'p [u8]) -> Option<(&Files, &'p [u8])> {
        let (kind, below) = self.build.now().asset(path)?;
        if self.guarded.as_ref().is_some_and(|paths| paths.have(path)) {
            return None;
        }
        let files = match kind {
            AssetKind::Static => &self.output,
            AssetKind::Public => &self.public,
        };
        Some((files, below))
    }
}
