//! Current knowledge of purges: their positions, and the check of entries against them.
//!
//! Each purge has the next position. An entry keeps the position that was known at its request; it
//! is not used if a later purge affects it. The number of remembered purges is bounded: entries
//! older than the last forgotten purge count as purged.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use http::HeaderName;

use super::{
    super::{
        codec,
        stamps::{self, Digest, EntrySubject, Stamp, WriteChange},
    },
    journal::Record,
};
use crate::{
    key::Key,
    policy::Vary,
    purge::{Position, ledger::Noted},
};

/// Number of stamps of URLs and tags.
const DIGESTS: usize = 50_000;
/// Number of prefixes, each of which is compared with each entry read, and their bytes.
const PREFIXES: usize = 256;
const PREFIX_TEXT: usize = 256 << 10;
/// Number of lists of `Vary` fields, and the bytes of one list.
pub(super) const VARIES: usize = 16;
const VARY_TEXT: usize = 4 << 10;
/// Records that wait for the journal. With more, the journal is rewritten.
const MAX_PENDING: usize = 20_000;

#[derive(Debug)]
pub(super) struct DiskLedger {
    id: u128,
    position: u64,
    floor: u64,
    digests: HashMap<Digest, u64>,
    /// Oldest first; includes digests that have another position by now.
    order: VecDeque<(Digest, u64)>,
    /// Position up to which all entries changed by writes are removed, so that records of such
    /// writes matter only to entries that are about to be written.
    tidied: u64,
    /// Entries requested before this position are not written.
    unwritable: u64,
    /// Digests recorded for writes.
    written: HashSet<Digest>,
    prefixes: VecDeque<(u64, Box<[u8]>)>,
    prefix_text: usize,
    varies: Vec<Vary>,
    followed: Option<Position>,
    /// Records that are not in the journal yet.
    pending: Vec<Record>,
    /// Set when too many records wait: the journal has to be rewritten.
    is_overrun: bool,
    /// Number of records so far.
    noted: u64,
}

/// Records that the journal has to take.
pub(super) enum Pending {
    Append(Vec<Record>),
    WriteAnew(Vec<Record>),
}

impl DiskLedger {
    /// Creates the ledger of a new journal.
    pub(super) fn new(id: u128) -> Self {
        Self {
            id,
            position: 1,
            floor: 0,
            digests: HashMap::new(),
            order: VecDeque::new(),
            tidied: 0,
            unwritable: 0,
            written: HashSet::new(),
            prefixes: VecDeque::new(),
            prefix_text: 0,
            varies: Vec::new(),
            followed: None,
            pending: Vec::new(),
            is_overrun: false,
            noted: 0,
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
            position,
            floor,
            ..Self::new(id)
        };
        for record in records {
            match record {
                Record::Begin { .. } => return None,
                Record::Digest(position, digest) => {
                    ledger.stamp_digest(position, digest);
                    ledger.written.remove(&digest);
                }
                Record::Written(position, digest) => {
                    ledger.stamp_digest(position, digest);
                    ledger.written.insert(digest);
                }
                Record::Prefix(position, prefix) => ledger.stamp_prefix(position, prefix),
                Record::All(position) => ledger.stamp_all(position),
                Record::Vary(names) => {
                    let names: Result<Vec<HeaderName>, _> =
                        names.iter().map(|name| name.parse()).collect();
                    ledger.add_vary(Vary::Fields(names.ok()?.into()));
                }
                Record::Followed(position) => ledger.followed = Some(position),
            }
        }
        Some(ledger)
    }

    pub(super) fn id(&self) -> u128 {
        self.id
    }

