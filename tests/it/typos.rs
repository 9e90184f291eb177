//! The spelling of code, comments and pages, by codespell: a list of mistakes that people make.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Programs that `tests/apps/build.sh` installs.
const CODESPELL: &str = "tests/apps/peers/.venv/bin/codespell";
/// Words that are none of the mistakes, and mistakes that are there on purpose.
const KNOWN: &str = "tests/it/typos.txt";
/// Texts that nobody here writes.
const SKIPPED: [&str; 6] = [".lock", "-lock.json", ".pem", ".key", ".svg", ".png"];

/// A word that codespell takes for a mistake, and its file.
type Finding = (String, String);

/// Returns the mistakes in these files: word in lower case, file, line and proposal.
fn mistakes(files: &[String]) -> Vec<(Finding, String)> {
    assert!(
        Path::new(CODESPELL).exists(),
        "{CODESPELL} is missing: run `make apps`"
    );
    let output = Command::new(CODESPELL)
        .args(files)
        .output()
        .expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("it prints UTF-8");
    let lines = printed.lines().filter_map(|line| {
        let (place, words) = line.split_once(": ")?;
        let (word, _) = words.split_once(" ==> ")?;
        let (file, _) = place.rsplit_once(':')?;
        let file = file.trim_start_matches("./").to_owned();
        Some(((word.to_lowercase(), file), line.to_owned()))
    });
    let found: Vec<_> = lines.collect();
    // 65: there are mistakes.
    let expected = if found.is_empty() { 0 } else { 65 };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(expected), "{stderr}");
    found
}

fn files() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).output();
    let listed = listed.expect("git runs").stdout;
    let listed = String::from_utf8(listed).expect("paths are text");
    let is_ours = |file: &&str| {
        let is_skipped =
            SKIPPED.iter().any(|end| file.ends_with(end)) || file.starts_with("third_party/h2");
        !file.is_empty() && *file != KNOWN && !is_skipped
    };
    let files: Vec<String> = listed
        .split('\0')
        .filter(is_ours)
        .map(str::to_owned)
        .collect();
    assert!(files.len() > 500, "{files:?}");
    files
}

/// Invariant: each mistake in a file of the project is one that `typos.txt` lists, and the list
/// has no other.
#[test]
fn words_are_spelt_as_in_a_dictionary() {
    let known = fs::read_to_string(KNOWN).expect("it is there");
    let known: BTreeSet<(String, Option<String>)> = known
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(' ') {
            Some((word, file)) => (word.to_owned(), Some(file.to_owned())),
            None => (line.to_owned(), None),
        })
        .collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for ((word, file), line) in mistakes(&files()) {
        let places = [(word.clone(), None), (word, Some(file))];
        match places.into_iter().find(|place| known.contains(place)) {
            Some(place) => drop(used.insert(place)),
            None => wrong.push(line),
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nhelp: correct them, or add the word to {KNOWN}, with its file if it is wrong on purpose",
        wrong.join("\n")
    );
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "remove from {KNOWN}: {unused:?}");
}

#[test]
fn a_mistake_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("page.md");
    // In two parts, so that this file has none.
    fs::write(&file, concat!("A mistake: tommorr", "ow.\n")).expect("the folder takes files");
    let found = mistakes(&[file.display().to_string()]);
    let words: Vec<&str> = found.iter().map(|((word, _), _)| word.as_str()).collect();
    assert_eq!(words, [concat!("tommorr", "ow")]);
}
