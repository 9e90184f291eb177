//! Recent requests whose responses were not stored. Requests like them do not wait for one another,
//! since none of them will store a response for the next.

use std::time::{Duration, Instant};

use http::HeaderMap;
use smart_default::SmartDefault;

use super::{key::Key, policy::Variance, unusual_request::unusual_headers};
use crate::base::recent_values::{Fingerprint, RecentValues};

/// Number of requests remembered.
const MAX_ENTRIES: usize = 65_536;

/// Time for which a request is remembered. A longer time would delay collapsing once a response
/// becomes storable.
const TTL: Duration = Duration::from_secs(30);

/// The remembered requests, each with the time at which it is forgotten.
///
/// A request is identified by its key, its values of the fields that the stored responses vary by,
/// and the client's unusual headers. An origin may choose a response by one of these without
/// listing it in `Vary`. A client that sends such a header does not end collapsing for the others.
#[derive(SmartDefault)]
pub struct HitForMiss(#[default(RecentValues::new(MAX_ENTRIES))] RecentValues<Instant>);

impl HitForMiss {
    pub fn contains(
        &self,
        key: &Key,
        variance: Option<Variance>,
        headers: &HeaderMap,
        now: Instant,
    ) -> bool {
        let of = self.fingerprint(key, variance, headers);
        self.0.get(of).is_some_and(|until| now < until)
    }

    /// Records that the response to this request was not stored.
    pub fn insert(&self, key: &Key, variance: Option<Variance>, headers: &HeaderMap, now: Instant) {
        let of = self.fingerprint(key, variance, headers);
        self.0.insert(of, now + TTL);
    }

    fn fingerprint(
        &self,
        key: &Key,
        variance: Option<Variance>,
        headers: &HeaderMap,
    ) -> Fingerprint {
        // Where nothing is stored, no `Vary` is known.
        let variance = variance.unwrap_or_default().0.to_be_bytes();
        let lines = unusual_headers(headers);
        let lines = lines.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        self.0
            .fingerprint([key.as_bytes(), &variance].into_iter().chain(lines))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn a_request_is_remembered_for_a_while() {
        let clock = Clock::test();
        let passes = HitForMiss::default();
        let key = |path: &[u8]| Key::new("http", "a", path, None, b"");
        let with = |name: &'static str| {
            let name = HeaderName::from_static(name);
            HeaderMap::from_iter([(name, HeaderValue::from_static("1"))])
        };
        let (none, a, b) = (HeaderMap::new(), key(b"/a"), key(b"/b"));
        passes.insert(&a, None, &none, clock.now());
        for (key, variance, headers, expected) in [
            (&a, None, &none, true),
            (&a, Some(Variance(0)), &none, true),
            (&a, Some(Variance(1)), &none, false),
            (&a, None, &with("accept"), true),
            (&a, None, &with("x-evil"), false),
            (&b, None, &none, false),
        ] {
            let is_there = passes.contains(key, variance, headers, clock.now());
            assert_eq!(is_there, expected, "{variance:?} {headers:?}");
        }
        clock.advance(TTL);
        assert!(!passes.contains(&a, None, &none, clock.now()));
    }
}
