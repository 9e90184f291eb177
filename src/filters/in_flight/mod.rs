//! Bounds how many requests a route, and each client of it, may have under way at once.

mod config;
mod counts;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use self::counts::{Counts, KeyPlace, RoutePlace};
use crate::{
    chain::{CompileCx, Exchange, Filter, FilterKind, Guard, Phases, Reply, Verdict},
    limits::key::KeyList,
};

/// The compiled filter.
pub struct InFlight {
    /// Those of all configurations of this route: a request counts until it is over,
    /// whichever it began with.
    counts: Arc<Counts>,
    max: Option<u32>,
    per_key: Option<PerKey>,
}

/// A bound for each client.
struct PerKey {
    max: u32,
    key: KeyList,
}

impl FilterKind for InFlight {
    const NAME: &'static str = "in_flight";
    type Config = config::RouteInFlightConfig;
    type Filter = Self;

    fn compile(config: config::RouteInFlightConfig, cx: &mut CompileCx<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for InFlight {
    fn phases(&self) -> Phases {
        if self.waits_for_identity() {
            Phases::REQUEST | Phases::AUTHORIZED
        } else {
            Phases::REQUEST
        }
    }

    fn guard(&self) -> Guard {
        Guard::Limit
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        // Refused, it holds no place while its answer is read.
        let Some(place) = Counts::enter(&self.counts, self.max) else {
            return refuse(
                "in_flight",
                "This address has as much to do as it can. Please try again in a moment.",
            );
        };
        if !self.waits_for_identity()
            && let Some(refusal) = self.enter_key(ex)
        {
            return refusal;
        }
        ex.facts.put::<RoutePlace>(place);
        Verdict::Next
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        match self.enter_key(ex) {
            None => Verdict::Next,
            Some(refusal) => {
                drop(ex.facts.take::<RoutePlace>());
                refusal
            }
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let route = self
            .max
            .map(|max| format!("at most {max} requests of the route under way"));
        let per_key = self.per_key.as_ref().map(|PerKey { max, key }| {
            let by = match key.chosen(ex) {
                Some(item) => item.to_string(),
                None => "client.ip, for want of another".to_owned(),
            };
            format!("at most {max} of each client, by {by}")
        });
        route.into_iter().chain(per_key).collect()
    }
}

impl InFlight {
    fn waits_for_identity(&self) -> bool {
        let key = self.per_key.as_ref().map(|per_key| &per_key.key);
        key.is_some_and(KeyList::needs_identity)
    }

    /// Takes a place among those of the client; why not, if it has too many.
    fn enter_key(&self, ex: &mut Exchange<'_>) -> Option<Verdict> {
        let PerKey { max, key } = self.per_key.as_ref()?;
        let key = key.resolve(ex, self.counts.hashing());
        match Counts::enter_key(&self.counts, key, *max) {
            Some(place) => {
                ex.facts.put::<KeyPlace>(place);
                None
            }
            None => Some(refuse(
                "in_flight_key",
                "Too many of your requests are under way. Please wait for their answers.",
            )),
        }
    }
}

/// 503 and not 429: the request is not one too many, it only came too soon.
fn refuse(reason: &'static str, detail: &'static str) -> Verdict {
    Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, reason)
        .retry_after(Duration::from_secs(1))
        .detail(detail)
        .into()
}
