//! Start of a request: identifies its client, target and route, and runs it through its filters.

mod challenge;
mod decide;
mod others;
mod releases;
pub(crate) mod reroute;

use std::{borrow::Cow, sync::Arc};

use edgeway_base::http::{has, values};
use edgeway_core::chain::{
    Certificate, Client, Exchange, HookOutcome, HookProgress, Phase, Protocol, Reply,
    TlsParameters, Verdict,
    host::{normalise_host, public_host, requested_host},
};
use edgeway_gateway::{Gateway, Listener, Route};
use edgeway_routes::{self as routes, Action, Params, Target};
use http::{HeaderValue, StatusCode, header};
use pingora::http::RequestHeader;

pub(crate) use self::decide::{begin, decide};
use self::others::{guarded, pass_others, pass_rewritten};
use crate::{
    connection::{
        ClientCertificateStatus, Connection,
        header_texts::{ConnectionText, HostText},
        refusal::Refusal,
    },
    context::{self, AdditionalGuards, Context, RefusedBy},
    error::{Failure, METHODS},
    forward::forwarding,
    forwarded, guard, http2,
    live::split::TrialSplit,
    session::Client as SessionClient,
    to_https, trace, websocket,
};

/// Result of running a request through its filters.
pub(crate) enum FilterOutcome {
    /// A filter, or the route's action, returned a reply.
    Reply(Box<Reply>),
    /// The next filter needs this many bytes of the body.
    Body(usize),
    Passed,
}

/// Returns the gateway's own reply to a request on `connection`, before any filter runs, or `None`
/// if the request may go on.
pub(crate) async fn own_reply(
    request: &mut RequestHeader,
    connection: Option<Arc<Connection>>,
    ctx: &mut Context,
) -> Option<Box<Reply>> {
    if let Some(split) = ctx.live().trials.split()
        && let Some(connection) = &connection
    {
        choose_configuration(split, request, connection, ctx);
    }
    if challenge::is_asked(request, ctx) {
        // Boxed, because otherwise every request's future would be as large.
        let reply = Box::pin(challenge::respond(request, connection.as_deref(), ctx)).await;
        if reply.is_some() {
            return reply;
        }
    }
    let outcome = set_up(request, connection, ctx);
    trace::routed(&mut ctx.facts);
    match outcome {
        Ok(()) => None,
        Err(reply) => {
            // The request filters never see this request, but the log must show it.
            ctx.facts.request_id = ctx.facts.new_request_id();
            Some(reply)
        }
    }
}

/// Chooses one of two configurations, while one is on trial.
#[cold]
fn choose_configuration(
    split: Arc<TrialSplit>,
    request: &RequestHeader,
    connection: &Connection,
    ctx: &mut Context,
) {
    let place = (connection, &*connection.listener.config());
    let client = |gateway: &Gateway| client_of(request, place, gateway).ip;
    let (gateway, counted) = split.place(client, &request.headers);
    ctx.gateway = gateway;
    ctx.split = Some(Box::new(counted));
}

/// Returns the reply to a request that the edge refuses, since it can be read in two ways or is none.
/// No filter of a route sees it.
#[cold]
pub(crate) fn refuse(client: &SessionClient, refusal: &Refusal, ctx: &mut Context) -> Box<Reply> {
    if let Some(connection) = &client.connection {
        let place = (&**connection, &*connection.listener.config());
        ctx.facts.client = client_of(&client.request, place, &ctx.gateway);
        ctx.connection = Some(Arc::clone(connection));
    }
    trace::begin(&ctx.gateway, &client.request, &mut ctx.facts);
    ctx.facts.request_id = ctx.facts.new_request_id();
    let mut reply = Reply::refuse(refusal.status, refusal.reason).detail(refusal.detail);
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110, 15.5.6: what apps take that the gateway does not refuse for all of them.
        reply = reply.header(header::ALLOW, HeaderValue::from_static(METHODS));
    }
    Box::new(reply.closing())
}

