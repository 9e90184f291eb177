//! The key `extends` as written: the preset that a file is laid over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tree::short::{self, Short, short_form};

/// A preset that this file is laid over: `preset:shop`, or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_text)]
pub struct ExtendsConfig {
    /// `small`, `api`, `portal`, `regulated`, `shop` or `nextjs`.
    pub preset: String,
    /// True to accept listeners without TLS, because clients reach them through a proxy or a
    /// private network only. `small` accepts them in any case.
    #[serde(default)]
    pub allow_http: bool,
}

impl Short for ExtendsConfig {
    const WHAT: &'static str = "`preset:NAME`, or a mapping such as `{ preset: shop }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        let Some(name) = text.strip_prefix("preset:") else {
            return Some(Err(format!(
                "`{text}` is no preset\nhelp: write `preset:` and a name, such as `preset:small`; \
                 `include` adds other files"
            )));
        };
        Some(Ok(Self {
            preset: name.trim().to_owned(),
            allow_http: false,
        }))
    }
}

short_form!(ExtendsConfig);
