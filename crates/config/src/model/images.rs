//! Images of a Next.js app, as written.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::tree::{
    Spanned,
    short::{self, Short, short_form},
};

/// Images of a Next.js app: a mapping, or its `at` alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_a_maker)]
pub struct ImagesConfig {
    /// Maker of the images.
    pub at: ImagesAt,
    /// True to make images of other servers at the edge too: the gateway connects to servers that
    /// `images.remotePatterns` and `images.domains` of the app's configuration allow. Otherwise the
    /// app makes these images.
    #[serde(default = "off")]
    pub remote: Spanned<bool>,
}

/// Maker of the images of a Next.js app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImagesAt {
    /// The app's own optimizer.
    App,
    /// The gateway, for images that it can make like the app.
    Edge,
}

short_form!(ImagesConfig);

fn off() -> Spanned<bool> {
    Spanned::nowhere(false)
}

impl Short for ImagesConfig {
    const WHAT: &'static str = "`app`, `edge` or a mapping such as `{ at: edge, remote: true }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        let at = match text {
            "app" => ImagesAt::App,
            "edge" => ImagesAt::Edge,
            _ => return None,
        };
        Some(Ok(Self { at, remote: off() }))
    }
}

/// Allows the maker alone in the schema as well.
fn or_a_maker(schema: &mut Schema) {
    short::or(schema, json!({ "type": "string", "enum": ["app", "edge"] }));
}
