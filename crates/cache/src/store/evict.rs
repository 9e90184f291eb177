//! Eviction when memory is full: S3-FIFO (Yang et al., SOSP 2023), counted in bytes.
//!
//! New entries join a small queue. An entry that is requested again while it is there moves on to
//! the main queue; the others are evicted, so a scan passes through a tenth of the memory. A
//! fingerprint of each evicted entry is remembered for a while: an entry that comes back in that
//! time joins the main queue at once. A hit moves nothing, it only counts.
//!
//! Routes with a quota have queues of their own.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering},
};

use smart_default::SmartDefault;

use super::{
    body::Body,
    eviction_state::{EvictionState, PackedSize},
    warmth::HotEntry,
};

const NONE: u32 = u32::MAX;

/// Hits that an entry in the small queue needs to move to the main queue.
const TAKEN_OVER: u8 = 1;

/// Number of forms in a row that are spared because they are in use, before an entry is evicted.
const MAX_SPARED: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Queues {
    nodes: Vec<Node>,
    free: Vec<u32>,
    parts: Vec<QuotaQueues>,
    ghosts: Ghosts,
    /// Entries with forms, compressed or as a file, the oldest first. Those that are gone take no
    /// more than their place here.
    forms: VecDeque<Weak<Body>>,
}

#[derive(Debug)]
struct Node {
    body: Option<Arc<Body>>,
    /// Size as the list counts it.
    size: PackedSize,
    before: u32,
    after: u32,
    part: u16,
    is_main: bool,
}

/// The queues of one quota, or of all entries without a quota.
#[derive(Debug, Default)]
struct QuotaQueues {
    small: List,
    main: List,
}

/// A linked list from the newest entry to the oldest.
#[derive(Debug, SmartDefault)]
struct List {
    #[default(NONE)]
    newest: u32,
    #[default(NONE)]
    oldest: u32,
    bytes: u64,
}

impl QuotaQueues {
    fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    fn list(&mut self, is_main: bool) -> &mut List {
        if is_main {
            &mut self.main
        } else {
            &mut self.small
        }
    }
}

/// An item that eviction removes next.
#[derive(Debug)]
pub(super) enum Victim {
    /// Only the forms of the entry.
    Forms(Arc<Body>),
    Entry(Arc<Body>),
}

impl Queues {
    /// Returns the bytes of the queues in memory, without the entries.
    pub(super) fn size(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.free.capacity() * size_of::<u32>()
            + self.forms.capacity() * size_of::<Weak<Body>>()
            + self.ghosts.rows.capacity() * size_of::<[(u32, u32); 4]>()
    }

