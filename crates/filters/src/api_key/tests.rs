//! Keys that pass, their rates, and the headers sent to the backend.

use edgeway_base::credential::ApiKeyHash;
use edgeway_core::chain::testkit::{FilterCheck, check, refused};

use super::ApiKey;

const KEY: &str = "ek_partner-partner-partner";

fn hash(key: &str) -> String {
    ApiKeyHash::from_key(key.as_bytes()).to_string()
}

fn known(rest: &str) -> FilterCheck {
    let hash = hash(KEY);
    check::<ApiKey>(&format!(
        "{{ keys: [{{ name: partner, hash: '{hash}' }}], {rest} }}"
    ))
}

#[track_caller]
fn status(check: FilterCheck, headers: &[(&str, &str)]) -> u16 {
    check.send("GET", "/", headers, &[]).last().status
}

#[test]
fn a_known_key_passes_and_no_other() {
    for (headers, expected) in [
        (&[("X-API-Key", KEY)][..], 200),
        (&[("X-API-Key", " ek_partner-partner-partner ")], 200),
        (&[], 401),
        (&[("X-API-Key", "")], 401),
        (&[("X-API-Key", "ek_partner-partner-partneR")], 401),
        (&[("X-API-Key", KEY), ("X-API-Key", KEY)], 401),
        (
            &[("Authorization", "Bearer ek_partner-partner-partner")],
            401,
        ),
    ] {
        assert_eq!(status(known(""), headers), expected, "{headers:?}");
    }
    let long = "k".repeat(600);
    assert_eq!(status(known(""), &[("X-API-Key", &long)]), 401);
    // The hash is not the key.
    assert_eq!(status(known(""), &[("X-API-Key", &hash(KEY))]), 401);
}

#[test]
fn a_key_may_stand_behind_bearer() {
    for (value, expected) in [
        ("Bearer ek_partner-partner-partner", 200),
        ("bearer  ek_partner-partner-partner", 200),
        ("ek_partner-partner-partner", 401),
        ("Basic ek_partner-partner-partner", 401),
        ("Bearer ", 401),
        ("Bear", 401),
    ] {
        let bearer = known("header: Authorization");
        assert_eq!(
            status(bearer, &[("Authorization", value)]),
            expected,
            "{value}"
        );
    }
}

#[test]
fn a_refusal_names_the_scheme_and_the_reason() {
    let check = known("").get("/");
    assert_eq!(check.last().reason, Some("api_key_missing"));
    let challenge = check.last().headers.get("www-authenticate").unwrap();
    assert_eq!(challenge, "ApiKey header=\"x-api-key\"");
    let wrong = known("").send("GET", "/", &[("X-API-Key", "wrong")], &[]);
    assert_eq!(wrong.last().reason, Some("api_key_invalid"));
}

#[test]
fn where_it_is_optional_none_is_fine_and_a_wrong_one_is_not() {
    let optional = || known("optional: true");
    assert_eq!(status(optional(), &[]), 200);
    assert_eq!(status(optional(), &[("X-API-Key", KEY)]), 200);
    assert_eq!(status(optional(), &[("X-API-Key", "wrong")]), 401);
}

#[test]
fn the_backend_gets_the_name_and_never_the_clients_word() {
    let named = known("forward: X-Partner").send(
        "GET",
        "/",
        &[("X-API-Key", KEY), ("X-Partner", "root")],
        &[],
    );
    let upstream = named.last().upstream.as_ref().unwrap();
    assert_eq!(upstream.headers.get("x-partner").unwrap(), "partner");
    assert!(upstream.headers.get("x-api-key").is_none());

    let nobody = known("forward: X-Partner, optional: true, strip: false").send(
        "GET",
        "/",
        &[("X-Partner", "root")],
        &[],
    );
    let upstream = nobody.last().upstream.as_ref().unwrap();
    assert!(upstream.headers.get("x-partner").is_none());

    let passed = known("strip: false").send("GET", "/", &[("X-API-Key", KEY)], &[]);
    let upstream = passed.last().upstream.as_ref().unwrap();
    assert_eq!(upstream.headers.get("x-api-key").unwrap(), KEY);
}

