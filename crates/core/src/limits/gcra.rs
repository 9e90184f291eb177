//! The algorithm of rate limits: a bucket that refills evenly, stored as one point in time.
//!
//! This is the generic cell rate algorithm (ITU-T I.371). The whole state of a bucket is the time
//! at which it will be full again, its theoretical arrival time. A request of cost c moves it on by
//! c · T/N from itself or from now, whichever is later, and may pass once it then lies no further
//! ahead than a whole bucket. So in any span t at most burst + N·t/T requests pass, and exactly
//! that many if there are enough requests.
//!
//! Pure: time comes as an argument. Exact: T/N is not a whole number of nanoseconds for most rates,
//! so times are stored as nanoseconds and a fraction in Nths of one.

use std::time::Duration;

use edgeway_base::units::whole_nanos;

/// Rate and burst: `count` in each `per`, evenly, and `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    pub count: u32,
    /// Time in nanoseconds.
    per: u64,
    /// Number of requests that may come at once; also the maximum cost of one request.
    pub burst: u32,
}

/// Time at which a bucket is full again, since an epoch chosen by its owner. The default is long
/// past: a full bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tat {
    pub nanos: u64,
    /// Fraction of a nanosecond, in units of one over the quota's count.
    pub fraction: u32,
}

/// Decision on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Pass {
        /// Number of further requests that may pass right now.
        remaining: u32,
        /// Time until the bucket is full, without further requests.
        reset: Duration,
        /// Time for which to delay this request; zero unless a delay is allowed.
        wait: Duration,
    },
    Refuse {
        /// Number of requests that may still pass; less than the cost of this one.
        remaining: u32,
        reset: Duration,
        /// Time after which the same request passes, exactly, without further requests.
        retry_after: Duration,
    },
}

/// Maximum time for a bucket to fill: about 100 years.
const MAX_FILL: u128 = 100 * 365 * 86_400 * 1_000_000_000;

/// Tolerance for a bucket that is further from full than its size allows: threads that read the
/// clock one after another may arrive in the other order. Any larger excess comes from another
/// quota or another clock.
const SKEW: u64 = 1_000_000_000;

impl Quota {
    /// Builds a quota; `None` if a part of it is zero, or if the bucket would take a century to
    /// fill.
    pub fn new(count: u32, per: Duration, burst: u32) -> Option<Self> {
        let per = u64::try_from(per.as_nanos()).ok()?;
        if count == 0 || per == 0 || burst == 0 {
            return None;
        }
        let quota = Self { count, per, burst };
        let fits = quota.full() / quota.scale() < MAX_FILL && u128::from(per) < MAX_FILL;
        fits.then_some(quota)
    }

    pub fn per(&self) -> Duration {
        Duration::from_nanos(self.per)
    }

    /// Returns the part of one of `gateways`, rounded up. A request of `cost` passes a full bucket
    /// as before.
    #[must_use]
    pub fn share(&self, gateways: u32, cost: u32) -> Self {
        let part = |whole: u32| whole.div_ceil(gateways.max(1));
        Self {
            count: part(self.count),
            per: self.per,
            burst: part(self.burst).max(cost.min(self.burst)),
        }
    }

    /// Returns the time in which an empty bucket fills, rounded up to a nanosecond.
    pub fn fill(&self) -> Duration {
        self.span(self.full())
    }

    /// Returns the rate as a count per whole seconds, as headers need it; rounded if it has no such
    /// form.
    pub fn window(&self) -> (u64, u64) {
        const SECOND: u128 = 1_000_000_000;
        let (count, per) = (self.scale(), u128::from(self.per));
        // This many windows are whole seconds, unless the number is impractical.
        let times = SECOND / gcd(per, SECOND);
        let (count, seconds) = if times <= 1000 {
            (count * times, per * times / SECOND)
        } else {
            let seconds = per.div_ceil(SECOND);
            ((count * seconds * SECOND / per).max(1), seconds)
        };
        let small = |number| u64::try_from(number).unwrap_or(u64::MAX);
        (small(count), small(seconds))
    }

