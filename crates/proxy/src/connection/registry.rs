//! Every open connection of the process, and the task that checks their deadlines.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use edgeway_base::clock::Clock;
use parking_lot::Mutex;
use slab::Slab;

use super::{
    Connection,
    activity::Activity,
    listener::{ListenerFacts, ListenerId},
};

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
pub struct Connections(Arc<RegistryState>);

/// Place of a connection among all. Dropping it removes the connection.
#[derive(Debug)]
pub(super) struct RegistryPlace {
    connections: Connections,
    shard: usize,
    key: usize,
}

impl Drop for RegistryPlace {
    fn drop(&mut self) {
        let shard = &self.connections.0.shards[self.shard];
        shard.lock().remove(self.key);
    }
}

#[derive(Debug)]
struct RegistryState {
    clock: Clock,
    began: Instant,
    /// Sharded, so that accepting on one worker does not wait for another.
    shards: [Mutex<Slab<Weak<Connection>>>; 16],
    next: AtomicUsize,
    /// Time of the last check.
    checked_at: AtomicU64,
    activity: Arc<Activity>,
}

impl Connections {
    pub fn new(clock: Clock) -> Self {
        let now = clock.now();
        let began = now.checked_sub(Duration::from_millis(1)).unwrap_or(now);
        Self(Arc::new(RegistryState {
            clock,
            began,
            shards: Default::default(),
            next: AtomicUsize::new(0),
            checked_at: AtomicU64::new(1),
            activity: Arc::default(),
        }))
    }

    /// Milliseconds since the process began, at least 1.
    pub fn millis(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.0.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Current time in the unit of [`Connections::millis`].
    pub fn now(&self) -> u64 {
        self.millis(self.0.clock.now())
    }

    /// Adds a connection, whose deadlines are checked from now on. It is removed when it is dropped.
    pub fn add(&self, connection: &Arc<Connection>) {
        let shard = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.shards.len();
        let reference = Arc::downgrade(connection);
        let key = self.0.shards[shard].lock().insert(reference);
        let place = RegistryPlace {
            connections: self.clone(),
            shard,
            key,
        };
        let is_new = connection.place.set(place).is_ok();
        debug_assert!(is_new, "added twice");
        self.0.activity.touch();
    }

    /// Signs of life of all clients.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.0.activity
    }

