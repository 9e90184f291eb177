//! What a client's connection and the requests on it share: who is there, what the
//! handshake settled, in which stage it is, and how it is ended from outside.
//!
//! A stage has a deadline, kept by the task of [`super::connections`]: the connection only
//! says that a stage has begun, which costs a store, and reads no clock. What has run out
//! is ended by shutting down the socket's reading side: the reader sees the end of the
//! stream, asks why, and may still answer.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence},
    },
    task::Waker,
    time::Duration,
};

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};

pub use super::cut::Cut;
use super::{
    admission::Guard,
    deadline::Watch,
    http2::Streams,
    listener::ListenerFacts,
    pace::{Bounds, Pace},
    progress::Progress,
    shortcut::Fingerprint,
    text::ConnectionText,
};
use crate::{
    chain::{ClientCertificate, Scheme},
    tls,
};

/// How long a connection that was cut may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a WebSocket that we go away from has for the frame under way, our own, and for
/// its client to have read them.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where a connection comes from and what it cost to let it in.
#[derive(Debug)]
pub struct Entry {
    /// None for a unix socket, which counts as loopback.
    pub peer: Option<SocketAddr>,
    pub tls: Option<tls::Facts>,
    pub progress: Arc<Progress>,
    pub guard: Guard,
}

#[cfg(test)]
impl Entry {
    pub(crate) fn test() -> Self {
        Self {
            peer: None,
            tls: None,
            progress: Arc::default(),
            guard: Guard::uncounted(),
        }
    }
}

/// What the next head gets besides what Pingora writes.
#[derive(Debug, Default)]
pub struct HeadLines {
    /// Whole lines, to stand behind the status line.
    pub added: Option<Arc<[u8]>>,
    /// Stands in the place of the `Date` that is written.
    pub date: Option<HeaderValue>,
}

/// One client's connection.
pub struct Connection {
    pub listener: Arc<ListenerFacts>,
    pub peer: IpAddr,
    pub peer_port: u16,
    pub is_unix: bool,
    pub tls: Option<tls::Facts>,
    pub text: ConnectionText,
    /// The body under way on HTTP/1.
    pub pace: Pace,
    /// The deadline of the request under way on HTTP/1.
    watch: Arc<Watch>,
    /// HTTP/2 only.
    pub streams: Streams,
    /// [`Stage`] in the lowest byte; above it a count that each stage moves, so that one
    /// idle time is not taken for the next.
    stage: AtomicU64,
    /// As `stage` was when the watching task last saw it change, and when that was.
    seen: AtomicU64,
    seen_at: AtomicU64,
    /// How the client takes what it is sent.
    progress: Arc<Progress>,
    /// Header lines of the answer that is about to be written, and whether there are any.
    lines: Mutex<HeadLines>,
    has_lines: AtomicBool,
    /// Both sides speak something else than HTTP from here on.
    is_tunnel: AtomicBool,
    is_websocket: AtomicBool,
    /// The response that is written ends with the connection, and in no other way.
    ends_body: AtomicBool,
    /// Reads a WebSocket.
    reader: Mutex<Option<Waker>>,
    /// Of the request under way on HTTP/1; zero if it has none.
    fingerprint: AtomicU64,
    cut: AtomicU8,
    /// When the watching task first saw that this connection was cut.
    cut_at: AtomicU64,
    /// Somebody has logged and counted the cut.
    is_cut_told: AtomicBool,
    socket: Mutex<Option<RawFd>>,
    _guard: Guard,
}

/// What a client showed of itself when its connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// The listener asks nobody for a certificate.
    NotAsked,
    Nothing,
    Verified(&'a Arc<ClientCertificate>),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The next request's first byte.
    Idle = 0,
    /// The rest of a request's head.
    Head = 1,
    /// A request is under way.
    Request = 2,
    /// HTTP/2: requests come and go, frames say more.
    Http2 = 3,
}

