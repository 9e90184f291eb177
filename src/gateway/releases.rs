//! Release of an app that a request belongs to, while several of them run.

use std::sync::Arc;

use super::Gateway;
use crate::{
    cache::nextjs::{Destination, ReleaseRequest},
    upstreams::Upstream,
};

impl Gateway {
    /// Returns the destination of a request to this upstream, and the upstream's current release.
    /// `None` if the upstream has no releases.
    pub(crate) fn release_of(
        &self,
        upstream: &Arc<Upstream>,
        asked: &ReleaseRequest<'_>,
    ) -> Option<(Destination, Option<Arc<str>>)> {
        let mut apps = self.app_releases.iter();
        let (_, releases) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
        let current = upstream.current_release();
        let is_up = |release: &str| upstream.is_release_up(release);
        let destination = releases.now().destination(asked, current.as_deref(), is_up);
        Some((destination, current))
    }
}
