//! A line of the access log, as commands and the status page read it.

use serde::Deserialize;

/// A request that has ended. Fields that a line lacks are empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoggedRequest {
    pub time: String,
    pub status: u16,
    pub total_ms: f64,
    pub route: Option<String>,
    pub backend: Option<String>,
    pub failed_backend: Option<String>,
    pub cache: Option<String>,
    pub cache_why: Option<String>,
    pub reason: Option<String>,
    pub client: String,
    pub method: String,
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: Option<String>,
}

impl LoggedRequest {
    /// Returns the backend that responded, after the one that failed before, if any: as nginx has
    /// them in `$upstream_addr`.
    pub fn backends(&self) -> String {
        let backends = [&self.failed_backend, &self.backend];
        let backends: Vec<&str> = backends.into_iter().flatten().map(String::as_str).collect();
        backends.join(", ")
    }
}