#[test]
fn each_key_has_a_rate_of_its_own() {
    let yaml = format!(
        "{{ keys: [{{ name: slow, hash: '{}', rate: 2/min }}, {{ name: fast, hash: '{}' }}, \
         {{ name: once, hash: '{}', rate: 60/min, burst: 1 }}] }}",
        hash("slow-slow-slow-slow-slow"),
        hash("fast-fast-fast-fast-fast"),
        hash("once-once-once-once-once"),
    );
    let slow = &[("X-API-Key", "slow-slow-slow-slow-slow")][..];
    let fast = &[("X-API-Key", "fast-fast-fast-fast-fast")][..];
    let once = &[("X-API-Key", "once-once-once-once-once")][..];
    let check = check::<ApiKey>(&yaml)
        .send("GET", "/", slow, &[])
        .send("GET", "/", slow, &[])
        .send("GET", "/", slow, &[]);
    assert_eq!(check.last().reason, Some("api_key_rate"));
    assert_eq!(check.last().headers.get("retry-after").unwrap(), "30");
    let check = check
        .send("GET", "/", fast, &[])
        .send("GET", "/", fast, &[])
        .send("GET", "/", fast, &[])
        .send("GET", "/", once, &[])
        .send("GET", "/", once, &[])
        .expect([200, 200, 429, 200, 200, 200, 200, 429]);
    check
        .advance("30s")
        .send("GET", "/", slow, &[])
        .send("GET", "/", slow, &[])
        .send("GET", "/", once, &[])
        .expect([200, 429, 200]);
}

#[test]
fn keys_may_be_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "# name hash rate\n\npartner {}\nshop {} 1/min   # the old shop\n",
        hash(KEY),
        hash("shop-shop-shop-shop-shop")
    );
    std::fs::write(file.path(), text).unwrap();
    let yaml = format!("{{ file: '{}' }}", file.path().display());
    let shop = &[("X-API-Key", "shop-shop-shop-shop-shop")][..];
    check::<ApiKey>(&yaml)
        .send("GET", "/", &[("X-API-Key", KEY)], &[])
        .send("GET", "/", shop, &[])
        .send("GET", "/", shop, &[])
        .expect([200, 200, 429]);
}

#[test]
fn invalid_keys_are_reported_with_a_remedy() {
    let hash = hash(KEY);
    for (yaml, expected) in [
        ("{}".to_owned(), "has no keys"),
        (
            "{ keys: [{ name: a, hash: ek_clear }] }".to_owned(),
            "the key `a`: invalid API key hash",
        ),
        (
            format!("{{ keys: [{{ name: '', hash: '{hash}' }}] }}"),
            "invalid key name",
        ),
        (
            format!("{{ keys: [{{ name: a, hash: '{hash}' }}, {{ name: b, hash: '{hash}' }}] }}"),
            "duplicate hash, already used by `b`",
        ),
        (
            format!("{{ keys: [{{ name: a, hash: '{hash}', burst: 3 }}] }}"),
            "has a `burst` and no `rate`",
        ),
        (
            format!("{{ keys: [{{ name: a, hash: '{hash}', rate: 1/s, burst: 0 }}] }}"),
            "could never be used",
        ),
        (
            format!("{{ header: 'X Key', keys: [{{ name: a, hash: '{hash}' }}] }}"),
            "invalid header name `X Key`",
        ),
        (
            format!("{{ header: Content-Length, keys: [{{ name: a, hash: '{hash}' }}] }}"),
            "reserved header name `Content-Length`",
        ),
        ("{ file: nowhere.keys }".to_owned(), "cannot read the keys"),
    ] {
        let messages = refused::<ApiKey>(&yaml);
        assert!(messages[0].contains(expected), "{yaml}: {messages:?}");
        assert!(!messages[0].contains("ek_clear"), "{messages:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("a {hash} often\nonlyname\n")).unwrap();
    let messages = refused::<ApiKey>(&format!("{{ file: '{}' }}", file.path().display()));
    assert!(messages[0].contains("line 1 of"), "{messages:?}");
    assert!(messages[1].contains("line 2 of"), "{messages:?}");
}
