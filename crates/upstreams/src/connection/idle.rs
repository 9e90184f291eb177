//! Idle connections to one address, for the next request.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use edgeway_net::tasks::Tasks;
use smart_default::SmartDefault;
use tokio::runtime::Handle;

use super::BackendConnection;
use crate::{
    base::{clock::Clock, lanes::Lanes},
    client_tls::TlsIdentity,
};

/// Limit on idle connections in one lane of a backend. A surplus one is closed.
const MAX_IDLE: usize = 512;
/// Interval of checks for idle connections that have expired or that the backend has closed.
pub(super) const SWEEP: Duration = Duration::from_secs(1);
/// Shortest interval between two checks.
const MIN_SWEEP: Duration = Duration::from_millis(50);
/// Longest time between two sweeps, while no connection is used.
const MAX_SWEEP: Duration = Duration::from_secs(16);

/// Idle connections to one address.
///
/// While there are any, a task closes those that have expired or that the backend has closed.
#[derive(SmartDefault)]
pub(crate) struct IdleConnections {
    #[default(Lanes::new(Vec::new))]
    pub(super) lanes: Lanes<Vec<IdleConnection>>,
    sweeper: Tasks,
    /// Runtime that has made the backend, and that sweeps: with a timer of its own, a worker would
    /// look at the clock once more each time that it waits.
    #[default(Handle::try_current().ok())]
    home: Option<Handle>,
    has_sweeper: AtomicBool,
    /// Time at which all were closed, in nanoseconds of the upstream's epoch.
    closed_at: AtomicU64,
}

#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) connection: BackendConnection,
    until: Instant,
}

edgeway_base::opaque_debug!(IdleConnections);

impl IdleConnections {
    /// Returns a connection that has not expired and that the backend has not closed, the one used
    /// last if possible. It was made under these TLS settings, or without TLS if there are none.
    pub(super) fn take(
        &self,
        identity: Option<&TlsIdentity>,
        now: Instant,
    ) -> Option<BackendConnection> {
        if let Some(connection) = usable(&mut self.lanes.enter(), identity, now) {
            return Some(connection);
        }
        self.lanes
            .iter()
            .find_map(|lane| usable(&mut *lane.try_lock()?, identity, now))
    }

    /// Closes all, and those in use when they are put back.
    pub(crate) fn close(&self, now: u64) {
        self.closed_at.store(now, Ordering::Relaxed);
        for lane in self.lanes.iter() {
            lane.lock().clear();
        }
    }

    /// Returns true if all were closed during a request that began at `since`.
    pub(crate) fn is_closed_since(&self, since: u64) -> bool {
        self.closed_at.load(Ordering::Relaxed) > since
    }

    /// Puts back a connection whose last request began at `since`.
    pub(super) fn put(
        self: &Arc<Self>,
        (mut connection, since): (BackendConnection, u64),
        until: Instant,
        clock: &Clock,
    ) {
        connection.idle();
        let mut lane = self.lanes.enter();
        if lane.len() < MAX_IDLE && !self.is_closed_since(since) {
            lane.push(IdleConnection { connection, until });
        }
        drop(lane);
        if !self.has_sweeper.load(Ordering::Relaxed)
            && !self.has_sweeper.swap(true, Ordering::AcqRel)
        {
            let _entered = self.home.as_ref().map(Handle::enter);
            let work = sweep(Arc::downgrade(self), clock.clone());
            self.sweeper.spawn("idle connections to a backend", work);
        }
    }

    /// Closes connections that are of no use. Returns when the first and the last of the others
    /// expire, if there are any.
    fn close_unusable(&self, now: Instant) -> Option<(Instant, Instant)> {
        let mut expiries: Option<(Instant, Instant)> = None;
        for lane in self.lanes.iter() {
            let mut lane = lane.lock();
            lane.retain_mut(|idle| idle.until > now && idle.connection.is_quiet());
            for until in lane.iter().map(|idle| idle.until) {
                let (first, last) = expiries.unwrap_or((until, until));
                expiries = Some((first.min(until), last.max(until)));
            }
        }
        expiries
    }
}

/// Takes the connection used last. Those that are of no use are closed, also those that another
/// configuration made under other TLS settings: no request asks for them again.
fn usable(
    lane: &mut Vec<IdleConnection>,
    identity: Option<&TlsIdentity>,
    now: Instant,
) -> Option<BackendConnection> {
    while let Some(mut idle) = lane.pop() {
        let is_exchangeable = idle.connection.identity() == identity;
        if is_exchangeable && idle.until > now && idle.connection.is_quiet() {
            return Some(idle.connection);
        }
    }
    None
}

async fn sweep(connections: Weak<IdleConnections>, clock: Clock) {
    let (mut pause, mut interval, mut before) = (SWEEP, SWEEP, None);
    loop {
        tokio::time::sleep(pause).await;
        let Some(connections) = connections.upgrade() else {
            return;
        };
        let now = clock.now();
        let Some((first, last)) = connections.close_unusable(now) else {
            connections.has_sweeper.store(false, Ordering::Release);
            // A connection may have come in between, and found a sweeper.
            let is_still_empty = connections.close_unusable(now).is_none();
            if is_still_empty || connections.has_sweeper.swap(true, Ordering::AcqRel) {
                return;
            }
            continue;
        };
        // An app that gets no requests must not wake the gateway every second.
        interval = if before == Some(last) {
            MAX_SWEEP.min(interval * 2)
        } else {
            SWEEP
        };
        before = Some(last);
        // An expired one is closed at once: a moment later the app would do it.
        pause = (first - now).clamp(MIN_SWEEP, interval);
    }
}
