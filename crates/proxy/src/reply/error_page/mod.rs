//! Pages of errors that an upstream has (`error_pages`): fetched whole for a reply, and sent in place
//! of the built-in page. Without one, the client gets the built-in page.
//!
//! A page is asked for once, and never has a page itself. Its upstream gets a `GET` of the gateway
//! with headers of the client, but without its body and what is about that, without conditions and
//! ranges, and without its credentials unless they are wanted; or the client's own request, if no
//! filter refused that. Headers that filters write for the backend of the route may be meant for that
//! backend alone, and clients could pretend to be them: they are left out.

mod fetch;

use std::time::Duration;

use bytes::Bytes;
use edgeway_core::chain::{Body, Exchange, Phase, Reply, ReplyBody, host::public_host, is_whole};
use edgeway_core_filters::error_pages::{PageRequest, PageStatus, page_in_place_of};
use edgeway_routes::Action;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::{
    Error, Result,
    http::{RequestHeader, ResponseHeader},
};

use self::fetch::fetch;
pub(crate) use self::fetch::has_dot_segments;
use super::LengthOfPage;
use crate::{
    context::{self, Context, RefusedBy, X_ACCEL_REDIRECT},
    fetch::FetchedResponse,
    forwarded, hop_by_hop, upstream,
};

/// Reason word for an error whose page could not be fetched.
pub(crate) const REASON: &str = "error_page";

/// Time for a page, in which a client waits for nothing but an error.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a page, the same as that of a file, and of the body that its upstream gets.
pub(crate) const MAX_SIZE: usize = 1 << 20;

/// Headers about the page as a response to its own address, and about its framing.
const OF_PAGE: [HeaderName; 11] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::PRAGMA,
    header::TRANSFER_ENCODING,
];

/// Headers of a page about its message alone.
const OF_MESSAGE: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    header::DATE,
    header::TRANSFER_ENCODING,
];

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Replaces an error response of a backend if some filter has a page of an upstream for it. The
/// error ends the response; the reply takes its place.
pub(crate) fn read(
    request: &RequestHeader,
    response: &ResponseHeader,
    ctx: &mut Context,
) -> Result<()> {
    if let Some(reply) = no_whole_page(response, ctx) {
        degrade(REASON, ctx);
        ctx.reply = Some(Box::new(reply));
        return Err(Error::new_in(upstream::REPLACED));
    }
    if response.status.as_u16() < 400 {
        return Ok(());
    }
    let Some(pages) = context::error_pages(&ctx.gateway, ctx.route) else {
        return Ok(());
    };
    let ex = Exchange::new(request, &mut ctx.facts);
    if let Some(mut to) = pages.page_route(&ex, response.status, true) {
        let reply = page_in_place_of(response.status, &response.headers);
        to.kept.clone_from(&reply.headers);
        ctx.reroute = Some(Box::new(to));
        ctx.reply = Some(Box::new(reply));
        return Err(Error::new_in(upstream::REPLACED));
    }
    let reply = pages.reply_in_place_of(&ex, response.status, &response.headers);
    let Some(reply) = reply else {
        return Ok(());
    };
    ctx.reply = Some(Box::new(reply));
    Err(Error::new_in(upstream::REPLACED))
}

/// Returns the built-in page in place of a response that was to be the page of an error and is a
/// part of one, or says that the client has it.
fn no_whole_page(response: &ResponseHeader, ctx: &Context) -> Option<Reply> {
    let rerouted = ctx.facts.rerouted.as_ref()?;
    let status = rerouted.page?.status?;
    // Where there is a cache, it asks, and no client.
    let is_renewed = response.status == StatusCode::NOT_MODIFIED
        && context::cache(&ctx.gateway, ctx.route).is_some();
    if is_whole(response.status) || is_renewed || status == StatusCode::OK {
        return None;
    }
    let mut reply = Reply::refuse(status, REASON);
    reply.headers.clone_from(&rerouted.kept);
    Some(reply)
}

/// Returns true if the upstream of a page gets the client's body, which was not read as a whole.
pub(crate) fn wants_body(ctx: &Context, page: &PageRequest) -> bool {
    is_as_sent(ctx, page) && !matches!(ctx.facts.body, Body::Whole(_))
}

/// Returns true if the upstream of a page gets the client's own request: not one that was refused,
/// whose body the filters have not seen.
fn is_as_sent(ctx: &Context, page: &PageRequest) -> bool {
    page.is_as_sent && ctx.refused_by.is_none()
}

