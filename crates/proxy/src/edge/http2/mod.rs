//! HTTP/2 on one connection: its streams, each a request of its own, and its end.
//!
//! The `h2` crate handles frames, and each request is a session. The loop between them gives each
//! listener its own limits, and the client of a connection that is old, idle or hostile a GOAWAY
//! before it is closed.

mod request;

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
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use pingora::http::RequestHeader;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::request::Malformed;
use super::{conn::ConnIo, frames::FrameLimits, serve::Shared};
use crate::{
    connection::{CloseReason, Connection, http2::Streams},
    refuse,
    session::{Client, Http2Stream, SEND_BUFFER},
};

/// Flow-control window of a stream: bytes of a request body that a client may send before they are
/// read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Limit on the flow-control window of a connection: bytes of memory that one client may use for
/// bodies that no app reads.
const MAX_WINDOW: u32 = 8 * 1024 * 1024;
/// Number of requests after which the end of a connection is looked for although more requests are
/// there.
const TURN: u32 = 32;
/// Limit on malformed requests on one connection before it is closed.
const MALFORMED: u32 = 32;
/// Size that each header counts in addition to its bytes (RFC 9113, 6.5.2).
const HEADER_OVERHEAD: u32 = 32;
/// Number of pseudo-headers, which the limit on headers does not count.
const PSEUDO_HEADERS: u32 = 4;
/// Time that a client may take to read the GOAWAY of its connection, and to acknowledge it.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the maximum size of a request's header list. It is twice the configured limit: a list
/// that is slightly too long gets a response of the gateway and a log line, and a longer one the
/// response of the crate.
fn header_list(listener: &Listener) -> u32 {
    let limits = &listener.limits;
    let count = limits.header_count.saturating_add(PSEUDO_HEADERS);
    let overhead = count.saturating_mul(HEADER_OVERHEAD);
    let headers = u32::try_from(limits.headers().0).unwrap_or(u32::MAX);
    headers.saturating_add(overhead).saturating_mul(2)
}

/// Returns the frame limits for connections of a listener.
pub(super) fn frame_limits(listener: &Listener) -> FrameLimits {
    FrameLimits::new(&listener.http2, header_list(listener))
}

