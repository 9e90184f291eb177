//! What a process still takes out while another one takes its place: that one hears of it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Purge;
use crate::cache::key::Key;

/// What is told at most. With one more, the other process is to drop all.
const MOST: usize = 4096;

/// Something that was taken out here, as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// These purges began here.
    Purged(Vec<Purge>),
    /// What is stored for the URL of this key, after an unsafe request.
    Removed(Vec<u8>),
}

/// Nothing is noted before [`Notes::begin`].
#[derive(Debug, Default)]
pub struct Notes {
    queue: Mutex<Option<Queue>>,
    more: Notify,
    told: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    notes: VecDeque<Note>,
    /// The one that was taken last is not on its way yet.
    is_telling: bool,
}

impl Notes {
    /// Another process may serve from now on.
    pub fn begin(&self) {
        self.queue.lock().get_or_insert_default();
    }

    /// There is no other process after all.
    pub fn end(&self) {
        self.queue.lock().take();
    }

    pub(in crate::cache) fn purged(&self, purges: &[Purge]) {
        self.add(|| Note::Purged(purges.to_vec()));
    }

    pub(in crate::cache) fn removed(&self, key: &Key) {
        self.add(|| Note::Removed(key.as_bytes().to_vec()));
    }

    fn add(&self, note: impl FnOnce() -> Note) {
        let mut queue = self.queue.lock();
        let Some(Queue { notes, .. }) = &mut *queue else {
            return;
        };
        if notes.len() >= MOST {
            notes.clear();
            notes.push_back(Note::Purged(vec![Purge::ALL]));
        } else {
            notes.push_back(note());
        }
        drop(queue);
        self.more.notify_one();
    }

    /// Waits for the next one. Whoever asks again has told the one before.
    pub async fn next(&self) -> Note {
        loop {
            let next = self.queue.lock().as_mut().and_then(|queue| {
                let next = queue.notes.pop_front();
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

    /// Waits until everything is told so far.
    pub async fn all_told(&self) {
        loop {
            let told = self.told.notified();
            let is_left = |queue: &Queue| queue.is_telling || !queue.notes.is_empty();
            if !self.queue.lock().as_ref().is_some_and(is_left) {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_out_is_told_once_somebody_is_to_hear_of_it() {
        let notes = Notes::default();
        let key = Key::new("http", "a", b"/x\xff", Some(b"q"), b"extra");
        notes.purged(&[Purge::ALL]);
        notes.begin();
        notes.removed(&key);
        notes.begin();
        let Note::Removed(bytes) = notes.next().await else {
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
        assert_eq!(serde_json::from_str::<Note>(&line).unwrap(), note);
    }

    #[tokio::test]
    async fn more_than_can_be_told_is_everything() {
        let notes = Notes::default();
        notes.begin();
        for n in 0..=MOST {
            notes.removed(&Key::new("http", "a", n.to_string().as_bytes(), None, b""));
        }
        assert_eq!(notes.next().await, Note::Purged(vec![Purge::ALL]));
        notes.end();
        notes.purged(&[Purge::ALL]);
        assert!(notes.queue.lock().is_none());
    }
}
