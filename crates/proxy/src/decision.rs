//! Decides what happens to a request before it goes to a backend. The filters and the cache decide
//! before any part of the request is read or a response is written. Then the decision is carried
//! out.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_cache::{nextjs::MAX_BEGINNING, store::Entry};
use edgeway_core::chain::{Body, HookProgress, Reply, RouteRequest};
use edgeway_files::FileResponse;
use edgeway_filters::error_pages::ErrorPages;
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::{
    body,
    cache::{self, Flow},
    context::{self, Context},
    exchange, files, images, releases, reply,
    request::{self, FilterOutcome},
    request_end, reroute,
};
use crate::session::Client;

pub(super) enum Decision {
    /// A reply of the gateway.
    Reply(Box<Reply>),
    /// A stored response. With a flow it is revalidated in the background.
    Stored(Arc<Entry>, Option<Box<Flow>>),
    /// A file.
    File(Box<FileResponse>),
    /// Forwarding to a backend. With a flow the response may fill the cache.
    GoesOn(Option<Box<Flow>>),
    /// Leading to another route.
    Reroute(Box<RouteRequest>),
    /// Reading the body, which the next filter needs.
    NeedsBody,
    /// Reading the beginning of the body, which tells the release that the request belongs to. All
    /// filters have passed it.
    NeedsBeginning,
}

/// Begins a request: finds its client, its target and its route. A reply that is known already waits
/// for [`run`].
pub(super) async fn begin(client: &mut Client, ctx: &mut Context) {
    let reply = match client.refusal.take() {
        Some(refusal) => Some(request::refuse(client, &refusal, ctx)),
        None => request::own_reply(&mut client.request, client.connection.clone(), ctx).await,
    };
    ctx.decided = reply.map(Decision::Reply);
}

/// Processes a request as far as possible without a backend. Returns `true` if a response was sent.
pub(super) async fn run(client: &mut Client, ctx: &mut Context) -> Result<bool> {
    let decision = match ctx.decided.take() {
        Some(decision) => decision,
        None => filter(client, ctx).await,
    };
    let decision = settled(&mut client.request, ctx, decision).await;
    if let Decision::GoesOn(flow) = decision {
        ctx.flow = flow;
        return Ok(false);
    }
    if request::is_draining(ctx) {
        client.close();
    }
    // Boxed, because otherwise every request's future would be as large.
    let sent = match decision {
        Decision::Reply(reply) => Box::pin(reply::send(client, ctx, *reply)).await,
        Decision::Stored(entry, refresh) => {
            if let Some(flow) = refresh {
                exchange::revalidate(&client.request, ctx, *flow);
            }
            client.settle_body();
            cache::send(client, ctx, &entry).await
        }
        Decision::File(response) => {
            client.settle_body();
            Box::pin(files::send(client, ctx, *response, None)).await
        }
        Decision::GoesOn(_)
        | Decision::NeedsBody
        | Decision::NeedsBeginning
        | Decision::Reroute(_) => Err(Error::new_in(ErrorType::Custom("unread body"))),
    };
    sent.map_err(request_end::of_client)?;
    client.is_over = client.linger().await;
    Ok(true)
}

/// Follows a decision that may lead to another route. Most lead to none.
async fn settled(head: &mut RequestHeader, ctx: &mut Context, decision: Decision) -> Decision {
    let may_lead_on = match &decision {
        Decision::Reroute(_) => true,
        Decision::Reply(reply) => {
            reply.status.as_u16() >= 400
                && context::error_pages(&ctx.gateway, ctx.route)
                    .is_some_and(ErrorPages::has_page_routes)
        }
        Decision::Stored(..)
        | Decision::File(_)
        | Decision::GoesOn(_)
        | Decision::NeedsBody
        | Decision::NeedsBeginning => false,
    };
    if may_lead_on {
        // Boxed, because otherwise every request's future would be as large.
        Box::pin(reroute::settle(head, ctx, decision)).await
    } else {
        decision
    }
}

/// Decides the course of a request that has passed its filters.
pub(super) async fn act(head: &RequestHeader, ctx: &mut Context) -> Decision {
    if !ctx.gateway.app_releases.is_empty()
        && let Some(decision) = releases::choose(head, ctx)
    {
        return decision;
    }
    if let Some(decision) = files::ask(head, ctx).await {
        return decision;
    }
    let decision = cache::ask(head, ctx).await;
    if ctx.gateway.app_images.is_empty() {
        return decision;
    }
    images::ask(head, ctx, decision).await
}

/// Runs the request through its filters, which may need its body, and through the cache.
async fn filter(client: &mut Client, ctx: &mut Context) -> Decision {
    if !client.body.is_there() {
        ctx.facts.body = Body::Whole(Bytes::new());
    }
    let mut round = HookProgress::default();
    loop {
        match request::filter(&client.request, ctx, &mut round).await {
            FilterOutcome::Reply(reply) => return Decision::Reply(reply),
            FilterOutcome::Passed => break,
            FilterOutcome::Body(_) if !client.body.is_there() => break,
            FilterOutcome::Body(most) => {
                // Boxed, because otherwise every request's future would be as large.
                if let Err(failure) = Box::pin(body::read(client, ctx, most)).await {
                    return Decision::Reply(failure.into());
                }
            }
        }
    }
    match act(&client.request, ctx).await {
        Decision::NeedsBeginning => {}
        decision => return decision,
    }
    // Boxed, because otherwise every request's future would be as large.
    match Box::pin(body::read_beginning(client, ctx, MAX_BEGINNING)).await {
        Ok(()) => act(&client.request, ctx).await,
        Err(failure) => Decision::Reply(failure.into()),
    }
}
