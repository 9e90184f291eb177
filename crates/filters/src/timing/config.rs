//! Configuration of `timing` as written, and its compilation.

use edgeway_core::chain::CompileContext;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Timing;

/// Headers that report the time taken by gateway and origin; both unless one is `false`.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct TimingConfig {
    /// Adds `Server-Timing: total;dur=12.3, upstream;dur=11.9`, which browsers show.
    #[default(true)]
    server_timing: bool,
    /// Adds `X-Response-Time: 12.3ms`.
    #[default(true)]
    response_time: bool,
}

impl TimingConfig {
    pub(super) fn compile(&self, cx: &mut CompileContext<'_>) -> Option<Timing> {
        if !self.server_timing && !self.response_time {
            return cx.here("edgeway::timing::nothing").refuse(
                "`timing` adds no header",
                "write `timing: true` for both headers, or `timing: false`",
            );
        }
        Some(Timing {
            breakdown: self.server_timing,
            total: self.response_time,
            clock: cx.clock.clone(),
        })
    }
}
