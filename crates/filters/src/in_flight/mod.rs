//! Limits the number of requests in flight of a route, and of each of its clients.

mod config;
mod counts;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use edgeway_core::{
    chain::{Exchange, Filter, Guard, Phases, Reply, Traits, Verdict},
    limits::key::KeyList,
};
use http::StatusCode;

use self::counts::{KeyPermit, RouteCounts, RoutePermit};

/// The compiled filter.
pub struct InFlight {
    /// Counts shared by all configurations of this route: a request counts until it is over,
    /// whichever configuration it started under.
    counts: Arc<RouteCounts>,
    max: Option<u32>,
    per_key: Option<Arc<PerKey>>,
}

/// A limit per client.
struct PerKey {
    max: u32,
    key: KeyList,
}

filter_kind!(InFlight: config::RouteInFlightConfig = "in_flight");

impl Filter for InFlight {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            guard_alone: Some(Arc::new(GuardLimits(Arc::clone(&self)))),
            ..Traits::new(
                Phases::REQUEST | Phases::AUTHORIZED.when(self.waits_for_identity()),
                Guard::Limit,
            )
        }
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        // A refused request holds no permit while its response is sent.
        let Some(place) = RouteCounts::enter(&self.counts, self.max) else {
            return too_many();
        };
        if !self.waits_for_identity() {
            match self.enter_key(ex) {
                Ok(None) => {}
                Ok(Some(place)) => ex.facts.put::<KeyPermit>(place),
                Err(refusal) => return refusal,
            }
        }
        ex.facts.put::<RoutePermit>(place);
        Verdict::Next
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        match self.enter_key(ex) {
            Ok(None) => Verdict::Next,
            Ok(Some(place)) => {
                ex.facts.put::<KeyPermit>(place);
                Verdict::Next
            }
            Err(refusal) => {
                drop(ex.facts.take::<RoutePermit>());
                refusal
            }
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let route = self
            .max
            .map(|max| format!("at most {max} requests of the route in flight"));
        let per_key = self.per_key.as_deref().map(|PerKey { max, key }| {
            let by = match key.chosen(ex) {
                Some(item) => item.to_string(),
                None => "client.ip, in the absence of another".to_owned(),
            };
            format!("at most {max} of each client, by {by}")
        });
        route.into_iter().chain(per_key).collect()
    }
}

impl InFlight {
    fn waits_for_identity(&self) -> bool {
        let key = self.per_key.as_deref().map(|per_key| &per_key.key);
        key.is_some_and(KeyList::needs_identity)
    }

    /// Returns a permit for the client if clients are limited, or the refusal if the client has too
    /// many requests in flight.
    fn enter_key(&self, ex: &Exchange<'_>) -> Result<Option<KeyPermit>, Verdict> {
        let Some(PerKey { max, key }) = self.per_key.as_deref() else {
            return Ok(None);
        };
        let key = key.resolve(ex, self.counts.hashing());
        let place = RouteCounts::enter_key(&self.counts, key, *max);
        place.map(Some).ok_or_else(|| {
            refuse(
                "in_flight_key",
                "Too many of your requests are in progress. Please wait for their responses.",
            )
        })
    }
}

/// Limits of a route for requests that another route takes.
struct GuardLimits(Arc<InFlight>);

impl Filter for GuardLimits {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::AUTHORIZED, Guard::Limit)
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        let Some(place) = RouteCounts::enter(&self.0.counts, self.0.max) else {
            return too_many();
        };
        match self.0.enter_key(ex) {
            Ok(key) => {
                ex.facts.put((place, key));
                Verdict::Next
            }
            Err(refusal) => refusal,
        }
    }
}

fn too_many() -> Verdict {
    refuse(
        "in_flight",
        "Too many requests are in progress here. Please try again in a moment.",
    )
}

/// Refuses with 503 and not 429: the request is not one too many, it only came too soon.
fn refuse(reason: &'static str, detail: &'static str) -> Verdict {
    Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, reason)
        .retry_after(Duration::from_secs(1))
        .detail(detail)
        .into()
}
