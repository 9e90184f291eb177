//! Start of the response to a client: from a backend, or from the cache's phases.

use bytes::Bytes;
use edgeway_core::chain::{CacheOutcome, Exchange, Phase, Protocol, ReadyLines, RequestFacts};
use edgeway_core::open_headers::OpenResponseHeaders;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{
    cache,
    context::{self, Context},
    error::LogText,
    final_headers, request, streams, upstream,
};
use crate::connection::Connection;

/// Runs the response phase on the headers of `response`.
pub(super) async fn begin(session: &mut Session, response: &mut ResponseHeader, ctx: &mut Context) {
    request::end_if_draining(session, ctx);
    let is_h2 = streams::is_h2(ctx);
    let was_encoded = is_h2 && response.headers.contains_key(header::CONTENT_ENCODING);
    let made = prepare(session.req_header(), response, ctx).await;
    leave_to_connection(&mut ctx.facts, ctx.connection.as_deref(), made);
    if ctx.facts.client.protocol == Protocol::Http10 {
        without_chunks(session, response, ctx.connection.as_deref());
    }
    if is_h2 {
        let is_encoded = !was_encoded && response.headers.contains_key(header::CONTENT_ENCODING);
        final_headers::expect(session, is_encoded);
    }
}

/// Runs the response phase on the headers of the `response` to `request`. Header lines that are
/// ready are then in the facts. Returns the `Date` of a stored response.
pub(super) async fn prepare(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &mut Context,
) -> Option<HeaderValue> {
    // RFC 9110, 6.2: a response has the version of its sender. Pingora leaves the origin's.
    response.set_version(Version::HTTP_11);
    if let Some(rerouted) = ctx.facts.rerouted.as_ref().filter(|own| own.page.is_some()) {
        // A status from the configuration is a valid one.
        let _set = response.set_status(rerouted.status_for(response.status));
        for (name, value) in rerouted.missing(&response.headers) {
            // A header of another response is a valid one.
            let _added = response.append_header(name, value);
        }
    }
    ctx.is_bare = request.version == Version::HTTP_2
        && (request.method == Method::HEAD || response.status == StatusCode::NOT_MODIFIED);
    let started = ctx.facts.started;
    let now = ctx.responded_at;
    let now = now.unwrap_or_else(|| ctx.live().world.clock.now());
    ctx.facts.first_byte = Some(now - started);
    let cookie = upstream::cookie(ctx);
    let takes_lines = ctx.takes_ready_lines();
    let Context {
        gateway,
        route,
        facts,
        ..
    } = ctx;
    let chain = context::chain(gateway, *route);
    if takes_lines {
        let lines = chain.ready_lines(&Exchange {
            head: request,
            facts,
        });
        facts.lines = lines;
    }
    let is_stored = facts.cache.is_some_and(|cached| {
        use CacheOutcome::{Hit, Revalidated, Stale};
        matches!(cached.outcome, Hit | Revalidated | Stale)
    });
    let made = if is_stored {
        response.headers.get(header::DATE).cloned()
    } else {
        None
    };
    if cookie.is_some() || chain.has(Phase::Response) {
        let mut ex = Exchange {
            head: request,
            facts,
        };
        let mut open = OpenResponseHeaders::of(response, 0);
        if let Some(cookie) = cookie {
            open.parts.headers.append(header::SET_COOKIE, cookie);
        }
        chain.on_response(&mut ex, &mut open.parts).await;
        open.close(response);
    }
    made
}

/// Removes chunked framing for HTTP/1.0 (RFC 9112, 6.1). There, a body without a length ends with
/// its connection.
fn without_chunks(
    session: &mut Session,
    response: &mut ResponseHeader,
    connection: Option<&Connection>,
) {
    response.remove_header(&header::TRANSFER_ENCODING);
    let has_no_body = session.req_header().method == Method::HEAD
        || matches!(
            response.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !has_no_body && !response.headers.contains_key(header::CONTENT_LENGTH) {
        session.set_keepalive(None);
        if let Some(connection) = connection {
            connection.end_body();
        }
    }
}

/// Forwards an interim response of a backend.
pub(super) async fn interim(session: &mut Session, response: &mut ResponseHeader, ctx: &Context) {
    upstream::interim(response, ctx);
    if ctx.is_background() {
        return;
    }
    match ctx.facts.client.protocol {
        // RFC 9110, 15.2: HTTP/1.0 has no interim responses.
        Protocol::Http10 => session.set_ignore_info_resp(true),
        Protocol::Http11 if session.cache.enabled() && response.status != StatusCode::CONTINUE => {
            // Pingora drops it if the headers of a response that is stored arrive in the same read,
            // and would write it a second time if they do not.
            session.set_ignore_info_resp(false);
            let written = session.as_mut().write_response_header_ref(response).await;
            session.set_ignore_info_resp(true);
            if let Err(error) = written {
                log::debug!(error:% = LogText(&error); "client left before its response");
            }
        }
        Protocol::Http11 | Protocol::Http2 => {}
    }
}

/// Runs the filters on a chunk of the body. They see the end of the body exactly once, whichever
/// path the response takes.
pub(super) fn body(
    session: &mut Session,
    ctx: &mut Context,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
) {
    if !ctx.is_body_over {
        let is_end = end_of_stream || cache::has_read_all(session);
        ctx.is_body_over = is_end;
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::ResponseBody) {
            chain.on_response_body(&mut ex, body, is_end);
        }
    }
    keep_head_bare(ctx, body);
    cache::decouple(session, ctx, body.as_ref());
}

/// Leaves two things for the connection to write on HTTP/1: the header lines that a filter prepared
/// for all responses, and the `Date` of a stored response, which Pingora would replace with the
/// current time.
pub(super) fn leave_to_connection(
    facts: &mut RequestFacts,
    connection: Option<&Connection>,
    made: Option<HeaderValue>,
) {
    let lines = std::mem::take(&mut facts.lines);
    let Some(connection) = connection.filter(|_| facts.client.protocol != Protocol::Http2) else {
        return;
    };
    if let ReadyLines::Given(lines) = lines {
        connection.write_lines(lines);
    }
    if let Some(made) = made {
        connection.write_date(made);
    }
}

/// Empties `body` if the response must not have one (RFC 9110, 6.4.1). For responses that the cache
/// may store, Pingora asks the origin with GET and without conditions, and it omits the body over
/// HTTP/1 only.
fn keep_head_bare(ctx: &Context, body: &mut Option<Bytes>) {
    if ctx.is_bare && body.is_some() {
        *body = Some(Bytes::new());
    }
}
