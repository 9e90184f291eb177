//! Connections to backends that speak HTTP/2, each shared by many requests.

mod stream;

use std::{
    future,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeway_net::tasks::Tasks;
use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use pingora::{Error, ErrorType, Result};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

pub use self::stream::BackendStream;
use super::{Transport, in_time};
use crate::{
    Lease, Upstream,
    backend::Backend,
    base::clock::Clock,
    client_tls::TlsIdentity,
    eject::nanos,
    pool::Pool,
    wire::{CONNECTION_WINDOW, PING, STREAM_WINDOW, STREAMS},
};

/// Longest time between a ping and its acknowledgement.
const PONG: Duration = Duration::from_secs(5);
/// Most bytes of one request's body that wait to be written.
const SEND_BUFFER: usize = 128 * 1024;
/// Longest frame that a backend may send.
const MAX_FRAME: u32 = 64 * 1024;
/// Longest headers of a response, as in HTTP/1.1.
const MAX_HEADERS: u32 = 1 << 20;

/// Connections to one address that take new requests.
///
/// Whatever removes a connection from here closes it: `h2` says GOAWAY once nobody can open a stream
/// and the last one has ended.
#[derive(Default)]
pub(crate) struct Http2Connections {
    list: ArcSwap<Vec<Arc<SharedConnection>>>,
    tasks: Tasks,
}

edgeway_base::opaque_debug!(Http2Connections);

/// Connection that takes new requests.
struct SharedConnection {
    requests: SendRequest<Bytes>,
    /// Settings that it was made under; `None` without TLS.
    identity: Option<TlsIdentity>,
    local: Option<SocketAddr>,
    load: Arc<Load>,
}

/// Use of one connection.
#[derive(Debug)]
struct Load {
    streams: AtomicU32,
    opened: Instant,
    /// Time at which the connection expires if it has no streams, in nanoseconds since it was opened.
    until: AtomicU64,
    /// Notified when the last stream ends.
    ended: Notify,
}

/// Place of one stream on its connection.
#[derive(Debug)]
struct StreamPlace {
    load: Arc<Load>,
    /// Keeps the connection's task alive.
    backend: Arc<Backend>,
    pool: Pool,
}

impl Http2Connections {
    /// Returns a stream on a connection that has room, the oldest one if possible, so that surplus
    /// ones expire. It was made under these TLS settings, or without TLS if there are none.
    fn take(
        &self,
        identity: Option<&TlsIdentity>,
        place: impl Fn(&Arc<Load>) -> StreamPlace,
    ) -> Option<BackendStream> {
        self.list.load().iter().find_map(|connection| {
            let SharedConnection { requests, load, .. } = &**connection;
            if connection.identity.as_ref() != identity || !load.reserve(requests) {
                return None;
            }
            let (place, mut requests) = (place(load), requests.clone());
            // Never pending: that is for a handle that has sent a request.
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Err(_)) = requests.poll_ready(&mut cx) {
                self.remove(load);
                return None;
            }
            Some(BackendStream::new(requests, connection.local, place, true))
        })
    }

    /// Adds a connection. Those that were made under other TLS settings are closed: no request asks
    /// for them again.
    fn add(&self, new: &Arc<SharedConnection>) {
        self.list.rcu(|list| {
            let alike = |known: &&Arc<SharedConnection>| known.identity == new.identity;
            let alike = list.iter().filter(alike);
            alike.chain([new]).cloned().collect::<Vec<_>>()
        });
    }

    fn remove(&self, load: &Arc<Load>) {
        self.list.rcu(|list| {
            let others = list.iter().filter(|known| !Arc::ptr_eq(&known.load, load));
            others.cloned().collect::<Vec<_>>()
        });
    }

    /// Closes all, those in use when their last stream has ended.
    pub(crate) fn close(&self) {
        self.list.store(Arc::default());
    }

    /// Moves the bytes of a connection until it is closed.
    fn drive(
        self: &Arc<Self>,
        mut connection: Connection<Transport>,
        load: Arc<Load>,
        backend: &Backend,
    ) {
        let connections = Arc::downgrade(self);
        let clock = backend.shared.clock.clone();
        let address = Arc::clone(backend.address());
        let pings = connection.ping_pong();
        self.tasks
            .spawn("HTTP/2 connection to a backend", async move {
                let backend = &*address;
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        log::debug!(backend, error:%; "HTTP/2 connection to a backend failed");
                    },
                    () = no_pong(pings) => {
                        log::warn!(backend; "backend did not respond to a ping, connection closed");
                    }
                    () = close_idle(&load, &connections, &clock) => {}
                }
                if let Some(connections) = connections.upgrade() {
                    connections.remove(&load);
                }
            });
    }
}

