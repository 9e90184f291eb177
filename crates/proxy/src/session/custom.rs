//! Sessions as Pingora's hooks get them.
//!
//! `ServerSession::Custom` makes a session of Pingora of any type. Pingora gives it back as a trait
//! without a way to the type, but for the digest of the connection, in which the client lies.

use std::{cell::RefCell, io::Cursor, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask, ServerSession,
            custom::{CustomMessageWrite, server::Session as CustomSession},
        },
        l4::socket::SocketAddr,
        raw_connect::ProxyDigest,
    },
};
use pingora_proxy::{Session, subrequest};

use super::Client;

/// Sessions that a thread keeps for its next requests.
const MAX_SPARE: usize = 64;

thread_local! {
    #[expect(clippy::vec_box, reason = "a session is moved as a pointer")]
    static SPARE: RefCell<Vec<Box<Session>>> = const { RefCell::new(Vec::new()) };
}

/// Place in which Pingora's driver leaves the client of a request that is over.
pub(crate) type ClientSlot = Arc<Mutex<Option<Box<Client>>>>;

/// Session of the gateway inside one of Pingora.
struct OwnSession {
    digest: Digest,
    /// Receives the client when Pingora drops the session.
    slot: Option<ClientSlot>,
}

impl OwnSession {
    fn new(client: Option<Box<Client>>, slot: Option<ClientSlot>) -> Self {
        let response = ResponseHeader::build_no_case(200, Some(0)).expect("200 is a status");
        let client: Box<Carried> = Box::new(Carried(client));
        let digest = ProxyDigest::new(Box::new(response), Some(client));
        let digest = Digest {
            proxy_digest: Some(Arc::new(digest)),
            ..Digest::default()
        };
        Self { digest, slot }
    }

    fn client(&self) -> &Client {
        let digest = self.digest.proxy_digest.as_ref();
        let carried = digest.and_then(|digest| digest.user_data.as_ref());
        let carried = carried.and_then(|carried| carried.downcast_ref::<Carried>());
        carried
            .and_then(|carried| carried.0.as_deref())
            .expect("a session has its client for as long as a request lasts")
    }

    fn client_mut(&mut self) -> &mut Client {
        carried(&mut self.digest)
            .0
            .as_deref_mut()
            .expect("a session has its client for as long as a request lasts")
    }
}

/// Client in a digest, for as long as a request lasts.
struct Carried(Option<Box<Client>>);

fn carried(digest: &mut Digest) -> &mut Carried {
    let digest = digest.proxy_digest.as_mut().and_then(Arc::get_mut);
    let carried = digest.and_then(|digest| digest.user_data.as_mut());
    carried
        .and_then(|carried| carried.downcast_mut::<Carried>())
        .expect("a session of the gateway has this digest")
}

/// Returns the client of a request.
///
/// # Panics
/// Panics if the session is none of the gateway's: no other one reaches the hooks.
pub(crate) fn client(session: &mut Session) -> &mut Client {
    place(session)
        .as_deref_mut()
        .expect("a session has its client for as long as a request lasts")
}

/// Returns the place of the client in a session. The gateway's own driver has one that is found with
/// less work than the digest.
fn place(session: &mut Session) -> &mut Option<Box<Client>> {
    if let Some(ctx) = &mut session.subrequest_ctx {
        let place = ctx.user_ctx_mut().and_then(|ctx| ctx.downcast_mut());
        return place.expect("the driver has made it");
    }
    let digest = session.downstream_session.digest_mut();
    &mut carried(digest.expect("a session of the gateway has a digest")).0
}

/// Returns a session for `client`, one that the thread has left if possible.
pub(crate) fn reusable(client: Box<Client>) -> Box<Session> {
    let mut session = SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Box::new(new_session()));
    *place(&mut session) = Some(client);
    session
}

/// Takes the client out of a session whose request is over, and leaves the session to the thread.
pub(crate) fn reuse(mut session: Box<Session>) -> Option<Box<Client>> {
    let client = place(&mut session).take();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(session);
        }
    });
    client
}

/// Returns a session for Pingora's own driver, which leaves the client in `slot`.
pub(crate) fn for_pingora(client: Box<Client>, slot: &ClientSlot) -> ServerSession {
    let session = OwnSession::new(Some(client), Some(Arc::clone(slot)));
    ServerSession::new_custom(Box::new(session))
}

/// Creates a session of Pingora around one of the gateway. Pingora only makes one of a stream.
fn new_session() -> Session {
    let mut session = Session::new_h1(Box::new(Cursor::new(Vec::new())));
    let empty = OwnSession::new(None, None);
    *session.downstream_session = ServerSession::new_custom(Box::new(empty));
    let place: Box<Option<Box<Client>>> = Box::default();
    let subrequest = subrequest::Ctx::builder().user_ctx(place).build();
    session.subrequest_ctx = Some(Box::new(subrequest));
    session
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            *slot.lock() = carried(&mut self.digest).0.take();
        }
    }
}

#[async_trait]
impl CustomSession for OwnSession {
    fn req_header(&self) -> &RequestHeader {
        &self.client().request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.client_mut().request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let client = self.client_mut();
        while !client.body.is_read() {
            if let Some(bytes) = client.piece().await?.bytes {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.client_mut().discard().await
    }

    /// Writes nothing: the hooks write each response to the client.
    async fn write_response_header(&mut self, _: Box<ResponseHeader>, _: bool) -> Result<()> {
        Ok(())
    }

    async fn write_response_header_ref(&mut self, _: &ResponseHeader, _: bool) -> Result<()> {
        Ok(())
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.client_mut().write(Some(data), end).await
    }

    async fn write_trailers(&mut self, _: HeaderMap) -> Result<()> {
        self.client_mut().write(None, true).await
    }

    /// Does nothing: tasks come from Pingora's connections to backends, which are not used.
    async fn response_duplex_vec(&mut self, _: Vec<HttpTask>) -> Result<bool> {
        Ok(true)
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        let request = &self.client().request;
        format!("{} {}", request.method, request.uri.path())
    }

    /// Returns a response for every request, so that Pingora adds none: the hooks have sent theirs,
    /// or have meant to send none.
    fn response_written(&self) -> Option<&ResponseHeader> {
        self.digest.proxy_digest.as_ref().map(|it| &*it.response)
    }

    /// Does nothing: the edge ends the connection.
    async fn shutdown(&mut self, _: u32, _: &str) {}

    fn is_body_done(&mut self) -> bool {
        self.client().body.is_read()
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        !self.client().body.is_there()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let client = self.client_mut();
        if !no_body_expected && !client.body.is_read() {
            return self.read_body_bytes().await;
        }
        Err(std::future::poll_fn(|cx| client.poll_gone(cx)).await)
    }

    fn body_bytes_sent(&self) -> usize {
        usize::try_from(self.client().sent).unwrap_or(usize::MAX)
    }

    fn body_bytes_read(&self) -> usize {
        usize::try_from(self.client().body.received).unwrap_or(usize::MAX)
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        !self.client().body.is_replayable()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
