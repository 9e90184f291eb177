//! Freshness lifetime and age of a response (RFC 9111, 4.2).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::{
    CacheRules, ExchangeTimes, Lifetime,
    directives::{MAX_SECONDS, StaleWindow, seconds},
    targeted::Policy,
};
use crate::base::{http::list_of, http_date};

/// Maximum heuristic freshness. RFC 9111, 4.2.2 leaves it to the cache; a day is where RFC 7234
/// began to warn.
const MAX_HEURISTIC: Duration = Duration::from_hours(24);

/// Returns the freshness lifetime, if it is known: RFC 9111, 4.2.1, then the route, then 4.2.2.
pub(super) fn freshness(
    policy: &Policy,
    status: StatusCode,
    headers: &HeaderMap,
    times: ExchangeTimes,
    rules: &CacheRules,
) -> Option<Duration> {
    let known = explicit(policy, headers, times).or_else(|| by_status(rules, status));
    if known.is_some() {
        return known;
    }
    // RFC 9111, 3: a status that is not heuristically cacheable needs `public` for this.
    if !is_heuristically_cacheable(status) && !policy.directives.public {
        return None;
    }
    let of_route = rules
        .ttl
        .filter(|_| takes_ttl(status) || policy.directives.public);
    let of_route = of_route.map(|span| span.min(MAX_SECONDS));
    of_route.or_else(|| heuristic(headers, times, rules))
}

/// Returns true for the statuses that the route's TTL is for. Errors and redirects often depend on
/// what only one client sent: they need a TTL of their own, or a lifetime of the origin.
pub(super) fn takes_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300)
}

/// Returns the route's TTL for this status.
pub(super) fn by_status(rules: &CacheRules, status: StatusCode) -> Option<Duration> {
    let rule = rules
        .by_status
        .iter()
        .find(|(code, _)| *code == status.as_u16());
    rule.map(|(_, span)| (*span).min(MAX_SECONDS))
}

fn explicit(policy: &Policy, headers: &HeaderMap, times: ExchangeTimes) -> Option<Duration> {
    if let Some(span) = policy.directives.lifetime() {
        return Some(span);
    }
    if !policy.reads_expires {
        return None;
    }
    // The first of several counts; an invalid date has expired (RFC 9111, 5.3).
    let expires = headers.get(header::EXPIRES)?;
    let Some(expires) = http_date::parse(expires.as_bytes()) else {
        return Some(Duration::ZERO);
    };
    let date = date_of(headers).unwrap_or_else(|| whole_seconds(times.response_time));
    Some(
        expires
            .duration_since(date)
            .unwrap_or_default()
            .min(MAX_SECONDS),
    )
}

fn heuristic(headers: &HeaderMap, times: ExchangeTimes, rules: &CacheRules) -> Option<Duration> {
    let share = rules.heuristic.filter(|share| *share > 0.0)?;
    let modified = http_date::parse(headers.get(header::LAST_MODIFIED)?.as_bytes())?;
    let date = date_of(headers).unwrap_or(times.response_time);
    let unchanged = date.duration_since(modified).ok()?;
    let guess = Duration::try_from_secs_f64(unchanged.as_secs_f64() * share).ok()?;
    Some(guess.min(MAX_HEURISTIC))
}

/// RFC 9110, 15.1, without 206: parts are never stored.
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// Calculates `corrected_initial_age` of RFC 9111, 4.2.3.
pub(super) fn initial_age(headers: &HeaderMap, times: ExchangeTimes) -> Duration {
    let corrected = age_value(headers).saturating_add(times.delay());
    // `Date` is a whole second, and the response may come late in it: counting the fraction would
    // halve the lifetime of `s-maxage=1`.
    let apparent = date_of(headers)
        .and_then(|date| times.response_time.duration_since(date).ok())
        .map_or(Duration::ZERO, |age| Duration::from_secs(age.as_secs()));
    corrected.max(apparent).min(MAX_SECONDS)
}

/// Returns the `Age` set by caches before the gateway. RFC 9111, 5.1: the first member of a list
/// counts, and an invalid number is ignored.
fn age_value(headers: &HeaderMap) -> Duration {
    list_of(headers, &header::AGE)
        .next()
        .and_then(seconds)
        .unwrap_or_default()
}

/// Builds the lifetime with its two stale windows, which are zero where the origin forbids them.
pub(super) fn lifetime(
    policy: &Policy,
    fresh_for: Duration,
    initial_age: Duration,
    times: ExchangeTimes,
    rules: &CacheRules,
) -> Lifetime {
    let directives = &policy.directives;
    let forbids = directives.must_revalidate || directives.proxy_revalidate;
    // RFC 9111, 5.2.2.10. Next.js and CDNs write it beside `stale-while-revalidate`.
    let has_shared = directives.s_maxage.is_some();
    let allows = !forbids && (!has_shared || rules.stale_despite_s_maxage);
    let window = |own: Option<StaleWindow>, open: Option<Duration>, route: Option<Duration>| {
        let span = match own {
            _ if !allows => Duration::ZERO,
            Some(StaleWindow::For(span)) => span,
            Some(StaleWindow::Open) => open.or(route).unwrap_or_default(),
            None => route.unwrap_or_default(),
        };
        span.min(MAX_SECONDS)
    };
    let max = rules.max_stale_while_revalidate;
    let while_revalidate = window(
        directives.stale_while_revalidate,
        max,
        rules.stale_while_revalidate,
    );
    Lifetime {
        response_time: times.response_time,
        initial_age,
        fresh_for,
        stale_while_revalidate: max.map_or(while_revalidate, |max| max.min(while_revalidate)),
        stale_if_error: window(directives.stale_if_error, None, rules.stale_if_error),
        always_validate: directives.no_cache.is_whole(),
        must_revalidate: forbids || has_shared,
    }
}

/// Parses `Date`; `None` if it is missing or invalid.
pub(super) fn date_of(headers: &HeaderMap) -> Option<SystemTime> {
    headers
        .get(header::DATE)
        .and_then(|date| http_date::parse(date.as_bytes()))
}

/// Drops the fraction of a second, as `Date` does.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
