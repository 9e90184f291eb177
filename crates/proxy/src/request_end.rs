//! End of requests: the reply to a failure, and the access log.

use edgeway_base::{metrics::TraceId, trace_context::TraceContext};
use edgeway_core::chain::{Exchange, LoggedRequest, Reply, RouteRequest};
use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType, http::RequestHeader};
use pingora_proxy::{FailToProxy, Session};

use super::{
    accel,
    context::{self, ConnectionOwner, Context},
    decision::Decision,
    error::{self, Failure},
    error_page, files, guard, reply, request, reroute, trace, upstream,
};
use crate::live::Live;

/// Sends a reply in place of the response that a backend failed to deliver.
pub(super) async fn failed(
    live: &Live,
    session: &mut Session,
    error: &Error,
    ctx: &mut Context,
) -> FailToProxy {
    if let Some(accel) = ctx.accel.take() {
        if ctx.is_background() {
            return FailToProxy {
                error_code: 0,
                can_reuse_downstream: false,
            };
        }
        match Box::pin(accel::send(session, ctx, *accel)).await {
            Ok(()) => {
                return FailToProxy {
                    error_code: ctx.facts.status,
                    can_reuse_downstream: false,
                };
            }
            Err(error) => {
                return Box::pin(failed(live, session, &of_client(error), ctx)).await;
            }
        }
    }
    let is_background = ctx.is_background();
    let failed = FailedExchange::of(error, ctx);
    let is_clients = failed.is_clients();
    let FailedExchange {
        failure, mut reply, ..
    } = failed;
    if is_background {
        return FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        };
    }
    if reply::begun(session).is_none() {
        reply::settle(session);
    }
    let is_pending = session.has_pending_downstream_tasks();
    let begun = reply::begun(session);
    if begun.is_some() || is_pending || is_clients {
        // A response that has begun cannot be taken back. The connection is closed abruptly, so
        // that no client takes a partial response for a complete one.
        ctx.facts.status = status(begun.map(|head| head.status), failure);
        break_off(ctx);
        return FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        };
    }
    let status = reply.status.as_u16();
    if let Some(connection) = &ctx.connection {
        // These lines belong to the response that never came.
        drop(connection.take_lines());
    }
    let to = match ctx.reroute.take() {
        Some(to) => Some(to),
        None => reroute::page_of(session.req_header(), ctx, &mut reply).await,
    };
    if let Some(to) = to {
        match Box::pin(page_of_route(session, ctx, to)).await {
            Some(Decision::File(file)) => {
                session.set_keepalive(None);
                let sent = files::serve(session, ctx, *file).await;
                return FailToProxy {
                    error_code: sent.map_or(0, |()| ctx.facts.status),
                    can_reuse_downstream: false,
                };
            }
            Some(Decision::Reply(page)) => reply = page,
            _ => error_page::degrade(error_page::REASON, ctx),
        }
    }
    // A page may need the request's body, which is read for nothing otherwise.
    reply::prepare(session, ctx, &mut reply).await;
    let is_own = ctx.owner == ConnectionOwner::Gateway;
    let is_read = reply::is_read(session) || reply::is_soon_read(session.req_header());
    let is_kept = is_own && is_read && !request::is_draining(ctx);
    // A client that does not see `Connection: close` would send its next request into a reset.
    reply.close |= !is_kept;
    let is_kept = !reply.close;
    let is_sent = reply::send_prepared(session, ctx, *reply).await.is_ok();
    FailToProxy {
        error_code: status,
        can_reuse_downstream: is_kept && is_sent && reply::is_read(session),
    }
}

/// Leads the request of a session to the page of its error, which a session cannot ask a backend for.
async fn page_of_route(
    session: &mut Session,
    ctx: &mut Context,
    to: Box<RouteRequest>,
) -> Option<Decision> {
    let mut head = session.req_header().clone();
    let decision = reroute::settle(&mut head, ctx, Decision::Reroute(to)).await;
    if !matches!(decision, Decision::Reply(_) | Decision::File(_)) {
        return None;
    }
    *session.req_header_mut() = head;
    Some(decision)
}

