//! The `Host` that a route gives to requests for its backend.

use http::{HeaderMap, HeaderValue, header};

use super::context::{self, Context};
use crate::routes::{Action, HostHeader};

fn of(ctx: &Context) -> Option<&HostHeader> {
    let Action::Forward(forward) = &context::route(&ctx.gateway, ctx.route)?.action else {
        return None;
    };
    forward.host.as_ref()
}

/// Returns the `Host` for the backend, if it is another one than in `headers`.
pub(super) fn own(
    headers: &HeaderMap,
    backend: Option<&str>,
    ctx: &Context,
) -> Option<HeaderValue> {
    of(ctx)?.value(headers.get(header::HOST), backend)
}

/// Returns the host that the configuration names, which an app may take for its own.
pub(super) fn named(ctx: &Context) -> Option<&str> {
    match of(ctx)? {
        HostHeader::Text(host) => host.to_str().ok(),
        HostHeader::Name | HostHeader::Backend => None,
    }
}
