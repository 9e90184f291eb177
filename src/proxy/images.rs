//! Images of apps that are made here, in place of a request to the app: after the cache was asked,
//! and stored like the response of the app.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{
    cache::{self, Flow},
    context::Context,
    decision::Decision,
    forward,
};
use crate::{
    base::open_headers::OpenResponseHeaders,
    chain::{Phase, Reply},
    gateway::{AppImages, MadeImage},
    routes::Target,
    upstreams::Upstream,
};

/// Decides a request that would go to the app. It still does, unless it is for an image that is made
/// here.
pub(super) async fn ask(head: &RequestHeader, ctx: &mut Context, decision: Decision) -> Decision {
    let Decision::GoesOn(Some(flow)) = decision else {
        return decision;
    };
    if !flow.is_image() || has_body(&head.headers) {
        return Decision::GoesOn(Some(flow));
    }
    let gateway = Arc::clone(&ctx.gateway);
    let found = ctx.upstream.as_ref().and_then(|upstream| {
        let mut apps = gateway.app_images.iter();
        apps.find(|(own, _)| Arc::ptr_eq(own, upstream))
    });
    match found {
        // Boxed, because otherwise every request's future would be as large.
        Some((upstream, images)) => Box::pin(make(head, ctx, flow, (upstream, images))).await,
        None => Decision::GoesOn(Some(flow)),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

async fn make(
    head: &RequestHeader,
    ctx: &mut Context,
    mut flow: Box<Flow>,
    (upstream, images): (&Arc<Upstream>, &AppImages),
) -> Decision {
    let rewritten = match &ctx.facts.rewritten {
        Some(rewritten) => Some(Cow::Borrowed(&**rewritten)),
        None => forward::rewritten(head, ctx).map(Cow::Owned),
    };
    let target = Target::new("", rewritten.as_deref().unwrap_or(head.raw_path()));
    let release = ctx.facts.release.as_deref();
    let wanted = images.wanted(target.path, target.query, &head.headers, release);
    let Some(wanted) = wanted else {
        return Decision::GoesOn(Some(flow));
    };
    let release = release.map(|name| (name, upstream.is_release_up(name)));
    let clock = ctx.live().world.clock.clone();
    flow.ask_now(clock.wall());
    let made = match images.make(&wanted, release, clock.now()).await {
        Ok(made) => made,
        Err(failure) => {
            images.count(Err(failure));
            return Decision::GoesOn(Some(flow));
        }
    };
    let Some(made) = made.image() else {
        return Decision::GoesOn(Some(flow));
    };
    let Some(headers) = wanted.headers(made) else {
        return Decision::GoesOn(Some(flow));
    };
    images.count(Ok(made));
    if let Some(entry) = made.stored.get()
        && flow.key == *entry.key()
    {
        return Decision::Stored(Arc::clone(entry), None);
    }
    respond(head, ctx, flow, (made, headers)).await
}

/// Stores the image as if the app had sent it. If it may not be stored, only this client gets it.
async fn respond(
    head: &RequestHeader,
    ctx: &mut Context,
    flow: Box<Flow>,
    (made, headers): (&MadeImage, HeaderMap),
) -> Decision {
    let Ok(mut response) = ResponseHeader::build_no_case(StatusCode::OK, Some(headers.len()))
    else {
        return Decision::GoesOn(Some(flow));
    };
    {
        let mut open = OpenResponseHeaders::of(&mut response, headers.len());
        open.parts.headers = headers;
        let (chain, mut ex) = ctx.exchange(head);
        if chain.has(Phase::UpstreamResponse) {
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
        }
        open.close(&mut response);
    }
    if let Some(entry) = cache::store_made(head, &response, made.bytes.clone(), ctx, flow).await {
        let _is_first = made.stored.set(Arc::clone(&entry));
        return Decision::Stored(entry, None);
    }
    if cache::not_modified(head, &response) {
        let mut reply = Reply::empty(StatusCode::NOT_MODIFIED);
        for name in [header::VARY, header::CACHE_CONTROL, header::ETAG] {
            if let Some(value) = response.headers.get(&name) {
                reply = reply.header(name, value.clone());
            }
        }
        return Decision::Reply(Box::new(reply));
    }
    let Some(content_type) = response.remove_header(&header::CONTENT_TYPE) else {
        return Decision::Reply(Box::new(Reply::empty(response.status)));
    };
    let mut reply = Reply::bytes(response.status, content_type, made.bytes.clone());
    for (name, value) in &response.headers {
        if *name != header::CONTENT_LENGTH {
            reply = reply.header(name.clone(), value.clone());
        }
    }
    Decision::Reply(Box::new(reply))
}
