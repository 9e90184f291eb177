//! The `Host` that a route gives to requests for its backend.

use edgeway_core::chain::Exchange;
use edgeway_routes::HostHeader;
use http::{HeaderMap, HeaderValue, header};
use pingora::http::RequestHeader;

use super::context::{self, Context};

/// Returns the `Host` for the backend of a request, if it is another one than in `headers`.
pub(super) fn own(
    request: &RequestHeader,
    headers: &HeaderMap,
    ctx: &mut Context,
) -> Option<HeaderValue> {
    let forward = context::route(&ctx.gateway, ctx.route)?.action.forward()?;
    let host = forward.host.as_ref()?;
    let backend = ctx.facts.upstream.backend.clone();
    let ex = Exchange::new(request, &mut ctx.facts);
    host.value(&ex, headers.get(header::HOST), backend.as_deref())
}

/// Returns the host that the configuration names, which an app may take for its own.
pub(super) fn named(ctx: &Context) -> Option<&str> {
    let forward = context::route(&ctx.gateway, ctx.route)?.action.forward()?;
    match forward.host.as_ref()? {
        HostHeader::Text(host) => host.to_str().ok(),
        HostHeader::Name | HostHeader::Backend | HostHeader::Template(_) => None,
    }
}
