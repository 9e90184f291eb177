//! Extracts the parts of a request that a route's cache uses. Serving and explaining requests share
//! this code.

use std::{sync::Arc, time::SystemTime};

use edgeway_base::{
    query,
    signature::{SIGNATURE_INPUT, has_signed_headers},
};
use edgeway_cache::{
    key::Key,
    nextjs::{self, NextRules, RequestShape},
    policy::{self, CacheRules, Lifetime, RequestDirectives, Usability},
    route::PersonalHeaders,
    store::EntryRules,
};
use edgeway_core::chain::{
    Certificate, Chain, Exchange, KeyBuilder, Phase,
    host::{forwarded_port, public_host, requested_host},
};
use edgeway_core_filters::{cache::RequestValues, plugins::has_returned_key};
use edgeway_routes::Target;
use http::{HeaderMap, Method, header};

use super::RouteCache;

/// Presence of the headers that the cache uses. One pass costs less than a lookup of each.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a header's presence")]
struct CacheHeaders {
    /// True if the client sent a precondition beyond a check of its copy. Only the origin can
    /// evaluate it.
    has_precondition: bool,
    has_wants: bool,
    has_cookies: bool,
    has_authorization: bool,
    has_signature: bool,
    is_range: bool,
}

impl CacheHeaders {
    fn from_headers(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match *name {
                header::IF_MATCH | header::IF_UNMODIFIED_SINCE => seen.has_precondition = true,
                header::CACHE_CONTROL | header::PRAGMA => seen.has_wants = true,
                header::AUTHORIZATION => seen.has_authorization = true,
                header::COOKIE => seen.has_cookies = true,
                header::RANGE => seen.is_range = true,
                _ => seen.has_signature |= *name == SIGNATURE_INPUT,
            }
        }
        seen
    }
}

/// Request that the store may serve.
pub struct RecognisedRequest {
    pub key: Key,
    /// Kind of the request to Next.js, where its rules apply.
    pub shape: Option<RequestShape>,
    pub personal: PersonalHeaders,
    pub wants: RequestDirectives,
    pub is_range: bool,
    /// True if a value of the request sends it to the origin whatever is stored (`bypass_if`).
    pub is_renewing: bool,
    /// True if a value of the request forbids to store its response (`no_store_if`).
    pub is_not_stored: bool,
}

/// Adds key parts for what the origin learns of a client beyond scheme and host: that a certificate
/// was requested, and what a trusted proxy reports about the address.
fn trust_class(ex: &Exchange<'_>, parts: &mut KeyBuilder) {
    let client = &ex.facts.client;
    match client.certificate {
        Certificate::NotAsked => {}
        Certificate::Absent => parts.part("client certificate", b"none"),
        Certificate::Verified(_) => parts.part("client certificate", b"verified"),
    }
    if !client.is_trusted {
        return;
    }
    // The origin gets both: `Host` as received, and the host in the browser's address bar.
    let (named, public) = (requested_host(ex.head), public_host(ex.head, client));
    if named != public.as_bytes() {
        parts.part("host", named);
    }
    if let Some(port) = forwarded_port(ex.head, client) {
        parts.part("port", port.as_bytes());
    }
}

