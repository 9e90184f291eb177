//! WebSocket echo that counts the sockets that have ended.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{accept_async_with_config, tungstenite::protocol::WebSocketConfig};

use crate::support::server::Server;

const MAX_MESSAGE: usize = 64 << 20;

/// Sends each message back.
pub(crate) struct WsOrigin {
    server: Server,
    counts: Arc<WsCounts>,
}

#[derive(Debug, Default)]
struct WsCounts {
    tried: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl WsOrigin {
    pub(crate) async fn start() -> Self {
        let counts = Arc::<WsCounts>::default();
        let shared = Arc::clone(&counts);
        let server = Server::start(move |stream| {
            shared.tried.fetch_add(1, Ordering::SeqCst);
            echo(stream, Arc::clone(&shared))
        });
        Self {
            server: server.await,
            counts,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the number of connections, whether or not an upgrade followed.
    pub(crate) fn tried(&self) -> u64 {
        self.counts.tried.load(Ordering::SeqCst)
    }

    pub(crate) fn opened(&self) -> u64 {
        self.counts.opened.load(Ordering::SeqCst)
    }

    pub(crate) fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::SeqCst)
    }
}

async fn echo(stream: TcpStream, counts: Arc<WsCounts>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let Ok(mut socket) = accept_async_with_config(stream, Some(config)).await else {
        return;
    };
    counts.opened.fetch_add(1, Ordering::SeqCst);
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
    counts.closed.fetch_add(1, Ordering::SeqCst);
}
