//! Decision to store a response (RFC 9111, 3).

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    CacheRules, ExchangeTimes, IgnoredHeaders, Lifetime, RequestDirectives, Vary,
    conditional::has_validator,
    directives::{Directives, FieldScope},
    freshness,
    targeted::Policy,
};
use crate::base::http::essence;

/// The request of a response, as sent to the origin.
#[derive(Clone, Copy, Debug)]
pub struct OriginRequest<'a> {
    /// Method sent to the origin: `GET` also for a client's `HEAD` that was sent as one.
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// True if the key identifies the client (by `jwt.sub`, say): a response to a request with
    /// `Authorization` reaches no other client, and may be stored like any other.
    pub is_named: bool,
}

edgeway_base::enum_table! {
    /// Reason why a response is not stored. [`NotStorable::reason`] is its text in logs and
    /// `Cache-Status`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum NotStorable => reason {
        Method = "method",
        Status = "status",
        RequestNoStore = "request-no-store",
        Authorization = "authorization",
        NoStore = "no-store",
        Private = "private",
        SetCookie = "set-cookie",
        Vary = "vary",
        Stream = "stream",
        /// The response has `must-understand` and a status with unknown caching rules.
        NotUnderstood = "not-understood",
        /// Neither the origin nor the route sets a freshness lifetime.
        NoLifetime = "no-lifetime",
        /// The response could never be used: stale on arrival, without a validator, and no stale
        /// use is allowed.
        NotReusable = "not-reusable",
        /// The route requires `s-maxage` or `max-age` above zero ([`CacheRules::explicit_only`]).
        NotExplicit = "not-explicit",
    }
}

/// Decides if a response may be stored, and returns its lifetime.
///
/// After a 304: takes the stored status and the merged headers ([`super::merge`]), before they are
/// cleaned.
///
/// `private="x"` is read as `private`: the response was generated for one user, and RFC 9111,
/// 5.2.2.7 allows it. `no-cache="x"` only removes `x` from the stored headers ([`super::clean`]).
pub fn store(
    request: OriginRequest<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    times: ExchangeTimes,
    rules: &CacheRules,
) -> Result<Lifetime, NotStorable> {
    check_mandatory(request, status, headers, rules.ignored)?;
    let initial_age = freshness::initial_age(headers, times);
    if rules.force
        && let Some(ttl) = freshness::by_status(rules, status).or_else(|| forced(rules, status))
    {
        check_authorization(request, None)?;
        let silent = Policy {
            directives: Directives::default(),
            reads_expires: false,
        };
        // The route's TTL starts on arrival, whatever age the origin reports.
        return Ok(freshness::lifetime(
            &silent,
            ttl,
            times.delay(),
            times,
            rules,
        ));
    }
    let policy = Policy::without(headers, rules.ignored);
    forbidden(&policy.directives, status)?;
    check_authorization(request, Some(&policy.directives))?;
    let declared = policy.directives.lifetime();
    if rules.explicit_only && declared.is_none_or(|ttl| ttl.is_zero()) {
        return Err(NotStorable::NotExplicit);
    }
    // RFC 9111, 3: a heuristically cacheable response may be stored for its validator alone.
    let is_for_validator = policy.directives.no_cache.is_whole()
        && (policy.directives.public || freshness::is_heuristically_cacheable(status));
    let fresh_for = freshness::freshness(&policy, status, headers, times, rules)
        .or(is_for_validator.then_some(Duration::ZERO))
        .ok_or(NotStorable::NoLifetime)?;
    let lifetime = freshness::lifetime(&policy, fresh_for, initial_age, times, rules);
    let spans = [
        lifetime.fresh_for,
        lifetime.stale_while_revalidate,
        lifetime.stale_if_error,
    ];
    let is_ever_usable = !lifetime.always_validate && spans.iter().any(|span| !span.is_zero());
    if !is_ever_usable && !has_validator(headers) {
        return Err(NotStorable::NotReusable);
    }
    Ok(lifetime)
}

/// Applies these rules to a stored response whose headers arrived at `lifetime.response_time`;
/// `None` if they would not store it.
pub fn again(
    status: StatusCode,
    headers: &HeaderMap,
    lifetime: &Lifetime,
    rules: &CacheRules,
) -> Option<Lifetime> {
    let request = OriginRequest {
        method: &Method::GET,
        headers: &HeaderMap::new(),
        is_named: false,
    };
    let times = ExchangeTimes {
        request_time: lifetime.response_time,
        response_time: lifetime.response_time,
    };
    let again = store(request, status, headers, times, rules).ok()?;
    Some(Lifetime {
        initial_age: lifetime.initial_age,
        ..again
    })
}

