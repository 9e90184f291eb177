//! Responses to ACME challenges, sent before routes, redirects and filters see the request.

use edgeway_core::chain::{Reply, RequestId};
use edgeway_tls::acme::{ChallengeOutcome, FORWARDED, PREFIX};
use http::{HeaderValue, Method, StatusCode};
use pingora::http::RequestHeader;

use crate::{connection::Connection, context::Context};

/// Returns true if this request may be an ACME challenge that this gateway or its issuer can
/// respond to.
#[inline]
pub(crate) fn is_asked(request: &RequestHeader, ctx: &Context) -> bool {
    let Some(acme) = &ctx.gateway.acme else {
        return false;
    };
    acme.is_asked() && request.raw_path().starts_with(PREFIX.as_bytes())
}

/// Returns the response to an ACME challenge. Returns `None` for every other request, and for
/// challenges that an app may be able to respond to.
pub(crate) async fn respond(
    head: &RequestHeader,
    connection: Option<&Connection>,
    ctx: &mut Context,
) -> Option<Box<Reply>> {
    let acme = ctx.gateway.acme.as_ref()?;
    let path = head.raw_path();
    let token = path.strip_prefix(PREFIX.as_bytes())?;
    let token = std::str::from_utf8(token).ok()?;
    if head.method != Method::GET && head.method != Method::HEAD {
        return None;
    }
    let host = head.headers.get(http::header::HOST);
    let is_forwarded = head.headers.contains_key(&FORWARDED);
    let reply = match acme.respond(token, host, is_forwarded).await {
        ChallengeOutcome::Known(key_authorization) => {
            let content_type = HeaderValue::from_static("application/octet-stream");
            Reply::bytes(StatusCode::OK, content_type, key_authorization)
        }
        ChallengeOutcome::Unknown => return None,
        ChallengeOutcome::NotFound => Reply::refuse(StatusCode::NOT_FOUND, "acme_unknown_token"),
        ChallengeOutcome::NoIssuer => Reply::refuse(StatusCode::BAD_GATEWAY, "acme_no_issuer")
            .detail("The gateway that requests certificates does not respond."),
    };
    let connection = connection?;
    let place = (connection, &*connection.listener.config());
    ctx.facts.client = super::client_of(head, place, &ctx.gateway);
    // The request filters never see this request, but the log must show it.
    ctx.facts.request_id = RequestId::random(fastrand::u64(..), fastrand::u64(..));
    Some(Box::new(reply))
}
