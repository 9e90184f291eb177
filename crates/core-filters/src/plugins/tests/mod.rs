//! Plugins on a route.

mod guards;

use std::fs;

use edgeway_core::chain::testkit::{FilterCheck, check, refused};
use tempfile::TempDir;

use super::Plugins;

fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("x")).unwrap();
    fs::write(folder.path().join("x/plugin.js"), text).unwrap();
    folder
}

/// Writes the route's plugins, each with `more`; a failure lets requests continue unless `more`
/// sets another handling.
fn route(folders: &[&TempDir], more: &str) -> String {
    let has_policy = more.contains("on_error") || more.contains("role:");
    let more = if has_policy {
        more.to_owned()
    } else {
        format!(", on_error: continue{more}")
    };
    written(folders, &more)
}

fn written(folders: &[&TempDir], more: &str) -> String {
    let each = folders.iter().map(|folder| {
        let file = folder.path().join("x/plugin.js");
        format!("- {{ file: {}{more} }}\n", file.display())
    });
    each.collect()
}

#[track_caller]
fn with(text: &str, more: &str) -> FilterCheck {
    let folder = folder(text);
    check::<Plugins>(&route(&[&folder], more))
}

#[test]
fn request_changes_reach_later_plugins_and_the_backend() {
    let first = folder("export function onRequest(req) { req.headers.set('x-a', '1'); }");
    let second = folder(
        "export function onRequest(req) { req.headers.set('x-b', req.headers.get('x-a') + '2'); }
         export function onUpstreamRequest(req) { req.headers.append('x-b', '3'); }",
    );
    let check = check::<Plugins>(&route(&[&first, &second], "")).get("/");
    let head = check.last().upstream.as_ref().expect("it went on");
    assert_eq!(head.headers["x-a"], "1");
    let both: Vec<_> = head.headers.get_all("x-b").iter().collect();
    assert_eq!(both, ["12", "3"]);
}

#[test]
fn a_plugin_responds() {
    let text = "export function onRequest(req, ctx) {
        const { pathname } = { pathname: req.url.split('/')[3] };
        if (pathname === 'a') return new Response(ctx.config.text, { status: 403, headers: { 'x-a': '1' } });
    }";
    let check = with(text, ", config: { text: no }").get("/b");
    assert_eq!(check.last().status, 200);
    let check = check.get("/a");
    assert_eq!(check.last().status, 403);
    assert_eq!(check.last().body, b"no");
    assert_eq!(check.last().headers["x-a"], "1");
}

/// Invariant: a plugin's response has the content type that the Fetch standard gives it.
#[test]
fn the_type_of_a_response_is_that_of_the_standard() {
    for (made, expected) in [
        ("new Response('a')", Some("text/plain;charset=UTF-8")),
        (
            "new Response('', { headers: { 'content-type': 'text/css' } })",
            Some("text/css"),
        ),
        (
            "new Response(null, { headers: { 'content-type': 'text/css' } })",
            Some("text/css"),
        ),
        ("new Response(new Uint8Array([1, 2]))", None),
        ("new Response(null)", None),
    ] {
        let check = with(&format!("export const onRequest = () => {made};"), "").get("/");
        let types = check.last().headers.get_all("content-type");
        assert_eq!(
            types.iter().collect::<Vec<_>>(),
            expected.as_slice(),
            "{made}"
        );
    }
}

#[test]
fn responses_pass_plugins_in_reverse_order() {
    let of = |name: &str| {
        folder(&format!(
            "export function onResponse(res) {{ res.headers.append('x-order', '{name}'); res.status = 203; }}"
        ))
    };
    let check = check::<Plugins>(&route(&[&of("a"), &of("b")], "")).get("/");
    let order: Vec<_> = check.last().headers.get_all("x-order").iter().collect();
    assert_eq!(order, ["b", "a"]);
    assert_eq!(check.last().status, 203);
}

#[test]
fn a_failure_ends_a_request_or_leaves_it_as_it_was() {
    let text =
        "export function onRequest(req) { req.headers.set('x-a', '1'); throw new Error('no'); }";
    let check = with(text, "").get("/");
    assert_eq!(check.last().status, 200);
    let head = check.last().upstream.as_ref().expect("it went on");
    assert!(!head.headers.contains_key("x-a"));
    let check = with(text, ", on_error: refuse").get("/");
    assert_eq!(check.last().status, 503);
    assert_eq!(check.last().reason, Some("plugin_failed"));
}

