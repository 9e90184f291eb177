//! Rules that `app: nextjs` adds to RFC 9111, as pure functions, and the reader of a build's
//! folder.
//!
//! No header tells some responses of Next.js apart: one URL is HTML or a router's payload, a
//! guarded page that was let through has `s-maxage`, an expired page claims to be fresh. The
//! [`RequestShape`] classifies the request before any lookup; [`may_store`] decides if a response
//! may be stored. Everything here may only narrow what [`super::policy`] allows.

mod accept;
mod build;
mod image;
mod optimizer;
mod paths;
mod releases;
mod remote;
mod response;
mod shape;

use std::{sync::Arc, time::Duration};

pub use build::{AssetKind, Build, BuildError, BuildStamp, BuildWatch};
pub use image::{ImageForms, InvalidImageRequest, images_of};
pub use optimizer::{ImageRequest, Optimizer, max_age_of};
pub use paths::PathSet;
pub use releases::{
    Destination, MAX_BEGINNING, ReleaseRequest, ReleaseTable, Releases, deployment_of,
};
pub use remote::{RemoteSource, RemoteSources};
pub use response::{
    MAX_BRIEF_TTL, MAX_STALE, STALE_AT_ORIGIN, StorageRule, effective_vary, may_store,
    rules_for_next,
};
pub use shape::{CREDENTIALS, RequestShape, shape};

use super::name_set::NameSet;

/// Requests that may store pages. Files of a build and images are not pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageCache {
    /// Pages are neither stored nor served from the store.
    Off,
    /// Only requests that do not identify their client; others may read what those stored.
    #[default]
    Anonymous,
    /// Any request without `Authorization`: for apps whose middleware never reads cookies.
    All,
}

/// Rules of the preset for one route.
#[derive(Clone, Debug, Default)]
pub struct NextRules {
    pub pages: PageCache,
    /// Cookies that change no response, for [`PageCache::Anonymous`].
    pub cookies: NameSet,
    /// Paths that the app's middleware guards, as set by the operator; `None` uses the build's.
    pub guarded: Option<PathSet>,
    /// The build in the upstream's `folder`.
    pub build: Option<Arc<BuildWatch>>,
    /// The releases, if the upstream has some: their builds count from the first deploy on.
    pub releases: Option<Arc<Releases>>,
    /// Time for which a 404 or 307 with `s-maxage` is stored, at most [`MAX_BRIEF_TTL`]; `None`
    /// disables it.
    pub briefly: Option<Duration>,
    /// True if the client's cookies and credentials reach the image optimizer, so that its
    /// responses may be personal and follow the rules of pages.
    pub image_credentials: bool,
}

#[cfg(test)]
mod tests;
