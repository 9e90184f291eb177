//! The stamps of purges on their way to level 2, round by round.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::{
    super::{
        lists::number,
        part::{Part, Round},
        stamps::{Stamp, Written as Write},
    },
    Level2,
};
use crate::{base::redis::Unavailable, cache::purge::Awaited};

/// Stamps of URLs and tags that a part keeps. Beyond, the oldest go, and what was stored
/// before them counts as purged.
const STAMPS: usize = 100_000;
/// The same of prefixes, each of which is compared with each entry that is read.
const PREFIXES: usize = 256;
/// Slots of one region in the table of what was written to, all parts together.
const SLOTS: u32 = 4096;

impl Level2 {
    /// Stamps what waits now: what comes later is not waited for, and neither is what writes have
    /// changed unless that is awaited. It may be given up at any time.
    pub(in crate::cache::tier) async fn stamp(&self, awaited: Awaited) -> Result<(), Unavailable> {
        if awaited == Awaited::Own || !self.is_behind() {
            return Ok(());
        }
        let until: Vec<_> = self.parts.iter().map(|part| part.until(awaited)).collect();
        let is_done = || {
            let mut parts = self.parts.iter().zip(&until);
            parts.all(|(part, until)| part.is_done(until))
        };
        while !is_done() {
            let alone = self.stamping.lock().await;
            // Whoever was before may have taken it along.
            if !is_done() {
                self.round().await?;
            }
            drop(alone);
        }
        Ok(())
    }

    /// Stamps some of what waits.
    pub(super) async fn stamp_some(&self) -> Result<(), Unavailable> {
        if !self.is_behind() {
            return Ok(());
        }
        let _alone = self.stamping.lock().await;
        self.round().await
    }

    /// One round, by whoever is alone.
    async fn round(&self) -> Result<(), Unavailable> {
        // What comes in from here on needs a later position.
        let rounds: Vec<_> = self.parts.iter().map(Part::round).collect();
        if rounds.iter().all(Round::is_empty) {
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
        // With the stamps of the first part: in one that is alone they are lost together.
        let key = format!("{}position", self.parts[0].prefix).into_bytes();
        let none: [Vec<u8>; 0] = [];
        self.redis.eval(&self.scripts.tick, &[&key], &none).await
    }

    async fn send(&self, part: &Part, position: u64, stamps: &[Stamp]) -> Result<(), Unavailable> {
        let mut args = vec![
            position.to_string().into_bytes(),
            STAMPS.to_string().into_bytes(),
            PREFIXES.to_string().into_bytes(),
        ];
        for stamp in stamps {
            let (kind, value): (&[u8], &[u8]) = match stamp {
                Stamp::Url { digest, .. } | Stamp::Everywhere(digest) => (b"digest", digest),
                Stamp::Prefix(prefix) => (b"prefix", prefix),
                // They go another way.
                Stamp::Written(_) => continue,
                Stamp::All => (b"all", b""),
            };
            args.extend([kind.to_vec(), value.to_vec()]);
        }
        let keys: [&[u8]; 1] = [&part.stamps];
        let last: Vec<u8> = self.redis.eval(&self.scripts.stamp, &keys, &args).await?;
        if let Some(last) = number(&last) {
            self.observe(last);
            part.is_lost.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes out what writes have changed, if it is there, and has what is on its way be kept
    /// out. However many there are, nothing else goes for it.
    async fn send_written(
        &self,
        part: &Part,
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
        match number(&last) {
            Some(last) => self.observe(last),
            None => part.is_lost.store(true, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Of each region of the table that says when something was written to.
    pub(super) fn slots(&self) -> u32 {
        let parts = u32::try_from(self.parts.len()).unwrap_or(1);
        SLOTS / parts
    }

    /// Sees to it that each part has stamps, and sees how far they are.
    pub(super) async fn prepare(&self) -> Result<(), Unavailable> {
        let is_lost = |part: &&Part| part.is_lost.load(Ordering::Relaxed);
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
