//! Changes that the plugins of a request have made to its headers and its response, and the cache
//! key parts that depend on them.

use std::{ops::Range, sync::Arc};

use http::HeaderMap;

use crate::{
    chain::{Exchange, KeyBuilder},
    plugins::{Change, heads::apply_to_request},
};

/// Changes that the plugins have made to the request that is sent on. They also apply to background
/// requests that fetch the same response again.
struct Sent(Vec<Change>);

/// Other results of a request's plugins.
#[derive(Default)]
pub(super) struct Done {
    /// Changes of the response headers, whatever the source of the response.
    pub(super) response: Vec<Change>,
    keys: Vec<Key>,
    pub(super) upstream: Option<Arc<str>>,
}

/// Part of the cache key.
enum Key {
    /// Text that the plugin at this place of the list returned.
    Said(usize, String),
    /// Range of the changes to the request.
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

/// Adds changes to the request that is sent on. With `is_key` they join the cache key: the
/// backend's response may depend on anything that it gets.
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

/// Adds the text that the plugin at `place` returned to the cache key. If it failed, adds all
/// changes that plugins have made: no client gets a response that was made for another.
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
                // Two plugins may return the same text with different meanings.
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

/// Returns the request headers as the previous plugins have left them.
pub(super) fn changed(ex: &Exchange<'_>) -> HeaderMap {
    let mut headers = ex.head.headers.clone();
    apply_to_request(sent(ex), &mut headers);
    headers
}
