//! Requests that pass, and the headers that clients get.

use std::sync::Arc;

use edgeway_config::tree;
use edgeway_core::{
    chain::{
        Claims, Class, CompileContext, Identity, Shared,
        testkit::{FilterCheck, check_with, refused_with},
    },
    limits::{config::LimitConfig, limit::Limits},
};
use serde_json::{Value, json};

use super::RateLimit;

/// `rate_limits` of DESIGN's example.
const LIMITS: &str = "
edge: { rate: 10/s, burst: 20, key: client.ip, classes: [api, action] }
login: 5/min
user: { key: [jwt.sub, client.ip], rate: 100/15min, tiers: { jwt.role: { admin: 1000/15min } } }
";

/// Compiles `rate_limits`, as the gateway does before any route.
fn share(limits: &str, cx: &mut CompileContext<'_>, shared: &mut Shared) {
    let section = tree::parse(limits, 0, cx.diagnostics).expect("well formed");
    let mut all = Limits::default();
    for (name, node) in section.entries() {
        let config = tree::read::<LimitConfig>(node, cx.diagnostics);
        if let Some(limit) = config.and_then(|config| config.compile(name, None, (false, true), cx))
        {
            all.0.insert(name.name.clone(), Arc::new(limit));
        }
    }
    shared.insert(Arc::new(all));
}

#[track_caller]
fn check(limits: &str, applied: &str) -> FilterCheck {
    check_with::<RateLimit>(applied, |cx, shared| share(limits, cx, shared)).class(Class::Api)
}

#[track_caller]
fn refused(limits: &str, applied: &str) -> Vec<String> {
    refused_with::<RateLimit>(applied, |cx, shared| share(limits, cx, shared))
}

fn times(check: FilterCheck, count: usize) -> FilterCheck {
    (0..count).fold(check, |check, _| check.get("/"))
}

/// Returns the number of requests out of `count` that pass.
#[track_caller]
fn passes(check: FilterCheck, count: usize) -> (FilterCheck, usize) {
    let mut passed = 0;
    let mut check = check;
    for _ in 0..count {
        check = check.get("/");
        passed += usize::from(check.last().status == 200);
    }
    (check, passed)
}

fn from(check: FilterCheck, ip: &str) -> FilterCheck {
    let ip = ip.parse().unwrap();
    check.client(|client| client.ip = ip)
}

fn known(check: FilterCheck, claims: &Value) -> FilterCheck {
    let claims = claims.as_object().unwrap().clone();
    check.identity(Some(Identity {
        claims: Some(Claims(Arc::new(claims))),
        ..Identity::default()
    }))
}

#[track_caller]
fn header<'c>(check: &'c FilterCheck, name: &str) -> Option<&'c str> {
    let value = check.last().headers.get(name)?;
    Some(value.to_str().unwrap())
}

fn counted(check: &FilterCheck, limit: &str, action: &'static str) -> u64 {
    let labels = [("limit", limit), ("action", action)];
    check
        .metrics
        .counter("edgeway_rate_limit_total", "", &labels)
        .get()
}

#[test]
fn five_a_minute_come_at_once_and_then_one_each_twelve_seconds() {
    let check = times(check(LIMITS, "[login]"), 6);
    assert_eq!(check.last().reason, Some("rate_limit"));
    assert_eq!(header(&check, "retry-after"), Some("12"));
    check
        .expect([200, 200, 200, 200, 200, 429])
        .advance("11999ms")
        .get("/")
        .advance("1ms")
        .get("/")
        .get("/")
        .expect([429, 200, 429]);
}

#[test]
fn a_limit_chooses_the_status_of_its_refusals() {
    let limits = "busy: { rate: 1/min, status: 503 }";
    let check = times(check(limits, "[busy]"), 2);
    assert_eq!(check.last().reason, Some("rate_limit"));
    assert_eq!(header(&check, "retry-after"), Some("60"));
    check.expect([200, 503]);
}

#[test]
fn sixty_requests_in_a_tenth_of_a_second_pass_as_in_the_model() {
    let (mut check, mut passed) = (check(LIMITS, "[edge]"), 0);
    for _ in 0..60 {
        check = check.get("/").advance("1666us");
        passed += usize::from(check.last().status == 200);
    }
    assert_eq!(passed, 20);
    // 99.96 ms have passed: 0.04 ms later, one unit has been refilled.
    assert_eq!(header(&check, "retry-after"), Some("1"));
    let check = check.advance("39us").get("/");
    assert_eq!(check.last().status, 429);
    let check = check.advance("1us").get("/");
    assert_eq!(check.last().status, 200);
}

