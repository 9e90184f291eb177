//! Second entry point of the cache: Pingora's cache phases, each called by its hook.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, ForcedFreshness, NoCacheReason, RespCacheable,
};
use pingora_proxy::{RangeType, Session, range_header_filter};

use super::{Flow, stream};
use crate::{
    cache::{
        budget::RenderPermit,
        nextjs,
        policy::{self, ExchangeTimes, Lifetime, NotStorable, Usability, Variance, Vary},
        route::{self, TAGS},
        store::{Entry, EntryDraft, EntryRules, Refresh, RequestedLookup},
        unusual_request::unusual_headers,
    },
    chain::{CacheOutcome, RequestFacts},
    gateway::RouteCache,
    proxy::context::{self, Context},
    routes::{Params, Target},
};

/// Bound on how often a request waits for another one that then stored nothing it may use.
const MAX_WAITS: usize = 16;

/// Bound on the ranges of one request. Pingora's own default.
const MAX_RANGES: usize = 200;

/// Enables the cache phases if the first entry point left a flow.
pub(in crate::proxy) fn enable(session: &mut Session, ctx: &Context) {
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
pub(in crate::proxy) fn key(ctx: &Context) -> Result<CacheKey> {
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
pub(in crate::proxy) fn hit(meta: &CacheMeta, ctx: &mut Context) -> Option<ForcedFreshness> {
    let now = ctx.live().world.clock.wall();
    let flow = ctx.cache.as_ref()?;
    let Some(entry) = meta.extensions().get::<Arc<Entry>>() else {
        return Some(ForcedFreshness::ForceMiss);
    };
    if !flow.personal.may_read(&entry.headers) {
        return Some(ForcedFreshness::ForceMiss);
    }
    let lifetime = entry.lifetime();
    // A response that arrived after the request is also a valid response to it.
    let is_ours = lifetime.response_time >= flow.came && !lifetime.always_validate;
    let usable = route_cache(ctx)?.usable(&lifetime, &flow.wants, now);
    let is_usable = match usable {
        Usability::Fresh | Usability::StaleAsAsked => true,
        Usability::StaleWhileRevalidate => !flow.is_background && flow.found.is_none(),
        Usability::Validate | Usability::GatewayTimeout => is_ours && lifetime.is_fresh(now),
    };
    if !is_usable {
        let is_same = flow
            .found
            .as_ref()
            .is_some_and(|found| Arc::ptr_eq(found, entry));
        if let Some(facts) = ctx.facts.cache.as_mut()
            && !is_same
        {
            facts.outcome = CacheOutcome::Expired;
        }
        return Some(ForcedFreshness::ForceExpiredServeStale { expired_at: None });
    }
    let is_new = flow
        .found
        .as_ref()
        .is_none_or(|found| !Arc::ptr_eq(found, entry));
    let is_fresh = lifetime.is_fresh(now);
    // This is the response of another request, or a stored one: the origin generates nothing for
    // it.
    drop(ctx.facts.take::<RenderPermit>());
    if let Some(facts) = ctx.facts.cache.as_mut() {
        facts.outcome = if is_fresh {
            CacheOutcome::Hit
        } else {
            CacheOutcome::Stale
        };
        facts.why = None;
        facts.is_collapsed = is_new;
        facts.ttl = Some(lifetime.ttl(now));
        facts.age = Some(lifetime.age(now));
    }
    Some(ForcedFreshness::ForceFresh)
}

/// Returns true if the client's own copy is still current.
pub(in crate::proxy) fn not_modified(request: &RequestHeader, response: &ResponseHeader) -> bool {
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
pub(in crate::proxy) fn range(request: &RequestHeader, response: &mut ResponseHeader) -> RangeType {
    let length = response.headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| length.as_bytes().iter().all(|digit| *digit == b'0')) {
        return RangeType::None;
    }
    range_header_filter(request, response, Some(MAX_RANGES))
}

/// Returns true if a stale response may replace a failure. It never allows one without an error:
/// the first entry point decides about stale-while-revalidate.
pub(in crate::proxy) fn serves_stale(
    session: &mut Session,
    error: Option<&Error>,
    ctx: &mut Context,
) -> bool {
    let (Some(error), Some(flow)) = (error, &ctx.cache) else {
        return false;
    };
    if ctx.accel.is_some() {
        // The origin has responded, with a file.
        return false;
    }
    if let ErrorType::HTTPStatus(status) = *error.etype() {
        ctx.facts.upstream.status = status;
        if !matches!(status, 500 | 502..=504) {
            return false;
        }
    } else if !matches!(
        error.esource(),
        ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset
    ) || flow.is_background
    {
        return false;
    }
    if ctx
        .reply
        .as_ref()
        .is_some_and(|reply| !reply.status.is_server_error())
    {
        return false;
    }
    let now = ctx.live().world.clock.wall();
    let Some(entry) = stored(session) else {
        return false;
    };
    let lifetime = entry.lifetime();
    if !policy::after_error(&lifetime, &flow.wants, now) {
        return false;
    }
    if let Some(facts) = ctx.facts.cache.as_mut() {
        facts.outcome = CacheOutcome::Stale;
        facts.why = Some("origin-failed");
        facts.origin_status = ctx.facts.upstream.status;
        facts.ttl = Some(lifetime.ttl(now));
        facts.age = Some(lifetime.age(now));
    }
    ctx.reply = None;
    if !matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        // Pingora accepts no further request on this connection once the upstream request failed.
        session.set_keepalive(None);
    }
    true
}

/// Prepares the request for the origin: other clients may share its response.
pub(in crate::proxy) fn forward(request: &mut RequestHeader, ctx: &mut Context) {
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
pub(in crate::proxy) fn target(target: &[u8], ctx: &Context) -> Option<Vec<u8>> {
    let flow = ctx.cache.as_ref()?;
    if ctx.facts.rewritten.is_some() {
        // All of it is in the key.
        return None;
    }
    // Next.js checks its hash of headers that are in the key, and redirects to the right one.
    let retained = flow.shape.as_ref().map(|_| &b"_rsc"[..]);
    route_cache(ctx)?.policy.key.target_of(target, retained)
}

/// Records the response headers of the origin before they are stored.
pub(in crate::proxy) fn on_origin_response(
    session: &Session,
    response: &ResponseHeader,
    ctx: &mut Context,
) {
    let status = response.status;
    if let Some(facts) = &mut ctx.facts.cache {
        facts.origin_status = status.as_u16();
    }
    if let Some(flow) = &mut ctx.cache
        && status == StatusCode::NOT_MODIFIED
        && session.cache.enabled()
    {
        flow.confirmed = Some(response.headers.clone());
    }
}

/// Adds the headers that were not stored to the stored ones, because this client's request produced
/// the response.
pub(in crate::proxy) fn complete(response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
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
pub(in crate::proxy) fn storable(
    session: &Session,
    response: &ResponseHeader,
    ctx: &mut Context,
) -> RespCacheable {
    let gateway = Arc::clone(&ctx.gateway);
    let cache = context::cache(&gateway, ctx.route);
    // Taken out, because the headers sent to the origin are built from the whole context.
    let (Some(mut flow), Some(cache)) = (ctx.cache.take(), cache) else {
        return refuse("no flow");
    };
    let mut decided = judge(session, response, ctx, (&mut *flow, cache));
    ctx.cache = Some(flow);
    stream::name_client(&mut decided, ctx);
    decided
}

/// Ends the wait of similar requests for a response that is never stored, because a file takes its
/// place before the phases decide about it.
pub(in crate::proxy) fn replaced(ctx: &mut Context) {
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

fn refuse(why: &'static str) -> RespCacheable {
    RespCacheable::Uncacheable(NoCacheReason::Custom(why))
}

fn judge(
    session: &Session,
    head: &ResponseHeader,
    ctx: &mut Context,
    (flow, cache): (&mut Flow, &RouteCache),
) -> RespCacheable {
    let live = Arc::clone(ctx.live());
    let confirmed = flow.confirmed.take();
    let old = confirmed.as_ref().and_then(|_| stored(session));
    let (status, mut headers) = match (&old, &confirmed) {
        (Some(old), Some(confirmed)) => {
            let mut merged = old.headers.clone();
            policy::merge(&mut merged, confirmed);
            (old.status, merged)
        }
        _ => (head.status, head.headers.clone()),
    };
    let times = ExchangeTimes {
        request_time: flow.asked,
        response_time: live.world.clock.wall(),
    };
    let is_same = match (&old, &confirmed) {
        (Some(old), Some(confirmed)) => policy::updates(&old.headers, confirmed),
        _ => true,
    };
    let decided = match &old {
        // The 304 was about another response: the stored one stays as it is and is validated again
        // on the next request.
        Some(old) if !is_same => {
            headers = old.headers.clone();
            Ok(old.lifetime())
        }
        _ => flow.lifetime(status, &headers, times, cache),
    };
    let judged = decided.and_then(|lifetime| {
        let variant = flow.variant(session.req_header(), &headers, ctx, cache)?;
        let tags = match &old {
            // The stored response keeps its tags.
            Some(_) => Box::default(),
            None => tags(session, &ctx.params, cache, &headers)?,
        };
        Ok((lifetime, variant, tags))
    });
    let facts = &mut ctx.facts;
    let (lifetime, variant, tags) = match judged {
        Ok(decided) => decided,
        Err(why) => {
            uncacheable(why, facts);
            if facts
                .slot::<RenderPermit>()
                .is_some_and(RenderPermit::is_persons)
            {
                // A stream, for example, is not a page that a person waits for.
                drop(facts.take::<RenderPermit>());
            }
            if let (Some(_), Some(cached)) = (&old, &mut facts.cache) {
                // The stored response is sent again.
                cached.outcome = CacheOutcome::Revalidated;
            }
            // A 304 with the stale mark of Next.js leaves the stored response as it was: stale.
            if why == nextjs::STALE_AT_ORIGIN {
                return refuse(why);
            }
            // A refusal for one client does not show what other clients may get.
            let is_for_others = flow.is_for_others() || flow.is_background;
            if is_for_others && why != NotStorable::RequestNoStore.reason() {
                if flow.found.is_none() {
                    if !is_error(status) {
                        flow.pass(cache, live.world.clock.now());
                    }
                } else if (status.is_success()
                    || status.is_redirection()
                    || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE))
                    // The origin may have selected its response by one of these.
                    && unusual_headers(&flow.headers).next().is_none()
                {
                    // The origin now has a different response that must not be stored: the stored
                    // one is out of date, no matter how much of its windows is left.
                    cache.cache.remove(&flow.key);
                }
            }
            return refuse(why);
        }
    };
    if lifetime.fresh_for <= lifetime.initial_age && !is_error(status) {
        // Waiting requests would find no response that they may use.
        flow.variance = Some(variant.1);
        flow.pass(cache, live.world.clock.now());
    }
    if let Some(cached) = &mut facts.cache {
        cached.is_stored = true;
        if confirmed.is_some() {
            cached.outcome = CacheOutcome::Revalidated;
        }
    }
    let about = EntryRules {
        route: facts.route.clone().unwrap_or_else(|| Arc::from("")),
        tags,
        max_object: cache.policy.max_object,
        is_compressible: false,
        quota: cache.quota.clone(),
        keeps_private: cache.policy.plain.force,
    };
    flow.for_the_first = policy::for_the_first(&headers);
    policy::clean(&mut headers);
    policy::date(&mut headers, times.response_time);
    let response = OriginResponse {
        status,
        headers,
        lifetime,
        variant,
    };
    match response.store(flow, cache, about, old) {
        Ok(meta) => RespCacheable::Cacheable(meta),
        Err(_) => refuse("head"),
    }
}

/// Returns true for an error. It does not predict the next response, so it does not end collapsing.
fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Response that may be stored.
struct OriginResponse {
    status: StatusCode,
    headers: HeaderMap,
    lifetime: Lifetime,
    variant: (Vary, Variance),
}

impl OriginResponse {
    /// Builds the metadata that Pingora passes to the store: a new response, or new headers for
    /// `old`.
    fn store(
        self,
        flow: &Flow,
        cache: &RouteCache,
        mut about: EntryRules,
        old: Option<Arc<Entry>>,
    ) -> Result<CacheMeta> {
        let Self {
            status,
            mut headers,
            lifetime,
            variant: (vary, variance),
        } = self;
        for name in &TAGS {
            headers.remove(name);
        }
        if let Some(coder) = &cache.coder {
            about.is_compressible = coder.prepare(status, &mut headers);
        }
        let mark = flow.mark;
        let mut meta = meta(status, &headers, &lifetime)?;
        if let Some(old) = old {
            meta.extensions_mut().insert(Arc::new(Refresh {
                old,
                headers,
                lifetime,
                vary,
                variance,
                mark,
            }));
        } else {
            meta.extensions_mut().insert(Arc::new(EntryDraft {
                key: flow.key.clone(),
                status,
                headers,
                lifetime,
                vary,
                variance,
                about,
                mark,
            }));
        }
        Ok(meta)
    }
}

fn uncacheable(why: &'static str, facts: &mut RequestFacts) {
    if let Some(facts) = &mut facts.cache {
        facts.is_stored = false;
        facts.why = Some(why);
    }
}

/// Builds the metadata that Pingora uses until the response is in the store. The store uses the
/// extensions.
fn meta(status: StatusCode, headers: &HeaderMap, lifetime: &Lifetime) -> Result<CacheMeta> {
    let mut response = ResponseHeader::build_no_case(status, Some(headers.len()))?;
    for (name, value) in headers {
        response.append_header(name, value)?;
    }
    let age = lifetime.initial_age.as_secs();
    if age > 0 {
        // This response was already this old on arrival.
        response.insert_header(header::AGE, age)?;
    }
    let (until, from) = (lifetime.fresh_until(), lifetime.response_time);
    Ok(CacheMeta::new(until, from, 0, 0, response))
}

/// Returns the tags of the route and those of the origin, or an error if there are too many.
fn tags(
    session: &Session,
    params: &Params,
    cache: &RouteCache,
    headers: &HeaderMap,
) -> std::result::Result<Box<[Box<str>]>, &'static str> {
    let target = Target::new("", session.req_header().raw_path());
    let own = cache
        .tags
        .iter()
        .map(|tag| tag.render(|slot| params.get(*slot, target.path)));
    let mut tags = route::tags_of(headers)?;
    tags.extend(own.map(String::into_boxed_str));
    tags.sort_unstable();
    tags.dedup();
    Ok(tags.into())
}

/// Returns the stored response that the cache phases are processing.
fn stored(session: &Session) -> Option<Arc<Entry>> {
    let meta = session.cache.maybe_cache_meta()?;
    meta.extensions().get::<Arc<Entry>>().cloned()
}

fn route_cache(ctx: &Context) -> Option<&RouteCache> {
    context::route(&ctx.gateway, ctx.route)?.cache.as_ref()
}
