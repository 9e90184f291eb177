//! Shared state of a client's connection and its requests: the peer, the TLS parameters, the stage,
//! and the means to end it from outside.
//!
//! Each stage has a deadline, checked by the task of [`registry`]. The connection only
//! records that a stage has begun, which costs a store and reads no clock. An expired connection is
//! ended by shutting down the socket's reading side: the reader sees the end of the stream, looks
//! up the close reason, and may still send a response.

pub mod activity;
pub mod admission;
mod check;
mod close_reason;
pub mod deadline;
pub mod file_segment;
pub mod header_texts;
pub mod http2;
pub mod listener;
pub mod pace;
pub mod progress;
pub mod refusal;
pub mod registry;
pub mod response_header;
mod socket;
#[cfg(test)]
mod testkit;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::RawFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
    },
    task::Waker,
    time::Duration,
};

use edgeway_core::chain::{ClientCertificate, Scheme};
use edgeway_gateway::Listener;
use edgeway_tls as tls;
use parking_lot::Mutex;
use rustix::net::Shutdown;

pub use self::close_reason::CloseReason;
use self::{
    admission::AdmissionGuard,
    deadline::Watch,
    file_segment::SegmentSlot,
    header_texts::ConnectionText,
    http2::Streams,
    listener::{ListenerFacts, ListenerMetrics},
    pace::Pace,
    progress::Progress,
    registry::RegistryPlace,
    socket::{forget_unsent, has_unread, reset, shut_down},
};

/// Time for a connection that is being closed to send its last response.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a WebSocket that is being closed: for the frame in flight, for our own, and for its
/// client to read both.
const GOAWAY_DELAY: Duration = Duration::from_secs(1);

/// Properties of an accepted connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    /// `None` for a unix socket, which counts as loopback.
    pub peer: Option<SocketAddr>,
    pub tls: Option<tls::TlsFacts>,
    pub progress: Arc<Progress>,
    pub guard: AdmissionGuard,
}

/// A client's connection.
pub struct Connection {
    pub listener: Arc<ListenerFacts>,
    /// Counters of the listener's name when the connection was accepted.
    metrics: Arc<ListenerMetrics>,
    pub peer: IpAddr,
    pub peer_port: u16,
    pub is_unix: bool,
    pub tls: Option<tls::TlsFacts>,
    pub text: ConnectionText,
    /// Pace of the request body in flight on HTTP/1.
    pub pace: Pace,
    /// The deadline of the request in flight on HTTP/1.
    watch: Arc<Watch>,
    /// Streams of HTTP/2, unused on HTTP/1.
    pub streams: Streams,
    /// [`Stage`] in the lowest byte. Above it a counter that each stage increments, so that two
    /// idle periods differ.
    stage: AtomicU64,
    /// Value of `stage` when the deadline task last saw it change, and the time of that.
    seen: AtomicU64,
    seen_at: AtomicU64,
    /// Progress of the client in reading its responses.
    progress: Arc<Progress>,
    /// Part of a file that the next flush sends.
    pub segment: SegmentSlot,
    /// True once both sides speak another protocol than HTTP.
    is_tunnel: AtomicBool,
    is_websocket: AtomicBool,
    /// True if only the end of the connection marks the end of the response being written.
    ends_body: AtomicBool,
    /// Waker of the task that reads a WebSocket.
    reader: Mutex<Option<Waker>>,
    closed: AtomicU8,
    /// Time at which the deadline task first saw that this connection is being closed.
    closing_since: AtomicU64,
    /// True once the close reason has been logged and counted.
    is_close_reported: AtomicBool,
    socket: Mutex<Option<RawFd>>,
    /// Place among all connections, from when it was added until it is dropped.
    place: OnceLock<RegistryPlace>,
    _guard: AdmissionGuard,
}

/// Client certificate status of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificateStatus<'a> {
    /// The listener requests no client certificates.
    NotAsked,
    Nothing,
    Verified(&'a Arc<ClientCertificate>),
}

/// Stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Waits for the first byte of the next request.
    Idle = 0,
    /// Reads the rest of the header section.
    Head = 1,
    /// A request is in flight.
    Request = 2,
    /// HTTP/2: requests come and go, and the frames have more detail.
    Http2 = 3,
}

