//! The first door: a request is answered from the store, if that may be.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderValue, Method, StatusCode, header};
use pingora::{Result, http::RequestHeader};
use pingora_proxy::Session;

use super::{Flow, answer, background};
use crate::{
    cache::{
        budget::{Busy, By},
        key::Key,
        metrics::Revalidation,
        nextjs::{self, RequestShape},
        policy::{self, Use, Wants},
        route::Personal,
        store::{Entry, Store},
    },
    chain::{CacheFacts, CacheOutcome, Exchange, KeyBuilder, Phase, Reply},
    gateway::{Fetching, RouteCache},
    proxy::context::{self, Context},
    routes::Target,
    runtime::live::Live,
};

/// Which of the headers are there that the cache looks at. One pass costs less than looking
/// each of them up.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is the presence of a header"
)]
struct Seen {
    /// The client asks for more than its copy to be confirmed. The origin knows.
    has_precondition: bool,
    has_wants: bool,
    is_personal: bool,
    is_range: bool,
}

impl Seen {
    fn of(head: &RequestHeader) -> Self {
        let mut seen = Self::default();
        for name in head.headers.keys() {
            match *name {
                header::IF_MATCH | header::IF_UNMODIFIED_SINCE => seen.has_precondition = true,
                header::CACHE_CONTROL | header::PRAGMA => seen.has_wants = true,
                header::AUTHORIZATION | header::COOKIE => seen.is_personal = true,
                header::RANGE => seen.is_range = true,
                _ => {}
            }
        }
        seen
    }
}

/// What became of a request at the first door.
pub(in crate::proxy) enum Asked {
    /// It was answered.
    Answered,
    /// This is the answer.
    Reply(Box<Reply>),
    /// It goes on: with a [`Flow`] in the context, through the cache's phases.
    GoesOn,
}

/// What the request may be answered with.
enum Decision {
    Serve(Arc<Entry>, CacheFacts),
    /// The same, and a new one is fetched meanwhile.
    ServeAndRefresh(Arc<Entry>, CacheFacts, Box<Flow>),
    OnlyIfCached,
    /// The app would refuse this picture in these words.
    BadImage(String),
    Fetch(Box<Flow>, CacheFacts),
    Past(CacheFacts),
}

/// Answers from the store, or prepares the way to the origin.
pub(in crate::proxy) async fn ask(session: &mut Session, ctx: &mut Context) -> Result<Asked> {
    if ctx.is_websocket {
        return Ok(Asked::GoesOn);
    }
    let gateway = Arc::clone(&ctx.gateway);
    let Some(route) = context::route(&gateway, ctx.route) else {
        return Ok(Asked::GoesOn);
    };
    let Some(cache) = &route.cache else {
        return Ok(Asked::GoesOn);
    };
    match decide(session, ctx, cache) {
        Decision::Serve(entry, facts) => {
            ctx.facts.cache = Some(facts);
            answer::send(session, ctx, cache, &entry).await?;
            Ok(Asked::Answered)
        }
        Decision::ServeAndRefresh(entry, facts, flow) => {
            let fetching = fetching(ctx, cache);
            let by = if is_crawler(session, fetching) {
                By::Crawler
            } else {
                By::Person
            };
            match fetching.map(|fetching| fetching.budget.revalidate(by)) {
                Some(None) => cache.metrics.revalidation(Revalidation::Postponed),
                permit => {
                    background::begin(session, ctx, cache, *flow, &entry, permit.flatten());
                }
            }
            ctx.facts.cache = Some(facts);
            answer::send(session, ctx, cache, &entry).await?;
            Ok(Asked::Answered)
        }
        Decision::OnlyIfCached => {
            ctx.facts.cache = Some(CacheFacts::new(CacheOutcome::Miss).why("only-if-cached"));
            let reply = Reply::refuse(StatusCode::GATEWAY_TIMEOUT, "only_if_cached")
                .detail("Nothing that may be used is stored, and you asked for nothing else.");
            Ok(Asked::Reply(Box::new(reply)))
        }
        Decision::BadImage(said) => {
            ctx.facts.cache = Some(CacheFacts::new(CacheOutcome::Bypass).why("image"));
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let reply = Reply::bytes(StatusCode::BAD_REQUEST, text, said);
            Ok(Asked::Reply(Box::new(reply)))
        }
        Decision::Fetch(flow, facts) => {
            ctx.facts.cache = Some(facts);
            if let Err(busy) = place(session, ctx, cache).await {
                let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, busy.reason())
                    .retry_after(busy.retry_after)
                    .detail("This page is being made for others first. Please come back.");
                return Ok(Asked::Reply(Box::new(reply)));
            }
            ctx.cache = Some(flow);
            Ok(Asked::GoesOn)
        }
        Decision::Past(facts) => {
            ctx.facts.cache = Some(facts);
            Ok(Asked::GoesOn)
        }
    }
}

