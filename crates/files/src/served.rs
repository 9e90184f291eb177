//! A file that is served: its representations, their validators and their content.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use edgeway_base::http::number;
use http::{HeaderMap, HeaderValue, header};
use rustix::fs::{FileType, fstat};

use crate::{
    base::encoding::Encoding, body, conditions::last_modified,
    config::model::IfModifiedSinceConfig, segment::Transfer,
};

/// Size up to which the content of a file is kept in memory, instead of a file descriptor.
pub(crate) const SMALL: u64 = 16 * 1024;

/// Age from which a file's modification time identifies its content: a file may be written twice
/// within a second.
const SETTLED: Duration = Duration::from_secs(2);

/// A file with everything that responses from it have in common. Never changes: a file that was
/// written meanwhile is another one.
#[derive(Debug)]
pub struct ServedFile {
    pub(crate) plain: Representation,
    /// Compressed files beside it, in the order of preference.
    pub(crate) encoded: Box<[(Encoding, Representation)]>,
    /// Dates of `If-Modified-Since` that confirm a client's copy.
    pub(crate) dates: IfModifiedSinceConfig,
    /// True if a 206 has `Accept-Ranges`.
    pub(crate) announces_parts: bool,
}

/// Bytes that a client gets, with the headers of a complete response.
#[derive(Debug)]
pub(crate) struct Representation {
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    pub(crate) stamp: FileStamp,
}

#[derive(Debug)]
pub(crate) enum Content {
    Memory(Bytes),
    Open(Arc<OwnedFd>, Transfer),
}

/// State of a file on disk, compared to notice that it was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    number: u64,
    pub(crate) size: u64,
    pub(crate) seconds: i64,
    nanos: i64,
    /// Seconds and nanoseconds of the last change of any kind. A file that was written in place may
    /// have the same size and modification time as before, one that was only renamed another time
    /// of change.
    changed: (i64, i64),
    /// True if the file was written so recently that it may be written again within its tick.
    is_young: bool,
}

/// Type of what is at a path.
pub(crate) enum FileKind {
    File(FileStamp),
    Folder,
    /// A device, pipe or socket, none of which is served.
    Other,
}

impl FileStamp {
    /// Reads the state of an open file.
    #[allow(
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the types differ between systems"
    )]
    pub(crate) fn read(fd: &OwnedFd, wall: SystemTime) -> io::Result<FileKind> {
        let stat = fstat(fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(FileKind::Folder),
            _ => return Ok(FileKind::Other),
        }
        let seconds = stat.st_mtime as i64;
        let settled = wall.checked_sub(SETTLED).unwrap_or(SystemTime::UNIX_EPOCH);
        let settled = settled.duration_since(SystemTime::UNIX_EPOCH);
        let settled = settled.unwrap_or_default().as_secs();
        Ok(FileKind::File(Self {
            device: stat.st_dev as u64,
            number: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            seconds,
            nanos: stat.st_mtime_nsec as i64,
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            is_young: u64::try_from(seconds).is_ok_and(|seconds| seconds > settled),
        }))
    }

    /// Returns true if the file still has the content of when this was read.
    pub(crate) fn has_same_content(&self, other: &Self) -> bool {
        let content = |of: &Self| (of.device, of.number, of.size, of.seconds, of.nanos);
        content(self) == content(other)
    }

    /// Modification time in whole seconds. `None` for times that say nothing about the content:
    /// some package managers and image builders set all files to the first second of 1970.
    pub(crate) fn modified(&self) -> Option<u64> {
        u64::try_from(self.seconds)
            .ok()
            .filter(|seconds| *seconds > 1)
    }

    /// Modification time in milliseconds, rounded as Node.js does.
    fn millis(&self) -> i64 {
        self.seconds
            .saturating_mul(1000)
            .saturating_add((self.nanos + 500_000) / 1_000_000)
    }

    /// Returns the entity tag, which is that of nginx: modification time and size. A file that was
    /// just written has a longer one.
    fn etag(&self) -> Option<String> {
        let seconds = self.modified()?;
        let (size, nanos) = (self.size, self.nanos);
        Some(if self.is_young {
            format!("\"{seconds:x}-{size:x}-{nanos:x}\"")
        } else {
            format!("\"{seconds:x}-{size:x}\"")
        })
    }
}

impl Representation {
    /// Reads what is needed to serve the open file `fd`. May block.
    pub(crate) fn from_file(
        fd: OwnedFd,
        stamp: FileStamp,
        transfer: Transfer,
        common: &HeaderMap,
    ) -> io::Result<Self> {
        let mut headers = common.clone();
        if let Some(etag) = stamp
            .etag()
            .and_then(|etag| HeaderValue::try_from(etag).ok())
        {
            headers.insert(header::ETAG, etag);
        }
        if let Some(date) = stamp.modified().and_then(last_modified) {
            headers.insert(header::LAST_MODIFIED, date);
        }
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, number(stamp.size));
        let content = if stamp.size <= SMALL {
            let content = body::read_whole(&fd, stamp.size)?;
            body::check(&fd, &stamp)?;
            Content::Memory(content)
        } else {
            // A file that is being written is copied, so that what was sent stays as it was.
            let transfer = if stamp.is_young {
                Transfer::Copy
            } else {
                transfer
            };
            Content::Open(Arc::new(fd), transfer)
        };
        Ok(Self {
            headers,
            content,
            stamp,
        })
    }

    pub(crate) fn etag(&self) -> Option<&HeaderValue> {
        self.headers.get(header::ETAG)
    }

    /// Makes the entity tag differ from that of another encoding of the same size and age.
    pub(crate) fn extend_etag(&mut self, encoding: &str) {
        let tag = self.etag().and_then(|tag| tag.to_str().ok());
        let tag = tag.map(|tag| format!("{}-{encoding}\"", tag.trim_end_matches('"')));
        if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
            self.headers.insert(header::ETAG, tag);
        }
    }
}

impl ServedFile {
    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.plain.stamp.size
    }

    /// Returns the modification time in milliseconds since 1970.
    pub fn modified_millis(&self) -> i64 {
        self.plain.stamp.millis()
    }

    /// Reads the whole file, and fails if it has changed. May block.
    pub fn read(&self) -> io::Result<Bytes> {
        match &self.plain.content {
            Content::Memory(content) => Ok(content.clone()),
            Content::Open(fd, _) => {
                let content = body::read_whole(fd, self.size())?;
                body::check(fd, &self.plain.stamp)?;
                Ok(content)
            }
        }
    }

    /// Returns true if neither the file nor a compressed one beside it has changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.plain.stamp == other.plain.stamp
            && self.encoded.len() == other.encoded.len()
            && self
                .encoded
                .iter()
                .zip(&other.encoded)
                .all(|(own, other)| own.0 == other.0 && own.1.stamp == other.1.stamp)
    }
}
