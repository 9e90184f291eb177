//! Request bodies as hooks read them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use rquickjs::{ArrayBuffer, Ctx, Exception, Object, Result};

use super::host::{State, add};

/// Request body that a hook can read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    #[default]
    None,
    Whole(Bytes),
    /// A body is present but unavailable; holds the reason.
    Unread(&'static str),
}

/// Largest body that can be read and still be forwarded.
pub const MAX_BODY_LEN: usize = 64 << 10;

/// Reasons why a body is unavailable.
pub const TOO_LONG: &str = "it is longer than `body.max`";
pub const OTHER: &str = "it is neither JSON nor a URL-encoded form, or it has a `Content-Encoding`";

/// Returns true if the body that these headers describe is read for plugins.
pub fn is_read(headers: &HeaderMap) -> bool {
    let coding = headers.get(header::CONTENT_ENCODING);
    let is_plain = coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    let is_json_or_form = match &*kind {
        "application/json" | "application/x-www-form-urlencoded" => true,
        // Messages of a call, whose client may wait for a response before it sends the next.
        "application/connect+json" | "application/grpc+json" | "application/grpc-web+json" => false,
        kind => kind.starts_with("application/") && kind.ends_with("+json"),
    };
    is_plain && is_json_or_form
}

impl Body {
    /// Wraps a body that was read, for a plugin that gets at most `max` bytes.
    pub fn read(bytes: &Bytes, max: usize) -> Self {
        match bytes.len() {
            0 => Self::None,
            length if length <= max => Self::Whole(bytes.clone()),
            _ => Self::Unread(TOO_LONG),
        }
    }

    fn bytes(&self, ctx: &Ctx<'_>) -> Result<&[u8]> {
        match self {
            Self::None => Ok(&[]),
            Self::Whole(bytes) => Ok(bytes),
            Self::Unread(why) => {
                let why = format!("the body of this request is not available: {why}");
                Err(Exception::throw_type(ctx, &why))
            }
        }
    }
}

/// Adds the functions that read the body to `host`.
pub(super) fn functions<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    add(host, "hasBody", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            Ok(matches!(call.input.body, Body::Whole(_)))
        })
    })?;
    let s = Arc::clone(state);
    add(host, "bodyText", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let bytes = call.input.body.bytes(&ctx)?;
            s.charge(&ctx, bytes.len())?;
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        })
    })?;
    let s = Arc::clone(state);
    add(host, "bodyBytes", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let bytes = call.input.body.bytes(&ctx)?;
            s.charge(&ctx, bytes.len())?;
            ArrayBuffer::new_copy(ctx.clone(), bytes)
        })
    })
}
