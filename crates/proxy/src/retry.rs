//! Decision on another attempt, and the log line of one.

use edgeway_base::http::has_token;
use edgeway_core::chain::RequestFacts;
use edgeway_upstreams::{AttemptFailure, Lease, Upstream};
use http::header;
use log::warn;
use pingora::{
    Error,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    context::Context,
    error::{Failure, LogText},
    upstream_request,
};
use crate::session::Client;

/// Records that a request is sent again, for its line in the access log, and logs why.
pub(super) fn note(ctx: &mut Context, failure: Failure, error: &Error) {
    record(&mut ctx.facts, failure.reason());
    if failure == Failure::Tls {
        // The backend has a log line of its own, one for all of its requests.
        return;
    }
    warn!(
        request_id = ctx.facts.request_id.as_str(),
        upstream = ctx.facts.upstream.name.as_deref().unwrap_or_default(),
        backend = ctx.facts.upstream.backend.as_deref().unwrap_or_default(),
        attempts = ctx.facts.upstream.attempts,
        reason = failure.reason(),
        error:% = LogText(error);
        "retrying"
    );
}

/// Records the first backend that failed, and why.
pub(super) fn record(facts: &mut RequestFacts, reason: &'static str) {
    if facts.upstream.failed.is_none() {
        facts.upstream.failed.clone_from(&facts.upstream.backend);
        facts.degraded = Some(reason);
    }
}

/// Properties of a request on which another attempt depends.
#[derive(Clone, Copy)]
pub(super) struct Replay<'a> {
    pub(super) request: &'a RequestHeader,
    /// True if all of the body that was read is still there.
    pub(super) has_body: bool,
    /// True if the client has part of a response.
    pub(super) is_response_begun: bool,
}

impl<'a> Replay<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            request: &client.request,
            has_body: client.body.is_replayable(),
            is_response_begun: client.status.is_some(),
        }
    }

    /// Returns true if the request is idempotent (RFC 9110, 9.2.2) and all of it can be sent again.
    pub(super) fn is_possible(self, ctx: &Context) -> bool {
        self.is_idempotent(ctx) && self.is_whole()
    }

    /// Returns true if all of the request can be sent again.
    pub(super) fn is_whole(self) -> bool {
        self.has_body && !self.is_response_begun
    }

    /// Returns true if the client's method is idempotent, and the one that backends get as well.
    fn is_idempotent(self, ctx: &Context) -> bool {
        self.request.method.is_idempotent() && upstream_request::is_idempotent(ctx)
    }
}

/// Returns true if policy, budget and the request itself allow a retry.
pub(super) fn may_retry(replay: Replay<'_>, ctx: &Context, failure: AttemptFailure) -> bool {
    let Some(upstream) = &ctx.upstream else {
        return false;
    };
    let is_idempotent = replay.is_idempotent(ctx);
    let is_replayable = replay.has_body;
    !replay.is_response_begun
        && upstream.retry(
            // A stale connection does not count as an attempt at the backend.
            ctx.facts.upstream.attempts - ctx.stale_attempts,
            failure,
            is_idempotent,
            is_replayable,
        )
}

/// Returns the failure that a response with 502, 503 or 504 is. An app that is stopping refuses what
/// comes on open connections; that is one only while another backend can take the request.
pub(super) fn refusal(
    response: &ResponseHeader,
    upstream: &Upstream,
    lease: &Lease,
    ctx: &Context,
) -> AttemptFailure {
    let status = response.status.as_u16();
    if status != 503 || !has_token(&response.headers, &header::CONNECTION, "close") {
        return AttemptFailure::Status(status);
    }
    let backend = &lease.backend;
    backend.close_idle();
    if upstream.has_other(|id| id == backend.id() || ctx.tried.contains(&id)) {
        let is_pooled = ctx.facts.upstream.reused;
        AttemptFailure::Stopping { is_pooled }
    } else {
        AttemptFailure::Status(status)
    }
}
