//! Reads a request's body for filters that want it before the request goes on.
//!
//! Pingora keeps 64 KiB of what was read of a body, to send it once more if a backend fails:
//! what is read here is to it as if a try had failed. It keeps nothing of a body that turns
//! out longer, so that is held here and goes first. Pingora would never ask for more of a
//! body whose end was read already, though: of one without a length so little is read that
//! its next piece, if that ends it, still fits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;

use super::{context::Context, error::Failure};
use crate::chain::{Body, Protocol};

/// A frame of HTTP/2 has 16 KiB at most, of the 64 KiB that Pingora keeps.
const STREAMED: usize = 48 << 10;

/// What became of a body before its request went on.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// What was read, and Pingora does not keep.
    held: Option<Bytes>,
    /// The client was told to send it by us, before any backend could.
    pub(super) has_continued: bool,
}

/// Reads the body if it has no more than `most` bytes, and puts it into the facts.
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
    let asks = head.headers.contains_key(header::EXPECT);
    if asks && ctx.facts.client.protocol == Protocol::Http11 {
        // RFC 9110, 10.1.1: the client waits for it, and no backend is asked yet.
        let told = session.as_mut().write_continue_response().await;
        told.map_err(|_| Failure::ClientGone)?;
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
    let (bytes, is_whole) = read.map_err(|error| {
        let cut = ctx.connection.as_ref().and_then(|c| c.request_cut());
        Failure::of(&error, None, cut)
    })?;
    let bytes = bytes.freeze();
    if session.as_ref().retry_buffer_truncated() {
        ctx.early.held = Some(bytes);
        ctx.facts.body = Body::TooLong;
    } else if is_whole {
        ctx.facts.body = Body::Whole(bytes);
    } else {
        ctx.facts.body = Body::TooLong;
    }
    Ok(())
}

/// For how long a body of so many bytes may come, with HTTP/2 too: of HTTP/1 the connection
/// itself knows how fast it is.
fn within(rate: u64, grace: Duration, most: usize) -> Duration {
    match (most as u64).checked_div(rate) {
        None => Duration::MAX,
        Some(seconds) => grace + Duration::from_secs(seconds),
    }
}

/// What comes until its end, or until it is more than `most`.
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

/// Puts what is held before the next piece of the body.
pub(super) fn go_on(piece: &mut Option<Bytes>, ctx: &mut Context) {
    let Some(held) = ctx.early.held.take() else {
        return;
    };
    *piece = Some(match piece.take() {
        Some(piece) => [held, piece].concat().into(),
        None => held,
    });
}
