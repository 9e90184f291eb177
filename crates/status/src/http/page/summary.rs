//! The problems at the top of the page.

use edgeway_base::out::counted;
use maud::{Markup, html};

use super::tables::{mark, when};
use crate::problems::{Problem, Severity};

/// Numbers of errors and warnings, for the heading.
pub(super) fn counts(problems: &[Problem]) -> Markup {
    let count = |severity| {
        let of_it = problems
            .iter()
            .filter(|problem| problem.severity == severity);
        of_it.count()
    };
    html! {
        @for severity in [Severity::Error, Severity::Warning] {
            @let number = count(severity);
            @if number > 0 {
                ", " span class=(severity.name()) {
                    (counted(number, severity.name()))
                }
            }
        }
    }
}

/// List of the problems, each with a link to its section.
pub(super) fn list(problems: &[Problem]) -> Markup {
    html! {
        @if problems.is_empty() {
            p { (mark(true, "No problems found.")) }
        } @else {
            ul class="problems" {
                @for problem in problems {
                    li class=(problem.severity.name()) {
                        strong { (problem.severity.name()) } " "
                        a href={ "#" (problem.section) } { (problem.text) }
                        @if let Some(since) = &problem.since {
                            span class="soft" { " since " (when(since)) }
                        }
                    }
                }
            }
        }
    }
}