impl Connection {
    pub fn new(listener: Arc<ListenerFacts>, entry: Entry) -> Self {
        listener.metrics.open.inc();
        let Entry {
            peer,
            tls,
            progress,
            guard,
        } = entry;
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| {
            peer.ip().to_canonical()
        });
        Self {
            text: ConnectionText::new(address, listener.port),
            listener,
            peer: address,
            peer_port: peer.map_or(0, |peer| peer.port()),
            is_unix: peer.is_none(),
            tls,
            pace: Pace::default(),
            watch: Arc::default(),
            streams: Streams::default(),
            stage: AtomicU64::new(Stage::Head as u64),
            seen: AtomicU64::new(0),
            seen_at: AtomicU64::new(0),
            progress,
            lines: Mutex::default(),
            has_lines: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            is_websocket: AtomicBool::new(false),
            ends_body: AtomicBool::new(false),
            reader: Mutex::default(),
            fingerprint: AtomicU64::new(0),
            cut: AtomicU8::new(0),
            cut_at: AtomicU64::new(0),
            is_cut_told: AtomicBool::new(false),
            socket: Mutex::new(None),
            _guard: guard,
        }
    }

    pub fn scheme(&self) -> Scheme {
        match self.tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }

    /// Whether a request for `host`, without port and in lower case, came on a connection
    /// that was made for another name. It matters where clients are asked for
    /// certificates: the name that they asked for decided what was asked of them.
    pub fn is_misdirected(&self, host: &str) -> bool {
        let asks = |server: &Arc<tls::Server>| server.asks_clients;
        self.listener.config().tls.as_ref().is_some_and(asks)
            && self.tls.as_ref().is_some_and(|tls| !tls.is_for(host))
    }

    /// What is known of the client's certificate.
    pub fn shown(&self) -> Shown<'_> {
        let config = self.listener.config();
        let Some(server) = &config.tls else {
            return Shown::NotAsked;
        };
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref());
        match client {
            Some(client) => Shown::Verified(client),
            None if server.asks_clients => Shown::Nothing,
            None => Shown::NotAsked,
        }
    }

    /// The deadline of a request: the connection's own with HTTP/1, else one of its own.
    pub fn request_watch(&self, is_http2: bool) -> Arc<Watch> {
        if !is_http2 {
            return Arc::clone(&self.watch);
        }
        self.streams.watch()
    }

    /// A stage begins.
    #[inline]
    pub fn enter(&self, stage: Stage) {
        let before = self.stage.load(Ordering::Relaxed);
        let next = (before | 0xff).wrapping_add(1) | stage as u64;
        self.stage.store(next, Ordering::Relaxed);
    }

    /// A whole head is there. An error if its time was up just before: no request begins on
    /// a connection that was cut.
    pub fn begin_request(&self, head: Fingerprint) -> Result<(), Cut> {
        self.fingerprint.store(head, Ordering::Relaxed);
        self.pace.restart();
        self.enter(Stage::Request);
        // With its like in `cut_in`: either we see the cut, or the cut sees our stage.
        fence(Ordering::SeqCst);
        self.was_cut().map_or(Ok(()), Err)
    }

    /// What stands for the head of the request under way on HTTP/1, if it has that.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.load(Ordering::Relaxed)
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) & 0xff {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Request,
            _ => Stage::Http2,
        }
    }

    /// The client's socket, which may be shut down until [`Connection::socket_gone`].
    pub fn socket(&self, fd: RawFd) {
        *self.socket.lock() = Some(fd);
    }

    /// Asks something of the client's socket; `None` once that is gone.
    #[allow(
        unsafe_code,
        reason = "the socket's owner lets go of it under the lock that is held here"
    )]
    pub fn ask_socket<T>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let socket = self.socket.lock();
        let fd = (*socket)?;
        // SAFETY: as in `shut_down`.
        Some(ask(unsafe { BorrowedFd::borrow_raw(fd) }))
    }

    /// The client's socket is about to be closed.
    pub fn socket_gone(&self) {
        *self.socket.lock() = None;
    }

    /// Ends what the client may still send; its reader finds out why with
    /// [`Connection::was_cut`]. A client that does not read is cut off whole.
    pub fn cut(&self, why: Cut) {
        let socket = self.socket.lock();
        // The first reason counts.
        let first = self
            .cut
            .compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        if why == Cut::SendTimeout {
            forget_unsent(&socket);
            shut_down(&socket, rustix::net::Shutdown::Both);
        } else {
            shut_down(&socket, rustix::net::Shutdown::Read);
        }
    }

    /// As [`Connection::cut`], unless the stage that was `seen` is over.
    fn cut_in(&self, seen: u64, why: Cut) {
        let socket = self.socket.lock();
        let first = self
            .cut
            .compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        fence(Ordering::SeqCst);
        if self.stage.load(Ordering::Relaxed) == seen {
            shut_down(&socket, rustix::net::Shutdown::Read);
        } else {
            self.cut.store(0, Ordering::Release);
        }
    }

    /// Why we ended this connection, if we did.
    pub fn was_cut(&self) -> Option<Cut> {
        let cut = self.cut.load(Ordering::Acquire);
        if cut == 0 {
            // Asked with every read and every request.
            return None;
        }
        Cut::ALL.into_iter().find(|known| *known as u8 == cut)
    }

    /// Has nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        match self.stage() {
            Stage::Idle | Stage::Head => true,
            Stage::Request => false,
            Stage::Http2 => self.streams.open() == 0,
        }
    }

    /// Why a request on this connection was ended with it, which its own line tells.
    pub fn request_cut(&self) -> Option<Cut> {
        let cut = self.was_cut()?;
        if !matches!(cut, Cut::SendTimeout | Cut::BodyTimeout | Cut::GoingAway) {
            return None;
        }
        self.tell_cut();
        Some(cut)
    }

    /// Somebody logs and counts that this connection was cut. False if somebody has.
    pub fn tell_cut(&self) -> bool {
        !self.is_cut_told.swap(true, Ordering::Relaxed)
    }

    /// Ends this connection at once, in both directions: nothing more is answered.
    pub(super) fn end(&self) {
        if !self.break_off() {
            shut_down(&self.socket.lock(), rustix::net::Shutdown::Both);
        }
    }

    /// The end of this connection is the end of the response that is written from here on.
    pub fn end_body(&self) {
        self.ends_body.store(true, Ordering::Relaxed);
    }

    /// Resets the connection if its end would pass for that of the response; `false` if its
    /// client sees in another way that the response is cut.
    pub fn break_off(&self) -> bool {
        let ends_body = self.ends_body.load(Ordering::Relaxed);
        if ends_body {
            reset(&self.socket.lock());
        }
        ends_body
    }

    /// Ends this connection: a WebSocket's client is told that we go away, as soon as the
    /// frame under way is over, and anything else is cut at once.
    pub fn go_away(&self) {
        if !self.is_websocket() {
            return self.end();
        }
        let why = Cut::GoingAway as u8;
        // If it was cut before, it has its last words already.
        let _first = self
            .cut
            .compare_exchange(0, why, Ordering::AcqRel, Ordering::Relaxed);
        let reader = self.reader.lock().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whoever reads a WebSocket is woken when we go away from it; asks for that before
    /// [`Connection::is_going_away`].
    pub fn wake_to_go_away(&self, waker: &Waker) {
        let mut reader = self.reader.lock();
        if !reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    pub fn is_going_away(&self) -> bool {
        self.was_cut() == Some(Cut::GoingAway)
    }

    /// The next head that is written gets these lines as well.
    pub fn write_lines(&self, lines: Arc<[u8]>) {
        self.lines.lock().added = Some(lines);
        self.has_lines.store(true, Ordering::Relaxed);
    }

    /// The next head that is written has this `Date`. Pingora's session writes the time of
    /// now into every head, and a stored answer has the time at which it was made (RFC 9110,
    /// 6.6.1).
    pub fn write_date(&self, date: HeaderValue) {
        self.lines.lock().date = Some(date);
        self.has_lines.store(true, Ordering::Relaxed);
    }

    /// Lines for the head that is being written.
    #[inline]
    pub fn take_lines(&self) -> Option<HeadLines> {
        if !self.has_lines.load(Ordering::Relaxed) {
            return None;
        }
        self.has_lines.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *self.lines.lock()))
    }

    /// HTTP is over: what comes is passed on as it is.
    pub fn set_tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Release);
    }

    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Acquire)
    }

    /// A tunnel, and frames are what passes (RFC 6455), after the head that says so.
    pub fn set_websocket(&self) {
        self.is_websocket.store(true, Ordering::Release);
        self.set_tunnel();
    }

    #[inline]
    pub fn is_websocket(&self) -> bool {
        self.is_websocket.load(Ordering::Acquire)
    }

    /// Ends what has run out by now, `elapsed` milliseconds after the last look.
    pub(super) fn check(&self, now: u64, elapsed: u64) {
        let config = self.listener.config();
        let limits = &config.limits;
        let bounds = Bounds {
            rate: limits.body_rate,
            grace: limits.body_grace,
        };
        let is_blocked = self.progress.is_blocked();
        let stalled = self
            .progress
            .stalled(now, || unsent(&self.socket.lock()).unwrap_or(0));
        if stalled >= limits.send_timeout {
            self.cut(Cut::SendTimeout);
        }
        self.watch.check(now, is_blocked);
        if self.cut.load(Ordering::Relaxed) != 0 {
            self.see_off(now);
            return;
        }
        if self.stage() == Stage::Http2 {
            self.streams.check_bodies(elapsed, bounds);
            if let Some(why) = self.streams.check(now, is_blocked, limits) {
                self.cut(why);
            }
            return;
        }
        if self.stage() == Stage::Request
            && !self.is_tunnel()
            && self
                .pace
                .is_too_slow(elapsed, self.pace.is_awaited(), bounds)
        {
            self.cut(Cut::BodyTimeout);
        }
        let stage = self.stage.load(Ordering::Relaxed);
        if stage != self.seen.load(Ordering::Relaxed) || self.seen_at.load(Ordering::Relaxed) == 0 {
            self.seen.store(stage, Ordering::Relaxed);
            self.seen_at.store(now, Ordering::Relaxed);
            return;
        }
        let (limit, why) = match self.stage() {
            Stage::Idle => (limits.idle_timeout, Cut::IdleTimeout),
            Stage::Head => (limits.header_timeout, Cut::HeaderTimeout),
            Stage::Request | Stage::Http2 => return,
        };
        let since = Duration::from_millis(now - self.seen_at.load(Ordering::Relaxed));
        if since >= limit {
            self.cut_in(stage, why);
        }
    }

    /// Ends what was cut a while ago and is still there: it waits for its client to read.
    fn see_off(&self, now: u64) {
        let at = self.cut_at.load(Ordering::Relaxed);
        if at == 0 {
            self.cut_at.store(now, Ordering::Relaxed);
            return;
        }
        let most = if self.is_going_away() {
            FAREWELL
        } else {
            LAST_WORDS
        };
        if Duration::from_millis(now - at) >= most {
            self.end();
        }
    }
}

