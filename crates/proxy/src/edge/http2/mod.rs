//! HTTP/2 on one connection: its streams, each a request of its own, and its end.
//!
//! The `h2` crate handles frames, and Pingora handles requests. The loop between them is part of
//! the gateway, so that each listener has its own limits, and the client of a connection that is
//! old, idle or hostile gets a GOAWAY before it is closed.
//!
//! Response headers are encoded here ([`writer`]).

mod hpack;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    future::poll_fn,
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use edgeway_gateway::Listener;
use h2::{Reason, server};
use http::HeaderMap;
use pingora::{
    apps::HttpServerApp,
    protocols::{
        Digest, GetProxyDigest, Stream,
        http::{
            ServerSession,
            v2::server::{H2Accept, HttpSession},
        },
    },
};
use tokio_util::task::TaskTracker;

pub(super) use self::writer::{FIRST_SETTINGS, FrameWriter};
use super::{conn::ConnIo, frames::FrameLimits, serve::Shared};
use crate::connection::{
    CloseReason, Connection, fast_path, http2::Streams, response_queue::ResponseQueue,
};

/// Flow-control window of a stream: bytes of a request body that a client may send before they are
/// read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that wait for the client, in addition to those that the backend holds.
const SEND_BUFFER: usize = 32 * 1024;
/// Number of requests after which the end of a connection is looked for although more requests are
/// there.
const TURN: u32 = 32;
/// Limit on malformed requests on one connection before it is closed; the same number as Pingora's.
const MALFORMED: u32 = 32;
/// Size that each header counts in addition to its bytes (RFC 9113, 6.5.2).
const HEADER_OVERHEAD: usize = 32;
/// Number of pseudo-headers, which the limit on headers does not count.
const PSEUDO_HEADERS: usize = 4;
/// Time that a client may take to read the GOAWAY of its connection.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the maximum size of a request's header list. It is twice the configured limit: a list
/// that is slightly too long gets a response of the gateway and a log line, and a longer one the
/// response of the crate.
fn header_list(listener: &Listener) -> usize {
    let limits = &listener.limits;
    let count = limits.header_count.saturating_add(PSEUDO_HEADERS);
    let overhead = count.saturating_mul(HEADER_OVERHEAD);
    limits.headers.saturating_add(overhead).saturating_mul(2)
}

/// Returns the frame limits for connections of a listener.
pub(super) fn frame_limits(listener: &Listener) -> FrameLimits {
    FrameLimits::new(&listener.http2, header_list(listener))
}

