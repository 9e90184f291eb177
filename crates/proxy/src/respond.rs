//! Response phase: the headers of a response to a client, and its body.

use bytes::Bytes;
use edgeway_core::chain::Phase;
use edgeway_core::open_headers::OpenResponseHeaders;
use http::{Version, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{context::Context, upstream};
use crate::session::Client;

/// Runs the response phase on the headers of the `response` to `request`. Header lines that are
/// ready are then in the facts.
pub(super) async fn prepare(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &mut Context,
) {
    // RFC 9110, 6.2: a response has the version of its sender, and this one has the origin's.
    response.set_version(Version::HTTP_11);
    if let Some(rerouted) = ctx.facts.rerouted.as_ref().filter(|own| own.page.is_some()) {
        // A status from the configuration is a valid one.
        let _set = response.set_status(rerouted.status_for(response.status));
        for (name, value) in rerouted.missing(&response.headers) {
            // A header of another response is a valid one.
            let _added = response.append_header(name, value);
        }
    }
    let started = ctx.facts.started;
    let now = ctx.responded_at;
    let now = now.unwrap_or_else(|| ctx.live().world.clock.now());
    ctx.facts.first_byte = Some(now - started);
    let cookie = upstream::cookie(ctx);
    let (chain, mut ex) = ctx.exchange(request);
    ex.facts.lines = chain.ready_lines(&ex);
    if cookie.is_some() || chain.has(Phase::Response) {
        let mut open = OpenResponseHeaders::take(response, 0);
        if let Some(cookie) = cookie {
            open.parts.headers.append(header::SET_COOKIE, cookie);
        }
        chain.on_response(&mut ex, &mut open.parts).await;
        open.close(response);
    }
}

/// Runs the filters on a piece of the body.
pub(super) fn body(client: &Client, ctx: &mut Context, body: &mut Option<Bytes>, is_last: bool) {
    let (chain, mut ex) = ctx.exchange(&client.request);
    if chain.has(Phase::ResponseBody) {
        chain.on_response_body(&mut ex, body, is_last);
    }
}
