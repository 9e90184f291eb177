//! Tests of each rule of the preset, with requests that break caches without it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{shape::PathKind, *};
use crate::{
    chain::KeyBuilder,
    name_set::ANALYTICS,
    policy::{ExchangeTimes, OriginRequest, Vary, store},
};

/// Parses headers from lines `name: value`.
fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a line is `name: value`");
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn rules() -> NextRules {
    NextRules {
        cookies: NameSet::new(ANALYTICS.iter().copied()),
        ..NextRules::default()
    }
}

fn shape_with(rules: &NextRules, target: &str, lines: &[&str]) -> RequestShape {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (target, None),
    };
    shape(
        &Method::GET,
        path.as_bytes(),
        query,
        &headers(lines),
        rules,
        None,
    )
}

fn shape_of(target: &str, lines: &[&str]) -> RequestShape {
    shape_with(&rules(), target, lines)
}

fn key(shape: &RequestShape) -> Vec<u8> {
    let mut key = KeyBuilder::default();
    shape.key_parts(&mut key);
    key.as_bytes().to_vec()
}

/// Headers of Next.js 16 for a page that is regenerated every minute.
const ISR: &[&str] = &[
    "cache-control: s-maxage=60, stale-while-revalidate=31535940",
    "content-type: text/html; charset=utf-8",
    "x-nextjs-cache: HIT",
    "x-nextjs-prerender: 1",
    "x-nextjs-prerender: 1",
    "etag: \"abc\"",
    "vary: rsc, next-router-state-tree, next-router-prefetch, next-router-segment-prefetch, Accept-Encoding",
];

const DYNAMIC: &[&str] = &[
    "cache-control: private, no-cache, no-store, max-age=0, must-revalidate",
    "content-type: text/html; charset=utf-8",
];

fn stored(shape: &RequestShape, status: u16, lines: &[&str]) -> Result<StorageRule, &'static str> {
    may_store(
        shape,
        StatusCode::from_u16(status).unwrap(),
        &headers(lines),
    )
}

/// Replaces the lines of the same name by `line`.
fn with<'a>(lines: &[&'a str], line: &'a str) -> Vec<&'a str> {
    let (name, _) = line.split_once(": ").unwrap();
    let mut lines: Vec<_> = lines
        .iter()
        .copied()
        .filter(|line| !line.starts_with(&format!("{name}: ")))
        .collect();
    lines.push(line);
    lines
}

#[test]
fn an_isr_page_is_stored_by_its_headers() {
    assert_eq!(
        stored(&shape_of("/isr", &[]), 200, ISR),
        Ok(StorageRule::FromHeaders)
    );
    // Next.js 14.2 writes `stale-while-revalidate` without a number.
    let bare = with(ISR, "cache-control: s-maxage=60, stale-while-revalidate");
    assert_eq!(
        stored(&shape_of("/isr", &[]), 200, &bare),
        Ok(StorageRule::FromHeaders)
    );
}

/// R1; cases 3, 4, 9, 15, 21 and 24.
#[test]
fn only_explicit_permission_counts() {
    let page = shape_of("/page", &[]);
    for (line, reason) in [
        (
            "cache-control: private, no-cache, no-store, max-age=0, must-revalidate",
            "not_public",
        ),
        ("cache-control: s-maxage=60, Private", "not_public"),
        ("cache-control: s-maxage=60, no-store", "not_public"),
        ("cache-control: s-maxage=0, max-age=60", "not-explicit"),
        ("cache-control: max-age=0", "not-explicit"),
        ("cache-control: public", "not-explicit"),
        ("cache-control: s-maxage=soon", "not-explicit"),
        ("cache-control: xs-maxage=60", "not-explicit"),
        ("set-cookie: sid=1", "set-cookie"),
        ("vary: *", "vary"),
        ("vary: rsc, *", "vary"),
        ("content-type: text/event-stream; charset=utf-8", "stream"),
        ("x-nextjs-cache: STALE", "stale_at_origin"),
        ("x-nextjs-postponed: 1", "postponed"),
    ] {
        assert_eq!(stored(&page, 200, &with(ISR, line)), Err(reason), "{line}");
    }
    for line in [
        "cache-control: public, max-age=31536000, immutable",
        "cache-control: S-MaxAge=\"60\"",
        "cache-control: s-maxage=99999999999999999999999",
        "x-nextjs-postponed: 2",
        "x-nextjs-cache: MISS",
    ] {
        assert_eq!(
            stored(&page, 200, &with(ISR, line)),
            Ok(StorageRule::FromHeaders),
            "{line}"
        );
    }
    // A route handler without cache headers.
    let silent = ["content-type: application/json"];
    assert_eq!(stored(&page, 200, &silent), Err("not-explicit"));
    // Prerendered with dynamic parts, and pages in draft mode: no permission.
    for line in ["x-nextjs-prerender: 1", "x-nextjs-cache: HIT"] {
        assert_eq!(stored(&page, 200, &with(DYNAMIC, line)), Err("not_public"));
    }
}

