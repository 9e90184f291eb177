//! Request to a backend and its response: the choice of the backend, deadlines, retries, and
//! response headers that are meant for the gateway.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_base::{http::begins_with, units::whole_millis};
use edgeway_core::chain::host::public_host;
use edgeway_upstreams::{
    AttemptFailure, BackendSocket, LeaseRequest, NODE_REPORT_HEADER, Outcome, Protocol, Timeouts,
    Unavailable, Upstream,
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::Digest,
    upstreams::peer::HttpPeer,
};
use pingora_proxy::Session;

use super::{
    context::{self, ConnectionOwner, Context},
    error::{Failure, LogText},
    forwarded, hop_by_hop, host_header,
    retry::{self, Replay},
    streams::{self, is_h2},
    trace, websocket,
};
use crate::connection::deadline::Expired;

/// Reason of a retry after a response with 502, 503 or 504.
const BAD_STATUS: &str = "upstream_status";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Bound on retries after pooled connections that were stale. Each retry gets a new connection, so
/// a second one is only needed if the app restarts right then.
const MAX_STALE: u32 = 3;

/// Returns the time limits of a request to `upstream`: the route's own, if it has some.
fn timeouts<'a>(ctx: &'a Context, upstream: &'a Upstream) -> &'a Timeouts {
    ctx.timeouts.as_deref().unwrap_or(&upstream.timeouts)
}

/// Returns the time limit of a new connection to `upstream`.
pub(super) fn connect_timeout(ctx: &Context, upstream: &Upstream) -> Duration {
    timeouts(ctx, upstream).connect
}

/// Takes a place on a backend for the next attempt at `request`.
pub(super) async fn lease(request: &RequestHeader, ctx: &mut Context) -> Result<Arc<Upstream>> {
    let Some(upstream) = ctx.upstream.clone() else {
        return fail(ctx, Failure::Internal);
    };
    if let Some(watch) = &ctx.watch {
        // A deadline of the attempt before is not the reason if this one fails.
        watch.renew();
    }
    let asked_at = ctx.live().world.clock.now();
    let ask = LeaseRequest {
        head: request,
        client: ctx.facts.client.ip,
        at: asked_at,
        tried: &ctx.tried,
        is_upgrade: ctx.is_websocket,
        release: ctx.facts.release.as_deref(),
    };
    let lease = match upstream.acquire(&ask).await {
        Ok(lease) => lease,
        Err(Unavailable::NoBackend) => return fail(ctx, Failure::NoBackend),
        Err(Unavailable::QueueFull | Unavailable::QueueTimeout | Unavailable::StreamsFull) => {
            return fail(ctx, Failure::Overload);
        }
    };
    ctx.tried_at = lease.since();
    let facts = &mut ctx.facts;
    facts.upstream.name = Some(Arc::clone(&upstream.name));
    facts.upstream.backend = Some(Arc::clone(lease.backend().address()));
    facts.upstream.attempts += 1;
    facts.upstream.started = Some(ctx.tried_at - facts.started);
    trace::begin_attempt(facts, lease.backend().address(), asked_at, ctx.tried_at);
    ctx.lease = Some(lease);
    Ok(upstream)
}

