//! Output to the terminal, in a single place: data to stdout, the rest to stderr.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::{LazyLock, OnceLock},
};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

/// Exit status of a refused configuration (`EX_CONFIG` of sysexits.h): systemd's
/// `RestartPreventExitStatus` keeps it from restarting for ever.
pub const EX_CONFIG: u8 = 78;

/// Name of the program.
const NAME: &str = "edgeway";

/// Variable with the command that starts this program where that is not its name: the npm package,
/// the container image and the manifests set it.
const CALLED_AS: &str = "EDGEWAY_CALLED_AS";

/// Why the first data that could not be written were lost.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Reason why a command does not succeed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Message to print; the exit status is 1.
    Message(String),
    /// Exit status of a command that has printed the reason itself.
    Status(u8),
}

impl Failure {
    pub const FAILED: Self = Self::Status(1);
    /// Status for arguments that are wrong, as clap has it.
    pub const USAGE: Self = Self::Status(2);
    pub const CONFIG: Self = Self::Status(EX_CONFIG);
    /// Status of a program that SIGINT ends, as shells have it.
    pub const INTERRUPTED: Self = Self::Status(130);

    /// Prints what is wrong with the arguments, and returns the status for it.
    pub fn usage(why: impl Display) -> Self {
        note(&format!("edgeway: {why}"));
        Self::USAGE
    }

    /// Returns the outcome of a command that ended with this status.
    ///
    /// # Errors
    ///
    /// The status, if it is not 0.
    pub fn of_status(status: u8) -> Result<(), Self> {
        match status {
            0 => Ok(()),
            status => Err(Self::Status(status)),
        }
    }

    /// Returns the outcome of a command that has printed why it failed, if it did.
    ///
    /// # Errors
    ///
    /// [`Self::FAILED`] unless it is good.
    pub fn unless(is_good: bool) -> Result<(), Self> {
        Self::of_status(u8::from(!is_good))
    }
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Message(error.to_string())
    }
}

/// Prints why a command failed, and returns its exit status.
pub fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    let lost = LOST.get().map(|error| {
        format!("cannot write the output: {error}; write it to another place, or make room there")
    });
    match outcome.and(lost.map_or(Ok(()), |why| Err(Failure::Message(why)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Status(status)) => ExitCode::from(status),
        Err(Failure::Message(why)) => {
            note(&format!("edgeway: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns the command that starts this program where its user is: `edgeway`, or `npx edgeway`.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let called_as = std::env::var(CALLED_AS).unwrap_or_default();
        let called_as = printable(called_as.trim());
        if called_as.is_empty() {
            NAME.to_owned()
        } else {
            called_as
        }
    });
    &PROGRAM
}

/// Returns a text in which commands to type, such as `edgeway check`, begin with [`program`].
pub fn hints(text: &str) -> Cow<'_, str> {
    hints_of(text, program())
}

fn hints_of<'t>(text: &'t str, program: &str) -> Cow<'t, str> {
    let written = format!("`{NAME} ");
    if program == NAME || !text.contains(&written) {
        return text.into();
    }
    text.replace(&written, &format!("`{program} ")).into()
}

/// Writes data. What cannot be written makes the command fail at its end, but for a closed pipe
/// (`| head`).
pub fn data(text: &str) {
    if let Err(error) = write(&mut io::stdout().lock(), text) {
        lost(error);
    }
}

fn lost(error: io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        let _first = LOST.set(error);
    }
}

/// Writes data as JSON, for people to read as well.
pub fn json(value: &impl Serialize) {
    data(&serde_json::to_string_pretty(value).expect("plain data"));
}

/// Writes one line of data that has no end of its own.
///
/// # Errors
///
/// If no more data are wanted: it cannot be written, as [`data`], or the reader of a pipe is gone.
pub fn line(text: &str) -> io::Result<()> {
    write(&mut io::stdout().lock(), text).map_err(|error| {
        lost(error);
        io::ErrorKind::BrokenPipe.into()
    })
}

/// Lists names, as in `there is ...`.
pub fn listed<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    let names = names.into_iter().map(|name| format!("`{name}`"));
    match &names.collect::<Vec<_>>()[..] {
        [] => "none".to_owned(),
        some => some.join(", "),
    }
}

/// Formats a count: `1 request`, `3 requests`.
pub fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Returns true if data go to a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns the width of the lines that data should fit into: `COLUMNS`, or that of the terminal.
pub fn width() -> Option<usize> {
    let written = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    written
        .or_else(|| Some(usize::from(tcgetwinsize(io::stdout()).ok()?.ws_col)))
        .filter(|columns| *columns > 0)
}

/// Writes anything that is not data, with its [`hints`]: progress, problems.
pub fn note(text: &str) {
    // Nobody could be told that it failed.
    drop(write(&mut io::stderr().lock(), &hints(text)));
}

/// Returns true for a terminal without `NO_COLOR` (no-color.org).
pub fn colour() -> bool {
    let no_colour = std::env::var_os("NO_COLOR");
    io::stderr().is_terminal() && !is_dumb() && no_colour.is_none_or(|v| v.is_empty())
}

/// Returns true if the terminal knows no control sequences.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn write(target: &mut impl Write, text: &str) -> io::Result<()> {
    target.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        target.write_all(b"\n")?;
    }
    target.flush()
}

/// Escapes what a terminal obeys: controls, and marks that change the direction of text. A text of
/// a client or of a file then cannot control the terminal, nor look like another one.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Escapes each line of a text like [`printable`], and keeps the line ends.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// Returns true for a character that a terminal obeys.
pub fn is_obeyed(c: char) -> bool {
    let changes_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || changes_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: every command in backticks begins as its user types it, and nothing else changes.
    #[test]
    fn commands_begin_as_their_user_types_them() {
        let text =
            "edgeway: no; run `edgeway check -c a.yaml`, or `edgeway reload`: see `edgeway.yaml`";
        assert_eq!(hints_of(text, NAME), text);
        assert_eq!(
            hints_of(text, "npx edgeway"),
            "edgeway: no; run `npx edgeway check -c a.yaml`, or `npx edgeway reload`: see \
             `edgeway.yaml`"
        );
        let twice = hints_of(text, "npx edgeway").into_owned();
        assert_eq!(hints_of(&twice, "npx edgeway"), twice);
    }

    /// Invariant: whatever a text has, no terminal obeys it.
    #[test]
    fn no_character_of_a_text_is_obeyed() {
        let mut changed = 0;
        for c in ('\0'..=char::MAX).filter(|c| *c != '\\') {
            let text = printable(&format!("a{c}b"));
            assert!(!text.contains(is_obeyed), "{text:?}");
            changed += usize::from(text != format!("a{c}b"));
        }
        // 65 controls; the marks of Unicode Standard Annex 9, and the separators of lines.
        assert_eq!(changed, 65 + 14);
        assert_eq!(printable("é\u{1b}[2J\u{202e}x"), "é\\u{1b}[2J\\u{202e}x");
        assert_eq!(printable_lines("a\n\u{9b}b\r\nc\n"), "a\n\\u{9b}b\nc");
    }
}