#[test]
fn clients_get_their_remaining_quota() {
    let check = check(LIMITS, "[edge]").get("/");
    assert_eq!(
        header(&check, "ratelimit-policy"),
        Some("\"edge\";q=10;w=1;burst=20")
    );
    assert_eq!(header(&check, "ratelimit"), Some("\"edge\";r=19;t=1"));
    assert_eq!(header(&check, "retry-after"), None);
    let check = times(check, 20);
    assert_eq!(check.last().status, 429);
    assert_eq!(
        header(&check, "ratelimit-policy"),
        Some("\"edge\";q=10;w=1;burst=20")
    );
    assert_eq!(header(&check, "ratelimit"), Some("\"edge\";r=0;t=2"));
    assert_eq!(header(&check, "retry-after"), Some("1"));
}

#[test]
fn several_limits_are_in_one_line_beside_those_of_the_origin() {
    let origin = [("RateLimit", "\"app\";r=1;t=1")];
    let check = check(LIMITS, "[edge, login]")
        .backend(200, &origin, &[b"ok"])
        .get("/");
    let lines: Vec<_> = check.last().headers.get_all("ratelimit").iter().collect();
    assert_eq!(
        lines,
        ["\"app\";r=1;t=1", "\"edge\";r=19;t=1, \"login\";r=4;t=12"]
    );
    assert_eq!(
        header(&check, "ratelimit-policy"),
        Some("\"edge\";q=10;w=1;burst=20, \"login\";q=5;w=60")
    );
}

#[test]
fn the_headers_are_those_that_were_configured() {
    for (headers, standard, legacy) in [
        ("standard", true, false),
        ("legacy", false, true),
        ("both", true, true),
        ("off", false, false),
    ] {
        let limits = format!("login: {{ rate: 5/min, headers: {headers} }}");
        let mut check = times(check(&limits, "[login]"), 2);
        for _ in 0..2 {
            assert_eq!(header(&check, "ratelimit").is_some(), standard, "{headers}");
            assert_eq!(
                header(&check, "ratelimit-policy").is_some(),
                standard,
                "{headers}"
            );
            assert_eq!(header(&check, "x-ratelimit-limit"), legacy.then_some("5"));
            check = times(check, 4);
        }
        assert_eq!(header(&check, "retry-after"), Some("12"), "{headers}");
        assert_eq!(
            header(&check, "x-ratelimit-remaining"),
            legacy.then_some("0")
        );
        // A minute after the start of the test clock.
        assert_eq!(
            header(&check, "x-ratelimit-reset"),
            legacy.then_some("1800000060")
        );
    }
}

#[test]
fn a_page_load_is_none_of_the_api_limits_business() {
    let mut check = check(LIMITS, "[edge]");
    for (class, count) in [(Class::Page, 1), (Class::Static, 8), (Class::Prefetch, 30)] {
        let (after, passed) = passes(check.class(class), count);
        assert_eq!(passed, count);
        assert_eq!(header(&after, "ratelimit"), None);
        check = after;
    }
    let (check, passed) = passes(check.class(Class::Api), 21);
    assert_eq!((passed, check.last().status), (20, 429));
    // Actions share the window.
    let check = check.class(Class::Action).get("/");
    assert_eq!(check.last().status, 429);
}

#[test]
fn each_user_has_a_bucket_and_admins_a_larger_one() {
    let check = check(LIMITS, "[user]");
    let as_user =
        |check: FilterCheck, sub, role| known(check, &json!({ "sub": sub, "role": role }));
    let (check, passed) = passes(as_user(check, "u1", "user"), 110);
    assert_eq!(passed, 100);
    let (check, passed) = passes(as_user(check, "a1", "admin"), 1010);
    assert_eq!(passed, 1000);
    assert_eq!(
        header(&check, "ratelimit-policy"),
        Some("\"user\";q=1000;w=900")
    );
    let (check, passed) = passes(as_user(check, "u2", "user"), 110);
    assert_eq!(passed, 100);
    // Without a token, the address is the key; another address is another client.
    let (check, passed) = passes(check.identity(None), 110);
    assert_eq!(passed, 100);
    let (check, passed) = passes(from(check, "198.51.100.7"), 110);
    assert_eq!(passed, 100);
    let (check, passed) = passes(as_user(check, "u1", "user"), 1);
    assert_eq!(passed, 0);
    let (_, passed) = passes(check.advance("9s"), 10);
    assert_eq!(passed, 1);
}

#[test]
fn the_first_part_with_a_listed_value_decides_the_tier() {
    let limits = "user: { key: client.ip, rate: 1/h, tiers: {
        'header:x-plan': { slow: { rate: 1/h, burst: 2 } }, jwt.role: { admin: { rate: 1/h, burst: 3 } } } }";
    let send = |mut check: FilterCheck, plan: &str| {
        let mut passed = 0;
        for _ in 0..5 {
            check = check.send("GET", "/", &[("x-plan", plan)], &[]);
            passed += usize::from(check.last().status == 200);
        }
        (check, passed)
    };
    let (check, passed) = send(check(limits, "[user]"), "none");
    assert_eq!(passed, 1);
    let (check, passed) = send(known(check, &json!({ "role": "admin" })), "slow");
    assert_eq!(passed, 2);
    let (_, passed) = send(check, "none");
    assert_eq!(passed, 3);
}

