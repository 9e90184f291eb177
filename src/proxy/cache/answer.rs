//! Sends a stored answer: the whole one, its head alone, or that the client's copy still holds.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::Session;

use super::forms;
use crate::{
    base::heads::OpenResponse,
    cache::{
        policy,
        store::{Entry, Whole},
    },
    chain::{Chain, Exchange, Facts, Phase, Protocol},
    gateway::RouteCache,
    proxy::{
        context::{self, Context},
        reply, request, respond,
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
        forms::choose(&live, cache, entry, &mut ex, parts)
    };
    chain.on_response(&mut ex, parts).await;
    open.close(&mut head);
    let made = entry.headers.get(header::DATE).cloned();
    respond::leave_to_connection(facts, connection.as_deref(), made);
    facts.status = head.status.as_u16();
    let is_headless = is_head || is_confirmed || has_no_body;
    let is_over = is_headless || length == 0;
    session
        .write_response_header(Box::new(head), is_over && !is_http2)
        .await?;
    if !is_over {
        let body = form.map_or(Content::Plain(body), Content::Coded);
        write(session, chain, facts, body).await?;
    } else if is_http2 {
        // Pingora passes no end with a head on HTTP/2.
        session.write_response_body(None, true).await?;
    }
    if !is_http2 {
        // A body that came with the request is in the way of the next one.
        reply::linger(session).await;
    }
    Ok(())
}

/// What is sent of an answer.
enum Content<'a> {
    Plain(&'a Whole),
    Coded(Bytes),
}

async fn write(
    session: &mut Session,
    chain: &Chain,
    facts: &mut Facts,
    body: Content<'_>,
) -> Result<()> {
    let body = match body {
        Content::Coded(form) => return session.write_response_body(Some(form), true).await,
        Content::Plain(body) => body,
    };
    let mut left = body.len();
    for chunk in body.segments() {
        left -= chunk.len() as u64;
        let mut piece = Some(chunk.clone());
        if chain.has(Phase::ResponseBody) {
            let mut ex = Exchange {
                head: session.req_header(),
                facts,
            };
            chain.on_response_body(&mut ex, &mut piece, left == 0);
        }
        if left > 0 && piece.as_ref().is_none_or(Bytes::is_empty) {
            continue;
        }
        session.write_response_body(piece, left == 0).await?;
    }
    Ok(())
}
