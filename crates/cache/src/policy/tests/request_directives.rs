//! RFC 9111, 5.2.1 and 4, and RFC 5861.

use super::*;

/// Decides how a response that was new at 0 may be used `later` for a client that sends `request`.
fn verdict(response: &str, request: &str, later: i64) -> Usability {
    let lifetime = stored(&format!("ETag: \"a\"\nCache-Control: {response}")).unwrap();
    let request = if request.contains(':') || request.is_empty() {
        head(request)
    } else {
        head(&format!("Cache-Control: {request}"))
    };
    judge(&lifetime, &RequestDirectives::parse(&request), at(later))
}

#[test]
fn directives_of_clients_are_obeyed() {
    use Usability::{Fresh, GatewayTimeout, StaleAsAsked, StaleWhileRevalidate, Validate};
    for (response, request, later, expected) in [
        ("max-age=60", "", 59, Fresh),
        ("max-age=60", "", 60, Validate),
        ("max-age=60", "no-cache", 0, Validate),
        ("max-age=60", "No-Cache", 0, Validate),
        ("max-age=60", "Pragma: no-cache", 0, Validate),
        ("max-age=60", "Pragma: x, No-Cache", 0, Validate),
        ("max-age=60", "Pragma: other", 0, Fresh),
        (
            "max-age=60",
            "Pragma: no-cache\nCache-Control: max-age=30",
            0,
            Fresh,
        ),
        ("max-age=60", "no-store", 0, Fresh),
        ("max-age=60", "max-age=0", 0, Validate),
        ("max-age=60", "max-age=10", 10, Fresh),
        ("max-age=60", "max-age=10", 11, Validate),
        ("max-age=60", "max-age=junk", 1, Validate),
        ("max-age=60", "max-age=10, max-age=50", 11, Validate),
        ("max-age=60", "max-age=600", 61, Validate),
        ("max-age=60", "min-fresh=30", 30, Fresh),
        ("max-age=60", "min-fresh=30", 31, Validate),
        ("max-age=60", "min-fresh=junk", 0, Validate),
        ("max-age=60", "max-stale", 6000, StaleAsAsked),
        ("max-age=60", "max-stale=10", 70, StaleAsAsked),
        ("max-age=60", "max-stale=10", 71, Validate),
        ("max-age=60", "max-stale=junk", 61, Validate),
        ("max-age=60", "max-stale=\"10\"", 70, StaleAsAsked),
        ("max-age=60", "max-stale=100, max-age=65", 65, StaleAsAsked),
        ("max-age=60", "max-stale=100, max-age=65", 66, Validate),
        ("max-age=60", "max-stale=100, min-fresh=1", 61, Validate),
        ("max-age=60, must-revalidate", "max-stale", 61, Validate),
        ("max-age=60, proxy-revalidate", "max-stale", 61, Validate),
        ("s-maxage=60", "max-stale", 61, Validate),
        ("max-age=60, no-cache", "max-stale", 0, Validate),
        ("max-age=60", "only-if-cached", 0, Fresh),
        ("max-age=60", "only-if-cached", 61, GatewayTimeout),
        ("max-age=60", "only-if-cached, max-stale", 61, StaleAsAsked),
        ("max-age=60", "only-if-cached, no-cache", 0, GatewayTimeout),
        (
            "max-age=60, stale-while-revalidate=30",
            "",
            60,
            StaleWhileRevalidate,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "",
            89,
            StaleWhileRevalidate,
        ),
        ("max-age=60, stale-while-revalidate=30", "", 90, Validate),
        (
            "max-age=60, stale-while-revalidate=30",
            "max-age=600",
            61,
            Validate,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "min-fresh=1",
            61,
            Validate,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "max-stale=5",
            65,
            StaleWhileRevalidate,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "max-stale=5",
            66,
            Validate,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "max-stale",
            95,
            StaleAsAsked,
        ),
        (
            "max-age=60, stale-while-revalidate=30",
            "no-cache",
            61,
            Validate,
        ),
        (
            "max-age=60, stale-while-revalidate=30, must-revalidate",
            "",
            61,
            Validate,
        ),
    ] {
        let found = verdict(response, request, later);
        assert_eq!(found, expected, "{response} | {request} | {later}");
    }
}

#[test]
fn age_before_arrival_counts() {
    let lifetime = stored("Cache-Control: max-age=3600\nAge: 1800").unwrap();
    let judged = |request| judge(&lifetime, &RequestDirectives::parse(&head(request)), at(0));
    assert_eq!(judged(""), Usability::Fresh);
    assert_eq!(judged("Cache-Control: max-age=600"), Usability::Validate);
    assert_eq!(judged("Cache-Control: min-fresh=1801"), Usability::Validate);
    assert_eq!(judged("Cache-Control: min-fresh=1800"), Usability::Fresh);
}

#[test]
fn a_failing_origin_is_bridged_inside_the_window() {
    let bridged = |response: &str, request: &str, later| {
        let lifetime = stored(&format!("ETag: \"a\"\nCache-Control: {response}")).unwrap();
        let request = head(&format!("Cache-Control: {request}"));
        after_error(&lifetime, &RequestDirectives::parse(&request), at(later))
    };
    for (response, request, later, expected) in [
        ("max-age=60", "", 61, false),
        ("max-age=60, stale-if-error=30", "", 89, true),
        ("max-age=60, stale-if-error=30", "", 90, false),
        (
            "max-age=60, stale-if-error=30, must-revalidate",
            "",
            61,
            false,
        ),
        (
            "max-age=60, stale-if-error=30, proxy-revalidate",
            "",
            61,
            false,
        ),
        ("s-maxage=60, stale-if-error=30", "", 61, false),
        ("no-cache, max-age=60, stale-if-error=30", "", 0, false),
        // Reload of a page whose origin failed.
        ("max-age=60, stale-if-error=30", "max-age=0", 61, true),
        ("max-age=60", "max-age=0", 10, true),
        ("max-age=60, stale-if-error=30", "no-cache", 10, false),
        ("max-age=60", "stale-if-error=30", 89, true),
        ("max-age=60", "stale-if-error=30", 90, false),
        (
            "max-age=60, must-revalidate",
            "stale-if-error=30",
            61,
            false,
        ),
    ] {
        let found = bridged(response, request, later);
        assert_eq!(found, expected, "{response} | {request} | {later}");
    }
}
