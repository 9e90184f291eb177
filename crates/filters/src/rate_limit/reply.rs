//! Rate limit headers for clients: `Retry-After` on refusals, and the state of the limits on every
//! response.
//!
//! `RateLimit` and `RateLimit-Policy` are structured fields as in
//! `draft-ietf-httpapi-ratelimit-headers-10`. They are added to those of the origin, which may have
//! limits of its own.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use edgeway_base::{http::number, units::whole_seconds};
use edgeway_core::{chain::Reply, limits::config::HeadersConfig};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{LimitDecision, REASON, RateLimit};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Returns the refusal of a request that would pass after `retry_after`.
pub(super) fn refusal(status: StatusCode, retry_after: Duration) -> Reply {
    Reply::refuse(status, REASON)
        .detail("Too many requests in a short time. Please wait a little.")
        .retry_after(retry_after)
}

/// Returns the reply while Redis is unavailable, with `on_store_error: deny`.
pub(super) fn unavailable() -> Reply {
    Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "rate_limit_store")
        .detail("Rate limits cannot be checked at the moment. Please try again.")
        .retry_after(Duration::from_secs(1))
}

impl RateLimit {
    /// Returns true if responses carry rate limit headers.
    pub(super) fn writes_headers(&self) -> bool {
        let mut limits = self.charges.iter().map(|charge| &charge.limit);
        limits.any(|limit| limit.headers != HeadersConfig::Off)
    }

    pub(super) fn write_headers(&self, list: &[LimitDecision], headers: &mut HeaderMap) {
        write_standard(list, headers);
        self.write_legacy(list, headers);
    }

    /// Adds the legacy headers. They have room for one limit: the one with the fewest requests
    /// left.
    fn write_legacy(&self, list: &[LimitDecision], headers: &mut HeaderMap) {
        let is_written = |take: &&LimitDecision| {
            let headers = take.charge.limit.headers;
            matches!(headers, HeadersConfig::Legacy | HeadersConfig::Both)
        };
        let Some(take) = list
            .iter()
            .filter(is_written)
            .min_by_key(|take| take.remaining)
        else {
            return;
        };
        let quota = &take.charge.limit.tier(take.tier).quota;
        // A point in time, as in the middleware for Node.
        let full = self.clock.wall() + take.reset;
        let full = full.duration_since(UNIX_EPOCH).unwrap_or_default();
        headers.append(X_RATELIMIT_LIMIT, number(quota.burst));
        headers.append(X_RATELIMIT_REMAINING, number(take.remaining));
        headers.append(X_RATELIMIT_RESET, number(whole_seconds(full)));
    }
}

fn write_standard(list: &[LimitDecision], headers: &mut HeaderMap) {
    let is_written = |take: &&LimitDecision| {
        let headers = take.charge.limit.headers;
        matches!(headers, HeadersConfig::Standard | HeadersConfig::Both)
    };
    let (mut state, mut policies) = (Vec::with_capacity(64), Vec::new());
    let mut only = None;
    for take in list.iter().filter(is_written) {
        let limit = &take.charge.limit;
        let policy = &limit.tier(take.tier).policy;
        if !state.is_empty() {
            state.extend_from_slice(b", ");
        }
        state.push(b'"');
        state.extend_from_slice(limit.name.as_bytes());
        state.extend_from_slice(b"\";r=");
        state.extend_from_slice(itoa::Buffer::new().format(take.remaining).as_bytes());
        state.extend_from_slice(b";t=");
        state.extend_from_slice(
            itoa::Buffer::new()
                .format(whole_seconds(take.reset))
                .as_bytes(),
        );
        // The policy of a single limit, the usual case, is ready-made.
        if let Some(first) = only.replace(policy) {
            if policies.is_empty() {
                policies.extend_from_slice(HeaderValue::as_bytes(first));
            }
            policies.extend_from_slice(b", ");
            policies.extend_from_slice(policy.as_bytes());
        }
    }
    let Some(only) = only else {
        return;
    };
    let policy = if policies.is_empty() {
        Some(only.clone())
    } else {
        value(policies)
    };
    if let (Some(policy), Some(state)) = (policy, value(state)) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, state);
    }
}

fn value(text: Vec<u8>) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}