/// Chooses a backend and returns how to connect to it.
pub(super) async fn peer(session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    ctx.owner = ConnectionOwner::Pingora;
    if ctx.is_websocket {
        // The fast path takes each: Pingora may end a tunnel whose 101 comes too soon.
        debug_assert!(false, "a WebSocket goes through the relay");
        return fail(ctx, Failure::Internal);
    }
    let upstream = lease(session.req_header(), ctx).await?;
    let Some(lease) = &ctx.lease else {
        return fail(ctx, Failure::Internal);
    };
    let mut peer = upstream.peer(lease);
    if ctx.stale_attempts > 0 {
        // A pool group of its own: it contains no stale connection.
        peer.group_key = fastrand::u64(..);
        peer.options.idle_timeout = Some(Duration::from_millis(1));
    }
    if ctx.is_background() {
        // No client waits for it, and no deadline of a client's connection ends it.
        peer.options.read_timeout = Some(timeouts(ctx, &upstream).first_byte);
    }
    if let Some(own) = &ctx.timeouts {
        peer.options.connection_timeout = Some(own.connect);
        peer.options.total_connection_timeout = Some(own.connect);
    }
    if let (Protocol::H2, Some(connection)) = (upstream.protocol(), &ctx.connection) {
        let is_complete = session.as_mut().is_body_done();
        let listener = connection.listener.config();
        let request = streams::StreamRequest {
            headers: &session.req_header().headers,
            started: ctx.facts.started,
            is_complete,
            limits: &listener.limits,
        };
        let bounds = streams::bounds(&request, timeouts(ctx, &upstream), ctx.tried_at);
        peer.options.read_timeout = Some(bounds.silence);
        ctx.due = bounds.due;
    }
    Ok(peer)
}

/// Ends the request with this failure's reply.
fn fail<T>(ctx: &mut Context, failure: Failure) -> Result<T> {
    ctx.reply = Some(Box::new(failure.reply()));
    Err(Error::new_in(ErrorType::Custom(failure.reason())))
}

/// Returns the gateway's own address on a connection of Pingora's.
pub(super) fn local_address(digest: Option<&Digest>) -> Option<SocketAddr> {
    let socket = digest?.socket_digest.as_ref()?;
    socket.local_addr()?.as_inet().copied()
}

/// Starts the deadlines of a new or reused connection to a backend.
pub(super) fn connected(
    is_reused: bool,
    fd: std::os::fd::RawFd,
    local: Option<SocketAddr>,
    ctx: &mut Context,
) {
    ctx.facts.upstream.reused = is_reused;
    trace::connected(&mut ctx.facts, is_reused);
    if is_h2(ctx) {
        // Other requests share the socket.
        return;
    }
    if ctx.owner == ConnectionOwner::Pingora
        && local.is_some()
        && let Some(lease) = &mut ctx.lease
    {
        lease.uses(BackendSocket { fd, local });
    }
    let (Some(watch), Some(upstream)) = (&ctx.watch, &ctx.upstream) else {
        return;
    };
    let connections = &ctx.live().connections;
    let timeouts = timeouts(ctx, upstream);
    let now = connections.millis(ctx.tried_at);
    let total = timeouts
        .total
        .filter(|_| !ctx.is_websocket)
        .map(|total| connections.millis(ctx.facts.started) + whole_millis(total));
    watch.begin(
        fd,
        local,
        now + whole_millis(timeouts.first_byte),
        timeouts.idle,
        total,
    );
}

/// Records that a chunk of the request body, or its end, is being sent.
pub(super) fn sent_body(body: Option<&Bytes>, is_end: bool, ctx: &mut Context) {
    if is_end && !ctx.is_background() {
        if let Some(connection) = &ctx.connection {
            connection.pace.over();
        }
        if let Some(watch) = &ctx.watch {
            watch.body.over();
        }
    }
    if let Some(body) = body.filter(|body| !body.is_empty()) {
        sent_bytes(body.len(), ctx);
    }
}

/// Records that `count` bytes of the client are being sent.
pub(super) fn sent_bytes(count: usize, ctx: &Context) {
    if let Some(upstream) = &ctx.upstream {
        upstream.count_sent(count);
    }
    if is_h2(ctx) {
        return;
    }
    if let (Some(watch), Some(upstream)) = (&ctx.watch, &ctx.upstream) {
        watch.body.received(count);
        let now = ctx.live().connections.now();
        if ctx.responded_at.is_some() {
            watch.moved(now);
        } else {
            watch.sent_body(now + whole_millis(timeouts(ctx, upstream).first_byte));
        }
    }
}

