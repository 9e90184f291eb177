//! Request headers as a backend gets them: the client's copy without what clients may not send,
//! rewritten, with forwarding headers, and changed by the filters.

use std::{borrow::Cow, sync::Arc};

use edgeway_base::query;
use edgeway_config::model::App;
use edgeway_core::chain::{CredentialPlace, Exchange, Phase, ReadyLines};
use edgeway_core::open_headers::OpenRequestHeaders;
use edgeway_routes::{HostHeader, Rewrite, Target};
use http::{HeaderMap, header};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::{
    context::{self, Context, RefusedBy},
    error::Failure,
    forwarded::{self, Forwarding},
    host_header,
    streams::is_h2,
    trace, upstream_request,
};
use crate::connection::Connection;

/// Turns `request`, a copy of the client's `original` request headers, into those for the backend.
pub(super) async fn forward(
    original: &RequestHeader,
    request: &mut RequestHeader,
    ctx: &mut Context,
) -> Result<()> {
    let Some(connection) = &ctx.connection else {
        return Err(Error::new_in(ErrorType::Custom("no connection")));
    };
    if let Some(target) = &ctx.facts.rewritten {
        // The route's own rewrite applies to the path that the client sent.
        request.set_raw_path(target)?;
    } else {
        // What the route writes into the query is no parameter that clients choose.
        let counted = counted(original.raw_path(), ctx);
        let sent = counted.as_deref().unwrap_or(original.raw_path());
        let written = match rewrite_of(ctx) {
            Some(rewrite) => rewrite.apply(&Target::new("", sent), &ctx.params),
            None => Ok(None),
        };
        let written = written.map_err(|_| Error::new_down(ErrorType::InvalidHTTPHeader))?;
        if let Some(target) = written.or(counted) {
            request.set_raw_path(&target)?;
        }
    }
    let chain = context::chain(&ctx.gateway, ctx.route);
    strip_target(request, ctx)?;
    let lines = ready_lines(original, connection, ctx);
    let mut open = open(request, connection, ctx, lines.is_some());
    if chain.has(Phase::Upstream) {
        let mut ex = Exchange::new(original, &mut ctx.facts);
        chain.on_upstream(&mut ex, open.headers()).await;
    }
    open.close(request);
    ctx.facts.lines = lines.map_or(ReadyLines::NotTaken, ReadyLines::Given);
    if ctx.early.has_continued {
        request.remove_header(&header::EXPECT);
    }
    if original.version == http::Version::HTTP_10 {
        name_host(request, ctx)?;
    }
    if let Some(host) = host_header::own(original, &request.headers, ctx) {
        request.insert_header(header::HOST, host)?;
    }
    upstream_request::write(original, request, ctx)
}

/// Returns the credentials that no backend gets, of the routes that led the request to its own, or
/// guard it.
fn stripped(ctx: &Context) -> impl Iterator<Item = &CredentialPlace> {
    let last = context::chain(&ctx.gateway, ctx.route);
    let earlier = { ctx.earlier_routes.iter() }.filter_map(|index| ctx.gateway.route(*index));
    earlier.flat_map(move |route| route.chain.stripped(Some(last)))
}

/// Removes credentials from the target of a request for a backend.
pub(super) fn strip_target(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let of_route = context::chain(&ctx.gateway, ctx.route).stripped(None);
    let names = of_route
        .chain(stripped(ctx))
        .filter_map(|place| match place {
            CredentialPlace::Query(name) => Some(name),
            _ => None,
        });
    let names: Vec<&Box<str>> = names.collect();
    if !names.is_empty()
        && let Some(target) = query::without(request.raw_path(), &names)
    {
        request.set_raw_path(&target)?;
    }
    Ok(())
}

/// Removes credentials of the routes before that of the request from its headers.
pub(super) fn strip_headers(headers: &mut HeaderMap, ctx: &Context) {
    for place in stripped(ctx) {
        place.strip(headers);
    }
}

/// Returns `target` without the parameters that are not in the key, or `None` if it stays as it is.
fn counted(target: &[u8], ctx: &Context) -> Option<Vec<u8>> {
    let flow = ctx.cache.as_ref()?;
    // Next.js checks its hash of headers that are in the key, and redirects to the right one.
    let retained = flow.shape.as_ref().map(|_| &b"_rsc"[..]);
    let cache = context::cache(&ctx.gateway, ctx.route)?;
    let length = match &ctx.facts.rerouted {
        Some(rerouted) => rerouted.own_query.unwrap_or(0),
        None => query::query_of(target)?.len(),
    };
    cache.policy.key.target_of(target, length, retained)
}

/// Returns the forwarding headers as lines, where nothing between here and the backend reads or
/// changes them.
fn ready_lines(
    original: &RequestHeader,
    connection: &Connection,
    ctx: &Context,
) -> Option<Arc<[u8]>> {
    let is_direct = !is_h2(ctx) && context::chain(&ctx.gateway, ctx.route).leaves_forwarding;
    is_direct
        .then(|| forwarded::ready_lines(original, &forwarding(ctx, connection)))
        .flatten()
}

