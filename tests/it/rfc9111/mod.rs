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
//! No case waits for time to pass: a response is old because of `Age`, `Date` or `Expires`. `@-10`
//! as a value is the date ten seconds ago, `{path}` the path of the case. The runner creates
//! bodies: each response of the origin has its own.

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

pub(super) use script::{Script, Source, Step};

/// Requirement for a cache, and the section that states it.
pub(super) struct Case {
    pub section: &'static str,
    pub name: &'static str,
    pub route: Route,
    pub script: &'static str,
}

/// Configuration of a case's route beside the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Nothing: only the RFC.
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

/// All cases of the table.
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
fn each_case_can_be_parsed_and_names_its_section() {
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
