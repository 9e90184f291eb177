//! Response bytes on their way from an origin into the store, and the part that the client reads.

use edgeway_cache::{budget::RenderPermit, store};
use pingora::Result;
use pingora_cache::CachePhase;
use pingora_proxy::Session;

use crate::{context::Context, upstream};

/// Handles a chunk from the origin on its way into the store. The deadlines of the backend depend
/// on these chunks, not on how fast the client reads.
pub(crate) fn received_body(session: &mut Session, is_end: bool, ctx: &mut Context) -> Result<()> {
    if session.cache.enabled() {
        upstream::received_body(is_end, ctx)?;
        if ctx.client_left.get().is_some() {
            leave(session);
        }
    }
    if is_end {
        // No matter how long the client reads, the origin is done.
        drop(ctx.facts.take::<RenderPermit>());
    }
    Ok(())
}

/// Tells the store that the client reads no more of the response being stored. Pingora keeps its
/// reader, and a response that is not kept would wait for it.
fn leave(session: &mut Session) {
    if let Some(reader) = session.cache.miss_body_reader() {
        store::leave(reader);
    }
}

/// Returns true if the client's reader has read all of a stored body, or of one that is being
/// stored. Pingora does not pass that end to body filters.
pub(crate) fn has_read_all(session: &mut Session) -> bool {
    let cache = &mut session.cache;
    let reader = match cache.phase() {
        CachePhase::Miss | CachePhase::Expired => cache.miss_body_reader(),
        CachePhase::Hit
        | CachePhase::Stale
        | CachePhase::StaleUpdating
        | CachePhase::Revalidated
        | CachePhase::RevalidatedNoCache(_) => Some(cache.hit_handler()),
        CachePhase::Disabled(_)
        | CachePhase::Uninit
        | CachePhase::Bypass
        | CachePhase::CacheKey => None,
    };
    reader.is_some_and(|reader| store::has_ended(reader))
}
