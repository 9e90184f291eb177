//! Compares passwords with slow hashes: a few at a time, and the same credentials only once in a
//! while.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{
    credential::PasswordHash,
    recent_values::{Fingerprint, RecentValues},
};
use edgeway_core::zones::Zone;
use edgeway_net::fair_queue::FairQueue;
use parking_lot::Mutex;

/// Time for which successful credentials need no new comparison.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Maximum number of remembered credentials.
const MAX_REMEMBERED: usize = 16_384;

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ComparisonResult {
    Right,
    Wrong,
    /// Too many comparisons are waiting.
    Busy,
}

/// Credentials to compare.
pub(super) struct Credentials<'a> {
    pub(super) shown: Fingerprint,
    pub(super) hash: &'a Arc<PasswordHash>,
    pub(super) password: Vec<u8>,
    /// True if a user of that name exists.
    pub(super) is_somebody: bool,
    pub(super) client: IpAddr,
    pub(super) now: Instant,
}

/// Comparisons of all routes and clients. Outlives reloads and is private to this filter.
pub(super) struct Comparisons {
    /// Time at which credentials were last found right.
    known: RecentValues<Instant>,
    turns: Arc<FairQueue>,
    /// Credentials being compared; requests with the same credentials wait for the result.
    in_flight: Mutex<HashMap<Fingerprint, Arc<PendingComparison>>>,
}

/// Result of one comparison, once it is over.
type PendingComparison = tokio::sync::Mutex<Option<ComparisonResult>>;

/// A participant in the comparison of some credentials; the last one to leave removes it.
struct Participant<'a> {
    checks: &'a Comparisons,
    shown: Fingerprint,
    comparison: Arc<PendingComparison>,
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.checks.in_flight.lock();
        // The map holds one reference and this participant another.
        if Arc::strong_count(&self.comparison) <= 2 {
            in_flight.remove(&self.shown);
        }
    }
}

impl Zone for Comparisons {}

impl Default for Comparisons {
    fn default() -> Self {
        // Half of the cores: the others continue to serve.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            known: RecentValues::new(MAX_REMEMBERED),
            turns: FairQueue::new((cores / 2).max(1)),
            in_flight: Mutex::default(),
        }
    }
}

impl Comparisons {
    /// Returns a keyed hash of these credentials and this list of users, which reveals neither.
    pub(super) fn fingerprint(&self, list: &[u8], name: &str, password: &[u8]) -> Fingerprint {
        self.known.fingerprint([list, name.as_bytes(), password])
    }

    /// Compares the credentials, unless they were right a short time ago. Waiting clients take
    /// turns, so that no client starves the others.
    ///
    /// For an unknown user (`is_somebody` is false) the comparison takes as long, and success is
    /// not remembered: a fast second response would reveal another user's password.
    pub(super) async fn verify(&self, credentials: Credentials<'_>) -> ComparisonResult {
        let Credentials { shown, now, .. } = credentials;
        if self.is_known(shown, now) {
            return ComparisonResult::Right;
        }
        let joined = self.join(shown);
        let mut outcome = joined.comparison.lock().await;
        if let Some(compared) = *outcome {
            // Another request with the same credentials was first.
            return compared;
        }
        let Some(turn) = self.turns.next(credentials.client).await else {
            return ComparisonResult::Busy;
        };
        let hash = Arc::clone(credentials.hash);
        let password = credentials.password;
        // A comparison continues when its client has disconnected, and keeps its turn.
        let compared = tokio::task::spawn_blocking(move || {
            let is_right = hash.verify(&password);
            drop(turn);
            is_right
        });
        let compared = match compared.await {
            Ok(true) if credentials.is_somebody => {
                self.known.insert(shown, now);
                ComparisonResult::Right
            }
            Ok(_) => ComparisonResult::Wrong,
            Err(error) => {
                log::warn!(error:%; "password not verified");
                ComparisonResult::Wrong
            }
        };
        *outcome = Some(compared);
        compared
    }

    fn join(&self, shown: Fingerprint) -> Participant<'_> {
        let mut in_flight = self.in_flight.lock();
        let comparison = Arc::clone(in_flight.entry(shown).or_default());
        Participant {
            checks: self,
            shown,
            comparison,
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
    use edgeway_base::clock::Clock;

    fn hash(cost: u32) -> Arc<PasswordHash> {
        let text = bcrypt::hash("wonderland", cost).unwrap();
        Arc::new(text.parse().unwrap())
    }

    fn credentials<'a>(
        shown: Fingerprint,
        hash: &'a Arc<PasswordHash>,
        password: &[u8],
    ) -> Credentials<'a> {
        Credentials {
            shown,
            hash,
            password: password.to_vec(),
            is_somebody: true,
            client: [192, 0, 2, 1].into(),
            now: Clock::test().now(),
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_frees_no_turn_before_its_comparison_is_over() {
        let checks = Comparisons::default();
        let turns = checks.turns.free();
        let (hash, shown) = (hash(10), checks.fingerprint(b"", "alice", b"x"));
        let compared = checks.verify(credentials(shown, &hash, b"x"));
        let left = tokio::time::timeout(Duration::ZERO, compared).await;
        assert!(left.is_err());
        assert_eq!(checks.turns.free(), turns - 1);
        assert!(checks.in_flight.lock().is_empty());
        while checks.turns.free() < turns {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_same_credentials_are_compared_once() {
        let checks = Comparisons::default();
        let hash = hash(8);
        for (password, expected) in [
            (&b"x"[..], ComparisonResult::Wrong),
            (b"wonderland", ComparisonResult::Right),
        ] {
            let shown = checks.fingerprint(b"", "alice", password);
            // Far more requests than one address has a share for.
            let all = (0..100).map(|_| checks.verify(credentials(shown, &hash, password)));
            let all = futures_util::future::join_all(all).await;
            assert!(all.iter().all(|compared| *compared == expected), "{all:?}");
            assert!(checks.in_flight.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn the_password_of_a_user_is_not_remembered_for_an_unknown_name() {
        let checks = Comparisons::default();
        let hash = hash(4);
        let shown = checks.fingerprint(b"", "carol", b"wonderland");
        for (is_somebody, expected) in [
            (false, ComparisonResult::Wrong),
            (true, ComparisonResult::Right),
        ] {
            let credentials = Credentials {
                is_somebody,
                ..credentials(shown, &hash, b"wonderland")
            };
            let now = credentials.now;
            assert_eq!(checks.verify(credentials).await, expected);
            assert_eq!(checks.is_known(shown, now), is_somebody);
        }
    }
}
