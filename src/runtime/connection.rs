//! What a client's connection and the requests on it share: who is there, and the
//! deadline of the request under way.
//!
//! Pingora gives a backend's connection one read timeout for head and body alike. Ours
//! differ (first byte, gaps, gaps of a stream, all in all), so peers get none and one
//! task looks at every busy connection ten times a second. What has run out is ended by
//! shutting the backend's socket down, which Pingora sees as the end of it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::task::AbortHandle;

use super::text::ConnectionText;
use crate::base::clock::Clock;

/// How often deadlines are looked at; the most by which one is overrun.
const TICK: Duration = Duration::from_millis(100);

/// What is the same for every connection of a listener.
#[derive(Debug)]
pub struct ListenerFacts {
    pub name: Arc<str>,
    /// 0 for a unix socket.
    pub port: u16,
    pub open: IntGauge,
}

/// One client's connection.
pub struct Connection {
    pub listener: Arc<ListenerFacts>,
    pub peer: IpAddr,
    pub peer_port: u16,
    pub is_unix: bool,
    pub text: ConnectionText,
    watch: Watch,
    /// A request is under way.
    is_busy: AtomicBool,
    /// What serves it.
    task: OnceLock<AbortHandle>,
}

/// Which deadline ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    FirstByte,
    Idle,
    Total,
}

/// The deadline of the request under way.
///
/// Written by the request's own task, read by the one that looks for what has run out:
/// each field stands for itself, and `socket` is locked while it is shut down, so a
/// request that has let go of its backend's socket never loses the next one's.
struct Watch {
    /// Milliseconds since [`Connections`] began; 0 for no deadline.
    next: AtomicU64,
    /// The bound of the whole request, likewise.
    total: AtomicU64,
    /// Milliseconds by which `next` moves with each piece of the answer.
    step: AtomicU64,
    is_streaming: AtomicBool,
    expired: AtomicU8,
    /// The client does not read: its slowness is not the backend's.
    is_blocked: AtomicBool,
    socket: Mutex<Option<Socket>>,
}

/// A backend's socket as we knew it: by number, and by our own address on it, since the
/// number may be another socket's by now.
#[derive(Clone, Copy, Debug)]
struct Socket {
    fd: RawFd,
    local: Option<SocketAddr>,
}

impl Connection {
    /// A connection from `peer`; one on a unix socket has none and counts as loopback.
    pub fn new(listener: Arc<ListenerFacts>, peer: Option<SocketAddr>) -> Self {
        listener.open.inc();
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| {
            peer.ip().to_canonical()
        });
        Self {
            text: ConnectionText::new(address, listener.port),
            listener,
            peer: address,
            peer_port: peer.map_or(0, |peer| peer.port()),
            is_unix: peer.is_none(),
            watch: Watch {
                next: AtomicU64::new(0),
                total: AtomicU64::new(0),
                step: AtomicU64::new(0),
                is_streaming: AtomicBool::new(false),
                expired: AtomicU8::new(0),
                is_blocked: AtomicBool::new(false),
                socket: Mutex::new(None),
            },
            is_busy: AtomicBool::new(false),
            task: OnceLock::new(),
        }
    }

    /// A request begins, or has ended.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// The task that serves this connection. Aborting it costs nothing until it happens;
    /// a signal that it waits for would be looked at whenever it is polled.
    pub fn served_by(&self, task: AbortHandle) {
        let first = self.task.set(task);
        debug_assert!(first.is_ok(), "one task serves a connection");
    }

    /// Ends this connection at once.
    fn cut(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// A try begins on this socket: the answer's head is due by `head`, the whole by
    /// `total` (both in milliseconds of [`Connections::millis`]), later pieces within
    /// `step` of one another.
    pub fn watch(
        &self,
        fd: RawFd,
        local: Option<SocketAddr>,
        head: u64,
        step: Duration,
        total: Option<u64>,
    ) {
        *self.watch.socket.lock() = Some(Socket { fd, local });
        let step = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        self.watch.step.store(step, Ordering::Relaxed);
        self.watch
            .total
            .store(total.unwrap_or(0), Ordering::Relaxed);
        self.watch.expired.store(0, Ordering::Relaxed);
        self.watch.is_streaming.store(false, Ordering::Relaxed);
        self.watch.next.store(head, Ordering::Release);
    }

    /// The answer has begun; its pieces are due within `step`.
    pub fn streaming(&self, now: u64, step: Duration) {
        let step = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        self.watch.step.store(step, Ordering::Relaxed);
        self.watch.is_streaming.store(true, Ordering::Relaxed);
        self.watch
            .next
            .store(now.saturating_add(step), Ordering::Release);
    }

    /// As [`Connection::streaming`], for an answer that is meant to go on: the bound of the
    /// whole request is none.
    pub fn endless(&self, now: u64, step: Duration) {
        self.watch.total.store(0, Ordering::Relaxed);
        self.streaming(now, step);
    }

    /// Something moved: the next piece may take as long again.
    pub fn moved(&self, now: u64) {
        if self.watch.next.load(Ordering::Relaxed) != 0 {
            let step = self.watch.step.load(Ordering::Relaxed);
            self.watch
                .next
                .store(now.saturating_add(step), Ordering::Relaxed);
        }
    }

    /// A piece of the request's body went out: the answer's head may wait anew.
    pub fn sent_body(&self, head: u64) {
        if self.watch.next.load(Ordering::Relaxed) != 0
            && !self.watch.is_streaming.load(Ordering::Relaxed)
        {
            self.watch.next.store(head, Ordering::Relaxed);
        }
    }

    /// The try is over, and the socket somebody else's.
    pub fn unwatch(&self) {
        if self.watch.next.swap(0, Ordering::AcqRel) != 0 {
            *self.watch.socket.lock() = None;
        }
    }

    /// Which deadline of the last try ran out, if one did.
    pub fn expired(&self) -> Option<Expired> {
        match self.watch.expired.load(Ordering::Acquire) {
            1 => Some(Expired::FirstByte),
            2 => Some(Expired::Idle),
            3 => Some(Expired::Total),
            _ => None,
        }
    }

    /// The client's socket takes no more bytes, or takes them again.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.watch.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    fn check(&self, now: u64) {
        let next = self.watch.next.load(Ordering::Acquire);
        if next == 0 {
            return;
        }
        let total = self.watch.total.load(Ordering::Relaxed);
        let is_streaming = self.watch.is_streaming.load(Ordering::Relaxed);
        let expired = if total != 0 && now >= total {
            3
        } else if now < next {
            return;
        } else if !is_streaming {
            1
        } else if self.watch.is_blocked.load(Ordering::Relaxed) {
            self.moved(now);
            return;
        } else {
            2
        };
        let mut socket = self.watch.socket.lock();
        if let Some(socket) = socket.take() {
            self.watch.expired.store(expired, Ordering::Release);
            self.watch.next.store(0, Ordering::Release);
            shut_down(socket);
        }
    }
}

