//! Bounds on the work of expressions with look-around, and what they match within them.

#![allow(
    clippy::print_stdout,
    reason = "seeds and slowest cases are shown if a test fails"
)]

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::*;

/// Expressions of rules and maps as people write them.
const USUAL: [&str; 10] = [
    r"^/(?!api|_next/static).*",
    r"^(?!.*(?:googlebot|bingbot)).*bot",
    r"(?i)union(?!x).*select",
    r"(?<!\.)example\.(?:com|org)$",
    r"^(?:(?!\.\.).)*$",
    r"^(?=.*[A-Z])(?=.*\d).{8,}$",
    r"^(?<name>[a-z]+)=\k<name>",
    r"foo(?:(?!bar).)*baz",
    r"(?<=token=)[0-9a-f]{32}(?![0-9a-f])",
    r"^/(?<rest>(?!a).*)$",
];

fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(edgeway_testkit::drawn())
}

/// Draws an expression of the letters `a` to `c` with some look-around.
fn expression(random: &mut fastrand::Rng, depth: u8) -> String {
    let part = |random: &mut fastrand::Rng| expression(random, depth.saturating_sub(1));
    match random.u8(..if depth == 0 { 4 } else { 13 }) {
        0 => "a".to_owned(),
        1 => "[ab]".to_owned(),
        2 => ".".to_owned(),
        3 => "bc".to_owned(),
        4 | 5 => part(random) + &part(random),
        6 => format!("(?:{}|{})", part(random), part(random)),
        7 => format!("(?:{})*", part(random)),
        8 => format!("(?:{})+?", part(random)),
        9 => format!("(?={})", part(random)),
        10 => format!("(?!{})", part(random)),
        11 => format!("(?<!{})", ["a", "bc", "[ab]"][random.usize(..3)]),
        _ => format!("({})b?", part(random)),
    }
}

fn text(random: &mut fastrand::Rng, length: usize) -> String {
    let letters = ["a", "ab", "abc", "abcd"][random.usize(..4)].as_bytes();
    let letter = |_| char::from(letters[random.usize(..letters.len())]);
    (0..length).map(letter).collect()
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// Invariant: an evaluation takes a bounded time, on any text.
#[test]
fn no_text_makes_an_expression_work_for_long() {
    let mut random = random();
    let worst = [
        r"(?=.*x)y",
        r"(?:(?=.*x)a)*b",
        r"(a+)+(?!b)c",
        r"(?:a(?=[ab]*c))*d",
        r"(?<=a.*)x",
        r"(\w+) \1x",
        r"(?:(?:a|b)*(?=x)|c)*d",
        r"((a)|(?<!b)\2*)*c",
    ];
    let drawn = (0..120)
        .map(|_| expression(&mut random, 5))
        .collect::<Vec<_>>();
    let all = worst
        .into_iter()
        .chain(USUAL)
        .map(str::to_owned)
        .chain(drawn);
    let (mut decided, mut undecided) = (0, 0);
    let mut slowest = (Duration::ZERO, String::new(), 0);
    for own in all {
        let Ok(bounded) = Expression::parse(&own, false) else {
            continue;
        };
        for length in [200, 1000, 2000, 4000, 8000, 16_000, 32_000] {
            let text = if random.bool() {
                text(&mut random, length)
            } else {
                "a".repeat(length)
            };
            let text = text + ["", "x", "cd", "x b"][random.usize(..4)];
            // Compiled once, for all texts of such a length.
            let _compiled = bounded.regex(&text);
            let before = cpu_time();
            match bounded.groups(&text) {
                Ok(_) => decided += 1,
                Err(Undecided) => undecided += 1,
            }
            let took = cpu_time().saturating_sub(before);
            if took > slowest.0 {
                slowest = (took, own.clone(), length);
            }
        }
    }
    println!("{decided} decided, {undecided} not; the slowest: {slowest:?}");
    assert!(decided > 0 && undecided > 0);
    assert!(slowest.0 < Duration::from_millis(100), "{slowest:?}");
}

/// Invariant: a result that is known is that of the engine without a bound.
#[test]
fn what_is_decided_is_what_the_expression_says() {
    let mut random = random();
    let (mut decided, mut undecided) = (0, 0);
    for _ in 0..3000 {
        let own = expression(&mut random, 4);
        let (Ok(bounded), Ok(free)) = (Expression::parse(&own, false), Regex::new(&own)) else {
            continue;
        };
        for _ in 0..4 {
            let length = random.usize(..40);
            let text = text(&mut random, length);
            let range = |found: Option<fancy_regex::Captures<'_, str>>| {
                found
                    .and_then(|found| found.get(0))
                    .map(|whole| whole.range())
            };
            let (Ok(found), Ok(expected)) = (bounded.groups(&text), free.captures(&*text)) else {
                undecided += 1;
                continue;
            };
            decided += 1;
            let found = found.map(|found| found.0);
            assert_eq!(range(found), range(expected), "{own} {text}");
            assert!(bounded.is_match(&text).is_ok());
        }
    }
    println!("{decided} decided, {undecided} not");
    assert!(decided > 100 * undecided, "{decided} {undecided}");
}

