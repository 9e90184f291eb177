//! Progress of a client in reading what it is sent.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

/// Progress of writes to a client's socket.
///
/// The socket records the outcome of each write. While a write waits, the task that checks
/// deadlines looks for progress: a write that was accepted, or bytes that the client's machine has
/// acknowledged. Only the latter shows a client that is slow, because the kernel accepts more only
/// when a good part of its buffer is free.
#[derive(Debug, Default)]
pub struct Progress {
    written: AtomicU64,
    is_blocked: AtomicBool,
    /// Values at the last progress, and the time of it (0: no write waited).
    seen_written: AtomicU64,
    seen_unsent: AtomicU64,
    since: AtomicU64,
}

impl Progress {
    /// Records the outcome of a write to the socket.
    #[inline]
    pub fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        self.is_blocked
            .store(outcome.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(count)) = outcome {
            // A single task writes this, so no update is lost.
            let written = self.written.load(Ordering::Relaxed);
            self.written
                .store(written.wrapping_add(*count as u64), Ordering::Relaxed);
        }
    }

    /// Returns true if a write waits for the client.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// Returns how long the client has made no progress, as of `now` (milliseconds, not 0).
    /// `unsent` returns the number of bytes that the kernel still holds.
    pub(super) fn stalled(&self, now: u64, unsent: impl FnOnce() -> u64) -> Duration {
        if !self.is_blocked() {
            self.since.store(0, Ordering::Relaxed);
            return Duration::ZERO;
        }
        let (written, unsent) = (self.written.load(Ordering::Relaxed), unsent());
        let since = self.since.load(Ordering::Relaxed);
        if since == 0
            || written != self.seen_written.load(Ordering::Relaxed)
            || unsent != self.seen_unsent.load(Ordering::Relaxed)
        {
            self.seen_written.store(written, Ordering::Relaxed);
            self.seen_unsent.store(unsent, Ordering::Relaxed);
            self.since.store(now, Ordering::Relaxed);
            return Duration::ZERO;
        }
        Duration::from_millis(now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKED: Poll<io::Result<usize>> = Poll::Pending;

    #[track_caller]
    fn check(progress: &Progress, now: u64, unsent: u64, expected: u64) {
        let stalled = progress.stalled(now, || unsent);
        assert_eq!(stalled, Duration::from_millis(expected));
    }

    #[test]
    fn a_client_that_reads_is_not_stalled_however_long_it_takes() {
        let progress = Progress::default();
        check(&progress, 100, 0, 0);
        check(&progress, 90_000, 0, 0);
        progress.wrote(&BLOCKED);
        check(&progress, 90_100, 5000, 0);
        check(&progress, 90_300, 5000, 200);
        // It acknowledges bytes, then accepts a write that fills the kernel's buffer as before.
        check(&progress, 99_000, 4999, 0);
        progress.wrote(&Poll::Ready(Ok(1)));
        progress.wrote(&BLOCKED);
        check(&progress, 99_500, 4999, 0);
        check(&progress, 100_500, 4999, 1000);
    }

    #[test]
    fn the_time_begins_when_a_write_first_waits() {
        let progress = Progress::default();
        progress.wrote(&BLOCKED);
        check(&progress, 100, 1, 0);
        check(&progress, 300, 1, 200);
        progress.wrote(&Poll::Ready(Ok(10)));
        check(&progress, 400, 1, 0);
        progress.wrote(&BLOCKED);
        check(&progress, 5000, 1, 0);
    }
}
