//! Contract between the gateway and its filters: everything that a filter author must read.
//!
//! A filter is compiled once per route from its YAML ([`FilterKind::compile`]) and then acts in the
//! phases that it declares ([`Filter::traits`]). A phase that no filter of a route declares costs
//! nothing. See `docs/adding-a-filter.md`.

mod any_of;
mod async_filter;
mod auth;
mod body;
mod cached;
mod client_certificate;
mod compile;
mod credential;
mod exchange;
mod failed_request;
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
mod traits;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, response};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    any_of::{ALTERNATIVES, AnyOf},
    async_filter::AsyncFilter,
    auth::{AuthMetrics, Outcome},
    body::Body,
    cached::{CacheFacts, CacheOutcome},
    client_certificate::ClientCertificate,
    compile::{BackgroundWork, CompileContext, Shared},
    credential::{Credential, CredentialPlace, after_scheme},
    exchange::{
        Certificate, Class, Client, Exchange, KeptApart, Protocol, ReadyLines, RequestFacts,
        RequestId, Scheme, TlsParameters, UpstreamFacts,
    },
    identity::{AuditNote, Claims, Identity},
    key::KeyBuilder,
    late_fields::{LateFields, LogFields},
    logged_request::{FixedFields, LoggedRequest, Text, TlsWords, TraceIds},
    phase::{Phase, Phases},
    reply::{Reply, ReplyBody},
    request_changes::RequestChanges,
    reroute::{PageOfError, RerouteFacts, RouteRequest, RouteTarget, is_whole},
    run::{Chain, HookOutcome, HookProgress},
    trace::{RequestTrace, TraceAttempt, TraceStep, span_id},
    traits::{CompiledFilter, HeaderUse, Leniency, Traits},
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

impl Verdict {
    /// Describes a reply, for a filter's explanation of a request.
    pub fn explain(&self) -> Vec<String> {
        let Self::Reply(reply) = self else {
            return Vec::new();
        };
        let status = reply.status.as_u16();
        vec![match reply.reason {
            Some(reason) => format!("refuses this request: {status} {reason}"),
            None => format!("responds to this request: {status}"),
        }]
    }
}

/// Kind of protection that a filter gives to a path.
///
/// A route with such a filter is guarded: it also gets every request that some app would take for
/// one of its paths, however the path is spelled (`docs/routing.md`).
///
/// Each filter says which it is, and a debug build ends where one that refuses nothing refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Refuses no request before its app gets it.
    #[default]
    Nothing,
    /// May refuse requests, but protects no path.
    Open(OpenRefusals),
    /// Limits how much clients may send: rate, requests in flight, or body size.
    Limit,
    /// Restricts which clients and requests may pass. The filter is called for any path that may be
    /// one of its route's, even if another route takes the request.
    Access,
    /// The same by the identity of the client, which the filter proves.
    Identity,
}

/// Refusals that another spelling of a path may avoid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRefusals {
    /// Preflights: browsers ask whether they may send a request, and apps respond for themselves.
    Preflights,
    /// Responses of code that its configuration does not call a guard.
    ByCode,
}

impl Guard {
    /// Returns true if a route with the filter is guarded.
    pub fn protects(self) -> bool {
        match self {
            Self::Nothing | Self::Open(_) => false,
            Self::Limit | Self::Access | Self::Identity => true,
        }
    }

    /// Returns true if a filter that does not protect its paths may be meant to.
    pub fn may_seem_to_protect(self) -> bool {
        match self {
            Self::Open(OpenRefusals::ByCode) => true,
            Self::Open(OpenRefusals::Preflights)
            | Self::Nothing
            | Self::Limit
            | Self::Access
            | Self::Identity => false,
        }
    }
}

/// A kind of filter: its YAML key, its configuration as written, and its compilation.
pub trait FilterKind: Filter + Sized {
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

    /// Returns the names of query parameters and headers whose values this configuration declares
    /// secret. The access log of the route omits these values.
    fn secret_names(_config: &Self::Config) -> Vec<String> {
        Vec::new()
    }

    /// Checks and compiles the configuration. Problems are reported to `cx` (which continues with
    /// the next filter); `None` means that one was reported, and a filter that reported an error is
    /// dropped.
    fn compile(config: Self::Config, cx: &mut CompileContext<'_>) -> Option<Self>;
}

/// A compiled filter of a route.
///
/// Request phases run in the order of the registry, response phases in reverse order. Response
/// headers are passed as bare parts, taken out of Pingora's types once for all filters of a phase.
/// Hooks that [`Traits::phases`] does not name are never called. A filter that has to wait is an
/// [`AsyncFilter`] too.
pub trait Filter: Send + Sync + 'static {
    /// Returns the properties of the filter. Called once, when the configuration is compiled.
    fn traits(self: Arc<Self>) -> Traits;

    /// Describes the checks this filter would make on such a request, one line each, for
    /// `edgeway explain`. Has no side effects: no counter changes and no other system is queried.
    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Returns true if the filter handles this request.
    ///
    /// Called with [`Phase::Request`] for a filter that is selective ([`Traits::is_selective`]): a
    /// request that it does not handle costs nothing more. No filter has run then, so the request
    /// headers and the client alone decide. With several selective filters, a hook may be called
    /// nevertheless. Called with [`Phase::Response`] before the response phase, for a filter that
    /// needs every header ([`HeaderUse`]).
    fn is_for(&self, _ex: &Exchange<'_>, _phase: Phase) -> bool {
        true
    }

    /// Called before anything is sent on; may reply.
    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// Called once every filter of the route has let the request pass, so that
    /// [`RequestFacts::identity`] is known; may reply.
    fn on_authorized(&self, _ex: &mut Exchange<'_>) -> Verdict {
        Verdict::Next
    }

    /// Changes the headers sent to the backend; called once per attempt.
    fn on_upstream(&self, _ex: &mut Exchange<'_>, _headers: &mut HeaderMap) {}

    /// Changes the backend's response headers, before a cache stores the response.
    fn on_upstream_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// Changes the headers of the response to this client: proxied, from a cache, or a reply.
    fn on_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {}

    /// Changes a reply that reports a failure, before its headers are built, or one of the route's
    /// action with the built-in page, which has no reason.
    fn on_error(&self, _ex: &mut Exchange<'_>, _reply: &mut Reply) {}

    /// Returns the name of an upstream to use in place of the route's; the first filter that names
    /// one wins.
    fn on_route(&self, _ex: &Exchange<'_>) -> Option<Arc<str>> {
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

    /// Called after the last byte, also if the request failed.
    ///
    /// `logged` is the request as logs show it. Slow work goes into `late`, and a filter that writes a
    /// log line waits for it there.
    fn on_log(
        &self,
        _ex: &Exchange<'_>,
        _logged: &LoggedRequest<'_>,
        _late: &mut Option<LateFields>,
    ) {
    }
}