    pub fn open(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Calls `visit` with each connection.
    fn each(&self, mut visit: impl FnMut(&Connection)) {
        let mut of_shard = Vec::new();
        for shard in &self.0.shards {
            let open = shard.lock();
            of_shard.extend(open.iter().filter_map(|(_, open)| open.upgrade()));
            // Not under the lock: a connection that ends meanwhile is dropped here, and takes it.
            drop(open);
            for connection in of_shard.drain(..) {
                visit(&connection);
            }
        }
    }

    /// Counts the idle connections of each listener for the metrics. It visits every connection, so
    /// it runs only when metrics are requested.
    pub fn publish(&self) {
        let mut listeners: Vec<(Arc<ListenerFacts>, i64)> = Vec::new();
        self.each(|connection| {
            let facts = &connection.listener;
            let idle = i64::from(connection.is_idle());
            match listeners.iter_mut().find(|(f, _)| Arc::ptr_eq(f, facts)) {
                Some((_, count)) => *count += idle,
                None => listeners.push((Arc::clone(facts), idle)),
            }
        });
        for (facts, idle) in listeners {
            facts.metrics().idle.set(idle);
        }
    }

    /// Ends the selected connections of a listener. Each `WebSocket` is sent a close frame.
    pub fn end(&self, listener: ListenerId, which: ConnectionSelection) {
        self.each(|connection| {
            let is_meant = connection.listener.id == listener
                && (which == ConnectionSelection::All || connection.may_end());
            if is_meant {
                connection.go_away();
            }
        });
    }

    /// Checks every connection once. Returns the time until the next one expires if no client sends
    /// anything before; `None` if there is no connection.
    pub(super) fn check(&self) -> Option<Duration> {
        let now = self.now();
        let elapsed = now - self.0.checked_at.swap(now, Ordering::Relaxed).min(now);
        let mut next = None;
        self.each(|connection| {
            let left = connection.check(now, elapsed);
            next = Some(next.map_or(left, |next: Duration| next.min(left)));
        });
        next
    }

    /// Ends expired connections and requests, for ever.
    pub async fn supervise(self) {
        loop {
            let next = self.check();
            let is_due_soon = next.is_some_and(|next| next <= TICK);
            if !self.0.activity.take() && !is_due_soon {
                self.sleep_while_quiet(next).await;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Waits until a client connects or sends something, or until a tick before `next`: a gateway
    /// whose clients are silent causes no wake-ups.
    async fn sleep_while_quiet(&self, next: Option<Duration>) {
        let activity = &self.0.activity;
        activity.set_quiet(true);
        match next {
            Some(next) => {
                let until = next.saturating_sub(TICK);
                // Either way it is time for a check.
                let _is_active = tokio::time::timeout(until, activity.touched()).await;
            }
            None => activity.touched().await,
        }
        activity.set_quiet(false);
        // The time before a request is not its own.
        self.0.checked_at.store(self.now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::{fd::AsRawFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::connection::{CloseReason, Stage};

    #[tokio::test]
    async fn deadlines_are_checked_while_a_connection_is_open() {
        let clock = Clock::test();
        let connections = Connections::new(clock.clone());
        let checked_at = || connections.0.checked_at.load(Ordering::Relaxed);
        let supervised = connections.clone().supervise();
        let watched = async {
            while connections.activity().quiet().is_none() {
                tokio::task::yield_now().await;
            }
            // Nothing is checked, and the first connection does not pay for the time.
            let slept_at = checked_at();
            clock.advance(Duration::from_hours(1));
            tokio::time::sleep(3 * TICK).await;
            assert_eq!(checked_at(), slept_at);
            let open = Connection::test();
            open.enter(Stage::Request);
            connections.add(&open);
            while checked_at() == slept_at {
                tokio::task::yield_now().await;
            }
            assert_eq!(checked_at(), connections.now());
            // The control: checks go on while a request is in flight, and end with it.
            clock.advance(Duration::from_secs(1));
            while checked_at() != connections.now() {
                tokio::time::sleep(TICK).await;
            }
            open.enter(Stage::Idle);
            while connections.activity().quiet().is_none() {
                tokio::time::sleep(TICK).await;
            }
            let slept_at = checked_at();
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(3 * TICK).await;
            assert_eq!(checked_at(), slept_at);
            // Bytes of the next request wake it.
            open.enter(Stage::Head);
            connections.activity().touch();
            while checked_at() == slept_at {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::select! {
            () = supervised => {}
            () = watched => {}
        }
    }

    #[test]
    fn connections_leave_when_they_end_also_while_all_are_visited() {
        let connections = Connections::new(Clock::test());
        let kept = Connection::test();
        connections.add(&kept);
        let come_and_go = |_| {
            let connections = connections.clone();
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    let connection = Connection::test();
                    connections.add(&connection);
                }
            })
        };
        let threads: Vec<_> = (0..2).map(come_and_go).collect();
        let mut visited = 0;
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            connections.each(|_| visited += 1);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(visited > 0);
        assert_eq!(connections.open(), 1);
        drop(kept);
        assert_eq!(connections.open(), 0);
        assert_eq!(connections.check(), None);
    }

    /// Invariant: no request that has arrived at an idle connection is lost because it ends.
    #[test]
    fn an_idle_connection_ends_once_what_has_arrived_is_read() {
        let connections = Connections::new(Clock::test());
        let open = Connection::test();
        connections.add(&open);
        let (mut client, mut socket) = UnixStream::pair().unwrap();
        open.socket(socket.as_raw_fd());
        let end = || connections.end(open.listener.id, ConnectionSelection::Idle);
        client.write_all(b"GET").unwrap();
        end();
        socket.write_all(b"it is open").unwrap();
        socket.read_exact(&mut [0; 3]).unwrap();
        end();
        assert!(socket.write_all(b"it is not").is_err());
        open.socket_gone();
    }

    #[tokio::test]
    async fn an_idle_connection_is_checked_again_when_it_expires() {
        let clock = Clock::test();
        let connections = Connections::new(clock.clone());
        let open = Connection::test();
        open.enter(Stage::Idle);
        connections.add(&open);
        let idle = open.listener.config().limits.idle_timeout.0;
        let second = Duration::from_secs(1);
        assert_eq!(connections.check(), Some(idle));
        clock.advance(second);
        assert_eq!(connections.check(), idle.checked_sub(second));
        assert_eq!(open.close_reason(), None);
        clock.advance(idle.saturating_sub(second));
        assert_eq!(connections.check(), Some(Duration::ZERO));
        assert_eq!(open.close_reason(), Some(CloseReason::IdleTimeout));
    }
}
