//! The rules of RFC 9111 as pure functions: headers, a route's rules and times in, decisions out.
//!
//! In the order of a request: [`RequestDirectives`] holds the client's directives, [`judge`] decides how a
//! stored response may be used, and [`not_modified`] checks if the client already has it. For a
//! response of the origin, [`store`] decides if it is stored and for how long, [`clean`] removes
//! headers that are not stored, [`merge`] applies a 304, and [`invalidates`] lists the targets that
//! an unsafe request made invalid. Nothing here reads a clock or keeps state.

mod browser;
mod cache_status;
mod client_lifetimes;
mod conditional;
mod directives;
mod freshness;
mod invalidate;
mod merge;
mod request_directives;
mod storable;
mod targeted;
#[doc(hidden)]
pub mod testkit;
mod vary;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

pub use browser::browser;
pub use cache_status::{CacheStatus, Forward, Served};
pub use client_lifetimes::{ClientLifetimes, forbid_storing};
pub use conditional::{has_validator, not_modified, to_not_modified};
pub(crate) use directives::number;
pub use invalidate::{Target, invalidates};
pub use merge::{clean, cookies_for_the_first, date, for_the_first, merge, updates};
pub use request_directives::{RequestDirectives, Usability, after_error, judge};
pub use storable::{
    NotStorable, OriginRequest, again, allows_authorization, is_for_everybody, may_be_stored, store,
};
pub use targeted::{CDN_CACHE_CONTROL, SURROGATE_CONTROL};
pub use vary::{SentHeaders, UnchangedHeaders, Variance, Vary, is_left_alone};

/// Rules of a route beside the origin's directives. The default is plain RFC 9111.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheRules {
    /// Freshness lifetime of a response for which the origin sets none. Errors and redirects have
    /// it only if the origin marks them as `public`.
    pub ttl: Option<Duration>,
    /// Applies `ttl` whatever the origin sends, `no-store` and `private` included. A response with
    /// `Set-Cookie` is still not stored.
    pub force: bool,
    /// Freshness lifetime per status; also allows statuses that are not heuristically cacheable.
    pub by_status: Vec<(u16, Duration)>,
    /// Fraction of the time since `Last-Modified` for which a response without a lifetime counts as
    /// fresh (RFC 9111, 4.2.2); 0.1 is usual. `None` disables heuristic freshness.
    pub heuristic: Option<f64>,
    /// Time for which a stale response is served during its revalidation, where the origin sets
    /// none.
    pub stale_while_revalidate: Option<Duration>,
    /// Time for which a stale response is served if the origin fails, where the origin sets none.
    pub stale_if_error: Option<Duration>,
    /// Upper bound of `stale-while-revalidate`, also of the origin's.
    pub max_stale_while_revalidate: Option<Duration>,
    /// Applies `stale-while-revalidate` beside `s-maxage` too, as Next.js, CDNs and RFC 5861
    /// intend, although RFC 9111, 5.2.2.10 makes `s-maxage` imply `proxy-revalidate`.
    pub stale_despite_s_maxage: bool,
    /// Stores nothing without `s-maxage` or `max-age` above zero: Next.js marks responses that may
    /// be stored, and a response without either comes from application code.
    pub explicit_only: bool,
    /// Headers of the origin that are not read.
    pub ignored: IgnoredHeaders,
}

/// Response headers of the origin that decide about storing, and that a route's cache does not
/// read. The client whose request it was gets all of them; `Set-Cookie` is never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a header of its own")]
pub struct IgnoredHeaders {
    /// `Cache-Control`, and `Pragma` in its place. `CDN-Cache-Control` and `Surrogate-Control` are
    /// meant for this cache, and count in any case.
    pub cache_control: bool,
    pub expires: bool,
    pub set_cookie: bool,
    pub vary: bool,
}

/// Times at which a request was sent and its response headers arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeTimes {
    pub request_time: SystemTime,
    pub response_time: SystemTime,
}

/// Times during which a stored response may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Arrival of the response headers that set this lifetime: the first ones, or those of the last
    /// 304.
    pub response_time: SystemTime,
    /// Age at that time (RFC 9111, 4.2.3).
    pub initial_age: Duration,
    /// Freshness lifetime, counted from age zero (RFC 9111, 4.2.1).
    pub fresh_for: Duration,
    /// Time counted from the end of freshness; zero if the origin forbids it.
    pub stale_while_revalidate: Duration,
    /// Time counted from the end of freshness; zero if the origin forbids it.
    pub stale_if_error: Duration,
    /// Set by `no-cache`: never used without validation.
    pub always_validate: bool,
    /// Set by `must-revalidate`, `proxy-revalidate` or a directive that implies them: never used
    /// once stale, whatever the client allows. The two windows above hold what the origin itself
    /// allows; they are zero in this case, except for [`CacheRules::stale_despite_s_maxage`].
    pub must_revalidate: bool,
}

/// Difference between the clocks of gateways that share responses, at most.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

impl Lifetime {
    /// Calculates `current_age` of RFC 9111, 4.2.3. If the clock went back, the age is unknown: the
    /// response has just expired. Clocks of a fleet may differ by a few seconds.
    #[inline]
    pub fn age(&self, now: SystemTime) -> Duration {
        match now.duration_since(self.response_time) {
            Ok(resident) => self.initial_age.saturating_add(resident),
            Err(back) if back.duration() > CLOCK_SKEW => self.initial_age.max(self.fresh_for),
            Err(_) => self.initial_age,
        }
    }

    /// Returns true if the response is fresh by the clock; [`judge`] decides if it may be used.
    #[inline]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.age(now) < self.fresh_for
    }

    /// Time since the response turned stale; zero if it is fresh, and at the moment it turns stale.
    pub fn stale_for(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(self.fresh_for)
    }

    /// Time at which freshness ends or ended.
    pub fn fresh_until(&self) -> SystemTime {
        let generated = self.response_time.checked_sub(self.initial_age);
        let until = generated.and_then(|generated| generated.checked_add(self.fresh_for));
        // Both spans are below about 70 years, so only a clock near the end of its range gets here.
        until.unwrap_or(self.response_time)
    }

    /// Time after which the response may not be used without validation. A response with a
    /// validator is worth keeping beyond it.
    pub fn usable_until(&self) -> SystemTime {
        let window = self.stale_while_revalidate.max(self.stale_if_error);
        let until = self.fresh_until();
        until.checked_add(window).unwrap_or(until)
    }

    /// Limits freshness to `fresh_for` and forbids stale use.
    #[must_use]
    pub fn at_most(self, fresh_for: Duration) -> Self {
        Self {
            fresh_for: self.fresh_for.min(fresh_for),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            ..self
        }
    }

    /// Seconds of freshness left at this age, negative if stale: `ttl` of `Cache-Status` (RFC 9211,
    /// 2.4).
    pub fn ttl(&self, age: Duration) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        match self.fresh_for.checked_sub(age) {
            Some(left) if !left.is_zero() => seconds(left),
            _ => -seconds(age.saturating_sub(self.fresh_for)),
        }
    }
}
