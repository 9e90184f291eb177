//! Figures of the status that come from metrics.

use std::time::{Duration, SystemTime};

use edgeway_base::{clock::rfc3339, metrics::Metrics};
use edgeway_status::snapshot::{CacheStatus, CertificateExpiry, LimitStatus};

/// Returns the expiry of all certificates, the next one first.
pub(super) fn expiries(metrics: &Metrics) -> Vec<CertificateExpiry> {
    let mut expiries = Vec::new();
    metrics.each_gauge(
        "edgeway_certificate_expiry_timestamp_seconds",
        |series, at| {
            let text = |label| series.get(label).unwrap_or_default().to_owned();
            let since = Duration::from_secs(u64::try_from(at).unwrap_or(0));
            expiries.push(CertificateExpiry {
                expires: rfc3339(SystemTime::UNIX_EPOCH + since),
                listener: text("listener"),
                name: text("name"),
            });
        },
    );
    expiries.sort();
    expiries
}

/// Returns the listeners that serve a certificate although the one on disk is unusable.
pub(super) fn unusable_certificates(metrics: &Metrics) -> Vec<String> {
    let mut listeners = Vec::new();
    metrics.each_gauge(
        "edgeway_certificate_last_reload_success",
        |series, is_well| {
            if is_well == 0 {
                listeners.extend(series.get("listener").map(str::to_owned));
            }
        },
    );
    listeners.sort();
    listeners
}

/// Returns the counts of all rate limits, sorted by name.
pub(super) fn limits(metrics: &Metrics) -> Vec<LimitStatus> {
    let mut limits = std::collections::BTreeMap::<String, LimitStatus>::new();
    metrics.each_counter("edgeway_rate_limit_total", |series, count| {
        let name = series.get("limit").unwrap_or_default();
        let limit = limits.entry(name.to_owned()).or_default();
        match series.get("action") {
            Some("passed") => limit.passed += count,
            Some("delayed") => limit.delayed += count,
            Some("refused") => limit.refused += count,
            _ => limit.exempt += count,
        }
    });
    metrics.each_counter("edgeway_rate_limit_store_errors_total", |series, count| {
        let name = series.get("limit").unwrap_or_default();
        limits.entry(name.to_owned()).or_default().without_redis += count;
    });
    let named = |(name, limit)| LimitStatus { name, ..limit };
    limits.into_iter().map(named).collect()
}

/// Returns the figures of the cache's memory.
pub(super) fn cache(metrics: &Metrics) -> CacheStatus {
    let gauge = |name| {
        let mut total = 0;
        metrics.each_gauge(name, |_, value| total = value);
        u64::try_from(total).unwrap_or(0)
    };
    let mut evictions = 0;
    metrics.each_counter("edgeway_cache_evictions_total", |_, count| {
        evictions = count;
    });
    CacheStatus {
        objects: gauge("edgeway_cache_objects"),
        bytes: gauge("edgeway_cache_bytes"),
        budget_bytes: gauge("edgeway_cache_budget_bytes"),
        evictions,
    }
}
