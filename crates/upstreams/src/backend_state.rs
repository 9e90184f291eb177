//! Live state of an address: leases, health, ejection, and what was learned of the app.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls::client::ClientSessionStore;

use super::{
    backend::BackendId,
    balance::hash64,
    client_tls::new_sessions,
    connection::{Http2Connections, IdleConnections},
    eject::Ejection,
    health::{Health, ProbeLog},
    latency::Latency,
    metrics::forget_backend,
    node::NodeState,
    silence::Silence,
    tls::LastTlsLine,
};
use crate::base::metrics::Metrics;

/// Counts and learned properties of one address.
#[derive(Debug)]
pub(super) struct BackendState {
    pub(super) address: Arc<str>,
    pub(super) id: BackendId,
    /// Invariant: the leases on this backend, each once: below [`STREAM`] those with a place of
    /// `max_in_flight`, from there up to [`DRAINED`] those of streams that have begun. Only
    /// [`BackendState::reserve`] adds a place, only [`BackendState::begin_stream`] makes a stream
    /// of one, only a lease's drop takes either away; neither is ever above the limit of the
    /// configuration that added it. `SeqCst`, for the queue's sake (`queue.rs`).
    ///
    /// The bit [`DRAINED`] is in the same word, so that no request gets a place once it is set: a
    /// thread that then sees no lease knows that none will follow.
    leases: AtomicU64,
    /// Result of active checks; true without checks. Written by the supervisor only, always
    /// together with `health`.
    healthy: AtomicBool,
    /// End of the ejection, in nanoseconds of the upstream's epoch; 0 while not ejected. Written
    /// under the `ejection` lock, except at the end of the ejection: the thread that sees it first
    /// swaps it to 0 and so wins the right to start the slow start.
    ejected_until: AtomicU64,
    /// Start of a slow start in progress, in nanoseconds of the epoch; 0 otherwise. A stale value
    /// only shifts one pick.
    returned_at: AtomicU64,
    /// Copy of `ejection`'s streak, so that a success of a backend that never failed takes no lock.
    /// Written under that lock.
    pub(super) streak: AtomicU32,
    /// Turns of `least_conn` in which the backend was passed over, minus those it got in place of
    /// others. Any value is valid; it only shifts picks.
    pub(super) owed: AtomicI32,
    pub(super) latency: Latency,
    pub(super) silence: Silence,
    pub(super) node: NodeState,
    /// Idle timeout that the app declared: see [`KeepAlive`].
    keep_alive: AtomicU64,
    pub(super) health: Mutex<Health>,
    pub(super) ejection: Mutex<Ejection>,
    pub(super) probes: Mutex<ProbeLog>,
    pub(super) last_tls_line: LastTlsLine,
    pub(super) idle: Arc<IdleConnections>,
    pub(super) http2: Arc<Http2Connections>,
    /// TLS sessions that later handshakes resume; unset without TLS.
    sessions: OnceLock<Arc<dyn ClientSessionStore>>,
    series: Option<(Metrics, Arc<str>)>,
}

/// Set while an operator has drained the backend: no new requests.
const DRAINED: u64 = 1 << 63;
/// Count of one lease of a stream.
const STREAM: u64 = 1 << 32;
/// Most streams that fit below the bit.
const MAX_STREAMS: u32 = (1 << 31) - 1;

/// Returns the places in use.
fn places(leases: u64) -> u32 {
    u32::try_from(leases % STREAM).expect("what is left is less than that")
}

/// Returns the streams that have begun.
fn streams(leases: u64) -> u32 {
    u32::try_from((leases & !DRAINED) / STREAM).expect("31 bits are left of it")
}

impl Drop for BackendState {
    /// Removes the metrics of an address that is no longer in use: otherwise `/metrics` would grow
    /// with each address that DNS ever returned.
    fn drop(&mut self) {
        if let Some((metrics, upstream)) = &self.series {
            forget_backend(metrics, upstream, &self.address);
        }
    }
}

/// Known time for which an app keeps an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAlive {
    /// No response seen yet.
    Unknown,
    /// Response without `Keep-Alive: timeout`.
    Unannounced,
    /// Value of `Keep-Alive: timeout` in a response.
    Announced(Duration),
}

/// Longest `Keep-Alive: timeout` that is accepted.
const MAX_KEEP_ALIVE: u64 = 600;

impl KeepAlive {
    const UNKNOWN: u64 = 0;
    const UNANNOUNCED: u64 = u64::MAX;

    fn unpack(word: u64) -> Self {
        match word {
            Self::UNKNOWN => Self::Unknown,
            Self::UNANNOUNCED => Self::Unannounced,
            // One more than the seconds, so that `timeout=0` differs from unknown.
            seconds => Self::Announced(Duration::from_secs(seconds - 1)),
        }
    }