/// Sets the client, target, route and class that later hooks use. Returns the reply to a request
/// that goes no further.
fn set_up(
    request: &mut RequestHeader,
    connection: Option<Arc<Connection>>,
    ctx: &mut Context,
) -> Result<(), Box<Reply>> {
    let connection = connection.ok_or(Failure::Internal)?;
    let is_http2 = request.version == http::Version::HTTP_2;
    let listener = connection.listener.config();
    identify(request, (&connection, &listener), ctx);
    let is_trusted = ctx.facts.client.is_trusted;
    forwarded::strip(request, &ctx.gateway.reserved, is_trusted).map_err(|_| Failure::BadHeader)?;
    if request.version == http::Version::HTTP_10 {
        // RFC 9110, 10.1.1; the backend gets a later version.
        request.remove_header(&header::EXPECT);
    }
    let watch = ctx.watch.insert(connection.request_watch(is_http2));
    if request.method != http::Method::GET {
        // On HTTP/2 the connection has other bodies too.
        let pace = if is_http2 {
            &watch.body
        } else {
            &connection.pace
        };
        if has(&request.headers, &header::EXPECT) {
            pace.hold();
        }
        if !has(&request.headers, &header::CONTENT_LENGTH) {
            pace.open();
        }
    }
    let connection = ctx.connection.insert(connection);
    ctx.guarded = guard::enter(&ctx.gateway, &ctx.facts.client)?;
    if is_http2 {
        http2::settle(request, &listener, &connection.text)?;
    }

    let has_spellings = normalise_target(request, ctx)?;
    let text = ctx.connection.as_ref().map(|connection| &connection.text);
    let mut known = known_host(request, &ctx.facts.client, text);
    if known.is_none() {
        normalise_host(request, &ctx.facts.client);
        known = known_host(request, &ctx.facts.client, text);
    }
    if ctx.gateway.reserved.is_read {
        write_forwarding(request, ctx);
        ctx.facts.client.is_reported = true;
    }
    let host = match known {
        Some(known) => Cow::Borrowed(&*known.name),
        None => host_name(request, &ctx.facts.client, text)?,
    };
    let connection = ctx.connection.as_ref();
    if connection.is_some_and(|connection| connection.is_misdirected(&listener, &host)) {
        return Err(Failure::WrongName.into());
    }
    let target = Target {
        listener: &ctx.facts.client.listener,
        ..Target::new(&host, request.raw_path())
    };
    if ctx.guarded.is_suspicious
        && let Some(reply) = guard::challenge(ctx, request, &target)
    {
        return Err(reply);
    }
    ctx.facts.class = routes::classify(target.path, request);
    let lookup = (&target, &*request, has_spellings);
    let matched = find(&ctx.gateway, lookup, &mut ctx.params);
    if matched.is_none() && !ctx.gateway.table.serves_host(&host) {
        return Err(Failure::UnknownHost.into());
    }
    let redirect = { listener.redirect.as_ref() }
        .and_then(|to| to_https::reply(to, request, target.path, &ctx.facts.client));
    let is_found = matched.is_some();
    if let Some((index, also)) = matched {
        ctx.also = also;
        enter(index, request, ctx);
    }
    match redirect {
        Some(reply) => Err(reply),
        None if !is_found && request.raw_path() == b"*" => Err(to_https::options()),
        None if !is_found => Err(Failure::NoRoute.into()),
        None if context::route(&ctx.gateway, ctx.route).is_some_and(Route::leads_on) => {
            reroute::follow_rules(request, ctx)
        }
        None => Ok(()),
    }
}

/// Brings the target of a request into its normal form. Returns true if it may be spelled in other
/// ways.
fn normalise_target(request: &mut RequestHeader, ctx: &Context) -> Result<bool, Failure> {
    let normal =
        routes::normalise(request.raw_path(), ctx.gateway.slashes).map_err(|_| Failure::BadPath)?;
    let has_spellings = normal.has_spellings;
    let authority = normal.authority.map(<[u8]>::to_vec);
    if let Some(target) = normal.rewritten() {
        let set = request.set_raw_path(&target);
        set.map_err(|_| Failure::BadPath)?;
        if let Some(authority) = authority {
            // RFC 9112, 3.2.2: the authority of the target takes precedence, and replaces `Host`.
            let value = HeaderValue::from_bytes(&authority).map_err(|_| Failure::BadRequest)?;
            let inserted = request.insert_header(header::HOST, value);
            inserted.map_err(|_| Failure::BadRequest)?;
        }
    }
    Ok(has_spellings)
}

/// Assigns a request to the route at `index`, with the headers that the route reads.
fn enter(index: usize, request: &mut RequestHeader, ctx: &mut Context) {
    if ctx.gateway.reserved.passes_overrides()
        && let Some(route) = ctx.gateway.route(index)
    {
        forwarded::keep_passing(request, &route.pass_headers);
    }
    if !ctx.facts.client.is_reported && reads_written(ctx, index) {
        write_forwarding(request, ctx);
        ctx.facts.client.is_reported = true;
    }
    ctx.enter(index, request);
}

