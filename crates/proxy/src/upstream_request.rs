//! Method and body of a request to a backend, where the route has its own in place of the client's
//! (`upstream_request`).
//!
//! The client's body is read before a backend is asked, so that a filter that refuses the body
//! refuses the request.

use std::time::Duration;

use edgeway_core::chain::{Exchange, Protocol};
use edgeway_gateway::Gateway;
use edgeway_routes::UpstreamRequest;
use http::{HeaderName, HeaderValue, Method, header};
use pingora::{Result, http::RequestHeader};

use super::context::{self, Context, RoutePlacement};

/// Headers that belong to the client's body.
const OF_BODY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::EXPECT,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

fn route_request(gateway: &Gateway, place: Option<RoutePlacement>) -> Option<&UpstreamRequest> {
    let forward = context::route(gateway, place)?.action.forward()?;
    forward.request.as_deref()
}

/// Returns true if no backend gets the client's body.
pub(super) fn replaces_body(ctx: &Context) -> bool {
    route_request(&ctx.gateway, ctx.route).is_some_and(UpstreamRequest::replaces_body)
}

/// Returns true if backends get the method of the route.
pub(super) fn has_method(ctx: &Context) -> bool {
    route_request(&ctx.gateway, ctx.route).is_some_and(|request| request.method.is_some())
}

/// Returns true if the method that a backend gets is an idempotent one (RFC 9110, 9.2.2), as far as
/// the route chooses it.
pub(super) fn is_idempotent(ctx: &Context) -> bool {
    let method = route_request(&ctx.gateway, ctx.route).and_then(|request| request.method.as_ref());
    method.is_none_or(Method::is_idempotent)
}

/// Writes method and body of the route into `request`, the copy of the client's `original` for an
/// attempt.
pub(super) fn write(
    original: &RequestHeader,
    request: &mut RequestHeader,
    ctx: &mut Context,
) -> Result<()> {
    let Some(replacement) = route_request(&ctx.gateway, ctx.route) else {
        return Ok(());
    };
    if let Some(method) = &replacement.method {
        request.set_method(method.clone());
    }
    let ex = Exchange::new(original, &mut ctx.facts);
    let Some(body) = replacement.body(&ex) else {
        return Ok(());
    };
    for name in &OF_BODY {
        request.remove_header(name);
    }
    let expects_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    if expects_body || !body.is_empty() {
        // RFC 9110, 8.6: also of an empty one, with a method that usually has one.
        request.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    ctx.early.replacement = Some(Box::new(body));
    Ok(())
}

/// Returns the time within which `received` bytes of a stream's body must have come; `None` if the
/// connection itself measures it, or nothing does.
pub(super) fn body_time(received: u64, ctx: &Context) -> Option<Duration> {
    if ctx.facts.client.protocol != Protocol::Http2 {
        return None;
    }
    let listener = ctx.connection.as_ref()?.listener.config();
    let limits = &listener.limits;
    let seconds = received.checked_div(limits.body_rate.0)?;
    Some(limits.body_grace.0 + Duration::from_secs(seconds))
}