#[test]
fn a_cdns_own_header_counts_for_the_origin_but_not_against_private() {
    let page = shape_of("/page", &[]);
    let own = ["cdn-cache-control: max-age=60", "cache-control: max-age=0"];
    assert_eq!(stored(&page, 200, &own), Ok(StorageRule::FromHeaders));
    let against = [
        "cdn-cache-control: max-age=60",
        "cache-control: private, no-store",
    ];
    assert_eq!(stored(&page, 200, &against), Err("not_public"));
    let forbids = ["cdn-cache-control: max-age=0", "cache-control: s-maxage=60"];
    assert_eq!(stored(&page, 200, &forbids), Err("not-explicit"));
}

/// R1; cases 2, 12, 21 and 25.
#[test]
fn other_statuses_are_stored_only_where_configured() {
    let page = shape_of("/page", &[]);
    let to = |location: &'static str| [ISR, &[location]].concat();
    assert_eq!(
        stored(&page, 308, &to("location: /new")),
        Ok(StorageRule::FromHeaders)
    );
    assert_eq!(
        stored(&page, 301, &to("location: /new")),
        Ok(StorageRule::FromHeaders)
    );
    assert_eq!(stored(&page, 308, &["location: /new"]), Err("not-explicit"));
    for status in [206, 302, 303, 307, 404, 410, 500] {
        assert_eq!(
            stored(&page, status, &to("location: /new")),
            Err("status"),
            "{status}"
        );
    }
    // The redirect for a data request of the router.
    assert_eq!(stored(&page, 307, ISR), Err("no_location"));
    let data = [&to("location: /new")[..], &["x-nextjs-redirect: /new"]].concat();
    assert_eq!(stored(&page, 308, &data), Err("no_location"));
    // A payload that redirects is a 200 with a location, and may be stored.
    let payload = with(&to("location: /new"), "content-type: text/x-component");
    let router = shape_of("/page?_rsc=x", &["rsc: 1"]);
    assert_eq!(stored(&router, 200, &payload), Ok(StorageRule::FromHeaders));
}

#[test]
fn a_404_or_a_307_is_stored_briefly_if_configured() {
    let rules = NextRules {
        briefly: Some(Duration::from_hours(1)),
        ..rules()
    };
    let page = shape_with(&rules, "/gone", &[]);
    let briefly = Ok(StorageRule::AtMost(Duration::from_secs(10)));
    assert_eq!(stored(&page, 404, ISR), briefly);
    let to = |location: &'static str| [ISR, &[location]].concat();
    assert_eq!(stored(&page, 307, &to("location: /new")), briefly);
    // Never for the router's own redirect, a chunk, or a response without permission.
    for location in [
        "location: /isr?_rsc",
        "location: /isr?a=1&_rsc=HEAvJdHAQJrUAe2K",
    ] {
        for status in [307, 308] {
            assert_eq!(stored(&page, status, &to(location)), Err("rsc_redirect"));
        }
    }
    let chunk = shape_with(&rules, "/_next/static/chunks/old.js", &[]);
    assert_eq!(stored(&chunk, 404, ISR), Err("status"));
    assert_eq!(stored(&page, 404, DYNAMIC), Err("not_public"));
}

