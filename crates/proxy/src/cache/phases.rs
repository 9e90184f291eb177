//! Second entry point of the cache: Pingora's cache phases, each called by its hook.

use std::sync::Arc;

use edgeway_cache::{
    budget::RenderPermit,
    nextjs, policy,
    route::Ranges,
    store::{Entry, EntryDraft, Refresh, RequestedLookup},
    unusual_request::unusual_headers,
};
use edgeway_gateway::RouteCache;
use http::{StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, ForcedFreshness, NoCacheReason, RespCacheable,
};
use pingora_proxy::{RangeType, Session, range_header_filter};

use super::{
    collapse::{self, FoundUse},
    storage::{self, StorageDecision},
    stream,
};
use crate::context::{self, Context};

/// Bound on how often a request waits for another one that then stored nothing it may use.
pub(super) const MAX_WAITS: usize = 16;

/// Bound on the ranges of one request. Pingora's own default.
const MAX_RANGES: usize = 200;

/// Enables the cache phases if the first entry point left a flow.
pub(crate) fn enable(session: &mut Session, ctx: &Context) {
    let (Some(flow), Some(cache)) = (&ctx.cache, route_cache(ctx)) else {
        return;
    };
    let lock = (!flow.is_pass).then(|| cache.cache.lock());
    let mut bounds = CacheOptionOverrides::default();
    bounds.wait_timeout = Some(cache.policy.wait);
    bounds.max_lock_retries = Some(MAX_WAITS);
    session
        .cache
        .enable(cache.cache.store(), None, None, lock, Some(bounds));
    if !flow.is_background {
        // Over HTTP/1 Pingora then continues the fill while the client does not read: other
        // requests may wait for the same response.
        session.set_proxy_tasks_enabled(true);
    }
}

/// Returns the key in Pingora's form. Only the lock uses its hash: the store has a key of its own.
pub(crate) fn key(ctx: &Context) -> Result<CacheKey> {
    let Some(flow) = &ctx.cache else {
        return Err(Error::new_in(ErrorType::Custom("no cache key")));
    };
    let mut key = CacheKey::new(flow.key.as_bytes(), String::new());
    // Requests for different variants do not wait for one another.
    let variant = flow
        .variance
        .map_or(0, |variance| variance.0.rotate_left(1));
    key.set_primary_bin_override((flow.key.hash() ^ variant).to_be_bytes());
    let (headers, unchanged) = match &flow.sent {
        Some(sent) => (sent, None),
        None => (
            &flow.headers,
            route_cache(ctx).map(|it| Arc::clone(&it.unchanged)),
        ),
    };
    key.extensions.insert(RequestedLookup {
        key: flow.key.clone(),
        headers: Arc::clone(headers),
        unchanged,
    });
    Ok(key)
}

/// Checks if a response that was found may be used as it is.
pub(crate) fn hit(meta: &CacheMeta, ctx: &mut Context) -> ForcedFreshness {
    let found = meta.extensions().get::<Arc<Entry>>();
    match found.map(|entry| collapse::use_found(entry, ctx)) {
        Some(FoundUse::Whole) => ForcedFreshness::ForceFresh,
        Some(FoundUse::Stale) => ForcedFreshness::ForceExpiredServeStale { expired_at: None },
        Some(FoundUse::None) | None => ForcedFreshness::ForceMiss,
    }
}

/// Returns true if the client's own copy is still current.
pub(crate) fn not_modified(request: &RequestHeader, response: &ResponseHeader) -> bool {
    policy::not_modified(
        &request.headers,
        &request.method,
        response.status,
        &response.headers,
    )
}

/// Returns the ranges of a stored response that the request asks for, and makes its headers those
/// of a 206 or 416. For an empty body it ignores `Range` (RFC 9110, 14.2), as nginx does for ranges
/// from its start: `Content-Range` cannot name a part of it, and Pingora would subtract from zero.
/// A route may leave responses whole whose origin announces no ranges (RFC 9110, 14.3).
pub(crate) fn range(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &Context,
) -> RangeType {
    let length = response.headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| length.as_bytes().iter().all(|digit| *digit == b'0')) {
        return RangeType::None;
    }
    let announced = response.headers.get(header::ACCEPT_RANGES);
    let is_announced = announced.is_some();
    if announced.is_none_or(|units| units.as_bytes().eq_ignore_ascii_case(b"none"))
        && route_cache(ctx).is_some_and(|cache| cache.policy.ranges == Ranges::Announced)
    {
        return RangeType::None;
    }
    let range = range_header_filter(request, response, Some(MAX_RANGES));
    if !is_announced {
        // What the relay sends from the store has none either.
        response.remove_header(&header::ACCEPT_RANGES);
    }
    range
}

/// Returns true if a stale response may replace a failure. It never allows one without an error:
/// the first entry point decides about stale-while-revalidate.
pub(crate) fn serves_stale(
    session: &mut Session,
    error: Option<&Error>,
    ctx: &mut Context,
) -> bool {
    let (Some(error), Some(entry)) = (error, stored(session)) else {
        return false;
    };
    if !collapse::replaces_failure(&entry, error, ctx) {
        return false;
    }
    if !matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        // Pingora accepts no further request on this connection once the upstream request failed.
        session.set_keepalive(None);
    }
    true
}

