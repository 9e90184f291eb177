//! Limits of an HTTP/2 connection besides its requests' own deadlines: a header section that
//! arrives in fragments, and a period without any stream.
//!
//! As with HTTP/1, the connection only records events, which costs a store. A task checks ten times
//! per second for anything that has not changed for too long.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use edgeway_config::model::LimitsConfig;
use parking_lot::Mutex;
use smart_default::SmartDefault;
use tokio::sync::Notify;

use super::{CloseReason, Connection, deadline::Watch, pace::PaceLimits};

/// The longest frame that a client may send (RFC 9113, 4.2).
const FRAME: u64 = 16 * 1024;

/// Requests of a banned client that are refused while others of its connection are finished.
const MAX_BANNED: u32 = 100;

/// The stream state of a connection.
#[derive(Debug, SmartDefault)]
pub struct Streams {
    /// The deadlines of open streams.
    watches: Mutex<Vec<Weak<Watch>>>,
    open: AtomicU32,
    /// Incremented with each stream that begins.
    started: AtomicU32,
    /// Requests that were refused because the client is banned.
    banned: AtomicU32,
    /// Odd while a header section is arriving. Each header section has its own number.
    // A connection begins with a header section.
    #[default(AtomicU64::new(1))]
    header_section: AtomicU64,
    /// Milliseconds as last read by the deadline task.
    now: AtomicU64,
    /// True once the client has reset a stream.
    has_resets: AtomicBool,
    header_section_since: StableSince,
    stream_turns: StableSince,
    age: StableSince,
    /// Wakes the task that accepts streams once the connection is too old for more.
    pub old: Notify,
}

/// Tracks since when a number has its value.
#[derive(Debug, Default)]
struct StableSince {
    seen: AtomicU64,
    at: AtomicU64,
}

impl StableSince {
    /// Returns how long the number has been `value`, which it is at `now`.
    fn unchanged(&self, value: u64, now: u64) -> Duration {
        let since = self.at.load(Ordering::Relaxed);
        if since == 0 || self.seen.swap(value, Ordering::Relaxed) != value {
            self.seen.store(value, Ordering::Relaxed);
            self.at.store(now, Ordering::Relaxed);
            return Duration::ZERO;
        }
        Duration::from_millis(now.saturating_sub(since))
    }
}

/// An open stream, which ends when this is dropped.
#[derive(Debug)]
pub struct OpenStream(Arc<Connection>);

impl OpenStream {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.open.fetch_sub(1, Ordering::Release);
    }
}

impl Streams {
    /// Begins a stream of `connection`.
    pub fn begin(connection: &Arc<Connection>) -> OpenStream {
        let streams = &connection.streams;
        streams.started.fetch_add(1, Ordering::Relaxed);
        streams.open.fetch_add(1, Ordering::Release);
        OpenStream(Arc::clone(connection))
    }

