//! Responses that the cache has, or stores while they arrive.
//!
//! What arrives is written into the store, and the client reads from there, both at their own pace:
//! a client that is slow or leaves does not hold up the others that wait for the same response.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use edgeway_cache::{
    budget::RenderPermit,
    store::{Fill, FillEnd, FillError, Reader},
};
use edgeway_core::chain::Phase;
use edgeway_upstreams::BackendConnection;
use http::StatusCode;
use parking_lot::Mutex;
use pingora::{Error, ErrorType, OrErr as _, Result, http::ResponseHeader};

use super::{
    Relayed,
    body::{MessageBody, Piece},
    response::Framing,
};
use crate::{
    cache::{self, CacheStep, Fetch, Flow, OriginUse, StoredResponse},
    context::Context,
    direct::DirectClient,
    error::Failure,
    request, request_end, respond, upstream,
};

/// Request whose response the cache may have, or store.
#[derive(Default)]
pub(super) struct CachedExchange {
    pub(super) fetch: Fetch,
    /// Stored response that is sent next.
    pub(super) send: Option<StoredResponse>,
    /// Failure of the client while its response was stored to the end.
    pub(super) left: Option<Box<Error>>,
}

/// Failure of the transfer to a client that reads from the store.
enum SendError {
    Client(Box<Error>),
    /// The store has no more of the response.
    Store(FillEnd),
}

impl From<SendError> for Box<Error> {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Client(error) => request_end::of_client(error),
            SendError::Store(end) => {
                Error::because(ErrorType::ReadError, "while reading from the cache", end)
            }
        }
    }
}

impl Relayed<'_, '_> {
    /// Asks the cache about the request. Returns true if its response was sent.
    pub(super) async fn ask_cache(&mut self, flow: Box<Flow>, ctx: &mut Context) -> Result<bool> {
        let request = self.client.request;
        let has_body = self.upload.has_body();
        if let Some(reply) = cache::fetch(request, has_body, ctx, flow).await {
            let sent = self.client.reply(ctx, *reply).await;
            sent.map_err(request_end::of_client)?;
            return Ok(true);
        }
        if ctx.cache.is_none() {
            return Ok(false);
        }
        let fetch = match cache::begin(ctx).await? {
            CacheStep::Send(entry, reader) => {
                let age = ctx.facts.cache.and_then(|cached| cached.age);
                let head = StoredResponse::head(&entry, age)?;
                let sent = self.send_stored(ctx, StoredResponse { head, reader });
                sent.await.map_err(request_end::of_client)?;
                return Ok(true);
            }
            CacheStep::Fetch(fetch) => fetch,
        };
        self.cached = Some(Box::new(CachedExchange {
            fetch,
            ..CachedExchange::default()
        }));
        Ok(false)
    }

    /// Sends what the cache has in place of the response of the origin, if that is decided. It is
    /// after a failure too, if a stale response may replace it.
    pub(super) async fn finish_cached(
        &mut self,
        ctx: &mut Context,
        outcome: Result<()>,
    ) -> Result<()> {
        let Some(mut cached) = self.cached.take() else {
            return outcome;
        };
        if let Err(error) = &outcome
            && self.client.status.is_none()
        {
            cached.replace_failure(error, ctx)?;
        }
        if let Some(send) = cached.send {
            let sent = self.send_stored(ctx, send).await;
            return sent.map_err(request_end::of_client);
        }
        outcome?;
        cached.left.map_or(Ok(()), Err)
    }

    pub(super) fn is_storing(&self) -> bool {
        let cached = self.cached.as_ref();
        cached.is_some_and(|cached| cached.fetch.is_storing)
    }

