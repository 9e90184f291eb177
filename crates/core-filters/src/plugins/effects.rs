//! Changes that the plugins of a request have made to its headers and its response, and the cache
//! key parts that depend on them.

use std::{ops::Range, sync::Arc};

use edgeway_core::chain::{Exchange, KeyBuilder};
use edgeway_script::{HeaderChange, Hook, header_changes::apply_to_request};
use http::HeaderMap;

use super::{Plugins, RoutePlugin};

/// Changes that the plugins have made to the request that is sent on. They also apply to background
/// requests that fetch the same response again.
struct RequestChangesSent(Vec<HeaderChange>);

/// Other results of a request's plugins.
#[derive(Default)]
pub(super) struct PluginEffects {
    /// Changes of the response headers, whatever the source of the response.
    pub(super) response: Vec<HeaderChange>,
    keys: Vec<CacheKeyPart>,
    pub(super) upstream: Option<Arc<str>>,
}

/// Part of the cache key.
enum CacheKeyPart {
    /// Text that the plugin at this place of the list returned.
    Returned(usize, String),
    /// Range of the changes to the request.
    Sent(Range<usize>),
}

pub(super) fn done<'e>(ex: &'e mut Exchange<'_>) -> &'e mut PluginEffects {
    if ex.facts.slot::<PluginEffects>().is_none() {
        ex.facts.put(PluginEffects::default());
    }
    ex.facts.slot_mut().expect("it was put there")
}

pub(super) fn sent<'e>(ex: &'e Exchange<'_>) -> &'e [HeaderChange] {
    let carried = ex.facts.carried.as_ref();
    let sent = carried.and_then(|carried| carried.downcast_ref::<RequestChangesSent>());
    sent.map_or(&[], |sent| &sent.0)
}

/// Adds changes to the request that is sent on. With `is_key` they join the cache key: the
/// backend's response may depend on anything that it gets.
pub(super) fn send(ex: &mut Exchange<'_>, changes: Vec<HeaderChange>, is_key: bool) {
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
        let part = CacheKeyPart::Sent(from..all.len());
        done(ex).keys.push(part);
    }
    ex.facts.carried = Some(Arc::new(RequestChangesSent(all)));
}

/// Adds the text that the plugin at `place` returned to the cache key. If it failed, adds all
/// changes that plugins have made: no client gets a response that was made for another.
pub(super) fn differ(ex: &mut Exchange<'_>, place: usize, returned: Result<Option<String>, ()>) {
    let part = match returned {
        Ok(None) => return,
        Ok(Some(text)) => CacheKeyPart::Returned(place, text),
        Err(()) => CacheKeyPart::Sent(0..sent(ex).len()),
    };
    done(ex).keys.push(part);
}

impl Plugins {
    /// Returns true if a plugin decides who passes, and no cache key tells by what.
    pub(super) fn hides_why(&self) -> bool {
        let hides = |each: &RoutePlugin| each.is_guard && !each.plugin.has(Hook::CacheKey);
        // A header with the client's identity is in the key.
        self.own.is_empty() && self.uses.iter().any(hides)
    }
}

pub(super) fn put_keys(ex: &Exchange<'_>, key: &mut KeyBuilder) {
    let Some(done) = ex.facts.slot::<PluginEffects>() else {
        return;
    };
    for part in &done.keys {
        match part {
            CacheKeyPart::Returned(place, text) => {
                // Two plugins may return the same text with different meanings.
                key.part("plugin", &place.to_le_bytes());
                key.part("says", text.as_bytes());
            }
            CacheKeyPart::Sent(range) => {
                let changes = sent(ex).get(range.clone());
                key.part("sent", format!("{changes:?}").as_bytes());
            }
        }
    }
}

/// Returns true if a plugin has put text into the cache key. A later request of the gateway's own,
/// without the client's cookies, may get a response that belongs to another key.
#[must_use]
pub fn has_returned_key(ex: &Exchange<'_>) -> bool {
    let done = ex.facts.slot::<PluginEffects>();
    let mut keys = done.iter().flat_map(|done| &done.keys);
    keys.any(|part| matches!(part, CacheKeyPart::Returned(..)))
}

/// Returns the request headers as the previous plugins have left them.
pub(super) fn changed(ex: &Exchange<'_>) -> HeaderMap {
    let mut headers = ex.head.headers.clone();
    apply_to_request(sent(ex), &mut headers);
    headers
}
