//! Requests of the gateway itself to backends, whose responses are read whole: pages of errors, and
//! sources of images. They take places and connections as requests of clients do, and count for the
//! health of their backends.

use std::{
    future::poll_fn,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use edgeway_base::{clock::Clock, http::decimal};
use edgeway_upstreams::{BackendId, LeaseRequest, Outcome, Upstream};
use http::header;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    error::LogText,
    upstream as upstreams,
    wire::{ValueMemory, Wire},
};
use crate::message::Piece;

/// Attempts, each at another backend or on a new connection.
pub(super) const ATTEMPTS: usize = 2;
/// Room for a read.
const ROOM: usize = 16 * 1024;

/// Request of the gateway itself.
pub(super) struct OwnRequest<'a> {
    pub(super) head: &'a RequestHeader,
    /// Body, whose length the headers state.
    pub(super) body: Bytes,
    /// True if it may be sent to another backend after the first one got a part of it.
    pub(super) may_repeat: bool,
    /// Client that it is made for, by whom some upstreams balance.
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
    let time = upstream.timeouts.connect.0;
    let mut wire = match Wire::connect(upstream, &lease, must_be_new, time).await {
        Ok(wire) => wire,
        Err(error) => {
            tried.push(lease.backend.id());
            lease.not_connected(&error);
            return Err(failed(&error, true));
        }
    };
    let backend = Arc::clone(lease.backend.address());
    let release = lease.backend.release().cloned();
    let is_reused = wire.is_reused();
    match exchange(request, &mut wire).await {
        Ok(exchanged) => {
            let now = clock.now();
            let is_complete = wire.is_delimited();
            wire.finish(upstream, &lease, now);
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
                is_complete,
            })
        }
        Err(error) => {
            // An app closes idle connections when it likes.
            if !is_reused {
                tried.push(lease.backend.id());
                lease.finish(Outcome::Reset);
            }
            Err(failed(&error, request.may_repeat))
        }
    }
}

/// Sends the request and reads the response, unless its body is longer than it may be.
async fn exchange(request: &OwnRequest<'_>, wire: &mut Wire) -> Result<Exchanged> {
    let has_body = !request.body.is_empty();
    wire.start(request.head.clone(), &[], has_body)?;
    if has_body {
        wire.take(Some(request.body.clone()), true)?;
    }
    let mut head = loop {
        let response = received(wire, |wire, cx| wire.poll_response(cx, ValueMemory::Own)).await?;
        if !upstreams::is_interim(&response) {
            break response;
        }
    };
    if head.status.is_informational() {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an unwanted protocol");
    }
    let has_body = wire.begin_body(&request.head.method, &mut head)?;
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| decimal(length.as_bytes()));
    if has_body && length.is_some_and(|length| length > request.longest as u64) {
        return Ok(Exchanged { head, body: None });
    }
    let mut content = BytesMut::new();
    let mut is_over = !has_body;
    while !is_over {
        let piece = received(wire, |wire, cx| wire.poll_piece(cx, ROOM)).await?;
        let Piece { bytes, is_last } = piece;
        content.extend_from_slice(&bytes.unwrap_or_default());
        if content.len() > request.longest {
            return Ok(Exchanged { head, body: None });
        }
        is_over = is_last;
    }
    let body = Some(content);
    Ok(Exchanged { head, body })
}

/// Reads from the backend with `poll`, and sends what is left of the request meanwhile.
async fn received<T>(
    wire: &mut Wire,
    mut poll: impl FnMut(&mut Wire, &mut Context<'_>) -> Poll<Result<T>>,
) -> Result<T> {
    poll_fn(|cx| {
        while wire.poll_send(cx) == Poll::Ready(true) && !wire.is_over() {}
        poll(wire, cx)
    })
    .await
}
