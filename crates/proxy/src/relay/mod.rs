//! Relay: a request and its response between a client and an HTTP/1.1 backend, without Pingora's
//! proxy.
//!
//! The fast path decides on a request. If it goes to a backend that the relay can reach, the relay
//! takes it: from then on no other driver does. The hooks are those of [`super::Proxy`], called in
//! the same order; only who moves the bytes differs. The response is written as the fast path
//! writes it ([`super::direct`]).

mod body;
mod fill;
mod replies;
mod response;
#[cfg(test)]
mod tests;
mod tunnel;
mod upload;

use std::{
    future::poll_fn,
    io, mem,
    task::{Context as TaskContext, Poll, ready},
};

use edgeway_cache::budget::RenderPermit;
use edgeway_core::chain::{Phase, Protocol};
use edgeway_core::open_headers::{OpenResponseHeaders, roomy_copy};
use edgeway_upstreams::BackendConnection;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Error, ErrorType, OrErr as _, Result,
    http::{RequestHeader, ResponseHeader},
};

pub(super) use self::{
    body::{MessageBody, Piece},
    replies::whole_body,
    response::{Framing, ValueMemory, is_kept_alive, parse as parse_response},
    upload::write_section,
};
use self::{fill::CachedExchange, tunnel::Tunnel, upload::Upload};
use super::{
    accel,
    cache::{self, Flow, OriginUse},
    context::Context,
    direct::DirectClient,
    error_page, forward, request, request_end, respond,
    retry::Replay,
    streams, upstream, upstream_request,
};

/// Bound on attempts. The hooks decide about retries.
const MAX_ATTEMPTS: usize = 16;
/// Names that the gateway adds to a usual request.
const MORE_FIELDS: usize = 12;
/// Room for the header section of a response and a small body.
const SECTION_ROOM: usize = 8 * 1024;
/// Limit on bytes of a body that are read before a client with TLS has got them: it is sent no more
/// at a time, and each slow one holds such a buffer.
const TLS_ROOM: usize = 32 * 1024;
/// Same for a client with HTTP/2, the length of a frame. Two to three such buffers wait in `h2`.
const HTTP2_ROOM: usize = 16 * 1024;

/// Returns true if the relay can take a `request` that goes to a backend, and may fill the cache.
pub(super) fn takes(request: &RequestHeader, may_fill: bool, ctx: &Context) -> bool {
    let upstream = ctx.upstream.as_ref();
    upstream.is_some_and(|upstream| upstream.is_http1())
        && (!may_fill || cache::is_relayed(request))
}

/// Returns the room for the next read of a body at most.
fn most_room(ctx: &Context) -> usize {
    let client = &ctx.facts.client;
    if client.protocol == Protocol::Http2 {
        HTTP2_ROOM
    } else if client.tls.is_some() {
        TLS_ROOM
    } else {
        usize::MAX
    }
}

/// Request that is being relayed.
struct Relayed<'a, 'c> {
    client: &'a mut DirectClient<'c>,
    upload: Upload,
    /// Exchange with the cache, which the response may fill.
    cached: Option<Box<CachedExchange>>,
    /// True if the backend gets no body, since the page of an error is asked for.
    drops_body: bool,
}

/// Outcome for the client's connection.
#[derive(Default)]
pub(super) struct RelayOutcome {
    /// True if the client got a complete response, and nothing is left to read of its request.
    pub(super) is_complete: bool,
    /// Number of body bytes received from the client.
    pub(super) received: u64,
}

/// Relays the client's request, whose header section has been read. With a flow its response may
/// fill the cache.
pub(super) async fn run(
    client: &mut DirectClient<'_>,
    has_body: bool,
    flow: Option<Box<Flow>>,
    ctx: &mut Context,
) -> RelayOutcome {
    let mut relayed = Relayed {
        upload: Upload::new(&client.request.headers, has_body),
        client,
        cached: None,
        drops_body: false,
    };
    if has_body && ctx.facts.is_page() {
        // No filter has let the body of a refused request pass.
        relayed.drop_body().await;
    }
    let mut outcome = relayed.serve(flow, ctx).await;
    if outcome.is_ok()
        && let Some(to) = ctx.reroute.take()
    {
        // Boxed, because otherwise every request's future would be as large.
        outcome = Box::pin(relayed.follow(ctx, *to)).await;
    }
    if outcome.is_ok()
        && relayed.client.status.is_none()
        && let Some(reply) = ctx.reply.take()
    {
        outcome = relayed.replace(ctx, *reply).await;
    }
    let is_sent = match outcome {
        Ok(()) => true,
        Err(error) => relayed.failed(ctx, &error).await,
    };
    // The backend does not wait for the rest of a body that nobody reads.
    upstream::over(ctx);
    RelayOutcome {
        is_complete: is_sent && relayed.is_read_to_the_end().await,
        received: relayed.upload.received,
    }
}

