//! The rules of RFC 9111 as pure functions: heads, a route's rules and times in, decisions out.

use std::time::{Duration, SystemTime};

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
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    /// `no-cache`: never used without asking the origin.
    pub always_validate: bool,
    /// `must-revalidate` or `proxy-revalidate`: never used once it is stale, whatever the
    /// client allows.
    pub must_revalidate: bool,
}
