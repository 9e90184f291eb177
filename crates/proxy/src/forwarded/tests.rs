//! Headers that origins get, and headers that clients cannot forge.

use std::sync::Arc;

use edgeway_base::{net::Cidr, reserved_headers::ReservedHeaders};
use edgeway_cache::policy::is_left_alone;
use edgeway_core::chain::{
    ClientCertificate,
    host::{public_host, requested_host},
};
use pingora::http::ResponseHeader;

use super::*;

const LOCAL: &str = "127.0.0.1";

fn trusted(networks: &[&str]) -> TrustedProxies {
    TrustedProxies::new(
        networks
            .iter()
            .map(|n| n.parse::<Cidr>().unwrap())
            .collect(),
    )
}

fn request(target: &str, headers: &[(&str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    for (name, value) in headers {
        request.append_header((*name).to_owned(), *value).unwrap();
    }
    request
}

/// Returns the request headers that a backend sees of a request from 127.0.0.1, on port 8080.
fn upstream(networks: &[&str], app: App, request: RequestHeader) -> RequestHeader {
    upstream_of(networks, app, ClientCertificateStatus::NotAsked, request)
}

/// Returns the same for a client that presented something in its handshake.
fn upstream_of(
    networks: &[&str],
    app: App,
    shown: ClientCertificateStatus<'_>,
    mut request: RequestHeader,
) -> RequestHeader {
    let peer = LOCAL.parse().unwrap();
    let trusted = trusted(networks);
    let resolved = resolve_client(&request, peer, Scheme::Http, &trusted);
    let reserved = ReservedHeaders::new(&[], [], false);
    strip(&mut request, &reserved, resolved.is_trusted).unwrap();
    let client = Client {
        ip: resolved.ip,
        peer,
        is_trusted: resolved.is_trusted,
        scheme: resolved.scheme,
        ..Client::default()
    };
    let text = ConnectionText::new(peer, &HeaderValue::from(8080u16));
    let host = request.headers.get(header::HOST);
    let host = host.filter(|host| requested_host(&request) == host.as_bytes());
    text.remember_host(|| host_text(host.filter(|_| !client.is_trusted)?, client.scheme, ""));
    let cx = Forwarding {
        client: &client,
        trusted: &trusted,
        text: &text,
        shown,
        app,
        is_websocket: false,
        takes_trailers: false,
        is_written: false,
    };
    let lines = ready_lines(&request, &cx);
    let is_usual = shown == ClientCertificateStatus::NotAsked && !client.is_trusted;
    assert_eq!(lines.is_some(), is_usual && host.is_some());
    let mut with_lines = request.clone();
    open_upstream(&mut request, &cx).close(&mut request);
    if let Some(lines) = lines {
        let cx = Forwarding {
            is_written: true,
            ..cx
        };
        open_upstream(&mut with_lines, &cx).close(&mut with_lines);
        for line in std::str::from_utf8(&lines).unwrap().lines() {
            let (name, value) = line.split_once(": ").unwrap();
            with_lines
                .append_header(name.to_owned(), value.to_owned())
                .unwrap();
        }
        assert_eq!(with_lines.headers, request.headers, "as lines");
    }
    request
}

#[track_caller]
fn value<'h>(request: &'h RequestHeader, name: &str) -> &'h str {
    let mut all = request.headers.get_all(name).iter();
    let first = all.next().map_or("(absent)", |v| v.to_str().unwrap());
    assert!(all.next().is_none(), "`{name}` stands there twice");
    first
}

#[track_caller]
fn values<const N: usize>(request: &RequestHeader, expected: [(&str, &str); N]) {
    for (name, text) in expected {
        assert_eq!(value(request, name), text, "{name}");
    }
}

