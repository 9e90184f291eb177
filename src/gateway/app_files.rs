//! Files of a Next.js app that the gateway serves from the app's folder.

use std::sync::Arc;

use crate::{
    base::clock::Clock,
    cache::nextjs::{AssetKind, BuildWatch},
    files::{BrowserCache, Files},
};

/// Output of a build and `public/` of one app.
#[derive(Clone, Debug)]
pub struct AppFiles {
    /// Name of the app's upstream.
    pub upstream: Arc<str>,
    build: Arc<BuildWatch>,
    output: Files,
    public: Files,
}

impl AppFiles {
    pub(super) fn new(upstream: &str, build: &Arc<BuildWatch>, clock: &Clock) -> Self {
        let of = |kind, policy| Files::plain(build.folder_of(kind), policy, clock);
        Self {
            upstream: upstream.into(),
            build: Arc::clone(build),
            // As Next.js itself has them.
            output: of(AssetKind::Static, BrowserCache::Immutable),
            public: of(AssetKind::Public, BrowserCache::Revalidated),
        }
    }

    /// Returns the files among which this raw path is looked up, and its path there. `None` if the
    /// request is for the app.
    pub fn find<'p>(&self, path: &'p [u8]) -> Option<(&Files, &'p [u8])> {
        let (kind, path) = self.build.now().asset(path)?;
        let files = match kind {
            AssetKind::Static => &self.output,
            AssetKind::Public => &self.public,
        };
        Some((files, path))
    }
}