/// R2; cases 1 and 2.
#[test]
fn html_and_payload_have_their_own_keys() {
    let keys: Vec<_> = [
        shape_of("/isr", &[]),
        shape_of("/isr", &["rsc: 1"]),
        shape_of("/isr", &["rsc: 1", "next-router-prefetch: 1"]),
        shape_of("/isr", &["rsc: 1", "next-router-prefetch: 2"]),
        shape_of(
            "/isr",
            &[
                "rsc: 1",
                "next-router-prefetch: 1",
                "next-router-segment-prefetch: /_tree",
            ],
        ),
        shape_of(
            "/isr",
            &[
                "rsc: 1",
                "next-router-prefetch: 1",
                "next-router-segment-prefetch: /__PAGE__",
            ],
        ),
        shape_of("/_next/data/x/isr.json", &["x-nextjs-data: 1"]),
    ]
    .iter()
    .map(key)
    .collect();
    for (at, one) in keys.iter().enumerate() {
        for other in &keys[at + 1..] {
            assert_ne!(one, other);
        }
    }
    // Only `1` requests the payload.
    for same in [
        "rsc: 0",
        "rsc: true",
        "rsc: 1, 1",
        "accept: text/x-component",
    ] {
        assert_eq!(key(&shape_of("/isr", &[same])), keys[0], "{same}");
    }
    assert_eq!(
        key(&shape_of("/isr", &["rsc: 1", "next-router-state-tree: a"])),
        keys[1]
    );
    assert_eq!(
        shape_of("/isr", &["rsc: 1", "rsc: 1"]).bypass(),
        Some("router_headers")
    );
    let long = format!("next-router-segment-prefetch: {}", "a".repeat(2000));
    assert_eq!(shape_of("/isr", &[&long]).bypass(), Some("router_headers"));
}

/// R2; case 1: the wrong form is never stored, whatever went wrong before.
#[test]
fn the_form_that_was_not_requested_is_not_stored() {
    let html = shape_of("/isr", &[]);
    let payload = shape_of("/isr?_rsc", &["rsc: 1"]);
    let component = with(ISR, "content-type: text/x-component");
    assert_eq!(stored(&html, 200, &component), Err("rsc_mismatch"));
    assert_eq!(stored(&payload, 200, ISR), Err("rsc_mismatch"));
    assert_eq!(
        stored(&payload, 200, &component),
        Ok(StorageRule::FromHeaders)
    );
    assert_eq!(stored(&html, 200, ISR), Ok(StorageRule::FromHeaders));
    // A route handler has no forms.
    let json = with(ISR, "content-type: application/json");
    assert_eq!(stored(&payload, 200, &json), Ok(StorageRule::FromHeaders));
}

/// R3; cases 3 and 6.
#[test]
fn requests_with_an_identity_read_but_do_not_fill() {
    let may = |rules: &NextRules, target: &str, lines: &[&str]| {
        let shape = shape_with(rules, target, lines);
        (shape.bypass().is_none(), shape.may_fill())
    };
    let anonymous = rules();
    let all = NextRules {
        pages: PageCache::All,
        ..rules()
    };
    let off = NextRules {
        pages: PageCache::Off,
        ..rules()
    };
    let visitor = &["cookie: _ga=GA1.1; _ga_X1=2; _fbp=3"][..];
    let member = &["cookie: _ga=GA1.1; user=alice"][..];
    let two_lines = &["cookie: _ga=1", "cookie: user=alice"][..];
    for (rules, lines, expected) in [
        (&anonymous, &[][..], (true, true)),
        (&anonymous, visitor, (true, true)),
        (&anonymous, member, (true, false)),
        (&anonymous, two_lines, (true, false)),
        (&anonymous, &["cookie: user"][..], (true, false)),
        (&anonymous, &["cookie: ;; "][..], (true, true)),
        (&all, member, (true, true)),
        (&off, &[][..], (false, false)),
    ] {
        assert_eq!(may(rules, "/isr", lines), expected, "{rules:?} {lines:?}");
        let own = shape_with(rules, "/isr", lines);
        assert_eq!(stored(&own, 200, ISR).is_ok(), expected.1);
    }
    // A revalidation caused by a signed-in user is sent without the cookie, so it is anonymous.
    let stripped = shape_with(&anonymous, "/isr", member).without_cookies();
    assert!(stripped.may_fill());
    assert_eq!(key(&stripped), key(&shape_of("/isr", &[])));
    let draft = shape_of("/isr", &["cookie: __prerender_bypass=x"]);
    assert!(!draft.without_cookies().may_fill());
    // Files and images are never personal: the client's cookies are not sent on.
    let credentials = &["cookie: user=alice", "authorization: Bearer x"][..];
    for target in [
        "/_next/static/chunks/a.js",
        "/_next/image?url=%2Fa.png&w=64&q=75",
    ] {
        assert_eq!(may(&off, target, credentials), (true, true), "{target}");
        assert!(!shape_of(target, credentials).keeps_credentials);
    }
    let passed = NextRules {
        image_credentials: true,
        ..rules()
    };
    assert_eq!(
        may(&passed, "/_next/image?url=%2Fa.png", member),
        (true, false)
    );
    assert!(shape_of("/isr", credentials).keeps_credentials);
}

