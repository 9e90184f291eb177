//! Client of a response that is being stored: checks if it accepts more bytes, and writes to it
//! over HTTP/2.
//!
//! Over HTTP/1 Pingora reads from the origin while it writes to the client. Over HTTP/2 it does one
//! after the other, and every other reader of the same response would wait for a client whose
//! stream has no window left. Such a session is therefore replaced with one that Pingora can leave
//! in the middle of a write ([`DecoupledSession`]).

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll, Waker, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use edgeway_cache::store::Client;
use edgeway_core::chain::Protocol;
use futures_core::Stream;
use h2::{Reason, SendStream};
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::{
    Error, ErrorType, OrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask, ServerSession,
            custom::{CustomMessageWrite, server::Session as CustomSession},
            v2::server::HttpSession,
        },
        l4::socket::SocketAddr,
    },
};
use pingora_cache::RespCacheable;
use pingora_proxy::Session;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Sleep;

use crate::{connection::Connection, context::Context};

/// HTTP/2 stream of a client, as its writer and the store see it.
#[derive(Default)]
pub(crate) struct ClientStream {
    /// Set from the first chunk of the body on.
    body: Mutex<Option<SendStream<Bytes>>>,
    /// True while a chunk waits for window.
    is_blocked: AtomicBool,
}

edgeway_base::opaque_debug!(ClientStream, is_blocked);

impl Client for ClientStream {
    fn is_ready(&self) -> bool {
        if !self.is_blocked.load(Ordering::Relaxed) {
            return true;
        }
        let mut body = self.body.lock();
        let Some(body) = body.as_mut() else {
            return true;
        };
        // This replaces the waker of the task that makes this very call. That task polls the stream
        // again before it waits.
        let mut nobody = task::Context::from_waker(Waker::noop());
        body.capacity() > 0 || body.poll_reset(&mut nobody).is_ready()
    }
}

impl Client for Connection {
    fn is_ready(&self) -> bool {
        let is_ready = self.ask_socket(|socket| {
            let flags = PollFlags::OUT | PollFlags::RDHUP;
            let mut sockets = [PollFd::from_borrowed_fd(socket, flags)];
            poll(&mut sockets, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        });
        is_ready.unwrap_or(true)
    }
}

/// Names the client of a response that is about to be stored, for the store.
pub(super) fn name_client(decided: &mut RespCacheable, ctx: &mut Context) {
    let RespCacheable::Cacheable(meta) = decided else {
        return;
    };
    if ctx.is_background() {
        return;
    }
    let client: Option<Arc<dyn Client>> = if ctx.facts.client.protocol == Protocol::Http2 {
        Some(Arc::clone(ctx.stream.insert(Arc::default())) as _)
    } else {
        ctx.connection.clone().map(|connection| connection as _)
    };
    if let Some(client) = client {
        meta.extensions_mut().insert(client);
    }
}

/// Lets Pingora continue the fill while the HTTP/2 client has no window for `piece`, the first
/// chunk of the body.
pub(crate) fn decouple(session: &mut Session, ctx: &Context, piece: Option<&Bytes>) {
    let Some(client) = &ctx.stream else {
        return;
    };
    // Pingora ends a response without a body.
    let has_body = piece.is_some_and(|piece| !piece.is_empty());
    if !has_body || session.cache.miss_body_reader().is_none() {
        return;
    }
    let ServerSession::H2(stream) = &mut *session.downstream_session else {
        return;
    };
    let Some(body) = stream.take_response_body_writer() else {
        return;
    };
    *client.body.lock() = Some(body);
    // No code sees this placeholder.
    let between = ServerSession::Custom(Box::new(()));
    if let ServerSession::H2(inner) = mem::replace(&mut *session.downstream_session, between) {
        let decoupled = DecoupledSession {
            inner,
            client: Arc::clone(client),
            waiting: Bytes::new(),
            is_pending: false,
            is_last: false,
            has_ended: false,
            sent: 0,
            failed: None,
            timer: None,
        };
        *session.downstream_session = ServerSession::Custom(Box::new(decoupled));
    }
}

/// HTTP/2 session whose headers are written and whose body can be written in parts. A write
/// continues when Pingora polls again.
struct DecoupledSession {
    inner: HttpSession,
    client: Arc<ClientStream>,
    /// Rest of the chunk that is being written.
    waiting: Bytes,
    is_pending: bool,
    is_last: bool,
    has_ended: bool,
    sent: usize,
    /// Error to report on the next write.
    failed: Option<Box<Error>>,
    /// Runs while the client accepts nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl DecoupledSession {
    fn queue(&mut self, task: HttpTask) -> Result<()> {
        match task {
            HttpTask::Body(piece, is_last) => {
                self.waiting = piece.unwrap_or_default();
                self.is_last |= is_last;
            }
            // RFC 9110, 6.5.1: trailers may be dropped. A stored response has none.
            HttpTask::Trailer(_) | HttpTask::Done => self.is_last = true,
            HttpTask::Failed(error) => return Err(error),
            HttpTask::Header(..) | HttpTask::UpgradedBody(..) => {
                return Error::e_explain(ErrorType::InternalError, "headers within a body");
            }
        }
        self.is_pending = true;
        Ok(())
    }

