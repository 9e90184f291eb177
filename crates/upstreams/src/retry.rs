//! Retries: a pure rule, and a budget for all requests together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Upstream, backend::BackendId};
use crate::config::model::{RetryConfig, RetryOn};

/// Failure of an attempt, as a retry sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection: nothing was sent.
    Connect,
    /// Reset or end before the first byte of a response.
    Reset,
    /// Response with this status, none of which was forwarded.
    Status(u16),
    /// Response with 503 and `Connection: close`, as an app sends that is stopping.
    Stopping { is_pooled: bool },
    /// Timeout exceeded. Never retried: the backend may still work on the request.
    Timeout,
}

/// Returns true if a failed request may be retried, apart from the budget. `tries` is the number of
/// attempts so far; `replayable` is true if all of the body that was read is still available.
///
/// Default-deny: failures that the policy does not list are not retried. A request that may change
/// something at the backend is retried only if it never reached it.
pub fn may_retry(
    policy: &RetryConfig,
    tries: u32,
    failure: AttemptFailure,
    is_idempotent: bool,
    replayable: bool,
) -> bool {
    let listed = match failure {
        AttemptFailure::Stopping { .. } if policy.on.contains(&RetryOn::Status503) => {
            RetryOn::Status503
        }
        AttemptFailure::Connect | AttemptFailure::Stopping { .. } => RetryOn::Connect,
        AttemptFailure::Reset => RetryOn::Reset,
        AttemptFailure::Status(500) => RetryOn::Status500,
        AttemptFailure::Status(502) => RetryOn::Status502,
        AttemptFailure::Status(503) => RetryOn::Status503,
        AttemptFailure::Status(504) => RetryOn::Status504,
        AttemptFailure::Status(_) | AttemptFailure::Timeout => return false,
    };
    tries < policy.attempts
        && replayable
        && policy.on.contains(&listed)
        && (is_idempotent || failure == AttemptFailure::Connect)
}

impl Upstream {
    /// Takes one retry from the budget; returns false if the budget is used up.
    pub fn retry_allowed(&self) -> bool {
        let budget = &self.shared.live.budget;
        let allowed = budget.take(self.retry.budget.0 / 100.0, self.shared.now());
        if allowed {
            self.shared.metrics.retries.inc();
        }
        allowed
    }

    /// Returns true if a request may be retried: by its policy and by the budget, from which it
    /// then takes one. `tries` is the number of attempts so far. `replayable` is true if all of the
    /// body that was read is still available.
    ///
    /// A refused connection takes nothing from the budget: the backend was sent nothing, the
    /// attempt cost no more than connecting, and the backend is out after three of them. Nor does an
    /// idle connection that an app was ending: each is met once.
    pub fn retry(
        &self,
        tries: u32,
        failure: AttemptFailure,
        is_idempotent: bool,
        replayable: bool,
    ) -> bool {
        if !may_retry(&self.retry, tries, failure, is_idempotent, replayable) {
            return false;
        }
        if matches!(
            failure,
            AttemptFailure::Connect | AttemptFailure::Stopping { is_pooled: true }
        ) {
            self.shared.metrics.retries.inc();
            return true;
        }
        self.retry_allowed()
    }

    /// Returns true if a backend is in rotation that was not `tried`.
    pub fn has_other(&self, tried: impl Fn(BackendId) -> bool) -> bool {
        let now = self.shared.now();
        let members = self.members.load();
        let mut others = members.list.iter().filter(|backend| !tried(backend.id()));
        others.any(|backend| backend.state.is_in_rotation(now))
    }
}

const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);
/// Retries that are always allowed within one window.
const MIN_BUDGET: u64 = 3;

/// Budget of retries as a share of requests over the last ten seconds.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    slots: [SecondSlot; SLOTS],
}

/// Second of the window in one word: its number (20 bits), requests (26 bits), retries (18 bits).
///
/// Invariant: the counts belong to the second stored beside them, since both are replaced
/// atomically. Numbers repeat after twelve days, which is longer than any count is used.
#[derive(Debug, Default)]
struct SecondSlot(AtomicU64);

