//! Requests of the gateway itself to backends, whose responses are read whole: pages of errors, and
//! sources of images. They take places and connections as requests of clients do, and count for the
//! health of their backends.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::IpAddr,
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use edgeway_base::clock::Clock;
use edgeway_upstreams::{BackendConnection, BackendId, LeaseRequest, Outcome, Upstream};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    error::LogText,
    relay::{
        Framing, MessageBody, Piece, ValueMemory, is_kept_alive, parse_response, write_section,
    },
    streams,
};

/// Attempts, each at another backend or on a new connection.
pub(super) const ATTEMPTS: usize = 2;
/// Room for a read.
const ROOM: usize = 16 * 1024;

/// Request for a backend that speaks HTTP/1.
pub(super) struct OwnRequest<'a> {
    pub(super) head: &'a RequestHeader,
    /// Body, whose length the headers state.
    pub(super) body: Bytes,
    /// True if it may be sent to another backend after the first one got a part of it.
    pub(super) may_repeat: bool,
    /// Client that it is made for, as far as balancing goes by clients.
    pub(super) client: IpAddr,
    /// Release of the app, as in [`LeaseRequest`].
    pub(super) release: Option<&'a str>,
    /// Maximum bytes of the body.
    pub(super) longest: usize,
}

/// Whole response.
pub(super) struct FetchedResponse {
    pub(super) head: ResponseHeader,
    pub(super) body: Bytes,
    /// Address of the backend.
    pub(super) backend: Arc<str>,
    /// Release of the app that it is of.
    pub(super) release: Option<Arc<str>>,
    /// False if the body ended with the connection, so that some of it may be missing.
    pub(super) is_complete: bool,
}

/// Attempt that failed.
pub(super) struct Failed {
    pub(super) why: String,
    /// True if another attempt may succeed.
    pub(super) may_retry: bool,
}

/// Response as it came over a connection.
struct Exchanged {
    head: ResponseHeader,
    /// `None` if it is longer than it may be: the rest was not read.
    body: Option<BytesMut>,
    framing: Framing,
    is_kept: bool,
}

/// Sends the request to a backend, and once more if that fails. The caller sets the deadline.
pub(super) async fn fetch(
    request: &OwnRequest<'_>,
    upstream: &Upstream,
    clock: &Clock,
) -> std::result::Result<FetchedResponse, String> {
    let mut tried = Vec::new();
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        match ask(request, upstream, clock, (attempt > 0, &mut tried)).await {
            Ok(response) => return Ok(response),
            Err(failed) => {
                why = failed.why;
                if !failed.may_retry {
                    break;
                }
            }
        }
    }
    Err(why)
}

/// Asks one backend that was not `tried` yet. A retry goes over a new connection.
pub(super) async fn ask(
    request: &OwnRequest<'_>,
    upstream: &Upstream,
    clock: &Clock,
    (is_retry, tried): (bool, &mut Vec<BackendId>),
) -> std::result::Result<FetchedResponse, Failed> {
    // A request that may be sent once goes over no connection that may be closed already.
    let must_be_new = is_retry || !request.may_repeat;
    let lease = LeaseRequest {
        head: request.head,
        client: request.client,
        at: clock.now(),
        tried,
        is_upgrade: false,
        release: request.release,
    };
    let lease = upstream.acquire(&lease).await.map_err(|_| Failed {
        why: "no backend takes it".to_owned(),
        may_retry: false,
    })?;
    let failed = |error: &Error, may_retry| Failed {
        why: LogText(error).to_string(),
        may_retry,
    };
    let time = upstream.timeouts.connect;
    let mut connection = match upstream.connect(&lease, must_be_new, time).await {
        Ok(connection) => connection,
        Err(error) => {
            tried.push(lease.backend().id());
            lease.finish(Outcome::ConnectFailed);
            return Err(failed(&error, true));
        }
    };
    let backend = Arc::clone(lease.backend().address());
    let release = lease.backend().release().cloned();
    let is_reused = connection.is_reused();
    match exchange(request, &mut connection).await {
        Ok(exchanged) => {
            let now = clock.now();
            if exchanged.is_kept && connection.input.is_empty() {
                upstream.put_back(&lease, connection, now);
            }
            let first_byte = now - lease.since();
            lease.finish(match exchanged.head.status.as_u16() {
                status @ 502..=504 => Outcome::Status(status),
                _ => Outcome::Ok { first_byte },
            });
            let Some(body) = exchanged.body else {
                return Err(Failed {
                    why: format!("the response has more than {} bytes", request.longest),
                    may_retry: false,
                });
            };
            Ok(FetchedResponse {
                head: exchanged.head,
                body: body.freeze(),
                backend,
                release,
                is_complete: exchanged.framing != Framing::UntilClose,
            })
        }
        Err(error) => {
            // An app closes idle connections when it likes.
            if !is_reused {
                tried.push(lease.backend().id());
                lease.finish(Outcome::Reset);
            }
            Err(failed(&error, request.may_repeat))
        }
    }
}

/// Sends the request and reads the response, as far as its body is no longer than it may be.
async fn exchange(
    request: &OwnRequest<'_>,
    connection: &mut BackendConnection,
) -> Result<Exchanged> {
    let mut section = BytesMut::new();
    write_section(request.head, &mut section)?;
    for mut output in [section.freeze(), request.body.clone()] {
        while !output.is_empty() {
            let written = poll_fn(|cx| connection.poll_output(cx, &[IoSlice::new(&output)])).await;
            match written.map_err(broken)? {
                0 => return Err(broken(io::ErrorKind::WriteZero.into())),
                count => output.advance(count),
            }
        }
    }
    poll_fn(|cx| connection.poll_flush(cx))
        .await
        .map_err(broken)?;
    let mut head = loop {
        match parse_response(&mut connection.input, ValueMemory::Own)? {
            Some(response) if streams::is_interim(&response) => {}
            Some(response) => break response,
            None if fill(connection).await? == 0 => {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            None => {}
        }
    };
    if head.status.is_informational() {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an unwanted protocol");
    }
    let is_kept = is_kept_alive(&head);
    let framing = Framing::of(request.head, &mut head)?;
    let too_long = |head| Exchanged {
        head,
        body: None,
        framing,
        is_kept: false,
    };
    if matches!(framing, Framing::Length(length) if length > request.longest as u64) {
        return Ok(too_long(head));
    }
    let mut body = MessageBody::new(framing);
    let mut content = BytesMut::new();
    loop {
        let piece = match body.take(&mut connection.input)? {
            Some(piece) => piece,
            None if fill(connection).await? > 0 => continue,
            None => body.close()?,
        };
        let Piece { bytes, is_last } = piece;
        content.extend_from_slice(&bytes.unwrap_or_default());
        if content.len() > request.longest {
            return Ok(too_long(head));
        }
        if is_last {
            return Ok(Exchanged {
                head,
                body: Some(content),
                framing,
                is_kept: is_kept && framing != Framing::UntilClose,
            });
        }
    }
}

/// Reads what the backend sends next; returns the number of bytes, 0 at the end.
async fn fill(connection: &mut BackendConnection) -> Result<usize> {
    connection.input.reserve(ROOM);
    poll_fn(|cx| connection.poll_input(cx))
        .await
        .map_err(broken)
}

fn broken(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ConnectionClosed, "asking a backend", error)
}
