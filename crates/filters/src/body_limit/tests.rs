//! Limits of body sizes.

use edgeway_core::chain::testkit::{FilterCheck, check, refused};

use super::BodyLimit;

fn post(check: FilterCheck, headers: &[(&str, &str)], chunks: &[usize]) -> FilterCheck {
    let body: Vec<Vec<u8>> = chunks.iter().map(|length| vec![b'x'; *length]).collect();
    let body: Vec<&[u8]> = body.iter().map(Vec::as_slice).collect();
    check.send("POST", "/", headers, &body)
}

#[test]
fn an_announced_length_is_exact_to_the_byte() {
    let bench = check::<BodyLimit>("512000");
    let bench = post(bench, &[("Content-Length", "512000")], &[512_000]);
    let bench = post(bench, &[("Content-Length", "512001")], &[512_001]);
    assert!(bench.last().upstream.is_none(), "the origin saw nothing");
    assert_eq!(bench.last().reason, Some("body_limit"));
    bench.expect([200, 413]);
}

#[test]
fn a_chunked_body_is_counted_to_the_byte() {
    let chunked = [("Transfer-Encoding", "chunked")];
    let bench = post(check::<BodyLimit>("512000"), &chunked, &[500_000, 12_000]);
    let bench = post(bench, &chunked, &[500_000, 12_001]);
    let bench = post(bench, &chunked, &[512_001]);
    bench.expect([200, 413, 413]);
}

#[test]
fn requests_are_counted_each_for_itself() {
    let chunked = [("Transfer-Encoding", "chunked")];
    let bench = post(check::<BodyLimit>("{ max: 100B }"), &chunked, &[100]);
    post(bench, &chunked, &[100]).expect([200, 200]);
}

#[test]
fn one_mebibyte_is_the_default() {
    let bench = check::<BodyLimit>("{}");
    let bench = post(bench, &[("Content-Length", "1048576")], &[]);
    let bench = post(bench, &[("Content-Length", "1048577")], &[]);
    bench.expect([200, 413]);
}

#[test]
fn a_length_beyond_all_numbers_is_too_large() {
    let length = [("Content-Length", "99999999999999999999999")];
    post(check::<BodyLimit>("8MiB"), &length, &[]).expect([413]);
}

#[test]
fn messages_of_a_websocket_are_no_body() {
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    post(check::<BodyLimit>("100B"), &upgrade, &[1000, 1000]).expect([200]);
}

#[test]
fn invalid_limits_are_reported_with_a_remedy() {
    assert_eq!(
        refused::<BodyLimit>("0"),
        [
            "`body_limit` of 0 bytes; help: write `body_limit: false` for no limit, or \
          `methods: [GET]` where no body is wanted"
        ]
    );
    assert!(refused::<BodyLimit>("1 MBit")[0].starts_with("invalid size `1 MBit`"));
    assert!(refused::<BodyLimit>("{ maximum: 1MiB }")[0].contains("maximum"));
}
