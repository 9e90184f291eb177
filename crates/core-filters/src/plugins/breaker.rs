//! Circuit breaker of a failing plugin, as written. A plugin that guards something has no breaker:
//! it is called for each request.

use std::{
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use edgeway_base::{breaker::BreakerRule, units::Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::settings::some_time;

/// Rule for skipping a failing plugin with `on_error: continue`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BreakerConfig {
    /// Failures within the window. They must be at least half of the plugin's calls in it.
    #[default(const { NonZeroU32::new(5).expect("it is not zero") })]
    failures: NonZeroU32,
    /// Clients (addresses, or /64 of IPv6) whose requests must have failed: a single client can
    /// make a plugin fail at will.
    #[default(const { NonZeroU8::new(3).expect("it is not zero") })]
    clients: NonZeroU8,
    /// Time within which the failures must occur.
    #[serde(deserialize_with = "some_time")]
    #[default(Span(Duration::from_secs(10)))]
    window: Span,
    /// Time for which the plugin is skipped; then it is called again.
    #[serde(deserialize_with = "some_time")]
    #[default(Span(Duration::from_secs(30)))]
    cooldown: Span,
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