fn fetching<'c>(ctx: &Context, cache: &'c RouteCache) -> Option<&'c Fetching> {
    cache.upstream(&ctx.upstream.as_ref()?.name)
}

fn is_crawler(session: &Session, fetching: Option<&Fetching>) -> bool {
    let crawlers = fetching.and_then(|fetching| fetching.crawlers.as_ref());
    let user_agent = session.req_header().headers.get(header::USER_AGENT);
    crawlers
        .zip(user_agent)
        .is_some_and(|(crawlers, user_agent)| crawlers.is(user_agent))
}

/// A place at the origin, held until the answer is over: at once for people, in the queue
/// for crawlers.
async fn place(
    session: &Session,
    ctx: &mut Context,
    cache: &RouteCache,
) -> std::result::Result<(), Busy> {
    let Some(fetching) = fetching(ctx, cache) else {
        return Ok(());
    };
    let permit = if is_crawler(session, Some(fetching)) {
        fetching.budget.crawl().await?
    } else {
        fetching.budget.person()
    };
    ctx.facts.put(permit);
    Ok(())
}

/// A request that the store is for.
struct Recognised<'a> {
    head: &'a RequestHeader,
    cache: &'a RouteCache,
    live: &'a Live,
    key: Key,
    shape: Option<RequestShape>,
    personal: Personal,
    wants: Wants,
    is_range: bool,
    now: SystemTime,
}

fn decide(session: &Session, ctx: &mut Context, cache: &RouteCache) -> Decision {
    let live = Arc::clone(ctx.live());
    match recognise(session, ctx, cache, &live) {
        Ok(recognised) => recognised.decide(),
        Err(why) => past(why),
    }
}

fn past(why: &'static str) -> Decision {
    Decision::Past(CacheFacts::new(CacheOutcome::Bypass).why(why))
}

/// What of the request the cache goes by; or why it goes past.
fn recognise<'a>(
    session: &'a Session,
    ctx: &mut Context,
    cache: &'a RouteCache,
    live: &'a Live,
) -> std::result::Result<Recognised<'a>, &'static str> {
    let head = session.req_header();
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err("method");
    }
    let policy = &cache.policy;
    let mut parts = KeyBuilder::default();
    let mut shape = None;
    if let Some(upstream) = &ctx.upstream {
        parts.part("upstream", upstream.name.as_bytes());
        let fetching = cache.upstream(&upstream.name);
        if let Some(rules) = fetching.and_then(|fetching| fetching.nextjs.as_ref()) {
            let target = Target::new("", head.raw_path());
            let (path, query) = (target.path, target.query);
            let shape = shape.insert(nextjs::shape(
                &head.method,
                path,
                query,
                &head.headers,
                rules,
            ));
            if let Some(why) = shape.bypass() {
                return Err(why);
            }
            shape.key_parts(&mut parts);
        }
    }
    let chain = context::chain(&ctx.gateway, ctx.route);
    let ex = Exchange {
        head,
        facts: &mut ctx.facts,
    };
    if policy.bypass(&ex).is_some() {
        return Err("route");
    }
    let seen = Seen::of(head);
    if seen.has_precondition {
        return Err("precondition");
    }
    if chain.has(Phase::CacheKey) {
        chain.on_cache_key(&ex, &mut parts);
    }
    Ok(Recognised {
        key: policy.key.key(&ex, parts),
        personal: if seen.is_personal {
            policy.personal(&head.headers)
        } else {
            Personal::No
        },
        wants: if seen.has_wants && policy.obeys_clients {
            Wants::of(&head.headers)
        } else {
            Wants::default()
        },
        is_range: seen.is_range,
        now: live.world.clock.wall(),
        head,
        cache,
        live,
        shape,
    })
}

