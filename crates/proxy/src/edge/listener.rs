//! Binds addresses, accepts connections, and ends them when a listener is removed.

use std::{
    fs::Permissions,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use edgeway_base::{descriptors, system};
use edgeway_gateway::ListenAddress;
use edgeway_net::unix_socket::{self, SocketFile, SocketFiles};
use log::{debug, info, warn};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket as RawSocket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::oneshot,
};
use tokio_util::task::TaskTracker;

use super::{
    deferral::{self, Deferral},
    serve::Shared,
    transport::{MAX_UNSENT, Socket},
};
use crate::live::Live;

/// Connections that may wait for `accept`; the kernel's own limit if that is lower.
const BACKLOG: i32 = 4096;
/// Pause of an accept loop when no file descriptors are left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Reason word of such a pause, counted once each time it begins.
const CANNOT_ACCEPT: &str = "cannot_accept";

/// Bound socket.
#[derive(Debug)]
pub(super) struct BoundListener(BoundSocket);

#[derive(Debug)]
enum BoundSocket {
    Tcp(TcpListener),
    Unix(UnixListener, UnixPath),
}

/// Path of a unix socket, removed with the listener.
#[derive(Debug)]
struct UnixPath {
    path: PathBuf,
    /// The socket's own file; `None` while another process listens on it.
    file: Mutex<Option<SocketFile>>,
}

impl UnixPath {
    fn new(path: &Path, file: Option<SocketFile>) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        }
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        let file = self.file.get_mut().take();
        if file.is_none() || file != SocketFile::at(&self.path) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(error:%, path:? = self.path; "unix socket removed before its listener");
        }
    }
}

/// Reason why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: String,
    #[source]
    pub source: io::Error,
}