/// Finds the route of a request whose target is a new one, and assigns the request to it.
pub(crate) fn locate(request: &mut RequestHeader, ctx: &mut Context) -> Result<(), Box<Reply>> {
    let text = ctx.connection.as_ref().map(|connection| &connection.text);
    let host = host_name(request, &ctx.facts.client, text)?;
    let target = Target {
        listener: &ctx.facts.client.listener,
        ..Target::new(&host, request.raw_path())
    };
    ctx.facts.class = routes::classify(target.path, request);
    let matched = find(&ctx.gateway, (&target, request, true), &mut ctx.params);
    let (route, also) = matched.ok_or(Failure::NoRoute)?;
    ctx.also = also;
    enter(route, request, ctx);
    Ok(())
}

/// Finds the route of a request by its target, and the guards of other routes.
fn find(
    gateway: &Gateway,
    lookup: (&Target<'_>, &RequestHeader, bool),
    params: &mut Params,
) -> Option<(usize, Option<Box<AdditionalGuards>>)> {
    let (target, head, has_spellings) = lookup;
    let mut literal = gateway.table.find(target, head, params)?;
    let has_guards =
        !literal.also.is_empty() || gateway.lacks_guards(literal.route, head, has_spellings);
    let also = has_guards.then(|| guarded(gateway, &mut literal, lookup, params));
    Some((literal.route, also.flatten()))
}

/// Sets the client of the request, and begins its trace. Reads what is removed afterwards.
fn identify(
    request: &RequestHeader,
    (connection, listener): (&Connection, &Arc<Listener>),
    ctx: &mut Context,
) {
    if !ctx.gateway.app_releases.is_empty() {
        releases::note_warm_up(request, ctx);
    }
    ctx.facts.client = client_of(request, (connection, listener), &ctx.gateway);
    if ctx.warm_up.is_some() {
        // It repeats requests that trusted proxies forwarded, as one of them.
        let scheme = connection.scheme();
        ctx.facts.client.scheme = forwarded::forwarded_scheme(request).unwrap_or(scheme);
        ctx.facts.client.is_trusted = true;
    }
    trace::begin(&ctx.gateway, request, &mut ctx.facts);
}

/// Returns true if filters on the request's way read headers that the gateway writes.
fn reads_written(ctx: &Context, route: usize) -> bool {
    let reads = |index| {
        ctx.gateway
            .route(index)
            .is_some_and(|route| route.reads_written)
    };
    let also = ctx.also.as_deref();
    reads(route) || also.is_some_and(|also| also.routes.iter().any(|(index, _)| reads(*index)))
}

/// Returns the values of a `Host` in its normal form, if the connection or its thread remembers them.
fn known_host<'a>(
    request: &RequestHeader,
    client: &Client,
    text: Option<&'a ConnectionText>,
) -> Option<&'a HostText> {
    let (text, sent) = text.zip(values(&request.headers, &header::HOST).next())?;
    // These values are shared with other clients, so only what `Host` itself says counts.
    let recall = || text.recall_host(sent, client.scheme);
    text.host(sent.as_bytes())
        .or_else(|| (!client.is_trusted).then(recall)?)
}

/// Returns the name of the requested host, as routes match it.
fn host_name<'a>(
    request: &'a RequestHeader,
    client: &Client,
    text: Option<&ConnectionText>,
) -> Result<Cow<'a, str>, Failure> {
    let named = requested_host(request);
    let host = routes::host_of(named).map_err(|_| Failure::BadHost)?;
    let raw = values(&request.headers, &header::HOST).next();
    let raw = raw.filter(|raw| !client.is_trusted && named == raw.as_bytes());
    if let Some((text, raw)) = text.zip(raw) {
        text.remember_host(|| forwarded::host_text(raw, client.scheme, &host));
    }
    Ok(host)
}

/// Writes the forwarding headers into the request, because not only backends read them there.
#[cold]
fn write_forwarding(request: &mut RequestHeader, ctx: &Context) {
    let Some(connection) = &ctx.connection else {
        return;
    };
    let who = forwarding(ctx, connection);
    forwarded::write(request, &who);
}

