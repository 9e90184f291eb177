//! Sets the storing rules of a route's responses, and their TTL in addition to the origin's. The
//! lookup of stored responses is part of `proxy`; this filter only adds the cache headers to
//! responses.

mod config;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;

use edgeway_cache::{
    policy::{self, CacheStatus, Forward, SURROGATE_CONTROL, Served},
    route::{RouteCachePolicy, TAGS},
};
use edgeway_core::chain::{
    CacheFacts, CacheOutcome, CompileContext, Exchange, Filter, FilterKind, Guard, KeyBuilder,
    Phases, Traits,
};
use http::{HeaderName, HeaderValue, StatusCode, response};

pub use self::values::RequestValues;

const X_CACHE_STATUS: HeaderName = HeaderName::from_static("x-cache-status");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The compiled filter.
pub struct Cache(Arc<CompiledCache>);

/// Compiled settings of a route's cache, most of which the gateway applies.
#[derive(Debug)]
pub struct CompiledCache {
    pub policy: Arc<RouteCachePolicy>,
    /// Absent if no value of a request matters.
    pub values: Option<RequestValues>,
}

impl FilterKind for Cache {
    const NAME: &'static str = "cache";
    type Config = config::RouteCacheConfig;

    fn compile(config: config::RouteCacheConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let values = cx.checked(|cx| RequestValues::compile(&config, cx))?;
        let policy = Arc::new(config.compile(cx)?);
        Some(Self(Arc::new(CompiledCache { policy, values })))
    }
}

impl Filter for Cache {
    fn traits(self: Arc<Self>) -> Traits {
        let values = self.0.values.as_ref();
        let key = Phases::CACHE_KEY.when(values.is_some_and(RequestValues::are_in_key));
        Traits {
            extension: Some(Arc::clone(&self.0) as _),
            ..Traits::new(Phases::RESPONSE | key, Guard::Nothing)
        }
    }

    fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        if let Some(values) = &self.0.values {
            values.add_to_key(ex, key);
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let Some(facts) = &ex.facts.cache else {
            return;
        };
        if let Some(ttl) = self.0.policy.browser_ttl
            && facts.outcome != CacheOutcome::Bypass
            && (head.status.is_success() || head.status == StatusCode::NOT_MODIFIED)
        {
            policy::browser(&mut head.headers, ttl, facts.age.unwrap_or_default());
        }
        head.headers.remove(SURROGATE_CONTROL);
        // Stored responses have lost these headers already.
        if facts.origin_status != 0 && !facts.is_stored {
            for name in &TAGS {
                head.headers.remove(name);
            }
        }
        head.headers.insert(
            X_CACHE_STATUS,
            HeaderValue::from_static(facts.outcome.name()),
        );
        head.headers.append(CACHE_STATUS, status(facts).value());
    }
}

/// Translates the result of the cache into the terms of RFC 9211.
fn status(facts: &CacheFacts) -> CacheStatus<'static> {
    let forward = match facts.why {
        Some("method") => Forward::Method,
        Some("vary-miss") => Forward::VaryMiss,
        Some("request") => Forward::Request,
        _ => match facts.outcome {
            CacheOutcome::Bypass => Forward::Bypass,
            CacheOutcome::Expired | CacheOutcome::Revalidated | CacheOutcome::Stale => {
                Forward::Stale
            }
            CacheOutcome::Hit | CacheOutcome::Miss => Forward::UriMiss,
        },
    };
    let served = match facts.outcome {
        CacheOutcome::Hit => Served::Hit,
        CacheOutcome::Stale if facts.origin_status == 0 && facts.why.is_none() => Served::Hit,
        _ => Served::Forward(forward),
    };
    let detail = facts.why.filter(|why| *why != forward.word());
    CacheStatus {
        forward_status: (facts.origin_status != 0).then_some(facts.origin_status),
        ttl: facts.ttl,
        is_stored: facts.is_stored,
        is_collapsed: facts.is_collapsed,
        detail,
        ..CacheStatus::new(served)
    }
}
