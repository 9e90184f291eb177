//! Comparison with another implementation of RFC 9111, over generated headers.
//!
//! The generated headers avoid the places where the two differ on purpose:
//! - The oracle follows RFC 7234 in counting neither `Date` nor the delay into the age, so that `Date` is
//!   always now. A response with `proxy-revalidate` is stale at once for it (for us only once it is
//!   stale).
//! - It does not know `must-understand` or targeted fields, and has a shorter list of statuses.
//! - Cookies: it stores them with `public`; we never do.
//! - For repeated directives with different values it takes the first and forbids stale responses;
//!   we take the first.
//! - It splits at commas in quotes, reads `no-cache="x"` as `no-cache`, does not fold case, and
//!   accepts `+5` as a number: quotes, lists of fields and case have tests of their own.
//! - It stores responses that can never be used (never fresh, no validator); we do not.

use http::{Request, Response};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use proptest::prelude::*;

use super::*;

fn directive() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u32..200).prop_map(|age| format!("max-age={age}")),
        (0u32..200).prop_map(|age| format!("s-maxage={age}")),
        Just("max-age=junk".to_owned()),
        Just("public".to_owned()),
        Just("private".to_owned()),
        Just("no-store".to_owned()),
        Just("no-cache".to_owned()),
        Just("must-revalidate".to_owned()),
        Just("ext=5".to_owned()),
    ]
}

fn response_fields() -> impl Strategy<Value = String> {
    let cache_control = proptest::collection::btree_set(directive(), 0..4);
    // Each name occurs once.
    let cache_control = cache_control.prop_map(|directives| {
        let mut names = std::collections::BTreeSet::new();
        let once = directives
            .into_iter()
            .filter(|one| names.insert(one.split('=').next().unwrap().to_owned()));
        once.collect::<Vec<_>>().join(", ")
    });
    let age = proptest::option::of(0u32..150);
    let expires = proptest::option::of(-50i64..200);
    let modified = proptest::option::of(0i64..10_000);
    (cache_control, age, expires, modified, any::<bool>()).prop_map(
        |(cache_control, age, expires, modified, varies)| {
            let lines = [
                Some("Date: @0\nETag: \"a\"".to_owned()),
                (!cache_control.is_empty()).then(|| format!("Cache-Control: {cache_control}")),
                age.map(|age| format!("Age: {age}")),
                expires.map(|at| format!("Expires: @{at}")),
                modified.map(|at| format!("Last-Modified: @-{at}")),
                varies.then(|| "Vary: accept".to_owned()),
            ];
            lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
        },
    )
}

fn request() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => Just("Authorization: x".to_owned()),
        1 => Just("Cache-Control: no-store".to_owned()),
        1 => Just("Cookie: a=b".to_owned()),
    ]
}

fn second() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        1 => (1u32..150).prop_map(|age| format!("Cache-Control: max-age={age}")),
        1 => (0u32..150).prop_map(|age| format!("Cache-Control: min-fresh={age}")),
        1 => (0u32..150).prop_map(|age| format!("Cache-Control: max-stale={age}")),
        1 => Just("Cache-Control: max-stale".to_owned()),
        1 => Just("Cache-Control: no-cache".to_owned()),
        1 => Just("Pragma: no-cache".to_owned()),
    ]
}

fn sent(fields: &str) -> Request<()> {
    let mut request = Request::get("https://a.test/").body(()).unwrap();
    *request.headers_mut() = head(fields);
    request
}

proptest! {
    #[test]
    fn storing_and_using_agree(
        first in request(),
        response_fields in response_fields(),
        second in second(),
        status in prop_oneof![4 => Just(200u16), 1 => Just(404), 1 => Just(302), 1 => Just(410), 1 => Just(500)],
        later in 0i64..300,
    ) {
        let mut response = Response::builder().status(status).body(()).unwrap();
        *response.headers_mut() = head(&response_fields);
        let options = CacheOptions { shared: true, ..CacheOptions::default() };
        let theirs = CachePolicy::new_options(&sent(&first), &response, at(0), options);
        // The other implementation always applies the heuristic.
        let rules = CacheRules { heuristic: Some(0.1), ..CacheRules::default() };
        let ours = stored_with(&rules, &first, status, &response_fields);
        let is_used = match &ours {
            Ok(lifetime) => {
                prop_assert!(theirs.is_storable() || status == 500);
                let wants = RequestDirectives::parse(&head(&second));
                let verdict = judge(lifetime, &wants, at(later));
                matches!(verdict, Usability::Fresh | Usability::StaleAsAsked)
            }
            // A response that cannot be used need not be stored.
            Err(_) => false,
        };
        let is_theirs = theirs.is_storable()
            && matches!(theirs.before_request(&sent(&second), at(later)), BeforeRequest::Fresh(_));
        // The other implementation does not know 500.
        let is_comparable = status != 500
            // Fraction of a second in heuristic freshness.
            && !(response_fields.contains("Last-Modified") && ours.as_ref().is_ok_and(|l| l.fresh_for.subsec_nanos() > 0))
            // RFC 9111, 5.2.2.10: `s-maxage` forbids stale responses; the other implementation
            // obeys it for `must-revalidate` only.
            && !(response_fields.contains("s-maxage") && second.contains("max-stale"))
            // A response without a lifetime is not stored here, even for clients that accept any
            // staleness.
            && !(ours.is_err() && second.contains("max-stale"))
            // RFC 9111, 5.2.1.2: "no more than" includes the number; the other implementation
            // excludes it.
            && !ours.as_ref().is_ok_and(|l| second.ends_with(&format!("max-stale={}", l.stale_for(at(later)).as_secs())))
            // RFC 9111, 5.2.2.4: not even with `max-stale`; the other implementation treats it as a
            // lifetime of zero.
            && !(response_fields.contains("no-cache") && second.contains("max-stale"));
        if is_comparable {
            prop_assert_eq!(is_used, is_theirs, "{} | {:?}", response_fields, ours);
        }
    }

    #[test]
    fn freshness_and_age_agree(response_fields in response_fields(), later in 0i64..300) {
        let mut response = Response::new(());
        *response.headers_mut() = head(&response_fields);
        let options = CacheOptions { shared: true, ..CacheOptions::default() };
        let theirs = CachePolicy::new_options(&sent(""), &response, at(0), options);
        let rules = CacheRules { heuristic: Some(0.1), ..CacheRules::default() };
        if let Ok(lifetime) = stored_with(&rules, "", 200, &response_fields) {
            prop_assert_eq!(lifetime.age(at(later)), theirs.age(at(later)));
            if !lifetime.always_validate && lifetime.fresh_for.subsec_nanos() == 0 {
                prop_assert_eq!(lifetime.fresh_left(at(later)), theirs.time_to_live(at(later)));
            }
        }
    }
}
