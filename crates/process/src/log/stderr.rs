//! Lines on their way to stderr. In a gateway they have a thread of their own: where nobody reads
//! (a stopped log driver, Ctrl-S), only that one waits. A thread that logs goes on once its line is
//! written, unless the reader has stopped.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Number of lines that wait at most.
const MAX_WAITING: usize = 4096;
/// Time that a line has until the reader counts as stopped.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time that waiting lines have at the end of the process.
const END: Duration = Duration::from_secs(2);

/// Bytes to write, and the receiver of a message that they and all before them are written.
type QueuedLine = (Vec<u8>, Sender<()>);

static LINES: OnceLock<Sender<QueuedLine>> = OnceLock::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// True while the reader has stopped.
static IS_STOPPED: AtomicBool = AtomicBool::new(false);

/// Writer of whole lines.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(lines) = LINES.get() else {
            return io::stderr().write(line);
        };
        WAITING.fetch_add(1, Ordering::Relaxed);
        let (done, written) = mpsc::channel();
        let sent = lines.send((line.to_vec(), done));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        if !IS_STOPPED.load(Ordering::Relaxed) && written.recv_timeout(PATIENCE).is_err() {
            IS_STOPPED.store(true, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the lines a thread. Without one, each thread goes on to write its own.
pub(super) fn detach() {
    let (lines, waiting) = mpsc::channel();
    let writer = thread::Builder::new().name("log".to_owned());
    if writer.spawn(move || write(&waiting)).is_ok() {
        let _earlier = LINES.set(lines);
    }
}

fn write(lines: &Receiver<QueuedLine>) {
    for line in lines {
        let (text, done) = line;
        let _unreadable = io::stderr().write_all(&text);
        if WAITING.fetch_sub(1, Ordering::Relaxed) == 1 {
            IS_STOPPED.store(false, Ordering::Relaxed);
        }
        let _late = done.send(());
    }
}

/// Returns true if another line may wait.
pub(super) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < MAX_WAITING
}

/// Waits for the lines that are not written yet, for a moment.
pub(super) fn drain() {
    if let Some(lines) = LINES.get() {
        let (done, written) = mpsc::channel();
        WAITING.fetch_add(1, Ordering::Relaxed);
        if lines.send((Vec::new(), done)).is_ok() {
            let _late = written.recv_timeout(END);
        }
    }
}
