//! Leaves new connections to the kernel until their first bytes arrive, while many are opened
//! (`TCP_DEFER_ACCEPT`, as `deferred` of nginx' `listen`).
//!
//! A connection without bytes has nothing to serve, and accepting it with them saves a wake-up: a
//! seventh of what a connection with a single request costs. In return, a silent client is known a
//! second later, and its connection is lost without a word if the listener is closed before that.
//! So nothing is deferred unless it pays.

use std::{os::fd::AsFd, time::Duration};

use edgeway_base::system;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// New connections after which their rate is looked at.
const BURST: u32 = 256;
/// Time in which they are opened if there are many.
const BURST_TIME: Duration = Duration::from_millis(256);
/// Interval in which the rate is looked at while connections are deferred.
const REVIEW: Duration = Duration::from_secs(1);
/// New connections in that time at least, or no more are deferred.
const MANY: u32 = 500;
/// Time for the first bytes of clients that are connected when a listener is closed.
const FIRST_BYTES: Duration = Duration::from_millis(100);
/// Seconds that a silent client is left to the kernel, the smallest number that there is.
const SILENT_SECONDS: i32 = 1;

/// Rate of new connections on a listener, and whether they are deferred.
#[derive(Debug)]
pub(super) struct Deferral {
    opened: u32,
    since: Instant,
    /// Ticks while connections are deferred.
    review: Option<Interval>,
    /// Time at which that ended last.
    ended: Option<Instant>,
}

impl Deferral {
    pub(super) fn new() -> Self {
        Self {
            opened: 0,
            since: Instant::now(),
            review: None,
            ended: None,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.review.is_some()
    }

    /// Counts a connection of the listener.
    pub(super) fn count(&mut self, listener: &impl AsFd) {
        self.opened = self.opened.saturating_add(1);
        if self.opened < BURST || self.is_on() {
            return;
        }
        let now = Instant::now();
        if now - self.since <= BURST_TIME && set(listener, true) {
            let mut review = interval_at(now + REVIEW, REVIEW);
            review.set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.review = Some(review);
        }
        self.opened = 0;
        self.since = now;
    }

    /// Waits until the rate is to be looked at; for ever if nothing is deferred.
    pub(super) async fn due(&mut self) {
        match &mut self.review {
            Some(review) => {
                review.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Defers no more connections of the listener if few are opened. Otherwise it makes sure that
    /// they are: the predecessor of this process may have ended it for the socket that both have.
    pub(super) fn look(&mut self, listener: &impl AsFd) {
        if self.opened < MANY || !set(listener, true) {
            self.end(listener);
        }
        self.opened = 0;
        self.since = Instant::now();
    }

    /// Defers no more connections of the listener.
    fn end(&mut self, listener: &impl AsFd) {
        if self.review.take().is_some() {
            set(listener, false);
            self.ended = Some(Instant::now());
        }
    }

    /// Ends for a listener that is to be closed. Returns the time until which the kernel may hold
    /// connections whose first bytes are on their way, if it may.
    pub(super) fn close(&mut self, listener: &impl AsFd) -> Option<Instant> {
        self.end(listener);
        let until = self.ended? + FIRST_BYTES;
        (until > Instant::now()).then_some(until)
    }
}

/// Sets whether new connections of a TCP listener are deferred. Returns false if that failed.
pub(super) fn set(listener: &impl AsFd, is_on: bool) -> bool {
    let seconds = if is_on { SILENT_SECONDS } else { 0 };
    let set = system::defer_accept(listener, seconds);
    if let Err(error) = &set {
        log::debug!(error:%; "connections are accepted before their first bytes");
    }
    set.is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_many_connections_are_deferred() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut deferral = Deferral::new();
        let mut open = async |count: u32, within: Duration| {
            for _ in 0..count {
                tokio::time::advance(within / count).await;
                deferral.count(&listener);
            }
            let was_on = deferral.is_on();
            if was_on {
                deferral.due().await;
                deferral.look(&listener);
            }
            (was_on, deferral.is_on())
        };
        let second = Duration::from_secs(1);
        assert_eq!(open(500, second).await, (false, false));
        assert_eq!(open(100, second / 1000).await, (false, false));
        assert_eq!(open(2000, second).await, (true, true));
        assert_eq!(open(600, second).await, (true, true));
        assert_eq!(open(400, second).await, (true, false));
        assert_eq!(open(400, second).await, (false, false));
        // The kernel may hold some for a moment longer.
        assert_eq!(deferral.close(&listener), None);
        for _ in 0..2 * BURST {
            deferral.count(&listener);
        }
        let until = Instant::now() + FIRST_BYTES;
        assert_eq!(deferral.close(&listener), Some(until));
        assert!(!deferral.is_on());
        tokio::time::advance(FIRST_BYTES / 2).await;
        assert_eq!(deferral.close(&listener), Some(until));
        tokio::time::advance(FIRST_BYTES).await;
        assert_eq!(deferral.close(&listener), None);
    }

    #[tokio::test]
    async fn a_silent_client_is_accepted_later_and_one_that_speaks_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = async |within: u64| {
            let within = Duration::from_millis(within);
            let accepted = tokio::time::timeout(within, listener.accept()).await;
            accepted.ok().map(|accepted| accepted.unwrap().1)
        };
        let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();
        assert!(set(&listener, true));
        let silent = connect().await;
        assert_eq!(accepted(100).await, None);
        let speaks = connect().await;
        speaks.try_write(b"x").unwrap();
        let mut came = [accepted(20_000).await, accepted(20_000).await];
        let mut expected = [&silent, &speaks].map(|client| client.local_addr().ok());
        came.sort();
        expected.sort();
        assert_eq!(came, expected);
        assert!(set(&listener, false));
        let later = connect().await;
        assert_eq!(accepted(20_000).await, later.local_addr().ok());
    }
}
