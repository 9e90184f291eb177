//! Tests of parsing texts into nodes.

use proptest::prelude::*;

use super::*;
use crate::diagnostic::Diagnostics;

fn tree(text: &str) -> Node {
    let mut diagnostics = Diagnostics::default();
    let node = parse(text, 0, &mut diagnostics).expect("it is YAML");
    assert_eq!(diagnostics.list(), [], "{text}");
    node
}

/// Returns each problem as `<covered>: message; help`.
fn problems(text: &str) -> Vec<String> {
    let mut diagnostics = Diagnostics::default();
    let _unused = parse(text, 0, &mut diagnostics);
    diagnostics
        .list()
        .iter()
        .map(|d| {
            let help = d.help.as_deref().unwrap_or_default();
            format!("<{}>: {}; {help}", slice(text, d.place), d.message)
        })
        .collect()
}

fn slice(text: &str, place: Place) -> &str {
    &text[place.start as usize..place.end as usize]
}

#[test]
fn what_stands_for_a_secret_is_read_as_none() {
    for text in [
        "a: '[redacted]'",
        "a: Bearer [redacted]",
        "a: [\"redis://u:[redacted]@h/1\"]",
    ] {
        let messages = problems(text).join("\n");
        let wanted = "this is what `check --print` shows instead of a secret; write `file:PATH` or `${NAME}`";
        assert!(messages.contains(wanted), "{text}: {messages}");
    }
}

#[test]
fn places_are_byte_offsets_also_after_other_scripts() {
    for text in [
        "a: ü\nkey: [x, 'süß', \"q\"] # é\nb: 7\nlast: { m: 𝄞, n: 1 }\n",
        "\u{feff}a: ü\r\nkey: [x, 'süß', \"q\"] # é\r\nb: 7\r\nlast: { m: 𝄞, n: 1 }\r\n",
    ] {
        let root = tree(text);
        let covered = |node: &Node| slice(text, node.place).to_owned();
        assert_eq!(covered(root.get("a").unwrap()), "ü", "{text:?}");
        let list = root.get("key").unwrap();
        assert_eq!(covered(list), "[x, 'süß', \"q\"]");
        let Value::List(items) = &list.value else {
            panic!("{list:?}")
        };
        assert_eq!(
            items.iter().map(covered).collect::<Vec<_>>(),
            ["x", "'süß'", "\"q\""]
        );
        assert_eq!(covered(root.get("b").unwrap()), "7");
        let last = root.get("last").unwrap();
        assert_eq!(covered(last), "{ m: 𝄞, n: 1 }");
        assert_eq!(covered(last.get("m").unwrap()), "𝄞");
        let keys: Vec<_> = last
            .entries()
            .iter()
            .map(|(k, _)| slice(text, k.place))
            .collect();
        assert_eq!(keys, ["m", "n"]);
    }
}

#[test]
fn block_collections_reach_from_the_first_key_to_the_last_value() {
    let text = "a:\n  b: 1\n  c:\n    - x\n    - y: \"2\" # two\n\n# more\nd:\n";
    let root = tree(text);
    assert_eq!(
        slice(text, root.get("a").unwrap().place),
        "b: 1\n  c:\n    - x\n    - y: \"2\""
    );
    assert_eq!(
        slice(text, root.get("a").unwrap().get("c").unwrap().place),
        "- x\n    - y: \"2\""
    );
    assert_eq!(slice(text, root.get("d").unwrap().place), "d");
    assert_eq!(root.get("d").unwrap().value, Value::Null);
}

#[test]
fn quotes_make_text() {
    let root = tree("a: 80\nb: '80'\nc: \"true\"\nd: |\n  80\ne: >-\n  80\n");
    assert_eq!(root.get("a").unwrap().value, Value::Integer(80));
    for (key, text) in [("b", "80"), ("c", "true"), ("d", "80\n"), ("e", "80")] {
        assert_eq!(root.get(key).unwrap().value, Value::Text(text.to_owned()));
    }
}

#[test]
fn a_quoted_scalar_ends_with_its_quote() {
    for written in [
        r#""a\"b""#,
        "'it''s'",
        "''",
        r#""""#,
        r#""\\""#,
        "\"two\n  lines\"",
    ] {
        let text = format!("k: {written} # 'c' \"d\"\nl: 1\n");
        assert_eq!(slice(&text, tree(&text).get("k").unwrap().place), written);
    }
}

