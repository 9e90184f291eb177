//! Writes all replies of the gateway itself. Pingora runs no response hooks for responses written
//! in `request_filter` or after a failure, so this module runs the response phase.

use std::{cell::RefCell, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;

use super::{context::Context, error_page, grpc, page::Page};
use crate::{
    base::{clock::Clock, open_headers::OpenResponseHeaders},
    chain::{Chain, Exchange, Reply, ReplyBody, RequestFacts},
    filters::error_pages::PageRequest,
};

/// Time that a client may go on sending after the response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends `reply` after the response phase.
pub(super) async fn send(session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<()> {
    if reply.is_silent() {
        withhold(ctx, &reply);
        session.set_keepalive(None);
        return Ok(());
    }
    let close = reply.close;
    let (head, body) = make_for(session.req_header(), ctx, reply).await?;
    if close || !is_read(session) {
        session.set_keepalive(None);
    }
    write_head(session, head, body.is_some()).await?;
    if body.is_some() {
        session.write_response_body(body, true).await?;
    }
    linger(session).await;
    Ok(())
}

/// Records a reply of which nothing is sent.
pub(super) fn withhold(ctx: &mut Context, reply: &Reply) {
    let facts = &mut ctx.facts;
    facts.status = reply.status.as_u16();
    facts.reason = reply.reason.or(facts.reason);
}

/// Writes the headers of a response of the gateway, and the end of one without a body.
pub(super) async fn write_head(
    session: &mut Session,
    head: ResponseHeader,
    has_body: bool,
) -> Result<()> {
    let is_http2 = session.req_header().version == Version::HTTP_2;
    session
        .write_response_header(Box::new(head), !has_body && !is_http2)
        .await?;
    if !has_body && is_http2 {
        // Pingora does not pass the end of the stream with the headers on HTTP/2.
        session.write_response_body(None, true).await?;
    }
    Ok(())
}

/// Builds headers and body of `reply` to the request of `ctx`, after its response phase.
pub(super) async fn make_for(
    request: &RequestHeader,
    ctx: &mut Context,
    mut reply: Reply,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let live = Arc::clone(ctx.live());
    {
        let (chain, ex) = ctx.exchange(request);
        report(chain, ex, &mut reply).await;
    }
    if let Some(page) = ctx.facts.take::<PageRequest>() {
        // Boxed, because otherwise every request's future would be as large.
        Box::pin(error_page::insert(request, ctx, page, &mut reply)).await;
    }
    let (chain, ex) = ctx.exchange(request);
    build(chain, ex, &live.world.clock, reply).await
}

/// Builds headers and body of `reply` to `request`, after the response phase of `chain`.
pub(super) async fn make(
    request: &RequestHeader,
    chain: &Chain,
    facts: &mut RequestFacts,
    clock: &Clock,
    mut reply: Reply,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let head = request;
    report(chain, Exchange { head, facts }, &mut reply).await;
    build(chain, Exchange { head, facts }, clock, reply).await
}

/// Runs the error phase on a reply to a failure, or with the built-in page.
async fn report(chain: &Chain, mut ex: Exchange<'_>, reply: &mut Reply) {
    let is_failure = reply.reason.is_some();
    ex.facts.reason = reply.reason.or(ex.facts.reason);
    if is_failure || matches!(reply.body, ReplyBody::Page { .. }) {
        chain.on_error(&mut ex, reply).await;
    }
    if is_failure && grpc::is_call(&ex.head.headers) {
        grpc::translate(reply);
    }
}

/// Builds headers and body of a reply that has passed the error phase.
async fn build(
    chain: &Chain,
    mut ex: Exchange<'_>,
    clock: &Clock,
    reply: Reply,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let request = ex.head;
    let mut response = ResponseHeader::build_no_case(reply.status, Some(reply.headers.len() + 5))?;
    let mut open = OpenResponseHeaders::of(&mut response, 0);
    let headers = &mut open.parts.headers;
    let (content_type, body) = match reply.body {
        ReplyBody::Empty => (None, Bytes::new()),
        ReplyBody::Bytes { content_type, body } => (Some(content_type), body),
        ReplyBody::Page { detail } => {
            let page = Page {
                status: reply.status,
                reason: reply.reason,
                detail,
                request_id: ex.facts.request_id.as_str(),
                app: "",
            };
            let page = page.render(request.headers.get(header::ACCEPT));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            (Some(page.0), page.1)
        }
    };
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    for (name, value) in reply.headers {
        headers.append(name, value);
    }
    headers.insert(header::DATE, date(clock));
    let has_no_body =
        reply.status == StatusCode::NO_CONTENT || reply.status == StatusCode::NOT_MODIFIED;
    if !has_no_body {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    chain.on_response(&mut ex, &mut open.parts).await;
    open.close(&mut response);
    // A filter that announced another body than this one, such as a compressed one, makes it here.
    let mut body = Some(body)
        .filter(|body| !body.is_empty() && !has_no_body && request.method != Method::HEAD);
    if body.is_some() {
        chain.on_response_body(&mut ex, &mut body, true);
    }
    ex.facts.status = response.status.as_u16();
    Ok((response, body))
}

/// Returns the headers of the response that has begun. `100 Continue` and the like begin none.
pub(super) fn begun(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|head| {
        !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS
    })
}

/// Writes pending bytes of a response as far as the client accepts them now: part of the headers
/// may already be sent.
pub(super) fn settle(session: &mut Session) {
    if session.has_pending_downstream_tasks() {
        // The response that has begun, and what is still pending, show if anything was written.
        drop(session.write_downstream_proxy_tasks().now_or_never());
    }
}

/// Returns true if any part of a response is written or pending.
pub(super) fn is_on_its_way(session: &Session) -> bool {
    begun(session).is_some() || session.has_pending_downstream_tasks()
}

/// Reads what is there of a request body that is not needed, without waiting. Returns true if
/// nothing is left of the request, which would be in the way of the next one.
pub(super) fn is_read(session: &mut Session) -> bool {
    if session.req_header().version == Version::HTTP_2 || session.as_mut().is_body_done() {
        return true;
    }
    let is_drained = session.drain_request_body().now_or_never();
    matches!(is_drained, Some(Ok(()))) && session.as_mut().is_body_done()
}

/// Reads the rest of a request body that is not needed. Closing the connection with unread bytes
/// resets it, and the response in transit is lost (nginx: `lingering_close`). On HTTP/2 a complete
/// response before a stream reset is not lost (RFC 9113, 8.1), and the connection stays open.
pub(super) async fn linger(session: &mut Session) {
    if session.req_header().version == Version::HTTP_2 || session.as_mut().is_body_done() {
        return;
    }
    session.set_total_drain_timeout(Some(LINGER_TIMEOUT));
    if let Err(error) = session.drain_request_body().await {
        log::debug!(error:%; "client did not finish its body after the response");
        session.set_keepalive(None);
    }
}

/// Returns the current `Date` (RFC 9110, 6.6.1), built once per second on each thread.
pub(super) fn date(clock: &Clock) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = clock.wall();
    let second = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(at, value)| {
        if *at != second {
            *at = second;
            *value =
                HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("a date is plain text");
        }
        value.clone()
    })
}
