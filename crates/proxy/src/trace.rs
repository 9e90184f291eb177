//! Traces of requests on their way: ids at the start, `traceparent` for backends, times of attempts,
//! and the spans at the end.

use std::{sync::Arc, time::Instant};

use edgeway_base::trace_context::{TRACEPARENT, TRACESTATE, is_tracestate};
use edgeway_core::chain::{RequestFacts, RequestTrace, TraceAttempt};
use edgeway_gateway::Gateway;
use edgeway_tracing::FinishedRequest;
use http::{HeaderMap, StatusCode};
use pingora::http::RequestHeader;

use super::context::{self, Context, RoutePlacement};

/// Begins the trace of a request, if traces are exported.
pub(super) fn begin(gateway: &Gateway, request: &RequestHeader, facts: &mut RequestFacts) {
    if let Some(tracing) = &gateway.tracing {
        let trace = tracing.tracing.begin(&request.headers, &facts.client);
        facts.trace = Some(trace);
    }
}

/// Records that the route of a request is known, or that there is none.
pub(super) fn routed(facts: &mut RequestFacts) {
    if let Some(trace) = &mut facts.trace
        && trace.is_sampled
    {
        trace.end_step("route", facts.started, false);
    }
}

/// Returns the time at which a part of the gateway begins, if it is recorded.
pub(super) fn begin_part(facts: &RequestFacts, may_wait: bool) -> Option<Instant> {
    facts.trace.as_ref()?.begin_step(may_wait)
}

/// Records a part of the gateway that began at `started`.
pub(super) fn end_part(facts: &mut RequestFacts, name: &'static str, started: Option<Instant>) {
    if let (Some(trace), Some(started)) = (&mut facts.trace, started) {
        trace.end_step(name, started, false);
    }
}

/// Writes `traceparent` into the headers for a backend, which has those of the client.
pub(super) fn pass_on(headers: &mut HeaderMap, trace: &RequestTrace) {
    if !trace.is_passed_on {
        return;
    }
    headers.insert(TRACEPARENT, trace.outgoing().header_value());
    // W3C Trace Context, 3.3: state goes with its parent only, and only as a whole. Few clients send
    // one, and looking at each name costs less than a lookup.
    if headers.keys().any(|name| *name == TRACESTATE)
        && (trace.parent.is_none() || !is_tracestate(headers.get_all(TRACESTATE).iter()))
    {
        headers.remove(TRACESTATE);
    }
}

/// Records the begin of an attempt at a backend that was asked for at `asked_at`.
pub(super) fn begin_attempt(
    facts: &mut RequestFacts,
    backend: &Arc<str>,
    asked_at: Instant,
    started: Instant,
) {
    if let Some(trace) = &mut facts.trace {
        trace.waited("queue", asked_at, started);
        trace.begin_attempt(backend, started);
    }
}

/// Records the connection of an attempt.
pub(super) fn connected(facts: &mut RequestFacts, is_reused: bool) {
    if let Some(attempt) = attempt(facts) {
        attempt.is_reused = is_reused;
    }
}

/// Records the response headers of a backend.
pub(super) fn responded(facts: &mut RequestFacts, now: Instant, is_stream: bool) {
    let status = facts.upstream.status;
    if let Some(attempt) = attempt(facts) {
        attempt.status = status;
        attempt.responded = Some(now);
    }
    if let Some(trace) = &mut facts.trace {
        trace.is_stream |= is_stream || status == StatusCode::SWITCHING_PROTOCOLS.as_u16();
    }
}

/// Records the end of an attempt, with the reason of its failure.
pub(super) fn attempt_failed(facts: &mut RequestFacts, reason: Option<&'static str>) {
    if let Some(trace) = &mut facts.trace {
        trace.end_attempt(reason);
    }
}

fn attempt(facts: &mut RequestFacts) -> Option<&mut TraceAttempt> {
    facts.trace.as_mut()?.attempt()
}

/// Returns the trace of a request that is over, if its spans are wanted.
pub(super) fn wanted<'a>(gateway: &Gateway, facts: &'a RequestFacts) -> Option<&'a RequestTrace> {
    let (tracing, trace) = (gateway.tracing.as_ref()?, facts.trace.as_ref()?);
    tracing.tracing.is_wanted(trace, facts).then_some(trace)
}

/// Exports the spans of a request that is over and has a [`wanted`] trace.
#[cold]
pub(super) fn end(
    gateway: &Gateway,
    place: Option<RoutePlacement>,
    head: &RequestHeader,
    facts: &RequestFacts,
) {
    if let Some(trace) = &facts.trace {
        export(gateway, place, head, facts, trace, false);
    }
}

/// Exports the spans of a request that the gateway sent on its own behalf, if it is sampled.
pub(super) fn end_background(head: &RequestHeader, ctx: &mut Context) {
    let now = ctx.live().world.clock.now();
    let facts = &mut ctx.facts;
    facts.total = now - facts.started;
    if facts.status == 0 {
        facts.status = facts.upstream.status;
    }
    if let Some(trace) = &facts.trace
        && trace.is_sampled
    {
        export(&ctx.gateway, ctx.route, head, facts, trace, true);
    }
}

#[cold]
fn export(
    gateway: &Gateway,
    place: Option<RoutePlacement>,
    head: &RequestHeader,
    facts: &RequestFacts,
    trace: &RequestTrace,
    is_background: bool,
) {
    let Some(tracing) = &gateway.tracing else {
        return;
    };
    tracing.tracing.export(&FinishedRequest {
        head,
        facts,
        trace,
        route: context::route(gateway, place).map(|route| &*route.template),
        redact: &|query| tracing.redact.redact(query),
        is_background,
    });
}
