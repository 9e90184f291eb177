//! Asks an external service of the operator to authorize each request, and copies headers of its
//! response to the backend.

mod config;
mod gate;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use edgeway_base::{
    clock::Clock,
    error,
    gateway_headers::GatewayHeaders,
    recent_values::{Fingerprint, RecentValues},
    trace_context::TRACEPARENT,
};
use edgeway_core::chain::{
    AsyncFilter, AuthMetrics, BoxFuture, Credential, Exchange, Filter, Guard, Leniency, Outcome,
    Phases, Reply, RequestChanges, Traits, Verdict, host::public_host,
};
use edgeway_net::fetch::{Fetch, FetchError};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use log::{info, warn};

use self::{
    config::Refusals,
    gate::{Gate, GateClosed},
    verdict::{AllowedRequest, NoVerdict, Verdict as AuthVerdict},
};

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Reason of a request that cannot be authorized.
const UNAVAILABLE: &str = "forward_auth_unavailable";
/// Reason of a request that gets no permit to reach the service.
const BUSY: &str = "forward_auth_busy";
/// Reason of a request that the service refuses.
const DENIED: &str = "forward_auth_denied";

/// Maximum response of the service: a page with a refusal, or a login form.
const MAX_RESPONSE_LEN: usize = 64 * 1024;

/// The compiled filter.
#[derive(Debug)]
pub struct ForwardAuth {
    url: Uri,
    /// URL without its query, which may contain a key.
    shown: Box<str>,
    fetch: Fetch,
    /// Gate shared by all routes with this URL.
    gate: Arc<Gate>,
    deadline: Duration,
    /// Request headers that the service gets.
    sent: Box<[HeaderName]>,
    /// Response headers of the service that the backend gets.
    copied: Box<[HeaderName]>,
    /// Names of these headers for the backend.
    given: Box<[HeaderName]>,
    own: GatewayHeaders,
    user: Option<HeaderName>,
    cache: Option<Cache>,
    /// True if requests pass while the service fails.
    is_lenient: bool,
    refusals: Refusals,
    metrics: AuthMetrics,
    clock: Clock,
}

/// Recent verdicts of the service.
#[derive(Debug)]
struct Cache {
    lasts: Duration,
    recent: RecentValues<CachedVerdict>,
}

#[derive(Clone, Debug)]
struct CachedVerdict {
    verdict: AuthVerdict,
    until: Instant,
}

/// Reason why a request has no verdict.
#[derive(Clone, Copy)]
enum VerdictError {
    /// The service fails, or is paused: `on_error` decides.
    Fails,
    /// No permit is free for this request.
    Busy,
    /// The response to this request cannot be interpreted; other requests may get a verdict.
    Unclear,
}

/// Returns false for headers of every client, which a service may want too.
fn says_who(name: &HeaderName) -> bool {
    let of_all = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::ORIGIN,
        header::REFERER,
        header::USER_AGENT,
    ];
    !of_all.contains(name)
}

/// Headers and user that the service returned for this request, for the backend.
struct VerdictHeaders(Arc<AllowedRequest>);

filter_kind!(ForwardAuth: config::ForwardAuthConfig = "forward_auth");

impl Filter for ForwardAuth {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            own_headers: self.own.as_slice().to_vec(),
            credentials: { self.sent.iter() }
                .filter(|name| says_who(name))
                .cloned()
                .map(Credential::sent_on)
                .collect(),
            leniency: Leniency::WhileFailing.when(self.is_lenient),
            request_changes: RequestChanges::names(self.own.names().cloned()),
            ..Traits::new(
                Phases::UPSTREAM.when(!self.copied.is_empty()),
                Guard::Identity,
            )
        }
        .waiting(Phases::REQUEST, self)
    }

    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        let mut lines = vec![format!(
            "asks {} for at most {:?}",
            self.shown, self.deadline
        )];
        let cache = self.cache.as_ref();
        lines.extend(cache.map(|cache| format!("its response is reused for {:?}", cache.lasts)));
        if self.refusals == Refusals::Redirect {
            lines.push("its `Location` turns 401 into a redirect".to_owned());
        }
        if self.is_lenient {
            lines.push("requests pass while the service fails".to_owned());
        }
        lines
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        self.own.strip(headers);
        if let Some(VerdictHeaders(allowed)) = ex.facts.slot() {
            for (name, values) in self.given.iter().zip(&allowed.copied) {
                for value in values {
                    headers.append(name, value.clone());
                }
            }
        }
    }
}

