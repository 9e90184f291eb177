//! Serves requests from the cache, and stores responses in it.
//!
//! [`door`] decides on a request: a complete stored response that may be used is sent at once.
//! Everything else goes to the exchange: misses, with one collapsed request for all that wait
//! ([`collapse`]); validation; ranges ([`range`]); stale responses for a failing origin
//! ([`fetched`]). What is stored is decided in [`storage`].

mod background;
mod body_file;
mod collapse;
mod door;
mod fetched;
mod flow;
mod forms;
mod made;
mod origin;
mod purge;
mod range;
mod storage;
mod stored_response;
mod write;

use std::{sync::Arc, time::SystemTime};

use edgeway_cache::{
    key::Key,
    nextjs::RequestShape,
    policy::{RequestDirectives, Variance},
    route::PersonalHeaders,
    store::{Entry, LogMark},
};
use http::HeaderMap;

pub(super) use self::{
    background::{BackgroundRequest, follow_up, revalidation},
    collapse::{CacheStep, Fetch, begin, replaces_failure},
    door::{ask, fetch},
    fetched::{OriginUse, StoredResponse, not_modified, present},
    made::store_made,
    origin::{condition, forward, on_origin_response, replaced, target},
    range::Content,
    stored_response::send,
    write::written,
};

/// Cache state of a request that goes to the origin.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a separate fact about the request"
)]
pub(super) struct Flow {
    pub(super) key: Key,
    wants: RequestDirectives,
    personal: PersonalHeaders,
    /// Kind of the request to Next.js, where its rules apply.
    shape: Option<RequestShape>,
    /// Request headers of the client, by which its response is judged.
    headers: Arc<HeaderMap>,
    /// Request headers that the origin would get, if they were needed to select a variant.
    sent: Option<Arc<HeaderMap>>,
    /// Arrival time of the request. A response generated after it is as good as its own.
    came: SystemTime,
    /// Time of the last request to the origin.
    asked: SystemTime,
    /// Mark taken before the request to the origin: later purges also apply to its response.
    mark: LogMark,
    /// Stored response that was found but may not be used as it is.
    found: Option<Arc<Entry>>,
    /// Variant that the request selects, as far as the `Vary` of the key's responses is known.
    variance: Option<Variance>,
    /// Headers of a 304 from the origin.
    confirmed: Option<HeaderMap>,
    /// Response headers that are not stored, for the client whose request this is.
    for_the_first: HeaderMap,
    /// True if no other request waits for the response.
    is_pass: bool,
    /// True if the last response to such a request could not be stored.
    is_unstorable: bool,
    /// True if no stored response is used, whatever there is.
    is_renewing: bool,
    /// Reason why the response is not stored, whatever it says.
    not_stored: Option<&'static str>,
    /// True if the gateway began this request in the background, without a client.
    pub(super) is_background: bool,
    /// True if the response is a stale copy of the app, which renders a new one.
    is_stale_at_origin: bool,
    /// Number of requests in the background that followed such responses before this one.
    follow_ups: usize,
}
