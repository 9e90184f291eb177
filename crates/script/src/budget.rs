//! Limits of a hook, and the count of its CPU time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use edgeway_base::units::whole_nanos;
use rustix::time::{ClockId, clock_gettime};
use smart_default::SmartDefault;

use super::{
    error::{Failure, FailureKind},
    step_limit::StepLimit,
};

/// Resources that a hook may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, SmartDefault)]
pub struct HookLimits {
    /// CPU time of one hook.
    #[default(Duration::from_millis(5))]
    pub cpu: Duration,
    /// Elapsed time of one hook, including waits.
    #[default(Duration::from_millis(250))]
    pub wall: Duration,
    /// Elapsed time of the work that a hook passed to `ctx.waitUntil`.
    #[default(Duration::from_secs(5))]
    pub wait_until: Duration,
    /// Heap of one isolate, in bytes.
    #[default(8 << 20)]
    pub memory: usize,
    /// Stack of one isolate, in bytes.
    #[default(256 << 10)]
    pub stack: usize,
    /// CPU time for loading the plugin.
    #[default(Duration::from_millis(100))]
    pub load: Duration,
    /// Threads that hooks run on.
    pub isolation: Isolation,
}

impl HookLimits {
    pub(super) fn wall_exceeded(&self) -> Failure {
        let max = self.wall;
        Failure::new(FailureKind::Wall, format!("it did not end within {max:?}"))
    }
}

/// Threads that hooks run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// The worker thread of the request.
    #[default]
    Worker,
    /// Threads that belong to the plugin.
    Thread,
}

/// CPU time of the hook that runs in an isolate. The engine calls its interrupt handler after every
/// 10,000 steps, so most hooks read no clock at all. A hook that is entered many times may take so
/// few steps each time that the handler is not called twice: its time is counted from the start.
///
/// A pause of a virtual machine adds several milliseconds to whatever thread it falls on. So the
/// time between two readings of the clock counts for half the limit at most. A hook that held the
/// CPU for more than twice the limit is stopped anyway: it would fail in the end.
#[derive(Default)]
pub(super) struct CpuBudget {
    limit: AtomicU64,
    /// Monotonic time and CPU time of this thread when the hook was entered.
    entered: AtomicU64,
    began: AtomicU64,
    /// CPU time counted against this hook.
    used: AtomicU64,
    /// CPU time at the last reading: at the start, or at the first interrupt; zero before that.
    last_reading: AtomicU64,
    is_over: AtomicBool,
    /// Bytes processed by host functions.
    processed: AtomicU64,
    pub(super) steps: StepLimit,
}

/// Bytes after which a host function checks the budget too. It processes them in less than a
/// millisecond.
const PIECE: u64 = 64 << 10;
/// Bytes that each call of a host function counts for in addition to its data.
const CALL: u64 = 64;

