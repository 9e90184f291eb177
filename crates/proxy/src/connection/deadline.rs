//! The deadlines of a request: those of the backend, and the rate of the client's body.
//!
//! A task checks every request in flight ten times per second. An expired request is ended by
//! shutting down the backend's socket, which its reader sees as a closed connection, or, on a stream
//! of HTTP/2, by waking its task.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    task::Waker,
    time::Duration,
};

use edgeway_base::units::whole_millis;
use edgeway_upstreams::BackendSocket;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::pace::{Pace, PaceLimits};

edgeway_base::enum_table! {
    /// The deadline that expired: what did not come in time, for the log.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Expired => text {
        FirstByte = "no response came in time",
        Idle = "the response paused for too long",
        Total = "the whole request took too long",
        /// The client's body arrived too slowly, so this is not the backend's deadline.
        Body = "the request body came too slowly",
    }
}

/// Connection or stream to a backend that ends when a deadline expires.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Socket of the backend, which the request has for itself.
    Socket(BackendSocket),
    /// Stream of a connection that other requests share.
    Stream,
}

/// The deadline of a request in flight.
///
/// Written by the request's own task, read by the task that checks deadlines. Each field is
/// independent, and `target` is locked during a shutdown, so a request that has released its
/// backend's socket never shuts down the next one's.
#[derive(Debug, Default)]
pub struct Watch {
    /// Milliseconds since [`super::registry::Connections`] began. 0 for no deadline.
    next: AtomicU64,
    /// Deadline of the whole request, in the same unit.
    total: AtomicU64,
    /// Milliseconds by which `next` moves with each chunk of the request's body, and then of the
    /// response's. 0 if it stays.
    step: AtomicU64,
    is_streaming: AtomicBool,
    expired: AtomicU8,
    target: Mutex<Option<Target>>,
    /// Task of a request on a stream of HTTP/2.
    task: AtomicWaker,
    /// True while a request on a stream waits for its backend.
    is_awaited: AtomicBool,
    /// State of the client's body while the backend waits for it. On an HTTP/2 stream, its pace too.
    pub body: Pace,
}

impl Watch {
    /// Forgets the deadline that expired in an earlier attempt or request on the connection.
    pub fn renew(&self) {
        self.expired.store(0, Ordering::Relaxed);
    }

    /// Begins an attempt on this target. The response headers are due by `headers_due`, the complete
    /// response by `total` (both in milliseconds of [`super::registry::Connections::millis`]). Each
    /// chunk of the request's body gives the headers `step` again, unless that is zero.
    pub fn begin(&self, target: Target, headers_due: u64, step: Duration, total: Option<u64>) {
        *self.target.lock() = Some(target);
        self.is_awaited.store(false, Ordering::Relaxed);
        self.step.store(whole_millis(step), Ordering::Relaxed);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
        self.renew();
        self.is_streaming.store(false, Ordering::Relaxed);
        self.next.store(headers_due, Ordering::Release);
    }

    /// Marks the start of the response, whose chunks are due within `step`.
    pub fn streaming(&self, now: u64, step: Duration) {
        let step = whole_millis(step);
        self.step.store(step, Ordering::Relaxed);
        self.is_streaming.store(true, Ordering::Relaxed);
        self.next.store(now.saturating_add(step), Ordering::Release);
    }

    /// Same as [`Watch::streaming`], for an open-ended response: the deadline of the whole request
    /// is removed.
    pub fn endless(&self, now: u64, step: Duration) {
        self.total.store(0, Ordering::Relaxed);
        self.streaming(now, step);
    }

    /// Records progress: the next chunk, or the response headers after a chunk of the request's
    /// body, may take the full `step` again.
    pub fn moved(&self, now: u64) {
        let step = self.step.load(Ordering::Relaxed);
        if step != 0 && self.next.load(Ordering::Relaxed) != 0 {
            self.next.store(now.saturating_add(step), Ordering::Relaxed);
        }
    }

    /// Ends the attempt and releases the socket.
    pub fn end(&self) {
        if self.next.swap(0, Ordering::AcqRel) != 0 {
            *self.target.lock() = None;
        }
    }

