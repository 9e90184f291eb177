//! Lease of a place on a backend for one request, and the outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pingora::{Error, ErrorType};

use super::{
    backend::Backend,
    eject::{Cause, nanos},
    upstream_zone::Shared,
};

/// Place on a backend. Dropping it returns the place, whatever happened.
#[must_use = "dropping a lease releases its place"]
pub struct Lease {
    pub backend: Arc<Backend>,
    /// Nanoseconds of the upstream's epoch.
    pub(super) since: u64,
    pub(super) by_cookie: bool,
    /// True if the lease counts as a stream, and not as a place of `max_in_flight`.
    is_stream: bool,
}

/// Outcome of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response, `first_byte` after the attempt began.
    Ok { first_byte: Duration },
    /// No connection: refused, unreachable, or not established in time.
    ConnectFailed,
    /// Connection closed before the response was complete.
    Reset,
    /// Timeout exceeded.
    Timeout,
    /// A response with this status whose time to first byte is unknown, or which the gateway did
    /// not forward: 502, 503 and 504 count as failures.
    Status(u16),
    /// Client closed or stopped waiting first. Reveals nothing about the backend but the time so far.
    ClientGone,
    /// Connection had ended before the request came over it, the backend refused its stream, or a
    /// tunnel broke. Reveals nothing about the backend.
    Stale,
}

/// Status codes by which a backend reports that it cannot serve.
const FAILURE_STATUSES: [u16; 3] = [502, 503, 504];

impl Lease {
    /// Creates the lease of a place that was reserved on `backend`.
    pub(super) fn new(backend: Arc<Backend>, since: u64, by_cookie: bool) -> Self {
        Self {
            backend,
            since,
            by_cookie,
            is_stream: false,
        }
    }

    /// Returns the time at which the place was taken: at once, or after waiting for it.
    pub fn since(&self) -> Instant {
        self.backend.shared.live.instant(self.since)
    }

    /// Records that the whole of a request was sent: right after the place was taken, or later,
    /// behind its body.
    #[inline]
    pub fn asked(&self, is_later: bool) {
        let Backend { state, shared, .. } = &*self.backend;
        let time = if is_later { shared.now() } else { self.since };
        state.silence.asked(&state.latency, time);
    }

    /// Records that the headers of a response have arrived.
    #[inline]
    pub fn heard(&self) {
        self.backend.state.silence.heard();
    }

    /// Turns the lease into a stream: the response has begun and lasts as long as both sides like.
    /// The lease returns its place and counts among the backend's streams. `false` if the backend
    /// has as many as allowed.
    pub fn begin_stream(&mut self) -> bool {
        let Backend { state, shared, .. } = &*self.backend;
        if !self.is_stream && state.begin_stream(shared.max_streams) {
            self.is_stream = true;
            shared.live.queue.wake();
        }
        self.is_stream
    }

    /// Records that there was no connection. One for which the gateway had no socket says nothing of
    /// the backend.
    pub fn not_connected(self, error: &Error) {
        if *error.root_etype() != ErrorType::SocketError {
            self.finish(Outcome::ConnectFailed);
        }
    }

    /// Records the outcome of the attempt: updates latency, passive health and metrics, and returns
    /// the place.
    pub fn finish(self, outcome: Outcome) {
        let backend = &*self.backend;
        let (state, shared, metrics) = (&backend.state, &backend.shared, &backend.metrics);
        let fail = |cause, now| {
            if shared.failure(state, cause, now) {
                metrics.ejections.inc();
            }
        };
        match outcome {
            Outcome::Timeout | Outcome::ClientGone | Outcome::Stale => {}
            Outcome::Ok { .. } | Outcome::ConnectFailed | Outcome::Reset | Outcome::Status(_) => {
                state.silence.heard();
            }
        }
        match outcome {
            Outcome::Ok { first_byte } => {
                metrics.ok.inc();
                let seconds = first_byte.as_secs_f64();
                shared.metrics.first_byte.observe(seconds);
                if let Some(histogram) = &backend.first_byte {
                    histogram.seconds.observe(seconds);
                }
                state
                    .latency
                    .sample(first_byte, self.since.saturating_add(nanos(first_byte)));
                Shared::success(state);
            }
            Outcome::Status(status) if !FAILURE_STATUSES.contains(&status) => {
                metrics.ok.inc();
                Shared::success(state);
            }
            Outcome::Status(_) => {
                metrics.bad_status.inc();
                fail(Cause::Errors, shared.now());
            }
            Outcome::ConnectFailed => {
                metrics.connect_failed.inc();
                fail(Cause::Refused, shared.now());
            }
            Outcome::Reset => {
                metrics.reset.inc();
                fail(Cause::Errors, shared.now());
            }
            Outcome::Timeout => {
                metrics.timeout.inc();
                // A stream may be silent for as long as nothing happens.
                if !self.is_stream {
                    let now = shared.now();
                    self.sample_elapsed(now);
                    fail(Cause::Errors, now);
                }
            }
            Outcome::ClientGone => {
                metrics.client_gone.inc();
                self.sample_elapsed(shared.now());
            }
            Outcome::Stale => metrics.stale.inc(),
        }
    }

    /// Records the time so far as a lower limit: only useful if it exceeds the average.
    fn sample_elapsed(&self, now: u64) {
        let elapsed = Duration::from_nanos(now.saturating_sub(self.since));
        let latency = &self.backend.state.latency;
        if latency.average().is_none_or(|usual| usual < elapsed) {
            latency.sample(elapsed, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_stream {
            self.backend.state.end_stream();
        } else {
            self.backend.state.release();
        }
        self.backend.shared.live.queue.wake();
    }
}

edgeway_base::opaque_debug!(Lease, backend);
