//! Configuration of `access` as written, and its compilation.

use edgeway_base::net::Cidr;
use edgeway_core::chain::CompileContext;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Access;

/// Clients that may pass, by their address (behind `trusted_proxies`, the reported one); others get
/// 403.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Only these networks may pass, such as `[10.0.0.0/8, "fd00::/8"]`; all clients may if absent.
    allow: Option<Vec<Cidr>>,
    /// Networks that may not pass, even if `allow` lists them.
    deny: Vec<Cidr>,
}

impl AccessConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Access> {
        // An empty `allow` is a list that lost its entries, not a wish to let all clients pass.
        if self.allow.as_ref().is_some_and(Vec::is_empty) {
            return cx.here("edgeway::access::empty").refuse(
                "`allow` is empty, so no client could pass",
                "list networks such as `10.0.0.0/8`, or remove `allow` to let all clients pass",
            );
        }
        if self.allow.is_none() && self.deny.is_empty() {
            return cx.here("edgeway::access::nothing").refuse(
                "`access` has neither `allow` nor `deny`",
                "write `allow: [10.0.0.0/8]` or `deny: [192.0.2.0/24]`",
            );
        }
        Some(Access {
            allow: self.allow.into_iter().flatten().collect(),
            deny: self.deny.into_iter().collect(),
        })
    }
}
