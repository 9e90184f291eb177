//! Reads a request body for filters that need it before the request is forwarded, and for the page of
//! an error.
//!
//! Pingora keeps 64 KiB of the body that was read, to send it again if a backend fails. To Pingora,
//! a body read here looks like a failed attempt. Pingora keeps nothing of a body that turns out to
//! be longer, so this module holds those bytes and sends them first. Pingora would never read more
//! of a body whose end was already read. Of a body without a length, this module therefore reads so
//! little that the next chunk still fits if it is the last one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeway_core::chain::{Body, Phase, Protocol, Verdict};
use http::header;
use pingora_proxy::Session;

use super::{
    context::{Context, RefusedBy},
    error::Failure,
};

/// 64 KiB that Pingora keeps, less the 16 KiB of the largest HTTP/2 frame.
const STREAMED: usize = 48 << 10;

/// Time for the rest of a body that another upstream gets after an error. Each connection of HTTP/1
/// has a limit of its own.
pub(super) const AGAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Result of reading a body before its request is forwarded.
#[derive(Debug, Default)]
pub(super) struct EarlyBody {
    /// Bytes that were read and that Pingora does not keep.
    held: Option<Bytes>,
    /// Beginning of the body, as far as it was read. It is among the bytes that are sent later.
    pub(super) beginning: Option<Bytes>,
    /// Set once the gateway itself sent `100 Continue`, before any backend could.
    pub(super) has_continued: bool,
    /// Body that the backend gets in place of the client's, empty for none.
    pub(super) replacement: Option<Box<Bytes>>,
}

/// Reads the body if it has at most `most` bytes, and stores it in the facts.
pub(super) async fn read(
    session: &mut Session,
    ctx: &mut Context,
    most: usize,
) -> Result<(), Failure> {
    let head = session.req_header();
    let length = head.headers.get(header::CONTENT_LENGTH);
    let most = match length.map(|length| length.to_str().unwrap_or_default().parse::<usize>()) {
        Some(Ok(length)) if length <= most => most,
        Some(_) => {
            ctx.facts.body = Body::TooLong;
            return Ok(());
        }
        None => most.min(STREAMED),
    };
    let (bytes, is_complete) = read_up_to(session, ctx, most).await?;
    ctx.early.beginning = Some(bytes.clone());
    if session.as_ref().retry_buffer_truncated() {
        ctx.early.held = Some(bytes);
        ctx.facts.body = Body::TooLong;
    } else if is_complete {
        ctx.facts.body = Body::Whole(bytes);
    } else {
        ctx.facts.body = Body::TooLong;
    }
    Ok(())
}

/// Reads the beginning of the body, `most` bytes or a little more, which are sent with the rest.
pub(super) async fn read_beginning(
    session: &mut Session,
    ctx: &mut Context,
    most: usize,
) -> Result<(), Failure> {
    if ctx.early.beginning.is_some() {
        return Ok(());
    }
    let (bytes, _) = read_up_to(session, ctx, most).await?;
    if session.as_ref().retry_buffer_truncated() {
        ctx.early.held = Some(bytes.clone());
    }
    ctx.early.beginning = Some(bytes);
    Ok(())
}

/// Reads a body of at most `most` bytes of which a backend may have got a part, through the filters;
/// `None` if not all of it can be had.
pub(super) async fn read_again(
    session: &mut Session,
    ctx: &mut Context,
    most: usize,
) -> Option<Bytes> {
    if ctx.early.beginning.is_some() || session.as_ref().retry_buffer_truncated() {
        return None;
    }
    let sent = session.as_ref().get_retry_buffer().unwrap_or_default();
    let expects_continue = session.req_header().headers.contains_key(header::EXPECT);
    if expects_continue && sent.is_empty() && ctx.facts.client.protocol == Protocol::Http11 {
        session.as_mut().write_continue_response().await.ok()?;
        if let Some(connection) = &ctx.connection {
            connection.pace.release();
        }
    }
    let rest = async {
        let mut all = BytesMut::from(&sent[..]);
        while let Some(piece) = session.as_mut().read_request_body().await.ok()? {
            let mut piece = Some(piece);
            let is_last = session.as_mut().is_body_done();
            let (chain, mut ex) = ctx.exchange(session.req_header());
            if chain.has(Phase::RequestBody)
                && let Verdict::Reply(_) = chain.on_request_body(&mut ex, &mut piece, is_last)
            {
                ctx.refused_by.get_or_insert(RefusedBy::Own);
                return None;
            }
            all.extend_from_slice(&piece.unwrap_or_default());
            if all.len() > most {
                return None;
            }
        }
        Some(all.freeze())
    };
    tokio::time::timeout(AGAIN_TIMEOUT, rest).await.ok()?
}

/// Reads the body to its end, or until more than `most` bytes have arrived. Returns true if that is
/// all of it.
async fn read_up_to(
    session: &mut Session,
    ctx: &mut Context,
    most: usize,
) -> Result<(Bytes, bool), Failure> {
    let expects_continue = session.req_header().headers.contains_key(header::EXPECT);
    if expects_continue && ctx.facts.client.protocol == Protocol::Http11 {
        // RFC 9110, 10.1.1: the client waits for it, and no backend has the request yet.
        let sent = session.as_mut().write_continue_response().await;
        sent.map_err(|_| Failure::ClientGone)?;
        ctx.early.has_continued = true;
        if let Some(connection) = &ctx.connection {
            connection.pace.release();
        }
    }
    session.as_mut().enable_retry_buffering();
    let within = ctx.connection.as_ref().map_or(Duration::MAX, |connection| {
        let limits = &connection.listener.config().limits;
        within(limits.body_rate, limits.body_grace, most)
    });
    let Ok(read) = tokio::time::timeout(within, all(session, most)).await else {
        return Err(Failure::BodyTimeout);
    };
    let (bytes, is_complete) = read.map_err(|error| {
        let close_reason = ctx
            .connection
            .as_ref()
            .and_then(|c| c.request_close_reason());
        Failure::of(&error, None, close_reason)
    })?;
    Ok((bytes.freeze(), is_complete))
}

/// Returns the time allowed for a body of `most` bytes. It also bounds HTTP/2 bodies. For HTTP/1
/// the connection itself measures the transfer rate.
fn within(rate: u64, grace: Duration, most: usize) -> Duration {
    match (most as u64).checked_div(rate) {
        None => Duration::MAX,
        Some(seconds) => grace + Duration::from_secs(seconds),
    }
}

/// Reads the body to its end, or until more than `most` bytes have arrived.
async fn all(session: &mut Session, most: usize) -> pingora::Result<(BytesMut, bool)> {
    let mut all = BytesMut::new();
    while all.len() <= most {
        match session.as_mut().read_request_body().await? {
            Some(piece) => all.extend_from_slice(&piece),
            None => return Ok((all, true)),
        }
    }
    Ok((all, false))
}

/// Prepends the held bytes to the next chunk of the body.
pub(super) fn go_on(piece: &mut Option<Bytes>, ctx: &mut Context) {
    let Some(held) = ctx.early.held.take() else {
        return;
    };
    *piece = Some(match piece.take() {
        Some(piece) => [held, piece].concat().into(),
        None => held,
    });
}

/// Takes out an empty last piece. Pingora sends one as the chunk that ends the body, and then ends
/// the body as well: the backend takes the second end for the beginning of the next request.
pub(super) fn end_once(body: &mut Option<Bytes>, is_last: bool) {
    if is_last && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}
