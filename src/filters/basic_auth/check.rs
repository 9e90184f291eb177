//! Compares passwords with slow hashes: a few at once, and each only once in a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    base::{
        credential::PasswordHash,
        recent::{Fingerprint, Recent},
    },
    zones::Zone,
};

/// So long who was recognised need not be compared again.
const REMEMBERED: Duration = Duration::from_mins(5);
/// So many are remembered.
const MOST: usize = 16_384;
/// So many may wait for their comparison.
const MOST_WAITING: usize = 64;

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Right,
    Wrong,
    /// Too many are waiting.
    Busy,
}

/// Everybody's comparisons. Lives on over reloads, and is nobody else's to know.
pub(super) struct Checks {
    /// When credentials were right last.
    known: Recent<Instant>,
    turns: Semaphore,
    waiting: AtomicUsize,
}

impl Zone for Checks {}

impl Default for Checks {
    fn default() -> Self {
        // Half of the cores: the others go on serving.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            known: Recent::new(MOST),
            turns: Semaphore::new((cores / 2).max(1)),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// Counts one who waits, to the end of its wait however it ends.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Checks {
    /// What stands for these credentials and this list of users, and tells nothing of them.
    pub(super) fn fingerprint(&self, list: &[u8], name: &str, password: &[u8]) -> Fingerprint {
        self.known.fingerprint([list, name.as_bytes(), password])
    }

    /// Compares, unless these credentials were right a short time ago.
    pub(super) async fn verify(
        &self,
        shown: Fingerprint,
        hash: &Arc<PasswordHash>,
        password: Vec<u8>,
        now: Instant,
    ) -> Compared {
        if self.is_known(shown, now) {
            return Compared::Right;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            drop(Waits(&self.waiting));
            return Compared::Busy;
        }
        let _waits = Waits(&self.waiting);
        let Ok(_turn) = self.turns.acquire().await else {
            return Compared::Busy;
        };
        // Another request of the same page was first.
        if self.is_known(shown, now) {
            return Compared::Right;
        }
        let hash = Arc::clone(hash);
        let compared = tokio::task::spawn_blocking(move || hash.verify(&password)).await;
        match compared {
            Ok(true) => {
                self.known.insert(shown, now);
                Compared::Right
            }
            Ok(false) => Compared::Wrong,
            Err(error) => {
                log::warn!(error:%; "a password could not be compared");
                Compared::Wrong
            }
        }
    }

    fn is_known(&self, shown: Fingerprint, now: Instant) -> bool {
        let since = self.known.get(shown);
        since.is_some_and(|since| now.saturating_duration_since(since) < REMEMBERED)
    }
}
