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
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Zone for Checks {}

impl Default for Checks {
    fn default() -> Self {
        // Half of the cores: the others go on serving.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            known: Recent::new(MOST),
            turns: Arc::new(Semaphore::new((cores / 2).max(1))),
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
    ///
    /// For nobody (`is_somebody` is false) it takes as long, and what was right is not
    /// remembered: a second answer that came at once would tell somebody's password.
    pub(super) async fn verify(
        &self,
        shown: Fingerprint,
        hash: &Arc<PasswordHash>,
        password: Vec<u8>,
        is_somebody: bool,
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
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Compared::Busy;
        };
        // Another request of the same page was first.
        if self.is_known(shown, now) {
            return Compared::Right;
        }
        let hash = Arc::clone(hash);
        // A comparison goes on when its client has left, and so does its turn.
        let compared = tokio::task::spawn_blocking(move || {
            let is_right = hash.verify(&password);
            drop(turn);
            is_right
        });
        match compared.await {
            Ok(true) if is_somebody => {
                self.known.insert(shown, now);
                Compared::Right
            }
            Ok(_) => Compared::Wrong,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    fn hash(cost: u32) -> Arc<PasswordHash> {
        let text = bcrypt::hash("wonderland", cost).unwrap();
        Arc::new(text.parse().unwrap())
    }

    #[tokio::test]
    async fn a_client_that_leaves_frees_no_turn_before_its_comparison_is_over() {
        let checks = Checks::default();
        let (turns, now) = (checks.turns.available_permits(), Clock::test().now());
        let (hash, shown) = (hash(10), checks.fingerprint(b"", "alice", b"x"));
        let compared = checks.verify(shown, &hash, b"x".to_vec(), true, now);
        let left = tokio::time::timeout(Duration::ZERO, compared).await;
        assert!(left.is_err());
        assert_eq!(checks.turns.available_permits(), turns - 1);
        assert_eq!(checks.waiting.load(Ordering::Relaxed), 0);
        let all = u32::try_from(turns).unwrap();
        drop(checks.turns.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn somebodys_password_is_not_remembered_for_nobody() {
        let checks = Checks::default();
        let (hash, now) = (hash(4), Clock::test().now());
        let shown = checks.fingerprint(b"", "carol", b"wonderland");
        for (is_somebody, expected) in [(false, Compared::Wrong), (true, Compared::Right)] {
            let password = b"wonderland".to_vec();
            let compared = checks.verify(shown, &hash, password, is_somebody, now);
            assert_eq!(compared.await, expected);
            assert_eq!(checks.is_known(shown, now), is_somebody);
        }
    }
}