    /// Sends the waiting bytes as the client opens its window.
    fn poll_send(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let client = Arc::clone(&self.client);
        let mut body = client.body.lock();
        let Some(body) = body.as_mut() else {
            return Poll::Ready(Error::e_explain(ErrorType::WriteError, "no stream").down());
        };
        while !self.waiting.is_empty() {
            body.reserve_capacity(self.waiting.len());
            let Poll::Ready(room) = body.poll_capacity(cx) else {
                client.is_blocked.store(true, Ordering::Relaxed);
                let failure = ready!(self.poll_timer(cx));
                // Other requests may still read the bytes that it was sent.
                body.send_reset(Reason::CANCEL);
                return Poll::Ready(failure);
            };
            client.is_blocked.store(false, Ordering::Relaxed);
            self.timer = None;
            let Some(room) = room else {
                return Poll::Ready(Error::e_explain(ErrorType::H2Error, "it has ended").down());
            };
            let room = room.or_err(ErrorType::H2Error, "while waiting for room");
            let piece = self.waiting.split_to(room.down()?.min(self.waiting.len()));
            self.sent += piece.len();
            let is_end = self.is_last && self.waiting.is_empty();
            self.has_ended |= is_end;
            let sent = body.send_data(piece, is_end);
            sent.or_err(ErrorType::WriteError, "while writing a piece")
                .down()?;
        }
        if self.is_last && !self.has_ended {
            self.has_ended = true;
            let sent = body.send_data(Bytes::new(), true);
            sent.or_err(ErrorType::WriteError, "while writing the end")
                .down()?;
        }
        self.is_pending = false;
        Poll::Ready(Ok(()))
    }

