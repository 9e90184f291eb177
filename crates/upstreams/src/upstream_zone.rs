//! State of one upstream that outlives reloads, and data that its backends share.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    backend_state::BackendState,
    canary::{CanaryMetrics, CanaryProgress},
    eject::{Cause, nanos},
    handover::InheritedBackends,
    health::Health,
    metrics::UpstreamMetrics,
    operator_decisions::{DecisionStore, OperatorDecisions},
    queue::WaitQueue,
    releases::WarmUp,
    retry::RetryBudget,
    supervise::SupervisorState,
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    config::model::EjectConfig,
};

/// Zone of one upstream name.
#[derive(Debug)]
pub(super) struct UpstreamZone {
    clock: Clock,
    /// Origin of all times, so that times fit an atomic word.
    epoch: Instant,
    pub(super) queue: WaitQueue,
    /// Retry budget.
    pub(super) budget: RetryBudget,
    pub(super) cursor: Cursor,
    /// True while all backends are out, so that all are used. Written by any thread that detects
    /// it.
    panic: AtomicBool,
    /// States by address. Held weakly: a state ends with the last configuration, DNS result or
    /// lease that uses it.
    states: Mutex<HashMap<Arc<str>, Weak<BackendState>>>,
    /// Last DNS results, by name, so that a reload does not start without addresses.
    resolved: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Added and drained backends.
    decisions: Mutex<OperatorDecisions>,
    /// Trial of a release.
    pub(super) canary: Mutex<Option<CanaryProgress>>,
    /// Permission to fetch responses of a release that is not the current one.
    pub(super) warm_up: ArcSwapOption<WarmUp>,
    /// State from the previous process.
    pub(super) inherited: Mutex<InheritedBackends>,
    /// Checks and lookups in flight, and the times of the next ones. The supervisor holds the lock;
    /// the next supervisor waits until it is released.
    pub(super) work: Arc<tokio::sync::Mutex<SupervisorState>>,
    /// Wakes the supervisor: a backend was ejected, drained or added.
    pub(super) changed: Notify,
}

/// Age of the epoch at start, so that events in the previous process can have a time too.
const EPOCH_AGE: Duration = Duration::from_hours(1);

/// Position of the rotation. Alone on its cache line, since each request moves it. Any value is
/// valid; two requests never draw the same one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Cursor(AtomicUsize);

impl Cursor {
    pub(super) fn draw(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl UpstreamZone {
    pub(super) fn new(clock: Clock, decisions: OperatorDecisions) -> Self {
        let now = clock.now();
        Self {
            epoch: now.checked_sub(EPOCH_AGE).unwrap_or(now),
            clock,
            budget: RetryBudget::default(),
            queue: WaitQueue::default(),
            cursor: Cursor::default(),
            panic: AtomicBool::new(false),
            states: Mutex::default(),
            resolved: Mutex::default(),
            decisions: Mutex::new(decisions),
            canary: Mutex::default(),
            warm_up: ArcSwapOption::empty(),
            inherited: Mutex::default(),
            work: Arc::default(),
            changed: Notify::new(),
        }
    }

    /// Converts nanoseconds of the epoch to an instant.
    pub(super) fn instant(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    /// Current time, in nanoseconds of the epoch. Never 0, which stands for "not set".
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.nanos(self.clock.now())
    }

    /// Converts an instant that was read already, like [`UpstreamZone::now`].
    #[inline]
    pub(super) fn nanos(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.epoch)).max(1)
    }

