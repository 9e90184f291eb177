//! The one bounded queue of an upstream: who comes when all places are taken waits here.
//!
//! First come, first served: whoever holds the turn looks for a place each time one
//! was given back; the others wait for the turn, which tokio hands on in order.
//!
//! A queue is for rushes. One that has not been empty for many times the time of an answer
//! only makes every answer late by its length: from then on nobody waits for longer than a
//! part of that time, and the rest is told at once (as controlled delay, RFC 8289, does with
//! packets).

use std::{
    future::pending,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};

/// A queue that was never empty for so many answers' time is no rush but an overload.
const RUSH: u32 = 10;
/// No rush is shorter than this.
const SHORTEST_RUSH: Duration = Duration::from_millis(100);
/// Nobody is to wait for less than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Queue {
    /// Invariant: the number of [`Waiting`] guards alive. Raised before its owner looks
    /// for a place; read by a lease's drop after it gave its place back. Both `SeqCst`,
    /// as is the count of places: either the waiter sees the free place, or the lease
    /// sees the waiter and wakes it.
    waiting: AtomicU32,
    /// One permit: its holder is the first in the queue. Tokio's semaphore is fair.
    turn: Semaphore,
    /// Keeps one wake-up if the holder of the turn is not waiting for it yet.
    freed: Notify,
    /// What times below are counted from.
    epoch: Instant,
    /// Since when somebody has been waiting, in nanoseconds.
    since: AtomicU64,
    /// When somebody was waiting last, in nanoseconds.
    last: AtomicU64,
    /// Nobody waits for longer than a part of an answer's time.
    is_shedding: AtomicBool,
    /// Tells those who wait when that begins.
    overloaded: Notify,
}

/// How long somebody may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// In a rush.
    pub(super) wait: Duration,
    /// How long an answer takes as a rule; under an overload that lasts, nobody waits for
    /// more than half of it. `None` if that is not known: then `wait` holds.
    pub(super) answer: Option<Duration>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
            epoch: Instant::now(),
            since: AtomicU64::new(0),
            last: AtomicU64::new(0),
            is_shedding: AtomicBool::new(false),
            overloaded: Notify::new(),
        }
    }
}

/// Why somebody left the queue without a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// As many as may wait already do.
    Full,
    /// Its time was up.
    Timeout,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A place may have become free.
    pub(super) fn wake(&self) {
        if self.len() > 0 {
            self.freed.notify_one();
        }
    }

    /// Waits until `find` finds something, as long as `patience` lasts, behind those who
    /// came before; refuses at once if `limit` already wait.
    pub(super) async fn wait<T>(
        &self,
        limit: u32,
        patience: Patience,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<T, Left> {
        let came = Instant::now();
        let _waiting = self.enter(limit).ok_or(Left::Full)?;
        let found = async {
            let turn = self.turn.acquire().await;
            debug_assert!(turn.is_ok(), "the semaphore is never closed");
            loop {
                // Looks before it waits: there may be more free places than wake-ups
                // were kept, or some from before its turn.
                if let Some(found) = find() {
                    return found;
                }
                self.freed.notified().await;
            }
        };
        let short = patience
            .answer
            .map(|answer| (answer / 2).max(SHORTEST_WAIT));
        let short = short.filter(|short| *short < patience.wait);
        // Heard from here on: it may begin before this one waits.
        let mut begins = pin!(self.overloaded.notified());
        begins.as_mut().enable();
        let is_short = short.is_some() && self.is_overloaded(came, patience);
        let told = async {
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
            found = found => Ok(found),
            () = told => Err(Left::Timeout),
            () = sleep_until(came + patience.wait) => Err(Left::Timeout),
        }
    }

    /// Whether this is no rush any more: the queue has not been empty for as long as a rush
    /// may last. It is over once nobody has waited for the time of an answer.
    fn is_overloaded(&self, now: Instant, patience: Patience) -> bool {
        let Some(answer) = patience.answer else {
            return false;
        };
        let now = nanos(now - self.epoch);
        let last = self.last.swap(now, Ordering::Relaxed);
        let was_empty = self.len() <= 1;
        let is_on = self.is_shedding.load(Ordering::Relaxed);
        if was_empty && (!is_on || now.saturating_sub(last) > nanos(answer)) {
            self.since.store(now, Ordering::Relaxed);
            self.is_shedding.store(false, Ordering::Relaxed);
            return false;
        }
        let since = self.since.load(Ordering::Relaxed);
        let rush = (answer * RUSH).max(SHORTEST_RUSH);
        if !is_on && now.saturating_sub(since) > nanos(rush) {
            self.is_shedding.store(true, Ordering::Relaxed);
            self.overloaded.notify_waiters();
            return true;
        }
        is_on
    }

    fn enter(&self, limit: u32) -> Option<Waiting<'_>> {
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now < limit).then_some(now + 1)
            })
            .ok()
            .map(|_| Waiting(self))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Somebody in the queue.
struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
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

    /// Patience of somebody who does not know how long answers take.
    fn rush(wait: Duration) -> Patience {
        Patience { wait, answer: None }
    }

    /// Runs what has been spawned as far as it goes.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// A queue over a number of free places, and the order in which they were taken.
    #[derive(Clone, Default)]
    struct Bench {
        queue: Rc<Queue>,
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
    async fn places_go_to_those_who_came_first() {
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
            assert_eq!(refused, Err(Left::Full));
            assert_eq!(bench.queue.len(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_too_long_leaves_and_blocks_nobody() {
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
            assert_eq!(timed_out, Err(Left::Timeout));
            bench.give_back(1);
            settle().await;
            assert_eq!(*bench.served.lock(), [1]);
            assert_eq!(bench.queue.len(), 0);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_before_the_wait_is_not_lost() {
        let queue = Queue::default();
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

    const ANSWER: Duration = Duration::from_millis(50);

    fn known(wait: Duration) -> Patience {
        let answer = Some(ANSWER);
        Patience { wait, answer }
    }

    /// How long one more waits in vain.
    async fn waits(queue: &Queue) -> Duration {
        let came = Instant::now();
        let left = queue.wait(100, known(LONG), || None::<()>).await;
        assert_eq!(left, Err(Left::Timeout));
        came.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_rush_everybody_may_wait_and_in_an_overload_that_lasts_nobody_for_long() {
        let queue = Queue::default();
        // A rush: the whole wait, for the first one and for one who comes soon after.
        let (first, second) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(ANSWER * 9).await;
            queue.wait(100, known(ANSWER * 2), || None::<()>).await
        });
        assert_eq!((first, second), (LONG, Err(Left::Timeout)));
        // It was empty: the next ones are a rush again. Once that has lasted, those who come
        // and those who are there wait for half an answer.
        let (first, late) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(ANSWER * 11).await;
            waits(&queue).await
        });
        let is_about = |waited: Duration, wanted: Duration| {
            waited >= wanted && waited < wanted + Duration::from_millis(3)
        };
        assert!(is_about(first, ANSWER * 11), "{first:?}");
        assert!(is_about(late, ANSWER / 2), "{late:?}");
        // It goes on while somebody comes within an answer's time, empty or not.
        tokio::time::sleep(ANSWER / 2).await;
        assert!(is_about(waits(&queue).await, ANSWER / 2));
        // And is over after a pause.
        tokio::time::sleep(ANSWER * 2).await;
        assert_eq!(waits(&queue).await, LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_patience_is_shorter_than_that_keeps_it() {
        let queue = Queue::default();
        let short = Duration::from_millis(10);
        let (_, waited) = tokio::join!(waits(&queue), async {
            tokio::time::sleep(ANSWER * 11).await;
            let came = Instant::now();
            let left = queue.wait(100, known(short), || None::<()>).await;
            assert_eq!(left, Err(Left::Timeout));
            came.elapsed()
        });
        assert!(waited >= short && waited < short * 2, "{waited:?}");
    }
}
