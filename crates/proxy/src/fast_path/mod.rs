//! Responds to requests without Pingora's proxy: see
//! [`crate::connection::fast_path`].
//!
//! A request is decided on as in the proxy, but from a copy of its headers and before any byte of
//! it is read. A stored response, a file or a reply of the gateway is written at once. A request to
//! a backend is taken by the relay ([`super::relay`]) if that can reach the backend. Every other
//! request goes to the proxy, which continues with the decision.

mod http2;
#[cfg(test)]
mod tests;

use std::{any::Any, mem::MaybeUninit, sync::Arc};

use bytes::Bytes;
use edgeway_base::http::{has, has_token};
use edgeway_cache::store::Entry;
use edgeway_core::chain::Reply;
use edgeway_files::FileResponse;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Uri, Version, header, uri::PathAndQuery};
use pingora::{
    Error, Result,
    http::RequestHeader,
    protocols::{
        Stream,
        http::{ReusableHttpStream, v2::server::HttpSession},
    },
};
use pingora_proxy::{Session, SubrequestSpawner};

pub(super) use self::http2::take_up_stream;
use super::{
    Service,
    cache::{self, Flow},
    context::Context,
    decision::{self, Decision},
    direct::{DirectClient, ReroutedRequest},
    error::Failure,
    files,
    relay::{self, RelayOutcome},
    request_end, upstream,
};
use crate::{
    connection::{
        Connection,
        fast_path::{
            CarriedRequest, FastPathOutcome, FastPathService, RequestArrival, RequestOutline,
        },
        response_header::ConnectionReuse,
        response_queue::ResponseQueue,
    },
    live::Live,
};

/// Limit on headers of a request, the same as Pingora's.
const MAX_FIELDS: usize = 256;

/// Fast path around `service`.
pub struct FastPath {
    live: Arc<Live>,
    service: Arc<Service>,
    /// False if every request to a backend goes through Pingora's proxy, except for WebSockets:
    /// Pingora may end one whose 101 comes before it has marked the request as complete.
    relays: bool,
}

/// Request that was decided on without a session.
pub(super) struct DecidedRequest {
    ctx: Box<Context>,
    head: RequestHeader,
}

/// Request that the relay takes.
struct Arrived {
    /// Length of its header section.
    length: usize,
    has_body: bool,
    flow: Option<Box<Flow>>,
}

impl FastPath {
    pub fn new(live: &Arc<Live>, service: &Arc<Service>) -> Self {
        Self {
            live: Arc::clone(live),
            service: Arc::clone(service),
            relays: !is_relay_off(),
        }
    }

