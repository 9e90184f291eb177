//! What becomes of a request before it goes to a backend: decided on by its filters and the
//! cache before anything of it is read or answered, then done.

use std::sync::Arc;

use bytes::Bytes;
use pingora::{Result, http::RequestHeader};
use pingora_proxy::Session;

use super::{
    body,
    cache::{self, Flow},
    context::{self, Context},
    end, reply,
    request::{self, Filtered},
};
use crate::{
    cache::store::Entry,
    chain::{Body, Reply, Round},
    runtime::{connection::Connection, live::Live},
};

pub(super) enum Course {
    /// An answer of ours.
    Reply(Box<Reply>),
    /// What is stored; with a flow it is fetched anew meanwhile.
    Stored(Arc<Entry>, Option<Box<Flow>>),
    /// On to a backend; with a flow for the cache as well.
    GoesOn(Option<Box<Flow>>),
}

/// Runs a request as far as it needs no backend: `true` if it was answered. Its like is
/// answered without Pingora's proxy the next time.
pub(super) async fn run(live: &Live, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let course = if let Some(course) = ctx.course.take() {
        course
    } else {
        let connection = request::connection(session);
        request::enter(session, connection.as_deref());
        match request::own_answer(session.req_header_mut(), connection, ctx).await {
            Some(reply) => Course::Reply(reply),
            None => filter(session, ctx).await,
        }
    };
    let outcome = follow(live, course, session, ctx).await;
    let outcome = outcome.map_err(end::of_client);
    remember(live, ctx, matches!(outcome, Ok(true)));
    outcome
}

/// Whether the like of this request is answered without a backend.
pub(super) fn remember(live: &Live, ctx: &Context, is_answered: bool) {
    let Some(connection) = &ctx.connection else {
        return;
    };
    let head = connection.fingerprint();
    if is_answered {
        live.lately.insert(head);
    } else {
        live.lately.remove(head);
    }
}

/// What is to become of a request without a body that came on `connection`.
pub(super) async fn decide(
    head: &mut RequestHeader,
    connection: Option<Arc<Connection>>,
    ctx: &mut Context,
) -> Course {
    if let Some(reply) = request::own_answer(head, connection, ctx).await {
        return Course::Reply(reply);
    }
    ctx.facts.body = Body::Whole(Bytes::new());
    match request::filter(head, ctx, &mut Round::default()).await {
        Filtered::Reply(reply) => Course::Reply(reply),
        // Nobody wants the body: it is there.
        Filtered::Passed | Filtered::Body(_) => cache::ask(head, ctx).await,
    }
}

/// The request through its filters, which may want its body, and the cache.
async fn filter(session: &mut Session, ctx: &mut Context) -> Course {
    let mut round = Round::default();
    loop {
        match request::filter(session.req_header(), ctx, &mut round).await {
            Filtered::Reply(reply) => return Course::Reply(reply),
            Filtered::Passed => return cache::ask(session.req_header(), ctx).await,
            Filtered::Body(most) => {
                // Boxed, since every request's future would be as large.
                if let Err(failure) = Box::pin(body::read(session, ctx, most)).await {
                    return Course::Reply(failure.into());
                }
            }
        }
    }
}

/// `true` if the request is answered by that.
async fn follow(
    live: &Live,
    course: Course,
    session: &mut Session,
    ctx: &mut Context,
) -> Result<bool> {
    let reply = match course {
        Course::Reply(reply) => reply,
        Course::Stored(entry, refresh) => {
            cache::serve(session, ctx, &entry, refresh).await?;
            return Ok(true);
        }
        Course::GoesOn(flow) => {
            request::settle(session);
            let refused = match flow {
                Some(flow) => cache::fetch(session, ctx, flow).await,
                None => None,
            };
            match refused {
                Some(reply) => reply,
                None => return Ok(false),
            }
        }
    };
    request::end_if_draining(session, ctx);
    let Context {
        gateway,
        route,
        facts,
        ..
    } = ctx;
    let chain = context::chain(gateway, *route);
    reply::send(session, chain, facts, &live.world.clock, *reply).await?;
    Ok(true)
}
