//! Origin that speaks HTTP/2 frame by frame, and misbehaves where a test asks for it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::support::server::Server;

/// Counts of the origin.
#[derive(Debug, Default)]
pub(crate) struct Http2Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    /// Streams that were cancelled.
    cancelled: AtomicU64,
    received: Mutex<Vec<Request<()>>>,
}

impl Http2Counts {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn newest(&self) -> HeaderMap {
        self.received.lock().last().unwrap().headers().clone()
    }

    /// Returns the authority of the last request.
    pub(crate) fn last_authority(&self) -> Option<String> {
        let received = self.received.lock();
        let authority = received.last()?.uri().authority()?;
        Some(authority.to_string())
    }
}

/// Origin whose behaviour depends on the path:
/// - `/silent` never responds; `/gap` sends one piece and falls silent; `/drip` sends a piece
///   every 20 ms forever;
/// - `/trailers` ends with trailers, `/late-end` with an empty frame;
/// - `/reset`, `/refuse` and `/goaway` end the first request in this way, and serve the second;
/// - any other path gets the number of its connection.
pub(crate) struct Http2Origin {
    server: Server,
    counts: Arc<Http2Counts>,
}

impl Http2Origin {
    pub(crate) async fn start() -> Self {
        let counts = Arc::<Http2Counts>::default();
        let counted = Arc::clone(&counts);
        let server = Server::start(move |socket| {
            let counts = Arc::clone(&counted);
            let number = counts.connections.fetch_add(1, Ordering::SeqCst) + 1;
            serve(socket, number, counts)
        });
        Self {
            server: server.await,
            counts,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn counts(&self) -> &Http2Counts {
        &self.counts
    }
}

async fn serve(socket: tokio::net::TcpStream, number: u64, counts: Arc<Http2Counts>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut response))) = connection.accept().await {
        let count = counts.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let (head, _body) = request.into_parts();
        let path = head.uri.path().to_owned();
        counts.received.lock().push(Request::from_parts(head, ()));
        match (&*path, count) {
            ("/reset", 1) => response.send_reset(Reason::INTERNAL_ERROR),
            ("/refuse", 1) => response.send_reset(Reason::REFUSED_STREAM),
            ("/goaway", 1) => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
            }
            _ => {
                let counts = Arc::clone(&counts);
                streams.spawn(async move {
                    respond(&path, number, response, &counts).await;
                });
            }
        }
    }
}

async fn respond(path: &str, number: u64, mut response: SendResponse<Bytes>, counts: &Http2Counts) {
    let gone = || {
        counts.cancelled.fetch_add(1, Ordering::SeqCst);
    };
    let head = Response::builder()
        .header("content-type", "text/html")
        .body(())
        .unwrap();
    if path == "/silent" {
        // Until the peer cancels it.
        drop(std::future::poll_fn(|cx| response.poll_reset(cx)).await);
        return gone();
    }
    let Ok(mut body) = response.send_response(head, false) else {
        return gone();
    };
    let page = Bytes::from("<p>A page of some length.</p>\n".repeat(200));
    match path {
        "/gap" => {
            send(&mut body, "piece".into(), false);
            drop(std::future::poll_fn(|cx| body.poll_reset(cx)).await);
            gone();
        }
        "/drip" => loop {
            let wait = tokio::time::timeout(
                Duration::from_millis(20),
                std::future::poll_fn(|cx| body.poll_reset(cx)),
            );
            if wait.await.is_ok() {
                return gone();
            }
            send(&mut body, "piece".into(), false);
        },
        "/trailers" => {
            send(&mut body, page, false);
            let trailers = [("x-sum".parse().unwrap(), HeaderValue::from_static("42"))];
            body.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
        }
        "/late-end" => {
            send(&mut body, page, false);
            tokio::time::sleep(Duration::from_millis(50)).await;
            send(&mut body, Bytes::new(), true);
        }
        _ => send(&mut body, number.to_string().into(), true),
    }
}

fn send(body: &mut SendStream<Bytes>, data: Bytes, is_end: bool) {
    // The peer may disconnect at any moment.
    drop(body.send_data(data, is_end));
}
