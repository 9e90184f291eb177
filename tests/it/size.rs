//! Lines of product code, by crate: neither blank, nor a comment, nor of a test. `tests/it/size.txt`
//! has the bounds. Who raises one says why in the body of the commit.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// Begins the tests at the end of a file.
const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Counts the lines of code of a source.
fn count(text: &str) -> usize {
    let code = text.split(TESTS).next().unwrap_or_default();
    let lines = code.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// Returns true for a file that only tests use.
fn is_test(path: &Path) -> bool {
    let is_named = |name: &str| matches!(name, "tests" | "testkit" | "tests.rs" | "testkit.rs");
    path.iter().any(|part| {
        is_named(&part.to_string_lossy()) || part.to_string_lossy().ends_with("_tests.rs")
    })
}

fn add(folder: &Path, sum: &mut usize) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if is_test(
            path.strip_prefix(env!("CARGO_MANIFEST_DIR"))
                .unwrap_or(&path),
        ) {
            continue;
        }
        if path.is_dir() {
            add(&path, sum);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            *sum += count(&fs::read_to_string(&path).expect("a source is UTF-8"));
        }
    }
}

/// Returns the lines of each crate, of the package at the top (`edgeway`), and of all (`all`).
fn lines() -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates")).expect("the folder is there") {
        let entry = entry.expect("it can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        add(&entry.path().join("src"), found.entry(name).or_default());
    }
    add(
        &root.join("src"),
        found.entry("edgeway".to_owned()).or_default(),
    );
    let all = found.values().sum();
    found.insert("all".to_owned(), all);
    found
}

#[test]
fn no_crate_grows_beyond_its_bound() {
    let bounds = include_str!("size.txt");
    let bounds: BTreeMap<&str, usize> = bounds
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, most)| (name, most.parse().expect("a number of lines")))
        .collect();
    let mut wrong = String::new();
    for (name, lines) in lines() {
        match bounds.get(&*name) {
            Some(most) if lines <= *most => {}
            Some(most) => {
                writeln!(wrong, "{name} has {lines} lines, at most {most}").expect("it takes text");
            }
            None => {
                writeln!(wrong, "{name} has {lines} lines and no bound").expect("it takes text");
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}help: delete what nobody needs, or raise the bound in tests/it/size.txt and say why in \
         the body of the commit"
    );
}

#[test]
fn blank_lines_comments_and_tests_do_not_count() {
    let text = "//! A file.\n\n/// One.\nfn one() {\n    // why\n    two();\n}\n\n";
    assert_eq!(count(text), 3);
    assert_eq!(
        count(&format!("{text}{TESTS}\n    fn three() {{}}\n}}\n")),
        3
    );
    assert!(is_test(Path::new("crates/a/src/tests/b.rs")));
    assert!(is_test(Path::new("crates/a/src/b/tests.rs")));
    assert!(!is_test(Path::new("crates/a/src/attests.rs")));
}
