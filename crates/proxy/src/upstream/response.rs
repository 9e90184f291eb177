//! Response headers of a backend: whether the request goes to another one, the deadlines from here
//! on, and what is meant for the gateway alone.

use std::time::Instant;

use edgeway_base::http::{begins_with, url_of_refresh};
use edgeway_core::chain::host::public_host;
use edgeway_upstreams::{NODE_REPORT_HEADER, Outcome};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{fail, timeouts};
use crate::{
    context::{self, Context},
    error::Failure,
    forwarded, hop_by_hop, host_header,
    retry::{self, Replay},
    trace, websocket,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Handles the response headers of a backend. Returns an error if another backend should get the
/// request.
pub(crate) fn on_origin_response(
    replay: Replay<'_>,
    response: &mut ResponseHeader,
    ctx: &mut Context,
) -> Result<()> {
    let Some(lease) = &ctx.lease else {
        return Ok(());
    };
    lease.heard();
    let now = ctx.live().world.clock.now();
    let directives = GatewayDirectives::collect(response, ctx);
    let is_stream = directives.streams != StreamKind::Nothing;
    ctx.facts.upstream.status = response.status.as_u16();
    ctx.facts.upstream.first_byte = Some(now - ctx.tried_at);
    trace::responded(&mut ctx.facts, now, is_stream);
    judge(replay, response, ctx)?;
    let is_switch = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if (is_switch || is_stream)
        && let Some(lease) = &mut ctx.lease
        && !lease.begin_stream()
    {
        return fail(ctx, Failure::Overload);
    }
    ctx.responded_at = Some(now);
    if let Some(upstream) = &ctx.upstream {
        upstream.observe_server_timing(&response.headers);
    }
    set_deadlines(is_switch, directives.streams, now, ctx);
    clean(response, &directives, now, ctx)?;
    if directives.has_location && !context::chain(&ctx.gateway, ctx.route).replaces_location {
        make_public(replay.request, response, ctx)?;
    }
    Ok(())
}

/// Returns an error if the response is meaningless, or if another backend should get the request.
fn judge(replay: Replay<'_>, response: &ResponseHeader, ctx: &mut Context) -> Result<()> {
    let status = response.status.as_u16();
    if response.status == StatusCode::SWITCHING_PROTOCOLS
        && !(ctx.is_websocket && websocket::is_accepted(replay.request, response))
    {
        // The backend is alive and has responded.
        if let Some(lease) = ctx.lease.take() {
            lease.finish(Outcome::Status(status));
        }
        let why = if ctx.is_websocket {
            "the backend's 101 does not match the handshake"
        } else {
            "the backend switched to a protocol that was not requested"
        };
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up());
    }
    if let 502..=504 = status
        && let (Some(upstream), Some(lease)) = (&ctx.upstream, &ctx.lease)
        && retry::may_retry(replay, ctx, retry::refusal(response, upstream, lease, ctx))
    {
        let mut error = Error::new_up(ErrorType::HTTPStatus(status));
        error.set_retry(true);
        return Err(error);
    }
    Ok(())
}

/// Begins the deadlines of the response's body, or of a tunnel.
fn set_deadlines(is_switch: bool, streams: StreamKind, now: Instant, ctx: &mut Context) {
    let (Some(watch), Some(upstream)) = (&ctx.watch, &ctx.upstream) else {
        return;
    };
    if streams == StreamKind::Grpc {
        // Both sides send whenever they have a message.
        watch.body.over();
    }
    let times = timeouts(ctx, upstream);
    let now = ctx.live().connections.millis(now);
    if is_switch {
        let idle = websocket::idle(ctx).unwrap_or(times.stream_idle.0);
        ctx.guarded.is_tunnel();
        match &ctx.connection {
            Some(connection) if ctx.is_websocket => connection.set_websocket(),
            Some(connection) => connection.set_tunnel(),
            None => {}
        }
        watch.endless(now, idle);
    } else if streams == StreamKind::Nothing {
        watch.streaming(now, times.idle.0);
    } else {
        watch.endless(now, times.stream_idle.0);
    }
}

