//! Sends a stored answer: the whole one, its head alone, or that the client's copy still holds.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::Session;

use super::forms;
use crate::{
    base::heads::OpenResponse,
    cache::{policy, store::Entry},
    chain::{Exchange, Protocol, ReadyLines},
    gateway::RouteCache,
    proxy::{
        context::{self, Context},
        request,
    },
};

/// Sends `entry`, all of which is there.
pub(super) async fn send(
    session: &mut Session,
    ctx: &mut Context,
    cache: &RouteCache,
    entry: &Arc<Entry>,
) -> Result<()> {
    let Some(body) = entry.body.whole() else {
        return Err(Error::new_in(ErrorType::Custom("not whole")));
    };
    request::end_if_draining(session, ctx);
    let now = ctx.live().world.clock.now();
    let wall = ctx.live().world.clock.wall();
    ctx.facts.first_byte = Some(now - ctx.facts.started);
    let request = session.req_header();
    let is_head = request.method == Method::HEAD;
    let is_http2 = request.version == Version::HTTP_2;
    let is_confirmed = policy::not_modified(
        &request.headers,
        &request.method,
        entry.status,
        &entry.headers,
    );
    let mut head = ResponseHeader::build_no_case(entry.status, None)?;
    let mut open = OpenResponse::of(&mut head, 0);
    let parts = &mut open.parts;
    parts.headers.clone_from(&entry.headers);
    let age = entry.lifetime().age(wall).as_secs();
    parts.headers.insert(header::AGE, HeaderValue::from(age));
    let length = body.len();
    let has_no_body = entry.status == StatusCode::NO_CONTENT;
    if is_confirmed {
        parts.status = StatusCode::NOT_MODIFIED;
        policy::to_not_modified(&mut parts.headers);
    } else if !has_no_body {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let live = Arc::clone(ctx.live());
    let Context {
        gateway,
        route,
        facts,
        connection,
        ..
    } = ctx;
    let chain = context::chain(gateway, *route);
    if facts.client.protocol != Protocol::Http2 {
        facts.lines = chain.ready_lines();
    }
    let mut ex = Exchange {
        head: request,
        facts,
    };
    let form = if is_confirmed {
        None
    } else {
        forms::choose(&live, cache, entry, &ex, parts)
    };
    chain.on_response(&mut ex, parts).await;
    open.close(&mut head);
    if let ReadyLines::Given(lines) = std::mem::take(&mut facts.lines)
        && let Some(connection) = connection
    {
        connection.write_lines(lines);
    }
    facts.status = head.status.as_u16();
    let is_headless = is_head || is_confirmed || has_no_body;
    let is_over = is_headless || length == 0;
    session
        .write_response_header(Box::new(head), is_over && !is_http2)
        .await?;
    if is_over {
        // Pingora passes no end with a head on HTTP/2.
        if is_http2 {
            session.write_response_body(None, true).await?;
        }
        return Ok(());
    }
    if let Some(form) = form {
        session.write_response_body(Some(form), true).await?;
        return Ok(());
    }
    let mut left = length;
    for chunk in body.segments() {
        left -= chunk.len() as u64;
        let mut piece = Some(chunk.clone());
        if chain.has(crate::chain::Phase::ResponseBody) {
            let mut ex = Exchange {
                head: session.req_header(),
                facts,
            };
            chain.on_response_body(&mut ex, &mut piece, left == 0);
        }
        if left > 0 && piece.as_ref().is_none_or(bytes::Bytes::is_empty) {
            continue;
        }
        session.write_response_body(piece, left == 0).await?;
    }
    Ok(())
}