/// Opens `request`, a copy of the client's request headers, as a backend gets it before filters
/// change it: but for the forwarding headers, if it `has_lines` of them.
fn open(
    request: &mut RequestHeader,
    connection: &Connection,
    ctx: &Context,
    has_lines: bool,
) -> OpenRequestHeaders {
    let forwarding = Forwarding {
        app: ctx.upstream.as_ref().map_or(App::None, |u| u.app),
        is_websocket: ctx.is_websocket,
        takes_trailers: is_h2(ctx),
        is_written: has_lines || ctx.facts.client.is_reported,
        ..forwarding(ctx, connection)
    };
    let mut open = forwarded::open_upstream(request, &forwarding);
    strip_headers(open.headers(), ctx);
    if let Some(trace) = &ctx.facts.trace {
        trace::pass_on(open.headers(), trace);
    }
    open
}

/// Returns the forwarding information about the request's client.
pub(super) fn forwarding<'c>(ctx: &'c Context, connection: &'c Connection) -> Forwarding<'c> {
    Forwarding {
        client: &ctx.facts.client,
        trusted: &ctx.gateway.trusted,
        text: &connection.text,
        shown: connection.shown(),
        app: App::None,
        is_websocket: false,
        takes_trailers: false,
        is_written: ctx.facts.client.is_reported,
    }
}

/// Returns the route's own rewrite.
fn rewrite_of(ctx: &Context) -> Option<&Rewrite> {
    let forward = context::route(&ctx.gateway, ctx.route)?.action.forward()?;
    forward.rewrite.as_ref()
}

/// Returns the target that the route rewrites the client's to, if it does.
pub(super) fn rewritten(request: &RequestHeader, ctx: &Context) -> Option<Vec<u8>> {
    let target = Target::new("", request.raw_path());
    rewrite_of(ctx)?.apply(&target, &ctx.params).ok()?
}

/// Returns the target that the app gets for the client's, before filters change it.
pub(super) fn target<'a>(request: &'a RequestHeader, ctx: &'a Context) -> Cow<'a, [u8]> {
    if let Some(rewritten) = &ctx.facts.rewritten {
        return Cow::Borrowed(rewritten);
    }
    rewritten(request, ctx).map_or(Cow::Borrowed(request.raw_path()), Cow::Owned)
}

/// Returns the headers that a backend would get for the client's `request`, or `None` if they are
/// not known before the request is forwarded.
///
/// The same code that forwards requests builds them, so that no separate list can differ from it.
#[cold]
pub(super) fn sent_headers(request: &RequestHeader, ctx: &mut Context) -> Option<HeaderMap> {
    let mut sent = request.clone();
    let connection = ctx.connection.as_ref()?;
    let mut open = open(&mut sent, connection, ctx, false);
    let (chain, mut ex) = ctx.exchange(request);
    let is_known = chain.foresee_upstream(&mut ex, open.headers());
    let mut headers = std::mem::take(open.headers());
    open.close(&mut sent);
    if let Some(host) = host_header::own(request, &headers, ctx) {
        headers.insert(header::HOST, host);
    }
    is_known.then_some(headers)
}

/// Adds `Host` to an HTTP/1.0 request that omits it. The backend gets the request in HTTP/1.1,
/// which requires it. The value is the backend's own name (as in nginx).
fn name_host(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    if request.headers.contains_key(header::HOST) {
        return Ok(());
    }
    let backend = ctx.facts.upstream.backend.as_deref().unwrap_or_default();
    match HostHeader::Backend.value_without(None, Some(backend)) {
        Some(host) => request.insert_header(header::HOST, host),
        None => Ok(()),
    }
}

/// Longest header section that Node accepts, with a margin for its own count
/// (`--max-http-header-size`, 16 KiB). A longer one gets a bare 431 and a closed socket.
const NODE_HEAD: usize = 16_000;

/// Returns an error with its reply if `request` must not be sent to a backend: a filter refused it,
/// or its headers are longer than the app accepts.
pub(super) fn check_forwarded(request: &RequestHeader, ctx: &mut Context) -> Result<()> {
    let app = ctx.upstream.as_ref().map_or(App::None, |u| u.app);
    ctx.reply = match ctx.facts.refused.take() {
        Some(refusal) => {
            ctx.refused_by = Some(RefusedBy::Own);
            Some(refusal)
        }
        None if is_too_long(request, &ctx.facts.lines, app) => {
            Some(Box::new(Failure::LongHead.reply()))
        }
        None => return Ok(()),
    };
    // No part of the request was sent, and no other backend may get it.
    Err(Error::new_down(ErrorType::Custom("refused")))
}

/// Returns true if the headers to forward are longer than the app accepts.
fn is_too_long(request: &RequestHeader, lines: &ReadyLines, app: App) -> bool {
    if app == App::None {
        return false;
    }
    let fields: usize = request
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    fields + lines.bytes().len() + request.raw_path().len() > NODE_HEAD
}