/// Shuts a backend's socket down, if it is still the one we knew.
#[allow(
    unsafe_code,
    reason = "the socket belongs to Pingora, which hands out its number only"
)]
fn shut_down(socket: Socket) {
    // SAFETY: the request holds the socket until it calls `unwatch`, which waits for the
    // lock that our caller holds. Should Pingora have closed it before that (a failed try
    // is dropped before we hear of it), the number may be free or another socket's: the
    // address tells, and a free number makes both calls fail and nothing else.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
    let local = rustix::net::getsockname(fd)
        .ok()
        .and_then(|address| SocketAddr::try_from(address).ok());
    if local == socket.local
        && let Err(error) = rustix::net::shutdown(fd, rustix::net::Shutdown::Both)
    {
        log::debug!(error:%; "a backend's socket was gone before its deadline");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.listener.open.dec();
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

/// Every open connection of the process.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    began: Instant,
    /// Sharded, so that accepting on one worker does not wait for another.
    shards: [Mutex<Vec<Weak<Connection>>>; 16],
    next: AtomicUsize,
}

impl Connections {
    pub fn new(clock: Clock) -> Self {
        let now = clock.now();
        let began = now.checked_sub(Duration::from_millis(1)).unwrap_or(now);
        Self(Arc::new(Inner {
            clock,
            began,
            shards: Default::default(),
            next: AtomicUsize::new(0),
        }))
    }

    /// Milliseconds since the process began, at least 1.
    pub fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// [`Connections::millis`] of now.
    pub fn now(&self) -> u64 {
        self.millis(self.0.clock.now())
    }

    /// Watches over a connection from now on. If it is to be cut, it has its task already.
    pub fn add(&self, connection: &Arc<Connection>) {
        let index = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.shards.len();
        self.0.shards[index].lock().push(Arc::downgrade(connection));
    }

    pub fn open(&self) -> usize {
        let alive = |shard: &Mutex<Vec<Weak<Connection>>>| {
            shard.lock().iter().filter(|c| c.strong_count() > 0).count()
        };
        self.0.shards.iter().map(alive).sum()
    }

    /// Ends every connection without a request under way, or every one.
    pub fn cut(&self, also_busy: bool) {
        for shard in &self.0.shards {
            for connection in shard.lock().iter().filter_map(Weak::upgrade) {
                if also_busy || !connection.is_busy.load(Ordering::Relaxed) {
                    connection.cut();
                }
            }
        }
    }

    /// Looks at every connection once, and forgets those that are gone.
    fn check(&self) {
        let now = self.now();
        for shard in &self.0.shards {
            shard.lock().retain(|connection| {
                let Some(connection) = connection.upgrade() else {
                    return false;
                };
                connection.check(now);
                true
            });
        }
    }

    /// Ends what has run out, for ever.
    pub async fn supervise(self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, os::fd::AsRawFd};

    use super::*;

    struct Bench {
        clock: Clock,
        connections: Connections,
        connection: Arc<Connection>,
        backend: std::net::TcpStream,
        upstream: std::net::TcpStream,
    }

    fn bench() -> Bench {
        let clock = Clock::test();
        let connections = Connections::new(clock.clone());
        let listener = Arc::new(ListenerFacts {
            name: "test".into(),
            port: 80,
            open: IntGauge::new("open", "open").unwrap(),
        });
        let connection = Arc::new(Connection::new(listener, None));
        connections.add(&connection);
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = std::net::TcpStream::connect(origin.local_addr().unwrap()).unwrap();
        let (backend, _) = origin.accept().unwrap();
        backend.set_nonblocking(true).unwrap();
        Bench {
            clock,
            connections,
            connection,
            backend,
            upstream,
        }
    }

    impl Bench {
        fn watch(&self, first_byte: u64, idle: u64) {
            self.connection.watch(
                self.upstream.as_raw_fd(),
                self.upstream.local_addr().ok(),
                self.connections.now() + first_byte,
                Duration::from_millis(idle),
                None,
            );
        }

        fn advance(&self, millis: u64) {
            self.clock.advance(Duration::from_millis(millis));
            self.connections.check();
        }

        fn is_cut(&mut self) -> bool {
            matches!(self.backend.read(&mut [0]), Ok(0))
        }
    }

    #[test]
    fn a_backend_that_says_nothing_is_cut_at_its_deadline() {
        let mut bench = bench();
        bench.watch(1000, 5000);
        bench.advance(900);
        assert!(!bench.is_cut());
        bench.advance(200);
        assert!(bench.is_cut());
        assert_eq!(bench.connection.expired(), Some(Expired::FirstByte));
    }

    #[test]
    fn each_piece_of_an_answer_moves_the_deadline() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench
            .connection
            .streaming(bench.connections.now(), Duration::from_millis(500));
        for _ in 0..5 {
            bench.advance(400);
            bench.connection.moved(bench.connections.now());
        }
        assert!(!bench.is_cut());
        bench.advance(600);
        assert!(bench.is_cut());
        assert_eq!(bench.connection.expired(), Some(Expired::Idle));
    }

    #[test]
    fn a_slow_client_is_not_the_backends_fault() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench
            .connection
            .streaming(bench.connections.now(), Duration::from_millis(500));
        bench.connection.set_blocked(true);
        bench.advance(5000);
        assert!(!bench.is_cut());
    }

    #[test]
    fn a_request_that_is_over_leaves_the_socket_alone() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench.connection.unwatch();
        bench.advance(5000);
        assert!(!bench.is_cut());
        assert_eq!(bench.connection.expired(), None);
    }

    #[test]
    fn another_socket_under_the_same_number_is_left_alone() {
        let mut bench = bench();
        bench.connection.watch(
            bench.upstream.as_raw_fd(),
            Some("127.0.0.1:1".parse().unwrap()),
            bench.connections.now() + 1000,
            Duration::from_secs(1),
            None,
        );
        bench.advance(5000);
        assert!(!bench.is_cut());
    }

    #[test]
    fn a_stream_has_no_bound_but_its_gaps() {
        let mut bench = bench();
        bench.connection.watch(
            bench.upstream.as_raw_fd(),
            bench.upstream.local_addr().ok(),
            bench.connections.now() + 1000,
            Duration::from_secs(1),
            Some(bench.connections.now() + 2000),
        );
        bench
            .connection
            .endless(bench.connections.now(), Duration::from_secs(1));
        for _ in 0..10 {
            bench.advance(500);
            bench.connection.moved(bench.connections.now());
        }
        assert!(!bench.is_cut());
        bench.advance(1100);
        assert!(bench.is_cut());
        assert_eq!(bench.connection.expired(), Some(Expired::Idle));
    }

    #[test]
    fn the_whole_request_is_bounded_while_pieces_flow() {
        let mut bench = bench();
        bench.connection.watch(
            bench.upstream.as_raw_fd(),
            bench.upstream.local_addr().ok(),
            bench.connections.now() + 1000,
            Duration::from_secs(1),
            Some(bench.connections.now() + 2000),
        );
        for _ in 0..5 {
            bench.advance(500);
            bench.connection.moved(bench.connections.now());
        }
        assert!(bench.is_cut());
        assert_eq!(bench.connection.expired(), Some(Expired::Total));
    }
}
