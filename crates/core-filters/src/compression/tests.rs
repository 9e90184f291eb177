//! Responses that are compressed, the clients that get them, and their headers.

use edgeway_base::encoding::{
    Encoding,
    testkit::{decoded, is_complete},
};
use edgeway_core::chain::{
    Protocol,
    testkit::{FilterCheck, TestResponse, check, refused},
};

use super::Compression;

/// Returns 4 KiB that look like a page.
fn page() -> Vec<u8> {
    b"<li><a href=\"/p/1\">A product</a> <b>12.90</b></li>\n"
        .iter()
        .copied()
        .cycle()
        .take(4096)
        .collect()
}

/// Checks the filter before a backend that sends [`page`] as HTML, with more headers.
#[track_caller]
fn html(yaml: &str, headers: &[(&str, &str)]) -> FilterCheck {
    typed(yaml, "text/html; charset=utf-8", headers)
}

#[track_caller]
fn typed(yaml: &str, content_type: &str, headers: &[(&str, &str)]) -> FilterCheck {
    let mut all = vec![("Content-Type", content_type), ("Content-Length", "4096")];
    all.extend_from_slice(headers);
    check::<Compression>(yaml).backend(200, &all, &[&page()])
}

fn get(check: FilterCheck, accept: &str) -> FilterCheck {
    check.send("GET", "/", &[("Accept-Encoding", accept)], &[])
}

fn coding(response: &TestResponse) -> Option<&str> {
    response
        .headers
        .get("content-encoding")
        .map(|value| value.to_str().unwrap())
}

