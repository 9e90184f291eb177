//! Files that a configuration names.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Size limit of a file that has no other one, in bytes.
pub const MAX_LEN: u64 = 16 << 20;

/// Opens a file. Another kind of file is an error: opening a pipe waits for its writer, and a device
/// may have no end. What a shell passes (`<(…)`) is a file here.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if is_passed(path) {
        return options.open(path);
    }
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

/// Returns true for a file that the program that started this one has opened.
pub fn is_passed(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    let number = ["/dev/fd/", "/proc/self/fd/"]
        .iter()
        .find_map(|folder| text.strip_prefix(folder));
    text == "/dev/stdin" || number.is_some_and(|it| it.parse::<u16>().is_ok())
}

/// Reads a file of at most `max` bytes, as [`open`] takes it.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

/// Reads a text as [`read`] does.
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let bytes = read(path, max)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Invariant: no file that a configuration names blocks its reader.
    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (text, pipe) = (folder.path().join("text"), folder.path().join("pipe"));
        std::fs::write(&text, "four").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read_text(&text, 4).unwrap(), "four");
        for (path, max, why) in [
            (text.as_path(), 3, "it is larger than 3 bytes"),
            (&pipe, 4, "it is no regular file"),
            (folder.path(), 4, "it is no regular file"),
            (Path::new("/dev/zero"), 4, "it is no regular file"),
        ] {
            assert_eq!(read(path, max).unwrap_err().to_string(), why);
        }
    }
}
