//! The configuration that served last, stored apart from its files, to start from when those are
//! broken: `edgeway run --last-good`.
//!
//! The state folder has one bundle per configuration path, readable by our own user only. It
//! contains the texts as written, without values of the environment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Local, SecondsFormat};
use edgeway_base::{clock::Clock, error::chain, private_file};
use edgeway_config::source::{SourceTexts, Sources};
use log::{debug, warn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::state_folder::{own_path, state_folder};

/// Stored copy of a configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct LastGood {
    /// The main file, as an absolute path.
    path: PathBuf,
    /// When the configuration began to serve, in seconds since 1970.
    since: u64,
    pub kept: SourceTexts,
}

/// Why there is no stored configuration, or why it cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    #[error("no folder for it: neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set")]
    NoFolder,
    #[error("cannot write `{}`", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("there is none in `{}`", .0.display())]
    None(PathBuf),
    #[error("cannot read `{}`", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("`{}` is broken", .0.display())]
    Broken(PathBuf, #[source] serde_json::Error),
}

/// Stores the texts of the configuration at `path`, which serves now. Blocks. An obstacle is logged
/// once, and has no other effect.
pub fn keep(path: &Path, sources: &Sources) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let folder = state_folder(path)
        .ok_or(LastGoodError::NoFolder)
        .and_then(|state| write(&state, path, sources, Clock::default().wall()));
    match folder {
        Ok(file) => {
            REPORTED.store(false, Ordering::Relaxed);
            debug!(file:?; "configuration stored for `--last-good`");
        }
        Err(error) if REPORTED.swap(true, Ordering::Relaxed) => {
            debug!(error:% = chain(&error); "cannot store the configuration for `--last-good`");
        }
        Err(error) => {
            warn!(error:% = chain(&error); "cannot store the configuration for `--last-good`");
        }
    }
}

/// Same as [`keep`], on a thread that may block.
pub async fn keep_later(path: PathBuf, sources: Arc<Sources>) {
    let (stored, done) = tokio::sync::oneshot::channel();
    // Tokio's own threads panic where the system has no more.
    let thread = std::thread::Builder::new().spawn(move || {
        keep(&path, &sources);
        let _gone = stored.send(());
    });
    match thread {
        Ok(_) => {
            let _ended = done.await;
        }
        Err(error) => warn!(error:%; "configuration not stored for `--last-good`"),
    }
}

/// Finds the stored copy of the configuration at `path`.
pub fn find(path: &Path) -> Result<LastGood, LastGoodError> {
    let state = state_folder(path).ok_or(LastGoodError::NoFolder)?;
    read(&state, path)
}

impl LastGood {
    /// When the configuration began to serve, for display.
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
    let kept = SourceTexts::new(sources);
    let bundle = LastGood { path, since, kept };
    let bytes = serde_json::to_vec(&bundle).expect("plain data");
    let written = private_file::make_folder(&folder_of(state))
        .and_then(|()| private_file::write(&file, &bytes));
    match written {
        Ok(()) => Ok(file),
        Err(error) => Err(LastGoodError::Write(file, error)),
    }
}

fn read(state: &Path, path: &Path) -> Result<LastGood, LastGoodError> {
    let path = own_path(path);
    let file = file_of(state, &path);
    let none = || LastGoodError::None(folder_of(state));
    let bytes = match private_file::if_there(std::fs::read(&file)) {
        Ok(bytes) => bytes.ok_or_else(none)?,
        Err(error) => return Err(LastGoodError::Read(file, error)),
    };
    match serde_json::from_slice::<LastGood>(&bytes) {
        Ok(kept) if kept.path == path => Ok(kept),
        Ok(_) => Err(none()),
        Err(error) => Err(LastGoodError::Broken(file, error)),
    }
}

fn folder_of(state: &Path) -> PathBuf {
    state.join("last-good")
}

/// Path of the bundle: the file's own name for people, and a digest that makes it unique.
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
    fn the_stored_configuration_is_found_by_any_name_of_its_file_and_no_other() {
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
            assert_eq!(
                found.kept,
                SourceTexts::new(&sources("a: ${SECRET}")),
                "{name}"
            );
            assert_eq!(found.since, 24 * 3600);
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for name in ["conf/other.yaml", "edgeway.yaml"] {
            let found = read(&state, &folder.path().join(name));
            assert!(matches!(found, Err(LastGoodError::None(_))), "{name}");
        }
        fs::write(&file, "{").unwrap();
        let found = read(&state, &path);
        assert!(matches!(found, Err(LastGoodError::Broken(..))));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::write(&state, "a file").unwrap();
        let path = folder.path().join("edgeway.yaml");
        let error = write(&state, &path, &sources(""), UNIX_EPOCH).unwrap_err();
        let message = chain(&error);
        assert!(message.starts_with("cannot write `"), "{message}");
    }
}
