//! Forwards purges from a draining process to its successor.

use std::collections::{HashSet, VecDeque};

use log::warn;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Purge, PurgeTarget};
use crate::key::Key;

/// Maximum number of waiting operator purges. With one more, the successor drops everything.
const MAX_PENDING: usize = 4096;
/// Maximum number of waiting writes, which any client can cause, and of their bytes. With more, the
/// first ones are kept: the successor does not read.
const MAX_WRITTEN: usize = 64 * 1024;
const MAX_WRITTEN_BYTES: usize = 16 << 20;

/// A purge of this process, as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessorPurge {
    /// Purges that began here.
    Purged(Vec<Purge>),
    /// The stored responses for the URL of this key, after an unsafe request.
    Removed(Vec<u8>),
}

/// Queue of purges for the successor. It is empty before [`SuccessorPurges::begin`].
#[derive(Debug, Default)]
pub struct SuccessorPurges {
    queue: Mutex<Option<Queue>>,
    more: Notify,
    told: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    notes: VecDeque<SuccessorPurge>,
    /// Purges caused by writes, without duplicates.
    written: HashSet<SuccessorPurge>,
    bytes: usize,
    /// True while the note taken last may not be sent yet.
    is_telling: bool,
}

impl SuccessorPurges {
    /// Starts the queue: another process may serve from now on.
    pub fn begin(&self) {
        self.queue.lock().get_or_insert_default();
    }

    /// Drops the queue: there is no other process after all.
    pub fn end(&self) {
        self.queue.lock().take();
    }

    pub(crate) fn purged(&self, purges: &[Purge]) {
        let is_written = |purge: &Purge| matches!(purge.what, PurgeTarget::Written(_));
        let mut queue = self.queue.lock();
        let Some(queue) = &mut *queue else {
            return;
        };
        let note = SuccessorPurge::Purged(purges.to_vec());
        if purges.iter().all(is_written) {
            queue.add_written(note);
        } else if queue.notes.len() < MAX_PENDING {
            queue.notes.push_back(note);
        } else {
            warn!(purges = MAX_PENDING; "too many purges for the next process to replay, it drops the whole cache");
            queue.notes.clear();
            queue
                .notes
                .push_back(SuccessorPurge::Purged(vec![Purge::ALL]));
        }
        self.more.notify_one();
    }

    pub(crate) fn removed(&self, key: &Key) {
        if let Some(queue) = &mut *self.queue.lock() {
            queue.add_written(SuccessorPurge::Removed(key.as_bytes().to_vec()));
            self.more.notify_one();
        }
    }

    /// Waits for the next note. A second call confirms that the note before was sent.
    pub async fn next(&self) -> SuccessorPurge {
        loop {
            let next = self.queue.lock().as_mut().and_then(|queue| {
                let next = queue.notes.pop_front().or_else(|| queue.next_written());
                queue.is_telling = next.is_some();
                next
            });
            if let Some(note) = next {
                return note;
            }
            self.told.notify_waiters();
            self.more.notified().await;
        }
    }

    /// Waits until all notes so far are sent.
    pub async fn all_told(&self) {
        loop {
            let told = self.told.notified();
            let is_left = |queue: &Queue| {
                queue.is_telling || !queue.notes.is_empty() || !queue.written.is_empty()
            };
            if !self.queue.lock().as_ref().is_some_and(is_left) {
                return;
            }
            told.await;
        }
    }
}

impl Queue {
    fn add_written(&mut self, note: SuccessorPurge) {
        let bytes = self.bytes + note.bytes();
        if self.written.len() < MAX_WRITTEN
            && bytes <= MAX_WRITTEN_BYTES
            && self.written.insert(note)
        {
            self.bytes = bytes;
        }
    }

    fn next_written(&mut self) -> Option<SuccessorPurge> {
        let note = self.written.iter().next()?.clone();
        self.written.remove(&note);
        self.bytes -= note.bytes();
        Some(note)
    }
}

impl SuccessorPurge {
    /// Returns the bytes of the text.
    fn bytes(&self) -> usize {
        let of = |purge: &Purge| match &purge.what {
            PurgeTarget::Url(text)
            | PurgeTarget::Prefix(text)
            | PurgeTarget::Tag(text)
            | PurgeTarget::Written(text) => text.len(),
            PurgeTarget::All => 0,
        };
        match self {
            Self::Purged(purges) => purges.iter().map(of).sum(),
            Self::Removed(key) => key.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_out_is_told_once_somebody_is_to_hear_of_it() {
        let notes = SuccessorPurges::default();
        let key = Key::new("http", "a", b"/x\xff", Some(b"q"), b"extra");
        notes.purged(&[Purge::ALL]);
        notes.begin();
        notes.removed(&key);
        notes.begin();
        let SuccessorPurge::Removed(bytes) = notes.next().await else {
            panic!("the first was not to be told");
        };
        assert_eq!(Key::parse(&bytes).map(|it| it.hash()), Some(key.hash()));
        let tag = Purge::from_json(&serde_json::json!({ "tag": "t", "soft": true })).unwrap();
        notes.purged(&[tag]);
        let mut telling = Box::pin(notes.all_told());
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        let note = notes.next().await;
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        assert!(futures_util::poll!(Box::pin(notes.next())).is_pending());
        telling.await;
        let line = serde_json::to_string(&note).unwrap();
        assert_eq!(line, r#"{"purged":[{"tag":"t","soft":true}]}"#);
        assert_eq!(serde_json::from_str::<SuccessorPurge>(&line).unwrap(), note);
    }

    #[tokio::test]
    async fn more_of_operators_than_can_be_told_is_everything() {
        let notes = SuccessorPurges::default();
        notes.begin();
        for n in 0..=MAX_PENDING {
            let tag = serde_json::json!({ "tag": n.to_string() });
            notes.purged(&[Purge::from_json(&tag).unwrap()]);
        }
        assert_eq!(notes.next().await, SuccessorPurge::Purged(vec![Purge::ALL]));
        notes.end();
        notes.purged(&[Purge::ALL]);
        assert!(notes.queue.lock().is_none());
    }

    /// Invariant: writes of any client are sent as they are, and never as a purge of everything.
    #[tokio::test]
    async fn no_number_of_writes_is_everything() {
        let notes = SuccessorPurges::default();
        notes.begin();
        let key = |n: usize| Key::new("http", "a", n.to_string().as_bytes(), None, b"");
        for n in 0..3 * MAX_PENDING {
            notes.removed(&key(n));
            notes.removed(&key(n / 2));
            let written = serde_json::json!({ "written": format!("http://a/{}", n / 3) });
            notes.purged(&[Purge::from_json(&written).unwrap()]);
        }
        let mut told = HashSet::new();
        for _ in 0..3 * MAX_PENDING + MAX_PENDING {
            let note = notes.next().await;
            assert_ne!(note, SuccessorPurge::Purged(vec![Purge::ALL]));
            assert!(told.insert(note));
        }
        assert!(
            (0..3 * MAX_PENDING)
                .all(|n| told.contains(&SuccessorPurge::Removed(key(n).as_bytes().to_vec())))
        );
        assert!(futures_util::poll!(Box::pin(notes.next())).is_pending());
        for n in 0..2 * MAX_WRITTEN {
            notes.removed(&key(n));
        }
        let queue = notes.queue.lock();
        let queue = queue.as_ref().unwrap();
        assert!(queue.notes.is_empty() && queue.written.len() == MAX_WRITTEN);
        assert!(queue.bytes <= MAX_WRITTEN_BYTES);
    }
}
