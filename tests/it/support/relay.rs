//! Link that can be cut: connections to its port are forwarded to another one.

use std::{future::pending, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

use super::{server::Server, wait::turn_of};

/// State of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Open,
    /// Connections stay, and no data passes.
    Stalled,
    /// Connections break, and new ones break at once.
    Closed,
}

/// Relay that ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    server: Server,
    wire: watch::Sender<Wire>,
}

impl Relay {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        Self::far(to, Duration::ZERO).await
    }

    /// Starts a relay that delays all data in both directions.
    pub(crate) async fn far(to: SocketAddr, delay: Duration) -> Self {
        let (wire, state) = watch::channel(Wire::Open);
        let server = Server::start(move |stream| carry(stream, to, state.clone(), delay));
        Self {
            server: server.await,
            wire,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn carry(stream: TcpStream, to: SocketAddr, wire: watch::Receiver<Wire>, delay: Duration) {
    if *wire.borrow() == Wire::Closed {
        return;
    }
    let Ok(beyond) = TcpStream::connect(to).await else {
        return;
    };
    for stream in [&stream, &beyond] {
        // Without it small commands wait for one another.
        stream.set_nodelay(true).ok();
    }
    let (from_here, to_here) = stream.into_split();
    let (from_there, to_there) = beyond.into_split();
    // When either direction ends, both are dropped.
    tokio::select! {
        () = pump(from_here, to_there, wire.clone(), delay) => {}
        () = pump(from_there, to_here, wire, delay) => {}
    }
}

/// Forwards data until it ends, or until the link is cut.
async fn pump(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    wire: watch::Receiver<Wire>,
    delay: Duration,
) {
    let (send, receive) = mpsc::channel(1024);
    let reading = async {
        take(from, send, wire.clone(), delay).await;
        pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = give(to, receive, wire.clone()) => {}
    }
}

/// Received data, and the time at which it is due at the other end.
type Piece = (Instant, Vec<u8>);

async fn take(
    mut from: OwnedReadHalf,
    send: mpsc::Sender<Piece>,
    mut wire: watch::Receiver<Wire>,
    delay: Duration,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = wire.wait_for(|wire| *wire == Wire::Closed) => 0,
        };
        let piece = (Instant::now() + delay, buffer[..read].to_vec());
        if read == 0 || send.send(piece).await.is_err() {
            return;
        }
    }
}

async fn give(
    mut to: OwnedWriteHalf,
    mut receive: mpsc::Receiver<Piece>,
    mut wire: watch::Receiver<Wire>,
) {
    while let Some((due, bytes)) = receive.recv().await {
        turn_of(due).await;
        let now = wire.wait_for(|wire| *wire != Wire::Stalled).await;
        let Ok(now) = now.map(|now| *now) else {
            return;
        };
        if now == Wire::Closed || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
