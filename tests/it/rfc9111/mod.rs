//! The table of RFC 9111: what an origin says, what clients ask, and who answers.
//!
//! A case is a script of steps, each of them one request:
//!
//! ```text
//! > GET                     the request: method, what its path adds to that of the case
//! > Foo: 1                  its fields
//! < 200                     what the origin would answer now, 200 if it does not say
//! < Cache-Control: max-age=60
//! = cache                   who answers
//! = 200                     what the client gets: a status,
//! = Age: 5..                a field that is a number of at least 5,
//! = Foo: 1                  a field with this value,
//! = !Bar                    no such field
//! = saw If-None-Match: "a"  what the origin was asked, or was not (`saw !Foo`)
//! ```
//!
//! No case waits for time to pass: an answer is old since `Age`, `Date` or `Expires` say so.
//! `@-10` as a value is the date ten seconds ago, `{path}` the path of the case. Bodies are
//! made by the runner: each answer of the origin has one of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the table is part of the tests: a case that cannot be read fails them"
)]

mod below;
mod cases_age;
mod cases_choosing;
mod cases_conditional;
mod cases_fresh;
mod cases_requests;
mod cases_stale;
mod cases_statuses;
mod cases_storing;
mod cases_targeted;
mod cases_updating;
mod gateway;
mod model;
mod script;

pub(super) use script::{Door, Script, Step};

/// What is asked of a cache, and where that is written.
pub(super) struct Case {
    pub section: &'static str,
    pub name: &'static str,
    pub route: Route,
    pub script: &'static str,
}

/// What the route of a case says beside the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Nothing: the RFC and no more.
    Plain,
    /// A tenth of the time since `Last-Modified`.
    Heuristic,
    /// `ttl: 1h` where the origin does not say.
    Ttl,
    /// `stale-while-revalidate` counts beside `s-maxage`.
    Isr,
    /// `stale_if_error: 1h` where the origin does not say.
    Bridged,
}

impl Case {
    pub(super) const fn new(
        section: &'static str,
        name: &'static str,
        script: &'static str,
    ) -> Self {
        Self {
            section,
            name,
            route: Route::Plain,
            script,
        }
    }

    pub(super) const fn on(self, route: Route) -> Self {
        Self { route, ..self }
    }
}

/// The whole table.
pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    [
        cases_storing::CASES,
        cases_statuses::CASES,
        cases_fresh::CASES,
        cases_age::CASES,
        cases_targeted::CASES,
        cases_requests::CASES,
        cases_conditional::CASES,
        cases_choosing::CASES,
        cases_updating::CASES,
        cases_stale::CASES,
    ]
    .into_iter()
    .flatten()
}

#[test]
fn each_case_can_be_read_and_names_its_section() {
    let mut names = std::collections::BTreeSet::new();
    for case in cases() {
        let script = Script::parse(case.script);
        assert!(
            script.steps.len() >= 2 || case.section == "5.2.1.7",
            "{}",
            case.name
        );
        assert!(names.insert(case.name), "{} is there twice", case.name);
        let is_rfc_9111 = case
            .section
            .starts_with(|first: char| first.is_ascii_digit());
        assert!(
            is_rfc_9111 || case.section.starts_with("RFC "),
            "{}",
            case.section
        );
    }
    assert!(names.len() >= 150, "{} cases", names.len());
}