fn options(listener: &Listener) -> server::Builder {
    let streams = listener.http2.concurrent_streams;
    // Up to 32 requests whose bodies are not read hold up no other.
    let connection_window = streams.saturating_mul(STREAM_WINDOW).min(MAX_WINDOW);
    let resets = usize::try_from(listener.http2.resets).unwrap_or(usize::MAX);
    let mut options = server::Builder::new();
    options
        .max_concurrent_streams(streams)
        .max_header_list_size(header_list(listener))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
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
pub(super) async fn serve(shared: &Arc<Shared>, io: Box<ConnIo>) {
    let connection = Arc::clone(io.connection());
    let streams = TaskTracker::new();
    let ended = match Box::pin(handshake(&connection, io)).await {
        Ok(mut frames) => {
            let ended = accept(shared, &connection, &mut frames, &streams).await;
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
            refuse::ended(shared.live(), &connection, cut.reason());
        }
        LoopEnd::Failed(reason) => refuse::ended(shared.live(), &connection, reason),
        LoopEnd::Cut(_) | LoopEnd::Closed | LoopEnd::Gone => {}
    }
}

type Frames = server::Connection<Box<ConnIo>, Bytes>;

/// Exchanges the connection prefaces. The result and this future are boxed: each has the size of
/// the whole state of `h2`, which an idle connection would otherwise hold several times.
async fn handshake(connection: &Connection, io: Box<ConnIo>) -> Result<Box<Frames>, LoopEnd> {
    let handshake = options(&connection.listener.config()).handshake(io);
    match until_cut(connection, handshake).await {
        Ok(Ok(frames)) => Ok(Box::new(frames)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(cut) => Err(LoopEnd::Cut(cut)),
    }
}

/// Accepts one stream after the other.
async fn accept(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    frames: &mut Frames,
    streams: &TaskTracker,
) -> LoopEnd {
    let listener = connection.listener.config().clone();
    let mut stop = shared.stop.clone();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut old = pin!(connection.streams.old.notified());
    // `h2` counts the streams that are open to the client, but not those that were just reset and
    // are not finished yet.
    let most_streams = usize::try_from(listener.http2.concurrent_streams)
        .map_or(usize::MAX, |max| max.saturating_mul(2));
    // Time of the GOAWAY, and the number of streams until then.
    let mut leaving: Option<(Instant, u32)> = None;
    // Number of streams that `h2` returned, and of those that were malformed.
    let (mut requests, mut malformed) = (0, 0);
    loop {
        let accepted = {
            let is_leaving = leaving.is_some();
            let next = poll_fn(|cx| frames.poll_accept(cx));
            let mut next = pin!(until_cut(connection, next));
            // A client that always has another request does not keep the connection from its end.
            let mut is_turn = requests % TURN == 0;
            // `h2` has handled everything that was read before it returns a stream. If it returned
            // all of them, there is nothing to do before this task is woken.
            let returned = u64::from(requests);
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
        match accepted {
            None => {
                leaving = Some((Instant::now(), requests));
                frames.graceful_shutdown();
                continue;
            }
            Some(Err(cut)) => return LoopEnd::Cut(cut),
            Some(Ok(None)) => return LoopEnd::Closed,
            Some(Ok(Some(Err(error)))) => return failed(&error),
            Some(Ok(Some(Ok(accepted)))) => {
                // `h2` refuses streams only once the client has acknowledged the GOAWAY, which may
                // lie behind responses that a slow client has to read first.
                let most_unaware = listener.http2.concurrent_streams;
                let is_late = leaving.is_some_and(|(since, count)| {
                    connection.has_other_rules(&connection.listener.config())
                        || since.elapsed() > GOAWAY_TIMEOUT
                            && requests >= count.saturating_add(most_unaware)
                });
                let most_streams = if is_late { 0 } else { most_streams };
                if begin(shared, connection, accepted, (streams, most_streams)).is_err() {
                    malformed += 1;
                    if malformed >= MALFORMED {
                        return LoopEnd::Cut(CloseReason::Malformed);
                    }
                }
            }
        }
        requests += 1;
        let max = connection.listener.config().http2.streams;
        let is_last = requests >= max || connection.is_ending();
        if is_last && leaving.is_none() {
            leaving = Some((Instant::now(), requests));
            frames.graceful_shutdown();
        }
    }
}

/// Begins a request in a task of its own, which refuses it if it is malformed. Returns an error then.
fn begin(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>),
    (streams, most_streams): (&TaskTracker, usize),
) -> Result<(), Malformed> {
    let (request, body) = request.into_parts();
    if connection.streams.has_resets() && is_reset(&mut respond) {
        // It costs no more than this, however many there are.
        refuse::stream_refused(shared.live(), connection, "client_gone");
        return Ok(());
    }
    if streams.len() >= most_streams {
        // Safe to retry (RFC 9113, 8.7).
        respond.send_reset(Reason::REFUSED_STREAM);
        refuse::stream_refused(shared.live(), connection, "h2_streams");
        return Ok(());
    }
    let checked = request::check(&request);
    if checked == Err(Malformed::Value) {
        // RFC 9113, 8.1.1: an error of one stream does not affect the others.
        respond.send_reset(Reason::PROTOCOL_ERROR);
    }
    let limits = &connection.listener.config().limits;
    let (send_timeout, body_grace) = (limits.send_timeout.0, limits.body_grace.0);
    let mut stream = Box::new(Http2Stream::new(
        respond,
        body,
        &request.headers,
        send_timeout,
    ));
    let has_body = !stream.is_body_done();
    let request = RequestHeader::from(request);
    let open = Streams::begin(connection);
    let (shared, connection) = (Arc::clone(shared), Arc::clone(connection));
    // Boxed: on its way into a task a future is moved several times.
    streams.spawn(Box::pin(async move {
        let checked = match checked {
            Ok(()) if !stream.is_as_announced(body_grace).await => Err(Malformed::Body),
            checked => checked,
        };
        let mut client = Client::http2(stream, request, has_body, connection);
        client.refusal = checked.err().map(|malformed| Box::new(malformed.refusal()));
        // The end of a session resets a stream whose response is not complete, so that no client
        // takes a part for the whole.
        drop(shared.driver.serve(Box::new(client)).await);
        drop(open);
    }));
    checked
}

/// Returns true if the client has already reset the request: frames that arrived in the same read
/// were processed before the request was returned.
fn is_reset(respond: &mut SendResponse<Bytes>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    respond.poll_reset(&mut cx).is_ready()
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
