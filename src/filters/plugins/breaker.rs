//! When a plugin that fails is left out, as written. A plugin that guards something has no
//! breaker: it is asked for each request.

use std::{
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::written::some_time;
use crate::base::{breaker::Rule, units::Span};

/// After how many failures a plugin is left out that requests go on without.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BreakerConfig {
    /// Failures within the window. They must be half of what the plugin did in it, or more.
    failures: NonZeroU32,
    /// Clients (addresses, or /64 of IPv6) whose requests must have failed: one of them alone
    /// can make a plugin fail at will.
    clients: NonZeroU8,
    /// The time within which these must come.
    #[serde(deserialize_with = "some_time")]
    window: Span,
    /// Time for which it is left out; then it is tried again.
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
    pub(super) fn rule(self) -> Rule {
        Rule {
            failures: self.failures,
            clients: self.clients,
            window: self.window.0,
            cooldown: self.cooldown.0,
        }
    }
}
