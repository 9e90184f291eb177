//! Request bodies, for plugins that ask for them.

use edgeway_base::units::ByteSize;
use edgeway_config::tree::Spanned;
use edgeway_core::chain::{Body, CompileContext};
use edgeway_script as plugins;
use http::{Version, header};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

const MAX_BODY_LEN: u64 = plugins::body::MAX_BODY_LEN as u64;

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BodyConfig {
    /// Maximum size of a body that is read; at most 64 KiB.
    #[default(Spanned::nowhere(ByteSize(MAX_BODY_LEN)))]
    max: Spanned<ByteSize>,
}

impl BodyConfig {
    pub(super) fn compile(&self, cx: &mut CompileContext<'_>) -> Option<usize> {
        let max = self.max.value.0;
        if !(1..=MAX_BODY_LEN).contains(&max) {
            return cx.at(self.max.place, "edgeway::plugins::body").refuse(
                format!("`max: {}` is out of range", self.max.value),
                "write from 1 byte to `64KiB`: a body is buffered whole before it is forwarded",
            );
        }
        usize::try_from(max).ok()
    }
}

/// Returns true if a request has a body of a type that is read for plugins.
pub(super) fn is_read(head: &RequestHeader) -> bool {
    has_body(head) && plugins::body::is_read(&head.headers)
}

/// Returns the body as a plugin gets it that accepts bodies of up to `max` bytes.
pub(super) fn given(head: &RequestHeader, read: &Body, max: Option<usize>) -> plugins::Body {
    const NOT_ASKED: &str = "write `body: {}` where the plugin is configured";
    let Some(max) = max else {
        return unread(head, NOT_ASKED);
    };
    match read {
        Body::NotRead => unread(head, plugins::body::OTHER),
        Body::Whole(bytes) => plugins::Body::read(bytes, max),
        Body::TooLong => plugins::Body::Unread(plugins::body::TOO_LONG),
    }
}

fn unread(head: &RequestHeader, why: &'static str) -> plugins::Body {
    if has_body(head) {
        plugins::Body::Unread(why)
    } else {
        plugins::Body::None
    }
}

/// Returns true if a request has a body. HTTP/2 requires neither a length nor a transfer coding;
/// there the content type decides.
fn has_body(head: &RequestHeader) -> bool {
    match head.headers.get(header::CONTENT_LENGTH) {
        Some(length) => length != "0",
        None if head.version == Version::HTTP_2 => head.headers.contains_key(header::CONTENT_TYPE),
        None => head.headers.contains_key(header::TRANSFER_ENCODING),
    }
}
