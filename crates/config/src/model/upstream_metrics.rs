//! The `metrics` section of an upstream as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::placed_seconds;
use crate::{base::units::Span, tree::Spanned};

/// Metrics of an upstream beyond the usual ones. Each adds series, so all are off if absent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamMetricsConfig {
    /// True for a histogram of each backend's time to its response headers, beside the one of the
    /// upstream.
    pub backends: bool,
    /// Names in the backends' `Server-Timing` whose durations become a histogram, such as `[db,
    /// render]`; at most 16. Other names are ignored.
    pub server_timing: Vec<Spanned<String>>,
    /// Estimates the number of active sessions.
    pub sessions: Option<SessionsConfig>,
}

/// Estimate of active sessions: the number of different values of a cookie, in requests that did
/// not fail. No value is stored.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsConfig {
    /// Name of the session cookie, such as `connect.sid`.
    pub cookie: Spanned<String>,
    /// Time for which a session counts after its last request.
    #[serde(default = "placed_seconds::<900>")]
    pub window: Spanned<Span>,
}
