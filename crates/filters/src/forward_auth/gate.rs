//! Requests in flight to one service, and a circuit breaker for a failing one: a dead service holds
//! up no more requests than it must, and no single client opens the breaker for the others.

use std::{
    net::IpAddr,
    num::{NonZeroU8, NonZeroU32},
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::breaker::{Breaker, BreakerRule, Permission};
use edgeway_core::zones::InUse;
use edgeway_net::fair_queue::{FairQueue, Permit};
use http::Uri;

/// Opens after five failures of three clients, if they are half of all requests to the service.
const RULE: BreakerRule = BreakerRule {
    failures: const { NonZeroU32::new(5).expect("it is not zero") },
    clients: const { NonZeroU8::new(3).expect("it is not zero") },
    window: Duration::from_secs(10),
    cooldown: Duration::from_secs(1),
};

#[derive(Debug)]
pub(super) struct Gate {
    url: Uri,
    max: u32,
    breaker: Breaker,
    places: Arc<FairQueue>,
}

/// Reason why a request to the service is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateClosed {
    /// The service has failed for several clients, and is paused.
    Rests,
    /// All permits are taken, and too many requests wait already, or this one has waited too long.
    Full,
}

/// Permit to send a request to the service.
#[derive(Debug)]
pub(super) struct GatePermit<'a> {
    gate: &'a Gate,
    client: IpAddr,
    /// True for the first request after a pause.
    pub(super) is_again: bool,
    _place: Permit,
}

impl Gate {
    /// Returns the gate that all users of the same URL and bound share.
    pub(super) fn shared(gates: &InUse<Self>, url: &Uri, max: u32) -> Arc<Self> {
        let is_same = |gate: &Self| gate.url == *url && gate.max == max;
        gates.get_or_create(is_same, || Self::new(url.clone(), max))
    }

    fn new(url: Uri, max: u32) -> Self {
        Self {
            url,
            max,
            breaker: Breaker::new(RULE),
            places: FairQueue::new(max.try_into().unwrap_or(usize::MAX)),
        }
    }

    /// Returns a permit for this client, which waits for its turn no longer than `patience`.
    pub(super) async fn enter(
        &self,
        client: IpAddr,
        patience: Duration,
        now: impl Fn() -> Instant,
    ) -> Result<GatePermit<'_>, GateClosed> {
        let permission = self.breaker.asks(&now);
        if permission == Permission::No {
            return Err(GateClosed::Rests);
        }
        let place = tokio::time::timeout(patience, self.places.next(client)).await;
        let place = place.ok().flatten().ok_or(GateClosed::Full)?;
        // The service may have failed for the requests that held the permits.
        if self.breaker.is_open(now) {
            return Err(GateClosed::Rests);
        }
        Ok(GatePermit {
            gate: self,
            client,
            is_again: permission == Permission::Again,
            _place: place,
        })
    }
}

impl GatePermit<'_> {
    /// Records a response of the service.
    pub(super) fn succeeded(&self) {
        self.gate.breaker.passed();
    }

    /// Records a failure of the service; returns `true` if the service is paused from now on.
    pub(super) fn failed(&self, now: Instant) -> bool {
        self.gate.breaker.failed(Some(self.client), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_base::clock::Clock;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn gate(most: u32) -> Gate {
        Gate::new(Uri::from_static("http://127.0.0.1:1/"), most)
    }

    #[tokio::test]
    async fn questions_beyond_the_bound_wait_for_a_place_and_not_for_ever() {
        let (clock, gate) = (Clock::test(), gate(2));
        let enter = |last, patience| gate.enter(client(last), patience, || clock.now());
        let soon = Duration::from_millis(5);
        let first = enter(1, soon).await.unwrap();
        let _second = enter(1, soon).await.unwrap();
        assert_eq!(enter(2, soon).await.unwrap_err(), GateClosed::Full);
        let waits = enter(2, Duration::from_secs(20));
        let (third, ()) = tokio::join!(waits, async { drop(first) });
        assert!(third.is_ok());
    }

    #[tokio::test]
    async fn a_service_that_fails_for_several_clients_pauses_and_is_tried_again() {
        let (clock, gate) = (Clock::test(), gate(9));
        let enter = |last| gate.enter(client(last), Duration::ZERO, || clock.now());
        for _ in 0..100 {
            assert!(!enter(1).await.unwrap().failed(clock.now()), "one client");
        }
        assert!(!enter(2).await.unwrap().failed(clock.now()));
        assert!(enter(3).await.unwrap().failed(clock.now()));
        assert_eq!(enter(4).await.unwrap_err(), GateClosed::Rests);
        clock.advance(RULE.cooldown);
        assert!(enter(4).await.unwrap().is_again);
        assert!(!enter(4).await.unwrap().is_again);
    }

    #[test]
    fn the_same_service_has_the_same_gate_while_a_filter_holds_it() {
        let gates = InUse::default();
        let url = Uri::from_static;
        let first = Gate::shared(&gates, &url("http://a/?key=1"), 9);
        let same = Gate::shared(&gates, &url("http://a/?key=1"), 9);
        assert!(Arc::ptr_eq(&first, &same));
        for (other, most) in [("http://a/?key=2", 9), ("http://a/?key=1", 8)] {
            assert!(!Arc::ptr_eq(
                &first,
                &Gate::shared(&gates, &url(other), most)
            ));
        }
    }
}
