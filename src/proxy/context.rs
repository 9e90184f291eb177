//! What Pingora carries for us through the hooks of one request.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use pingora::http::RequestHeader;

use super::{
    body::Early,
    cache::{ClientStream, Flow},
    course::Course,
    error::Failure,
    guard::Guarded,
};
use crate::{
    chain::{Chain, Exchange, Facts, Reply, Round},
    gateway::{Gateway, Route, RouteCache, metrics::RouteMetrics},
    routes::Params,
    runtime::{connection::Connection, deadline::Watch, live::Live},
    upstreams::{BackendId, Lease, UpgradeGate, Upstream},
};

/// Where a request belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    route: usize,
    /// Its route has a filter that is not for it.
    is_short: bool,
}

/// One request's state. Boxed, since Pingora moves it about.
pub struct Context {
    /// The configuration this request began with; it sees no other.
    pub(super) gateway: Arc<Gateway>,
    pub(super) route: Option<Place>,
    pub(super) params: Params,
    pub(super) facts: Facts,
    pub(super) connection: Option<Arc<Connection>>,
    /// The deadlines of this request.
    pub(super) watch: Option<Arc<Watch>>,
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) lease: Option<Lease>,
    pub(super) tried: Vec<BackendId>,
    /// Tries after a pooled connection that had gone stale.
    pub(super) stale_tries: u32,
    /// When the try under way began.
    pub(super) tried_at: Instant,
    /// What is to be answered instead of what Pingora's error would say.
    pub(super) reply: Option<Box<Reply>>,
    /// The request asks for a WebSocket, and the route takes one.
    pub(super) is_websocket: bool,
    /// Holds back the response to an upgrade until the request has ended.
    pub(super) upgrade: Option<Arc<UpgradeGate>>,
    /// What became of the body before the request went on.
    pub(super) early: Early,
    /// When the whole must be over, of a request to a backend by HTTP/2.
    pub(super) due: Option<Instant>,
    /// When the backend's answer began.
    pub(super) answered_at: Option<Instant>,
    /// What the flood guard knows of it.
    pub(super) guarded: Guarded,
    /// The answer is a head alone, on HTTP/2.
    pub(super) is_bare: bool,
    /// The filters have been told of the end of the response's body.
    pub(super) is_body_over: bool,
    /// How the client left while its response went into the cache, which goes on.
    pub(super) client_left: OnceLock<Failure>,
    /// The client's stream by HTTP/2, if its response goes into the cache.
    pub(super) stream: Option<Arc<ClientStream>>,
    /// What the shortcut has found out about it.
    pub(super) course: Option<Course>,
    /// On its way to the origin for the cache as well.
    pub(super) cache: Option<Box<Flow>>,
    /// Whose guards are asked before the route's own filters, if others' are as well.
    pub(super) also: Option<Box<Also>>,
    in_flight: InFlight,
}

/// Routes that guard a request which another one takes, with their guards, and how far it has
/// come in them.
pub(super) struct Also {
    pub(super) routes: VecDeque<(usize, Chain)>,
    pub(super) round: Round,
}

/// Counts a request in, and out again whatever becomes of it.
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
            facts: Facts::new(now),
            connection: None,
            watch: None,
            upstream: None,
            lease: None,
            tried: Vec::new(),
            stale_tries: 0,
            tried_at: now,
            reply: None,
            is_websocket: false,
            upgrade: None,
            early: Early::default(),
            due: None,
            answered_at: None,
            guarded: Guarded::default(),
            is_bare: false,
            is_body_over: false,
            client_left: OnceLock::new(),
            stream: None,
            course: None,
            cache: None,
            also: None,
            in_flight: InFlight(Arc::clone(live)),
        }
    }

    /// It fetches a stale answer anew: there is no client.
    pub(super) fn is_background(&self) -> bool {
        self.cache.as_ref().is_some_and(|flow| flow.is_background)
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.in_flight.0
    }
}

impl Context {
    /// The route's chain, and the request as its filters see it.
    pub(super) fn exchange<'a>(&'a mut self, head: &'a RequestHeader) -> (&'a Chain, Exchange<'a>) {
        let facts = &mut self.facts;
        (chain(&self.gateway, self.route), Exchange { head, facts })
    }

    /// The request is one of `route`.
    pub(super) fn enter(&mut self, index: usize, head: &RequestHeader) {
        let Some(route) = self.gateway.route(index) else {
            return;
        };
        let facts = &mut self.facts;
        facts.route = Some(Arc::clone(&route.name));
        self.upstream.clone_from(&route.upstream);
        let is_short = route.chain.is_short_for(&Exchange { head, facts });
        self.route = Some(Place {
            route: index,
            is_short,
        });
    }
}

/// The route's chain and metrics, or those of requests without a route. A function of two
/// fields, so that the others can be borrowed beside it.
pub(super) fn chain(gateway: &Gateway, place: Option<Place>) -> &Chain {
    match (route(gateway, place), place) {
        (Some(route), Some(place)) if place.is_short => route.chain.short(),
        (Some(route), _) => &route.chain,
        (None, _) => &gateway.fallback,
    }
}

pub(super) fn metrics(gateway: &Gateway, place: Option<Place>) -> &RouteMetrics {
    route(gateway, place).map_or(&gateway.fallback_metrics, |route| &route.metrics)
}

/// The cache of the route, if it has one.
pub(super) fn cache(gateway: &Gateway, place: Option<Place>) -> Option<&RouteCache> {
    route(gateway, place)?.cache.as_ref()
}

pub(super) fn route(gateway: &Gateway, place: Option<Place>) -> Option<&Route> {
    gateway.route(place?.route)
}
