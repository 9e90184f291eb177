//! Compressed forms of stored responses. Each is encoded once, in the background, and sent as it
//! is.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::{
    encoding::{self, Encoding},
    http::varies_by,
};
use edgeway_cache::{WorkKind, store::Entry};
use edgeway_core::chain::Exchange;
use edgeway_gateway::RouteCache;
use http::{HeaderValue, header, response};

use crate::live::Live;

/// Number of hits after which a compressed form of a stored response is worthwhile. Before,
/// compressing it on its way to the client costs no more.
const MIN_REQUESTS: u32 = 2;

/// Returns the compressed form of `entry` for this client, if there is one, and updates the headers
/// in `head`. If there is none yet, one is made for the next client.
pub(super) fn choose(
    live: &Live,
    cache: &RouteCache,
    entry: &Arc<Entry>,
    ex: &mut Exchange<'_>,
    head: &mut response::Parts,
) -> Option<Bytes> {
    let coder = cache.coder.as_ref()?;
    let offer = coder.choose(ex);
    // An entry from a lower tier marks itself as compressible only by its `Vary`.
    let has_forms = entry.is_compressible() && varies_by(&head.headers, &header::ACCEPT_ENCODING);
    // The rules may be others than those by which it was stored.
    let needs_rules = offer.is_some() || !has_forms;
    let may_code = needs_rules && coder.may_code(head.status, &head.headers);
    let Some(offer) = offer.filter(|_| may_code) else {
        // Otherwise the plain response says that others get it compressed.
        ex.facts.is_coding_settled = has_forms || !may_code;
        return None;
    };
    if !has_forms {
        return None;
    }
    let encoding = offer.encoding;
    let Some(form) = entry.form(encoding) else {
        if entry.hits() >= MIN_REQUESTS {
            make(live, cache, entry, encoding, offer.level_at_rest());
        }
        return None;
    };
    ex.facts.is_coding_settled = true;
    offer.announce(&mut head.headers, false, true);
    head.headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(form.len()));
    Some(form)
}

/// Compresses all of `entry` on a thread that no request waits for.
fn make(live: &Live, cache: &RouteCache, entry: &Arc<Entry>, encoding: Encoding, level: u8) {
    let Some(claim) = cache
        .cache
        .claim(entry.key(), entry.variance(), WorkKind::Code(encoding))
    else {
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
            match encoding::encode(encoding, level, &body.concat()) {
                // A form that is no smaller is not worth its memory.
                Ok(form) if (form.len() as u64) < body.len() => {
                    store.add_form(&entry, encoding, &Bytes::from(form));
                }
                Ok(_) => {}
                Err(error) => log::warn!(error:%; "stored response not compressed"),
            }
        });
        if let Err(error) = done.await {
            log::warn!(error:%; "compression of a stored response ended early");
        }
        drop(claim);
    });
}
