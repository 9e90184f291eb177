//! The answer to a client begins: from a backend, or from the cache's phases.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    cache,
    context::{self, Context},
    final_headers, request, streams, upstream,
};
use crate::{
    base::heads::OpenResponse,
    chain::{CacheOutcome, Exchange, Facts, Phase, Protocol, ReadyLines},
    runtime::connection::Connection,
};

/// Runs the response phase on `head`.
pub(super) async fn begin(session: &mut Session, head: &mut ResponseHeader, ctx: &mut Context) {
    request::end_if_draining(session, ctx);
    // RFC 9110, 6.2: a response has the version of who sends it. Pingora leaves the origin's.
    head.set_version(Version::HTTP_11);
    let request = session.req_header();
    ctx.is_bare = request.version == Version::HTTP_2
        && (request.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED);
    let started = ctx.facts.started;
    let now = ctx.answered_at;
    let now = now.unwrap_or_else(|| ctx.live().world.clock.now());
    ctx.facts.first_byte = Some(now - started);
    let cookie = upstream::cookie(ctx);
    let is_h2 = streams::is_h2(ctx);
    let was_encoded = is_h2 && head.headers.contains_key(header::CONTENT_ENCODING);
    let Context {
        gateway,
        route,
        facts,
        connection,
        ..
    } = ctx;
    let chain = context::chain(gateway, *route);
    if facts.client.protocol != Protocol::Http2 {
        let head = session.req_header();
        let lines = chain.ready_lines(&Exchange { head, facts });
        facts.lines = lines;
    }
    let is_stored = facts.cache.is_some_and(|cached| {
        use CacheOutcome::{Hit, Revalidated, Stale};
        matches!(cached.outcome, Hit | Revalidated | Stale)
    });
    let made = if is_stored {
        head.headers.get(header::DATE).cloned()
    } else {
        None
    };
    if cookie.is_some() || chain.has(Phase::Response) {
        let mut ex = Exchange {
            head: session.req_header(),
            facts,
        };
        let mut open = OpenResponse::of(head, 0);
        if let Some(cookie) = cookie {
            open.parts.headers.append(header::SET_COOKIE, cookie);
        }
        chain.on_response(&mut ex, &mut open.parts).await;
        open.close(head);
    }
    leave_to_connection(facts, connection.as_deref(), made);
    if facts.client.protocol == Protocol::Http10 {
        without_chunks(session, head, connection.as_deref());
    }
    if is_h2 {
        let is_encoded = !was_encoded && head.headers.contains_key(header::CONTENT_ENCODING);
        final_headers::expect(session, is_encoded);
    }
}

/// RFC 9112, 6.1: HTTP/1.0 knows no chunks. A body without a length ends with its connection.
fn without_chunks(
    session: &mut Session,
    head: &mut ResponseHeader,
    connection: Option<&Connection>,
) {
    head.remove_header(&header::TRANSFER_ENCODING);
    let has_no_body = session.req_header().method == Method::HEAD
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !has_no_body && !head.headers.contains_key(header::CONTENT_LENGTH) {
        session.set_keepalive(None);
        if let Some(connection) = connection {
            connection.end_body();
        }
    }
}

/// Passes on what a backend says before its response.
pub(super) async fn interim(session: &mut Session, head: &mut ResponseHeader, ctx: &Context) {
    upstream::interim(head, ctx);
    if ctx.is_background() {
        return;
    }
    match ctx.facts.client.protocol {
        // RFC 9110, 15.2: it knows none.
        Protocol::Http10 => session.set_ignore_info_resp(true),
        Protocol::Http11 if session.cache.enabled() && head.status != StatusCode::CONTINUE => {
            // Pingora drops it if the headers of a response that is stored come in the same
            // read, and would write it a second time if they do not.
            session.set_ignore_info_resp(false);
            let written = session.as_mut().write_response_header_ref(head).await;
            session.set_ignore_info_resp(true);
            if let Err(error) = written {
                log::debug!(error:%; "a client left before its response");
            }
        }
        Protocol::Http11 | Protocol::Http2 => {}
    }
}

/// Runs the filters on a piece of the body, and tells them of its end: once, whatever way the
/// response takes.
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

/// What the connection itself writes into a head over HTTP/1: the lines that a filter has made
/// once for all answers, and when a stored answer was made, for which Pingora would write the
/// time of now.
pub(super) fn leave_to_connection(
    facts: &mut Facts,
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

/// Empties `body` where the head that is sent has none (RFC 9110, 6.4.1): Pingora asks the
/// origin with GET and without conditions for what the cache may keep, and leaves the body
/// out over HTTP/1 only.
fn keep_head_bare(ctx: &Context, body: &mut Option<Bytes>) {
    if ctx.is_bare && body.is_some() {
        *body = Some(Bytes::new());
    }
}