/// Shuts down the socket whose lock is held, unless it is gone.
#[allow(
    unsafe_code,
    reason = "the socket's owner lets go of it under the lock that is held here"
)]
fn shut_down(socket: &MutexGuard<'_, Option<RawFd>>, how: rustix::net::Shutdown) {
    let Some(fd) = **socket else { return };
    // SAFETY: whoever closes the socket calls `socket_gone` first, which waits for the lock.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if let Err(error) = rustix::net::shutdown(fd, how) {
        log::debug!(error:%; "a client was gone before its connection was ended");
    }
}

/// RFC 9112, 8: what ends with its connection is whole, unless that ends in an error.
#[allow(
    unsafe_code,
    reason = "the socket's owner lets go of it under the lock that is held here"
)]
fn reset(socket: &MutexGuard<'_, Option<RawFd>>) {
    let Some(fd) = **socket else { return };
    // SAFETY: as in `shut_down`.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if let Err(error) = rustix::net::connect_unspec(fd) {
        log::debug!(error:%; "a client's connection could not be reset");
        shut_down(socket, rustix::net::Shutdown::Both);
    }
}

/// Bytes that the kernel holds until the other side has confirmed them.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "rustix knows no such question, and the socket is held as in `shut_down`"
)]
fn unsent(socket: &MutexGuard<'_, Option<RawFd>>) -> Option<u64> {
    // tcp(7) and unix(7): SIOCOUTQ, which is TIOCOUTQ, writes an int.
    type OutQueue = rustix::ioctl::Getter<0x5411, i32>;
    let fd = (**socket)?;
    // SAFETY: whoever closes the socket calls `socket_gone` first, which waits for the lock.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: the number belongs to this type, and the kernel writes no more than it.
    let unsent = unsafe { rustix::ioctl::ioctl(fd, OutQueue::new()) };
    unsent.ok()?.try_into().ok()
}

/// Elsewhere a client's progress shows in what it lets us write.
#[cfg(not(target_os = "linux"))]
fn unsent(_socket: &MutexGuard<'_, Option<RawFd>>) -> Option<u64> {
    None
}

/// Has what is unsent thrown away when the socket closes. The kernel would offer it to the
/// client for minutes more, and keep the memory for that long.
#[allow(
    unsafe_code,
    reason = "the socket's owner lets go of it under the lock that is held here"
)]
fn forget_unsent(socket: &MutexGuard<'_, Option<RawFd>>) {
    let Some(fd) = **socket else { return };
    // SAFETY: as in `shut_down`.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if let Err(error) = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO)) {
        log::debug!(error:%; "a client's socket would not forget what is unsent");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let metrics = &self.listener.metrics;
        metrics.open.dec();
        if metrics.open.get() == 0 {
            // Nobody is left to be counted.
            metrics.idle.set(0);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("listener", &self.listener.name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
