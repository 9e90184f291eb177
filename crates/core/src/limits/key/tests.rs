//! Tests of which requests share a key.

use std::sync::Arc;

use pingora::http::RequestHeader;
use serde_json::json;

use super::*;
use crate::{
    base::clock::Clock,
    chain::{Claims, Identity, RequestFacts},
    config::{diagnostic::Diagnostics, tree},
};

/// A request, as `Name: value` lines and facts about its client.
struct Request {
    head: RequestHeader,
    facts: RequestFacts,
}

fn request(target: &str, lines: &[(&str, &str)]) -> Request {
    let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    for (name, value) in lines {
        head.append_header((*name).to_owned(), *value).unwrap();
    }
    Request {
        head,
        facts: RequestFacts::new(Clock::test().now()),
    }
}

impl Request {
    fn from(mut self, ip: &str) -> Self {
        self.facts.client.ip = ip.parse().unwrap();
        self
    }

    fn known_as(mut self, identity: Identity) -> Self {
        self.facts.identity = Some(Box::new(identity));
        self
    }

    fn key(&mut self, list: &str, hashing: Hashing) -> Key {
        keys(list).resolve(&self.exchange(), hashing)
    }

    fn exchange(&mut self) -> Exchange<'_> {
        Exchange {
            head: &self.head,
            facts: &mut self.facts,
        }
    }
}

fn keys(yaml: &str) -> KeyList {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    let keys = tree::read(&node, &mut diagnostics);
    keys.unwrap_or_else(|| panic!("{diagnostics:#?}"))
}

fn refused(yaml: &str) -> String {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    assert!(
        tree::read::<KeyList>(&node, &mut diagnostics).is_none(),
        "{yaml}"
    );
    let found = &diagnostics.list()[0];
    format!(
        "{}; help: {}",
        found.message,
        found.help.as_deref().unwrap_or_default()
    )
}

const BOTH: [Hashing; 2] = [Hashing::Seeded(1, 2), Hashing::Shared];

#[track_caller]
fn same(list: &str, mut one: Request, mut other: Request) {
    for hashing in BOTH {
        assert_eq!(one.key(list, hashing), other.key(list, hashing));
    }
}

#[track_caller]
fn apart(list: &str, mut one: Request, mut other: Request) {
    for hashing in BOTH {
        assert_ne!(one.key(list, hashing), other.key(list, hashing));
    }
}

fn ip(text: &str) -> Request {
    request("/", &[]).from(text)
}

fn with(name: &str, value: &str) -> Request {
    request("/", &[(name, value)])
}

fn user(sub: &str) -> Request {
    let claims = json!({ "sub": sub, "role": "a" });
    request("/", &[]).known_as(Identity {
        claims: Some(Claims(Arc::new(claims.as_object().unwrap().clone()))),
        api_key: Some(format!("key of {sub}").into()),
        user: Some(sub.into()),
    })
}

#[test]
fn addresses_count_alone_and_networks_together() {
    apart("client.ip", ip("192.0.2.1"), ip("192.0.2.2"));
    same("client.ip", ip("192.0.2.1"), ip("::ffff:192.0.2.1"));
    same("client.ip", ip("2001:db8::1"), ip("2001:db8::2:0:0:1"));
    apart("client.ip", ip("2001:db8::1"), ip("2001:db8:0:1::1"));
    same("client.network", ip("192.0.2.1"), ip("192.0.2.254"));
    apart("client.network", ip("192.0.2.1"), ip("192.0.3.1"));
    same("client.network", ip("2001:db8::1"), ip("2001:db8:0:1::1"));
    apart("client.network", ip("2001:db8::1"), ip("2001:db8:1::1"));
}

#[test]
fn parts_of_the_request_count_by_the_value_that_apps_read() {
    apart("header:X-Id", with("x-id", "a"), with("x-id", "b"));
    same("header:x-id", with("x-id", "a"), with("x-id", " a "));
    same(
        "cookie:sid",
        with("cookie", "a=1; sid=7; sid=7"),
        with("cookie", "sid =\"%37\""),
    );
    apart(
        "cookie:sid",
        with("cookie", "sid=7"),
        with("cookie", "sid=8"),
    );
    apart(
        "cookie:id",
        with("cookie", "id=7; sid=1"),
        with("cookie", "sid=7; id=1"),
    );
    same(
        "query:q",
        request("/?a=1&q=x%20y", &[]),
        request("/z?q=x+y", &[]),
    );
    same(
        "query:q",
        request("/?q=%61bc", &[]),
        request("/?q=abc", &[]),
    );
    apart("query:q", request("/?q=a", &[]), request("/?q=b", &[]));
    // Another spelling of a name is the same to apps.
    same("query:q", request("/?q=a", &[]), request("/?%71=a", &[]));
    same("host", with("host", "a.test:8080"), with("host", "a.test."));
    same("host", with("host", "[::1]:80"), with("host", "[::1]"));
    apart("host", with("host", "a.test"), with("host", "b.test"));
    apart("jwt.sub", user("a"), user("b"));
    same("jwt.role", user("a"), user("b"));
    apart("api_key", user("a"), user("b"));
    apart("user", user("a"), user("b"));
    same(
        "user",
        user("a").from("192.0.2.1"),
        user("a").from("192.0.2.2"),
    );
}