    fn pack(self) -> u64 {
        match self {
            Self::Unknown => Self::UNKNOWN,
            Self::Unannounced => Self::UNANNOUNCED,
            Self::Announced(timeout) => timeout.as_secs().min(MAX_KEEP_ALIVE) + 1,
        }
    }
}

impl BackendState {
    /// Creates the state of an address. `series` are the metrics and the upstream's name under
    /// which this backend counts.
    pub(super) fn new(
        address: Arc<str>,
        health: Health,
        series: Option<(Metrics, Arc<str>)>,
    ) -> Self {
        Self {
            id: BackendId(hash64(address.as_bytes())),
            address,
            leases: AtomicU64::new(0),
            healthy: AtomicBool::new(health.up),
            ejected_until: AtomicU64::new(0),
            returned_at: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            owed: AtomicI32::new(0),
            latency: Latency::default(),
            silence: Silence::default(),
            node: NodeState::default(),
            keep_alive: AtomicU64::new(KeepAlive::UNKNOWN),
            health: Mutex::new(health),
            ejection: Mutex::default(),
            probes: Mutex::default(),
            last_tls_line: LastTlsLine::default(),
            idle: Arc::default(),
            http2: Arc::default(),
            sessions: OnceLock::new(),
            series,
        }
    }

    pub(super) fn sessions(&self) -> Arc<dyn ClientSessionStore> {
        Arc::clone(self.sessions.get_or_init(new_sessions))
    }

    /// Number of requests and streams in flight.
    pub(super) fn in_flight(&self) -> u32 {
        let leases = self.leases.load(Ordering::SeqCst);
        places(leases).saturating_add(streams(leases))
    }

    /// Number of requests in flight that are no streams.
    pub(super) fn requests(&self) -> u32 {
        places(self.leases.load(Ordering::SeqCst))
    }

    /// Number of streams that have begun.
    pub(super) fn streams(&self) -> u32 {
        streams(self.leases.load(Ordering::SeqCst))
    }

    pub(super) fn is_drained(&self) -> bool {
        self.leases.load(Ordering::SeqCst) & DRAINED != 0
    }

    /// Begins or ends the drain. Returns true if that changed.
    pub(super) fn set_drained(&self, drained: bool) -> bool {
        let before = if drained {
            self.leases.fetch_or(DRAINED, Ordering::SeqCst)
        } else {
            self.leases.fetch_and(!DRAINED, Ordering::SeqCst)
        };
        (before & DRAINED != 0) != drained
    }

    /// Returns true if the backend is not drained and fewer than `max` places are in use.
    pub(super) fn has_place(&self, max: u32) -> bool {
        let leases = self.leases.load(Ordering::SeqCst);
        leases & DRAINED == 0 && places(leases) < max
    }