const REQUEST_BITS: u32 = 26;
const RETRY_BITS: u32 = 18;
const MAX_REQUESTS: u64 = (1 << REQUEST_BITS) - 1;
const MAX_RETRIES: u64 = (1 << RETRY_BITS) - 1;
const SECONDS: u64 = (1 << (64 - REQUEST_BITS - RETRY_BITS)) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SecondCounts {
    second: u64,
    requests: u64,
    retries: u64,
}

impl SecondCounts {
    fn unpack(word: u64) -> Self {
        Self {
            second: word >> (REQUEST_BITS + RETRY_BITS),
            requests: (word >> RETRY_BITS) & MAX_REQUESTS,
            retries: word & MAX_RETRIES,
        }
    }

    fn pack(self) -> u64 {
        self.second << (REQUEST_BITS + RETRY_BITS) | self.requests << RETRY_BITS | self.retries
    }

    /// Returns these counts if they belong to `second`, zero counts otherwise.
    fn in_second(self, second: u64) -> Self {
        if self.second == second {
            return self;
        }
        Self {
            second,
            requests: 0,
            retries: 0,
        }
    }
}

impl SecondSlot {
    fn update(&self, second: u64, change: impl Fn(SecondCounts) -> SecondCounts) {
        // Never fails: the closure always returns a new word.
        let _before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(change(SecondCounts::unpack(word).in_second(second)).pack())
            });
    }
}

impl RetryBudget {
    /// Counts one request; `now` in nanoseconds of the epoch.
    pub(super) fn request(&self, now: u64) {
        let (second, slot) = self.slot(now);
        slot.update(second, |counts| SecondCounts {
            requests: (counts.requests + 1).min(MAX_REQUESTS),
            ..counts
        });
    }

    /// Takes one retry if `share` of the requests leaves one. Two concurrent calls may both get the
    /// last one.
    pub(super) fn take(&self, share: f64, now: u64) -> bool {
        let (requests, retries) = self.window(now);
        if retries >= MIN_BUDGET.max(allowed(requests, share)) {
            return false;
        }
        let (second, slot) = self.slot(now);
        slot.update(second, |counts| SecondCounts {
            retries: (counts.retries + 1).min(MAX_RETRIES),
            ..counts
        });
        true
    }

    /// Returns requests and retries of the last ten seconds.
    fn window(&self, now: u64) -> (u64, u64) {
        let second = second(now);
        let first = second.saturating_sub(SLOTS as u64 - 1);
        self.slots
            .iter()
            .map(|slot| SecondCounts::unpack(slot.0.load(Ordering::Relaxed)))
            .filter(|counts| (first..=second).contains(&counts.second))
            .fold((0, 0), |(requests, retries), counts| {
                (requests + counts.requests, retries + counts.retries)
            })
    }

    fn slot(&self, now: u64) -> (u64, &SecondSlot) {
        let second = second(now);
        let index = usize::try_from(second % SLOTS as u64).unwrap_or(0);
        (second, &self.slots[index])
    }
}

