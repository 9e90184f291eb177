//! Tests of the normal form, by cases and by hostile bytes.

use proptest::prelude::*;

use super::*;

fn path(raw: &str) -> Result<String, InvalidTarget> {
    let normalised = normalise(raw.as_bytes(), Slashes::Merge)?;
    let target = normalised
        .rewritten()
        .unwrap_or_else(|| raw.as_bytes().to_vec());
    Ok(String::from_utf8(target).unwrap())
}

#[test]
fn literal_dot_segments_are_resolved() {
    for (raw, normal) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/..", "/"),
        ("/.", "/"),
        ("/../../x", "/x"),
        ("/_next/static/../../dynamic", "/dynamic"),
        ("/a/../b?x=/../y", "/b?x=/../y"),
    ] {
        assert_eq!(path(raw).as_deref(), Ok(normal), "{raw}");
    }
}

#[test]
fn what_means_the_same_gets_one_form() {
    for (raw, normal) in [
        ("/%69sr", "/isr"),
        ("/%7Eme/%2Dx%5f", "/~me/-x_"),
        ("/a%2fb/%c3%a9", "/a%2Fb/%C3%A9"),
        ("//a///b//", "/a/b/"),
        ("//evil.test/x", "/evil.test/x"),
        ("/a//../b", "/b"),
        ("/%41%2Ejs?%2e//%61", "/A.js?%2e//%61"),
        ("/%25%32%66", "/%252f"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/a/..%2e", "/a/..."),
    ] {
        assert_eq!(path(raw).as_deref(), Ok(normal), "{raw}");
    }
    let normal = normalise(b"//a//../b", Slashes::Keep).unwrap();
    assert_eq!(&*normal.path, b"//a/b");
    let raw = normalise(b"/caf\xe9", Slashes::Merge).unwrap();
    assert_eq!(&*raw.path, b"/caf%E9");
}

#[test]
fn the_rest_stays_byte_for_byte_and_costs_nothing() {
    for raw in [
        "/",
        "/a",
        "/a/b/",
        "/@scope%2Fpackage",
        "/A/%C3%A9",
        "/.well-known/x",
        "/a...b/..c/...",
        "/a/..%20",
        "/%252e%252e/",
        "/a;b=c/;d",
        "/?a=1&b=%2e%2e/../%zz\\",
        "/x?",
        "*",
    ] {
        assert_eq!(path(raw).as_deref(), Ok(raw));
        let normal = normalise(raw.as_bytes(), Slashes::Merge).unwrap();
        assert_eq!(normal.rewritten(), None);
    }
    let normal = normalise(b"/a//b", Slashes::Keep).unwrap();
    assert_eq!(normal.rewritten(), None);
}

#[test]
fn a_path_without_another_spelling_is_recognised() {
    let has = |raw: &str| {
        let normal = normalise(raw.as_bytes(), Slashes::Merge).unwrap();
        normal.has_spellings
    };
    for raw in ["/", "/a/b-c.d?X=%20;/", "/..", "/a/./b", "/@x+y,z", "*"] {
        assert!(!has(raw), "{raw}");
    }
    for raw in [
        "/A", "/a/", "/a;b", "/a%20", "/%61", "//a", "/\u{e9}", "/a/b/..",
    ] {
        assert!(has(raw), "{raw}");
    }
}

#[test]
fn an_ambiguous_target_is_refused() {
    for (raw, why) in [
        ("/%2e%2e/x", InvalidTarget::CodedDots),
        ("/a/.%2E", InvalidTarget::CodedDots),
        ("/a/%2e?x", InvalidTarget::CodedDots),
        ("/a/..%2fb", InvalidTarget::CodedDots),
        ("/a%2F../b", InvalidTarget::CodedDots),
        ("/a%2f%2e%2e", InvalidTarget::CodedDots),
        ("/x/..;/a", InvalidTarget::DotParameters),
        ("/x/.;a=b", InvalidTarget::DotParameters),
        ("/x/..%3B/a", InvalidTarget::DotParameters),
        ("/x/%2e%2e;/a", InvalidTarget::DotParameters),
        ("/a%00", InvalidTarget::Nul),
        ("/a%5cb", InvalidTarget::Backslash),
        ("/a%5Cb", InvalidTarget::Backslash),
        ("/a\\b", InvalidTarget::Backslash),
        ("/%zz", InvalidTarget::Percent),
        ("/a%4", InvalidTarget::Percent),
        ("/a%", InvalidTarget::Percent),
        ("/a b", InvalidTarget::Byte),
        ("/a\tb", InvalidTarget::Byte),
        ("/a\u{7f}", InvalidTarget::Byte),
        ("/a#b", InvalidTarget::Byte),
        ("/a?b#c", InvalidTarget::Byte),
        ("/a?b\r\nc", InvalidTarget::Byte),
        ("", InvalidTarget::Form),
        ("a/b", InvalidTarget::Form),
        ("?x", InvalidTarget::Form),
        ("ftp://x/", InvalidTarget::Form),
        ("http:///x", InvalidTarget::Form),
        ("http://host\\x/", InvalidTarget::Form),
        ("example.com:443", InvalidTarget::Form),
    ] {
        assert_eq!(path(raw), Err(why), "{raw:?}");
    }
}

#[test]
fn absolute_targets_give_path_and_authority() {
    for (raw, authority, normal) in [
        ("http://a.test/x?y", "a.test", "/x?y"),
        ("HTTPS://A.test:81", "A.test:81", "/"),
        ("http://a.test?y", "a.test", "/?y"),
        ("http://a.test/b/../c", "a.test", "/c"),
    ] {
        let normalised = normalise(raw.as_bytes(), Slashes::Merge).unwrap();
        assert_eq!(normalised.authority, Some(authority.as_bytes()));
        assert_eq!(normalised.rewritten().unwrap(), normal.as_bytes());
    }
}

/// Generates byte sequences that cause trouble more often than random bytes would.
fn troublesome() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"/".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b"%2e".to_vec()),
        Just(b"%2E".to_vec()),
        Just(b"%2f".to_vec()),
        Just(b"%2".to_vec()),
        Just(b"//".to_vec()),
        Just(b"%61".to_vec()),
        Just(b";".to_vec()),
        Just(b"%".to_vec()),
        Just(b"?".to_vec()),
        Just(b"a".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..3),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| {
        let mut raw = b"/".to_vec();
        raw.extend(pieces.concat());
        raw
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _unused = normalise(&raw, Slashes::Merge).is_ok();
    }

    #[test]
    fn the_normal_form_is_stable_and_has_no_dot_segment(
        raw in troublesome(),
        slashes in prop_oneof![Just(Slashes::Merge), Just(Slashes::Keep)],
    ) {
        if let Ok(normalised) = normalise(&raw, slashes) {
            let target = normalised.rewritten().unwrap_or_else(|| raw.clone());
            let again = normalise(&target, slashes).unwrap();
            prop_assert_eq!(again.rewritten(), None);
            prop_assert_eq!(&again.path, &normalised.path);
            prop_assert_eq!(again.query, normalised.query);
            prop_assert!(again.path.is_ascii());
            let has_two = again.path.windows(2).any(|two| two == b"//");
            prop_assert!(slashes == Slashes::Keep || !has_two);
            let decoded = decode(&again.path);
            prop_assert!(decoded.split(|&b| b == b'/').all(|s| s != b"." && s != b".."));
            prop_assert_eq!(again.path.first(), Some(&b'/'));
        }
    }
}

/// Decodes a path like a backend that decodes before it splits.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        match encoded_byte(path, at) {
            Some(byte) if path[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}
