//! Leads requests to other routes: by the rules of a route or site, to the page of an error, and where
//! there is no file. As the internal redirects of nginx, of which no client knows.

use std::{mem, sync::Arc};

use edgeway_base::http::ABOUT_COPIES;
use edgeway_cache::budget::RenderPermit;
use edgeway_core::chain::{
    Exchange, HookProgress, ReadyLines, Reply, ReplyBody, RouteRequest, RouteTarget,
};
use edgeway_core_filters::error_pages::KEPT_WITH_PAGE;
use edgeway_gateway::Route;
use edgeway_routes::{Action, RuleCourse, move_to, normalise};
use http::{Method, header};
use pingora::http::RequestHeader;

use super::{FilterOutcome, decide};
use crate::{
    body,
    context::{self, BookedError, Context, Decision, EarlyBody, RefusedBy, RoutePlacement},
    error::Failure,
    reply::error_page,
    session::Client,
    upstream,
};

/// Maximum number of routes that lead a request to another one, as with nginx.
const MAX_ROUTES: u8 = 10;

/// Runs the rules of the request's route and of its site, and those of the routes that they lead to.
/// Returns the reply of a rule.
#[cold]
pub(crate) fn follow_rules(
    request: &mut RequestHeader,
    ctx: &mut Context,
) -> Result<(), Box<Reply>> {
    let gateway = Arc::clone(&ctx.gateway);
    let (mut is_first, mut named) = (true, 0);
    loop {
        let Some(route) = context::route(&gateway, ctx.route) else {
            return Ok(());
        };
        if named > MAX_ROUTES {
            return Err(circle(ctx));
        }
        if route.is_internal && named == 0 && ctx.facts.rerouted.is_none() {
            // As with nginx: it is not said that there is anything.
            return Err(Failure::NoRoute.into());
        }
        let run =
            |rules: &edgeway_routes::Rules, request: &mut RequestHeader, ctx: &mut Context| {
                let course = rules.run(request, &mut ctx.facts, gateway.slashes);
                course.map_err(|_| Box::<Reply>::from(Failure::BadPath))
            };
        if let Some(site) = route.site.as_ref().filter(|_| is_first) {
            is_first = false;
            let before = request.raw_path().to_vec();
            match run(site, request, ctx)? {
                RuleCourse::Reply(reply, name) => return reply_as(reply, name, request, ctx),
                RuleCourse::Named(name) => {
                    named += 1;
                    enter(&name, request, ctx)?;
                    continue;
                }
                RuleCourse::GoOn | RuleCourse::Reroute => {}
            }
            if *request.raw_path() != *before {
                super::locate(request, ctx)?;
                continue;
            }
        }
        match &route.rules {
            None => return Ok(()),
            Some(rules) => match run(rules, request, ctx)? {
                RuleCourse::GoOn => return Ok(()),
                RuleCourse::Reply(reply, name) => return reply_as(reply, name, request, ctx),
                RuleCourse::Named(name) => {
                    named += 1;
                    enter(&name, request, ctx)?;
                }
                RuleCourse::Reroute => {
                    count(ctx)?;
                    super::locate(request, ctx)?;
                }
            },
        }
    }
}

/// Assigns a request to the route with this name.
fn enter(name: &str, request: &mut RequestHeader, ctx: &mut Context) -> Result<(), Box<Reply>> {
    let index = ctx.gateway.named.get(name).copied();
    let index = index.ok_or(Failure::Internal)?;
    ctx.params.clear();
    super::enter(index, request, ctx);
    Ok(())
}

/// Ends a request with a reply, as one of the route with this name.
fn reply_as(
    reply: Box<Reply>,
    name: Option<Arc<str>>,
    request: &mut RequestHeader,
    ctx: &mut Context,
) -> Result<(), Box<Reply>> {
    if let Some(name) = name {
        enter(&name, request, ctx)?;
    }
    Err(reply)
}

/// Counts a route that leads to another one.
fn count(ctx: &mut Context) -> Result<(), Box<Reply>> {
    let rerouted = ctx.facts.rerouted.get_or_insert_default();
    rerouted.count += 1;
    if rerouted.count > MAX_ROUTES {
        return Err(circle(ctx));
    }
    Ok(())
}

/// Returns the refusal of a request whose routes lead to each other.
fn circle(ctx: &Context) -> Box<Reply> {
    let route = ctx.facts.route.as_deref().unwrap_or_default();
    log::warn!(route; "request refused: its routes lead in a circle");
    Failure::RouteLoop.into()
}

