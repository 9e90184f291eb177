//! Circuit breakers for calls that requests make: to plugins, and to services such as that of
//! `forward_auth`.
//!
//! A client can make its own requests fail, so its failures tell nothing about other clients: a
//! breaker opens only if most calls failed, for several clients.

use std::{
    net::IpAddr,
    num::{NonZeroU8, NonZeroU32},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::net::subscriber;

/// A circuit breaker: opens once too many calls failed, and closes after its cooldown.
#[derive(Debug)]
pub struct Breaker {
    rule: BreakerRule,
    state: parking_lot::Mutex<State>,
    /// Set while the breaker is closed, so that calls need not take the lock.
    is_closed: AtomicBool,
    /// Calls that succeeded since the window began.
    passed: AtomicU64,
}

/// Thresholds at which a breaker opens, and its cooldown.
#[derive(Clone, Copy, Debug)]
pub struct BreakerRule {
    pub failures: NonZeroU32,
    /// Distinct clients whose requests must have failed.
    pub clients: NonZeroU8,
    pub window: Duration,
    pub cooldown: Duration,
}

#[derive(Debug, Default)]
struct State {
    failures: u64,
    /// Distinct clients of these failures, at most as many as the rule requires.
    clients: Vec<IpAddr>,
    since: Option<Instant>,
    open_until: Option<Instant>,
}

/// A breaker's decision on one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Yes,
    /// First call after the cooldown.
    Again,
    No,
}

impl Breaker {
    pub fn new(rule: BreakerRule) -> Self {
        Self {
            rule,
            state: parking_lot::Mutex::default(),
            is_closed: true.into(),
            passed: AtomicU64::new(0),
        }
    }

    pub fn is_open(&self, now: impl Fn() -> Instant) -> bool {
        let until = || self.state.lock().open_until;
        !self.is_closed.load(Ordering::Relaxed) && until().is_some_and(|until| now() < until)
    }

    /// Decides on a call, and closes the breaker once its cooldown is over.
    pub fn asks(&self, now: impl Fn() -> Instant) -> Permission {
        if self.is_closed.load(Ordering::Relaxed) {
            return Permission::Yes;
        }
        let mut state = self.state.lock();
        match state.open_until {
            Some(until) if now() < until => Permission::No,
            Some(_) => {
                *state = State::default();
                self.is_closed.store(true, Ordering::Relaxed);
                Permission::Again
            }
            None => Permission::Yes,
        }
    }

    /// Records a failed call for this client; returns true if the breaker opens.
    pub fn failed(&self, client: Option<IpAddr>, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.open_until.is_some() {
            return false;
        }
        let window = self.rule.window;
        if state.since.is_none_or(|since| now - since > window) {
            *state = State {
                since: Some(now),
                ..State::default()
            };
            self.passed.store(0, Ordering::Relaxed);
        }
        state.failures += 1;
        let wanted = usize::from(self.rule.clients.get());
        if let Some(client) = client.map(subscriber)
            && state.clients.len() < wanted
            && !state.clients.contains(&client)
        {
            state.clients.push(client);
        }
        if state.failures < self.rule.failures.get().into()
            || state.clients.len() < wanted
            || state.failures < self.passed.load(Ordering::Relaxed)
        {
            return false;
        }
        state.open_until = Some(now + self.rule.cooldown);
        self.is_closed.store(false, Ordering::Relaxed);
        true
    }

    /// Records a successful call.
    pub fn passed(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(failures: u32, clients: u8) -> Breaker {
        Breaker::new(BreakerRule {
            failures: failures.try_into().unwrap(),
            clients: clients.try_into().unwrap(),
            window: SECOND * 10,
            cooldown: SECOND * 30,
        })
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn a_breaker_opens_after_failures_close_together_and_tries_again() {
        let clock = Clock::test();
        let breaker = breaker(3, 1);
        let now = || clock.now();
        let fails = || breaker.failed(Some(client(1)), now());
        assert!(!fails() && !fails());
        clock.advance(SECOND * 11);
        assert!(!fails(), "the others were long ago");
        assert!(!fails() && breaker.asks(now) == Permission::Yes);
        assert!(fails() && breaker.asks(now) == Permission::No && breaker.is_open(now));
        assert!(!fails(), "of a call that had begun before");
        clock.advance(SECOND * 30);
        assert!(!breaker.is_open(now));
        assert_eq!(breaker.asks(now), Permission::Again);
        assert_eq!(breaker.asks(now), Permission::Yes);
        assert!(!fails() && !fails(), "it begins again");
        assert!(fails() && breaker.asks(now) == Permission::No);
    }

    #[test]
    fn one_client_cannot_open_it_for_others() {
        let clock = Clock::test();
        let breaker = breaker(5, 3);
        let v6 = |host: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]));
        for host in 0..1000 {
            assert!(!breaker.failed(Some(client(1)), clock.now()));
            assert!(!breaker.failed(v6(host), clock.now()), "one subscriber");
        }
        assert!(breaker.failed(Some(client(2)), clock.now()));
    }

    #[test]
    fn what_does_more_than_it_fails_is_not_left_out() {
        let clock = Clock::test();
        let breaker = breaker(5, 3);
        for number in 0..100 {
            assert!(!breaker.failed(Some(client(number % 3)), clock.now()));
            breaker.passed();
            breaker.passed();
        }
        assert_eq!(breaker.asks(|| clock.now()), Permission::Yes);
        for number in 0..101 {
            breaker.failed(Some(client(number)), clock.now());
        }
        assert_eq!(breaker.asks(|| clock.now()), Permission::No);
    }
}
