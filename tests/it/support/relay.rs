//! A wire that can be cut: what comes to a port of its own goes on to another one.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// How a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Open,
    /// Connections stay, and nothing goes through.
    Stalled,
    /// Connections break, and new ones break at once.
    Cut,
}

/// It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (wire, state) = watch::channel(Wire::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                if *state.borrow() != Wire::Cut {
                    connections.spawn(carry(stream, to, state.clone()));
                }
            }
        });
        Self {
            address,
            wire,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn carry(stream: TcpStream, to: SocketAddr, wire: watch::Receiver<Wire>) {
    let Ok(beyond) = TcpStream::connect(to).await else {
        return;
    };
    for stream in [&stream, &beyond] {
        // Without it small commands wait for one another.
        stream.set_nodelay(true).ok();
    }
    let (from_here, to_here) = stream.into_split();
    let (from_there, to_there) = beyond.into_split();
    // With either way gone both ends are dropped.
    tokio::select! {
        () = pump(from_here, to_there, wire.clone()) => {}
        () = pump(from_there, to_here, wire) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut cut = wire.clone();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = cut.wait_for(|wire| *wire == Wire::Cut) => 0,
        };
        let Ok(now) = wire
            .wait_for(|wire| *wire != Wire::Stalled)
            .await
            .map(|now| *now)
        else {
            return;
        };
        if read == 0 || now == Wire::Cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
