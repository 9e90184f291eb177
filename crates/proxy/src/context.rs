//! State that is carried through the hooks of one request.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use edgeway_core::chain::{
    Chain, Exchange, HookProgress, Reply, RequestFacts, RouteRequest, UpstreamFacts,
};
use edgeway_filters::{access_log::Redactor, error_pages::ErrorPages};
use edgeway_gateway::{Gateway, Route, RouteCache, metrics::RouteMetrics};
use edgeway_routes::Params;
use edgeway_upstreams::{BackendId, Lease, Timeouts, TrialRequest, Upstream};
use http::Method;
use pingora::http::RequestHeader;

use super::{
    accel::AccelRedirect, body::EarlyBody, cache::Flow, decision::Decision, error::Failure,
    guard::GuardedRequest,
};
use crate::{
    connection::{Connection, deadline::Watch},
    live::Live,
};

/// Route of a request, and the form of its filter chain.
#[derive(Clone, Copy)]
pub(super) struct RoutePlacement {
    route: usize,
    /// True if the route has a filter that does not apply to this request.
    is_short: bool,
}

/// State of one request. Boxed, because it is moved around.
pub(super) struct Context {
    /// Configuration that was active when the request began. The request sees no other.
    pub(super) gateway: Arc<Gateway>,
    pub(super) route: Option<RoutePlacement>,
    pub(super) params: Params,
    pub(super) facts: RequestFacts,
    pub(super) connection: Option<Arc<Connection>>,
    /// Deadlines of this request.
    pub(super) watch: Option<Arc<Watch>>,
    pub(super) upstream: Option<Arc<Upstream>>,
    /// Time limits of the route, if it has its own.
    pub(super) timeouts: Option<Box<Timeouts>>,
    pub(super) lease: Option<Lease>,
    /// Release that a warm-up may fetch from, and its upstream.
    pub(super) warm_up: Option<Box<(Arc<Upstream>, Arc<str>)>>,
    /// Comparison of releases that the outcome of the request counts for.
    pub(super) trial: Option<TrialRequest>,
    pub(super) tried: Vec<BackendId>,
    /// Number of attempts after a pooled connection turned out to be stale.
    pub(super) stale_attempts: u32,
    /// Start of the current attempt.
    pub(super) tried_at: Instant,
    /// Reply to send instead of the one that the error implies.
    pub(super) reply: Option<Box<Reply>>,
    /// True if the request asks for a WebSocket and the route accepts it.
    pub(super) is_websocket: bool,
    /// Result of reading the body before the request was forwarded.
    pub(super) early: EarlyBody,
    /// Time at which the backend's response began.
    pub(super) responded_at: Option<Instant>,
    /// State of the flood guard for this request.
    pub(super) guarded: GuardedRequest,
    /// Reason why the client left while its response was written to the cache. The fill continues.
    pub(super) client_left: OnceLock<Failure>,
    /// Decision that is known before the filters run, such as a refusal.
    pub(super) decided: Option<Decision>,
    /// Flow of a request whose response may fill the cache, until the exchange takes it up.
    pub(super) flow: Option<Box<Flow>>,
    /// Cache state of a request that goes to the origin and may fill the cache.
    pub(super) cache: Option<Box<Flow>>,
    /// Other routes whose guards run before the filters of the request's own route.
    pub(super) also: Option<Box<AdditionalGuards>>,
    /// Order of the app to send a file in place of its response.
    pub(super) accel: Option<Box<AccelRedirect>>,
    /// Route that takes the request over in place of the backend's response.
    pub(super) reroute: Option<Box<RouteRequest>>,
    /// The error that the request is booked for, in place of the page that it gets.
    pub(super) booked: Option<Box<BookedError>>,
    /// Set once a filter refused the request.
    pub(super) refused_by: Option<RefusedBy>,
    in_flight: InFlight,
}

/// Routes that guard a request although another route takes it, with their guards and the progress
/// of the request through them.
pub(super) struct AdditionalGuards {
    pub(super) routes: VecDeque<(usize, Chain)>,
    pub(super) round: HookProgress,
}

/// Facts about a request at the moment of its error, if another route has the page: it is booked as
/// it was then.
pub(super) struct BookedError {
    pub(super) route: Option<RoutePlacement>,
    pub(super) method: Method,
    pub(super) upstream: UpstreamFacts,
    pub(super) trial: Option<TrialRequest>,
}

