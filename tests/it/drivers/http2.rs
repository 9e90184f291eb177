//! The same exchanges with a client that speaks HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::timeout;

use super::{
    Drawn, Message, PATIENCE, Reader, ScriptedOrigin, WITH, WITHOUT, Way, both_drivers_agree,
    message, without_changes, yaml,
};
use crate::support::{
    gateway::Gateway,
    http2::{Client, next, read_response, request, upload},
};

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
    let has_body = sent
        .headers
        .iter()
        .any(|(name, _)| name == "transfer-encoding" || name == "content-length");
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
    let response = async {
        let (parts, mut body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                return Message {
                    start: format!("reset {:?}", error.reason()),
                    headers: Vec::new(),
                    content: Vec::new(),
                    is_complete: false,
                };
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
        let is_complete = end.is_none();
        let end = end.and_then(|error| error.reason());
        Message {
            start: format!("HTTP/2 {} {end:?}", parts.status),
            headers: headers(&parts.headers),
            content,
            is_complete,
        }
    };
    let both = async { tokio::join!(response, upload).0 };
    let message = timeout(PATIENCE, both).await;
    vec![message.expect("the gateway responds in time")]
}

async fn upload_all(stream: &mut h2::SendStream<Bytes>, content: Vec<u8>) -> Result<(), h2::Error> {
    if content.is_empty() {
        return stream.send_data(Bytes::new(), true);
    }
    upload(stream, content.into(), true).await
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let texts = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    without_changes(texts.collect())
}

#[tokio::test]
async fn both_drivers_serve_http2_alike() {
    both_drivers_agree(Way::Http2, None).await;
}

/// A second end of a body would be the beginning of the next request to the backend.
#[tokio::test]
async fn an_empty_body_ends_once() {
    for environment in [WITH, WITHOUT] {
        let origin = ScriptedOrigin::start().await;
        let gateway = Gateway::start_with(&yaml(origin.address), &[environment]).await;
        let client = Client::open(gateway.address()).await;
        for number in 0..3 {
            let begun = request("POST", &format!("/n{number}"));
            let (response, mut body) = client.begin(begun, false).await.expect("it is served");
            body.send_data(Bytes::new(), true).expect("it is open");
            let response = read_response(response).await.expect("it is served");
            assert_eq!(response.status(), 404);
        }
        let seen = origin.seen.lock();
        let of_each = (0..3).map(|number| seen.get(&number.to_string()).map_or(0, Vec::len));
        assert_eq!(of_each.collect::<Vec<_>>(), [1; 3]);
        assert_eq!(seen.len(), 3, "{:?}", seen.keys());
    }
}
