//! Old files of a log: `access.log.1` is the newest, and from the second on they are compressed.
//!
//! Renaming and compressing exclude each other, also between two processes that write the same log
//! during an upgrade: each holds a lock on the folder for the moment in which names change. A file
//! is compressed under a name of its own, and gets its place only once it is complete.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufReader, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use edgeway_base::private_file::if_there;
use flate2::{Compression, write::GzEncoder};
use log::{debug, warn};
use parking_lot::Mutex;
use rustix::{
    fs::{FlockOperation, flock},
    process::setpriority_process,
};

/// End of the name of a file that is being compressed.
const UNFINISHED: &str = ".compressing";
/// Lowest priority of a thread (nice(2)).
const LOWEST_PRIORITY: i32 = 19;

/// Moves `path` to `path.1`, the old `path.1` to `path.2`, and so on; number `keep + 1` is deleted.
/// Compressed files (`path.2.gz`) move along.
///
/// Goes from the oldest to the youngest, so that a crash midway leaves a gap in the numbers and
/// loses nothing.
pub(super) fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let _lock = lock_folder(path)?;
    let mut surplus = keep + 1;
    loop {
        let plain = if_there(fs::remove_file(plain(path, surplus)))?;
        let compressed = if_there(fs::remove_file(compressed(path, surplus)))?;
        if plain.or(compressed).is_none() {
            break;
        }
        surplus += 1;
    }
    for number in (1..keep).rev() {
        for name in [plain, compressed] {
            if_there(fs::rename(name(path, number), name(path, number + 1)))?;
        }
    }
    if_there(fs::rename(path, plain(path, 1)))?;
    Ok(())
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    PathBuf::from(name)
}

fn plain(path: &Path, number: u32) -> PathBuf {
    with_end(path, &format!(".{number}"))
}

fn compressed(path: &Path, number: u32) -> PathBuf {
    with_end(path, &format!(".{number}.gz"))
}

/// Holds the names of the folder until the file is dropped.
fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = File::open(folder)?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Compresses the archives of one log, in a thread of its own that ends when it is done.
pub(super) struct Compressor {
    /// Name of the log in messages.
    kind: &'static str,
    state: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    is_wanted: bool,
    is_running: bool,
}

impl Compressor {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            state: Arc::default(),
        }
    }

    /// Compresses what there is to compress, in the background.
    pub(super) fn start(&self, path: &Path, keep: u32) {
        let mut work = self.state.lock();
        work.is_wanted = true;
        if work.is_running {
            return;
        }
        let (state, kind, path) = (Arc::clone(&self.state), self.kind, path.to_owned());
        let started = thread::Builder::new()
            .name("log-compression".to_owned())
            .spawn(move || {
                // The thread's own priority: requests come first. Without it, it is compressed all
                // the same.
                if let Err(error) = setpriority_process(None, LOWEST_PRIORITY) {
                    debug!(error:%; "compression has the usual priority");
                }
                loop {
                    let mut work = state.lock();
                    if !std::mem::take(&mut work.is_wanted) {
                        work.is_running = false;
                        return;
                    }
                    drop(work);
                    if let Err(error) = compress_all(&path, keep) {
                        let file = path.display();
                        warn!(file:%, error:%; "cannot compress old files of the {kind}");
                    }
                }
            });
        match started {
            Ok(_) => work.is_running = true,
            Err(error) => warn!(error:%; "cannot start the compression of the {}", self.kind),
        }
    }
}

/// Compresses every archive but the newest.
fn compress_all(path: &Path, keep: u32) -> io::Result<()> {
    for number in (2..=keep).rev() {
        let Some(source) = if_there(File::open(plain(path, number)))? else {
            continue;
        };
        if !compress(path, keep, &source)? {
            // Another process compresses them.
            return Ok(());
        }
    }
    Ok(())
}

