//! What `app: nextjs` adds to the rules of RFC 9111, as pure functions, and what is read
//! from a build's folder.
//!
//! Next.js has answers that no header tells apart: one URL is HTML or a router's payload, a
//! guarded page that was let through says `s-maxage`, an expired page says that it is fresh.
//! The [`RequestShape`] says what of that a request is about, before anything is looked up;
//! [`may_store`] says what of an answer may be kept. Everything here may only narrow what
//! [`super::policy`] allows.

mod answer;
mod build;
mod image;
mod paths;
mod shape;

use std::{sync::Arc, time::Duration};

pub use answer::{
    MOST_BRIEFLY, MOST_STALE, STALE_AT_ORIGIN, StoreAs, effective_vary, may_store, rules_for_next,
};
pub use build::{Build, BuildError, BuildWatch, Stamp};
pub use image::{BadImage, ImageForms};
pub use paths::Paths;
pub use shape::{CREDENTIALS, RequestShape, shape};

use super::names::Names;

/// Which requests may put pages into the store. Files of a build and pictures are no pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageCache {
    /// Pages are neither kept nor served from the store.
    Off,
    /// Only requests that say nothing of who sends them; the others may read what those left.
    #[default]
    Anonymous,
    /// Any request without `Authorization`: for apps whose middleware never looks at a cookie.
    All,
}

/// The preset's rules for one route.
#[derive(Clone, Debug, Default)]
pub struct NextRules {
    pub pages: PageCache,
    /// Cookies that change no answer, by [`PageCache::Anonymous`].
    pub cookies: Names,
    /// What the app's middleware guards, as the operator says it; `None`: as the build says.
    pub guarded: Option<Paths>,
    /// The build in the upstream's `folder`.
    pub build: Option<Arc<BuildWatch>>,
    /// For how long a 404 or 307 with `s-maxage` is kept, at most [`MOST_BRIEFLY`];
    /// `None`: not at all.
    pub briefly: Option<Duration>,
    /// Cookies and credentials of the client go to the image optimizer, so its answers may be
    /// personal, and follow the rules of pages.
    pub image_credentials: bool,
}

#[cfg(test)]
mod tests;
