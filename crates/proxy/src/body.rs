//! Body of a request, read for filters that need it before the request is forwarded, and for the page
//! of an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeway_base::http::decimal;
use edgeway_core::chain::{Body, Phase, Verdict};
use http::{StatusCode, header};
use pingora::{Error, ErrorType, Result, http::ResponseHeader};

use crate::{
    context::Context,
    error::{Failure, of_client},
    message::Piece,
    session::Client,
};

/// Limit on a body without a length that is read for filters.
const STREAMED: usize = 48 << 10;

/// Time for the rest of a body that another upstream gets after an error. Each connection of HTTP/1
/// has a limit of its own.
const AGAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the body if it has at most `max` bytes, and stores it in the facts.
pub(super) async fn read(
    client: &mut Client,
    ctx: &mut Context,
    max: usize,
) -> Result<(), Failure> {
    let length = client.request.headers.get(header::CONTENT_LENGTH);
    let max = match length.map(|length| decimal(length.as_bytes())) {
        Some(Some(length)) if length <= max as u64 => max,
        Some(_) => {
            ctx.facts.body = Body::TooLong;
            return Ok(());
        }
        None => max.min(STREAMED),
    };
    let (bytes, is_complete) = read_up_to(client, ctx, max).await?;
    ctx.early.beginning = Some(bytes.clone());
    // The last piece may be longer than what was left.
    ctx.facts.body = if is_complete && bytes.len() <= max {
        Body::Whole(bytes)
    } else {
        Body::TooLong
    };
    Ok(())
}

/// Reads the beginning of the body, `max` bytes or a little more, which are sent with the rest.
pub(super) async fn read_beginning(
    client: &mut Client,
    ctx: &mut Context,
    max: usize,
) -> Result<(), Failure> {
    if ctx.early.beginning.is_none() {
        let (bytes, _) = read_up_to(client, ctx, max).await?;
        ctx.early.beginning = Some(bytes);
    }
    Ok(())
}

/// Reads a body of at most `max` bytes of which a backend may have got a part, through the filters;
/// `None` if not all of it can be had.
pub(super) async fn read_whole(
    client: &mut Client,
    ctx: &mut Context,
    max: usize,
) -> Option<Bytes> {
    if ctx.early.replacement.is_some() {
        return None;
    }
    if !client.body.is_there() {
        return Some(Bytes::new());
    }
    if client.waits_for_continue() {
        release(client, ctx).await.ok()?;
    }
    let mut all = client.body.take_kept()?;
    let rest = async {
        while !client.body.is_read() {
            let Piece { mut bytes, is_last } = client.piece().await.ok()?;
            if filter(client, &mut bytes, is_last, ctx).is_err() {
                // The error has its reply already.
                ctx.reply = None;
                return None;
            }
            all.extend_from_slice(&bytes.unwrap_or_default());
            if all.len() > max {
                return None;
            }
        }
        Some(all.freeze())
    };
    tokio::time::timeout(AGAIN_TIMEOUT, rest).await.ok()?
}

/// Passes a piece of the client's body through the filters.
pub(super) fn filter(
    client: &Client,
    bytes: &mut Option<Bytes>,
    is_last: bool,
    ctx: &mut Context,
) -> Result<()> {
    let (chain, mut ex) = ctx.exchange(&client.request);
    if chain.has(Phase::RequestBody)
        && let Verdict::Reply(refusal) = chain.on_request_body(&mut ex, bytes, is_last)
    {
        ctx.refuse(refusal);
        // The backend is not at fault, and no other backend may get the request.
        return Err(Error::new_down(ErrorType::Custom("refused")));
    }
    Ok(())
}

/// Lets a client go on that waits before it sends its body (RFC 9110, 10.1.1): no backend would say
/// so.
pub(super) async fn release(client: &mut Client, ctx: &mut Context) -> Result<()> {
    let expects = client.request.headers.contains_key(header::EXPECT);
    if !expects || ctx.early.has_continued {
        return Ok(());
    }
    let interim = ResponseHeader::build_no_case(StatusCode::CONTINUE, Some(0))?;
    client.interim(&interim).await.map_err(of_client)?;
    ctx.continued();
    Ok(())
}

/// Reads the body to its end, or until more than `max` bytes have arrived. Returns true if that is
/// all of it. What was read is read again on the way to a backend.
async fn read_up_to(
    client: &mut Client,
    ctx: &mut Context,
    max: usize,
) -> Result<(Bytes, bool), Failure> {
    let sent = release(client, ctx).await;
    sent.map_err(|_| Failure::ClientGone)?;
    let within = ctx.connection.as_ref().map_or(Duration::MAX, |connection| {
        let limits = &connection.listener.config().limits;
        within(limits.body_rate.0, limits.body_grace.0, max)
    });
    let Ok(read) = tokio::time::timeout(within, up_to(client, max)).await else {
        return Err(Failure::BodyTimeout);
    };
    let bytes = read.map_err(|error| failure_of_client(&error, ctx))?;
    let bytes = bytes.freeze();
    client.body.unread(bytes.clone());
    Ok((bytes, client.body.is_read()))
}

/// Returns the failure of a client that has sent no more of its request, or has left.
pub(super) fn failure_of_client(error: &Error, ctx: &Context) -> Failure {
    let connection = ctx.connection.as_ref();
    let close_reason = connection.and_then(|it| it.request_close_reason());
    Failure::new(error, None, close_reason)
}

/// Returns the time allowed for a body of `max` bytes. It also bounds HTTP/2 bodies. For HTTP/1
/// the connection itself measures the transfer rate.
fn within(rate: u64, grace: Duration, max: usize) -> Duration {
    let seconds = (max as u64).checked_div(rate);
    seconds.map_or(Duration::MAX, |seconds| {
        grace + Duration::from_secs(seconds)
    })
}

/// Reads the body to its end, or until more than `max` bytes have arrived.
async fn up_to(client: &mut Client, max: usize) -> Result<BytesMut> {
    let mut all = BytesMut::new();
    while all.len() <= max {
        let Piece { bytes, is_last } = client.piece().await?;
        all.extend_from_slice(&bytes.unwrap_or_default());
        if is_last {
            break;
        }
    }
    Ok(all)
}
