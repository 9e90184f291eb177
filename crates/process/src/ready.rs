//! Writes the ready file, which reports to the caller that the gateway serves, and at which
//! addresses.

use std::{io, path::Path};

use serde_json::{Value, json};

use super::control::Control;

/// Environment variable with the path of the ready file.
pub(super) const READY_FILE: &str = "EDGEWAY_READY_FILE";

/// Writes the file atomically: a reader sees all of it or nothing. Ports are the real ones even if
/// the configuration has 0.
pub(super) fn write(control: &Control, path: &Path) -> io::Result<()> {
    let opened = control.listeners.opened().into_iter();
    let listeners: Vec<Value> = opened
        .map(|open| json!({ "name": &*open.name, "address": open.address }))
        .collect();
    let ready = json!({
        "pid": std::process::id(),
        "listeners": listeners,
        "admin": control.admin.address(),
        "admin_socket": control.admin.socket(),
    });
    let partial = path.with_extension("partial");
    std::fs::write(&partial, ready.to_string())?;
    std::fs::rename(&partial, path)
}
