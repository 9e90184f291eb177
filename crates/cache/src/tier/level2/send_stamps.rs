//! Sends the stamps of purges to level 2, round by round.

use std::sync::atomic::Ordering;

use edgeway_net::redis::Unavailable;
use futures_util::future::join_all;

use super::{
    super::{
        partition::{PurgePartition, StampRound},
        stamps::{Stamp, WriteChange as Write},
    },
    Level2,
};
use crate::{
    base::http::decimal,
    purge::{WaitScope, ledger::Noted},
};

/// Number of stamps of URLs and tags in a part. Beyond that, the oldest are dropped, and entries
/// stored before them count as purged.
const STAMPS: usize = 100_000;
/// Number of prefix stamps in a part; each is compared with each entry read.
const PREFIXES: usize = 256;
/// Slots of one region in the table of writes, all parts together.
const SLOTS: u32 = 4096;

impl Level2 {
    /// Stamps all purges that wait now. Later ones are not waited for, and neither are writes
    /// unless `awaited` includes them. The future may be dropped at any time.
    pub(in crate::tier) async fn stamp(&self, awaited: WaitScope) -> Result<(), Unavailable> {
        if awaited == WaitScope::Own || !self.is_behind() {
            return Ok(());
        }
        let until: Vec<_> = self.parts.iter().map(|part| part.until(awaited)).collect();
        let is_done = || {
            let mut parts = self.parts.iter().zip(&until);
            parts.all(|(part, until)| part.is_done(until))
        };
        while !is_done() {
            let alone = self.stamping.lock().await;
            // The caller before may have stamped them too.
            if !is_done() {
                self.round().await?;
            }
            drop(alone);
        }
        Ok(())
    }

    /// Stamps some of the waiting purges.
    pub(super) async fn stamp_some(&self) -> Result<(), Unavailable> {
        if !self.is_behind() {
            return Ok(());
        }
        let _alone = self.stamping.lock().await;
        self.round().await
    }

    /// Runs one round. Called with `stamping` locked.
    async fn round(&self) -> Result<(), Unavailable> {
        // Purges that are queued from here on need a later position.
        let rounds: Vec<_> = self.parts.iter().map(PurgePartition::round).collect();
        if rounds.iter().all(StampRound::is_empty) {
            return Ok(());
        }
        let position = self.tick().await?;
        let parts = self.parts.iter().zip(&rounds);
        let parts = parts.filter(|(_, round)| !round.is_empty());
        let sent = parts.map(|(part, round)| async move {
            if !round.stamps.is_empty() {
                self.send(part, position, &round.stamps).await?;
                part.stamped(round);
            }
            if !round.written.is_empty() {
                self.send_written(part, position, &round.written).await?;
                part.stamped_written(round);
            }
            Ok(())
        });
        for outcome in join_all(sent).await {
            outcome?;
        }
        Ok(())
    }

    async fn tick(&self) -> Result<u64, Unavailable> {
        // Stored with the stamps of the first part: a single Redis loses them together.
        let key = format!("{}position", self.parts[0].prefix).into_bytes();
        let known = [self.position(self.store.mark()).unwrap_or(0)];
        self.redis.eval(&self.scripts.tick, &[&key], &known).await
    }

    async fn send(
        &self,
        part: &PurgePartition,
        position: u64,
        stamps: &[Stamp],
    ) -> Result<(), Unavailable> {
        let mut args = vec![
            position.to_string().into_bytes(),
            STAMPS.to_string().into_bytes(),
            PREFIXES.to_string().into_bytes(),
        ];
        for stamp in stamps {
            let (kind, value): (&[u8], _) = match (stamp, stamp.id()) {
                // Writes are sent separately.
                (Stamp::Written(_), _) => continue,
                (_, None) => (b"all", Vec::new()),
                (Stamp::Prefix(prefix), _) => (b"prefix", prefix.to_vec()),
                (_, Some(digest)) => (b"digest", digest.to_vec()),
            };
            args.extend([kind.to_vec(), value]);
        }
        let keys: [&[u8]; 1] = [&part.stamps];
        let last: Vec<u8> = self.redis.eval(&self.scripts.stamp, &keys, &args).await?;
        if let Some(last) = decimal(&last) {
            self.observe(last);
            part.is_lost.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes the entries that writes have changed, and keeps out those about to be written.
    /// However many writes there are, no other entry is removed.
    async fn send_written(
        &self,
        part: &PurgePartition,
        position: u64,
        written: &[Write],
    ) -> Result<(), Unavailable> {
        let doomed: Vec<_> = written.iter().map(|written| part.doomed(written)).collect();
        let mut keys: Vec<&[u8]> = vec![&part.stamps, &part.writes];
        keys.extend(doomed.iter().map(Vec::as_slice));
        let mut args = vec![position.to_string()];
        let slots = self.slots();
        args.extend(
            written
                .iter()
                .map(|written| written.slot(slots).to_string()),
        );
        let script = &self.scripts.written;
        let last: Vec<u8> = self.redis.eval(script, &keys, &args).await?;
        match decimal(&last) {
            Some(last) => self.observe(last),
            None => self.lose(part),
        }
        Ok(())
    }

    /// Returns the number of slots of each region in the table of writes.
    pub(super) fn slots(&self) -> u32 {
        let parts = u32::try_from(self.parts.len()).unwrap_or(1);
        SLOTS / parts
    }

    /// Makes sure that each part has stamps, and reads their last position.
    pub(super) async fn prepare(&self) -> Result<(), Unavailable> {
        let is_lost = |part: &&PurgePartition| part.is_lost.load(Ordering::Relaxed);
        let lost: Vec<_> = self.parts.iter().filter(is_lost).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let position = self.tick().await?;
        let sent = lost.into_iter().map(|part| self.send(part, position, &[]));
        for outcome in join_all(sent).await {
            outcome?;
        }
        Ok(())
    }
}