/// Exchange with a backend that failed, and the reply to its client.
pub(super) struct FailedExchange {
    pub(super) failure: Failure,
    /// True if a hook of the gateway chose the reply.
    pub(super) is_planned: bool,
    pub(super) reply: Box<Reply>,
}

impl FailedExchange {
    /// Finds the reply to a request that ended with `error`, and logs the failure.
    pub(super) fn of(error: &Error, ctx: &mut Context) -> Self {
        let failure = look_round(failure(error, ctx), ctx);
        let planned = ctx.reply.take();
        let is_planned = planned.is_some();
        let reply = planned.unwrap_or_else(|| Box::new(failure.reply()));
        ctx.facts.reason = reply.reason;
        if !is_planned {
            failure.report(&ctx.facts, error);
        }
        Self {
            failure,
            is_planned,
            reply,
        }
    }

    /// Returns true if nobody is there to read the reply.
    pub(super) fn is_clients(&self) -> bool {
        matches!(self.failure, Failure::ClientGone | Failure::SendTimeout) && !self.is_planned
    }
}

/// Lets the client see that the response that has begun is not complete.
pub(super) fn break_off(ctx: &Context) {
    if let Some(connection) = &ctx.connection {
        connection.break_off();
    }
}

/// Records that a response of the gateway broke off because its client left or was disconnected.
/// `begun` is the status of the response headers that were sent.
pub(super) fn broke_off(error: &Error, begun: Option<StatusCode>, ctx: &mut Context) {
    let failure = failure(error, ctx);
    ctx.facts.reason = Some(failure.reason());
    ctx.facts.status = status(begun, failure);
    failure.report(&ctx.facts, error);
}

/// Records that a response from Pingora's cache phases broke off. Those phases do not call the
/// failure hook.
pub(super) fn note_break(session: &Session, error: Option<&Error>, ctx: &mut Context) {
    let has_left = ctx.client_left.get().is_some();
    if ctx.facts.status != 0 || (error.is_none() && !has_left) {
        return;
    }
    let begun = reply::begun(session).map(|head| head.status);
    if let Some(error) = error {
        broke_off(error, begun, ctx);
    } else {
        let left = Error::new_down(ErrorType::ConnectionClosed);
        broke_off(&left, begun, ctx);
    }
}

/// Names the client as the source of an error in writing a response of the gateway. Pingora leaves
/// the source open.
pub(super) fn of_client(mut error: Box<Error>) -> Box<Error> {
    let is_write = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::WriteTimedout
    );
    if is_write && *error.esource() == ErrorSource::Unset {
        error.as_down();
    }
    error
}

fn failure(error: &Error, ctx: &Context) -> Failure {
    let close_reason = ctx
        .connection
        .as_ref()
        .and_then(|c| c.request_close_reason());
    match (ctx.client_left.get(), close_reason) {
        // The client has not seen the failure that ended the fill.
        (Some(left), None) if *error.esource() != ErrorSource::Upstream => *left,
        _ => Failure::of(error, upstream::expired(error, ctx), close_reason),
    }
}

/// Turns a failure to connect into `AllDown` if all backends are known to be down.
fn look_round(failure: Failure, ctx: &Context) -> Failure {
    let upstream = ctx.upstream.as_ref();
    if failure == Failure::Connect && upstream.is_some_and(|upstream| upstream.is_all_down()) {
        return Failure::AllDown;
    }
    failure
}

/// Returns the status that is logged for an incomplete response: the one that was sent, or else the
/// one of the failure.
pub(super) fn status(begun: Option<StatusCode>, failure: Failure) -> u16 {
    begun.unwrap_or(failure.status()).as_u16()
}

