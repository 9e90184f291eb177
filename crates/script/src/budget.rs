//! Limits of a hook, and the count of its CPU time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::step_limit::{self, StepLimit};

/// Resources that a hook may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HookLimits {
    /// CPU time of one hook.
    pub cpu: Duration,
    /// Elapsed time of one hook, including waits.
    pub wall: Duration,
    /// Elapsed time of the work that a hook passed to `ctx.waitUntil`.
    pub wait_until: Duration,
    /// Heap of one isolate, in bytes.
    pub memory: usize,
    /// Stack of one isolate, in bytes.
    pub stack: usize,
    /// CPU time for loading the plugin.
    pub load: Duration,
    /// Threads that hooks run on.
    pub isolation: Isolation,
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

impl Default for HookLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(5),
            wall: Duration::from_millis(250),
            wait_until: Duration::from_secs(5),
            memory: 8 << 20,
            stack: 256 << 10,
            load: Duration::from_millis(100),
            isolation: Isolation::default(),
        }
    }
}

/// CPU time of the hook that runs in an isolate. The engine calls its interrupt handler after every
/// 10,000 steps, so most hooks read no clock at all. A hook that is entered many times may take so
/// few steps each time that the handler is not called twice: its time is counted from the start.
///
/// A pause of a virtual machine adds several milliseconds to whatever thread it falls on. So the
/// time between two readings of the clock counts for half the limit at most.
#[derive(Default)]
pub(super) struct CpuBudget {
    limit: AtomicU64,
    /// Monotonic time and CPU time of this thread when the hook was entered.
    entered: AtomicU64,
    began: AtomicU64,
    /// CPU time counted against this hook.
    used: AtomicU64,
    /// CPU time at the last reading: at the start, or at the first interrupt; zero before that.
    looked_at: AtomicU64,
    /// CPU time read since the hook was entered.
    held: AtomicU64,
    is_over: AtomicBool,
    /// Bytes processed by host functions.
    passed: AtomicU64,
    pub(super) steps: StepLimit,
    /// Value of `held` at the last interrupt, and the steps from there to the next.
    asked_at: AtomicU64,
    left: AtomicU32,
}

/// Bytes after which a host function checks the budget too. It processes them in less than a
/// millisecond.
const PIECE: u64 = 64 << 10;
/// Bytes that each call of a host function counts for in addition to its data.
const CALL: u64 = 64;
/// Nanoseconds that a step may take before the engine must interrupt more often than by default. A
/// step takes about 100, unless it calls a native function that processes much data.
const SLOW: u64 = 2_000;
/// Nanoseconds between interrupts while steps are slow.
const SLOW_STEP_INTERVAL_NANOS: u64 = 500_000;
/// Steps of a hook before the first and the second interrupt, where early interrupts pay off.
const FIRST: u32 = 64;
const SECOND: u32 = 512;

/// Marks a plugin, in all its instances, whose hooks are interrupted early. Code that held the CPU
/// for long is likely to run again, and would hold it each time.
#[derive(Debug, Default)]
pub(super) struct EarlyInterrupt(AtomicU32);

impl EarlyInterrupt {
    /// Hooks that are watched after a slow one.
    const HOOKS: u32 = 10_000;

    /// Starts watching, after a hook held the CPU or a thread.
    pub(super) fn begin(&self) {
        self.0.store(Self::HOOKS, Ordering::Relaxed);
    }

    /// Counts a hook that begins; returns true if it is watched.
    pub(super) fn counts(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            // Two concurrent calls may count as one.
            self.0.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }
}

