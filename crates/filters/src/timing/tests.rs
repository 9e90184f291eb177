//! Durations as clients read them.

use std::time::Duration;

use edgeway_core::chain::testkit::{check, refused};

use super::{Millis, Timing};

#[test]
fn both_headers_are_there_by_default() {
    let check = check::<Timing>("{}").get("/");
    assert_eq!(check.last().headers["server-timing"], "total;dur=0.0");
    assert_eq!(check.last().headers["x-response-time"], "0.0ms");
}

#[test]
fn one_header_may_be_had_alone() {
    let check = check::<Timing>("{ server_timing: false }").get("/");
    assert!(!check.last().headers.contains_key("server-timing"));
    assert!(check.last().headers.contains_key("x-response-time"));
}

#[test]
fn the_origins_own_metrics_stay() {
    let check = check::<Timing>("{ response_time: false }")
        .backend(200, &[("Server-Timing", "db;dur=5")], &[])
        .get("/");
    let all: Vec<_> = check
        .last()
        .headers
        .get_all("server-timing")
        .iter()
        .collect();
    assert_eq!(all, ["db;dur=5", "total;dur=0.0"]);
}

#[test]
fn times_are_milliseconds_with_one_decimal() {
    for (micros, text) in [
        (0, "0.0"),
        (99, "0.0"),
        (12_345, "12.3"),
        (60_000_000, "60000.0"),
    ] {
        assert_eq!(Millis(Duration::from_micros(micros)).to_string(), text);
    }
}

#[test]
fn a_filter_that_does_nothing_is_refused() {
    assert_eq!(
        refused::<Timing>("{ server_timing: false, response_time: false }"),
        [
            "`timing` adds no header; help: write `timing: true` for both headers, or `timing: false`"
        ]
    );
}
