//! The `admin:` and `audit_log:` sections as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    base::secret::Secret,
    tree::{
        Spanned,
        short::{self, Short, short_form},
    },
};

/// The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and the API below `/v1`. Over
/// TCP without a token it serves only the first three. `false` or `off` for neither.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag, transform = short::or_text)]
pub struct AdminConfig {
    /// `IP:PORT`, `127.0.0.1:9900` if absent; `off` for none. An address that other machines can
    /// reach needs a `token`.
    pub address: Option<Spanned<String>>,
    /// A unix socket, for `edgeway status` and the like; `/run/edgeway/admin.sock` or a socket of
    /// the user's own if absent, `off` for none. Only the gateway's own user may open it, and the
    /// group `edgeway` if the gateway runs in it, so it requires no token.
    pub socket: Option<Spanned<PathBuf>>,
    /// Token that clients of `address` send as `Authorization: Bearer …`, for anything but
    /// `/healthz` and `/readyz`: `file:PATH` or `${NAME}`, at least 16 visible characters.
    pub token: Option<Spanned<Secret>>,
}

impl Short for AdminConfig {
    const WHAT: &'static str = "`off`, or a mapping such as `{ address: \"127.0.0.1:9900\" }`";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        let off = || Spanned::nowhere("off".to_owned());
        Some(Ok(if flag {
            Self::default()
        } else {
            Self {
                address: Some(off()),
                socket: Some(Spanned::nowhere("off".into())),
                token: None,
            }
        }))
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        match text {
            "off" => Self::flag(false),
            _ => None,
        }
    }
}

short_form!(AdminConfig);

/// The audit log, which records each action of an operator as one line of JSON.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLogConfig {
    /// A path, relative to the folder of the configuration. The program that rotates the file sends
    /// SIGUSR1.
    pub file: Spanned<PathBuf>,
}