    /// Takes a place if there is one ([`BackendState::has_place`]).
    pub(super) fn reserve(&self, max: u32) -> bool {
        self.leases
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |leases| {
                (leases & DRAINED == 0 && places(leases) < max).then_some(leases + 1)
            })
            .is_ok()
    }

    /// Returns a place.
    pub(super) fn release(&self) {
        let before = self.leases.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(places(before) > 0, "a place was given back twice");
    }

    /// Returns true if there are fewer streams than `max`.
    #[inline]
    pub(super) fn has_room_for_stream(&self, max: u32) -> bool {
        self.streams() < max
    }

    /// Turns a place into a stream, if there are fewer than `max`. A drained backend accepts it
    /// too: the request was there before.
    pub(super) fn begin_stream(&self, max: u32) -> bool {
        let max = max.min(MAX_STREAMS);
        self.leases
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |leases| {
                debug_assert!(places(leases) > 0, "a stream begins as a request");
                (streams(leases) < max).then_some(leases + STREAM - 1)
            })
            .is_ok()
    }

    /// Ends a stream.
    pub(super) fn end_stream(&self) {
        let before = self.leases.fetch_sub(STREAM, Ordering::SeqCst);
        debug_assert!(streams(before) > 0, "a stream has ended twice");
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Returns the end of the ejection in effect at `now`.
    pub(super) fn ejected_until(&self, now: u64) -> Option<u64> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        (until > now).then_some(until)
    }

    /// Returns true if the backend is neither down nor ejected. An ejection whose time is over ends
    /// here.
    pub(super) fn is_up(&self, now: u64) -> bool {
        if !self.is_healthy() {
            return false;
        }
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        if until > now {
            return false;
        }
        let ended = self
            .ejected_until
            .compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if ended {
            self.returned_at.store(now.max(1), Ordering::Relaxed);
            log::info!(backend = &*self.address; "backend returned to rotation");
        }
        true
    }

    /// Returns true if the backend is in rotation: neither down nor ejected nor drained.
    pub(super) fn is_in_rotation(&self, now: u64) -> bool {
        !self.is_drained() && self.is_up(now)
    }

    /// Returns the part of its full share that a backend gets at `now`, from a tenth to all.
    pub(super) fn share(&self, slow_start: Duration, now: u64) -> f64 {
        let returned = self.returned_at.load(Ordering::Relaxed);
        if returned == 0 || slow_start.is_zero() {
            return 1.0;
        }
        let elapsed = Duration::from_nanos(now.saturating_sub(returned));
        let share = elapsed.as_secs_f64() / slow_start.as_secs_f64();
        if share >= 1.0 {
            self.returned_at.store(0, Ordering::Relaxed);
            return 1.0;
        }
        share.max(0.1)
    }

    /// Returns the start of a slow start in progress.
    pub(super) fn returned_at(&self) -> Option<u64> {
        let time = self.returned_at.load(Ordering::Relaxed);
        (time != 0).then_some(time)
    }

    pub(super) fn set_returned_at(&self, time: Option<u64>) {
        let time = time.map_or(0, |time| time.max(1));
        self.returned_at.store(time, Ordering::Relaxed);
    }

    /// Sets the result of active checks. Returns true if that changed.
    pub(super) fn set_healthy(&self, healthy: bool, now: u64) -> bool {
        let changed = self.healthy.swap(healthy, Ordering::Relaxed) != healthy;
        if changed && healthy {
            self.returned_at.store(now.max(1), Ordering::Relaxed);
        }
        changed
    }

    /// Ejects the backend until `until`, or extends an ejection to there.
    pub(super) fn eject(&self, until: u64) {
        self.ejected_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Ends an ejection before its time. Returns true if there was one.
    pub(super) fn readmit(&self, now: u64) -> bool {
        let ended = self.ejected_until.swap(0, Ordering::Relaxed) > now;
        if ended {
            self.returned_at.store(now.max(1), Ordering::Relaxed);
        }
        ended
    }

    pub(super) fn keep_alive(&self) -> KeepAlive {
        KeepAlive::unpack(self.keep_alive.load(Ordering::Relaxed))
    }

    pub(super) fn learn_keep_alive(&self, keep_alive: KeepAlive) {
        let word = keep_alive.pack();
        if self.keep_alive.load(Ordering::Relaxed) != word {
            self.keep_alive.store(word, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> BackendState {
        BackendState::new(Arc::from("127.0.0.1:3000"), Health::default(), None)
    }

    #[test]
    fn the_announced_keep_alive_packs_into_one_word() {
        for keep_alive in [
            KeepAlive::Unknown,
            KeepAlive::Unannounced,
            KeepAlive::Announced(Duration::ZERO),
            KeepAlive::Announced(Duration::from_secs(5)),
        ] {
            assert_eq!(KeepAlive::unpack(keep_alive.pack()), keep_alive);
        }
        let long = KeepAlive::Announced(Duration::from_secs(u64::MAX));
        let believed = KeepAlive::Announced(Duration::from_secs(MAX_KEEP_ALIVE));
        assert_eq!(KeepAlive::unpack(long.pack()), believed);
    }

    #[test]
    fn places_are_bounded() {
        let state = state();
        assert!(state.reserve(2) && state.reserve(2));
        assert!(!state.reserve(2));
        state.release();
        assert!(state.reserve(2));
        assert_eq!(state.in_flight(), 2);
    }

    #[test]
    fn a_drained_backend_gives_no_permit_and_still_takes_them_back() {
        let state = state();
        assert!(state.reserve(u32::MAX));
        assert!(state.set_drained(true));
        assert!(!state.set_drained(true), "it is already");
        assert!(!state.has_place(u32::MAX) && !state.reserve(u32::MAX));
        assert_eq!(state.in_flight(), 1);
        state.release();
        assert_eq!(state.in_flight(), 0);
        assert!(state.is_drained());
        assert!(state.set_drained(false));
        assert!(state.reserve(1) && !state.reserve(1));
    }

    #[test]
    fn an_ejection_ends_with_its_time_and_starts_slowly() {
        let state = state();
        let slow = Duration::from_micros(1);
        state.eject(500);
        assert!(!state.is_up(499));
        assert_eq!(state.ejected_until(499), Some(500));
        assert!(state.is_up(600));
        assert!((state.share(slow, 600) - 0.1).abs() < 1e-9);
        assert!((state.share(slow, 1100) - 0.5).abs() < 1e-9);
        assert!((state.share(slow, 1600) - 1.0).abs() < 1e-9);
        assert!((state.share(slow, 700) - 1.0).abs() < 1e-9, "it is over");
    }

    #[test]
    fn an_ejection_can_end_early_once() {
        let state = state();
        state.eject(500);
        assert!(state.readmit(100));
        assert!(state.is_up(100));
        assert!(!state.readmit(100));
    }
}