/// R4; cases 7, 8, 14 and 25.
#[test]
fn some_requests_are_not_for_the_store() {
    for (line, reason) in [
        ("cookie: a=1; __prerender_bypass=junk", "draft"),
        ("cookie: __next_preview_data=x", "draft"),
        ("cookie: __prerender_bypass =junk", "draft"),
        ("next-action: 40ab", "next_action"),
        ("content-type: Multipart/Form-Data; boundary=x", "multipart"),
        ("x-middleware-prefetch: 1", "internal_header"),
        (
            "x-middleware-subrequest: middleware:middleware",
            "internal_header",
        ),
        ("x-nextjs-data: 1", "internal_header"),
        ("x-prerender-revalidate: abc", "internal_header"),
        ("x-now-route-matches: 1", "internal_header"),
        ("next-resume: 1", "internal_header"),
        ("authorization: Basic eA==", "authorization"),
    ] {
        let shape = shape_of("/isr", &[line]);
        assert_eq!(shape.bypass(), Some(reason), "{line}");
        assert_eq!(stored(&shape, 200, ISR), Err(reason), "{line}");
    }
    for method in [Method::POST, Method::OPTIONS, Method::DELETE] {
        let shape = shape(&method, b"/isr", None, &HeaderMap::new(), &rules(), None);
        assert_eq!(shape.bypass(), Some("method"));
    }
    for line in [
        "x-forwarded-for: 1.2.3.4",
        "x-deployment-id: dpl-one",
        "content-type: text/plain",
    ] {
        assert_eq!(shape_of("/isr", &[line]).bypass(), None, "{line}");
    }
}

/// R3, where the operator sets the guarded paths; case 6.
#[test]
fn a_guarded_page_is_not_for_the_store_in_any_form() {
    let rules = NextRules {
        guarded: Some(PathSet::new(["/secret", "/account/*"])),
        ..rules()
    };
    for guarded in [
        "/secret",
        "/secret/",
        "/SECRET",
        "/%73ecret",
        "/secret.rsc",
        "/secret.segments/_tree.segment.rsc",
        "/_next/data/abc/secret.json",
        "/account",
        "/account/a/b",
        "/a/../secret",
        "/a/%2e%2e/secret",
        "/a\\..\\secret",
    ] {
        assert_eq!(
            shape_with(&rules, guarded, &[]).bypass(),
            Some("guarded"),
            "{guarded}"
        );
    }
    for open in [
        "/",
        "/secrets",
        "/secret/more",
        "/accounts",
        "/a/secret",
        "/file.name",
    ] {
        assert_eq!(shape_with(&rules, open, &[]).bypass(), None, "{open}");
    }
    let everything = NextRules {
        guarded: Some(PathSet::new(["/*"])),
        ..rules
    };
    assert_eq!(shape_with(&everything, "/", &[]).bypass(), Some("guarded"));
}

/// R9; case 10.
#[test]
fn images_are_keyed_by_accepted_types() {
    let url = "/_next/image?url=%2Fpic.png&w=64&q=75";
    let by = |accept: &str| shape_of(url, &[&format!("accept: {accept}")]);
    let classes = [
        "image/avif,image/webp,image/*;q=0.8",
        "image/avif, image/png",
        "image/webp",
        "image/png",
        "image/avif;q=0.5,image/webp",
    ];
    for (at, one) in classes.iter().enumerate() {
        for other in &classes[at + 1..] {
            assert_ne!(key(&by(one)), key(&by(other)), "{one} {other}");
        }
    }
    for (one, same) in [
        ("image/png", "*/*"),
        ("image/png", "image/*"),
        ("image/png", "image/webp;q=0, image/avif; q=0.0"),
        ("image/webp", "text/html, image/webp;q=0.1"),
    ] {
        assert_eq!(key(&by(one)), key(&by(same)), "{same}");
    }
    for unclear in [
        "IMAGE/WebP",
        "image/avif;q=0.5, image/*",
        "image/webp;v=1",
        "image/png;a=\",image/webp,\"",
    ] {
        assert_eq!(by(unclear).bypass(), Some("unclear"), "{unclear}");
    }
    let image = |kind: &'static str| ["cache-control: public, max-age=60, must-revalidate", kind];
    let avif = image("content-type: image/avif");
    assert_eq!(
        stored(&by("image/avif"), 200, &avif),
        Ok(StorageRule::FromHeaders)
    );
    assert_eq!(stored(&by("image/webp"), 200, &avif), Err("image_form"));
    assert_eq!(
        stored(&by("*/*"), 200, &image("content-type: image/png")),
        Ok(StorageRule::FromHeaders)
    );
    assert_eq!(stored(&by("*/*"), 400, &avif), Err("status"));
    assert_eq!(
        stored(
            &by("image/avif"),
            200,
            &with(&avif, "x-nextjs-cache: STALE")
        ),
        Err("stale_at_origin")
    );
    // Requests for pages do not differ by accepted image formats.
    assert_eq!(
        key(&shape_of("/isr", &["accept: image/avif"])),
        key(&shape_of("/isr", &[]))
    );
}

