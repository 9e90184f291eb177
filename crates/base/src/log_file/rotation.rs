//! Rotation of log files: when it is due, and the renaming of archives.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Rotation rules, and how many archives to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// Rotate at each multiple of this span since 1970, UTC.
    pub every: Option<Duration>,
    /// Rotate before the file would grow larger.
    pub size: Option<u64>,
    /// Archives to keep, at least 1.
    pub keep: u32,
}

impl RotationPolicy {
    /// No rotation: another program does it, or there is nothing to rotate.
    pub const NEVER: Self = Self {
        every: None,
        size: None,
        keep: 1,
    };

    /// Returns the number of the period that contains a moment.
    pub fn period(&self, since_epoch: Duration) -> u64 {
        self.every
            .map_or(0, |every| since_epoch.as_secs() / every.as_secs().max(1))
    }
}

/// Moves `path` to `path.1`, the old `path.1` to `path.2`, and so on; number `keep + 1` is deleted.
///
/// Goes from the oldest to the youngest, so that a crash midway leaves a gap in the numbers and
/// loses nothing.
pub(super) fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let mut surplus = keep + 1;
    while forgive_missing(std::fs::remove_file(archive(path, surplus)))? {
        surplus += 1;
    }
    for number in (1..keep).rev() {
        forgive_missing(std::fs::rename(
            archive(path, number),
            archive(path, number + 1),
        ))?;
    }
    forgive_missing(std::fs::rename(path, archive(path, 1)))?;
    Ok(())
}

/// Returns true if there was a file to act on.
fn forgive_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn archive(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_youngest_is_number_one_and_surplus_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for round in 0..5 {
            std::fs::write(&path, format!("round {round}")).unwrap();
            shift(&path, 3).unwrap();
        }
        let read = |number| std::fs::read_to_string(archive(&path, number)).ok();
        assert_eq!(read(1).as_deref(), Some("round 4"));
        assert_eq!(read(2).as_deref(), Some("round 3"));
        assert_eq!(read(3).as_deref(), Some("round 2"));
        assert_eq!(read(4), None);
        assert!(!path.exists());

        std::fs::write(&path, "round 5").unwrap();
        shift(&path, 1).unwrap();
        assert_eq!(read(1).as_deref(), Some("round 5"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn days_turn_at_midnight_utc() {
        let rotation = RotationPolicy {
            every: Some(Duration::from_hours(24)),
            size: None,
            keep: 7,
        };
        let period = |secs| rotation.period(Duration::from_secs(secs));
        assert_eq!(period(86_399), 0);
        assert_eq!(period(86_400), 1);
    }
}
