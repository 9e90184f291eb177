//! Stores responses that the gateway makes in place of the origin, by the rules for those of the
//! origin.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use edgeway_cache::{nextjs::RequestShape, policy::Usability, store::Entry};
use edgeway_gateway::RouteCache;
use pingora::http::{RequestHeader, ResponseHeader};

use super::storage::{self, StorageDecision};
use crate::context::{self, Context, Flow};

impl Flow {
    /// Returns true for an image that all clients may get, and for which the store is asked.
    pub(crate) fn is_image(&self) -> bool {
        let shape = self.shape.as_ref();
        let is_shared = |shape: &RequestShape| shape.is_image() && !shape.keeps_credentials;
        let is_stored = !self.is_unstorable && !self.is_renewing && !self.wants.no_store;
        is_stored && shape.is_some_and(is_shared)
    }

    /// Returns true if a response is stored that may not be used as it is.
    pub(crate) fn has_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// Returns true if the stored response is sent as it is: a range of it, or what arrives.
    pub(crate) fn has_usable(&self, cache: &RouteCache) -> bool {
        let usable = |entry: &Arc<Entry>| cache.usable(&entry.lifetime(), &self.wants, self.came);
        matches!(
            self.stored.as_ref().map(usable),
            Some(Usability::Fresh | Usability::StaleAsAsked)
        )
    }

    /// Notes the time at which the response began to be made.
    pub(crate) fn ask_now(&mut self, now: SystemTime) {
        self.asked = now;
    }
}

/// Stores a `response` to `request` with this `body`. Returns the stored response; `None` if it may
/// not be stored.
pub(crate) async fn store_made(
    request: &RequestHeader,
    response: &ResponseHeader,
    body: Bytes,
    ctx: &mut Context,
    flow: Box<Flow>,
) -> Option<Arc<Entry>> {
    let gateway = Arc::clone(&ctx.gateway);
    let cache = context::cache(&gateway, ctx.route)?;
    ctx.cache = Some(flow);
    let decision = storage::decide(request, response, None, ctx);
    ctx.cache = None;
    let Ok(StorageDecision::New(draft)) = decision else {
        return None;
    };
    let mut fill = cache.cache.store().begin(&draft);
    if fill.passed().is_some() {
        return None;
    }
    fill.write(body).await.ok()?;
    fill.finish().ok()?
}