/// R10; case 13.
#[test]
fn a_file_of_a_build_is_one_only_below_its_folder() {
    assert_eq!(
        shape_of("/_next/static/chunks/a-1b.js", &[]).kind,
        PathKind::File
    );
    for other in [
        "/_next/static/../../dynamic",
        "/_next/static/%2e%2e/%2E%2e/dynamic",
        "/_next/static/..%2f..%2fdynamic",
        "/_next/static/..\\..\\dynamic",
        "/_next/static/%2e%2e%5c..\\dynamic",
        "/_next/staticx",
        "/x/_next/static/a.js",
    ] {
        assert_ne!(shape_of(other, &[]).kind, PathKind::File, "{other}");
    }
    assert_eq!(
        shape_of("/_next/static/chunks/[...slug]-1.js", &[]).kind,
        PathKind::File
    );
}

#[test]
fn variants_differ_by_headers_outside_the_key() {
    let by = |shape: &RequestShape, lines: &[&str]| match effective_vary(
        shape,
        &headers(lines),
        Vary::parse(&headers(lines)),
    ) {
        Vary::Nothing => String::new(),
        Vary::Fields(fields) => {
            let names: Vec<_> = fields.iter().map(HeaderName::as_str).collect();
            names.join(" ")
        }
        Vary::Everything => "*".to_owned(),
    };
    let page = shape_of("/isr", &[]);
    assert_eq!(by(&page, ISR), "accept-encoding");
    assert_eq!(
        by(&page, &with(ISR, "vary: RSC, Next-Router-State-Tree")),
        ""
    );
    assert_eq!(by(&page, &with(ISR, "vary: rsc, next-url")), "next-url");
    assert_eq!(by(&page, &with(ISR, "vary: *")), "*");
    assert_eq!(by(&page, &["cache-control: s-maxage=5"]), "");
    // Not prerendered: the payload depends on the page that the client comes from.
    let dynamic = ["vary: rsc, next-router-state-tree, next-router-prefetch, next-url, Cookie"];
    assert_eq!(
        by(&page, &dynamic),
        "cookie next-router-state-tree next-url"
    );
    let segment = [dynamic[0], "x-nextjs-postponed: 2"];
    assert_eq!(by(&page, &segment), "cookie next-url");
    let image = shape_of("/_next/image?url=a", &[]);
    assert_eq!(by(&image, &["vary: Accept, origin"]), "origin");
    let file = shape_of("/_next/static/a.js", &[]);
    assert_eq!(
        by(&file, &["vary: Accept-Encoding, accept"]),
        "accept accept-encoding"
    );
}

/// Together with the policy of RFC 9111: R5, and case 16.
#[test]
fn windows_of_stale_responses_end_after_a_minute() {
    let window = |cache_control: &str| {
        let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let times = ExchangeTimes {
            request_time: at,
            response_time: at,
        };
        let request = OriginRequest {
            method: &Method::GET,
            headers: &HeaderMap::new(),
            is_named: false,
        };
        let line = format!("cache-control: {cache_control}");
        let life = store(
            request,
            StatusCode::OK,
            &headers(&[&line]),
            times,
            &rules_for_next(),
        );
        let life = life.expect("it may be stored");
        (
            life.fresh_for.as_secs(),
            life.stale_while_revalidate.as_secs(),
            life.stale_if_error.as_secs(),
        )
    };
    assert_eq!(
        window("s-maxage=60, stale-while-revalidate=31535940"),
        (60, 60, 600)
    );
    assert_eq!(
        window("s-maxage=60, stale-while-revalidate=5"),
        (60, 5, 600)
    );
    assert_eq!(window("s-maxage=60, stale-while-revalidate"), (60, 60, 600));
    assert_eq!(window("s-maxage=60"), (60, 0, 600));
}