/// Handles an interim response of a backend.
pub(super) fn interim(response: &mut ResponseHeader, ctx: &Context) {
    // Pingora writes these headers unchanged.
    hop_by_hop::strip_response(response);
    response.remove_header(&NODE_REPORT_HEADER);
    if response.status == StatusCode::CONTINUE
        && !ctx.is_background()
        && let Some(connection) = &ctx.connection
    {
        connection.pace.release();
    }
}

/// Handles the response headers of a backend. Returns an error if another backend should get the
/// request.
pub(super) fn on_origin_response(
    replay: Replay<'_>,
    response: &mut ResponseHeader,
    ctx: &mut Context,
) -> Result<()> {
    let (Some(upstream), Some(lease)) = (&ctx.upstream, &ctx.lease) else {
        return Ok(());
    };
    let timeouts = timeouts(ctx, upstream);
    let (idle, stream_idle) = (timeouts.idle, timeouts.stream_idle);
    let now = ctx.live().world.clock.now();
    let seen = GatewayDirectives::of(response);
    ctx.facts.upstream.status = response.status.as_u16();
    ctx.facts.upstream.first_byte = Some(now - ctx.tried_at);
    trace::responded(&mut ctx.facts, now, seen.streams != StreamKind::Nothing);
    lease.backend().learn_keep_alive(seen.keep_alive);
    if response.status == StatusCode::SWITCHING_PROTOCOLS
        && !(ctx.is_websocket && websocket::is_accepted(replay.request, response))
    {
        // The backend is alive and has responded, but its response is meaningless.
        let outcome = Outcome::Status(response.status.as_u16());
        if let Some(lease) = ctx.lease.take() {
            lease.finish(outcome);
        }
        return bad_switch(ctx.is_websocket);
    }
    let status = response.status.as_u16();
    if let 502..=504 = status
        && retry::may_retry(replay, ctx, retry::refusal(response, upstream, lease, ctx))
    {
        let mut error = Error::new_up(ErrorType::HTTPStatus(response.status.as_u16()));
        error.set_retry(true);
        return Err(error);
    }
    let is_switch = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if (is_switch || seen.streams != StreamKind::Nothing)
        && let Some(lease) = &mut ctx.lease
        && !lease.begin_stream()
    {
        return fail(ctx, Failure::Overload);
    }
    ctx.responded_at = Some(now);
    upstream.observe_server_timing(&response.headers);
    if let (Some(watch), StreamKind::Grpc) = (&ctx.watch, seen.streams) {
        // Both sides send whenever they have a message.
        watch.body.over();
    }
    if is_h2(ctx) {
        if seen.streams != StreamKind::Nothing {
            ctx.due = None;
        }
    } else if let Some(watch) = &ctx.watch {
        let stream = if response.status == StatusCode::SWITCHING_PROTOCOLS {
            ctx.guarded.is_tunnel();
            match &ctx.connection {
                Some(connection) if ctx.is_websocket => connection.set_websocket(),
                Some(connection) => connection.set_tunnel(),
                None => {}
            }
            Some(websocket::idle(ctx).unwrap_or(stream_idle))
        } else {
            (seen.streams != StreamKind::Nothing).then_some(stream_idle)
        };
        let now = ctx.live().connections.millis(now);
        match stream {
            Some(idle) => watch.endless(now, idle),
            None => watch.streaming(now, idle),
        }
    }
    let (is_internal, has_location) = (seen.is_internal, seen.has_location);
    let ends_here = seen.ends_here;
    if seen.keep_alive.is_some() {
        // The backend's keep-alive promise does not apply to connections of clients.
        response.remove_header(&KEEP_ALIVE);
    }
    if ends_here {
        hop_by_hop::strip_response(response);
    }
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        websocket::begin(response)?;
    }
    if let Some(lease) = &ctx.lease
        && !is_switch
    {
        let report = is_internal.then(|| response.headers.get(NODE_REPORT_HEADER));
        lease.backend().learn_node_report(report.flatten(), now);
    }
    if is_internal {
        forwarded::strip_internal_response(response);
    }
    if response.status == StatusCode::NO_CONTENT {
        // Neither is allowed (RFC 9110, 8.6; RFC 9112, 6.1), and a cache that stores the
        // response would wait for a body.
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    if !has_location || context::chain(&ctx.gateway, ctx.route).replaces_location() {
        return Ok(());
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(value) = response.headers.get(&name)
            && let Some(lease) = &ctx.lease
            && let Some(public) =
                public_location(replay.request, value, lease.backend().address(), ctx)
        {
            response.insert_header(name, public)?;
        }
    }
    Ok(())
}

