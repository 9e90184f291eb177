//! A request's place at a backend, and what comes of it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backend::Backend,
    eject::{Cause, nanos},
    live::Shared,
};

/// A place at a backend. Dropping it gives the place back, whatever happened.
#[must_use = "dropping a lease gives its place back"]
pub struct Lease {
    backend: Arc<Backend>,
    /// Nanoseconds of the upstream's epoch.
    since: u64,
    by_cookie: bool,
    /// Among the streams, and no place of `max_in_flight`.
    is_stream: bool,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, `first_byte` after the try began.
    Ok { first_byte: Duration },
    /// No connection: refused, unreachable, or not made in time.
    ConnectFailed,
    /// The connection broke before the answer was whole.
    Reset,
    /// A bound of time was passed.
    Timeout,
    /// An answer with this status whose first-byte time is not known, or which the
    /// gateway did not pass on: 502, 503 and 504 count as failures.
    Status(u16),
    /// The client left first. Says nothing of the backend but how long it took so far.
    ClientGone,
}

/// Statuses by which a backend says that it cannot serve.
const BAD: [u16; 3] = [502, 503, 504];

impl Lease {
    /// Of a place that was reserved at `backend`.
    pub(super) fn new(backend: Arc<Backend>, since: u64, by_cookie: bool) -> Self {
        Self {
            backend,
            since,
            by_cookie,
            is_stream: false,
        }
    }

    /// When the place was got: at once, or after waiting for it.
    pub fn since(&self) -> Instant {
        self.backend.shared.live.instant(self.since)
    }

    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(super) fn came_by_cookie(&self) -> bool {
        self.by_cookie
    }

    /// The response has begun and goes on for as long as both sides like: the lease gives its
    /// place back and counts among the backend's streams. `false` if there are as many as may
    /// be.
    pub fn begin_stream(&mut self) -> bool {
        let Backend { state, shared, .. } = &*self.backend;
        if !self.is_stream && state.begin_stream(shared.max_streams) {
            self.is_stream = true;
            shared.live.queue.wake();
        }
        self.is_stream
    }

    /// Tells what came of the try: feeds latency, passive health and metrics, and gives
    /// the place back.
    pub fn finish(self, outcome: Outcome) {
        let Backend {
            state,
            shared,
            metrics,
            ..
        } = &*self.backend;
        let fail = |cause, now| {
            if shared.failure(state, cause, now) {
                metrics.ejections.inc();
            }
        };
        match outcome {
            Outcome::Ok { first_byte } => {
                metrics.ok.inc();
                let seconds = first_byte.as_secs_f64();
                shared.metrics.first_byte.observe(seconds);
                state
                    .latency
                    .sample(first_byte, self.since.saturating_add(nanos(first_byte)));
                Shared::success(state);
            }
            Outcome::Status(status) if !BAD.contains(&status) => {
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
                let now = shared.now();
                self.sample_elapsed(now);
                fail(Cause::Errors, now);
            }
            Outcome::ClientGone => {
                metrics.client_gone.inc();
                self.sample_elapsed(shared.now());
            }
        }
    }

    /// It took at least so long: worth knowing only if that is more than usual.
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

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.backend).finish()
    }
}
