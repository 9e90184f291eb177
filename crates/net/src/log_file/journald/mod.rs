//! Lines to systemd's journal by its native protocol: one datagram for each line, with fields.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::{io, os::unix::net::UnixDatagram, path::Path};

use serde_json::Value;

use super::output::{FULL_QUEUE_WAIT, is_too_large};

/// Path of the journal's socket.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// `info`, as syslog numbers it; `err` for a response with a status of 500 or more.
const INFO: &str = "6";
const ERROR: &str = "3";

/// An open socket of the journal.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(FULL_QUEUE_WAIT))?;
        Ok(Self(socket))
    }

    /// Sends one line, without its end. A line that no datagram can carry is refused with
    /// `EMSGSIZE`.
    pub(super) fn send(&self, kind: &str, line: &[u8]) -> io::Result<()> {
        let sent = match self.0.send(&datagram(kind, line, true)) {
            // The text alone is less than half of it.
            Err(error) if is_too_large(&error) => self.0.send(&datagram(kind, line, false)),
            sent => sent,
        };
        sent.map(drop)
    }
}

/// Returns the datagram of a line. Fields of JSON become fields of their own, `EDGEWAY_STATUS` …
fn datagram(kind: &str, line: &[u8], with_fields: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * line.len() + 512);
    let read: Option<Value> = serde_json::from_slice(line).ok();
    let fields = read.as_ref().and_then(Value::as_object);
    let status = fields.and_then(|fields| fields.get("status")?.as_u64());
    let priority = if status.is_some_and(|status| status >= 500) {
        ERROR
    } else {
        INFO
    };
    put_field(&mut out, "MESSAGE", line);
    put_field(&mut out, "PRIORITY", priority.as_bytes());
    put_field(&mut out, "SYSLOG_IDENTIFIER", b"edgeway");
    put_field(&mut out, "EDGEWAY_LOG", kind.as_bytes());
    for (name, value) in fields.into_iter().flatten().filter(|_| with_fields) {
        let name = field_name(name);
        match value {
            Value::Null => {}
            Value::String(text) => put_field(&mut out, &name, text.as_bytes()),
            other => put_field(&mut out, &name, other.to_string().as_bytes()),
        }
    }
    out
}

/// Returns a name that the journal takes: capitals, digits and underscores.
fn field_name(name: &str) -> String {
    let capital = |c: char| match c.to_ascii_uppercase() {
        c @ ('A'..='Z' | '0'..='9') => c,
        _ => '_',
    };
    "EDGEWAY_"
        .chars()
        .chain(name.chars().take(48).map(capital))
        .collect()
}

/// Adds a field; a value with a line end has its length before it.
fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
pub(super) mod tests;
