//! Exchange of a request with a backend: attempts and retries, interim responses, the response and
//! its body, a tunnel, and what the cache stores of it. It calls the hooks for each attempt in
//! Pingora's order, and moves bytes between the session and a [`wire`].

mod background;
mod fill;
mod pass;
mod replies;
mod tunnel;
mod upload;

use std::{
    future::poll_fn,
    mem,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use edgeway_core::chain::RouteRequest;
use edgeway_core::open_headers::roomy_copy;
use http::{Method, StatusCode, Version};
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use tokio::time::timeout;

pub(super) use self::background::{follow_up, revalidate};
use self::{background::in_time, fill::CachedExchange, upload::Upload};
use super::{
    accel, body,
    cache::{self, Content, OriginUse},
    context::{Context, Flow},
    error,
    retry::Replay,
    upstream, upstream_request,
};
use crate::{
    session::{Client, client},
    wire::{ValueMemory, Wire},
};

/// Bound on attempts. The hooks decide about retries.
const MAX_ATTEMPTS: usize = 16;
/// Time after which a client that waits for `100 Continue` gets it from the gateway: some apps never
/// send it (RFC 9110, 10.1.1). curl waits for as long.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Names that the gateway adds to a usual request.
const MORE_FIELDS: usize = 12;

/// Exchange of one request.
struct Exchange<'a, H> {
    upload: Upload<'a, H>,
    /// Exchange with the cache, which the response may fill.
    cached: Option<Box<CachedExchange>>,
    /// True if the backend gets no body, since the page of an error is asked for.
    drops_body: bool,
}

/// Sends the request of a session to a backend, and the response to its client, or a reply in place
/// of it.
///
/// # Errors
/// When there is no response: `fail_to_proxy` sends another one.
pub(super) async fn run<H>(hooks: &H, session: &mut Session, ctx: &mut Box<Context>) -> Result<()>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    let flow = ctx.flow.take();
    let mut exchange = Exchange::new(hooks, session);
    if ctx.is_background() {
        return Box::pin(exchange.fetch(ctx)).await;
    }
    if exchange.client().body.is_there() && ctx.facts.is_page() {
        // No filter has let the body of a refused request pass.
        exchange.drop_body().await;
    }
    let mut outcome = exchange.serve(flow, ctx).await;
    if outcome.is_ok()
        && let Some(to) = ctx.reroute.take()
    {
        // Boxed, because otherwise every request's future would be as large.
        outcome = Box::pin(exchange.follow(ctx, *to)).await;
    }
    if outcome.is_ok()
        && exchange.client().status.is_none()
        && let Some(reply) = ctx.reply.take()
    {
        outcome = Box::pin(exchange.replace(ctx, *reply)).await;
    }
    outcome?;
    exchange.client().has_response = true;
    Ok(())
}

/// Sends the page of an error that another route has, in place of a response that failed. The reply
/// that is planned then is left in the context.
pub(super) async fn lead<H>(
    hooks: &H,
    session: &mut Session,
    ctx: &mut Box<Context>,
    to: RouteRequest,
) -> Result<()>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    Exchange::new(hooks, session).follow(ctx, to).await
}

impl<'a, H> Exchange<'a, H> {
    fn new(hooks: &'a H, session: &'a mut Session) -> Self {
        Self {
            upload: Upload { hooks, session },
            cached: None,
            drops_body: false,
        }
    }
}

