//! Requests for the same response wait for the first of them: what they do with a response that
//! another one stores, and with one that may not be used any more.

use std::sync::Arc;

use edgeway_cache::{
    budget::RenderPermit,
    policy::{self, SentHeaders, Usability},
    store::{Entry, Lookup, Reader},
};
use edgeway_core::chain::CacheOutcome;
use edgeway_gateway::RouteCache;
use pingora::{Error, ErrorSource, ErrorType, http::RequestHeader};
use pingora_cache::{
    CacheKey,
    lock::{CacheKeyLockImpl, LockStatus, Locked, ReadLock, WritePermit},
};
use tokio::time::{Instant, timeout};

use crate::{
    context::{self, Context, Flow},
    forward,
};

/// Bound on how often a request waits for another one that then stored nothing it may use.
const MAX_WAITS: usize = 16;

/// Use that a request has for a response that was found in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundUse {
    None,
    /// Validated first, or sent if the origin fails.
    Stale,
    /// Sent as it is.
    Whole,
}

/// Finds the use of `entry`, which was found in the store.
pub(super) fn use_found(entry: &Arc<Entry>, ctx: &mut Context) -> FoundUse {
    let now = ctx.live().world.clock.wall();
    let (Some(flow), Some(cache)) = (&ctx.cache, context::cache(&ctx.gateway, ctx.route)) else {
        return FoundUse::None;
    };
    if flow.is_renewing || !flow.personal.may_read(entry) {
        return FoundUse::None;
    }
    let lifetime = entry.lifetime();
    // A response that arrived after the request is also a valid response to it.
    let is_ours = lifetime.response_time >= flow.came && !lifetime.always_validate;
    let is_usable = match cache.usable(&lifetime, &flow.wants, now) {
        Usability::Fresh | Usability::StaleAsAsked => true,
        Usability::StaleWhileRevalidate => !flow.is_background && flow.stored.is_none(),
        Usability::Validate | Usability::GatewayTimeout => is_ours && lifetime.is_fresh(now),
    };
    let is_new = flow
        .stored
        .as_ref()
        .is_none_or(|stored| !Arc::ptr_eq(stored, entry));
    if !is_usable {
        if let Some(facts) = ctx.facts.cache.as_mut()
            && is_new
        {
            facts.outcome = CacheOutcome::Expired;
        }
        return FoundUse::Stale;
    }
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
        let age = lifetime.age(now);
        (facts.ttl, facts.age) = (Some(lifetime.ttl(age)), Some(age));
    }
    FoundUse::Whole
}

