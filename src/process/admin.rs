//! The admin listeners of the process: bound as a configuration says, kept when the next
//! one says the same.

use std::{io, net::SocketAddr, path::PathBuf};

use log::info;
use parking_lot::Mutex;

use crate::{
    base::tasks::Tasks,
    gateway,
    status::{self, http::Served},
};

/// The admin listeners that are open.
#[derive(Default)]
pub(super) struct Admin {
    tcp: Mutex<Option<Open<SocketAddr>>>,
    socket: Mutex<Option<Open<PathBuf>>>,
}

struct Open<T> {
    /// As the configuration has it.
    written: T,
    /// As it is.
    bound: T,
    /// Dropping them closes the listener.
    _serving: Tasks,
}

/// What a configuration adds: bound, and not yet answering.
pub(super) struct Prepared {
    tcp: Change<SocketAddr, std::net::TcpListener>,
    socket: Change<PathBuf, std::os::unix::net::UnixListener>,
}

enum Change<T, L> {
    Keep,
    Close,
    Open(T, L),
}

/// Why an admin listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot open the admin listener on {address}")]
    Address {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Socket(#[from] status::http::SocketError),
}

impl Admin {
    /// Binds what `wanted` has and is not open yet.
    pub(super) fn prepare(&self, wanted: &gateway::Admin) -> Result<Prepared, AdminError> {
        let tcp = match (&wanted.address, &*self.tcp.lock()) {
            (None, _) => Change::Close,
            (Some(wanted), Some(open)) if open.written == *wanted => Change::Keep,
            (Some(address), _) => {
                let bound = std::net::TcpListener::bind(address);
                Change::Open(
                    *address,
                    bound.map_err(|source| AdminError::Address {
                        address: *address,
                        source,
                    })?,
                )
            }
        };
        let socket = match (&wanted.socket, &*self.socket.lock()) {
            (None, _) => Change::Close,
            (Some(wanted), Some(open)) if open.written == *wanted => Change::Keep,
            (Some(path), _) => Change::Open(path.clone(), status::http::bind_unix(path)?),
        };
        Ok(Prepared { tcp, socket })
    }

    /// From now on that is what is open.
    pub(super) fn commit(&self, prepared: Prepared, served: &Served) {
        match prepared.tcp {
            Change::Keep => {}
            Change::Close => *self.tcp.lock() = None,
            Change::Open(written, listener) => {
                let bound = listener.local_addr().unwrap_or(written);
                info!(address:% = bound; "admin listening");
                let serving = status::http::serve_tcp(listener, served.clone());
                *self.tcp.lock() = Some(Open::new(written, bound, serving));
            }
        }
        match prepared.socket {
            Change::Keep => {}
            Change::Close => *self.socket.lock() = None,
            Change::Open(path, listener) => {
                info!(path:? = path; "admin listening");
                let serving = status::http::serve_unix(listener, served.clone());
                *self.socket.lock() = Some(Open::new(path.clone(), path, serving));
            }
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.tcp.lock().as_ref().map(|open| open.bound)
    }

    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.socket.lock().as_ref().map(|open| open.bound.clone())
    }

    /// Nobody is answered any more.
    pub(super) fn close(&self) {
        *self.tcp.lock() = None;
        *self.socket.lock() = None;
    }
}

impl<T> Open<T> {
    fn new(
        written: T,
        bound: T,
        serving: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Self {
        let tasks = Tasks::default();
        tasks.spawn("admin", async {
            if let Err(error) = serving.await {
                log::error!(error:%; "an admin listener ended");
            }
        });
        Self {
            written,
            bound,
            _serving: tasks,
        }
    }
}