    /// Adds an entry to the queues of a quota, or to those of part 0.
    pub(super) fn add(&mut self, body: &Arc<Body>, part: usize) {
        let is_main = self.ghosts.remove(body.key.hash());
        body.eviction.frequency.store(0, Ordering::Relaxed);
        let node = Node {
            body: Some(Arc::clone(body)),
            size: body.eviction.size(),
            before: NONE,
            after: NONE,
            part: u16::try_from(part).unwrap_or(0),
            is_main,
        };
        let index = if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            index
        } else {
            grow(&mut self.nodes);
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer entries than that have room")
        };
        body.eviction.node.store(index, Ordering::Relaxed);
        self.ghosts.make_room(self.nodes.len());
        self.link(index);
    }

    /// Removes an entry. Returns true if it was in a queue.
    pub(super) fn remove(&mut self, body: &Body) -> bool {
        let index = body
            .eviction
            .node
            .swap(EvictionState::NOWHERE, Ordering::Relaxed);
        if index == EvictionState::NOWHERE {
            return false;
        }
        self.unlink(index);
        self.nodes[index as usize].body = None;
        self.free.push(index);
        let used = self.nodes.len() - self.free.len();
        if self.nodes.len() > 4 * used.max(1024) || used == 0 {
            self.rebuild();
        }
        true
    }

    /// Updates the recorded bytes of an entry.
    pub(super) fn resize(&mut self, body: &Body) {
        let index = body.eviction.node.load(Ordering::Relaxed);
        if index == EvictionState::NOWHERE {
            return;
        }
        let node = &mut self.nodes[index as usize];
        let size = body.eviction.size();
        let (part, is_main, before) = (node.part, node.is_main, node.size);
        node.size = size;
        let list = self.parts[usize::from(part)].list(is_main);
        list.bytes = list.bytes - before.bytes() + size.bytes();
    }

    pub(super) fn add_form(&mut self, body: &Arc<Body>) {
        // Forms of removed entries are skipped at their turn, or dropped here.
        if self.forms.len() > 64.max(self.nodes.len() - self.free.len()) {
            self.forms
                .retain(|body| body.upgrade().is_some_and(|body| is_queued(&body)));
        }
        self.forms.push_back(Arc::downgrade(body));
    }

    /// Returns the next victim among all entries. A returned entry is already out of the queues.
    pub(super) fn victim(&mut self) -> Option<Victim> {
        for _ in 0..MAX_SPARED {
            let Some(body) = self.forms.pop_front() else {
                break;
            };
            let Some(body) = body.upgrade().filter(|body| is_queued(body)) else {
                continue;
            };
            if !body.eviction.take_form_used() {
                return Some(Victim::Forms(body));
            }
            self.forms.push_back(Arc::downgrade(&body));
        }
        // As if it were one queue: each part loses in proportion to its share of the bytes.
        let total: u64 = self.parts.iter().map(QuotaQueues::bytes).sum();
        let mut offset = fastrand::u64(0..total.max(1));
        let mut part = 0;
        for (number, candidate) in self.parts.iter().enumerate() {
            part = number;
            if offset < candidate.bytes() {
                break;
            }
            offset -= candidate.bytes();
        }
        self.victim_of(part).map(Victim::Entry)
    }

    /// Returns the next entry to evict from one quota.
    pub(super) fn victim_of(&mut self, part: usize) -> Option<Arc<Body>> {
        loop {
            let queues = self.parts.get(part)?;
            let is_small_full = queues.small.bytes * 10 > queues.bytes();
            let is_main =
                queues.small.oldest == NONE || (!is_small_full && queues.main.oldest != NONE);
            let index = if is_main {
                queues.main.oldest
            } else {
                queues.small.oldest
            };
            if index == NONE {
                return None;
            }
            let body = self.nodes[index as usize].body.clone();
            let body = body.expect("what is linked is taken");
            let hits = &body.eviction.frequency;
            let frequency = hits.load(Ordering::Relaxed);
            if is_main && frequency > 0 {
                hits.store(frequency - 1, Ordering::Relaxed);
            } else if !is_main && frequency >= TAKEN_OVER {
                hits.store(0, Ordering::Relaxed);
            } else {
                if !is_main {
                    self.ghosts.add(body.key.hash());
                }
                self.remove(&body);
                return Some(body);
            }
            self.unlink(index);
            self.nodes[index as usize].is_main = true;
            self.link(index);
        }
    }

    /// Adds queues for one more quota. Returns its part number.
    pub(super) fn add_part(&mut self) -> usize {
        if self.parts.is_empty() {
            self.parts.push(QuotaQueues::default());
        }
        self.parts.push(QuotaQueues::default());
        self.parts.len() - 1
    }

    /// Returns all entries: of each quota the entries of the main queue, then those of the small
    /// one, each from the newest on.
    pub(super) fn warmth(&self) -> Vec<HotEntry> {
        let mut all = Vec::with_capacity(self.len());
        for part in &self.parts {
            for list in [&part.main, &part.small] {
                let mut next = list.newest;
                while let Some(node) = self.nodes.get(next as usize) {
                    let body = node.body.iter();
                    all.extend(body.map(|body| HotEntry::for_body(body, node.is_main)));
                    next = node.after;
                }
            }
        }
        all
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(QuotaQueues::bytes).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Releases the memory of removed nodes.
    fn rebuild(&mut self) {
        let mut old = std::mem::take(&mut self.nodes);
        self.free = Vec::new();
        self.ghosts = Ghosts::default();
        self.forms.shrink_to_fit();
        let lists = self.parts.iter_mut().flat_map(|part| {
            let QuotaQueues { small, main } = std::mem::take(part);
            [small, main]
        });
        let lists: Vec<_> = lists.collect();
        for list in lists {
            let mut next = list.oldest;
            while next != NONE {
                let node = &mut old[next as usize];
                let index = u32::try_from(self.nodes.len()).expect("fewer than before");
                let body = node.body.take();
                if let Some(body) = &body {
                    body.eviction.node.store(index, Ordering::Relaxed);
                }
                next = node.before;
                grow(&mut self.nodes);
                self.nodes.push(Node {
                    body,
                    before: NONE,
                    after: NONE,
                    ..*node
                });
                self.link(index);
            }
        }
        self.ghosts.make_room(self.nodes.len());
    }

    fn link(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (part, is_main, size) = (usize::from(node.part), node.is_main, node.size);
        if self.parts.len() <= part {
            self.parts.resize_with(part + 1, QuotaQueues::default);
        }
        let list = self.parts[part].list(is_main);
        list.bytes += size.bytes();
        let newest = std::mem::replace(&mut list.newest, index);
        if newest == NONE {
            list.oldest = index;
        } else {
            self.nodes[newest as usize].before = index;
        }
        let node = &mut self.nodes[index as usize];
        node.before = NONE;
        node.after = newest;
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (before, after) = (node.before, node.after);
        let list = self.parts[usize::from(node.part)].list(node.is_main);
        list.bytes -= node.size.bytes();
        if before == NONE {
            list.newest = after;
        }
        if after == NONE {
            list.oldest = before;
        }
        if before != NONE {
            self.nodes[before as usize].after = after;
        }
        if after != NONE {
            self.nodes[after as usize].before = before;
        }
    }
}

