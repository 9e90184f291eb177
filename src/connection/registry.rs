//! Every open connection of the process, and the task that checks their deadlines.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Connection,
    listener::{ListenerFacts, ListenerId},
};
use crate::base::clock::Clock;

/// Interval of deadline checks, and so the most by which a deadline is overrun.
const TICK: Duration = Duration::from_millis(100);

/// Selection of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionSelection {
    /// Connections without a request in flight.
    Idle,
    All,
}

/// Every open connection of the process.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    began: Instant,
    /// Sharded, so that accepting on one worker does not wait for another.
    shards: [Mutex<Vec<Weak<Connection>>>; 16],
    next: AtomicUsize,
    /// Time of the last check.
    checked_at: AtomicU64,
    /// True while no connection is open, and nothing is checked.
    is_asleep: AtomicBool,
    wake: Notify,
}

impl Connections {
    pub fn new(clock: Clock) -> Self {
        let now = clock.now();
        let began = now.checked_sub(Duration::from_millis(1)).unwrap_or(now);
        Self(Arc::new(Inner {
            clock,
            began,
            shards: Default::default(),
            next: AtomicUsize::new(0),
            checked_at: AtomicU64::new(1),
            is_asleep: AtomicBool::new(false),
            wake: Notify::new(),
        }))
    }

    /// Milliseconds since the process began, at least 1.
    pub fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Current time in the unit of [`Connections::millis`].
    pub fn now(&self) -> u64 {
        self.millis(self.0.clock.now())
    }

    /// Adds a connection, whose deadlines are checked from now on.
    pub fn add(&self, connection: &Arc<Connection>) {
        let index = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.shards.len();
        self.0.shards[index].lock().push(Arc::downgrade(connection));
        if self.0.is_asleep.load(Ordering::SeqCst) {
            self.0.wake.notify_one();
        }
    }

    pub fn open(&self) -> usize {
        let alive = |shard: &Mutex<Vec<Weak<Connection>>>| {
            shard.lock().iter().filter(|c| c.strong_count() > 0).count()
        };
        self.0.shards.iter().map(alive).sum()
    }

    /// Counts the idle connections of each listener for the metrics. It visits every connection, so
    /// it runs only when metrics are requested.
    pub fn publish(&self) {
        let mut listeners: Vec<(Arc<ListenerFacts>, i64)> = Vec::new();
        for shard in &self.0.shards {
            for connection in shard.lock().iter().filter_map(Weak::upgrade) {
                let facts = &connection.listener;
                let idle = i64::from(connection.is_idle());
                match listeners.iter_mut().find(|(f, _)| Arc::ptr_eq(f, facts)) {
                    Some((_, count)) => *count += idle,
                    None => listeners.push((Arc::clone(facts), idle)),
                }
            }
        }
        for (facts, idle) in listeners {
            facts.metrics.idle.set(idle);
        }
    }

    /// Ends the selected connections of a listener. Each `WebSocket` is sent a close frame.
    pub fn end(&self, listener: ListenerId, which: ConnectionSelection) {
        for shard in &self.0.shards {
            for connection in shard.lock().iter().filter_map(Weak::upgrade) {
                let is_meant = connection.listener.id == listener
                    && (which == ConnectionSelection::All || connection.is_idle());
                if is_meant {
                    connection.go_away();
                }
            }
        }
    }

    /// Checks every connection once, and removes those that are gone.
    pub(super) fn check(&self) {
        let now = self.now();
        let elapsed = now - self.0.checked_at.swap(now, Ordering::Relaxed).min(now);
        for shard in &self.0.shards {
            shard.lock().retain(|connection| {
                let Some(connection) = connection.upgrade() else {
                    return false;
                };
                connection.check(now, elapsed);
                true
            });
        }
    }

    /// Ends expired connections and requests, for ever.
    pub async fn supervise(self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.check();
            self.sleep_while_empty().await;
        }
    }

    /// Waits until a connection is open: a gateway that nobody uses causes no wake-ups.
    async fn sleep_while_empty(&self) {
        let inner = &*self.0;
        let is_empty = || inner.shards.iter().all(|shard| shard.lock().is_empty());
        if !is_empty() {
            return;
        }
        inner.is_asleep.store(true, Ordering::SeqCst);
        // A connection that `add` put there before it could see the flag is seen here.
        while is_empty() {
            inner.wake.notified().await;
        }
        inner.is_asleep.store(false, Ordering::SeqCst);
        // The time before the connection is not its own.
        inner.checked_at.store(self.now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deadlines_are_checked_while_a_connection_is_open() {
        let clock = Clock::test();
        let connections = Connections::new(clock.clone());
        let checked_at = || connections.0.checked_at.load(Ordering::Relaxed);
        let supervised = connections.clone().supervise();
        let watched = async {
            while !connections.0.is_asleep.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            // Nothing is checked, and the first connection does not pay for the time.
            let slept_at = checked_at();
            clock.advance(Duration::from_hours(1));
            tokio::time::sleep(3 * TICK).await;
            assert_eq!(checked_at(), slept_at);
            let open = Connection::test();
            connections.add(&open);
            while checked_at() == slept_at {
                tokio::task::yield_now().await;
            }
            assert_eq!(checked_at(), connections.now());
            // The control: checks go on while it is open, and end with it.
            clock.advance(Duration::from_secs(1));
            while checked_at() != connections.now() {
                tokio::time::sleep(TICK).await;
            }
            drop(open);
            while !connections.0.is_asleep.load(Ordering::SeqCst) {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::select! {
            () = supervised => {}
            () = watched => {}
        }
    }
}
