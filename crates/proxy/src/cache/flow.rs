//! Rules that decide if the response to a request at the origin is stored.

use std::time::Instant;

use edgeway_cache::{
    nextjs::{self, RequestShape, StorageRule},
    policy::{
        self, ExchangeTimes, Lifetime, NotStorable, OriginRequest, SentHeaders, Variance, Vary,
    },
    route::PersonalHeaders,
};
use edgeway_gateway::RouteCache;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::RequestHeader;

use crate::{
    context::{Context, Flow},
    forward,
};

/// Reason why the response to a request with a value of `no_store_if` is not stored.
pub(super) const BY_VALUE: &str = "route";
/// Reason why the response to a request with personal cookies is not stored.
pub(super) const COOKIES: &str = "cookies";
/// Reason why a response is not stored that is not requested often enough.
pub(super) const TOO_FEW: &str = "uses";
/// Reason for a response that a plugin's hook failed to handle.
pub(super) const PLUGIN_FAILED: &str = "plugin_failed";

impl Flow {
    /// Returns the `Vary` of responses to this URL, and the variant that this request selects; or
    /// the reason why the variant is unknown.
    pub(super) fn variant(
        &self,
        request: &RequestHeader,
        headers: &HeaderMap,
        ctx: &mut Context,
        cache: &RouteCache,
    ) -> std::result::Result<(Vary, Variance), &'static str> {
        let ignored = cache.rules(self.shape.as_ref()).ignored;
        let vary = Vary::unless_ignored(headers, ignored);
        let mut vary = match &self.shape {
            Some(shape) => nextjs::effective_vary(shape, headers, vary),
            None => vary,
        };
        if cache.coder.is_some() {
            // The origin always gets a request for unencoded bytes, no matter what the client
            // accepts.
            vary = vary.without(&header::ACCEPT_ENCODING);
        }
        let client = SentHeaders::of_client(&self.headers, &cache.unchanged);
        let variance = client.variance(&vary).or_else(|| {
            let sent = forward::sent_headers(request, ctx)?;
            SentHeaders::whole(&sent).variance(&vary)
        });
        Ok((vary, variance.ok_or("vary-unknown")?))
    }

    /// Returns how long this response may be used, or the reason why it is not stored.
    pub(super) fn lifetime(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        times: ExchangeTimes,
        cache: &RouteCache,
    ) -> std::result::Result<Lifetime, &'static str> {
        if let Some(why) = self.not_stored {
            return Err(why);
        }
        let store_as = match &self.shape {
            Some(shape) => nextjs::may_store(shape, status, headers)?,
            None => StorageRule::FromHeaders,
        };
        if self.personal.has_cookies && !policy::is_for_everybody(headers) {
            return Err(COOKIES);
        }
        if self.personal.has_identity && !policy::allows_authorization(headers) {
            return Err(NotStorable::Authorization.reason());
        }
        if self.personal.has_certificate && !policy::is_for_everybody(headers) {
            return Err("certificate");
        }
        let request = OriginRequest {
            method: &Method::GET,
            headers: &self.headers,
            is_named: self.personal.is_named,
        };
        let rules = cache.rules(self.shape.as_ref());
        let lifetime =
            policy::store(request, status, headers, times, rules).map_err(NotStorable::reason)?;
        Ok(match store_as {
            StorageRule::FromHeaders => lifetime,
            StorageRule::AtMost(most) => lifetime.at_most(most),
        })
    }

    /// Stops collapsing of similar requests for a while.
    pub(super) fn pass(&self, cache: &RouteCache, now: Instant) {
        let passes = cache.cache.passes();
        passes.insert(&self.key, self.variance, &self.headers, now);
    }

    /// Returns true if other requests wait for the response.
    pub(super) fn is_for_others(&self) -> bool {
        let personal = PersonalHeaders {
            is_written: false,
            ..self.personal
        };
        personal == PersonalHeaders::default()
            && self.shape.as_ref().is_none_or(RequestShape::may_fill)
    }
}
