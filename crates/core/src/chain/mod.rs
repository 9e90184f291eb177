//! Contract between the gateway and its filters: everything that a filter author must read.
//!
//! A filter is compiled once per route from its YAML ([`FilterKind::compile`]) and then acts in the
//! phases that it declares ([`Filter::phases`]). A phase that no filter of a route declares costs
//! nothing. See `docs/adding-a-filter.md`.

mod any_of;
mod auth;
mod body;
mod cached;
mod client_certificate;
mod compile;
mod exchange;
pub mod host;
mod identity;
mod key;
mod late_fields;
mod logged_request;
mod phase;
mod reply;
mod request_changes;
mod reroute;
mod run;
#[doc(hidden)]
pub mod testkit;
#[cfg(test)]
mod tests;
mod trace;

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, response};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    any_of::{ALTERNATIVES, AnyOf},
    auth::{AuthMetrics, Outcome, Refusal},
    body::Body,
    cached::{CacheFacts, CacheOutcome},
    client_certificate::ClientCertificate,
    compile::{BackgroundWork, CompileContext, Shared},
    exchange::{
        Certificate, Class, Client, Exchange, Protocol, ReadyLines, RequestFacts, RequestId,
        Scheme, TlsParameters, UpstreamFacts,
    },
    identity::{AuditNote, Claims, Identity},
    key::KeyBuilder,
    late_fields::{LateFields, LogFields},
    logged_request::{FixedFields, LoggedRequest, Text, TlsWords, TraceIds},
    phase::{Phase, Phases},
    reply::{Reply, ReplyBody},
    request_changes::RequestChanges,
    reroute::{PageOfError, RerouteFacts, RouteRequest, RouteTarget, is_whole},
    run::{Chain, HookOutcome, HookProgress, Named},
    trace::{RequestTrace, TraceAttempt, TraceStep, span_id},
};

/// A boxed future, the return type of the asynchronous hooks.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decision of a filter about a request.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Continue with the next filter.
    Next,
    /// Send this reply and call no further filter. The reply passes the response phase, so it
    /// carries security, CORS and request-id headers like any response.
    Reply(Box<Reply>),
}

/// Kind of protection that a filter gives to a path.
///
/// A route with such a filter is guarded: it also gets every request that some app would take for
/// one of its paths, however the path is spelled (`docs/routing.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// No protection.
    #[default]
    None,
    /// Limits how much clients may send: rate, requests in flight, or body size.
    Limit,
    /// Restricts which clients and requests may pass. The filter is called for any path that may be
    /// one of its route's, even if another route takes the request.
    Access,
}

/// A kind of filter: its YAML key, its configuration as written, and its compilation.
pub trait FilterKind: 'static {
    /// The YAML key, such as `body_limit`.
    const NAME: &'static str;

    /// True if the filter is on for every route without `NAME: false`; its configuration is then an
    /// empty mapping.
    const ON_BY_DEFAULT: bool = false;

    /// The configuration as written, with `deny_unknown_fields`, doc comments (they become the
    /// schema's text) and safe defaults; `{}` must be valid if the filter is on by default.
    /// `edgeway check --print` prints it with every default filled in, and the output parses to the
    /// same configuration.
    type Config: DeserializeOwned + Serialize + JsonSchema;

    type Filter: Filter;

    /// Returns the names of query parameters whose values this configuration declares secret. The
    /// access log of the route omits these values.
    fn secret_queries(_config: &Self::Config) -> Vec<String> {
        Vec::new()
    }

    /// Checks and compiles the configuration. Problems are reported to `cx` (which continues with
    /// the next filter); `None` means that one was reported.
    fn compile(config: Self::Config, cx: &mut CompileContext<'_>) -> Option<Self::Filter>;
}