impl Connection {
    pub fn new(listener: Arc<ListenerFacts>, entry: ConnectionFacts) -> Self {
        let metrics = listener.metrics();
        metrics.open.inc();
        let peer = entry.peer;
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| {
            peer.ip().to_canonical()
        });
        Self {
            text: ConnectionText::new(address, &listener.port_text),
            listener,
            metrics,
            peer: address,
            peer_port: peer.map_or(0, |peer| peer.port()),
            is_unix: peer.is_none(),
            tls: entry.tls,
            pace: Pace::default(),
            watch: Arc::default(),
            streams: Streams::default(),
            stage: AtomicU64::new(Stage::Head as u64),
            seen: AtomicU64::new(0),
            seen_at: AtomicU64::new(0),
            progress: entry.progress,
            segment: SegmentSlot::default(),
            is_tunnel: AtomicBool::new(false),
            is_websocket: AtomicBool::new(false),
            ends_body: AtomicBool::new(false),
            reader: Mutex::default(),
            closed: AtomicU8::new(0),
            closing_since: AtomicU64::new(0),
            is_close_reported: AtomicBool::new(false),
            socket: Mutex::new(None),
            place: OnceLock::new(),
            _guard: entry.guard,
        }
    }

    pub fn scheme(&self) -> Scheme {
        match self.tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }

    /// Returns true if a request for `host`, without port and in lower case, came on a connection
    /// that was made under other rules for clients, or for another name. That matters if clients are
    /// asked for certificates, because the server name of the handshake decides what is required of
    /// them.
    pub fn is_misdirected(&self, listener: &Listener, host: &str) -> bool {
        let asks_clients = listener.tls.as_ref().is_some_and(|tls| tls.asks_clients);
        let is_for_host = || self.tls.as_ref().is_some_and(|tls| tls.is_for(host));
        self.has_other_rules(listener) || asks_clients && !is_for_host()
    }

    /// Returns true if each response is the last of the connection: its listener drains, or has other
    /// rules for certificates of clients than when the connection was made.
    pub fn is_ending(&self) -> bool {
        self.listener.is_draining() || self.has_other_rules(&self.listener.config())
    }

    /// Returns true if `listener` lets clients in by other rules than this one was. Without TLS nothing
    /// is demanded of them, as with TLS without `client_ca`.
    pub fn has_other_rules(&self, listener: &Listener) -> bool {
        let rules = self.tls.as_ref().map_or(0, |tls| tls.client_rules);
        rules != listener.tls.as_ref().map_or(0, |tls| tls.client_rules())
    }

    /// Status of the client's certificate.
    pub fn shown(&self) -> ClientCertificateStatus<'_> {
        let Some(tls) = &self.tls else {
            return ClientCertificateStatus::NotAsked;
        };
        if let Some(client) = &tls.client {
            return ClientCertificateStatus::Verified(client);
        }
        let config = self.listener.config();
        if config
            .tls
            .as_ref()
            .is_some_and(|server| server.asks_clients)
        {
            ClientCertificateStatus::Nothing
        } else {
            ClientCertificateStatus::NotAsked
        }
    }

    /// The deadline of a request: the connection's own on HTTP/1, or a new one on HTTP/2.
    pub fn request_watch(&self, is_http2: bool) -> Arc<Watch> {
        if !is_http2 {
            self.watch.renew();
            return Arc::clone(&self.watch);
        }
        self.streams.watch()
    }

    /// Begins a stage.
    #[inline]
    pub fn enter(&self, stage: Stage) {
        let before = self.stage.load(Ordering::Relaxed);
        let next = (before | 0xff).wrapping_add(1) | stage as u64;
        self.stage.store(next, Ordering::Relaxed);
        if stage != Stage::Idle {
            self.listener.activity.touch();
        }
    }

    /// Begins a request after a complete header section. Returns an error if its time was up just
    /// before: no request begins on a connection that is being closed.
    pub fn begin_request(&self) -> Result<(), CloseReason> {
        self.pace.restart();
        self.watch.body.restart();
        self.enter(Stage::Request);
        // Pairs with the fence in `close_in`: either we see the reason, or `close_in` sees our stage.
        fence(Ordering::SeqCst);
        self.close_reason().map_or(Ok(()), Err)
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) & 0xff {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Request,
            _ => Stage::Http2,
        }
    }

    /// Sets the client's socket, which may be shut down until [`Connection::socket_gone`].
    pub fn socket(&self, fd: RawFd) {
        *self.socket.lock() = Some(fd);
    }

    /// Removes the client's socket before it is closed.
    pub fn socket_gone(&self) {
        *self.socket.lock() = None;
    }

    /// Stops reading from the client. The reader learns the reason from [`Connection::close_reason`]. A
    /// client that does not read is disconnected in both directions.
    pub fn close(&self, why: CloseReason) {
        let socket = self.socket.lock();
        // The first reason counts.
        if !self.is_first(why) {
            return;
        }
        if why == CloseReason::SendTimeout {
            forget_unsent(&socket);
            shut_down(&socket, Shutdown::Both);
        } else {
            shut_down(&socket, Shutdown::Read);
        }
    }

    fn is_first(&self, why: CloseReason) -> bool {
        let (ok, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        self.closed
            .compare_exchange(0, why.code(), ok, failed)
            .is_ok()
    }

    /// Same as [`Connection::close`], unless the `stage` is over.
    fn close_in(&self, stage: u64, why: CloseReason) {
        let socket = self.socket.lock();
        if !self.is_first(why) {
            return;
        }
        fence(Ordering::SeqCst);
        if self.stage.load(Ordering::Relaxed) == stage {
            shut_down(&socket, Shutdown::Read);
        } else {
            self.closed.store(0, Ordering::Release);
        }
    }

    /// Close reason of this connection, if we closed it.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self.closed.load(Ordering::Acquire) {
            // The usual case, checked with every read and every request.
            0 => None,
            code => CloseReason::from_code(code),
        }
    }

    /// Returns true if no request is in flight, nor one that nobody has begun to read.
    fn may_end(&self) -> bool {
        self.is_idle() && !has_unread(&self.socket.lock())
    }

    /// Returns true if no request is in flight.
    fn is_idle(&self) -> bool {
        match self.stage() {
            Stage::Idle | Stage::Head => true,
            Stage::Request => false,
            Stage::Http2 => self.streams.open() == 0,
        }
    }

    /// Close reason for the log line of a request that ended with its connection.
    pub fn request_close_reason(&self) -> Option<CloseReason> {
        let reason = self.close_reason()?;
        if !reason.is_of_request() {
            return None;
        }
        self.report_close();
        Some(reason)
    }

    /// Claims the right to log and count the close reason. False if it was claimed before.
    pub fn report_close(&self) -> bool {
        !self.is_close_reported.swap(true, Ordering::Relaxed)
    }

    /// Ends this connection at once, in both directions, without another response.
    fn end(&self) {
        if self.break_off() {
            return;
        }
        // Over TLS, the reader of an idle connection says that nothing follows.
        let is_read = self.tls.is_some() && matches!(self.stage(), Stage::Idle | Stage::Head);
        let how = if is_read {
            Shutdown::Read
        } else {
            Shutdown::Both
        };
        shut_down(&self.socket.lock(), how);
    }

    /// Marks the response being written as one that ends with this connection.
    pub fn end_body(&self) {
        self.ends_body.store(true, Ordering::Relaxed);
    }

    /// Resets the connection if its end would look like the end of the response. Returns `false` if
    /// the client can tell in another way that the response is incomplete.
    pub fn break_off(&self) -> bool {
        let ends_body = self.ends_body.load(Ordering::Relaxed);
        if ends_body {
            reset(&self.socket.lock());
        }
        ends_body
    }

    /// Ends this connection. A WebSocket's client is sent a close frame once the frame in flight is
    /// complete. Any other connection ends at once.
    pub fn go_away(&self) {
        // A response that waits for its backend would take our own end for a client that sends no more.
        let has_request = matches!(self.stage(), Stage::Request);
        if has_request || self.is_websocket() {
            let why = CloseReason::GoingAway.code();
            // If it was closed before, its last response is being sent already.
            let _first = self
                .closed
                .compare_exchange(0, why, Ordering::AcqRel, Ordering::Relaxed);
        }
        if !self.is_websocket() {
            return self.end();
        }
        let reader = self.reader.lock().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Registers the task that reads a WebSocket, to be woken by [`Connection::go_away`]. Call this
    /// before [`Connection::is_going_away`].
    pub fn wake_to_go_away(&self, waker: &Waker) {
        let mut reader = self.reader.lock();
        if !reader
            .as_ref()
            .is_some_and(|registered| registered.will_wake(waker))
        {
            *reader = Some(waker.clone());
        }
    }

    pub fn is_going_away(&self) -> bool {
        self.close_reason() == Some(CloseReason::GoingAway)
    }

    /// Switches to a tunnel: HTTP ends, and bytes are forwarded as they are.
    pub fn set_tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Release);
    }

    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Acquire)
    }

    /// Switches to a tunnel of WebSocket frames (RFC 6455), after the `101` response.
    pub fn set_websocket(&self) {
        self.is_websocket.store(true, Ordering::Release);
        self.set_tunnel();
    }

    #[inline]
    pub fn is_websocket(&self) -> bool {
        self.is_websocket.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.open.dec();
        let current = self.listener.metrics();
        if current.open.get() == 0 {
            // No connection is left to count.
            current.idle.set(0);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("listener", &self.listener.name())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
