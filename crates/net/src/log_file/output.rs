//! Output of a log: the file descriptor, its rotation, and recovery when the file is gone.
//!
//! Used by one thread only. Bytes are written in order and each exactly once; the one exception is
//! a line whose beginning went to a file that then vanished: the whole line is written again to the
//! new one.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write as _},
    mem,
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use derive_more::Display;
use edgeway_base::clock::Clock;
use log::warn;
use rustix::fs::OFlags;

use super::{
    archives::{Compressor, shift},
    journald::{self, Journal},
    rotation::RotationPolicy,
    stamp::since_epoch,
    syslog::{Syslog, SyslogAddress},
};

/// A destination of log lines. Equal targets share one writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Display)]
pub enum Target {
    #[display("stdout")]
    Stdout,
    /// An absolute path.
    #[display("{}", _0.display())]
    File(PathBuf),
    /// The journal, by the path of its socket.
    #[display("journald:{}", _0.display())]
    Journald(PathBuf),
    Syslog(SyslogAddress),
}

impl Target {
    /// Returns the journal of this machine.
    pub fn journald() -> Self {
        Self::Journald(journald::SOCKET.into())
    }
}

/// An open target.
pub(super) struct Output {
    /// Name of the log in messages.
    kind: &'static str,
    target: Target,
    rotation: RotationPolicy,
    compressor: Compressor,
    clock: Clock,
    open: Option<OpenOutput>,
    /// File that received the last byte, open or not.
    last: Option<FileIdentity>,
    /// Second in which the path was last compared with the open file.
    checked: u64,
    /// Second in which rotation failed; it is retried a minute later.
    refused: Option<u64>,
}

struct OpenOutput {
    sink: Sink,
    /// `None` if this is not a regular file: it is neither compared nor rotated.
    regular: Option<RegularFile>,
}

/// Receiver of lines.
enum Sink {
    File(File),
    Journal(Journal),
    Syslog(Box<Syslog>),
}

impl Sink {
    /// Writes some of `piece`, which begins with a whole line unless this is a file. Returns how
    /// much was written.
    fn write(&mut self, piece: &[u8], kind: &str, wall: SystemTime) -> io::Result<usize> {
        let sent = match self {
            Self::File(file) => return file.write(piece),
            Self::Journal(journal) => journal.send(kind, first_line(piece)),
            Self::Syslog(syslog) => syslog.send(kind, first_line(piece), wall),
        };
        sent.map(|()| first_line_length(piece))
    }
}

struct RegularFile {
    identity: FileIdentity,
    size: u64,
    /// Rotation period that the content belongs to.
    period: u64,
}

/// Device and inode numbers.
type FileIdentity = (u64, u64);

fn identity(metadata: &Metadata) -> FileIdentity {
    (metadata.dev(), metadata.ino())
}

/// Time that a datagram waits for room in the queue of its receiver. In between, the receiver is
/// served at once; a writer that slept would send one queue's length for each sleep.
pub(super) const FULL_QUEUE_WAIT: Duration = Duration::from_millis(50);

/// Returns true for the error of a message that is larger than a datagram may be.
pub(super) fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// Numbers of lines that left a batch.
#[derive(Default)]
pub(super) struct LineCounts {
    pub(super) written: u64,
    /// Lines that the target can never take.
    pub(super) lost: u64,
}

/// Whole lines to write, and how far writing got.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Number of line ends in the bytes that are left.
    pub(super) lines: u64,
    offset: usize,
}

impl Batch {
    pub(super) fn is_done(&self) -> bool {
        self.offset == self.bytes.len()
    }

    /// Takes the next lines from `bytes` and leaves its own buffer there in exchange.
    pub(super) fn refill(&mut self, bytes: &mut Vec<u8>, lines: &mut u64) {
        debug_assert!(self.is_done(), "these lines would be lost");
        self.bytes.clear();
        self.offset = 0;
        mem::swap(&mut self.bytes, bytes);
        self.lines = mem::take(lines);
    }