impl BoundListener {
    /// Binds `address`. Must be called within the runtime that will accept.
    pub(super) fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let socket = match address {
            ListenAddress::Tcp(address) => tcp(*address, false).map(BoundSocket::Tcp),
            // Dual stack where IPv6 is available, otherwise IPv4 only.
            ListenAddress::All(port) => tcp((Ipv6Addr::UNSPECIFIED, *port).into(), true)
                .or_else(|_| tcp((Ipv4Addr::UNSPECIFIED, *port).into(), false))
                .map(BoundSocket::Tcp),
            ListenAddress::Unix { path, mode } => unix(path, *mode).map(|socket| {
                let file = SocketFile::at(path);
                BoundSocket::Unix(socket, UnixPath::new(path, file))
            }),
        };
        socket.map(Self).map_err(|source| BindError {
            address: address.to_string(),
            source,
        })
    }

    /// Adopts a socket that already listens on `address`. It belongs to another process until
    /// [`Self::take_over`]. Must be called within the runtime that will accept.
    pub(super) fn adopt(address: &ListenAddress, socket: OwnedFd) -> Result<Self, BindError> {
        let adopt = || match address {
            ListenAddress::Tcp(_) | ListenAddress::All(_) => {
                let socket = RawSocket::from(socket);
                socket.set_nonblocking(true)?;
                set_inherited(&socket)?;
                // As a new socket has it, whatever another process has set.
                deferral::set(&socket, false);
                system::hear_new(&socket);
                TcpListener::from_std(socket.into()).map(BoundSocket::Tcp)
            }
            ListenAddress::Unix { path, .. } => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                let socket = UnixListener::from_std(socket)?;
                Ok(BoundSocket::Unix(socket, UnixPath::new(path, None)))
            }
        };
        adopt().map(Self).map_err(|source| BindError {
            address: address.to_string(),
            source,
        })
    }

    /// Returns the address that was bound, with its real port if the configuration has 0.
    pub(super) fn address(&self) -> String {
        match &self.0 {
            BoundSocket::Tcp(socket) => socket
                .local_addr()
                .map_or_else(|error| error.to_string(), |a| a.to_string()),
            BoundSocket::Unix(_, path) => format!("unix:{}", path.path.display()),
        }
    }

    /// Returns the port, or 0 for a unix socket.
    pub(super) fn port(&self) -> u16 {
        match &self.0 {
            BoundSocket::Tcp(socket) => socket.local_addr().map_or(0, |a| a.port()),
            BoundSocket::Unix(..) => 0,
        }
    }

    /// Makes this process the owner of an adopted socket: its path is removed with it. `files` are
    /// those of the predecessor's sockets.
    pub(super) fn take_over(&self, address: &ListenAddress, files: &SocketFiles) {
        let BoundSocket::Unix(_, UnixPath { path, file }) = &self.0 else {
            return;
        };
        let mut file = file.lock();
        if file.is_none() {
            let there = SocketFile::at(path);
            *file = files.get(path).copied().or(there);
            if *file == there {
                follow(address);
            }
        }
    }

    /// Makes another process the owner of the socket: its path stays when this one is closed.
    pub(super) fn hand_over(&self) {
        if let BoundSocket::Unix(_, path) = &self.0 {
            *path.file.lock() = None;
        }
    }

    /// Accepts only connections whose clients have begun to connect: later ones would be reset if
    /// they were in the queue when the socket is closed.
    pub(super) fn refuse_new(&self) {
        if let BoundSocket::Tcp(socket) = &self.0
            && let Err(error) = system::ignore_new(socket)
        {
            debug!(error:%; "clients that connect while the listener is closed may be reset");
        }
    }

    /// Returns the path of a unix socket of this process, with its file.
    pub(super) fn file(&self) -> Option<(PathBuf, SocketFile)> {
        match &self.0 {
            BoundSocket::Unix(_, path) => Some((path.path.clone(), (*path.file.lock())?)),
            BoundSocket::Tcp(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match &self.0 {
            BoundSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Socket::tcp(stream), Some(peer)))
            }
            BoundSocket::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                Ok((Socket::unix(stream), None))
            }
        }
    }

    /// Accepts a connection of the queue, which the runtime may not have heard of.
    fn accept_queued(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let (accepted, peer) = SockRef::from(self).accept()?;
        accepted.set_nonblocking(true)?;
        match &self.0 {
            BoundSocket::Tcp(_) => {
                let stream = TcpStream::from_std(accepted.into())?;
                Ok((Socket::tcp(stream), peer.as_socket()))
            }
            BoundSocket::Unix(..) => {
                let stream = UnixStream::from_std(accepted.into())?;
                Ok((Socket::unix(stream), None))
            }
        }
    }

    /// Accepts until stopped, then closes the socket, drops `closed`, and waits until every
    /// connection has ended.
    pub(super) async fn serve(
        self: Arc<Self>,
        shared: Arc<Shared>,
        live: Arc<Live>,
        closed: oneshot::Sender<()>,
    ) {
        let tasks = TaskTracker::new();
        // Counted before it is spawned, so that no connection is open without being counted.
        let begin = |(socket, peer): (Socket, Option<SocketAddr>)| {
            shared.facts.metrics().accepted.inc();
            if let Some(guard) = shared.admit(peer) {
                // Boxed, because the runtime moves the future of a task about at its start and its end.
                tasks.spawn(Box::pin(Arc::clone(&shared).serve(socket, peer, guard)));
            }
        };
        let mut stop = shared.stop.clone();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let mut deferral = Deferral::new();
        let mut is_exhausted = false;
        loop {
            let outcome = tokio::select! {
                biased;
                _ = &mut stopped => break,
                outcome = self.accept() => outcome,
                () = deferral.due() => {
                    deferral.look(&*self);
                    continue;
                }
            };
            match outcome {
                Ok(accepted) => {
                    if accepted.1.is_some() {
                        deferral.count(&*self);
                    }
                    if std::mem::take(&mut is_exhausted) {
                        info!(listener = &*shared.name(); "accepting connections again");
                    }
                    begin(accepted);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    descriptors::are_lacking(&error);
                    if !is_exhausted {
                        is_exhausted = true;
                        live.refuse(CANNOT_ACCEPT);
                        warn!(
                            listener = &*shared.name(),
                            reason = CANNOT_ACCEPT,
                            error:%;
                            "connections not accepted, retrying"
                        );
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        if let Some(until) = deferral.close(&*self) {
            // These clients are connected, and not in the queue yet.
            while let Ok(outcome) = tokio::time::timeout_at(until, self.accept()).await {
                match outcome {
                    Ok(accepted) => begin(accepted),
                    Err(error) if is_transient(&error) => {}
                    Err(_) => break,
                }
            }
        }
        // Clients that wait in the queue are connected: they are served, not reset. No more than
        // the queue holds, because during a flood new ones arrive as fast as these are accepted.
        for _ in 0..BACKLOG {
            match self.accept_queued() {
                Ok(accepted) => begin(accepted),
                Err(error) if is_transient(&error) => {}
                Err(_) => break,
            }
        }
        drop(self);
        drop(closed);
        tasks.close();
        tasks.wait().await;
    }
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            BoundSocket::Tcp(socket) => socket.as_fd(),
            BoundSocket::Unix(socket, _) => socket.as_fd(),
        }
    }
}

/// Returns true if the client left between connecting and `accept`.
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
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    set_inherited(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets options of the connections that `socket` accepts, which inherit them: no delay of small
/// segments, and a limit on the unsent bytes in the kernel.
fn set_inherited(socket: &RawSocket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    system::limit_unsent(socket, MAX_UNSENT)
}

fn unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = unix_socket::bind(path, mode, BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Applies the settings of another configuration for the same address.
pub(super) fn follow(address: &ListenAddress) {
    if let ListenAddress::Unix { path, mode } = address
        && let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(*mode))
    {
        warn!(error:%, path:? = path; "permissions of a unix socket not changed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_accepted_that_the_runtime_has_not_heard_of() {
        let any = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let bound = BoundListener::bind(&any).unwrap();
        let address: SocketAddr = bound.address().parse().unwrap();
        assert!(bound.accept_queued().is_err());
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, peer) = bound.accept_queued().unwrap();
        assert_eq!(peer, client.local_addr().ok());
    }

    #[tokio::test]
    async fn a_listener_that_closes_has_the_clients_that_are_connected_and_no_more() {
        let any = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let bound = BoundListener::bind(&any).unwrap();
        let address: SocketAddr = bound.address().parse().unwrap();
        let BoundSocket::Tcp(socket) = &bound.0 else {
            panic!("it is bound to an address")
        };
        let other = socket.as_fd().try_clone_to_owned().unwrap();
        let mut before = TcpStream::connect(address).await.unwrap();
        bound.refuse_new();
        let mut after = pin!(TcpStream::connect(address));
        let is_waiting = tokio::time::timeout(Duration::from_millis(100), &mut after).await;
        assert!(is_waiting.is_err());
        let (accepted, peer) = bound.accept().await.unwrap();
        assert_eq!(peer, before.local_addr().ok());
        drop(accepted);
        assert_eq!(before.read(&mut [0]).await.unwrap(), 0);
        assert!(bound.accept_queued().is_err());
        // A process that takes the socket over has those that still try.
        let successor = BoundListener::adopt(&any, other).unwrap();
        let (accepted, after) = tokio::join!(successor.accept(), after);
        assert_eq!(accepted.unwrap().1, after.unwrap().local_addr().ok());
    }

    #[tokio::test]
    async fn an_accepted_connection_has_the_options_of_its_listener() {
        let any = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let new = BoundListener::bind(&any).unwrap();
        let taken_over = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken_over = BoundListener::adopt(&any, taken_over.into()).unwrap();
        for bound in [new, taken_over] {
            let address: SocketAddr = bound.address().parse().unwrap();
            let _client = TcpStream::connect(address).await.unwrap();
            let BoundSocket::Tcp(listener) = &bound.0 else {
                panic!("it is bound to an address")
            };
            let (accepted, _) = listener.accept().await.unwrap();
            let accepted = socket2::SockRef::from(&accepted);
            assert_eq!(accepted.tcp_notsent_lowat().unwrap(), MAX_UNSENT);
            assert!(accepted.tcp_nodelay().unwrap());
        }
    }
}
