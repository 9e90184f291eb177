//! Responds to requests without Pingora's proxy: see
//! [`crate::connection::fast_path`].
//!
//! A request is decided on as in the proxy, but from a copy of its headers and before any byte of
//! it is read. A stored response or a file is written at once. A request to a backend is taken by the
//! relay ([`super::relay`]) if that can reach the backend. Another reply of the gateway gets a session.
//! Every other request goes to the proxy, which continues with the decision.

use std::{any::Any, mem::MaybeUninit, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Uri, Version, header, uri::PathAndQuery};
use pingora::{
    Error, Result,
    http::RequestHeader,
    protocols::{Stream, http::ReusableHttpStream},
};
use pingora_proxy::{Session, SubrequestSpawner};

use super::{
    Service, cache,
    context::Context,
    decision::{self, Decision},
    direct::DirectClient,
    error::Failure,
    files,
    relay::{self, RelayOutcome},
    request_end, upstream,
};
use crate::{
    base::http::has,
    cache::store::Entry,
    connection::{
        Connection,
        fast_path::{FastPathOutcome, FastPathService, RequestArrival, RequestOutline},
        response_header::ConnectionReuse,
    },
    files::FileResponse,
    live::Live,
};

/// Bound on header fields. A request with more of them is left to the session.
const MAX_FIELDS: usize = 64;

/// Fast path around `service`.
pub(crate) struct FastPath {
    live: Arc<Live>,
    service: Arc<Service>,
    /// False if every request to a backend goes through Pingora's proxy.
    relays: bool,
}

/// Request that was decided on without a session.
pub(super) struct DecidedRequest {
    ctx: Box<Context>,
    head: RequestHeader,
}

impl FastPath {
    pub(crate) fn new(live: &Arc<Live>, service: &Arc<Service>) -> Self {
        Self {
            live: Arc::clone(live),
            service: Arc::clone(service),
            relays: !is_relay_off(),
        }
    }

