//! Server of a test: it listens on a free port, and serves each connection in a task of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinSet,
};

/// Listening server; it ends when dropped, and its connections with it.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Serves each connection with a future. Its peer may disconnect at any moment, so its outcome does
    /// not matter.
    pub(crate) async fn start<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                // Otherwise small pieces wait for one another.
                stream.set_nodelay(true).ok();
                connections.spawn(serve(stream));
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Forwards connections to a unix socket to an address, until the tasks are dropped.
pub(crate) fn bridge(path: &Path, to: SocketAddr) -> JoinSet<()> {
    let listener = UnixListener::bind(path).expect("the folder is ours");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut far = TcpStream::connect(to).await.expect("it listens");
                // Either side may close it.
                drop(copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    tasks
}