/// The cache selects variants by the client's own value of these headers.
#[test]
fn headers_configured_to_be_left_alone_are() {
    let names = [
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cookie",
        "dnt",
        "origin",
        "referer",
        "user-agent",
        "sec-fetch-mode",
        "sec-ch-ua",
        "next-router-state-tree",
        "next-router-prefetch",
        "rsc",
        "next-url",
        "save-data",
        "x-requested-with",
    ];
    for networks in [&[][..], &["127.0.0.0/8"]] {
        for app in [App::None, App::Node, App::Nextjs] {
            for name in names {
                let lines = [("Host", "a.test"), (name, "one"), (name, "two")];
                let seen = upstream(networks, app, request("/", &lines));
                let values: Vec<_> = seen.headers.get_all(name).iter().collect();
                assert_eq!(values, ["one", "two"], "{name}");
                assert!(is_left_alone(&HeaderName::from_static(name)));
                let seen = upstream(networks, app, request("/", &lines[..1]));
                assert!(!seen.headers.contains_key(name), "{name}");
            }
        }
    }
}

#[test]
fn an_untrusted_client_cannot_describe_itself() {
    let seen = upstream(
        &[],
        App::None,
        request(
            "/",
            &[
                ("Host", "shop.test:8080"),
                ("X-Real-IP", "6.6.6.6"),
                ("X-Forwarded-For", "6.6.6.6"),
                ("x-forwarded-for", "7.7.7.7"),
                ("X-Forwarded-Host", "evil.test"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Port", "443"),
                ("X-Forwarded-Prefix", "/evil"),
                ("Forwarded", "for=6.6.6.6"),
                ("True-Client-IP", "6.6.6.6"),
                ("CF-Connecting-IP", "6.6.6.6"),
                ("X-Client-IP", "6.6.6.6"),
                ("X-Cluster-Client-IP", "6.6.6.6"),
                ("X-Custom", "kept"),
            ],
        ),
    );
    values(
        &seen,
        [
            ("host", "shop.test:8080"),
            ("x-real-ip", LOCAL),
            ("x-forwarded-for", LOCAL),
            ("x-forwarded-host", "shop.test:8080"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "8080"),
            ("x-forwarded-prefix", "(absent)"),
            ("forwarded", "(absent)"),
            ("true-client-ip", "(absent)"),
            ("cf-connecting-ip", "(absent)"),
            ("x-client-ip", "(absent)"),
            ("x-cluster-client-ip", "(absent)"),
            ("x-custom", "kept"),
        ],
    );
}

#[test]
fn a_trusted_proxy_speaks_for_its_client() {
    let seen = upstream(
        &["127.0.0.0/8", "10.0.0.0/8"],
        App::None,
        request(
            "/",
            &[
                ("Host", "internal:8080"),
                ("X-Forwarded-For", "6.6.6.6, 203.0.113.9:4711"),
                ("X-Forwarded-For", "10.0.0.1"),
                ("X-Forwarded-Host", "shop.test"),
                ("X-Forwarded-Proto", "https"),
                // Not written as a port.
                ("X-Forwarded-Port", "0444"),
                ("X-Forwarded-Prefix", "/shop"),
                ("Forwarded", "for=203.0.113.9"),
                ("CF-Connecting-IP", "203.0.113.9"),
            ],
        ),
    );
    values(
        &seen,
        [
            ("host", "internal:8080"),
            ("x-real-ip", "203.0.113.9"),
            ("x-forwarded-for", "203.0.113.9, 10.0.0.1, 127.0.0.1"),
            ("x-forwarded-host", "shop.test"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "(absent)"),
            ("forwarded", "(absent)"),
            ("cf-connecting-ip", "(absent)"),
        ],
    );
}

#[test]
fn the_client_is_written_once_and_read_back_the_same() {
    let networks = ["127.0.0.0/8", "10.0.0.0/8"];
    let sent = [
        ("Host", "internal:8080"),
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.0.0.1"),
        ("X-Forwarded-Host", "shop.test:81"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "6.6.6.6"),
        ("Connection", "X-Real-IP, keep-alive"),
    ];
    for networks in [&networks[..], &[]] {
        let late = upstream(networks, App::None, request("/", &sent));
        let mut early = request("/", &sent);
        let (peer, trusted) = (LOCAL.parse().unwrap(), trusted(networks));
        let who = resolve_client(&early, peer, Scheme::Http, &trusted);
        let reserved = ReservedHeaders::new(&[], [], true);
        strip(&mut early, &reserved, who.is_trusted).unwrap();
        let client = Client {
            ip: who.ip,
            peer,
            is_trusted: who.is_trusted,
            scheme: who.scheme,
            ..Client::default()
        };
        let text = ConnectionText::new(peer, &HeaderValue::from(8080u16));
        text.remember_host(|| host_text(&early.headers[header::HOST], Scheme::Http, ""));
        let cx = Forwarding {
            client: &client,
            trusted: &trusted,
            text: &text,
            shown: ClientCertificateStatus::NotAsked,
            app: App::None,
            is_websocket: false,
            takes_trailers: false,
            is_written: true,
        };
        let not_yet = Forwarding {
            is_written: false,
            ..cx
        };
        assert_eq!(ready_lines(&early, &not_yet).is_some(), !who.is_trusted);
        write(&mut early, &cx);
        assert_eq!(ready_lines(&early, &cx), None, "they are there already");
        let seen = early.headers.clone();
        open_upstream(&mut early, &cx).close(&mut early);
        assert_eq!(early.headers, late.headers);
        for (name, value) in &late.headers {
            assert_eq!(
                seen.get(name),
                Some(value),
                "{name} before a route is chosen"
            );
        }
    }
}

#[test]
fn nonsense_from_a_trusted_proxy_falls_back_to_what_we_see() {
    let seen = upstream(
        &[LOCAL],
        App::None,
        request(
            "/",
            &[
                ("Host", "shop.test"),
                ("X-Forwarded-For", "unknown"),
                ("X-Forwarded-Host", "a/b"),
                ("X-Forwarded-Proto", "gopher"),
                ("X-Forwarded-Port", "99999"),
            ],
        ),
    );
    values(
        &seen,
        [
            ("x-real-ip", LOCAL),
            ("x-forwarded-for", LOCAL),
            ("x-forwarded-host", "shop.test"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
        ],
    );
}

#[test]
fn the_target_of_an_absolute_request_comes_before_its_host() {
    let sent = request("http://shop.test:81/a", &[("Host", "evil.test")]);
    assert_eq!(public_host(&sent, &Client::default()), "shop.test:81");
    let seen = upstream(&[], App::Nextjs, sent);
    assert_eq!(value(&seen, "x-forwarded-host"), "shop.test:81");
    assert_eq!(seen.raw_path(), b"http://shop.test:81/a");
}

#[test]
fn a_request_without_a_host_forwards_none() {
    let seen = upstream(
        &[],
        App::None,
        request("/", &[("X-Forwarded-Host", "evil.test")]),
    );
    values(
        &seen,
        [("x-forwarded-host", "(absent)"), ("x-forwarded-port", "80")],
    );
}

#[test]
fn internal_headers_never_reach_a_backend() {
    let internal = [
        "x-middleware-subrequest",
        "x-middleware-rewrite",
        "x-middleware-prefetch",
        "x-invoke-path",
        "x-matched-path",
        "x-now-route-matches",
        "x-nextjs-rewritten-path",
        "x-prerender-revalidate",
        "x-prerender-revalidate-if-generated",
        "x-next-revalidated-tags",
        "x-next-revalidate-tag-token",
        "next-resume",
        "x-next-resume-state-length",
        "x-vercel-ip-city",
        "x-nextjs-data",
    ];
    let passing = [
        "rsc",
        "next-router-state-tree",
        "next-router-prefetch",
        "next-url",
        "next-action",
        "x-deployment-id",
        "x-nextjs-html-request-id",
        "x-requested-with",
    ];
    for app in [App::None, App::Node, App::Nextjs] {
        for trust in [&[][..], &[LOCAL]] {
            let sent: Vec<_> = internal.iter().chain(&passing).map(|n| (*n, "1")).collect();
            let seen = upstream(trust, app, request("/", &sent));
            for name in internal {
                assert_eq!(value(&seen, name), "(absent)", "{name}");
            }
            for name in passing {
                assert_eq!(value(&seen, name), "1", "{name}");
            }
        }
    }
}

#[test]
fn only_we_speak_of_a_clients_certificate() {
    let forged = [
        ("x-client-verify", "SUCCESS"),
        ("x-client-cert-subject", "CN=admin"),
        ("X-Client-Cert-Fingerprint", "00"),
        ("x-client-cert", "-----BEGIN"),
        ("x_client_verify", "SUCCESS"),
        ("x-client_cert_subject", "CN=admin"),
        ("x-client-version", "stays"),
        ("x-client-ve", "stays"),
    ];
    let certificate = Arc::new(ClientCertificate {
        subject: HeaderValue::from_static("CN=ann,O=Example"),
        fingerprint: HeaderValue::from_static("ab01"),
        cas: 0,
    });
    // A proxy that is trusted for the client's address is not trusted for its certificate.
    for networks in [&[][..], &["127.0.0.0/8"]] {
        for (shown, verify, subject, fingerprint) in [
            (
                ClientCertificateStatus::NotAsked,
                "(absent)",
                "(absent)",
                "(absent)",
            ),
            (
                ClientCertificateStatus::Nothing,
                "NONE",
                "(absent)",
                "(absent)",
            ),
            (
                ClientCertificateStatus::Verified(&certificate),
                "SUCCESS",
                "CN=ann,O=Example",
                "ab01",
            ),
        ] {
            let sent = upstream_of(networks, App::None, shown, request("/", &forged));
            values(
                &sent,
                [
                    ("x-client-verify", verify),
                    ("x-client-cert-subject", subject),
                    ("x-client-cert-fingerprint", fingerprint),
                    ("x-client-cert", "(absent)"),
                    ("x_client_verify", "(absent)"),
                    ("x-client_cert_subject", "(absent)"),
                    ("x-client-version", "stays"),
                    ("x-client-ve", "stays"),
                ],
            );
        }
    }
}

#[test]
fn the_routers_headers_pass_where_it_asks_for_data() {
    for (target, expected) in [
        ("/_next/data/build/index.json", "1"),
        ("/shop/_next/data/build/index.json", "1"),
        ("/page?x=/_next/data/", "(absent)"),
    ] {
        for name in ["x-nextjs-data", "x-middleware-prefetch"] {
            let seen = upstream(&[], App::Nextjs, request(target, &[(name, "1")]));
            assert_eq!(value(&seen, name), expected, "{name} {target}");
        }
    }
}

#[test]
fn internal_parameters_are_stripped_for_nextjs_only() {
    for (target, stripped) in [
        ("/a?nxtPslug=1", "/a"),
        ("/a?x=1&nxtPslug=1&y=%2F&nxtIid=2&z", "/a?x=1&y=%2F&z"),
        ("/a?__nextDataReq=1&x=1", "/a?x=1"),
        ("/a?%6extPslug=1&n%78tIb=2&%5f_nextDataReq", "/a"),
        (
            "/a?x=nxtP&nxt=1&n=2&_=3&%zz=4&&",
            "/a?x=nxtP&nxt=1&n=2&_=3&%zz=4&&",
        ),
        ("/a?__nextDataReqs=1", "/a?__nextDataReqs=1"),
        ("/a?", "/a?"),
    ] {
        let seen = |app| upstream(&[], app, request(target, &[]));
        assert_eq!(
            seen(App::Nextjs).raw_path(),
            stripped.as_bytes(),
            "{target}"
        );
        assert_eq!(seen(App::Node).raw_path(), target.as_bytes(), "{target}");
    }
}

#[test]
fn responses_lose_the_headers_of_middleware_for_its_server() {
    let mut response = ResponseHeader::build(200, None).unwrap();
    for name in [
        "x-middleware-set-cookie",
        "x-middleware-next",
        "x-edgeway-node",
        "x-nextjs-cache",
        "x-action-redirect",
        "x-middleware-cache",
        "x-middleware-skip",
    ] {
        response.append_header(name, "1").unwrap();
    }
    strip_internal_response(&mut response);
    let mut left: Vec<_> = response.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    let expected = [
        "x-action-redirect",
        "x-middleware-cache",
        "x-middleware-skip",
        "x-nextjs-cache",
    ];
    assert_eq!(left, expected);
}

#[test]
fn a_location_on_the_backend_becomes_public() {
    let rewrite = |location: &str| {
        rewrite_location(
            &HeaderValue::from_str(location).unwrap(),
            &["10.0.0.5:3000", "api.internal:3000"],
            Scheme::Https,
            "shop.test",
        )
        .map(|v| v.to_str().unwrap().to_owned())
    };
    for location in [
        "http://10.0.0.5:3000/login?next=%2F#top",
        "http://api.internal:3000/login?next=%2F#top",
        "http://localhost:3000/login?next=%2F#top",
        "https://LOCALHOST:3000/login?next=%2F#top",
        "http://127.0.0.1:3000/login?next=%2F#top",
        "http://[::1]:3000/login?next=%2F#top",
        "//localhost:3000/login?next=%2F#top",
    ] {
        assert_eq!(
            rewrite(location).as_deref(),
            Some("https://shop.test/login?next=%2F#top"),
            "{location}"
        );
    }
    assert_eq!(
        rewrite("http://localhost:3000").as_deref(),
        Some("https://shop.test")
    );
    for location in [
        "/login",
        "login",
        "https://accounts.example.com/login",
        "http://localhost:4000/",
        "http://localhost/",
        "http://user@localhost:3000/",
        "http://localhost:3000.evil.test/",
        "mailto:a@b.test",
    ] {
        assert_eq!(rewrite(location), None, "{location}");
    }
}

#[test]
fn a_backend_on_the_default_port_is_known_without_it() {
    let location = HeaderValue::from_static("http://localhost/a");
    let public = rewrite_location(&location, &["10.0.0.5:80"], Scheme::Http, "shop.test:8080");
    assert_eq!(public.unwrap(), "http://shop.test:8080/a");
    assert_eq!(
        rewrite_location(
            &location,
            &["unix:/run/app.sock"],
            Scheme::Http,
            "shop.test"
        ),
        None
    );
}

#[test]
fn a_connection_recalls_what_it_would_make_of_its_host_itself() {
    let hosts = [
        "a.test",
        "A.test",
        "a.test:80",
        "a.test:443",
        "a.test:8080",
        "b.test",
        "[::1]",
        "[::1]:80",
        "127.0.0.1:9",
        "a.test.",
        "c.test",
        "d.test:1",
    ];
    let mut rng = fastrand::Rng::with_seed(24);
    let (mut recalled, mut made) = (0, 0);
    for _ in 0..2000 {
        let raw = HeaderValue::from_static(hosts[rng.usize(..hosts.len())]);
        let scheme = *rng.choice(&[Scheme::Http, Scheme::Https]).unwrap();
        let name = raw.to_str().unwrap().to_ascii_lowercase();
        let own = host_text(&raw, scheme, &name).unwrap();
        let text = ConnectionText::new(LOCAL.parse().unwrap(), &PORT_80);
        if let Some(known) = text.recall_host(&raw, scheme) {
            assert_eq!(*known, own);
            recalled += 1;
        } else {
            text.remember_host(|| Some(own));
            made += 1;
        }
        assert_eq!(text.host(raw.as_bytes()).unwrap().raw, raw);
        assert!(text.recall_host(&raw, scheme).is_none());
        assert!(text.host(b"other.test").is_none());
    }
    assert!(recalled > 100 && made > 100, "{recalled} and {made}");
}
