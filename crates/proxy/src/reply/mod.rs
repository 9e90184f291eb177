//! Replies of the gateway itself. They pass the error phase and the response phase of the route as
//! any response does.

pub(crate) mod error_page;

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_core::chain::{Chain, Exchange, ReadyLines, Reply, ReplyBody};
use edgeway_core::open_headers::OpenResponseHeaders;
use edgeway_core_filters::error_pages::{HtmlPage, PageRequest};
use http::{HeaderValue, Method, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

use crate::{
    body,
    context::Context,
    grpc,
    message::date,
    page::{self, Page},
    session::Client,
};

/// Length of the content that a page of an upstream would have, in a response without content; `None`
/// if it is not known.
pub(crate) struct LengthOfPage(pub(crate) Option<HeaderValue>);

/// Sends `reply` after the error and the response phase.
pub(crate) async fn send(client: &mut Client, ctx: &mut Context, mut reply: Reply) -> Result<()> {
    if reply.is_silent() {
        withhold(ctx, &reply);
        client.close();
        return Ok(());
    }
    if let Some(page) = plan(&client.request, ctx, &mut reply).await {
        // Boxed, because otherwise every request's future would be as large.
        Box::pin(insert_page(client, ctx, page, &mut reply)).await;
    }
    // Lines that are ready belong to a response that never came.
    ctx.facts.lines = ReadyLines::NotTaken;
    if reply.close {
        client.close();
    }
    let (response, body) = finish(&client.request, ctx, reply).await?;
    let is_call = grpc::is_call(&client.request.headers);
    if client.is_http2() && response.status.is_success() && !is_call {
        // Some clients go on sending after it, but read nothing more (curl 7.88).
        client.linger().await;
    }
    client.settle_body();
    let clock = &ctx.live().world.clock;
    let lines = &ReadyLines::NotTaken;
    client
        .response(response, lines, body.is_none(), clock)
        .await?;
    match body {
        Some(body) => {
            let is_last = !client.ends_later();
            client.write(Some(body), is_last).await
        }
        None => Ok(()),
    }
}

/// Records a reply of which nothing is sent.
fn withhold(ctx: &mut Context, reply: &Reply) {
    let facts = &mut ctx.facts;
    facts.status = reply.status.as_u16();
    facts.reason = reply.reason.or(facts.reason);
}

/// Runs the error phase on `reply`. Returns the page that an upstream has for it.
async fn plan(
    request: &RequestHeader,
    ctx: &mut Context,
    reply: &mut Reply,
) -> Option<PageRequest> {
    let (chain, ex) = ctx.exchange(request);
    report(chain, ex, reply).await;
    ctx.facts.take::<PageRequest>()
}

/// Puts a page into the `reply`, asked for with the client's body if its upstream gets that.
async fn insert_page(client: &mut Client, ctx: &mut Context, page: PageRequest, reply: &mut Reply) {
    let body = if error_page::wants_body(ctx, &page) {
        body::read_whole(client, ctx, error_page::MAX_SIZE).await
    } else {
        None
    };
    error_page::insert(&client.request, ctx, page, body, reply).await;
}

/// Builds headers and body of a planned `reply` to the request of `ctx`, after its response phase.
async fn finish(
    request: &RequestHeader,
    ctx: &mut Context,
    reply: Reply,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let live = Arc::clone(ctx.live());
    let (chain, ex) = ctx.exchange(request);
    build(chain, ex, &live.world.clock, reply).await
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
    // Both have the same style.
    let is_built_in = is_page || matches!(reply.reason, Some("maintenance"));
    let mut reply = reply;
    if let Some(rerouted) = ex.facts.rerouted.as_ref().filter(|_| !is_page) {
        reply.status = rerouted.status_for(reply.status);
    }
    let mut response = ResponseHeader::build_no_case(reply.status, Some(reply.headers.len() + 5))?;
    let mut open = OpenResponseHeaders::take(&mut response, 0);
    let headers = &mut open.parts.headers;
    let (content_type, body) = match reply.body {
        // RFC 9110, 15.3.6: it has no content, and a length that says so.
        _ if reply.status == StatusCode::RESET_CONTENT => (None, Bytes::new()),
        ReplyBody::Empty => (None, Bytes::new()),
        ReplyBody::Bytes { content_type, body } => (content_type, body),
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
    let kind = headers.get(header::CONTENT_TYPE);
    let is_html = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let has_policy = headers.contains_key(header::CONTENT_SECURITY_POLICY);
    let is_styled = is_built_in && is_html && !has_policy;
    chain.on_response(&mut ex, &mut open.parts).await;
    let headers = &mut open.parts.headers;
    if is_styled && headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, page::POLICY);
    }
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
