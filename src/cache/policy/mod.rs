//! The rules of RFC 9111 as pure functions: heads, a route's rules and times in, decisions out.
//!
//! In the order of a request: [`Wants`] is what the client allows, [`judge`] says how a
//! stored answer may be used, [`not_modified`] whether the client has it already. For an
//! answer of the origin [`store`] says whether and for how long it is kept, [`clean`] takes
//! out what is not kept of it, [`merge`] takes a 304 in, [`invalidates`] names what a write
//! has made old. Nothing here reads a clock or keeps a state.

mod browser;
mod cache_status;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod conditional;
mod directives;
mod freshness;
mod invalidate;
mod merge;
mod storable;
mod targeted;
mod vary;
mod wants;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

pub use browser::browser;
pub use cache_status::{CacheStatus, Forward, Served};
pub use conditional::{has_validator, not_modified, to_not_modified};
pub use invalidate::{Target, invalidates};
pub use merge::{clean, date, for_the_first, merge, updates};
pub use storable::{
    Asked, Refusal, again, allows_authorization, is_for_everybody, may_be_kept, store,
};
pub use vary::{SentHeaders, Unchanged, Variance, Vary, is_left_alone};
pub use wants::{Use, Wants, after_error, judge};

/// What a route says beside the origin. The default is the RFC and no more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// For how long an answer is fresh whose origin says nothing of it.
    pub ttl: Option<Duration>,
    /// `ttl` counts whatever the origin says, `no-store` and `private` included. An answer
    /// with `Set-Cookie` is not kept all the same.
    pub force: bool,
    /// As `ttl`, for single statuses; it also allows statuses that are not cacheable of
    /// themselves.
    pub by_status: Vec<(u16, Duration)>,
    /// The share of the time since `Last-Modified` for which an answer counts as fresh that
    /// says nothing of it (RFC 9111, 4.2.2); 0.1 is usual. `None`: never.
    pub heuristic: Option<f64>,
    /// For how long stale answers are served while a new one is fetched, where the origin
    /// does not say.
    pub stale_while_revalidate: Option<Duration>,
    /// The same for a failing origin.
    pub stale_if_error: Option<Duration>,
    /// No origin's word counts for more than this.
    pub max_stale_while_revalidate: Option<Duration>,
    /// `stale-while-revalidate` counts beside `s-maxage` too, as Next.js, CDNs and RFC 5861
    /// mean it, although RFC 9111, 5.2.2.10 makes `s-maxage` imply `proxy-revalidate`.
    pub stale_despite_s_maxage: bool,
    /// Nothing is kept without `s-maxage` or `max-age` above zero: Next.js says what may be
    /// kept, and what says nothing is an answer of somebody's code.
    pub explicit_only: bool,
}

/// When an answer was asked for, and when its head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub asked: SystemTime,
    pub answered: SystemTime,
}

/// For how long a stored answer may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the head came that says so: the first one, or that of the last 304.
    pub answered: SystemTime,
    /// Its age at that time (RFC 9111, 4.2.3).
    pub initial_age: Duration,
    /// For how long it is fresh, counted from its age of zero (RFC 9111, 4.2.1).
    pub fresh_for: Duration,
    /// Counted from the end of that; zero if the origin forbids it.
    pub stale_while_revalidate: Duration,
    /// The same.
    pub stale_if_error: Duration,
    /// `no-cache`: never used without asking the origin.
    pub always_validate: bool,
    /// `must-revalidate`, `proxy-revalidate` or what implies them: never used once it is
    /// stale, whatever the client allows. What the origin itself allows is in the two
    /// windows above, which are zero then but for [`Rules::stale_despite_s_maxage`].
    pub must_revalidate: bool,
}

impl Lifetime {
    /// `current_age` of RFC 9111, 4.2.3. A clock that goes back makes nothing younger than
    /// it came.
    #[inline]
    pub fn age(&self, now: SystemTime) -> Duration {
        let resident = now.duration_since(self.answered).unwrap_or_default();
        self.initial_age.saturating_add(resident)
    }

    /// Whether it is fresh by the clock; whether it may be used is for [`judge`] to say.
    #[inline]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.age(now) < self.fresh_for
    }

    /// For how long it stays fresh; zero for what is stale.
    pub fn fresh_left(&self, now: SystemTime) -> Duration {
        self.fresh_for.saturating_sub(self.age(now))
    }

    /// For how long it has been stale; zero for what is fresh, and in the moment that it
    /// becomes stale.
    pub fn stale_for(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(self.fresh_for)
    }

    /// When its freshness ends or ended.
    pub fn fresh_until(&self) -> SystemTime {
        let until = if self.fresh_for >= self.initial_age {
            self.answered
                .checked_add(self.fresh_for.saturating_sub(self.initial_age))
        } else {
            self.answered
                .checked_sub(self.initial_age.saturating_sub(self.fresh_for))
        };
        // Both are below some 70 years; only a clock at the end of time gets here.
        until.unwrap_or(self.answered)
    }

    /// When nothing allows to use it any more without asking the origin. What has a
    /// validator is worth keeping beyond.
    pub fn usable_until(&self) -> SystemTime {
        let window = self.stale_while_revalidate.max(self.stale_if_error);
        let until = self.fresh_until();
        until.checked_add(window).unwrap_or(until)
    }

    /// The same, fresh for this long at most and never used stale.
    #[must_use]
    pub fn at_most(self, fresh_for: Duration) -> Self {
        Self {
            fresh_for: self.fresh_for.min(fresh_for),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            ..self
        }
    }

    /// The seconds that it stays fresh, below zero for what is stale: `ttl` of
    /// `Cache-Status` (RFC 9211, 2.4).
    pub fn ttl(&self, now: SystemTime) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        if self.is_fresh(now) {
            seconds(self.fresh_left(now))
        } else {
            -seconds(self.stale_for(now))
        }
    }
}
