//! The texts of a configuration as they were once read, to read it again without its files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Sources, Unreadable, folder_of};

/// What was read: the main file first, then what it includes in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    files: Vec<KeptFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptFile {
    /// From the folder of the main file, so that it does not matter how that is named and
    /// from where.
    path: PathBuf,
    text: String,
}

impl Kept {
    pub fn new(sources: &Sources) -> Self {
        let files = sources.files.iter().map(|(path, text)| KeptFile {
            path: within(sources, path).to_owned(),
            text: text.clone(),
        });
        Self {
            files: files.collect(),
        }
    }

    /// What `path` said. `read` is what was read so far: the main file is the first.
    pub(super) fn text(&self, path: &Path, read: &Sources) -> Result<String, Unreadable> {
        let found = if read.files.is_empty() {
            self.files.first()
        } else {
            let path = within(read, path);
            self.files.iter().find(|file| file.path == path)
        };
        match found {
            Some(file) => Ok(file.text.clone()),
            None => Err(Unreadable {
                why: "it is not among what was kept".to_owned(),
                invalid: None,
            }),
        }
    }

    /// The files that a pattern names, in the order in which they were read.
    pub(super) fn matching(
        &self,
        pattern: &glob::Pattern,
        options: glob::MatchOptions,
        read: &Sources,
    ) -> Vec<PathBuf> {
        let paths = self.files.iter().skip(1).map(|file| full(read, &file.path));
        paths
            .filter(|path| pattern.matches_path_with(path, options))
            .collect()
    }
}

/// A path as it is seen from the main file's folder.
fn within<'a>(sources: &Sources, path: &'a Path) -> &'a Path {
    path.strip_prefix(sources.folder()).unwrap_or(path)
}

/// The path that [`within`] was given, spelt as includes spell it.
fn full(sources: &Sources, path: &Path) -> PathBuf {
    match sources.files.first().map(|(main, _)| folder_of(main)) {
        Some(folder) if folder != Path::new(".") => folder.join(path),
        _ => path.to_owned(),
    }
}