impl Recognised<'_> {
    fn decide(self) -> Decision {
        let bad_image = self.shape.as_ref().and_then(RequestShape::bad_image);
        if let Some(bad) = bad_image {
            return Decision::BadImage(bad.to_string());
        }
        let found = self.store().find(&self.key, &self.head.headers);
        let Some(entry) = found.entry else {
            if self.wants.only_if_cached {
                return Decision::OnlyIfCached;
            }
            if self.is_range {
                // The part that the client wants is not worth the whole.
                return past("range");
            }
            let why = match found.vary {
                Some(_) => "vary-miss",
                None => "uri-miss",
            };
            let facts = CacheFacts::new(CacheOutcome::Miss).why(why);
            return Decision::Fetch(self.flow(None), facts);
        };
        let is_for_client = self.personal != Personal::Authorization
            || policy::allows_authorization(&entry.headers);
        if !is_for_client {
            return past("authorization");
        }
        let lifetime = entry.lifetime();
        let facts = |outcome| CacheFacts {
            ttl: Some(lifetime.ttl(self.now)),
            age: Some(lifetime.age(self.now)),
            ..CacheFacts::new(outcome)
        };
        // Ranges are cut, and what is still coming in is read, by Pingora's phases.
        let is_plain = !self.is_range && entry.is_whole();
        let usable = if self.cache.cache.must_validate(&lifetime) {
            Use::Validate
        } else {
            policy::judge(&lifetime, &self.wants, self.now)
        };
        let why = match usable {
            Use::Fresh if is_plain => return Decision::Serve(entry, facts(CacheOutcome::Hit)),
            Use::StaleAsAsked if is_plain => {
                return Decision::Serve(entry, facts(CacheOutcome::Stale));
            }
            Use::StaleWhileRevalidate if is_plain => {
                let facts = facts(CacheOutcome::Stale);
                let flow = self.flow(Some(Arc::clone(&entry)));
                return Decision::ServeAndRefresh(entry, facts, flow);
            }
            Use::GatewayTimeout => return Decision::OnlyIfCached,
            _ if lifetime.is_fresh(self.now) => "request",
            _ => "stale",
        };
        let facts = CacheFacts::new(CacheOutcome::Expired).why(why);
        Decision::Fetch(self.flow(Some(entry)), facts)
    }

    fn store(&self) -> &'static Store {
        self.cache.cache.store()
    }

    /// On to the origin.
    fn flow(self, found: Option<Arc<Entry>>) -> Box<Flow> {
        let policy = &self.cache.policy;
        let may_fill = self.shape.as_ref().is_none_or(RequestShape::may_fill);
        let now = self.live.world.clock.now();
        let is_pass = self.personal != Personal::No
            || !may_fill
            || self.cache.cache.passes().contains(&self.key, now);
        let rules = match self.shape {
            Some(_) => &policy.nextjs,
            None => &policy.plain,
        };
        Box::new(Flow {
            rules: rules.clone(),
            headers: Arc::new(self.head.headers.clone()),
            came: self.now,
            asked: self.now,
            mark: self.store().mark(),
            found,
            confirmed: None,
            is_pass,
            is_background: false,
            key: self.key,
            wants: self.wants,
            personal: self.personal,
            shape: self.shape,
        })
    }
}
