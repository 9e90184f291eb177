//! The purge link, for purges by operators and applications.

use std::sync::Arc;

use edgeway_cache::purge::PurgeLink;
use edgeway_gateway::Gateway;
use edgeway_status::actions::ActionError;

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
