//! The pages that users read: each word of the code is on its page, each example is loaded, each
//! link leads somewhere.
#![expect(clippy::panic, reason = "a failure here fails the test that uses it")]

mod commands;
mod examples;
mod length;
mod links;
mod patterns;
mod reasons;
mod rust_code;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Returns the files below a folder whose names end in `ending`, as paths from the root, without
/// those of other projects and of builds.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, ending: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path: PathBuf = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has one").to_string_lossy();
        if path.is_dir() {
            if !matches!(&*name, "node_modules" | "target") && !name.starts_with('.') {
                walk(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            let path = path.strip_prefix(root()).expect("it is below the root");
            found.push(path.to_string_lossy().into_owned());
        }
    }
}
