//! RFC 9111, 4.2.

use super::*;

#[test]
fn the_lifetime_is_the_first_that_the_origin_gives() {
    for (response, expected) in [
        ("Cache-Control: max-age=60", 60),
        ("Cache-Control: max-age=60, s-maxage=10", 10),
        ("Cache-Control: s-maxage=600, max-age=1", 600),
        ("Cache-Control: max-age=1\nCache-Control: s-maxage=600", 600),
        ("Cache-Control: max-age=60\nExpires: @-100\nDate: @0", 60),
        ("Cache-Control: max-age=60\nExpires: 0", 60),
        ("Expires: @100\nDate: @0", 100),
        ("Expires: @100\nDate: @40", 60),
        ("Expires: @100", 100),
        ("Expires: @100\nDate: yesterday", 100),
        ("Expires: @100\nExpires: @1\nDate: @0", 100),
        ("Cache-Control: public\nExpires: @100\nDate: @0", 100),
    ] {
        assert_eq!(fresh_for(response), Ok(expected), "{response}");
    }
}

#[test]
fn invalid_directives_make_a_response_stale() {
    for age in [
        "max-age=a60",
        "max-age=60a",
        "max-age=-60",
        "max-age=60.0",
        "max-age='60'",
        "max-age =60",
        "max-age= 60",
        "max-age=",
        "max-age",
        "max-age=\"60",
        "max-age=\"60\"x",
        "max-age=+60",
        "max-age=0x60",
        "max-age=6 0",
        "max-age=\u{661}",
        "s-maxage=x, max-age=60",
    ] {
        let response = format!("ETag: \"a\"\nCache-Control: {age}");
        assert_eq!(fresh_for(&response), Ok(0), "{age}");
        // `Expires` does not count in place of the invalid value.
        let response = format!("{response}\nExpires: @100\nDate: @0");
        assert_eq!(fresh_for(&response), Ok(0), "{age}");
    }
}

#[test]
fn numbers_are_read_in_each_form_that_is_one() {
    for (age, expected) in [
        ("max-age=\"60\"", 60),
        ("MaX-aGe=60", 60),
        ("max-age=0060", 60),
        (",, max-age=60 ,", 60),
        ("foo, max-age=60, bar=\"x\"", 60),
        ("max-age=2147483648", 1 << 31),
        ("max-age=99999999999", 1 << 31),
        ("max-age=99999999999999999999999999999999", 1 << 31),
        ("max-age=60, max-age=5", 60),
        ("max-age=5, max-age=60", 5),
    ] {
        let response = format!("Cache-Control: {age}");
        assert_eq!(fresh_for(&response), Ok(expected), "{age}");
    }
}