    /// Fails once the client has accepted nothing for too long.
    fn poll_timer(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<()>> {
        let Some(patience) = self.inner.get_write_timeout() else {
            return Poll::Pending;
        };
        let begin = || Box::pin(tokio::time::sleep(patience));
        ready!(self.timer.get_or_insert_with(begin).as_mut().poll(cx));
        let why = format!("writing body, timeout: {patience:?}");
        Poll::Ready(Error::e_explain(ErrorType::WriteTimedout, why).down())
    }
}

/// Extension that names the client as the source of an error.
trait Down {
    fn down(self) -> Self;
}

impl<T> Down for Result<T> {
    fn down(self) -> Self {
        self.map_err(Error::into_down)
    }
}

impl Drop for DecoupledSession {
    /// Resets a stream that is dropped before its end.
    fn drop(&mut self) {
        *self.client.body.lock() = None;
    }
}

/// Implements functions of a session by those of the inner one.
macro_rules! as_inner {
    ($(fn $name:ident(&$me:ident $(, $argument:ident: $type:ty)?) $(-> $out:ty)?;)*) => {$(
        fn $name(&$me $(, $argument: $type)?) $(-> $out)? {
            $me.inner.$name($($argument)?)
        }
    )*};
    ($(fn $name:ident(&mut $me:ident $(, $argument:ident: $type:ty)?) $(-> $out:ty)?;)*) => {$(
        fn $name(&mut $me $(, $argument: $type)?) $(-> $out)? {
            $me.inner.$name($($argument)?)
        }
    )*};
}

#[async_trait]
impl CustomSession for DecoupledSession {
    as_inner! {
        fn req_header(&self) -> &RequestHeader;
        fn get_write_timeout(&self) -> Option<Duration>;
        fn get_total_drain_timeout(&self) -> Option<Duration>;
        fn request_summary(&self) -> String;
        fn response_written(&self) -> Option<&ResponseHeader>;
        fn body_bytes_read(&self) -> usize;
        fn digest(&self) -> Option<&Digest>;
        fn client_addr(&self) -> Option<&SocketAddr>;
        fn server_addr(&self) -> Option<&SocketAddr>;
        fn pseudo_raw_h1_request_header(&self) -> Bytes;
        fn retry_buffer_truncated(&self) -> bool;
        fn get_retry_buffer(&self) -> Option<Bytes>;
    }

    as_inner! {
        fn req_header_mut(&mut self) -> &mut RequestHeader;
        fn set_write_timeout(&mut self, timeout: Option<Duration>);
        fn set_total_drain_timeout(&mut self, timeout: Option<Duration>);
        fn is_body_done(&mut self) -> bool;
        fn is_body_empty(&mut self) -> bool;
        fn digest_mut(&mut self) -> Option<&mut Digest>;
        fn enable_retry_buffering(&mut self);
    }

    fn proxy_tasks_enabled(&self) -> bool {
        true
    }

    fn send_proxy_task(&mut self, task: HttpTask) {
        if let Err(error) = self.queue(task) {
            self.failed = Some(error);
            self.is_pending = true;
        }
    }

    fn has_pending_proxy_tasks(&self) -> bool {
        self.is_pending
    }

    async fn write_proxy_tasks(&mut self) -> Result<bool> {
        poll_fn(|cx| self.poll_send(cx)).await?;
        Ok(self.has_ended)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        for task in tasks {
            self.queue(task)?;
            poll_fn(|cx| self.poll_send(cx)).await?;
        }
        Ok(self.has_ended)
    }

    /// Reads the request body, and once that is complete, waits until the client leaves.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.inner.is_body_done() {
            return self.inner.read_body_bytes().await;
        }
        let client = &self.client;
        let reason = poll_fn(|cx| match client.body.lock().as_mut() {
            Some(body) => body.poll_reset(cx),
            None => Poll::Pending,
        });
        let reason = reason.await;
        let reason = reason.or_err(ErrorType::H2Error, "downstream error while idling")?;
        let why = format!("the client closed its stream: {reason}");
        Error::e_explain(ErrorType::H2Error, why)
    }

    async fn finish(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            self.is_last = true;
            poll_fn(|cx| self.poll_send(cx)).await?;
        }
        Ok(())
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    async fn write_response_header(
        &mut self,
        response: Box<ResponseHeader>,
        end: bool,
    ) -> Result<()> {
        self.inner.write_response_header(response, end)
    }

    async fn write_response_header_ref(
        &mut self,
        response: &ResponseHeader,
        end: bool,
    ) -> Result<()> {
        self.inner.write_response_header_ref(response, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.queue(HttpTask::Body(Some(data), end))?;
        poll_fn(|cx| self.poll_send(cx)).await
    }

    async fn write_trailers(&mut self, _trailers: HeaderMap) -> Result<()> {
        self.finish().await
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        if !self.has_ended {
            self.inner.shutdown();
        }
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.inner.read_body_bytes().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    /// Does nothing: streams have no read timeout.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        self.finish().await
    }

    /// Returns none: there are no messages besides the body.
    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        Ok(())
    }
}
