//! Files that a configuration goes by besides its own, such as plugins: which they are, and
//! whether they still say what they said.

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{DefaultHasher, Hasher as _},
    io::Read as _,
    path::{Path, PathBuf},
};

/// What is behind this many bytes of a file is not compared.
const MOST: u64 = 16 << 20;

/// Files by their paths, with what was found there. What was not there counts as well: it
/// may come.
#[derive(Clone, Debug, Default)]
pub struct Beside(BTreeMap<PathBuf, Option<Stamp>>);

/// The length of a file, and what stands for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64);

impl Beside {
    /// A file that said `text` when it was read.
    pub fn read(&mut self, path: PathBuf, text: &[u8]) {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let most = usize::try_from(MOST).unwrap_or(usize::MAX).min(text.len());
        let stamp = Stamp(length, digest(&text[..most]));
        self.0.insert(path, Some(stamp));
    }

    /// A file as it is now, whatever was read of it: one that could not be used may be replaced.
    pub fn missed(&mut self, path: PathBuf) {
        let stamp = look(&path);
        self.0.insert(path, stamp);
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Whether one of them says something else by now. Reads them.
    pub fn is_changed(&self) -> bool {
        self.0.iter().any(|(path, stamp)| look(path) != *stamp)
    }
}

/// What is there, if it can be read.
fn look(path: &Path) -> Option<Stamp> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(Stamp(length, digest(&bytes)))
}

/// Nobody gains by two files that look the same: they are the operator's own.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_change_come_or_go_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (there, later) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&there, "one").unwrap();
        let mut beside = Beside::default();
        assert!(!beside.is_changed());
        beside.read(there.clone(), b"one");
        beside.missed(later.clone());
        assert!(!beside.is_changed());
        fs::write(&there, "two").unwrap();
        assert!(beside.is_changed());
        fs::write(&there, "one").unwrap();
        assert!(!beside.is_changed());
        fs::write(&later, "").unwrap();
        assert!(beside.is_changed());
        // As it is now, it is no news.
        beside.missed(later);
        assert!(!beside.is_changed());
        fs::remove_file(&there).unwrap();
        assert!(beside.is_changed());
    }

    #[test]
    fn what_was_read_before_it_changed_is_news_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "two").unwrap();
        let mut beside = Beside::default();
        beside.read(path, b"one");
        assert!(beside.is_changed());
    }
}
