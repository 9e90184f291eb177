//! What the plugins of a request have done: to its head, to its answer, and what answers
//! differ by.

use std::{ops::Range, sync::Arc};

use http::HeaderMap;

use crate::{
    chain::{Exchange, KeyBuilder},
    plugins::{Change, heads::apply_to_request},
};

/// What the plugins of a request have done to the head that goes on. It is carried along to
/// requests that fetch the same answer anew.
struct Sent(Vec<Change>);

/// What the plugins of a request have done besides.
#[derive(Default)]
pub(super) struct Done {
    /// To the head of the answer, whoever gives it.
    pub(super) response: Vec<Change>,
    keys: Vec<Key>,
    pub(super) upstream: Option<Arc<str>>,
}

/// What answers differ by.
enum Key {
    /// What the plugin in this place of the list says.
    Said(usize, String),
    /// These of the changes.
    Sent(Range<usize>),
}

pub(super) fn done<'e>(ex: &'e mut Exchange<'_>) -> &'e mut Done {
    if ex.facts.slot::<Done>().is_none() {
        ex.facts.put(Done::default());
    }
    ex.facts.slot_mut().expect("it was put there")
}

pub(super) fn sent<'e>(ex: &'e Exchange<'_>) -> &'e [Change] {
    let carried = ex.facts.carried.as_ref();
    let sent = carried.and_then(|carried| carried.downcast_ref::<Sent>());
    sent.map_or(&[], |sent| &sent.0)
}

/// These changes go on as well. `is_key`: whatever the backend is told may be what its
/// answer goes by.
pub(super) fn send(ex: &mut Exchange<'_>, changes: Vec<Change>, is_key: bool) {
    if changes.is_empty() {
        return;
    }
    let before = sent(ex);
    let from = before.len();
    let all = if before.is_empty() {
        changes
    } else {
        [before, &changes].concat()
    };
    if is_key {
        let part = Key::Sent(from..all.len());
        done(ex).keys.push(part);
    }
    ex.facts.carried = Some(Arc::new(Sent(all)));
}

/// Answers differ by what the plugin at `place` says; if it could not say, by all that
/// plugins have changed: nobody gets what was made for somebody else.
pub(super) fn differ(ex: &mut Exchange<'_>, place: usize, said: Result<Option<String>, ()>) {
    let part = match said {
        Ok(None) => return,
        Ok(Some(text)) => Key::Said(place, text),
        Err(()) => Key::Sent(0..sent(ex).len()),
    };
    done(ex).keys.push(part);
}

pub(super) fn put_keys(ex: &Exchange<'_>, key: &mut KeyBuilder) {
    let Some(done) = ex.facts.slot::<Done>() else {
        return;
    };
    for part in &done.keys {
        match part {
            Key::Said(place, text) => {
                // Two plugins may say the same of different things.
                key.part("plugin", &place.to_le_bytes());
                key.part("says", text.as_bytes());
            }
            Key::Sent(range) => {
                let changes = sent(ex).get(range.clone());
                key.part("sent", format!("{changes:?}").as_bytes());
            }
        }
    }
}

/// The head as the plugins before have left it.
pub(super) fn changed(ex: &Exchange<'_>) -> HeaderMap {
    let mut headers = ex.head.headers.clone();
    apply_to_request(sent(ex), &mut headers);
    headers
}