/// Replaces an archive by its compressed form, under the number that it has by then. Returns false
/// if another process is compressing.
fn compress(path: &Path, keep: u32, source: &File) -> io::Result<bool> {
    let metadata = source.metadata()?;
    let unfinished = with_end(path, UNFINISHED);
    // What a crash left there is overwritten.
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(metadata.mode())
        .open(&unfinished)?;
    if flock(&target, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // Another process may have finished the file, and renamed it, before it was locked here.
    let is_current = fs::metadata(&unfinished)
        .is_ok_and(|current| target.metadata().is_ok_and(|open| is_same(&open, &current)));
    if !is_current {
        return Ok(false);
    }
    let done = compress_to(&target, &unfinished, path, keep, source, &metadata);
    if done.is_err() {
        // Half an archive must not stay on a disk that is full. If it cannot be removed, the next
        // compression overwrites it.
        drop(fs::remove_file(&unfinished));
    }
    done.map(|()| true)
}

/// Compresses an archive to `target`, the locked file at `unfinished`, and replaces it.
fn compress_to(
    target: &File,
    unfinished: &Path,
    path: &Path,
    keep: u32,
    source: &File,
    metadata: &Metadata,
) -> io::Result<()> {
    target.set_len(0)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut BufReader::with_capacity(1 << 16, source), &mut encoder)?;
    encoder.finish()?.flush()?;
    target.set_modified(metadata.modified()?)?;
    target.sync_all()?;
    let _lock = lock_folder(path)?;
    let number = (1..=keep).find(|number| {
        let plain_metadata = fs::metadata(plain(path, *number));
        plain_metadata.is_ok_and(|plain_metadata| is_same(&plain_metadata, metadata))
    });
    match number {
        Some(number) => {
            fs::rename(unfinished, compressed(path, number))?;
            fs::remove_file(plain(path, number))?;
        }
        // It was the oldest, and is gone.
        None => fs::remove_file(unfinished)?,
    }
    Ok(())
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Returns the text of each archive, decompressed by gzip itself.
    fn archives(path: &Path) -> Vec<(String, String)> {
        let folder = path.parent().unwrap();
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let read = |name: &OsString| {
            let path = folder.join(name);
            let output = Command::new("gzip")
                .arg("-dcf")
                .arg(&path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", path.display());
            String::from_utf8(output.stdout).unwrap()
        };
        names
            .iter()
            .map(|name| (name.to_string_lossy().into_owned(), read(name)))
            .collect()
    }

    fn expected(list: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(name, text): &(&str, &str)| (format!("access.log{name}"), text.to_string());
        list.iter().map(pair).collect()
    }

    #[test]
    fn the_youngest_is_number_one_and_surplus_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for round in 0..5 {
            fs::write(&path, format!("round {round}")).unwrap();
            shift(&path, 3).unwrap();
        }
        let three = [(".1", "round 4"), (".2", "round 3"), (".3", "round 2")];
        assert_eq!(archives(&path), expected(&three));
        fs::write(&path, "round 5").unwrap();
        shift(&path, 1).unwrap();
        assert_eq!(archives(&path), expected(&[(".1", "round 5")]));
    }

    #[test]
    fn archives_are_compressed_from_the_second_on_and_move_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for round in 0..5 {
            fs::write(&path, format!("round {round}")).unwrap();
            shift(&path, 3).unwrap();
            compress_all(&path, 3).unwrap();
        }
        let three = [
            (".1", "round 4"),
            (".2.gz", "round 3"),
            (".3.gz", "round 2"),
        ];
        assert_eq!(archives(&path), expected(&three));
    }

    #[test]
    fn an_archive_that_moved_meanwhile_is_found_under_its_new_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for (number, text) in [(1, "one"), (2, "two"), (3, "three")] {
            fs::write(plain(&path, number), text).unwrap();
        }
        let two = File::open(plain(&path, 2)).unwrap();
        let three = File::open(plain(&path, 3)).unwrap();
        shift(&path, 3).unwrap();
        // What a crash left behind.
        fs::write(with_end(&path, UNFINISHED), "half a file").unwrap();
        assert!(compress(&path, 3, &two).unwrap());
        assert!(compress(&path, 3, &three).unwrap());
        let left = [(".2", "one"), (".3.gz", "two")];
        assert_eq!(archives(&path), expected(&left));
    }

    #[test]
    fn a_failed_compression_leaves_the_archive_and_no_unfinished_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(plain(&path, 2), "two").unwrap();
        // A source that cannot be read in place of a disk that is full.
        let unreadable = File::options().write(true).open(plain(&path, 2)).unwrap();
        assert!(compress(&path, 7, &unreadable).is_err());
        assert_eq!(archives(&path), expected(&[(".2", "two")]));
    }

    #[test]
    fn two_processes_do_not_compress_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(plain(&path, 2), "two").unwrap();
        let other = File::create(with_end(&path, UNFINISHED)).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        compress_all(&path, 7).unwrap();
        assert!(plain(&path, 2).exists());
        drop(other);
        compress_all(&path, 7).unwrap();
        assert_eq!(archives(&path), expected(&[(".2.gz", "two")]));
    }
}
