//! Verdict on a new release, from the requests that it and the current release got at the same
//! time. A pure state machine.
//!
//! Both tests are sequential: they are looked at each second, and yet the probability that a release
//! as good as the current one is rolled back for its errors is below 0.5 %. What counts is which of
//! the two releases the failures of a moment fall to, given the requests of each. A database that
//! fails for both of them is therefore no evidence against the new one. A release that is worse by
//! less than what is tolerated stays, however certain that is.
//!
//! Where the current release gets too few requests for a comparison, an absolute bound counts.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::latency::Latencies;
use crate::base::evidence::{CERTAIN, Events, Evidence, MAX_FAILED_ALONE};

/// Requests of one release in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReleaseCounts {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) latencies: Latencies,
    /// Times after which clients left that had no response yet: their latencies are longer.
    pub(super) left: Latencies,
}

/// Requests of both releases in the same period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Both {
    pub(super) new: ReleaseCounts,
    pub(super) current: ReleaseCounts,
}

/// Reason for a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Errors,
    Latency,
}

/// Limits within which a new release is as good as the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tolerance {
    /// Ratio of the error ratios.
    pub(super) errors: f64,
    /// Ratio of the 95th percentiles of the latency.
    pub(super) p95: f64,
}

/// Logarithm of the likelihood ratio from which there is a doubt, which holds a step.
const DOUBTFUL: f64 = 1.5;
/// Part of the requests of a release that may fail before it gets all visitors, whatever the current
/// one does meanwhile.
const MAX_FAILED: f64 = 0.5;
/// Failures below which nothing is rolled back.
const MIN_FAILED: u64 = 3;
/// Longest period over which latencies are compared, and the number of periods in a row in which the
/// new release must be slower: the first requests of a process take long. A step has as many.
const PERIOD: Duration = Duration::from_secs(10);
const SLOW_PERIODS: u32 = 3;
/// Requests of the new release in a period; it takes longer if there are fewer.
const MIN_REQUESTS: u64 = 5;
/// Requests of the current release before its 95th percentile means something.
const MIN_KNOWN: u64 = 50;

/// Evidence so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    tolerance: Tolerance,
    /// Requests in which failures have not been weighed: one of the releases had none.
    unweighed: Both,
    pub(super) total: Both,
    errors: Evidence,
    /// Slow requests since the new release has been slower in each period.
    slowness: Evidence,
    slow_periods: u32,
    period: SlowCounts,
    period_took: Duration,
    longest_period: Duration,
    /// True while the current release is down: what happens then is no comparison.
    pub(super) is_alone: bool,
}

/// Requests slower than the limit, in the present period.
#[derive(Clone, Copy, Debug, Default)]
struct SlowCounts {
    new: Events,
    current: Events,
}

impl Judge {
    /// Creates the judge of a trial whose steps take at least `step`.
    pub(super) fn new(tolerance: Tolerance, step: Duration) -> Self {
        Self {
            tolerance,
            longest_period: PERIOD.min(step / SLOW_PERIODS),
            ..Self::default()
        }
    }

    /// Weighs the requests that ended since the last call, `took` ago.
    pub(super) fn weigh(&mut self, seen: &Both, took: Duration) {
        if self.is_alone {
            self.begin_period();
            self.unweighed = Both::default();
            self.total.add(seen);
            return;
        }
        self.weigh_latencies(seen, took);
        self.unweighed.add(seen);
        self.total.add(seen);
        let Both { new, current } = self.unweighed;
        if new.requests > 0 && current.requests > 0 {
            self.errors.add(new.failures(), current.failures());
            self.unweighed = Both::default();
        }
    }

    /// Compares how many requests took longer than the current release's 95th percentile allows.
    fn weigh_latencies(&mut self, seen: &Both, took: Duration) {
        let known = &self.total.current.latencies;
        if known.count() < MIN_KNOWN {
            return;
        }
        let limit = known.quantile(0.95).mul_f64(self.tolerance.p95);
        add_slow(&mut self.period.new, &seen.new, limit);
        add_slow(&mut self.period.current, &seen.current, limit);
        self.period_took += took;
        let SlowCounts { new, current } = self.period;
        let is_over = self.period_took >= self.longest_period
            && new.requests >= MIN_REQUESTS
            && current.requests > 0;
        if !is_over {
            return;
        }
        // One request in twenty is slower than the 95th percentile, which is then above the limit.
        // Under load, more requests of the current release exceed it, too.
        if new.ratio() > (1.5 * current.ratio()).max(0.05) {
            self.slow_periods += 1;
            self.slowness.add(new, current);
        } else {
            self.slow_periods = 0;
            self.slowness = Evidence::default();
        }
        self.begin_period();
    }

    fn begin_period(&mut self) {
        self.period = SlowCounts::default();
        self.period_took = Duration::ZERO;
    }

    /// Returns the reason why the new release is certainly worse; `None` if it may be as good.
    pub(super) fn fault(&self) -> Option<Fault> {
        let new = self.total.new.failures();
        let is_worse = self.error_evidence() >= CERTAIN
            || !self.is_compared() && new.log_above(MAX_FAILED_ALONE) >= CERTAIN;
        if new.events >= MIN_FAILED && is_worse {
            return Some(Fault::Errors);
        }
        let is_slower = self.slow_periods >= SLOW_PERIODS && self.slowness.log() >= CERTAIN;
        is_slower.then_some(Fault::Latency)
    }

    /// Returns true if it is not clear yet whether the new release is worse.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.slow_periods > 0 || self.error_evidence() >= DOUBTFUL
    }

    /// Returns true if the new release fails too often to get more visitors.
    pub(super) fn fails_too_often(&self) -> bool {
        let bound = if self.is_compared() {
            MAX_FAILED
        } else {
            MAX_FAILED_ALONE
        };
        self.total.new.error_ratio() > bound
    }

    /// Returns true if the current release had enough requests beside those of the new one.
    fn is_compared(&self) -> bool {
        let Both { new, current } = &self.total;
        !self.is_alone && current.requests >= new.requests.min(MIN_KNOWN)
    }

    /// Returns the evidence that the new release fails more often; none while the ratio of the
    /// error ratios is tolerated.
    fn error_evidence(&self) -> f64 {
        let [new, current] = [&self.total.new, &self.total.current].map(ReleaseCounts::error_ratio);
        if new > self.tolerance.errors * current {
            self.errors.log()
        } else {
            0.0
        }
    }
}

impl Both {
    fn add(&mut self, more: &Self) {
        self.new.add(&more.new);
        self.current.add(&more.current);
    }
}

impl ReleaseCounts {
    fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.failed += more.failed;
        self.latencies.add(&more.latencies);
        self.left.add(&more.left);
    }

    fn failures(&self) -> Events {
        Events {
            requests: self.requests,
            events: self.failed,
        }
    }

    /// Returns the part of the requests that failed.
    pub(super) fn error_ratio(&self) -> f64 {
        self.failures().ratio()
    }
}

/// Adds the requests of a release, and those of them that took longer than `limit`. Whether the
/// response to a client that left earlier would have taken longer is not known.
fn add_slow(events: &mut Events, seen: &ReleaseCounts, limit: Duration) {
    let left = seen.left.above(limit);
    events.requests += seen.latencies.count() + left;
    events.events += seen.latencies.above(limit) + left;
}
