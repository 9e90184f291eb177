//! Fetches a stale answer anew while it is served: one request of ours for each, with what
//! the route's filters would add but without the client's own concerns.

use std::{any::Any, sync::Arc, time::Duration};

use http::{HeaderName, Method, Version, header};
use pingora::http::RequestHeader;
use pingora_proxy::{Session, subrequest};

use super::Flow;
use crate::{
    cache::{
        Claim,
        budget::Permit,
        metrics::Revalidation,
        nextjs::RequestShape,
        policy::{Vary, Wants},
        route::Personal,
        store::Entry,
    },
    chain::{CacheFacts, CacheOutcome, Class, Client, Identity, RequestId},
    gateway::{Gateway, RouteCache},
    proxy::{
        context::{Context, Place},
        request,
    },
    routes::Params,
    upstreams::Upstream,
};

/// What belongs to the one client who asked: its copy, its part, its wish for something newer.
const OF_THE_CLIENT: [HeaderName; 11] = [
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

/// Nobody waits for it, so nobody would notice that it never ends.
const LONGEST: Duration = Duration::from_mins(2);

/// What the request that fetches anew goes by.
pub(in crate::proxy) struct Background {
    gateway: Arc<Gateway>,
    route: Option<Place>,
    params: Params,
    client: Client,
    class: Class,
    identity: Option<Box<Identity>>,
    /// What filters have made of the request: the key that its answer is kept under goes by it.
    rewritten: Option<Box<[u8]>>,
    carried: Option<Arc<dyn Any + Send + Sync>>,
    upstream: Option<Arc<Upstream>>,
    head: RequestHeader,
    flow: Box<Flow>,
    _claim: Claim,
    /// Its place at the origin, until it is over.
    permit: Option<Permit>,
}

/// Begins to fetch `entry` anew, unless somebody does so already.
pub(super) fn begin(
    session: &mut Session,
    ctx: &Context,
    cache: &RouteCache,
    mut flow: Flow,
    entry: &Entry,
    permit: Option<Permit>,
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
    for name in &OF_THE_CLIENT {
        head.remove_header(name);
    }
    if flow.personal.has_cookies && !varies_by(entry, &header::COOKIE) {
        head.remove_header(&header::COOKIE);
        // Else a page that only members read would stay stale to the end of its window.
        flow.shape = flow.shape.map(RequestShape::without_cookies);
    }
    let personal = Personal {
        // Those that the entry varies by go along: the response may be this client's own.
        has_cookies: flow.personal.has_cookies && head.headers.contains_key(&header::COOKIE),
        // `Authorization` stays here; whom the filters have found goes along.
        has_identity: ctx.facts.identity.is_some(),
        ..flow.personal
    };
    let flow = Flow {
        wants: Wants::default(),
        personal,
        // By these the answer is judged, and not by what its client said besides.
        headers: Arc::new(head.headers.clone()),
        // Made anew of those, if they are needed.
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
        rewritten: ctx.facts.rewritten.clone(),
        carried: ctx.facts.carried.clone(),
        upstream: ctx.upstream.clone(),
        head,
        flow: Box::new(flow),
        _claim: claim,
        permit,
    };
    let ours = subrequest::Ctx::builder()
        .user_ctx(Box::new(Some(background)))
        .build();
    // Pingora writes the head down as HTTP/1 and reads it again, but by its version's name:
    // that of HTTP/2 is none which it can read.
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
        if tokio::time::timeout(LONGEST, prepared.run()).await.is_err() {
            log::warn!("a stale answer could not be fetched anew in time");
        }
    });
}

fn varies_by(entry: &Entry, name: &HeaderName) -> bool {
    matches!(&entry.vary, Vary::Fields(fields) if fields.contains(name))
}

/// Makes the request one of [`begin`]'s, if it is. The hooks that are for clients leave it alone.
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
        rewritten,
        carried,
        upstream,
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
    ctx.facts.rewritten = rewritten;
    ctx.facts.carried = carried;
    ctx.facts.request_id = RequestId::random(fastrand::u64(..), fastrand::u64(..));
    ctx.facts.cache = Some(CacheFacts::new(CacheOutcome::Expired));
    ctx.upstream = upstream;
    ctx.cache = Some(flow);
    ctx.facts.put(claim);
    if let Some(permit) = permit {
        ctx.facts.put(permit);
    }
    true
}