/// Returns true if a response that another process decided to store may be stored here.
/// `keeps_private`: the route stores responses that its origin forbids to store ([`CacheRules::force`]
/// or [`IgnoredHeaders::cache_control`]).
pub fn may_be_stored(status: StatusCode, headers: &HeaderMap, keeps_private: bool) -> bool {
    let request = OriginRequest {
        method: &Method::GET,
        headers: &HeaderMap::new(),
        is_named: false,
    };
    let is_of_one_connection = [
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
    ]
    .iter()
    .any(|name| headers.contains_key(name));
    !is_of_one_connection
        && check_mandatory(request, status, headers, IgnoredHeaders::default()).is_ok()
        && (keeps_private || forbidden(&Policy::parse(headers).directives, status).is_ok())
}

/// Checks the conditions that the origin cannot override, and the route only where it says that it
/// does not read a header.
fn check_mandatory(
    request: OriginRequest<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    ignored: IgnoredHeaders,
) -> Result<(), NotStorable> {
    if request.method != Method::GET {
        return Err(NotStorable::Method);
    }
    // Parts are not combined, and a 304 has no content of its own.
    if status.is_informational() || matches!(status.as_u16(), 206 | 304) {
        return Err(NotStorable::Status);
    }
    if RequestDirectives::parse(request.headers).no_store {
        return Err(NotStorable::RequestNoStore);
    }
    let sets_cookies =
        headers.contains_key(header::SET_COOKIE) || headers.contains_key("set-cookie2");
    if sets_cookies && !ignored.set_cookie {
        return Err(NotStorable::SetCookie);
    }
    if Vary::unless_ignored(headers, ignored) == Vary::Everything {
        return Err(NotStorable::Vary);
    }
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], |value| essence(value.as_bytes()));
    let is_endless = |name: &str| media_type.eq_ignore_ascii_case(name.as_bytes());
    if is_endless("text/event-stream") || is_endless("multipart/x-mixed-replace") {
        return Err(NotStorable::Stream);
    }
    Ok(())
}

fn forced(rules: &CacheRules, status: StatusCode) -> Option<Duration> {
    rules.ttl.filter(|_| freshness::takes_ttl(status))
}

fn forbidden(directives: &Directives, status: StatusCode) -> Result<(), NotStorable> {
    // RFC 9111, 5.2.2.3: a cache that understands the status ignores the `no-store` beside
    // `must-understand`.
    if directives.must_understand {
        if !is_understood(status) {
            return Err(NotStorable::NotUnderstood);
        }
    } else if directives.no_store {
        return Err(NotStorable::NoStore);
    }
    if directives.private != FieldScope::Absent {
        return Err(NotStorable::Private);
    }
    Ok(())
}

/// RFC 9111, 3.5.
fn check_authorization(
    request: OriginRequest<'_>,
    directives: Option<&Directives>,
) -> Result<(), NotStorable> {
    if !request.headers.contains_key(header::AUTHORIZATION)
        || request.is_named
        || directives.is_some_and(is_allowed)
    {
        return Ok(());
    }
    Err(NotStorable::Authorization)
}

fn is_allowed(directives: &Directives) -> bool {
    directives.public || directives.must_revalidate || directives.s_maxage.is_some()
}

/// Returns true if the origin allows this response for requests with `Authorization` of any client
/// (RFC 9111, 3.5).
pub fn allows_authorization(headers: &HeaderMap) -> bool {
    is_allowed(&Policy::parse(headers).directives)
}

/// Returns true if the origin marks this response as meant for every client: `public`, `s-maxage`,
/// or a field that only shared caches read.
pub fn is_for_everybody(headers: &HeaderMap) -> bool {
    let policy = Policy::parse(headers);
    let directives = &policy.directives;
    directives.public || directives.s_maxage.is_some() || !policy.reads_expires
}

/// Returns true for the final statuses of RFC 9110 and RFC 6585, whose caching rules are known
/// here.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 500..=505 | 511
    )
}

impl ExchangeTimes {
    pub(super) fn delay(self) -> Duration {
        self.response_time
            .duration_since(self.request_time)
            .unwrap_or_default()
    }
}
