//! Purges on their way to the others.

use std::{sync::Arc, time::Duration, time::Instant};

use ::log::warn;

use super::{
    super::{
        Purge, What,
        log::{Published, Remote, draw},
    },
    Link, State, TELL, Unsent,
    tickets::Ticket,
    writes::Pushed,
};
use crate::base::redis::Unavailable;

/// Between two entries of what writes have changed, and about their bytes: a flood of writes
/// leaves the log long enough for whoever is away for some minutes, and 80 MB at most. Some
/// thousand writes in a second are told at once, however long their URLs.
const PACE: Duration = Duration::from_millis(20);
const BATCH: usize = 8192;
/// Purges of operators that wait for Redis. With one more than that, the others are told to drop
/// all.
const UNSENT: usize = 256;

impl Link {
    /// Has `purges`, which are applied here, sent to the others. `None` if there are none.
    pub(super) fn enqueue(&self, purges: &[Purge], objects: u64) -> Option<Arc<Ticket>> {
        let mut state = self.state.lock();
        state.settings.as_ref()?;
        if purges.iter().all(is_written) {
            self.keep_writes(&mut state, purges);
            drop(state);
            self.wake.notify_one();
            // Nobody waits for what the others make of a write.
            return None;
        }
        let mut unsent = Unsent {
            drawn: draw(),
            purges: purges.into(),
        };
        if state.unsent.len() >= UNSENT {
            // Too much to tell one by one. What is dropped here for it was dropped before.
            warn!(purges = UNSENT; "more purges wait for redis than are kept: all will be purged");
            unsent.purges = [Purge::ALL].into();
            let all = unsent.clone();
            state.tickets.replace(&all.drawn, &all.purges);
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

    /// What writes have changed, for the others to hear of.
    fn keep_writes(&self, state: &mut State, purges: &[Purge]) {
        let mut worst = Pushed::Kept;
        for purge in purges {
            if let What::Written(url) = &purge.what {
                match state.writes.push(url) {
                    Pushed::Kept => {}
                    kept => worst = kept,
                }
            }
        }
        self.count_unsent(state);
        let now = self.clock.now();
        let is_told = |told: Instant| now.saturating_duration_since(told) < TELL;
        if worst == Pushed::Kept || state.told_lost.is_some_and(is_told) {
            return;
        }
        state.told_lost = Some(now);
        let waiting = state.writes.len();
        if worst == Pushed::Folded {
            warn!(waiting; "too many writes of one host wait for redis: all of that host will be purged at the other gateways");
        } else {
            warn!(waiting; "writes of too many hosts wait for redis: the other gateways do not hear of some");
        }
    }

    /// The next of them, if it is time.
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
        // For the case that the log loses it.
        let _ticket = state.tickets.open(&drawn, &purges, now);
        state.unsent.push_back(Unsent { drawn, purges });
    }

    /// Publishes what waits, in its order.
    pub(super) async fn send(&self, log: &impl Remote) -> Result<(), Unavailable> {
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.unsent.is_empty() {
                    self.next_writes(&mut state);
                }
                state.unsent.front().cloned()
            };
            let Some(Unsent { drawn, purges }) = next else {
                return Ok(());
            };
            let published = log.publish(&drawn, &purges).await?;
            self.published(&published);
        }
    }

    fn published(&self, published: &Published) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let drawn = &published.position.drawn;
        state.unsent.retain(|unsent| unsent.drawn != *drawn);
        self.count_unsent(&state);
        state.compare(&published.generation.name, now);
        let State { tickets, peers, .. } = &mut *state;
        tickets.published(&self.name, published, peers, now);
    }

    pub(super) fn count_unsent(&self, state: &State) {
        let unsent = state.unsent.len() + state.writes.len();
        let unsent = i64::try_from(unsent).unwrap_or(i64::MAX);
        self.metrics.unsent.set(unsent);
    }
}

pub(super) fn is_written(purge: &Purge) -> bool {
    matches!(purge.what, What::Written(_))
}
