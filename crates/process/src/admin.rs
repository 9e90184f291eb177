//! The admin listeners of the process: bound as configured, and kept when the next configuration
//! has the same addresses.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use edgeway_gateway::{self as gateway, AdminSocket};
use edgeway_net::{
    tasks::Tasks,
    unix_socket::{SocketError, SocketFile},
};
use edgeway_proxy::edge::listeners::Inherit;
use edgeway_status::{
    self as status, admin_socket,
    http::{AdminState, Connections},
};
use futures_util::future::join_all;
use log::{debug, info, warn};
use parking_lot::Mutex;

/// Backlog of connections, the system's own default.
const BACKLOG: i32 = 128;

/// Help for a default path that the configuration does not set.
const USUAL_HELP: &str =
    ", where it is unless the configuration says otherwise (`admin: { socket: PATH }`, or `off`)";

/// The admin listeners that are open.
#[derive(Default)]
pub(super) struct Admin {
    tcp: Mutex<Option<OpenAdmin<SocketAddr>>>,
    socket: Mutex<Option<OpenAdmin<PathBuf>>>,
}

struct OpenAdmin<T> {
    /// The address or path as configured.
    written: T,
    /// The address or path as bound.
    bound: T,
    /// The listening socket, for a successor.
    socket: OwnedFd,
    /// The file of a unix socket.
    file: Option<SocketFile>,
    connections: Connections,
    /// Closes the listener when dropped.
    _serving: Tasks,
}

/// Keeper of the sockets of a process that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketKeeper {
    ByNobody,
    /// Kept by the service manager, or by the process that serves now.
    ByOthers,
}

/// Listeners that a configuration adds: bound, but not accepting yet.
pub(super) struct PreparedAdmin {
    tcp: AdminChange<SocketAddr, std::net::TcpListener>,
    socket: AdminChange<PathBuf, std::os::unix::net::UnixListener>,
}

enum AdminChange<T, L> {
    Keep,
    Close,
    Open(T, L, OwnedFd),
}

/// Why an admin listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot open the admin listener on {0}")]
    Address(SocketAddr, #[source] io::Error),
    #[error("cannot open the admin listener on {}{help}", path.display())]
    Socket {
        path: PathBuf,
        help: &'static str,
        #[source]
        source: SocketError,
    },
}

impl Admin {
    /// Binds the listeners in `wanted` that are not open yet.
    pub(super) fn prepare(
        &self,
        wanted: &gateway::Admin,
        inherit: Inherit<'_>,
    ) -> Result<PreparedAdmin, AdminError> {
        let tcp = match (&wanted.address, &*self.tcp.lock()) {
            (None, _) => AdminChange::Close,
            (Some(wanted), Some(open)) if open.written == *wanted => AdminChange::Keep,
            (Some(address), _) => {
                let bound = match inherit(&address.to_string()) {
                    Some(socket) => Ok(socket.into()),
                    None => std::net::TcpListener::bind(address),
                };
                let opened = bound.and_then(|bound| {
                    let shared = bound.as_fd().try_clone_to_owned()?;
                    Ok(AdminChange::Open(*address, bound, shared))
                });
                match opened {
                    // Several gateways of a machine may leave the address out.
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse && wanted.has_usual_address =>
                    {
                        warn!(address:%, error:%; "no admin address: another program has the usual one; write `admin: {{ address: 127.0.0.1:PORT }}`, or `off`");
                        AdminChange::Close
                    }
                    opened => opened.map_err(|error| AdminError::Address(*address, error))?,
                }
            }
        };
        let is_usual = wanted.socket == AdminSocket::Usual;
        let open = self.socket.lock().as_ref().map(|open| open.written.clone());
        let path = match &wanted.socket {
            // Beside another gateway, it has a name of its own in the same folder.
            AdminSocket::Usual => open
                .filter(|path| admin_socket::beside().any(|beside| beside == *path))
                .or_else(|| Some(admin_socket::usual())),
            AdminSocket::At(path) => Some(path.clone()),
            AdminSocket::Off => None,
        };
        let socket = match (&path, &*self.socket.lock()) {
            (None, _) => AdminChange::Close,
            (Some(wanted), Some(open)) if open.written == *wanted => AdminChange::Keep,
            (Some(path), _) => {
                let mut listen = |path: &PathBuf| {
                    let bound = match inherit(&place(path)) {
                        Some(socket) => socket.into(),
                        None => admin_socket::open(path, is_usual, BACKLOG)?,
                    };
                    let shared = bound.as_fd().try_clone_to_owned()?;
                    Ok(AdminChange::Open(path.clone(), bound, shared))
                };
                let mut opened = listen(path);
                let mut beside = admin_socket::beside().filter(|_| is_usual);
                while matches!(opened, Err(SocketError::InUse))
                    && let Some(path) = beside.next()
                {
                    opened = listen(&path);
                }
                match opened {
                    Ok(opened) => opened,
                    // A foreign folder at the usual path in `/tmp` must not prevent a start.
                    Err(SocketError::Io(error)) if is_usual => {
                        warn!(path:?, error:%; "no admin socket: the commands do not reach this gateway; write `admin: {{ socket: PATH }}`, or `off`");
                        AdminChange::Close
                    }
                    Err(source) => {
                        return Err(AdminError::Socket {
                            path: path.clone(),
                            help: if is_usual { USUAL_HELP } else { "" },
                            source,
                        });
                    }
                }
            }
        };
        Ok(PreparedAdmin { tcp, socket })
    }

