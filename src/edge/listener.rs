//! Binding addresses, accepting connections, and ending them when a listener goes.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use log::{debug, info, warn};
use pingora::apps::HttpServerApp;
use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use super::{serve::Shared, transport::Socket};
use crate::{
    base::metrics::{IntCounter, IntGauge, Metrics},
    gateway::{ListenAddress, Listener},
    runtime::{admission::Admission, connection::ListenerFacts, live::Live, refusal::Refuse},
};

/// Connections that may wait for `accept`; the kernel's own limit if that is lower.
const BACKLOG: i32 = 4096;
/// How long an accept loop rests when there are no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// The reason word of such a rest, counted once for each time that it comes to one.
const CANNOT_ACCEPT: &str = "cannot_accept";

/// A bound socket, not yet accepting.
#[derive(Debug)]
pub struct Bound {
    pub name: Arc<str>,
    socket: BoundSocket,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(TcpListener),
    Unix(UnixListener, UnixPath),
}

/// The path of a unix socket, removed with the listener.
#[derive(Debug)]
struct UnixPath(PathBuf);

impl Drop for UnixPath {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            debug!(error:%, path:? = self.0; "a unix socket was gone before its listener");
        }
    }
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: String,
    #[source]
    source: io::Error,
}

impl Bound {
    /// Binds `address`. Must be called within the runtime that will accept.
    pub fn bind(name: Arc<str>, address: &ListenAddress) -> Result<Self, BindError> {
        let socket = match address {
            ListenAddress::Tcp(address) => tcp(*address, false).map(BoundSocket::Tcp),
            // Dual stack where there is IPv6, else IPv4 alone.
            ListenAddress::All(port) => tcp((Ipv6Addr::UNSPECIFIED, *port).into(), true)
                .or_else(|_| tcp((Ipv4Addr::UNSPECIFIED, *port).into(), false))
                .map(BoundSocket::Tcp),
            ListenAddress::Unix { path, mode } => {
                unix(path, *mode).map(|socket| BoundSocket::Unix(socket, UnixPath(path.clone())))
            }
        };
        match socket {
            Ok(socket) => Ok(Self { name, socket }),
            Err(source) => Err(BindError {
                address: address.to_string(),
                source,
            }),
        }
    }

    /// The address that was bound, its port known if it was 0.
    pub fn address(&self) -> String {
        match &self.socket {
            BoundSocket::Tcp(socket) => socket
                .local_addr()
                .map_or_else(|error| error.to_string(), |a| a.to_string()),
            BoundSocket::Unix(_, path) => format!("unix:{}", path.0.display()),
        }
    }

    fn port(&self) -> u16 {
        match &self.socket {
            BoundSocket::Tcp(socket) => socket.local_addr().map_or(0, |a| a.port()),
            BoundSocket::Unix(..) => 0,
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match &self.socket {
            BoundSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(error:%; "a client was gone before it was served");
                }
                Ok((Socket::tcp(stream), Some(peer)))
            }
            BoundSocket::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                Ok((Socket::unix(stream), None))
            }
        }
    }

    /// Accepts until `stop` turns true, then waits until every connection has ended.
    pub async fn serve<A>(
        self,
        config: Arc<Listener>,
        app: Arc<A>,
        refuser: Arc<dyn Refuse>,
        live: Arc<Live>,
        stop: watch::Receiver<bool>,
    ) where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let metrics = &live.world.metrics;
        let accepted = accepted(metrics, &self.name);
        let shared = Arc::new(Shared {
            app,
            refuser,
            admission: Admission::new(&config.limits, &live.total),
            facts: Arc::new(ListenerFacts {
                config,
                port: self.port(),
                open: connections(metrics, &self.name, "open"),
                idle: connections(metrics, &self.name, "idle"),
            }),
            connections: live.connections.clone(),
            stop: stop.clone(),
        });
        let mut tasks = JoinSet::new();
        // Counted before it is spawned: no connection is under way that nobody knows of.
        let begin = |tasks: &mut JoinSet<()>, (socket, peer): (Socket, Option<SocketAddr>)| {
            accepted.inc();
            if let Some(guard) = shared.admit(peer) {
                tasks.spawn(Arc::clone(&shared).serve(socket, peer, guard));
            }
        };
        let mut stopped = stop.clone();
        let mut is_exhausted = false;
        loop {
            let outcome = tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => break,
                Some(_ended) = tasks.join_next(), if !tasks.is_empty() => continue,
                outcome = self.accept() => outcome,
            };
            match outcome {
                Ok(accepted) => {
                    if std::mem::take(&mut is_exhausted) {
                        info!(listener = &*self.name; "accepting connections again");
                    }
                    begin(&mut tasks, accepted);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    if !is_exhausted {
                        is_exhausted = true;
                        live.http.refuse(CANNOT_ACCEPT);
                        warn!(
                            listener = &*self.name,
                            reason = CANNOT_ACCEPT,
                            error:%;
                            "cannot accept connections, trying again"
                        );
                    }
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
        // Whoever waits in the queue has connected: they are served, not reset.
        while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, self.accept()).await {
            begin(&mut tasks, accepted);
        }
        drop(self);
        while tasks.join_next().await.is_some() {}
    }
}

/// Connections open on the listener `name`.
pub fn open(metrics: &Metrics, name: &str) -> IntGauge {
    connections(metrics, name, "open")
}

fn connections(metrics: &Metrics, name: &str, state: &str) -> IntGauge {
    metrics.gauge(
        "edgeway_connections",
        "Client connections by listener: all that are open, and those of them that are idle.",
        &[("listener", name), ("state", state)],
    )
}

/// Connections accepted on the listener `name` since the start.
pub fn accepted(metrics: &Metrics, name: &str) -> IntCounter {
    metrics.counter(
        "edgeway_connections_accepted_total",
        "Client connections accepted since the start.",
        &[("listener", name)],
    )
}

/// The client went away between connecting and our `accept`.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn tcp(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // A socket that a dead process left behind is in the way; a living one answers.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}
