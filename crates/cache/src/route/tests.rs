//! Tests of keys, personal requests and tags.

use std::sync::Arc;

use super::*;
use crate::{
    base::clock::Clock,
    chain::{KeyBuilder, RequestFacts},
    key::Key,
    limits::{gcra::Quota, memory::BucketTable},
};

fn policy(key: KeyRules, anonymous: &[&str]) -> RouteCachePolicy {
    RouteCachePolicy {
        mode: Mode::App,
        pages: PageCache::Anonymous,
        plain: CacheRules::default(),
        nextjs: CacheRules::default(),
        key,
        bypass: Box::default(),
        anonymous: NameSet::new(anonymous.iter().copied()),
        max_object: 1 << 20,
        tags: Box::default(),
        purge_on_write: false,
        browser_ttl: None,
        client_directives: None,
        after_changes: ClientDirectives::new(
            Quota::new(1, Duration::from_secs(1), 1).unwrap(),
            Arc::new(BucketTable::new(16, &Clock::test())),
            "route",
        ),
        wait: Duration::from_secs(5),
        quota: None,
        fetches_whole: false,
        ranges: Ranges::Any,
        keeps_on_write: false,
        min_uses: None,
    }
}

fn by(items: &[&str]) -> KeyRules {
    KeyRules {
        query: Query::All,
        passes_unkeyed: false,
        by: items.iter().map(|item| item.parse().unwrap()).collect(),
    }
}

