//! Decides what happens to a request: its filters, releases, files, the cache and images are asked,
//! in this order.

use std::pin::pin;

use bytes::Bytes;
use edgeway_cache::nextjs::MAX_BEGINNING;
use edgeway_core::chain::{Body, HookProgress};
use edgeway_core_filters::error_pages::ErrorPages;
use futures_util::FutureExt as _;
use pingora::http::RequestHeader;

use super::{FilterOutcome, releases, reroute};
use crate::{
    body, cache,
    context::{self, Context, Decision},
    files, images,
    session::Client,
};

/// Begins a request: finds its client, its target and its route. A reply that is known already waits
/// for [`decide`].
pub(crate) async fn begin(client: &mut Client, ctx: &mut Context) {
    let reply = match client.refusal.take() {
        Some(refusal) => Some(super::refuse(client, &refusal, ctx)),
        None => super::own_reply(&mut client.request, client.connection.clone(), ctx).await,
    };
    ctx.decided = reply.map(Decision::Reply);
}

/// Decides a request, and follows a decision that leads to another route.
pub(crate) async fn decide(client: &mut Client, ctx: &mut Context) -> Decision {
    let decision = match ctx.decided.take() {
        Some(decision) => decision,
        None => filter(client, ctx).await,
    };
    settled(client, ctx, decision).await
}

/// Follows a decision that may lead to another route. Most lead to none.
async fn settled(client: &mut Client, ctx: &mut Context, decision: Decision) -> Decision {
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
        | Decision::NeedsBody(..)
        | Decision::NeedsBeginning => false,
    };
    if may_lead_on {
        // Boxed, because otherwise every request's future would be as large.
        Box::pin(reroute::settle_with_body(client, ctx, decision)).await
    } else {
        decision
    }
}

/// Decides the course of a request that has passed its filters.
pub(crate) async fn act(head: &RequestHeader, ctx: &mut Context) -> Decision {
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

/// Runs the filters, and gives up those that wait if the client leaves: nobody waits for them.
async fn watched_filter(
    client: &mut Client,
    ctx: &mut Context,
    round: &mut HookProgress,
) -> FilterOutcome {
    let (request, watch) = client.watched();
    let left = {
        let mut filtered = pin!(super::filter(request, ctx, round));
        // Most filters do not wait.
        if let Some(outcome) = filtered.as_mut().now_or_never() {
            return outcome;
        }
        match watch.during(filtered).await {
            Ok(outcome) => return outcome,
            Err(left) => left,
        }
    };
    FilterOutcome::Reply(body::failure_of_client(&left, ctx).into())
}

/// Runs the request through its filters, which may need its body, and through the cache.
async fn filter(client: &mut Client, ctx: &mut Context) -> Decision {
    if !client.body.is_there() {
        ctx.facts.body = Body::Whole(Bytes::new());
    }
    let mut round = HookProgress::default();
    loop {
        match watched_filter(client, ctx, &mut round).await {
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
