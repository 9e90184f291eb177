//! Client that speaks HTTP/2.

use std::{net::SocketAddr, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::{HeaderMap, Response};
use tokio::time::timeout;

use super::{
    PATIENCE,
    draw::Drawn,
    message::{Message, Reader, message, without_changes},
    origin::{Backend, ScriptedOrigin},
    side::DRIVERS,
    yaml,
};
use crate::support::http2::{Client, next, read_response, request, upload};

/// Headers of an HTTP/1 connection, which HTTP/2 does not have.
const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "transfer-encoding",
    "host",
    "upgrade",
    "http2-settings",
    "x-gone",
];

/// Sends the request on a stream of a connection of its own, and returns what comes back.
pub(super) async fn received(gateway: SocketAddr, drawn: &Drawn) -> Vec<Message> {
    let whole = drawn.pieces.concat();
    let (sent, _) = message(&whole, Reader::Origin).expect("a request is complete");
    let target = sent
        .start
        .split(' ')
        .nth(1)
        .expect("a request has a target");
    let has_body =
        sent.value("transfer-encoding").is_some() || sent.value("content-length").is_some();
    let mut begun = request(drawn.method, target);
    for (name, value) in &sent.headers {
        if !HOP_BY_HOP.contains(&name.as_str()) {
            begun = begun.header(name, value);
        }
    }
    let client = Client::open(gateway).await;
    let (response, mut body) = client
        .begin(begun, !has_body)
        .await
        .expect("the gateway accepts streams");
    let upload = async {
        if has_body {
            // A request that is refused before all of it came has a response that says why.
            drop(upload_all(&mut body, sent.content).await);
        }
    };
    let both = async { tokio::join!(read(response), upload).0 };
    let messages = timeout(PATIENCE, both).await;
    messages.unwrap_or_else(|_| vec![Message::late()])
}

async fn read(response: ResponseFuture) -> Vec<Message> {
    let mut messages = Vec::new();
    let (parts, mut body) = match begun(response, &mut messages).await {
        Ok(response) => response.into_parts(),
        Err(error) => {
            messages.push(Message::bare(format!("reset {:?}", error.reason())));
            return messages;
        }
    };
    let mut content = Vec::new();
    let end = loop {
        match next(&mut body).await {
            Ok(Some(piece)) => content.extend_from_slice(&piece),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let mut headers = headers(&parts.headers);
    if end.is_none()
        && let Ok(Some(trailers)) = body.trailers().await
    {
        for (name, value) in self::headers(&trailers) {
            headers.push((format!("trailer {name}"), value));
        }
    }
    let reason = end.as_ref().and_then(h2::Error::reason);
    messages.push(Message {
        start: format!("HTTP/2 {} {reason:?}", parts.status),
        headers,
        content,
        is_complete: end.is_none(),
    });
    messages
}

/// Waits for the response, and adds the interim ones.
async fn begun(
    mut response: ResponseFuture,
    interim: &mut Vec<Message>,
) -> Result<Response<RecvStream>, h2::Error> {
    std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
            interim.push(Message {
                start: format!("HTTP/2 {}", early.status()),
                headers: headers(early.headers()),
                content: Vec::new(),
                is_complete: true,
            });
        }
        Pin::new(&mut response).poll(cx)
    })
    .await
}

async fn upload_all(stream: &mut h2::SendStream<Bytes>, content: Vec<u8>) -> Result<(), h2::Error> {
    if content.is_empty() {
        return stream.send_data(Bytes::new(), true);
    }
    upload(stream, content.into(), true).await
}

pub(super) fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let texts = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    without_changes(texts.collect())
}

/// A second end of a body would be the beginning of the next request to the backend.
#[tokio::test]
async fn an_empty_body_ends_once() {
    for side in DRIVERS {
        let origin = ScriptedOrigin::start(Backend::Plain).await;
        let gateway = side.start(&yaml(origin.address, "")).await;
        let client = Client::open(gateway.address()).await;
        for number in 0..3 {
            let begun = request("POST", &format!("/n{number}"));
            let (response, mut body) = client.begin(begun, false).await.expect("it is served");
            body.send_data(Bytes::new(), true).expect("it is open");
            let response = read_response(response).await.expect("it is served");
            assert_eq!(response.status(), 404);
        }
        let of_each = [0, 1, 2].map(|number| origin.seen(number).len());
        assert_eq!(of_each, [1; 3]);
        assert_eq!(origin.exchanges(), 3);
    }
}
