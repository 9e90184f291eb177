//! Purges on their way to the other gateways.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::log::warn;
use edgeway_net::redis::Unavailable;
use tokio::time::timeout;

use super::{
    super::{
        Purge, PurgeTarget,
        log::{PublishResponse, PurgeLogStore, draw},
    },
    LOG_INTERVAL, PurgeLink, State, UnsentPurges,
    tickets::Ticket,
    writes::PushOutcome,
};

/// Minimum time between two entries for writes, and their approximate bytes: even under a flood of
/// writes, the log covers an absence of some minutes and takes 80 MB at most. Some thousand writes
/// per second are sent at once, however long their URLs.
const PACE: Duration = Duration::from_millis(20);
const BATCH: usize = 8192;
/// Number of operator purges that may wait for Redis. With one more, the other gateways drop
/// everything.
const MAX_UNSENT: usize = 256;
/// Longest time that the response to a write waits for Redis.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

impl PurgeLink {
    /// Queues `purges`, which are applied here, for the other gateways. Returns `None` if no caller
    /// has to wait for them.
    pub(super) fn enqueue(&self, purges: &[Purge], objects: u64) -> Option<Arc<Ticket>> {
        let mut state = self.state.lock();
        state.settings.as_ref()?;
        if purges.iter().all(is_written) {
            self.keep_writes(&mut state, purges);
            drop(state);
            self.wake.notify_one();
            // No caller waits until a write is applied elsewhere.
            return None;
        }
        let mut unsent = UnsentPurges {
            drawn: draw(),
            purges: purges.into(),
        };
        if state.unsent.len() >= MAX_UNSENT {
            // Too many to send one by one. The purge of all is not applied here, since each of them
            // was.
            warn!(purges = MAX_UNSENT; "too many purges wait for redis, everything will be purged");
            unsent.purges = [Purge::ALL].into();
            state.tickets.replace(&unsent.drawn, &unsent.purges);
            state.unsent.clear();
        }
        state.remember(&unsent.drawn, objects);
        let now = self.clock.now();
        let ticket = state.tickets.open(&unsent.drawn, &unsent.purges, now);
        state.unsent.push_back(unsent);
        self.count_unsent(&state);
        drop(state);
        self.wake.notify_one();
        Some(ticket)
    }

    /// Queues purges caused by writes for the other gateways.
    fn keep_writes(&self, state: &mut State, purges: &[Purge]) {
        let mut worst = PushOutcome::Added;
        for purge in purges {
            if let PurgeTarget::Written(url) = &purge.target {
                match state.writes.push(url) {
                    PushOutcome::Added => {}
                    outcome => worst = outcome,
                }
            }
        }
        self.count_unsent(state);
        let now = self.clock.now();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < LOG_INTERVAL;
        if worst == PushOutcome::Added || state.loss_logged.is_some_and(is_recent) {
            return;
        }
        state.loss_logged = Some(now);
        let waiting = state.writes.len();
        if worst == PushOutcome::Folded {
            warn!(waiting; "too many writes of one host wait for redis, the other gateways will purge that whole host");
        } else {
            warn!(waiting; "writes of too many hosts wait for redis, some do not reach the other gateways");
        }
    }

    /// Moves the next batch of writes to `unsent`, once the batch is due.
    fn next_writes(&self, state: &mut State) {
        let now = self.clock.now();
        let is_early = |wrote: Instant| now.saturating_duration_since(wrote) < PACE;
        if state.writes.len() == 0 || state.wrote.is_some_and(is_early) {
            return;
        }
        state.wrote = Some(now);
        let purges: Arc<[Purge]> = state.writes.take(BATCH).into();
        let drawn = draw();
        state.remember(&drawn, 0);
        // In case the log loses it.
        let _ticket = state.tickets.open(&drawn, &purges, now);
        state.unsent.push_back(UnsentPurges { drawn, purges });
    }

    /// Publishes waiting purges in order.
    pub(super) async fn send(&self, log: &impl PurgeLogStore) -> Result<(), Unavailable> {
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.unsent.is_empty() {
                    self.next_writes(&mut state);
                }
                state.unsent.front().cloned()
            };
            let Some(UnsentPurges { drawn, purges }) = next else {
                return Ok(());
            };
            let published = log.publish(&drawn, &purges).await?;
            self.published(&published);
        }
    }

    /// Waits until Redis has taken the writes in `purges`, or rejects them, for a second at most:
    /// killed before, this process would be the only one that knew of a write its client saw
    /// succeed.
    pub(super) async fn until_sent(&self, purges: &[Purge]) {
        let sent = async {
            loop {
                let sent = self.sent.notified();
                if !self.is_sending(purges) {
                    return;
                }
                sent.await;
            }
        };
        let _in_time = timeout(SEND_TIMEOUT, sent).await;
    }

    fn is_sending(&self, purges: &[Purge]) -> bool {
        let state = self.state.lock();
        let mut urls = purges.iter().filter_map(|purge| match &purge.target {
            PurgeTarget::Written(url) => Some(url),
            _ => None,
        });
        // At most one batch of writes is in `unsent`.
        state.settings.is_some()
            && state.last_error.is_none()
            && !self.has_left.load(Ordering::Acquire)
            && (!state.unsent.is_empty() || urls.any(|url| state.writes.contains(url)))
    }

    fn published(&self, published: &PublishResponse) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let drawn = &published.position.drawn;
        state.unsent.retain(|unsent| unsent.drawn != *drawn);
        self.count_unsent(&state);
        state.compare(&published.generation.name, now);
        let State { tickets, peers, .. } = &mut *state;
        tickets.published(&self.name, published, peers, now);
        drop(state);
        self.sent.notify_waiters();
    }

    pub(super) fn count_unsent(&self, state: &State) {
        let unsent = state.unsent.len() + state.writes.len();
        let unsent = i64::try_from(unsent).unwrap_or(i64::MAX);
        self.metrics.unsent.set(unsent);
    }
}

pub(super) fn is_written(purge: &Purge) -> bool {
    matches!(purge.target, PurgeTarget::Written(_))
}
