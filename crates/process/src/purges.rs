//! Purges by operators and applications, and the status of the purge link.

use std::sync::Arc;

use edgeway_cache::purge::{PurgeLink, link::LinkStatus};
use edgeway_gateway::Gateway;
use edgeway_status::{
    actions::ActionError,
    snapshot::{CacheDiskStatus, OtherGateway, PurgeLinkStatus},
};

use super::source::rfc3339;

/// The purge link, if any route has a cache.
pub(super) fn link(gateway: &Gateway) -> Result<Arc<PurgeLink>, ActionError> {
    let is_used = gateway.routes.iter().any(|route| route.cache.is_some());
    match &gateway.cache {
        Some(cache) if is_used => Ok(Arc::clone(cache.link())),
        _ => Err(ActionError::new(
            409,
            "no_cache",
            "no route has a cache, so there is nothing to purge: write `cache: {}` on a route",
        )),
    }
}

/// The cache's folder in the form of the status API.
pub(super) fn disk(gateway: &Gateway) -> Option<CacheDiskStatus> {
    let disk = gateway.cache.as_ref()?.disk()?;
    Some(CacheDiskStatus {
        folder: disk.folder.display().to_string(),
        state: disk.state.to_owned(),
        since: rfc3339(disk.since),
        last_error: disk.last_error,
        objects: disk.objects,
        bytes: disk.bytes,
        budget_bytes: disk.budget,
    })
}

/// The purge link in the form of the status API.
pub(super) fn status(link: LinkStatus) -> PurgeLinkStatus {
    let others = link.others.into_iter().map(|other| OtherGateway {
        gateway: other.gateway,
        leased: other.is_leased,
        applied: other.applied.to_string(),
    });
    PurgeLinkStatus {
        others: others.collect(),
        gateway: link.gateway,
        shared: link.is_shared,
        leased: link.is_leased,
        lost_since: link.lost_since.map(rfc3339),
        last_error: link.last_error.map(|error| error.to_string()),
        applied: link.applied.map(|id| id.to_string()),
        unsent: link.unsent,
        losses: link.losses,
        gaps: link.gaps,
        replayed: link.replayed,
    }
}