fn bad_switch(is_requested: bool) -> Result<()> {
    let why = if is_requested {
        "the backend's 101 does not match the handshake"
    } else {
        "the backend switched to a protocol that was not requested"
    };
    Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up())
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
    let own = [
        backend,
        named.as_deref().unwrap_or(backend),
        host_header::named(ctx).unwrap_or(backend),
    ];
    forwarded::rewrite_location(value, &own, client.scheme, host)
}

/// Returns the cookie that keeps a browser on its backend, if it needs one.
pub(super) fn cookie(ctx: &Context) -> Option<HeaderValue> {
    let (upstream, lease) = (ctx.upstream.as_ref()?, ctx.lease.as_ref()?);
    upstream.sticky_cookie(lease)
}

/// Records a chunk of the response, or its end. Returns an error if a deadline caused the end.
pub(super) fn received_body(is_end: bool, ctx: &mut Context) -> Result<()> {
    if is_h2(ctx) {
        return if is_end {
            Ok(())
        } else {
            streams::check_due(ctx)
        };
    }
    let Some(watch) = &ctx.watch else {
        return Ok(());
    };
    if !is_end {
        watch.moved(ctx.live().connections.now());
        return Ok(());
    }
    watch.end();
    if watch.expired().is_some() {
        // A body without a length ends with its connection, which the deadline has closed.
        return Err(Error::new_up(ErrorType::ConnectionClosed));
    }
    Ok(())
}

/// Returns the deadline that ended the request, if one did.
pub(super) fn expired(error: &Error, ctx: &Context) -> Option<Expired> {
    if is_h2(ctx) {
        return streams::expired(error, ctx);
    }
    ctx.watch.as_ref().and_then(|watch| watch.expired())
}

/// Handles a failed connection attempt. Nothing was sent.
pub(super) fn not_connected(
    replay: Replay<'_>,
    ctx: &mut Context,
    mut error: Box<Error>,
) -> Box<Error> {
    let failure = Failure::of(&error, None, None);
    trace::attempt_failed(&mut ctx.facts, Some(failure.reason()));
    // An open connection ended just as a stream was to begin on it. That is not a refusal by the
    // backend.
    let was_there = *error.etype() == ErrorType::H2Error;
    if let Some(lease) = ctx.lease.take() {
        ctx.tried.push(lease.backend().id());
        if failure == Failure::Tls {
            lease.backend().report_tls(&error);
        }
        if *error.root_etype() == ErrorType::ConnectRefused {
            lease.backend().close_idle();
        }
        if !was_there {
            lease.finish(Outcome::ConnectFailed);
        }
    }
    let retry = retry::may_retry(replay, ctx, AttemptFailure::Connect);
    error.set_retry(retry);
    if retry {
        retry::note(ctx, failure, &error);
    }
    error
}