    async fn attempt(
        &self,
        mut stream: Stream,
        connection: Option<Arc<Connection>>,
        head: &Bytes,
        arrival: RequestArrival,
    ) -> FastPathOutcome<Stream> {
        let Some(mut request) = parse(head) else {
            // The bytes were scanned before, so Pingora must report the error.
            return FastPathOutcome::GoesOn(stream, None);
        };
        let has_tls = has_tls(connection.as_deref());
        let mut ctx = Box::new(Context::new(&self.live));
        let has_body = arrival.has_body;
        let course = decision::decide(&mut request, connection, has_body, &mut ctx).await;
        let rerouted = ReroutedRequest::new();
        match course {
            Decision::Stored(entry, None)
                if !has_body && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "stored");
                let mut client = DirectClient::http1(&mut stream, (&request, &rerouted), reuse);
                let is_kept = self.send(&mut client, &mut ctx, &entry).await && client.is_kept();
                give_back(stream, has_tls, is_kept).await
            }
            Decision::File(response)
                if !has_body && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "file");
                let mut client = DirectClient::http1(&mut stream, (&request, &rerouted), reuse);
                let is_sent = self.send_file(&mut client, &mut ctx, *response).await;
                let is_kept = is_sent && client.is_kept();
                give_back(stream, has_tls, is_kept).await
            }
            Decision::Reply(reply)
                if !has_body && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "reply");
                let mut client = DirectClient::http1(&mut stream, (&request, &rerouted), reuse);
                let is_sent = self.send_reply(&mut client, &mut ctx, *reply).await;
                let is_kept = is_sent && client.is_kept();
                give_back(stream, has_tls, is_kept).await
            }
            Decision::GoesOn(flow)
                if (self.relays || ctx.is_websocket)
                    && relay::takes(&request, flow.is_some(), &ctx)
                    && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "relay");
                self.live.http.relayed.inc();
                let arrived = Arrived {
                    length: head.len(),
                    has_body,
                    flow,
                };
                self.relay(stream, &request, ctx, arrived, reuse).await
            }
            Decision::GoesOn(_) | Decision::NeedsBody(_) | Decision::NeedsBeginning => {
                trace(&request, "proxy");
                if self.is_likely_served_here(&ctx) {
                    self.live.http.shortcuts_missed.inc();
                }
                ctx.course = Some(course);
                let head = request;
                FastPathOutcome::GoesOn(stream, Some(Box::new(DecidedRequest { ctx, head })))
            }
            course => {
                trace(&request, "session");
                ctx.course = Some(course);
                // Boxed: most responses are sent above, and each would carry the size of this
                // future.
                Box::pin(self.reply(stream, request, ctx, arrival)).await
            }
        }
    }

    /// Returns true if similar requests were recently served without a backend.
    fn is_likely_served_here(&self, ctx: &Context) -> bool {
        let fingerprint = ctx.connection.as_ref().map(|it| it.fingerprint());
        fingerprint.is_some_and(|fingerprint| self.live.lately.contains(fingerprint))
    }

    /// Sends a stored response without a session. Returns `false` if the client did not get all of
    /// it.
    async fn send(
        &self,
        client: &mut DirectClient<'_>,
        ctx: &mut Context,
        entry: &Arc<Entry>,
    ) -> bool {
        let sent = cache::send_direct(client, ctx, entry).await;
        self.sent(client, ctx, sent)
    }

    /// Sends a file without a session. Returns `false` if the client did not get all of it.
    async fn send_file(
        &self,
        client: &mut DirectClient<'_>,
        ctx: &mut Context,
        response: FileResponse,
    ) -> bool {
        // Boxed, because otherwise every request's future would be as large.
        let sent = Box::pin(files::send_direct(client, ctx, response, None)).await;
        self.sent(client, ctx, sent)
    }

    /// Sends a reply of the gateway without a session. Returns `false` if the client did not get all
    /// of it.
    async fn send_reply(
        &self,
        client: &mut DirectClient<'_>,
        ctx: &mut Context,
        reply: Reply,
    ) -> bool {
        let sent = client.reply(ctx, reply).await;
        self.sent(client, ctx, sent)
    }

    /// Ends a request whose response was `sent`. Returns `false` if the client did not get all of
    /// it.
    fn sent(&self, client: &DirectClient<'_>, ctx: &mut Context, sent: Result<()>) -> bool {
        let live = &self.live;
        let sent = sent.map_err(request_end::of_client);
        decision::remember(live, ctx, sent.is_ok());
        let status = client.status;
        if let Err(error) = &sent {
            request_end::broke_off(error, status, ctx);
            request_end::break_off(ctx);
        }
        upstream::over(ctx);
        let passed = request_end::TransferResults {
            request: client.request,
            sent: client.sent,
            received: 0,
            status,
        };
        request_end::log(live, &passed, ctx);
        sent.is_ok()
    }

    /// Sends the request to a backend, and its response to the client.
    async fn relay(
        &self,
        mut stream: Stream,
        request: &RequestHeader,
        mut ctx: Box<Context>,
        arrived: Arrived,
        reuse: ConnectionReuse,
    ) -> FastPathOutcome<Stream> {
        // What is left of a body must be read before the connection is closed.
        let shuts_down = has_tls(ctx.connection.as_deref()) || arrived.has_body;
        let rerouted = ReroutedRequest::new();
        let mut client = DirectClient::http1(&mut stream, (request, &rerouted), reuse);
        let outcome = match client.skip_header_section(arrived.length).await {
            Ok(()) => relay::run(&mut client, arrived.has_body, arrived.flow, &mut ctx).await,
            Err(error) => {
                request_end::broke_off(&error.into_down(), None, &mut ctx);
                RelayOutcome::default()
            }
        };
        self.relayed(&client, &outcome, &mut ctx);
        let is_kept = outcome.is_complete && client.is_kept();
        give_back(stream, shuts_down, is_kept).await
    }

    /// Ends a request that was relayed.
    fn relayed(&self, client: &DirectClient<'_>, outcome: &RelayOutcome, ctx: &mut Context) {
        upstream::over(ctx);
        let passed = request_end::TransferResults {
            request: client.request,
            sent: client.sent,
            received: outcome.received,
            status: client.status,
        };
        request_end::log(&self.live, &passed, ctx);
        if ctx.cache.is_some() {
            let spawner = SubrequestSpawner::new(Arc::clone(&self.service) as _);
            cache::follow_up(Some(spawner), client.request, ctx);
        }
    }

    /// Sends a reply through a session, which reads the request headers again.
    async fn reply(
        &self,
        stream: Stream,
        request: RequestHeader,
        mut ctx: Box<Context>,
        arrival: RequestArrival,
    ) -> FastPathOutcome<Stream> {
        let mut session = Session::new_h1(stream);
        let client = &mut session.downstream_session;
        client.set_keepalive_reuses_remaining(Some(arrival.left));
        if !matches!(client.read_request().await, Ok(true)) {
            log::error!("parsed request headers rejected by Pingora");
            decision::remember(&self.live, &ctx, false);
            ctx.facts.reason = Some(Failure::Internal.reason());
            upstream::over(&mut ctx);
            let passed = request_end::TransferResults {
                request: &request,
                sent: 0,
                received: 0,
                status: Some(Failure::Internal.status()),
            };
            request_end::log(&self.live, &passed, &mut ctx);
            return FastPathOutcome::Over(None);
        }
        *session.req_header_mut() = request;
        if arrival.is_stopping {
            session.set_keepalive(None);
        }
        if ctx.gateway.cache.is_some() {
            let service = Arc::clone(&self.service);
            session.subrequest_spawner = Some(SubrequestSpawner::new(service));
        }
        match decision::run(&self.live, &mut session, &mut ctx).await {
            Ok(_) => self.over(session, &mut ctx).await,
            Err(error) => self.failed(session, &mut ctx, &error).await,
        }
    }

    async fn over(&self, session: Session, ctx: &mut Context) -> FastPathOutcome<Stream> {
        upstream::over(ctx);
        request_end::log(&self.live, &request_end::TransferResults::of(&session), ctx);
        FastPathOutcome::Over(finish(session).await)
    }

    async fn failed(
        &self,
        mut session: Session,
        ctx: &mut Context,
        error: &Error,
    ) -> FastPathOutcome<Stream> {
        let live = &self.live;
        let failed = request_end::failed(live, &mut session, error, ctx).await;
        upstream::over(ctx);
        request_end::log(live, &request_end::TransferResults::of(&session), ctx);
        let stream = if failed.can_reuse_downstream {
            finish(session).await
        } else {
            None
        };
        FastPathOutcome::Over(stream)
    }
}

