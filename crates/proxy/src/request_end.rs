//! End of requests: the reply to a failure, and the access log.

use std::time::{Duration, Instant};

use edgeway_base::{metrics::TraceId, trace_context::TraceContext};
use edgeway_core::chain::{Exchange, LoggedRequest, RequestFacts};
use edgeway_gateway::Gateway;
use pingora::{Error, http::RequestHeader};
use pingora_proxy::{ProxyHttp, Session};

use super::{
    context::{self, Context, RoutePlacement},
    error::{Failure, of_client},
    exchange,
    failed_exchange::{FailedExchange, status},
    guard, reply,
    request::reroute,
    session::{self, Client},
    trace,
};
use crate::live::Live;

/// Time for the frames of a response that breaks off to be sent before its stream is reset.
const BEFORE_RESET: Duration = Duration::from_millis(50);

/// Sends a reply in place of a response that failed. Returns its status; 0 if nothing was sent.
pub(super) async fn failed<H>(
    hooks: &H,
    session: &mut Session,
    error: &Error,
    ctx: &mut Box<Context>,
) -> u16
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    let failed_exchange = FailedExchange::from_error(error, ctx);
    if ctx.is_background() {
        return 0;
    }
    let is_clients = failed_exchange.is_clients();
    let FailedExchange {
        failure, mut reply, ..
    } = failed_exchange;
    let client = session::client(session);
    if client.status.is_some() || is_clients {
        // A response that has begun cannot be taken back. The connection is closed abruptly, so
        // that no client takes a partial response for a complete one.
        ctx.facts.status = status(client.status, failure);
        if client.is_http2() && !is_clients {
            // A reset takes back what its connection has not sent yet.
            tokio::time::sleep(BEFORE_RESET).await;
            client.break_off();
        }
        ctx.break_off();
        return 0;
    }
    let request = &client.request;
    if let Some(to) = reroute::page_of(request, ctx, &mut reply).await {
        // Boxed, because otherwise every request's future would be as large.
        let led = Box::pin(exchange::lead(hooks, session, ctx, *to)).await;
        match (led, ctx.reply.take()) {
            (Ok(()), Some(planned)) => reply = planned,
            (Ok(()), None) => {}
            (Err(error), _) => {
                return Box::pin(failed(hooks, session, &of_client(error), ctx)).await;
            }
        }
    }
    let client = session::client(session);
    if client.status.is_none() {
        if ctx.is_draining() {
            client.close();
        }
        if let Some(cached) = &mut ctx.facts.cache {
            cached.is_stored = false;
        }
        if reply::send(client, ctx, *reply).await.is_err() {
            return 0;
        }
    }
    client.has_response = true;
    ctx.facts.status
}

/// Counts the request, adds it to the history and writes its log line.
pub(super) fn log(live: &Live, client: &Client, ctx: &mut Context) {
    let now = live.world.clock.now();
    if let (Some(cached), Some(cache)) = (&ctx.facts.cache, context::cache(&ctx.gateway, ctx.route))
    {
        cache.metrics.count(cached);
    }
    let booked = ctx.booked.take();
    let as_sent = booked.and_then(|error| reroute::book(&client.request, *error, ctx));
    let request = as_sent.as_deref().unwrap_or(&client.request);
    let (gateway, route, facts) = (&ctx.gateway, ctx.route, &mut ctx.facts);
    // As for retries, a connection that the app had closed before is no attempt.
    facts.upstream.attempts = facts.upstream.attempts.saturating_sub(ctx.stale_attempts);
    facts.bytes_sent = client.sent;
    facts.bytes_received = client.body.received;
    if facts.status == 0 {
        let status = client.status.unwrap_or(Failure::ClientGone.status());
        facts.status = status.as_u16();
    }
    facts.total = now - facts.started;
    let is_exported = measure(gateway, route, request, facts, now);
    if let Some(split) = ctx.split.take() {
        let name = context::route(gateway, route).map(|route| &*route.name);
        split.ended(name, &request.method, facts);
    }
    if let Some(noted) = &facts.noted {
        live.note(noted, facts);
    }
    if let Some(upstream) = &ctx.upstream
        && facts.status < 400
    {
        upstream.observe_session(&request.headers);
    }
    if let Some(trial) = ctx.trial.take()
        && facts.upstream.attempts > 0
    {
        if facts.status != Failure::ClientGone.status().as_u16() {
            trial.ended(facts.is_failed(), facts.upstream.first_byte);
        } else if facts.upstream.first_byte.is_none() && client.body.is_read() {
            trial.left(now.saturating_duration_since(ctx.tried_at));
        }
    }
    guard::over(live, gateway, facts, ctx.connection.as_deref());
    facts.ended = live.world.clock.wall();
    if is_exported {
        trace::end(gateway, route, request, facts);
    }
    let ex = Exchange::new(request, facts);
    let redact = context::redactor(gateway, route);
    let logged = LoggedRequest::new(&ex);
    live.history.push(&logged, redact);
    context::chain(gateway, route).on_log(&ex, &logged);
}

/// Counts a request in the metrics of its route. Returns true if its spans are exported.
fn measure(
    gateway: &Gateway,
    route: Option<RoutePlacement>,
    request: &RequestHeader,
    facts: &RequestFacts,
    now: Instant,
) -> bool {
    let metrics = context::metrics(gateway, route);
    metrics.count(&request.method, facts.status);
    if facts.is_failed() {
        metrics.count_failed();
    }
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
    metrics.observe_first_byte(facts.waited().as_secs_f64());
    if let Some(reason) = facts.reason {
        metrics.refuse(reason);
    }
    exported.is_some()
}

/// Returns the trace that the client began.
#[cold]
fn client_trace(request: &RequestHeader) -> Option<TraceId> {
    let context = TraceContext::read(&request.headers)?;
    TraceId::new(context.trace_id)
}