    /// Returns true if the quota allows a larger burst or a higher rate than `other`.
    pub fn allows_more_than(&self, other: &Self) -> bool {
        let flow = |a: &Self, b: &Self| u128::from(a.count) * u128::from(b.per);
        self.burst > other.burst || flow(self, other) > flow(other, self)
    }

    // All times below are whole numbers of Nths of a nanosecond, where N is the count. The largest
    // is 2^64 ns · 2^32, so nothing overflows 128 bits.

    pub(super) fn scale(&self) -> u128 {
        u128::from(self.count)
    }

    /// Returns a cost as time.
    pub(super) fn price(&self, cost: u32) -> u128 {
        u128::from(cost) * u128::from(self.per)
    }

    /// Returns a whole bucket as time.
    pub(super) fn full(&self) -> u128 {
        self.price(self.burst)
    }

    pub(super) fn at(&self, nanos: u64) -> u128 {
        u128::from(nanos) * self.scale()
    }

    fn read(&self, tat: Tat) -> u128 {
        // The fraction was written under another count if the configuration has changed since.
        self.at(tat.nanos) + u128::from(tat.fraction.min(self.count - 1))
    }

    fn write(&self, time: u128) -> Tat {
        Tat {
            nanos: u64::try_from(time / self.scale()).unwrap_or(u64::MAX),
            fraction: u32::try_from(time % self.scale()).unwrap_or(0),
        }
    }