    async fn attempt(
        &self,
        mut stream: Stream,
        head: &Bytes,
        arrival: RequestArrival,
    ) -> FastPathOutcome<Stream> {
        let Some(mut request) = parse(head) else {
            // The bytes were scanned before, so Pingora must report the error.
            return FastPathOutcome::GoesOn(stream, None);
        };
        let connection = connection(&stream);
        let mut ctx = Box::new(Context::new(&self.live));
        let has_body = arrival.has_body;
        let course = decision::decide(&mut request, connection, has_body, &mut ctx).await;
        match course {
            Decision::Stored(entry, None)
                if !has_body && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "stored");
                let mut client = DirectClient::new(&mut stream, &request, reuse);
                let is_kept = self.send(&mut client, &mut ctx, &entry).await && client.is_kept();
                give_back(stream, is_kept).await
            }
            Decision::File(response)
                if !has_body && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "file");
                let mut client = DirectClient::new(&mut stream, &request, reuse);
                let is_sent = self.send_file(&mut client, &mut ctx, *response).await;
                let is_kept = is_sent && client.is_kept();
                give_back(stream, is_kept).await
            }
            Decision::GoesOn(None)
                if self.relays
                    && relay::takes(&ctx)
                    && let Some(reuse) = reuse(&request, &ctx, arrival) =>
            {
                trace(&request, "relay");
                self.live.http.relayed.inc();
                // Boxed: it is as large as everything that may happen on the way to a backend.
                let arrived = (head.len(), arrival.has_body);
                Box::pin(self.relay(stream, &request, ctx, arrived, reuse)).await
            }
            Decision::GoesOn(_) | Decision::NeedsBody(_) => {
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
        let sent = files::send_direct(client, ctx, response).await;
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

    /// Sends the request to a backend, and its response to the client. The header section has
    /// `length` bytes.
    async fn relay(
        &self,
        mut stream: Stream,
        request: &RequestHeader,
        mut ctx: Box<Context>,
        (length, has_body): (usize, bool),
        reuse: ConnectionReuse,
    ) -> FastPathOutcome<Stream> {
        let mut client = DirectClient::new(&mut stream, request, reuse);
        let outcome = match client.skip_header_section(length).await {
            Ok(()) => relay::run(&mut client, has_body, &mut ctx).await,
            Err(error) => {
                request_end::broke_off(&error.into_down(), None, &mut ctx);
                RelayOutcome::default()
            }
        };
        upstream::over(&mut ctx);
        let passed = request_end::TransferResults {
            request,
            sent: client.sent,
            received: outcome.received,
            status: client.status,
        };
        request_end::log(&self.live, &passed, &mut ctx);
        let is_kept = outcome.is_complete && client.is_kept();
        give_back(stream, is_kept).await
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

/// Ends a request whose response was written directly. A connection that is not kept is closed.
async fn give_back(mut stream: Stream, is_kept: bool) -> FastPathOutcome<Stream> {
    if is_kept {
        return FastPathOutcome::Over(Some(stream));
    }
    stream.shutdown().await;
    FastPathOutcome::Over(None)
}

/// Returns true if the environment rules the relay out.
fn is_relay_off() -> bool {
    let value = std::env::var("EDGEWAY_RELAY").unwrap_or_default();
    ["off", "0", "false", "no"]
        .iter()
        .any(|off| value.eq_ignore_ascii_case(off))
}

/// Logs the exit that a request takes: `stored`, `file`, `session` or `proxy`. The query stays out of
/// the log, since it may hold a token.
fn trace(request: &RequestHeader, exit: &'static str) {
    log::debug!(path = request.uri.path(), exit; "request on the fast path");
}

/// Parses the request headers as Pingora does, except for the spelling of their names.
fn parse(head: &Bytes) -> Option<RequestHeader> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut read = httparse::Request::new(&mut []);
    read.parse_with_uninit_headers(head, &mut room).ok()?;
    // The URI keeps the target byte for byte.
    let target = read
        .path
        .filter(|target| target.starts_with('/') && target.is_ascii())?;
    let target = PathAndQuery::from_maybe_shared(head.slice_ref(target.as_bytes())).ok()?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(read.method?.as_bytes()).ok()?;
    parts.uri = Uri::from(target);
    parts.version = match read.version? {
        1 => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    parts.headers.reserve(read.headers.len());
    for field in read.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
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
    let is_kept = asks_keep_alive(request)?;
    let connection = ctx.connection.as_ref()?;
    let is_last = arrival.left == 0 || arrival.is_stopping || connection.listener.is_draining();
    Some(if is_kept && !is_last {
        ConnectionReuse::KeepAlive
    } else {
        ConnectionReuse::Close
    })
}

/// Returns the client's choice about the connection, if it is an unambiguous one.
fn asks_keep_alive(request: &RequestHeader) -> Option<bool> {
    if request.version != Version::HTTP_11 {
        return None;
    }
    if !has(&request.headers, &header::CONNECTION) {
        return Some(true);
    }
    let mut lines = request.headers.get_all(header::CONNECTION).iter();
    let first = lines.next().map(HeaderValue::as_bytes);
    if lines.next().is_some() {
        return None;
    }
    match first {
        None => Some(true),
        Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => Some(true),
        Some(value) if value.eq_ignore_ascii_case(b"close") => Some(false),
        Some(_) => None,
    }
}

/// Returns the connection that `stream` belongs to.
fn connection(stream: &Stream) -> Option<Arc<Connection>> {
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

impl FastPathService<Stream> for FastPath {
    fn suits(&self, request: RequestOutline) -> bool {
        self.live.lately.contains(request.fingerprint)
            || (!request.wants_more && self.relays && self.live.has_relay())
    }

    fn attempt<'a>(
        &'a self,
        stream: Stream,
        head: &'a Bytes,
        arrival: RequestArrival,
    ) -> BoxFuture<'a, FastPathOutcome<Stream>> {
        Box::pin(self.attempt(stream, head, arrival))
    }
}

#[cfg(test)]
mod tests {
    use pingora::protocols::{http::ServerSession, l4::stream::Stream as Socket};
    use proptest::prelude::*;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;
    use crate::gateway::{World, compile, load_text};

    #[tokio::test]
    async fn a_request_that_pingora_rejects_after_all_is_counted() {
        let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                    routes: [{ name: all, match: {}, respond: ok }]\n";
        let file = load_text("t.yaml", yaml).file.unwrap();
        let world = World::default();
        let metrics = world.metrics.clone();
        let gateway = compile(&file, std::path::Path::new("."), &world).0;
        let live = Arc::new(Live::new(gateway.unwrap(), world));
        let service = Arc::new(super::super::service(&live));
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Pingora finds the end of the stream where the headers were. Without a connection of the
        // edge, the request has no route.
        drop(theirs);
        let head = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
        let arrival = RequestArrival {
            left: 1,
            is_stopping: false,
            has_body: false,
        };
        let stream: Stream = Box::new(Socket::from(ours));
        let fast_path = FastPath::new(&live, &service);
        let outcome = fast_path.attempt(stream, &head, arrival).await;
        assert!(matches!(outcome, FastPathOutcome::Over(None)));
        let page = String::from_utf8(metrics.text()).unwrap();
        for line in [
            "edgeway_http_requests_total{method=\"GET\",route=\"(none)\",status=\"500\"} 1",
            "edgeway_refused_total{reason=\"internal\",route=\"(none)\"} 1",
            "edgeway_http_in_flight 0",
        ] {
            assert!(page.lines().any(|own| own == line), "{line}:\n{page}");
        }
    }

    async fn read_by_pingora(head: &[u8]) -> RequestHeader {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(head).await.unwrap();
        let mut session = ServerSession::new_http1(Box::new(Socket::from(ours)));
        assert!(session.read_request().await.unwrap());
        session.req_header().clone()
    }

    #[track_caller]
    fn check(head: &str) {
        let read = parse(&Bytes::copy_from_slice(head.as_bytes())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let pingoras = runtime.block_on(read_by_pingora(head.as_bytes()));
        assert_eq!(read.method, pingoras.method);
        assert_eq!(read.version, pingoras.version);
        assert_eq!(read.raw_path(), pingoras.raw_path());
        assert_eq!(read.uri, pingoras.uri);
        assert_eq!(read.headers, pingoras.headers);
    }

    proptest! {
        #[test]
        fn a_head_is_parsed_as_pingora_parses_it(
            target in r"/[!$%&'()*+,./0-9:;=@A-Z\[\]^_a-z{|}~-]{0,40}(\?[!$-;=?-~]{0,40})?",
            version in 0..2,
            lines in proptest::collection::vec(
                "(x[a-zA-Z0-9!$*_.|~-]{0,20}|Cookie|accept):[ \t]?[ -~\t\u{a1}-\u{ff}]{0,40}\r\n",
                0..12,
            ),
        ) {
            let lines = lines.concat();
            check(&format!("GET {target} HTTP/1.{version}\r\nHost: a.test\r\n{lines}\r\n"));
        }
    }

    #[test]
    fn an_ambiguous_connection_header_is_left_to_pingora() {
        let wants = |lines: &str| {
            let head = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{lines}\r\n");
            asks_keep_alive(&parse(&Bytes::from(head)).unwrap())
        };
        assert_eq!(wants(""), Some(true));
        assert_eq!(wants("connection: Keep-Alive\r\n"), Some(true));
        assert_eq!(wants("Connection: CLOSE\r\n"), Some(false));
        assert_eq!(wants("connection: close, x-a\r\n"), None);
        assert_eq!(
            wants("connection: keep-alive\r\nconnection: close\r\n"),
            None
        );
        assert_eq!(
            wants("connection: close\r\nx: y\r\nconnection: close\r\n"),
            None
        );
        let old = Bytes::from_static(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(asks_keep_alive(&parse(&old).unwrap()), None);
    }

    #[test]
    fn an_unusual_head_is_left_to_pingora() {
        let of = |head: &str| parse(&Bytes::copy_from_slice(head.as_bytes()));
        assert!(of("GET http://a.test/x HTTP/1.1\r\nhost: a.test\r\n\r\n").is_none());
        assert!(of("GET * HTTP/1.1\r\nhost: a.test\r\n\r\n").is_none());
        assert!(of("GET /\u{e9} HTTP/1.1\r\nhost: a.test\r\n\r\n").is_none());
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert!(of(&format!("GET / HTTP/1.1\r\n{many}\r\n")).is_none());
        check(&format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(MAX_FIELDS)
        ));
    }
}
