//! Purges that a folder learns of later. Purges that any client can cause have a separate bound,
//! and never turn into a purge of everything.

use std::collections::HashSet;

use super::super::stamps::{Stamp, WriteChange};

/// Bound for purges of operators and other gateways. With more, everything is purged.
const MAX: usize = 4096;
/// Bound for purges caused by writes. With more, the first ones count: random writes rarely hit a
/// stored entry.
pub(super) const MAX_WRITTEN: usize = 1 << 17;

#[derive(Debug, Default)]
pub(super) struct MissedPurges {
    stamps: Vec<Stamp>,
    written: HashSet<WriteChange>,
}

impl MissedPurges {
    pub(super) fn push(&mut self, stamp: Stamp) {
        match stamp {
            Stamp::Written(written) => {
                if !self.has_all() && self.written.len() < MAX_WRITTEN {
                    self.written.insert(written);
                }
            }
            Stamp::All => self.all(),
            stamp if self.has_all() || self.stamps.last() == Some(&stamp) => {}
            _ if self.stamps.len() >= MAX => self.all(),
            stamp => self.stamps.push(stamp),
        }
    }

    fn all(&mut self) {
        self.stamps = vec![Stamp::All];
        self.written = HashSet::new();
    }

    fn has_all(&self) -> bool {
        self.stamps.first() == Some(&Stamp::All)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.written.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<Stamp> {
        let mut all = std::mem::take(&mut self.stamps);
        let written = std::mem::take(&mut self.written);
        all.extend(written.into_iter().map(Stamp::Written));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: u64) -> Stamp {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&number.to_be_bytes());
        Stamp::Written(WriteChange {
            place,
            region: 0,
            url: None,
        })
    }

    #[test]
    fn what_anybody_writes_never_comes_to_everything() {
        let mut missed = MissedPurges::default();
        assert!(missed.is_empty());
        missed.push(Stamp::Everywhere([3; 16]));
        for number in 0..(MAX_WRITTEN as u64 + 1000) {
            missed.push(written(number));
            missed.push(written(number / 2));
        }
        let all = missed.take();
        assert_eq!(all.len(), 1 + MAX_WRITTEN);
        assert!(!all.contains(&Stamp::All) && missed.is_empty());
    }

    #[test]
    fn too_many_of_operators_are_everything() {
        let mut missed = MissedPurges::default();
        for number in 0..=MAX {
            let mut digest = [0; 16];
            digest[..8].copy_from_slice(&(number as u64).to_be_bytes());
            missed.push(written(number as u64));
            missed.push(Stamp::Everywhere(digest));
        }
        missed.push(written(1));
        assert_eq!(missed.take(), [Stamp::All]);
    }
}
