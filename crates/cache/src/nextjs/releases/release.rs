//! Release, as its folder describes it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::super::build::{Build, BuildError, BuildStamp, list_files};
use super::paths;

/// Folder of the build in the folder of a release.
const BUILD: &str = ".next";

/// A release: its build, and what identifies it in requests.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) name: Arc<str>,
    pub(super) build: Arc<Build>,
    /// Decoded paths below `/_next/static/`.
    files: HashSet<Box<[u8]>>,
    /// Time at which the build was put into place.
    pub(super) since: SystemTime,
}

/// Returns the folder of the build of the release in `folder`.
pub(super) fn build_folder(folder: &Path) -> PathBuf {
    folder.join(BUILD)
}

/// Returns the `deploymentId` of the release in `folder`; `None` without one, or without a build.
pub fn deployment_of(folder: &Path) -> Option<String> {
    let build = Build::read(&build_folder(folder), false).ok()?;
    build.deployment().map(str::to_owned)
}

/// Returns the state of the release in `folder`.
pub(super) fn stamp(folder: &Path) -> BuildStamp {
    BuildStamp::read(&build_folder(folder))
}

impl Release {
    /// Reads the release in `folder`.
    pub(super) fn read(name: &str, folder: &Path) -> Result<Self, BuildError> {
        let folder = build_folder(folder);
        let build = Build::read(&folder, true)?;
        let mut files = HashSet::new();
        list_files(&folder.join("static"), &mut Vec::new(), &mut files);
        Ok(Self {
            name: name.into(),
            since: build.since(),
            build: Arc::new(build),
            files,
        })
    }

    pub(super) fn is_deployment(&self, id: &[u8]) -> bool {
        let deployment = self.build.deployment();
        deployment.is_some_and(|deployment| deployment.as_bytes() == id)
    }

    pub(super) fn has_action(&self, id: &[u8]) -> bool {
        self.build.pages_of_action(id).is_some()
    }

    /// Returns true if this raw path names a file of the build's output.
    pub(super) fn has_file(&self, path: &[u8]) -> bool {
        self.below(path, paths::STATIC)
            .is_some_and(|name| self.files.contains(&*paths::decoded(name)))
    }

    /// Returns true if this raw path is that of a page's data in this build.
    pub(super) fn has_data(&self, path: &[u8]) -> bool {
        let id = self.build.id().unwrap_or_default().as_bytes();
        self.below(path, paths::DATA)
            .and_then(|rest| rest.strip_prefix(id))
            .is_some_and(|rest| rest.starts_with(b"/"))
    }

    fn below<'p>(&self, path: &'p [u8], folder: &[u8]) -> Option<&'p [u8]> {
        self.build.below(path)?.strip_prefix(folder)
    }
}
