//! The configuration that served last, kept outside of its files, to start from when those
//! are broken: `edgeway run --last-good`.
//!
//! One bundle for each configuration path, in the state folder, for our own user only. It
//! has the texts as they were written: values of the environment are not in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Local, SecondsFormat};
use log::{debug, warn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::state_folder::{own_path, state_folder};
use crate::{
    base::{clock::Clock, error::chain, private_file},
    config::source::{Kept, Sources},
};

/// What is kept of one configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct LastGood {
    /// The main file, absolute.
    path: PathBuf,
    /// When it began to serve, in seconds since 1970.
    since: u64,
    pub kept: Kept,
}

/// Why there is nothing to start from, or why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    #[error(
        "no folder for it is known: neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set"
    )]
    NoFolder,
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is none in `{}`", folder.display())]
    None { folder: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is broken", path.display())]
    Broken {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Keeps the texts of the configuration at `path`, which serves now. Blocks. What stands in
/// the way is told once, and is no reason for anything else.
pub fn keep(path: &Path, sources: &Sources) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let kept = state_folder(path)
        .ok_or(LastGoodError::NoFolder)
        .and_then(|state| write(&state, path, sources, Clock::default().wall()));
    match kept {
        Ok(file) => {
            TOLD.store(false, Ordering::Relaxed);
            debug!(file:?; "the configuration is kept for `--last-good`");
        }
        Err(error) if TOLD.swap(true, Ordering::Relaxed) => {
            debug!(error:% = chain(&error); "the configuration cannot be kept for `--last-good`");
        }
        Err(error) => {
            warn!(error:% = chain(&error); "the configuration cannot be kept for `--last-good`");
        }
    }
}

/// As [`keep`], on a thread that may block.
pub async fn keep_later(path: PathBuf, sources: Sources) {
    let kept = tokio::task::spawn_blocking(move || keep(&path, &sources)).await;
    if let Err(error) = kept {
        warn!(error:%; "the configuration was not kept for `--last-good`");
    }
}

/// What was kept of the configuration at `path`.
pub fn find(path: &Path) -> Result<LastGood, LastGoodError> {
    let state = state_folder(path).ok_or(LastGoodError::NoFolder)?;
    read(&state, path)
}

impl LastGood {
    /// When it began to serve, for people.
    pub fn since(&self) -> String {
        let since = UNIX_EPOCH + Duration::from_secs(self.since);
        DateTime::<Local>::from(since).to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

fn write(
    state: &Path,
    path: &Path,
    sources: &Sources,
    now: SystemTime,
) -> Result<PathBuf, LastGoodError> {
    let path = own_path(path);
    let file = file_of(state, &path);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = Kept::new(sources);
    let bundle = LastGood { path, since, kept };
    let bytes = serde_json::to_vec(&bundle).expect("plain data");
    let written = private_file::make_folder(&folder_of(state))
        .and_then(|()| private_file::write(&file, &bytes));
    match written {
        Ok(()) => Ok(file),
        Err(source) => Err(LastGoodError::Write { path: file, source }),
    }
}

fn read(state: &Path, path: &Path) -> Result<LastGood, LastGoodError> {
    let path = own_path(path);
    let file = file_of(state, &path);
    let none = || LastGoodError::None {
        folder: folder_of(state),
    };
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        Err(source) => return Err(LastGoodError::Read { path: file, source }),
    };
    match serde_json::from_slice::<LastGood>(&bytes) {
        Ok(found) if found.path == path => Ok(found),
        Ok(_) => Err(none()),
        Err(source) => Err(LastGoodError::Broken { path: file, source }),
    }
}

fn folder_of(state: &Path) -> PathBuf {
    state.join("last-good")
}

/// The file's own name, for people, and what tells it from others of that name.
fn file_of(state: &Path, path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
    let digest = digest
        .as_ref()
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first));
    let name: String = name.chars().take(60).collect();
    folder_of(state).join(format!("{name}-{digest:016x}.json"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn sources(text: &str) -> Sources {
        Sources {
            files: vec![("edgeway.yaml".into(), text.to_owned())],
            ..Sources::default()
        }
    }

    #[test]
    fn what_is_kept_is_found_by_any_name_of_its_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (state, conf) = (folder.path().join("state"), folder.path().join("conf"));
        fs::create_dir(&conf).unwrap();
        std::os::unix::fs::symlink(&conf, folder.path().join("link")).unwrap();
        let path = conf.join("edgeway.yaml");
        let at = UNIX_EPOCH + Duration::from_hours(24);
        write(&state, &path, &sources("a: 1"), at).unwrap();
        let file = write(&state, &path, &sources("a: ${SECRET}"), at).unwrap();
        for name in [
            "conf/edgeway.yaml",
            "link/edgeway.yaml",
            "conf/../conf/edgeway.yaml",
        ] {
            let found = read(&state, &folder.path().join(name)).unwrap();
            assert_eq!(found.kept, Kept::new(&sources("a: ${SECRET}")), "{name}");
            assert_eq!(found.since, 24 * 3600);
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for name in ["conf/other.yaml", "edgeway.yaml"] {
            let found = read(&state, &folder.path().join(name));
            assert!(matches!(found, Err(LastGoodError::None { .. })), "{name}");
        }
        fs::write(&file, "{").unwrap();
        let found = read(&state, &path);
        assert!(matches!(found, Err(LastGoodError::Broken { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::write(&state, "a file").unwrap();
        let path = folder.path().join("edgeway.yaml");
        let error = write(&state, &path, &sources(""), UNIX_EPOCH).unwrap_err();
        let told = chain(&error);
        assert!(told.starts_with("cannot write `"), "{told}");
    }
}
