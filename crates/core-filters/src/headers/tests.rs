//! Header changes on the way to origin and client.

use edgeway_core::chain::testkit::{TestResponse, check, refused};

use super::Headers;

#[track_caller]
fn at_origin<'a>(response: &'a TestResponse, name: &str) -> Vec<&'a str> {
    let head = response.upstream.as_ref().expect("the origin was asked");
    let values = head.headers.get_all(name).iter();
    let text = |value: &'a http::HeaderValue| std::str::from_utf8(value.as_bytes());
    values.map(|value| text(value).unwrap()).collect()
}

#[track_caller]
fn at_client<'a>(response: &'a TestResponse, name: &str) -> Vec<&'a str> {
    let values = response.headers.get_all(name).iter();
    values.map(|v| v.to_str().unwrap()).collect()
}

#[test]
fn requests_are_changed_towards_the_origin() {
    let check = check::<Headers>(
        "{ request: { set: { X-Env: live }, add: { X-Tag: b }, remove: [Cookie, 'X-Debug-*'] } }",
    )
    .send(
        "GET",
        "/",
        &[
            ("X-Env", "forged"),
            ("X-Env", "twice"),
            ("X-Tag", "a"),
            ("Cookie", "a=1"),
            ("X-Debug-Sql", "1"),
            ("X-Debug-Trace", "1"),
            ("X-Other", "1"),
        ],
        &[],
    );
    assert_eq!(at_origin(check.last(), "x-env"), ["live"]);
    assert_eq!(at_origin(check.last(), "x-tag"), ["a", "b"]);
    assert_eq!(at_origin(check.last(), "x-other"), ["1"]);
    for gone in ["cookie", "x-debug-sql", "x-debug-trace"] {
        assert!(at_origin(check.last(), gone).is_empty(), "{gone}");
    }
    assert_eq!(at_client(check.last(), "x-env"), Vec::<&str>::new());
}

#[test]
fn responses_are_changed_towards_the_client() {
    let check = check::<Headers>(
        "{ response: { set: { Cache-Control: no-store }, add: { Vary: Cookie }, remove: ['X-Aspnet*'] } }",
    )
    .backend(
        200,
        &[
            ("Cache-Control", "public"),
            ("Vary", "Accept"),
            ("X-AspNet-Version", "4"),
        ],
        &[],
    )
    .get("/");
    assert_eq!(at_client(check.last(), "cache-control"), ["no-store"]);
    assert_eq!(at_client(check.last(), "vary"), ["Accept", "Cookie"]);
    assert!(at_client(check.last(), "x-aspnet-version").is_empty());
    assert!(at_origin(check.last(), "cache-control").is_empty());
}

#[test]
fn removing_comes_before_setting_and_setting_before_adding() {
    let check =
        check::<Headers>("{ request: { remove: [X-A], set: { X-A: one }, add: { X-A: two } } }")
            .send("GET", "/", &[("X-A", "zero")], &[]);
    assert_eq!(at_origin(check.last(), "x-a"), ["one", "two"]);
}

#[test]
fn values_may_name_facts_of_the_request() {
    let check = check::<Headers>(
        "{ request: { set: { X-Who: '{client.ip} via {scheme}://{host}', X-Route: '[{route}]' } } }",
    )
    .client(|client| client.ip = "2001:db8::1".parse().unwrap())
    .send("GET", "/", &[("Host", "shop.test:8080")], &[]);
    assert_eq!(
        at_origin(check.last(), "x-who"),
        ["2001:db8::1 via http://shop.test:8080"]
    );
    assert_eq!(at_origin(check.last(), "x-route"), ["[]"]);
}

#[test]
fn values_may_name_parts_of_the_request() {
    let check = check::<Headers>(
        "{ request: { set: { X-Parts: '{method} {host.name} {path} {query} {uri}', \
         X-Agent: '<{header.user-agent}>', X-None: '<{header.x-nothing}>' } } }",
    )
    .send(
        "POST",
        "/a/b?c=d",
        &[("Host", "Shop.Test:8080"), ("User-Agent", "curl")],
        &[],
    );
    assert_eq!(
        at_origin(check.last(), "x-parts"),
        ["POST shop.test /a/b c=d /a/b?c=d"]
    );
    assert_eq!(at_origin(check.last(), "x-agent"), ["<curl>"]);
    assert_eq!(at_origin(check.last(), "x-none"), ["<>"]);
}