#[test]
fn equal_values_have_equal_digests_and_others_differ() {
    let texts = [
        "{ a: 1, b: [x, true] }",
        "b: [x, true]\na: 1\n",
        "{ a: 1, b: [true, x] }",
        "{ a: 1, b: [x, 'true'] }",
        "{ a: 1.0, b: [x, true] }",
        "{ a: b, b: a }",
        "{ a: a, b: b }",
        "{ a: { b: 1 } }",
        "{ a: [[], 1] }",
        "{ a: [[1]] }",
        "{ a: { } }",
        "{ a: [] }",
        "{ a: '' }",
        "{ a: }",
    ];
    for (one, two) in texts.iter().flat_map(|one| texts.map(|two| (*one, two))) {
        let (one, two) = (tree(one), tree(two));
        let same = one.value_digest() == two.value_digest();
        assert_eq!(same, one.has_same_value(&two), "{one:?} {two:?}");
    }
}

#[test]
fn an_empty_file_is_nothing() {
    for text in ["", "\n", "# only a comment\n", "---\n", "---\n...\n"] {
        assert_eq!(tree(text).value, Value::Null, "{text:?}");
    }
}

#[test]
fn aliases_are_copies() {
    let text = "a: &x { k: [1] } # one\nb: *x\nc: [*x, *x]\n";
    let root = tree(text);
    assert!(slice(text, root.get("a").unwrap().place).ends_with("{ k: [1] }"));
    assert_eq!(root.get("a"), root.get("b"));
    let Value::List(items) = &root.get("c").unwrap().value else {
        panic!("{root:?}")
    };
    assert_eq!(Some(&items[1]), root.get("a"));
}

#[test]
fn a_billion_laughs_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let item = format!("*a{}", n - 1);
        let items = [item.as_str(); 10].join(", ");
        text.extend([
            "a",
            &n.to_string(),
            ": &a",
            &n.to_string(),
            " [",
            &items,
            "]\n",
        ]);
    }
    assert_eq!(
        problems(&text),
        ["<*a4>: aliases grow beyond 200000 values here; use fewer aliases"]
    );
    // What a file has itself is bounded by its length.
    assert_eq!(problems(&"- x\n".repeat(200_001)), [""; 0]);
}

#[test]
fn depth_is_bounded_with_and_without_aliases() {
    // The parser has a limit of its own.
    for depth in [70, 300] {
        let deep = format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        let found = problems(&deep);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("nested more than 64 deep"), "{found:?}");
    }
    let half = format!(
        "a: &a {}{}\nb: {}*a{}\n",
        "[".repeat(40),
        "]".repeat(40),
        "[".repeat(40),
        "]".repeat(40)
    );
    assert!(
        problems(&half)[0].contains("nested more than 64 deep"),
        "{:?}",
        problems(&half)
    );
    let blocks = (0..2000).fold(String::new(), |text, n| {
        text + &format!("{}k:\n", " ".repeat(n))
    });
    assert!(problems(&blocks)[0].contains("nested more than 64 deep"));
}

#[test]
fn a_plain_number_is_a_key() {
    let root = tree("{ 404: 10s, -1: a, \"500\": b }");
    let names: Vec<_> = root.entries().iter().map(|(key, _)| &*key.name).collect();
    assert_eq!(names, ["404", "-1", "500"]);
}

#[test]
fn syntax_problems_are_reported_in_plain_words() {
    for (text, expected) in [
        (
            "a: 1\na: 2\n",
            "<a>: the key `a` is written twice; keep one of the two",
        ),
        ("a:\n\tb: 1\n", "<\t>: a tab cannot indent YAML; use spaces"),
        (
            "a: 1\n---\nb: 2\n",
            "<--->: a second YAML document begins here; remove the `---`, or move what follows to a file of its own and `include` it",
        ),
        (
            "true: x\n",
            "<true>: a key must be text, and `true` is not; put it in quotes: `\"true\":`",
        ),
        (
            "0x50: x\n",
            "<0x50>: a key must be text, and `0x50` is not; put it in quotes: `\"0x50\":`",
        ),
        (
            "404: x\n\"404\": y\n",
            "<\"404\">: the key `404` is written twice; keep one of the two",
        ),
        (
            "a: &b [*b]\n",
            "<*b>: this alias is inside the value that it names; write the value out",
        ),
        (
            "a: &b { c: 1 }\nd: { <<: *b }\n",
            "<<<>: merge keys (`<<`) are not supported; write the keys out, or put what all routes share under `defaults`",
        ),
        (
            "a: !!str 80\n",
            "<!!str 80>: the tag `!!str` is not supported; leave it out; put quotes round a value that is text",
        ),
        (
            "? [a]\n: b\n",
            "<[a]>: a key must be text; a value that begins with `{` or `[` or `*` needs quotes to be text",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text:?}");
    }
}

