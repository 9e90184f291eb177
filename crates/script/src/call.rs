//! Call of one hook on one request: input, pending operations, and output.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use url::{Position, Url};

use super::{
    body::Body, context_facts::ContextFacts, error::Failure, fetch_loop::CDN_LOOP,
    header_changes::is_singleton,
};
use crate::base::{
    known_secrets::KnownSecrets,
    target::{Slashes, join, normalise},
    trace_context::TraceContext,
};

edgeway_base::enum_table! {
    /// Hooks that a plugin may export.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Hook => name {
        Request = "onRequest",
        CacheKey = "onCacheKey",
        Route = "onRoute",
        UpstreamRequest = "onUpstreamRequest",
        UpstreamResponse = "onUpstreamResponse",
        Response = "onResponse",
        Error = "onError",
        Log = "onLog",
    }
}

impl Hook {
    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Data that a hook may read.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub method: Method,
    /// URL as the client sees it.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Body,
    /// `None` in a trial that sets none.
    pub ip: Option<IpAddr>,
    pub request_id: String,
    pub route: String,
    pub known: ContextFacts,
    /// Status and headers of the response, for hooks that run after one exists.
    pub response: Option<(StatusCode, HeaderMap)>,
    /// Reason why the request failed, for `onError`: a fixed word.
    pub reason: Option<Cow<'static, str>>,
    /// Log entry of the request, for `onLog`: a JSON object.
    pub entry: Option<String>,
    /// Trace that requests of `fetch` belong to; `None` if traces are not exported.
    pub trace: Option<TraceContext>,
}

/// Header changes that a hook made, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange {
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    Delete(HeaderName),
}

impl HeaderChange {
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::Delete(name) => name,
        }
    }

    pub fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::Append(name, value) if !is_singleton(&name) => {
                headers.append(name, value);
            }
            Self::Set(name, value) | Self::Append(name, value) => {
                headers.insert(name, value);
            }
            Self::Delete(name) => {
                headers.remove(name);
            }
        }
    }
}

/// Response that a plugin made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Return value of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum HookResult {
    #[default]
    Nothing,
    Response(Box<Response>),
    /// New target to continue with (`NextResponse.rewrite`).
    Rewrite(String),
    /// A name, or a part of a cache key.
    Text(String),
    /// JSON, for `onLog`.
    Json(String),
}

/// Returns path and query of a URL that a request is rewritten to, on the same origin. `base` is
/// the request's URL, or its origin. The result is in normal form, like every target sent to a
/// backend.
pub fn rewritten(base: &str, url: &str, slashes: Slashes) -> Result<Box<[u8]>, Failure> {
    let parsed = Url::parse(base).ok().zip(Url::parse(url).ok());
    match parsed {
        // Compared by origin as browsers do: a client may write its host in many ways.
        Some((base, to)) if base.origin() == to.origin() => {
            let target = &to[Position::BeforePath..Position::AfterQuery];
            match normalise(target.as_bytes(), slashes) {
                Ok(normal) => Ok(join(&normal.path, normal.query).into()),
                Err(why) => Err(Failure::script(format!(
                    "a request cannot be rewritten to {}: {why}",
                    to.path()
                ))),
            }
        }
        _ => {
            let base = parsed.map_or_else(
                || base.to_owned(),
                |(base, _)| base.origin().ascii_serialization(),
            );
            // Its query may have a credential of the client.
            let url = url.split(['?', '#']).next().unwrap_or_default();
            Err(Failure::script(format!(
                "a request can only be rewritten to another path of {base}, not to {url}: use \
                 onRoute for another upstream"
            )))
        }
    }
}

/// Returns true if a URL can have this host and port.
pub fn is_of_url(host: &str) -> bool {
    // Most hosts are names without a port. A number at the end would be an address.
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_name = last.starts_with(|c: char| c.is_ascii_lowercase());
    if is_name && host.bytes().all(is_plain) && !host.contains("xn--") {
        return true;
    }
    Url::parse(&format!("http://{host}/")).is_ok()
}

/// Result of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub result: HookResult,
    /// Changes to the request headers and to the response headers.
    pub request: Vec<HeaderChange>,
    pub response: Vec<HeaderChange>,
    /// New status, if the hook set one.
    pub status: Option<StatusCode>,
}

/// Operation that a hook waits for, with the number of its promise.
pub(super) struct PendingOperation {
    pub(super) id: u32,
    pub(super) work: Pin<Box<dyn Future<Output = OperationResult> + Send>>,
}