#[test]
fn a_tier_by_host_counts_however_the_host_is_written() {
    let limits =
        "sites: { key: host, rate: 1/h, tiers: { host: { Shop.test: { rate: 1/h, burst: 2 } } } }";
    let ask = |check: FilterCheck, host: &str| check.send("GET", "/", &[("host", host)], &[]);
    let check = ask(ask(check(limits, "[sites]"), "shop.test"), "SHOP.test:8080");
    let check = ask(ask(ask(check, "shop.test"), "a.test"), "a.test");
    check.expect([200, 200, 429, 200, 429]);
}

#[test]
fn a_request_that_one_limit_refuses_is_charged_by_none() {
    let limits = "wide: { rate: 10/h, key: client.network }\nnarrow: { rate: 2/h, key: client.ip }";
    let (check, passed) = passes(from(check(limits, "[wide, narrow]"), "192.0.2.1"), 50);
    assert_eq!(passed, 2);
    assert_eq!(header(&check, "ratelimit"), Some("\"narrow\";r=0;t=3600"));
    let (check, passed) = passes(from(check, "192.0.2.2"), 50);
    assert_eq!(passed, 2);
    assert_eq!(counted(&check, "wide", "passed"), 4);
    assert_eq!(counted(&check, "narrow", "refused"), 96);
    let check = from(check, "192.0.2.3").get("/");
    assert_eq!(
        header(&check, "ratelimit"),
        Some("\"wide\";r=5;t=1800, \"narrow\";r=1;t=1800")
    );
}

#[test]
fn a_limit_by_identity_that_refuses_gives_back_what_others_took() {
    let limits = "wide: { rate: 10/h }\nuser: { rate: 2/h, key: jwt.sub }";
    let check = known(check(limits, "[user, wide]"), &json!({ "sub": "a" }));
    let (check, passed) = passes(check, 50);
    assert_eq!(passed, 2);
    let check = known(check, &json!({ "sub": "b" })).get("/");
    assert_eq!(
        header(&check, "ratelimit"),
        Some("\"wide\";r=7;t=1080, \"user\";r=1;t=1800")
    );
}

#[test]
fn guessing_tokens_is_counted_by_address() {
    let check = check(
        "user: { rate: 3/h, key: [jwt.sub, client.ip] }\nwide: 100/h",
        "[wide, user]",
    );
    let mut check = check.refused_behind(401);
    for left in ["2", "1", "0"] {
        check = check.get("/");
        assert_eq!(check.last().reason, Some("behind"));
        let state = header(&check, "ratelimit").unwrap();
        assert!(state.contains(&format!("\"user\";r={left};")), "{state}");
    }
    let check = check.get("/");
    assert_eq!(check.last().reason, Some("rate_limit"));
    assert_eq!(header(&check, "retry-after"), Some("1200"));
    assert_eq!(counted(&check, "user", "refused"), 1);
    let check = check.expect([401, 401, 401, 429]);
    // The address has used up its requests; a known user has not.
    let (check, passed) = passes(known(check.refused_behind(0), &json!({ "sub": "u" })), 5);
    assert_eq!(passed, 3);
    let (check, passed) = passes(check.identity(None), 5);
    assert_eq!(passed, 0);
    // Other refusals do not count as guesses.
    let check = times(from(check, "198.51.100.1").refused_behind(403), 5);
    assert_eq!(check.last().status, 403);
    let (_, passed) = passes(check.refused_behind(0), 5);
    assert_eq!(passed, 3);
}

#[test]
fn a_guess_stays_charged_to_the_limits_before_the_one_that_refuses_it() {
    let limits = "edge: 5/h\nuser: { rate: 2/h, key: [jwt.sub, client.ip] }";
    let guessing = times(check(limits, "[edge, user]").refused_behind(401), 6);
    let known = known(guessing.refused_behind(0), &json!({ "sub": "u" })).get("/");
    assert_eq!(header(&known, "ratelimit"), Some("\"edge\";r=0;t=3600"));
    known.expect([401, 401, 429, 429, 429, 429, 429]);
}

#[test]
fn requests_may_cost_more_than_one() {
    let check = check("login: 5/min", "{ limit: login, cost: 2 }");
    let check = times(check, 3);
    assert_eq!(header(&check, "ratelimit"), Some("\"login\";r=1;t=48"));
    assert_eq!(header(&check, "retry-after"), Some("12"));
    check
        .expect([200, 200, 429])
        .advance("12s")
        .get("/")
        .expect([200]);
}

