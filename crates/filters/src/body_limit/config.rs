//! Configuration of `body_limit` as written, and its compilation.

use edgeway_base::units::ByteSize;
use edgeway_config::tree::short::{self, Short, short_form};
use edgeway_core::{chain::CompileContext, limits::DEFAULT_BODY_LIMIT};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::BodyLimit;

/// Maximum size of a request body: a size, or a mapping.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = or_size)]
pub struct BodyLimitConfig {
    /// Longer bodies get 413.
    #[default(DEFAULT_BODY_LIMIT)]
    max: ByteSize,
}

/// Extends the schema: a size alone is valid too.
fn or_size(schema: &mut Schema) {
    let size = ByteSize::json_schema(&mut SchemaGenerator::default());
    short::or(schema, size.to_value());
}

impl Short for BodyLimitConfig {
    const WHAT: &'static str = "a size such as `1MiB`, or `false` for no limit";

    const NUMBER: Option<&'static str> = Some("max");
    const TEXT: Option<&'static str> = Some("max");
}

short_form!(BodyLimitConfig);

impl BodyLimitConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<BodyLimit> {
        // In some products 0 means "no limit", in others "no body": report it.
        if self.max.0 == 0 {
            return cx.here("edgeway::body_limit::zero").refuse(
                "`body_limit` of 0 bytes",
                "write `body_limit: false` for no limit, or `methods: [GET]` where no body is \
                 wanted",
            );
        }
        Some(BodyLimit { max: self.max.0 })
    }
}
