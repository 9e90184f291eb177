//! Locations and cookies of backends.

use edgeway_core::chain::testkit::{check, refused};

use super::ResponseRewrite;

#[track_caller]
fn changed(yaml: &str, header: (&str, &str)) -> Vec<String> {
    let filter = check::<ResponseRewrite>(yaml)
        .backend(302, &[header], &[])
        .get("/");
    let values = filter.last().headers.get_all(header.0).iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_first_rule_that_matches_applies() {
    let yaml = "{ location: [{ from: 'http://app/', to: / }, { from: '~*^https?://APP:(\\d+)/(.*)$', \
                to: '/port-$1/$2' }, { from: 'http://', to: 'https://' }] }";
    for (location, expected) in [
        ("http://app/x", "/x"),
        ("http://app:80/a/b", "/port-80/a/b"),
        ("http://other/x", "https://other/x"),
        ("/own", "/own"),
    ] {
        assert_eq!(changed(yaml, ("location", location)), [expected]);
    }
    assert_eq!(
        changed(yaml, ("refresh", "5; url=http://app/x")),
        ["5; url=/x"]
    );
    assert_eq!(changed(yaml, ("refresh", "5")), ["5"]);
    let quoted = changed(yaml, ("refresh", "5;URL = 'http://app/x'"));
    assert_eq!(quoted, ["5;URL = '/x'"]);
    assert_eq!(
        changed("{ location: [] }", ("location", "http://127.0.0.1/")),
        ["http://127.0.0.1/"]
    );
}

#[test]
fn attributes_of_cookies_change() {
    let yaml = "{ cookies: { domain: [{ from: app.internal, to: example.com }, { from: \
                '~^(.+)\\.internal$', to: '$1.example.com' }], path: [{ from: /app/, to: / }], flags: \
                [{ name: a, secure: true, same_site: lax }, { name: '~^b', http_only: false, \
                same_site: remove }] } }";
    for (cookie, expected) in [
        ("x=1", "x=1"),
        ("x=1; Domain=.APP.internal", "x=1; Domain=.example.com"),
        (
            "x=1; domain=shop.internal; Path=/app/b",
            "x=1; domain=shop.example.com; Path=/b",
        ),
        ("x=1; Path=/other; Secure", "x=1; Path=/other; Secure"),
        ("a=1; Path=/", "a=1; Path=/; Secure; SameSite=Lax"),
        ("a=1; secure; samesite=strict", "a=1; secure; samesite=Lax"),
        (
            "bee=1; HttpOnly; SameSite=None; Max-Age=5",
            "bee=1; Max-Age=5",
        ),
    ] {
        assert_eq!(
            changed(yaml, ("set-cookie", cookie)),
            [expected],
            "{cookie}"
        );
    }
}

#[test]
fn mistakes_are_reported_with_a_remedy() {
    for (yaml, message) in [
        ("{}", "`response_rewrite` changes nothing"),
        (
            "{ location: [{ from: '', to: / }] }",
            "invalid rule from ``",
        ),
        (
            "{ location: [{ from: '~(', to: / }] }",
            "invalid regular expression `(`",
        ),
    ] {
        let messages = refused::<ResponseRewrite>(yaml);
        assert!(messages[0].starts_with(message), "{yaml}: {messages:?}");
    }
}
