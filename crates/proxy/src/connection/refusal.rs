//! Requests that the edge refuses.

use http::StatusCode;

/// A request that the edge refuses itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// The fixed reason for log, metric and status page.
    pub reason: &'static str,
    /// Message of one sentence for the client: the problem with the request.
    pub detail: &'static str,
    /// Method and target as far as they could be read, for the log.
    pub method: Option<String>,
    pub target: Option<String>,
}
