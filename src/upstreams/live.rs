//! What one upstream keeps across reloads, and what its backends share.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    backend::BackendState,
    eject::{Cause, EjectPolicy, nanos},
    health::Health,
    metrics::UpstreamMetrics,
    queue::Queue,
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    zones::Zone,
};

/// The zone of one upstream name.
#[derive(Debug)]
pub(super) struct Live {
    /// Times are counted from here, so that they fit an atomic word.
    epoch: Instant,
    pub(super) queue: Queue,
    pub(super) cursor: Cursor,
    /// All backends are out, so all are used. Written by whoever finds that out.
    panic: AtomicBool,
    /// States by address. Held weakly: a state ends with the last configuration, DNS
    /// answer or lease that knows it.
    states: Mutex<HashMap<Arc<str>, Weak<BackendState>>>,
    /// What DNS said last, by name, so that a reload does not start without addresses.
    resolved: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Wakes the supervisor: a backend was ejected.
    pub(super) ejected: Notify,
}

/// Where the rotation stands. Alone on its cache line, since each request moves it.
/// Any value is valid; two requests never draw the same one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Cursor(AtomicUsize);

impl Cursor {
    pub(super) fn draw(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Zone for Live {}

impl Live {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            queue: Queue::default(),
            cursor: Cursor::default(),
            panic: AtomicBool::new(false),
            states: Mutex::default(),
            resolved: Mutex::default(),
            ejected: Notify::new(),
        }
    }

    /// A moment given in nanoseconds of the epoch.
    pub(super) fn instant(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    /// What DNS said last of each name.
    pub(super) fn resolved(&self) -> HashMap<String, Vec<IpAddr>> {
        self.resolved.lock().clone()
    }

    /// Keeps what DNS says of a name. True if that is not what it said before.
    pub(super) fn set_resolved(&self, name: &str, addresses: &[IpAddr]) -> bool {
        let mut resolved = self.resolved.lock();
        if resolved.get(name).is_some_and(|known| known == addresses) {
            return false;
        }
        resolved.insert(name.to_owned(), addresses.to_vec());
        true
    }

    pub(super) fn in_panic(&self) -> bool {
        self.panic.load(Ordering::Relaxed)
    }

    /// True if that changed.
    pub(super) fn set_panic(&self, panic: bool) -> bool {
        self.panic.load(Ordering::Relaxed) != panic
            && self.panic.swap(panic, Ordering::Relaxed) != panic
    }
}

/// What the backends of one compiled upstream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) live: Arc<Live>,
    pub(super) clock: Clock,
    pub(super) eject: EjectPolicy,
    pub(super) slow_start: Duration,
    /// Requests at once to one backend.
    pub(super) max_in_flight: u32,
    pub(super) metrics: UpstreamMetrics,
    pub(super) registry: Metrics,
    /// The states of the present members, for what depends on the others. States only:
    /// backends hold this struct.
    pub(super) roster: ArcSwap<Vec<Arc<BackendState>>>,
}

impl Shared {
    /// The live state of `address`; a new one if nobody knows it.
    pub(super) fn state(&self, address: &str, starts_up: bool) -> Arc<BackendState> {
        let mut states = self.live.states.lock();
        if let Some(known) = states.get(address).and_then(Weak::upgrade) {
            return known;
        }
        states.retain(|_, state| state.strong_count() > 0);
        let address: Arc<str> = Arc::from(address);
        let series = (self.registry.clone(), self.name.clone());
        let state = BackendState::new(address.clone(), Health::new(starts_up), Some(series));
        let state = Arc::new(state);
        states.insert(address, Arc::downgrade(&state));
        state
    }

    /// Now, in nanoseconds of the upstream's epoch. Never 0, which stands for "not set".
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.nanos(self.clock.now())
    }

    /// [`Shared::now`] of a moment that was read already.
    #[inline]
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.live.epoch)).max(1)
    }

    /// A request went well.
    pub(super) fn success(state: &BackendState) {
        if state.streak().load(Ordering::Relaxed) == 0 {
            return;
        }
        state.ejection.lock().success();
        state.streak().store(0, Ordering::Relaxed);
    }

    /// A request failed. True if that ejected the backend.
    pub(super) fn failure(&self, state: &BackendState, cause: Cause, now: u64) -> bool {
        // What a backend does while it is out, in panic mode or with requests from
        // before, says nothing new.
        if !state.is_up(now) {
            return false;
        }
        let mut ejection = state.ejection.lock();
        let until = ejection.failure(self.eject, cause, now, || self.others_allow(now));
        state.streak().store(ejection.streak(), Ordering::Relaxed);
        let Some(until) = until else { return false };
        let cause = ejection.cause().unwrap_or(cause);
        state.eject(until);
        drop(ejection);
        self.live.ejected.notify_one();
        let seconds = Duration::from_nanos(until - now).as_secs_f64();
        log::warn!(
            upstream = &*self.name, backend = &*state.address, cause = cause.as_str(), seconds;
            "backend left rotation"
        );
        true
    }

    /// One more may be out for errors: half of the backends at most are out then.
    fn others_allow(&self, now: u64) -> bool {
        let roster = self.roster.load();
        let out = roster.iter().filter(|state| !state.is_up(now)).count();
        (out + 1) * 2 <= roster.len()
    }
}