#[test]
fn a_guard_that_fails_lets_no_request_pass() {
    let text = "export function onRequest() { throw new Error('no'); }";
    for more in [", role: auth", ", role: auth, on_error: refuse"] {
        let check = with(text, more).get("/");
        assert_eq!(check.last().status, 503, "{more}");
        assert_eq!(check.last().reason, Some("plugin_failed"));
    }
}

#[test]
fn a_plugin_with_on_request_must_define_what_its_failure_means() {
    let (sees_requests, sees_responses) = (
        "export const onRequest = () => {};",
        "export const onResponse = () => {};",
    );
    for (text, more, wanted) in [
        (
            sees_requests,
            "",
            "plugin `x` has `onRequest`, but no `on_error` says what happens when it fails; help: \
             write `role: auth` if it decides which requests pass, `on_error: refuse` if none may \
             pass without it, else `on_error: continue`",
        ),
        (
            sees_requests,
            ", on_error: fail",
            "`fail` is now named `refuse`; help: write `on_error: refuse`",
        ),
        (
            sees_requests,
            ", role: auth, on_error: continue",
            "plugin `x` decides which requests pass, but would let all pass when it fails; help: \
             write `on_error: refuse`, or remove it; without `role: auth` both are allowed",
        ),
        (
            sees_responses,
            ", role: auth",
            "plugin `x` has no `onRequest`, so it cannot decide which requests pass; help: remove `role`, or export `onRequest`",
        ),
        (
            sees_responses,
            ", on_error: refuse",
            "plugin `x` has none of `onRequest`, `onRoute` and `onUpstreamRequest`, so it can refuse no request; help: remove `on_error`: when another hook fails, nothing changes",
        ),
        (
            sees_requests,
            ", role: auth, breaker: { failures: 5 }",
            "plugin `x` refuses requests when it fails, and is never paused; help: remove `breaker`: such a plugin runs for each request, so that one client cannot affect others",
        ),
    ] {
        let folder = folder(text);
        let reported = refused::<Plugins>(&written(&[&folder], more));
        assert_eq!(reported, [wanted], "{text} {more}");
    }
    let folder = folder(sees_responses);
    let check = check::<Plugins>(&written(&[&folder], ""));
    assert_eq!(check.get("/").last().status, 200);
}

/// A guard that throws for some requests, lets some pass and refuses the others; each client
/// chooses its input.
const GUARD: &str = "export function onRequest(req) {
        const shown = req.headers.get('x-shown');
        if (shown === 'throw') null.it;
        if (shown === 'loop') for (;;);
        if (shown !== 'good') return new Response('no', { status: 401 });
    }";

/// A guard decides each request by its own input, whatever other clients send.
#[test]
fn no_client_opens_or_closes_a_guard_for_others() {
    let wanted = |shown: &str| match shown {
        "good" => 200,
        "throw" | "loop" => 503,
        _ => 401,
    };
    for more in [", role: auth", ", on_error: refuse"] {
        let mut check = with(GUARD, more);
        let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
        let count: u64 = 400;
        for number in 0..count {
            // Thirty in a row now and then; each loop costs CPU time.
            let shown = match random.u8(..100) {
                0..40 => "throw",
                40..41 => "loop",
                41..80 => "good",
                _ => "bad",
            };
            let times = if random.u8(..50) == 0 { 30 } else { 1 };
            let client = std::net::IpAddr::from([192, 0, 2, random.u8(..5)]);
            check = check.client(|known| known.ip = client);
            for _ in 0..if shown == "loop" { 1 } else { times } {
                check = check.send("GET", "/", &[("x-shown", shown)], &[]);
                let status = check.last().status;
                assert_eq!(status, wanted(shown), "{more}, request {number}: {shown}");
            }
            if random.u8(..20) == 0 {
                check = check.advance("31s");
            }
        }
    }
}