/// Route whose filter refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedBy {
    /// The route of the request.
    Own,
    /// Another route, which guards the path as well.
    Other,
}

/// Counts a request as in flight until it is dropped.
struct InFlight(Arc<Live>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.http.in_flight.dec();
    }
}

impl Context {
    pub(super) fn new(live: &Arc<Live>) -> Self {
        live.http.in_flight.inc();
        let now = live.world.clock.now();
        Self {
            gateway: live.gateway(),
            route: None,
            params: Params::default(),
            facts: RequestFacts::new(now),
            connection: None,
            watch: None,
            upstream: None,
            timeouts: None,
            lease: None,
            warm_up: None,
            trial: None,
            tried: Vec::new(),
            stale_attempts: 0,
            tried_at: now,
            reply: None,
            is_websocket: false,
            early: EarlyBody::default(),
            responded_at: None,
            guarded: GuardedRequest::default(),
            client_left: OnceLock::new(),
            decided: None,
            flow: None,
            cache: None,
            also: None,
            accel: None,
            reroute: None,
            booked: None,
            refused_by: None,
            in_flight: InFlight(Arc::clone(live)),
        }
    }

    /// Returns true if this request revalidates a stale response in the background, without a
    /// client.
    pub(super) fn is_background(&self) -> bool {
        self.cache.as_ref().is_some_and(|flow| flow.is_background)
    }

    /// Returns true if a backend of another release has the request, because none of its own is in
    /// rotation.
    pub(super) fn is_at_other_release(&self) -> bool {
        match (&self.facts.release, &self.lease) {
            (Some(own), Some(lease)) => lease.backend().release() != Some(own),
            _ => false,
        }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.in_flight.0
    }
}

impl Context {
    /// Records that a filter of the request's route refused it, after others had let it pass.
    pub(super) fn refuse(&mut self, refusal: Box<Reply>) {
        self.reply = Some(refusal);
        self.refused_by.get_or_insert(RefusedBy::Own);
    }

    /// Returns the route's chain, and the request as its filters see it.
    pub(super) fn exchange<'a>(
        &'a mut self,
        request: &'a RequestHeader,
    ) -> (&'a Chain, Exchange<'a>) {
        let facts = &mut self.facts;
        (
            chain(&self.gateway, self.route),
            Exchange {
                head: request,
                facts,
            },
        )
    }

    /// Assigns the request to the route at `index`.
    pub(super) fn enter(&mut self, index: usize, request: &RequestHeader) {
        let Some(route) = self.gateway.route(index) else {
            return;
        };
        let facts = &mut self.facts;
        facts.route = Some(Arc::clone(&route.name));
        self.upstream.clone_from(&route.upstream);
        let is_short = route.chain.is_short_for(&Exchange {
            head: request,
            facts,
        });
        self.route = Some(RoutePlacement {
            route: index,
            is_short,
        });
    }
}

/// Returns the route's chain, or the fallback chain for requests without a route. It takes two
/// fields instead of the context, so that callers can borrow the other fields at the same time.
pub(super) fn chain(gateway: &Gateway, place: Option<RoutePlacement>) -> &Chain {
    match (route(gateway, place), place) {
        (Some(route), Some(place)) if place.is_short => route.chain.short(),
        (Some(route), _) => &route.chain,
        (None, _) => &gateway.fallback.chain,
    }
}

pub(super) fn metrics(gateway: &Gateway, place: Option<RoutePlacement>) -> &RouteMetrics {
    route(gateway, place).map_or(&gateway.fallback.metrics, |route| &route.metrics)
}

/// Returns the redactor of queries that are shown.
pub(super) fn redactor(gateway: &Gateway, place: Option<RoutePlacement>) -> &Redactor {
    let own = route(gateway, place).and_then(|route| route.redactor.as_deref());
    own.unwrap_or(&gateway.fallback.redactor)
}

/// Returns the pages of errors of the route, if it has any.
pub(super) fn error_pages(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&ErrorPages> {
    let own = match route(gateway, place) {
        Some(route) => &route.error_pages,
        None => &gateway.fallback.error_pages,
    };
    own.as_deref()
}

/// Returns the cache of the route, if it has one.
pub(super) fn cache(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&RouteCache> {
    route(gateway, place)?.cache.as_ref()
}

pub(super) fn route(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&Route> {
    gateway.route(place?.route)
}
