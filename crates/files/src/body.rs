//! The bytes of a file, read in chunks as the client takes them.
//!
//! Only one chunk is in memory at a time. What the kernel has in its cache is read at once, anything else
//! on a thread that may block. A caller with a plain socket takes [`FileBody::segment`]s instead,
//! which are not read at all, and then the end of the file as a chunk.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use edgeway_base::system;
use rustix::io::pread;

use crate::{
    blocking,
    segment::{self, PAGE, SEGMENT, Segment, SentSegment, Transfer},
    served::{Content, FileKind, FileStamp, Representation},
};

/// Size of a chunk. It is also the memory that a slow reader occupies.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Time for which the kernel is taken to keep what it had in its cache.
const STAYS_CACHED: Duration = Duration::from_millis(100);

/// Body of a response from a file.
#[derive(Debug)]
pub struct FileBody {
    source: BodySource,
    at: u64,
    end: u64,
}

#[derive(Debug)]
enum BodySource {
    Memory(Bytes),
    Open {
        file: Arc<OwnedFd>,
        stamp: FileStamp,
        transfer: Transfer,
        /// End of what the kernel had in its cache, and the time of that, if it is known.
        cached: (u64, Option<Instant>),
        /// First chunk, which was read before the headers were sent.
        first: Option<Bytes>,
        /// Buffer of the last chunk, used again once nobody else reads it.
        used: Option<Bytes>,
    },
}

impl FileBody {
    /// Prepares the bytes from `start` up to `end` of `of`.
    pub(crate) fn new(of: &Representation, start: u64, end: u64) -> Self {
        let source = match &of.content {
            Content::Memory(bytes) => BodySource::Memory(bytes.clone()),
            Content::Open(file, transfer) => BodySource::Open {
                file: Arc::clone(file),
                stamp: of.stamp,
                // One write of headers and body costs less than two calls.
                transfer: if end - start > CHUNK as u64 {
                    *transfer
                } else {
                    Transfer::Copy
                },
                cached: (0, None),
                first: None,
                used: None,
            },
        };
        Self {
            source,
            at: start,
            end,
        }
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.source, BodySource::Memory(_))
    }

    /// Number of bytes that are left to send.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// Reads the first chunk now, or has the kernel read it. An error means that the file has
    /// changed since it was opened, or cannot be read; no part of a response is sent yet.
    pub async fn begin(&mut self) -> io::Result<()> {
        if let BodySource::Open {
            file,
            stamp,
            transfer: Transfer::Sendfile,
            cached,
            ..
        } = &mut self.source
        {
            let end = self.end.min(self.at + CHUNK as u64);
            segment::warm(file, self.at, end).await?;
            *cached = (end, None);
            return check(file, stamp);
        }
        if let BodySource::Open { .. } = self.source {
            let at = self.at;
            let chunk = self.next().await?;
            self.at = at;
            if let BodySource::Open { first, .. } = &mut self.source {
                *first = Some(chunk);
            }
        }
        Ok(())
    }

    /// Returns the next part that is sent without being read. `None` if the rest is to be read: it
    /// always has at least one byte, so that the file is compared with what was sent of it before
    /// the response is complete.
    ///
    /// # Errors
    /// Fails as [`Self::next`] does.
    pub async fn segment(&mut self, now: Instant) -> io::Result<Option<Segment>> {
        let BodySource::Open {
            file,
            transfer: Transfer::Sendfile,
            cached,
            ..
        } = &mut self.source
        else {
            return Ok(None);
        };
        let end = self.end.saturating_sub(1) / PAGE * PAGE;
        if end <= self.at {
            return Ok(None);
        }
        if let (until, Some(since)) = *cached
            && until > self.at
            && now.saturating_duration_since(since) < STAYS_CACHED
        {
            return Ok(Some(Segment::new(file, self.at, until.min(end))));
        }
        let end = end.min(self.at + SEGMENT);
        // Right after `begin`, its part is known.
        let known = if cached.1.is_none() { cached.0 } else { 0 };
        segment::warm(file, self.at.max(known), end).await?;
        *cached = (end, Some(now));
        Ok(Some(Segment::new(file, self.at, end)))
    }

    /// Records what was sent of the last segment.
    ///
    /// # Errors
    /// Fails if the file has changed: the response is then to be broken off.
    pub fn sent(&mut self, sent: SentSegment) -> io::Result<()> {
        self.at += sent.bytes;
        let BodySource::Open {
            file,
            stamp,
            transfer,
            ..
        } = &mut self.source
        else {
            return Ok(());
        };
        if sent.is_refused {
            *transfer = Transfer::Copy;
        }
        check(file, stamp)
    }

    /// Returns the next chunk, which is empty at the end.
    ///
    /// # Errors
    /// Fails if the file is shorter than it was, was written meanwhile, or cannot be read. The
    /// response is then to be broken off: its length and its beginning belong to another content.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        let left = self.end - self.at;
        let chunk = match &mut self.source {
            BodySource::Memory(bytes) => slice(bytes, self.at, self.end),
            BodySource::Open { .. } if left == 0 => Bytes::new(),
            BodySource::Open {
                file,
                stamp,
                first,
                used,
                ..
            } => {
                if let Some(first) = first.take() {
                    first
                } else {
                    let size = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                    let mut buffer = match used.take().map(Bytes::try_into_mut) {
                        Some(Ok(buffer)) if buffer.len() >= size => buffer,
                        _ => BytesMut::zeroed(size),
                    };
                    let ready = read_ready(file, &mut buffer[..size], self.at, stamp)?;
                    let (buffer, read) = match ready {
                        Some(read) => (buffer, read),
                        None => read_blocking(file, buffer, size, self.at, *stamp).await?,
                    };
                    let whole = buffer.freeze();
                    let chunk = whole.slice(..read);
                    *used = Some(whole);
                    chunk
                }
            }
        };
        self.at += chunk.len() as u64;
        Ok(chunk)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "both are within memory")]
