//! Forwards purges from a draining process to its successor.

use std::borrow::Cow;

use log::warn;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Purge, PurgeEffect, PurgeTarget,
    ledger::{Bound, Kind, Noted, PurgeLedger},
    stamps::Digest,
};
use crate::{digest::digest, key::Key};

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
    sent: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    notes: PurgeLedger<SuccessorPurge>,
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
        self.note(SuccessorPurge::Purged(purges.to_vec()));
    }

    pub(crate) fn removed(&self, key: &Key) {
        self.note(SuccessorPurge::Removed(key.as_bytes().to_vec()));
    }

    fn note(&self, note: SuccessorPurge) {
        if let Some(Queue { notes, .. }) = &mut *self.queue.lock() {
            let is_all = notes.floor > 0 || note.id().is_none();
            notes.push(note);
            if !is_all && notes.floor > 0 {
                warn!("too many purges for the next process to replay, it drops the whole cache");
            }
            self.more.notify_one();
        }
    }

    /// Waits for the next note. A second call confirms that the note before was sent.
    pub async fn next(&self) -> SuccessorPurge {
        loop {
            let next = self.queue.lock().as_mut().and_then(|queue| {
                let next = queue.notes.pop();
                queue.is_telling = next.is_some();
                next
            });
            if let Some(note) = next {
                return note;
            }
            self.sent.notify_waiters();
            self.more.notified().await;
        }
    }

    /// Waits until all notes so far are sent.
    pub async fn all_sent(&self) {
        loop {
            let sent = self.sent.notified();
            let is_left = |queue: &Queue| queue.is_telling || !queue.notes.is_empty();
            if !self.queue.lock().as_ref().is_some_and(is_left) {
                return;
            }
            sent.await;
        }
    }
}

impl SuccessorPurge {
    fn line(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("notes are plain data")
    }

    /// Returns the URLs that a write has changed; `None` for other purges.
    fn written(&self) -> Option<Vec<Cow<'_, str>>> {
        match self {
            Self::Removed(key) => Some(vec![String::from_utf8_lossy(key)]),
            Self::Purged(purges) => purges
                .iter()
                .map(|purge| match &purge.target {
                    PurgeTarget::Written(url) => Some(Cow::Borrowed(url.as_str())),
                    PurgeTarget::Url(_)
                    | PurgeTarget::Prefix(_)
                    | PurgeTarget::Tag(_)
                    | PurgeTarget::All => None,
                })
                .collect(),
        }
    }
}

impl Noted for SuccessorPurge {
    const MAX: [Bound; 3] = [(4096, 16 << 20), (0, 0), (1 << 16, 16 << 20)];

    fn all() -> Self {
        Self::Purged(vec![Purge::ALL])
    }

    fn id(&self) -> Option<Digest> {
        (*self != Self::all()).then(|| digest(b"note", &[&self.line()]))
    }

    fn kind(&self) -> Kind {
        if self.written().is_some() {
            Kind::Write
        } else {
            Kind::Purge
        }
    }

    fn text(&self) -> usize {
        self.line().len()
    }

    /// Returns a purge of the hosts of a write.
    fn widened(&self) -> Option<Self> {
        let host = |url: Cow<'_, str>| {
            let from = url.find("://")? + 3;
            let end = url[from..].find(['/', '?', '#'])?;
            Some(Purge {
                target: PurgeTarget::Prefix(format!("{}/", &url[..from + end])),
                effect: PurgeEffect::Hard,
            })
        };
        let hosts: Option<_> = self.written()?.into_iter().map(host).collect();
        Some(Self::Purged(hosts?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn purges_are_queued_once_there_is_a_successor() {
        let notes = SuccessorPurges::default();
        let key = Key::new("http", "a", b"/x\xff", Some(b"q"), b"extra");
        notes.purged(&[Purge::ALL]);
        notes.begin();
        notes.removed(&key);
        notes.begin();
        let SuccessorPurge::Removed(bytes) = notes.next().await else {
            panic!("the first was not to be sent");
        };
        assert_eq!(Key::parse(&bytes).map(|it| it.hash()), Some(key.hash()));
        let tag = Purge::from_json(&serde_json::json!({ "tag": "t", "soft": true })).unwrap();
        notes.purged(&[tag]);
        let mut telling = Box::pin(notes.all_sent());
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
    async fn too_many_purges_of_operators_are_one_of_all() {
        let notes = SuccessorPurges::default();
        notes.begin();
        let [(most, _), ..] = SuccessorPurge::MAX;
        for n in 0..=most {
            let tag = serde_json::json!({ "tag": n.to_string() });
            notes.purged(&[Purge::from_json(&tag).unwrap()]);
        }
        assert_eq!(notes.next().await, SuccessorPurge::all());
        for n in 1..=most {
            let line = String::from_utf8(notes.next().await.line()).unwrap();
            assert_eq!(line, format!(r#"{{"purged":[{{"tag":"{n}"}}]}}"#));
        }
        notes.end();
        notes.purged(&[Purge::ALL]);
        assert!(notes.queue.lock().is_none());
    }

    /// Invariant: writes of any client are sent as they are, each once, and if there are too many,
    /// as a purge of their host; never as a purge of everything.
    #[tokio::test]
    async fn no_number_of_writes_is_everything() {
        let notes = SuccessorPurges::default();
        notes.begin();
        let key = |n: usize| Key::new("http", "a", format!("/{n}").as_bytes(), None, b"");
        for n in 0..2_000 {
            notes.removed(&key(n));
            notes.removed(&key(n / 2));
            let written = serde_json::json!({ "written": format!("http://b/{}", n / 3) });
            notes.purged(&[Purge::from_json(&written).unwrap()]);
        }
        let mut sent = HashSet::new();
        for _ in 0..2_000 + 2_000_usize.div_ceil(3) {
            let note = notes.next().await;
            assert_eq!(note.kind(), Kind::Write);
            assert!(sent.insert(note));
        }
        let removed = |n: usize| SuccessorPurge::Removed(key(n).as_bytes().to_vec());
        assert!((0..2_000).all(|n| sent.contains(&removed(n))));
        assert!(futures_util::poll!(Box::pin(notes.next())).is_pending());
        let [.., (most, text)] = SuccessorPurge::MAX;
        for n in 0..=most {
            notes.removed(&key(n));
        }
        let line = String::from_utf8(notes.next().await.line()).unwrap();
        assert_eq!(line, r#"{"purged":[{"prefix":"http://a/"}]}"#);
        for n in 1..=most {
            assert_eq!(notes.next().await, removed(n));
        }
        let long = "x".repeat(text / 10);
        for n in 0..10 {
            let target = PurgeTarget::Written(format!("https://b:81/{n}{long}"));
            let effect = PurgeEffect::Hard;
            notes.purged(&[Purge { target, effect }]);
        }
        let line = String::from_utf8(notes.next().await.line()).unwrap();
        assert_eq!(line, r#"{"purged":[{"prefix":"https://b:81/"}]}"#);
    }
}