/// Transfer results of one request on the wire.
pub(super) struct TransferResults<'a> {
    pub(super) request: &'a RequestHeader,
    /// Number of body bytes sent; `received` is the number received.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Status of the response that has begun, if one has.
    pub(super) status: Option<StatusCode>,
}

impl<'a> TransferResults<'a> {
    pub(super) fn of(session: &'a Session) -> Self {
        Self {
            request: session.req_header(),
            sent: session.body_bytes_sent() as u64,
            received: session.body_bytes_read() as u64,
            status: reply::begun(session).map(|head| head.status),
        }
    }
}

/// Counts the request, adds it to the history and writes its log line.
pub(super) fn log(live: &Live, passed: &TransferResults<'_>, ctx: &mut Context) {
    let now = live.world.clock.now();
    if let (Some(cached), Some(cache)) = (&ctx.facts.cache, context::cache(&ctx.gateway, ctx.route))
    {
        cache.metrics.count(cached);
    }
    let booked = ctx.booked.take();
    let as_sent = booked.and_then(|error| reroute::book(passed.request, *error, ctx));
    let request = as_sent.as_deref().unwrap_or(passed.request);
    let Context {
        gateway,
        route,
        facts,
        connection,
        upstream,
        trial,
        ..
    } = ctx;
    facts.bytes_sent = passed.sent;
    facts.bytes_received = passed.received;
    if facts.status == 0 {
        let status = passed.status.unwrap_or(Failure::ClientGone.status());
        facts.status = status.as_u16();
    }
    facts.total = now - facts.started;
    let metrics = context::metrics(gateway, *route);
    metrics.count(&request.method, facts.status);
    metrics.count_bytes(facts.bytes_received, facts.bytes_sent);
    let seconds = facts.total.as_secs_f64();
    let exported = trace::wanted(gateway, facts);
    match (exported, &gateway.tracing) {
        (Some(trace), _) => metrics
            .seconds()
            .observe(seconds, now, || TraceId::new(trace.trace_id)),
        // A trace that a client names may be one of somebody else, or not exist.
        (None, Some(_)) => metrics.seconds().observe_plain(seconds),
        (None, None) => metrics
            .seconds()
            .observe(seconds, now, || client_trace(request)),
    }
    let is_exported = exported.is_some();
    if let Some(first_byte) = facts.first_byte {
        metrics.observe_first_byte(first_byte.as_secs_f64());
    }
    if let Some(reason) = facts.reason {
        metrics.refuse(reason);
    }
    if let Some(noted) = &facts.noted {
        live.note(noted, facts);
    }
    if let Some(upstream) = upstream
        && facts.status < 400
    {
        upstream.observe_session(&request.headers);
    }
    if let Some(trial) = trial.take()
        && facts.upstream.attempts > 0
        && facts.status != Failure::ClientGone.status().as_u16()
    {
        let is_failed = facts.status >= 500 || facts.reason.is_some_and(error::is_of_upstream);
        trial.ended(is_failed, facts.upstream.first_byte);
    }
    guard::over(live, gateway, facts, connection.as_deref());
    facts.ended = live.world.clock.wall();
    if is_exported {
        trace::end(gateway, *route, request, facts);
    }
    let ex = Exchange {
        head: request,
        facts,
    };
    let redact = context::redactor(gateway, *route);
    let logged = LoggedRequest::of(&ex);
    live.history.push(&logged, redact);
    context::chain(gateway, *route).on_log(&ex, &logged);
}

/// Returns the trace that the client began.
#[cold]
fn client_trace(request: &RequestHeader) -> Option<TraceId> {
    let context = TraceContext::of(&request.headers)?;
    TraceId::new(context.trace_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_never_began_has_the_status_of_its_failure() {
        assert_eq!(status(Some(StatusCode::OK), Failure::ClientGone), 200);
        assert_eq!(status(None, Failure::ClientGone), 499);
        assert_eq!(status(None, Failure::Internal), 500);
    }
}
