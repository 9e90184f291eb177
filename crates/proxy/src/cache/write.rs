//! Invalidates stored responses after a successful write (RFC 9111, 4.4).

use edgeway_cache::{
    key::Key,
    policy,
    purge::{Purge, PurgeEffect, PurgeSource, PurgeTarget},
};
use edgeway_core::chain::host::{public_host, requested_host};
use edgeway_routes::{self as routes, Target, normalise};
use http::{Method, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::purge;
use crate::context::{self, Context};

/// Invalidates stored responses after the origin responded to a request with `response`.
pub(crate) async fn written(request: &RequestHeader, response: &ResponseHeader, ctx: &Context) {
    if matches!(
        request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    ) {
        return;
    }
    let Some(cache) = &ctx.gateway.cache else {
        return;
    };
    let own_cache = context::cache(&ctx.gateway, ctx.route);
    if own_cache.is_some_and(|cache| cache.policy.keeps_on_write) {
        return;
    }
    let client = &ctx.facts.client;
    let host = public_host(request, client);
    let target = Target::new(host, ctx.facts.sent_target(request));
    let names_others = [header::LOCATION, header::CONTENT_LOCATION]
        .iter()
        .any(|name| response.headers.contains_key(name));
    if own_cache.is_none() && !names_others && !is_cached_elsewhere(request, ctx, target.path) {
        return;
    }
    let written = policy::Target {
        path: target.path.to_vec(),
        query: target.query.map(<[u8]>::to_vec),
    };
    let gone = policy::invalidates(
        &request.method,
        response.status,
        client.scheme.as_str(),
        host,
        &written,
        &response.headers,
    );
    let mut is_removed = false;
    for target in &gone {
        // Nothing is stored for a path that has no normal form.
        let Ok(normal) = normalise(&target.path, ctx.gateway.slashes) else {
            continue;
        };
        if own_cache.is_none() && !is_cached_elsewhere(request, ctx, &normal.path) {
            continue;
        }
        for query in ctx.gateway.query_forms(target.query.as_deref()) {
            let scheme = client.scheme.as_str();
            let key = Key::new(scheme, host, &normal.path, query.as_deref(), b"");
            cache.remove(&key);
        }
        is_removed = true;
    }
    if is_removed {
        cache.settle().await;
    }
    if own_cache.is_some_and(|own| own.policy.purge_on_write) && response.status.is_success() {
        let path = String::from_utf8_lossy(target.path);
        let target = PurgeTarget::Written(format!("{}://{host}{path}", client.scheme.as_str()));
        let effect = PurgeEffect::Hard;
        // Purged before the response: a client that has written reads what it wrote. Other gateways
        // receive the purge too.
        let purges = vec![Purge { target, effect }];
        purge::begin(ctx.live(), cache.link(), purges, PurgeSource::Write).await;
    }
}

/// Returns true if a route with a cache takes the same host and path for other requests, or one
/// whose rules may lead to such a route.
fn is_cached_elsewhere(request: &RequestHeader, ctx: &Context, path: &[u8]) -> bool {
    let Ok(host) = routes::host_of(requested_host(request)) else {
        return false;
    };
    let target = Target::new(&host, path);
    let has_cache = |route| {
        let route = ctx.gateway.route(route);
        route.is_some_and(|route| route.cache.is_some() || route.leads_on())
    };
    ctx.gateway.table.some_route(&target, has_cache)
}
