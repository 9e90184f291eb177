//! Connections to backends that speak HTTP/1.1 without TLS, for requests that bypass Pingora: how
//! they are made, and where idle ones wait for the next request.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsRawFd as _, RawFd},
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use pingora::{
    Error, ErrorType, Result,
    protocols::l4::ext::{connect, connect_uds, set_tcp_keepalive},
};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{Lease, Protocol, Upstream, peer::TCP_KEEPALIVE, target::Target};
use crate::base::{clock::Clock, lanes::Lanes, tasks::Tasks};

/// Limit on idle connections in one lane of a backend. A surplus one is closed.
const MAX_IDLE: usize = 512;
/// Capacity above which an idle connection releases its buffer.
const MAX_IDLE_BUFFER: usize = 16 * 1024;
/// Interval of checks for idle connections that have expired or that the backend has closed.
const SWEEP: Duration = Duration::from_secs(1);
/// Shortest interval between two checks.
const MIN_SWEEP: Duration = Duration::from_millis(50);
/// Longest time between two sweeps, while no connection is used.
const MAX_SWEEP: Duration = Duration::from_secs(16);

/// Connection to a backend, used by one request at a time.
#[derive(Debug)]
pub struct BackendConnection {
    socket: Socket,
    /// Bytes that were received and not used yet.
    pub input: BytesMut,
    /// The gateway's own address, which distinguishes this socket from a later one with its number.
    local: Option<SocketAddr>,
    is_reused: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BackendConnection {
    pub fn fd(&self) -> RawFd {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_raw_fd(),
            Socket::Unix(socket) => socket.as_raw_fd(),
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns true if the connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Reads as much as the input has room for. Returns the number of bytes, 0 at the end.
    pub fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => pin!(socket.read_buf(&mut self.input)).poll(cx),
            Socket::Unix(socket) => pin!(socket.read_buf(&mut self.input)).poll(cx),
        }
    }

    /// Reads into `room`, leaving it as it is at the end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, room),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, room),
        }
    }

    /// Tells the backend that nothing more will be sent.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }

    /// Writes some of `data`.
    pub fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, data),
        }
    }

    /// Returns true if the backend has neither closed the connection nor sent anything. This takes
    /// a system call only if something has happened.
    fn is_quiet(&self) -> bool {
        let mut byte = [0];
        // Neither uses up the task's budget, unlike a poll.
        let read = match &self.socket {
            Socket::Tcp(socket) => socket.try_read(&mut byte),
            Socket::Unix(socket) => socket.try_read(&mut byte),
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Upstream {
    /// Returns true if [`Upstream::connect`] can reach the backends: over HTTP/1.1 without TLS.
    pub fn is_plain_http1(&self) -> bool {
        self.wire.protocol == Protocol::Http1 && self.wire.tls.is_none()
    }

    /// Returns a connection to the lease's backend: an idle one, or a new one if there is none or
    /// if it must be a new one.
    ///
    /// # Errors
    /// When the backend cannot be connected to within `timeouts.connect`.
    pub async fn connect(&self, lease: &Lease, must_be_new: bool) -> Result<BackendConnection> {
        let backend = lease.backend();
        if !must_be_new && let Some(connection) = backend.state.idle.take(lease.since()) {
            return Ok(connection);
        }
        // Boxed: most requests find an idle connection, and each would carry the size of this.
        let connected = Box::pin(new_connection(&backend.target));
        tokio::time::timeout(self.timeouts.connect, connected)
            .await
            .unwrap_or_else(|_| Error::e_explain(ErrorType::ConnectTimedout, "no connection yet"))
            .map_err(Error::into_up)
    }

    /// Puts back a connection whose request is over, for the next one.
    pub fn put_back(&self, lease: &Lease, connection: BackendConnection, now: Instant) {
        let state = &lease.backend().state;
        let idle = self.pool.idle(state.keep_alive());
        if !idle.is_zero() {
            state.idle.put(connection, now + idle, &self.shared.clock);
        }
    }
}

async fn new_connection(target: &Target) -> Result<BackendConnection> {
    let (socket, local) = match target {
        Target::Inet(address) => {
            let socket = connect(address, None).await?;
            // Neither is needed for the request itself.
            if let Err(error) = socket.set_nodelay(true) {
                log::debug!(error:%; "TCP_NODELAY not set for a backend");
            }
            if let Err(error) = set_tcp_keepalive(&socket, &TCP_KEEPALIVE) {
                log::debug!(error:%; "TCP keepalive not set for a backend");
            }
            let local = socket.local_addr().ok();
            (Socket::Tcp(socket), local)
        }
        Target::Unix(path) => (Socket::Unix(connect_uds(path).await?), None),
    };
    Ok(BackendConnection {
        socket,
        input: BytesMut::new(),
        local,
        is_reused: false,
    })
}

/// Idle connections to one address.
///
/// While there are any, a task closes those that have expired or that the backend has closed.
pub(super) struct IdleConnections {
    lanes: Lanes<Vec<IdleConnection>>,
    sweeper: Tasks,
    has_sweeper: AtomicBool,
}

#[derive(Debug)]
struct IdleConnection {
    connection: BackendConnection,
    until: Instant,
}

impl fmt::Debug for IdleConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleConnections").finish_non_exhaustive()
    }
}