/// A compiled filter of a route.
///
/// Request phases run in the order of the registry, response phases in reverse order. Response
/// headers are passed as bare parts, taken out of Pingora's types once for all filters of a phase.
/// For a hook with an `_async` twin, one of the two is called, as [`Filter::phases`] specifies;
/// hooks that are not declared are never called.
pub trait Filter: Send + Sync + 'static {
    /// Returns the hooks to call. Called once, when the route is compiled.
    fn phases(&self) -> Phases;

    /// Returns the protection of its route's paths. Called once, when the route is compiled.
    fn guard(&self) -> Guard {
        Guard::None
    }

    /// Returns a filter with the guard alone, for a filter that does more than guard; `None` if
    /// this filter can be used as the guard itself. Called once, when the route is compiled.
    fn guard_alone(&self) -> Option<std::sync::Arc<dyn Filter>> {
        None
    }

    /// Returns true if the response phase of this filter reads headers that other filters set.
    /// Otherwise these may bypass it as [`ReadyLines`].
    fn needs_every_header(&self) -> bool {
        false
    }

    /// Returns true if the filter does so for this response. Called only if `needs_every_header` is
    /// true.
    fn needs_every_header_now(&self, _ex: &Exchange<'_>) -> bool {
        true
    }

    /// Returns true if the response phase of this filter changes nothing, and has to see the headers
    /// that the client gets: it runs after those of all other filters.
    fn observes_response(&self) -> bool {
        false
    }

    /// Returns true if this filter handles only some requests of its route, as decided by
    /// [`Filter::is_for`]. Called once, when the route is compiled.
    fn is_selective(&self) -> bool {
        false
    }

    /// Returns true if the filter handles this request. Called once per request; a request that the
    /// filter does not handle costs nothing more. Decides by the request headers and the client
    /// alone, since no filter has run yet. With several selective filters, a hook may be called
    /// nevertheless.
    fn is_for(&self, _ex: &Exchange<'_>) -> bool {
        true
    }

    /// Returns true if the filter changes `Location` itself, so that the gateway leaves a backend's
    /// own address in it. Called once, when the route is compiled.
    fn replaces_location(&self) -> bool {
        false
    }

    /// Returns true if the filter replaces error responses of backends in any phase. Called once,
    /// when the route is compiled.
    fn replaces_errors(&self) -> bool {
        false
    }

    /// Returns true if [`Filter::intercept`] may replace a response of a backend. Called once, when
    /// the route is compiled.
    fn may_intercept(&self) -> bool {
        false
    }

    /// Returns a reply in place of an error response of a backend, before a cache stores it. Called
    /// for statuses from 400 on. `is_bare`: the response has no body, and gets none from the
    /// filters of bodies.
    fn intercept(
        &self,
        _ex: &mut Exchange<'_>,
        _status: StatusCode,
        _headers: &HeaderMap,
        _is_bare: bool,
    ) -> Option<Box<Reply>> {
        None
    }

    /// Returns true if [`Filter::page_route`] may return a route. Called once, when the route is
    /// compiled.
    fn has_page_routes(&self) -> bool {
        false
    }

    /// Returns the route that has the page of an error, which a backend sent or the gateway itself.
    fn page_route(
        &self,
        _ex: &Exchange<'_>,
        _status: StatusCode,
        _is_of_backend: bool,
    ) -> Option<RouteRequest> {
        None
    }

    /// Returns configuration of this filter that other parts of the gateway use, looked up by its
    /// type. Called once, when the route is compiled.
    fn extension(&self) -> Option<std::sync::Arc<dyn std::any::Any + Send + Sync>> {
        None
    }

    /// Returns the names of query parameters meant for this filter alone; they are removed from the
    /// target sent to the backend. Called once, when the route is compiled.
    fn dropped_queries(&self) -> &[Box<str>] {
        &[]
    }

    /// Returns the request headers that only this filter may set for a backend; they are removed
    /// from requests of every route before. Called once, when the route is compiled.
    fn own_headers(&self) -> &[HeaderName] {
        &[]
    }

    /// Returns the request headers that this filter reads to identify the client, so that clients
    /// may send them. Called once, when the route is compiled.
    fn credential_headers(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Describes the checks this filter would make on such a request, one line each, for
    /// `edgeway explain`. Has no side effects: no counter changes and no other system is queried.
    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Returns the number of body bytes to read into [`RequestFacts::body`] before this filter's hook of
    /// `phase`, which is [`Phase::Request`] or [`Phase::Authorized`]. Called only while the body is
    /// unread.
    fn wants_body(&self, _ex: &Exchange<'_>, _phase: Phase) -> Option<usize> {
        None
    }

    /// Called before anything is sent on; may reply.
    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// Async variant of [`Filter::on_request`], for filters that wait.
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let verdict = self.on_request(ex);
        Box::pin(async move { verdict })
    }

    /// Called once every filter of the route has let the request pass, so that [`RequestFacts::identity`]
    /// is known; may reply.
    fn on_authorized(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// Async variant of [`Filter::on_authorized`], for filters that wait.
    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let verdict = self.on_authorized(ex);
        Box::pin(async move { verdict })
    }

    /// Changes the headers sent to the backend; called once per attempt.
    fn on_upstream(&self, _ex: &mut Exchange<'_>, _headers: &mut HeaderMap) {}

    /// Async variant of [`Filter::on_upstream`], for filters that wait.
    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream(ex, headers);
        Box::pin(async {})
    }

    /// Returns the headers that this filter's [`Filter::on_upstream`] may change. A stored response
    /// that varies by one of them is looked up by the value that the backend would get, which costs
    /// more. Called once, when the route is compiled, for filters with that phase.
    fn request_changes(&self) -> RequestChanges {
        RequestChanges::Any
    }

    /// Returns true if [`Filter::on_upstream`] without its twin makes every change to this request,
    /// so that it can be called repeatedly to preview the outcome. Otherwise no stored response
    /// that varies by a header is used for this request.
    fn knows_request_changes(&self, _ex: &Exchange<'_>) -> bool {
        !self.phases().is_async(Phase::Upstream)
    }

    /// Returns true if a cache key need not hold what [`Filter::on_upstream`] writes: it is the same for
    /// all requests, or an id of each, or [`Filter::on_cache_key`] adds it. Otherwise the headers that it
    /// writes become part of the key, and a request whose changes are not known in advance bypasses the
    /// cache. Called once, when the route is compiled, for filters with that phase.
    fn is_keyed_without(&self) -> bool {
        let is_declared = !matches!(self.request_changes(), RequestChanges::Any);
        is_declared && self.own_headers().is_empty()
    }

    /// Changes the backend's response headers, before a cache stores the response.
    fn on_upstream_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// Async variant of [`Filter::on_upstream_response`], for filters that wait.
    fn on_upstream_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream_response(ex, head);
        Box::pin(async {})
    }

    /// Changes the headers of the response to this client: proxied, from a cache, or a reply.
    fn on_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// Async variant of [`Filter::on_response`], for filters that wait.
    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_response(ex, head);
        Box::pin(async {})
    }

    /// Changes a reply that reports a failure, before its headers are built, or one of the route's
    /// action with the built-in page, which has no reason.
    fn on_error(&self, _ex: &mut Exchange<'_>, _reply: &mut Reply) {}

    /// Async variant of [`Filter::on_error`], for filters that wait.
    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        self.on_error(ex, reply);
        Box::pin(async {})
    }

    /// Returns the name of an upstream to use in place of the route's; the first filter that names
    /// one wins.
    fn on_route(&self, _ex: &Exchange<'_>) -> Option<std::sync::Arc<str>> {
        None
    }

    /// Adds parts to the cache key.
    fn on_cache_key(&self, _ex: &Exchange<'_>, _key: &mut KeyBuilder) {}

    /// Handles a chunk of the request body; `end` is set with the last chunk, which may be empty. A
    /// reply ends the request; it reaches the client only if no response has begun.
    fn on_request_body(
        &self,
        _ex: &mut Exchange<'_>,
        _chunk: &mut Option<Bytes>,
        _end: bool,
    ) -> Verdict {
        Verdict::Next
    }

    /// Handles a chunk of the response body. Synchronous, as Pingora's hook is.
    fn on_response_body(&self, _ex: &mut Exchange<'_>, _chunk: &mut Option<Bytes>, _end: bool) {}

    /// Returns true if [`Filter::on_response_body`] need not see the body of this response, and would
    /// leave it as it is. Called after the response phase.
    fn ignores_body(&self, _ex: &Exchange<'_>) -> bool {
        false
    }

    /// Called after the last byte, also if the request failed.
    ///
    /// `logged` is the request as logs show it. Slow work goes into `late`, and a filter that writes a log line waits for it there.
    fn on_log(
        &self,
        _ex: &Exchange<'_>,
        _logged: &LoggedRequest<'_>,
        _late: &mut Option<LateFields>,
    ) {
    }
}