fn key(rules: &KeyRules, target: &str, lines: &[(&'static str, &str)]) -> Key {
    let mut head = pingora::http::RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    head.insert_header("host", "shop.example.com").unwrap();
    for (name, value) in lines {
        head.append_header(*name, *value).unwrap();
    }
    let mut facts = RequestFacts::new(Clock::test().now());
    let ex = Exchange {
        head: &head,
        facts: &mut facts,
    };
    rules.key(&ex, KeyBuilder::default(), None).unwrap()
}

#[test]
fn the_query_counts_as_sent_unless_configured_otherwise() {
    let all = KeyRules::default();
    assert_eq!(
        key(&all, "/a?b=1&a=2", &[]).url(),
        "http://shop.example.com/a?b=1&a=2"
    );
    let without = KeyRules {
        query: Query::Without(NameSet::new(["utm_*", "fbclid"])),
        ..KeyRules::default()
    };
    assert_eq!(
        key(&without, "/a?utm_source=x&b=1&fbclid&a=2&utm=3", &[]).query(),
        Some(&b"b=1&a=2&utm=3"[..])
    );
    assert_eq!(
        key(&without, "/a?utm_source=x", &[]),
        key(&without, "/a", &[])
    );
    let only = KeyRules {
        query: Query::Only(NameSet::new(["page"])),
        ..KeyRules::default()
    };
    assert_eq!(
        key(&only, "/a?x=1&page=2", &[]).query(),
        Some(&b"page=2"[..])
    );
}

#[test]
fn parameters_are_compared_by_their_decoded_names_and_taken_out() {
    let without = KeyRules {
        query: Query::Without(NameSet::new(["utm_*", "a b"])),
        ..KeyRules::default()
    };
    let sent = |rules: &KeyRules, target: &str| {
        let length = target.split_once('?').map_or(0, |(_, query)| query.len());
        let sent = rules.target_of(target.as_bytes(), length, Some(b"_rsc"));
        sent.map(|sent| String::from_utf8(sent).unwrap())
    };
    for (target, expected) in [
        ("/x?%75tm_a=1&b=%32", Some("/x?b=%32")),
        ("/x?utm_a", Some("/x")),
        ("/x?a+b=1&a%20b=2&c", Some("/x?c")),
        ("/x?b=utm_a", None),
        ("/x?utm_a&_rsc=1", Some("/x?_rsc=1")),
        ("/x?", None),
        ("/x", None),
    ] {
        assert_eq!(sent(&without, target).as_deref(), expected, "{target}");
        let keyed = key(&without, target, &[]);
        let same = key(&without, expected.unwrap_or(target), &[]);
        assert_eq!(keyed, same, "{target}");
    }
    let passes = KeyRules {
        passes_unkeyed: true,
        ..without
    };
    assert_eq!(sent(&passes, "/x?utm_a=1"), None);
}

#[test]
fn parts_of_the_request_distinguish_responses() {
    let rules = by(&["header:X-Tenant", "cookie:lang"]);
    let of = |lines: &[(&'static str, &str)]| key(&rules, "/a", lines);
    assert_ne!(of(&[("x-tenant", "a")]), of(&[("x-tenant", "b")]));
    assert_ne!(of(&[("x-tenant", "a")]), of(&[("cookie", "lang=a")]));
    assert_ne!(of(&[]), of(&[("cookie", "lang=de")]));
    assert_eq!(
        of(&[("cookie", "lang=de; x=1")]),
        of(&[("cookie", "lang=de")])
    );
}

/// Returns in which ways a response may be personal: cookies, identity, identified by the key.
fn personal(
    policy: &RouteCachePolicy,
    lines: &[(&'static str, &str)],
    user: Option<&str>,
) -> [bool; 3] {
    let mut head = pingora::http::RequestHeader::build("GET", b"/", None).unwrap();
    for (name, value) in lines {
        head.append_header(*name, *value).unwrap();
    }
    let mut facts = RequestFacts::new(Clock::test().now());
    if let Some(user) = user {
        facts.identity_mut().user = Some(user.into());
    }
    let ex = Exchange {
        head: &head,
        facts: &mut facts,
    };
    let personal = policy.personal(&ex);
    [
        personal.has_cookies,
        personal.has_identity,
        personal.is_named,
    ]
}

#[test]
fn clients_are_identified_by_cookies_and_proven_identities() {
    let plain = policy(KeyRules::default(), &["_ga*", "theme"]);
    let of = |lines: &[(&'static str, &str)]| personal(&plain, lines, None);
    assert_eq!(of(&[]), [false; 3]);
    assert_eq!(of(&[("cookie", "_ga_1=x; theme=dark")]), [false; 3]);
    assert_eq!(of(&[("cookie", "theme=dark; s=1")]), [true, false, false]);
    assert_eq!(of(&[("authorization", "x")]), [false, true, false]);
    // Both are found.
    assert_eq!(
        of(&[("authorization", "x"), ("cookie", "s=1")]),
        [true, true, false]
    );
    // Such as an API key in a header of its own.
    assert_eq!(personal(&plain, &[], Some("ann")), [false, true, false]);
    let everybody = policy(KeyRules::default(), &["*"]);
    assert_eq!(personal(&everybody, &[("cookie", "s=1")], None), [false; 3]);
    let by_language = policy(by(&["cookie:lang"]), &[]);
    assert_eq!(
        personal(&by_language, &[("cookie", "lang=de")], None),
        [false; 3]
    );
}

#[test]
fn only_clients_named_by_the_key_have_responses_of_their_own() {
    let lines: &[(&'static str, &str)] = &[("authorization", "x"), ("cookie", "s=1")];
    let by_user = policy(by(&["user"]), &[]);
    assert_eq!(personal(&by_user, lines, Some("ann")), [false, false, true]);
    // No user: two such clients share a key.
    assert_eq!(personal(&by_user, lines, None), [true, true, false]);
    // Many clients share a role.
    let by_role = policy(by(&["jwt.role"]), &[]);
    assert_eq!(personal(&by_role, lines, Some("ann")), [true, true, false]);
}

#[test]
fn tags_take_parameters_of_the_path() {
    let tag = TagTemplate::parse("product:{id}").unwrap();
    let bound = tag.bind(|name| (name == "id").then_some(())).unwrap();
    assert_eq!(bound.render(|()| b"42"), "product:42");
    assert!(matches!(
        tag.bind(|_| None::<()>),
        Err(TagProblem::Unknown { .. })
    ));
    for wrong in ["", "a b", "a,b", "a{b", "a}b", "{}"] {
        assert!(TagTemplate::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn tags_of_the_origin_are_separated_as_cdns_do() {
    let mut headers = HeaderMap::new();
    headers.insert("surrogate-key", "a\tb  c\t d,e".parse().unwrap());
    headers.insert("cache-tag", "f g,\th".parse().unwrap());
    let tags = tags_of(&headers).unwrap();
    assert_eq!(
        tags.iter().map(|tag| &**tag).collect::<Vec<_>>(),
        ["a", "b", "c", "d,e", "f g", "h"]
    );
}

#[test]
fn cookies_in_the_key_are_kept() {
    let rules = by(&["cookie:lang", "cookie:lang+host", "cookie:plan"]);
    for (line, expected) in [
        ("sid=1; lang=de; x=2; plan=a", Some("lang=de; plan=a")),
        ("plan=", Some("plan=")),
        ("sid=1; language=de", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", line.parse().unwrap());
        let kept = rules.cookies_of(&headers);
        assert_eq!(
            kept.as_ref().map(http::HeaderValue::as_bytes),
            expected.map(str::as_bytes)
        );
    }
    assert!(by(&["host"]).cookies_of(&HeaderMap::new()).is_none());
}
