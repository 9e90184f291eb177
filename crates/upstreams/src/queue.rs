//! Bounded queue of an upstream: requests wait here while all places are taken.
//!
//! First come, first served: the holder of the turn looks for a place each time one is returned;
//! the others wait for the turn, which tokio passes on in order.
//!
//! A queue is for bursts. A queue that has not been empty for many response times only delays every
//! response by its length: from then on no request waits for longer than a part of a response time,
//! and the rest is refused at once (as controlled delay, RFC 8289, does with packets).

use std::{
    future::pending,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use smart_default::SmartDefault;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};

use super::eject::nanos;

/// Response times after which a queue that was never empty is an overload, and not a burst.
const OVERLOAD_FACTOR: u32 = 10;
/// Shortest duration of a burst before it counts as overload.
const MIN_OVERLOAD: Duration = Duration::from_millis(100);
/// Shortest wait of a request in an overload.
const MIN_WAIT: Duration = Duration::from_millis(5);

#[derive(Debug, SmartDefault)]
pub(super) struct WaitQueue {
    /// Invariant: the number of [`WaitingRequest`] guards alive. Incremented before its owner looks for a
    /// place; read by a lease's drop after it returned its place. Both `SeqCst`, as is the count of
    /// places: either the waiter sees the free place, or the lease sees the waiter and wakes it.
    waiting: AtomicU32,
    /// Single permit: its holder is the first in the queue. Tokio's semaphore is fair.
    #[default(Semaphore::new(1))]
    turn: Semaphore,
    /// Stores one wake-up if the holder of the turn is not waiting for it yet.
    #[default(Notify::new())]
    freed: Notify,
    /// Origin of the times below.
    #[default(Instant::now())]
    epoch: Instant,
    /// Start of the present period of waiting, in nanoseconds.
    since: AtomicU64,
    /// Last time at which a request was waiting, in nanoseconds.
    last: AtomicU64,
    /// True while no request waits for longer than a part of a response time.
    is_shedding: AtomicBool,
    /// Notifies waiting requests when that begins.
    #[default(Notify::new())]
    overloaded: Notify,
}

/// Longest wait of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxWait {
    /// Longest wait in a burst.
    pub(super) wait: Duration,
    /// Average response time; in a lasting overload no request waits for more than half of it.
    /// `None` if unknown: then `wait` holds.
    pub(super) response_time: Option<Duration>,
}

/// Reason why a request left the queue without a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueExit {
    /// Queue full.
    Full,
    /// Longest wait exceeded.
    Timeout,
}

impl WaitQueue {
    /// Number of waiting requests.
    pub(super) fn len(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Wakes the holder of the turn: a place may be free.
    pub(super) fn wake(&self) {
        if self.len() > 0 {
            self.freed.notify_one();
        }
    }

    /// Waits until `find` returns a value, at most for `patience`, behind earlier requests; refuses
    /// at once if `limit` requests already wait.
    pub(super) async fn wait<T>(
        &self,
        limit: u32,
        patience: MaxWait,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<T, QueueExit> {
        let came = Instant::now();
        let _waiting = self.enter(limit).ok_or(QueueExit::Full)?;
        let place = async {
            let turn = self.turn.acquire().await;
            debug_assert!(turn.is_ok(), "the semaphore is never closed");
            loop {
                // Looks before it waits: there may be more free places than stored wake-ups, or
                // places freed before its turn.
                if let Some(place) = find() {
                    return place;
                }
                self.freed.notified().await;
            }
        };
        let short = patience
            .response_time
            .map(|response_time| (response_time / 2).max(MIN_WAIT));
        let short = short.filter(|short| *short < patience.wait);
        // Registered from here on: the overload may begin before this request waits.
        let mut begins = pin!(self.overloaded.notified());
        begins.as_mut().enable();
        let is_short = short.is_some() && self.is_overloaded(came, patience);
        let notified = async {
            let Some(short) = short else {
                return pending().await;
            };
            if !is_short {
                begins.await;
            }
            sleep_until(came + short).await;
        };
        tokio::select! {
            biased;
            place = place => Ok(place),
            () = notified => Err(QueueExit::Timeout),
            () = sleep_until(came + patience.wait) => Err(QueueExit::Timeout),
        }
    }

    /// Returns true in an overload: the queue has not been empty for longer than a burst may last.
    /// It ends once no request has waited for one response time.
    fn is_overloaded(&self, now: Instant, patience: MaxWait) -> bool {
        let Some(response_time) = patience.response_time else {
            return false;
        };
        let now = nanos(now - self.epoch);
        let last = self.last.swap(now, Ordering::Relaxed);
        let was_empty = self.len() <= 1;
        let is_on = self.is_shedding.load(Ordering::Relaxed);
        if was_empty && (!is_on || now.saturating_sub(last) > nanos(response_time)) {
            self.since.store(now, Ordering::Relaxed);
            self.is_shedding.store(false, Ordering::Relaxed);
            return false;
        }
        let since = self.since.load(Ordering::Relaxed);
        let rush = (response_time * OVERLOAD_FACTOR).max(MIN_OVERLOAD);
        if !is_on && now.saturating_sub(since) > nanos(rush) {
            self.is_shedding.store(true, Ordering::Relaxed);
            self.overloaded.notify_waiters();
            return true;
        }
        is_on
    }

    fn enter(&self, limit: u32) -> Option<WaitingRequest<'_>> {
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now < limit).then_some(now + 1)
            })
            .ok()
            .map(|_| WaitingRequest(self))
    }
}

