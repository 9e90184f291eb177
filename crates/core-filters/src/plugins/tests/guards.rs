//! Plugins that guard: their verdicts, and the requests for which they fail.

use edgeway_core::chain::testkit::{check, refused, warnings};

use super::{folder, route, with};
use crate::plugins::Plugins;

#[test]
fn a_guard_that_fails_on_the_way_to_a_backend_sends_nothing_there() {
    // Removes a header that clients must not send, and fails on input of this client.
    let text = "
    export function onRequest() {}
    export function onUpstreamRequest(req) {
        decodeURIComponent(req.headers.get('x-bad') ?? '');
        req.headers.delete('x-role');
    }";
    let forged = [("x-role", "admin"), ("x-bad", "%ff")];
    for more in [", role: auth", ", on_error: refuse"] {
        let check = with(text, more).send("GET", "/", &forged, &[]);
        assert!(check.last().upstream.is_none(), "{more}");
        assert_eq!(check.last().status, 503);
        assert_eq!(check.last().reason, Some("plugin_failed"));
        let check = check.send("GET", "/", &forged[..1], &[]);
        let head = check.last().upstream.as_ref().expect("it went on");
        assert!(!head.headers.contains_key("x-role"));
    }
    // A plugin with `on_error: continue` leaves the headers as they were.
    let check = with(text, "").send("GET", "/", &forged, &[]);
    let head = check.last().upstream.as_ref().expect("it went on");
    assert_eq!(head.headers["x-role"], "admin");
}

#[test]
fn a_header_that_a_plugin_writes_is_one_that_may_be_reserved() {
    let text = "export const onResponse = () => {};";
    let folder = folder(text);
    for (name, wanted) in [
        ("X_User", "has an underscore"),
        ("Host", "reserved header name"),
        ("Authorization", "carries the client's own credentials"),
        ("cookie", "carries the client's own credentials"),
        ("a b", "invalid header name"),
    ] {
        let yaml = route(
            &[&folder],
            &format!(", identity_headers: [X-Role, '{name}']"),
        );
        let reported = refused::<Plugins>(&yaml).join("\n");
        assert!(reported.contains(wanted), "{name}: {reported}");
    }
    let _ = with(text, ", identity_headers: [X-Role, x-role]").get("/");
}

#[test]
fn a_guard_that_a_client_can_avoid_is_reported() {
    let text = |entries: &str| {
        format!(
            "export const onRequest = () => {{}};\nexport const config = {{ matcher: [{entries}] }};"
        )
    };
    let missing = "missing: [{ type: 'header', key: 'purpose', value: 'prefetch' }]";
    let has = "has: [{ type: 'cookie', key: 'sid' }]";
    let query = "has: [{ type: 'host', value: 'a.test' }, { type: 'query', key: 'q' }]";
    let host = "has: [{ type: 'host', value: 'a.test' }]";
    for (entries, more, wanted) in [
        (
            format!("{{ source: '/a', {missing} }}"),
            ", role: auth",
            "`/a` of its `config.matcher` has `missing` of the header `purpose`",
        ),
        (
            format!("'/a', {{ source: '/b', {has} }}"),
            ", role: auth",
            "`/b` of its `config.matcher` has `has` of the cookie `sid`",
        ),
        (
            format!("{{ source: '/b', {query} }}"),
            ", role: auth",
            "`has` of the query `q`",
        ),
        (format!("{{ source: '/b', {host} }}"), ", role: auth", ""),
        (
            format!("'/a', {{ source: '/a', {has} }}"),
            ", role: auth",
            "",
        ),
        ("'/a'".to_owned(), ", role: auth", ""),
        (format!("{{ source: '/a', {missing} }}"), "", ""),
    ] {
        let folder = folder(&text(&entries));
        let reported = warnings::<Plugins>(&route(&[&folder], more)).join("\n");
        assert!(
            reported.contains(wanted) && reported.is_empty() == wanted.is_empty(),
            "{entries}{more}: {reported}"
        );
    }
}

/// Invariant: no plugin of the same route leads around a guard with `match`, in any order.
#[test]
fn a_path_that_a_plugin_gives_to_a_request_is_guarded() {
    let rewriting = folder(
        "export const onRequest = (request) => {
            const to = request.nextUrl.searchParams.get('to');
            return to ? NextResponse.rewrite(new URL(to, request.url)) : undefined;
        };",
    );
    let code = "export const onRequest = (request) => {
        if (request.headers.get('x-key') !== 'k') return new Response('who?', { status: 401 });
    };";
    let guard = folder(code);
    let by_matcher = folder(&format!(
        "{code}\nexport const config = {{ matcher: ['/admin/:path*'] }};"
    ));
    let rewriting = |more: &str| route(&[&rewriting], &format!(", on_error: refuse{more}"));
    let by_match = route(&[&guard], ", role: auth, match: { path: /admin/* }");
    let by_matcher = route(&[&by_matcher], ", role: auth");
    for yaml in [
        rewriting("") + &by_match,
        by_match.clone() + &rewriting(""),
        by_match + &rewriting(", run: after_auth"),
        rewriting("") + &by_matcher,
        by_matcher + &rewriting(""),
    ] {
        let mut check = check::<Plugins>(&yaml);
        for (target, headers, status) in [
            ("/go", &[][..], 200),
            ("/go?to=/open", &[], 200),
            ("/go?to=/admin/x", &[], 401),
            ("/go?to=/%61dmin/x", &[], 401),
            ("/go?to=/admin/x", &[("x-key", "k")], 200),
        ] {
            check = check.send("GET", target, headers, &[]);
            assert_eq!(check.last().status, status, "{target} {yaml}");
        }
    }
}

#[test]
fn the_methods_of_a_plugin_are_read_as_those_of_a_route() {
    let text = "export const onRequest = () => new Response('who?', { status: 401 });";
    let mut check = with(text, ", role: auth, match: { method: GET }");
    for (method, status) in [("GET", 401), ("HEAD", 401), ("POST", 200)] {
        check = check.send(method, "/", &[], &[]);
        assert_eq!(check.last().status, status, "{method}");
    }
    let folder = folder(text);
    let reported = refused::<Plugins>(&route(&[&folder], ", match: { method: get }")).join("\n");
    assert!(reported.contains("write `GET`"), "{reported}");
}
