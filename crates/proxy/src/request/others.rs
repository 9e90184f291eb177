//! Guards of other routes that a request has to pass: of routes that some app would select for its
//! path, and of the path that a plugin gave to it.

use std::{collections::VecDeque, iter, mem};

use edgeway_core::chain::{Chain, Exchange, HookOutcome, HookProgress, Verdict};
use edgeway_gateway::Gateway;
use edgeway_routes::{LiteralMatch, Params, Target};
use pingora::http::RequestHeader;

use super::{FilterOutcome, find, host_name};
use crate::{
    context::{self, AdditionalGuards, Context, RefusedBy},
    error::Failure,
};

/// Finds routes that guard a request besides its own route: those that some app would select for
/// its path, and those that would match another of several values of the same name. One of them
/// becomes the route if it leads to the same app.
#[cold]
pub(super) fn guarded(
    gateway: &Gateway,
    literal: &mut LiteralMatch,
    (target, head, has_spellings): (&Target<'_>, &RequestHeader, bool),
    params: &mut Params,
) -> Option<Box<AdditionalGuards>> {
    if let Some(guarded) = gateway.guarded((target, head, has_spellings), literal, params) {
        literal.route = guarded.route;
        literal.also = guarded.also;
    }
    let mut covered = gateway.route(literal.route)?.guarding.guards.clone();
    let routes = literal.also.iter().filter_map(|index| {
        let route = gateway.route(*index)?;
        Some((*index, route.guards_beside(&mut covered)))
    });
    AdditionalGuards::boxed(routes.collect(), None)
}

impl AdditionalGuards {
    fn boxed(
        routes: VecDeque<(usize, Chain)>,
        rewritten: Option<Box<RequestHeader>>,
    ) -> Option<Box<Self>> {
        (!routes.is_empty()).then(|| {
            Box::new(Self {
                routes,
                rewritten,
                round: HookProgress::default(),
                apart: None,
            })
        })
    }

    /// Returns the guards of the path that a plugin gave to a request for the app of its route: those
    /// that the route would have had which a client asks for that path.
    #[cold]
    fn of_rewritten(request: &RequestHeader, ctx: &mut Context) -> Option<Box<Self>> {
        let gateway = &ctx.gateway;
        let guarding = &context::route(gateway, ctx.route)?.guarding;
        let mut rewritten = Box::new(request.clone());
        rewritten.set_raw_path(ctx.facts.rewritten.as_ref()?).ok()?;
        let host = host_name(request, &ctx.facts.client, None).ok()?;
        let target = Target {
            listener: &ctx.facts.client.listener,
            ..Target::new(&host, rewritten.raw_path())
        };
        let lookup = (&target, &*rewritten, true);
        let (index, also) = find(gateway, lookup, &mut Params::default())?;
        let also = also.map(|also| also.routes).unwrap_or_default();
        let also = also.into_iter().map(|(index, _)| index);
        // A filter may choose another app than the configuration says.
        let (chain, ex) = (
            context::chain(gateway, ctx.route),
            Exchange::new(request, &mut ctx.facts),
        );
        let chosen = chain.on_route(&ex);
        let app = chosen.as_ref().or(guarding.upstream.as_ref());
        let mut covered = guarding.guards.clone();
        let guards = iter::once(index).chain(also).filter_map(|index| {
            let route = gateway.route(index)?;
            let upstream = route.guarding.upstream.as_ref();
            // What only refuses does so for every app.
            let is_of_app = upstream.is_none() || upstream == app;
            let is_lacked = is_of_app && !route.guarding.guards.is_subset(&guarding.guards);
            is_lacked.then(|| (index, route.guards_beside(&mut covered)))
        });
        Self::boxed(guards.collect(), Some(rewritten))
    }
}

/// Runs the guards of other routes, if there are any. Returns `None` once the request has passed.
pub(super) async fn pass_others(
    request: &RequestHeader,
    ctx: &mut Context,
) -> Option<FilterOutcome> {
    let (filters, mut ex) = ctx.exchange(request);
    if let Verdict::Reply(reply) = filters.before_guards(&mut ex) {
        return Some(FilterOutcome::Reply(reply));
    }
    let facts = &mut ctx.facts;
    let others = ctx.also.as_mut()?;
    let request = others.rewritten.as_deref().unwrap_or(request);
    while let Some((index, chain)) = others.routes.front() {
        let (_, apart) = match &mut others.apart {
            Some(apart) if apart.0 == *index => apart,
            before => {
                let before = before.take().map(|(_, kept)| kept);
                others
                    .apart
                    .insert((*index, facts.apart(*index, chain, before)))
            }
        };
        facts.swap(apart);
        let mut ex = Exchange::new(request, &mut *facts);
        let outcome = chain.on_request(&mut ex, &mut others.round).await;
        facts.swap(apart);
        match outcome {
            HookOutcome::Over(Verdict::Next) => {}
            HookOutcome::Over(Verdict::Reply(reply)) => {
                ctx.refused_by = Some(RefusedBy::Other);
                return Some(FilterOutcome::Reply(reply));
            }
            HookOutcome::Body(most) => return Some(FilterOutcome::Body(most)),
        }
        let refusal = ctx.gateway.route(*index).and_then(|route| {
            if route.is_internal && facts.rerouted.is_none() && facts.rewritten.is_none() {
                return Some(Failure::NoRoute.reply());
            }
            route.refusal(request, facts)
        });
        if let Some(reply) = refusal {
            ctx.refused_by = Some(RefusedBy::Other);
            return Some(FilterOutcome::Reply(Box::new(reply)));
        }
        facts.pass(apart);
        ctx.earlier_routes.push(*index);
        others.routes.pop_front();
        others.round = HookProgress::default();
    }
    ctx.also = None;
    None
}

/// Runs the guards of the path that a plugin gave to a request, once. Returns `None` once the request
/// has passed.
pub(super) async fn pass_rewritten(
    request: &RequestHeader,
    ctx: &mut Context,
) -> Option<FilterOutcome> {
    let index = ctx.route?.index();
    if mem::replace(&mut ctx.has_passed_rewrite, true)
        || !ctx.gateway.table.lacks_guards(index, true)
    {
        return None;
    }
    ctx.also = AdditionalGuards::of_rewritten(request, ctx);
    pass_others(request, ctx).await
}
