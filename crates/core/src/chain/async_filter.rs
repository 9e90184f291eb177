//! Asynchronous variants of hooks, for filters that wait.

use std::future::ready;

use http::{HeaderMap, response};

use super::{BoxFuture, Exchange, Filter, Phase, Reply, Verdict};

/// A filter that waits in some phases, as given to [`Traits::waiting`](super::Traits::waiting). In
/// these phases the hooks here are called in place of their variants in [`Filter`].
pub trait AsyncFilter: Filter {
    /// Returns the number of body bytes to read into
    /// [`RequestFacts::body`](super::RequestFacts::body) before the hook of `phase`, which is
    /// [`Phase::Request`] or [`Phase::Authorized`]. Called only while the body is unread.
    fn wants_body(&self, _ex: &Exchange<'_>, _phase: Phase) -> Option<usize> {
        None
    }

    /// Returns true if [`Filter::on_upstream`] makes every change to this request, so that it can be
    /// called repeatedly to preview the outcome. Otherwise no stored response that varies by a header
    /// is used for this request.
    fn knows_request_changes(&self, _ex: &Exchange<'_>) -> bool {
        false
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(ready(self.on_request(ex)))
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(ready(self.on_authorized(ex)))
    }

    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream(ex, headers);
        Box::pin(ready(()))
    }

    fn on_upstream_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream_response(ex, head);
        Box::pin(ready(()))
    }

    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_response(ex, head);
        Box::pin(ready(()))
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        self.on_error(ex, reply);
        Box::pin(ready(()))
    }
}
