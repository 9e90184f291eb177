//! Tests of the rendered problems, for people and for tools.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::source::{Location, Sources};

const PLAIN: Style = Style::Graphical { colour: false };

fn sources(texts: &[&str]) -> Sources {
    let named = |(index, text): (usize, &&str)| {
        (
            PathBuf::from(format!("conf/{index}.yaml")),
            (*text).to_owned(),
        )
    };
    Sources {
        files: texts.iter().enumerate().map(named).collect(),
        ..Sources::default()
    }
}

fn place(sources: &Sources, file: u16, word: &str) -> Place {
    let start = u32::try_from(sources.text(file).find(word).expect("it is there")).unwrap();
    let end = start + u32::try_from(word.len()).unwrap();
    Place { file, start, end }
}

fn one(diagnostic: Diagnostic) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    diagnostics.push(diagnostic);
    diagnostics
}

#[test]
fn a_report_shows_the_place_the_caret_and_the_help() {
    let sources = sources(&["routes:\n  - match: { päth: /a }\n    upstrem: api\n"]);
    let diagnostic = Diagnostic::error(
        "edgeway::config::unknown_key",
        place(&sources, 0, "päth"),
        "unknown key `päth`",
    )
    .help("did you mean `path`?");
    assert_eq!(
        one(diagnostic).render(&sources, PLAIN),
        "\
conf/0.yaml:2:14: error: unknown key `päth` [edgeway::config::unknown_key]
   ╭─[conf/0.yaml:2:14]
 1 │ routes:
 2 │   - match: { päth: /a }
   ·              ────
 3 │     upstrem: api
   ╰────
  help: did you mean `path`?

1 error
"
    );
}

#[test]
fn related_places_are_shown_in_this_file_and_in_others() {
    let sources = sources(&["a: 1\nb: 2\na: 3\n", "a: 4\n"]);
    let last = Place {
        file: 0,
        start: 10,
        end: 11,
    };
    let mut diagnostics = one(Diagnostic::error("edgeway::x", last, "written twice")
        .related(place(&sources, 0, "a"), "first written here"));
    diagnostics.push(
        Diagnostic::warning("edgeway::y", place(&sources, 1, "a"), "written again")
            .related(place(&sources, 0, "a"), "first written here"),
    );
    assert_eq!(
        diagnostics.render(&sources, PLAIN),
        "\
conf/0.yaml:3:1: error: written twice [edgeway::x]
   ╭─[conf/0.yaml:3:1]
 1 │ a: 1
   · ┬
   · ╰── first written here
 2 │ b: 2
 3 │ a: 3
   · ─
   ╰────

conf/1.yaml:1:1: warning: written again [edgeway::y]
   ╭─[conf/1.yaml:1:1]
 1 │ a: 4
   · ─
   ╰────
   ╭─[conf/0.yaml:1:1]
 1 │ a: 1
   · ┬
   · ╰── first written here
 2 │ b: 2
   ╰────

1 error, 1 warning
"
    );
}

#[test]
fn a_place_of_many_lines_is_marked_on_its_first() {
    let sources = sources(&["a:\n  b: 1\n  c: 2\n"]);
    let place = Place {
        file: 0,
        start: 5,
        end: 16,
    };
    let text = one(Diagnostic::error("edgeway::x", place, "m")).render(&sources, PLAIN);
    assert!(
        text.contains(" 2 │   b: 1\n   ·   ────\n 3 │   c: 2\n"),
        "{text}"
    );
}

#[test]
fn a_file_without_text_has_a_first_line_only() {
    let sources = sources(&[""]);
    let diagnostics = one(Diagnostic::error("edgeway::x", Place::default(), "m").help("h"));
    assert_eq!(
        diagnostics.render(&sources, PLAIN),
        "conf/0.yaml:1:1: error: m [edgeway::x]\n  help: h\n\n1 error\n"
    );
}

#[test]
fn colour_comes_only_when_asked_for() {
    let sources = sources(&["a: 1\n"]);
    let diagnostics =
        one(Diagnostic::warning("edgeway::x", place(&sources, 0, "1"), "m").help("h"));
    assert!(!diagnostics.render(&sources, PLAIN).contains('\u{1b}'));
    let coloured = diagnostics.render(&sources, Style::Graphical { colour: true });
    assert!(
        coloured.starts_with("conf/0.yaml:1:4: \u{1b}[1;33mwarning\u{1b}[0m: m [edgeway::x]\n"),
        "{coloured}"
    );
}

