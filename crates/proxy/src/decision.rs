//! Decides what happens to a request before it goes to a backend. The filters and the cache decide
//! before any part of the request is read or a response is written. Then the decision is carried
//! out.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_cache::{nextjs::MAX_BEGINNING, store::Entry};
use edgeway_core::chain::{Body, HookProgress, Reply, RouteRequest};
use edgeway_files::FileResponse;
use edgeway_filters::error_pages::ErrorPages;
use http::StatusCode;
use pingora::{Error, ErrorType, Result, http::RequestHeader};
use pingora_proxy::Session;

use super::{
    body,
    cache::{self, Flow},
    context::{self, Context},
    error_page, files, images, releases, reply,
    request::{self, FilterOutcome},
    request_end, reroute,
};
use crate::{connection::Connection, live::Live};

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
    NeedsBody(HookProgress),
    /// Reading the beginning of the body, which tells the release that the request belongs to. All
    /// filters have passed it.
    NeedsBeginning,
}

/// Processes a request as far as possible without a backend. Returns `true` if a response was sent.
/// If so, the next similar request takes the fast path without Pingora's proxy.
pub(super) async fn run(live: &Live, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let connection = request::connection(session);
    request::enter(session, connection.as_deref());
    let course = match ctx.course.take() {
        Some(Decision::NeedsBody(round)) => filter(session, ctx, round).await,
        Some(Decision::NeedsBeginning) => act_on(session, ctx).await,
        Some(course) => course,
        None => match request::own_reply(session.req_header_mut(), connection, ctx).await {
            Some(reply) => Decision::Reply(reply),
            None => filter(session, ctx, HookProgress::default()).await,
        },
    };
    let course = settled(session.req_header_mut(), ctx, course).await;
    let outcome = follow(course, session, ctx).await;
    let outcome = outcome.map_err(request_end::of_client);
    remember(live, ctx, matches!(outcome, Ok(true)));
    outcome
}

/// Records whether requests like this one get a response without a backend.
pub(super) fn remember(live: &Live, ctx: &Context, is_served_here: bool) {
    let Some(connection) = &ctx.connection else {
        return;
    };
    let head = connection.fingerprint();
    if is_served_here {
        live.lately.insert(head);
    } else {
        live.lately.remove(head);
    }
}

/// Decides the course of a request that arrived on `connection`, without reading its body.
pub(super) async fn decide(
    head: &mut RequestHeader,
    connection: Option<Arc<Connection>>,
    has_body: bool,
    ctx: &mut Context,
) -> Decision {
    if let Some(reply) = request::own_reply(head, connection, ctx).await {
        return settled(head, ctx, Decision::Reply(reply)).await;
    }
    if !has_body {
        ctx.facts.body = Body::Whole(Bytes::new());
    }
    let mut round = HookProgress::default();
    let decision = match request::filter(head, ctx, &mut round).await {
        FilterOutcome::Reply(reply) => Decision::Reply(reply),
        FilterOutcome::Body(_) if has_body => Decision::NeedsBody(round),
        FilterOutcome::Passed | FilterOutcome::Body(_) => act(head, ctx).await,
    };
    settled(head, ctx, decision).await
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
        | Decision::NeedsBody(_)
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

/// Decides the course of a session's request that has passed its filters. Reads the beginning of its
/// body if needed.
async fn act_on(session: &mut Session, ctx: &mut Context) -> Decision {
    match act(session.req_header(), ctx).await {
        Decision::NeedsBeginning => {}
        decision => return decision,
    }
    // Boxed, because otherwise every request's future would be as large.
    match Box::pin(body::read_beginning(session, ctx, MAX_BEGINNING)).await {
        Ok(()) => act(session.req_header(), ctx).await,
        Err(failure) => Decision::Reply(failure.into()),
    }
}

/// Runs the request through its filters from `round` on, which may need its body, and through the
/// cache.
async fn filter(session: &mut Session, ctx: &mut Context, round: HookProgress) -> Decision {
    let mut round = round;
    loop {
        match request::filter(session.req_header(), ctx, &mut round).await {
            FilterOutcome::Reply(reply) => return Decision::Reply(reply),
            FilterOutcome::Passed => return act_on(session, ctx).await,
            FilterOutcome::Body(most) => {
                // Boxed, because otherwise every request's future would be as large.
                if let Err(failure) = Box::pin(body::read(session, ctx, most)).await {
                    return Decision::Reply(failure.into());
                }
            }
        }
    }
}

/// Returns the built-in page of an error, in place of one that cannot be asked for.
fn page_without_upstream(ctx: &mut Context) -> Reply {
    ctx.facts.degraded = ctx.facts.degraded.or(Some(error_page::REASON));
    let status = ctx.facts.page_status();
    Reply::refuse(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        error_page::REASON,
    )
}

/// Carries out `course`. Returns `true` if a response was sent.
async fn follow(course: Decision, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let reply = match course {
        Decision::Reply(reply) => reply,
        Decision::Stored(entry, refresh) => {
            cache::serve(session, ctx, &entry, refresh).await?;
            return Ok(true);
        }
        Decision::File(response) => {
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(files::serve(session, ctx, *response)).await?;
            return Ok(true);
        }
        Decision::GoesOn(flow) => {
            request::settle(session);
            if ctx.facts.is_page() && !session.as_mut().is_body_empty() {
                // Its upstream would get a body that no filter has let pass.
                let reply = page_without_upstream(ctx);
                reply::send(session, ctx, reply).await?;
                return Ok(true);
            }
            let refused = match flow {
                Some(flow) => {
                    let has_body = !session.as_mut().is_body_empty();
                    cache::fetch(session.req_header(), has_body, ctx, flow).await
                }
                None => None,
            };
            match refused {
                Some(reply) => reply,
                None => return Ok(false),
            }
        }
        Decision::NeedsBody(_) | Decision::NeedsBeginning | Decision::Reroute(_) => {
            return Err(Error::new_in(ErrorType::Custom("unread body")));
        }
    };
    request::end_if_draining(session, ctx);
    reply::send(session, ctx, *reply).await?;
    Ok(true)
}