/// Returns true if `entry`, which is stale, is sent in place of the failure `error`.
pub(crate) fn replaces_failure(entry: &Arc<Entry>, error: &Error, ctx: &mut Context) -> bool {
    let Some(flow) = &ctx.cache else {
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
    let lifetime = entry.lifetime();
    if !policy::after_error(&lifetime, &flow.wants, now) {
        return false;
    }
    if let Some(facts) = ctx.facts.cache.as_mut() {
        facts.outcome = CacheOutcome::Stale;
        facts.is_stored = false;
        facts.why = Some("origin-failed");
        facts.origin_status = ctx.facts.upstream.status;
        let age = lifetime.age(now);
        (facts.ttl, facts.age) = (Some(lifetime.ttl(age)), Some(age));
    }
    if let Some(flow) = ctx.cache.as_mut() {
        // They came with the broken response.
        flow.for_the_first.clear();
    }
    ctx.reply = None;
    true
}

/// Next step of a request that the cache may serve or store.
pub(crate) enum CacheStep {
    /// A stored response, or one that another request is storing, and a reader of its body.
    Send(Arc<Entry>, Reader),
    Fetch(Fetch),
}

/// Request to the origin whose response may be stored.
#[derive(Default)]
pub(crate) struct Fetch {
    /// True if the response may be stored.
    pub is_storing: bool,
    turn: Option<FetchTurn>,
    /// Stored response that is validated, or sent if the origin fails.
    pub stale: Option<Arc<Entry>>,
    /// Complete stored response behind a `stale` one that is still arriving and may break off.
    pub(super) older: Option<Arc<Entry>>,
    /// True if the origin is asked for the whole response, whatever is stored.
    pub(super) is_unconditional: bool,
}

impl Fetch {
    /// Returns the stored response that the request to the origin is conditional on.
    pub(crate) fn validated(&self) -> Option<&Entry> {
        self.stale.as_deref().filter(|_| !self.is_unconditional)
    }

    /// Returns a stored response to send if the origin fails, with a reader of its body. One that
    /// was still arriving may be gone.
    pub(crate) fn substitute(&self) -> Option<(&Arc<Entry>, Reader)> {
        let mut stored = [&self.stale, &self.older].into_iter().flatten();
        stored.find_map(|entry| Some((entry, entry.body.reader()?)))
    }

    /// Lets the requests that wait go on: the response is there for them, or never will be.
    pub(crate) fn release(&mut self, is_stored: bool) {
        if let Some(turn) = self.turn.take() {
            turn.end(if is_stored {
                LockStatus::Done
            } else {
                LockStatus::GiveUp
            });
        }
    }

    /// Ends the storing of a response that turned out to be none for the cache.
    pub(crate) fn give_up(&mut self) {
        self.is_storing = false;
        (self.stale, self.older) = (None, None);
        self.release(false);
    }
}

/// Turn of one request to ask the origin. If it is dropped, the next of those that wait gets it.
struct FetchTurn {
    key: CacheKey,
    permit: Option<WritePermit>,
    lock: &'static CacheKeyLockImpl,
}

impl FetchTurn {
    fn end(mut self, status: LockStatus) {
        if let Some(permit) = self.permit.take() {
            self.lock.release(&self.key, permit, status);
        }
    }
}

impl Drop for FetchTurn {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let status = LockStatus::TransientError;
            self.lock.release(&self.key, permit, status);
        }
    }
}

/// Looks for a response again and waits for other requests that fetch it, for a `request` that found
/// none at its arrival.
pub(crate) async fn begin(request: &RequestHeader, ctx: &mut Context) -> CacheStep {
    let gateway = Arc::clone(&ctx.gateway);
    let Some(cache) = context::cache(&gateway, ctx.route) else {
        return CacheStep::Fetch(Fetch::default());
    };
    let mut left = cache.policy.wait;
    let mut fetch = Fetch::default();
    for _ in 0..MAX_WAITS {
        fetch = match look(request, ctx, cache) {
            CacheStep::Fetch(fetch) => fetch,
            usable @ CacheStep::Send(..) => return usable,
        };
        let Some(key) = ctx.cache.as_deref().and_then(Flow::lock_key) else {
            break;
        };
        let lock = cache.cache.lock();
        let other = match lock.lock(&key, fetch.stale.is_some()) {
            Locked::Write(permit) => {
                let turn = FetchTurn {
                    key,
                    permit: Some(permit),
                    lock,
                };
                // Another request may have stored its response since.
                return match look(request, ctx, cache) {
                    CacheStep::Fetch(fetch) => CacheStep::Fetch(Fetch {
                        turn: Some(turn),
                        ..fetch
                    }),
                    usable @ CacheStep::Send(..) => {
                        turn.end(LockStatus::Done);
                        usable
                    }
                };
            }
            Locked::Read(other) => other,
        };
        // Until its turn, it stores nothing.
        fetch.is_storing = false;
        let began = Instant::now();
        if !may_look_again(&other, left).await {
            break;
        }
        left = left.saturating_sub(began.elapsed());
        see_if_passed(ctx, cache);
    }
    CacheStep::Fetch(fetch)
}