impl CpuBudget {
    /// Starts or resumes a hook that has used `used`. With `is_counted` its time counts from here
    /// on, and not only from the first interrupt.
    pub(super) fn enter(&self, limit: Duration, used: Duration, is_counted: bool) {
        self.limit.store(nanos(limit), Ordering::Relaxed);
        self.used.store(nanos(used), Ordering::Relaxed);
        let began = thread_time().max(1);
        self.entered
            .store(time_of(ClockId::Monotonic), Ordering::Relaxed);
        self.began.store(began, Ordering::Relaxed);
        let now = if is_counted { began } else { 0 };
        self.looked_at.store(now, Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.asked_at.store(0, Ordering::Relaxed);
    }

    /// Has the engine interrupt the hook early, so that slow steps are found early. That takes
    /// about 50 µs, and as long again within the hook.
    pub(super) fn ask_early(&self) {
        if self.left.load(Ordering::Relaxed) == FIRST {
            return;
        }
        self.ask_after(FIRST);
    }

    /// Ends the run and returns the CPU time counted against the hook so far.
    pub(super) fn leave(&self) -> Duration {
        if self.is_counted() {
            self.look();
        }
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns true if the hook held the CPU for more than twice the limit since it was entered,
    /// even if the engine never interrupted it: its calls take long. A pause of the machine cannot
    /// be told apart from that, so time up to the limit is ignored.
    pub(super) fn is_late(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        // CPU time is never longer than elapsed time, and reading it takes a system call.
        nanos(self.passed_by()) / 2 > limit && nanos(self.thread_time()) / 2 > limit
    }

    /// CPU time of this thread since the hook was entered.
    pub(super) fn thread_time(&self) -> Duration {
        let began = self.began.load(Ordering::Relaxed);
        Duration::from_nanos(thread_time().saturating_sub(began))
    }

    /// Elapsed time since the hook was entered.
    pub(super) fn passed_by(&self) -> Duration {
        let entered = self.entered.load(Ordering::Relaxed);
        Duration::from_nanos(time_of(ClockId::Monotonic).saturating_sub(entered))
    }

    fn is_counted(&self) -> bool {
        self.looked_at.load(Ordering::Relaxed) > 0
    }

    fn look(&self) {
        let now = thread_time().max(1);
        let before = match self.looked_at.swap(now, Ordering::Relaxed) {
            0 => now,
            before => before,
        };
        let passed = now.saturating_sub(before);
        self.held.fetch_add(passed, Ordering::Relaxed);
        let counts = passed.min(self.limit.load(Ordering::Relaxed) / 2);
        self.used.fetch_add(counts, Ordering::Relaxed);
    }

    /// Returns the engine's interrupt handler, which returns true if the hook must stop.
    pub(super) fn asks(self: &Arc<Self>) -> impl FnMut() -> bool + Send + 'static {
        let own = Arc::clone(self);
        move || {
            // Steps run by the gateway call this within itself: its captures are not used after
            // them.
            let budget = Arc::clone(&own);
            !budget.steps.are_ours() && budget.is_asked()
        }
    }

    /// Counts bytes that a host function processes: to the engine each call is one step, however
    /// long it takes. Returns `false` if the hook must stop.
    pub(super) fn passes(&self, bytes: usize) -> bool {
        let more = (bytes as u64).saturating_add(CALL);
        let before = self.passed.fetch_add(more, Ordering::Relaxed);
        before / PIECE == before.wrapping_add(more) / PIECE || !self.is_spent()
    }

    fn is_asked(&self) -> bool {
        let is_over = self.is_spent();
        if !is_over {
            self.keep_pace();
        }
        is_over
    }

    /// Has the engine interrupt often while each step takes long.
    fn keep_pace(&self) {
        let held = self.held.load(Ordering::Relaxed);
        let since = held.saturating_sub(self.asked_at.swap(held, Ordering::Relaxed));
        // Before the first interrupt, the default number of steps.
        let steps = match self.left.swap(step_limit::ALL, Ordering::Relaxed) {
            0 => step_limit::ALL,
            steps => steps,
        };
        let pace = since / u64::from(steps);
        if pace > SLOW {
            let left = u32::try_from(SLOW_STEP_INTERVAL_NANOS / pace)
                .unwrap_or(1)
                .max(1);
            self.ask_after(left);
        } else if steps == FIRST {
            // Those steps were as much the gateway's as the hook's.
            self.ask_after(SECOND);
        }
    }

    fn ask_after(&self, steps: u32) {
        self.steps.leave(steps);
        self.left.store(steps, Ordering::Relaxed);
    }

    fn is_spent(&self) -> bool {
        self.look();
        let used = self.used.load(Ordering::Relaxed);
        let is_over = used > self.limit.load(Ordering::Relaxed);
        if is_over {
            self.is_over.store(true, Ordering::Relaxed);
            self.steps.stop();
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(time: Duration) {
        let until = thread_time() + nanos(time);
        while thread_time() < until {}
    }

    #[test]
    fn a_pause_of_the_machine_stops_no_hook() {
        let limit = Duration::from_millis(5);
        let budget = CpuBudget::default();
        budget.enter(limit, Duration::ZERO, true);
        for _ in 0..2 {
            work(limit * 4);
            assert!(!budget.is_spent());
        }
        work(limit);
        assert!(budget.is_spent() && budget.is_over());
        assert!(budget.is_late());
        // A hook that resumes starts with what it has used.
        budget.enter(limit, limit, true);
        work(Duration::from_micros(1));
        assert!(budget.is_spent());
    }

    #[test]
    fn a_hook_that_is_asked_once_is_not_counted() {
        let limit = Duration::from_millis(1);
        let budget = CpuBudget::default();
        budget.enter(limit, Duration::ZERO, false);
        work(limit * 2);
        assert_eq!(budget.leave(), Duration::ZERO);
        assert!(!budget.is_spent());
        for _ in 0..3 {
            work(limit);
            budget.is_spent();
        }
        assert!(budget.is_over());
    }
}