/// Guard of a waiting request.
struct WaitingRequest<'a>(&'a WaitQueue);

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let now = nanos(Instant::now() - self.0.epoch);
        self.0.last.store(now, Ordering::Relaxed);
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Returns the patience of a request while response times are unknown.
    fn rush(wait: Duration) -> MaxWait {
        MaxWait {
            wait,
            response_time: None,
        }
    }

    /// Runs spawned tasks as far as they go.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// Queue over a number of free places, and the order in which they were taken.
    #[derive(Clone, Default)]
    struct Bench {
        queue: Rc<WaitQueue>,
        free: Rc<Cell<u32>>,
        served: Rc<parking_lot::Mutex<Vec<u32>>>,
    }

    impl Bench {
        fn join(&self, set: &tokio::task::LocalSet, who: u32, limit: u32, wait: Duration) {
            let bench = self.clone();
            set.spawn_local(async move {
                let place = bench.queue.wait(limit, rush(wait), || {
                    let free = bench.free.get();
                    (free > 0).then(|| bench.free.set(free - 1))
                });
                if place.await.is_ok() {
                    bench.served.lock().push(who);
                }
            });
        }

        fn give_back(&self, places: u32) {
            self.free.set(self.free.get() + places);
            self.queue.wake();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn permits_go_to_the_first_in_the_queue() {
        let set = tokio::task::LocalSet::new();
        let bench = Bench::default();
        set.run_until(async {
            for who in 0..5 {
                bench.join(&set, who, 10, LONG);
                settle().await;
            }
            assert_eq!(bench.queue.len(), 5);
            bench.give_back(1);
            settle().await;
            assert_eq!(*bench.served.lock(), [0]);
            bench.give_back(3);
            settle().await;
            assert_eq!(*bench.served.lock(), [0, 1, 2, 3], "one wake-up for three");
            bench.give_back(1);
            settle().await;
            assert_eq!(*bench.served.lock(), [0, 1, 2, 3, 4]);
            assert_eq!(bench.queue.len(), 0);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_than_may_wait_is_refused_at_once() {
        let set = tokio::task::LocalSet::new();
        let bench = Bench::default();
        set.run_until(async {
            bench.join(&set, 0, 1, LONG);
            settle().await;
            let refused = bench.queue.wait(1, rush(LONG), || None::<()>).await;
            assert_eq!(refused, Err(QueueExit::Full));
            assert_eq!(bench.queue.len(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_times_out_leaves_and_blocks_no_other() {
        let set = tokio::task::LocalSet::new();
        let bench = Bench::default();
        set.run_until(async {
            bench.join(&set, 0, 10, Duration::from_millis(100));
            settle().await;
            bench.join(&set, 1, 10, LONG);
            settle().await;
            let timed_out = bench
                .queue
                .wait(10, rush(Duration::from_millis(200)), || None::<()>)
                .await;
            assert_eq!(timed_out, Err(QueueExit::Timeout));
            bench.give_back(1);
            settle().await;
            assert_eq!(*bench.served.lock(), [1]);
            assert_eq!(bench.queue.len(), 0);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_before_the_wait_is_not_lost() {
        let queue = WaitQueue::default();
        let mut looks = 0;
        let found = queue.wait(1, rush(LONG), || {
            looks += 1;
            if looks == 1 {
                // The place comes free after the look and before the wait.
                queue.wake();
                return None;
            }
            Some(looks)
        });
        assert_eq!(found.await, Ok(2));
    }

    const RESPONSE_TIME: Duration = Duration::from_millis(50);

    fn max_wait(wait: Duration) -> MaxWait {
        let response_time = Some(RESPONSE_TIME);
        MaxWait {
            wait,
            response_time,
        }
    }

    /// Returns the time after which a waiting request gives up.
    async fn waits(queue: &WaitQueue) -> Duration {
        let came = Instant::now();
        let left = queue.wait(100, max_wait(LONG), || None::<()>).await;
        assert_eq!(left, Err(QueueExit::Timeout));
        came.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_rush_all_may_wait_and_in_a_lasting_overload_none_for_long() {
        let queue = WaitQueue::default();
        // A burst: the full wait, for the first request and for one that comes soon after.
        let (first, second) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(RESPONSE_TIME * 9).await;
            queue
                .wait(100, max_wait(RESPONSE_TIME * 2), || None::<()>)
                .await
        });
        assert_eq!((first, second), (LONG, Err(QueueExit::Timeout)));
        // The queue was empty: the next requests are a burst again. Once that has lasted, new
        // requests and waiting ones wait for half a response time.
        let (first, late) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(RESPONSE_TIME * 11).await;
            waits(&queue).await
        });
        let is_about = |waited: Duration, wanted: Duration| {
            waited >= wanted && waited < wanted + Duration::from_millis(3)
        };
        assert!(is_about(first, RESPONSE_TIME * 11), "{first:?}");
        assert!(is_about(late, RESPONSE_TIME / 2), "{late:?}");
        // The overload goes on while a request comes within a response time, empty or not.
        tokio::time::sleep(RESPONSE_TIME / 2).await;
        assert!(is_about(waits(&queue).await, RESPONSE_TIME / 2));
        // And ends after a pause.
        tokio::time::sleep(RESPONSE_TIME * 2).await;
        assert_eq!(waits(&queue).await, LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_patience_is_shorter_than_that_keeps_it() {
        let queue = WaitQueue::default();
        let short = Duration::from_millis(10);
        let (_, waited) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(RESPONSE_TIME * 11).await;
            let came = Instant::now();
            let left = queue.wait(100, max_wait(short), || None::<()>).await;
            assert_eq!(left, Err(QueueExit::Timeout));
            came.elapsed()
        });
        assert!(waited >= short && waited < short * 2, "{waited:?}");
    }
}