/// Script that says for each pair of an expression and a text whether there is a match.
const NODE: &str = "const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));\
    console.log(JSON.stringify(cases.map(([own, text]) => new RegExp(own).test(text))))";

/// Returns what Node.js says about these expressions and texts.
fn by_node(cases: &[(String, String)]) -> Vec<bool> {
    let mut node = Command::new("node")
        .args(["-e", NODE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = node.stdin.take().unwrap();
    input
        .write_all(&serde_json::to_vec(cases).unwrap())
        .unwrap();
    drop(input);
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Invariant: a result that is known is that of another engine, of Node.js.
#[test]
fn what_is_decided_is_what_node_says() {
    let mut random = random();
    let mut cases = Vec::new();
    for _ in 0..1500 {
        let own = expression(&mut random, 3);
        if Expression::parse(&own, false).is_ok() {
            // Node.js has no bound: a long text would take it for ever.
            let length = random.usize(..14);
            cases.push((own, text(&mut random, length)));
        }
    }
    let expected = by_node(&cases);
    let matched = expected.iter().filter(|matched| **matched).count();
    let mut decided = 0;
    for ((own, text), expected) in cases.iter().zip(&expected) {
        let Ok(found) = Expression::parse(own, false).unwrap().is_match(text) else {
            continue;
        };
        assert_eq!(found, *expected, "{own} {text}");
        decided += 1;
    }
    println!("{decided} of {} decided, {matched} matches", cases.len());
    assert!(decided > 1000 && (100..1400).contains(&matched));
    // The control: another meaning of look-ahead is another result.
    let turned: Vec<_> = cases
        .iter()
        .map(|(own, text)| (own.replace("(?=", "(?!"), text.clone()))
        .collect();
    let differ = by_node(&turned)
        .iter()
        .zip(&expected)
        .filter(|(a, b)| a != b)
        .count();
    assert!(differ > 20, "{differ}");
}

/// The control: what people write is decided for what clients send.
#[test]
fn usual_expressions_are_decided_for_usual_texts() {
    for own in USUAL {
        let bounded = Expression::parse(own, false).unwrap();
        for (piece, longest) in [
            ("/shop/item-17/", 4000),
            ("utm_source=news&utm_id=0&", 8000),
            ("Mozilla/5.0 (X11; Linux x86_64) ", 1000),
            ("a=b; session=0123456789abcdef; ", 30_000),
        ] {
            let text = piece.repeat(longest / piece.len());
            assert!(bounded.is_match(&text).is_ok(), "{own} {piece}");
        }
    }
}

#[test]
fn groups_are_found_with_and_without_look_around() {
    for (own, text, expected) in [
        ("^/a/(?<rest>.*)$", "/a/b", Some("b")),
        ("(?i)^/A/(?<rest>.*)$", "/a/b", Some("b")),
        ("^/(?!a)(?<rest>.*)$", "/b", Some("b")),
        ("^/(?!a)(?<rest>.*)$", "/a", None),
    ] {
        let own = Expression::new(own, false).unwrap();
        let groups = own.groups(text).unwrap();
        let index = own.group("rest").unwrap();
        assert_eq!(groups.as_ref().map(|found| found.get(index)), expected);
        let named = groups.and_then(|found| found.name("rest"));
        assert_eq!(named.map(|group| group.as_str()), expected);
        assert_eq!(own.is_match(text), Ok(expected.is_some()));
        assert_eq!((own.group("1"), own.group("2")), (Some(1), None));
    }
    assert_eq!(Expression::new("(", false).unwrap_err(), "unclosed group");
    // Not that look-around is unknown.
    let large = Expression::new(r"^(?!.*\.\.)[\w .-]{1,255}$", false).unwrap_err();
    assert!(large.starts_with("it is too large"), "{large}");
}
