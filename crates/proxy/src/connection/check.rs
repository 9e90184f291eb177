//! Check of one connection for what has expired.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    CLOSE_TIMEOUT, CloseReason, Connection, GOAWAY_DELAY, Stage, pace::PaceLimits, socket::unsent,
};

impl Connection {
    /// Ends everything that has expired, `elapsed` milliseconds after the last check. Returns the
    /// time until something expires if the client sends nothing before; zero if a request is in
    /// flight.
    pub(super) fn check(&self, now: u64, elapsed: u64) -> Duration {
        let config = self.listener.config();
        let limits = &config.limits;
        let bounds = PaceLimits::from(limits);
        let is_blocked = self.progress.is_blocked();
        let stalled = self
            .progress
            .stalled(now, || unsent(&self.socket.lock()).unwrap_or(0));
        if stalled >= limits.send_timeout.0 {
            self.close(CloseReason::SendTimeout);
        }
        self.watch.check(now, is_blocked, bounds);
        if self.closed.load(Ordering::Relaxed) != 0 {
            self.see_off(now);
            return Duration::ZERO;
        }
        if self.stage() == Stage::Http2 {
            self.streams.check_bodies(elapsed, bounds);
            let limits = (limits, config.http2.max_age.0);
            return match self.streams.check(now, is_blocked, limits) {
                Ok(_) if is_blocked => Duration::ZERO,
                Ok(left) => left,
                Err(why) => {
                    self.close(why);
                    Duration::ZERO
                }
            };
        }
        if self.stage() == Stage::Request
            && !self.is_tunnel()
            && self
                .pace
                .is_too_slow(elapsed, self.pace.is_awaited(), bounds)
        {
            self.close(CloseReason::BodyTimeout);
        }
        let stage = self.stage.load(Ordering::Relaxed);
        if stage != self.seen.load(Ordering::Relaxed) || self.seen_at.load(Ordering::Relaxed) == 0 {
            self.seen.store(stage, Ordering::Relaxed);
            self.seen_at.store(now, Ordering::Relaxed);
        }
        let (limit, why) = match self.stage() {
            Stage::Idle => (limits.idle_timeout.0, CloseReason::IdleTimeout),
            Stage::Head => (limits.header_timeout.0, CloseReason::HeaderTimeout),
            Stage::Request | Stage::Http2 => return Duration::ZERO,
        };
        let since = Duration::from_millis(now - self.seen_at.load(Ordering::Relaxed));
        if since >= limit {
            self.close_in(stage, why);
        }
        limit.saturating_sub(since)
    }

    /// Ends a connection that was closed a while ago but still waits for its client to read.
    fn see_off(&self, now: u64) {
        let since = self.closing_since.load(Ordering::Relaxed);
        if since == 0 {
            self.closing_since.store(now, Ordering::Relaxed);
            return;
        }
        let max = if self.is_going_away() {
            GOAWAY_DELAY
        } else {
            CLOSE_TIMEOUT
        };
        if Duration::from_millis(now - since) >= max {
            self.end();
        }
    }
}
