//! Circuit breaker of a failing plugin, as written. A plugin that guards something has no breaker:
//! it is called for each request.

use std::{
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use edgeway_base::{breaker::BreakerRule, units::Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::some_time;

/// Rule for skipping a failing plugin with `on_error: continue`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BreakerConfig {
    /// Failures within the window. They must be at least half of the plugin's calls in it.
    failures: NonZeroU32,
    /// Clients (addresses, or /64 of IPv6) whose requests must have failed: a single client can
    /// make a plugin fail at will.
    clients: NonZeroU8,
    /// Time within which the failures must occur.
    #[serde(deserialize_with = "some_time")]
    window: Span,
    /// Time for which the plugin is skipped; then it is called again.
    #[serde(deserialize_with = "some_time")]
    cooldown: Span,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: const { NonZeroU32::new(5).expect("it is not zero") },
            clients: const { NonZeroU8::new(3).expect("it is not zero") },
            window: Span(Duration::from_secs(10)),
            cooldown: Span(Duration::from_secs(30)),
        }
    }
}

impl BreakerConfig {
    pub(super) fn rule(self) -> BreakerRule {
        BreakerRule {
            failures: self.failures,
            clients: self.clients,
            window: self.window.0,
            cooldown: self.cooldown.0,
        }
    }
}