/// Finds the route with the page of an error that a reply is about, and runs the error phase of the
/// route that it takes the place of.
pub(crate) async fn page_of(
    request: &RequestHeader,
    ctx: &mut Context,
    reply: &mut Reply,
) -> Option<Box<RouteRequest>> {
    let is_error = reply.status.as_u16() >= 400 && matches!(reply.body, ReplyBody::Page { .. });
    // Of a circle no page is shown: it would be one more way into it.
    let rerouted = ctx.facts.rerouted.as_ref();
    let is_circle = rerouted.is_some_and(|rerouted| rerouted.count > MAX_ROUTES);
    if !is_error || is_circle || reply.is_silent() {
        return None;
    }
    let pages = context::error_pages(&ctx.gateway, ctx.route)?;
    let ex = Exchange::new(request, &mut ctx.facts);
    let mut to = pages.page_route(&ex, reply.status, false)?;
    // Values of the client that are a part of the path lead nowhere else.
    let is_odd = matches!(&to.to, RouteTarget::Path(path) if error_page::has_dot_segments(path));
    if is_odd || is_way_around(ctx, &to) {
        return None;
    }
    // What filters count of errors, they count of this one.
    let (chain, mut ex) = ctx.exchange(request);
    ex.facts.reason = reply.reason.or(ex.facts.reason);
    chain.on_error(&mut ex, reply).await;
    let headers = reply.headers.iter();
    let kept = headers.filter(|(name, _)| KEPT_WITH_PAGE.contains(name));
    to.kept = kept.cloned().collect();
    Some(Box::new(to))
}

/// Returns true if the page may be what a filter refused to show: one that another route guards, or
/// the client's own path at the upstream of the route.
fn is_way_around(ctx: &Context, to: &RouteRequest) -> bool {
    match (&to.to, ctx.refused_by) {
        (_, None) | (RouteTarget::Path(_), Some(RefusedBy::Own)) => false,
        (_, Some(RefusedBy::Other)) => true,
        (RouteTarget::Named(name), Some(RefusedBy::Own)) => {
            let index = ctx.gateway.named.get(name);
            let route = index.and_then(|index| ctx.gateway.route(*index));
            let upstream = route.and_then(|route| route.upstream.as_ref());
            match (upstream, &ctx.upstream) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            }
        }
    }
}

/// Follows decisions that lead to other routes, and finds the pages of errors that other routes have.
async fn settle(head: &mut RequestHeader, ctx: &mut Context, decision: Decision) -> Decision {
    let mut decision = decision;
    loop {
        let to = match decision {
            Decision::Reroute(to) => to,
            Decision::Reply(mut reply) => match page_of(head, ctx, &mut reply).await {
                Some(to) => to,
                None => return Decision::Reply(reply),
            },
            other => return other,
        };
        decision = again(head, ctx, *to).await;
    }
}

/// Decides about a request again, as one of another route.
pub(crate) async fn again(
    head: &mut RequestHeader,
    ctx: &mut Context,
    to: RouteRequest,
) -> Decision {
    if let Err(reply) = lead(head, ctx, to) {
        return Decision::Reply(reply);
    }
    let (chain, ex) = ctx.exchange(head);
    ex.facts.meet(chain);
    filter(head, ctx, HookProgress::default()).await
}

/// Runs a request through the filters of another route, from `round` on.
async fn filter(head: &RequestHeader, ctx: &mut Context, mut round: HookProgress) -> Decision {
    match super::filter(head, ctx, &mut round).await {
        FilterOutcome::Reply(reply) => Decision::Reply(reply),
        FilterOutcome::Passed => decide::act(head, ctx).await,
        FilterOutcome::Body(most) => Decision::NeedsBody(most, round),
    }
}

/// Follows decisions as [`settle`] does, and reads the body for filters of other routes.
pub(crate) async fn settle_with_body(
    client: &mut Client,
    ctx: &mut Context,
    decision: Decision,
) -> Decision {
    let mut decision = settle(&mut client.request, ctx, decision).await;
    while let Decision::NeedsBody(max, round) = decision {
        let next = match body::read(client, ctx, max).await {
            Ok(()) => filter(&client.request, ctx, round).await,
            Err(failure) => Decision::Reply(failure.into()),
        };
        decision = settle(&mut client.request, ctx, next).await;
    }
    decision
}