fn vary(response: &TestResponse) -> Vec<&str> {
    response
        .headers
        .get_all("vary")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

#[test]
fn the_client_gets_the_coding_that_it_likes_best() {
    for (accept, expected) in [
        ("gzip, deflate, br, zstd", Some(Encoding::Zstd)),
        ("gzip, deflate, br", Some(Encoding::Br)),
        ("gzip;q=1, br;q=0.5", Some(Encoding::Gzip)),
        ("x-gzip", Some(Encoding::Gzip)),
        ("*", Some(Encoding::Zstd)),
        ("identity;q=0, gzip;q=0.1", Some(Encoding::Gzip)),
        ("gzip;q=0", None),
        ("*;q=0", None),
        ("deflate", None),
        ("", None),
    ] {
        let check = get(html("{}", &[]), accept);
        let response = check.last();
        assert_eq!(coding(response), expected.map(Encoding::name), "{accept}");
        match expected {
            Some(encoding) => {
                assert_eq!(decoded(encoding, &response.body), page(), "{accept}");
                assert!(is_complete(encoding, &response.body), "{accept}");
                assert!(response.body.len() < 400, "{}", response.body.len());
            }
            None => assert_eq!(response.body, page(), "{accept}"),
        }
    }
}

#[test]
fn several_lines_of_accept_encoding_are_one_list() {
    let headers = [("Accept-Encoding", "gzip"), ("Accept-Encoding", "br")];
    let check = html("{}", &[]).send("GET", "/", &headers, &[]);
    assert_eq!(coding(check.last()), Some("br"));
}

#[test]
fn our_order_decides_among_equals() {
    let accept = "gzip, br, zstd";
    assert_eq!(
        coding(get(html("[gzip, br]", &[]), accept).last()),
        Some("gzip")
    );
    assert_eq!(
        coding(get(html("{ encodings: [br] }", &[]), accept).last()),
        Some("br")
    );
    assert_eq!(coding(get(html("true", &[]), accept).last()), Some("zstd"));
    assert_eq!(coding(get(html("[br]", &[]), "gzip").last()), None);
}

#[test]
fn the_headers_of_an_encoded_response_describe_the_encoded_bytes() {
    let check = get(
        html(
            "{}",
            &[
                ("ETag", r#""abc""#),
                ("Accept-Ranges", "bytes"),
                ("Content-Digest", "sha-256=:x:"),
                ("Digest", "sha-256=x"),
                ("Vary", "rsc, next-router-state-tree"),
            ],
        ),
        "gzip",
    );
    let response = check.last();
    assert_eq!(response.headers["etag"], r#"W/"abc""#);
    assert_eq!(response.headers["transfer-encoding"], "chunked");
    for gone in [
        "content-length",
        "accept-ranges",
        "content-digest",
        "digest",
    ] {
        assert!(!response.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(
        vary(response),
        ["rsc, next-router-state-tree", "Accept-Encoding"]
    );
}

#[test]
fn weak_tags_stay_and_malformed_ones_go() {
    let check = get(html("{}", &[("ETag", r#"W/"abc""#)]), "gzip");
    assert_eq!(check.last().headers["etag"], r#"W/"abc""#);
    let check = get(html("{}", &[("ETag", "abc")]), "gzip");
    assert!(!check.last().headers.contains_key("etag"));
}

#[test]
fn vary_is_there_once_also_on_the_plain_response() {
    for (sent, expected) in [
        ("Accept-Encoding", "Accept-Encoding"),
        ("rsc, accept-encoding", "rsc, accept-encoding"),
        ("*", "*"),
    ] {
        for accept in ["gzip", "identity"] {
            let check = get(html("{}", &[("Vary", sent)]), accept);
            assert_eq!(vary(check.last()), [expected]);
        }
    }
    let check = html("{}", &[("ETag", r#""abc""#)]).get("/");
    assert_eq!(vary(check.last()), ["Accept-Encoding"]);
    assert_eq!(check.last().headers["etag"], r#""abc""#);
    assert_eq!(check.last().headers["content-length"], "4096");
    assert_eq!(check.last().body, page());
}

#[test]
fn vary_is_that_of_the_origin_alone_where_that_is_wanted() {
    for (sent, expected) in [
        (&[][..], &[][..]),
        (&[("Vary", "rsc")], &["rsc"]),
        (&[("Vary", "Accept-Encoding")], &["Accept-Encoding"]),
    ] {
        for accept in ["gzip", "identity"] {
            let check = get(html("vary: false", sent), accept);
            let is_encoded = coding(check.last()).is_some();
            assert_eq!(is_encoded, accept == "gzip");
            assert_eq!(vary(check.last()), expected, "{accept}");
        }
    }
}

#[test]
fn only_the_statuses_that_are_named_are_compressed() {
    for (status, is_encoded) in [(200, true), (404, true), (500, false)] {
        let types = &[("Content-Type", "text/html")];
        let check = check::<Compression>("statuses: [200, 404]");
        let check = get(check.backend(status, types, &[&page()]), "gzip");
        assert_eq!(coding(check.last()).is_some(), is_encoded, "{status}");
    }
}

#[test]
fn a_response_that_is_never_encoded_is_not_touched() {
    for (content_type, headers) in [
        ("text/event-stream", &[][..]),
        ("text/event-stream; charset=utf-8", &[]),
        ("image/png", &[]),
        ("font/woff2", &[]),
        ("", &[]),
        (
            "text/html",
            &[("Cache-Control", "private, no-transform")][..],
        ),
        ("text/html", &[("Content-Encoding", "gzip")]),
        ("text/html", &[("Content-Encoding", "identity, br")]),
        ("text/html", &[("Content-Range", "bytes 0-4095/9000")]),
    ] {
        let mut all = vec![("ETag", r#""abc""#)];
        all.extend_from_slice(headers);
        let check = get(typed("{}", content_type, &all), "gzip, br, zstd");
        let response = check.last();
        assert_eq!(response.body, page(), "{content_type} {headers:?}");
        assert_eq!(response.headers["etag"], r#""abc""#);
        assert_eq!(response.headers["content-length"], "4096");
        assert!(vary(response).is_empty(), "{content_type} {headers:?}");
    }
}

#[test]
fn an_origins_own_coding_arrives_once() {
    let check = get(html("{}", &[("Content-Encoding", "gzip")]), "gzip");
    assert_eq!(coding(check.last()), Some("gzip"));
    assert_eq!(check.last().body, page());
    let check = get(html("{}", &[("Content-Encoding", "identity")]), "gzip");
    assert_eq!(decoded(Encoding::Gzip, &check.last().body), page());
}

#[test]
fn statuses_without_a_full_body_are_left_alone() {
    for (status, is_encoded) in [
        (200, true),
        (404, true),
        (500, true),
        (204, false),
        (205, false),
        (206, false),
    ] {
        let check = check::<Compression>("{}").backend(
            status,
            &[("Content-Type", "text/html")],
            &[&page()],
        );
        let check = get(check, "gzip");
        assert_eq!(coding(check.last()).is_some(), is_encoded, "{status}");
        // A part has the `Vary` of the whole.
        let varies = is_encoded || status == 206;
        assert_eq!(!vary(check.last()).is_empty(), varies, "{status}");
    }
}

#[test]
fn small_responses_stay_plain_and_unknown_lengths_do_not() {
    let is_encoded = |length: Option<&str>, yaml: &str| {
        let mut headers = vec![("Content-Type", "text/html")];
        headers.extend(length.map(|length| ("Content-Length", length)));
        let check = get(
            check::<Compression>(yaml).backend(200, &headers, &[&page()]),
            "gzip",
        );
        let response = check.last();
        assert_eq!(coding(response).is_some(), !vary(response).is_empty());
        coding(response).is_some()
    };
    assert!(!is_encoded(Some("1023"), "{}"));
    assert!(is_encoded(Some("1024"), "{}"));
    assert!(is_encoded(Some("1025"), "{}"));
    assert!(is_encoded(None, "{}"));
    assert!(!is_encoded(Some("4095"), "{ min_size: 4KiB }"));
    assert!(is_encoded(Some("1"), "{ min_size: 0 }"));
    assert!(!is_encoded(Some("0"), "{ min_size: 0 }"));
}

#[test]
fn each_chunk_is_out_before_the_next_comes_in() {
    for encoding in Encoding::ALL {
        let chunks: [&[u8]; 4] = [b"<html><p>one", b"", b"<p>two", b"<p>three</html>"];
        let check = get(
            check::<Compression>("{}").backend(200, &[("Content-Type", "text/html")], &chunks),
            encoding.name(),
        );
        let response = check.last();
        assert_eq!(coding(response), Some(encoding.name()));
        let mut sent = Vec::new();
        for (chunk, length) in chunks.iter().zip(&response.flushed) {
            sent.extend_from_slice(chunk);
            let seen = decoded(encoding, &response.body[..*length]);
            assert_eq!(seen, sent, "{encoding:?}");
        }
        // The empty chunk moved nothing.
        assert_eq!(response.flushed[0], response.flushed[1]);
        assert!(is_complete(encoding, &response.body));
    }
}

#[test]
fn an_end_without_bytes_completes_the_stream() {
    for encoding in Encoding::ALL {
        let check = get(
            check::<Compression>("{}").backend(
                200,
                &[("Content-Type", "text/html")],
                &[b"all of it", b""],
            ),
            encoding.name(),
        );
        assert!(is_complete(encoding, &check.last().body), "{encoding:?}");
    }
}

#[test]
fn a_head_response_has_the_headers_of_get_and_no_body() {
    let headers = [("Accept-Encoding", "gzip")];
    let check = html("{}", &[("ETag", r#""abc""#)]).send("HEAD", "/", &headers, &[]);
    let response = check.last();
    assert_eq!(coding(response), Some("gzip"));
    assert_eq!(response.headers["etag"], r#"W/"abc""#);
    assert!(!response.headers.contains_key("content-length"));
    assert!(!response.headers.contains_key("transfer-encoding"));
    // The body passes unchanged: there is no stream.
    assert_eq!(response.body, page());
}

#[test]
fn ranges_old_clients_and_no_transform_get_plain_bytes_that_vary() {
    let accept = ("Accept-Encoding", "gzip");
    let http10 = |check: FilterCheck| check.client(|client| client.protocol = Protocol::Http10);
    for check in [
        html("{}", &[]).send("GET", "/", &[accept, ("Range", "bytes=0-9")], &[]),
        html("{}", &[]).send(
            "GET",
            "/",
            &[accept, ("Cache-Control", "no-transform")],
            &[],
        ),
        http10(html("{}", &[])).send("GET", "/", &[accept], &[]),
    ] {
        assert_eq!(check.last().body, page());
        assert_eq!(check.last().headers["content-length"], "4096");
        assert_eq!(vary(check.last()), ["Accept-Encoding"]);
    }
}

#[test]
fn http2_knows_no_chunked() {
    let check = html("{}", &[]).client(|client| client.protocol = Protocol::Http2);
    let check = get(check, "gzip");
    assert_eq!(coding(check.last()), Some("gzip"));
    assert!(!check.last().headers.contains_key("transfer-encoding"));
}

#[test]
fn the_origin_is_asked_for_plain_bytes() {
    let check = get(html("{}", &[]), "gzip, br");
    let upstream = check.last().upstream.as_ref().unwrap();
    let sent: Vec<_> = upstream.headers.get_all("accept-encoding").iter().collect();
    assert_eq!(sent, ["identity"]);
    let check = html("{}", &[]).get("/");
    let upstream = check.last().upstream.as_ref().unwrap();
    assert_eq!(upstream.headers["accept-encoding"], "identity");
}

#[test]
fn a_304_confirms_the_tag_that_the_client_has() {
    let confirm = |if_none_match: &str, tag: &str| {
        let check = check::<Compression>("{}")
            .backend(304, &[("ETag", tag)], &[])
            .send(
                "GET",
                "/",
                &[
                    ("Accept-Encoding", "gzip"),
                    ("If-None-Match", if_none_match),
                ],
                &[],
            );
        assert_eq!(vary(check.last()), ["Accept-Encoding"]);
        assert!(check.last().body.is_empty());
        let tag = check.last().headers["etag"].clone();
        tag.to_str().unwrap().to_owned()
    };
    assert_eq!(confirm(r#"W/"abc""#, r#""abc""#), r#"W/"abc""#);
    assert_eq!(confirm(r#""x", W/"abc""#, r#""abc""#), r#"W/"abc""#);
    assert_eq!(confirm(r#""abc""#, r#""abc""#), r#""abc""#);
    assert_eq!(confirm(r#"W/"abc""#, r#"W/"abc""#), r#"W/"abc""#);
    assert_eq!(confirm("abc", "abc"), "abc");
}

#[test]
fn a_304_for_a_client_that_names_no_tag_has_that_of_its_200() {
    let confirm = |encoding: &str, (name, value): (&str, &str)| {
        let headers = [("Accept-Encoding", encoding), (name, value)];
        let check = check::<Compression>("{}").backend(304, &[("ETag", r#""abc""#)], &[]);
        let check = check.send("GET", "/", &headers, &[]);
        let tag = check.last().headers["etag"].clone();
        tag.to_str().unwrap().to_owned()
    };
    let modified = ("If-Modified-Since", "Tue, 24 Nov 2026 20:20:20 GMT");
    for condition in [modified, ("If-None-Match", "*")] {
        assert_eq!(confirm("gzip", condition), r#"W/"abc""#);
        assert_eq!(confirm("identity", condition), r#""abc""#);
    }
    assert_eq!(confirm("gzip", ("If-None-Match", r#""abc""#)), r#""abc""#);
}

/// A 304 has the `Vary` that the 200 would have (RFC 9110, 15.4.5).
#[test]
fn a_304_varies_as_its_200() {
    for (content_type, length, varies) in [
        ("text/html", "2000", true),
        ("text/html", "20", false),
        ("image/png", "2000", false),
    ] {
        let headers = [("Content-Type", content_type), ("Content-Length", length)];
        let check = check::<Compression>("{ min_size: 1000B }").backend(304, &headers, &[]);
        let check = check.send("GET", "/", &[("Accept-Encoding", "gzip")], &[]);
        let found = !vary(check.last()).is_empty();
        assert_eq!(found, varies, "{content_type} {length}");
    }
}

#[test]
fn a_304_of_an_image_is_left_alone() {
    let check = check::<Compression>("{}")
        .backend(304, &[("ETag", "x"), ("Content-Type", "image/png")], &[])
        .get("/");
    assert!(vary(check.last()).is_empty());
}

#[test]
fn types_are_a_list_with_wildcards() {
    let is_encoded = |yaml: &str, content_type: &str| {
        coding(get(typed(yaml, content_type, &[]), "gzip").last()).is_some()
    };
    for content_type in [
        "text/html",
        "Text/CSS",
        "text/x-component",
        "application/json;charset=utf-8",
        "application/problem+json",
        "application/ld+json",
        "application/rss+xml",
        "application/wasm",
        "image/svg+xml",
        "font/ttf",
    ] {
        assert!(is_encoded("{}", content_type), "{content_type}");
    }
    for content_type in ["application/zip", "application/+json", "video/mp4", "json"] {
        assert!(!is_encoded("{}", content_type), "{content_type}");
    }
    let yaml = "{ types: [Text/*, application/*+json] }";
    assert!(is_encoded(yaml, "text/anything"));
    assert!(is_encoded(yaml, "application/hal+json"));
    assert!(!is_encoded(yaml, "application/json"));
    assert!(!is_encoded(yaml, "text/event-stream"));
}

#[test]
fn levels_change_the_size() {
    let noisy: Vec<u8> = (0..60_000u32)
        .flat_map(|n| {
            (n.wrapping_mul(2_654_435_761) >> 20)
                .to_string()
                .into_bytes()
        })
        .collect();
    let size = |yaml: &str| {
        let check =
            check::<Compression>(yaml).backend(200, &[("Content-Type", "text/html")], &[&noisy]);
        get(check, "gzip").last().body.len()
    };
    assert!(size("{ levels: { gzip: 9 } }") < size("{ levels: { gzip: 1 } }"));
    assert_eq!(size("{ levels: { gzip: 6 } }"), size("{}"));
}

#[test]
fn bytes_are_counted_before_and_after() {
    let check = get(html("{}", &[]), "br");
    let text = String::from_utf8(check.metrics.text()).unwrap();
    let line = |direction: &str| {
        format!("edgeway_compression_bytes_total{{direction=\"{direction}\",encoding=\"br\"}} ")
    };
    assert!(text.contains(&format!("{}4096\n", line("in"))), "{text}");
    let out = check.last().body.len();
    assert!(text.contains(&format!("{}{out}\n", line("out"))), "{text}");
}

#[test]
fn mistakes_are_reported_with_a_remedy() {
    for (yaml, message) in [
        (
            "[brotli]",
            "unknown content coding `brotli`; help: write `br`",
        ),
        (
            "{ encodings: [gzpi] }",
            "unknown content coding `gzpi`; help: write `gzip`",
        ),
        (
            "[deflate]",
            "unknown content coding `deflate`; help: write `gzip`",
        ),
        (
            "[gzip, br, gzip]",
            "`gzip` is listed twice; help: keep one, in its place of the order of preference",
        ),
        (
            "[]",
            "no content coding is listed; help: write `compression: false` to leave responses uncompressed",
        ),
        (
            "{ levels: { br: 11 } }",
            "br has no level 11; help: write a number from 0 to 6",
        ),
        (
            "{ levels: { gzip: 0 } }",
            "gzip has no level 0; help: write a number from 1 to 9",
        ),
        (
            "{ types: [html] }",
            "invalid media type `html`; help: write `TYPE/SUBTYPE`, such as `text/html` or `text/*`",
        ),
        (
            "{ types: [text/html; charset=utf-8] }",
            "invalid media type `text/html; charset=utf-8`; help: write it without parameters: `text/html`",
        ),
        (
            "{ types: [text/event-stream] }",
            "invalid media type `text/event-stream`; help: remove it: server-sent events are never compressed",
        ),
        (
            "{ types: ['*/*'] }",
            "invalid media type `*/*`; help: write one `*` only, as in `text/*` or `application/*+json`",
        ),
    ] {
        assert_eq!(refused::<Compression>(yaml), [message], "{yaml}");
    }
    assert_eq!(
        refused::<Compression>("{ encodings: [x], levels: { zstd: 20 }, types: [y] }").len(),
        3
    );
    assert_eq!(refused::<Compression>("{ level: 6 }").len(), 1);
}
