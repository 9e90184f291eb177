//! The journal: a file that keeps the record of purges across restarts.
//!
//! The file has its full size from the beginning, filled with zeros. So a full disk still takes
//! purges, an append changes no file length that would have to be synced too, and a file of another
//! length is truncated. Records follow one another, each with its length and checksum; the first
//! length of zero is the end. A file with any error counts as lost, and all entries with it: the
//! missing part may have been a purge of any of them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bytes::Buf;
use edgeway_base::system;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{super::stamps::Digest, open::remove_file};
use crate::purge::Position;

const MAGIC: &[u8; 8] = b"EDGEWAY1";
/// The magic and the length of the file.
const HEAD: usize = 16;
/// Length and checksum of a record.
const FRAME: usize = 8;
/// Room for one last record if the file is full and no other can be created.
const RESERVE: u64 = 64;

/// A record of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Record {
    /// The first record. Entries stored under another id belong to another journal; those with a
    /// position below `floor` count as purged.
    Begin {
        id: u128,
        position: u64,
        floor: u64,
    },
    Digest(u64, Digest),
    Prefix(u64, Box<[u8]>),
    All(u64),
    /// Fields in the `Vary` of responses.
    Vary(Vec<String>),
    /// Position in the log of purges up to which all purges are recorded here.
    Followed(Position),
    /// Same as `Digest`, recorded for a write to a host of this region.
    Written(u64, u8, Digest),
}

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Offset of the next record.
    at: u64,
    size: u64,
    /// Folder of a new file, until its name there is durable.
    unnamed_in: Option<File>,
}

/// Reasons why nothing was appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// No room left: the journal has to be rewritten without obsolete records.
    Full,
    Io(io::Error),
}

impl Journal {
    /// Opens a journal, with its records; `None` if it is missing, truncated or changed.
    pub(super) fn open(path: &Path) -> io::Result<Option<(Self, Vec<Record>)>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            opened => opened?,
        };
        let bytes = fs::read(path)?;
        let Some((records, end)) = read(&bytes) else {
            return Ok(None);
        };
        let journal = Self {
            file,
            at: end,
            size: bytes.len() as u64,
            unnamed_in: None,
        };
        Ok(Some((journal, records)))
    }

    /// Replaces the journal by a new one: either the new one is complete, or, after an error, the
    /// old one stays. Which of them survives a power failure is undefined until [`Journal::sync`].
    pub(super) fn create(path: &Path, size: u64, records: &[Record]) -> io::Result<Self> {
        let partial = path.with_extension("new");
        remove_file(&partial)?;
        let mut bytes = Vec::from(*MAGIC);
        bytes.extend_from_slice(&size.to_be_bytes());
        for record in records {
            frame(&mut bytes, record);
        }
        let end = bytes.len() as u64;
        if end + RESERVE > size {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // Nothing may fail after the rename: the caller would continue to write to the old file,
        // which has no name any more.
        let outcome = path
            .parent()
            .map(File::open)
            .transpose()
            .and_then(|folder| {
                let file = write_new(&partial, size, &bytes)?;
                fs::rename(&partial, path)?;
                Ok((file, folder))
            });
        if outcome.is_err() {
            // The error that matters is the returned one.
            let _removed = fs::remove_file(&partial);
        }
        let (file, unnamed_in) = outcome?;
        Ok(Self {
            file,
            at: end,
            size,
            unnamed_in,
        })
    }

    /// Appends records. After an error the journal is as if they had not been written.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), AppendError> {
        self.append_within(records, self.size - RESERVE)
    }

    /// Records that everything is purged, in the reserved room.
    pub(super) fn append_last(&mut self, position: u64) -> Result<(), AppendError> {
        self.append_within(&[Record::All(position)], self.size)
    }

    fn append_within(&mut self, records: &[Record], max: u64) -> Result<(), AppendError> {
        let mut bytes = Vec::new();
        for record in records {
            frame(&mut bytes, record);
        }
        if self.at + bytes.len() as u64 > max {
            return Err(AppendError::Full);
        }
        // The next append overwrites the remains of a failed one.
        self.file
            .write_all_at(&bytes, self.at)
            .map_err(AppendError::Io)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all records survive a power failure.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if let Some(folder) = &self.unnamed_in {
            folder.sync_all()?;
            self.unnamed_in = None;
        }
        Ok(())
    }
}

fn write_new(path: &Path, size: u64, bytes: &[u8]) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    match system::reserve(&file, size) {
        // A file system that cannot reserve room may still have it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size)?,
        outcome => outcome?,
    }
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    Ok(file)
}

fn frame(bytes: &mut Vec<u8>, record: &Record) {
    let payload = postcard::to_allocvec(record).expect("records are plain data");
    let len = u32::try_from(payload.len()).expect("records are short");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
    bytes.extend_from_slice(&payload);
}

/// Returns the records and the offset where they end; `None` if anything is wrong.
pub(super) fn read(bytes: &[u8]) -> Option<(Vec<Record>, u64)> {
    if bytes.len() < HEAD || &bytes[..8] != MAGIC {
        return None;
    }
    if bytes[8..HEAD] != (bytes.len() as u64).to_be_bytes() {
        return None;
    }
    let mut records = Vec::new();
    let mut offset = HEAD;
    while let Some(mut frame) = bytes.get(offset..offset + FRAME) {
        let (len, checksum) = (frame.get_u32() as usize, frame.get_u32());
        if len == 0 {
            break;
        }
        let payload = bytes.get(offset + FRAME..(offset + FRAME).checked_add(len)?)?;
        if crc32fast::hash(payload) != checksum {
            return None;
        }
        records.push(postcard::from_bytes(payload).ok()?);
        offset += FRAME + len;
    }
    // Behind the end there are only zeros, unless an append was cut off: then it is unknown how
    // many records it had.
    let is_clean = bytes[offset..].iter().all(|byte| *byte == 0);
    is_clean.then_some((records, offset as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_is_written_to_even_where_its_name_may_be_lost() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        let begin = Record::Begin {
            id: 1,
            position: 1,
            floor: 0,
        };
        let mut old = Journal::create(&path, 1024, std::slice::from_ref(&begin)).unwrap();
        old.sync().unwrap();
        let mut new = Journal::create(&path, 1024, std::slice::from_ref(&begin)).unwrap();
        // A folder that cannot be synced.
        let folder = new.unnamed_in.replace(File::open("/proc").unwrap());
        assert!(new.sync().is_err() && new.sync().is_err());
        new.append_last(7).unwrap();
        old.append_last(5).unwrap();
        let Some((_, found)) = Journal::open(&path).unwrap() else {
            panic!("it is complete");
        };
        assert_eq!(found, [begin.clone(), Record::All(7)]);
        new.unnamed_in = folder;
        new.sync().unwrap();
        // A journal that cannot be created leaves the existing one.
        fs::create_dir(path.with_extension("new")).unwrap();
        assert!(Journal::create(&path, 1024, &[begin]).is_err());
        new.append_last(8).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(read(&bytes).unwrap().0.last(), Some(&Record::All(8)));
    }
}
