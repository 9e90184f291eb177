//! The body of a request, as hooks read it.

use std::sync::Arc;

use bytes::Bytes;
use rquickjs::{ArrayBuffer, Ctx, Exception, Function, Object, Result};

use super::host::State;

/// What a hook has of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    #[default]
    None,
    Whole(Bytes),
    /// There is one, and why it is not here.
    Unread(&'static str),
}

impl Body {
    fn bytes(&self, ctx: &Ctx<'_>) -> Result<&[u8]> {
        match self {
            Self::None => Ok(&[]),
            Self::Whole(bytes) => Ok(bytes),
            Self::Unread(why) => {
                let why = format!("the body of this request is not here: {why}");
                Err(Exception::throw_type(ctx, &why))
            }
        }
    }
}

/// Puts what reads it into `host`.
pub(super) fn functions<'js>(ctx: &Ctx<'js>, host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    let is_there = move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            Ok(matches!(call.input.body, Body::Whole(_)))
        })
    };
    host.set("hasBody", Function::new(ctx.clone(), is_there)?)?;
    let s = Arc::clone(state);
    let text = move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let bytes = call.input.body.bytes(&ctx)?;
            s.pass(&ctx, bytes.len())?;
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        })
    };
    host.set("bodyText", Function::new(ctx.clone(), text)?)?;
    let s = Arc::clone(state);
    let bytes = move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let bytes = call.input.body.bytes(&ctx)?;
            s.pass(&ctx, bytes.len())?;
            ArrayBuffer::new_copy(ctx.clone(), bytes)
        })
    };
    host.set("bodyBytes", Function::new(ctx.clone(), bytes)?)
}
