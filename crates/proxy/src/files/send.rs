//! Sending of a file, in chunks as the client takes them, through the response phase of its route.

use std::{io, sync::Arc};

use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_core::chain::{Certificate, Chain, Exchange, Phase, RequestFacts};
use edgeway_files::{FileBody, FileResponse};
use edgeway_gateway::metrics::FilePart;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::NO_FILE;
use crate::{
    connection::file_segment::SegmentSlot,
    context::{self, Context},
    error::FILE_CHANGED,
    session::Client,
};

/// Segments of a file after which other connections of the same thread take their turn.
const MAX_IN_A_ROW: u32 = 8;

/// Sends a file. If an app decided that this client gets it, the headers of its response that are
/// kept replace those of the file.
pub(crate) async fn send(
    client: &mut Client,
    ctx: &mut Context,
    response: FileResponse,
    kept: Option<HeaderMap>,
) -> Result<()> {
    let (head, body) = prepare(&client.request, ctx, response, kept).await;
    let lines = std::mem::take(&mut ctx.facts.lines);
    let live = Arc::clone(ctx.live());
    let clock = &live.world.clock;
    client
        .response(head.into(), &lines, body.is_none(), clock)
        .await?;
    let Some(mut body) = body else {
        return Ok(());
    };
    let chain = context::chain(&ctx.gateway, ctx.route);
    if let Some(connection) = &ctx.connection
        && connection.tls.is_none()
        && client.takes_segments()
    {
        let ex = Exchange::new(&client.request, &mut ctx.facts);
        if chain.ignores_body(&ex) {
            write_segments(client, &connection.segment, clock, &mut body).await?;
        }
    }
    write(client, chain, &mut ctx.facts, body).await
}

/// Writes all but the end of the body without reading it, as far as that is possible.
async fn write_segments(
    client: &mut Client,
    slot: &SegmentSlot,
    clock: &Clock,
    body: &mut FileBody,
) -> Result<()> {
    let mut in_a_row = 0;
    while let Some(segment) = body.segment(clock.now()).await.map_err(broken)? {
        let sent = client.write_segment(slot, segment).await?;
        body.sent(sent).map_err(broken)?;
        in_a_row += 1;
        if in_a_row == MAX_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Makes the headers of the response and runs the response phase on them.
async fn prepare(
    request: &RequestHeader,
    ctx: &mut Context,
    response: FileResponse,
    kept: Option<HeaderMap>,
) -> (response::Parts, Option<FileBody>) {
    let now = ctx.live().world.clock.now();
    ctx.facts.first_byte = Some(now - ctx.facts.started);
    // The client has the encoding that it prefers among those on disk.
    ctx.facts.is_coding_settled = response.is_encoded();
    let part = match response.status {
        StatusCode::PARTIAL_CONTENT => FilePart::Range,
        StatusCode::NOT_MODIFIED => FilePart::NotModified,
        StatusCode::NOT_FOUND => FilePart::NotFound,
        _ if response.is_encoded() => FilePart::Compressed,
        _ => FilePart::Plain,
    };
    context::metrics(&ctx.gateway, ctx.route).count_file(part);
    let (mut head, ()) = http::Response::new(()).into_parts();
    let body = response.write(&mut head);
    let is_personal = kept.is_some() || is_personal(request, &ctx.facts);
    let policy = is_personal.then(|| unshare(&mut head.headers)).flatten();
    if let Some(kept) = kept {
        replace(&mut head, kept);
    }
    let (chain, mut ex) = ctx.exchange(request);
    if head.status == StatusCode::NOT_FOUND {
        ex.facts.reason = Some(NO_FILE);
    }
    ex.facts.make_page(&mut head);
    let page = ex.facts.page_status();
    if page.is_some_and(|status| status != StatusCode::OK) {
        // As with nginx: an error has no parts, and no date that its page has.
        head.headers.remove(header::ACCEPT_RANGES);
        head.headers.remove(header::LAST_MODIFIED);
    }
    ex.facts.lines = chain.ready_lines(&ex);
    chain.on_response(&mut ex, &mut head).await;
    if head.status == StatusCode::NOT_MODIFIED {
        // RFC 9110, 15.4.5: the client has them already.
        head.headers.remove(header::CONTENT_TYPE);
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(policy) = policy
        && head.headers.get(header::CACHE_CONTROL) == Some(&policy)
    {
        let private = [b"private, ", policy.as_bytes()].concat();
        if let Ok(private) = HeaderValue::from_maybe_shared(Bytes::from(private)) {
            head.headers.insert(header::CACHE_CONTROL, private);
        }
    }
    ex.facts.status = head.status.as_u16();
    (head, body)
}

/// Returns true if another client may not get this response: shared caches store what is `public`
/// even if it needed credentials (RFC 9111, 3.5).
fn is_personal(request: &RequestHeader, facts: &RequestFacts) -> bool {
    facts.identity.is_some()
        || matches!(facts.client.certificate, Certificate::Verified(_))
        || request.headers.contains_key(header::AUTHORIZATION)
}

/// Removes `public` from the `Cache-Control` of a file, so that filters see a response that may be
/// personal. Returns the rest of it.
fn unshare(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let policy = headers.get_mut(header::CACHE_CONTROL)?;
    let rest = policy.as_bytes().strip_prefix(b"public, ")?;
    *policy = HeaderValue::from_bytes(rest).ok()?;
    Some(policy.clone())
}

/// Puts the headers in `kept` in place of those of the same name.
fn replace(head: &mut response::Parts, mut kept: HeaderMap) {
    match head.status {
        StatusCode::NOT_MODIFIED => {
            // RFC 9110, 15.4.5.
            kept.remove(header::CONTENT_TYPE);
        }
        // The others describe the file that is missing.
        StatusCode::NOT_FOUND => kept = only_cookies(&kept),
        _ => {}
    }
    let mut last: Option<HeaderName> = None;
    for (name, value) in kept {
        // A further value of the same name comes without it.
        if let Some(name) = name {
            head.headers.remove(&name);
            last = Some(name);
        }
        if let Some(name) = &last {
            head.headers.append(name.clone(), value);
        }
    }
}

fn only_cookies(kept: &HeaderMap) -> HeaderMap {
    let mut cookies = HeaderMap::new();
    for cookie in kept.get_all(header::SET_COOKIE) {
        cookies.append(header::SET_COOKIE, cookie.clone());
    }
    cookies
}

async fn write(
    client: &mut Client,
    chain: &Chain,
    facts: &mut RequestFacts,
    mut body: FileBody,
) -> Result<()> {
    loop {
        let chunk = body.next().await.map_err(broken)?;
        let is_last = body.left() == 0;
        let mut piece = Some(chunk);
        if chain.has(Phase::ResponseBody) {
            let mut ex = Exchange::new(&client.request, facts);
            chain.on_response_body(&mut ex, &mut piece, is_last);
        }
        let is_held = piece.as_ref().is_none_or(Bytes::is_empty);
        if is_last || !is_held {
            client.write(piece, is_last).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Returns the error for a file that has changed, or cannot be read, while it is sent.
fn broken(error: io::Error) -> Box<Error> {
    let mut broken = Error::because(ErrorType::Custom(FILE_CHANGED), "reading a file", error);
    broken.as_in();
    broken
}
