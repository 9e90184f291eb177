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
use parking_lot::Mutex;
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::ProxyHttp;

use super::{Exchange, background::in_time};
use crate::{
    cache::{self, CacheStep, Content, Fetch, OriginUse, StoredResponse},
    context::{Context, Flow},
    error,
    message::Piece,
    reply, respond,
    session::{Client, client},
    upstream,
    wire::Wire,
};

/// Request whose response the cache may have, or store.
#[derive(Default)]
pub(super) struct CachedExchange {
    pub(super) fetch: Fetch,
    /// Stored response that is sent next.
    pub(super) send: Option<StoredResponse>,
    /// True if the origin is asked again, since what it confirmed is gone.
    pub(super) is_repeated: bool,
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
            SendError::Client(error) => error::of_client(error),
            SendError::Store(end) => {
                Error::because(ErrorType::ReadError, "while reading from the cache", end)
            }
        }
    }
}

impl<H> Exchange<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    /// Asks the cache about the request. Returns true if its response was sent.
    pub(super) async fn ask_cache(
        &mut self,
        flow: Box<Flow>,
        ctx: &mut Box<Context>,
    ) -> Result<bool> {
        let client = self.client();
        let has_body = client.body.is_there();
        if let Some(reply) = cache::fetch(&client.request, has_body, ctx, flow).await {
            let sent = reply::send(client, ctx, *reply).await;
            sent.map_err(error::of_client)?;
            return Ok(true);
        }
        if ctx.cache.is_none() {
            return Ok(false);
        }
        let (request, watch) = client.watched();
        let fetch = match watch.during(cache::begin(request, ctx)).await? {
            CacheStep::Send(entry, reader) => {
                let age = ctx.facts.cache.and_then(|cached| cached.age);
                let head = StoredResponse::head(&entry, age)?;
                let sent = self.send_stored(ctx, StoredResponse { head, reader });
                sent.await.map_err(error::of_client)?;
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
        ctx: &mut Box<Context>,
        outcome: Result<()>,
    ) -> Result<()> {
        let Some(mut cached) = self.cached.take() else {
            return outcome;
        };
        if let Err(error) = &outcome
            && self.client().status.is_none()
        {
            cached.replace_failure(error, ctx)?;
        }
        if let Some(send) = cached.send {
            let sent = self.send_stored(ctx, send).await;
            return sent.map_err(error::of_client);
        }
        outcome?;
        cached.left.map_or(Ok(()), Err)
    }

    pub(super) fn is_storing(&self) -> bool {
        let cached = self.cached.as_ref();
        cached.is_some_and(|cached| cached.fetch.is_storing)
    }

    /// Returns true if the request is sent again, after a response that confirmed what is gone.
    pub(super) fn is_to_be_repeated(&mut self, ctx: &mut Context) -> bool {
        let is_repeated = match &mut self.cached {
            Some(cached) => std::mem::take(&mut cached.is_repeated),
            None => false,
        };
        if is_repeated {
            upstream::repeat(ctx);
        }
        is_repeated
    }

    /// Decides what the cache does with the `response` of the origin.
    pub(super) fn use_response(
        &mut self,
        response: &ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<OriginUse> {
        match &mut self.cached {
            Some(cached) => {
                let request = &client(self.upload.session).request;
                cached.fetch.use_response(request, response, ctx)
            }
            None => Ok(OriginUse::Pass),
        }
    }

    /// Returns true if a stale response is sent in place of `response`, which is an error.
    pub(super) fn is_replaced(
        &mut self,
        response: &ResponseHeader,
        ctx: &mut Box<Context>,
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
    async fn send_stored(&mut self, ctx: &mut Box<Context>, stored: StoredResponse) -> Result<()> {
        let StoredResponse {
            mut head,
            mut reader,
        } = stored;
        let client = client(self.upload.session);
        let content = cache::present(&client.request, &mut head, true, ctx)?.seek(&mut reader);
        let is_bare = content.is_nothing();
        respond::prepare(&client.request, &mut head, ctx).await;
        if ctx.is_draining() {
            client.close();
        }
        let lines = std::mem::take(&mut ctx.facts.lines);
        let clock = &ctx.live().world.clock;
        client.response(head, &lines, is_bare, clock).await?;
        if is_bare {
            return Ok(());
        }
        let sent = send_body(client, (reader, content), &Mutex::new(ctx)).await;
        Ok(sent?)
    }

    /// Stores the response, and sends it to the client.
    pub(super) async fn fill(
        &mut self,
        ctx: &mut Box<Context>,
        wire: &mut Wire,
        (fill, mut head): (Fill, ResponseHeader),
        has_body: bool,
    ) -> Result<()> {
        // A hasty backend responds before it has the request.
        self.upload.finish(wire, ctx).await?;
        if ctx.is_background() {
            return store_body(wire, fill, has_body, &Mutex::new(ctx)).await;
        }
        let client = client(self.upload.session);
        let content = cache::present(&client.request, &mut head, true, ctx)?;
        let is_bare = content.is_nothing() || !has_body;
        respond::prepare(&client.request, &mut head, ctx).await;
        if ctx.is_draining() {
            client.close();
        }
        let reader = (!is_bare).then(|| fill.own_reader());
        let lines = std::mem::take(&mut ctx.facts.lines);
        let live = Arc::clone(ctx.live());
        let has_failed = AtomicBool::new(false);
        // Each locks it for an instant, in one task.
        let shared = Mutex::new(ctx);
        let send = async {
            if reader.is_some() && has_failed.load(Ordering::Relaxed) {
                // The client can still get another response.
                return Ok(());
            }
            let sent = client.response(head, &lines, is_bare, &live.world.clock);
            match (sent.await, reader) {
                (Ok(()), Some(reader)) => send_body(client, (reader, content), &shared).await,
                (sent, _) => sent.map_err(SendError::Client),
            }
        };
        let store = async {
            let stored = store_body(wire, fill, has_body, &shared).await;
            has_failed.store(stored.is_err(), Ordering::Relaxed);
            stored
        };
        let (stored, sent) = tokio::join!(store, send);
        stored?;
        if let Err(error) = sent
            && let Some(cached) = &mut self.cached
        {
            cached.left = Some(error.into());
        }
        Ok(())
    }
}

impl CachedExchange {
    /// Sends the stale response in place of a failure, if it may replace it.
    pub(super) fn replace_failure(
        &mut self,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> Result<bool> {
        let Some((stale, reader)) = self.fetch.substitute() else {
            return Ok(false);
        };
        if !cache::replaces_failure(stale, error, ctx) {
            return Ok(false);
        }
        let age = ctx.facts.cache.and_then(|cached| cached.age);
        let head = StoredResponse::head(stale, age)?;
        self.send = Some(StoredResponse { head, reader });
        // The next waiting request asks the origin.
        self.fetch = Fetch::default();
        Ok(true)
    }
}

/// Writes the body into the store as it arrives, as long as anybody needs it.
async fn store_body(
    wire: &mut Wire,
    mut fill: Fill,
    has_body: bool,
    ctx: &Mutex<&mut Box<Context>>,
) -> Result<()> {
    let silence = upstream::silence(&ctx.lock(), |limits| limits.idle);
    loop {
        let piece = if has_body {
            let piece = poll_fn(|cx| wire.poll_piece(cx, usize::MAX));
            in_time(silence, piece).await?
        } else {
            Piece::END
        };
        let Piece { bytes, is_last } = piece;
        {
            let mut ctx = ctx.lock();
            upstream::count_received(bytes.as_ref(), &ctx);
            upstream::received_body(is_last, &mut ctx)?;
            if is_last {
                // No matter how long the client reads, the origin is done.
                drop(ctx.facts.take::<RenderPermit>());
            }
        }
        if let Some(bytes) = bytes {
            match fill.write(bytes).await {
                Ok(()) => {}
                Err(FillError::NoReader) => return upstream::received_body(true, &mut ctx.lock()),
                Err(error @ FillError::Length { .. }) => return Err(of_store(error)),
            }
        }
        if is_last {
            fill.finish().map_err(of_store)?;
            return Ok(());
        }
    }
}

#[cold]
fn of_store(error: FillError) -> Box<Error> {
    Error::because(ErrorType::ReadError, "storing a response", error).into_up()
}

/// Sends the content of what `reader` reads, after the filters.
async fn send_body(
    client: &mut Client,
    (mut reader, mut content): (Reader, Content),
    ctx: &Mutex<&mut Box<Context>>,
) -> std::result::Result<(), SendError> {
    loop {
        let bytes = next(client, &mut reader).await?;
        let is_end = bytes.is_none();
        let mut bytes = content.cut(bytes);
        let is_last = is_end || content.is_over();
        respond::body(client, &mut ctx.lock(), &mut bytes, is_last);
        let sent = client.write(bytes, is_last).await;
        sent.map_err(SendError::Client)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Reads the next piece; `None` at the end. While it waits, the client gets what is buffered for it.
async fn next(
    client: &mut Client,
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
