//! Effect of a plugin's failure on requests, which the configuration must state.

use edgeway_core::chain::CompileContext;
use edgeway_script::{Hook, Plugin};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::config::PluginConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoleConfig {
    Auth,
}

/// Handling of a request whose plugin fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnErrorConfig {
    /// Continues as if there were no such plugin.
    Continue,
    /// Refuses with 503.
    Refuse,
}

impl<'de> Deserialize<'de> for OnErrorConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match &*String::deserialize(d)? {
            "continue" => Ok(Self::Continue),
            "refuse" => Ok(Self::Refuse),
            "fail" => Err(de::Error::custom(
                "`fail` is now named `refuse`\nhelp: write `on_error: refuse`",
            )),
            other => Err(de::Error::unknown_variant(other, &["continue", "refuse"])),
        }
    }
}

impl PluginConfig {
    /// Returns the handling of requests when the plugin fails. The configuration of a plugin that
    /// sees requests must state it: the plugin may be what keeps some of them out.
    pub(super) fn on_error(
        &self,
        plugin: &Plugin,
        cx: &mut CompileContext<'_>,
    ) -> Option<OnErrorConfig> {
        let name = plugin.name();
        let is_asked = plugin.has(Hook::Request);
        let what = match (&self.role, &self.on_error) {
            (Some(_), Some(on_error)) if on_error.value == OnErrorConfig::Continue => {
                let what = "decides which requests pass, but would let all pass when it fails";
                let help =
                    "write `on_error: refuse`, or remove it; without `role: auth` both are allowed";
                Err((on_error.place, what, help))
            }
            (Some(role), _) if !is_asked => {
                let what = "has no `onRequest`, so it cannot decide which requests pass";
                let help = "remove `role`, or export `onRequest`";
                Err((role.place, what, help))
            }
            (None, Some(on_error))
                if on_error.value == OnErrorConfig::Refuse
                    && !is_asked
                    && !plugin.has(Hook::Route)
                    && !plugin.has(Hook::UpstreamRequest) =>
            {
                let what = "has none of `onRequest`, `onRoute` and `onUpstreamRequest`, so it can refuse no request";
                let help = "remove `on_error`: when another hook fails, nothing changes";
                Err((on_error.place, what, help))
            }
            (None, None) if is_asked => {
                let what = "has `onRequest`, but no `on_error` says what happens when it fails";
                let help = "write `role: auth` if it decides which requests pass, `on_error: \
                            refuse` if none may pass without it, else `on_error: continue`";
                Err((self.file.place, what, help))
            }
            (Some(_), _) => Ok(OnErrorConfig::Refuse),
            (None, Some(on_error)) => Ok(on_error.value),
            (None, None) => Ok(OnErrorConfig::Continue),
        };
        if self.role.is_some() {
            for (source, condition) in plugin.clients_choice() {
                cx.at(self.file.place, "edgeway::plugins::clients_choice").warn(format!(
                        "plugin `{name}` decides which requests pass, and a client can bypass it: \
                         the entry `{source}` of its `config.matcher` has {condition}"
                    ), "remove `has` and `missing` from the entry, and check them in `onRequest`");
            }
        }
        let parsed = what.map_err(|(place, what, help)| {
            let what = format!("plugin `{name}` {what}");
            cx.at(place, "edgeway::plugins::on_error").error(what, help);
        });
        if let (Ok(OnErrorConfig::Refuse), Some(breaker)) = (&parsed, &self.breaker) {
            return cx.at(breaker.place, "edgeway::plugins::breaker").refuse(
                format!("plugin `{name}` refuses requests when it fails, and is never paused"),
                "remove `breaker`: such a plugin runs for each request, so that one client cannot \
                 affect others",
            );
        }
        parsed.ok()
    }
}
