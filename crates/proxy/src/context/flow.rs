//! Cache state of a request.

use std::{sync::Arc, time::SystemTime};

use edgeway_cache::{
    key::Key,
    nextjs::RequestShape,
    policy::{RequestDirectives, Variance},
    route::PersonalHeaders,
    store::{Entry, LogMark},
};
use http::HeaderMap;

/// Cache state of a request that goes to the origin.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Flow {
    pub(crate) key: Key,
    pub(crate) wants: RequestDirectives,
    pub(crate) personal: PersonalHeaders,
    /// Kind of the request to Next.js, where its rules apply.
    pub(crate) shape: Option<RequestShape>,
    /// Request headers of the client, by which its response is judged.
    pub(crate) headers: Arc<HeaderMap>,
    /// Request headers that the origin would get, if they were needed to select a variant.
    pub(crate) sent: Option<Arc<HeaderMap>>,
    /// Arrival time of the request. A response generated after it is as good as its own.
    pub(crate) came: SystemTime,
    /// Time of the last request to the origin.
    pub(crate) asked: SystemTime,
    /// Mark taken before the request to the origin: later purges also apply to its response.
    pub(crate) mark: LogMark,
    /// Stored response that was found but may not be used as it is.
    pub(crate) stored: Option<Arc<Entry>>,
    /// Variant that the request selects, as far as the `Vary` of the key's responses is known.
    pub(crate) variance: Option<Variance>,
    /// Headers of a 304 from the origin.
    pub(crate) confirmed: Option<HeaderMap>,
    /// Response headers that are not stored, for the client whose request this is.
    pub(crate) for_the_first: HeaderMap,
    /// True if no other request waits for the response.
    pub(crate) is_pass: bool,
    /// True if the last response to such a request could not be stored.
    pub(crate) is_unstorable: bool,
    /// True if no stored response is used, whatever there is.
    pub(crate) is_renewing: bool,
    /// Reason why the response is not stored, whatever it says.
    pub(crate) not_stored: Option<&'static str>,
    /// True if the gateway began this request in the background, without a client.
    pub(crate) is_background: bool,
    /// True if the client has changed something since the stored response was made.
    pub(crate) has_changed: bool,
    /// True if what is stored stays out of date after this request: the response is a stale copy of
    /// the app, which renders a new one, or for this client alone.
    pub(crate) is_out_of_date: bool,
    /// Number of requests in the background that were made for that before this one.
    pub(crate) follow_ups: usize,
}
