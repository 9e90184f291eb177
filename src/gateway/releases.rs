//! Release of an app that a request belongs to, while several of them run.

use std::{net::IpAddr, sync::Arc};

use super::Gateway;
use crate::{
    cache::nextjs::{Destination, ReleaseRequest},
    upstreams::{TrialRequest, Upstream},
};

/// Release that a request goes to.
pub(crate) struct ReleaseChoice {
    pub(crate) destination: Destination,
    /// Release that the client gets wherever its request belongs to no other: the current one, or
    /// one on trial.
    pub(crate) own: Option<Arc<str>>,
    /// Comparison that the outcome of the request counts for.
    pub(crate) trial: Option<TrialRequest>,
}

impl Gateway {
    /// Returns the destination of a request to this upstream. `None` if the upstream has no
    /// releases.
    pub(crate) fn release_of(
        &self,
        upstream: &Arc<Upstream>,
        asked: &ReleaseRequest<'_>,
        client: IpAddr,
    ) -> Option<ReleaseChoice> {
        let mut apps = self.app_releases.iter();
        let (_, releases) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
        let (own, trial) = upstream.release_for(client, asked.headers);
        let is_up = |release: &str| upstream.is_release_up(release);
        let destination = releases.now().destination(asked, own.as_deref(), is_up);
        Some(ReleaseChoice {
            trial: trial.filter(|_| destination == Destination::Current),
            destination,
            own,
        })
    }
}
