//! Reads of files that other processes write: each one ends.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Bytes of a whole file, far more than any test writes.
const LARGEST: u64 = 256 << 20;

/// Reads a whole file as text. A device is none: `/dev/full` has no end.
pub(crate) fn read_text(file: impl AsRef<Path>) -> io::Result<String> {
    let file = file.as_ref();
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    let read = File::open(file)?.take(LARGEST).read_to_string(&mut text)?;
    assert!((read as u64) < LARGEST, "{} has no end", file.display());
    Ok(text)
}

/// Returns the last lines of a file: enough for a failed test, not a flood. A device has none: reading
/// `/dev/full` would not end.
pub(crate) fn tail(file: &Path) -> String {
    const LONGEST: u64 = 64 << 10;
    let Ok(mut file) = File::open(file) else {
        return String::new();
    };
    let length = match file.metadata() {
        Ok(of_file) if of_file.is_file() => of_file.len(),
        _ => return String::new(),
    };
    let mut end = Vec::new();
    let from = SeekFrom::Start(length.saturating_sub(LONGEST));
    if file
        .seek(from)
        .and_then(|_| file.take(LONGEST).read_to_end(&mut end))
        .is_err()
    {
        return String::new();
    }
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

#[test]
fn the_end_of_a_file_is_bounded_and_a_device_has_none() {
    assert_eq!(tail(Path::new("/dev/full")), "");
    assert!(read_text("/dev/full").is_err());
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let lines: Vec<String> = (0..100_000).map(|line| line.to_string()).collect();
    fs::write(&file, lines.join("\n")).expect("it can be written");
    assert_eq!(tail(file.path()), lines[99_940..].join("\n"));
    assert_eq!(
        read_text(file.path()).expect("it is a file"),
        lines.join("\n")
    );
}
