//! What comes from an origin on its way into the store, and what of it its own client reads.

use pingora::Result;
use pingora_cache::CachePhase;
use pingora_proxy::Session;

use crate::{
    cache::{budget::Permit, store},
    proxy::{context::Context, upstream},
};

/// A piece of what comes from the origin, on its way into the store: the deadlines of the
/// backend go by it, and not by how fast the client reads.
pub(in crate::proxy) fn received_body(
    session: &mut Session,
    is_end: bool,
    ctx: &mut Context,
) -> Result<()> {
    if session.cache.enabled() {
        upstream::received_body(is_end, ctx)?;
        if ctx.client_left.get().is_some() {
            leave(session);
        }
    }
    if is_end {
        // However long the client reads, the origin is done.
        drop(ctx.facts.take::<Permit>());
    }
    Ok(())
}

/// Says that the client reads no more of what is being stored: Pingora keeps its reader, and
/// what is not kept would wait for that one.
fn leave(session: &mut Session) {
    if let Some(reader) = session.cache.miss_body_reader() {
        store::leave(reader);
    }
}

/// Tells whether the client's reader has read all of a stored body, or of one that is being
/// stored: Pingora says nothing of that end to body filters.
pub(in crate::proxy) fn has_read_all(session: &mut Session) -> bool {
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