/// Looks for a response to `request`. Returns the request to the origin if there is none that may be
/// sent.
fn look(request: &RequestHeader, ctx: &mut Context, cache: &RouteCache) -> CacheStep {
    let Lookup {
        entry, complete, ..
    } = find(request, ctx, cache);
    let mut fetch = Fetch {
        is_storing: true,
        ..Fetch::default()
    };
    if let Some(entry) = entry
        // Attached at once: the response may still arrive, and be stored no longer by the time that
        // its body is wanted.
        && let Some(reader) = entry.body.reader()
    {
        match use_found(&entry, ctx) {
            FoundUse::Whole => return CacheStep::Send(entry, reader),
            FoundUse::Stale => {
                let flow = ctx.cache.as_ref();
                let may_read = |it: &Arc<Entry>| flow.is_some_and(|f| f.personal.may_read(it));
                fetch.older = complete.filter(may_read);
                fetch.stale = Some(entry);
            }
            FoundUse::None => {}
        }
    }
    CacheStep::Fetch(fetch)
}

impl Flow {
    /// Returns the key by which similar requests wait for this one; `None` if none does. Those for
    /// different variants do not wait for one another.
    fn lock_key(&self) -> Option<CacheKey> {
        if self.is_pass {
            return None;
        }
        let mut key = CacheKey::new(self.key.as_bytes(), String::new());
        let variant = self
            .variance
            .map_or(0, |variance| variance.0.rotate_left(1));
        key.set_primary_bin_override((self.key.hash() ^ variant).to_be_bytes());
        Some(key)
    }

    /// Returns the headers by which a stored response is selected.
    fn sent<'h>(&'h self, cache: &'h RouteCache) -> SentHeaders<'h> {
        match &self.sent {
            Some(sent) => SentHeaders::whole(sent),
            None => SentHeaders::of_client(&self.headers, &cache.unchanged),
        }
    }
}

/// Waits for the `other` request. Returns true if its response may be in the store then, or if this
/// request may ask the origin in its place.
async fn may_look_again(other: &ReadLock, max: std::time::Duration) -> bool {
    if timeout(max, other.wait()).await.is_err() {
        log::debug!("waited too long for a similar request");
        return false;
    }
    other.lock_status() != LockStatus::GiveUp
}

/// Lets the request wait no longer if the response that it waited for is of no use to others.
fn see_if_passed(ctx: &mut Context, cache: &RouteCache) {
    let now = ctx.live().world.clock.now();
    if let Some(flow) = &mut ctx.cache {
        let passes = cache.cache.passes();
        flow.is_pass |= passes.contains(&flow.key, flow.variance, &flow.headers, now);
    }
}

/// Looks the request up in the store. The flow gets the variant that it selects by what is stored
/// now: requests for different ones do not wait for one another.
fn find(request: &RequestHeader, ctx: &mut Context, cache: &RouteCache) -> Lookup {
    // Taken out, because the headers sent to the origin are built from the whole context.
    let Some(mut flow) = ctx.cache.take() else {
        return Lookup::default();
    };
    let store = cache.cache.store();
    let mut lookup = store.find(&flow.key, flow.sent(cache));
    let is_variant_unknown = |flow: &Flow, lookup: &Lookup| {
        let vary = lookup.vary.as_ref();
        lookup.is_unclear || vary.is_some_and(|vary| flow.sent(cache).variance(vary).is_none())
    };
    if flow.sent.is_none() && is_variant_unknown(&flow, &lookup) {
        flow.sent = forward::sent_headers(request, ctx).map(Arc::new);
        lookup = store.find(&flow.key, flow.sent(cache));
    }
    if let Some(vary) = &lookup.vary {
        flow.variance = match &lookup.entry {
            Some(entry) => Some(entry.variance()),
            None => flow.sent(cache).variance(vary),
        };
        // A variant that is not known is nobody else's.
        flow.is_pass |= flow.variance.is_none();
    }
    ctx.cache = Some(flow);
    lookup
}