impl Default for IdleConnections {
    fn default() -> Self {
        Self {
            lanes: Lanes::new(Vec::new),
            sweeper: Tasks::default(),
            has_sweeper: AtomicBool::new(false),
        }
    }
}

impl IdleConnections {
    /// Returns a connection that has not expired and that the backend has not closed, the one used
    /// last if possible.
    fn take(&self, now: Instant) -> Option<BackendConnection> {
        if let Some(found) = usable(&mut self.lanes.enter(), now) {
            return Some(found);
        }
        self.lanes
            .iter()
            .find_map(|lane| usable(&mut *lane.try_lock()?, now))
    }

    fn put(self: &Arc<Self>, mut connection: BackendConnection, until: Instant, clock: &Clock) {
        connection.is_reused = true;
        if connection.input.capacity() > MAX_IDLE_BUFFER {
            connection.input = BytesMut::new();
        }
        let mut lane = self.lanes.enter();
        if lane.len() < MAX_IDLE {
            lane.push(IdleConnection { connection, until });
        }
        drop(lane);
        if !self.has_sweeper.load(Ordering::Relaxed)
            && !self.has_sweeper.swap(true, Ordering::AcqRel)
        {
            let work = sweep(Arc::downgrade(self), clock.clone());
            self.sweeper.spawn("idle connections to a backend", work);
        }
    }

    /// Closes connections that are of no use. Returns when the first and the last of the others
    /// expire, if there are any.
    fn close_unusable(&self, now: Instant) -> Option<(Instant, Instant)> {
        let mut expiries: Option<(Instant, Instant)> = None;
        for lane in self.lanes.iter() {
            let mut lane = lane.lock();
            lane.retain(|idle| idle.until > now && idle.connection.is_quiet());
            for until in lane.iter().map(|idle| idle.until) {
                let (first, last) = expiries.unwrap_or((until, until));
                expiries = Some((first.min(until), last.max(until)));
            }
        }
        expiries
    }
}

fn usable(lane: &mut Vec<IdleConnection>, now: Instant) -> Option<BackendConnection> {
    while let Some(idle) = lane.pop() {
        if idle.until > now && idle.connection.is_quiet() {
            return Some(idle.connection);
        }
    }
    None
}

