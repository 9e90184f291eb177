//! Parts of a file that go from the kernel's cache to a socket without being read (`sendfile`).
//!
//! `sendfile` waits for the disk where the cache lacks a page, and has no flag against it. So
//! [`warm`] looks for pages before, and has those that are missing read on a thread that may block.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use edgeway_base::system;

use crate::{blocking, body};

/// Most bytes of a segment: what is looked for in the cache, and read ahead if it is missing.
pub(crate) const SEGMENT: u64 = 1 << 20;

/// Distance of the samples. The kernel reads ahead in runs of about this length, so a missing page
/// between two present samples is rare: the event loop then waits for the disk.
///
/// No exact check costs less than reading the file: the kernel shows the state of its cache
/// (`mincore`, `cachestat`) only to those who may write to the file.
const STRIDE: u64 = 64 * 1024;

/// Size of a page, to which the end of what is sent without reading is rounded.
pub(crate) const PAGE: u64 = 4096;

/// Way in which the bytes of an open file reach a socket without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// All but the end by `sendfile`.
    Sendfile,
    /// Read and written, so that later changes of the file do not reach the client.
    Copy,
}

/// Part of a file that is in the kernel's cache, to be sent to a socket.
#[derive(Debug)]
pub struct Segment {
    file: Arc<OwnedFd>,
    at: u64,
    end: u64,
}

/// Outcome of sending a segment, or of the part of it that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentSegment {
    pub bytes: u64,
    /// True if the kernel does not send this file, or no more of it: the rest is to be read, which
    /// shows the reason.
    pub is_refused: bool,
}

impl SentSegment {
    /// Returns the outcome for a connection that sends no files.
    pub fn refused() -> Self {
        Self {
            bytes: 0,
            is_refused: true,
        }
    }
}

impl Segment {
    /// Makes a segment of bytes that are in memory: [`warm`] was called for them, or the file is
    /// never on a disk.
    pub fn new(file: &Arc<OwnedFd>, at: u64, end: u64) -> Self {
        let file = Arc::clone(file);
        Self { file, at, end }
    }

    /// Number of bytes that are left to send.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// Sends as much as `socket` accepts at once. `None` if the kernel does not send this file, or
    /// the file has ended.
    ///
    /// # Errors
    /// Fails as a write to the socket does.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<Option<usize>> {
        use rustix::io::Errno;

        let count = usize::try_from(self.left()).unwrap_or(usize::MAX);
        // It moves `at` by what it sent.
        let sent = body::retry(|| system::send_file(&socket, &self.file, &mut self.at, count));
        match sent {
            Ok(0) => Ok(None),
            Ok(sent) => Ok(Some(sent)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::IO) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Looks for the bytes from `from` up to `end` in the kernel's cache, and has them read if they are
/// not there.
///
/// # Errors
/// Fails if the file ends before, or cannot be read.
pub(crate) async fn warm(file: &Arc<OwnedFd>, from: u64, end: u64) -> io::Result<()> {
    if from >= end || is_cached(file, from, end)? {
        return Ok(());
    }
    let file = Arc::clone(file);
    let read = blocking::run(move || read_ahead(&file, from, end));
    let read = read.await;
    read.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
}

/// Returns true if samples of these bytes are in the kernel's cache.
pub(crate) fn is_cached(file: &OwnedFd, from: u64, end: u64) -> io::Result<bool> {
    let mut at = from;
    let mut byte = [0];
    while at < end {
        if body::read_cached(file, &mut byte, at)?.is_none() {
            return Ok(false);
        }
        let next = (at / STRIDE + 1) * STRIDE;
        // The last byte is a sample too.
        at = if at + 1 < end { next.min(end - 1) } else { end };
    }
    Ok(true)
}

/// Reads these bytes, so that the kernel has them in its cache, and makes it begin with those after
/// them. May block.
fn read_ahead(file: &OwnedFd, from: u64, end: u64) -> io::Result<()> {
    let mut room = vec![0; body::CHUNK];
    let mut offset = from;
    while offset < end {
        let wanted = usize::try_from(end - offset).map_or(room.len(), |left| left.min(room.len()));
        let read = body::retry(|| rustix::io::pread(file, &mut room[..wanted], offset))?;
        if read == 0 {
            return Err(body::changed());
        }
        offset += read as u64;
    }
    if let Err(error) = system::read_ahead(file, end, SEGMENT) {
        log::debug!(error:%; "file not read ahead");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixStream, time::SystemTime};

    use bytes::BytesMut;
    use proptest::prelude::*;
    use rustix::fs::{Advice, fadvise};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        FileBody,
        base::clock::Clock,
        served::{FileKind, FileStamp, Representation},
    };

    /// Returns a file of this size, and its content.
    fn file(size: usize) -> (TempDir, OwnedFd, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..size)
            .map(|at| (at / 3 % 251).to_le_bytes()[0])
            .collect();
        fs::write(&path, &content).unwrap();
        let open = fs::File::options().read(true).write(true).open(&path);
        let open = open.unwrap();
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        open.set_modified(then).unwrap();
        open.sync_all().unwrap();
        (folder, open.into(), content)
    }