/// All operations that a hook waits for. When the hook ends or is given up, nothing will ever
/// settle the promises of the rest: the engine must drop them.
pub(super) struct PendingOperations {
    pub(super) all: Vec<PendingOperation>,
    /// Promise whose result is ready but not yet in the engine.
    pub(super) settling: Option<u32>,
    forgotten: DroppedPromises,
}

/// Numbers of promises that an instance must drop.
pub(super) type DroppedPromises = Arc<Mutex<Vec<u32>>>;

impl Drop for PendingOperations {
    fn drop(&mut self) {
        if !self.all.is_empty() || self.settling.is_some() {
            let left = self.all.iter().map(|waiting| waiting.id);
            self.forgotten.lock().extend(left.chain(self.settling));
        }
    }
}

/// Result of an operation: JSON for the promise, or the reason of its rejection.
pub(super) type OperationResult = Result<String, String>;

/// State of a hook outside the engine.
pub(super) struct Call {
    pub(super) id: u32,
    pub(super) input: Input,
    /// Request headers and response headers as the hook sees and changes them.
    pub(super) heads: [HeaderMap; 2],
    /// Lines of `CDN-Loop`, whatever the plugin makes of its headers.
    pub(super) way: Vec<HeaderValue>,
    pub(super) changes: [Vec<HeaderChange>; 2],
    /// Credentials in headers of the request that the hook has changed.
    pub(super) replaced: KnownSecrets,
    pub(super) status: Option<StatusCode>,
    pub(super) waiting: PendingOperations,
    /// Set once the hook is over.
    pub(super) outcome: Option<Result<HookResult, Failure>>,
    /// CPU time used so far.
    pub(super) used: Duration,
    /// CPU time of the thread while a hook that waits was in the engine.
    pub(super) held: Duration,
    /// Number of times that the hook entered the engine.
    pub(super) entries: u32,
    /// Number of pending `ctx.waitUntil` promises, and why one was rejected.
    pub(super) promises: u32,
    pub(super) rejection: Option<Failure>,
    /// True once the hook is over while its promises go on: it can change nothing any more.
    pub(super) is_background: bool,
}

impl Call {
    pub(super) fn new(id: u32, mut input: Input, forgotten: DroppedPromises) -> Self {
        let request = std::mem::take(&mut input.headers);
        let response = input
            .response
            .as_mut()
            .map(|(_, headers)| std::mem::take(headers));
        Self {
            id,
            input,
            way: request.get_all(CDN_LOOP).iter().cloned().collect(),
            heads: [request, response.unwrap_or_default()],
            changes: Default::default(),
            replaced: KnownSecrets::default(),
            status: None,
            waiting: PendingOperations {
                all: Vec::new(),
                settling: None,
                forgotten,
            },
            outcome: None,
            used: Duration::ZERO,
            held: Duration::ZERO,
            entries: 0,
            promises: 0,
            rejection: None,
            is_background: false,
        }
    }

    /// Returns true if nothing is left to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some() || (self.is_background && self.promises == 0)
    }

    pub(super) fn output(&mut self, result: HookResult) -> Output {
        let [request, response] = std::mem::take(&mut self.changes);
        Output {
            result,
            request,
            response,
            status: self.status,
        }
    }
}

/// Waits until one of these operations completes.
pub(super) async fn first(waiting: &mut Vec<PendingOperation>) -> (u32, OperationResult) {
    poll_fn(|cx| poll_first(waiting, cx)).await
}

fn poll_first(
    waiting: &mut Vec<PendingOperation>,
    cx: &mut Context<'_>,
) -> Poll<(u32, OperationResult)> {
    for index in 0..waiting.len() {
        if let Poll::Ready(settled) = waiting[index].work.as_mut().poll(cx) {
            let done = waiting.swap_remove(index);
            return Poll::Ready((done.id, settled));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_do_not_reach_the_engine_are_dropped_as_well() {
        let forgotten = DroppedPromises::default();
        let mut waits = PendingOperations {
            all: Vec::new(),
            settling: Some(7),
            forgotten: Arc::clone(&forgotten),
        };
        let work = Box::pin(std::future::pending());
        waits.all.push(PendingOperation { id: 8, work });
        drop(waits);
        assert_eq!(*forgotten.lock(), [8, 7]);
    }
}
