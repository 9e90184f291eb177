//! Durations that backends report in `Server-Timing`, such as those of their database, as
//! histograms.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::base::{
    http::{has, list_of, parameters},
    metrics::{Histogram, Metrics},
};

pub(super) const NAME: &str = "edgeway_upstream_server_timing_seconds";

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Histograms of the names that the configuration lists. Any other name is ignored, so backends
/// cannot add series.
#[derive(Clone, Debug)]
pub(crate) struct ServerTiming {
    by_name: Box<[(Arc<str>, Histogram)]>,
}

impl ServerTiming {
    pub(crate) fn new(metrics: &Metrics, upstream: &str, names: &[&str]) -> Self {
        let histogram = |name: &&str| {
            let labels = [("upstream", upstream), ("metric", *name)];
            let help = "Durations that backends report in `Server-Timing`, by the names in `metrics: { server_timing }`.";
            (Arc::from(*name), metrics.histogram(NAME, help, &labels))
        };
        Self {
            by_name: names.iter().map(histogram).collect(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.iter().any(|(own, _)| **own == *name)
    }

    /// Records the durations of a response. Entries of one name are summed: an app that sends one
    /// for each query means all of them.
    pub(crate) fn observe(&self, headers: &HeaderMap) {
        if !has(headers, &SERVER_TIMING) {
            return;
        }
        for (name, histogram) in &self.by_name {
            let durations = list_of(headers, &SERVER_TIMING)
                .filter_map(|entry| duration_of(entry, name.as_bytes()));
            if let Some(millis) = durations.reduce(|a, b| a + b) {
                histogram.observe(millis / 1e3);
            }
        }
    }
}

/// Longest duration that is believed, a day: the sum of a histogram never forgets one.
const MAX_MILLIS: f64 = 24.0 * 60.0 * 60.0 * 1e3;

/// Returns the duration of an entry in milliseconds, if it has this name. Names of metrics are
/// case-sensitive, those of parameters are not, and the first `dur` counts.
fn duration_of(entry: &[u8], name: &[u8]) -> Option<f64> {
    let mut parts = parameters(entry);
    if parts.next()? != name {
        return None;
    }
    let value = parts.find_map(|parameter| {
        let end = parameter.iter().position(|byte| *byte == b'=')?;
        let is_duration = parameter[..end].trim_ascii().eq_ignore_ascii_case(b"dur");
        is_duration.then(|| parameter[end + 1..].trim_ascii())
    })?;
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    let millis: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (0.0..=MAX_MILLIS).contains(&millis).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_browsers_read_them() {
        for (entry, millis) in [
            ("db;dur=53.2", Some(53.2)),
            ("db ; DUR = 7", Some(7.0)),
            ("db;desc=\"a;dur=9\";dur=\"4.5\"", Some(4.5)),
            ("db;dur=1;dur=2", Some(1.0)),
            ("db;desc=x", None),
            ("db", None),
            ("DB;dur=1", None),
            ("dbx;dur=1", None),
            ("db;dur=", None),
            ("db;dur=-1", None),
            ("db;dur=NaN", None),
            ("db;dur=inf", None),
            ("db;dur=1e400", None),
            ("db;dur=1e300", None),
            ("db;dur=86400000", Some(86_400_000.0)),
            ("", None),
        ] {
            assert_eq!(duration_of(entry.as_bytes(), b"db"), millis, "{entry}");
        }
    }

    #[test]
    fn names_that_are_not_listed_add_no_series() {
        let metrics = Metrics::default();
        let timing = ServerTiming::new(&metrics, "web", &["db", "render"]);
        let mut headers = HeaderMap::new();
        for line in [
            "db;dur=100, cache;desc=\"hit, a\";dur=3, db;dur=50",
            "other;dur=1, db;dur=100",
        ] {
            headers.append(SERVER_TIMING.clone(), line.parse().unwrap());
        }
        timing.observe(&headers);
        timing.observe(&HeaderMap::new());
        let text = String::from_utf8(metrics.text()).unwrap();
        let sum = format!("{NAME}_sum{{metric=\"db\",upstream=\"web\"}} 0.25");
        let count = format!("{NAME}_count{{metric=\"db\",upstream=\"web\"}} 1");
        assert!(text.contains(&sum) && text.contains(&count), "{text}");
        assert!(text.contains("metric=\"render\""), "{text}");
        assert!(!text.contains("other") && !text.contains("cache"), "{text}");
    }
}