    /// Rounds up: a client that waits for less would come too early.
    fn span(&self, time: u128) -> Duration {
        let nanos = time.div_ceil(self.scale());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the number of requests left in a bucket that will be full after `debt`.
    fn left(&self, debt: u128) -> u32 {
        let left = self.full().saturating_sub(debt) / u128::from(self.per);
        u32::try_from(left).unwrap_or(u32::MAX)
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Decides if a request of `cost` may pass at `now` (nanoseconds since the owner's epoch), or after
/// a delay of at most `max_delay`. Returns the decision and the bucket's new state, which a refusal
/// does not change.
///
/// A cost above the burst never passes; the configuration check reports it.
pub fn decide(
    tat: Tat,
    now: u64,
    quota: &Quota,
    cost: u32,
    max_delay: Duration,
) -> (Decision, Tat) {
    let now_units = quota.at(now);
    let delay = quota.at(whole_nanos(max_delay));
    let room = quota.full();
    let mut before = quota.read(tat).max(now_units);
    if before > now_units + room + delay + quota.at(SKEW) {
        before = now_units + room + delay;
    }
    let ahead = before + quota.price(cost) - now_units;
    if cost <= quota.burst && ahead <= room + delay {
        let wait = ahead.saturating_sub(room).div_ceil(quota.scale());
        // Delays are whole nanoseconds: the rounded-up part is not available to other requests.
        let ahead = ahead.max(if wait > 0 {
            room + wait * quota.scale()
        } else {
            0
        });
        let decision = Decision::Pass {
            remaining: quota.left(ahead),
            reset: quota.span(ahead),
            wait: Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)),
        };
        return (decision, quota.write(now_units + ahead));
    }
    let decision = Decision::Refuse {
        remaining: quota.left(before - now_units),
        reset: quota.span(before - now_units),
        retry_after: quota.span(ahead.saturating_sub(room + delay)),
    };
    (decision, quota.write(before))
}

/// Returns the bucket's state after a request that passed at `taken` returns its `cost`.
///
/// The part that has refilled since then is not returned twice, so the bound holds whatever else
/// came in between.
pub fn give_back(tat: Tat, taken: u64, now: u64, quota: &Quota, cost: u32) -> Tat {
    let since = quota.at(now.saturating_sub(taken));
    let back = quota.price(cost).saturating_sub(since);
    quota.write(quota.read(tat).saturating_sub(back))
}

impl Decision {
    pub fn passes(&self) -> bool {
        matches!(self, Self::Pass { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn quota(count: u32, per_nanos: u64, burst: u32) -> Quota {
        Quota::new(count, Duration::from_nanos(per_nanos), burst).unwrap()
    }

    proptest! {
        /// The shares together are the whole, or at most what rounding adds for each gateway.
        #[test]
        fn shares_add_up(count in 1..5000_u32, burst in 1..5000_u32, gateways in 0..50_u32) {
            let whole = quota(count, SECOND, burst);
            let share = whole.share(gateways, 1);
            let gateways = gateways.max(1);
            for (part, whole) in [(share.count, count), (share.burst, burst)] {
                let sum = part * gateways;
                prop_assert!(sum >= whole && sum < whole + gateways);
            }
            prop_assert_eq!(share.per(), whole.per());
        }
    }

    #[test]
    fn a_request_that_passes_a_full_bucket_passes_a_full_share() {
        let whole = quota(10, SECOND, 10);
        assert_eq!(whole.share(9, 5).burst, 5);
        assert_eq!(whole.share(9, 11).burst, 10);
        assert_eq!(whole.share(1, 1), whole);
    }

    /// The bound itself, over the list of all passed requests: in any span t at most burst + N·t/T,
    /// and no less than that.
    #[derive(Default)]
    struct Model(Vec<(u64, u32)>);

    impl Model {
        fn takes(&self, quota: &Quota, at: u64, cost: u32) -> bool {
            let mut sum = u128::from(cost);
            let mut fits = sum <= u128::from(quota.burst);
            for (passed, cost) in self.0.iter().rev() {
                sum += u128::from(*cost);
                let span = u128::from(at - passed);
                // In Tths, to avoid division.
                fits &= sum * u128::from(quota.per)
                    <= u128::from(quota.burst) * u128::from(quota.per)
                        + u128::from(quota.count) * span;
            }
            fits
        }
    }

    /// A bucket with a clock that the test moves.
    struct Bucket {
        quota: Quota,
        tat: Tat,
        now: u64,
    }

    impl Bucket {
        fn new(quota: Quota) -> Self {
            Self {
                quota,
                tat: Tat::default(),
                now: 1,
            }
        }

        fn peek(&self, at: u64, cost: u32, delay: Duration) -> Decision {
            decide(self.tat, at, &self.quota, cost, delay).0
        }

        fn ask(&mut self, cost: u32, delay: Duration) -> Decision {
            let (decision, tat) = decide(self.tat, self.now, &self.quota, cost, delay);
            self.tat = tat;
            decision
        }
    }

    fn nanos(span: Duration) -> u64 {
        u64::try_from(span.as_nanos()).unwrap()
    }

    fn quotas() -> impl Strategy<Value = Quota> {
        let per = prop_oneof![
            1u64..50,
            Just(SECOND),
            Just(900 * SECOND),
            1u64..u64::from(u32::MAX)
        ];
        let count = prop_oneof![1u32..20, Just(1_000_000), 1u32..=u32::MAX];
        (count, per, 1u32..40).prop_map(|(count, per, burst)| quota(count, per, burst))
    }

    /// Steps as fractions of the time in which one request refills, so that uneven rates are tested
    /// in between.
    fn steps() -> impl Strategy<Value = Vec<(u32, u32)>> {
        proptest::collection::vec((prop_oneof![Just(0u32), 0u32..3000], 1u32..6), 1..120)
    }

    proptest! {
        #[test]
        fn exactly_as_much_as_the_limit_allows_passes(quota in quotas(), steps in steps()) {
            let (mut bucket, mut model) = (Bucket::new(quota), Model::default());
            for (thousandths, cost) in steps {
                bucket.now += quota.per / u64::from(quota.count) * u64::from(thousandths) / 1000
                    + u64::from(thousandths % 3);
                let passes = bucket.ask(cost, Duration::ZERO).passes();
                prop_assert_eq!(passes, model.takes(&quota, bucket.now, cost));
                if passes {
                    model.0.push((bucket.now, cost));
                }
            }
        }

        #[test]
        fn a_client_passes_after_exactly_the_given_wait_and_not_earlier(
            quota in quotas(),
            steps in steps(),
            delay in 0u64..10 * SECOND,
        ) {
            let delay = Duration::from_nanos(delay);
            let mut bucket = Bucket::new(quota);
            for (thousandths, cost) in steps {
                let cost = cost.min(quota.burst);
                bucket.now += u64::from(thousandths);
                if let Decision::Refuse { retry_after, .. } = bucket.ask(cost, delay) {
                    let then = bucket.now + nanos(retry_after);
                    prop_assert!(bucket.peek(then, cost, delay).passes());
                    prop_assert!(!bucket.peek(then - 1, cost, delay).passes());
                }
            }
        }

        #[test]
        fn what_remains_passes_at_once_and_no_more(quota in quotas(), steps in steps()) {
            let mut bucket = Bucket::new(quota);
            for (thousandths, cost) in steps {
                bucket.now += u64::from(thousandths);
                let (Decision::Pass { remaining, reset, .. }
                | Decision::Refuse { remaining, reset, .. }) = bucket.ask(cost, Duration::ZERO);
                prop_assert!(remaining == 0 || bucket.peek(bucket.now, remaining, Duration::ZERO).passes());
                prop_assert!(!bucket.peek(bucket.now, remaining + 1, Duration::ZERO).passes());
                let full = bucket.now + nanos(reset);
                prop_assert!(bucket.peek(full, quota.burst, Duration::ZERO).passes());
            }
        }

        #[test]
        fn the_bound_holds_for_when_delayed_requests_pass(
            quota in quotas(),
            steps in steps(),
            delay in 0u64..10 * SECOND,
        ) {
            let (mut bucket, mut passed) = (Bucket::new(quota), Model::default());
            for (thousandths, cost) in steps {
                bucket.now += u64::from(thousandths);
                let decision = bucket.ask(cost.min(quota.burst), Duration::from_nanos(delay));
                if let Decision::Pass { wait, .. } = decision {
                    prop_assert!(nanos(wait) <= delay);
                    let at = bucket.now + nanos(wait);
                    prop_assert!(passed.takes(&quota, at, cost.min(quota.burst)));
                    passed.0.push((at, cost.min(quota.burst)));
                }
            }
        }

        #[test]
        fn given_back_is_as_if_never_taken(quota in quotas(), steps in steps()) {
            let mut bucket = Bucket::new(quota);
            for (thousandths, cost) in steps {
                bucket.now += u64::from(thousandths);
                let before = bucket.peek(bucket.now, 1, Duration::ZERO);
                if bucket.ask(cost, Duration::ZERO).passes() && thousandths % 2 == 0 {
                    bucket.tat = give_back(bucket.tat, bucket.now, bucket.now, &quota, cost);
                    prop_assert_eq!(bucket.peek(bucket.now, 1, Duration::ZERO), before);
                }
            }
        }

        #[test]
        fn tokens_returned_late_never_let_more_pass(
            quota in quotas(),
            first in 1u32..6,
            steps in steps(),
        ) {
            // The same requests, with and without one that is given back.
            let (mut with, mut without) = (Bucket::new(quota), Bucket::new(quota));
            let taken = with.now;
            let took = with.ask(first, Duration::ZERO).passes();
            for (thousandths, cost) in steps {
                with.now += u64::from(thousandths);
                without.now = with.now;
                // Only requests that pass in both buckets keep them comparable.
                if with.peek(with.now, cost, Duration::ZERO).passes() {
                    with.ask(cost, Duration::ZERO);
                    without.ask(cost, Duration::ZERO);
                }
            }
            if took {
                with.tat = give_back(with.tat, taken, with.now, &quota, first);
            }
            let at = quota.at(with.now);
            prop_assert!(quota.read(with.tat).max(at) >= quota.read(without.tat).max(at));
        }

        #[test]
        fn no_quota_that_is_accepted_overflows(
            count in 1u32..,
            per in 1u64..,
            burst in 1u32..,
            now in 0u64..,
            tat in 0u64..,
            fraction in 0u32..,
            cost in 0u32..,
        ) {
            if let Some(quota) = Quota::new(count, Duration::from_nanos(per), burst) {
                let tat = Tat { nanos: tat, fraction };
                decide(tat, now, &quota, cost, Duration::MAX);
                give_back(tat, now, now / 2, &quota, cost);
                quota.window();
            }
        }
    }

    #[test]
    fn odd_rates_do_not_drift() {
        for (count, per) in [(7, SECOND), (1000, 900 * SECOND), (99_991, SECOND)] {
            let mut bucket = Bucket::new(quota(count, per, 2));
            // Each request comes as soon as it may: 3 N of them take exactly 3 T.
            let mut last = 0;
            for _ in 0..3 * count + 2 {
                if let Decision::Refuse { retry_after, .. } = bucket.ask(1, Duration::ZERO) {
                    bucket.now += nanos(retry_after);
                    assert!(bucket.ask(1, Duration::ZERO).passes());
                }
                last = bucket.now;
            }
            assert_eq!(last - 1, 3 * per, "{count}");
        }
    }

    #[test]
    fn five_a_minute_come_at_once_and_then_one_each_twelve_seconds() {
        let mut bucket = Bucket::new(quota(5, 60 * SECOND, 5));
        for left in (0..5).rev() {
            let decision = bucket.ask(1, Duration::ZERO);
            assert!(matches!(decision, Decision::Pass { remaining, .. } if remaining == left));
        }
        assert_eq!(
            bucket.ask(1, Duration::ZERO),
            Decision::Refuse {
                remaining: 0,
                reset: Duration::from_mins(1),
                retry_after: Duration::from_secs(12),
            }
        );
        bucket.now += 12 * SECOND;
        assert!(bucket.ask(1, Duration::ZERO).passes());
        assert!(!bucket.ask(1, Duration::ZERO).passes());
    }

    #[test]
    fn time_may_go_back_a_little_or_a_lot() {
        let mut bucket = Bucket::new(quota(10, SECOND, 10));
        bucket.now = 100 * SECOND;
        for _ in 0..10 {
            assert!(bucket.ask(1, Duration::ZERO).passes());
        }
        bucket.now -= 1000;
        assert!(!bucket.ask(1, Duration::ZERO).passes());
        bucket.now += 1000 + SECOND / 10;
        assert!(
            bucket.ask(1, Duration::ZERO).passes(),
            "nothing was lost by asking"
        );
        // Another clock: the bucket is empty, and refills from there.
        bucket.now = SECOND;
        let decision = bucket.ask(1, Duration::ZERO);
        let Decision::Refuse { retry_after, .. } = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(retry_after, Duration::from_millis(100));
        bucket.now += nanos(retry_after);
        assert!(bucket.ask(1, Duration::ZERO).passes());
    }

    #[test]
    fn a_bucket_keeps_its_share_when_the_rate_changes() {
        let mut bucket = Bucket::new(quota(10, 60 * SECOND, 10));
        for _ in 0..5 {
            bucket.ask(1, Duration::ZERO);
        }
        bucket.quota = quota(100, 60 * SECOND, 100);
        let decision = bucket.ask(1, Duration::ZERO);
        assert!(
            matches!(decision, Decision::Pass { remaining: 49, .. }),
            "{decision:?}"
        );
        // A bucket with a faster rate is never further from full than its size.
        bucket.quota = quota(10, SECOND, 20);
        let decision = bucket.ask(1, Duration::ZERO);
        let Decision::Refuse { retry_after, .. } = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(retry_after, Duration::from_millis(100));
        bucket.now += nanos(retry_after);
        assert!(bucket.ask(1, Duration::ZERO).passes());
    }

    #[test]
    fn rates_are_reported_in_full_seconds() {
        for (count, per, window) in [
            (10, SECOND, (10, 1)),
            (1000, 900 * SECOND, (1000, 900)),
            (5, SECOND / 10, (50, 1)),
            (7, 3 * SECOND / 2, (14, 3)),
            (1, 7, (142_857_142, 1)),
        ] {
            assert_eq!(quota(count, per, 1).window(), window);
        }
    }

    #[test]
    fn quotas_that_never_pass_or_never_refill_are_none() {
        assert_eq!(Quota::new(0, Duration::from_secs(1), 1), None);
        assert_eq!(Quota::new(1, Duration::ZERO, 1), None);
        assert_eq!(Quota::new(1, Duration::from_secs(1), 0), None);
        assert_eq!(Quota::new(1, Duration::from_hours(24), u32::MAX), None);
        assert_eq!(Quota::new(u32::MAX, Duration::MAX, 1), None);
    }
}
