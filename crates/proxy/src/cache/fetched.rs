//! The cache of requests that the exchange sends to the origin: what it does with a response, and the
//! form in which the client gets one.

use std::{sync::Arc, time::Duration};

use edgeway_cache::{
    policy,
    store::{Entry, Fill, Reader},
};
use edgeway_core::open_headers::OpenResponseHeaders;
use http::{Method, StatusCode, header};
use pingora::{
    ErrorType, OkOrErr as _, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    collapse::Fetch,
    range::{self, Content},
    storage::{self, StorageDecision},
};
use crate::context::{self, Context};

/// Stored response in the form in which it is sent.
pub(crate) struct StoredResponse {
    pub head: ResponseHeader,
    pub reader: Reader,
}

/// Use of a response of the origin.
pub(crate) enum OriginUse {
    /// The client gets it.
    Pass,
    /// The client gets it with these headers.
    PassAs(ResponseHeader),
    /// The store gets it, and the client what is stored, with these headers.
    Store(Fill, ResponseHeader),
    /// The client gets a stored response, which it confirms.
    Send(StoredResponse),
    /// Validation of a stored response that is gone: the origin is asked again, for the whole of it.
    Repeat,
}

impl StoredResponse {
    /// Returns the response `entry` with these headers. An error if it was still arriving, and some
    /// of it is gone.
    pub(crate) fn open(entry: &Entry, head: ResponseHeader) -> Result<Self> {
        let reader = entry.body.reader();
        let reader = reader.or_err(ErrorType::InternalError, "a stored response is incomplete")?;
        Ok(Self { head, reader })
    }

    /// Returns the headers of `entry` with this age.
    pub(crate) fn head(entry: &Entry, age: Option<Duration>) -> Result<ResponseHeader> {
        let headers = entry.headers();
        let mut head = ResponseHeader::build_no_case(entry.status, Some(headers.len()))?;
        for (name, value) in &headers {
            head.append_header(name, value)?;
        }
        let age = age.unwrap_or_default();
        head.insert_header(header::AGE, age.as_secs())?;
        Ok(head)
    }
}

impl Fetch {
    /// Decides about the `response` of the origin to `request`, and begins to store it.
    pub(crate) fn use_response(
        &mut self,
        request: &RequestHeader,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> Result<OriginUse> {
        if !self.is_storing {
            return Ok(OriginUse::Pass);
        }
        let is_confirmed = response.status == StatusCode::NOT_MODIFIED;
        if is_confirmed && self.validated().is_none() {
            // The request had no condition.
            self.give_up();
            return Ok(OriginUse::Pass);
        }
        // One that is replaced is of use if the body of the new response breaks off.
        let stale = self.stale.clone().filter(|_| is_confirmed);
        if stale
            .as_ref()
            .is_some_and(|stale| stale.body.reader().is_none())
        {
            // It was still arriving, and broke off.
            self.is_unconditional = true;
            if let Some(flow) = &mut ctx.cache {
                flow.confirmed = None;
            }
            return Ok(OriginUse::Repeat);
        }
        let merged = match (&stale, &ctx.cache) {
            (Some(stale), Some(flow)) => {
                let confirmed = flow.confirmed.as_ref();
                confirmed.map(|confirmed| storage::merged(stale, confirmed))
            }
            _ => None,
        };
        let gateway = Arc::clone(&ctx.gateway);
        let Some(cache) = context::cache(&gateway, ctx.route) else {
            return Ok(OriginUse::Pass);
        };
        let store = cache.cache.store();
        let Ok(decision) = storage::decide(request, response, stale.clone(), ctx) else {
            self.give_up();
            let (Some(entry), Some(headers)) = (stale, merged) else {
                return Ok(OriginUse::Pass);
            };
            let head = storage::response(entry.status, &headers, &entry.lifetime())?;
            return Ok(OriginUse::Send(StoredResponse::open(&entry, head)?));
        };
        let head = decision.response()?;
        match decision {
            StorageDecision::New(draft) => {
                let mut fill = store.begin(&draft);
                let is_stored = fill.passed().is_none();
                self.release(is_stored);
                if !is_stored {
                    (self.stale, self.older) = (None, None);
                    // Nobody else reads it.
                    if let Some(cached) = &mut ctx.facts.cache {
                        cached.is_stored = false;
                    }
                    return Ok(OriginUse::PassAs(head));
                }
                if !ctx.is_background() {
                    fill.keep_pace();
                }
                Ok(OriginUse::Store(fill, head))
            }
            StorageDecision::Refreshed(refresh) => {
                // If it was purged meanwhile, it is still the response to this request.
                let _refreshed = store.refresh(&refresh);
                self.release(true);
                let stored = StoredResponse::open(&refresh.old, head)?;
                Ok(OriginUse::Send(stored))
            }
        }
    }
}

/// Makes `head`, the headers of a whole response, those for the client of `request`. Returns the
/// content that it gets.
pub(crate) fn present(
    request: &RequestHeader,
    head: &mut ResponseHeader,
    is_stored: bool,
    ctx: &Context,
) -> Result<Content> {
    // `Date` stands in for a missing `Last-Modified` only of what is stored (RFC 9111, 4.3.2).
    let has_validator = is_stored
        || request.headers.contains_key(header::IF_NONE_MATCH)
        || head.headers.contains_key(header::LAST_MODIFIED);
    let content = if has_validator && not_modified(request, head) {
        let mut open = OpenResponseHeaders::take(head, 0);
        open.parts.status = StatusCode::NOT_MODIFIED;
        policy::to_not_modified(&mut open.parts.headers);
        open.close(head);
        Content::Nothing
    } else {
        range::choose(request, head, ctx)
    };
    complete(head, ctx)?;
    let has_none = request.method == Method::HEAD || head.status == StatusCode::NO_CONTENT;
    Ok(if has_none { Content::Nothing } else { content })
}

/// Returns true if the client's own copy is still current.
pub(crate) fn not_modified(request: &RequestHeader, response: &ResponseHeader) -> bool {
    policy::not_modified(
        &request.headers,
        &request.method,
        response.status,
        &response.headers,
    )
}

/// Adds the headers that were not stored to the stored ones, because this client's request produced
/// the response.
fn complete(response: &mut ResponseHeader, ctx: &Context) -> Result<()> {
    if response.status == StatusCode::RANGE_NOT_SATISFIABLE {
        // It has the headers of the whole response, whose digests do not match its body.
        for name in ["content-digest", "repr-digest", "digest", "content-md5"] {
            response.remove_header(name);
        }
    }
    let flow = ctx.cache.as_ref();
    for (name, value) in flow.iter().flat_map(|flow| &flow.for_the_first) {
        response.append_header(name, value)?;
    }
    Ok(())
}