    /// Decides what the cache does with the `response` of the origin.
    pub(super) fn use_response(
        &mut self,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> Result<OriginUse> {
        match &mut self.cached {
            Some(cached) => {
                let request = self.client.request;
                cached.fetch.use_response(request, response, ctx)
            }
            None => Ok(OriginUse::Pass),
        }
    }

    /// Returns true if a stale response is sent in place of `response`, which is an error.
    pub(super) fn is_replaced(
        &mut self,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> Result<bool> {
        match &mut self.cached {
            Some(cached) if response.status.is_server_error() => {
                let error = Error::new_up(ErrorType::HTTPStatus(response.status.as_u16()));
                cached.replace_failure(&error, ctx)
            }
            _ => Ok(false),
        }
    }

    /// Sends a stored response, or one that another request is storing.
    async fn send_stored(&mut self, ctx: &mut Context, stored: StoredResponse) -> Result<()> {
        let StoredResponse { mut head, reader } = stored;
        let request = self.client.request;
        let is_bare =
            cache::present(request, &mut head, ctx)? || head.status == StatusCode::NO_CONTENT;
        respond::prepare(request, &mut head, ctx).await;
        if request::is_draining(ctx) {
            self.client.close();
        }
        let lines = std::mem::take(&mut ctx.facts.lines);
        let clock = &ctx.live().world.clock;
        self.client.response(head, &lines, is_bare, clock).await?;
        if is_bare {
            return Ok(());
        }
        let sent = send_body(self.client, reader, &Mutex::new(ctx)).await;
        Ok(sent?)
    }

    /// Stores the response, and sends it to the client. Returns true if the backend's connection
    /// may be used again.
    pub(super) async fn fill(
        &mut self,
        ctx: &mut Context,
        connection: &mut BackendConnection,
        (fill, mut head): (Fill, ResponseHeader),
        framing: Framing,
    ) -> Result<bool> {
        // A hasty backend responds before it has the request.
        poll_fn(|cx| self.upload.poll(cx, self.client, connection, ctx)).await?;
        let request = self.client.request;
        let is_bare = cache::present(request, &mut head, ctx)? || framing == Framing::None;
        respond::prepare(request, &mut head, ctx).await;
        if request::is_draining(ctx) {
            self.client.close();
        }
        let reader = (!is_bare).then(|| fill.own_reader());
        let lines = std::mem::take(&mut ctx.facts.lines);
        let live = Arc::clone(ctx.live());
        let has_failed = AtomicBool::new(false);
        // Each locks it for an instant, in one task.
        let shared = Mutex::new(ctx);
        let client = &mut *self.client;
        let send = async {
            if reader.is_some() && has_failed.load(Ordering::Relaxed) {
                // The client can still get another response.
                return Ok(());
            }
            let sent = client.response(head, &lines, is_bare, &live.world.clock);
            let sent = match (sent.await, reader) {
                (Ok(()), Some(reader)) => send_body(client, reader, &shared).await,
                (sent, _) => sent.map_err(SendError::Client),
            };
            if let Err(SendError::Client(error)) = &sent {
                let failure = Failure::of_leaving(error);
                shared.lock().client_left.get_or_init(|| failure);
            }
            sent
        };
        let store = async {
            let body = MessageBody::new(framing);
            let stored = store_body(connection, body, fill, &shared).await;
            has_failed.store(stored.is_err(), Ordering::Relaxed);
            stored
        };
        let (stored, sent) = tokio::join!(store, send);
        let is_whole = stored?;
        if let Err(error) = sent
            && let Some(cached) = &mut self.cached
        {
            cached.left = Some(error.into());
        }
        Ok(is_whole && framing != Framing::UntilClose)
    }
}

impl CachedExchange {
    /// Sends the stale response in place of a failure, if it may replace it.
    pub(super) fn replace_failure(&mut self, error: &Error, ctx: &mut Context) -> Result<bool> {
        let Some(stale) = &self.fetch.stale else {
            return Ok(false);
        };
        // One that was still arriving may be gone.
        let Some(reader) = stale.body.reader() else {
            return Ok(false);
        };
        if !cache::replaces_failure(stale, error, ctx) {
            return Ok(false);
        }
        let age = ctx.facts.cache.and_then(|cached| cached.age);
        let head = StoredResponse::head(stale, age)?;
        self.send = Some(StoredResponse { head, reader });
        // The next of those that wait tries its luck with the origin.
        self.fetch = Fetch::default();
        Ok(true)
    }
}

/// Writes the body into the store as it arrives. Returns false if nobody needs the rest.
async fn store_body(
    connection: &mut BackendConnection,
    mut body: MessageBody,
    mut fill: Fill,
    ctx: &Mutex<&mut Context>,
) -> Result<bool> {
    loop {
        let piece = body.take(&mut connection.input).map_err(Error::into_up)?;
        let Piece { bytes, is_last } = match piece {
            Some(piece) => piece,
            None if read(connection, body.room()).await? > 0 => continue,
            None => body.close().map_err(Error::into_up)?,
        };
        {
            let mut ctx = ctx.lock();
            if let (Some(bytes), Some(upstream)) = (&bytes, &ctx.upstream) {
                upstream.count_received(bytes.len());
            }
            upstream::received_body(is_last, &mut ctx)?;
            if is_last {
                // No matter how long the client reads, the origin is done.
                drop(ctx.facts.take::<RenderPermit>());
            }
        }
        if let Some(bytes) = bytes {
            match fill.write(bytes).await {
                Ok(()) => {}
                Err(FillError::NoReader) => {
                    upstream::received_body(true, &mut ctx.lock())?;
                    return Ok(false);
                }
                Err(error @ FillError::Length { .. }) => return Err(of_store(error)),
            }
        }
        if is_last {
            fill.finish().map_err(of_store)?;
            return Ok(true);
        }
    }
}

#[cold]
fn of_store(error: FillError) -> Box<Error> {
    Error::because(ErrorType::ReadError, "storing a response", error).into_up()
}

async fn read(connection: &mut BackendConnection, room: usize) -> Result<usize> {
    connection.input.reserve(room);
    let read = poll_fn(|cx| connection.poll_input(cx)).await;
    let read = read.or_err(ErrorType::ReadError, "reading a response");
    read.map_err(Error::into_up)
}

/// Sends what `reader` reads, after the filters.
async fn send_body(
    client: &mut DirectClient<'_>,
    mut reader: Reader,
    ctx: &Mutex<&mut Context>,
) -> std::result::Result<(), SendError> {
    loop {
        let mut bytes = next(client, &mut reader).await?;
        let is_last = bytes.is_none();
        {
            let mut ctx = ctx.lock();
            let (chain, mut ex) = ctx.exchange(client.request);
            if chain.has(Phase::ResponseBody) {
                chain.on_response_body(&mut ex, &mut bytes, is_last);
            }
        }
        let sent = client.write(bytes, is_last).await;
        sent.map_err(SendError::Client)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Reads the next piece; `None` at the end. While it waits, the client gets what is buffered for it.
async fn next(
    client: &mut DirectClient<'_>,
    reader: &mut Reader,
) -> std::result::Result<Option<bytes::Bytes>, SendError> {
    let mut next = pin!(reader.next());
    let mut is_flushed = false;
    poll_fn(|cx| {
        if let Poll::Ready(next) = next.as_mut().poll(cx) {
            return Poll::Ready(next.map_err(SendError::Store));
        }
        if !is_flushed && let Poll::Ready(flushed) = client.poll_flush(cx) {
            if let Err(error) = flushed {
                return Poll::Ready(Err(SendError::Client(error)));
            }
            is_flushed = true;
        }
        client
            .poll_gone(cx)
            .map(|error| Err(SendError::Client(error)))
    })
    .await
}
