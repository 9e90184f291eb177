//! Decision on another attempt, and the log line of one.

use log::warn;
use pingora::Error;
use pingora_proxy::Session;

use super::{context::Context, error::Failure, reply};
use crate::upstreams::AttemptFailure;

/// Logs that a request is sent again.
pub(super) fn note(ctx: &Context, failure: Failure, error: &Error) {
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
        error:%;
        "retrying"
    );
}

/// Returns true if policy, budget and the request itself allow a retry.
pub(super) fn may_retry(session: &Session, ctx: &Context, failure: AttemptFailure) -> bool {
    let Some(upstream) = &ctx.upstream else {
        return false;
    };
    let is_idempotent = session.req_header().method.is_idempotent();
    let is_replayable = !session.as_ref().retry_buffer_truncated();
    !reply::is_on_its_way(session)
        && upstream.retry(
            // A stale connection does not count as an attempt at the backend.
            ctx.facts.upstream.attempts - ctx.stale_attempts,
            failure,
            is_idempotent,
            is_replayable,
        )
}

/// Returns true if the request is idempotent (RFC 9110, 9.2.2) and all of it is still buffered.
pub(super) fn is_repeatable(session: &Session) -> bool {
    session.req_header().method.is_idempotent()
        && !session.as_ref().retry_buffer_truncated()
        && !reply::is_on_its_way(session)
}
