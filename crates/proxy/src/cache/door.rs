//! Entry point of the cache: serves a request from the store if that is allowed.

use std::{mem, net::IpAddr, sync::Arc, time::SystemTime};

use edgeway_cache::{
    budget::{ClientKind, RenderQueueFull},
    nextjs::{InvalidImageRequest, RequestShape},
    policy::{SentHeaders, Usability, Variance, Vary},
    store::{Entry, Lookup, Store},
    tier::{Tiers, WaitHistograms},
};
use edgeway_core::chain::{CacheFacts, CacheOutcome, Exchange, Reply};
use edgeway_gateway::{RecognisedRequest, RouteCache, UpstreamFetch};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;

use super::{
    changed,
    flow::{BY_VALUE, TOO_FEW},
    purge,
};
use crate::{
    context::{self, Context, Decision, Flow},
    forward,
    live::Live,
    trace,
};

/// Decision about a request, and the cache facts for its log line.
type CacheDecision = (CacheFacts, Decision);

/// Decides how to serve a request: from the store, with a reply of the gateway, or from the origin.
pub(crate) async fn ask(head: &RequestHeader, ctx: &mut Context) -> Decision {
    if ctx.is_websocket {
        return Decision::GoesOn(None);
    }
    let gateway = Arc::clone(&ctx.gateway);
    let Some(route) = context::route(&gateway, ctx.route) else {
        return Decision::GoesOn(None);
    };
    let Some(cache) = &route.cache else {
        return Decision::GoesOn(None);
    };
    if purge::is_asked_for(head, cache) {
        let reply = purge::respond(head, ctx, cache).await;
        return Decision::Reply(Box::new(reply));
    }
    let live = Arc::clone(ctx.live());
    let started = trace::begin_part(&ctx.facts, cache.cache.tiers().is_some());
    let (facts, course) = match recognise(head, ctx, cache, &live) {
        Ok(request) => request.decided(ctx).await,
        Err(why) => bypass(why),
    };
    ctx.facts.cache = Some(facts);
    trace::end_part(&mut ctx.facts, "cache", started);
    course
}

/// Lets a request go to the origin and fill the cache. Returns a reply if it may not go now.
pub(crate) async fn fetch(
    request: &RequestHeader,
    has_body: bool,
    ctx: &mut Context,
    flow: Box<Flow>,
) -> Option<Box<Reply>> {
    if has_body {
        // An origin that reads the body of a GET would serve all clients what one client sent.
        ctx.facts.cache = Some(CacheFacts::new(CacheOutcome::Bypass).why("body"));
        return None;
    }
    let gateway = Arc::clone(&ctx.gateway);
    let cache = context::cache(&gateway, ctx.route)?;
    if let Err(busy) = place(request, ctx, cache).await {
        let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, busy.reason())
            .retry_after(busy.retry_after)
            .detail("This page is being rendered for other clients first. Please try again later.");
        return Some(Box::new(reply));
    }
    ctx.cache = Some(flow);
    None
}

pub(super) fn fetching<'c>(ctx: &Context, cache: &'c RouteCache) -> Option<&'c UpstreamFetch> {
    cache.upstream(&ctx.upstream.as_ref()?.name)
}

pub(super) fn client_kind(request: &RequestHeader, fetching: Option<&UpstreamFetch>) -> ClientKind {
    let crawlers = fetching.and_then(|fetching| fetching.crawlers.as_ref());
    let user_agent = request.headers.get(header::USER_AGENT);
    match crawlers.zip(user_agent) {
        Some((crawlers, user_agent)) if crawlers.is(user_agent) => ClientKind::Crawler,
        _ => ClientKind::Person,
    }
}

/// Acquires a permit for the origin, held until the response is over. Requests of people get it at
/// once, those of crawlers wait in the queue.
async fn place(
    request: &RequestHeader,
    ctx: &mut Context,
    cache: &RouteCache,
) -> Result<(), RenderQueueFull> {
    let Some(fetching) = fetching(ctx, cache) else {
        return Ok(());
    };
    let permit = match client_kind(request, Some(fetching)) {
        ClientKind::Crawler => fetching.budget.crawl().await?,
        ClientKind::Person => fetching.budget.person(),
    };
    ctx.facts.put(permit);
    Ok(())
}

