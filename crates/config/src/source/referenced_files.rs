//! Files besides the configuration's own that it depends on, such as plugins and lists of users:
//! their paths, and a check for changes.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::base::named_file;

/// Length up to which the bytes of a file are compared.
const MAX_FILE_SIZE: u64 = 16 << 20;

/// Files by path, with the stamp of their content. A missing file is recorded as well: it may
/// appear later.
#[derive(Clone, Debug, Default)]
pub struct ReferencedFiles(BTreeMap<PathBuf, ReferencedFile>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReferencedFile {
    stamp: Option<FileStamp>,
    /// True for a file of a plugin, whose version changes with it.
    is_code: bool,
}

/// The length of a file, and a hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp(u64, u64);

impl ReferencedFiles {
    /// Records a file that contained `text` when it was read.
    pub fn read(&mut self, path: PathBuf, text: &[u8]) {
        self.insert(path, Some(FileStamp::new(text)), false);
    }

    /// Records a file of a plugin that contained `text` when it was read, or that was not there.
    pub fn code(&mut self, path: PathBuf, text: Option<&[u8]>) {
        let stamp = text.map_or_else(|| look(&path), |text| Some(FileStamp::new(text)));
        self.insert(path, stamp, true);
    }

    /// Records a file in its current state: a file that could not be used may be replaced.
    pub fn missed(&mut self, path: PathBuf) {
        let stamp = look(&path);
        self.insert(path, stamp, false);
    }

    fn insert(&mut self, path: PathBuf, stamp: Option<FileStamp>, is_code: bool) {
        self.0.insert(path, ReferencedFile { stamp, is_code });
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Returns true if a file has changed since. Reads the files.
    pub fn is_changed(&self) -> bool {
        self.0.iter().any(|(path, file)| look(path) != file.stamp)
    }

    /// Returns the files that `before` has with other contents, without those of plugins. Their
    /// paths start at `folder` if they are in it.
    pub fn changed_since(&self, before: &Self, folder: &Path) -> Vec<String> {
        let changed = self.0.iter().filter(|(path, file)| {
            let then = before.0.get(*path);
            !file.is_code && then.is_some_and(|then| then.stamp != file.stamp)
        });
        let shown = |(path, _): (&PathBuf, _)| {
            let path = path.strip_prefix(folder).unwrap_or(path);
            path.display().to_string()
        };
        changed.map(shown).collect()
    }
}

impl FileStamp {
    fn new(text: &[u8]) -> Self {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let max = usize::try_from(MAX_FILE_SIZE).unwrap_or(usize::MAX);
        Self(length, digest(&text[..max.min(text.len())]))
    }
}

/// Reads the stamp of a file, if it is readable.
fn look(path: &Path) -> Option<FileStamp> {
    let file = named_file::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE).read_to_end(&mut bytes).ok()?;
    Some(FileStamp(length, digest(&bytes)))
}

/// Hashes bytes. Collisions are harmless: the files are the operator's own.
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
    fn files_that_change_appear_or_disappear_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (there, later) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&there, "one").unwrap();
        let mut referenced = ReferencedFiles::default();
        assert!(!referenced.is_changed());
        referenced.read(there.clone(), b"one");
        referenced.missed(later.clone());
        assert!(!referenced.is_changed());
        fs::write(&there, "two").unwrap();
        assert!(referenced.is_changed());
        fs::write(&there, "one").unwrap();
        assert!(!referenced.is_changed());
        fs::write(&later, "").unwrap();
        assert!(referenced.is_changed());
        // Recorded again, it is unchanged.
        referenced.missed(later);
        assert!(!referenced.is_changed());
        fs::remove_file(&there).unwrap();
        assert!(referenced.is_changed());
    }

    #[test]
    fn files_with_other_contents_are_named_but_for_code() {
        let folder = Path::new("conf");
        let of = |texts: [&str; 4]| {
            let mut referenced = ReferencedFiles::default();
            let [users, page, elsewhere, code] = texts.map(str::as_bytes);
            referenced.read(folder.join("users.htpasswd"), users);
            referenced.read(folder.join("pages/404.html"), page);
            referenced.read("/etc/ca.pem".into(), elsewhere);
            referenced.code(folder.join("plugin.js"), Some(code));
            referenced
        };
        let before = of(["a", "b", "c", "d"]);
        assert_eq!(before.changed_since(&before, folder), [""; 0]);
        let mut now = of(["A", "b", "C", "D"]);
        now.read(folder.join("new"), b"");
        let changed = now.changed_since(&before, folder);
        assert_eq!(changed, ["/etc/ca.pem", "users.htpasswd"]);
    }

    #[test]
    fn what_was_read_before_it_changed_is_news_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "two").unwrap();
        let mut referenced = ReferencedFiles::default();
        referenced.read(path, b"one");
        assert!(referenced.is_changed());
    }
}
