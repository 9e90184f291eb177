//! RFC 9111, 4.1.

use super::*;
use crate::chain::RequestChanges;

fn same(vary: &str, one: &str, other: &str) -> bool {
    let vary = Vary::parse(&head(&format!("Vary: {vary}")));
    vary.variance(&head(one)) == vary.variance(&head(other))
}

#[test]
fn lists_are_read_over_lines_and_in_any_order() {
    let vary = |lines: &str| Vary::parse(&head(lines));
    assert_eq!(vary(""), Vary::Nothing);
    assert_eq!(vary("Vary:"), Vary::Nothing);
    assert_eq!(vary("Vary: , ,"), Vary::Nothing);
    assert_eq!(vary("Vary: A, b"), vary("Vary: B\nVary: ,a,A"));
    assert_ne!(vary("Vary: a"), vary("Vary: b"));
    for everything in [
        "*", "*, *", ", *", "*, Foo", "Foo, *", "a b", "a: b", "\"a\"", "a;b", "\u{e4}",
    ] {
        assert_eq!(
            vary(&format!("Vary: {everything}")),
            Vary::Everything,
            "{everything}"
        );
    }
    assert_eq!(vary("Vary:\nVary: *"), Vary::Everything);
    assert_eq!(vary("Vary: Foo\nVary: *"), Vary::Everything);
}

#[test]
fn without_fields_all_requests_are_the_same() {
    let none = Vary::Nothing.variance(&head("Foo: 1"));
    assert_eq!((none, Variance::default()), (Variance(0), Variance(0)));
    assert_ne!(
        Vary::parse(&head("Vary: foo")).variance(&head("")),
        Variance(0)
    );
}

#[test]
fn equivalent_requests_select_the_same_variant() {
    for (vary, one, other) in [
        ("Foo", "Foo: 1", "foo: 1"),
        ("Foo", "Foo: 1\nOther: 2", "Foo: 1\nOther: 3"),
        ("Foo", "Foo: 1,2", "Foo:  1 ,  2 "),
        ("Foo", "Foo: 1, 2", "Foo: 1\nFoo: 2"),
        ("Foo, Bar, Baz", "Foo: 1\nBaz: 2", "Baz: 2\nFoo: 1"),
        (
            "Accept-Encoding",
            "Accept-Encoding: gzip, br",
            "Accept-Encoding: BR,gzip",
        ),
        (
            "Accept-Encoding",
            "Accept-Encoding: br;q=0.5",
            "Accept-Encoding: br; q=0.5",
        ),
        (
            "Accept-Language",
            "Accept-Language: de, EN",
            "Accept-Language: DE,en",
        ),
        (
            "User-Agent",
            "User-Agent: a (b, c)",
            "User-Agent:  a (b, c) ",
        ),
    ] {
        assert!(same(vary, one, other), "{vary}: {one} | {other}");
    }
}

#[test]
fn requests_that_may_differ_select_different_variants() {
    for (vary, one, other) in [
        ("Foo", "Foo: 1", "Foo: 2"),
        ("Foo", "Foo: 1", ""),
        ("Foo", "Foo:", ""),
        ("Foo", "Foo: a", "Foo: A"),
        ("Foo", "Foo: 1, 2", "Foo: 2, 1"),
        ("Foo", "Foo: 1, 2", "Foo: 12"),
        ("Foo", "Foo: \"1, 2\"", "Foo: 1, 2"),
        ("Foo", "Foo: \"1, 2\"", "Foo: \"1,2\""),
        ("Foo, Bar", "Foo: 1\nBar: 2", "Foo: 2\nBar: 1"),
        ("Foo, Bar", "Foo: 1\nBar: abc", "Foo: 1"),
        ("Foo, Bar", "Foo: 1", "Bar: 1"),
        ("Foo, Bar", "Foo: 1, 2", "Foo: 1\nBar: 2"),
        (
            "Accept-Language",
            "Accept-Language: de, en",
            "Accept-Language: en, de",
        ),
        (
            "Accept-Encoding",
            "Accept-Encoding: br;q=0.5",
            "Accept-Encoding: br",
        ),
        ("User-Agent", "User-Agent: a (b, c)", "User-Agent: a (b,c)"),
        ("Cookie", "Cookie: a=1, 2", "Cookie: a=1,2"),
    ] {
        assert!(!same(vary, one, other), "{vary}: {one} | {other}");
    }
}

fn variance(vary: &str, request: &str, changes: RequestChanges) -> Option<Variance> {
    let vary = Vary::parse(&head(&format!("Vary: {vary}")));
    let headers = head(request);
    let unchanged = UnchangedHeaders::new(changes);
    SentHeaders::of_client(&headers, &unchanged).variance(&vary)
}

#[test]
fn only_headers_that_reach_the_origin_unchanged_select_variants() {
    let none = || RequestChanges::NONE;
    let names = |name: &'static str| RequestChanges::names([HeaderName::from_static(name)]);
    let prefix = || RequestChanges::Only {
        names: Vec::new(),
        prefixes: vec!["accept-".into()],
    };
    for (vary, changes) in [
        ("X-Real-IP", none()),
        ("X-Forwarded-Host", none()),
        ("Host", none()),
        ("Foo", none()),
        ("Accept-Language, X-Client-Verify", none()),
        ("Accept-Language", names("accept-language")),
        ("Accept-Language", prefix()),
        ("Accept", RequestChanges::Any),
    ] {
        assert_eq!(variance(vary, "Foo: 1", changes), None, "{vary}");
    }
    for (vary, changes) in [
        ("Accept-Language", none()),
        ("Accept, Cookie", names("accept-language")),
        ("Accept", prefix()),
        ("RSC, Next-Router-State-Tree, Next-URL", none()),
    ] {
        assert_ne!(variance(vary, "Foo: 1", changes), None, "{vary}");
    }
    let nominated = "Connection: keep-alive, accept-language\nAccept-Language: de";
    assert_eq!(variance("Accept-Language", nominated, none()), None);
    let forwarded = "Connection: keep-alive\nAccept-Language: de";
    assert_ne!(variance("Accept-Language", forwarded, none()), None);
}
