//! Coded forms of stored answers: coded once, beside requests, and sent as they are.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header, response};

use crate::{
    base::{
        encoding::{self, Encoding},
        http::varies_by,
    },
    cache::store::Entry,
    chain::Exchange,
    filters::compression::Offer,
    gateway::RouteCache,
    runtime::live::Live,
};

/// An answer that was asked for this often is worth a form of its own: before, coding it on
/// its way to the client costs no more.
const ASKED_FOR: u32 = 2;

/// The form of `entry` that this client gets, if there is one: `head` becomes its head. If
/// there is none yet, one is made for the next client.
pub(super) fn choose(
    live: &Live,
    cache: &RouteCache,
    entry: &Arc<Entry>,
    ex: &mut Exchange<'_>,
    head: &mut response::Parts,
) -> Option<Bytes> {
    let coder = cache.coder.as_ref()?;
    // What comes from a lower tier says so by its `Vary` alone.
    let may_code = |_: &&Offer| {
        entry.about.is_compressible && varies_by(&entry.headers, &header::ACCEPT_ENCODING)
    };
    let offer = coder.choose(ex).filter(may_code);
    let Some(offer) = offer else {
        ex.facts.is_coding_settled = true;
        return None;
    };
    let encoding = offer.encoding();
    let Some(form) = entry.form(encoding) else {
        if entry.hits() >= ASKED_FOR {
            make(live, cache, entry, encoding, offer.level_at_rest());
        }
        return None;
    };
    ex.facts.is_coding_settled = true;
    offer.announce(&mut head.headers, false);
    head.headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(form.len()));
    Some(form)
}

/// Codes all of `entry` on a thread where nobody waits.
fn make(live: &Live, cache: &RouteCache, entry: &Arc<Entry>, encoding: Encoding, level: u8) {
    let Some(claim) = cache.cache.claim_form(entry, encoding) else {
        return;
    };
    let entry = Arc::clone(entry);
    let store = cache.cache.store();
    let coding = cache.cache.coding();
    live.background.spawn("compression", async move {
        // One at a time: requests need the other processors more.
        let Ok(_turn) = coding.acquire().await else {
            return;
        };
        let done = tokio::task::spawn_blocking(move || {
            let Some(body) = entry.body.whole() else {
                return;
            };
            match encoding::encode(encoding, level, &body.segments().concat()) {
                // What does not shrink is not worth its room.
                Ok(form) if (form.len() as u64) < body.len() => {
                    store.add_form(&entry, encoding, &Bytes::from(form));
                }
                Ok(_) => {}
                Err(error) => log::warn!(error:%; "a stored answer could not be coded"),
            }
        });
        if let Err(error) = done.await {
            log::warn!(error:%; "coding a stored answer ended early");
        }
        drop(claim);
    });
}