#[test]
fn quoted_text_is_no_directive() {
    for (line, expected) in [
        (r#"x="max-age=3600", max-age=1"#, Ok(1)),
        (r#"max-age=1, x="max-age=3600""#, Ok(1)),
        (r#"x="a, no-store, b", max-age=1"#, Ok(1)),
        (r#"x="a\", no-store", max-age=1"#, Ok(1)),
        // An unclosed quote hides nothing.
        (r#"max-age=1, x="a, no-store"#, Err("no-store")),
        (r#"x="max-age=9, private"#, Err("private")),
    ] {
        assert_eq!(
            fresh_for(&format!("Cache-Control: {line}")),
            expected,
            "{line}"
        );
    }
}

#[test]
fn an_expiry_that_is_no_date_has_passed() {
    for date in [
        "0",
        "-1",
        "",
        "never",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug  2050 02:01:18 GMT",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18",
        "2050-08-18T02:01:18Z",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 01 Dec 1994 16:00:00 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
    ] {
        let response = format!("ETag: \"a\"\nDate: @0\nExpires: {date}");
        assert_eq!(fresh_for(&response), Ok(0), "{date}");
    }
}

#[test]
fn dates_are_read_in_their_three_forms_and_any_case() {
    for date in [
        "Thu, 18 Aug 2050 02:01:18 GMT",
        "THU, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 AUG 2050 02:01:18 GMT",
        "thu, 18 aug 2050 02:01:18 gmt",
        "Thursday, 18-Aug-50 02:01:18 GMT",
        "Thu Aug 18 02:01:18 2050",
    ] {
        let response = format!("Date: @0\nExpires: {date}");
        assert!(fresh_for(&response).unwrap() > 1_000_000, "{date}");
    }
}

#[test]
fn the_age_at_arrival_is_the_larger_of_age_and_date() {
    let age = |fields: &str, delay: u64| {
        let times = ExchangeTimes {
            request_time: at(0) - secs(delay),
            response_time: at(0),
        };
        super::super::freshness::initial_age(&head(fields), times).as_secs()
    };
    for (fields, delay, expected) in [
        ("", 0, 0),
        ("Age: 30", 0, 30),
        ("Age: 30", 2, 32),
        ("Date: @-20", 2, 20),
        ("Date: @-20\nAge: 30", 2, 32),
        ("Date: @-50\nAge: 30", 2, 50),
        // An origin clock ahead of ours makes no response younger.
        ("Date: @50\nAge: 30", 0, 30),
        ("Date: @50", 0, 0),
        // RFC 9111, 5.1.
        ("Age: 7200, 0", 0, 7200),
        ("Age: 0, 7200", 0, 0),
        ("Age: 7200\nAge: 0", 0, 7200),
        ("Age: 0\nAge: 7200", 0, 0),
        ("Age: abc", 0, 0),
        ("Age: -7200", 0, 0),
        ("Age: 7200.0", 0, 0),
        ("Age: \"7200\"", 0, 0),
        ("Age:", 0, 0),
        ("Age: 99999999999999999999", 0, 1 << 31),
    ] {
        assert_eq!(age(fields, delay), expected, "{fields} {delay}");
    }
}

#[test]
fn a_date_within_the_second_makes_no_age() {
    let times = ExchangeTimes {
        request_time: at(0),
        response_time: at(0) + Duration::from_millis(999),
    };
    let headers = head("Cache-Control: s-maxage=1\nDate: @0");
    let age = super::super::freshness::initial_age(&headers, times);
    assert_eq!(
        age,
        Duration::from_millis(999),
        "the delay counts, the date does not"
    );
    let times = ExchangeTimes {
        request_time: times.response_time,
        ..times
    };
    assert_eq!(
        super::super::freshness::initial_age(&headers, times),
        Duration::ZERO
    );
}

fn ttl(lifetime: &Lifetime, seconds: i64) -> i64 {
    lifetime.ttl(lifetime.age(at(seconds)))
}

#[test]
fn it_is_fresh_until_its_age_reaches_its_lifetime() {
    let lifetime = stored("Cache-Control: max-age=60\nAge: 20").unwrap();
    assert_eq!(lifetime.fresh_until(), at(40));
    assert_eq!((ttl(&lifetime, 0), ttl(&lifetime, 50)), (40, -10));
    assert!(lifetime.is_fresh(at(39)) && !lifetime.is_fresh(at(40)));
    assert_eq!(lifetime.age(at(10)), secs(30));
    assert_eq!(
        (lifetime.fresh_left(at(10)), lifetime.fresh_left(at(50))),
        (secs(30), secs(0))
    );
    assert_eq!(
        (lifetime.stale_for(at(10)), lifetime.stale_for(at(50))),
        (secs(0), secs(10))
    );
    assert_eq!(lifetime.age(at(-3)), secs(20), "a clock that is behind");
    assert_eq!(lifetime.age(at(-1000)), secs(60), "a clock that went back");
    let expired = stored("Cache-Control: max-age=60\nAge: 90").unwrap();
    assert_eq!((expired.fresh_until(), ttl(&expired, 0)), (at(-30), -30));
}

#[test]
fn heuristic_freshness_is_used_only_where_the_route_sets_it() {
    let response = "Last-Modified: @-1000\nDate: @0";
    assert_eq!(fresh_for(response), Err("no-lifetime"));
    let rules = CacheRules {
        heuristic: Some(0.1),
        ..CacheRules::default()
    };
    let guess = |status, response: &str| {
        stored_with(&rules, "", status, response).map(|lifetime| lifetime.fresh_for.as_secs())
    };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(guess(status, response), Ok(100), "{status}");
    }
    for status in [
        201, 202, 302, 303, 307, 400, 401, 403, 500, 502, 503, 504, 599,
    ] {
        assert_eq!(guess(status, response), Err("no-lifetime"), "{status}");
    }
    assert_eq!(
        guess(599, &format!("{response}\nCache-Control: public")),
        Ok(100)
    );
    assert_eq!(guess(200, "Last-Modified: @-1000"), Ok(100));
    assert_eq!(
        guess(200, "Last-Modified: @-99999999\nDate: @0"),
        Ok(86_400)
    );
    assert_eq!(
        guess(200, "Last-Modified: @10\nDate: @0"),
        Err("no-lifetime")
    );
    assert_eq!(
        guess(200, "Last-Modified: long ago\nDate: @0"),
        Err("no-lifetime")
    );
    assert_eq!(guess(200, ""), Err("no-lifetime"));
    // An explicit lifetime overrides the heuristic.
    assert_eq!(
        guess(200, &format!("{response}\nCache-Control: max-age=5")),
        Ok(5)
    );
    assert_eq!(guess(200, &format!("{response}\nExpires: 0")), Ok(0));
}

#[test]
fn the_route_applies_where_the_origin_sets_nothing() {
    let rules = CacheRules {
        ttl: Some(secs(300)),
        by_status: vec![(404, secs(7)), (503, secs(2))],
        ..CacheRules::default()
    };
    let fresh = |status, response: &str| {
        stored_with(&rules, "", status, response).map(|lifetime| lifetime.fresh_for.as_secs())
    };
    assert_eq!(fresh(200, ""), Ok(300));
    assert_eq!(fresh(200, "Cache-Control: max-age=5"), Ok(5));
    assert_eq!(fresh(200, "Cache-Control: no-store"), Err("no-store"));
    assert_eq!(fresh(200, "Cache-Control: private"), Err("private"));
    assert_eq!(fresh(200, "Expires: @5\nDate: @0"), Ok(5));
    assert_eq!(fresh(404, ""), Ok(7));
    assert_eq!(fresh(503, ""), Ok(2));
    assert_eq!(fresh(503, "Cache-Control: max-age=5"), Ok(5));
    assert_eq!(fresh(403, ""), Err("no-lifetime"));
    assert_eq!(fresh(403, "Cache-Control: public"), Ok(300));
    let no_cache = stored_with(&rules, "", 200, "Cache-Control: no-cache\nETag: \"a\"").unwrap();
    assert!(no_cache.always_validate);
}

#[test]
fn stale_windows_are_the_origins_then_the_routes() {
    let rules = CacheRules {
        stale_while_revalidate: Some(secs(30)),
        stale_if_error: Some(secs(40)),
        max_stale_while_revalidate: Some(secs(100)),
        ..CacheRules::default()
    };
    let windows = |rules: &CacheRules, cc: &str| {
        let lifetime = stored_with(rules, "", 200, &format!("Cache-Control: {cc}")).unwrap();
        let (a, b) = (lifetime.stale_while_revalidate, lifetime.stale_if_error);
        (a.as_secs(), b.as_secs(), lifetime.must_revalidate)
    };
    let swr = "max-age=1, stale-while-revalidate";
    assert_eq!(
        windows(&CacheRules::default(), &format!("{swr}=60")),
        (60, 0, false)
    );
    assert_eq!(
        windows(&CacheRules::default(), &format!("{swr}=\"60\"")),
        (60, 0, false)
    );
    assert_eq!(windows(&CacheRules::default(), swr), (0, 0, false));
    assert_eq!(
        windows(&CacheRules::default(), "max-age=1, stale-if-error=9"),
        (0, 9, false)
    );
    assert_eq!(windows(&rules, "max-age=1"), (30, 40, false));
    assert_eq!(
        windows(&rules, &format!("{swr}=60, stale-if-error=9")),
        (60, 9, false)
    );
    assert_eq!(
        windows(&rules, &format!("{swr}=31535940")),
        (100, 40, false)
    );
    assert_eq!(windows(&rules, &format!("{swr}=0")), (0, 40, false));
    assert_eq!(windows(&rules, &format!("{swr}=soon")), (0, 40, false));
    assert_eq!(windows(&rules, swr), (100, 40, false), "Next.js 14");
    // RFC 9111, 4.2.4 and 5.2.2.2: the directive forbids stale responses.
    for word in ["must-revalidate", "proxy-revalidate"] {
        let cc = format!("{swr}=60, stale-if-error=60, {word}");
        assert_eq!(windows(&rules, &cc), (0, 0, true), "{word}");
    }
    let isr = "s-maxage=2, stale-while-revalidate=58";
    assert_eq!(windows(&rules, isr), (0, 0, true), "RFC 9111, 5.2.2.10");
    let next = CacheRules {
        stale_despite_s_maxage: true,
        ..rules
    };
    assert_eq!(windows(&next, isr), (58, 40, true));
    assert_eq!(
        windows(&next, &format!("{isr}, must-revalidate")),
        (0, 0, true)
    );
}
