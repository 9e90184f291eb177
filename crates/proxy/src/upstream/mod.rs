//! Request to a backend and its response: the choice of the backend, deadlines, retries, and
//! response headers that are meant for the gateway.

mod response;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_base::units::{Span, whole_millis};
use edgeway_config::model::TimeoutsConfig;
use edgeway_upstreams::{
    AttemptFailure, BackendSocket, LeaseRequest, Outcome, Unavailable, Upstream,
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

pub(super) use self::response::on_origin_response;
use super::{
    context::Context,
    error::{Failure, LogText},
    retry::{self, Replay},
    streams::{self, FirstByte},
    trace,
};
use crate::{
    connection::deadline::{Expired, Target},
    session::Client,
    wire::Wire,
};

/// Type of the error that ends a response of a backend in whose place another one is sent.
pub(super) const REPLACED: ErrorType = ErrorType::Custom("replaced");

/// Limit on bytes of the interim responses of one attempt.
const MAX_INTERIM: usize = 64 * 1024;

/// Reason of a retry after a response with 502, 503 or 504.
const BAD_STATUS: &str = "upstream_status";

/// Bound on retries after pooled connections that were stale, and after streams that were refused.
/// Each retry gets a new connection, so a second one is only needed if the app restarts right then.
const MAX_STALE: u32 = 3;

/// Time within which a kept connection that has been closed already resets. An app that resets later
/// has worked on the request.
const ON_USE: Duration = Duration::from_millis(500);

/// Returns the time limits of a request to `upstream`: the route's own, if it has some.
fn timeouts<'a>(ctx: &'a Context, upstream: &'a Upstream) -> &'a TimeoutsConfig {
    ctx.timeouts.as_deref().unwrap_or(&upstream.timeouts)
}

/// Returns the time limit of a new connection to `upstream`.
pub(super) fn connect_timeout(ctx: &Context, upstream: &Upstream) -> Duration {
    timeouts(ctx, upstream).connect.0
}

/// Returns how long a backend may be silent, before its response or within it, if no deadline of a
/// client's connection says so: nobody waits for the response.
pub(super) fn silence(ctx: &Context, limit: fn(&TimeoutsConfig) -> Span) -> Option<Duration> {
    let upstream = ctx.upstream.as_ref().filter(|_| ctx.is_background())?;
    Some(limit(timeouts(ctx, upstream)).0)
}

/// Takes a place on a backend for the next attempt at the client's request, unless it leaves first.
pub(super) async fn lease(client: &mut Client, ctx: &mut Context) -> Result<Arc<Upstream>> {
    let Some(upstream) = ctx.upstream.clone() else {
        return fail(ctx, Failure::Internal);
    };
    if let Some(watch) = &ctx.watch {
        // A deadline of the attempt before is not the reason if this one fails.
        watch.renew();
    }
    let asked_at = ctx.live().world.clock.now();
    let (head, watch) = client.watched();
    let ask = LeaseRequest {
        head,
        client: ctx.facts.client.ip,
        at: asked_at,
        tried: &ctx.tried,
        is_upgrade: ctx.is_websocket,
        release: ctx.facts.release.as_deref(),
    };
    let lease = match watch.during(upstream.acquire(&ask)).await? {
        Ok(lease) => lease,
        Err(Unavailable::NoBackend) => return fail(ctx, Failure::NoBackend),
        Err(Unavailable::QueueFull | Unavailable::QueueTimeout | Unavailable::StreamsFull) => {
            return fail(ctx, Failure::Overload);
        }
    };
    ctx.tried_at = lease.since();
    let facts = &mut ctx.facts;
    facts.upstream.name = Some(Arc::clone(&upstream.name));
    facts.upstream.backend = Some(Arc::clone(lease.backend.address()));
    facts.upstream.attempts += 1;
    facts.upstream.started = Some(ctx.tried_at - facts.started);
    trace::begin_attempt(facts, lease.backend.address(), asked_at, ctx.tried_at);
    ctx.lease = Some(lease);
    Ok(upstream)
}

/// Ends the request with this failure's reply.
fn fail<T>(ctx: &mut Context, failure: Failure) -> Result<T> {
    ctx.reply = Some(Box::new(failure.reply()));
    Err(Error::new_in(ErrorType::Custom(failure.reason())))
}

/// Starts the deadlines of a request that is sent over `wire`.
pub(super) fn connected(wire: &mut Wire, request: &RequestHeader, ctx: &mut Context) {
    let is_reused = wire.is_reused();
    ctx.facts.upstream.reused = is_reused;
    trace::connected(&mut ctx.facts, is_reused);
    let (Some(watch), Some(upstream)) = (&ctx.watch, &ctx.upstream) else {
        return;
    };
    let connections = &ctx.live().connections;
    let times = timeouts(ctx, upstream);
    let now = connections.millis(ctx.tried_at);
    let whole = times
        .total
        .filter(|_| !ctx.is_websocket)
        .map(|total| connections.millis(ctx.facts.started) + whole_millis(total.0));
    if let Some((fd, local)) = wire.socket() {
        let target = Target::Socket(BackendSocket { fd, local });
        let due = now + whole_millis(times.first_byte.0);
        watch.begin(target, due, times.first_byte.0, whole);
        return;
    }
    wire.watch(watch);
    let first = FirstByte::for_request(&request.headers, times);
    if first.is_stream {
        // Both sides send whenever they have a message.
        watch.body.over();
    }
    let due = now + whole_millis(first.within);
    let whole = whole.filter(|_| !first.is_stream);
    watch.begin(Target::Stream, due, first.after_chunk, whole);
}

/// Records that a chunk of the request body, or its end, is being sent.
pub(super) fn sent_body(body: Option<&Bytes>, is_end: bool, ctx: &mut Context) {
    if is_end {
        body_is_free(ctx);
        if let Some(lease) = &ctx.lease {
            lease.asked(true);
        }
    }
    if let Some(body) = body.filter(|body| !body.is_empty()) {
        sent_bytes(body.len(), ctx);
    }
}

/// Ends the minimum rate of the request's body: it has ended, or its response has begun, and both
/// sides send whenever they have something.
pub(super) fn body_is_free(ctx: &Context) {
    if ctx.is_background() {
        return;
    }
    if let Some(connection) = &ctx.connection {
        connection.pace.over();
    }
    if let Some(watch) = &ctx.watch {
        watch.body.over();
    }
}

/// Records that the backend could have more of the request body than the client has sent, unless
/// the client waits for the backend's `100 Continue`.
pub(super) fn awaits_body(ctx: &Context) {
    let is_held = ctx.connection.as_ref().is_some_and(|c| c.pace.is_held());
    if let Some(watch) = ctx
        .watch
        .as_ref()
        .filter(|it| !is_held && !it.body.is_held())
    {
        watch.body.awaited();
    }
}

/// Records that `count` bytes of the client are being sent.
pub(super) fn sent_bytes(count: usize, ctx: &Context) {
    if let Some(upstream) = &ctx.upstream {
        upstream.count_sent(count);
    }
    if let Some(watch) = &ctx.watch {
        watch.body.received(count);
        watch.moved(ctx.live().connections.now());
    }
}

/// Returns true for `100 Continue`, `103 Early Hints` and the like. `101` starts a tunnel.
pub(super) fn is_interim(response: &ResponseHeader) -> bool {
    response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
}

/// Returns the length of a response's headers, as lines.
pub(super) fn length(response: &ResponseHeader) -> usize {
    let lines = response.headers.iter();
    let lines = lines.map(|(name, value)| name.as_str().len() + value.len() + 4);
    lines.sum::<usize>() + 16
}

/// Returns an error if the interim responses of an attempt, `length` bytes so far, are too many: a
/// backend could send them for ever.
pub(super) fn bound_interim(length: usize) -> Result<()> {
    if length <= MAX_INTERIM {
        return Ok(());
    }
    let why = "interim responses of more than 64 KiB";
    Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up())
}

