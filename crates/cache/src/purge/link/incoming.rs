//! Purges from the log, on their way to storage.

use std::{collections::VecDeque, ops::Range};

use ::log::warn;

use super::{
    super::{
        Trust,
        log::{Entry, EntryContent, Position},
        metrics::PurgeSource,
    },
    LOG_INTERVAL, PurgeLink, WaitScope,
};

/// Number of purges that are applied at once, after which no other entry joins them.
const MAX_APPLIED: usize = 256;

/// An entry of the log that is being applied.
enum TakenEntry {
    /// Its number of dropped responses.
    Known(u64),
    /// Its place among the purges that are applied together.
    Purges(Range<usize>),
}

impl PurgeLink {
    /// Applies the first entries of the log at once: storage is written once for all of them. Those
    /// that began here are applied already.
    pub(super) async fn take_some(&self, entries: &mut VecDeque<Entry>) {
        let mut purges = Vec::new();
        // Each entry, and its part of `purges` or its number of responses.
        let mut taken = Vec::new();
        while let Some(Entry { position, content }) = entries.pop_front() {
            let outcome = match (self.own_objects(&position), content) {
                (Some(objects), _) => TakenEntry::Known(objects),
                (None, EntryContent::Restarted) if self.is_complete() => TakenEntry::Known(0),
                (None, EntryContent::Purges(more)) => {
                    let begin = purges.len();
                    purges.extend(more);
                    TakenEntry::Purges(begin..purges.len())
                }
                (None, content) => {
                    if taken.is_empty() {
                        let objects = self.drop_all(&position, &content).await;
                        taken.push((position, TakenEntry::Known(objects)));
                    } else {
                        entries.push_front(Entry { position, content });
                    }
                    break;
                }
            };
            taken.push((position, outcome));
            if purges.len() >= MAX_APPLIED {
                break;
            }
        }
        let mut dropped = Vec::new();
        if !purges.is_empty() {
            dropped = self.apply(&purges, PurgeSource::Gateway).await;
            let awaited = match WaitScope::new(&purges) {
                WaitScope::Writes => WaitScope::Own,
                other => other,
            };
            self.caches.settle(awaited).await;
        }
        let is_replay = self.trust() != Trust::All;
        let mut state = self.state.lock();
        for (position, outcome) in taken {
            let objects = match outcome {
                TakenEntry::Known(objects) => objects,
                TakenEntry::Purges(range) => dropped.get(range).unwrap_or_default().iter().sum(),
            };
            state.replayed += u64::from(is_replay);
            let objects = state.count_entry(&position.drawn, objects);
            state.follower.applied(position, objects);
        }
    }

    fn is_complete(&self) -> bool {
        self.state.lock().follower.is_complete(self.clock.now())
    }

    /// Returns the number of responses that a purge dropped which began here.
    fn own_objects(&self, position: &Position) -> Option<u64> {
        let state = self.state.lock();
        let mut runs = state.own.iter();
        runs.find(|(drawn, _)| *drawn == position.drawn)
            .map(|(_, objects)| *objects)
    }

    /// Drops everything because of an entry that says nothing else. Returns the number of
    /// responses.
    async fn drop_all(&self, position: &Position, content: &EntryContent) -> u64 {
        match content {
            // It may have been a purge of the fleet, whose receipt must be true. An attacker who
            // can write it can also delete the log, which has the same effect.
            EntryContent::Unsigned => self.refused(position),
            EntryContent::Restarted => {
                self.count_gap();
                warn!(
                    "redis restarted or failed over while this gateway had no lease, whole cache dropped"
                );
            }
            EntryContent::Unknown | EntryContent::Purges(_) => {
                warn!(id:% = position.id; "purge not readable, whole cache dropped");
            }
        }
        self.caches.forget().await
    }

    /// Counts a purge without a valid signature, and logs one now and then.
    fn refused(&self, position: &Position) {
        self.metrics.unsigned.inc();
        let now = self.clock.now();
        let mut state = self.state.lock();
        let logged = state.unsigned_logged;
        if logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL) {
            state.unsigned_logged = Some(now);
            drop(state);
            warn!(id:% = position.id; "purge in redis not signed with the secret of `redis`, whole cache dropped");
        }
    }
}