fn second(now: u64) -> u64 {
    let slot = u64::try_from(SLOT.as_nanos()).unwrap_or(u64::MAX);
    // From 1, so that an untouched slot belongs to no second in use.
    (now / slot) % SECONDS + 1
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count below 2^30"
)]
fn allowed(requests: u64, share: f64) -> u64 {
    (requests as f64 * share) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NANOS: u64 = 1_000_000_000;

    fn policy(attempts: u32, on: &[RetryOn]) -> RetryConfig {
        RetryConfig {
            attempts,
            on: on.to_vec(),
            ..RetryConfig::default()
        }
    }

    const fn stopping(is_pooled: bool) -> AttemptFailure {
        AttemptFailure::Stopping { is_pooled }
    }

    #[test]
    fn a_stopping_app_counts_as_no_connection_or_as_its_status() {
        for (on, is_retried) in [
            (&[RetryOn::Connect][..], true),
            (&[RetryOn::Status503], true),
            (&[RetryOn::Reset, RetryOn::Status502], false),
            (&[], false),
        ] {
            let may = may_retry(&policy(2, on), 1, stopping(true), true, true);
            assert_eq!(may, is_retried, "{on:?}");
        }
    }

    #[test]
    fn only_listed_failures_are_retried() {
        let default = RetryConfig::default();
        let cases = [
            // failure, idempotent, replayable, retried
            (AttemptFailure::Connect, true, true, true),
            (AttemptFailure::Connect, false, true, true),
            (AttemptFailure::Connect, true, false, false),
            (AttemptFailure::Reset, true, true, true),
            (AttemptFailure::Reset, false, true, false),
            (AttemptFailure::Reset, true, false, false),
            (AttemptFailure::Status(502), true, true, false),
            (AttemptFailure::Timeout, true, true, false),
            (stopping(true), true, true, true),
            (stopping(false), true, true, true),
            (stopping(true), false, true, false),
            (stopping(true), true, false, false),
        ];
        for (failure, idempotent, replayable, again) in cases {
            let may = may_retry(&default, 1, failure, idempotent, replayable);
            assert_eq!(may, again, "{failure:?} {idempotent} {replayable}");
        }
        assert!(
            !may_retry(&default, 2, AttemptFailure::Connect, true, true),
            "two tries in all"
        );
    }

    #[test]
    fn statuses_are_retried_where_the_policy_allows_it_and_never_for_a_post() {
        let policy = policy(3, &[RetryOn::Status503]);
        assert!(may_retry(
            &policy,
            2,
            AttemptFailure::Status(503),
            true,
            true
        ));
        assert!(!may_retry(
            &policy,
            1,
            AttemptFailure::Status(503),
            false,
            true
        ));
        assert!(!may_retry(
            &policy,
            1,
            AttemptFailure::Status(502),
            true,
            true
        ));
        assert!(!may_retry(
            &policy,
            1,
            AttemptFailure::Status(500),
            true,
            true
        ));
        assert!(!may_retry(&policy, 1, AttemptFailure::Connect, true, true));
    }

    #[test]
    fn three_retries_are_always_there_and_a_tenth_of_what_comes() {
        let budget = RetryBudget::default();
        let taken = |now| (0..1000).filter(|_| budget.take(0.1, now)).count();
        assert_eq!(taken(NANOS), 3);
        for _ in 0..200 {
            budget.request(2 * NANOS);
        }
        assert_eq!(taken(2 * NANOS), 17, "20 of 200, 3 of which are gone");
        assert_eq!(
            taken(11 * NANOS),
            3,
            "the 3 of second 1 have left the window"
        );
        assert_eq!(
            taken(12 * NANOS),
            0,
            "no requests in it any more, and 3 retries"
        );
        assert_eq!(taken(100 * NANOS), 3);
    }

    #[test]
    fn a_slot_keeps_what_fits() {
        let counts = SecondCounts {
            second: SECONDS,
            requests: MAX_REQUESTS,
            retries: MAX_RETRIES,
        };
        assert_eq!(SecondCounts::unpack(counts.pack()), counts);
    }

    proptest! {
        #[test]
        fn retries_stay_below_their_share_in_any_window(
            steps in proptest::collection::vec((0u64..400, any::<bool>()), 1..2000)
        ) {
            let budget = RetryBudget::default();
            let (mut now, mut requests, mut retries) = (NANOS, Vec::new(), Vec::new());
            for (millis, retry) in steps {
                now += millis * NANOS / 1000;
                let within = |times: &Vec<u64>| {
                    times.iter().filter(|at| now / NANOS - **at / NANOS < 10).count()
                };
                if !retry {
                    budget.request(now);
                    requests.push(now);
                    continue;
                }
                let room = within(&retries) < 3.max(within(&requests) / 10);
                prop_assert_eq!(budget.take(0.1, now), room);
                if room {
                    retries.push(now);
                }
            }
        }
    }
}
