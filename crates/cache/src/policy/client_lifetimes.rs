//! `Cache-Control` and `CDN-Cache-Control` of responses to clients, where a rule of the route
//! overrides the origin's.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    directives::{Directives, each},
    is_for_everybody,
    targeted::{CDN_CACHE_CONTROL, Policy, SURROGATE_CONTROL},
};
use crate::base::http::{has_token, list_of};

const CACHE_CONTROL: HeaderName = header::CACHE_CONTROL;

/// Upper bound on a lifetime, as caches treat anything longer like this.
const MAX_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// Lifetimes of a response in the caches between gateway and user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientLifetimes {
    /// `max-age`, counted from now.
    pub browser: Option<Duration>,
    /// `s-maxage`, counted from the response's generation.
    pub shared: Option<Duration>,
    /// `CDN-Cache-Control`.
    pub cdn: Option<HeaderValue>,
    /// Keeps browsers from validating a response that never changes (RFC 8246).
    pub is_immutable: bool,
}

impl ClientLifetimes {
    /// Writes the lifetimes into a response that is `age` old.
    ///
    /// Browsers subtract `Age` from `max-age`, so the age is added to it; shared caches get the
    /// lifetime from the response's generation on, so that gateway and CDN together exceed no
    /// lifetime.
    ///
    /// A response that the origin keeps from caches (`no-store`, `no-cache`, `private`) or that sets
    /// a cookie stays as it is. One to a request that `is_personal` is for its browser only, unless
    /// the origin marks it as meant for everybody.
    pub fn write(&self, headers: &mut HeaderMap, age: Duration, is_personal: bool) {
        let policy = Policy::parse(headers).directives;
        if is_kept_from_caches(headers, &policy)
            || policy.private.is_whole()
            || headers.contains_key(header::SET_COOKIE)
        {
            return;
        }
        let is_shared = is_for_everybody(headers) || !is_personal;
        let mut text = Vec::with_capacity(64);
        text.extend_from_slice(if is_shared { b"public" } else { b"private" });
        let (mut max_age, mut s_maxage) = (None, None);
        let mut others = Vec::new();
        for member in list_of(headers, &CACHE_CONTROL) {
            each(member, |name, argument| {
                let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
                if is(b"max-age") {
                    max_age = max_age.or(argument.seconds());
                } else if is(b"s-maxage") {
                    s_maxage = s_maxage.or(argument.seconds());
                } else if !is(b"public") && !is(b"immutable") {
                    others.extend_from_slice(b", ");
                    others.extend_from_slice(member);
                }
            });
        }
        let ttl = self
            .browser
            .map(|ttl| ttl.saturating_add(age).min(MAX_LIFETIME));
        // One `max-age` was for all caches: shared ones keep it.
        let inherited = s_maxage.or(max_age.filter(|_| self.browser.is_some() && ttl != max_age));
        let shared = self.shared.or(inherited).filter(|_| is_shared);
        lifetime(&mut text, b", max-age=", ttl.or(max_age));
        lifetime(&mut text, b", s-maxage=", shared);
        if self.is_immutable {
            text.extend_from_slice(b", immutable");
        }
        text.extend_from_slice(&others);
        let is_set = set_cache_control(headers, text);
        if let Some(cdn) = self.cdn.as_ref().filter(|_| is_set && is_shared) {
            headers.insert(CDN_CACHE_CONTROL, cdn.clone());
        }
    }
}

/// Keeps a response out of every cache between gateway and user.
pub fn forbid_storing(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in [header::EXPIRES, CDN_CACHE_CONTROL, SURROGATE_CONTROL] {
        headers.remove(name);
    }
}

/// Returns true if browsers must not store the response, must validate it first, or it is personal:
/// by `Cache-Control`, or by a targeted field that overrides it.
pub(super) fn is_kept_from_caches(headers: &HeaderMap, directives: &Directives) -> bool {
    directives.no_store
        || directives.no_cache.is_whole()
        || ["no-store", "no-cache", "private"]
            .iter()
            .any(|word| has_token(headers, &CACHE_CONTROL, word))
}