#[test]
fn syntax_errors_are_explained() {
    for (text, expected) in [
        ("a: [1, 2\nb: 3\n", "<[>: this `[` is never closed"),
        ("a: [1, 2\n", "<[>: this `[` is never closed"),
        ("a: { b: [1]\nc: 2\n", "<{>: this `{` is never closed"),
        ("a: 'x\n", "<'>: this quote is never closed"),
        ("a: 'x\nb: 2\n", "<'>: this quote is not closed on its line"),
        (
            "a: b: c\n",
            "<b: c>: a value without quotes cannot contain `: `; put quotes round it, `\"b: c\"`",
        ),
        (
            "a: [*.test.org, b]\n",
            "<*.test.org>: unknown alias `*.test.org`; put quotes round text that begins with `*`: `\"*.test.org\"`",
        ),
        (
            "a: @x\n",
            "<@>: a value without quotes cannot begin with `@`; put quotes round it",
        ),
        ("a: %x", "<%>: a value without quotes cannot begin with `%`"),
        (
            "a: &\n",
            "<&>: a value without quotes cannot begin with `&`",
        ),
        (
            "a: |x\n",
            "<|>: a value without quotes cannot begin with `|`",
        ),
        (
            "a: { b: ${B} }\n",
            "<{>: `${…}` without quotes cannot stand inside `{ }` and `[ ]`; put quotes round it: `\"${NAME}\"`",
        ),
        (
            "- a\nb: 1\n",
            "<b>: this line is indented like a list but is not an item",
        ),
        (
            "a: 1\n b: 2\n",
            "<b>: `b:` cannot begin a mapping here; indent it like the keys beside it",
        ),
        (
            "a:\n  b: 1\n c: 2\n",
            "<c>: the indentation of this line matches no line above",
        ),
        (
            "a: 1\nb c\n# d\n",
            "<b c>: this line has no `: `; write `key: value`, with a space after the colon",
        ),
        ("a: 1\nb:2\nc: 3\n", "<b:2>: this line has no `: `"),
        ("}", "<}>: this bracket has no opening bracket"),
        ("a: [1]]\n", "<]>: this bracket has no opening bracket"),
        (
            "a: \"\\d\"\n",
            "<\">: a `\\` in double quotes begins an escape, and this text has an unknown one; use single quotes",
        ),
        ("a: \"x\"y\n", "<y>: text follows the closing quote"),
        ("a: {b: 1, , c: 2}\n", "<,>: a value is missing here"),
        (
            "a: 1\n\tb: 2\n",
            "<\t>: a tab cannot indent YAML; use spaces",
        ),
    ] {
        let messages = problems(text);
        assert_eq!(messages.len(), 1, "{text:?}: {messages:?}");
        assert!(messages[0].starts_with(expected), "{text:?}: {messages:?}");
        // Each problem has a help text.
        assert!(!messages[0].ends_with("; "), "{messages:?}");
    }
}

#[test]
fn both_places_of_a_duplicate_key_are_named() {
    let text = "a: 1\nb: 2\na: 3\n";
    let mut diagnostics = Diagnostics::default();
    let root = parse(text, 3, &mut diagnostics).unwrap();
    assert_eq!(root.get("a").unwrap().value, Value::Integer(1));
    let problem = &diagnostics.list()[0];
    assert_eq!(
        problem.place,
        Place {
            file: 3,
            start: 10,
            end: 11
        }
    );
    assert_eq!(
        problem.related,
        [(
            Place {
                file: 3,
                start: 0,
                end: 1
            },
            "first written here".to_owned()
        )]
    );
}

fn places_fit(node: &Node, text: &str) {
    assert!(
        text.get(node.place.start as usize..node.place.end as usize)
            .is_some(),
        "{node:?} in {text:?}"
    );
    if let Value::List(items) = &node.value {
        for item in items {
            places_fit(item, text);
        }
    }
    for (key, item) in node.entries() {
        assert!(
            text.get(key.place.start as usize..key.place.end as usize)
                .is_some(),
            "{key:?} in {text:?}"
        );
        places_fit(item, text);
    }
}

fn no_panic(text: &str) {
    let mut diagnostics = Diagnostics::default();
    if let Some(node) = parse(text, 0, &mut diagnostics) {
        places_fit(&node, text);
    }
    for problem in diagnostics.list() {
        let Place { start, end, .. } = problem.place;
        assert!(
            text.get(start as usize..end as usize).is_some(),
            "{problem:?} in {text:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        no_panic(&text);
    }

    #[test]
    fn no_soup_of_yaml_panics(parts in proptest::collection::vec(
        proptest::sample::select(vec![
            "a", "b: ", ": ", "- ", "\n", "\n  ", "\n    ", "\t", "[", "]", "{", "}", ", ", "'", "\"", "&a ",
            "*a", "*b", "!t ", "!!str ", "# c", "---\n", "...\n", "|\n", ">-\n ", "? ", "<<: ", "ü", "𝄞", "${A}",
            "\r\n", "\u{feff}", "%YAML 1.2\n", "80", "~", "true", "\\", "@", "\u{85}", "\u{2028}", "\0",
        ]), 0..24)) {
        no_panic(&parts.concat());
    }
}
