//! `timing` as written, and how it compiles.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::Timing;
use crate::{
    chain::CompileCx,
    config::tree::short::{self, Short, read_short},
};

/// Headers that tell clients how long gateway and origin took; `true` for both.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub struct TimingConfig {
    /// Adds `Server-Timing: total;dur=12.3, upstream;dur=11.9`, which browsers show.
    server_timing: bool,
    /// Adds `X-Response-Time: 12.3ms`.
    response_time: bool,
}

impl Short for TimingConfig {
    const WHAT: &'static str = "`true` or a mapping with `server_timing` and `response_time`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            server_timing: flag,
            response_time: flag,
        }))
    }
}

impl<'de> Deserialize<'de> for TimingConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_short(d)
    }
}

impl TimingConfig {
    pub(super) fn compile(self, cx: &mut CompileCx<'_>) -> Option<Timing> {
        if !self.server_timing && !self.response_time {
            cx.report(
                "edgeway::timing::nothing",
                "`timing` adds no header",
                "write `timing: true` for both headers, or leave it out",
            );
            return None;
        }
        Some(Timing {
            breakdown: self.server_timing,
            total: self.response_time,
            clock: cx.clock.clone(),
        })
    }
}
