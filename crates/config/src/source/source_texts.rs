//! The texts of a configuration as they were read, so that it can be read again without its files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Sources, Unreadable, folder_of};

/// The texts of all files: the main file first, then its includes in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTexts {
    files: Vec<SourceText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceText {
    /// Path relative to the folder of the main file, so that it does not depend on the path by
    /// which that was opened.
    path: PathBuf,
    text: String,
}

impl SourceTexts {
    pub fn new(sources: &Sources) -> Self {
        let files = sources.files.iter().map(|(path, text)| SourceText {
            path: within(sources, path).to_owned(),
            text: text.clone(),
        });
        Self {
            files: files.collect(),
        }
    }

    /// Returns the stored text of `path`. `read` are the files read so far, the main file first.
    pub(super) fn text(&self, path: &Path, read: &Sources) -> Result<String, Unreadable> {
        let text = if read.files.is_empty() {
            self.files.first()
        } else {
            let path = within(read, path);
            self.files.iter().find(|file| file.path == path)
        };
        match text {
            Some(file) => Ok(file.text.clone()),
            None => Err(Unreadable {
                why: "it is not part of the stored configuration".to_owned(),
                invalid: None,
            }),
        }
    }

    /// Returns the files that match a pattern, in the order in which they were read.
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

/// Returns a path relative to the main file's folder.
fn within<'a>(sources: &Sources, path: &'a Path) -> &'a Path {
    path.strip_prefix(sources.folder()).unwrap_or(path)
}

/// Reverses [`within`], in the spelling that includes use.
fn full(sources: &Sources, path: &Path) -> PathBuf {
    match sources.files.first().map(|(main, _)| folder_of(main)) {
        Some(folder) if folder != Path::new(".") => folder.join(path),
        _ => path.to_owned(),
    }
}