fn slice(bytes: &Bytes, start: u64, end: u64) -> Bytes {
    bytes.slice(start as usize..end as usize)
}

pub(crate) fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file has changed while it was sent",
    )
}

/// Checks that the file still has the content it had when it was opened.
pub(crate) fn check(file: &OwnedFd, stamp: &FileStamp) -> io::Result<()> {
    match FileStamp::read(file, SystemTime::UNIX_EPOCH)? {
        FileKind::File(now) if now.has_same_content(stamp) => Ok(()),
        _ => Err(changed()),
    }
}

/// Checks the same after `read` bytes of it were read, and that it has not ended.
fn check_read(file: &OwnedFd, read: usize, stamp: &FileStamp) -> io::Result<usize> {
    check(file, stamp)?;
    if read == 0 { Err(changed()) } else { Ok(read) }
}

/// Reads what the kernel has in memory, and checks that it is of the same content. `None` if it
/// would have to wait for it.
fn read_ready(
    file: &OwnedFd,
    buffer: &mut [u8],
    offset: u64,
    stamp: &FileStamp,
) -> io::Result<Option<usize>> {
    match read_cached(file, buffer, offset)? {
        Some(read) => check_read(file, read, stamp).map(Some),
        None => Ok(None),
    }
}

/// Reads what the kernel has in memory. `None` if it would have to wait for it.
pub(crate) fn read_cached(file: &OwnedFd, buffer: &mut [u8], at: u64) -> io::Result<Option<usize>> {
    use rustix::io::Errno;

    match system::read_at_once(file, buffer, at) {
        // An empty read is the end of a file that had more bytes.
        Ok(0) => Err(changed()),
        Ok(read) => Ok(Some(read)),
        // Some file systems cannot tell, and read on another thread as well.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn read_blocking(
    file: &Arc<OwnedFd>,
    mut buffer: BytesMut,
    size: usize,
    offset: u64,
    stamp: FileStamp,
) -> io::Result<(BytesMut, usize)> {
    let file = Arc::clone(file);
    let read = blocking::run(move || {
        let read = retry(|| pread(&*file, &mut buffer[..size], offset))?;
        let read = check_read(&file, read, &stamp)?;
        Ok((buffer, read))
    });
    let read = read.await;
    read.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Reads all of a small file. Fails if it has another size than `size`.
pub(crate) fn read_whole(file: &OwnedFd, size: u64) -> io::Result<Bytes> {
    let size = usize::try_from(size).map_err(|_| changed())?;
    // One byte more, to notice a file that has grown.
    let mut content = vec![0; size + 1];
    let mut read = 0;
    while read < content.len() {
        match retry(|| pread(file, &mut content[read..], read as u64))? {
            0 => break,
            more => read += more,
        }
    }
    if read != size {
        return Err(changed());
    }
    content.truncate(size);
    Ok(content.into())
}
