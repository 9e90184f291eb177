//! Broken configurations and their error messages: the place, the problem, and the correction.

use std::path::{Path, PathBuf};

use edgeway::testkit::gateway::{self, World};
use edgeway_config::{
    diagnostic::{Diagnostics, Style},
    model::File,
    source::{self, Sources},
};

use crate::support::seed;

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
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    for path in files("bad") {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let ends = (0..text.len()).filter(|at| text.is_char_boundary(*at));
        // A part of them, from another start in each file.
        let step = seed::cases(7, 1);
        for end in ends.skip(random.usize(..step)).step_by(step) {
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

/// Mistakes of values, each with the key's own place.
const MISTAKEN: &str = "
listeners:
  - { address: 8080 }
  - { address: localhost:80 }
  - { address: 127.0.0.1:8081, limits: { idle_timeout: 60 } }
  - { address: 127.0.0.1:8082, limits: { headers: 16k } }
upstreams:
  a: { backends: [localhost:3000] }
  b: { backends: [\"http://127.0.0.1:3000\"] }
  c: { backends: [api.internal:5000] }
  d: { backends: [3000] }
  e: { backends: [127.0.0.1:3000], timeouts: { connect: 5 } }
  f: { backends: [127.0.0.1:3000], max_in_flight: { queue: \"5\" } }
  g: { backends: [127.0.0.1:3000], health: { path: health } }
routes:
  - { match: { path: api/* }, upstream: a }
  - { match: { path: /b/, method: get }, upstream: b }
  - { match: { path: /c, host: 80 }, upstream: c }
  - { match: { path: /d }, upstream: d, websocket: yes }
  - { match: { path: /e }, upstream: e, body_limit: 10 MB }
  - { match: { path: /f }, upstream: f, access: { allow: [10.0.0.1/8] } }
  - { match: { path: /g }, upstream: g, methods: [get] }
  - { match: { path: /h/./i }, upstream: g }
  - { match: { path: /j }, redirect: { to: /x, status: 404 } }
  - { match: { path: /k }, respond: { status: 99 } }
drain: { deadline: 30 }
";

/// A value that the help of a problem advises ends that problem.
#[test]
fn values_that_a_help_text_advises_are_accepted() {
    let read = |text: &str| {
        let (sources, tree, mut diagnostics) = source::load_text("advice.yaml", text);
        let file = tree.and_then(|tree| File::read(&tree, FILTERS, &mut diagnostics));
        if let Some(file) = file {
            let folder = Path::new("tests/it/config/bad");
            diagnostics.extend(gateway::compile(&file, folder, &World::default()).1);
        }
        (sources, diagnostics)
    };
    let mut texts = vec![MISTAKEN.to_owned()];
    for path in files("bad") {
        texts.push(std::fs::read_to_string(&path).expect("it can be read"));
    }
    // Each mistake alone as well: problems of the first kind hide those of the second.
    for line in MISTAKEN
        .lines()
        .filter(|line| line.trim_start().starts_with("- { match"))
    {
        texts.push(format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nupstreams: {{ {} }}\nroutes:\n{line}\n",
            ["a", "b", "c", "d", "e", "f", "g"]
                .map(|name| format!("{name}: {{ backends: [127.0.0.1:3000] }}"))
                .join(", ")
        ));
    }
    let mut tried = 0;
    for text in texts {
        let (_, diagnostics) = read(&text);
        for problem in diagnostics
            .list()
            .iter()
            .filter(|problem| problem.place.file == 0)
        {
            let help = problem.help.as_deref().unwrap_or_default();
            let advice = help
                .split_once("write `")
                .and_then(|(_, rest)| rest.split_once('`'));
            let Some((advice, _)) = advice else { continue };
            let (start, end) = (problem.place.start as usize, problem.place.end as usize);
            let is_example = [
                "NAME", "FILE", "PATH", "HOST", "PORT", "IP", "…", "${", "FOLDER",
            ];
            let is_entry = advice.contains(": ") && !advice.starts_with('{');
            if is_entry || is_example.iter().any(|word| advice.contains(word)) {
                continue;
            }
            let mended = format!("{}{advice}{}", &text[..start], &text[end..]);
            let (sources, again) = read(&mended);
            let mut left = again.list().iter();
            let is_there = left
                .any(|left| left.code == problem.code && left.place.start == problem.place.start);
            let report = again.render(&sources, Style::Lines);
            assert!(!is_there, "{}; {help}\n{report}\n{mended}", problem.message);
            tried += 1;
        }
    }
    assert!(tried >= 20, "{tried}");
}
