//! The one bounded queue of an upstream: who comes when all places are taken waits here.
//!
//! First come, first served: whoever holds the turn looks for a place each time one
//! was given back; the others wait for the turn, which tokio hands on in order.

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

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
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
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

    /// Waits until `find` finds something, for `wait` at most, behind those who came
    /// before; refuses at once if `limit` already wait.
    pub(super) async fn wait<T>(
        &self,
        limit: u32,
        wait: Duration,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<T, Left> {
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
        deadline(wait, found).await.ok_or(Left::Timeout)
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

async fn deadline<T>(wait: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(wait, work).await.ok()
}

/// Somebody in the queue.
struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

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
                let place = bench.queue.wait(limit, wait, || {
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
            let refused = bench.queue.wait(1, LONG, || None::<()>).await;
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
                .wait(10, Duration::from_millis(200), || None::<()>)
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
        let found = queue.wait(1, LONG, || {
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
}
