//! Failures of plugins, and their reasons.

use std::fmt;

use rquickjs::{CaughtError, Exception, FromJs, Value};

use super::{
    hints,
    host::{MAX_LINE_LEN, State, bounded},
    log_line::one_line,
    usv_string::UsvString,
};

/// Failure of a hook, or of loading a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Message of the engine or the gateway; no longer than a line of `console`, but possibly
    /// several lines.
    pub message: String,
    /// Lines of `at NAME (FILE:LINE:COLUMN)`, innermost first; may be empty.
    pub stack: String,
}

edgeway_base::enum_table! {
    /// Kind of a failure as a fixed word, for logs and metrics.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum FailureKind => word {
        /// Thrown exception or unusable return value.
        Script = "script",
        /// CPU time limit exceeded.
        Cpu = "cpu",
        /// Not finished in time.
        Wall = "wall",
        /// Still inside the engine after the time limit, holding a thread.
        Stuck = "stuck",
        /// Heap full.
        Memory = "memory",
        /// Plugin could not be loaded.
        Load = "load",
    }
}

impl FailureKind {
    /// Returns true if the isolate cannot be trusted any more: it was interrupted midway.
    pub(super) fn is_fatal(self) -> bool {
        matches!(self, Self::Cpu | Self::Memory)
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: cut(message.into()),
            stack: String::new(),
        }
    }

    /// Failure of a script that tried something impossible.
    pub fn script(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Script, message)
    }

    pub(super) fn load(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Load, message)
    }

    /// The engine throws `null` if the heap has no room for an `Error`.
    pub(super) fn is_null(&self) -> bool {
        self.message == "it threw null"
    }

    /// Failure for a value that a plugin threw.
    pub(super) fn thrown(thrown: Value<'_>, state: &State) -> Self {
        let exception = thrown.as_object().cloned().and_then(Exception::from_object);
        let error = match exception {
            Some(exception) => CaughtError::Exception(exception),
            None => CaughtError::Value(thrown),
        };
        Self::from_error(error, state)
    }

    /// Failure for an error of the engine, without the secrets of plugin and request.
    pub(super) fn from_error(error: CaughtError<'_>, state: &State) -> Self {
        let (failure, secrets) = (Self::of_error(error), state.secrets());
        let hidden = |text: &str| cut(secrets.hidden_in(bounded(text)));
        Self {
            kind: failure.kind,
            message: hidden(&failure.message),
            stack: hidden(&failure.stack),
        }
    }

    fn of_error(error: CaughtError<'_>) -> Self {
        match error {
            CaughtError::Exception(exception) => {
                let property = |what: &str| {
                    let text = exception.as_object().get::<_, Option<UsvString>>(what);
                    text.ok().flatten().map(|text| text.0)
                };
                let name = property("name");
                let mut message = property("message").unwrap_or_default();
                let is_memory = message == "out of memory";
                if let Some(hint) = hints::find(&message) {
                    message.push_str(": ");
                    message.push_str(hint);
                }
                Self {
                    kind: if is_memory {
                        FailureKind::Memory
                    } else {
                        FailureKind::Script
                    },
                    message: match name {
                        Some(name) if message.is_empty() => name,
                        Some(name) => format!("{name}: {message}"),
                        None => message,
                    },
                    stack: property("stack").unwrap_or_default().trim_end().to_owned(),
                }
            }
            CaughtError::Value(value) => {
                let ctx = value.ctx().clone();
                // A value that is not an `Error` may still have a stack, such as a DOMException.
                let object = value.as_object();
                let stack =
                    object.and_then(|object| object.get::<_, Option<UsvString>>("stack").ok());
                let stack = stack.flatten().map(|text| text.0);
                let text = UsvString::from_js(&ctx, value);
                let text = text.map_or_else(|_| "something".to_owned(), |text| text.0);
                Self {
                    kind: FailureKind::Script,
                    message: format!("it threw {text}"),
                    stack: stack.unwrap_or_default().trim_end().to_owned(),
                }
            }
            CaughtError::Error(rquickjs::Error::Allocation) => {
                Self::new(FailureKind::Memory, "out of memory")
            }
            CaughtError::Error(error) => Self::new(FailureKind::Script, error.to_string()),
        }
    }
}

/// Shortens a text: a plugin may throw whatever its heap has room for.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_LINE_LEN));
    text
}

/// Writes one line, for logs: it may contain client input.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.message))?;
        // The first line written by the author: those before are the gateway's or the engine's.
        let mut lines = self.stack.lines().map(str::trim);
        let others = ["(edgeway/", "(native)", "<input>"];
        let line = lines.find(|line| !others.iter().any(|other| line.contains(other)));
        match line {
            Some(line) if !line.is_empty() => write!(f, " {}", one_line(line)),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
