//! Report on a plugin of a route, for the status of the gateway.

use std::{sync::Arc, time::SystemTime};

/// State of a plugin on a route, at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: Arc<str>,
    /// File as the configuration writes it.
    pub file: Arc<str>,
    /// Hash of the plugin's files, see [`Plugin::version`](super::Plugin::version).
    pub version: Arc<str>,
    pub loaded: SystemTime,
    pub isolates: usize,
    /// Heap of all isolates in bytes, as of the last measurement.
    pub heap: u64,
    /// Calls on this route, since the process started.
    pub calls: u64,
    /// Failures by kind; only kinds that occurred.
    pub failures: Vec<(&'static str, u64)>,
    /// Number of failures in the last minute, and the text of one of them.
    pub recent: Option<(u64, String)>,
    /// Set while the plugin is not called, after too many failures.
    pub is_left_out: bool,
}

/// Source of reports on the plugins of a route.
pub struct Reports(Box<dyn Fn() -> Vec<Report> + Send + Sync>);

impl Reports {
    pub fn new(ask: impl Fn() -> Vec<Report> + Send + Sync + 'static) -> Self {
        Self(Box::new(ask))
    }

    pub fn ask(&self) -> Vec<Report> {
        (self.0)()
    }
}

edgeway_base::opaque_debug!(Reports);
