//! Digest that identifies a build.
//!
//! `BUILD_ID` alone is not enough: for an app with `deploymentId` it is the same for every build
//! (Next.js 16.2), and a team that never changes its `deploymentId` deploys builds that differ only
//! in server code and prerendered pages. So the digest covers the manifests, the code, and the
//! build's own trace, which has the times of its steps. All of them survive a copy of the folder,
//! and none changes while the app runs. Prerendered pages are left out: the app overwrites them.

use std::{
    fs::{self, File},
    hash::Hasher,
    io::{self, Read},
    path::{Path, PathBuf},
};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{BUILD_ID, FUNCTIONS, IMAGES, MIDDLEWARE, ROUTES};

pub(super) const TRACE: &str = "trace";
pub(in super::super) const SERVER_FILES: &str = "required-server-files.json";

/// Files that identify a build, if they exist.
const IDENTIFYING_FILES: [&str; 9] = [
    BUILD_ID,
    ROUTES,
    IMAGES,
    FUNCTIONS,
    MIDDLEWARE,
    SERVER_FILES,
    TRACE,
    "build-manifest.json",
    "app-build-manifest.json",
];

/// Files that contain a key of the app; never opened.
const SECRET: [&str; 2] = ["server-reference-manifest.js", "prerender-manifest.js"];

/// Maximum number of code files, and maximum depth of folders; files beyond do not count.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 32;

/// Returns the digest of the build in `folder`.
pub(super) fn digest(folder: &Path) -> io::Result<u128> {
    let mut hasher = SipHasher13::new();
    for name in IDENTIFYING_FILES {
        add(&mut hasher, folder, Path::new(name))?;
    }
    let mut code = Vec::new();
    list(folder, Path::new("server"), 0, &mut code)?;
    code.sort_unstable();
    for name in &code {
        add(&mut hasher, folder, name)?;
    }
    Ok(hasher.finish128().as_u128())
}

/// Returns the digest of the settings for images of the build in `folder`.
pub(super) fn of_image_settings(folder: &Path) -> io::Result<u64> {
    let mut hasher = SipHasher13::new();
    add(&mut hasher, folder, Path::new(IMAGES))?;
    Ok(hasher.finish128().h1)
}

/// Adds a file's name and content, both framed; nothing if the file is missing.
fn add(hasher: &mut SipHasher13, folder: &Path, name: &Path) -> io::Result<()> {
    let mut file = match File::open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let bytes = name.as_os_str().as_encoded_bytes();
    hasher.write(&(bytes.len() as u64).to_be_bytes());
    hasher.write(bytes);
    let mut piece = vec![0; 1 << 16];
    let mut len = 0_u64;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                hasher.write(&piece[..read]);
                len += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    hasher.write(&len.to_be_bytes());
    Ok(())
}

/// Lists the code files in a folder, ignoring links.
fn list(root: &Path, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let path = folder.join(&name);
        if kind.is_dir() && depth < MAX_DEPTH {
            list(root, &path, depth + 1, files)?;
        }
        let is_code = path
            .extension()
            .is_some_and(|it| it == "js" || it == "mjs" || it == "cjs");
        let is_secret = SECRET.iter().any(|secret| *secret == name);
        if kind.is_file() && is_code && !is_secret && files.len() < MAX_FILES {
            files.push(path);
        }
    }
    Ok(())
}
