//! The contract between the gateway and its filters: all that a filter author must read.
//!
//! A filter is compiled once per route from its YAML ([`FilterKind::compile`]) and then
//! acts in the phases that it asked for ([`Filter::phases`]). A phase that no filter of
//! a route asked for costs nothing. See `docs/adding-a-filter.md`.

mod auth;
mod body;
mod cached;
mod client_certificate;
mod compile;
mod exchange;
pub mod host;
mod identity;
mod key;
mod late;
mod phase;
mod reply;
mod request_changes;
mod run;
#[cfg(test)]
pub mod testkit;
#[cfg(test)]
mod tests;

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, response};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    auth::{AuthMetrics, Outcome, Refusal},
    body::Body,
    cached::{CacheFacts, CacheOutcome},
    client_certificate::ClientCertificate,
    compile::{CompileCx, Shared, Work},
    exchange::{
        Certificate, Class, Client, Exchange, Facts, Protocol, ReadyLines, RequestId, Scheme,
    },
    identity::{Claims, Identity, Noted},
    key::KeyBuilder,
    late::{LateFields, LogFields},
    phase::{Phase, Phases},
    reply::{Reply, ReplyBody},
    request_changes::RequestChanges,
    run::{Chain, Named, Round, Turn},
};

/// A boxed future, as the asynchronous hooks return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a filter says of a request.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Go on with the next filter.
    Next,
    /// Answer with this and ask nobody further. The reply passes the response phase,
    /// so it carries security, CORS and request-id headers like any answer.
    Reply(Box<Reply>),
}

/// What a filter protects a path by.
///
/// A route with such a filter is guarded: a request that some app would take for one of its
/// paths is the route's too, however it is spelled (`docs/routing.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// By nothing.
    #[default]
    None,
    /// By how much may be asked of it.
    Limit,
    /// By who may pass, and with what. It is asked for any path that may be one of its own,
    /// even where another route takes the request.
    Access,
}

/// A kind of filter: its YAML key, its configuration as written, and how that compiles.
pub trait FilterKind: 'static {
    /// The YAML key, such as `body_limit`.
    const NAME: &'static str;

    /// On for every route that does not say `NAME: false`, with the configuration of an
    /// empty mapping.
    const ON_BY_DEFAULT: bool = false;

    /// The configuration as written. `deny_unknown_fields`, doc comments (they become
    /// the schema's text), safe defaults; `{}` must be readable if the filter is on by default.
    /// It is written with every default filled in, for `edgeway check --print`, and reads
    /// back as the same.
    type Config: DeserializeOwned + Serialize + JsonSchema;

    type Filter: Filter;

    /// Names of query parameters whose values are secrets by this configuration: the access
    /// log of the route does not write them.
    fn secret_queries(_config: &Self::Config) -> Vec<String> {
        Vec::new()
    }

    /// Checks and compiles. Problems go to `cx` (which goes on to the next filter), and
    /// `None` means that one was reported.
    fn compile(config: Self::Config, cx: &mut CompileCx<'_>) -> Option<Self::Filter>;
}

