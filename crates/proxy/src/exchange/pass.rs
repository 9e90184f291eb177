//! Responses that go from a backend to the client as they arrive, and tunnels.

use std::{future::poll_fn, mem, task::Poll, time::Duration};

use bytes::Bytes;
use edgeway_base::http::is_call;
use edgeway_cache::budget::RenderPermit;
use edgeway_core::chain::{Phase, Protocol, ReadyLines};
use http::StatusCode;
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::ProxyHttp;

use super::{Exchange, tunnel::Tunnel};
use crate::{
    cache::Content,
    context::Context,
    error,
    message::Piece,
    session::{HTTP2_DATA, client},
    upstream,
    wire::Wire,
};

/// Limit on bytes of a body that are read before a client with TLS has got them: it is sent no more
/// at a time, and each slow one holds such a buffer.
const TLS_ROOM: usize = 32 * 1024;

impl<H> Exchange<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    /// Sends the response of the backend to the client as it arrives.
    pub(super) async fn send(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        mut response: ResponseHeader,
        (has_body, content): (bool, Content),
    ) -> Result<()> {
        let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
        hooks.response_filter(session, &mut response, ctx).await?;
        let client = client(self.upload.session);
        let waits_for_continue = client.waits_for_continue();
        if ctx.is_draining() || waits_for_continue {
            client.close();
        }
        let lines = mem::take(&mut ctx.facts.lines);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(ctx, wire, (response, lines)).await;
        }
        let (chain, _) = ctx.exchange(&client.request);
        let is_filled = wire.may_get_body(&response) && chain.has(Phase::ResponseBody);
        let has_body = has_body || is_filled;
        if !has_body {
            self.received(wire, true, ctx)?;
        }
        upstream::body_is_free(ctx);
        let clock = &ctx.live().world.clock;
        let is_bare = !has_body || content.is_nothing();
        let client = self.client();
        client.hold();
        client.status = Some(response.status);
        // The end of a gRPC call without messages is that of its headers.
        let is_last = is_bare && (is_call(&client.request.headers) || !client.ends_later());
        let sent = client.response(response, &lines, is_last, clock);
        sent.await.map_err(error::of_client)?;
        if content.is_nothing() {
            // Nobody reads the body, and the deadlines let go of the connection.
            return upstream::received_body(true, ctx);
        }
        if has_body {
            self.forward_body(ctx, wire, content).await?;
        }
        if !wire.is_over() && !waits_for_continue {
            // Its client may wait for all of the response before it goes on.
            let sent = self.client().release().await;
            sent.map_err(error::of_client)?;
            self.finish_upload(ctx, wire).await?;
        }
        Ok(())
    }

    /// Makes a tunnel of the connection after the backend has switched protocols.
    async fn switch(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        (response, lines): (ResponseHeader, ReadyLines),
    ) -> Result<()> {
        let sent = self.client().switch(&response, &lines).await;
        sent.map_err(error::of_client)?;
        // Its headers are in the buffer that was read into.
        drop((response, lines));
        wire.close();
        self.tunnel(ctx, wire).await
    }

    /// Sends the `content` of a response to the client.
    async fn forward_body(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        mut content: Content,
    ) -> Result<()> {
        let room = most_room(ctx);
        let (chain, ex) = ctx.exchange(&client(self.upload.session).request);
        if !chain.ignores_body(&ex) {
            poll_fn(|cx| Poll::Ready(wire.gather(cx))).await?;
        }
        loop {
            let piece = self.read(ctx, wire, |wire, cx| wire.poll_piece(cx, room));
            let Piece { mut bytes, is_last } = piece.await?;
            let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
            hooks.upstream_response_body_filter(session, &mut bytes, is_last, ctx)?;
            let mut bytes = content.cut(bytes);
            let is_last = is_last || content.is_over();
            self.received(wire, is_last, ctx)?;
            let (hooks, session) = (self.upload.hooks, &mut *self.upload.session);
            hooks.response_body_filter(session, &mut bytes, is_last, ctx)?;
            let trailers = if is_last { wire.take_trailers() } else { None };
            let has_trailers = trailers.is_some() && client(session).is_http2();
            let is_end = is_last && !has_trailers && !self.client().ends_later();
            self.write(ctx, wire, (bytes, is_end)).await?;
            if let Some(trailers) = trailers {
                let sent = self.client().trailers(trailers);
                sent.map_err(error::of_client)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Writes a piece of the response. While the client does not read, the backend gets what the
    /// client sends: some clients read once they have sent everything.
    async fn write(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        (bytes, is_last): (Option<Bytes>, bool),
    ) -> Result<()> {
        let mut outgoing = self.client().outgoing(bytes, is_last);
        poll_fn(|cx| {
            let written = self.client().poll_write(cx, &mut outgoing);
            if written.is_pending()
                && let Poll::Ready(Err(error)) = self.upload.poll(cx, wire, ctx)
            {
                return Poll::Ready(Err(error));
            }
            written.map_err(error::of_client)
        })
        .await
    }

    /// Records that a piece of the response came. The deadlines end with the last one, unless the
    /// request is still being sent.
    fn received(&self, wire: &Wire, is_last: bool, ctx: &mut Context) -> Result<()> {
        upstream::received_body(is_last && wire.is_over(), ctx)?;
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

    /// Forwards a WebSocket in both directions until it ends.
    async fn tunnel(&mut self, ctx: &mut Box<Context>, wire: &mut Wire) -> Result<()> {
        // A hasty backend switches before it has the request.
        self.upload.finish(wire, ctx).await?;
        let connection = wire.tunnel()?;
        // Taken with its memory, so that a silent tunnel holds no buffer.
        let mut tunnel = Tunnel::new(mem::take(&mut connection.input));
        let client = client(self.upload.session);
        let stream = client.stream()?;
        let ended = poll_fn(|cx| tunnel.poll(cx, stream, connection, ctx)).await;
        client.body.received += tunnel.received;
        client.sent += tunnel.sent;
        ended?;
        upstream::received_body(true, ctx)
    }

    /// Sends the rest of a request whose response is complete already: the backend may want it.
    async fn finish_upload(&mut self, ctx: &mut Box<Context>, wire: &mut Wire) -> Result<()> {
        // The deadlines have let go of the body, which must not hold the backend's place for ever.
        let (grace, rate) = ctx
            .connection
            .as_ref()
            .map_or((Duration::MAX, 0), |connection| {
                let limits = &connection.listener.config().limits;
                (limits.body_grace.0, limits.body_rate.0)
            });
        loop {
            let (received, pause) = (self.client().body.received, self.client().pause(grace));
            let least = rate.saturating_mul(pause.as_secs()).max(1);
            let rest = self.upload.finish(wire, ctx);
            let finished = tokio::time::timeout(pause, rest).await;
            if matches!(finished, Ok(Ok(()))) {
                break;
            }
            let client = self.client();
            let goes_on = client.body.received >= received.saturating_add(least)
                || client.write_end().await.map_err(error::of_client)?;
            if finished.is_ok() || !goes_on {
                // Whatever becomes of the request, the client has its response.
                client.close();
                return Ok(());
            }
        }
        if let Err(error) = upstream::received_body(true, ctx) {
            // The client has its response, and the connection is not used again.
            log::debug!(error:%; "a backend took too long for the rest of a request");
        }
        Ok(())
    }
}

/// Returns the room for the next read of a body at most.
fn most_room(ctx: &Context) -> usize {
    let client = &ctx.facts.client;
    if client.protocol == Protocol::Http2 {
        // Two to three such buffers wait in `h2`.
        HTTP2_DATA
    } else if client.tls.is_some() {
        TLS_ROOM
    } else {
        usize::MAX
    }
}