/// Handles an attempt that failed on an open connection.
pub(super) fn failed(
    replay: Replay<'_>,
    ctx: &mut Context,
    mut error: Box<Error>,
    is_pooled: bool,
) -> Box<Error> {
    if let Some(watch) = &ctx.watch {
        watch.end();
    }
    let expired = expired(&error, ctx);
    if *error.esource() != ErrorSource::Upstream {
        error.set_retry(false);
        return error;
    }
    if let ErrorType::HTTPStatus(status) = *error.etype() {
        // `answered` has already decided.
        trace::attempt_failed(&mut ctx.facts, None);
        retry::record(&mut ctx.facts, BAD_STATUS);
        if let Some(lease) = ctx.lease.take() {
            ctx.tried.push(lease.backend().id());
            lease.finish(Outcome::Status(status));
        }
        return error;
    }
    if expired == Some(Expired::Body) {
        // The client is at fault, so the failure must not count against the backend.
        error.set_retry(false);
        return error;
    }
    let failure = Failure::of(&error, expired, None);
    trace::attempt_failed(&mut ctx.facts, Some(failure.reason()));
    // An app closes idle connections when it likes. That one of them closed at the moment of reuse
    // does not mean that the app is unhealthy.
    let is_stale = is_pooled
        && failure == Failure::Reset
        && ctx.responded_at.is_none()
        && !streams::is_own_end(&error);
    if is_stale {
        // The backend is not at fault, but it may be stopping, so another backend is the better
        // choice.
        if let Some(lease) = ctx.lease.take() {
            ctx.tried.push(lease.backend().id());
        }
        let retry = ctx.stale_attempts < MAX_STALE && replay.is_possible(ctx);
        ctx.stale_attempts += u32::from(retry);
        error.set_retry(retry);
        // This needs no action by an operator.
        log::debug!(retry, error:% = LogText(&error); "pooled connection was already closed");
        return error;
    }
    if let Some(lease) = ctx.lease.take() {
        ctx.tried.push(lease.backend().id());
        if failure == Failure::Tls {
            lease.backend().report_tls(&error);
        }
        lease.finish(match failure {
            Failure::Tls => Outcome::ConnectFailed,
            Failure::FirstByte | Failure::Idle | Failure::Total => Outcome::Timeout,
            _ => Outcome::Reset,
        });
    }
    let retry = matches!(failure, Failure::Reset | Failure::Tls)
        && ctx.responded_at.is_none()
        && retry::may_retry(replay, ctx, AttemptFailure::Reset);
    error.set_retry(retry);
    if !retry {
        return error;
    }
    retry::note(ctx, failure, &error);
    error
}

/// Finishes the request, however it ended.
pub(super) fn over(ctx: &mut Context) {
    if let Some(watch) = &ctx.watch {
        watch.end();
    }
    let Some(lease) = ctx.lease.take() else {
        return;
    };
    let upstream = &ctx.facts.upstream;
    lease.finish(match upstream.status {
        0 => Outcome::ClientGone,
        status @ (502..=504) => Outcome::Status(status),
        _ => Outcome::Ok {
            first_byte: upstream.first_byte.unwrap_or_default(),
        },
    });
}

/// Response headers that are meant for the gateway, found in one pass.
#[derive(Default)]
struct GatewayDirectives<'h> {
    keep_alive: Option<&'h HeaderValue>,
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
    fn of(content_type: &[u8]) -> Self {
        if begins_with(content_type, b"text/event-stream") {
            Self::Events
        } else if begins_with(content_type, b"application/grpc") {
            Self::Grpc
        } else {
            Self::Nothing
        }
    }
}

impl<'h> GatewayDirectives<'h> {
    fn of(response: &'h ResponseHeader) -> Self {
        let mut seen = Self::default();
        for (name, value) in &response.headers {
            match *name {
                header::CONTENT_TYPE => {
                    seen.streams = StreamKind::of(value.as_bytes());
                }
                header::LOCATION | header::CONTENT_LOCATION => seen.has_location = true,
                header::CONNECTION => seen.ends_here |= !hop_by_hop::is_plain(value.as_bytes()),
                _ if *name == KEEP_ALIVE => {
                    seen.keep_alive = seen.keep_alive.or(Some(value));
                }
                _ => {
                    seen.is_internal |= forwarded::is_internal_response(name);
                    seen.ends_here |= hop_by_hop::ends_here(name.as_str());
                }
            }
        }
        seen
    }
}
