//! Runs one filter from its YAML against requests, without sockets.
//!
//! ```text
//! check::<Methods>("[GET]").get("/").request("POST", "/").expect([200, 405]);
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here fails the test that uses it"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::host::normalise_host;
use super::{
    BackgroundWork, Body, Chain, Class, Client, CompileContext, CompiledFilter, Exchange, Filter,
    FilterKind, Guard, HookOutcome, HookProgress, Identity, KeyBuilder, LoggedRequest, Phases,
    Reply, RequestFacts, Shared, Traits, Verdict,
};
use crate::{
    base::{clock::Clock, metrics::Metrics, units::Span},
    config::{
        diagnostic::{Diagnostics, Place},
        tree,
    },
    open_headers::{OpenRequestHeaders, OpenResponseHeaders},
    registry,
    zones::Zones,
};

/// Hands over a list without filters, unless another test of the process has handed one over.
pub fn without_filters() {
    let _is_there = registry::register(&[], []);
}

/// A filter under test, and the responses so far.
pub struct FilterCheck {
    chain: Chain,
    pub clock: Clock,
    pub metrics: Metrics,
    client: Client,
    class: Class,
    identity: Option<Identity>,
    responses: Vec<TestResponse>,
    /// The fake backend.
    backend: Backend,
    behind: Arc<AtomicU16>,
}

/// A filter behind the one under test that refuses every request with a status, unless the status
/// is 0.
struct RefusingFilter(Arc<AtomicU16>);

impl Filter for RefusingFilter {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST, Guard::Limit)
    }

    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        match StatusCode::from_u16(self.0.load(Ordering::Relaxed)) {
            Ok(status) => Reply::refuse(status, "behind").into(),
            Err(_) => Verdict::Next,
        }
    }
}

/// A fake backend.
struct Backend {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<Bytes>,
}

/// Result of one request.
#[derive(Debug)]
pub struct TestResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Length of the body so far after each chunk of the backend.
    pub flushed: Vec<usize>,
    /// Request that the backend got; `None` if the filter replied.
    pub upstream: Option<RequestHeader>,
    pub reason: Option<&'static str>,
    /// True if the refusal counts towards a ban.
    pub is_strike: bool,
}

/// Compiles `yaml` as the configuration of `K`.
#[track_caller]
pub fn check<K: FilterKind>(yaml: &str) -> FilterCheck {
    check_with::<K>(yaml, |_, _| {})
}