impl AsyncFilter for ForwardAuth {
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let Some(question) = self.question(ex) else {
                return self.unjudged(ex, VerdictError::Unclear);
            };
            let cached = self.cache.as_ref().map(|cache| {
                let fingerprint = Self::fingerprint(cache, &question);
                (cache, fingerprint)
            });
            if let Some((cache, fingerprint)) = cached
                && let Some(entry) = cache.recent.get(fingerprint)
                && self.clock.now() < entry.until
            {
                return self.conclude(ex, entry.verdict);
            }
            let verdict = match self.ask(question, ex.facts.client.ip).await {
                Ok(verdict) => verdict,
                Err(unjudged) => return self.unjudged(ex, unjudged),
            };
            if let Some((cache, fingerprint)) = cached
                && verdict.may_be_cached()
            {
                let entry = CachedVerdict {
                    verdict: verdict.clone(),
                    until: self.clock.now() + cache.lasts,
                };
                cache.recent.insert(fingerprint, entry);
            }
            self.conclude(ex, verdict)
        })
    }
}

impl ForwardAuth {
    /// Builds the request to the service. Forwarding headers of the client are not part of it.
    fn question(&self, ex: &Exchange<'_>) -> Option<Request<()>> {
        let client = &ex.facts.client;
        let method = HeaderValue::from_str(ex.head.method.as_str()).ok()?;
        let target = HeaderValue::from_bytes(ex.sent_target()).ok()?;
        let address = HeaderValue::try_from(client.ip.to_string()).ok()?;
        let (scheme, host) = (client.scheme.as_str(), public_host(ex.head, client));
        let url = [scheme.as_bytes(), b"://", host.as_bytes(), ex.sent_target()].concat();
        let mut request = Request::new(());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        for name in &self.sent {
            if *name == header::COOKIE {
                if let Some(cookies) = cookies(&ex.head.headers) {
                    headers.insert(header::COOKIE, cookies);
                }
                continue;
            }
            for value in ex.head.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(X_FORWARDED_METHOD, method.clone());
        headers.insert(X_ORIGINAL_METHOD, method);
        headers.insert(X_FORWARDED_URI, target.clone());
        headers.insert(X_ORIGINAL_URI, target);
        headers.insert(X_FORWARDED_FOR, address);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        headers.insert(X_FORWARDED_HOST, HeaderValue::from_str(host).ok()?);
        headers.insert(X_ORIGINAL_URL, HeaderValue::try_from(url).ok()?);
        if !ex.facts.request_id.is_empty() {
            headers.insert(X_REQUEST_ID, ex.facts.request_id.header_value());
        }
        if let Some(trace) = ex.facts.trace.as_ref().filter(|trace| trace.is_passed_on) {
            headers.insert(TRACEPARENT, trace.outgoing().header_value());
        }
        Some(request)
    }

    /// Returns a hash of everything that the verdict depends on, which the request id is not.
    fn fingerprint(cache: &Cache, question: &Request<()>) -> Fingerprint {
        let headers = question.headers().iter();
        let lasting = headers.filter(|(name, _)| *name != X_REQUEST_ID && *name != TRACEPARENT);
        let parts = lasting.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        cache.recent.fingerprint(parts)
    }

    async fn ask(
        &self,
        question: Request<()>,
        client: IpAddr,
    ) -> Result<AuthVerdict, VerdictError> {
        let now = || self.clock.now();
        let slot = match self.gate.enter(client, self.deadline * 2, now).await {
            Ok(slot) => slot,
            Err(GateClosed::Rests) => return Err(VerdictError::Fails),
            Err(GateClosed::Full) => return Err(VerdictError::Busy),
        };
        if slot.is_again {
            info!(url = &*self.shown; "authorization service asked again");
        }
        let response = self
            .fetch
            .send(question, self.deadline, MAX_RESPONSE_LEN)
            .await;
        let (problem, is_failure) = match response {
            Ok(response) => match self.verdict(response) {
                Ok(verdict) => {
                    slot.succeeded();
                    return Ok(verdict);
                }
                Err(NoVerdict::Fails(status)) => (format!("it responded with {status}"), true),
                Err(NoVerdict::Unclear(status)) => (format!("it responded with {status}"), false),
            },
            // The response may repeat what the client has sent.
            Err(error @ FetchError::TooLong(_)) => (error::chain(&error), false),
            Err(error) => (error::chain(&error), true),
        };
        if is_failure && slot.failed(now()) {
            warn!(url = &*self.shown, error = problem.as_str(); "authorization service failed, next attempt in a second");
        } else {
            warn!(url = &*self.shown, error = problem.as_str(); "request not authorized: no verdict from the authorization service");
        }
        Err(if is_failure {
            VerdictError::Fails
        } else {
            VerdictError::Unclear
        })
    }

    /// Derives the verdict from a response of the service.
    fn verdict(&self, mut response: Response<Bytes>) -> Result<AuthVerdict, NoVerdict> {
        if self.refusals == Refusals::Redirect
            && response.status() == StatusCode::UNAUTHORIZED
            && response.headers().contains_key(header::LOCATION)
        {
            *response.status_mut() = StatusCode::FOUND;
        }
        AuthVerdict::from_response(response, &self.copied, self.user.as_ref())
    }

    fn conclude(&self, ex: &mut Exchange<'_>, verdict: AuthVerdict) -> Verdict {
        match verdict {
            AuthVerdict::Allowed(allowed) => {
                self.metrics.count(Outcome::Passed);
                // The client was authorized, whether or not its user is known: the backend's
                // response may be for this client alone.
                let identity = ex.facts.identity_mut();
                if let Some(user) = &allowed.user {
                    identity.user = Some(Arc::clone(user));
                }
                if !self.copied.is_empty() {
                    ex.facts.put(VerdictHeaders(allowed));
                }
                Verdict::Next
            }
            AuthVerdict::Denied(denied) => {
                let outcome = denied.outcome();
                let mut reply = match self.refusals {
                    Refusals::Own => denied.own_page(),
                    Refusals::Redirect if outcome != Outcome::Missing => denied.own_page(),
                    Refusals::Passed | Refusals::Redirect => denied.reply(),
                };
                reply.reason = Some(DENIED);
                self.metrics.refuse(ex.facts, outcome, reply, None)
            }
        }
    }

    /// Refuses a request without a verdict. Only a failing service may be skipped
    /// (`on_error: allow`): a problem that one client can cause for its own request never lets it
    /// pass.
    fn unjudged(&self, ex: &mut Exchange<'_>, why: VerdictError) -> Verdict {
        let has_cookie =
            self.sent.contains(&header::COOKIE) && ex.head.headers.contains_key(header::COOKIE);
        let (reason, detail) = match why {
            VerdictError::Fails if self.is_lenient => {
                self.metrics.count(Outcome::Unavailable);
                ex.facts.degraded = Some(UNAVAILABLE);
                if has_cookie {
                    // The response may be for its user alone.
                    ex.facts.identity_mut();
                }
                return Verdict::Next;
            }
            VerdictError::Fails | VerdictError::Unclear => {
                (UNAVAILABLE, "Permissions cannot be checked at the moment.")
            }
            VerdictError::Busy => (BUSY, "Too many permission checks are in progress."),
        };
        let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, reason)
            .detail(detail)
            .retry_after(Duration::from_secs(1));
        self.metrics
            .refuse(ex.facts, Outcome::Unavailable, reply, None)
    }
}

/// Joins all cookies into one line, as in HTTP/1 (RFC 9113, 8.2.3).
fn cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(header::COOKIE).iter();
    let first = lines.next()?;
    let mut joined = first.as_bytes().to_vec();
    for line in lines {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}
