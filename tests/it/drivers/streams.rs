//! Origin that speaks HTTP/2.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::{net::TcpStream, sync::Notify, task::JoinSet};

use super::{
    http2::headers,
    message::Message,
    origin::{Played, Script},
};
use crate::support::{http2::next, wait::pass};

/// Response of an origin that speaks HTTP/2.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    pub(super) interim: Vec<u16>,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) end: End,
}

/// End of a response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// With the last piece.
    Last,
    /// With an empty frame.
    Empty,
    Trailers,
    Reset(Reason),
    /// The stream is reset before there is a response.
    Instead(Reason),
    /// The connection ends.
    Closed,
}

/// Plays the scripts of the requests on one connection.
pub(super) async fn play(stream: TcpStream, played: &Arc<Played>) {
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    let is_over = Arc::new(Notify::new());
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = is_over.notified() => return,
        };
        let Some(Ok((request, response))) = accepted else {
            return;
        };
        let (played, is_over) = (Arc::clone(played), Arc::clone(&is_over));
        streams.spawn(async move {
            let is_head = request.method() == http::Method::HEAD;
            let Some(request) = read(request).await else {
                return;
            };
            let ended = match played.next(request) {
                Some(Script::Frames(frames)) => respond(frames, response, is_head).await,
                _ => none(response),
            };
            // The connection of a broken response may be over.
            if ended.unwrap_or(End::Last) == End::Closed {
                is_over.notify_one();
            }
        });
    }
}

async fn read(request: Request<h2::RecvStream>) -> Option<Message> {
    let (parts, mut body) = request.into_parts();
    let mut content = Vec::new();
    while let Some(piece) = next(&mut body).await.ok()? {
        content.extend_from_slice(&piece);
    }
    let path = parts.uri.path_and_query()?;
    let mut message = Message {
        start: format!("{} {path} HTTP/2", parts.method),
        headers: headers(&parts.headers),
        content,
        is_complete: true,
    };
    let authority = parts.uri.authority().map(ToString::to_string);
    let scheme = parts.uri.scheme_str().map(str::to_owned);
    for (name, value) in [(":authority", authority), (":scheme", scheme)] {
        message
            .headers
            .push((name.to_owned(), value.unwrap_or_default()));
    }
    Some(message)
}

fn none(mut response: SendResponse<Bytes>) -> Result<End, h2::Error> {
    let none = Response::builder().status(404).body(());
    response.send_response(none.expect("a status is enough"), true)?;
    Ok(End::Last)
}

async fn respond(
    frames: Frames,
    mut response: SendResponse<Bytes>,
    is_head: bool,
) -> Result<End, h2::Error> {
    for status in frames.interim {
        let interim = Response::builder().status(status);
        let interim = interim.header("link", "</a.css>; rel=preload").body(());
        response.send_informational(interim.expect("a link is a header"))?;
        pass(Duration::from_millis(3)).await;
    }
    if let End::Instead(reason) = frames.end {
        response.send_reset(reason);
        return Ok(frames.end);
    }
    let mut head = Response::builder().status(frames.status);
    for (name, value) in frames.headers {
        head = head.header(name, value);
    }
    let head = head.body(()).expect("drawn headers are valid");
    let has_none = is_head || matches!(frames.status, 204 | 304);
    let is_whole = frames.end == End::Last && frames.pieces.is_empty();
    let mut body = response.send_response(head, has_none || is_whole)?;
    if has_none || is_whole {
        return Ok(End::Last);
    }
    let last = frames.pieces.len().saturating_sub(1);
    for (number, piece) in frames.pieces.into_iter().enumerate() {
        pass(Duration::from_millis(3)).await;
        let is_end = frames.end == End::Last && number == last;
        body.send_data(piece.into(), is_end)?;
    }
    match frames.end {
        End::Empty => body.send_data(Bytes::new(), true)?,
        End::Trailers => {
            let sum = (HeaderName::from_static("x-sum"), HeaderValue::from(42));
            body.send_trailers(HeaderMap::from_iter([sum]))?;
        }
        End::Reset(reason) => {
            // A reset discards what has not been sent.
            pass(Duration::from_millis(20)).await;
            body.send_reset(reason);
        }
        End::Closed => pass(Duration::from_millis(20)).await,
        End::Last | End::Instead(_) => {}
    }
    Ok(frames.end)
}