    /// Returns the position of the last purge.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn noted(&self) -> u64 {
        self.noted
    }

    /// Records a purge. Returns its position.
    pub(super) fn note(&mut self, stamp: &Stamp) -> u64 {
        let position = self.position + 1;
        let record = match stamp {
            Stamp::Url { digest, .. } | Stamp::Everywhere(digest) => {
                self.stamp_digest(position, *digest);
                self.written.remove(digest);
                Record::Digest(position, *digest)
            }
            Stamp::Written(written) => {
                let digest = written.digest();
                self.stamp_digest(position, digest);
                self.written.insert(digest);
                Record::Written(position, digest)
            }
            // A prefix longer than any URL affects nothing, or is a mistake.
            Stamp::Prefix(prefix) if prefix.len() <= PREFIX_TEXT / 16 => {
                self.stamp_prefix(position, prefix.clone());
                Record::Prefix(position, prefix.clone())
            }
            Stamp::Region(_) => {
                let digest = stamp.id().expect("it has one");
                self.stamp_digest(position, digest);
                Record::Digest(position, digest)
            }
            Stamp::Prefix(_) | Stamp::All => {
                self.stamp_all(position);
                Record::All(position)
            }
        };
        self.remember(record);
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

    fn stamp_digest(&mut self, position: u64, digest: Digest) {
        self.position = self.position.max(position);
        self.digests.insert(digest, position);
        self.order.push_back((digest, position));
        while self.digests.len() > DIGESTS {
            self.forget_oldest();
        }
        if self.order.len() > 2 * DIGESTS {
            let digests = &self.digests;
            self.order
                .retain(|(digest, position)| digests.get(digest) == Some(position));
        }
    }

    fn forget_oldest(&mut self) {
        let Some((digest, position)) = self.order.pop_front() else {
            return;
        };
        if self.digests.get(&digest) == Some(&position) {
            self.digests.remove(&digest);
            if self.written.remove(&digest) && position <= self.tidied {
                self.unwritable = self.unwritable.max(position);
            } else {
                self.floor = self.floor.max(position);
            }
        }
    }

    /// Returns the writes recorded by an earlier process. Each is looked up by its digest as if
    /// that were of a place, which works as well.
    pub(super) fn written(&self) -> impl Iterator<Item = WriteChange> {
        let digests = self.written.iter();
        digests.map(|digest| WriteChange {
            place: *digest,
            region: 0,
            url: None,
        })
    }

    /// Records that all entries changed by writes up to this position are removed.
    pub(super) fn tidied(&mut self, position: u64) {
        self.tidied = self.tidied.max(position);
    }

    /// Returns true if an entry requested at `position` must not be written.
    pub(super) fn is_unwritable(&self, position: u64, key: &Key, tags: &[Box<str>]) -> bool {
        position < self.unwritable || self.is_purged(position, key, tags)
    }

    fn stamp_prefix(&mut self, position: u64, prefix: Box<[u8]>) {
        self.position = self.position.max(position);
        if let Some(at) = self.prefixes.iter().position(|(_, it)| *it == prefix)
            && let Some((_, old)) = self.prefixes.remove(at)
        {
            self.prefix_text -= old.len();
        }
        self.prefix_text += prefix.len();
        self.prefixes.push_back((position, prefix));
        while self.prefixes.len() > PREFIXES || self.prefix_text > PREFIX_TEXT {
            let Some((position, prefix)) = self.prefixes.pop_front() else {
                break;
            };
            self.prefix_text -= prefix.len();
            self.floor = self.floor.max(position);
        }
    }

    fn stamp_all(&mut self, position: u64) {
        self.position = self.position.max(position);
        self.floor = self.floor.max(position);
        self.digests = HashMap::new();
        self.order = VecDeque::new();
        self.written = HashSet::new();
        self.prefixes.clear();
        self.prefix_text = 0;
    }

    /// Returns true if an entry requested at `position` must not be used.
    pub(super) fn is_purged(&self, position: u64, key: &Key, tags: &[Box<str>]) -> bool {
        // A position that was never assigned belongs to a journal that was restored from a copy.
        if position < self.floor || position > self.position {
            return true;
        }
        if position == self.position {
            return false;
        }
        let subject = EntrySubject::new(key, tags);
        let mut digests = subject.digests.iter();
        if digests.any(|digest| self.digests.get(digest).is_some_and(|at| *at > position)) {
            return true;
        }
        let (url, target_at) = stamps::url(key);
        let mut prefixes = self.prefixes.iter();
        prefixes.any(|(at, prefix)| {
            *at > position && (url.starts_with(prefix) || url[target_at..].starts_with(prefix))
        })
    }

    /// Returns the lists of `Vary` fields, the last learned last.
    pub(super) fn varies(&self) -> &[Vary] {
        &self.varies
    }

    /// Learns a list of fields. Returns `false` if it is known, or too long to be remembered.
    pub(super) fn learn(&mut self, vary: &Vary) -> bool {
        let Some(names) = codec::fields(vary).filter(|names| !names.is_empty()) else {
            return false;
        };
        let text: usize = names.iter().map(|name| name.as_str().len()).sum();
        if self.varies.contains(vary) || text > VARY_TEXT {
            return false;
        }
        let names = names.iter().map(|name| name.as_str().to_owned()).collect();
        self.add_vary(vary.clone());
        self.remember(Record::Vary(names));
        true
    }

    fn add_vary(&mut self, vary: Vary) {
        self.varies.retain(|it| *it != vary);
        self.varies.push(vary);
        if self.varies.len() > VARIES {
            self.varies.remove(0);
        }
    }

    pub(super) fn followed(&self) -> Option<&Position> {
        self.followed.as_ref()
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
            Pending::WriteAnew(self.records())
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
            Pending::WriteAnew(_) => {
                self.pending.clear();
                self.is_overrun = true;
            }
        }
    }

    /// Returns the whole ledger as the records of a new journal.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Begin {
            id: self.id,
            position: self.position,
            floor: self.floor,
        }];
        let names = |names: &Arc<[HeaderName]>| {
            let names = names.iter().map(|name| name.as_str().to_owned());
            Record::Vary(names.collect())
        };
        records.extend(self.varies.iter().filter_map(|vary| match vary {
            Vary::Fields(fields) => Some(names(fields)),
            Vary::Nothing | Vary::Everything => None,
        }));
        let is_last = |(digest, at): &&(Digest, u64)| self.digests.get(digest) == Some(at);
        let digests = self.order.iter().filter(is_last);
        records.extend(digests.map(|(digest, at)| {
            if self.written.contains(digest) {
                Record::Written(*at, *digest)
            } else {
                Record::Digest(*at, *digest)
            }
        }));
        let prefixes = self.prefixes.iter();
        records.extend(prefixes.map(|(at, prefix)| Record::Prefix(*at, prefix.clone())));
        records.extend(self.followed.clone().map(Record::Followed));
        records
    }
}