    /// Capacity of the buffer, used or not.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Records that `written` bytes were written; returns how many lines ended among them.
    fn advance(&mut self, written: usize) -> u64 {
        let piece = &self.rest()[..written];
        // Usually all of it was written, and nothing needs to be scanned again.
        let ended = if piece.len() == self.rest().len() {
            self.lines
        } else {
            count_lines(piece)
        };
        self.lines -= ended;
        self.offset += written;
        ended
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.offset..]
    }

    fn is_mid_line(&self) -> bool {
        self.offset > 0 && self.bytes[self.offset - 1] != b'\n'
    }
}

impl Output {
    pub(super) fn new(kind: &'static str, target: Target, clock: Clock) -> Self {
        Self {
            kind,
            target,
            rotation: RotationPolicy::NEVER,
            compressor: Compressor::new(kind),
            clock,
            open: None,
            last: None,
            checked: 0,
            refused: None,
        }
    }

    pub(super) fn set_rotation(&mut self, rotation: RotationPolicy) {
        if self.rotation != rotation {
            self.rotation = rotation;
            self.refused = None;
            // Reopening the file determines which of the new periods its content belongs to.
            self.open = None;
        }
    }

    /// Opens the path again.
    ///
    /// # Errors
    /// Fails when it cannot be opened; the next write retries.
    pub(super) fn reopen(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.open = None;
        self.open_if_needed(batch)
    }