/// The control: a plugin with a breaker is skipped after the same mixture.
#[test]
fn an_optional_plugin_is_disabled_by_failures_of_several_clients() {
    let left_out = |clients: u8| {
        let mut check = with(GUARD, ", on_error: continue");
        for number in 0..30 {
            let client = std::net::IpAddr::from([192, 0, 2, number % clients]);
            check = check.client(|known| known.ip = client);
            check = check.send("GET", "/", &[("x-shown", "throw")], &[]);
            assert_eq!(check.last().status, 200);
        }
        check = check.send("GET", "/", &[("x-shown", "bad")], &[]);
        check.last().status == 200
    };
    assert!(!left_out(1) && !left_out(2));
    assert!(left_out(3));
}

#[test]
fn an_upstream_that_does_not_exist_is_a_failure_that_counts() {
    let text = "export const onRoute = (req) => req.headers.get('x-to') ?? undefined;";
    for (more, to, status) in [
        ("", "web", 200),
        ("", "nowhere", 200),
        (", on_error: refuse", "web", 200),
        (", on_error: refuse", "nowhere", 503),
    ] {
        let check = with(text, more).send("GET", "/", &[("x-to", to)], &[]);
        assert_eq!(check.last().status, status, "{more} {to}");
        let counted = String::from_utf8(check.metrics.text()).unwrap();
        let failures = r#"edgeway_plugin_failures_total{kind="script",plugin="x",route="test"} "#;
        let line = counted.lines().find_map(|line| line.strip_prefix(failures));
        let expected = if to == "web" { "0" } else { "1" };
        assert_eq!(line, Some(expected), "{more} {to}");
    }
}

#[test]
fn a_breaker_that_opens_after_no_failure_is_refused() {
    let folder = folder("export function onRequest() {}");
    let reported = refused::<Plugins>(&route(&[&folder], ", breaker: { failures: 0 }")).join("\n");
    assert!(reported.contains("from 1 to 4294967295"), "{reported}");
}

#[test]
fn an_invalid_rewrite_is_a_failure_that_counts() {
    let text = "export const proxy = () => NextResponse.rewrite('https://other.test/x');";
    let mut check = with(
        text,
        ", on_error: continue, breaker: { failures: 2, clients: 1 }",
    );
    for _ in 0..3 {
        check = check.get("/");
    }
    let text = String::from_utf8(check.metrics.text()).unwrap();
    for counted in [
        r#"kind="script",plugin="x""#,
        r#"kind="breaker",plugin="x""#,
    ] {
        let line = text.lines().find(|line| line.contains(counted));
        let count = if counted.contains("script") {
            " 2"
        } else {
            " 1"
        };
        assert!(line.is_some_and(|line| line.ends_with(count)), "{text}");
    }
}

#[test]
fn a_plugin_without_effect_is_refused() {
    let folder = folder("export function onRequest() {}");
    for (more, why) in [
        ("limits: { cpu: 0 }", "longer than zero"),
        ("limits: { wall: 0s }", "longer than zero"),
        ("limits: { wait_until: 0s }", "longer than zero"),
        ("breaker: { window: 0s }", "longer than zero"),
        ("breaker: { cooldown: 0s }", "longer than zero"),
        ("fetch: { origins: [] }", "`origins` is empty"),
        (
            "fetch: { origins: [http://a.test], deadline: 0s }",
            "longer than zero",
        ),
        (
            "fetch: { origins: [http://a.test], max_body: 0 }",
            "more than zero",
        ),
        ("name: ' '", "the name is empty"),
    ] {
        let reported = refused::<Plugins>(&route(&[&folder], &format!(", {more}"))).join("\n");
        assert!(reported.contains(why), "{more}: {reported}");
    }
}

#[test]
fn load_errors_have_positions() {
    for (text, why) in [
        ("export function onRequest( {", "/x/plugin.js:1:"),
        ("export const a = 1;", "none of the hooks"),
        (
            "export function onRequest() {} export const transform = (chunk) => chunk;",
            "plugins do not change response bodies",
        ),
        (
            "import 'fs'; export function onRequest() {}",
            "its own folder",
        ),
        ("for (;;);", "more than 100ms"),
        ("throw new Error('why not')", "why not"),
        (
            "await new Promise(() => {}); export function onRequest() {}",
            "waits at the top level",
        ),
    ] {
        let folder = folder(text);
        let reported = refused::<Plugins>(&route(&[&folder], "")).join("\n");
        assert!(reported.contains(why), "{text}: {reported}");
    }
}