/// Puts a page into the `reply` to `request`, as far as there is one. `body` is the client's, if it
/// was read for the page.
pub(crate) async fn insert(
    request: &RequestHeader,
    ctx: &mut Context,
    page: PageRequest,
    body: Option<Bytes>,
    reply: &mut Reply,
) {
    let is_page = matches!(reply.body, ReplyBody::Page { .. });
    if !is_page || ctx.route.is_none() || is_way_around(ctx, &page) {
        // Replies before a route is known are to requests that are none, or to floods.
        return;
    }
    // A backend that failed is done: the page may be one of its own.
    upstream::over(ctx);
    let body = match &ctx.facts.body {
        Body::Whole(body) => Some(body.clone()),
        Body::NotRead | Body::TooLong => body,
    };
    let time = time_for(ctx, &page);
    let fetched = match tokio::time::timeout(time, fetch(request, ctx, &page, body)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("it took more than {} s", time.as_secs())),
    };
    match fetched {
        Ok(fetched) => put(request, ctx, fetched, &page, reply),
        Err(why) => {
            degrade(REASON, ctx);
            log::warn!(
                request_id = ctx.facts.request_id.as_str(), upstream = &*page.upstream,
                reason = REASON, error = &*why;
                "no page of an error, using the built-in one"
            );
        }
    }
}

/// Returns the time for a page. The upstream of the client's own request has its own time to begin
/// the response.
fn time_for(ctx: &Context, page: &PageRequest) -> Duration {
    let upstream = ctx.gateway.upstreams.get(&page.upstream);
    let upstream = upstream.filter(|_| is_as_sent(ctx, page));
    TIMEOUT + upstream.map_or(Duration::ZERO, |upstream| upstream.timeouts.first_byte.0)
}

/// Returns true if the page may be what a filter refused to show: one that another route guards, or
/// the client's own path at the upstream of the route.
fn is_way_around(ctx: &Context, page: &PageRequest) -> bool {
    match ctx.refused_by {
        None => false,
        Some(RefusedBy::Other) => true,
        Some(RefusedBy::Own) => {
            let action = context::route(&ctx.gateway, ctx.route).map(|route| &route.action);
            let is_own = match action {
                Some(Action::Forward(forward)) => forward.upstream == page.upstream,
                _ => false,
            };
            // A filter that chooses the upstream may choose this one.
            let chain = context::chain(&ctx.gateway, ctx.route);
            page.is_of_client && (is_own || chain.has(Phase::Route))
        }
    }
}

/// Records that a client got less than was configured.
pub(crate) fn degrade(reason: &'static str, ctx: &mut Context) {
    ctx.facts.degraded = ctx.facts.degraded.or(Some(reason));
}

/// Makes the page the content of the reply.
fn put(
    request: &RequestHeader,
    ctx: &mut Context,
    fetched: FetchedResponse,
    page: &PageRequest,
    reply: &mut Reply,
) {
    let FetchedResponse {
        mut head,
        body,
        backend,
        ..
    } = fetched;
    hop_by_hop::strip_response(&mut head);
    forwarded::strip_internal_response(&mut head);
    if request.method == Method::HEAD {
        let length = head.headers.get(header::CONTENT_LENGTH).cloned();
        ctx.facts.put(LengthOfPage(length));
    }
    // The response to the client's own request is what it says about itself.
    let is_whole = is_as_sent(ctx, page) && page.status == PageStatus::OfPage;
    let doomed: &[HeaderName] = if is_whole { &OF_MESSAGE } else { &OF_PAGE };
    for name in doomed.iter().chain([&X_ACCEL_REDIRECT]) {
        head.remove_header(name);
    }
    if !page.sends_credentials {
        head.remove_header(&header::SET_COOKIE);
    }
    reply.status = match page.status {
        PageStatus::OfError => reply.status,
        PageStatus::OfPage => head.status,
        PageStatus::Given(status) => status,
    };
    let content_type = head.remove_header(&header::CONTENT_TYPE).unwrap_or(TEXT);
    if let Some(to) = head.headers.get(header::LOCATION) {
        let client = &ctx.facts.client;
        let host = public_host(request, client);
        let public = forwarded::rewrite_location(to, &[&backend], client.scheme, host);
        if let Some(public) = public {
            // A value from headers is valid in headers.
            let _inserted = head.insert_header(header::LOCATION, public);
        }
    }
    // What the error itself says counts.
    let names: Vec<HeaderName> = reply.headers.iter().map(|(name, _)| name.clone()).collect();
    for (name, value) in &head.headers {
        if name == header::SET_COOKIE || !names.contains(name) {
            reply.headers.push((name.clone(), value.clone()));
        }
    }
    if !is_whole {
        reply.headers.push((header::CACHE_CONTROL, NO_STORE));
    }
    let has_no_body = matches!(
        reply.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    reply.body = if has_no_body {
        ReplyBody::Empty
    } else {
        ReplyBody::Bytes {
            content_type: Some(content_type),
            body,
        }
    };
}
