//! The same id in response, origin and log.

use edgeway_core::chain::testkit::{FilterCheck, TestResponse, check, refused};

use super::RequestId;

#[track_caller]
fn in_response(response: &TestResponse) -> &str {
    response.headers["x-request-id"].to_str().unwrap()
}

#[track_caller]
fn at_origin<'a>(response: &'a TestResponse, name: &str) -> &'a str {
    let head = response.upstream.as_ref().expect("the origin was asked");
    let mut values = head.headers.get_all(name).iter();
    let value = values.next().map_or("(absent)", |v| v.to_str().unwrap());
    assert!(values.next().is_none(), "`{name}` stands there twice");
    value
}

fn from_proxy(check: FilterCheck) -> FilterCheck {
    check.client(|client| client.is_trusted = true)
}

#[test]
fn response_and_origin_have_the_same_id() {
    let check = check::<RequestId>("{}").get("/");
    let id = in_response(check.last()).to_owned();
    assert_eq!(id.len(), 32);
    assert_eq!(at_origin(check.last(), "x-request-id"), id);
    let check = check.get("/");
    assert_ne!(in_response(check.last()), id);
}

#[test]
fn a_clients_own_id_is_replaced() {
    let sent = [("X-Request-Id", "mine"), ("x-request-id", "mine too")];
    for check in [
        check::<RequestId>("{}"),
        check::<RequestId>("{ trust: true }"),
        from_proxy(check::<RequestId>("{}")),
    ] {
        let check = check.send("GET", "/", &sent, &[]);
        assert_ne!(in_response(check.last()), "mine");
        assert_eq!(
            at_origin(check.last(), "x-request-id"),
            in_response(check.last())
        );
    }
}

#[test]
fn the_id_of_a_trusted_proxy_is_adopted_where_configured() {
    let check = from_proxy(check::<RequestId>("{ trust: true }"));
    let check = check.send("GET", "/", &[("X-Request-Id", "edge-1")], &[]);
    assert_eq!(in_response(check.last()), "edge-1");
    assert_eq!(at_origin(check.last(), "x-request-id"), "edge-1");
    let check = check.send("GET", "/", &[("X-Request-Id", "not an id")], &[]);
    assert_eq!(in_response(check.last()).len(), 32);
}

#[test]
fn an_origins_own_id_gives_way_to_ours() {
    let check = check::<RequestId>("{}")
        .backend(
            200,
            &[("X-Request-Id", "theirs"), ("X-Request-Id", "two")],
            &[],
        )
        .get("/");
    assert_eq!(
        check.last().headers.get_all("x-request-id").iter().count(),
        1
    );
    assert_ne!(in_response(check.last()), "theirs");
}

#[test]
fn a_response_has_no_id_where_configured() {
    let check = check::<RequestId>("{ response: false }").get("/");
    assert_eq!(check.last().headers.get("x-request-id"), None);
    assert_eq!(at_origin(check.last(), "x-request-id").len(), 32);
}

#[test]
fn a_trace_begins_with_the_requests_id() {
    let check = check::<RequestId>("{}").get("/");
    let parent = at_origin(check.last(), "traceparent");
    assert!(
        parent.starts_with(&format!("00-{}-", in_response(check.last()))),
        "{parent}"
    );
}

#[test]
fn a_valid_trace_passes_and_an_invalid_one_is_started_again() {
    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let check = check::<RequestId>("{}");
    let check = check.send(
        "GET",
        "/",
        &[("traceparent", VALID), ("tracestate", "a=1")],
        &[],
    );
    assert_eq!(at_origin(check.last(), "traceparent"), VALID);
    assert_eq!(at_origin(check.last(), "tracestate"), "a=1");
    for sent in [
        &[("traceparent", "nonsense"), ("tracestate", "a=1")][..],
        &[
            ("traceparent", VALID),
            ("traceparent", VALID),
            ("tracestate", "a=1"),
        ],
        &[("tracestate", "a=1")],
    ] {
        let check = self::check::<RequestId>("{}").send("GET", "/", sent, &[]);
        let parent = at_origin(check.last(), "traceparent");
        assert!(parent.contains(in_response(check.last())), "{parent}");
        assert_eq!(at_origin(check.last(), "tracestate"), "(absent)");
    }
}

#[test]
fn traces_are_left_alone_where_configured() {
    let check = check::<RequestId>("{ traceparent: false }");
    let check = check.send("GET", "/", &[("tracestate", "a=1")], &[]);
    assert_eq!(at_origin(check.last(), "traceparent"), "(absent)");
    assert_eq!(at_origin(check.last(), "tracestate"), "a=1");
}

#[test]
fn another_header_may_carry_the_id() {
    let check = check::<RequestId>("{ header: X-Correlation-Id }").get("/");
    assert!(check.last().headers.contains_key("x-correlation-id"));
    assert!(!check.last().headers.contains_key("x-request-id"));
    assert_eq!(
        refused::<RequestId>("{ header: 'not a name' }"),
        ["invalid header name `not a name`; help: write a name such as `X-User-Id`"]
    );
    for name in ["Host", "Content-Length", "Connection"] {
        let messages = refused::<RequestId>(&format!("{{ header: {name} }}"));
        assert!(
            messages[0].starts_with("reserved header name"),
            "{messages:?}"
        );
    }
}