fn options(listener: &Listener) -> server::Builder {
    let resets = usize::try_from(listener.http2.resets).unwrap_or(usize::MAX);
    let mut options = server::Builder::new();
    options
        .max_concurrent_streams(listener.http2.concurrent_streams)
        .max_header_list_size(u32::try_from(header_list(listener)).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        // Resets by the client are counted with its frames. These limits apply to resets that the
        // client causes the gateway to send, and to those within a single read.
        .max_pending_accept_reset_streams(resets)
        .max_local_error_reset_streams(Some(resets));
    options
}

/// Reason why the loop of a connection ended.
enum LoopEnd {
    /// Both sides have finished.
    Closed,
    /// The gateway closes the connection.
    Cut(CloseReason),
    /// The bytes are not HTTP/2, or exceed a limit of `h2`.
    Failed(&'static str),
    /// The client has closed the connection.
    Gone,
}

/// Serves the connection to its end.
pub(super) async fn serve<A>(shared: &Arc<Shared<A>>, io: Box<ConnIo>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let connection = Arc::clone(io.connection());
    let digest = Arc::new(Digest {
        ssl_digest: None,
        timing_digest: Vec::new(),
        proxy_digest: io.get_proxy_digest(),
        // The addresses are those of the `Connection`.
        socket_digest: None,
    });
    let responses = io.responses();
    let streams = TaskTracker::new();
    let ended = match Box::pin(handshake(&connection, io)).await {
        Ok(mut frames) => {
            let ended = accept(
                shared,
                (&connection, &responses),
                &digest,
                &mut frames,
                &streams,
            );
            let ended = ended.await;
            if let LoopEnd::Cut(cut) = ended {
                say_why(&mut frames, cut).await;
            }
            ended
        }
        Err(ended) => ended,
    };
    // Requests in flight detect that their client is gone, and end with their log line.
    streams.close();
    streams.wait().await;
    match ended {
        LoopEnd::Cut(cut) if connection.report_close() => {
            shared.refuser.ended(&connection, cut.reason());
        }
        LoopEnd::Failed(reason) => shared.refuser.ended(&connection, reason),
        LoopEnd::Cut(_) | LoopEnd::Closed | LoopEnd::Gone => {}
    }
}

type Frames = server::Connection<Stream, Bytes>;

/// Exchanges the connection prefaces. The result and this future are boxed: each has the size of
/// the whole state of `h2`, which an idle connection would otherwise hold several times.
async fn handshake(connection: &Connection, io: Box<ConnIo>) -> Result<Box<Frames>, LoopEnd> {
    let handshake = options(&connection.listener.config()).handshake(io as Stream);
    match until_cut(connection, handshake).await {
        Ok(Ok(frames)) => Ok(Box::new(frames)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(cut) => Err(LoopEnd::Cut(cut)),
    }
}

/// Accepts one stream after the other.
async fn accept<A>(
    shared: &Arc<Shared<A>>,
    (connection, responses): (&Arc<Connection>, &Arc<ResponseQueue>),
    digest: &Arc<Digest>,
    frames: &mut Frames,
    streams: &TaskTracker,
) -> LoopEnd
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let listener = connection.listener.config().clone();
    let mut stop = shared.stop.clone();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut old = pin!(tokio::time::sleep(listener.http2.max_age.0));
    // `h2` counts the streams that are open to the client, but not those that were just reset and
    // are not finished yet.
    let most_streams = usize::try_from(listener.http2.concurrent_streams)
        .map_or(usize::MAX, |most| most.saturating_mul(2));
    let mut is_leaving = false;
    let mut requests = 0;
    let mut malformed = 0;
    // Number of streams that `h2` returned.
    let mut returned = 0;
    loop {
        let accepted = {
            let next = HttpSession::from_h2_conn(frames, Arc::clone(digest));
            let mut next = pin!(until_cut(connection, next));
            // A client that always has another request does not keep the connection from its end.
            let mut is_turn = requests % TURN == 0;
            // `h2` has handled everything that was read before it returns a stream. If it returned
            // all of them, there is nothing to do before this task is woken.
            let mut may_rest =
                returned > 0 && returned == connection.streams.header_blocks() && !is_leaving;
            let accepted = poll_fn(|cx| {
                let mut is_over = |cx: &mut Context<'_>| {
                    !is_leaving
                        && (stopped.as_mut().poll(cx).is_ready()
                            || old.as_mut().poll(cx).is_ready())
                };
                if mem::take(&mut is_turn) && is_over(cx) {
                    return Poll::Ready(None);
                }
                if mem::take(&mut may_rest) {
                    return Poll::Pending;
                }
                match next.as_mut().poll(cx) {
                    Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                    Poll::Pending if is_over(cx) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            accepted.await
        };
        let Some(accepted) = accepted else {
            is_leaving = true;
            frames.graceful_shutdown();
            continue;
        };
        returned += u64::from(matches!(accepted, Ok(Ok(Some(_)))));
        match accepted {
            Err(cut) => return LoopEnd::Cut(cut),
            Ok(Ok(None)) => return LoopEnd::Closed,
            Ok(Err(error)) => {
                let root = error.root_cause().downcast_ref::<h2::Error>();
                return root.map_or(LoopEnd::Gone, failed);
            }
            Ok(Ok(Some(H2Accept::Rejected))) => {
                shared.refuser.stream_refused(connection, "h2_malformed");
                malformed += 1;
                if malformed >= MALFORMED {
                    return LoopEnd::Cut(CloseReason::Malformed);
                }
            }
            Ok(Ok(Some(H2Accept::Session(mut session)))) => {
                if has_space_around(&session.req_header().headers) {
                    // RFC 9113, 8.1.1: an error of one stream does not affect the others.
                    session.shutdown_with_reason(Reason::PROTOCOL_ERROR);
                    shared.refuser.stream_refused(connection, "h2_malformed");
                    malformed += 1;
                    if malformed >= MALFORMED {
                        return LoopEnd::Cut(CloseReason::Malformed);
                    }
                    continue;
                }
                if connection.streams.has_resets() && is_reset(&mut session) {
                    // It costs no more than this, however many there are.
                    shared.refuser.stream_refused(connection, "client_gone");
                    continue;
                }
                if streams.len() >= most_streams {
                    // Safe to retry (RFC 9113, 8.7).
                    session.shutdown_with_reason(Reason::REFUSED_STREAM);
                    shared.refuser.stream_refused(connection, "h2_streams");
                    continue;
                }
                let open = Streams::begin(connection);
                let (shared, responses) = (Arc::clone(shared), Arc::clone(responses));
                // Boxed: on its way into a task a future is moved several times.
                streams.spawn(Box::pin(async move {
                    let fast_path = &shared.fast_path;
                    let attempt = fast_path.attempt_stream(session, open.connection(), &responses);
                    if let Some((session, begun)) = attempt.await {
                        let session = ServerSession::new_http2(session);
                        let work = shared.app.process_new_http(session, &shared.stop);
                        // The stream cannot be reused.
                        drop(fast_path::carry(begun, work).await);
                    }
                    drop(open);
                }));
            }
        }
        requests += 1;
        // Headers that wait belong to open streams, or to some that were reset at a bad moment.
        let has_too_many = responses.len() > most_streams;
        if (requests >= listener.http2.streams || has_too_many) && !is_leaving {
            is_leaving = true;
            frames.graceful_shutdown();
        }
    }
}

/// Returns true if a value begins or ends with a space or a tab (RFC 9113, 8.2.1): a recipient that
/// trims it sees another value than one that does not.
fn has_space_around(headers: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().any(|value| {
        let value = value.as_bytes();
        is_space(value.first()) || is_space(value.last())
    })
}

/// Returns true if the client has already reset the request: frames that arrived in the same read
/// were processed before the request was returned.
fn is_reset(session: &mut HttpSession) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(session.idle()).poll(&mut cx).is_ready()
}

/// Runs `work` until it is done or the connection is to be closed.
async fn until_cut<T>(
    connection: &Connection,
    work: impl Future<Output = T>,
) -> Result<T, CloseReason> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        // Closing a connection ends its reads, and so wakes this task.
        Poll::Pending => match connection.close_reason() {
            Some(cut) => Poll::Ready(Err(cut)),
            None => Poll::Pending,
        },
    })
    .await
}

/// Sends a GOAWAY to the client, if it still reads.
async fn say_why(frames: &mut Frames, cut: CloseReason) {
    frames.abrupt_shutdown(if cut.is_flood() {
        Reason::ENHANCE_YOUR_CALM
    } else {
        Reason::NO_ERROR
    });
    let closed = poll_fn(|cx| frames.poll_closed(cx));
    if let Ok(Err(error)) = tokio::time::timeout(GOAWAY_TIMEOUT, closed).await {
        log::debug!(error:%; "client left before the close reason was sent");
    }
}

fn failed(error: &h2::Error) -> LoopEnd {
    if !error.is_library() {
        return LoopEnd::Gone;
    }
    LoopEnd::Failed(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => "h2_calm",
        _ => "h2_protocol",
    })
}
