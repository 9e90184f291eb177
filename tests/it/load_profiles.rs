//! `load-tests/profile`: its evaluation, and its verdict on an origin that works and one that
//! fails now and then. The figures themselves are for a quiet machine: `make benchmarks`.

use std::{path::Path, process::Command};

/// Runs the tool; returns its exit status and all of its output.
fn profile(arguments: &[&str]) -> (i32, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("load-tests/profile"))
        .args(arguments)
        .output()
        .expect("python3 is installed");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

/// Runs a short trial of one profile; returns the rows of its table about failed requests.
fn failed_rows(name: &str, out: &Path, more: &[&str]) -> (i32, Vec<String>) {
    let out = out.to_str().expect("the path is text");
    let mut arguments = vec![name, "--scale", "0.05", "--minutes", "0.04", "--out", out];
    arguments.extend(["--edgeway", env!("CARGO_BIN_EXE_edgeway")]);
    arguments.extend(more);
    let (status, text) = profile(&arguments);
    let rows: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("| S-10") && line.contains(" | failed"))
        .map(str::to_owned)
        .collect();
    assert_eq!(rows.len(), 2, "{text}");
    (status, rows)
}

#[test]
fn the_evaluation_of_load_profiles_passes_its_own_tests() {
    let (status, text) = profile(&["--self-test"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("OK"), "{text}");
}

#[test]
fn a_load_profile_finds_no_failed_request_unless_the_origin_fails() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let (_, rows) = failed_rows("api", &folder.path().join("good"), &[]);
    assert!(
        rows.iter().all(|row| row.ends_with("| 0 % | met |")),
        "{rows:#?}"
    );
    // The control: one response in ten is a 500.
    let bad = folder.path().join("bad");
    let (status, rows) = failed_rows("api", &bad, &["--control", "errors"]);
    assert_eq!(status, 1);
    let are_missed = |rows: &[String]| rows.iter().all(|row| row.ends_with("| **missed** |"));
    assert!(are_missed(&rows), "{rows:#?}");
    // Another one: one response in ten is cut off, and with it the client's connection.
    let cut = folder.path().join("cut");
    let (status, rows) = failed_rows("portal", &cut, &["--control", "cuts"]);
    assert_eq!(status, 1);
    assert!(are_missed(&rows), "{rows:#?}");
    for name in ["results.json", "results.md", "api.svg"] {
        assert!(bad.join(name).is_file(), "no {name}");
    }
}

#[test]
fn an_unknown_load_profile_is_refused_with_the_names_that_exist() {
    let (status, text) = profile(&["nonsense"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("unknown profile 'nonsense'"), "{text}");
    assert!(text.contains("soak"), "{text}");
}
