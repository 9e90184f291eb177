//! The `geo:` section as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, Spanned};

/// Where clients are, for plugins: by files in the format of `GeoLite2` (`.mmdb`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoConfig {
    /// Such as `GeoLite2-City.mmdb`, or a list; relative to the folder of this configuration.
    /// What the first one does not say is asked of the next.
    pub file: OneOrMany<Spanned<String>>,
}