    /// Records the end of a request of a banned client. Returns true if its connection ends: no other
    /// request is in flight, or the client does not stop.
    pub fn ends_with_ban(&self) -> bool {
        self.banned.fetch_add(1, Ordering::Relaxed) >= MAX_BANNED || self.open() <= 1
    }

    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// Creates a deadline that is checked for as long as it is held.
    pub(super) fn watch(&self) -> Arc<Watch> {
        let watch = Arc::default();
        let mut watches = self.watches.lock();
        watches.retain(|stream| stream.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    /// Sets the state of header sections: odd while one is arriving.
    #[inline]
    pub fn set_header_section(&self, state: u64) {
        self.header_section.store(state, Ordering::Relaxed);
    }

    /// Records that the client has reset a stream.
    pub fn set_reset(&self) {
        self.has_resets.store(true, Ordering::Relaxed);
    }

    /// Returns true once the client has reset a stream.
    pub fn has_resets(&self) -> bool {
        self.has_resets.load(Ordering::Relaxed)
    }

    /// Returns how many header blocks the client has begun to send: requests, and trailers.
    pub fn header_blocks(&self) -> u64 {
        // The number is 1 before the client's first SETTINGS and 2 after it; each block adds 4,
        // and is odd until its end.
        self.header_section
            .load(Ordering::Relaxed)
            .saturating_sub(1)
            / 4
    }

    /// Milliseconds as of the last check, without reading the clock.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Ends streams whose bodies arrive too slowly. Data counts only once its frame is complete, so
    /// each body gets the time of a frame in addition.
    pub(super) fn check_bodies(&self, elapsed: u64, mut bounds: PaceLimits) {
        let frame = FRAME.checked_div(bounds.rate).unwrap_or(0);
        bounds.grace += Duration::from_secs(frame);
        for stream in self.watches.lock().iter().filter_map(Weak::upgrade) {
            stream.check_body(elapsed, bounds);
        }
    }

    /// Ends expired streams. Returns the time until something expires if nothing happens before,
    /// zero while a stream is open, or the close reason if the connection must end.
    pub(super) fn check(
        &self,
        now: u64,
        is_blocked: bool,
        (limits, max_age): (&LimitsConfig, Duration),
    ) -> Result<Duration, CloseReason> {
        self.now.store(now, Ordering::Relaxed);
        // The number stays the same, so this is the time since the first check.
        let left = max_age.saturating_sub(self.age.unchanged(0, now));
        if left.is_zero() {
            self.old.notify_one();
        }
        let bounds = PaceLimits::from(limits);
        for stream in self.watches.lock().iter().filter_map(Weak::upgrade) {
            stream.check(now, is_blocked, bounds);
        }
        let header_section = self.header_section.load(Ordering::Relaxed);
        let waited = self.header_section_since.unchanged(header_section, now);
        if header_section % 2 == 1 && waited >= limits.header_timeout.0 {
            return Err(CloseReason::HeaderTimeout);
        }
        let open = self.open();
        let started = self.started.load(Ordering::Relaxed);
        let streams = (u64::from(started) << 32) | u64::from(open);
        let idle = self.stream_turns.unchanged(streams, now);
        if open > 0 || header_section % 2 == 1 {
            Ok(Duration::ZERO)
        } else if idle >= limits.idle_timeout.0 {
            Err(CloseReason::IdleTimeout)
        } else {
            Ok(limits.idle_timeout.0.saturating_sub(idle).min(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> LimitsConfig {
        let mut limits = edgeway_gateway::Listener::test().limits;
        limits.header_timeout.0 = Duration::from_secs(10);
        limits.idle_timeout.0 = Duration::from_mins(1);
        limits
    }

    /// Returns when and why the connection is closed, if `each` is called every second before the
    /// check.
    fn closed_at(
        connection: &Arc<Connection>,
        each: impl Fn(u64, &Streams),
    ) -> Option<(u64, CloseReason)> {
        let limits = limits();
        (1..200).find_map(|second| {
            each(second, &connection.streams);
            let limits = (&limits, Duration::MAX);
            let checked = connection.streams.check(second * 1000, false, limits);
            let reason = checked.err()?;
            Some((second - 1, reason))
        })
    }

    #[test]
    fn a_connection_that_does_not_begin_is_closed() {
        assert_eq!(
            closed_at(&Connection::test(), |_, _| ()),
            Some((10, CloseReason::HeaderTimeout))
        );
    }

    #[test]
    fn a_connection_without_streams_is_closed_when_idle() {
        let begun = |_, streams: &Streams| streams.set_header_section(2);
        assert_eq!(
            closed_at(&Connection::test(), begun),
            Some((60, CloseReason::IdleTimeout))
        );
        // The control: with a stream it may last.
        let busy = Connection::test();
        let stream = Streams::begin(&busy);
        assert_eq!(closed_at(&busy, begun), None);
        drop(stream);
        assert!(closed_at(&busy, begun).is_some());
    }

    #[test]
    fn each_stream_restarts_the_idle_time() {
        let connection = Connection::test();
        let closed = closed_at(&connection, |second, streams| {
            streams.set_header_section(2);
            if second == 50 {
                drop(Streams::begin(&connection));
            }
        });
        assert_eq!(closed, Some((109, CloseReason::IdleTimeout)));
    }

    #[test]
    fn a_slow_header_section_closes_a_connection_with_open_streams() {
        let busy = Connection::test();
        let _stream = Streams::begin(&busy);
        assert_eq!(
            closed_at(&busy, |_, streams| streams.set_header_section(5)),
            Some((10, CloseReason::HeaderTimeout))
        );
        // The control: consecutive header sections, each in time.
        assert_eq!(
            closed_at(&busy, |second, streams| streams
                .set_header_section(second / 5 * 2 + 1)),
            None
        );
    }
}
