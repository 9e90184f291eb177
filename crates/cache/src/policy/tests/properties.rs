//! Properties that hold for any input.

use proptest::prelude::*;

use super::*;

/// Generates values close enough to real ones to get past the first checks.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::collection::vec(
        prop_oneof![
            Just("max-age"),
            Just("s-maxage"),
            Just("no-cache"),
            Just("private"),
            Just("="),
            Just("\""),
            Just(","),
            Just(" "),
            Just("\\"),
            Just(";"),
            Just("60"),
            Just("-1"),
            Just("99999999999999999999"),
            Just("stale-while-revalidate"),
            Just("stale-if-error"),
            Just("public"),
            Just("*"),
            Just("W/"),
            Just("Thu, 18 Aug 2050 02:01:18 GMT"),
            Just("x-a"),
            Just("+"),
            Just("?1"),
            Just("("),
            Just(")"),
        ],
        0..10,
    );
    prop_oneof![
        4 => words.prop_map(|words| words.concat().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        Just("cache-control"),
        Just("cdn-cache-control"),
        Just("surrogate-control"),
        Just("expires"),
        Just("date"),
        Just("age"),
        Just("last-modified"),
        Just("etag"),
        Just("vary"),
        Just("pragma"),
        Just("if-none-match"),
        Just("if-modified-since"),
        Just("connection"),
        Just("x-a"),
        Just("location"),
        Just("content-location"),
        Just("accept-encoding"),
        Just("content-type"),
        Just("set-cookie"),
        Just("content-encoding"),
    ];
    proptest::collection::vec((name, value()), 0..8).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

fn rules() -> impl Strategy<Value = CacheRules> {
    let span = || proptest::option::of((0u64..100_000).prop_map(secs));
    (
        span(),
        any::<bool>(),
        span(),
        span(),
        span(),
        any::<bool>(),
        -1.0..1e12f64,
    )
        .prop_map(|(ttl, force, swr, sie, most, despite, share)| CacheRules {
            ttl,
            force,
            by_status: vec![(404, Duration::MAX)],
            heuristic: Some(share),
            stale_while_revalidate: swr,
            stale_if_error: sie,
            max_stale_while_revalidate: most,
            stale_despite_s_maxage: despite,
            ..CacheRules::default()
        })
}

/// Ranks a decision by how freely the client may use the response.
fn rank(verdict: Usability) -> u8 {
    match verdict {
        Usability::Fresh => 3,
        Usability::StaleWhileRevalidate => 2,
        Usability::StaleAsAsked => 1,
        Usability::Validate | Usability::GatewayTimeout => 0,
    }
}

proptest! {
    #[test]
    fn lifetimes_are_bounded_and_only_grow_older(
        request in headers(),
        response in headers(),
        status in 100u16..600,
        rules in rules(),
        delay in 0u64..100,
        times in (0i64..1 << 33, 0i64..1 << 33),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let origin_request = OriginRequest { method: &Method::GET, headers: &request, is_named: false };
        let arrival = ExchangeTimes { request_time: at(0), response_time: at(0) + secs(delay) };
        let Ok(lifetime) = store(origin_request, status, &response, arrival, &rules) else {
            return Ok(());
        };
        let longest = secs(1 << 31);
        prop_assert!(lifetime.fresh_for <= longest && lifetime.initial_age <= longest);
        prop_assert!(lifetime.stale_while_revalidate <= longest && lifetime.stale_if_error <= longest);
        if let Some(most) = rules.max_stale_while_revalidate {
            prop_assert!(lifetime.stale_while_revalidate <= most);
        }
        prop_assert!(lifetime.initial_age >= secs(delay));
        prop_assert!(lifetime.usable_until() >= lifetime.fresh_until());
        prop_assert!(!response.contains_key("set-cookie") && !status.is_informational());
        let (early, late) = (times.0.min(times.1), times.0.max(times.1));
        let wants = RequestDirectives::parse(&request);
        prop_assert!(lifetime.age(at(early)) <= lifetime.age(at(late)));
        prop_assert!(lifetime.is_fresh(at(early)) >= lifetime.is_fresh(at(late)));
        prop_assert!(lifetime.ttl(lifetime.age(at(early))) >= lifetime.ttl(lifetime.age(at(late))));
        prop_assert!(rank(judge(&lifetime, &wants, at(early))) >= rank(judge(&lifetime, &wants, at(late))));
        prop_assert!(after_error(&lifetime, &wants, at(early)) >= after_error(&lifetime, &wants, at(late)));
        prop_assert_eq!(lifetime.fresh_until() > at(late), lifetime.is_fresh(at(late)) );
    }

    #[test]
    fn directives_of_clients_never_widen_those_of_the_origin(
        request in headers(),
        response in headers(),
        later in 0i64..100_000,
    ) {
        let origin_request = OriginRequest { method: &Method::GET, headers: &HeaderMap::new(), is_named: false };
        let found = store(origin_request, StatusCode::OK, &response, now(), &CacheRules::default());
        if let Ok(lifetime) = found {
            let plain = judge(&lifetime, &RequestDirectives::default(), at(later));
            let with_directives = judge(&lifetime, &RequestDirectives::parse(&request), at(later));
            if lifetime.must_revalidate {
                prop_assert!(rank(with_directives) <= rank(plain));
            } else if with_directives != Usability::StaleAsAsked {
                prop_assert!(rank(with_directives) <= rank(plain));
            }
        }
    }

    #[test]
    fn merging_twice_is_merging_once(stored in headers(), not_modified in headers()) {
        let mut once = stored.clone();
        merge(&mut once, &not_modified);
        let mut twice = once.clone();
        merge(&mut twice, &not_modified);
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(once.get("content-encoding"), stored.get("content-encoding"));
        let cookies = |headers: &HeaderMap| headers.get_all("set-cookie").iter().count();
        prop_assert!(cookies(&once) == cookies(&stored));
        if let (Vary::Fields(before), Vary::Fields(after)) = (Vary::parse(&stored), Vary::parse(&once)) {
            prop_assert!(before.iter().all(|name| after.contains(name)));
        }
        if Vary::parse(&stored) != Vary::Nothing {
            prop_assert_ne!(Vary::parse(&once), Vary::Nothing);
        }
    }

    #[test]
    fn cleaning_twice_is_cleaning_once(stored in headers()) {
        let mut once = stored;
        clean(&mut once);
        let mut twice = once.clone();
        clean(&mut twice);
        prop_assert!(!once.contains_key("set-cookie") && !once.contains_key("connection"));
        prop_assert!(twice.keys().all(|name| once.contains_key(name)));
    }

    #[test]
    fn nothing_panics(request in headers(), response in headers(), path in value()) {
        not_modified(&request, &Method::GET, StatusCode::OK, &response);
        updates(&response, &request);
        let vary = Vary::parse(&response);
        prop_assert_eq!(vary.variance(&request), vary.variance(&request));
        let base = Target { path, query: None };
        invalidates(&Method::POST, StatusCode::OK, "http", "a.test", &base, &response);
        let mut headers = response.clone();
        browser(&mut headers, secs(5), secs(5));
        to_not_modified(&mut headers);
        date(&mut headers, at(0));
        prop_assert!(headers.contains_key("date"));
    }
}