/// Prepares the request for the origin: other clients may share its response.
pub(crate) fn forward(request: &mut RequestHeader, ctx: &mut Context) {
    let now = ctx.live().world.clock.wall();
    let Some(flow) = &mut ctx.cache else {
        return;
    };
    flow.asked = now;
    let is_everybodys = |shape: &nextjs::RequestShape| !shape.keeps_credentials();
    if flow.shape.as_ref().is_some_and(is_everybodys) {
        for name in &nextjs::CREDENTIALS {
            request.remove_header(name);
        }
    }
}

/// Returns `target` without the parameters that are not in the key, or `None` if it stays as it is.
pub(crate) fn target(target: &[u8], ctx: &Context) -> Option<Vec<u8>> {
    let flow = ctx.cache.as_ref()?;
    if ctx.facts.rewritten.is_some() {
        // All of it is in the key.
        return None;
    }
    // Next.js checks its hash of headers that are in the key, and redirects to the right one.
    let retained = flow.shape.as_ref().map(|_| &b"_rsc"[..]);
    route_cache(ctx)?.policy.key.target_of(target, retained)
}

/// Records the response headers of the origin before they are stored. `is_storing` is false if
/// they will not be.
pub(crate) fn on_origin_response(is_storing: bool, response: &ResponseHeader, ctx: &mut Context) {
    let status = response.status;
    if let Some(facts) = &mut ctx.facts.cache {
        facts.origin_status = status.as_u16();
    }
    if let Some(flow) = &mut ctx.cache
        && status == StatusCode::NOT_MODIFIED
        && is_storing
    {
        flow.confirmed = Some(response.headers.clone());
    }
}

/// Adds the headers that were not stored to the stored ones, because this client's request produced
/// the response.
pub(crate) fn complete(response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
    let Some(flow) = &ctx.cache else {
        return Ok(());
    };
    if response.status == StatusCode::RANGE_NOT_SATISFIABLE {
        // Pingora makes the 416 from the headers of the whole response, whose digests do not match
        // its body.
        for name in ["content-digest", "repr-digest", "digest", "content-md5"] {
            response.remove_header(name);
        }
    }
    for (name, value) in &flow.for_the_first {
        response.append_header(name, value)?;
    }
    Ok(())
}

/// Decides if the origin's response may be stored.
pub(crate) fn storable(
    session: &Session,
    response: &ResponseHeader,
    ctx: &mut Context,
) -> RespCacheable {
    let decided = storage::decide(session.req_header(), response, stored(session), ctx);
    let stored = decided.and_then(|decision| meta(decision).map_err(|_| "head"));
    let mut stored = match stored {
        Ok(meta) => RespCacheable::Cacheable(meta),
        Err(why) => RespCacheable::Uncacheable(NoCacheReason::Custom(why)),
    };
    stream::name_client(&mut stored, ctx);
    stored
}

/// Ends the wait of similar requests for a response that is never stored, because a file takes its
/// place before the phases decide about it.
pub(crate) fn replaced(ctx: &mut Context) {
    // The app renders nothing any more.
    drop(ctx.facts.take::<RenderPermit>());
    let now = ctx.live().world.clock.now();
    let (Some(flow), Some(cache)) = (&ctx.cache, route_cache(ctx)) else {
        return;
    };
    if !flow.is_for_others() && !flow.is_background {
        return;
    }
    if flow.found.is_none() {
        flow.pass(cache, now);
    } else if unusual_headers(&flow.headers).next().is_none() {
        // As in `judge`: the stored response is out of date.
        cache.cache.remove(&flow.key);
    }
}

/// Builds the metadata that Pingora uses until the response is in the store. The store uses the
/// extensions.
fn meta(decision: StorageDecision) -> Result<CacheMeta> {
    let response = decision.response()?;
    let lifetime = decision.lifetime();
    let (until, from) = (lifetime.fresh_until(), lifetime.response_time);
    let mut meta = CacheMeta::new(until, from, 0, 0, response);
    match decision {
        StorageDecision::New(draft) => {
            meta.extensions_mut()
                .insert::<Arc<EntryDraft>>(Arc::from(draft));
        }
        StorageDecision::Refreshed(refresh) => {
            meta.extensions_mut()
                .insert::<Arc<Refresh>>(Arc::from(refresh));
        }
    }
    Ok(meta)
}

/// Returns the stored response that the cache phases are processing.
fn stored(session: &Session) -> Option<Arc<Entry>> {
    let meta = session.cache.maybe_cache_meta()?;
    meta.extensions().get::<Arc<Entry>>().cloned()
}

fn route_cache(ctx: &Context) -> Option<&RouteCache> {
    context::route(&ctx.gateway, ctx.route)?.cache.as_ref()
}
