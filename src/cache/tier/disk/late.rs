//! Purges of a process that has let go of its folder and finishes what it has under way: it
//! leaves them beside, and whoever has the folder takes them up.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::super::stamps::Stamp;
use crate::base::private_file;

/// Gives the file that is there until somebody has taken it up.
pub(super) fn leave(folder: &Path, stamps: &[Stamp]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{:032x}", fastrand::u128(..)));
    let payload = postcard::to_allocvec(stamps).expect("stamps are plain data");
    let mut bytes = crc32fast::hash(&payload).to_be_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    private_file::write(&path, &bytes)?;
    Ok(path)
}

/// Everything that was left. What cannot be read may have been a purge of anything.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<Stamp>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // It is being written; or its writer has died, and with it whoever waited for it.
        if path.extension().is_some() {
            continue;
        }
        let stamps = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => decode(&bytes?).unwrap_or_else(|| vec![Stamp::All]),
        };
        found.push((path, stamps));
    }
    Ok(found)
}

fn decode(bytes: &[u8]) -> Option<Vec<Stamp>> {
    let (checksum, payload) = bytes.split_first_chunk()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(payload) {
        return None;
    }
    postcard::from_bytes(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found_and_what_is_damaged_is_everything() {
        let folder = tempfile::tempdir().unwrap();
        let stamps = vec![
            Stamp::Everywhere([3; 16]),
            Stamp::Prefix(b"/a".as_slice().into()),
        ];
        let path = leave(folder.path(), &stamps).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [(path.clone(), stamps)]);
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let found = read(folder.path()).unwrap();
            assert_eq!(found, [(path.clone(), vec![Stamp::All])], "{cut}");
        }
        fs::rename(&path, path.with_extension("1.new")).unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
    }
}
