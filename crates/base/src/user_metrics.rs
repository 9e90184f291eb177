//! Metrics whose names are known only at run time: those of plugins, bounded in number, next to the
//! gateway's own.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use prometheus::{Counter, Histogram, HistogramOpts, Opts, core::Collector, proto::MetricFamily};

use super::metrics::{IntCounter, Metrics, SECONDS};

/// Prefix that sets them apart from the gateway's own. It is in two pieces because it is not a
/// metric itself.
const PREFIX: &str = concat!("edgeway", "_plugin_user_");
const HELP: &str = "Counted by plugins.";
/// Label that names the owner.
const OWNER: &str = "plugin";

/// Limit on series of one owner; each takes some kilobytes, including its readers.
const MAX_SERIES: usize = 100;
const MAX_LABELS: usize = 8;
const MAX_NAME_LEN: usize = 64;
const MAX_VALUE_LEN: usize = 128;

/// The metrics of one plugin.
#[derive(Debug)]
pub struct UserMetrics {
    owner: String,
    state: Mutex<State>,
    /// Counter of values beyond the limit.
    refused: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    families: BTreeMap<String, Family>,
    series: usize,
    has_warned: bool,
}

#[derive(Debug)]
struct Family {
    kind: UserKind,
    /// Sorted label names, the same for all series.
    labels: Vec<String>,
    series: HashMap<Vec<String>, Series>,
}

crate::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum UserKind => name {
        Counter = "counter",
        Histogram = "histogram",
    }
}

#[derive(Debug)]
enum Series {
    Counter(Counter),
    Histogram(Histogram),
}

impl Default for UserMetrics {
    /// Metrics without an owner, which are not exported.
    fn default() -> Self {
        Self::new("", &Metrics::default())
    }
}

impl UserMetrics {
    /// Creates the metrics of `owner`, exported with `metrics` for as long as they are held.
    pub fn new(owner: &str, metrics: &Metrics) -> Self {
        Self {
            owner: owner.to_owned(),
            state: Mutex::default(),
            refused: metrics.counter(
                "edgeway_plugin_metrics_refused_total",
                "Values of plugin metrics that were dropped, because a plugin has at most 100 series.",
                &[(OWNER, owner)],
            ),
        }
    }

    /// Counts a value; beyond the limit it is dropped, with one line in the log.
    ///
    /// # Errors
    /// Fails with the reason if the metric is invalid.
    pub fn count(
        &self,
        kind: UserKind,
        name: &str,
        mut labels: Vec<(String, String)>,
        value: f64,
    ) -> Result<(), String> {
        check(kind, name, &labels, value)?;
        labels.sort();
        let (names, values): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("`{name}` has a label twice"));
        }
        let state = &mut *self.state.lock();
        if let Some(known) = state.families.get(name) {
            if known.kind != kind {
                return Err(format!("`{name}` is already a {}", known.kind.name()));
            }
            if known.labels != names {
                let labels = known.labels.join("`, `");
                return Err(format!("`{name}` has only these labels: `{labels}`"));
            }
        }
        let family = state.families.get(name);
        if let Some(known) = family.and_then(|family| family.series.get(&values)) {
            known.count(value);
            return Ok(());
        }
        if state.series >= MAX_SERIES {
            self.refused.inc();
            if !std::mem::replace(&mut state.has_warned, true) {
                log::warn!(plugin = &*self.owner, metric = name; "plugin exceeds 100 metric series, the others are not counted");
            }
            return Ok(());
        }
        let labels = names.iter().cloned().zip(values.iter().cloned());
        let labels = labels.chain([(OWNER.to_owned(), self.owner.clone())]);
        let series = Series::new(kind, name, labels.collect())?;
        series.count(value);
        state.series += 1;
        let family = state
            .families
            .entry(name.to_owned())
            .or_insert_with(|| Family {
                kind,
                labels: names,
                series: HashMap::new(),
            });
        family.series.insert(values, series);
        Ok(())
    }

    /// Returns the families as the text format expects them, one for each name.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let state = self.state.lock();
        let series = state.families.values().flat_map(|f| f.series.values());
        series.flat_map(Series::collect).collect()
    }
}

impl Series {
    fn new(kind: UserKind, name: &str, labels: HashMap<String, String>) -> Result<Self, String> {
        let full_name = match kind {
            UserKind::Counter => format!("{PREFIX}{name}_total"),
            UserKind::Histogram => format!("{PREFIX}{name}"),
        };
        let opts = Opts::new(full_name, HELP).const_labels(labels);
        let metric = match kind {
            UserKind::Counter => Counter::with_opts(opts).map(Self::Counter),
            UserKind::Histogram => {
                let opts = HistogramOpts::from(opts).buckets(SECONDS.to_vec());
                Histogram::with_opts(opts).map(Self::Histogram)
            }
        };
        metric.map_err(|error| format!("cannot register the metric `{name}`: {error}"))
    }