/// Runs the request filters, starting at `round`, and then the route's action.
pub(crate) async fn filter(
    request: &RequestHeader,
    ctx: &mut Context,
    round: &mut HookProgress,
) -> FilterOutcome {
    if ctx.also.is_some() {
        // Boxed, because otherwise every request's future would be as large.
        if let Some(filtered) = Box::pin(pass_others(request, ctx)).await {
            return filtered;
        }
    }
    let (chain, mut ex) = ctx.exchange(request);
    match chain.on_request(&mut ex, round).await {
        HookOutcome::Over(Verdict::Next) => {
            if ctx.facts.rewritten.is_some()
                // Boxed, because otherwise every request's future would be as large.
                && let Some(filtered) = Box::pin(pass_rewritten(request, ctx)).await
            {
                return filtered;
            }
            match act(request, ctx) {
                Some(reply) => FilterOutcome::Reply(reply),
                None => FilterOutcome::Passed,
            }
        }
        HookOutcome::Over(Verdict::Reply(reply)) => {
            ctx.refused_by = Some(RefusedBy::Own);
            FilterOutcome::Reply(reply)
        }
        HookOutcome::Body(most) => FilterOutcome::Body(most),
    }
}

/// Applies the route's action. Returns a reply if the action is one.
fn act(request: &RequestHeader, ctx: &mut Context) -> Option<Box<Reply>> {
    let is_upgrade = websocket::is_asked_for(request);
    let chain = context::chain(&ctx.gateway, ctx.route);
    let ex = Exchange::new(request, &mut ctx.facts);
    let route = context::route(&ctx.gateway, ctx.route)?;
    let action = &route.action;
    let forward = match action {
        Action::Forward(forward) => forward,
        Action::Redirect(redirect) => {
            // Without the port: the new address may have another one.
            let host = routes::host_of(public_host(request, &ex.facts.client).as_bytes());
            let host = host.unwrap_or_default();
            let target = Target::new(&host, request.raw_path());
            return Some(Box::new(redirect.reply(&target, &ctx.params)));
        }
        Action::Respond(respond) => return Some(Box::new(respond.reply(request))),
        Action::Files(_) => return None,
    };
    if is_upgrade && !forward.ignores_upgrades {
        if forward.websocket.is_none() {
            // Once for each route and configuration: clients may ask as often as they like.
            route.websocket_hint.call_once(|| {
                log::warn!(
                    route = &*route.name;
                    "WebSocket refused: the route lacks `websocket: true`"
                );
            });
            return Some(Box::new(Failure::WebsocketOff.reply()));
        }
        if let Err(failure) = websocket::check_request(request) {
            return Some(Box::new(failure.reply()));
        }
        ctx.is_websocket = true;
    }
    if chain.has(Phase::Route)
        && let Some(name) = chain.on_route(&ex)
    {
        match ctx.gateway.upstreams.get(&name) {
            Some(chosen) => ctx.upstream = Some(Arc::clone(chosen)),
            None => log::warn!(upstream = &*name; "a filter chose an upstream that does not exist"),
        }
    }
    if ctx.is_websocket && ctx.upstream.as_ref().is_some_and(|u| u.is_h2()) {
        // Another filter chose the upstream. The one in the configuration was checked at load time.
        return Some(Box::new(Failure::Upgrade.reply()));
    }
    if let (Some(timeouts), Some(upstream)) = (&forward.timeouts, &ctx.upstream) {
        ctx.timeouts = Some(Box::new(upstream.timeouts.with(timeouts)));
    }
    None
}

/// Returns the client of a request with these headers on this connection, whose listener has this
/// configuration now.
pub(crate) fn client_of(
    request: &RequestHeader,
    (connection, current): (&Connection, &Arc<Listener>),
    gateway: &Gateway,
) -> Client {
    // The snapshot may have another name for the listener, or have it no more.
    let listener = gateway.listeners.iter().find(|it| it.is_same(current));
    let who = forwarded::resolve_client(
        request,
        connection.peer,
        connection.scheme(),
        &gateway.trusted,
    );
    Client {
        is_reported: false,
        ip: who.ip,
        peer: connection.peer,
        port: connection.peer_port,
        is_trusted: who.is_trusted,
        scheme: who.scheme,
        protocol: match request.version {
            http::Version::HTTP_10 | http::Version::HTTP_09 => Protocol::Http10,
            http::Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http11,
        },
        listener: Arc::clone(&listener.unwrap_or(current).name),
        listener_port: connection.listener.port,
        certificate: match connection.tls.as_ref().map(|_| connection.shown()) {
            None | Some(ClientCertificateStatus::NotAsked) => Certificate::NotAsked,
            Some(ClientCertificateStatus::Nothing) => Certificate::Absent,
            Some(ClientCertificateStatus::Verified(shown)) => {
                Certificate::Verified(Arc::clone(shown))
            }
        },
        tls: connection.tls.as_ref().map(|tls| TlsParameters {
            version: tls.version,
            cipher: tls.cipher,
            alpn: tls.alpn,
            server_name: tls.name.clone(),
        }),
    }
}
