//! Tests of valid texts, invalid ones, and the problems reported for them.

use std::{collections::BTreeMap, fmt::Write as _};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, de::DeserializeOwned};

use super::*;
use crate::{
    base::units::{ByteSize, Span},
    tree::{Spanned, parse},
};

/// Reads `T` from a text, or returns each problem as `<covered>: message; help`.
fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, Vec<String>> {
    let mut diagnostics = Diagnostics::default();
    let node = parse(text, 0, &mut diagnostics).expect("it is YAML");
    let value = read(&node, &mut diagnostics);
    value.ok_or_else(|| {
        diagnostics
            .list()
            .iter()
            .map(|d| {
                let covered = &text[d.place.start as usize..d.place.end as usize];
                let help = d.help.as_deref().unwrap_or_default();
                format!("<{covered}>: {}; {help}", d.message)
            })
            .collect()
    })
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shop {
    name: Spanned<String>,
    port: u16,
    #[serde(default)]
    open: Option<bool>,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    size: Option<Spanned<ByteSize>>,
    #[serde(default)]
    wait: Option<Span>,
    #[serde(default)]
    shelves: Vec<Spanned<Shelf>>,
    #[serde(default)]
    notes: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    raw: Option<Node>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Shelf {
    label: String,
    #[serde(default)]
    weight: f64,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Corner,
    SuperMarket,
    #[serde(rename = "502")]
    Broken,
    Custom(u8),
    Nested {
        depth: u8,
    },
}

#[test]
fn a_right_text_is_read_with_its_places() {
    let text = "name: ö\nport: 80\nkind: super_market\nsize: 8KiB\nwait: 5s\n\
                shelves: [{ label: a, weight: 2 }]\nnotes: { x: y }\nraw: [1, { k: v }]\n";
    let shop: Shop = read_text(text).unwrap();
    let at = |place: crate::diagnostic::Place| &text[place.start as usize..place.end as usize];
    assert_eq!(at(shop.name.place), "ö");
    assert_eq!(shop.size.as_ref().unwrap().value, ByteSize(8192));
    assert_eq!(at(shop.size.as_ref().unwrap().place), "8KiB");
    assert_eq!(at(shop.shelves[0].place), "{ label: a, weight: 2 }");
    assert_eq!(at(shop.notes["x"].place), "y");
    let raw = shop.raw.unwrap();
    assert_eq!(at(raw.place), "[1, { k: v }]");
    let Value::List(items) = &raw.value else {
        panic!("{raw:?}")
    };
    assert_eq!(at(items[1].entries()[0].0.place), "k");
    assert_eq!((shop.kind, shop.open), (Kind::SuperMarket, None));
}

#[test]
fn every_problem_is_found_at_once() {
    let text = "nmae: x\nport: \"80\"\nopen: maybe\nkind: super_markt\nsize: 8 MBit\nshelves:\n  \
                - label: 7\n  - weight: 1\n  - { label: ok, wieght: 2 }\n  - 3\n  - web:80\nnotes: [a]\nwait: 5\n";
    assert_eq!(
        read_text::<Shop>(text).unwrap_err(),
        [
            "<nmae>: unknown key `nmae`; did you mean `name`?",
            "<\"80\">: expected a whole number from 0 to 65535, found the text `80`; remove the quotes: `80`",
            "<maybe>: expected `true` or `false`, found the text `maybe`; ",
            "<super_markt>: unknown value `super_markt`; did you mean `super_market`? Allowed are `corner`, `super_market`, `502`, `custom`, `nested`",
            "<8 MBit>: invalid size `8 MBit`: unknown unit `MBit`; use B, kB, KiB, MB, MiB, GB or GiB",
            "<7>: expected text, found the number 7; put quotes round it: `\"7\"`",
            "<weight: 1>: `label` is missing here; add `label: …`",
            "<wieght>: unknown key `wieght`; did you mean `weight`?",
            "<3>: expected a mapping, found the number 3; ",
            "<web:80>: expected a mapping, found the text `web:80`; write `{ backends: [web:80] }` if this is an upstream",
            "<[a]>: expected a mapping, found a list; ",
            "<5>: invalid duration `5`: the unit is missing; write `5s` or `5ms`",
        ]
    );
}

/// Invariant: the time for unknown keys grows with their number, not with its square.
#[test]
fn a_mapping_with_very_many_unknown_keys_is_read_in_a_moment() {
    let cpu_time = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    let time_for = |count: u32| {
        let mut text = "name: x\nport: 80\n".to_owned();
        for number in 0..count {
            writeln!(text, "k{number}: 1").unwrap();
        }
        let began = cpu_time();
        let problems = read_text::<Shop>(&text).unwrap_err();
        assert_eq!(problems.len(), 1000);
        cpu_time() - began
    };
    let [few, many] = [1500, 6000].map(time_for);
    // Four times as many.
    assert!(many < 8 * few, "{few} ns and {many} ns");
}

#[test]
fn a_missing_key_is_reported_once_and_not_as_a_consequence() {
    assert_eq!(
        read_text::<Shop>("port: 80").unwrap_err(),
        ["<port: 80>: `name` is missing here; add `name: …`"]
    );
    assert_eq!(
        read_text::<Shop>("{}").unwrap_err(),
        ["<{}>: `name` is missing in this empty mapping; add `name: …`"]
    );
    assert_eq!(
        read_text::<Shop>("{ name: [x], port: 80 }").unwrap_err(),
        ["<[x]>: expected text, found a list; write a single value, not a list"]
    );
    assert_eq!(
        read_text::<Shop>("{ name: x, port:80 }").unwrap_err()[0],
        "<port:80>: unknown key `port:80`; write a space after the colon: `port: 80`"
    );
    assert_eq!(
        read_text::<(u8, u8)>("[1, x]").unwrap_err(),
        ["<x>: expected a whole number from 0 to 255, found the text `x`; "]
    );
}

#[test]
fn types_are_never_bent() {
    for (text, expected) in [
        (
            "'1'",
            "<'1'>: expected a whole number from 0 to 65535, found the text `1`; remove the quotes: `1`",
        ),
        (
            "70000",
            "<70000>: expected a whole number from 0 to 65535, found the number 70000; ",
        ),
        (
            "-1",
            "<-1>: expected a whole number from 0 to 65535, found the number -1; ",
        ),
        (
            "1.5",
            "<1.5>: expected a whole number from 0 to 65535, found the number 1.5; ",
        ),
        (
            "true",
            "<true>: expected a whole number from 0 to 65535, found `true`; ",
        ),
    ] {
        assert_eq!(read_text::<u16>(text).unwrap_err(), [expected]);
    }
    for (text, expected) in [
        (
            "1.10",
            "<1.10>: expected text, found the number 1.1; put quotes round it to make it text",
        ),
        (
            "null",
            "<null>: expected text, found nothing; write a value, or remove the key",
        ),
        ("{ a: 1 }", "<{ a: 1 }>: expected text, found a mapping; "),
    ] {
        assert_eq!(read_text::<String>(text).unwrap_err(), [expected]);
    }
    assert_eq!(
        read_text::<bool>("yes").unwrap_err(),
        ["<yes>: expected `true` or `false`, found the text `yes`; write `true`"]
    );
    assert_eq!(read_text::<f64>("3"), Ok(3.0));
    assert_eq!(read_text::<ByteSize>("1024"), Ok(ByteSize(1024)));
    assert_eq!(read_text::<Option<String>>("~"), Ok(None));
    assert_eq!(read_text::<Span>("[1]").unwrap_err().len(), 1);
}

#[test]
fn words_of_an_enum_may_look_like_numbers_and_may_hold_something() {
    assert_eq!(read_text("502"), Ok(Kind::Broken));
    assert_eq!(read_text("custom: 7"), Ok(Kind::Custom(7)));
    assert_eq!(
        read_text("nested: { depth: 2 }"),
        Ok(Kind::Nested { depth: 2 })
    );
    for (text, expected) in [
        (
            "503",
            "<503>: unknown value `503`; did you mean `502`? Allowed are `corner`, `super_market`, `502`, `custom`, `nested`",
        ),
        (
            "zzzzzzzzzz",
            "<zzzzzzzzzz>: unknown value `zzzzzzzzzz`; allowed are `corner`, `super_market`, `502`, `custom`, `nested`",
        ),
        (
            "custom: x",
            "<x>: expected a whole number from 0 to 255, found the text `x`; ",
        ),
        (
            "custum: 1",
            "<custum>: unknown key `custum`; did you mean `custom`?",
        ),
        ("custom", "<custom>: this word needs a value; "),
        (
            "corner: 1",
            "<corner: 1>: this word takes no value; write it alone",
        ),
        (
            "nested: { dept: 2 }",
            "<dept>: unknown key `dept`; did you mean `depth`?",
        ),
    ] {
        assert_eq!(read_text::<Kind>(text).unwrap_err(), [expected], "{text}");
    }
}

#[test]
fn an_error_of_a_type_of_ours_may_bring_its_help() {
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u8")]
    struct Even;
    impl TryFrom<u8> for Even {
        type Error = &'static str;
        fn try_from(n: u8) -> Result<Self, &'static str> {
            if n.is_multiple_of(2) {
                Ok(Self)
            } else {
                Err("odd\nhelp: add one")
            }
        }
    }
    assert_eq!(
        read_text::<Vec<Even>>("[1, 2, 3]").unwrap_err(),
        ["<1>: odd; add one", "<3>: odd; add one"]
    );
    assert!(read_text::<Even>("4").is_ok());
}

#[test]
fn more_mistakes_than_rounds_still_end() {
    let text = format!("[{}]", vec!["x"; 300].join(", "));
    let problems = read_text::<Vec<u8>>(&text).unwrap_err();
    assert_eq!(problems.len(), MAX_ROUNDS);
}
