//! State that is carried through the hooks of one request.

mod decision;
mod flow;
mod parts;
mod process;

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use edgeway_config::model::TimeoutsConfig;
use edgeway_core::chain::{
    Chain, Exchange, HookProgress, KeptApart, Reply, RequestFacts, RouteRequest, UpstreamFacts,
};
use edgeway_core_filters::{access_log::Redactor, error_pages::ErrorPages};
use edgeway_gateway::{Gateway, Route, RouteCache, metrics::RouteMetrics};
use edgeway_routes::Params;
use edgeway_upstreams::{BackendId, Lease, TrialRequest, Upstream};
use http::Method;
use pingora::http::RequestHeader;

pub(crate) use self::{
    decision::Decision,
    flow::Flow,
    parts::{AccelRedirect, EarlyBody, GuardedRequest, X_ACCEL_REDIRECT},
    process::{ServeOwn, Shared},
};
use crate::{
    connection::{Connection, deadline::Watch},
    error::Failure,
    live::{Live, split::SplitRequest},
};

/// Route of a request, and the form of its filter chain.
#[derive(Clone, Copy)]
pub(crate) struct RoutePlacement {
    route: usize,
    /// True if the route has a filter that does not apply to this request.
    is_short: bool,
}

impl RoutePlacement {
    /// Returns the number of the route in the file.
    pub(crate) fn index(self) -> usize {
        self.route
    }
}

/// State of one request. Boxed, because it is moved around.
pub(crate) struct Context {
    /// Configuration that was active when the request began. The request sees no other.
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) route: Option<RoutePlacement>,
    pub(crate) params: Params,
    pub(crate) facts: RequestFacts,
    pub(crate) connection: Option<Arc<Connection>>,
    /// Deadlines of this request.
    pub(crate) watch: Option<Arc<Watch>>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Time limits of the route, if it has its own.
    pub(crate) timeouts: Option<Box<TimeoutsConfig>>,
    pub(crate) lease: Option<Lease>,
    /// Release that a warm-up may fetch from, and its upstream.
    pub(crate) warm_up: Option<Box<(Arc<Upstream>, Arc<str>)>>,
    /// Comparison of releases that the outcome of the request counts for.
    pub(crate) trial: Option<TrialRequest>,
    /// Comparison of configurations that the outcome of the request counts for.
    pub(crate) split: Option<Box<SplitRequest>>,
    pub(crate) tried: Vec<BackendId>,
    /// Number of attempts after a pooled connection turned out to be stale.
    pub(crate) stale_attempts: u32,
    /// Start of the current attempt.
    pub(crate) tried_at: Instant,
    /// Reply to send instead of the one that the error implies.
    pub(crate) reply: Option<Box<Reply>>,
    /// True if the request asks for a WebSocket and the route accepts it.
    pub(crate) is_websocket: bool,
    /// Result of reading the body before the request was forwarded.
    pub(crate) early: EarlyBody,
    /// True once a backend has sent an interim response: it has begun with the request.
    pub(crate) has_interim: bool,
    /// Time at which the backend's response began.
    pub(crate) responded_at: Option<Instant>,
    /// State of the flood guard for this request.
    pub(crate) guarded: GuardedRequest,
    /// Reason why the client left while its response was written to the cache. The fill continues.
    pub(crate) client_left: OnceLock<Failure>,
    /// Decision that is known before the filters run, such as a refusal.
    pub(crate) decided: Option<Decision>,
    /// Flow of a request whose response may fill the cache, until the exchange takes it up.
    pub(crate) flow: Option<Box<Flow>>,
    /// Cache state of a request that goes to the origin and may fill the cache.
    pub(crate) cache: Option<Box<Flow>>,
    /// Other routes whose guards run before the filters of the request's own route.
    pub(crate) also: Option<Box<AdditionalGuards>>,
    /// True once the guards of the path that a plugin gave to the request are known.
    pub(crate) has_passed_rewrite: bool,
    /// Order of the app to send a file in place of its response.
    pub(crate) accel: Option<Box<AccelRedirect>>,
    /// Route that takes the request over in place of the backend's response.
    pub(crate) reroute: Option<Box<RouteRequest>>,
    /// The error that the request is booked for, in place of the page that it gets.
    pub(crate) booked: Option<Box<BookedError>>,
    /// Routes whose filters have seen the request, beside its own.
    pub(crate) earlier_routes: Vec<usize>,
    /// Set once a filter refused the request.
    pub(crate) refused_by: Option<RefusedBy>,
    /// Hooks at both ends of a request that it has passed.
    pub(crate) passed: PassedHooks,
    in_flight: InFlight,
}

/// Counts of the hooks at both ends of a request: one each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PassedHooks {
    pub(crate) early_request_filter: u8,
    pub(crate) logging: u8,
}

/// Routes that guard a request although another route takes it, with their guards and the progress
/// of the request through them.
pub(crate) struct AdditionalGuards {
    pub(crate) routes: VecDeque<(usize, Chain)>,
    /// Request as they see it, if a plugin gave it another path; that of the client if absent.
    pub(crate) rewritten: Option<Box<RequestHeader>>,
    pub(crate) round: HookProgress,
    /// Route whose guards ran last, and what they keep of the request.
    pub(crate) apart: Option<(usize, KeptApart)>,
}