/// One compiled filter of one route.
///
/// Request phases run in the order of the registry, response phases in the reverse one.
/// Heads come as bare parts, taken out of Pingora's types once for all filters of a phase.
/// A hook with an `_async` twin is called as the one or the other, as
/// [`Filter::phases`] says; hooks that were not asked for are never called.
pub trait Filter: Send + Sync + 'static {
    /// The hooks to call. Asked once, when the route is compiled.
    fn phases(&self) -> Phases;

    /// What it protects its route's paths by. Asked once, when the route is compiled.
    fn guard(&self) -> Guard {
        Guard::None
    }

    /// A filter that does nothing but guard, of one that does more; `None` if it is that
    /// itself. Asked once, when the route is compiled.
    fn guard_alone(&self) -> Option<std::sync::Arc<dyn Filter>> {
        None
    }

    /// Whether this filter's response phase looks at headers that other filters set. Those
    /// may otherwise go past it, as [`ReadyLines`].
    fn needs_every_header(&self) -> bool {
        false
    }

    /// Whether it does so for this answer. Asked only of those that may.
    fn needs_every_header_now(&self, _ex: &Exchange<'_>) -> bool {
        true
    }

    /// Whether this filter is for some of its route's requests only, as [`Filter::is_for`]
    /// tells. Asked once, when the route is compiled.
    fn is_selective(&self) -> bool {
        false
    }

    /// Whether it is for this request: asked once for each, and one that it is not for costs
    /// nothing more. Goes by the head and the client alone, since no filter has run. Where
    /// several filters choose, a hook may be called all the same.
    fn is_for(&self, _ex: &Exchange<'_>) -> bool {
        true
    }

    /// What other parts of the gateway go by that this filter was told, found by its type.
    /// Asked once, when the route is compiled.
    fn extension(&self) -> Option<std::sync::Arc<dyn std::any::Any + Send + Sync>> {
        None
    }

    /// Names of query parameters that were for this filter alone: they are taken out of the
    /// target that goes to the backend. Asked once, when the route is compiled.
    fn dropped_queries(&self) -> &[Box<str>] {
        &[]
    }

    /// Request headers that this filter writes as its own word to a backend: no request of any
    /// route has them before. Asked once, when the route is compiled.
    fn own_headers(&self) -> &[HeaderName] {
        &[]
    }

    /// Request headers that this filter reads to find out who asks, so that they are the
    /// client's to send. Asked once, when the route is compiled.
    fn credential_headers(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// What this filter would look at in such a request, one line each, for
    /// `edgeway explain`. Changes nothing: no counter moves and nobody is asked.
    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        Vec::new()
    }

    /// How many bytes of the body are to be in [`Facts::body`] before this filter's hook of
    /// `phase`, which is [`Phase::Request`] or [`Phase::Authorized`]. Asked only while nobody
    /// has read it.
    fn wants_body(&self, _ex: &Exchange<'_>, _phase: Phase) -> Option<usize> {
        None
    }

    /// Before anything is sent on; may answer.
    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// As [`Filter::on_request`], for those that wait.
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let verdict = self.on_request(ex);
        Box::pin(async move { verdict })
    }

    /// Once every filter of the route has let the request pass, so that
    /// [`Facts::identity`] says who asks; may answer.
    fn on_authorized(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// As [`Filter::on_authorized`], for those that wait.
    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let verdict = self.on_authorized(ex);
        Box::pin(async move { verdict })
    }

    /// The headers that go to the backend, once for each try.
    fn on_upstream(&self, _ex: &mut Exchange<'_>, _headers: &mut HeaderMap) {}

    /// As [`Filter::on_upstream`], for those that wait.
    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream(ex, headers);
        Box::pin(async {})
    }

    /// Headers that this filter's [`Filter::on_upstream`] may change. A stored response that
    /// varies by one of them is found by the value that the backend would get, and that costs
    /// more. Asked once, when the route is compiled, of filters with that phase.
    fn request_changes(&self) -> RequestChanges {
        RequestChanges::Any
    }

    /// Tells that [`Filter::on_upstream`] without its twin does all that will be done to this
    /// request, so that it can be called to see the outcome, again and again. Otherwise no
    /// stored response that varies by a header is for this request.
    fn knows_request_changes(&self, _ex: &Exchange<'_>) -> bool {
        !self.phases().is_async(Phase::Upstream)
    }

    /// The backend's answer, before a cache would store it.
    fn on_upstream_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// As [`Filter::on_upstream_response`], for those that wait.
    fn on_upstream_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream_response(ex, head);
        Box::pin(async {})
    }

    /// The answer to this client: proxied, from a cache, or our own reply.
    fn on_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// As [`Filter::on_response`], for those that wait.
    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_response(ex, head);
        Box::pin(async {})
    }

    /// A reply of our own that reports a failure, before it becomes a head.
    fn on_error(&self, _ex: &mut Exchange<'_>, _reply: &mut Reply) {}

    /// As [`Filter::on_error`], for those that wait.
    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        self.on_error(ex, reply);
        Box::pin(async {})
    }

    /// Another upstream than the route's, by name; the first filter that names one wins.
    fn on_route(&self, _ex: &Exchange<'_>) -> Option<std::sync::Arc<str>> {
        None
    }

    /// Parts that join the cache key.
    fn on_cache_key(&self, _ex: &Exchange<'_>, _key: &mut KeyBuilder) {}

    /// A chunk of the request body; `end` with the last one, which may be empty.
    /// A reply ends the request; it reaches the client only if no answer has begun.
    fn on_request_body(
        &self,
        _ex: &mut Exchange<'_>,
        _chunk: &mut Option<Bytes>,
        _end: bool,
    ) -> Verdict {
        Verdict::Next
    }

    /// A chunk of the response body. Synchronous, as Pingora's hook is.
    fn on_response_body(&self, _ex: &mut Exchange<'_>, _chunk: &mut Option<Bytes>, _end: bool) {}

    /// After the last byte, whatever became of the request.
    ///
    /// What takes time is put into `late`, and a filter that writes a line waits for it there.
    fn on_log(&self, _ex: &Exchange<'_>, _late: &mut Option<LateFields>) {}
}
