//! The `geo:` section as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, Spanned};

/// Geolocation of clients, for plugins: files in the format of `GeoLite2` (`.mmdb`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoConfig {
    /// A file such as `GeoLite2-City.mmdb`, or a list; relative to the folder of this
    /// configuration. If a file lacks a field, the next file is used.
    pub file: OneOrMany<Spanned<String>>,
}