    /// Records that a request on a stream waits for its backend, with a task to wake when its time
    /// is up.
    pub fn awaits(&self, task: &Waker) {
        self.task.register(task);
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    /// Records that the backend has sent something on a stream.
    pub fn came(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
    }

    /// The deadline of the last attempt that expired, if any.
    pub fn expired(&self) -> Option<Expired> {
        match self.expired.load(Ordering::Acquire) {
            1 => Some(Expired::FirstByte),
            2 => Some(Expired::Idle),
            3 => Some(Expired::Total),
            4 => Some(Expired::Body),
            _ => None,
        }
    }

    /// Takes the client's body for late, where the attempt has expired before its response began.
    pub fn awaited_body(&self) {
        if matches!(self.expired(), Some(Expired::FirstByte | Expired::Total)) {
            self.expired.store(4, Ordering::Release);
        }
    }

    /// Ends the attempt if it has expired. `is_client_slow`: the client does not read, and its
    /// slowness must not count against the backend.
    pub(super) fn check(&self, now: u64, is_client_slow: bool, bounds: PaceLimits) {
        let next = self.next.load(Ordering::Acquire);
        if next == 0 {
            return;
        }
        let total = self.total.load(Ordering::Relaxed);
        let is_streaming = self.is_streaming.load(Ordering::Relaxed);
        // The client's time, if its body has a minimum rate.
        let is_awaited = self.body.is_awaited() && !self.body.is_over();
        let is_clients = !is_streaming && is_awaited && bounds.rate > 0;
        if is_clients {
            self.moved(now);
        }
        let expired = if total != 0 && now >= total {
            if is_clients { 4 } else { 3 }
        } else if is_clients || now < next {
            return;
        } else if !is_streaming {
            1
        } else if is_client_slow || self.has_unread() {
            self.moved(now);
            return;
        } else {
            2
        };
        self.expire(expired);
    }

    fn expire(&self, expired: u8) {
        let mut target = self.target.lock();
        let Some(ended) = target.take() else {
            return;
        };
        self.expired.store(expired, Ordering::Release);
        match ended {
            Target::Socket(socket) => socket.shut_down(),
            Target::Stream => self.task.wake(),
        }
        // Last, and still under the lock: `end` waits for it, and the socket is not closed before
        // that.
        self.next.store(0, Ordering::Release);
    }
}

impl Watch {
    /// Returns true if more of the response has arrived and waits for a client that reads no more
    /// for now. A single stream of HTTP/2 may stall while its connection does not.
    fn has_unread(&self) -> bool {
        let target = self.target.lock();
        target.is_some_and(|target| match target {
            Target::Socket(socket) => {
                let unread = socket.with(|fd| rustix::io::ioctl_fionread(fd));
                unread.is_some_and(|unread| unread.is_ok_and(|bytes| bytes > 0))
            }
            Target::Stream => !self.is_awaited.load(Ordering::Relaxed),
        })
    }

    /// Ends a request whose body arrives too slowly, `elapsed` milliseconds after the last check.
    /// Time counts against the client only during an attempt that waits for it.
    pub(super) fn check_body(&self, elapsed: u64, bounds: PaceLimits) {
        let is_awaited = self.body.is_awaited() && self.target.lock().is_some();
        if self.body.is_too_slow(elapsed, is_awaited, bounds) {
            self.expire(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, os::fd::AsRawFd, sync::Arc};

    use super::*;

    struct Bench {
        now: u64,
        watch: Arc<Watch>,
        is_client_slow: bool,
        backend: std::net::TcpStream,
        upstream: std::net::TcpStream,
    }

    fn bench() -> Bench {
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = std::net::TcpStream::connect(origin.local_addr().unwrap()).unwrap();
        let (backend, _) = origin.accept().unwrap();
        backend.set_nonblocking(true).unwrap();
        Bench {
            now: 1,
            watch: Arc::default(),
            is_client_slow: false,
            backend,
            upstream,
        }
    }

    impl Bench {
        fn watch(&self, first_byte: u64, idle: u64) {
            self.watch_total(first_byte, idle, None);
        }

        fn watch_total(&self, first_byte: u64, idle: u64, total: Option<u64>) {
            self.watch.begin(
                Target::Socket(BackendSocket {
                    fd: self.upstream.as_raw_fd(),
                    local: self.upstream.local_addr().ok(),
                }),
                self.now + first_byte,
                Duration::from_millis(idle),
                total.map(|total| self.now + total),
            );
        }

        fn advance(&mut self, millis: u64) {
            self.now += millis;
            let bounds = PaceLimits {
                rate: 240,
                grace: Duration::from_secs(10),
            };
            self.watch.check(self.now, self.is_client_slow, bounds);
        }

        fn is_cut(&mut self) -> bool {
            matches!(self.backend.read(&mut [0]), Ok(0))
        }
    }

    #[test]
    fn a_silent_backend_is_closed_at_its_deadline() {
        let mut bench = bench();
        bench.watch(1000, 5000);
        bench.advance(900);
        assert!(!bench.is_cut());
        bench.advance(200);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::FirstByte));
    }

