//! The cache of requests that the relay sends to the origin: what it does in place of Pingora's
//! cache phases.

use std::{sync::Arc, time::Duration};

use edgeway_cache::{
    policy,
    store::{Client, Entry, Fill, Reader},
};
use edgeway_core::open_headers::OpenResponseHeaders;
use http::{Method, StatusCode, header};
use pingora::{
    ErrorType, OkOrErr as _, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    collapse::Fetch,
    phases,
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
}

/// Client that reads at its own pace what is being stored.
#[derive(Debug)]
struct OwnPace;

impl Client for OwnPace {
    /// Returns false: a client that can take more has taken it.
    fn is_ready(&self) -> bool {
        false
    }
}

/// Returns true if the relay can take a request that may fill the cache. Pingora's phases cut
/// ranges, and ask the origin with GET for a client that sends HEAD.
pub(crate) fn is_relayed(request: &RequestHeader) -> bool {
    request.method == Method::GET && !request.headers.contains_key(header::RANGE)
}

/// Prepares a `request` for the origin whose response may be stored: its conditions are those of
/// the `stale` response.
pub(crate) fn condition(request: &mut RequestHeader, stale: Option<&Entry>) {
    for name in [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
    ] {
        request.remove_header(&name);
    }
    let Some(stale) = stale else {
        return;
    };
    let conditions = [
        (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE),
        (header::ETAG, header::IF_NONE_MATCH),
    ];
    let stored = stale.headers();
    for (validator, condition) in conditions {
        if let Some(value) = stored.get(validator) {
            // A value from headers is valid in headers.
            let _inserted = request.insert_header(condition, value);
        }
    }
}

impl StoredResponse {
    /// Returns the response `entry` with these headers. An error if it was still arriving, and some
    /// of it is gone.
    pub(crate) fn of(entry: &Entry, head: ResponseHeader) -> Result<Self> {
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
        let stale = self
            .stale
            .take()
            .filter(|_| response.status == StatusCode::NOT_MODIFIED);
        if stale.is_none() && response.status == StatusCode::NOT_MODIFIED {
            // The request had no condition.
            self.give_up();
            return Ok(OriginUse::Pass);
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
            self.is_storing = false;
            self.release(false);
            let (Some(entry), Some(headers)) = (stale, merged) else {
                return Ok(OriginUse::Pass);
            };
            let head = storage::response(entry.status, &headers, &entry.lifetime())?;
            return Ok(OriginUse::Send(StoredResponse::of(&entry, head)?));
        };
        let head = decision.response()?;
        match decision {
            StorageDecision::New(draft) => {
                let mut fill = store.begin(&draft);
                let is_stored = fill.passed().is_none();
                self.release(is_stored);
                if !is_stored {
                    // Nobody else reads it.
                    return Ok(OriginUse::PassAs(head));
                }
                let pace: Arc<dyn Client> = Arc::new(OwnPace);
                fill.set_client(&pace);
                Ok(OriginUse::Store(fill, head))
            }
            StorageDecision::Refreshed(refresh) => {
                // If it was purged meanwhile, it is still the response to this request.
                let _refreshed = store.refresh_with(&refresh);
                self.release(true);
                let stored = StoredResponse::of(&refresh.old, head)?;
                Ok(OriginUse::Send(stored))
            }
        }
    }
}

/// Makes `head` the headers for the client of `request`. Returns true if they are those of a 304.
pub(crate) fn present(
    request: &RequestHeader,
    head: &mut ResponseHeader,
    ctx: &mut Context,
) -> Result<bool> {
    let is_confirmed = phases::not_modified(request, head);
    if is_confirmed {
        let mut open = OpenResponseHeaders::of(head, 0);
        open.parts.status = StatusCode::NOT_MODIFIED;
        policy::to_not_modified(&mut open.parts.headers);
        open.close(head);
    }
    phases::complete(head, ctx)?;
    Ok(is_confirmed)
}