async fn sweep(connections: Weak<IdleConnections>, clock: Clock) {
    let (mut pause, mut interval, mut before) = (SWEEP, SWEEP, None);
    loop {
        tokio::time::sleep(pause).await;
        let Some(connections) = connections.upgrade() else {
            return;
        };
        let now = clock.now();
        let Some((first, last)) = connections.close_unusable(now) else {
            connections.has_sweeper.store(false, Ordering::Release);
            // A connection may have come in between, and found a sweeper.
            let is_still_empty = connections.close_unusable(now).is_none();
            if is_still_empty || connections.has_sweeper.swap(true, Ordering::AcqRel) {
                return;
            }
            continue;
        };
        // An app that gets no requests must not wake the gateway every second.
        interval = if before == Some(last) {
            MAX_SWEEP.min(interval * 2)
        } else {
            SWEEP
        };
        before = Some(last);
        // An expired one is closed at once: a moment later the app would do it.
        pause = (first - now).clamp(MIN_SWEEP, interval);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    async fn pair() -> (BackendConnection, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Inet(listener.local_addr().unwrap());
        let connection = new_connection(&target).await.unwrap();
        (connection, listener.accept().unwrap().0)
    }

    /// Waits until the system has reported what the apps of all idle connections did.
    async fn none_is_quiet(idle: &IdleConnections) {
        let take = |lane: &parking_lot::Mutex<Vec<_>>| std::mem::take(&mut *lane.lock());
        let all: Vec<IdleConnection> = idle.lanes.iter().flat_map(take).collect();
        for idle in &all {
            match &idle.connection.socket {
                Socket::Tcp(socket) => socket.readable().await.unwrap(),
                Socket::Unix(socket) => socket.readable().await.unwrap(),
            }
        }
        idle.lanes.enter().extend(all);
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first() {
        let idle = Arc::<IdleConnections>::default();
        let clock = Clock::test();
        let now = clock.now();
        let (first, _app) = pair().await;
        let (second, _other_app) = pair().await;
        let fds = [first.fd(), second.fd()];
        idle.put(first, now + SWEEP, &clock);
        idle.put(second, now + SWEEP, &clock);
        let mut taken = [idle.take(now).unwrap(), idle.take(now).unwrap()];
        assert_eq!([taken[1].fd(), taken[0].fd()], fds);
        assert!(taken.iter_mut().all(|connection| connection.is_reused()));
        assert!(idle.take(now).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_expired_or_that_its_app_used_is_not_taken() {
        let idle = Arc::<IdleConnections>::default();
        let clock = Clock::test();
        let now = clock.now();
        let (expired, _app) = pair().await;
        idle.put(expired, now + SWEEP, &clock);
        assert!(idle.take(now + SWEEP).is_none());
        let (closed, app) = pair().await;
        idle.put(closed, now + SWEEP, &clock);
        drop(app);
        let (chatty, mut app) = pair().await;
        app.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            .unwrap();
        idle.put(chatty, now + SWEEP, &clock);
        none_is_quiet(&idle).await;
        assert!(idle.take(now).is_none());
        // The control: a connection to an app that has done nothing.
        let (quiet, _app) = pair().await;
        idle.put(quiet, now + SWEEP, &clock);
        tokio::task::yield_now().await;
        assert!(idle.take(now).is_some());
    }

    /// A task may poll 128 times before it must yield; what it polls then is pending.
    #[tokio::test]
    async fn closed_connections_are_recognised_however_many_there_are() {
        let idle = Arc::<IdleConnections>::default();
        let clock = Clock::test();
        let now = clock.now();
        let mut apps = Vec::new();
        for _ in 0..300 {
            let (connection, app) = pair().await;
            idle.put(connection, now + SWEEP, &clock);
            apps.push(app);
        }
        drop(apps);
        none_is_quiet(&idle).await;
        assert!(idle.take(now).is_none());
    }

    #[tokio::test]
    async fn idle_connections_are_closed_when_their_time_is_up() {
        let idle = Arc::<IdleConnections>::default();
        let clock = Clock::test();
        let (connection, mut app) = pair().await;
        idle.put(connection, clock.now() + Duration::from_secs(5), &clock);
        clock.advance(Duration::from_secs(6));
        let end = tokio::task::spawn_blocking(move || app.read(&mut [0]).unwrap());
        assert_eq!(end.await.unwrap(), 0);
    }
}