    fn count(&self, value: f64) {
        match self {
            Self::Counter(counter) => counter.inc_by(value),
            Self::Histogram(histogram) => histogram.observe(value),
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self {
            Self::Counter(counter) => counter.collect(),
            Self::Histogram(histogram) => histogram.collect(),
        }
    }
}

fn check(
    kind: UserKind,
    name: &str,
    labels: &[(String, String)],
    value: f64,
) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!(
            "invalid metric name `{name}`; write one such as `logins`"
        ));
    }
    // Suffixes that the gateway and the text format append would be ambiguous.
    let reserved = ["_total", "_bucket", "_sum", "_count"];
    if let Some(end) = reserved.iter().find(|end| name.ends_with(**end)) {
        return Err(format!(
            "invalid metric name `{name}`: it must not end with `{end}`"
        ));
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("`{name}` has more than {MAX_LABELS} labels"));
    }
    for (label, value) in labels {
        if !is_name(label) || label.starts_with("__") || [OWNER, "le"].contains(&&**label) {
            return Err(format!("invalid label name `{label}`"));
        }
        if value.len() > MAX_VALUE_LEN {
            return Err(format!(
                "the value of label `{label}` of `{name}` is longer than {MAX_VALUE_LEN} bytes"
            ));
        }
    }
    let is_right = value.is_finite() && (value >= 0.0 || kind == UserKind::Histogram);
    if !is_right {
        return Err(format!("`{name}` cannot count {value}"));
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_LEN
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Merges series of the same name into one family.
pub(super) fn merge(all: impl IntoIterator<Item = MetricFamily>) -> Vec<MetricFamily> {
    let mut by_name: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for mut family in all {
        match by_name.get_mut(family.name()) {
            Some(known) => known.mut_metric().append(family.mut_metric()),
            None => {
                by_name.insert(family.name().to_owned(), family);
            }
        }
    }
    by_name.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn two() -> (Metrics, [Arc<UserMetrics>; 2]) {
        let metrics = Metrics::default();
        let users = ["a", "b"].map(|name| Arc::new(UserMetrics::new(name, &metrics)));
        for user in &users {
            metrics.serve_too(user);
        }
        (metrics, users)
    }

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.text()).unwrap()
    }

    #[test]
    fn two_plugins_share_a_name_and_have_their_own_series() {
        let (metrics, [a, b]) = two();
        let (counter, histogram) = (UserKind::Counter, UserKind::Histogram);
        a.count(counter, "logins", labels(&[("how", "form")]), 1.0)
            .unwrap();
        a.count(counter, "logins", labels(&[("how", "form")]), 2.0)
            .unwrap();
        b.count(counter, "logins", labels(&[("how", "a\"\n")]), 1.0)
            .unwrap();
        b.count(histogram, "waited", Vec::new(), 0.002).unwrap();
        let page = text(&metrics);
        for line in [
            "edgeway_plugin_user_logins_total{how=\"form\",plugin=\"a\"} 3",
            "edgeway_plugin_user_logins_total{how=\"a\\\"\\n\",plugin=\"b\"} 1",
            "edgeway_plugin_user_waited_bucket{plugin=\"b\",le=\"0.0025\"} 1",
            "edgeway_plugin_user_waited_count{plugin=\"b\"} 1",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}: {page}");
        }
        let head = "# TYPE edgeway_plugin_user_logins_total counter";
        assert_eq!(page.matches(head).count(), 1, "{page}");
        drop(b);
        assert!(!text(&metrics).contains("plugin_user_waited"));
    }

    #[test]
    fn invalid_metrics_are_reported_and_excess_ones_are_counted() {
        let (metrics, [a, _b]) = two();
        let counter = UserKind::Counter;
        for (name, pairs, value) in [
            ("no name", &[][..], 1.0),
            ("", &[], 1.0),
            ("x_total", &[], 1.0),
            ("x", &[("plugin", "b")], 1.0),
            ("x", &[("le", "1")], 1.0),
            ("x", &[("a-b", "1")], 1.0),
            ("x", &[("a", "1"), ("a", "2")], 1.0),
            ("x", &[], -1.0),
            ("x", &[], f64::NAN),
        ] {
            let counted = a.count(counter, name, labels(pairs), value);
            assert!(counted.is_err(), "{name} {pairs:?} {value}");
        }
        a.count(counter, "x", labels(&[("n", "0")]), 1.0).unwrap();
        let other = a.count(UserKind::Histogram, "x", labels(&[("n", "0")]), 1.0);
        assert!(other.unwrap_err().contains("is already a counter"));
        assert!(a.count(counter, "x", labels(&[("m", "0")]), 1.0).is_err());
        for n in 0..150 {
            let labels = labels(&[("n", &n.to_string())]);
            a.count(counter, "x", labels, 1.0).unwrap();
        }
        let page = text(&metrics);
        let series = page.matches("edgeway_plugin_user_x_total{").count();
        assert_eq!(series, MAX_SERIES);
        let refused = "edgeway_plugin_metrics_refused_total{plugin=\"a\"} 50\n";
        assert!(page.contains(refused), "{page}");
    }
}
