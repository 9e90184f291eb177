//! Keys whose answers are not kept, remembered for a while: their requests do not wait for
//! one another, since none of them will leave an answer for the next.

use std::time::{Duration, Instant};

use super::key::Key;
use crate::base::recent::Recent;

/// How many are remembered.
const MOST: usize = 65_536;

/// For how long. Longer would only cost collapsing where an answer becomes fit to be kept.
const LASTS: Duration = Duration::from_secs(30);

/// The keys, each with when it is forgotten.
pub struct Passes(Recent<Instant>);

impl Default for Passes {
    fn default() -> Self {
        Self(Recent::new(MOST))
    }
}

impl Passes {
    pub fn contains(&self, key: &Key, now: Instant) -> bool {
        let of = self.0.fingerprint([key.as_bytes()]);
        self.0.get(of).is_some_and(|until| now < until)
    }

    /// An answer to `key` was not kept.
    pub fn insert(&self, key: &Key, now: Instant) {
        let of = self.0.fingerprint([key.as_bytes()]);
        self.0.insert(of, now + LASTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn a_key_is_remembered_for_a_while() {
        let clock = Clock::test();
        let passes = Passes::default();
        let key = |path: &[u8]| Key::new("http", "a", path, None, b"");
        passes.insert(&key(b"/a"), clock.now());
        assert!(passes.contains(&key(b"/a"), clock.now()));
        assert!(!passes.contains(&key(b"/b"), clock.now()));
        clock.advance(LASTS);
        assert!(!passes.contains(&key(b"/a"), clock.now()));
    }
}
