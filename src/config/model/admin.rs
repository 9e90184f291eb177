//! The `admin:` and `audit_log:` sections as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{base::secret::Secret, config::tree::Spanned};

/// The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and the API below `/v1`.
/// Over TCP without a token it has the first three alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// `IP:PORT`, `127.0.0.1:9900` if absent; `off` for none. One that other machines can
    /// reach needs a `token`.
    pub address: Option<Spanned<String>>,
    /// A unix socket, for `edgeway status` and the like; `/run/edgeway/admin.sock` or one of
    /// the user's own if absent, `off` for none. Only the gateway's own user and the group
    /// `edgeway` may open it, so it asks for no token.
    pub socket: Option<Spanned<PathBuf>>,
    /// Sent by clients of `address` as `Authorization: Bearer …`, for anything but `/healthz`
    /// and `/readyz`: `file:PATH` or `${NAME}`, at least 16 visible characters.
    pub token: Option<Spanned<Secret>>,
}

/// Where each action of an operator is recorded, as one line of JSON.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLogConfig {
    /// A path, from the folder of the configuration. Whatever rotates the file sends SIGUSR1.
    pub file: Spanned<PathBuf>,
}
