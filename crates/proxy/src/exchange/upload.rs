//! Body of a request on its way to a backend, while the response may already be coming.

use std::{
    future::poll_fn,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session};

use crate::{
    context::Context,
    error::Failure,
    message::Piece,
    session::{Client, client},
    upstream, upstream_request,
    wire::{SentState, Wire},
};

/// Sender of the body, with the hooks that see its pieces, and their request.
pub(super) struct Upload<'a, H> {
    pub(super) hooks: &'a H,
    pub(super) session: &'a mut Session,
}

impl<H> Upload<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    pub(super) fn client(&mut self) -> &mut Client {
        client(self.session)
    }

    /// Sends what there is. Ready once nothing is left to send, or if the backend refuses more:
    /// then its response says why.
    pub(super) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        wire: &mut Wire,
        ctx: &mut Box<Context>,
    ) -> Poll<Result<()>> {
        while wire.sent() != SentState::Refused {
            let mut is_client_slow = false;
            while !wire.has_end() && wire.has_room() {
                match self.client().poll_piece(cx) {
                    Poll::Ready(piece) => self.pass(piece?, wire, ctx)?,
                    Poll::Pending => {
                        is_client_slow = true;
                        break;
                    }
                }
            }
            if ready!(wire.poll_send(cx)) {
                continue;
            }
            if wire.has_end() {
                break;
            }
            debug_assert!(is_client_slow, "otherwise there would be something to send");
            upstream::awaits_body(ctx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives a piece to the wire, after the hooks have seen it.
    fn pass(&mut self, piece: Piece, wire: &mut Wire, ctx: &mut Box<Context>) -> Result<()> {
        let Piece { mut bytes, is_last } = piece;
        // The filters have seen all of a body in whose place the backend gets another one.
        if !self.client().body.is_replaced {
            self.filter(&mut bytes, is_last, ctx)?;
        }
        upstream::sent_body(bytes.as_ref(), is_last, ctx);
        wire.take(bytes, is_last)
    }

    /// Passes a piece of the client's body through the hook for it, which never waits.
    fn filter(
        &mut self,
        bytes: &mut Option<Bytes>,
        is_last: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        let filtered = self
            .hooks
            .request_body_filter(self.session, bytes, is_last, ctx);
        let waits = || Err(Error::new_in(ErrorType::Custom("a body filter waits")));
        filtered.now_or_never().unwrap_or_else(waits)
    }

    /// Sends the rest of the request.
    pub(super) async fn finish(&mut self, wire: &mut Wire, ctx: &mut Box<Context>) -> Result<()> {
        poll_fn(|cx| self.poll(cx, wire, ctx)).await
    }

    /// Reads the client's body through the filters, for a backend that gets another one.
    pub(super) async fn take_in(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        self.client().body.forget();
        let clock = ctx.live().world.clock.clone();
        let started = clock.now();
        while !self.client().body.is_read() {
            let client = self.client();
            let time = upstream_request::body_time(client.body.received, ctx);
            let piece = match time {
                None => client.piece().await?,
                Some(time) => {
                    let left = time.saturating_sub(clock.now() - started);
                    let Ok(piece) = tokio::time::timeout(left, client.piece()).await else {
                        ctx.reply = Some(Box::new(Failure::BodyTimeout.reply()));
                        return Err(Error::new_down(ErrorType::Custom("refused")));
                    };
                    piece?
                }
            };
            let Piece { mut bytes, is_last } = piece;
            upstream::sent_body(None, is_last, ctx);
            self.filter(&mut bytes, is_last, ctx)?;
        }
        Ok(())
    }
}