#[test]
fn a_header_of_proxies_comes_from_a_trusted_one_only() {
    for is_trusted in [false, true] {
        let check =
            check::<Headers>("{ request: { set: { X-Seen: '<{proxy.x-forwarded-proto}>' } } }")
                .client(|client| client.is_trusted = is_trusted)
                .send(
                    "GET",
                    "/",
                    &[("Host", "a.test"), ("X-Forwarded-Proto", "https")],
                    &[],
                );
        let expected = if is_trusted { "<https>" } else { "<>" };
        assert_eq!(at_origin(check.last(), "x-seen"), [expected]);
    }
}

/// Invariant: a header holds the first cookie and the first decoded query value of its name,
/// whatever stands around them; a value that no header may hold leaves its header out.
#[test]
fn values_may_name_cookies_and_parts_of_the_query() {
    let settings = "{ request: { set: { X-C: '<{cookie.connect.sid}>', X-Q: '<{query.page}>' } } }";
    let mut random = fastrand::Rng::with_seed(7);
    let raw: [(&str, Option<&str>); 8] = [
        ("", Some("")),
        ("1", Some("1")),
        ("a%20b", Some("a b")),
        ("a+b", Some("a b")),
        ("%C3%A4", Some("\u{e4}")),
        ("%0d%0aSet-Cookie:%20a", None),
        ("%00", None),
        ("{host}", Some("{host}")),
    ];
    for _ in 0..300 {
        let (written, decoded) = raw[random.usize(..raw.len())];
        let cookie = ["", "a", "a=b", "s%3Aabc", "{host}"][random.usize(..5)];
        let before = ["", "x=1; ", "connect.sidx=2; ", "page=3; "][random.usize(..4)];
        let after = ["", "; connect.sid=later", "; y"][random.usize(..3)];
        let cookies = format!("{before}connect.sid={cookie}{after}");
        let target = match random.usize(..3) {
            0 => format!("/a?page={written}"),
            1 => format!("/a?pagex=1&page={written}&page=later"),
            _ => format!("/a?x&%70age={written}&y"),
        };
        let check = check::<Headers>(settings).send("GET", &target, &[("Cookie", &cookies)], &[]);
        let cookie = format!("<{cookie}>");
        assert_eq!(at_origin(check.last(), "x-c"), [cookie], "{cookies}");
        let expected: Vec<String> = decoded.iter().map(|value| format!("<{value}>")).collect();
        assert_eq!(at_origin(check.last(), "x-q"), expected, "{target}");
    }
}

#[test]
fn a_date_moves_with_the_clock() {
    let check = check::<Headers>("{ response: { set: { Expires: '{date+1h}' } } }").get("/");
    let first = at_client(check.last(), "expires")[0].to_owned();
    let check = check.advance("90min").get("/");
    let second = at_client(check.last(), "expires")[0].to_owned();
    let time = |text: &str| httpdate::parse_http_date(text).unwrap();
    let passed = time(&second).duration_since(time(&first)).unwrap();
    assert_eq!(passed.as_secs(), 90 * 60);
    assert_eq!(
        refused::<Headers>("{ response: { set: { Expires: '{date+soon}' } } }")[0]
            .split(':')
            .next(),
        Some("invalid time in `{date+soon}`")
    );
}

#[test]
fn responses_with_certain_statuses_have_changes_of_their_own() {
    let yaml = "{ response: { set: { X-All: a }, by_status: [ \
                { status: [200, 404], add: { X-Some: b } }, \
                { status: 500-599, remove: [X-All] } ] } }";
    for (status, all, some) in [
        (200, &["a"][..], &["b"][..]),
        (404, &["a"], &["b"]),
        (302, &["a"], &[]),
        (503, &[], &[]),
    ] {
        let check = check::<Headers>(yaml).backend(status, &[], &[]).get("/");
        assert_eq!(at_client(check.last(), "x-all"), all, "{status}");
        assert_eq!(at_client(check.last(), "x-some"), some, "{status}");
    }
}

