//! Exchange with a backend that failed.

use edgeway_core::chain::Reply;
use http::StatusCode;
use pingora::{Error, ErrorSource};

use super::{context::Context, error::Failure, upstream};

/// Exchange with a backend that failed, and the reply to its client.
pub(super) struct FailedExchange {
    pub(super) failure: Failure,
    /// True if a hook of the gateway chose the reply.
    pub(super) is_planned: bool,
    pub(super) reply: Box<Reply>,
}

impl FailedExchange {
    /// Finds the reply to a request that ended with `error`, and logs the failure.
    pub(super) fn from_error(error: &Error, ctx: &mut Context) -> Self {
        let failure = look_round(failure(error, ctx), ctx);
        let planned = ctx.reply.take();
        let is_planned = planned.is_some();
        let reply = planned.unwrap_or_else(|| Box::new(failure.reply()));
        let failed = Self {
            failure,
            is_planned,
            reply,
        };
        // A refusal that its client did not read to the end remains one.
        let refused = ctx.facts.reason.filter(|_| failed.is_clients());
        ctx.facts.reason = refused.or(failed.reply.reason);
        if !is_planned {
            failure.report(&ctx.facts, error);
        }
        failed
    }

    /// Returns true if nobody is there to read the reply.
    pub(super) fn is_clients(&self) -> bool {
        matches!(self.failure, Failure::ClientGone | Failure::SendTimeout) && !self.is_planned
    }
}

fn failure(error: &Error, ctx: &Context) -> Failure {
    let close_reason = ctx
        .connection
        .as_ref()
        .and_then(|c| c.request_close_reason());
    match (ctx.client_left.get(), close_reason) {
        // The client has not seen the failure that ended the fill.
        (Some(left), None) if *error.esource() != ErrorSource::Upstream => *left,
        _ => Failure::new(error, upstream::expired(ctx), close_reason),
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
pub(super) fn status(sent: Option<StatusCode>, failure: Failure) -> u16 {
    sent.unwrap_or(failure.status()).as_u16()
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
