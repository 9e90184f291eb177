//! Lines on their way to stderr. In a gateway they have a thread of their own: where nobody reads
//! (a stopped log driver, Ctrl-S), only that one waits.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Number of lines that wait at most.
const MAX_WAITING: usize = 4096;
/// Time that waiting lines have at the end of the process.
const END: Duration = Duration::from_secs(2);

enum Line {
    Text(Vec<u8>),
    /// The lines before it are written.
    End(Sender<()>),
}

static LINES: OnceLock<Sender<Line>> = OnceLock::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Writer of whole lines.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(lines) = LINES.get() else {
            return io::stderr().write(line);
        };
        WAITING.fetch_add(1, Ordering::Relaxed);
        match lines.send(Line::Text(line.to_vec())) {
            Ok(()) => Ok(line.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
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

fn write(lines: &Receiver<Line>) {
    for line in lines {
        match line {
            Line::Text(text) => {
                let _unreadable = io::stderr().write_all(&text);
                WAITING.fetch_sub(1, Ordering::Relaxed);
            }
            Line::End(done) => {
                let _late = done.send(());
            }
        }
    }
}

/// Returns true if another line may wait.
pub(super) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < MAX_WAITING
}

/// Waits for the lines that are not written yet, for a moment.
pub(super) fn drain() {
    if let Some(lines) = LINES.get() {
        let (done, waiting) = mpsc::channel();
        if lines.send(Line::End(done)).is_ok() {
            let _late = waiting.recv_timeout(END);
        }
    }
}
