//! WebSocket clients: opened through a gateway, and checked for being alive.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a socket to `/ws`.
pub(crate) async fn open(to: SocketAddr) -> Socket {
    let stream = TcpStream::connect(to).await.expect("it accepts");
    let (socket, _) = client_async("ws://shop.test/ws", stream)
        .await
        .expect("the upgrade passes");
    socket
}

pub(crate) async fn open_many(to: SocketAddr, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(open(to).await);
    }
    sockets
}

/// Returns true if a message comes back.
pub(crate) async fn echoes(socket: &mut Socket, text: &str) -> bool {
    if socket.send(Message::text(text)).await.is_err() {
        return false;
    }
    let back = tokio::time::timeout(PATIENCE, socket.next()).await;
    matches!(back, Ok(Some(Ok(Message::Text(back)))) if back.as_str() == text)
}

/// Returns the number of sockets that echo.
pub(crate) async fn alive(sockets: &mut [Socket]) -> usize {
    let mut alive = 0;
    for socket in sockets {
        alive += usize::from(echoes(socket, "still there?").await);
    }
    alive
}
