//! Decision what happens to a request before it goes to a backend.

use std::sync::Arc;

use edgeway_cache::store::Entry;
use edgeway_core::chain::{HookProgress, Reply, RouteRequest};
use edgeway_files::FileResponse;

use super::Flow;

/// Course of a request. The filters and the cache decide before any part of the request is
/// read or a response is written.
pub(crate) enum Decision {
    /// A reply of the gateway.
    Reply(Box<Reply>),
    /// A stored response. With a flow it is revalidated in the background.
    Stored(Arc<Entry>, Option<Box<Flow>>),
    /// A file.
    File(Box<FileResponse>),
    /// Forwarding to a backend. With a flow the response may fill the cache.
    GoesOn(Option<Box<Flow>>),
    /// Leading to another route.
    Reroute(Box<RouteRequest>),
    /// Reading this many bytes of the body, which the next filter needs.
    NeedsBody(usize, HookProgress),
    /// Reading the beginning of the body, which tells the release that the request belongs to. All
    /// filters have passed it.
    NeedsBeginning,
}