#[test]
fn lines_and_json_are_sorted_by_place() {
    let sources = sources(&["a: 1\nb: ü2\n", "c: 3\n"]);
    let mut diagnostics = Diagnostics::default();
    for (file, word, message) in [
        (1, "3", "third"),
        (0, "2", "second\nhere"),
        (0, "1", "first"),
    ] {
        diagnostics.push(Diagnostic::error(
            "edgeway::x",
            place(&sources, file, word),
            message,
        ));
    }
    diagnostics.push(Diagnostic::warning("edgeway::w", Place::default(), "w").help("h"));
    assert_eq!(
        diagnostics.render(&sources, Style::Lines),
        "conf/0.yaml:1:1: warning: w; help: h\n\
         conf/0.yaml:1:4: error: first\n\
         conf/0.yaml:2:5: error: second here\n\
         conf/1.yaml:1:4: error: third\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&diagnostics.render(&sources, Style::Json)).unwrap();
    assert_eq!(
        json[2],
        serde_json::json!({
            "severity": "error", "code": "edgeway::x", "file": "conf/0.yaml",
            "line": 2, "column": 5, "end_line": 2, "end_column": 6,
            "message": "second\nhere", "help": null, "related": [],
        })
    );
    assert_eq!(diagnostics.summary().unwrap(), "3 errors, 1 warning");
    let none = Diagnostics::default();
    assert_eq!(none.render(&sources, Style::Json), "[]\n");
    assert_eq!(
        (none.render(&sources, PLAIN), none.summary()),
        (String::new(), None)
    );
}

#[test]
fn the_same_problem_is_reported_once() {
    let mut diagnostics = one(Diagnostic::error("edgeway::x", Place::default(), "m"));
    diagnostics.push(Diagnostic::error("edgeway::x", Place::default(), "m"));
    assert_eq!(diagnostics.list().len(), 1);
}

#[test]
fn only_near_words_are_suggested() {
    let words = ["upstream", "redirect", "rewrite", "on"];
    assert_eq!(closest("upstrem", words), Some("upstream"));
    assert_eq!(closest("Redirect", words), Some("redirect"));
    assert_eq!(closest("no", words), Some("on"));
    assert_eq!(closest("websocket", words), None);
    assert_eq!(closest("x", words), None);
}

#[test]
fn lines_end_as_those_of_yaml_do() {
    let sources = sources(&["\u{feff}a\r\nb\rc\n\nd"]);
    for (word, line, column) in [("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 5, 1)] {
        let at = sources.locate(place(&sources, 0, word));
        assert_eq!((at.line, at.column), (line, column), "{word}");
    }
}

proptest! {
    #[test]
    fn no_text_and_no_place_make_a_report_panic(text in "(.|\n|\r|\t){0,40}", start in 0u32..50, len in 0u32..50) {
        let mut start = start as usize;
        while !text.is_char_boundary(start.min(text.len())) {
            start -= 1;
        }
        let start = u32::try_from(start).unwrap();
        let sources = sources(&[&text]);
        let place = Place { file: 0, start, end: start + len };
        let diagnostics = one(Diagnostic::error("edgeway::x", place, "m").related(place, "r"));
        let Location { line, column, .. } = sources.locate(place);
        let report = diagnostics.render(&sources, PLAIN);
        let head = format!("conf/0.yaml:{line}:{column}: error: m [edgeway::x]\n");
        prop_assert!(report.starts_with(&head), "{}", report);
        for style in [Style::Lines, Style::Json, Style::Graphical { colour: true }] {
            prop_assert!(!diagnostics.render(&sources, style).is_empty());
        }
    }
}

#[test]
fn a_report_of_many_problems_shows_a_hundred_of_each_severity() {
    let lines: Vec<_> = (0..5_000).map(|line| format!("key{line}: x\n")).collect();
    let lines = lines.concat();
    let sources = sources(&[&lines]);
    let mut diagnostics = Diagnostics::default();
    let mut start = 0;
    for line in lines.split_inclusive('\n') {
        let place = Place {
            file: 0,
            start,
            end: start + 3,
        };
        start += u32::try_from(line.len()).unwrap();
        diagnostics.push(Diagnostic::error("edgeway::x", place, "it is wrong"));
        diagnostics.push(Diagnostic::warning("edgeway::y", place, "it is odd"));
    }
    let report = diagnostics.render(&sources, PLAIN);
    assert_eq!(report.matches("error: it is wrong").count(), 100);
    assert_eq!(report.matches("warning: it is odd").count(), 100);
    let summary = report.lines().last().unwrap();
    let expected = "5000 errors, 5000 warnings; 9800 more are not shown";
    assert_eq!(summary, expected);
    // Programs get all of them.
    assert_eq!(
        diagnostics.render(&sources, Style::Lines).lines().count(),
        10_000
    );
}
