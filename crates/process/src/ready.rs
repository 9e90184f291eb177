//! Writes the ready file, which reports to the caller that the gateway serves, and at which
//! addresses.

use std::{io, path::Path};

use serde::Serialize;

use super::control::Control;

/// Environment variable with the path of the ready file.
pub(super) const READY_FILE: &str = "EDGEWAY_READY_FILE";

/// Contents of the ready file. Ports are the real ones even if the configuration has 0.
#[derive(Debug, Serialize)]
pub(super) struct ReadyFile {
    pub(super) pid: u32,
    pub(super) listeners: Vec<ReadyListener>,
    pub(super) admin: Option<String>,
    pub(super) admin_socket: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ReadyListener {
    pub(super) name: String,
    pub(super) address: String,
}

impl ReadyFile {
    pub(super) fn new(control: &Control) -> Self {
        let listeners = control.listeners.opened();
        Self {
            pid: std::process::id(),
            listeners: listeners
                .into_iter()
                .map(|open| ReadyListener {
                    name: open.name.to_string(),
                    address: open.address,
                })
                .collect(),
            admin: control.admin.address().map(|address| address.to_string()),
            admin_socket: control
                .admin
                .socket()
                .map(|path| path.display().to_string()),
        }
    }

    /// Writes the file atomically: a reader sees all of it or nothing.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(self)?)?;
        std::fs::rename(&partial, path)
    }
}