#[test]
fn braces_that_name_nothing_are_text() {
    const NEL: &str = r#"{"report_to":"default","max_age":31536000}"#;
    let yaml =
        format!("{{ response: {{ set: {{ NEL: '{NEL}', X-Odd: '{{}} }} {{ {{scheme}}' }} }} }}");
    let check = check::<Headers>(&yaml).get("/");
    assert_eq!(at_client(check.last(), "nel"), [NEL]);
    assert_eq!(at_client(check.last(), "x-odd"), ["{} } { http"]);
}

#[test]
fn a_prefix_never_hits_what_frames_a_message() {
    let check = check::<Headers>("{ request: { remove: ['C*', 'H*', 'T*'] } }").send(
        "POST",
        "/",
        &[
            ("Host", "shop.test"),
            ("Content-Length", "2"),
            ("Content-Type", "text/plain"),
            ("Cookie", "a=1"),
        ],
        &[b"ok"],
    );
    assert_eq!(at_origin(check.last(), "host"), ["shop.test"]);
    assert_eq!(at_origin(check.last(), "content-length"), ["2"]);
    assert!(at_origin(check.last(), "content-type").is_empty());
    assert!(at_origin(check.last(), "cookie").is_empty());
}

#[test]
fn a_host_that_we_do_not_repeat_leaves_its_header_out() {
    let check = check::<Headers>("{ request: { set: { X-Host: '{host}!' } } }").send(
        "GET",
        "/",
        &[("Host", "a\tb"), ("X-Host", "forged")],
        &[],
    );
    assert_eq!(at_origin(check.last(), "x-host"), ["a\tb!"]);
}

#[test]
fn every_mistake_is_reported_with_a_remedy() {
    assert_eq!(
        refused::<Headers>(
            "{ request: { set: { Host: a, X-A: '{client_ip}', 'X B': c }, remove: ['*', Upgrade] }, \
               response: { add: { Content-Length: '3', X-C: '{nothing.like.it}' } } }"
        ),
        [
            "invalid header name pattern `*`; help: write the start of a name and `*`, such as `X-Internal-*`",
            "`Upgrade` cannot be changed; help: WebSockets need `websocket: true` at the route",
            "`Host` cannot be changed; help: write `host_header` beside `upstream` for another `Host`",
            "invalid header name `X B`; help: write a name such as `X-Powered-By`",
            "unknown variable `{client_ip}`; help: did you mean `{client.ip}`?",
            "`Content-Length` cannot be changed; help: it is a connection header, which the gateway sets itself",
            "unknown variable `{nothing.like.it}`; help: use one of `{client.ip}`, `{client.port}`, \
             `{request_id}`, `{host}`, `{host.name}`, `{listener.port}`, `{method}`, `{path}`, \
             `{path.decoded}`, `{path.sent}`, `{query}`, `{query_mark}`, `{query_and}`, `{uri}`, \
             `{user}`, `{route}`, `{scheme}`, `{protocol}`, `{status}`, `{cache.status}`, `{now}`, \
             `{backend}`, `{header.NAME}`, `{proxy.NAME}`, `{cookie.NAME}`, `{query.NAME}`, `{arg.NAME}`, \
             `{response.NAME}`, `{map.NAME}`, `{date+30d}`",
        ]
    );
    assert_eq!(
        refused::<Headers>("{ response: { set: { X-A: \"a\\nb\" } } }"),
        ["invalid header value `a\\nb`; help: write plain text on one line"]
    );
    assert!(refused::<Headers>("{}")[0].starts_with("`headers` changes nothing"));
    for (value, message) in [
        ("X-D: a, x-d: b", "`x-d` is set twice"),
        ("X-D: '{host|row}'", "unknown word `row` in `{host|row}`"),
        ("X-D: '{host|raw}'", "`|raw` has no effect"),
    ] {
        let messages = refused::<Headers>(&format!("{{ response: {{ set: {{ {value} }} }} }}"));
        assert!(messages[0].starts_with(message), "{messages:?}");
    }
    check::<Headers>("{ response: { set: { X-D: '{\"a|b\": 1} {a |b}' }, add: { X-E: [a, b] } } }");
}