/// Returns true unless the connection is known to have no TLS.
fn has_tls(connection: Option<&Connection>) -> bool {
    connection.is_none_or(|connection| connection.tls.is_some())
}

/// Ends a request whose response was written directly. A connection that is not kept is closed.
async fn give_back(mut stream: Stream, shuts_down: bool, is_kept: bool) -> FastPathOutcome<Stream> {
    if is_kept {
        return FastPathOutcome::Over(Some(stream));
    }
    // Without TLS and a body, closing says the same as shutting down before it, in one call.
    if shuts_down {
        stream.shutdown().await;
    } else if let Err(error) = tokio::io::AsyncWriteExt::flush(&mut stream).await {
        log::debug!(error:%; "client left before its response was complete");
    }
    FastPathOutcome::Over(None)
}

/// Returns true if the environment rules the relay out.
fn is_relay_off() -> bool {
    let value = std::env::var("EDGEWAY_RELAY").unwrap_or_default();
    ["off", "0", "false", "no"]
        .iter()
        .any(|off| value.eq_ignore_ascii_case(off))
}

/// Logs the exit that a request takes: `stored`, `file`, `reply`, `relay`, `session` or `proxy`. The query stays out of
/// the log, since it may hold a token.
fn trace(request: &RequestHeader, exit: &'static str) {
    log::debug!(path = request.uri.path(), exit; "request on the fast path");
}

/// Parses the request headers as Pingora does, except for the spelling of their names. Returns `None`
/// if Pingora reads them: what is wrong with them, or an unusual target.
fn parse(head: &Bytes) -> Option<RequestHeader> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut read = httparse::Request::new(&mut []);
    read.parse_with_uninit_headers(head, &mut room).ok()?;
    let version = match read.version? {
        1 => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let fields = read.headers.iter().map(|field| {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
        Some((name, value))
    });
    let (method, target) = (read.method?, read.path?);
    if !target.starts_with('/') || !target.is_ascii() {
        // Rare, and left to Pingora's session, which cannot take a WebSocket. The form of requests
        // to proxies (RFC 9112, 3.2.2) is the same request as one to the path.
        let mut names = read.headers.iter().map(|field| field.name);
        let is_absolute = target.is_ascii() && target.contains("://");
        if !is_absolute && !names.any(|name| name.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        let mut request =
            RequestHeader::build_no_case(method, target.as_bytes(), Some(fields.len())).ok()?;
        request.set_version(version);
        for field in fields {
            let (name, value) = field?;
            request.append_header(name, value).ok()?;
        }
        return Some(request);
    }
    // The URI keeps the target byte for byte.
    let target = PathAndQuery::from_maybe_shared(head.slice_ref(target.as_bytes())).ok()?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).ok()?;
    parts.uri = Uri::from(target);
    parts.version = version;
    parts.headers.reserve(fields.len());
    for field in fields {
        let (name, value) = field?;
        parts.headers.append(name, value);
    }
    Some(RequestHeader::from(parts))
}

