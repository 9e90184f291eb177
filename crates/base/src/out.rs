//! Output to the terminal, in a single place: data to stdout, the rest to stderr.

use std::io::{self, IsTerminal, Write};

/// Writes data. A closed pipe (`| head`) is no error.
pub fn data(text: &str) {
    write(&mut io::stdout().lock(), text);
}

/// Writes one line of data that has no end of its own.
///
/// # Errors
///
/// If it cannot be written: the reader of a pipe is gone, and no more data are wanted.
pub fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Returns true if data go to a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes anything that is not data: progress, problems.
pub fn note(text: &str) {
    write(&mut io::stderr().lock(), text);
}

/// Returns true for a terminal without `NO_COLOR` (no-color.org).
pub fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn write(target: &mut impl Write, text: &str) {
    let outcome = target.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') {
            Ok(())
        } else {
            target.write_all(b"\n")
        }
    });
    if let Err(error) = outcome.and_then(|()| target.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        log::debug!(error:%; "cannot write to the terminal");
    }
}