#[test]
fn several_values_are_as_good_as_none() {
    // Some frameworks take the first, others the last: with either, one client could have a bucket
    // for each request.
    let nothing = |source: &str| {
        same(
            source,
            ip("192.0.2.1"),
            match source {
                "header:X-Id" => request("/", &[("x-id", "a"), ("x-id", "b")]),
                "cookie:sid" => request("/", &[("cookie", "sid=7"), ("cookie", "sid=8")]),
                "cookie:id" => request("/", &[("cookie", "id=7; a=1 id=8")]),
                _ => request("/?q=a&%71=b", &[]),
            }
            .from("192.0.2.1"),
        );
    };
    for source in ["header:X-Id", "cookie:sid", "cookie:id", "query:q"] {
        nothing(source);
    }
}

#[test]
fn routes_have_buckets_of_their_own_if_configured() {
    let on = |route: &str| {
        let mut request = ip("192.0.2.1");
        request.facts.route = Some(route.into());
        request
    };
    same("client.ip", on("a"), on("b"));
    apart("client.ip+route", on("a"), on("b"));
    same("route", on("a"), on("a").from("192.0.2.9"));
}

#[test]
fn missing_parts_fall_through_the_list_and_at_last_to_the_address() {
    let plain = || ip("192.0.2.1");
    let list = "[jwt.sub, header:X-Id, client.network]";
    same(
        list,
        user("a").from("192.0.2.1"),
        user("a").from("203.0.113.9"),
    );
    same(
        list,
        with("x-id", "a").from("192.0.2.1"),
        with("x-id", "a").from("203.0.113.9"),
    );
    same(list, plain(), ip("192.0.2.77"));
    for list in [
        "header:X-Id",
        "cookie:a",
        "query:a",
        "jwt.sub",
        "api_key",
        "user",
        "host",
    ] {
        for mut bare in [plain(), with("x-id", "").from("192.0.2.1")] {
            assert_eq!(
                bare.key(list, BOTH[0]),
                plain().key("client.ip", BOTH[0]),
                "{list}"
            );
            assert!(keys(list).chosen(&bare.exchange()).is_none());
        }
        apart(list, plain(), ip("192.0.2.2"));
    }
    // Joined parts are all present or count as absent.
    let joined = "[header:X-Id+cookie:a]";
    same(joined, with("x-id", "1"), request("/", &[]));
    let both = |id| request("/", &[("x-id", id), ("cookie", "a=1")]);
    apart(joined, both("1"), both("2"));
}

#[test]
fn a_value_is_never_taken_for_another_parts() {
    let list = |list: &str, mut request: Request| request.key(list, BOTH[0]);
    let address = list("client.ip", ip("65.66.67.68"));
    assert_ne!(list("header:X", with("x", "65.66.67.68")), address);
    assert_ne!(list("header:X", with("x", "ABCD")), address);
    assert_ne!(
        list("header:X", with("x", "a")),
        list("header:Y", with("y", "a"))
    );
    assert_ne!(list("jwt.sub", user("a")), list("user", user("a")));
    let pair = |x, y| request("/", &[("x", x), ("y", y)]);
    apart("header:X+header:Y", pair("ab", "c"), pair("a", "bc"));
}

#[test]
fn a_value_that_is_too_long_counts_as_missing() {
    let long = "a".repeat(MAX_VALUE + 1);
    same("header:X", with("x", &long), request("/", &[]));
    apart("header:X", with("x", &long[1..]), request("/", &[]));
}

#[test]
fn seeds_make_other_keys_and_gateways_the_same() {
    let mut request = ip("192.0.2.1");
    let one = request.key("client.ip", Hashing::Seeded(1, 2));
    assert_ne!(one, request.key("client.ip", Hashing::Seeded(1, 3)));
    // Gateways of two versions must agree on this value.
    let shared = request.key("client.ip", Hashing::Shared);
    assert_eq!(shared, Key(0x2f3a_89da_6721_17c4_f22d_0f29_6663_bf43));
    assert!(!format!("{:?}", Hashing::Seeded(1234, 5678)).contains("1234"));
}

#[test]
fn lists_know_whether_they_need_an_identity() {
    for (list, needs) in [
        ("client.ip", false),
        ("[header:X, host, route]", false),
        ("[client.ip, jwt.sub]", true),
        ("route+user", true),
        ("api_key", true),
    ] {
        assert_eq!(keys(list).needs_identity(), needs, "{list}");
    }
}

#[test]
fn lists_read_back_as_they_are_printed() {
    for list in [
        "[client.ip+route, 'header:x-id', 'cookie:a', 'query:b', jwt.realm.role, api_key, user, host, client.network]",
        "client.ip",
    ] {
        let read = keys(list);
        let printed = serde_json::to_string(&read).unwrap();
        assert_eq!(keys(&printed), read);
    }
}

#[test]
fn invalid_parts_are_reported_with_a_remedy() {
    for (yaml, message) in [
        (
            "client_ip",
            "unknown key `client_ip`; help: did you mean `client.ip`?",
        ),
        (
            "'headers:X'",
            "unknown key `headers:X`; help: parts of a request are `client.ip`, `client.network`, `header:NAME`, `cookie:NAME`, `query:NAME`, `host`, `route`, `jwt.CLAIM`, `api_key`, `user`, `client.certificate`",
        ),
        (
            "'header:'",
            "`header:` has no header name; help: write the name after it, such as `header:x`",
        ),
        (
            "'header:a b'",
            "invalid header name `a b`; help: write one such as `header:X-Client`",
        ),
        (
            "jwt.",
            "`jwt.` has no claim; help: write the claim after it, such as `jwt.sub`",
        ),
        (
            "host+host+host+host+host",
            "`host+host+host+host+host` has 5 parts; help: join 4 at most",
        ),
    ] {
        assert_eq!(refused(yaml), message);
    }
}
