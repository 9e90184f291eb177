//! The table of RFC 9111: responses of an origin, requests of clients, and the source of each
//! response.
//!
//! A case is a script of steps, each of them one request:
//!
//! ```text
//! > GET                     the request: method, and a suffix to the path of the case
//! > Foo: 1                  its fields
//! < 200                     the response that the origin has now, 200 if absent
//! < Cache-Control: max-age=60
//! = cache                   the source of the response
//! = 200                     the response that the client gets: a status,
//! = Age: 5..                a field that is a number of at least 5,
//! = Foo: 1                  a field with this value,
//! = !Bar                    no such field
//! = saw If-None-Match: "a"  a field that the origin received, or did not (`saw !Foo`)
//! ```
//!
//! A case begins with its title, `# SECTION: NAME`, or `# SECTION on ROUTE: NAME` if it is about another
//! route of [`gateway::ROUTES`] than `plain`. Lines with `?` are
//! a table: the names of its columns, then a row for each variant of the case, whose values replace
//! `{column}`.
//!
//! No case waits for time to pass: a response is old because of `Age`, `Date` or `Expires`. `@-10`
//! as a value is the date ten seconds ago, `{path}` the path of the case. The runner creates
//! bodies: each response of the origin has its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the table is part of the tests: a case that cannot be read fails them"
)]

mod below;
mod gateway;
mod script;

use std::sync::LazyLock;

pub(super) use script::{Script, Source, Step};

/// Files of the table.
const TABLE: [&str; 10] = [
    include_str!("cases/storing.txt"),
    include_str!("cases/statuses.txt"),
    include_str!("cases/fresh.txt"),
    include_str!("cases/age.txt"),
    include_str!("cases/targeted.txt"),
    include_str!("cases/requests.txt"),
    include_str!("cases/conditional.txt"),
    include_str!("cases/choosing.txt"),
    include_str!("cases/updating.txt"),
    include_str!("cases/stale.txt"),
];

/// Requirement for a cache, and the section that states it.
pub(super) struct Case {
    pub section: String,
    pub name: String,
    /// Route of the gateway that the case is about.
    pub route: String,
    pub script: String,
}

impl Case {
    /// Reads a case: its title in the first line, then the steps.
    fn parse(text: &str) -> Self {
        let (title, script) = text.split_once('\n').expect("steps follow the title");
        let (section, name) = title.split_once(": ").expect("a section and a name");
        let (section, route) = section.split_once(" on ").unwrap_or((section, "plain"));
        let [section, name, route, script] = [section, name, route, script].map(str::to_owned);
        Self {
            section,
            name,
            route,
            script,
        }
    }
}

/// All cases of the table.
pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    static CASES: LazyLock<Vec<Case>> =
        LazyLock::new(|| TABLE.iter().flat_map(|file| read(file)).collect());
    CASES.iter()
}

/// Reads the cases of a file.
fn read(file: &str) -> Vec<Case> {
    let written = file.split("\n# ").skip(1);
    written.flat_map(in_each_row).collect()
}

/// Returns the case for each row of its table, or the case itself if it has none.
fn in_each_row(text: &str) -> Vec<Case> {
    let (table, text): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with('?'));
    let text = text.join("\n");
    let mut rows = table.iter().map(|row| row[1..].split('|').map(str::trim));
    let Some(columns) = rows.next() else {
        return vec![Case::parse(&text)];
    };
    let filled = rows.map(|row| {
        let values = columns.clone().zip(row);
        values.fold(text.clone(), |text, (column, value)| {
            text.replace(&format!("{{{column}}}"), value)
        })
    });
    filled.map(|text| Case::parse(&text)).collect()
}

#[test]
fn each_case_can_be_parsed_and_names_its_section() {
    let mut names = std::collections::BTreeSet::new();
    for case in cases() {
        let script = Script::parse(&case.script);
        assert!(
            script.steps.len() >= 2 || case.section == "5.2.1.7",
            "{}",
            case.name
        );
        assert!(names.insert(&case.name), "{} is there twice", case.name);
        let is_rfc_9111 = case
            .section
            .starts_with(|first: char| first.is_ascii_digit());
        assert!(
            is_rfc_9111 || case.section.starts_with("RFC "),
            "{}",
            case.section
        );
    }
    assert!(names.len() >= 250, "{} cases", names.len());
}
