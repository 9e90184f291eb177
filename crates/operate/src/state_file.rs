//! Small state of commands that timers run again and again: a JSON file, and a lock beside it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use edgeway_base::private_file;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::sleep;

/// Interval between two attempts to lock.
const POLL: Duration = Duration::from_millis(100);

/// Longest time for which another run is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until no other run uses the file, and keeps others out until the lock is dropped.
pub(crate) async fn lock(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let failed = |error: io::Error| format!("cannot lock `{shown}`: {error}");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = File::create(path.with_extension("lock")).map_err(failed)?;
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(POLL).await,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let patience = PATIENCE.as_secs();
    Err(format!(
        "another run still uses `{shown}` after {patience} s: wait for its end"
    ))
}

/// Reads the state; the default if there is no file.
pub(crate) fn read<T: Default + DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = private_file::if_there(fs::read_to_string(path));
    let path = path.display();
    let Some(text) = text.map_err(|error| format!("cannot read `{path}`: {error}"))? else {
        return Ok(T::default());
    };
    serde_json::from_str(&text).map_err(|error| format!("cannot read `{path}`: {error}; remove it"))
}

/// Replaces the file as a whole: a reader sees the old state or the new one, after a crash too. Dry
/// runs of other users may read it.
pub(crate) fn write(path: &Path, state: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string(state).expect("plain data");
    private_file::write_with_mode(path, text.as_bytes(), 0o644)
        .map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}
