//! What a route's requests are found by, and who they are from.

use http::HeaderMap;

use super::*;
use crate::{
    base::clock::Clock,
    cache::key::Key,
    chain::{Facts, KeyBuilder},
};

fn policy(key: KeyRules, anonymous: &[&str]) -> Policy {
    Policy {
        mode: Mode::App,
        pages: PageCache::Anonymous,
        plain: Rules::default(),
        nextjs: Rules::default(),
        key,
        bypass: Box::default(),
        anonymous_cookies: None,
        anonymous: Names::new(anonymous.iter().copied()),
        max_object: 1 << 20,
        tags: Box::default(),
        purge_on_write: false,
        browser_ttl: None,
        obeys_clients: true,
        wait: Duration::from_secs(5),
        quota: None,
    }
}

fn by(items: &[&str]) -> KeyRules {
    KeyRules {
        query: Query::All,
        by: items.iter().map(|item| item.parse().unwrap()).collect(),
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn key(rules: &KeyRules, target: &str, lines: &[(&'static str, &str)]) -> Key {
    let mut head = pingora::http::RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    head.insert_header("host", "Shop.example.com").unwrap();
    for (name, value) in lines {
        head.append_header(*name, *value).unwrap();
    }
    let mut facts = Facts::new(Clock::test().now());
    let ex = Exchange {
        head: &head,
        facts: &mut facts,
    };
    rules.key(&ex, KeyBuilder::default())
}

#[test]
fn the_query_counts_as_sent_unless_the_route_says_otherwise() {
    let all = KeyRules::default();
    assert_eq!(
        key(&all, "/a?b=1&a=2", &[]).url(),
        "http://shop.example.com/a?b=1&a=2"
    );
    let without = KeyRules {
        query: Query::Without(Names::new(["utm_*", "fbclid"])),
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
        query: Query::Only(Names::new(["page"])),
        ..KeyRules::default()
    };
    assert_eq!(
        key(&only, "/a?x=1&page=2", &[]).query(),
        Some(&b"page=2"[..])
    );
}

#[test]
fn parts_of_the_request_tell_answers_apart() {
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

#[test]
fn who_asks_is_known_by_cookies_and_tokens() {
    let plain = policy(KeyRules::default(), &["_ga*", "theme"]);
    assert_eq!(plain.personal(&headers(&[])), Personal::No);
    assert_eq!(
        plain.personal(&headers(&[("cookie", "_ga_1=x; theme=dark")])),
        Personal::No
    );
    assert_eq!(
        plain.personal(&headers(&[("cookie", "theme=dark; session=1")])),
        Personal::Cookies
    );
    assert_eq!(
        plain.personal(&headers(&[("authorization", "Bearer x")])),
        Personal::Authorization
    );
    let everybody = policy(KeyRules::default(), &["*"]);
    assert_eq!(
        everybody.personal(&headers(&[("cookie", "session=1")])),
        Personal::No
    );
    let by_language = policy(by(&["cookie:lang"]), &[]);
    assert_eq!(
        by_language.personal(&headers(&[("cookie", "lang=de")])),
        Personal::No
    );
    let by_user = policy(by(&["jwt.sub"]), &[]);
    assert_eq!(
        by_user.personal(&headers(&[("authorization", "x"), ("cookie", "s=1")])),
        Personal::No
    );
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
