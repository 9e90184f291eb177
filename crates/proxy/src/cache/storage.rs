//! Decision whether the response of an origin is stored.

use std::sync::Arc;

use edgeway_cache::{
    budget::RenderPermit,
    nextjs::{self, RequestShape},
    policy::{self, ExchangeTimes, Lifetime, NotStorable, Variance, Vary},
    route::{self, TAGS},
    store::{Entry, EntryDraft, EntryRules, Refresh},
    unusual_request::unusual_headers,
};
use edgeway_core::chain::{CacheOutcome, RequestFacts};
use edgeway_core_filters::plugins::FailedResponseHook;
use edgeway_gateway::RouteCache;
use edgeway_routes::{Params, Target};
use http::{HeaderMap, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

use super::flow::{BY_VALUE, COOKIES, PLUGIN_FAILED, TOO_FEW};
use crate::context::{self, Context, Flow};

/// Response that is stored.
pub(super) enum StorageDecision {
    New(Box<EntryDraft>),
    /// Stored response that a 304 confirms, with new headers.
    Refreshed(Box<Refresh>),
}

impl StorageDecision {
    fn lifetime(&self) -> &Lifetime {
        match self {
            Self::New(draft) => &draft.lifetime,
            Self::Refreshed(refresh) => &refresh.lifetime,
        }
    }

    /// Returns the response headers for the client whose request this is.
    pub(super) fn response(&self) -> Result<ResponseHeader> {
        let (status, headers) = match self {
            Self::New(draft) => (draft.status, &draft.headers),
            Self::Refreshed(refresh) => (refresh.old.status, &refresh.headers),
        };
        response(status, headers, self.lifetime())
    }
}

/// Returns the headers of a response that was just received.
pub(super) fn response(
    status: StatusCode,
    headers: &HeaderMap,
    lifetime: &Lifetime,
) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build_no_case(status, Some(headers.len()))?;
    for (name, value) in headers {
        response.append_header(name, value)?;
    }
    let age = lifetime.initial_age.as_secs();
    if age > 0 {
        // This response was already this old on arrival.
        response.insert_header(header::AGE, age)?;
    }
    Ok(response)
}

/// Decides if the `response` of the origin to `request` is stored, or returns the reason why not.
/// `stored` is the response that a 304 is about.
pub(super) fn decide(
    request: &RequestHeader,
    response: &ResponseHeader,
    stored: Option<Arc<Entry>>,
    ctx: &mut Context,
) -> std::result::Result<StorageDecision, &'static str> {
    let gateway = Arc::clone(&ctx.gateway);
    let cache = context::cache(&gateway, ctx.route);
    // Taken out, because the headers sent to the origin are built from the whole context.
    let (Some(mut flow), Some(cache)) = (ctx.cache.take(), cache) else {
        // Requests without a flow do not get here.
        return Err(NotStorable::RequestNoStore.reason());
    };
    let decided = judge(request, response, stored, ctx, (&mut *flow, cache));
    ctx.cache = Some(flow);
    decided
}

fn judge(
    request: &RequestHeader,
    head: &ResponseHeader,
    stored: Option<Arc<Entry>>,
    ctx: &mut Context,
    (flow, cache): (&mut Flow, &RouteCache),
) -> std::result::Result<StorageDecision, &'static str> {
    let live = Arc::clone(ctx.live());
    let confirmed = flow.confirmed.take();
    let old = stored.filter(|_| confirmed.is_some());
    let (status, mut headers) = match (&old, &confirmed) {
        (Some(old), Some(confirmed)) => (old.status, merged(old, confirmed)),
        _ => (head.status, head.headers.clone()),
    };
    let times = ExchangeTimes {
        request_time: flow.asked,
        response_time: live.world.clock.wall(),
    };
    let decided = match (&old, &confirmed) {
        // The 304 was about another response: the stored one stays as it is and is validated again
        // on the next request.
        (Some(old), Some(confirmed)) if !policy::updates(&old.headers(), confirmed) => {
            headers = old.headers();
            Ok(old.lifetime())
        }
        _ if ctx.is_at_other_release() => Err("release"),
        _ if ctx.facts.slot::<FailedResponseHook>().is_some() => Err(PLUGIN_FAILED),
        _ => flow.lifetime(status, &headers, times, cache),
    };
    let judged = decided.and_then(|lifetime| {
        let variant = flow.variant(request, &headers, ctx, cache)?;
        let tags = match &old {
            // The stored response keeps its tags, and a purge by another one would not find it.
            Some(old) => match &confirmed {
                Some(confirmed) if has_other_tags(confirmed, old)? => return Err("tags"),
                _ => Box::default(),
            },
            None => tags(request, &ctx.params, cache, flow.shape.as_ref(), &headers)?,
        };
        Ok((lifetime, variant, tags))
    });
    // Cookies of a 304 are for the client of its request, as those of a 200.
    flow.for_the_first = HeaderMap::new();
    if let Some(confirmed) = &confirmed {
        policy::cookies_for_the_first(confirmed, &mut flow.for_the_first);
    }
    let facts = &mut ctx.facts;
    let (lifetime, variant, tags) = match judged {
        Ok(decided) => decided,
        Err(why) => {
            not_stored(why, old.is_some(), facts);
            // A 304 with the stale mark of Next.js leaves the stored response as it was: stale. So
            // does a response for the client alone whose action has changed the page.
            flow.is_out_of_date =
                why == nextjs::STALE_AT_ORIGIN || why == COOKIES && flow.has_changed;
            if !flow.is_out_of_date {
                flow.settle_refused(cache, why, status, live.world.clock.now());
            }
            return Err(why);
        }
    };
    let is_never_fresh = lifetime.always_validate || lifetime.fresh_for <= lifetime.initial_age;
    if is_never_fresh && !is_error(status) {
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
        route: Arc::clone(&cache.stored),
        tags,
        is_compressible: false,
    };
    flow.keep_for_the_first(cache, &headers);
    policy::clean(&mut headers);
    policy::date(&mut headers, times.response_time);
    let response = OriginResponse {
        status,
        headers,
        lifetime,
        variant,
    };
    Ok(response.store(flow, cache, about, old))
}