#[test]
fn exempt_addresses_are_not_counted() {
    let check = check(
        "login: { rate: 1/h, exempt: [10.0.0.0/8, 'fd00::/8'] }",
        "[login]",
    );
    let (check, passed) = passes(from(check, "10.1.2.3"), 10);
    assert_eq!(passed, 10);
    assert_eq!(header(&check, "ratelimit"), None);
    assert_eq!(counted(&check, "login", "exempt"), 10);
    let (check, passed) = passes(from(check, "192.0.2.1"), 10);
    assert_eq!(passed, 1);
    assert_eq!(counted(&check, "login", "passed"), 1);
    assert_eq!(counted(&check, "login", "refused"), 9);
}

#[test]
fn a_delay_holds_requests_back_before_it_refuses() {
    // The waits are real: 20 ms for each request beyond the first two.
    let check = check("slow: { rate: 50/s, burst: 2, delay: 45ms }", "[slow]");
    let check = times(check, 5);
    assert_eq!(header(&check, "retry-after"), Some("1"));
    assert_eq!(counted(&check, "slow", "delayed"), 2);
    assert_eq!(counted(&check, "slow", "passed"), 2);
    check.expect([200, 200, 200, 200, 429]);
}

#[test]
fn invalid_uses_are_reported_with_a_remedy() {
    for (applied, message) in [
        (
            "[logn]",
            "unknown limit `logn` in `rate_limits`; help: did you mean `login`?",
        ),
        (
            "[login, login]",
            "`login` is listed twice; help: write `{ limit: login, cost: 2 }` if a request is to count twice",
        ),
        (
            "{ limit: login, cost: 0 }",
            "`cost: 0` would count nothing; help: write 1 or more, or remove the limit",
        ),
        (
            "{ limit: login, cost: 6 }",
            "a request of `cost: 6` would never pass `login`, which allows 5 at once; help: write 5 or less, or a larger `burst` at the limit and in its tiers",
        ),
    ] {
        assert_eq!(refused(LIMITS, applied), [message]);
    }
    assert_eq!(
        refused("", "[edge]"),
        [
            "unknown limit `edge` in `rate_limits`; help: add `rate_limits: { edge: 10/s }` to the file"
        ]
    );
}

/// Returns the messages about a limit that is written like this.
fn messages(limit: &str) -> Vec<String> {
    let mut all = refused(&format!("a: {limit}"), "[a]");
    // Leaves out the message about the use of an undefined limit.
    all.retain(|message| !message.starts_with("unknown limit"));
    all
}

#[test]
fn invalid_limits_are_reported_with_a_remedy() {
    for (limit, message) in [
        ("{ rate: 10 }", "invalid rate `10`"),
        ("{ burst: 3 }", "missing"),
        (
            "{ rate: 10/s, burst: 0 }",
            "with `burst: 0` no request would ever pass",
        ),
        (
            "{ rate: 1/d, burst: 4000000000 }",
            "at `1/d` a bucket of 4000000000 takes more than a hundred years to fill",
        ),
        ("{ rate: 1/s, key: ip }", "unknown key `ip`"),
        (
            "{ rate: 1/s, tiers: { role: { a: 1/s } } }",
            "unknown key `role`",
        ),
        (
            "{ rate: 1/s, tiers: { jwt.role: { a: { rate: 1/s, burst: 0 } } } }",
            "with `burst: 0`",
        ),
        (
            "{ rate: 1/s, tiers: { client.ip: { 192.0.2.1: 9/s } } }",
            "`client.ip` of `a` cannot have tiers",
        ),
        ("{ rate: 1/s, classes: [pages] }", "unknown"),
        (
            "{ rate: 1/s, delay: 2min }",
            "`delay: 2min` holds requests back for too long",
        ),
        (
            "{ rate: 1/s, max_keys: 10 }",
            "`max_keys: 10` is not between 512 and 100000000",
        ),
        (
            "{ rate: 1/s, store: redis }",
            "`a` is kept in Redis, which needs a `redis` section",
        ),
        (
            "{ rate: 1/s, lease: 10% }",
            "`lease` is for limits in Redis, but `a` is kept in memory",
        ),
        (
            "{ rate: 1/s, on_store_error: deny }",
            "`on_store_error` is for limits in Redis",
        ),
        (
            "{ rate: 1/s, exempt: [10.0.0.1/8] }",
            "invalid network `10.0.0.1/8`",
        ),
        ("{ rate: 1/s, burts: 3 }", "unknown"),
    ] {
        let messages = messages(limit);
        assert!(
            messages.len() == 1 && messages[0].contains(message),
            "{limit}: {messages:#?}"
        );
    }
}