impl Load {
    /// Creates the use of a connection with one stream.
    fn new(opened: Instant) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicU32::new(1),
            opened,
            until: AtomicU64::new(0),
            ended: Notify::new(),
        })
    }

    /// Takes a place if neither the gateway's limit nor the backend's is reached.
    fn reserve(&self, requests: &SendRequest<Bytes>) -> bool {
        if self.streams.load(Ordering::Relaxed) >= STREAMS {
            // Without the lock below.
            return false;
        }
        let max = requests.current_max_send_streams();
        let max = u32::try_from(max).unwrap_or(u32::MAX).min(STREAMS);
        let add = |streams| (streams < max).then_some(streams + 1);
        self.streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .is_ok()
    }

    /// Waits until the connection has had no streams for its idle time. Woken once in such a time at
    /// most, however many streams there are.
    async fn expiry(&self, clock: &Clock) {
        loop {
            if self.streams.load(Ordering::Acquire) > 0 {
                self.ended.notified().await;
                continue;
            }
            let until = self.opened + Duration::from_nanos(self.until.load(Ordering::Acquire));
            let left = until.saturating_duration_since(clock.now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let idle = self.pool.idle(self.backend.state.keep_alive());
        let until = self.backend.shared.clock.now() + idle - self.load.opened;
        self.load.until.store(nanos(until), Ordering::Release);
        if self.load.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.load.ended.notify_one();
        }
    }
}

/// Returns when a ping is not acknowledged in time.
async fn no_pong(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return future::pending::<()>().await;
    };
    loop {
        sleep(PING).await;
        match timeout(PONG, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection's own error tells why.
            Ok(Err(_)) => return future::pending().await,
            Err(_) => return,
        }
    }
}

/// Takes the connection out of use when it expires, so that it ends by itself. Never returns.
async fn close_idle(load: &Arc<Load>, connections: &Weak<Http2Connections>, clock: &Clock) {
    load.expiry(clock).await;
    if let Some(connections) = connections.upgrade() {
        connections.remove(load);
    }
    future::pending::<()>().await;
}

impl Upstream {
    /// Returns a stream for one request to the lease's backend, over HTTP/2: on a connection that
    /// exists, or on a new one if none has room or if it must be a new one.
    ///
    /// # Errors
    /// When the backend cannot be connected to in `time`, TLS included, or does not accept HTTP/2.
    pub async fn open_stream(
        &self,
        lease: &Lease,
        must_be_new: bool,
        time: Duration,
    ) -> Result<BackendStream> {
        let backend = &lease.backend;
        let identity = backend.tls.as_ref().map(|tls| &tls.identity);
        let place = |load: &Arc<Load>| StreamPlace {
            load: Arc::clone(load),
            backend: Arc::clone(backend),
            pool: self.pool,
        };
        if !must_be_new && let Some(stream) = backend.state.http2.take(identity, place) {
            return Ok(stream);
        }
        // Boxed: most requests find a connection, and each would carry the size of this.
        let connection = in_time(time, Box::pin(self.new_http2(lease))).await?;
        let place = place(&connection.load);
        let requests = connection.requests.clone();
        Ok(BackendStream::new(requests, connection.local, place, false))
    }

    /// Makes a connection with a place for the first stream.
    async fn new_http2(&self, lease: &Lease) -> Result<Arc<SharedConnection>> {
        let backend = &lease.backend;
        let transport = Transport::connect(&backend.target, backend.tls.as_ref()).await?;
        if !transport.may_speak_h2() {
            let why = "the backend did not accept HTTP/2";
            return Error::e_explain(ErrorType::H2Downgrade, why);
        }
        let (identity, local) = (transport.identity().cloned(), transport.socket().local());
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            // The limit of the backend comes with its SETTINGS: until then nobody shares it.
            .initial_max_send_streams(1)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, driven) = builder.handshake(transport).await.map_err(|error| {
            let why = "HTTP/2 handshake with a backend";
            Error::because(ErrorType::HandshakeError, why, error)
        })?;
        let connection = Arc::new(SharedConnection {
            requests,
            identity,
            local,
            load: Load::new(self.shared.clock.now()),
        });
        let state = &backend.state;
        if !self.pool.idle(state.keep_alive()).is_zero() {
            state.http2.add(&connection);
            if state.idle.is_closed_since(lease.since) {
                state.http2.remove(&connection.load);
            }
        }
        let load = Arc::clone(&connection.load);
        state.http2.drive(driven, load, backend);
        Ok(connection)
    }
}