/// Records that a response is not stored. `is_confirmed` is true if a stored one is sent again.
fn not_stored(why: &'static str, is_confirmed: bool, facts: &mut RequestFacts) {
    uncacheable(why, facts);
    let permit = facts.slot::<RenderPermit>();
    if permit.is_some_and(RenderPermit::is_persons) {
        // A stream, for example, is not a page that a person waits for.
        drop(facts.take::<RenderPermit>());
    }
    if is_confirmed && let Some(cached) = &mut facts.cache {
        cached.outcome = CacheOutcome::Revalidated;
    }
}

/// Returns the headers of `old` after a 304 with the headers `confirmed`.
pub(super) fn merged(old: &Entry, confirmed: &HeaderMap) -> HeaderMap {
    let mut merged = old.headers();
    policy::merge(&mut merged, confirmed);
    merged
}

/// Returns true if a 304 has a tag that the stored response lacks.
fn has_other_tags(confirmed: &HeaderMap, old: &Entry) -> std::result::Result<bool, &'static str> {
    let tags = route::tags_of(confirmed)?;
    Ok(tags.iter().any(|tag| !old.tags().contains(tag)))
}

/// Returns true for an error. It does not predict the next response, so it does not end collapsing.
fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

impl Flow {
    /// Keeps the headers that are not stored, for the client whose request this is.
    fn keep_for_the_first(&mut self, cache: &RouteCache, headers: &HeaderMap) {
        for (name, value) in &policy::for_the_first(headers) {
            self.for_the_first.append(name, value.clone());
        }
        if cache.rules(self.shape.as_ref()).ignored.set_cookie {
            policy::cookies_for_the_first(headers, &mut self.for_the_first);
        }
    }

    /// Ends what depends on a response with this `status` that is not stored: the wait of similar
    /// requests, or a stored response that it replaces.
    fn settle_refused(
        &self,
        cache: &RouteCache,
        why: &'static str,
        status: StatusCode,
        now: std::time::Instant,
    ) {
        // A refusal for one client does not show what other clients may get.
        let is_for_others = self.is_for_others() || self.is_background;
        let no_store = NotStorable::RequestNoStore.reason();
        let of_request = [no_store, BY_VALUE, COOKIES, PLUGIN_FAILED, TOO_FEW];
        if !is_for_others || of_request.contains(&why) {
            return;
        }
        if self.stored.is_none() {
            if !is_error(status) {
                self.pass(cache, now);
            }
        } else if (status.is_success()
            || status.is_redirection()
            || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE))
            // The origin may have selected its response by one of these.
            && unusual_headers(&self.headers).next().is_none()
        {
            // The origin now has a different response that must not be stored: the stored one is
            // out of date, no matter how much of its windows is left.
            cache.cache.remove(&self.key);
        }
    }
}

/// Response that may be stored.
struct OriginResponse {
    status: StatusCode,
    headers: HeaderMap,
    lifetime: Lifetime,
    variant: (Vary, Variance),
}

impl OriginResponse {
    /// Returns what the store gets: a new response, or new headers for `old`.
    fn store(
        self,
        flow: &Flow,
        cache: &RouteCache,
        mut about: EntryRules,
        old: Option<Arc<Entry>>,
    ) -> StorageDecision {
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
        match old {
            Some(old) => StorageDecision::Refreshed(Box::new(Refresh {
                old,
                headers,
                lifetime,
                vary,
                variance,
                mark,
            })),
            None => StorageDecision::New(Box::new(EntryDraft {
                key: flow.key.clone(),
                status,
                headers,
                lifetime,
                vary,
                variance,
                about,
                mark,
            })),
        }
    }
}

fn uncacheable(why: &'static str, facts: &mut RequestFacts) {
    if let Some(facts) = &mut facts.cache {
        facts.is_stored = false;
        facts.why = Some(why);
    }
}

/// Returns the tags of the route, of the request's shape and of the origin, or an error if there are
/// too many.
fn tags(
    request: &RequestHeader,
    params: &Params,
    cache: &RouteCache,
    shape: Option<&RequestShape>,
    headers: &HeaderMap,
) -> std::result::Result<Box<[Box<str>]>, &'static str> {
    let target = Target::new("", request.raw_path());
    let configured = cache
        .tags
        .iter()
        .map(|tag| tag.render(|slot| params.get(*slot, target.path)));
    let mut tags = route::tags_of(headers)?;
    tags.extend(configured.map(String::into_boxed_str));
    tags.extend(shape.and_then(RequestShape::tag).map(Box::from));
    tags.sort_unstable();
    tags.dedup();
    Ok(tags.into())
}
