//! The rule of rate limits: a bucket that refills evenly, kept as one point in time.
//!
//! The generic cell rate algorithm (ITU-T I.371). A bucket's whole state is the time at
//! which it will be full again, its theoretical arrival time. A request of cost c moves it on
//! by c · T/N from itself or from now, whichever is later, and may pass as soon as it
//! then lies no further ahead than a whole bucket. So in any span t at most
//! burst + N·t/T pass, and never fewer than that if enough ask.
//!
//! Pure: time comes as an argument. Exact: T/N is no whole number of nanoseconds for
//! most rates, so times are kept as nanoseconds and a fraction in Nths of one.

use std::time::Duration;

/// How much may pass: `count` in each `per`, evenly, and `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    count: u32,
    /// In nanoseconds.
    per: u64,
    burst: u32,
}

/// The time at which a bucket is full again, since an epoch that its keeper chose. The
/// default is long past: nothing was taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tat {
    pub nanos: u64,
    /// In parts of a nanosecond: as many as the quota's count make a whole.
    pub fraction: u32,
}

/// What the rule says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Pass {
        /// How much more may pass right away.
        remaining: u32,
        /// Until the bucket is full, if nothing else comes.
        reset: Duration,
        /// How long this one is to be held back first; zero unless a delay is allowed.
        wait: Duration,
    },
    Refuse {
        /// How much may still pass; less than what was asked for.
        remaining: u32,
        reset: Duration,
        /// The same request passes after exactly this time, if nothing else comes.
        retry_after: Duration,
    },
}

/// No bucket takes longer than this to fill: about 100 years.
const LONGEST_FILL: u128 = 100 * 365 * 86_400 * 1_000_000_000;

/// A bucket can be further from full than it can hold by this much, since threads that
/// read the clock one after another may come in the other order. Whatever is further
/// comes from another quota or another clock.
const SKEW: u64 = 1_000_000_000;

impl Quota {
    /// `None` if a part of it is zero, or the bucket would take a century to fill.
    pub fn new(count: u32, per: Duration, burst: u32) -> Option<Self> {
        let per = u64::try_from(per.as_nanos()).ok()?;
        if count == 0 || per == 0 || burst == 0 {
            return None;
        }
        let quota = Self { count, per, burst };
        let fits = quota.full() / quota.scale() < LONGEST_FILL && u128::from(per) < LONGEST_FILL;
        fits.then_some(quota)
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn per(&self) -> Duration {
        Duration::from_nanos(self.per)
    }

    /// How much may come at once; also the most that one request may cost.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// How long an empty bucket takes to fill, rounded up to a nanosecond.
    pub fn fill(&self) -> Duration {
        self.span(self.full())
    }

    // Below, times are whole numbers of Nths of a nanosecond, where N is the count. The
    // largest is 2^64 ns · 2^32, so nothing overflows 128 bits.

    pub(super) fn scale(&self) -> u128 {
        u128::from(self.count)
    }

    /// A cost as time.
    pub(super) fn price(&self, cost: u32) -> u128 {
        u128::from(cost) * u128::from(self.per)
    }

    /// A whole bucket as time.
    pub(super) fn full(&self) -> u128 {
        self.price(self.burst)
    }

    pub(super) fn at(&self, nanos: u64) -> u128 {
        u128::from(nanos) * self.scale()
    }

    fn read(&self, tat: Tat) -> u128 {
        // The count was another one when the fraction was written, if the configuration
        // has changed since.
        self.at(tat.nanos) + u128::from(tat.fraction.min(self.count - 1))
    }

    fn write(&self, time: u128) -> Tat {
        Tat {
            nanos: u64::try_from(time / self.scale()).unwrap_or(u64::MAX),
            fraction: u32::try_from(time % self.scale()).unwrap_or(0),
        }
    }

    /// Rounded up: who waits for less would come too early.
    fn span(&self, time: u128) -> Duration {
        let nanos = time.div_ceil(self.scale());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What a bucket holds that will be full after `debt`.
    fn left(&self, debt: u128) -> u32 {
        let left = self.full().saturating_sub(debt) / u128::from(self.per);
        u32::try_from(left).unwrap_or(u32::MAX)
    }
}

/// Whether a request of `cost` may pass `now` (nanoseconds since the keeper's epoch), or
/// after waiting for `max_delay` at most; and the bucket's state from now on, which a
/// refusal leaves as it was.
///
/// A cost above the burst never passes; whoever configures one is told.
pub fn decide(
    tat: Tat,
    now: u64,
    quota: &Quota,
    cost: u32,
    max_delay: Duration,
) -> (Decision, Tat) {
    let at = quota.at(now);
    let delay = quota.at(u64::try_from(max_delay.as_nanos()).unwrap_or(u64::MAX));
    let room = quota.full();
    let mut before = quota.read(tat).max(at);
    if before > at + room + delay + quota.at(SKEW) {
        before = at + room + delay;
    }
    let after = before + quota.price(cost);
    let ahead = after - at;
    if cost <= quota.burst && ahead <= room + delay {
        let decision = Decision::Pass {
            remaining: quota.left(ahead),
            reset: quota.span(ahead),
            wait: quota.span(ahead.saturating_sub(room)),
        };
        return (decision, quota.write(after));
    }
    let decision = Decision::Refuse {
        remaining: quota.left(before - at),
        reset: quota.span(before - at),
        retry_after: quota.span(ahead.saturating_sub(room + delay)),
    };
    (decision, quota.write(before))
}

/// The bucket's state once a request that passed at `taken` has given its `cost` back.
///
/// What has flowed back by itself since then is not given twice, so the bound holds
/// whatever else came in between.
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
