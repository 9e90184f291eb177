//! Broken configurations and their error messages: the place, the problem, and the correction.

use std::path::{Path, PathBuf};

use edgeway::testing::gateway::{self, World};
use edgeway_config::{
    diagnostic::{Diagnostics, Style},
    model::File,
    source::{self, Sources},
};

/// Filters of the examples; a separate list, so that a new filter changes no snapshot.
const FILTERS: &[&str] = &["access", "body_limit", "compression", "cors", "methods"];

/// Returns the findings of `edgeway check`.
fn check(path: &Path) -> (Sources, Diagnostics) {
    let (sources, tree, mut diagnostics) = source::load(path);
    let file = tree.and_then(|tree| File::read(&tree, FILTERS, &mut diagnostics));
    if let Some(file) = file {
        let folder = sources.folder();
        let (gateway, found) = gateway::compile(&file, &folder, &World::default());
        assert_eq!(gateway.is_none(), found.has_errors());
        diagnostics.extend(found);
    }
    (sources, diagnostics)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(Path::new("tests/it/config").join(folder))
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

/// Report of a file, compared with its snapshot, and the problems in it.
fn reported(path: &Path) -> (String, Diagnostics) {
    let (sources, diagnostics) = check(path);
    let name = path.file_stem().expect("a name").to_string_lossy();
    let report = diagnostics.render(&sources, Style::Graphical { colour: false });
    insta::with_settings!({
        snapshot_path => "config/snapshots",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(&*name, report);
    });
    for problem in diagnostics.list() {
        // A message about an expected value or a limit contains the correction itself.
        let says_what_to_write = problem.help.is_some()
            || problem.message.starts_with("expected ")
            || problem.message.contains("must ");
        assert!(says_what_to_write, "{name}: {problem:?}");
        assert!(problem.code.starts_with("edgeway::"), "{problem:?}");
        let at = sources.locate(problem.place);
        assert!(report.contains(&format!("{}:{}:{}: ", at.file, at.line, at.column)));
    }
    (report, diagnostics)
}

#[test]
fn every_broken_file_is_explained() {
    let files = files("bad");
    assert!(files.len() >= 18, "{files:?}");
    for path in files {
        let (report, diagnostics) = reported(&path);
        assert!(diagnostics.has_errors(), "{report}");
    }
}

#[test]
fn doubtful_configuration_is_reported_and_served() {
    let files = files("warned");
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let (report, diagnostics) = reported(&path);
        assert_eq!(diagnostics.list().len(), 1, "{report}");
        assert!(!diagnostics.has_errors(), "{report}");
    }
}

#[test]
fn routes_that_cannot_be_distinguished_are_both_reported() {
    let (sources, diagnostics) = check(Path::new("tests/it/config/bad/ambiguous_routes.yaml"));
    let [problem] = diagnostics.list() else {
        panic!("{diagnostics:#?}");
    };
    let [(first, _)] = &problem.related[..] else {
        panic!("{problem:#?}");
    };
    let lines = [*first, problem.place].map(|place| sources.locate(place).line);
    assert_eq!(lines, [9, 13]);
}

#[test]
fn three_independent_mistakes_of_structure_are_reported_at_once() {
    let (sources, diagnostics) = check(Path::new("tests/it/config/bad/three_mistakes.yaml"));
    let lines = diagnostics.render(&sources, Style::Lines);
    let starts: Vec<_> = lines
        .lines()
        .map(|line| line.split(": help").next().unwrap_or_default())
        .map(|line| line.trim_start_matches("tests/it/config/bad/three_mistakes.yaml:"))
        .map(|line| line.split("; ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        starts,
        [
            "3:5: error: unknown key `adress`",
            "8:15: error: expected a list, found the text `127.0.0.1:3000`",
            "12:15: error: expected text, found a list",
        ]
    );
}

#[test]
fn tools_get_the_same_as_json() {
    let (sources, diagnostics) = check(Path::new("tests/it/config/bad/unknown_key.yaml"));
    insta::with_settings!({
        snapshot_path => "config/snapshots",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("unknown_key_as_json", diagnostics.render(&sources, Style::Json));
    });
}

/// Incomplete files, as an editor passes them to `edgeway check` while its user types.
#[test]
fn every_beginning_of_a_broken_file_is_read_or_explained() {
    for path in files("bad") {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        for end in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (sources, tree, mut diagnostics) = source::load_text("typed.yaml", &text[..end]);
            let file = tree.and_then(|tree| File::read(&tree, FILTERS, &mut diagnostics));
            assert!(
                file.is_some() || diagnostics.has_errors(),
                "{path:?}: {end}"
            );
            for line in diagnostics.render(&sources, Style::Lines).lines() {
                assert!(line.contains(".y") && line.contains(": "), "{line}");
            }
        }
    }
}