    /// Puts the prepared listeners into service.
    pub(super) fn commit(&self, prepared: PreparedAdmin, served: &AdminState) {
        match prepared.tcp {
            AdminChange::Keep => {}
            AdminChange::Close => *self.tcp.lock() = None,
            AdminChange::Open(written, listener, shared) => {
                let bound = listener.local_addr().unwrap_or(written);
                info!(address:% = bound; "admin listening");
                let served = served.clone();
                *self.tcp.lock() =
                    Some(OpenAdmin::new(written, bound, shared, |open| async move {
                        status::http::serve_tcp(listener, served, &open).await
                    }));
            }
        }
        match prepared.socket {
            AdminChange::Keep => {}
            AdminChange::Close => self.remove_socket(),
            AdminChange::Open(path, listener, shared) => {
                self.remove_socket();
                info!(path:? = path; "admin listening");
                let served = served.clone();
                let file = SocketFile::at(&path);
                let mut open = OpenAdmin::new(path.clone(), path, shared, |open| async move {
                    status::http::serve_unix(listener, served, &open).await
                });
                open.file = file;
                *self.socket.lock() = Some(open);
            }
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.tcp.lock().as_ref().map(|open| open.bound)
    }

    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.socket.lock().as_ref().map(|open| open.bound.clone())
    }

    /// Calls `work` with the listening sockets, each with its address.
    pub(super) fn with_sockets<T>(&self, work: impl FnOnce(&[(String, BorrowedFd<'_>)]) -> T) -> T {
        let (tcp, socket) = (self.tcp.lock(), self.socket.lock());
        let tcp = tcp.as_ref();
        let socket = socket.as_ref();
        let tcp = tcp.map(|open| (open.written.to_string(), open.socket.as_fd()));
        let socket = socket.map(|open| (place(&open.written), open.socket.as_fd()));
        let both: Vec<_> = tcp.into_iter().chain(socket).collect();
        work(&both)
    }

    /// Accepts no more connections, and waits until pending requests have responses, but no longer
    /// than `at_most` for an idle connection.
    pub(super) async fn finish(&self, at_most: Duration) {
        let (tcp, socket) = (self.tcp.lock().take(), self.socket.lock().take());
        let tcp = tcp.as_ref().map(|open| &open.connections);
        let socket = socket.as_ref().map(|open| &open.connections);
        let open = [tcp, socket].into_iter().flatten();
        let closed = join_all(open.map(Connections::close));
        if tokio::time::timeout(at_most, closed).await.is_err() {
            debug!("idle admin connection closed");
        }
    }

    /// Closes the listeners. The path of the unix socket stays if another process keeps the socket
    /// for the next one.
    pub(super) fn close(&self, keeper: SocketKeeper) {
        *self.tcp.lock() = None;
        match keeper {
            SocketKeeper::ByOthers => *self.socket.lock() = None,
            SocketKeeper::ByNobody => self.remove_socket(),
        }
    }

    fn remove_socket(&self) {
        if let Some(open) = self.socket.lock().take()
            // Another program may have bound a socket of its own there.
            && SocketFile::at(&open.bound) == open.file
            && let Err(error) = std::fs::remove_file(&open.bound)
        {
            debug!(error:%, path:? = open.bound; "admin socket removed before its listener");
        }
    }
}

impl<T> OpenAdmin<T> {
    fn new<F>(written: T, bound: T, socket: OwnedFd, serve: impl FnOnce(Connections) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let connections = Connections::default();
        let work = serve(connections.clone());
        let serving = Tasks::default();
        serving.spawn("admin", async {
            if let Err(error) = work.await {
                log::error!(error:%; "admin listener ended");
            }
        });
        Self {
            written,
            bound,
            socket,
            file: None,
            connections,
            _serving: serving,
        }
    }
}

/// A listener that is replaced ends the streams of its clients, who may need another token now.
impl<T> Drop for OpenAdmin<T> {
    fn drop(&mut self) {
        self.connections.shut();
    }
}

/// Name of the unix socket for other processes.
fn place(path: &Path) -> String {
    format!("unix:{}", path.display())
}