/// Facts about a request at the moment of its error, if another route has the page: it is booked as
/// it was then.
pub(crate) struct BookedError {
    pub(crate) route: Option<RoutePlacement>,
    pub(crate) method: Method,
    pub(crate) upstream: UpstreamFacts,
    pub(crate) trial: Option<TrialRequest>,
}

/// Route whose filter refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedBy {
    /// The route of the request.
    Own,
    /// Another route, which guards the path as well.
    Other,
}

/// Counts a request as in flight until it is dropped.
struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.live.http.in_flight.dec();
    }
}

impl Context {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let live = &shared.live;
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
            split: None,
            tried: Vec::new(),
            stale_attempts: 0,
            tried_at: now,
            reply: None,
            is_websocket: false,
            early: EarlyBody::default(),
            has_interim: false,
            responded_at: None,
            guarded: GuardedRequest::default(),
            client_left: OnceLock::new(),
            decided: None,
            flow: None,
            cache: None,
            also: None,
            has_passed_rewrite: false,
            accel: None,
            reroute: None,
            booked: None,
            refused_by: None,
            earlier_routes: Vec::new(),
            passed: PassedHooks::default(),
            in_flight: InFlight(Arc::clone(shared)),
        }
    }

    /// Returns true if this request revalidates a stale response in the background, without a
    /// client.
    pub(crate) fn is_background(&self) -> bool {
        self.cache.as_ref().is_some_and(|flow| flow.is_background)
    }

    /// Returns true if a backend of another release has the request, because none of its own is in
    /// rotation.
    pub(crate) fn is_at_other_release(&self) -> bool {
        match (&self.facts.release, &self.lease) {
            (Some(own), Some(lease)) => lease.backend.release() != Some(own),
            _ => false,
        }
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.in_flight.0.live
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.in_flight.0
    }

    /// Returns true if the client's connection ends after this request.
    pub(crate) fn is_draining(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.is_ending())
    }

    /// Records that the client has got `100 Continue`.
    pub(crate) fn continued(&mut self) {
        self.early.has_continued = true;
        if let Some(connection) = &self.connection {
            connection.pace.release();
        }
        if let Some(watch) = &self.watch {
            watch.body.release();
        }
    }

    /// Lets the client see that the response that has begun is not complete.
    pub(crate) fn break_off(&self) {
        if let Some(connection) = &self.connection {
            connection.break_off();
        }
    }
}

impl Context {
    /// Records that a filter of the request's route refused it, after others had let it pass.
    pub(crate) fn refuse(&mut self, refusal: Box<Reply>) {
        self.reply = Some(refusal);
        self.refused_by.get_or_insert(RefusedBy::Own);
    }

    /// Returns the route's chain, and the request as its filters see it.
    pub(crate) fn exchange<'a>(
        &'a mut self,
        request: &'a RequestHeader,
    ) -> (&'a Chain, Exchange<'a>) {
        let ex = Exchange::new(request, &mut self.facts);
        (chain(&self.gateway, self.route), ex)
    }

    /// Assigns the request to the route at `index`.
    pub(crate) fn enter(&mut self, index: usize, request: &RequestHeader) {
        let Some(route) = self.gateway.route(index) else {
            return;
        };
        let facts = &mut self.facts;
        facts.route = Some(Arc::clone(&route.name));
        self.upstream.clone_from(&route.upstream);
        let is_short = route.chain.is_short_for(&Exchange::new(request, facts));
        self.route = Some(RoutePlacement {
            route: index,
            is_short,
        });
    }
}

/// Returns the route's chain, or the fallback chain for requests without a route. It takes two
/// fields instead of the context, so that callers can borrow the other fields at the same time.
pub(crate) fn chain(gateway: &Gateway, place: Option<RoutePlacement>) -> &Chain {
    match (route(gateway, place), place) {
        (Some(route), Some(place)) if place.is_short => route.chain.short(),
        (Some(route), _) => &route.chain,
        (None, _) => &gateway.fallback.chain,
    }
}

pub(crate) fn metrics(gateway: &Gateway, place: Option<RoutePlacement>) -> &RouteMetrics {
    route(gateway, place).map_or(&gateway.fallback.metrics, |route| &route.metrics)
}

/// Returns the redactor of queries that are shown.
pub(crate) fn redactor(gateway: &Gateway, place: Option<RoutePlacement>) -> &Redactor {
    let redactor = route(gateway, place).and_then(|route| route.redactor.as_deref());
    redactor.unwrap_or(&gateway.fallback.redactor)
}

/// Returns the pages of errors of the route, if it has any.
pub(crate) fn error_pages(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&ErrorPages> {
    let pages = match route(gateway, place) {
        Some(route) => &route.error_pages,
        None => &gateway.fallback.error_pages,
    };
    pages.as_deref()
}

/// Returns the cache of the route, if it has one.
pub(crate) fn cache(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&RouteCache> {
    route(gateway, place)?.cache.as_ref()
}

pub(crate) fn route(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&Route> {
    gateway.route(place?.route)
}