#[test]
fn config_must_match_the_plugins_own_schema() {
    let text = "export const onRequest = (req, ctx) => new Response(String(ctx.config.ttl));";
    let folder = folder(text);
    let schema = folder.path().join("x/config.schema.json");
    fs::write(
        &schema,
        r#"{ "additionalProperties": false, "properties": { "ttl": { "type": "integer" } } }"#,
    )
    .unwrap();
    let check = check::<Plugins>(&route(&[&folder], ", config: { ttl: 5 }")).get("/");
    assert_eq!(check.last().body, b"5");
    let mut reported = refused::<Plugins>(&route(&[&folder], ", config: { ttl: 5s, tll: 5 }"));
    reported.sort();
    assert_eq!(
        reported,
        [
            "`config.tll` is an unknown key: invalid for plugin `x`; help: the plugin's `config.schema.json` says what is valid",
            "`config.ttl` is string, not integer: invalid for plugin `x`; help: the plugin's `config.schema.json` says what is valid",
        ]
    );
    fs::write(&schema, "{").unwrap();
    let reported = refused::<Plugins>(&route(&[&folder], "")).join("\n");
    assert!(reported.contains("is not a JSON Schema"), "{reported}");
}

#[test]
fn a_proxy_rewrites_and_adds_to_the_response() {
    let text = "export function proxy(request) {
        const response = NextResponse.next({ headers: { 'x-a': '1' } });
        response.cookies.set('seen', '1');
        return response;
    }";
    let check = with(text, "").get("/");
    assert_eq!(check.last().headers["x-a"], "1");
    assert_eq!(check.last().headers["set-cookie"], "seen=1; Path=/");
    // A rewrite to another host is not allowed.
    let text = "export const proxy = () => NextResponse.rewrite('https://other.test/x');";
    assert_eq!(with(text, ", on_error: refuse").get("/").last().status, 503);
}

#[test]
fn without_a_returned_key_all_changes_are_the_key() {
    let keys = |text: &str| {
        let check = with(text, "");
        ["user=ann", "user=bob"].map(|cookie| check.key(&[("cookie", cookie)]))
    };
    let sets = "export const onRequest = (req) => req.headers.set('x-user', req.cookies.get('user').value) ?? undefined;";
    let [ann, bob] = keys(sets);
    assert_ne!(ann, bob, "the changes for the backend count");
    let [ann, bob] = keys(&format!("{sets} export const onCacheKey = () => 'same';"));
    assert_eq!(ann, bob, "unless the plugin says what counts");
    let [ann, bob] = keys(&format!(
        "{sets} export const onCacheKey = () => {{ throw 1; }};"
    ));
    assert_ne!(ann, bob, "and it can say so");
}

#[test]
fn a_status_with_a_body_does_not_become_one_without_or_the_other_way() {
    // A 205 has no body and states that by its length, other than a 204 (RFC 9110, 15.3.6).
    for (from, to, then) in [
        (200, 205, 200),
        (205, 200, 205),
        (204, 205, 204),
        (205, 204, 205),
        (204, 304, 304),
        (200, 203, 203),
    ] {
        let text = format!("export function onResponse(res) {{ res.status = {to}; }}");
        let check = with(&text, "").backend(from, &[], &[]).get("/");
        assert_eq!(check.last().status, then, "{from} to {to}");
    }
}

#[test]
fn a_plugin_cannot_change_framing_or_host() {
    let text = "export function onRequest(req) {
        for (const name of ['Transfer-Encoding', 'Connection', 'Content-Length', 'Upgrade', 'host', 'x-a']) {
            req.headers.set(name, 'x');
        }
    }
    export function onResponse(res) {
        res.headers.set('transfer-encoding', 'chunked');
        res.headers.set('content-length', '1');
        res.headers.set('x-a', '1');
        res.status = 204;
    }";
    let check = with(text, "").get("/");
    let head = &check.last().upstream.as_ref().expect("it went on").headers;
    assert_eq!(head["x-a"], "x");
    for name in [
        "transfer-encoding",
        "connection",
        "content-length",
        "upgrade",
    ] {
        assert!(!head.contains_key(name), "{name}");
        assert!(head.get("host").is_none_or(|host| host != "x"));
    }
    let response = check.last();
    assert_eq!(
        (response.status, response.headers["x-a"].to_str().unwrap()),
        (200, "1")
    );
    assert!(!response.headers.contains_key("transfer-encoding"));
}

