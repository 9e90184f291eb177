//! The log of checks: a line of JSON each, in a file of bounded length.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

/// Length from which a file is set aside: some four months of checks each five minutes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Path of the file that was set aside last.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Appends a line in one write, so that two runs do not mix theirs.
pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    append_within(path, line, LONGEST)
}

fn append_within(path: &Path, line: &str, longest: u64) -> io::Result<()> {
    let length = fs::metadata(path).map_or(0, |data| data.len());
    if length >= longest {
        fs::rename(path, older(path))?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).open(path)?;
    // A full disk may have cut the last line: this one must not be part of it.
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    let end = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{end}{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_set_aside_and_no_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checks.log");
        for line in 0..10 {
            append_within(&path, &format!("line {line}"), 20).unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&older(&path)), "line 6\nline 7\nline 8\n");
        assert_eq!(read(&path), "line 9\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        // A line that was cut spoils no other.
        fs::write(&path, "line 9\nli").unwrap();
        append_within(&path, "line 11", 20).unwrap();
        assert_eq!(read(&path), "line 9\nli\nline 11\n");
    }
}
