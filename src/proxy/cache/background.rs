//! Revalidates a stale response while it is served. Each revalidation is one request of the
//! gateway, with the changes of the route's filters but without headers that concern only the
//! client.

use std::{any::Any, sync::Arc, time::Duration};

use http::{HeaderName, Method, Version, header};
use pingora::http::RequestHeader;
use pingora_proxy::{Session, subrequest};

use super::Flow;
use crate::{
    cache::{
        WorkClaim,
        budget::RenderPermit,
        metrics::Revalidation,
        nextjs::RequestShape,
        policy::{RequestDirectives, Vary},
        route::PersonalHeaders,
        store::Entry,
    },
    chain::{CacheFacts, CacheOutcome, Class, Client, Identity, RequestId, RequestTrace},
    gateway::{Gateway, RouteCache},
    proxy::{
        context::{Context, RoutePlacement},
        request,
    },
    routes::Params,
    upstreams::{Timeouts, Upstream},
};

/// Headers that concern only the client that sent the request: its own copy, its range, its demand
/// for freshness.
const CLIENT_HEADERS: [HeaderName; 11] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Time limit of a revalidation. No client waits for it, so no one would notice that it never ends.
const MAX_DURATION: Duration = Duration::from_mins(2);

/// State of a background revalidation.
pub(in crate::proxy) struct Background {
    gateway: Arc<Gateway>,
    route: Option<RoutePlacement>,
    params: Params,
    client: Client,
    class: Class,
    identity: Option<Box<Identity>>,
    release: Option<Arc<str>>,
    /// Target as filters rewrote it. The cache key of the response depends on it.
    rewritten: Option<Box<[u8]>>,
    carried: Option<Arc<dyn Any + Send + Sync>>,
    upstream: Option<Arc<Upstream>>,
    timeouts: Option<Box<Timeouts>>,
    trace: Option<RequestTrace>,
    head: RequestHeader,
    flow: Box<Flow>,
    _claim: WorkClaim,
    /// Permit for the origin, held until the revalidation is over.
    permit: Option<RenderPermit>,
}

/// Begins to revalidate `entry`, unless a revalidation is already running.
pub(super) fn begin(
    session: &mut Session,
    ctx: &Context,
    cache: &RouteCache,
    mut flow: Flow,
    entry: &Entry,
    permit: Option<RenderPermit>,
) {
    if session.subrequest_spawner.is_none() {
        return;
    }
    let Some(claim) = cache.cache.claim(entry) else {
        return;
    };
    let mut head = session.req_header().clone();
    head.set_method(Method::GET);
    head.set_version(Version::HTTP_11);
    for name in &CLIENT_HEADERS {
        head.remove_header(name);
    }
    if flow.personal.has_cookies && !varies_by(entry, &header::COOKIE) {
        head.remove_header(&header::COOKIE);
        // Otherwise a page that only signed-in users read would stay stale to the end of its
        // window.
        flow.shape = flow.shape.map(RequestShape::without_cookies);
    }
    let personal = PersonalHeaders {
        // Cookies that the entry varies by are forwarded: the response may be private to this
        // client.
        has_cookies: flow.personal.has_cookies && head.headers.contains_key(&header::COOKIE),
        // `Authorization` is removed; the identity that the filters found is kept.
        has_identity: ctx.facts.identity.is_some(),
        ..flow.personal
    };
    let flow = Flow {
        wants: RequestDirectives::default(),
        personal,
        // The response is judged by these headers, not by others that the client sent.
        headers: Arc::new(head.headers.clone()),
        // Built again from those headers if needed.
        sent: None,
        is_background: true,
        is_pass: false,
        ..flow
    };
    let background = Background {
        gateway: Arc::clone(&ctx.gateway),
        route: ctx.route,
        params: ctx.params.clone(),
        client: ctx.facts.client.clone(),
        class: ctx.facts.class,
        identity: ctx.facts.identity.clone(),
        release: ctx.facts.release.clone(),
        rewritten: ctx.facts.rewritten.clone(),
        carried: ctx.facts.carried.clone(),
        upstream: ctx.upstream.clone(),
        timeouts: ctx.timeouts.clone(),
        trace: ctx.facts.trace.as_ref().map(RequestTrace::child),
        head,
        flow: Box::new(flow),
        _claim: claim,
        permit,
    };
    let ours = subrequest::Ctx::builder()
        .user_ctx(Box::new(Some(background)))
        .build();
    // Pingora serialises the request headers as HTTP/1 and parses them again, but it writes the
    // version by name, and it cannot parse the name of HTTP/2.
    let version = session.req_header().version;
    session.req_header_mut().set_version(Version::HTTP_11);
    let created = session
        .subrequest_spawner
        .as_ref()
        .map(|spawner| spawner.create_subrequest(session.as_ref(), ours));
    session.req_header_mut().set_version(version);
    let Some((prepared, handle)) = created else {
        return;
    };
    handle.drain_tasks();
    cache.metrics.revalidation(Revalidation::Begun);
    ctx.live().background.spawn("revalidation", async move {
        if tokio::time::timeout(MAX_DURATION, prepared.run())
            .await
            .is_err()
        {
            log::warn!("stale response not revalidated in time");
        }
    });
}

fn varies_by(entry: &Entry, name: &HeaderName) -> bool {
    matches!(entry.vary(), Vary::Fields(fields) if fields.contains(name))
}

/// Turns the request into the one that [`begin`] prepared, if there is one. The hooks for clients
/// then skip it.
pub(in crate::proxy) fn take(session: &mut Session, ctx: &mut Context) -> bool {
    let background = session
        .subrequest_ctx
        .as_mut()
        .and_then(|ours| ours.user_ctx_mut())
        .and_then(|ours| ours.downcast_mut::<Option<Background>>())
        .and_then(Option::take);
    let Some(background) = background else {
        return false;
    };
    let Background {
        gateway,
        route,
        params,
        client,
        class,
        identity,
        release,
        rewritten,
        carried,
        upstream,
        timeouts,
        trace,
        head,
        flow,
        _claim: claim,
        permit,
    } = background;
    ctx.connection = request::connection(session);
    *session.req_header_mut() = head;
    ctx.gateway = gateway;
    ctx.route = route;
    ctx.params = params;
    ctx.facts.client = client;
    ctx.facts.class = class;
    ctx.facts.identity = identity;
    ctx.facts.release = release;
    ctx.facts.rewritten = rewritten;
    ctx.facts.carried = carried;
    ctx.facts.request_id = RequestId::random(fastrand::u64(..), fastrand::u64(..));
    ctx.facts.trace = trace;
    ctx.facts.cache = Some(CacheFacts::new(CacheOutcome::Expired));
    ctx.upstream = upstream;
    ctx.timeouts = timeouts;
    ctx.cache = Some(flow);
    ctx.facts.put(claim);
    if let Some(permit) = permit {
        ctx.facts.put(permit);
    }
    true
}
