//! Current knowledge of the disk: its ledger of purges, lists of `Vary` fields, and the records of
//! both that the journal has to take.

use super::{
    super::stamps::{Stamp, WriteChange},
    journal::Record,
};
use crate::{
    policy::Vary,
    purge::{
        Position,
        ledger::{Kind, Noted, PurgeLedger},
    },
};

/// Number of lists of `Vary` fields, and the bytes of one list.
pub(super) const VARIES: usize = 16;
const VARY_TEXT: usize = 4 << 10;
/// Records that wait for the journal. With more, the journal is rewritten.
const MAX_PENDING: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct DiskLedger {
    pub(super) id: u128,
    pub(super) purges: PurgeLedger,
    pub(super) varies: Vec<Vary>,
    pub(super) followed: Option<Position>,
    /// Records that are not in the journal yet.
    pending: Vec<Record>,
    /// Set when too many records wait: the journal has to be rewritten.
    is_overrun: bool,
    /// Number of records so far.
    pub(super) noted: u64,
}

/// Records that the journal has to take.
pub(super) enum Pending {
    Append(Vec<Record>),
    Rewrite(Vec<Record>),
}

impl DiskLedger {
    /// Creates the ledger of a new journal.
    pub(super) fn new(id: u128) -> Self {
        Self {
            id,
            purges: PurgeLedger::starting_at(1, 0),
            ..Self::default()
        }
    }

    /// Restores the ledger from a journal; `None` if its records are inconsistent.
    pub(super) fn read(records: Vec<Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let Some(Record::Begin {
            id,
            position,
            floor,
        }) = records.next()
        else {
            return None;
        };
        let mut ledger = Self {
            id,
            purges: PurgeLedger::starting_at(position, floor),
            ..Self::default()
        };
        let purges = &mut ledger.purges;
        for record in records {
            match record {
                Record::Begin { .. } => return None,
                Record::Digest(position, digest) => {
                    purges.note_at(position, Stamp::Everywhere(digest));
                }
                // Its digest is looked up as if it were of a place, which works as well.
                Record::Written(position, region, place) => {
                    let written = WriteChange {
                        place,
                        region,
                        url: None,
                    };
                    purges.note_at(position, Stamp::Written(written));
                }
                Record::Prefix(position, prefix) => {
                    purges.note_at(position, Stamp::Prefix(prefix));
                }
                Record::All(position) => purges.note_at(position, Stamp::All),
                Record::Vary(names) => {
                    let vary = Vary::from_names(names.iter().map(String::as_str))?;
                    learn(&mut ledger.varies, vary);
                }
                Record::Followed(position) => ledger.followed = Some(position),
            }
        }
        Some(ledger)
    }

    /// Records a purge. Returns its position.
    pub(super) fn note(&mut self, stamp: &Stamp) -> u64 {
        let position = self.purges.note(stamp.clone());
        self.remember(record(position, stamp));
        position
    }

    fn remember(&mut self, record: Record) {
        self.noted += 1;
        if self.pending.len() < MAX_PENDING {
            self.pending.push(record);
        } else {
            self.pending.clear();
            self.is_overrun = true;
        }
    }

    /// Returns the writes recorded by an earlier process.
    pub(super) fn written(&self) -> impl Iterator<Item = WriteChange> {
        let writes = self.purges.purges(Kind::Write);
        writes.filter_map(|(_, stamp)| stamp.written())
    }

    /// Learns a list of fields. Returns `false` if it is known, or too long to be remembered.
    pub(super) fn learn(&mut self, vary: &Vary) -> bool {
        let Some(names) = vary.names().filter(|names| !names.is_empty()) else {
            return false;
        };
        let text: usize = names.iter().map(String::len).sum();
        if self.varies.contains(vary) || text > VARY_TEXT {
            return false;
        }
        learn(&mut self.varies, vary.clone());
        self.remember(Record::Vary(names));
        true
    }

    /// Records that all purges up to this position in the log of purges are known.
    pub(super) fn follow(&mut self, position: Position) {
        if self.followed.as_ref() != Some(&position) {
            self.followed = Some(position.clone());
            self.remember(Record::Followed(position));
        }
    }

    pub(super) fn take_pending(&mut self) -> Pending {
        let pending = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.is_overrun) {
            Pending::Rewrite(self.records())
        } else {
            Pending::Append(pending)
        }
    }

    /// Takes back records that the journal could not take.
    pub(super) fn give_back(&mut self, pending: Pending) {
        match pending {
            Pending::Append(mut records) => {
                if records.len() + self.pending.len() > MAX_PENDING {
                    self.pending.clear();
                    self.is_overrun = true;
                } else {
                    records.append(&mut self.pending);
                    self.pending = records;
                }
            }
            Pending::Rewrite(_) => {
                self.pending.clear();
                self.is_overrun = true;
            }
        }
    }

    /// Returns the whole ledger as the records of a new journal.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Begin {
            id: self.id,
            position: self.purges.position(),
            floor: self.purges.floor,
        }];
        let varies = self.varies.iter().filter_map(Vary::names);
        records.extend(varies.map(Record::Vary));
        for kind in [Kind::Purge, Kind::Prefix, Kind::Write] {
            let purges = self.purges.purges(kind);
            records.extend(purges.map(|(position, stamp)| record(position, stamp)));
        }
        records.extend(self.followed.clone().map(Record::Followed));
        records
    }
}

fn learn(varies: &mut Vec<Vary>, vary: Vary) {
    varies.retain(|it| *it != vary);
    varies.push(vary);
    if varies.len() > VARIES {
        varies.remove(0);
    }
}

fn record(position: u64, stamp: &Stamp) -> Record {
    match (stamp, stamp.id()) {
        (_, None) => Record::All(position),
        (Stamp::Prefix(prefix), _) => Record::Prefix(position, prefix.clone()),
        (Stamp::Written(written), Some(digest)) => {
            Record::Written(position, written.region, digest)
        }
        (_, Some(digest)) => Record::Digest(position, digest),
    }
}
