//! Writes all replies of the gateway itself. Pingora runs no response hooks for responses written
//! in `request_filter` or after a failure, so this module runs the response phase.

use std::{cell::RefCell, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_core::chain::{Chain, Exchange, Reply, ReplyBody, RequestFacts};
use edgeway_core::open_headers::OpenResponseHeaders;
use edgeway_filters::error_pages::{HtmlPage, PageRequest};
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::v2::server::HttpSession,
};
use pingora_proxy::Session;

use super::{body, context::Context, error::LogText, error_page, grpc, page::Page};

/// Time that a client may go on sending after the response.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Length of a body up to which it is read after the response for the sake of the next request.
const MAX_UNREAD: u64 = 1 << 20;

/// Length of the content that a page of an upstream would have, in a response without content; `None`
/// if it is not known.
pub(super) struct LengthOfPage(pub(super) Option<HeaderValue>);

/// Sends `reply` after the error and the response phase.
pub(super) async fn send(session: &mut Session, ctx: &mut Context, mut reply: Reply) -> Result<()> {
    prepare(session, ctx, &mut reply).await;
    send_prepared(session, ctx, reply).await
}

/// Runs the error phase on a reply, which may give it the page of an upstream.
pub(super) async fn prepare(session: &mut Session, ctx: &mut Context, reply: &mut Reply) {
    if !reply.is_silent()
        && let Some(page) = plan(session.req_header(), ctx, reply).await
    {
        // Boxed, because otherwise every request's future would be as large.
        Box::pin(insert_page(session, ctx, page, reply)).await;
    }
}

/// Sends a reply that has passed the error phase, after the response phase.
pub(super) async fn send_prepared(
    session: &mut Session,
    ctx: &mut Context,
    reply: Reply,
) -> Result<()> {
    if reply.is_silent() {
        withhold(ctx, &reply);
        session.set_keepalive(None);
        return Ok(());
    }
    let close = reply.close;
    let (head, body) = finish(session.req_header(), ctx, reply).await?;
    if session.req_header().version == Version::HTTP_2 && head.status.is_success() {
        linger(session).await;
    }
    keep_or_close(session, close);
    write_head(session, head, body.is_some()).await?;
    if body.is_some() {
        session.write_response_body(body, true).await?;
    }
    linger(session).await;
    Ok(())
}

/// Closes the connection after a response of the gateway itself, or one that it has stored, unless it
/// may carry another request. Reads what has arrived of the request's body.
pub(super) fn keep_or_close(session: &mut Session, close: bool) {
    let is_read = is_read(session);
    if close || !(is_read || is_soon_read(session.req_header())) {
        session.set_keepalive(None);
    } else if !is_read {
        // Pingora would close a connection whose request is read after its response.
        session.set_close_on_response_before_downstream_finish(false);
    }
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

/// Runs the error phase on `reply`. Returns the page that an upstream has for it.
pub(super) async fn plan(
    request: &RequestHeader,
    ctx: &mut Context,
    reply: &mut Reply,
) -> Option<PageRequest> {
    let (chain, ex) = ctx.exchange(request);
    report(chain, ex, reply).await;
    ctx.facts.take::<PageRequest>()
}

/// Puts a page into the `reply`, asked for with the body that the session has.
async fn insert_page(
    session: &mut Session,
    ctx: &mut Context,
    page: PageRequest,
    reply: &mut Reply,
) {
    let body = if error_page::wants_body(ctx, &page) {
        body::read_again(session, ctx, error_page::MAX_SIZE).await
    } else {
        None
    };
    error_page::insert(session.req_header(), ctx, page, body, reply).await;
}

/// Builds headers and body of a planned `reply` to the request of `ctx`, after its response phase.
pub(super) async fn finish(
    request: &RequestHeader,
    ctx: &mut Context,
    reply: Reply,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let live = Arc::clone(ctx.live());
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
    let is_page = matches!(reply.body, ReplyBody::Page { .. });
    let mut reply = reply;
    if let Some(rerouted) = ex.facts.rerouted.as_ref().filter(|_| !is_page) {
        reply.status = rerouted.status_for(reply.status);
    }
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
            let page = if ex.facts.slot::<HtmlPage>().is_some() {
                page.html()
            } else {
                page.render(request.headers.get(header::ACCEPT))
            };
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
    if let Some(rerouted) = ex.facts.rerouted.as_ref().filter(|_| !is_page) {
        for (name, value) in rerouted.missing(headers) {
            headers.append(name, value);
        }
    }
    headers.insert(header::DATE, date(clock));
    let has_no_body =
        reply.status == StatusCode::NO_CONTENT || reply.status == StatusCode::NOT_MODIFIED;
    match ex.facts.take::<LengthOfPage>() {
        Some(LengthOfPage(Some(length))) => drop(headers.insert(header::CONTENT_LENGTH, length)),
        Some(LengthOfPage(None)) => {}
        None if has_no_body => {}
        None => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()))),
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

/// Returns true if what is left of a request is read after its response ([`linger`]), as nginx does:
/// the client says how much it sends, and waits for nothing before it does.
pub(super) fn is_soon_read(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= MAX_UNREAD)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::EXPECT)
}

/// Reads the rest of a request body that is not needed. Closing the connection with unread bytes
/// resets it, and the response in transit is lost (nginx: `lingering_close`). On HTTP/2 the stream
/// is reset, and some clients forget a complete response then (RFC 9113, 8.1).
pub(super) async fn linger(session: &mut Session) {
    if session.as_mut().is_body_done() {
        return;
    }
    session.set_total_drain_timeout(Some(LINGER_TIMEOUT));
    if let Err(error) = session.drain_request_body().await {
        log::debug!(error:% = LogText(&error); "client did not finish its body after the response");
        session.set_keepalive(None);
    }
}

/// Reads the rest of the request on a stream whose response is complete, as [`linger`] does, or before
/// one of success: some clients then go on sending, but read nothing more (curl 7.88).
pub(super) async fn linger_on_stream(stream: &mut HttpSession) {
    stream.set_total_drain_timeout(Some(LINGER_TIMEOUT));
    if let Err(error) = stream.drain_request_body().await {
        log::debug!(error:%; "client did not finish its body after the response");
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
