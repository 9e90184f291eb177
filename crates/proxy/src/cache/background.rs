//! Revalidates a stale response while it is served, and fetches a page again that a Next.js app was
//! rendering when it sent its stale copy. Each is one request of the gateway, with the changes of
//! the route's filters but without headers that concern only the client.

use std::{sync::Arc, time::Duration};

use edgeway_base::http::ABOUT_COPIES;
use edgeway_cache::{
    WorkClaim, WorkKind,
    metrics::Revalidation,
    nextjs::RequestShape,
    policy::{RequestDirectives, Vary},
    route::PersonalHeaders,
};
use edgeway_core::chain::{CacheFacts, CacheOutcome, RequestId, RequestTrace, RerouteFacts};
use edgeway_gateway::RouteCache;
use http::{HeaderName, Method, Version, header};
use pingora::http::RequestHeader;

use super::door::{client_kind, fetching};
use crate::context::{self, Context, Flow};

/// Further headers that concern only the client that sent the request: its demand for freshness, its
/// credentials, its body.
const CLIENT_HEADERS: [HeaderName; 5] = [
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Waits before a page is fetched again that the app renders. They end: a page may stay stale, or
/// be stale again by then.
const FOLLOW_UPS: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(6),
];

/// Request in the background, with the context that it begins with. The exchange runs it.
pub(crate) struct BackgroundRequest {
    pub(crate) head: RequestHeader,
    pub(crate) ctx: Box<Context>,
    wait: Duration,
}

/// Returns the request that revalidates what is stored for `request` and is sent to its client
/// meanwhile; `None` if such a request is already running.
pub(crate) fn revalidation(
    request: &RequestHeader,
    ctx: &Context,
    flow: Flow,
) -> Option<BackgroundRequest> {
    let cache = context::cache(&ctx.gateway, ctx.route)?;
    prepare(request, ctx, cache, flow, Duration::ZERO)
}

/// Prepares a request to the origin `wait` from now, with the part of `request` that is not the
/// client's, unless such a request is already running. Its response may be stored.
fn prepare(
    request: &RequestHeader,
    ctx: &Context,
    cache: &RouteCache,
    mut flow: Flow,
    wait: Duration,
) -> Option<BackgroundRequest> {
    let variance = flow.variance.unwrap_or_default();
    let claim = cache.cache.claim(&flow.key, variance, WorkKind::Fetch)?;
    let mut head = request.clone();
    head.set_method(Method::GET);
    head.set_version(Version::HTTP_11);
    for name in ABOUT_COPIES.iter().chain(&CLIENT_HEADERS) {
        head.remove_header(name);
    }
    // Cookies that the entry varies by are forwarded: the response may be private to this client.
    let has_cookies = flow.personal.has_cookies && varies_by_cookie(&flow);
    if flow.personal.has_cookies && !has_cookies {
        // Those in the key select the response, and are no more personal than it.
        let keyed = cache.policy.key.cookies_of(&request.headers);
        head.remove_header(&header::COOKIE);
        if let Some(keyed) = keyed {
            // A part of a valid value is valid.
            let _inserted = head.insert_header(header::COOKIE, keyed);
        }
        // Otherwise a page that only signed-in users read would stay stale to the end of its
        // window.
        flow.shape = flow.shape.map(RequestShape::without_cookies);
    }
    let personal = PersonalHeaders {
        has_cookies,
        // `Authorization` is removed; the identity that the filters found is kept.
        has_identity: ctx.facts.identity.is_some(),
        ..flow.personal
    };
    let flow = Flow {
        wants: RequestDirectives {
            // What is stored may be fresh by the clock, and yet is to be replaced.
            max_age: flow.is_out_of_date.then_some(Duration::ZERO),
            ..RequestDirectives::default()
        },
        is_out_of_date: false,
        personal,
        // The response is judged by these headers, not by others that the client sent.
        headers: Arc::new(head.headers.clone()),
        // Built again from those headers if needed.
        sent: None,
        is_background: true,
        is_pass: false,
        ..flow
    };
    let mut ours = Box::new(Context::new(ctx.shared()));
    ours.connection.clone_from(&ctx.connection);
    ours.gateway = Arc::clone(&ctx.gateway);
    ours.route = ctx.route;
    ours.earlier_routes.clone_from(&ctx.earlier_routes);
    ours.params = ctx.params.clone();
    ours.upstream.clone_from(&ctx.upstream);
    ours.timeouts.clone_from(&ctx.timeouts);
    ours.cache = Some(Box::new(flow));
    let facts = &mut ours.facts;
    facts.route.clone_from(&ctx.facts.route);
    facts.client = ctx.facts.client.clone();
    facts.class = ctx.facts.class;
    facts.identity.clone_from(&ctx.facts.identity);
    facts.release.clone_from(&ctx.facts.release);
    facts.rewritten.clone_from(&ctx.facts.rewritten);
    facts.rerouted = ctx.facts.rerouted.as_deref().map(|rerouted| {
        Box::new(RerouteFacts {
            original: rerouted.original.clone(),
            own_query: rerouted.own_query,
            ..RerouteFacts::default()
        })
    });
    facts.carried.clone_from(&ctx.facts.carried);
    facts.request_id = RequestId::random(fastrand::u64(..), fastrand::u64(..));
    facts.trace = ctx.facts.trace.as_ref().map(RequestTrace::child);
    facts.cache = Some(CacheFacts::new(CacheOutcome::Expired));
    facts.put(claim);
    Some(BackgroundRequest {
        head,
        ctx: ours,
        wait,
    })
}

/// Returns the request that fetches a page again that the app is rendering, if it has sent its stale
/// copy, or that a client has changed, whose own response is not stored. The next visitor may come
/// when nothing stored may be used any more, and would get such a copy again.
pub(crate) fn follow_up(request: &RequestHeader, ctx: &mut Context) -> Option<BackgroundRequest> {
    let flow = ctx.cache.take_if(|flow| flow.is_out_of_date)?;
    let wait = match FOLLOW_UPS.get(flow.follow_ups)? {
        // The app has the new page already.
        _ if flow.has_changed => Duration::ZERO,
        wait => *wait,
    };
    if flow.personal.is_known() {
        return None;
    }
    // That of a request in the background, which is over.
    drop(ctx.facts.take::<WorkClaim>());
    let flow = Flow {
        has_changed: false,
        follow_ups: flow.follow_ups + 1,
        ..*flow
    };
    let cache = context::cache(&ctx.gateway, ctx.route)?;
    prepare(request, ctx, cache, flow, wait)
}

impl BackgroundRequest {
    /// Waits for the time of the request, and takes a place in the render budget of the upstream.
    /// Returns false if there is none.
    pub(crate) async fn begin(&mut self) -> bool {
        tokio::time::sleep(self.wait).await;
        let ctx = &mut *self.ctx;
        ctx.facts.started = ctx.live().world.clock.now();
        let Some(cache) = context::cache(&ctx.gateway, ctx.route) else {
            return false;
        };
        if let Some(fetching) = fetching(ctx, cache) {
            let by = client_kind(&self.head, Some(fetching));
            let Some(permit) = fetching.budget.revalidate(by) else {
                cache.metrics.revalidations[Revalidation::Postponed].inc();
                return false;
            };
            ctx.facts.put(permit);
        }
        cache.metrics.revalidations[Revalidation::Begun].inc();
        true
    }
}

fn varies_by_cookie(flow: &Flow) -> bool {
    let vary = flow.stored.as_ref().map(|entry| entry.vary());
    matches!(vary, Some(Vary::Fields(fields)) if fields.contains(&header::COOKIE))
}