/// Replaces `Cache-Control`, and removes `Expires`, which would contradict it. Returns false if the
/// text is no header value.
pub(super) fn set_cache_control(headers: &mut HeaderMap, text: Vec<u8>) -> bool {
    let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) else {
        return false;
    };
    headers.insert(CACHE_CONTROL, value);
    headers.remove(header::EXPIRES);
    true
}

pub(super) fn lifetime(text: &mut Vec<u8>, name: &[u8], span: Option<Duration>) {
    if let Some(span) = span {
        text.extend_from_slice(name);
        text.extend_from_slice(itoa::Buffer::new().format(span.as_secs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = MAX_LIFETIME;
    const DAY: Duration = Duration::from_hours(24);

    fn written(rule: &ClientLifetimes, origin: &str, age: u64, is_personal: bool) -> String {
        let mut headers = HeaderMap::new();
        if !origin.is_empty() {
            headers.insert(CACHE_CONTROL, origin.parse().unwrap());
        }
        headers.insert(header::EXPIRES, HeaderValue::from_static("0"));
        rule.write(&mut headers, Duration::from_secs(age), is_personal);
        let text = |name| {
            let value = headers.get(name);
            value.map_or("-", |value: &HeaderValue| value.to_str().unwrap())
        };
        format!("{} | {}", text(CACHE_CONTROL), text(CDN_CACHE_CONTROL))
    }

    #[test]
    fn a_hashed_file_stays_for_exactly_a_year() {
        let rule = ClientLifetimes {
            browser: Some(YEAR),
            is_immutable: true,
            ..ClientLifetimes::default()
        };
        let exact = "public, max-age=31536000, immutable | -";
        for origin in [
            "",
            "public",
            "public, max-age=31536000, immutable",
            "max-age=31536000",
        ] {
            for age in [0, 100, 31_536_000] {
                assert_eq!(written(&rule, origin, age, false), exact, "{origin} {age}");
            }
        }
        assert_eq!(
            written(&rule, "public, max-age=0, must-revalidate", 0, true),
            "public, max-age=31536000, s-maxage=0, immutable, must-revalidate | -"
        );
    }

    #[test]
    fn browsers_and_shared_caches_have_lifetimes_of_their_own() {
        let rule = ClientLifetimes {
            browser: Some(Duration::from_mins(1)),
            shared: Some(DAY),
            cdn: Some(HeaderValue::from_static("max-age=86400")),
            is_immutable: false,
        };
        assert_eq!(
            written(&rule, "", 5, false),
            "public, max-age=65, s-maxage=86400 | max-age=86400"
        );
        assert_eq!(
            written(&rule, "s-maxage=10, max-age=3, no-transform", 0, true),
            "public, max-age=60, s-maxage=86400, no-transform | max-age=86400"
        );
    }

    #[test]
    fn a_personal_response_is_for_its_browser_alone() {
        let rule = ClientLifetimes {
            browser: Some(Duration::from_mins(1)),
            shared: Some(DAY),
            cdn: Some(HeaderValue::from_static("max-age=86400")),
            is_immutable: false,
        };
        assert_eq!(written(&rule, "", 0, true), "private, max-age=60 | -");
        assert_eq!(
            written(&rule, "max-age=5", 0, true),
            "private, max-age=60 | -"
        );
    }

    #[test]
    fn what_the_origin_keeps_from_caches_stays_so() {
        let rule = ClientLifetimes {
            browser: Some(YEAR),
            shared: Some(DAY),
            ..ClientLifetimes::default()
        };
        for origin in [
            "no-store",
            "private",
            "private, max-age=5",
            "no-cache",
            "max-age=5, NO-STORE",
        ] {
            for is_personal in [true, false] {
                let expected = format!("{origin} | -");
                assert_eq!(written(&rule, origin, 0, is_personal), expected);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::SET_COOKIE, HeaderValue::from_static("a=1"));
        rule.write(&mut headers, Duration::ZERO, false);
        assert!(!headers.contains_key(CACHE_CONTROL));
    }
}
