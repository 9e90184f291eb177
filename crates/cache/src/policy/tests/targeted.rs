//! RFC 9213 and `Surrogate-Control`.

use super::*;

#[test]
fn a_targeted_field_counts_in_place_of_the_others() {
    for (response, expected) in [
        ("CDN-Cache-Control: max-age=60", Ok(60)),
        (
            "CDN-Cache-Control: max-age=60\nCache-Control: max-age=1",
            Ok(60),
        ),
        (
            "CDN-Cache-Control: max-age=1\nCache-Control: max-age=60",
            Ok(1),
        ),
        (
            "CDN-Cache-Control: max-age=60\nCache-Control: no-store",
            Ok(60),
        ),
        (
            "CDN-Cache-Control: max-age=60\nCache-Control: private",
            Ok(60),
        ),
        ("CDN-Cache-Control: max-age=60\nExpires: 0", Ok(60)),
        (
            "CDN-Cache-Control: max-age=60\nExpires: @-100\nDate: @0",
            Ok(60),
        ),
        ("CDN-Cache-Control: max-age=60\nPragma: no-cache", Ok(60)),
        ("CDN-Cache-Control: max-age=60, s-maxage=5", Ok(5)),
        ("CDN-Cache-Control: max-age=2147483648", Ok(1 << 31)),
        ("CDN-Cache-Control: max-age=99999999999", Ok(1 << 31)),
        ("CDN-Cache-Control: foobar, max-age=60", Ok(60)),
        ("CDN-Cache-Control: max-age=60;ext=1, other=(a b)", Ok(60)),
        (
            "CDN-Cache-Control: foobar\nCDN-Cache-Control: max-age=60",
            Ok(60),
        ),
        // The last member of a name in a dictionary counts.
        ("CDN-Cache-Control: max-age=5, max-age=60", Ok(60)),
        ("CDN-Cache-Control: max-age=0", Err("not-reusable")),
        ("CDN-Cache-Control: max-age=-5", Err("not-reusable")),
        (
            "CDN-Cache-Control: max-age=0\nExpires: @60\nDate: @0",
            Err("not-reusable"),
        ),
        (
            "CDN-Cache-Control: no-store\nCache-Control: max-age=60\nExpires: @60",
            Err("no-store"),
        ),
        (
            "CDN-Cache-Control: private\nCache-Control: max-age=60",
            Err("private"),
        ),
        (
            "CDN-Cache-Control: no-cache\nCache-Control: max-age=60",
            Err("not-reusable"),
        ),
        ("CDN-Cache-Control: no-store=?0, max-age=60", Ok(60)),
        // The field sets no lifetime, and `Cache-Control`, which does, is not read beside it.
        (
            "CDN-Cache-Control: foo\nCache-Control: max-age=60",
            Err("no-lifetime"),
        ),
        ("CDN-Cache-Control: foo\nExpires: @60", Err("no-lifetime")),
    ] {
        assert_eq!(fresh_for(response), expected, "{response}");
    }
}

#[test]
fn a_targeted_field_that_is_none_does_not_count() {
    for field in [
        "",
        "  ",
        "max-age=60, &&&&",
        "max-age=\"60\"",
        "max-age=60.0",
        "max-age",
        "max-age =60",
        "max-age= 60",
        "MaX-aGe=60",
        "max-age=(60)",
        "no-store=1, max-age=60",
        "max-age=60,",
        "max-age=9999999999999999999",
    ] {
        let response = format!("CDN-Cache-Control: {field}\nCache-Control: max-age=7");
        assert_eq!(fresh_for(&response), Ok(7), "{field}");
        let response = format!("CDN-Cache-Control: {field}\nCache-Control: no-store");
        assert_eq!(fresh_for(&response), Err("no-store"), "{field}");
    }
}

#[test]
fn a_targeted_age_is_counted_like_any() {
    let lifetime = stored("CDN-Cache-Control: max-age=60\nAge: 90\nDate: @0").unwrap();
    assert!(!lifetime.is_fresh(at(0)));
    let windows =
        stored("CDN-Cache-Control: max-age=60, stale-while-revalidate=9, stale-if-error=8")
            .unwrap();
    let windows = (windows.stale_while_revalidate, windows.stale_if_error);
    assert_eq!(windows, (secs(9), secs(8)));
}

#[test]
fn surrogate_control_comes_second() {
    for (response, expected) in [
        ("Surrogate-Control: max-age=60", Ok(60)),
        ("Surrogate-Control: MaX-aGe=60", Ok(60)),
        ("Surrogate-Control: max-age=60, content=\"ESI/1.0\"", Ok(60)),
        (
            "Surrogate-Control: content=\"ESI/1.0\", max-age=60\nCache-Control: no-store",
            Ok(60),
        ),
        (
            "Surrogate-Control: max-age=60\nCache-Control: max-age=1",
            Ok(60),
        ),
        (
            "Surrogate-Control: max-age=1\nCache-Control: max-age=60",
            Ok(1),
        ),
        ("Surrogate-Control: max-age=60\nExpires: 0", Ok(60)),
        (
            "Surrogate-Control: max-age=60\nCDN-Cache-Control: max-age=5",
            Ok(5),
        ),
        (
            "Surrogate-Control: max-age=60\nCDN-Cache-Control: max-age=\"5\"",
            Ok(60),
        ),
        (
            "Surrogate-Control: no-store\nCache-Control: max-age=60",
            Err("no-store"),
        ),
        (
            "Surrogate-Control: max-age=0\nExpires: @60\nDate: @0",
            Err("not-reusable"),
        ),
        (
            "Surrogate-Control: max-age =60\nCache-Control: max-age=1",
            Err("not-reusable"),
        ),
        ("Surrogate-Control: max-age=60+30", Ok(60)),
        // Directive for a named surrogate.
        (
            "Surrogate-Control: no-store;other\nCache-Control: max-age=7",
            Ok(7),
        ),
        ("Surrogate-Control: max-age=60;other, max-age=7", Ok(7)),
        (
            "Surrogate-Control: content=\"ESI/1.0\"\nCache-Control: max-age=7",
            Ok(7),
        ),
        (
            "Surrogate-Control: no-store-remote\nCache-Control: max-age=7",
            Ok(7),
        ),
    ] {
        assert_eq!(fresh_for(response), expected, "{response}");
    }
    let lifetime = stored("Surrogate-Control: max-age=60+30").unwrap();
    assert_eq!(lifetime.stale_while_revalidate, secs(30));
}