/// Removes headers that are meant for the gateway, or for this connection to the backend.
fn clean(
    response: &mut ResponseHeader,
    directives: &GatewayDirectives,
    now: Instant,
    ctx: &Context,
) -> Result<()> {
    let is_switch = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if directives.has_keep_alive {
        // The backend's keep-alive promise does not apply to connections of clients.
        response.remove_header(&KEEP_ALIVE);
    }
    if directives.ends_here {
        hop_by_hop::strip_response(response);
    }
    if is_switch {
        websocket::begin(response)?;
    } else if let Some(lease) = &ctx.lease {
        let report = || response.headers.get(NODE_REPORT_HEADER);
        let report = directives.is_internal.then(report).flatten();
        lease.backend.learn_node_report(report, now);
    }
    if directives.is_internal {
        forwarded::strip_internal_response(response);
    }
    if response.status == StatusCode::NO_CONTENT {
        // Neither is allowed (RFC 9110, 8.6; RFC 9112, 6.1), and a cache that stores the
        // response would wait for a body.
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    Ok(())
}

/// Replaces the backend's own address in the locations that the response names.
fn make_public(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &Context,
) -> Result<()> {
    let Some(lease) = &ctx.lease else {
        return Ok(());
    };
    let backend = lease.backend.address();
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(value) = response.headers.get(&name)
            && let Some(public) = public_location(request, value, backend, ctx)
        {
            response.insert_header(name, public)?;
        }
    }
    if let Some(refresh) = response.headers.get(header::REFRESH)
        && let Some((before, url)) = split_refresh(refresh)
        && let Some(public) = public_location(request, &url, backend, ctx)
    {
        let refresh = [before, public.as_bytes()].concat();
        response.insert_header(header::REFRESH, refresh)?;
    }
    Ok(())
}

/// Splits `5; url=http://…` before its URL.
fn split_refresh(refresh: &HeaderValue) -> Option<(&[u8], HeaderValue)> {
    let (before, url) = refresh
        .as_bytes()
        .split_at(url_of_refresh(refresh.to_str().ok()?)?);
    Some((before, HeaderValue::from_bytes(url).ok()?))
}

fn public_location(
    request: &RequestHeader,
    value: &HeaderValue,
    backend: &str,
    ctx: &Context,
) -> Option<HeaderValue> {
    let client = &ctx.facts.client;
    let host = public_host(request, client);
    // With TLS an app may use the name in its certificate for itself.
    let named = ctx
        .upstream
        .as_ref()
        .and_then(|upstream| upstream.tls_name())
        .zip(backend.rsplit_once(':'))
        .map(|(name, (_, port))| format!("{name}:{port}"));
    let origins = [
        backend,
        named.as_deref().unwrap_or(backend),
        host_header::named(ctx).unwrap_or(backend),
    ];
    forwarded::rewrite_location(value, &origins, client.scheme, host)
}

/// Response headers that are meant for the gateway, found in one pass.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a header's presence")]
struct GatewayDirectives {
    has_keep_alive: bool,
    streams: StreamKind,
    has_location: bool,
    /// True if some header is internal to a framework.
    is_internal: bool,
    /// True if a hop-by-hop header other than `Keep-Alive` is present.
    ends_here: bool,
}

/// Kind of stream that a response is by its type. Pauses in a stream are normal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StreamKind {
    #[default]
    Nothing,
    Events,
    Grpc,
}

impl StreamKind {
    fn from_content_type(content_type: &[u8]) -> Self {
        if begins_with(content_type, b"text/event-stream") {
            Self::Events
        } else if begins_with(content_type, b"application/grpc") {
            Self::Grpc
        } else {
            Self::Nothing
        }
    }
}

impl GatewayDirectives {
    /// Finds them, and lets the backend learn what `Keep-Alive` says.
    fn collect(response: &ResponseHeader, ctx: &Context) -> Self {
        let mut seen = Self::default();
        let mut keep_alive = None;
        for (name, value) in &response.headers {
            match *name {
                header::CONTENT_TYPE => {
                    seen.streams = StreamKind::from_content_type(value.as_bytes());
                }
                header::LOCATION | header::CONTENT_LOCATION | header::REFRESH => {
                    seen.has_location = true;
                }
                header::CONNECTION => seen.ends_here |= !hop_by_hop::is_plain(value.as_bytes()),
                _ if *name == KEEP_ALIVE => {
                    keep_alive = keep_alive.or(Some(value));
                }
                _ => {
                    seen.is_internal |= forwarded::is_internal_response(name);
                    seen.ends_here |= hop_by_hop::ends_here(name.as_str());
                }
            }
        }
        seen.has_keep_alive = keep_alive.is_some();
        if let Some(lease) = &ctx.lease {
            lease.backend.learn_keep_alive(keep_alive);
        }
        seen
    }
}