fn is_queued(body: &Body) -> bool {
    body.eviction.node.load(Ordering::Relaxed) != EvictionState::NOWHERE
}

/// Grows by an eighth: doubling would leave half of a large list empty.
pub(super) fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 8 + 16);
    }
}

/// Fingerprints of recently evicted entries, four to a row; a fifth replaces the oldest. There are
/// about as many fingerprints as entries.
#[derive(Debug, Default)]
struct Ghosts {
    /// Fingerprint and time of eviction; the slot is free if the time is 0.
    rows: Vec<[(u32, u32); 4]>,
    now: u32,
}

impl Ghosts {
    /// Grows the table with the number of entries. Growing is rare and forgets all fingerprints.
    fn make_room(&mut self, entries: usize) {
        if entries > self.rows.len() * 4 {
            let rows = (entries.next_power_of_two() / 4).max(64);
            self.rows = vec![[(0, 0); 4]; rows];
        }
    }

    fn row(&mut self, hash: u128) -> Option<(&mut [(u32, u32); 4], u32)> {
        let mask = self.rows.len().checked_sub(1)?;
        #[expect(clippy::cast_possible_truncation, reason = "bits of a hash")]
        let (row, print) = ((hash >> 32) as usize & mask, hash as u32);
        Some((&mut self.rows[row], print))
    }

    fn add(&mut self, hash: u128) {
        self.now = self.now.wrapping_add(1).max(1);
        let now = self.now;
        let Some((row, print)) = self.row(hash) else {
            return;
        };
        let age = |when: u32| {
            if when == 0 {
                u32::MAX
            } else {
                now.wrapping_sub(when)
            }
        };
        if let Some(oldest) = row.iter_mut().max_by_key(|(_, when)| age(*when)) {
            *oldest = (print, now);
        }
    }

    /// Removes a fingerprint. Returns true if it was there and recent enough.
    fn remove(&mut self, hash: u128) -> bool {
        let now = self.now;
        // No older than as many other evictions as there are entries.
        let limit = u32::try_from(self.rows.len() * 4).unwrap_or(u32::MAX);
        let Some((row, print)) = self.row(hash) else {
            return false;
        };
        let ghost = row.iter_mut().find(|(it, when)| *it == print && *when != 0);
        let Some((_, when)) = ghost else {
            return false;
        };
        now.wrapping_sub(std::mem::take(when)) <= limit
    }
}
