//! A file and a report that one can keep: no more lines of YAML than lines of nginx, over all shapes,
//! and a report that fits on a screen.

use std::{fmt::Write as _, path::Path};

use super::{
    play::prepare,
    servers::{Shape, Side, filled, imported},
};
use crate::support::certificates::Ca;

/// Most lines of the report of a site.
const REPORT: usize = 40;
/// Most columns of a line, but for a regular expression or a text that nginx has on one line.
const COLUMNS: usize = 140;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_file_has_no_more_lines_than_that_of_nginx() {
    let (mut theirs, mut own) = (0, 0);
    let mut table = String::new();
    let ca = Ca::new();
    for shape in Shape::all() {
        // The lines of a file depend on the length of its paths, but not on `TMPDIR`.
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        prepare(folder.path(), &shape.tree(), &ca);
        let side = Side::new(&shape, Path::new(folder.path()), "edge").await;
        let (yaml, report) = imported(&shape, &side, "text").await;
        let (before, after, reported) = (shape.lines(), filled(&yaml), filled(&report));
        let name = &shape.name;
        writeln!(table, "{name}: {before} become {after}, report {reported}").expect("text");
        theirs += before;
        own += after;
        assert!(
            reported <= REPORT,
            "{}: {reported} lines:\n{report}",
            shape.name
        );
        let long = yaml.lines().find(|line| {
            line.len() > COLUMNS && !line.contains(['~', '#']) && !line.contains(": \"")
        });
        assert_eq!(long, None, "{}", shape.name);
    }
    println!("{table}{theirs} lines of nginx, {own} of the gateway");
    assert!(own <= theirs, "{table}{theirs} lines become {own}");
}
