//! Permission to fetch responses of a release before it is the current one, so that the cache has
//! them when its visitors come. No client can choose a release: the permission is a secret that only
//! operators get, for one release and a short time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};

use crate::{Upstream, operate::MemberError};

/// Time for which the secret of a warm-up is valid: longer than `edgeway deploy` fetches.
pub const WARM_UP_TIME: Duration = Duration::from_mins(2);

/// A warm-up in progress.
#[derive(Debug)]
pub(crate) struct WarmUp {
    release: Arc<str>,
    /// SHA-256 of the secret: how long a comparison takes then says nothing about the secret.
    secret: [u8; 32],
    until: Instant,
    /// Number of requests that had the secret.
    requests: AtomicU64,
}

impl Upstream {
    /// Lets requests with this secret reach `release`, until [`Upstream::end_warm_up`] or for
    /// [`WARM_UP_TIME`]. Ends an earlier warm-up.
    ///
    /// # Errors
    /// When no backend of the release is in rotation.
    pub fn begin_warm_up(&self, release: &str, secret: &str) -> Result<(), MemberError> {
        self.check_release(Some(release))?;
        self.check_up(release)?;
        let warm_up = WarmUp {
            release: release.into(),
            secret: hash(secret.as_bytes()),
            until: self.shared.clock.now() + WARM_UP_TIME,
            requests: AtomicU64::new(0),
        };
        self.shared.live.warm_up.store(Some(Arc::new(warm_up)));
        Ok(())
    }

    /// Ends the warm-up, and returns the number of requests that had its secret; 0 if there was
    /// none.
    pub fn end_warm_up(&self) -> u64 {
        let ended = self.shared.live.warm_up.swap(None);
        ended.map_or(0, |ended| ended.requests.load(Ordering::Relaxed))
    }

    /// Returns true if there is a warm-up.
    pub fn is_warming_up(&self) -> bool {
        self.shared.live.warm_up.load().is_some()
    }

    /// Returns the release that a request with this secret is for; `None` if the secret is not, or
    /// no longer, that of the warm-up.
    pub fn warm_up_release(&self, secret: &[u8]) -> Option<Arc<str>> {
        let warm_up = self.shared.live.warm_up.load();
        let warm_up = warm_up.as_ref()?;
        if warm_up.secret != hash(secret) || self.shared.clock.now() >= warm_up.until {
            return None;
        }
        warm_up.requests.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&warm_up.release))
    }
}

fn hash(text: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{RELEASES, add},
        WARM_UP_TIME,
    };
    use crate::{Force, MemberError, tests::Bench};

    #[test]
    fn only_the_secret_opens_a_release_and_not_for_long() {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ {RELEASES} }}"));
        let down = upstream.begin_warm_up("two", "s");
        assert!(matches!(down, Err(MemberError::ReleaseDown(_))));
        assert!(!upstream.is_warming_up());
        assert_eq!(upstream.warm_up_release(b"s"), None);
        add(&upstream, 4000, "one").unwrap();
        add(&upstream, 4001, "two").unwrap();
        upstream.switch_release("one", Force::No).unwrap();

        upstream.begin_warm_up("two", "secret").unwrap();
        assert_eq!(upstream.warm_up_release(b"secret").as_deref(), Some("two"));
        for wrong in [&b""[..], b"secre", b"secrets", b"Secret", b"two"] {
            assert_eq!(upstream.warm_up_release(wrong), None);
        }
        // A new secret replaces the one before.
        upstream.begin_warm_up("two", "other").unwrap();
        assert_eq!(upstream.warm_up_release(b"secret"), None);
        assert_eq!(upstream.warm_up_release(b"other").as_deref(), Some("two"));
        assert_eq!(upstream.current_release().as_deref(), Some("one"));
        assert_eq!(upstream.end_warm_up(), 1);
        assert_eq!(upstream.warm_up_release(b"other"), None);
        assert_eq!(upstream.end_warm_up(), 0);

        upstream.begin_warm_up("two", "late").unwrap();
        bench.clock.advance(WARM_UP_TIME);
        assert_eq!(upstream.warm_up_release(b"late"), None);
    }
}
