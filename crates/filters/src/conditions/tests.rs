//! Conditions and their responses.

use edgeway_core::chain::testkit::{check, refused};

use super::Conditions;

/// Model of a comparison.
type Holds = fn(&str) -> bool;

/// Invariant: the first condition of the list that holds responds, and no other.
#[test]
fn the_first_condition_that_holds_responds() {
    let mut random = fastrand::Rng::with_seed(5);
    let tests: [(&str, Holds); 6] = [
        ("", |value| !value.is_empty() && value != "0"),
        (", is: a", |value| value == "a"),
        (", is: '~^[a-c]'", |value| {
            value.starts_with(['a', 'b', 'c'])
        }),
        (", is: '~*^B'", |value| value.starts_with(['b', 'B'])),
        (", is: ''", str::is_empty),
        (", is: '\\~a'", |value| value == "~a"),
    ];
    let values = ["", "0", "a", "A", "ab", "B", "00", "~a", "zz"];
    for _ in 0..200 {
        let chosen: Vec<(usize, bool)> = (0..random.usize(1..4))
            .map(|_| (random.usize(..tests.len()), random.bool()))
            .collect();
        let list: Vec<String> = chosen
            .iter()
            .enumerate()
            .map(|(index, (test, not))| {
                let status = 400 + index;
                format!(
                    "{{ if: '{{query.v}}'{}, not: {not}, status: {status} }}",
                    tests[*test].0
                )
            })
            .collect();
        let yaml = format!("[{}]", list.join(", "));
        let mut filter = check::<Conditions>(&yaml);
        for value in values {
            filter = filter.get(&format!("/?v={value}"));
            let mut held = chosen.iter();
            let held = held.position(|(test, not)| tests[*test].1(value) != *not);
            let expected = held.map_or(200, |index| 400 + index);
            assert_eq!(
                usize::from(filter.last().status),
                expected,
                "{value} {yaml}"
            );
        }
    }
}

#[test]
fn targets_and_bodies_are_filled_in() {
    let filter = check::<Conditions>(
        "[{ if: '{query.to}', status: 301, to: '/new{query.to}' }, { if: '{query.x}', status: 302, \
         to: '{query.x}' }, { if: '{query.t}', status: 200, body: ok }, \
         { if: '{query.s}', status: 307, to: '/s{status}' }, \
         { if: '{query.b}', status: 404, body: 'no {status}' }]",
    );
    let filter = filter.get("/?to=/a");
    assert_eq!(filter.last().headers["location"], "/new/a");
    let filter = filter.get("/?x=//evil.test/");
    assert_eq!(filter.last().headers["location"], "/evil.test/");
    let filter = filter.get("/?x=x&to=");
    assert_eq!(filter.last().headers["location"], "/x");
    let filter = filter.get("/?t=1");
    assert_eq!(filter.last().body, b"ok");
    let filter = filter.get("/?s=1");
    assert_eq!(filter.last().headers["location"], "/s307");
    let filter = filter.get("/?b=1");
    assert_eq!(filter.last().body, b"no 404");
    filter.expect([301, 302, 302, 200, 307, 404]);
    let filter = check::<Conditions>("[{ if: '{query.go}', status: 302, to: '{query.next}' }]");
    filter.get("/?go=1").expect([500]);
}

#[test]
fn mistakes_are_reported_with_a_remedy() {
    for (yaml, message) in [
        ("[]", "`conditions` has no condition"),
        (
            "[{ if: '{path}', status: 301 }]",
            "status 301 is a redirect without a target",
        ),
        (
            "[{ if: '{path}', status: 301, to: '' }]",
            "status 301 is a redirect without a target",
        ),
        (
            "[{ if: '{user}', is: ann, status: 403 }]",
            "`{user}` is empty here",
        ),
        (
            "[{ if: '{path}', status: 200, body: 'hello {user}' }]",
            "`hello {user}` is empty here",
        ),
        (
            "[{ if: '{path}', status: 302, to: '/of/{user}' }]",
            "`/of/{user}` is empty here",
        ),
        (
            "[{ if: '{path}', status: 200, content_type: text/html, body: '<p style=\"{path}\">' }]",
            "`{path}` is in a tag, a style, `srcdoc`",
        ),
        (
            "[{ if: '{path}', status: 403, to: / }]",
            "status 403 is no redirect, and has a target",
        ),
        (
            "[{ if: '{path}', status: 99 }]",
            "status 99 is no status of a response",
        ),
        (
            "[{ if: '{path}', status: 444, body: x }]",
            "status 444 has no body",
        ),
        (
            "[{ if: '{path}', is: '~(', status: 403 }]",
            "invalid regular expression `(`",
        ),
        ("[{ if: '{map.a}', status: 403 }]", "unknown map `a`"),
    ] {
        let messages = refused::<Conditions>(yaml);
        assert!(messages[0].starts_with(message), "{yaml}: {messages:?}");
    }
}