#[test]
fn a_path_that_is_no_text_and_a_host_with_a_dot_are_matched_too() {
    assert_eq!(
        super::path_of(b"/watch/\xff.ts?x=\xff"),
        "/watch/\u{fffd}.ts"
    );
    let guard = "export const onRequest = () => new Response('no', { status: 403 });";
    let matcher = format!("export const config = {{ matcher: '/watch/:path*' }}; {guard}");
    let check = with(&matcher, "").get("/watch/\u{e9}");
    assert_eq!(check.last().status, 403);
    assert_eq!(check.get("/other").last().status, 200);
    for (host, status) in [
        ("shop.test", 403),
        ("Shop.test.:80", 403),
        ("a.shop.test", 200),
    ] {
        let check = with(guard, ", match: { host: shop.test }");
        let check = check.send("GET", "/", &[("host", host)], &[]);
        assert_eq!(check.last().status, status, "{host}");
    }
}

#[test]
fn a_rewrite_holds_however_the_host_is_written_and_without_one() {
    let text = "export const proxy = (req) => NextResponse.rewrite(new URL('/b?x=1', req.url));";
    for host in ["shop.test", "SHOP.test", "shop.test:", "shop.test:0080", ""] {
        let headers = [("host", host)];
        let headers = if host.is_empty() {
            &[][..]
        } else {
            &headers[..]
        };
        let check = with(text, ", on_error: refuse").send("GET", "/a", headers, &[]);
        assert_eq!(check.last().status, 200, "{host}");
    }
    let seen = "export const onRequest = (req) => new Response(new URL(req.url).pathname);";
    let check = with(seen, "").send("GET", "/admin/x", &[], &[]);
    assert_eq!(check.last().body, b"/admin/x");
}

#[test]
fn equal_key_parts_of_two_plugins_make_different_keys() {
    let of = |name: &str| {
        folder(&format!(
            "export function onCacheKey(req) {{ return req.headers.get('{name}') ?? undefined; }}"
        ))
    };
    let (first, second) = (of("x-a"), of("x-b"));
    let check = check::<Plugins>(&route(&[&first, &second], ""));
    let key = |headers: &[(&'static str, &str)]| check.key(headers);
    assert_ne!(key(&[("x-a", "de")]), key(&[("x-b", "de")]));
    assert_eq!(key(&[("x-a", "de")]), key(&[("x-a", "de")]));
    assert_ne!(
        key(&[("x-a", "de"), ("x-b", "en")]),
        key(&[("x-a", "en"), ("x-b", "de")])
    );
}

#[test]
fn a_plugin_with_only_on_upstream_request_gets_the_body() {
    let text = "export async function onUpstreamRequest(req) {
        req.headers.set('x-name', (await req.json()).name);
    }";
    let check = with(text, ", body: {}").send(
        "POST",
        "/",
        &[
            ("content-type", "application/json"),
            ("content-length", "14"),
        ],
        &[br#"{"name":"ann"}"#],
    );
    let head = check.last().upstream.as_ref().expect("it went on");
    assert_eq!(head.headers["x-name"], "ann");
}

#[test]
fn the_configuration_of_a_plugin_cannot_be_changed() {
    let text = "export function onRequest(request, ctx) {
        ctx.config.list.push(3);
    }";
    let check = with(text, ", config: { list: [1, 2] }, on_error: refuse").get("/");
    assert_eq!(check.last().status, 503);
}

#[test]
fn a_host_that_no_url_can_have_is_not_part_of_one() {
    let text = "export const onRequest = (request) => new Response(request.nextUrl.href);";
    let mut check = with(text, "");
    for (host, url) in [
        ("a.1", "http://localhost/x"),
        ("256.1.1.1", "http://localhost/x"),
        ("a:99999", "http://localhost/x"),
        ("xn--", "http://localhost/x"),
        ("a.test:81", "http://a.test:81/x"),
    ] {
        check = check.send("GET", "/x", &[("host", host)], &[]);
        assert_eq!(check.last().body, url.as_bytes(), "{host}");
    }
}