/// Returns the use of the connection after this response, or `None` if Pingora decides.
fn reuse(
    request: &RequestHeader,
    ctx: &Context,
    arrival: RequestArrival,
) -> Option<ConnectionReuse> {
    let is_kept = if ctx.is_websocket {
        // For the case that the backend refuses it.
        !has_token(&request.headers, &header::CONNECTION, "close")
    } else {
        asks_keep_alive(request)?
    };
    let connection = ctx.connection.as_ref()?;
    let is_last = arrival.left == 0 || arrival.is_stopping || connection.listener.is_draining();
    Some(if is_kept && !is_last {
        ConnectionReuse::KeepAlive
    } else {
        ConnectionReuse::Close
    })
}

/// Returns the client's choice about the connection (RFC 9112, 9.3), if it is an unambiguous one.
fn asks_keep_alive(request: &RequestHeader) -> Option<bool> {
    let is_http11 = request.version == Version::HTTP_11;
    if !has(&request.headers, &header::CONNECTION) {
        return Some(is_http11);
    }
    let mut lines = request.headers.get_all(header::CONNECTION).iter();
    let first = lines.next().map(HeaderValue::as_bytes);
    if lines.next().is_some() {
        return None;
    }
    match first {
        None => Some(is_http11),
        Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => Some(true),
        Some(value) if value.eq_ignore_ascii_case(b"close") => Some(false),
        Some(value) => asks_upgrade(value, is_http11),
    }
}

/// Returns the choice of a client that asks for another protocol as well, as browsers do
/// (`keep-alive, Upgrade`). Without that protocol, the connection is one like any other.
fn asks_upgrade(value: &[u8], is_http11: bool) -> Option<bool> {
    let mut is_kept = is_http11;
    for option in value.split(|byte| *byte == b',') {
        match option.trim_ascii() {
            option if option.eq_ignore_ascii_case(b"keep-alive") => is_kept = true,
            option if option.eq_ignore_ascii_case(b"upgrade") => {}
            _ => return None,
        }
    }
    Some(is_kept)
}

/// Returns the connection that `stream` belongs to.
pub(super) fn connection(stream: &Stream) -> Option<Arc<Connection>> {
    let digest = stream.get_proxy_digest()?;
    let connection = digest.user_data.as_ref()?;
    connection.downcast_ref::<Arc<Connection>>().map(Arc::clone)
}

async fn finish(session: Session) -> Option<Stream> {
    // Errors here are caused by the client, which is gone.
    let stream: Option<ReusableHttpStream> = session.downstream_session.finish().await.ok()?;
    Some(stream?.into_parts().0)
}

/// Continues a request that the fast path began, with its decision so far.
pub(super) fn take_up(
    session: &mut Session,
    ctx: &mut Box<Context>,
    carried: Box<dyn Any + Send + Sync>,
) {
    let Ok(carried) = carried.downcast::<DecidedRequest>() else {
        return;
    };
    let DecidedRequest { ctx: begun, head } = *carried;
    *session.req_header_mut() = head;
    *ctx = begun;
}

impl FastPathService<Stream, HttpSession> for FastPath {
    fn suits(&self, request: RequestOutline) -> bool {
        self.live.lately.contains(request.fingerprint)
            || (self.relays && self.live.has_relay())
            || request.wants_upgrade
    }

    fn attempt<'a>(
        &'a self,
        stream: Stream,
        connection: Arc<Connection>,
        head: &'a Bytes,
        arrival: RequestArrival,
    ) -> BoxFuture<'a, FastPathOutcome<Stream>> {
        Box::pin(self.attempt(stream, Some(connection), head, arrival))
    }

    fn attempt_stream<'a>(
        &'a self,
        session: HttpSession,
        connection: &'a Arc<Connection>,
        responses: &'a ResponseQueue,
    ) -> BoxFuture<'a, Option<(HttpSession, CarriedRequest)>> {
        Box::pin(self.attempt_stream(session, connection, responses))
    }
}