    /// Locks the operators' decisions; no other decision is made meanwhile.
    pub(super) fn decisions(&self) -> MutexGuard<'_, OperatorDecisions> {
        self.decisions.lock()
    }

    /// Returns the states of all backends in use.
    pub(super) fn states(&self) -> Vec<Arc<BackendState>> {
        let states = self.states.lock();
        states.values().filter_map(Weak::upgrade).collect()
    }

    /// Returns the last DNS result of each name.
    pub(super) fn resolved(&self) -> HashMap<String, Vec<IpAddr>> {
        self.resolved.lock().clone()
    }

    /// Stores the DNS result of a name. Returns true if it differs from the last one.
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

    /// Sets the panic mode. Returns true if that changed.
    pub(super) fn set_panic(&self, panic: bool) -> bool {
        self.panic.load(Ordering::Relaxed) != panic
            && self.panic.swap(panic, Ordering::Relaxed) != panic
    }
}

/// Data that the backends of one compiled upstream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) live: Arc<UpstreamZone>,
    pub(super) clock: Clock,
    pub(super) eject: EjectConfig,
    pub(super) slow_start: Duration,
    /// Most requests in flight to one backend.
    pub(super) max_in_flight: u32,
    /// Most streams to one backend.
    pub(super) max_streams: u32,
    pub(super) metrics: UpstreamMetrics,
    pub(super) canary: CanaryMetrics,
    pub(super) registry: Metrics,
    pub(super) keeper: Arc<DecisionStore>,
    /// States of the present members, for decisions that depend on the others. States only:
    /// backends hold this struct.
    pub(super) roster: ArcSwap<Vec<Arc<BackendState>>>,
}

impl Shared {
    /// Returns the live state of `address`; a new state if the address is not in use.
    pub(super) fn state(&self, address: &str, starts_up: bool) -> Arc<BackendState> {
        let mut states = self.live.states.lock();
        let is_drained = self.live.decisions().drained.contains(address);
        if let Some(known) = states.get(address).and_then(Weak::upgrade) {
            // It may have been removed while its last requests still go on.
            known.set_drained(is_drained);
            return known;
        }
        states.retain(|_, state| state.strong_count() > 0);
        let address: Arc<str> = Arc::from(address);
        let series = (self.registry.clone(), self.name.clone());
        let state = BackendState::new(address.clone(), Health::new(starts_up), Some(series));
        state.set_drained(is_drained);
        self.live.hand_on(&state);
        let state = Arc::new(state);
        states.insert(address, Arc::downgrade(&state));
        state
    }

    /// Returns [`UpstreamZone::now`].
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.live.now()
    }

    /// Converts an instant that was read already, like [`Shared::now`].
    #[inline]
    pub(super) fn nanos(&self, time: Instant) -> u64 {
        self.live.nanos(time)
    }

    /// Records a successful request.
    pub(super) fn success(state: &BackendState) {
        if state.streak.load(Ordering::Relaxed) == 0 {
            return;
        }
        state.ejection.lock().success();
        state.streak.store(0, Ordering::Relaxed);
    }

    /// Records a failed request. Returns true if that ejected the backend.
    pub(super) fn failure(&self, state: &BackendState, cause: Cause, now: u64) -> bool {
        // Failures of a backend that is out, in panic mode or from requests that were sent before,
        // add nothing new.
        if !state.is_in_rotation(now) {
            return false;
        }
        let mut ejection = state.ejection.lock();
        let until = ejection.failure(self.eject, cause, now, || self.others_allow(now));
        state.streak.store(ejection.streak, Ordering::Relaxed);
        let Some(until) = until else { return false };
        let cause = ejection.cause().unwrap_or(cause);
        state.eject(until);
        drop(ejection);
        self.live.changed.notify_one();
        let seconds = Duration::from_nanos(until - now).as_secs_f64();
        log::warn!(
            upstream = &*self.name, backend = &*state.address, cause = cause.as_str(), seconds;
            "backend left rotation"
        );
        true
    }

    /// Returns true if one more backend may be out for errors: at most half of them are out then.
    fn others_allow(&self, now: u64) -> bool {
        let roster = self.roster.load();
        let out = roster.iter().filter(|state| !state.is_in_rotation(now));
        let out = out.count();
        (out + 1) * 2 <= roster.len()
    }
}
