//! Checks for the fuzzer: whatever headers an origin sends, lifetimes are bounded, and a response
//! that is plainly forbidden to store is never stored.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    CacheRules, ExchangeTimes, OriginRequest, RequestDirectives, Usability, Vary, clean,
    directives::MAX_SECONDS, judge, merge, not_modified, store,
};

/// Response headers that the lines of the input are values of, in this order; further lines are
/// `Cache-Control`.
const FIELDS: [&str; 9] = [
    "cache-control",
    "cdn-cache-control",
    "surrogate-control",
    "expires",
    "last-modified",
    "age",
    "etag",
    "vary",
    "date",
];

pub fn cache_control(data: &[u8]) {
    let headers = fields(data);
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let rules = CacheRules {
        heuristic: Some(0.1),
        ..CacheRules::default()
    };
    let nobody = HeaderMap::new();
    let origin_request = OriginRequest {
        method: &Method::GET,
        headers: &nobody,
        is_named: false,
    };
    let times = ExchangeTimes {
        request_time: now,
        response_time: now,
    };
    let found = store(origin_request, StatusCode::OK, &headers, times, &rules);
    if let Ok(lifetime) = &found {
        assert!(lifetime.fresh_for <= MAX_SECONDS && lifetime.initial_age <= MAX_SECONDS);
        assert!(
            lifetime.stale_while_revalidate <= MAX_SECONDS
                && lifetime.stale_if_error <= MAX_SECONDS
        );
        let later = now + Duration::from_secs(1 << 33);
        let wants = RequestDirectives::default();
        assert_eq!(judge(lifetime, &wants, later), Usability::Validate);
        if lifetime.always_validate {
            assert_eq!(judge(lifetime, &wants, now), Usability::Validate);
        }
        assert!(!is_plainly_forbidden(&headers), "{headers:?}");
    }
    not_modified(&headers, &Method::GET, StatusCode::OK, &headers);
    let vary = Vary::parse(&headers);
    assert_eq!(vary.variance(&headers), vary.variance(&headers.clone()));
    let mut merged = headers.clone();
    merge(&mut merged, &headers);
    let mut again = merged.clone();
    merge(&mut again, &headers);
    assert_eq!(merged, again);
    clean(&mut merged);
    assert!(!merged.contains_key(header::AGE));
    // As a request, the same bytes allow no more than a plain request.
    let wants = RequestDirectives::parse(&headers);
    if let Ok(lifetime) = &found
        && judge(lifetime, &RequestDirectives::default(), now) == Usability::Validate
    {
        assert_ne!(judge(lifetime, &wants, now), Usability::Fresh);
    }
}

fn fields(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (index, line) in data.split(|byte| *byte == b'\n').take(20).enumerate() {
        let name = FIELDS.get(index).copied().unwrap_or(FIELDS[0]);
        if let Ok(value) = HeaderValue::from_bytes(line)
            && !line.is_empty()
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns true if `no-store` or `private` is a whole member, nothing is quoted and no targeted
/// field is present.
fn is_plainly_forbidden(headers: &HeaderMap) -> bool {
    if FIELDS[1..3].iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let mut is_forbidden = false;
    for line in headers.get_all(header::CACHE_CONTROL) {
        let text = line.as_bytes().to_ascii_lowercase();
        if text.contains(&b'"') || text.windows(15).any(|word| word == b"must-understand") {
            return false;
        }
        is_forbidden |= text
            .split(|byte| *byte == b',')
            .any(|member| matches!(member.trim_ascii(), b"no-store" | b"private"));
    }
    is_forbidden
}
