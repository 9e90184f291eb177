//! The words of the pages: so many that one can still read and keep them.
//!
//! Counted is what a user reads: prose and tables, without blocks of code. Not counted are pages and
//! parts of pages that a program prints, the changelog, and what only people who work on Edgeway need
//! outside of `docs`.

use super::{files, read};

const BOUND: usize = 80_000;

/// Pages that are printed: by `make config-page` and `make metrics-page`.
const PRINTED: [&str; 2] = ["docs/configuration-reference.md", "docs/metrics.md"];

/// Comments around parts of pages that are printed: by a test of the import, and by
/// `load-tests/profile --publish`.
const PRINTED_PARTS: [(&str, &str); 2] = [
    ("<!-- directives -->", "<!-- /directives -->"),
    ("<!-- results: begin", "<!-- results: end"),
];

/// Returns the number of words outside of blocks of code; a bar of a table is none.
fn words(text: &str) -> usize {
    let mut is_code = false;
    let mut printed_until = None;
    let mut count = 0;
    for line in text.lines() {
        let mut parts = PRINTED_PARTS.iter();
        if let Some((_, end)) = parts.find(|(begin, _)| line.starts_with(begin)) {
            printed_until = Some(*end);
        }
        if let Some(end) = printed_until {
            if line.starts_with(end) {
                printed_until = None;
            }
        } else if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let words = line.split_whitespace();
            count += words
                .filter(|it| it.contains(char::is_alphanumeric))
                .count();
        }
    }
    count
}

#[test]
fn the_pages_are_short_enough_to_be_kept_true() {
    let mut pages = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    for folder in ["docs", "systemd", "packages", "plugins", "examples"] {
        let all = files(folder, ".md").into_iter();
        pages.extend(all.filter(|page| !PRINTED.contains(&page.as_str())));
    }
    let mut counts: Vec<(usize, String)> = pages
        .into_iter()
        .map(|page| (words(&read(&page)), page))
        .collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    let total: usize = counts.iter().map(|(count, _)| count).sum();
    let longest = &counts[..12];
    assert!(counts.len() > 70, "only {} pages were found", counts.len());
    assert!(
        total <= BOUND,
        "the pages have {total} words, and {BOUND} are allowed: say a thing on one page and link \
         to it; for a page of a new filter, raise BOUND and say why in the body of the commit; the \
         longest are {longest:#?}"
    );
}

#[test]
fn words_are_counted_without_code_and_what_is_printed() {
    let page = "# Two words\n\n| a | b |\n|---|---|\n\n```yaml\nnot: counted\n```\n\
                - `one`, – two.\n<!-- directives -->\nnot counted\n<!-- /directives -->\nlast\n";
    assert_eq!(words(page), 7);
    for (begin, end) in PRINTED_PARTS {
        let pages = ["docs/from-nginx.md", "docs/benchmarks.md"].map(read);
        let has = |mark: &str| pages.iter().any(|page| page.contains(&format!("\n{mark}")));
        assert!(has(begin) && has(end), "no page has `{begin}`");
    }
}