    #[test]
    fn the_time_of_a_client_that_pauses_in_its_body_is_not_the_backends() {
        let mut bench = bench();
        bench.watch(1000, 1000);
        bench.watch.body.awaited();
        bench.advance(5000);
        assert!(!bench.is_cut());
        // The body is complete, and now the backend's time counts.
        bench.watch.body.over();
        bench.advance(900);
        assert!(!bench.is_cut());
        bench.advance(200);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::FirstByte));
    }

    #[test]
    fn a_body_that_takes_the_whole_time_is_the_clients_fault() {
        let mut bench = bench();
        bench.watch_total(1000, 1000, Some(2000));
        bench.watch.body.awaited();
        bench.advance(2100);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::Body));
    }

    #[test]
    fn each_piece_of_a_response_moves_the_deadline() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench.watch.streaming(bench.now, Duration::from_millis(500));
        for _ in 0..5 {
            bench.advance(400);
            bench.watch.moved(bench.now);
        }
        assert!(!bench.is_cut());
        bench.advance(600);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::Idle));
    }

    #[test]
    fn a_slow_client_is_not_the_backends_fault() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench.watch.streaming(bench.now, Duration::from_millis(500));
        bench.is_client_slow = true;
        bench.advance(5000);
        assert!(!bench.is_cut());
    }

    #[test]
    fn a_response_that_nobody_reads_is_not_the_backends_fault() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench.watch.streaming(bench.now, Duration::from_millis(500));
        std::io::Write::write_all(&mut bench.backend, b"more").unwrap();
        bench.advance(5000);
        assert!(!bench.is_cut());
        // The control: once the client has read it, the backend's deadline counts.
        bench.upstream.read_exact(&mut [0; 4]).unwrap();
        bench.advance(600);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::Idle));
    }

    #[test]
    fn a_request_that_is_over_leaves_the_socket_alone() {
        let mut bench = bench();
        bench.watch(1000, 500);
        bench.watch.end();
        bench.advance(5000);
        assert!(!bench.is_cut());
        assert_eq!(bench.watch.expired(), None);
    }

    #[test]
    fn another_socket_under_the_same_number_is_left_alone() {
        let mut bench = bench();
        bench.watch.begin(
            Target::Socket(BackendSocket {
                fd: bench.upstream.as_raw_fd(),
                local: Some("127.0.0.1:1".parse().unwrap()),
            }),
            bench.now + 1000,
            Duration::from_secs(1),
            None,
        );
        bench.advance(5000);
        assert!(!bench.is_cut());
    }

    #[test]
    fn a_stream_has_no_bound_but_its_gaps() {
        let mut bench = bench();
        bench.watch_total(1000, 1000, Some(2000));
        bench.watch.endless(bench.now, Duration::from_secs(1));
        for _ in 0..10 {
            bench.advance(500);
            bench.watch.moved(bench.now);
        }
        assert!(!bench.is_cut());
        bench.advance(1100);
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::Idle));
    }

    #[test]
    fn the_complete_request_has_a_deadline_while_pieces_flow() {
        let mut bench = bench();
        bench.watch_total(1000, 1000, Some(2000));
        for _ in 0..5 {
            bench.advance(500);
            bench.watch.moved(bench.now);
        }
        assert!(bench.is_cut());
        assert_eq!(bench.watch.expired(), Some(Expired::Total));
    }
}