    fn body(fd: OwnedFd, start: u64, end: u64) -> FileBody {
        let FileKind::File(stamp) = FileStamp::read(&fd, Clock::machine().wall()).unwrap() else {
            panic!("it is a file");
        };
        let none = http::HeaderMap::new();
        let whole = Representation::from_file(fd, stamp, Transfer::Sendfile, &none).unwrap();
        FileBody::new(&whole, start, end)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Segments and chunks together are the range, however much of each segment is sent, and
        /// the end is always a chunk.
        #[test]
        fn segments_and_the_chunks_after_them_are_the_range(
            size in 20_000_usize..3_000_000,
            edges in (0_usize..1000, 0_usize..1000),
            shares in proptest::collection::vec(0_u64..=1000, 1..8),
            refuses_after in 0_usize..40,
        ) {
            let (_folder, fd, content) = file(size);
            let (one, two) = (size * edges.0 / 1000, size * edges.1 / 1000);
            let (start, end) = (one.min(two), one.max(two) + 1);
            let mut body = body(fd, start as u64, end as u64);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                body.begin().await.unwrap();
                let (mut seen, mut asked) = (Vec::new(), 0);
                let mut now = Clock::machine().now();
                while let Some(segment) = body.segment(now).await.unwrap() {
                    now += std::time::Duration::from_millis(40);
                    let (at, left) = (usize::try_from(segment.at).unwrap(), segment.left());
                    assert_eq!(at, start + seen.len());
                    assert!(left > 0 && left <= SEGMENT && segment.end < end as u64);
                    let share = shares[asked % shares.len()];
                    let bytes = if asked > 20 { left } else { share * left / 1000 };
                    seen.extend_from_slice(&content[at..at + usize::try_from(bytes).unwrap()]);
                    asked += 1;
                    let is_refused = asked > refuses_after;
                    body.sent(SentSegment { bytes, is_refused }).unwrap();
                }
                assert!(body.left() > 0);
                while body.left() > 0 {
                    seen.extend_from_slice(&body.next().await.unwrap());
                }
                assert!(seen == content[start..end]);
            });
        }
    }

    #[tokio::test]
    async fn what_is_not_in_the_cache_is_read_before_it_is_sent() {
        let (_folder, fd, content) = file(3 << 20);
        // Pages that are not written yet stay.
        rustix::fs::fsync(&fd).unwrap();
        fadvise(&fd, 0, None, Advice::DontNeed).unwrap();
        let end = content.len() as u64;
        if is_cached(&fd, 0, end).unwrap() {
            println!("this file system has no other place than memory");
        }
        let fd = Arc::new(fd);
        warm(&fd, 0, end).await.unwrap();
        assert!(is_cached(&fd, 0, end).unwrap());
        // A sample is missing if one of its pages is.
        fadvise(
            &*fd,
            1 << 20,
            std::num::NonZeroU64::new(1 << 20),
            Advice::DontNeed,
        )
        .unwrap();
        let is_kept = is_cached(&fd, 0, 1 << 20).unwrap();
        assert!(is_kept);
        let is_lost = !is_cached(&fd, 0, end).unwrap();
        let mut byte = [0];
        let has_lost = body::read_cached(&fd, &mut byte, 3 << 19)
            .unwrap()
            .is_none();
        assert_eq!(is_lost, has_lost);
        // The file is shorter than it was.
        rustix::fs::ftruncate(&*fd, 100_000).unwrap();
        assert!(warm(&fd, 0, end).await.is_err());
    }

    #[test]
    fn a_segment_is_sent_byte_for_byte_and_no_further_than_the_file() {
        let (_folder, fd, content) = file(300_000);
        let fd = Arc::new(fd);
        let (socket, mut client) = UnixStream::pair().unwrap();
        let mut segment = Segment::new(&fd, 4096, 8192);
        assert_eq!(segment.send(&socket).unwrap(), Some(4096));
        assert_eq!(segment.left(), 0);
        let mut beyond = Segment::new(&fd, 300_000, 304_096);
        assert_eq!(beyond.send(&socket).unwrap(), None);
        // Of a socket that has nobody at its other end, the error is that of a write.
        let mut received = BytesMut::zeroed(4096);
        std::io::Read::read_exact(&mut client, &mut received).unwrap();
        assert!(received[..] == content[4096..8192]);
        drop(client);
        let mut late = Segment::new(&fd, 0, 4096);
        let error = late.send(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