/// Compiles `yaml` as [`check`] does, with the shared values that `share` adds.
#[track_caller]
pub fn check_with<K: FilterKind>(
    yaml: &str,
    share: impl FnOnce(&mut CompileContext<'_>, &mut Shared),
) -> FilterCheck {
    let (check, diagnostics) = compile::<K>(yaml, share);
    let Some(check) = check else {
        panic!("`{yaml}` was refused: {diagnostics:#?}");
    };
    check
}

/// Returns the warnings about a `yaml` that `K` accepts.
#[track_caller]
pub fn warnings<K: FilterKind>(yaml: &str) -> Vec<String> {
    let (check, diagnostics) = compile::<K>(yaml, |_, _| {});
    assert!(check.is_some(), "`{yaml}` was refused: {diagnostics:#?}");
    let messages = diagnostics
        .list()
        .iter()
        .map(|diagnostic| diagnostic.message.clone());
    messages.collect()
}

/// Returns the messages with which `K` refuses `yaml`.
#[track_caller]
pub fn refused<K: FilterKind>(yaml: &str) -> Vec<String> {
    refused_with::<K>(yaml, |_, _| {})
}

/// Returns the messages as [`refused`] does, with the shared values that `share` adds.
#[track_caller]
pub fn refused_with<K: FilterKind>(
    yaml: &str,
    share: impl FnOnce(&mut CompileContext<'_>, &mut Shared),
) -> Vec<String> {
    let (check, diagnostics) = compile::<K>(yaml, share);
    assert!(check.is_none(), "`{yaml}` was accepted");
    diagnostics
        .list()
        .iter()
        .map(|d| match &d.help {
            Some(help) => format!("{}; help: {help}", d.message),
            None => d.message.clone(),
        })
        .collect()
}

fn compile<K: FilterKind>(
    yaml: &str,
    share: impl FnOnce(&mut CompileContext<'_>, &mut Shared),
) -> (Option<FilterCheck>, Diagnostics) {
    let (clock, metrics, zones) = (Clock::test(), Metrics::default(), Zones::default());
    let mut diagnostics = Diagnostics::default();
    let config = tree::parse(yaml, 0, &mut diagnostics)
        .and_then(|node| tree::read::<K::Config>(&node, &mut diagnostics));
    let (none, mut shared) = (Shared::default(), Shared::default());
    let upstreams = ["web".to_owned(), "api".to_owned()];
    let (mut work, mut also) = (BackgroundWork::default(), BackgroundWork::default());
    let mut cx = CompileContext {
        place: Place::default(),
        route: "test",
        folder: Path::new("."),
        upstreams: &upstreams,
        secret_names: &[],
        clock: &clock,
        metrics: &metrics,
        zones: &zones,
        shared: &none,
        work: &mut work,
        referenced: &mut crate::config::source::ReferencedFiles::default(),
        diagnostics: &mut diagnostics,
    };
    share(&mut cx, &mut shared);
    let mut cx = CompileContext {
        shared: &shared,
        work: &mut also,
        referenced: &mut crate::config::source::ReferencedFiles::default(),
        diagnostics: cx.diagnostics,
        ..cx
    };
    let filter = config.and_then(|config| cx.checked(|cx| K::compile(config, cx))?);
    let behind = Arc::default();
    let check = filter.map(|filter| FilterCheck {
        chain: Chain::new(vec![
            CompiledFilter::new(K::NAME, Arc::new(filter)),
            CompiledFilter::new("behind", Arc::new(RefusingFilter(Arc::clone(&behind)))),
        ]),
        behind,
        clock,
        metrics,
        client: Client::default(),
        class: Class::default(),
        identity: None,
        responses: Vec::new(),
        backend: Backend {
            status: 200,
            headers: vec![("content-type".into(), "text/plain".into())],
            body: vec![Bytes::from_static(b"ok")],
        },
    });
    (check, diagnostics)
}

impl FilterCheck {
    /// Changes the client of the requests that follow.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(&mut Client)) -> Self {
        change(&mut self.client);
        self
    }

    /// Sets the class of the requests that follow.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Sets the identity that clients of the requests that follow have proven before the filter
    /// runs.
    #[must_use]
    pub fn identity(mut self, identity: Option<Identity>) -> Self {
        self.identity = identity;
        self
    }

    /// Makes a filter behind this one refuse requests with `status` from now on; 0 turns that off.
    #[must_use]
    pub fn refused_behind(self, status: u16) -> Self {
        self.behind.store(status, Ordering::Relaxed);
        self
    }

    /// Sets the backend's response from now on, with one chunk for each item of `body`.
    #[must_use]
    pub fn backend(mut self, status: u16, headers: &[(&str, &str)], body: &[&[u8]]) -> Self {
        self.backend = Backend {
            status,
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            body: body
                .iter()
                .map(|chunk| Bytes::copy_from_slice(chunk))
                .collect(),
        };
        self
    }

    #[must_use]
    pub fn advance(self, span: &str) -> Self {
        let by: Duration = span.parse::<Span>().expect("a span").0;
        self.clock.advance(by);
        self
    }

    #[must_use]
    pub fn get(self, path: &str) -> Self {
        self.send("GET", path, &[], &[])
    }

    #[must_use]
    pub fn request(self, method: &str, path: &str) -> Self {
        self.send(method, path, &[], &[])
    }

    /// Sends one request, with headers and a body in chunks.
    #[must_use]
    pub fn send(
        mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[&[u8]],
    ) -> Self {
        let mut request = RequestHeader::build(
            Method::from_bytes(method.as_bytes()).expect("a method"),
            path.as_bytes(),
            None,
        )
        .expect("a request line");
        for (name, value) in headers {
            request
                .append_header((*name).to_owned(), *value)
                .expect("a header");
        }
        normalise_host(&mut request, &Client::default());
        let response = run(self.exchange(request, body));
        self.responses.push(response);
        self
    }

    /// Compares the statuses of all requests since the last `expect`.
    #[track_caller]
    #[expect(
        clippy::return_self_not_must_use,
        reason = "it ends most tests, and goes on in some"
    )]
    pub fn expect<const N: usize>(mut self, statuses: [u16; N]) -> Self {
        let seen: Vec<u16> = self.responses.drain(..).map(|a| a.status).collect();
        assert_eq!(seen, statuses);
        self
    }

    /// Returns the last response.
    #[track_caller]
    pub fn last(&self) -> &TestResponse {
        self.responses.last().expect("a request was sent")
    }

    /// Returns the filter's part of the cache key for a GET with these headers, which must pass.
    #[track_caller]
    pub fn key(&self, headers: &[(&'static str, &str)]) -> KeyBuilder {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a head");
        for (name, value) in headers {
            request.append_header(*name, *value).expect("a header");
        }
        let mut facts = RequestFacts::new(self.clock.now());
        let mut ex = Exchange {
            head: &request,
            facts: &mut facts,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut round = HookProgress::default();
        let turn = runtime.block_on(self.chain.on_request(&mut ex, &mut round));
        assert!(
            matches!(turn, HookOutcome::Over(Verdict::Next)),
            "it did not pass"
        );
        let mut key = KeyBuilder::default();
        self.chain.on_cache_key(&ex, &mut key);
        key
    }

    async fn exchange(&self, request: RequestHeader, body: &[&[u8]]) -> TestResponse {
        let mut facts = RequestFacts::new(self.clock.now());
        facts.client = self.client.clone();
        facts.class = self.class;
        facts.identity = self.identity.clone().map(Box::new);
        let mut ex = Exchange {
            head: &request,
            facts: &mut facts,
        };
        let mut round = HookProgress::default();
        loop {
            match self.chain.on_request(&mut ex, &mut round).await {
                HookOutcome::Over(Verdict::Next) => break,
                HookOutcome::Over(Verdict::Reply(reply)) => {
                    return self.reply(&mut ex, *reply).await;
                }
                HookOutcome::Body(most) => {
                    let bytes = body.concat();
                    ex.facts.body = if bytes.len() <= most {
                        Body::Whole(bytes.into())
                    } else {
                        Body::TooLong
                    };
                }
            }
        }
        let mut upstream = request.clone();
        let mut open = OpenRequestHeaders::take(&mut upstream, 0);
        self.chain.on_upstream(&mut ex, open.headers()).await;
        open.close(&mut upstream);
        if let Some(reply) = ex.facts.refused.take() {
            return self.reply(&mut ex, *reply).await;
        }
        for (index, chunk) in body.iter().enumerate() {
            let mut chunk = Some(Bytes::copy_from_slice(chunk));
            let end = index + 1 == body.len();
            if let Verdict::Reply(reply) = self.chain.on_request_body(&mut ex, &mut chunk, end) {
                return self.reply(&mut ex, *reply).await;
            }
        }
        let mut response = ResponseHeader::build(self.backend.status, None).expect("a status");
        for (name, value) in &self.backend.headers {
            response
                .append_header(name.clone(), value.as_str())
                .expect("a header");
        }
        ex.facts.upstream.status = self.backend.status;
        let mut open = OpenResponseHeaders::take(&mut response, 0);
        self.chain
            .on_upstream_response(&mut ex, &mut open.parts)
            .await;
        self.chain.on_response(&mut ex, &mut open.parts).await;
        open.close(&mut response);
        let (mut out, mut flushed) = (Vec::new(), Vec::new());
        for (index, chunk) in self.backend.body.iter().enumerate() {
            let mut chunk = Some(chunk.clone());
            let end = index + 1 == self.backend.body.len();
            self.chain.on_response_body(&mut ex, &mut chunk, end);
            out.extend_from_slice(&chunk.unwrap_or_default());
            flushed.push(out.len());
        }
        self.chain.on_log(&ex, &LoggedRequest::new(&ex));
        TestResponse {
            status: response.status.as_u16(),
            headers: response.headers.clone(),
            body: out,
            flushed,
            upstream: Some(upstream),
            reason: facts.why(),
            is_strike: is_strike(&facts),
        }
    }

    /// Sends a reply through the response phase as `proxy/reply.rs` does.
    async fn reply(&self, ex: &mut Exchange<'_>, mut reply: Reply) -> TestResponse {
        self.chain.on_error(ex, &mut reply).await;
        let mut response = ResponseHeader::build(
            StatusCode::from_u16(reply.status.as_u16()).expect("a status"),
            None,
        )
        .expect("a status");
        for (name, value) in &reply.headers {
            response
                .append_header(name.clone(), value.clone())
                .expect("a header");
        }
        if let super::ReplyBody::Bytes {
            content_type: Some(content_type),
            ..
        } = &reply.body
        {
            response
                .insert_header("content-type", content_type.clone())
                .expect("a header");
        }
        let mut open = OpenResponseHeaders::take(&mut response, 0);
        self.chain.on_response(ex, &mut open.parts).await;
        open.close(&mut response);
        self.chain.on_log(ex, &LoggedRequest::new(ex));
        TestResponse {
            status: response.status.as_u16(),
            headers: response.headers.clone(),
            body: match reply.body {
                super::ReplyBody::Bytes { body, .. } => body.to_vec(),
                super::ReplyBody::Empty | super::ReplyBody::Page { .. } => Vec::new(),
            },
            flushed: Vec::new(),
            upstream: None,
            reason: reply.reason,
            is_strike: is_strike(ex.facts),
        }
    }
}

fn is_strike(facts: &RequestFacts) -> bool {
    facts.noted.as_ref().is_some_and(|noted| noted.is_strike)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
