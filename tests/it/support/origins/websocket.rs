//! WebSocket echo that counts the sockets that have ended.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::{accept_async_with_config, tungstenite::protocol::WebSocketConfig};

const MAX_MESSAGE: usize = 64 << 20;

/// Sends each message back.
pub(crate) struct WsOrigin {
    address: SocketAddr,
    counts: Arc<WsCounts>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct WsCounts {
    tried: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl WsOrigin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let counts = Arc::<WsCounts>::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&counts);
        tasks.spawn(async move {
            let mut sockets = JoinSet::new();
            loop {
                while sockets.try_join_next().is_some() {}
                if let Ok((stream, _)) = listener.accept().await {
                    shared.tried.fetch_add(1, Ordering::SeqCst);
                    sockets.spawn(echo(stream, Arc::clone(&shared)));
                }
            }
        });
        Self {
            address,
            counts,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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