/// Handles an interim response of a backend.
pub(super) fn interim(response: &mut ResponseHeader, ctx: &mut Context) {
    ctx.has_interim = true;
    // Filters of responses do not see it: what they remove or replace must not pass in it. The
    // others tell a client of resumable uploads where to continue.
    let passes = |name: &HeaderName| {
        [header::LINK, header::LOCATION].contains(name) || name.as_str().starts_with("upload-")
    };
    let names: Vec<_> = response.headers.keys().cloned().collect();
    for name in names.iter().filter(|name| !passes(name)) {
        response.remove_header(name);
    }
    if response.status == StatusCode::CONTINUE && !ctx.is_background() {
        ctx.continued();
    }
}

/// Returns the cookie that keeps a browser on its backend, if it needs one.
pub(super) fn cookie(ctx: &Context) -> Option<HeaderValue> {
    let (upstream, lease) = (ctx.upstream.as_ref()?, ctx.lease.as_ref()?);
    upstream.sticky_cookie(lease)
}

/// Counts a piece of a backend's body.
pub(super) fn count_received(body: Option<&Bytes>, ctx: &Context) {
    if let (Some(body), Some(upstream)) = (body, &ctx.upstream) {
        upstream.count_received(body.len());
    }
}

/// Records a chunk of the response, or its end. Returns an error if a deadline caused the end.
pub(super) fn received_body(is_end: bool, ctx: &mut Context) -> Result<()> {
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
pub(super) fn expired(ctx: &Context) -> Option<Expired> {
    ctx.watch.as_ref().and_then(|watch| watch.expired())
}

/// Returns true if the backend has exceeded a deadline.
pub(super) fn is_late(ctx: &Context) -> bool {
    expired(ctx).is_some_and(|expired| expired != Expired::Body)
}

/// Returns true if the client's own limit is the time to the first byte (`grpc-timeout`).
fn is_clients_time(request: &RequestHeader, ctx: &Context) -> bool {
    let upstream = ctx.upstream.as_ref().filter(|upstream| upstream.is_h2());
    upstream.is_some_and(|upstream| {
        FirstByte::for_request(&request.headers, timeouts(ctx, upstream)).is_clients
    })
}

/// Handles a failed connection attempt. Nothing was sent.
pub(super) fn not_connected(
    replay: Replay<'_>,
    ctx: &mut Context,
    mut error: Box<Error>,
) -> Box<Error> {
    let failure = Failure::new(&error, None, None);
    trace::attempt_failed(&mut ctx.facts, Some(failure.reason()));
    // An open connection ended just as a stream was to begin on it. That is not a refusal by the
    // backend.
    let was_there = *error.etype() == ErrorType::H2Error;
    if let Some(lease) = ctx.lease.take() {
        ctx.tried.push(lease.backend.id());
        if failure == Failure::Tls {
            lease.backend.report_tls(&error);
        }
        if *error.root_etype() == ErrorType::ConnectRefused {
            lease.backend.close_idle();
        }
        if was_there {
            lease.finish(Outcome::Stale);
        } else {
            lease.not_connected(&error);
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
    let expired = expired(ctx);
    if *error.esource() != ErrorSource::Upstream {
        error.set_retry(false);
        return error;
    }
    if let ErrorType::HTTPStatus(status) = *error.etype() {
        // `on_origin_response` has already decided.
        trace::attempt_failed(&mut ctx.facts, None);
        retry::record(&mut ctx.facts, BAD_STATUS);
        if let Some(lease) = ctx.lease.take() {
            ctx.tried.push(lease.backend.id());
            lease.finish(Outcome::Status(status));
        }
        return error;
    }
    if let Some(expired) = expired {
        // The deadline has closed the connection, and not the backend.
        error = Error::explain(ErrorType::ReadTimedout, expired.text()).into_up();
    }
    if expired == Some(Expired::Body) {
        // The client is at fault, so the failure must not count against the backend.
        error.set_retry(false);
        return error;
    }
    let failure = Failure::new(&error, expired, None);
    trace::attempt_failed(&mut ctx.facts, Some(failure.reason()));
    // An app closes idle connections when it likes. That one of them closed at the moment of reuse
    // does not mean that the app is unhealthy.
    let waited = ctx.live().world.clock.now() - ctx.tried_at;
    let is_stale = is_pooled
        && failure == Failure::Reset
        && waited < ON_USE
        && ctx.responded_at.is_none()
        && !ctx.has_interim
        && streams::reset(&error).is_none();
    let may_retry = if streams::is_refused(&error) {
        replay.is_whole()
    } else {
        is_stale && replay.is_possible(ctx)
    };
    let retry = may_retry && ctx.stale_attempts < MAX_STALE;
    if is_stale || retry {
        // The backend is not at fault, but it may be stopping, so another backend is the better
        // choice; a client that has a backend of its own asks that once more.
        let upstream = ctx.upstream.as_ref();
        let stays = upstream.is_some_and(|upstream| upstream.keeps_clients());
        if let Some(lease) = ctx.lease.take() {
            if !stays || ctx.stale_attempts > 0 {
                ctx.tried.push(lease.backend.id());
            }
            lease.finish(Outcome::Stale);
        }
        ctx.stale_attempts += u32::from(retry);
        error.set_retry(retry);
        // This needs no action by an operator.
        log::debug!(retry, error:% = LogText(&error); "the backend has not processed the request");
        return error;
    }
    if let Some(lease) = ctx.lease.take() {
        ctx.tried.push(lease.backend.id());
        if failure == Failure::Tls {
            lease.backend.report_tls(&error);
        }
        lease.finish(match failure {
            _ if ctx.facts.upstream.status == 101 => Outcome::Stale,
            Failure::Tls => Outcome::ConnectFailed,
            Failure::FirstByte if is_clients_time(replay.request, ctx) => Outcome::ClientGone,
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

/// Prepares the request to be sent again after a response that was of no use. The backend's place is
/// free for it, and it may be retried as if it were the first.
pub(super) fn repeat(ctx: &mut Context) {
    over(ctx);
    trace::attempt_failed(&mut ctx.facts, None);
    ctx.facts.upstream.status = 0;
    ctx.responded_at = None;
    ctx.has_interim = false;
    ctx.facts.upstream.attempts -= 1;
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
