//! What a hook may use, and how its use of the processor is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::steps::{self, Steps};

/// What a hook may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Time of the processor, for one hook.
    pub cpu: Duration,
    /// Time that passes, with what it waits for.
    pub wall: Duration,
    /// Time that passes with what a hook left to be done.
    pub wait_until: Duration,
    /// Bytes of one isolate's heap.
    pub memory: usize,
    /// Bytes of one isolate's stack.
    pub stack: usize,
    /// Time of the processor for loading the plugin.
    pub load: Duration,
    /// Where its hooks run.
    pub isolation: Isolation,
}

/// Where hooks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// On the thread that the request is on.
    #[default]
    Worker,
    /// On threads of the plugin's own.
    Thread,
}

impl Default for Limits {
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

/// The processor's time of the hook that is running in an isolate. The engine asks after
/// every 10,000 steps, so most hooks read no clock at all. One that is entered over and over
/// takes so few at a time that the engine may never ask twice: it is counted from the start.
///
/// A pause of a virtual machine is the time of whatever thread it falls on, by several
/// milliseconds: what passes between two looks at the clock counts for half the limit at most.
#[derive(Default)]
pub(super) struct Budget {
    limit: AtomicU64,
    /// Times of the clock and of this thread's processor when it was entered.
    entered: AtomicU64,
    began: AtomicU64,
    /// What counts of this hook.
    used: AtomicU64,
    /// The time at the last look: at the start, or when the engine first asked; zero if it has
    /// not.
    looked_at: AtomicU64,
    /// What passed since it was entered.
    held: AtomicU64,
    is_over: AtomicBool,
    /// Bytes that functions of ours went over.
    passed: AtomicU64,
    pub(super) steps: Steps,
    /// What had passed when the engine last asked, and how many steps it had from there.
    asked_at: AtomicU64,
    left: AtomicU32,
}

/// After so many bytes a function of ours asks as well. Going over them takes less than a
/// millisecond.
const PIECE: u64 = 64 << 10;
/// What each call of one counts for beside its bytes.
const CALL: u64 = 64;
/// How many nanoseconds a step takes at most if the engine is to ask at its own pace. It takes
/// some 100 of them but where it is a call of a native function that goes over much.
const SLOW: u64 = 2_000;
/// Where steps are slow it asks after so many nanoseconds.
const OFTEN: u64 = 500_000;
/// Steps of a hook before the first question, and the second, where that is worth its price.
const FIRST: u32 = 64;
const SECOND: u32 = 512;

/// Whether the hooks of a plugin are to be asked early whether they are to stop, for all its
/// instances. What held the processor for long comes again, and would hold it each time.
#[derive(Debug, Default)]
pub(super) struct Wary(AtomicU32);

impl Wary {
    /// For so many hooks.
    const HOOKS: u32 = 10_000;

    /// One has held the processor, or a thread.
    pub(super) fn begin(&self) {
        self.0.store(Self::HOOKS, Ordering::Relaxed);
    }

    /// A hook begins.
    pub(super) fn counts(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            // Two at a time may count as one.
            self.0.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }
}

impl Budget {
    /// A hook that has used `used` goes on. `is_counted`: from here on, not only once the
    /// engine asks.
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

    /// The hook that begins is asked early, so that one whose steps are slow is found out early.
    /// It takes some 50 µs, and as long once more within the hook.
    pub(super) fn ask_early(&self) {
        if self.left.load(Ordering::Relaxed) == FIRST {
            return;
        }
        self.ask_after(FIRST);
    }

    /// What counts of the hook by now.
    pub(super) fn leave(&self) -> Duration {
        if self.is_counted() {
            self.look();
        }
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether it has held the processor for more than twice the limit since it was entered,
    /// whether or not the engine asked meanwhile: it makes calls that take long. A pause of the
    /// machine is not told from these, so as much as the limit is passed over.
    pub(super) fn is_late(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        // The processor's time is no longer than that, and takes a call of the kernel to tell.
        nanos(self.passed_by()) / 2 > limit && nanos(self.thread_time()) / 2 > limit
    }

    /// Time of this thread's processor since it was entered.
    pub(super) fn thread_time(&self) -> Duration {
        let began = self.began.load(Ordering::Relaxed);
        Duration::from_nanos(thread_time().saturating_sub(began))
    }

    /// Time since it was entered.
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

    /// For the engine: whether it is to stop.
    pub(super) fn asks(self: &Arc<Self>) -> impl FnMut() -> bool + Send + 'static {
        let own = Arc::clone(self);
        move || {
            // Steps of ours have it called within itself: what it holds is not used after them.
            let budget = Arc::clone(&own);
            !budget.steps.are_ours() && budget.is_asked()
        }
    }

    /// A function of ours goes over so many bytes: to the engine each is one step, however long
    /// it takes. `false` if the hook is to stop.
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

    /// Has the engine ask often where each step takes long.
    fn keep_pace(&self) {
        let held = self.held.load(Ordering::Relaxed);
        let since = held.saturating_sub(self.asked_at.swap(held, Ordering::Relaxed));
        // Before the first question, as many as there are.
        let steps = match self.left.swap(steps::ALL, Ordering::Relaxed) {
            0 => steps::ALL,
            steps => steps,
        };
        let pace = since / u64::from(steps);
        if pace > SLOW {
            let left = u32::try_from(OFTEN / pace).unwrap_or(1).max(1);
            self.ask_after(left);
        } else if steps == FIRST {
            // Those were as much ours as the hook's.
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

/// The processor's time of this thread: what others take of the machine is not the hook's
/// fault.
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
        let budget = Budget::default();
        budget.enter(limit, Duration::ZERO, true);
        for _ in 0..2 {
            work(limit * 4);
            assert!(!budget.is_spent());
        }
        work(limit);
        assert!(budget.is_spent() && budget.is_over());
        assert!(budget.is_late());
        // One that goes on has used what it had.
        budget.enter(limit, limit, true);
        work(Duration::from_micros(1));
        assert!(budget.is_spent());
    }

    #[test]
    fn a_hook_that_is_asked_once_is_not_counted() {
        let limit = Duration::from_millis(1);
        let budget = Budget::default();
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
