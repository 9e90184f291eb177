//! Compares passwords with slow hashes: a few at once, and each only once in a while.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ring::hmac;
use tokio::sync::Semaphore;

use crate::{base::credential::PasswordHash, zones::Zone};

/// So long who was recognised need not be compared again.
const REMEMBERED: Duration = Duration::from_mins(5);
/// So many are remembered in each shard; beyond it the shard forgets all of them.
const MOST: usize = 1024;
const SHARDS: usize = 16;
/// So many may wait for their comparison.
const MOST_WAITING: usize = 64;

type Fingerprint = [u8; 32];

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
    /// Of this process: what is remembered can be computed by no other.
    key: hmac::Key,
    known: [Mutex<HashMap<Fingerprint, Instant>>; SHARDS],
    turns: Semaphore,
    waiting: AtomicUsize,
}

impl Zone for Checks {}

impl Default for Checks {
    fn default() -> Self {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).unwrap_or_else(|_| {
            log::warn!("the system has no random bits; weaker ones are used");
            let words = std::array::from_fn::<_, 32, _>(|_| fastrand::u8(..));
            hmac::Key::new(hmac::HMAC_SHA256, &words)
        });
        // Half of the cores: the others go on serving.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            key,
            known: std::array::from_fn(|_| Mutex::default()),
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
        let mut context = hmac::Context::with_key(&self.key);
        for part in [list, name.as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let tag = context.sign();
        tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    /// Compares, unless these credentials were right a short time ago.
    pub(super) async fn verify(
        &self,
        shown: Fingerprint,
        hash: &Arc<PasswordHash>,
        password: Vec<u8>,
        now: Instant,
    ) -> Compared {
        if self.is_known(&shown, now) {
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
        if self.is_known(&shown, now) {
            return Compared::Right;
        }
        let hash = Arc::clone(hash);
        let compared = tokio::task::spawn_blocking(move || hash.verify(&password)).await;
        match compared {
            Ok(true) => {
                self.remember(shown, now);
                Compared::Right
            }
            Ok(false) => Compared::Wrong,
            Err(error) => {
                log::warn!(error:%; "a password could not be compared");
                Compared::Wrong
            }
        }
    }

    fn shard(&self, shown: &Fingerprint) -> &Mutex<HashMap<Fingerprint, Instant>> {
        &self.known[usize::from(shown[0]) % SHARDS]
    }

    fn is_known(&self, shown: &Fingerprint, now: Instant) -> bool {
        let known = self.shard(shown).lock();
        let since = known.get(shown).copied();
        since.is_some_and(|since| now.saturating_duration_since(since) < REMEMBERED)
    }

    fn remember(&self, shown: Fingerprint, now: Instant) {
        let mut known = self.shard(&shown).lock();
        if known.len() >= MOST {
            known.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(shown, now);
    }
}