impl<H> Exchange<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    fn client(&mut self) -> &mut Client {
        client(self.upload.session)
    }

    /// Sends the response of the cache or of a backend to the client, or the file that a backend
    /// names.
    async fn serve(&mut self, flow: Option<Box<Flow>>, ctx: &mut Box<Context>) -> Result<()> {
        let served = match flow {
            // Boxed, because otherwise every request's future would be as large.
            Some(flow) => Box::pin(self.ask_cache(flow, ctx)).await,
            None => Ok(false),
        };
        let mut outcome = match served {
            Ok(true) => Ok(()),
            Ok(false) => self.ask_origin(ctx).await,
            Err(error) => Err(error),
        };
        if self.cached.is_some() {
            outcome = Box::pin(self.finish_cached(ctx, outcome)).await;
        }
        if outcome.is_ok()
            && let Some(accel) = ctx.accel.take()
        {
            // Boxed, because otherwise every request's future would be as large.
            let sent = Box::pin(accel::send(self.client(), ctx, *accel)).await;
            outcome = sent.map_err(error::of_client);
        }
        outcome
    }

    fn replay(&mut self) -> Replay<'_> {
        Replay::new(self.client())
    }

    /// Sends the request to a backend, or to another one after a failure that allows it.
    async fn ask_origin(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        if self.client().body.is_there() && upstream_request::replaces_body(ctx) {
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(self.take_in_body(ctx)).await?;
        }
        let mut outcome = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            outcome = self.attempt(ctx).await;
            let goes_on = match &outcome {
                Ok(()) => self.is_to_be_repeated(ctx),
                Err(error) => error.retry(),
            };
            if !goes_on {
                break;
            }
        }
        outcome
    }

    /// Reads the client's body, of which no backend gets anything.
    async fn take_in_body(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        super::body::release(self.client(), ctx).await?;
        self.upload.take_in(ctx).await
    }

    /// Sends the request to one backend, and its response to the client.
    async fn attempt(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        let upstream = upstream::lease(self.client(), ctx).await?;
        let Some(lease) = &ctx.lease else {
            return Err(Error::new_in(ErrorType::Custom("no lease")));
        };
        let time = upstream::connect_timeout(ctx, &upstream);
        let connected = Wire::connect(&upstream, lease, ctx.stale_attempts > 0, time).await;
        let mut wire = match connected {
            Ok(wire) => wire,
            Err(error) => return Err(upstream::not_connected(self.replay(), ctx, error)),
        };
        let is_reused = wire.is_reused();
        upstream::connected(&mut wire, &self.client().request, ctx);
        match self.exchange(ctx, &mut wire).await {
            Ok(()) => {
                if let Some(lease) = &ctx.lease {
                    wire.finish(&upstream, lease, ctx.live().world.clock.now());
                }
                let sent = self.client().release().await;
                sent.map_err(error::of_client)
            }
            Err(error) if *error.etype() == ErrorType::H2Error && !wire.is_begun() => {
                Err(upstream::not_connected(self.replay(), ctx, error))
            }
            Err(error) => {
                if self.client().waits_for_continue()
                    && let Some(watch) = &ctx.watch
                {
                    // It must not wait without end (RFC 9110, 10.1.1), and the backend may wait for it.
                    watch.awaited_body();
                }
                if upstream::is_late(ctx) {
                    // The connection may be dead, and other requests would wait on it too.
                    wire.retire();
                }
                // The connection is open until the deadlines have let go of it.
                Err(upstream::failed(self.replay(), ctx, error, is_reused))
            }
        }
    }

    /// Sends the request over `wire`, and its response to the client.
    async fn exchange(&mut self, ctx: &mut Box<Context>, wire: &mut Wire) -> Result<()> {
        self.forward(ctx, wire).await?;
        let mut response = self.response(ctx, wire).await?;
        let is_storing = self.is_storing();
        let client = client(self.upload.session);
        // The origin has seen neither the client's conditions nor its ranges, nor that it sent HEAD.
        let get = Method::GET;
        let method = if is_storing {
            &get
        } else {
            &client.request.method
        };
        let has_body = wire.begin_body(method, &mut response)?;
        if client.request.method == Method::HEAD && upstream_request::has_method(ctx) {
            // The backend sends a body that its client did not ask for.
            wire.close();
        }
        if self.is_replaced(&response, ctx)? {
            wire.close();
            return upstream::received_body(true, ctx);
        }
        let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
        let filtered = hooks.upstream_response_filter(session, &mut response, ctx);
        if let Err(error) = filtered.await {
            if *error.etype() == upstream::REPLACED {
                return self.replaced(ctx);
            }
            return Err(error);
        }
        cache::on_origin_response(is_storing, &response, ctx);
        cache::written(&self.client().request, &response, ctx).await;
        cache::mark_changed(&self.client().request, &mut response, ctx);
        match self.use_response(&response, ctx)? {
            OriginUse::Pass => {}
            OriginUse::PassAs(headers) => response = headers,
            OriginUse::Store(fill, headers) => {
                // Boxed, because otherwise every request's future would be as large.
                return Box::pin(self.fill(ctx, wire, (fill, headers), has_body)).await;
            }
            OriginUse::Send(stored) => {
                upstream::received_body(true, ctx)?;
                if let Some(cached) = &mut self.cached {
                    cached.send = Some(stored);
                }
                return Ok(());
            }
            OriginUse::Repeat => {
                if let Some(cached) = &mut self.cached {
                    cached.is_repeated = true;
                }
                return upstream::received_body(true, ctx);
            }
        }
        if ctx.is_background() {
            return upstream::received_body(true, ctx);
        }
        let content = if is_storing {
            cache::present(&self.client().request, &mut response, false, ctx)?
        } else {
            Content::Whole
        };
        self.send(ctx, wire, response, (has_body, content)).await
    }

    /// Ends a response of the backend in whose place another one is sent.
    fn replaced(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        if let Some(cached) = &mut self.cached {
            // Those that wait for the response get a file each.
            cached.fetch.give_up();
        }
        // The deadlines let go of the connection before it is closed or kept.
        upstream::received_body(true, ctx)
    }

    /// Begins the request, after the filters have changed and accepted its headers.
    async fn forward(&mut self, ctx: &mut Box<Context>, wire: &mut Wire) -> Result<()> {
        let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
        let mut request = roomy_copy(&client(session).request, MORE_FIELDS);
        request.set_version(Version::HTTP_11);
        if let Some(cached) = self
            .cached
            .as_ref()
            .filter(|cached| cached.fetch.is_storing)
        {
            cache::condition(&mut request, cached.fetch.validated());
        }
        let filtered = hooks.upstream_request_filter(session, &mut request, ctx);
        let filtered = filtered.await;
        let lines = mem::take(&mut ctx.facts.lines);
        filtered?;
        if let Some(cached) = { self.cached.as_ref() }.filter(|cached| cached.fetch.is_storing) {
            // A filter may have made other conditions.
            cache::condition(&mut request, cached.fetch.validated());
        }
        let client = client(self.upload.session);
        if let Some(body) = &ctx.early.replacement {
            client.body.replace(body);
        }
        if self.drops_body {
            replies::remove_body(&mut request);
        }
        client.body.rewind();
        let has_body = client.body.is_there();
        if let Some(lease) = ctx.lease.as_ref().filter(|_| !has_body) {
            lease.asked(false);
        }
        wire.start(request, lines.bytes(), has_body)
    }

    /// Reads the response, and forwards interim ones before it.
    async fn response(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
    ) -> Result<ResponseHeader> {
        // Over HTTP/2, values stay in the table of the client's connection (RFC 7541, 2.3.2).
        let memory = if self.cached.is_some() || self.client().is_http2() {
            ValueMemory::Own
        } else {
            ValueMemory::Input
        };
        let mut interim = 0;
        loop {
            let is_held = self.client().waits_for_continue() && !ctx.early.has_continued;
            let read = self.read(ctx, wire, |wire, cx| wire.poll_response(cx, memory));
            let mut response = if is_held {
                // Boxed, because otherwise every request's future would be as large.
                let Ok(read) = Box::pin(timeout(CONTINUE_TIMEOUT, read)).await else {
                    body::release(self.client(), ctx).await?;
                    continue;
                };
                read?
            } else {
                read.await?
            };
            if !upstream::is_interim(&response) {
                return Ok(response);
            }
            interim += upstream::length(&response);
            upstream::bound_interim(interim)?;
            if response.status == StatusCode::CONTINUE && ctx.early.has_continued {
                continue;
            }
            let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
            hooks
                .upstream_response_filter(session, &mut response, ctx)
                .await?;
            let sent = self.client().interim(&response).await;
            sent.map_err(error::of_client)?;
        }
    }

    /// Reads from the backend with `poll`.
    ///
    /// While it waits, the client gets what is buffered for it, and the backend what the client
    /// sends. If the client leaves, nobody waits for the rest.
    async fn read<T>(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        mut poll: impl FnMut(&mut Wire, &mut TaskContext<'_>) -> Poll<Result<T>>,
    ) -> Result<T> {
        let mut is_flushed = false;
        let silence = upstream::silence(ctx, |limits| limits.first_byte);
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = poll(wire, cx) {
                return Poll::Ready(read);
            }
            if !is_flushed && let Poll::Ready(flushed) = self.client().poll_flush(cx) {
                if let Err(error) = flushed {
                    return Poll::Ready(Err(error::of_client(error)));
                }
                is_flushed = true;
            }
            ready!(self.upload.poll(cx, wire, ctx))?;
            let client = self.client();
            if !client.body.is_read() {
                // The backend refuses the rest of the body, and its response follows.
                return Poll::Pending;
            }
            client.poll_gone(cx).map(Err)
        });
        in_time(silence, read).await
    }
}