impl Relayed<'_, '_> {
    /// Sends the response of the cache or of a backend to the client, or the file that a backend
    /// names.
    async fn serve(&mut self, flow: Option<Box<Flow>>, ctx: &mut Context) -> Result<()> {
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
            let sent = Box::pin(accel::send_direct(self.client, ctx, *accel)).await;
            outcome = sent.map_err(request_end::of_client);
        }
        outcome
    }

    fn replay(&self) -> Replay<'_> {
        Replay {
            request: self.client.request,
            has_body: self.upload.is_replayable(),
            is_response_begun: self.client.status.is_some(),
        }
    }

    /// Sends the request to a backend, or to another one after a failure that allows it.
    async fn ask_origin(&mut self, ctx: &mut Context) -> Result<()> {
        if self.upload.has_body() && upstream_request::replaces_body(ctx) {
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(self.take_in_body(ctx)).await?;
        }
        let mut outcome = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            outcome = self.attempt(ctx).await;
            if !outcome.as_ref().is_err_and(|error| error.retry()) {
                break;
            }
        }
        outcome
    }

    /// Reads the client's body, of which no backend gets anything.
    async fn take_in_body(&mut self, ctx: &mut Context) -> Result<()> {
        self.release_body(ctx).await?;
        self.upload.take_in(self.client, ctx).await
    }

    /// Lets a client go on that waits before it sends its body.
    async fn release_body(&mut self, ctx: &Context) -> Result<()> {
        let headers = &self.client.request.headers;
        if headers.contains_key(header::EXPECT) && ctx.facts.client.protocol == Protocol::Http11 {
            // RFC 9110, 10.1.1: the client waits for it, and no backend would say so.
            let interim = ResponseHeader::build_no_case(StatusCode::CONTINUE, Some(0))?;
            let sent = self.client.interim(&interim).await;
            sent.map_err(request_end::of_client)?;
            if let Some(connection) = &ctx.connection {
                connection.pace.release();
            }
        }
        Ok(())
    }

    /// Sends the request to one backend, and its response to the client.
    async fn attempt(&mut self, ctx: &mut Context) -> Result<()> {
        let upstream = upstream::lease(self.client.request, ctx).await?;
        let Some(lease) = &ctx.lease else {
            return Err(Error::new_in(ErrorType::Custom("no lease")));
        };
        let time = upstream::connect_timeout(ctx, &upstream);
        let connected = upstream.connect(lease, ctx.stale_attempts > 0, time).await;
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => return Err(upstream::not_connected(self.replay(), ctx, error)),
        };
        let is_reused = connection.is_reused();
        upstream::connected(is_reused, connection.fd(), connection.local(), ctx);
        match self.exchange(ctx, &mut connection).await {
            Ok(is_kept_alive) => {
                if is_kept_alive
                    && self.upload.is_sent()
                    && connection.input.is_empty()
                    && let Some(lease) = &ctx.lease
                {
                    upstream.put_back(lease, connection, ctx.live().world.clock.now());
                }
                Ok(())
            }
            // The connection is open until the deadlines have let go of it.
            Err(error) => Err(upstream::failed(self.replay(), ctx, error, is_reused)),
        }
    }

    /// Sends the request over `connection`, and its response to the client. Returns true if the
    /// backend keeps the connection.
    async fn exchange(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
    ) -> Result<bool> {
        self.forward(ctx).await?;
        let mut response = loop {
            let mut response = self.header_section(ctx, connection).await?;
            if !streams::is_interim(&response) {
                break response;
            }
            accel::strip(&mut response, ctx);
            upstream::interim(&mut response, ctx);
            let sent = self.client.interim(&response).await;
            sent.map_err(request_end::of_client)?;
        };
        let is_kept_alive = is_kept_alive(&response);
        let request = self.client.request;
        let framing = Framing::of(request, &mut response)?;
        // The backend sends a body that its client did not ask for.
        let is_kept_alive =
            is_kept_alive && !(is_head(request) && upstream_request::has_method(ctx));
        if self.is_replaced(&response, ctx)? {
            upstream::received_body(true, ctx)?;
            return Ok(false);
        }
        upstream::on_origin_response(self.replay(), &mut response, ctx)?;
        let read = accel::read(&mut response, ctx);
        if read
            .and_then(|()| error_page::read(request, &response, ctx))
            .is_err()
        {
            cache::replaced(ctx);
            if let Some(cached) = &mut self.cached {
                // Those that wait for the response get a file each.
                cached.fetch.give_up();
            }
            // A write remains one, whatever is sent in response to it.
            cache::written(request, &response, ctx).await;
            // The deadlines let go of the connection before it is closed or kept.
            upstream::received_body(true, ctx)?;
            return Ok(is_kept_alive && matches!(framing, Framing::None | Framing::Length(0)));
        }
        let (chain, mut ex) = ctx.exchange(request);
        if chain.has(Phase::UpstreamResponse) {
            let mut open = OpenResponseHeaders::of(&mut response, 0);
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
            open.close(&mut response);
        }
        cache::on_origin_response(self.is_storing(), &response, ctx);
        cache::written(request, &response, ctx).await;
        match self.use_response(&response, ctx)? {
            OriginUse::Pass => {}
            OriginUse::PassAs(head) => response = head,
            OriginUse::Store(fill, head) => {
                // Boxed, because otherwise every request's future would be as large.
                let filled = Box::pin(self.fill(ctx, connection, (fill, head), framing)).await;
                return Ok(filled? && is_kept_alive);
            }
            OriginUse::Send(stored) => {
                upstream::received_body(true, ctx)?;
                if let Some(cached) = &mut self.cached {
                    cached.send = Some(stored);
                }
                return Ok(is_kept_alive);
            }
        }
        // The origin has not seen the client's own conditions.
        let is_confirmed = self.cached.is_some() && cache::present(request, &mut response, ctx)?;
        respond::prepare(request, &mut response, ctx).await;
        let waits_for_continue = self.waits_for_continue();
        if request::is_draining(ctx) || waits_for_continue {
            self.client.close();
        }

        let lines = mem::take(&mut ctx.facts.lines);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let sent = self.client.switch(&response, &lines).await;
            sent.map_err(request_end::of_client)?;
            // Its headers are in the buffer that was read into.
            drop((response, lines));
            self.tunnel(ctx, connection).await?;
            return Ok(false);
        }
        let has_body = framing != Framing::None;
        if !has_body {
            self.received(true, ctx)?;
        }
        let clock = &ctx.live().world.clock;
        let is_bare = !has_body || is_confirmed;
        let sent = self.client.response(response, &lines, is_bare, clock);
        sent.await.map_err(request_end::of_client)?;
        if is_confirmed {
            // Nobody reads the body, and the deadlines let go of the connection.
            upstream::received_body(true, ctx)?;
            return Ok(is_kept_alive && !has_body);
        }
        if has_body {
            let body = MessageBody::new(framing);
            self.forward_body(ctx, connection, body).await?;
        }
        if !self.upload.is_over() && !waits_for_continue {
            self.finish_upload(ctx, connection).await?;
        }
        Ok(is_kept_alive && framing != Framing::UntilClose)
    }

    /// Prepares the header section for the backend, after the filters have changed and accepted
    /// it. It is sent with the beginning of the body.
    async fn forward(&mut self, ctx: &mut Context) -> Result<()> {
        let mut request = roomy_copy(self.client.request, MORE_FIELDS);
        request.set_version(Version::HTTP_11);
        if let Some(cached) = self
            .cached
            .as_ref()
            .filter(|cached| cached.fetch.is_storing)
        {
            cache::condition(&mut request, cached.fetch.stale.as_deref());
        }
        cache::forward(&mut request, ctx);
        forward::forward(self.client.request, &mut request, ctx).await?;
        forward::check_forwarded(&request, ctx)?;
        if let Some(own) = &ctx.early.replacement {
            self.upload.replace(own);
        }
        if self.drops_body {
            replies::remove_body(&mut request);
        }
        let is_chunked =
            self.upload.has_body() && !request.headers.contains_key(header::CONTENT_LENGTH);
        if is_chunked {
            let chunked = HeaderValue::from_static("chunked");
            request.insert_header(header::TRANSFER_ENCODING, chunked)?;
        }
        self.upload.begin(&request, is_chunked)
    }

    async fn header_section(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
    ) -> Result<ResponseHeader> {
        let memory = if self.cached.is_some() {
            ValueMemory::Own
        } else {
            ValueMemory::Input
        };
        loop {
            if !connection.input.is_empty()
                && let Some(response) = parse_response(&mut connection.input, memory)?
            {
                return Ok(response);
            }
            connection.input.reserve(SECTION_ROOM);
            if self
                .read(ctx, connection, BackendConnection::poll_input)
                .await?
                == 0
            {
                let why = "the backend closed its connection before its response";
                return Err(Error::explain(ErrorType::ConnectionClosed, why).into_up());
            }
        }
    }

    async fn forward_body(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
        mut body: MessageBody,
    ) -> Result<()> {
        let most = most_room(ctx);
        let (chain, ex) = ctx.exchange(self.client.request);
        if let Some(length) = body.short_length()
            && !chain.ignores_body(&ex)
        {
            gather(connection, length).await?;
        }
        loop {
            let piece = body.take(&mut connection.input).map_err(Error::into_up)?;
            let Piece { mut bytes, is_last } = if let Some(piece) = piece {
                piece
            } else {
                let room = body.room().min(most);
                let poll = |connection: &mut BackendConnection, cx: &mut TaskContext<'_>| {
                    connection.poll_body(room, cx)
                };
                if self.read(ctx, connection, poll).await? > 0 {
                    continue;
                }
                body.close().map_err(Error::into_up)?
            };
            if let (Some(bytes), Some(upstream)) = (&bytes, &ctx.upstream) {
                upstream.count_received(bytes.len());
            }
            self.received(is_last, ctx)?;
            let (chain, mut ex) = ctx.exchange(self.client.request);
            if chain.has(Phase::ResponseBody) {
                chain.on_response_body(&mut ex, &mut bytes, is_last);
            }
            let sent = self.client.write(bytes, is_last).await;
            sent.map_err(request_end::of_client)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Records that a piece of the response came. The deadlines end with the last one, unless the
    /// request is still being sent.
    fn received(&self, is_last: bool, ctx: &mut Context) -> Result<()> {
        let is_over = is_last && self.upload.is_over();
        upstream::received_body(is_over, ctx)?;
        if is_last && self.cached.is_some() {
            // No matter how long the client reads, the origin is done.
            drop(ctx.facts.take::<RenderPermit>());
        }
        let expired = ctx.watch.as_ref().and_then(|watch| watch.expired());
        if is_last && expired.is_some() {
            // A body without a length ends with its connection, which the deadline has closed.
            return Err(Error::new_up(ErrorType::ConnectionClosed));
        }
        Ok(())
    }

    /// Returns true if the client has sent nothing of a body that it offered (RFC 9110, 10.1.1). With
    /// a response it may not, and what it sends next on the connection could be taken for the body.
    fn waits_for_continue(&self) -> bool {
        !self.upload.is_over()
            && self.upload.received == 0
            && self.client.request.headers.contains_key(header::EXPECT)
    }

    /// Forwards a WebSocket in both directions until it ends.
    async fn tunnel(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
    ) -> Result<()> {
        // A hasty backend switches before it has the request.
        poll_fn(|cx| self.upload.poll(cx, self.client, connection, ctx)).await?;
        // Taken with its memory, so that a silent tunnel holds no buffer.
        let mut tunnel = Tunnel::new(mem::take(&mut connection.input));
        let stream = self.client.stream()?;
        let ended = poll_fn(|cx| tunnel.poll(cx, stream, connection, ctx)).await;
        self.upload.received += tunnel.received;
        self.client.sent += tunnel.sent;
        ended?;
        upstream::received_body(true, ctx)
    }

    /// Sends the rest of a request whose response is complete already: the backend may want it.
    async fn finish_upload(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
    ) -> Result<()> {
        poll_fn(|cx| self.upload.poll(cx, self.client, connection, ctx)).await?;
        if let Err(error) = upstream::received_body(true, ctx) {
            // The client has its response, and the connection is not used again.
            log::debug!(error:%; "a backend took too long for the rest of a request");
        }
        Ok(())
    }

    /// Reads from the backend with `poll`; returns the number of bytes, 0 at the end.
    ///
    /// While it waits, the client gets what is buffered for it, and the backend what the client
    /// sends. If the client leaves, nobody waits for the rest.
    async fn read(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
        mut poll: impl FnMut(&mut BackendConnection, &mut TaskContext<'_>) -> Poll<io::Result<usize>>,
    ) -> Result<usize> {
        let mut is_flushed = false;
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll(connection, cx) {
                let read = read.or_err(ErrorType::ReadError, "reading a response");
                return Poll::Ready(read.map_err(Error::into_up));
            }
            if !is_flushed && let Poll::Ready(flushed) = self.client.poll_flush(cx) {
                if let Err(error) = flushed {
                    return Poll::Ready(Err(request_end::of_client(error)));
                }
                is_flushed = true;
            }
            ready!(self.upload.poll(cx, self.client, connection, ctx))?;
            if !self.upload.is_read() {
                // The backend refuses the rest of the body, and its response follows.
                return Poll::Pending;
            }
            self.client.poll_gone(cx).map(Err)
        })
        .await
    }
}

fn is_head(request: &RequestHeader) -> bool {
    request.method == Method::HEAD
}

/// Reads what is there of a body of this length, without waiting: filters do better with the whole.
async fn gather(connection: &mut BackendConnection, length: usize) -> Result<()> {
    poll_fn(|cx| {
        while connection.input.len() < length {
            connection.input.reserve(length - connection.input.len());
            match connection.poll_input(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Err(error)) => {
                    let error = Error::because(ErrorType::ReadError, "reading a response", error);
                    return Poll::Ready(Err(error.into_up()));
                }
                // An end is found again by the next read.
                Poll::Ready(Ok(0)) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
