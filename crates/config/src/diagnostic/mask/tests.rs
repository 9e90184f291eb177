//! Tests of what is a secret in a text.

use super::*;

#[track_caller]
fn check(text: &str, shown: &str) {
    let found = FoundSecret::in_text(text);
    let spans = [found.spans, found.opaque].concat();
    assert_eq!(stars(text, &spans), shown, "{text}");
}

#[test]
fn secrets_are_hidden_wherever_they_stand() {
    for (text, shown) in [
        ("token: hunter2 # why", "token: ******* # why"),
        ("a: { token: hunter2, b: c }", "a: { token: *******, b: c }"),
        ("password: 'it''s'", "password: *******"),
        ("\"password\":\"a\\\"b\"", "\"password\":******"),
        ("password: |\n  a\n  b\nc: d", "password: |\n***\n***\nc: d"),
        ("password:\n  abc\nc: d", "password:\n  ***\nc: d"),
        ("users:\n  ann: x y\nc: d", "users:\n  ann: ***\nc: d"),
        (
            "users: { ann: abc, bob: d }\nc: d",
            "users: { ann:****, bob:***}\nc: d",
        ),
        (
            "tracing:\n  headers:\n    x: abc\n  slow: 1s\nheaders: { a: b }",
            "tracing:\n  headers:\n    x: ***\n  slow: 1s\nheaders: { a: b }",
        ),
        (
            "tracing: { headers: { x: abc }, slow: 1s }",
            "tracing: { headers: { x:*****}, slow: 1s }",
        ),
        ("passwrd: hunter2", "passwrd: *******"),
        ("url: redis://u:a@b@h/1", "url: redis://u:***@h/1"),
        ("X-A: Bearer abcdefgh", "X-A: Bearer ********"),
        ("# token: hunter2", "# token: *******"),
        ("key: ${A:-dflt}", "key: **********"),
        ("- { key: abc }\n- { b: c }", "- { key: *** }\n- { b: c }"),
        ("keys: [abc, file:x]", "keys: [***, file:x]"),
        ("token: \"abc\nd: e", "token: ****\n****"),
        (
            "tls: { key: a }\napi_key:\n  key: abcdef",
            "tls: { key: a }\napi_key:\n  key: ******",
        ),
    ] {
        check(text, shown);
    }
}

#[test]
fn values_of_plugins_are_hidden_and_their_keys_are_not() {
    for (text, shown) in [
        (
            "plugins:\n- file: a.js\n  config:\n    salt: abc # d\n    list:\n    - e\n  name: f",
            "plugins:\n- file: a.js\n  config:\n    salt: *******\n    list:\n    - *\n  name: f",
        ),
        (
            "plugins: [{ file: a.js, config: { salt: abc, b: [c, d] }, name: f }]",
            "plugins: [{ file: a.js, config: { salt: ***, b: [****] }, name: f }]",
        ),
        (
            "  plugins:\n    - config: { salt: 'abc',\n        b: |\n",
            "  plugins:\n    - config: { salt: '***',\n        b: |\n",
        ),
        (
            "plugin:\n- confg: { salt: abc\nroutes: []",
            "plugin:\n- confg: { salt: ***\nroutes: []",
        ),
        (
            "plugins: [{ config: { a: '${B}', c: true } }]",
            "plugins: [{ config: { a: '${B}', c: true } }]",
        ),
        ("config: { salt: abc }", "config: { salt: abc }"),
    ] {
        check(text, shown);
    }
}

#[test]
fn what_is_no_secret_stays() {
    for text in [
        "key: client.ip",
        "key: [header:X-A, client.ip+route]",
        "token: header:Authorization",
        "key: tls/site.key",
        "key: client.ipp",
        "rate_limits:\n  a:\n    key: by my plan\n    rate: 10/s",
        "rate_limit: { key: plan, limit: a }",
        "tls: { certificates: [{ cert: a, key: /etc/live/privkey }] }",
        "- tls:\n    certificates:\n    - cert: a\n      key: /etc/live/privkey",
        "key: header.x-user",
        "token: file:token",
        "token: ${TOKEN}",
        "api_key: { file: a.keys }",
        "forward_auth: http://127.0.0.1:9000/verify",
        "keys: { a: b }",
        "in_flight: { max: 10, per_key: 4 }",
        "path: /token/*",
        "basic_auth: { realm: Staff }",
    ] {
        check(text, text);
    }
}

#[test]
fn messages_lose_what_excerpts_hide() {
    let sources = Sources {
        files: vec![(
            "a.yaml".into(),
            "token: 0x10000\npassword: ${P}\nusers:\n  ann: 725111 # why\nsecret: short\n"
                .to_owned(),
        )],
        expanded: vec![(
            Place {
                file: 0,
                start: 25,
                end: 29,
            },
            "hunter2".to_owned(),
        )],
        ..Sources::default()
    };
    let mask = Mask::for_sources(&sources, &[]);
    assert_eq!(mask.text("found 65536"), "found [redacted]");
    assert_eq!(mask.text("found `hunter2`"), "found `[redacted]`");
    assert_eq!(mask.text("found 725111"), "found [redacted]");
    assert_eq!(mask.text("found `other`"), "found `other`");
    let reason = "the secret has 5 bytes: one shorter than 32 can be guessed";
    assert_eq!(mask.text(reason), reason);
    let shown = "found `[redacted]`, [redacted] [redacted]1 /[redacted]: no Shorts, shorty";
    assert_eq!(
        mask.text("found `short`, short short1 /short: no Shorts, shorty"),
        shown
    );
    let example = "add `127.0.0.1:65536`";
    assert_eq!(mask.text(example), example);
    assert_eq!(mask.text("127.0.0.1:1 65536"), "127.0.0.1:1 [redacted]");
}

#[test]
fn secrets_that_overlap_are_hidden_wherever_they_occur() {
    let text = "# seen: abcdefghijkl\ntoken: abcdefgh\npassword: efghijkl\n";
    let secrets = ["abcdefgh", "efghijkl"];
    let shown = "# seen: ************\ntoken: ********\npassword: ********\n";
    assert_eq!(stars(text, &occurrences(text, &secrets)), shown);
}
