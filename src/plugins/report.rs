//! What is told of a plugin on a route, for the status of the gateway.

use std::{fmt, sync::Arc, time::SystemTime};

/// A plugin on a route, at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: Arc<str>,
    /// As the configuration writes it.
    pub file: Arc<str>,
    /// Of its files, see [`Plugin::version`](super::Plugin::version).
    pub version: Arc<str>,
    pub loaded: SystemTime,
    pub isolates: usize,
    /// Bytes of its heaps, as they were last looked at.
    pub heap: u64,
    /// On this route, since the process began.
    pub calls: u64,
    /// By their fixed words; only those that there were.
    pub failures: Vec<(&'static str, u64)>,
    /// It has failed too often and is not called for a while.
    pub is_left_out: bool,
}

/// Asks the plugins of a route.
pub struct Reports(Box<dyn Fn() -> Vec<Report> + Send + Sync>);

impl Reports {
    pub fn new(ask: impl Fn() -> Vec<Report> + Send + Sync + 'static) -> Self {
        Self(Box::new(ask))
    }

    pub fn ask(&self) -> Vec<Report> {
        (self.0)()
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}
