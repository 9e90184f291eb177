//! Configuration on trial beside the one before it: the clients that get it, and the requests of
//! both.
//!
//! Only requests are split. What belongs to the process, such as listeners, is that of the
//! configuration on trial.

use std::{collections::HashMap, sync::Arc};

use edgeway_base::{clock::Clock, metrics::Metrics, units::Percent};
use edgeway_core::chain::RequestFacts;
use edgeway_gateway::{
    Gateway,
    metrics::{NO_ROUTE, RouteMetrics},
};
use edgeway_upstreams::visitor_position;
use http::HeaderMap;

/// Two configurations that serve at the same time.
pub struct TrialSplit {
    /// Share of the clients that get the configuration on trial.
    share: Percent,
    /// The same on all gateways that try this configuration, and another one for the next.
    name: String,
    candidate: SplitArm,
    earlier: SplitArm,
}

/// Configuration of a split, with its requests since the trial began.
struct SplitArm {
    gateway: Arc<Gateway>,
    /// Not exported: `/metrics` has the requests of both.
    metrics: Metrics,
    routes: HashMap<Arc<str>, RouteMetrics>,
}

/// Request whose outcome counts for one of the two.
pub(crate) struct SplitRequest {
    split: Arc<TrialSplit>,
    is_candidates: bool,
}

impl TrialSplit {
    pub fn new(
        name: String,
        share: Percent,
        candidate: &Arc<Gateway>,
        earlier: Arc<Gateway>,
        clock: &Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            share,
            name,
            candidate: SplitArm::new(Arc::clone(candidate), clock),
            earlier: SplitArm::new(earlier, clock),
        })
    }

    /// Returns the configuration before the trial.
    pub(super) fn earlier(&self) -> &Arc<Gateway> {
        &self.earlier.gateway
    }

    /// Returns both configurations, that on trial first.
    pub(super) fn gateways(&self) -> [&Arc<Gateway>; 2] {
        [&self.candidate.gateway, &self.earlier.gateway]
    }

    /// Returns the counters of both configurations, that on trial first.
    pub(super) fn metrics(&self) -> [&Metrics; 2] {
        [&self.candidate.metrics, &self.earlier.metrics]
    }

    /// Returns the configuration of a client's request. The client is known by the configuration on
    /// trial.
    pub(crate) fn place(
        self: Arc<Self>,
        client: impl FnOnce(&Gateway) -> std::net::IpAddr,
        headers: &HeaderMap,
    ) -> (Arc<Gateway>, SplitRequest) {
        let client = client(&self.candidate.gateway);
        let position = visitor_position(&self.name, client, headers);
        let is_candidates = position * 100.0 < self.share.0;
        let request = SplitRequest {
            split: self,
            is_candidates,
        };
        (Arc::clone(&request.arm().gateway), request)
    }
}

impl SplitArm {
    fn new(gateway: Arc<Gateway>, clock: &Clock) -> Self {
        let metrics = Metrics::default();
        let names = gateway.routes.iter().map(|route| Arc::clone(&route.name));
        let names = names.chain([NO_ROUTE.into()]);
        let counted = |name: Arc<str>| {
            let counters = RouteMetrics::new(&metrics, clock, &name);
            (name, counters)
        };
        Self {
            routes: names.map(counted).collect(),
            metrics,
            gateway,
        }
    }
}

impl SplitRequest {
    fn arm(&self) -> &SplitArm {
        if self.is_candidates {
            &self.split.candidate
        } else {
            &self.split.earlier
        }
    }

    /// Counts the request, which has ended.
    pub(crate) fn ended(&self, route: Option<&str>, method: &http::Method, facts: &RequestFacts) {
        if let Some(counters) = self.arm().routes.get(route.unwrap_or(NO_ROUTE)) {
            counters.count(method, facts.status);
            // Limits that refuse clients are a change for the worse too.
            let is_asked_for = matches!(facts.reason, Some("only_if_cached" | "maintenance"));
            if facts.is_failed() || facts.status >= 500 && !is_asked_for {
                counters.count_failed();
            }
            counters.observe_first_byte(facts.waited().as_secs_f64());
        }
    }
}

edgeway_base::opaque_debug!(TrialSplit, share, name);