/// Request that the store may serve.
struct Request<'a> {
    head: &'a RequestHeader,
    cache: &'a RouteCache,
    live: &'a Live,
    seen: RecognisedRequest,
    now: SystemTime,
    client: IpAddr,
    /// Request headers that the origin would get, once they were needed.
    sent: Option<Arc<HeaderMap>>,
}

/// Extracts the parts of the request that the cache uses, or returns the reason for a bypass.
fn recognise<'a>(
    head: &'a RequestHeader,
    ctx: &mut Context,
    cache: &'a RouteCache,
    live: &'a Live,
) -> Result<Request<'a>, &'static str> {
    let chain = context::chain(&ctx.gateway, ctx.route);
    let upstream = ctx.upstream.as_ref().map(|upstream| &*upstream.name);
    let has_rules = upstream.is_some_and(|upstream| cache.nextjs(upstream).is_some());
    let rewritten = has_rules.then(|| forward::rewritten(head, ctx)).flatten();
    let mut ex = Exchange::new(head, &mut ctx.facts);
    let seen = cache.recognise(&mut ex, upstream, rewritten.as_deref(), chain)?;
    Ok(Request {
        head,
        cache,
        seen,
        now: live.world.clock.wall(),
        live,
        client: ctx.facts.client.ip,
        sent: None,
    })
}

fn bypass(why: &'static str) -> CacheDecision {
    let facts = CacheFacts::new(CacheOutcome::Bypass).why(why);
    (facts, Decision::GoesOn(None))
}

fn only_if_cached() -> CacheDecision {
    let reply = Reply::refuse(StatusCode::GATEWAY_TIMEOUT, "only_if_cached")
        .detail("No usable response is stored, and `only-if-cached` allows no other.");
    let facts = CacheFacts::new(CacheOutcome::Miss).why("only-if-cached");
    (facts, Decision::Reply(Box::new(reply)))
}

/// Refuses an image with the same message as the app.
fn refuse_image(bad: &InvalidImageRequest) -> CacheDecision {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let reply = Reply::bytes(StatusCode::BAD_REQUEST, text, bad.to_string());
    let facts = CacheFacts::new(CacheOutcome::Bypass).why("image");
    (facts, Decision::Reply(Box::new(reply)))
}

