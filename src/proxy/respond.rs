//! The answer to a client begins: from a backend, or from the cache's phases.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    context::{self, Context},
    request, upstream,
};
use crate::{
    base::heads::OpenResponse,
    chain::{CacheOutcome, Exchange, Facts, Phase, Protocol, ReadyLines},
    runtime::connection::Connection,
};

/// Runs the response phase on `head`.
pub(super) async fn begin(session: &mut Session, head: &mut ResponseHeader, ctx: &mut Context) {
    request::end_if_draining(session, ctx);
    let request = session.req_header();
    ctx.is_bare = request.version == Version::HTTP_2
        && (request.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED);
    let started = ctx.facts.started;
    let now = ctx.answered_at;
    let now = now.unwrap_or_else(|| ctx.live().world.clock.now());
    ctx.facts.first_byte = Some(now - started);
    let cookie = upstream::cookie(ctx);
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
pub(super) fn keep_head_bare(ctx: &Context, body: &mut Option<Bytes>) {
    if ctx.is_bare && body.is_some() {
        *body = Some(Bytes::new());
    }
}
