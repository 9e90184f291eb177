//! Purges by operators and applications.

use std::sync::Arc;

use edgeway_cache::purge::{Purge, PurgeLink};
use edgeway_gateway::Gateway;
use edgeway_proxy::live::Live;
use edgeway_status::actions::ActionError;

/// The purge link, if any route has a cache.
pub(super) fn link(live: &Live) -> Result<Arc<PurgeLink>, ActionError> {
    let link = |gateway: Arc<Gateway>| {
        let is_used = gateway.routes.iter().any(|route| route.cache.is_some());
        let cache = gateway.cache.as_ref().filter(|_| is_used)?;
        Some(Arc::clone(cache.link()))
    };
    live.serving().into_iter().find_map(link).ok_or_else(|| {
        ActionError::new(
            409,
            "no_cache",
            "no route has a cache, so there is nothing to purge: write `cache: {}` on a route",
        )
    })
}

/// Returns the purges in the normal form of a configuration.
pub(super) fn normal(purges: &[Purge], gateway: &Gateway) -> Result<Vec<Purge>, ActionError> {
    let purges = purges.iter().map(|purge| {
        let purge = purge.clone().in_normal_form(gateway.slashes);
        purge.map_err(|bad| ActionError::new(422, "bad_purge", bad.to_string()))
    });
    purges.collect()
}