    /// Writes the rest of `batch`; adds the lines that left it to `lines`.
    ///
    /// # Errors
    /// Fails when the target cannot be opened or written. `batch` records how far it got, and the
    /// same call may be repeated.
    pub(super) fn write(&mut self, batch: &mut Batch, lines: &mut LineCounts) -> io::Result<()> {
        while !batch.is_done() {
            let room = self.prepare(batch)?;
            let rest = batch.rest();
            let piece = &rest[..room.min(rest.len())];
            let open = self.open.as_mut().expect("prepare() opened it");
            match open.sink.write(piece, self.kind, self.clock.wall()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    lines.written += batch.advance(written);
                    if let Some(regular) = &mut open.regular {
                        regular.size += written as u64;
                        self.last = Some(regular.identity);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_too_large(&error) => {
                    let length = first_line_length(piece);
                    lines.lost += batch.advance(length);
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock
                        && !matches!(open.sink, Sink::File(_))
                    {
                        // A server that restarted is found by a new connection only.
                        self.open = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Opens, follows and rotates as needed; returns how many bytes may be written now.
    fn prepare(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let since = since_epoch(self.clock.wall());
        if self.checked != since.as_secs() {
            self.checked = since.as_secs();
            self.follow_path();
        }
        self.open_if_needed(batch)?;
        if batch.is_mid_line() {
            // The rest of a line goes to the same file as its beginning.
            return Ok(first_line_length(batch.rest()));
        }
        let first_line = first_line_length(batch.rest());
        if self.is_due(first_line) && self.refused.is_none_or(|at| since.as_secs() >= at + 60) {
            // Another process may have rotated the file since; then the path leads to a new file.
            self.follow_path();
            self.open_if_needed(batch)?;
            if self.is_due(first_line) {
                self.rotate(batch, since.as_secs())?;
            }
        }
        Ok(self.room(batch.rest(), first_line))
    }

    /// Returns true if the file must rotate before a line of `length` bytes.
    fn is_due(&mut self, length: usize) -> bool {
        let period = self.rotation.period(since_epoch(self.clock.wall()));
        let open = self.open.as_mut();
        let Some(regular) = open.and_then(|open| open.regular.as_mut()) else {
            return false;
        };
        // A clock that was ahead when the file was opened must not delay the next rotation.
        regular.period = regular.period.min(period);
        let is_too_large = self
            .rotation
            .size
            .is_some_and(|limit| regular.size > 0 && regular.size + length as u64 > limit);
        is_too_large || regular.period < period
    }

    /// Length of the whole lines that still fit, at least one line.
    fn room(&self, rest: &[u8], first_line: usize) -> usize {
        match (self.rotation.size, self.regular()) {
            (Some(limit), Some(regular)) if self.refused.is_none() => {
                let room = limit.saturating_sub(regular.size);
                let room = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
                whole_lines_length(&rest[..room]).max(first_line)
            }
            _ => rest.len(),
        }
    }

    fn regular(&self) -> Option<&RegularFile> {
        self.open.as_ref()?.regular.as_ref()
    }

    fn rotate(&mut self, batch: &mut Batch, second: u64) -> io::Result<()> {
        let Target::File(path) = &self.target else {
            return Ok(());
        };
        match shift(path, self.rotation.keep) {
            Ok(()) => {
                if self.rotation.compress {
                    self.compressor.start(path, self.rotation.keep);
                }
                self.open = None;
                self.refused = None;
                self.open_if_needed(batch)
            }
            Err(error) => {
                // The file keeps growing: better than losing lines.
                if self.refused.is_none() {
                    warn!(file:% = self.target, error:%; "cannot rotate the {}", self.kind);
                }
                self.refused = Some(second);
                Ok(())
            }
        }
    }

    /// Closes the file if its path now leads elsewhere: it was moved or deleted.
    fn follow_path(&mut self) {
        if let (Target::File(path), Some(regular)) = (&self.target, self.regular()) {
            let current = std::fs::metadata(path).ok().map(|m| identity(&m));
            if current != Some(regular.identity) {
                self.open = None;
            }
        }
    }

    fn open_if_needed(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let sink = match &self.target {
            Target::Stdout => Sink::File(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::File(path) => Sink::File(open_log(path)?),
            Target::Journald(path) => Sink::Journal(Journal::open(path)?),
            Target::Syslog(address) => Sink::Syslog(Box::new(Syslog::open(address)?)),
        };
        let mut regular = None;
        if let Sink::File(file) = &sink {
            let metadata = file.metadata()?;
            let is_regular = self.target != Target::Stdout && metadata.is_file();
            regular = is_regular.then(|| RegularFile {
                identity: identity(&metadata),
                size: metadata.len(),
                period: self.period_of(&metadata),
            });
            let is_other = regular.as_ref().map(|r| r.identity) != self.last;
            if is_other && batch.is_mid_line() {
                batch.offset = whole_lines_length(&batch.bytes[..batch.offset]);
            }
        }
        if let (Sink::File(file), Some(regular), Target::File(path)) =
            (&sink, &mut regular, &self.target)
            && !batch.is_mid_line()
            && !ends_with_line(path, regular.size)
        {
            // The process before this one ended within a line, on a full disk.
            (&*file).write_all(b"\n")?;
            regular.size += 1;
        }
        self.open = Some(OpenOutput { sink, regular });
        Ok(())
    }

    /// Returns the period that an existing file's content belongs to: that of its last change.
    fn period_of(&self, metadata: &Metadata) -> u64 {
        let now = self.clock.wall();
        let changed = metadata.modified().unwrap_or(now);
        let moment: SystemTime = if metadata.len() == 0 { now } else { changed };
        self.rotation.period(since_epoch(moment))
    }
}

/// Returns true if a file is empty, ends with a line, or cannot be read.
fn ends_with_line(path: &Path, size: u64) -> bool {
    let mut last = *b"\n";
    let Some(place) = size.checked_sub(1) else {
        return true;
    };
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, place));
    read.is_err() || last == *b"\n"
}

fn open_log(path: &Path) -> io::Result<File> {
    // Without NONBLOCK, opening a named pipe without a reader would block forever.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open(2) are ints");
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags)
        .open(path)
}

/// Returns the first line, without its end.
fn first_line(text: &[u8]) -> &[u8] {
    let line = &text[..first_line_length(text)];
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Length of the first line, with its line end.
fn first_line_length(bytes: &[u8]) -> usize {
    memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1)
}

/// Length of the whole lines at the beginning.
fn whole_lines_length(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1)
}

#[expect(clippy::naive_bytecount, reason = "the compiler makes it wide enough")]
fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}