impl CpuBudget {
    /// Starts or resumes a hook that has used `used`. With `is_counted` its time counts from here
    /// on, and not only from the first interrupt.
    pub(super) fn enter(&self, limit: Duration, used: Duration, is_counted: bool) {
        self.limit.store(whole_nanos(limit), Ordering::Relaxed);
        self.used.store(whole_nanos(used), Ordering::Relaxed);
        let began = thread_time().max(1);
        self.entered
            .store(time_of(ClockId::Monotonic), Ordering::Relaxed);
        self.began.store(began, Ordering::Relaxed);
        let now = if is_counted { began } else { 0 };
        self.last_reading.store(now, Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
    }

    /// Ends the run and returns the CPU time counted against the hook so far.
    pub(super) fn leave(&self) -> Duration {
        if self.is_counted() {
            self.read_clock();
        }
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns true if the hook held the CPU for more than twice the limit since it was entered,
    /// even if the engine never interrupted it: its calls take long. A pause of the machine cannot
    /// be told apart from that, so time up to the limit is ignored.
    pub(super) fn is_twice_over(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        // CPU time is never longer than elapsed time, and reading it takes a system call.
        whole_nanos(self.elapsed()) / 2 > limit && whole_nanos(self.thread_time()) / 2 > limit
    }

    /// CPU time of this thread since the hook was entered.
    pub(super) fn thread_time(&self) -> Duration {
        let began = self.began.load(Ordering::Relaxed);
        Duration::from_nanos(thread_time().saturating_sub(began))
    }

    /// Elapsed time since the hook was entered.
    pub(super) fn elapsed(&self) -> Duration {
        let entered = self.entered.load(Ordering::Relaxed);
        Duration::from_nanos(time_of(ClockId::Monotonic).saturating_sub(entered))
    }

    fn is_counted(&self) -> bool {
        self.last_reading.load(Ordering::Relaxed) > 0
    }

    fn read_clock(&self) -> u64 {
        let now = thread_time().max(1);
        let before = match self.last_reading.swap(now, Ordering::Relaxed) {
            0 => now,
            before => before,
        };
        let limit = self.limit.load(Ordering::Relaxed);
        let counts = now.saturating_sub(before).min(limit / 2);
        self.used.fetch_add(counts, Ordering::Relaxed);
        now
    }

    /// Returns the engine's interrupt handler, which returns true if the hook must stop.
    pub(super) fn interrupt_handler(self: &Arc<Self>) -> impl FnMut() -> bool + Send + 'static {
        let budget = Arc::clone(self);
        move || {
            // Steps run by the gateway call this within itself: its captures are not used after
            // them.
            let budget = Arc::clone(&budget);
            if budget.steps.is_skipping() || !budget.is_spent() {
                return false;
            }
            budget.steps.interrupt_next();
            true
        }
    }

    /// Counts bytes that a host function processes: to the engine each call is one step, however
    /// long it takes. Returns `false` if the hook must stop.
    pub(super) fn charge(&self, bytes: usize) -> bool {
        let more = (bytes as u64).saturating_add(CALL);
        let before = self.processed.fetch_add(more, Ordering::Relaxed);
        let is_same_piece = before / PIECE == before.wrapping_add(more) / PIECE;
        !self.is_over() && (is_same_piece || !self.is_spent())
    }

    fn is_spent(&self) -> bool {
        let now = self.read_clock();
        let limit = self.limit.load(Ordering::Relaxed);
        let held = now.saturating_sub(self.began.load(Ordering::Relaxed));
        let is_over = self.used.load(Ordering::Relaxed) > limit || held / 2 > limit;
        if is_over {
            self.is_over.store(true, Ordering::Relaxed);
        }
        is_over
    }
}

/// Returns the CPU time of this thread, so that a hook is not charged for what others use.
pub(super) fn thread_time() -> u64 {
    time_of(ClockId::ThreadCPUTime)
}

fn time_of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(time: Duration) {
        let until = thread_time() + whole_nanos(time);
        while thread_time() < until {}
    }

    #[test]
    fn a_pause_of_the_machine_stops_no_hook() {
        let limit = Duration::from_millis(100);
        let budget = CpuBudget::default();
        budget.enter(limit, Duration::ZERO, true);
        work(limit * 3 / 2);
        assert!(!budget.is_spent());
        // Half of the limit is left.
        work(limit / 4);
        assert!(!budget.is_spent());
        budget.enter(limit, budget.leave(), true);
        work(limit / 2);
        assert!(budget.is_spent() && budget.is_over());
        assert!(!budget.is_twice_over());
        // A hook that resumes starts with the time that it has used.
        budget.enter(limit, limit, true);
        work(Duration::from_micros(1));
        assert!(budget.is_spent());
    }

    #[test]
    fn more_than_twice_the_limit_is_over_at_the_first_interrupt() {
        let limit = Duration::from_millis(1);
        let budget = CpuBudget::default();
        budget.enter(limit, Duration::ZERO, false);
        work(limit * 3);
        assert!(budget.is_spent() && budget.is_twice_over());
    }

    #[test]
    fn a_hook_that_is_never_interrupted_is_not_counted() {
        let limit = Duration::from_millis(50);
        let budget = CpuBudget::default();
        budget.enter(limit, Duration::ZERO, false);
        work(limit);
        assert_eq!(budget.leave(), Duration::ZERO);
        assert!(!budget.is_spent());
        for _ in 0..3 {
            work(limit);
            budget.is_spent();
        }
        assert!(budget.is_over());
    }
}