/// Assigns a request to another route, as if it came for that one.
fn lead(head: &mut RequestHeader, ctx: &mut Context, to: RouteRequest) -> Result<(), Box<Reply>> {
    forget(ctx);
    ctx.earlier_routes
        .extend(ctx.route.map(RoutePlacement::index));
    if ctx.booked.is_none() && to.page.is_some_and(|page| page.status.is_some()) {
        ctx.booked = Some(Box::new(BookedError {
            route: ctx.route,
            method: head.method.clone(),
            upstream: mem::take(&mut ctx.facts.upstream),
            trial: ctx.trial.take(),
        }));
    }
    if ctx.facts.rerouted.is_none() {
        let target = head.raw_path().to_vec();
        move_to(&target, head, &mut ctx.facts, Some(true)).map_err(|_| Failure::BadPath)?;
    }
    count(ctx)?;
    let is_page = to.page.is_some();
    if let Some(page) = to.page {
        let rerouted = ctx.facts.rerouted.get_or_insert_default();
        (rerouted.page, rerouted.kept) = (Some(page), to.kept);
    }
    match to.to {
        RouteTarget::Named(name) => {
            enter(&name, head, ctx)?;
        }
        RouteTarget::Path(target) => {
            if is_page && head.method != Method::HEAD {
                head.set_method(Method::GET);
                head.remove_header(&header::UPGRADE);
            }
            if error_page::has_dot_segments(&target) {
                // Values of the client that are a part of the path lead nowhere else.
                return Err(Failure::BadPath.into());
            }
            let normal = normalise(&target, ctx.gateway.slashes).map_err(|_| Failure::BadPath)?;
            let rewritten = normal.rewritten();
            let target = rewritten.as_deref().unwrap_or(&target);
            move_to(target, head, &mut ctx.facts, None).map_err(|_| Failure::BadPath)?;
            super::locate(head, ctx)?;
        }
    }
    if context::route(&ctx.gateway, ctx.route).is_some_and(Route::leads_on) {
        follow_rules(head, ctx)?;
    }
    if is_page && ctx.facts.page_status().is_some_and(|status| status != 200) {
        let route = context::route(&ctx.gateway, ctx.route);
        // A backend may decide about them: what is no whole page then is replaced.
        let is_asked = |route: &Route| {
            let asks = matches!(&route.action, Action::Forward(forward) if forward.files.is_none());
            asks && route.cache.is_none()
        };
        if !route.is_some_and(is_asked) {
            // The page of an error is sent whole.
            for name in &ABOUT_COPIES {
                head.remove_header(name);
            }
        }
    }
    Ok(())
}

/// Books a request on the route where its error happened, if another one had the page. Returns the
/// request if it had another method then.
#[cold]
pub(crate) fn book(
    request: &RequestHeader,
    error: BookedError,
    ctx: &mut Context,
) -> Option<Box<RequestHeader>> {
    let name = context::route(&ctx.gateway, error.route).map(|route| Arc::clone(&route.name));
    let page = mem::replace(&mut ctx.facts.route, name);
    let page = page.filter(|page| Some(page) != ctx.facts.route.as_ref());
    ctx.facts.rerouted.get_or_insert_default().page_route = page;
    ctx.facts.upstream = error.upstream;
    (ctx.route, ctx.trial) = (error.route, error.trial);
    (error.method != request.method).then(|| {
        let mut request = request.clone();
        request.set_method(error.method);
        Box::new(request)
    })
}

/// Forgets what was decided about a request as one of its route.
fn forget(ctx: &mut Context) {
    upstream::over(ctx);
    ctx.also = None;
    ctx.has_passed_rewrite = false;
    ctx.upstream = None;
    ctx.timeouts = None;
    ctx.lease = None;
    ctx.tried.clear();
    ctx.stale_attempts = 0;
    ctx.reply = None;
    ctx.is_websocket = false;
    ctx.early = EarlyBody {
        has_continued: ctx.early.has_continued,
        ..EarlyBody::default()
    };
    ctx.has_interim = false;
    ctx.responded_at = None;
    ctx.cache = None;
    ctx.accel = None;
    let facts = &mut ctx.facts;
    drop(facts.take::<RenderPermit>());
    facts.leave_route();
    facts.cache = None;
    facts.is_coding_settled = false;
    facts.lines = ReadyLines::NotTaken;
}