impl RouteCache {
    /// Extracts the cache-relevant parts of a request to `upstream`, or returns the reason for a
    /// bypass. `rewritten` is the target after the route's rewrite, for apps whose rules use it.
    pub fn recognise(
        &self,
        ex: &mut Exchange<'_>,
        upstream: Option<&str>,
        rewritten: Option<&[u8]>,
        chain: &Chain,
    ) -> Result<RecognisedRequest, &'static str> {
        let head = ex.head;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err("method");
        }
        let mut parts = KeyBuilder::roomy();
        let mut shape = None;
        match (&self.key_parts, upstream) {
            (Some(own), Some(upstream)) if own.is_of(upstream) => parts.framed(&own.parts),
            _ => self.identity.put(upstream, &mut parts),
        }
        if let Some(rules) = upstream.and_then(|upstream| self.nextjs(upstream)) {
            // The target sent to the app decides its response.
            let raw = ex.facts.rewritten.as_deref().or(rewritten);
            let target = Target::new("", raw.unwrap_or_else(|| head.raw_path()));
            let (path, query) = (target.path, target.query);
            let (method, headers) = (&head.method, &head.headers);
            let release = ex.facts.release.as_deref();
            let shape = shape.insert(nextjs::shape(method, path, query, headers, rules, release));
            if let Some(why) = shape.bypass() {
                return Err(why);
            }
            shape.key_parts(&mut parts);
        }
        let policy = &self.policy;
        if policy.bypass(ex).is_some() {
            return Err("route");
        }
        let seen = CacheHeaders::from_headers(&head.headers);
        if seen.has_precondition {
            return Err("precondition");
        }
        let query = head.uri.query();
        if seen.has_signature
            || (seen.has_authorization || query.is_some())
                && has_signed_headers(&head.headers, query)
        {
            // The cache asks the origin with other conditions and encodings than the client.
            return Err("signed");
        }
        if self.is_unclear(&head.headers, &seen) {
            return Err("unclear");
        }
        let (mut is_renewing, mut is_not_stored) = (false, false);
        if let Some(values) = self.values() {
            if values.are_unclear(ex) {
                return Err("unclear");
            }
            is_renewing = values.bypass(ex);
            is_not_stored = values.forbid_storing(ex);
            if is_renewing && is_not_stored && !policy.fetches_whole {
                return Err("route");
            }
        }
        if chain.has(Phase::CacheKey) {
            chain.on_cache_key(ex, &mut parts);
        }
        let has_written = chain.key_what_is_written(ex, &mut parts);
        let has_written = has_written.ok_or("written-unknown")?;
        let by_cookies = shape
            .as_ref()
            .is_some_and(RequestShape::is_decided_by_cookies);
        // A request of the gateway's own has only those cookies that `key.by` names.
        let by_values = || {
            let values = self.values();
            values.is_some_and(RequestValues::are_keyed_by_cookies) || has_returned_key(ex)
        };
        let by_cookies = by_cookies || (seen.has_cookies && by_values());
        let is_written = self.written.put(ex, &mut parts) || has_written || by_cookies;
        let client = &ex.facts.client;
        if client.certificate != Certificate::NotAsked || client.is_trusted {
            trust_class(ex, &mut parts);
        }
        let has_certificate = matches!(client.certificate, Certificate::Verified(_));
        let is_anybodys = !seen.has_authorization
            && !seen.has_cookies
            && ex.facts.identity.is_none()
            && !has_certificate;
        let personal = if is_anybodys {
            PersonalHeaders::default()
        } else {
            policy.personal(ex)
        };
        let canonical = shape.as_ref().and_then(RequestShape::query);
        Ok(RecognisedRequest {
            key: policy.key.key(ex, parts, canonical)?,
            shape,
            personal: PersonalHeaders {
                is_written,
                ..personal
            },
            is_range: seen.is_range,
            is_renewing,
            is_not_stored,
            wants: match (seen.has_wants, &policy.client_directives) {
                (false, _) => RequestDirectives::default(),
                (true, None) => RequestDirectives::parse(&head.headers).without_demands(),
                (true, Some(_)) => RequestDirectives::parse(&head.headers),
            },
        })
    }

    /// Returns true if it is unclear which values an origin uses: the request has cookies that
    /// frameworks split in different ways, and some cookies matter; or it has a header that this
    /// route lets pass and that is in no key.
    fn is_unclear(&self, headers: &HeaderMap, seen: &CacheHeaders) -> bool {
        (self.goes_by_cookies && seen.has_cookies && !query::are_cookies_clear(headers))
            || self.passing.iter().any(|name| headers.contains_key(name))
    }

    /// Returns the rules of Next.js for this upstream, if they apply.
    pub fn nextjs(&self, upstream: &str) -> Option<&NextRules> {
        self.upstream(upstream)?.nextjs.as_ref()
    }

    /// Decides how a stored response may be used.
    pub fn usable(
        &self,
        lifetime: &Lifetime,
        wants: &RequestDirectives,
        now: SystemTime,
    ) -> Usability {
        if self.cache.must_validate(lifetime) {
            Usability::Validate
        } else {
            policy::judge(lifetime, wants, now)
        }
    }

    /// Returns this route's settings for a response that did not come from its origin.
    pub fn about(&self) -> EntryRules {
        EntryRules {
            route: Arc::clone(&self.stored),
            tags: Box::default(),
            is_compressible: self.coder.is_some(),
        }
    }

    /// Returns the route's rules besides the origin's headers, for requests of this kind.
    pub fn rules(&self, shape: Option<&RequestShape>) -> &CacheRules {
        self.policy.rules(shape.is_some())
    }
}
