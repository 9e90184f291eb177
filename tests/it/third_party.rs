//! Changed crates are the published ones, plus the patch that lies beside them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party")
}

/// Copies `third_party/h2` and takes the patch out of the copy.
fn without_patch() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let h2 = folder().join("h2");
    run(Command::new("cp")
        .arg("-r")
        .arg(h2.join("."))
        .arg(copy.path()));
    let patch = folder().join("h2.patch");
    // Outside of any repository, so that no path of one is added.
    run(Command::new("git")
        .args(["apply", "--reverse"])
        .arg(patch)
        .env("GIT_CEILING_DIRECTORIES", "/")
        .current_dir(copy.path()));
    copy
}

fn run(command: &mut Command) {
    let output = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// Returns the names of files that differ from `h2.sha256`, are missing, or are not in it.
fn differences(copy: &Path) -> Vec<String> {
    let list = std::fs::read_to_string(folder().join("h2.sha256")).expect("the hashes");
    let hashes: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once("  "))
        .collect();
    let mut differences: Vec<_> = hashes
        .iter()
        .filter(|(hash, file)| {
            let sum = Command::new("sha256sum")
                .arg(copy.join(file))
                .output()
                .expect("sha256sum runs");
            !sum.stdout.starts_with(hash.as_bytes())
        })
        .map(|(_, file)| (*file).to_owned())
        .collect();
    let files = Command::new("find")
        .args([".", "-type", "f", "-printf", "%P\n"])
        .current_dir(copy)
        .output()
        .expect("find runs");
    let files = String::from_utf8(files.stdout).expect("names are text");
    let unknown = files
        .lines()
        .filter(|file| !hashes.iter().any(|(_, known)| known == file));
    differences.extend(unknown.map(str::to_owned));
    differences
}

#[test]
fn without_its_patch_h2_is_the_published_crate() {
    let copy = without_patch();
    assert_eq!(differences(copy.path()), [""; 0]);
}

#[test]
fn any_other_change_of_h2_is_seen() {
    let copy = without_patch();
    let file = copy.path().join("src/lib.rs");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::write(&file, text + "\n").expect("it is written");
    std::fs::write(copy.path().join("src/more.rs"), "").expect("it is written");
    assert_eq!(differences(copy.path()), ["src/lib.rs", "src/more.rs"]);
}