impl Request<'_> {
    /// Looks the request up by the headers that the origin would get. Usually the relevant ones
    /// equal those of the client; otherwise they are built.
    fn find(&mut self, ctx: &mut Context) -> Lookup {
        let lookup = self.store().find(&self.seen.key, self.sent());
        if !lookup.is_unclear || self.sent.is_some() {
            return lookup;
        }
        self.sent = forward::sent_headers(self.head, ctx).map(Arc::new);
        if self.sent.is_none() {
            return lookup;
        }
        self.store().find(&self.seen.key, self.sent())
    }

    fn sent(&self) -> SentHeaders<'_> {
        match &self.sent {
            Some(sent) => SentHeaders::whole(sent),
            None => SentHeaders::of_client(&self.head.headers, &self.cache.unchanged),
        }
    }

    /// Returns the lower tiers to look in on a miss. A response that the origin does not allow to
    /// store is in none of them.
    fn tiers(&self, vary: Option<&Vary>) -> Option<(&Tiers, Option<&WaitHistograms>)> {
        let tiers = self.cache.cache.tiers()?;
        let is_pass = self.is_pass(vary.and_then(|vary| self.sent().variance(vary)));
        let waits = self.cache.waits.as_ref();
        (!is_pass && self.bad_image().is_none()).then_some((tiers, waits))
    }

    /// Returns true if the response to a similar request was recently not storable.
    fn is_pass(&self, variance: Option<Variance>) -> bool {
        let now = self.live.world.clock.now();
        let passes = self.cache.cache.passes();
        passes.contains(&self.seen.key, variance, &self.head.headers, now)
    }

    fn bad_image(&self) -> Option<&InvalidImageRequest> {
        self.seen.shape.as_ref().and_then(RequestShape::bad_image)
    }

    fn is_image(&self) -> bool {
        self.seen.shape.as_ref().is_some_and(RequestShape::is_image)
    }

    /// Looks the request up in the store, and in the lower tiers on a miss.
    async fn decided(mut self, ctx: &mut Context) -> CacheDecision {
        if self.seen.is_renewing {
            return self.renew();
        }
        let lookup = self.find(ctx);
        if lookup.entry.is_some() || self.tiers(lookup.vary.as_ref()).is_none() {
            return self.decide(lookup);
        }
        if self.sent.is_none() {
            self.sent = forward::sent_headers(self.head, ctx).map(Arc::new);
        }
        if let Some((tiers, waits)) = self.tiers(lookup.vary.as_ref()) {
            let here = self.cache.about();
            let headers = self.sent.as_deref().unwrap_or(&self.head.headers);
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(tiers.load(&self.seen.key, headers, &here, waits)).await;
        }
        let lookup = self.find(ctx);
        self.decide(lookup)
    }

    /// Drops the client's demands on stored responses unless it may make them.
    fn hear_client(&mut self) {
        if !self.seen.wants.demands() {
            return;
        }
        let now = self.live.world.clock.now();
        let heard = self.cache.policy.client_directives.as_ref();
        if !heard.is_some_and(|heard| heard.hears(self.client, now)) {
            self.seen.wants = mem::take(&mut self.seen.wants).without_demands();
        }
    }

    /// Sends the request to the origin, whose response takes the place of what is stored.
    fn renew(self) -> CacheDecision {
        if let Some(bad) = self.bad_image() {
            return refuse_image(bad);
        }
        let is_partial = self.head.method == Method::HEAD || self.seen.is_range;
        if is_partial && !self.cache.policy.fetches_whole {
            return bypass("route");
        }
        let facts = CacheFacts::new(CacheOutcome::Bypass).why("route");
        let flow = self.flow(None, None);
        (facts, Decision::GoesOn(Some(flow)))
    }

    /// Decides a request for which nothing is stored.
    fn decide_miss(self, vary: Option<Vary>) -> CacheDecision {
        if self.seen.wants.only_if_cached {
            return only_if_cached();
        }
        let fetches_whole = self.cache.policy.fetches_whole;
        if self.head.method == Method::HEAD && !fetches_whole {
            // A HEAD request does not ask for the body.
            return bypass("head");
        }
        if self.seen.is_range && !fetches_whole && !self.is_image() {
            // The range that the client wants does not justify fetching the whole, but an image is
            // encoded as a whole.
            return bypass("range");
        }
        let why = vary.as_ref().map_or("uri-miss", |_| "vary-miss");
        let variance = vary.and_then(|vary| self.sent().variance(&vary));
        let now = self.live.world.clock.now();
        let uses = self.cache.policy.min_uses.as_ref();
        if uses.is_some_and(|uses| !uses.reached(&self.seen.key, variance, now)) {
            let facts = CacheFacts::new(CacheOutcome::Miss).why(TOO_FEW);
            if self.head.method != Method::HEAD {
                return (facts, Decision::GoesOn(None));
            }
            // As one that fills the cache, it asks with GET.
            let flow = self.flow(None, variance);
            let flow = Flow {
                not_stored: Some(TOO_FEW),
                is_pass: true,
                ..*flow
            };
            return (facts, Decision::GoesOn(Some(Box::new(flow))));
        }
        let facts = CacheFacts::new(CacheOutcome::Miss).why(why);
        let flow = self.flow(None, variance);
        (facts, Decision::GoesOn(Some(flow)))
    }

    fn decide(mut self, lookup: Lookup) -> CacheDecision {
        if let Some(bad) = self.bad_image() {
            return refuse_image(bad);
        }
        let Some(mut entry) = lookup.entry else {
            return self.decide_miss(lookup.vary);
        };
        if !self.seen.personal.may_read(&entry) {
            if self.seen.wants.only_if_cached {
                return only_if_cached();
            }
            return bypass(if self.seen.personal.has_identity {
                "authorization"
            } else {
                "certificate"
            });
        }
        self.hear_client();
        entry = lookup
            .complete
            .filter(|it| self.is_served_meanwhile(it))
            .unwrap_or(entry);
        let lifetime = entry.lifetime();
        let age = lifetime.age(self.now);
        // An action changes no image.
        let ago = changed::ago(self.head, self.now).filter(|_| !self.is_image());
        let is_heard = || {
            let now = self.live.world.clock.now();
            self.cache.policy.after_changes.hears(self.client, now)
        };
        let changed = ago.filter(|ago| age >= *ago && is_heard());
        if changed.is_some() {
            self.seen.wants.max_age = changed;
        }
        let facts = |outcome| CacheFacts {
            ttl: Some(lifetime.ttl(age)),
            age: Some(age),
            ..CacheFacts::new(outcome)
        };
        // The exchange cuts ranges and reads responses that are still being stored.
        let is_plain = !self.seen.is_range && entry.is_complete();
        let usable = self.cache.usable(&lifetime, &self.seen.wants, self.now);
        let why = match usable {
            Usability::Fresh if is_plain => {
                return (facts(CacheOutcome::Hit), Decision::Stored(entry, None));
            }
            Usability::StaleAsAsked if is_plain => {
                return (facts(CacheOutcome::Stale), Decision::Stored(entry, None));
            }
            Usability::StaleWhileRevalidate if is_plain && !self.seen.personal.is_known() => {
                let facts = facts(CacheOutcome::Stale);
                let variance = Some(entry.variance());
                let flow = self.flow(Some(Arc::clone(&entry)), variance);
                return (facts, Decision::Stored(entry, Some(flow)));
            }
            Usability::GatewayTimeout => return only_if_cached(),
            _ if lifetime.is_fresh(self.now) => "request",
            _ => "stale",
        };
        let facts = CacheFacts::new(CacheOutcome::Expired).why(why);
        let variance = Some(entry.variance());
        let mut flow = self.flow(Some(entry), variance);
        flow.has_changed = changed.is_some();
        (facts, Decision::GoesOn(Some(flow)))
    }

    /// Returns true if a complete response that is stale is sent while another one arrives, which
    /// may take long or break off.
    fn is_served_meanwhile(&self, complete: &Entry) -> bool {
        let lifetime = complete.lifetime();
        let usable = self.cache.usable(&lifetime, &self.seen.wants, self.now);
        // What replaces a fresh response, after `no-cache` for example, is for others too (RFC 9111,
        // 5.2.1.4), and the exchange cuts ranges, of what arrives too.
        usable == Usability::StaleWhileRevalidate
            && !self.seen.is_range
            && self.seen.personal.may_read(complete)
            && changed::ago(self.head, self.now).is_none()
    }

    fn store(&self) -> &'static Store {
        self.cache.cache.store()
    }

    /// Creates the flow for a request that goes to the origin.
    fn flow(self, stored: Option<Arc<Entry>>, variance: Option<Variance>) -> Box<Flow> {
        let mark = self.store().mark();
        let shape = self.seen.shape.as_ref();
        let passes = self.seen.personal.is_shared_by_mistake()
            || !shape.is_none_or(RequestShape::may_fill)
            || self.seen.wants.no_store
            || self.seen.is_renewing;
        let is_unstorable = (!passes || self.is_image()) && self.is_pass(variance);
        let Self { seen, sent, .. } = self;
        Box::new(Flow {
            headers: Arc::new(self.head.headers.clone()),
            sent,
            came: self.now,
            asked: self.now,
            mark,
            stored,
            variance,
            confirmed: None,
            for_the_first: HeaderMap::new(),
            is_pass: passes || is_unstorable,
            is_unstorable,
            is_renewing: seen.is_renewing,
            not_stored: seen.is_not_stored.then_some(BY_VALUE),
            is_background: false,
            has_changed: false,
            is_out_of_date: false,
            follow_ups: 0,
            key: seen.key,
            wants: seen.wants,
            personal: seen.personal,
            shape: seen.shape,
        })
    }
}
