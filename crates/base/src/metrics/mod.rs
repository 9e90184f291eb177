//! Prometheus families, registered once and handed out as ready handles.
//!
//! Handles are made when a configuration is compiled, so counting on the request path is one atomic
//! addition. Label values come from the configuration or from a closed set, never from a client.
//!
//! Series of names from a configuration end with it: [`Metrics::retain`] drops the series of names
//! that no longer exist. Handles to them still count, but are not exported.

mod exemplars;
mod exposition;
mod family;
mod handles;
mod process;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, TextEncoder,
    core::Collector as _,
    proto::{LabelPair, Metric, MetricFamily, MetricType},
};
pub use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use self::{exemplars::Exemplars, family::Family};
pub use self::{
    exemplars::{TraceId, TracedHistogram},
    exposition::Exposition,
};
pub use super::system::resident_memory;
use super::{
    clock::Clock,
    user_metrics::{self, UserMetrics},
};

/// Latency buckets in seconds: half a millisecond to half a minute.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The metrics of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// True if the process itself is described as well.
    has_process: AtomicBool,
    /// Metrics whose names plugins choose.
    users: Mutex<Vec<Weak<UserMetrics>>>,
}

#[derive(Debug, Default)]
struct State {
    families: HashMap<&'static str, Family>,
    /// Allowed values of restricted labels, since the first [`Metrics::retain`].
    known: HashMap<&'static str, HashSet<String>>,
    /// Exemplars by family, then by the labels of the series, sorted by name.
    exemplars: HashMap<&'static str, HashMap<SeriesLabels, Arc<Exemplars>>>,
}

type SeriesLabels = Vec<(String, String)>;

/// Description of a family, without its series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FamilyInfo {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

/// A series, passed to [`Metrics::retain`] to decide whether it stays.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    pub family: &'a str,
    labels: &'a [LabelPair],
}

impl<'a> Series<'a> {
    /// Returns the value of a label, if the series has that label.
    pub fn get(&self, label: &str) -> Option<&'a str> {
        let pair = self.labels.iter().find(|pair| pair.name() == label)?;
        Some(pair.value())
    }
}

type Labels<'a> = &'a [(&'static str, &'a str)];

/// Makes the methods that return handles of one type each.
macro_rules! handles {
    ($($(#[$doc:meta])* $method:ident: $handle:ident = $family:ident($vec:ident), $what:literal;)*) => {
        $($(#[$doc])*
        pub fn $method(
            &self,
            name: &'static str,
            help: &'static str,
            labels: Labels<'_>,
        ) -> $handle {
            let (names, values) = split(labels);
            let make = || {
                let family = $vec::new(Opts::new(name, help), &names);
                Family::$family(family.expect("static name and labels"))
            };
            self.series(name, labels, make, |family| match family {
                Family::$family(vec) => vec.with_label_values(&values),
                _ => unreachable!("{name} is not a {}", $what),
            })
        })*
    };
}

impl Metrics {
    /// Allows series with this value of a label from now on.
    pub fn admit(&self, label: &'static str, value: &str) {
        let mut state = self.0.state.lock();
        if let Some(values) = state.known.get_mut(label) {
            values.insert(value.to_owned());
        }
    }

    /// Drops every series with another value of these labels, and those that `keep` rejects. From
    /// now on, series requested with another value are not exported until [`Self::admit`] allows
    /// that value: a request that ends late brings no series back.
    pub fn retain(
        &self,
        known: HashMap<&'static str, HashSet<String>>,
        keep: impl Fn(Series<'_>) -> bool,
    ) {
        let state = &mut *self.0.state.lock();
        state.known = known;
        for (name, family) in &state.families {
            for family_now in family.collect() {
                for metric in family_now.get_metric() {
                    let labels = metric.get_label();
                    let is_known = labels.iter().all(|pair| {
                        let values = state.known.get(pair.name());
                        values.is_none_or(|values| values.contains(pair.value()))
                    });
                    if !is_known
                        || !keep(Series {
                            family: name,
                            labels,
                        })
                    {
                        if let Some(exemplars) = state.exemplars.get_mut(name) {
                            exemplars.remove(&owned(labels));
                        }
                        let labels = labels.iter().map(|pair| (pair.name(), pair.value()));
                        family.remove(&labels.collect());
                    }
                }
            }
        }
    }

    handles! {
        /// Returns a counter of the family `name`; the first call registers the family.
        ///
        /// # Panics
        /// Panics when one name is used for two types or two sets of labels: a programming error.
        counter: IntCounter = Counter(IntCounterVec), "counter";

        /// Returns a gauge of the family `name`, like [`Metrics::counter`].
        ///
        /// # Panics
        /// Panics like [`Metrics::counter`].
        gauge: IntGauge = Gauge(IntGaugeVec), "gauge of whole numbers";

        /// Returns a gauge for seconds and ratios of the family `name`, like [`Metrics::counter`].
        ///
        /// # Panics
        /// Panics like [`Metrics::counter`].
        float_gauge: Gauge = FloatGauge(GaugeVec), "gauge of fractions";
    }

    /// Returns a histogram in seconds of the family `name`, with the buckets of [`SECONDS`].
    ///
    /// # Panics
    /// Panics like [`Metrics::counter`].
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Histogram {
        self.histogram_with(name, help, labels, SECONDS)
    }

    /// Returns a histogram with the caller's buckets, like [`Metrics::histogram`].
    ///
    /// # Panics
    /// Panics like [`Metrics::counter`].
    pub fn histogram_with(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        buckets: &[f64],
    ) -> Histogram {
        let (names, values) = split(labels);
        let make = || {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            Family::Histogram(HistogramVec::new(opts, &names).expect("static name and labels"))
        };
        self.series(name, labels, make, |family| match family {
            Family::Histogram(vec) => vec.with_label_values(&values),
            _ => unreachable!("{name} is not a histogram"),
        })
    }

    /// Returns a histogram like [`Metrics::histogram_with`] that keeps exemplars.
    ///
    /// # Panics
    /// Panics like [`Metrics::counter`].
    pub fn traced_histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        buckets: &[f64],
        clock: &Clock,
    ) -> TracedHistogram {
        let histogram = self.histogram_with(name, help, labels, buckets);
        let mut state = self.0.state.lock();
        let new = || Arc::new(Exemplars::new(buckets, clock));
        // A series that is not exported has exemplars of its own, which nobody sees.
        let exemplars = if state.allows(labels) {
            let mut key: SeriesLabels = labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            key.sort();
            let of_family = state.exemplars.entry(name).or_default();
            Arc::clone(of_family.entry(key).or_insert_with(new))
        } else {
            new()
        };
        TracedHistogram {
            histogram,
            exemplars,
        }
    }

    /// Drops one series, of a backend or route that no longer exists.
    pub fn forget(&self, name: &str, labels: Labels<'_>) {
        let mut state = self.0.state.lock();
        if let Some(family) = state.families.get(name) {
            family.remove(&labels.iter().copied().collect());
        }
        if let Some(exemplars) = state.exemplars.get_mut(name) {
            exemplars.retain(|key, _| {
                let is_of = |(name, value): &(String, String)| {
                    labels.iter().any(|(n, v)| n == name && v == value)
                };
                !key.iter().all(is_of)
            });
        }
    }

    /// Describes the process itself as well from now on, as `process_*`.
    pub fn serve_process(&self) {
        self.0.has_process.store(true, Ordering::Relaxed);
    }

    /// Returns every family registered so far, sorted by name.
    pub fn families(&self) -> Vec<FamilyInfo> {
        let mut families: Vec<FamilyInfo> = self
            .0
            .state
            .lock()
            .families
            .values()
            .flat_map(|family| {
                let (kind, descriptions) = match family {
                    Family::Counter(vec) => ("counter", vec.desc()),
                    Family::Gauge(vec) => ("gauge", vec.desc()),
                    Family::FloatGauge(vec) => ("gauge", vec.desc()),
                    Family::Histogram(vec) => ("histogram", vec.desc()),
                };
                descriptions
                    .into_iter()
                    .map(|description| FamilyInfo {
                        name: description.fq_name.clone(),
                        kind,
                        labels: description.variable_labels.clone(),
                        help: description.help.clone(),
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        if self.0.has_process.load(Ordering::Relaxed) {
            families.extend(process::families().iter().map(|family| FamilyInfo {
                name: family.name().to_owned(),
                kind: match family.get_field_type() {
                    MetricType::COUNTER => "counter",
                    _ => "gauge",
                },
                labels: Vec::new(),
                help: family.help().to_owned(),
            }));
        }
        families.sort();
        families
    }

    /// Calls `each` with the counters of a family and their values.
    pub fn each_counter(&self, name: &str, mut each: impl FnMut(Series<'_>, u64)) {
        self.each_series(name, |series, metric| {
            let value = metric.get_counter().get_value();
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counters are integers here, and exact below 2^53"
            )]
            each(series, value as u64);
        });
    }

    /// Calls `each` with the gauges of a family and their values.
    pub fn each_gauge(&self, name: &str, mut each: impl FnMut(Series<'_>, i64)) {
        self.each_series(name, |series, metric| {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "gauges are integers here, and exact below 2^53"
            )]
            each(series, metric.get_gauge().get_value() as i64);
        });
    }

    /// Calls `each` with the histograms of a family, their cumulative counts in the order of their
    /// buckets, and their total count.
    pub fn each_histogram(&self, name: &str, mut each: impl FnMut(Series<'_>, &[u64], u64)) {
        let mut counts = Vec::new();
        self.each_series(name, |series, metric| {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            counts.clear();
            counts.extend(
                buckets
                    .iter()
                    .map(prometheus::proto::Bucket::cumulative_count),
            );
            each(series, &counts, histogram.get_sample_count());
        });
    }

    fn each_series(&self, name: &str, mut each: impl FnMut(Series<'_>, &Metric)) {
        // The handle is shared: the lock is released before the series are read.
        let family = self.0.state.lock().families.get(name).cloned();
        for collected in family.iter().flat_map(Family::collect) {
            for metric in collected.get_metric() {
                let labels = metric.get_label();
                each(
                    Series {
                        family: name,
                        labels,
                    },
                    metric,
                );
            }
        }
    }

    /// Exports these metrics as well, for as long as they are held elsewhere.
    pub fn serve_too(&self, users: &Arc<UserMetrics>) {
        let mut all = self.0.users.lock();
        all.retain(|users| users.strong_count() > 0);
        all.push(Arc::downgrade(users));
    }

    /// Returns all metrics in Prometheus' text format 0.0.4.
    pub fn text(&self) -> Vec<u8> {
        self.exposition(Exposition::Text)
    }

    /// Returns all metrics in a text format. It may take milliseconds, so it needs a thread that may
    /// block. Requests wait for it only to create a series, while the series of that one family are
    /// copied.
    pub fn exposition(&self, format: Exposition) -> Vec<u8> {
        let families = self.gather();
        let mut out = Vec::with_capacity(64 * 1024);
        match format {
            Exposition::Text => {
                if let Err(error) = TextEncoder::new().encode(&families, &mut out) {
                    log::error!(error:%; "cannot print the metrics");
                }
            }
            Exposition::OpenMetrics => {
                let known = self.0.state.lock().exemplars.clone();
                let exemplars = |name: &str, labels: &[LabelPair]| {
                    let of_family = known.get(name)?;
                    Some(&**of_family.get(&owned(labels))?)
                };
                exposition::write(&families, exemplars, &mut out);
            }
        }
        out
    }

    /// Returns the families that have series, sorted by name, and the series of each sorted by their
    /// labels.
    fn gather(&self) -> Vec<MetricFamily> {
        let families: Vec<Family> = self.0.state.lock().families.values().cloned().collect();
        let mut gathered: Vec<MetricFamily> = families.iter().flat_map(Family::collect).collect();
        let users: Vec<_> = self
            .0
            .users
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let theirs = users.iter().flat_map(|users| users.collect());
        gathered.extend(user_metrics::merge(theirs));
        if self.0.has_process.load(Ordering::Relaxed) {
            gathered.extend(process::families());
        }
        gathered.retain(|family| !family.get_metric().is_empty());
        gathered.sort_by(|a, b| a.name().cmp(b.name()));
        for family in &mut gathered {
            family.mut_metric().sort_by(|a, b| {
                let (a, b) = (a.get_label().iter(), b.get_label().iter());
                a.map(LabelPair::value).cmp(b.map(LabelPair::value))
            });
        }
        gathered
    }

    /// Returns one series of a family, which is registered if it is new. A label value that is not
    /// allowed gets a series of an unregistered family, which is never exported.
    fn series<T>(
        &self,
        name: &'static str,
        labels: Labels<'_>,
        make: impl Fn() -> Family,
        pick: impl FnOnce(&Family) -> T,
    ) -> T {
        let mut state = self.0.state.lock();
        let is_known = state.allows(labels);
        let family = state.families.entry(name).or_insert_with(&make);
        if is_known {
            pick(family)
        } else {
            pick(&make())
        }
    }
}

impl State {
    /// Returns true if series with these labels are exported.
    fn allows(&self, labels: Labels<'_>) -> bool {
        labels.iter().all(|(label, value)| {
            let values = self.known.get(label);
            values.is_none_or(|values| values.contains(*value))
        })
    }
}

/// Returns labels as a key of exemplars. The labels of gathered series are sorted already.
fn owned(labels: &[LabelPair]) -> SeriesLabels {
    let pairs = labels.iter();
    pairs
        .map(|pair| (pair.name().to_owned(), pair.value().to_owned()))
        .collect()
}

fn split(labels: Labels<'_>) -> (Vec<&'static str>, Vec<&str>) {
    labels.iter().copied().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_before_they_have_a_series() {
        let metrics = Metrics::default();
        metrics.gauge("edgeway_y", "why", &[]);
        metrics.counter("edgeway_x_total", "x", &[("route", "a"), ("kind", "b")]);
        metrics.forget("edgeway_x_total", &[("route", "a"), ("kind", "b")]);
        let families = metrics.families();
        let shown: Vec<_> = families
            .iter()
            .map(|f| (f.name.as_str(), f.kind, f.labels.join(","), f.help.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("edgeway_x_total", "counter", "route,kind".to_owned(), "x"),
                ("edgeway_y", "gauge", String::new(), "why"),
            ]
        );
    }

    #[test]
    fn one_family_has_many_series_and_can_forget_one() {
        let metrics = Metrics::default();
        metrics
            .counter("edgeway_x_total", "x", &[("route", "a")])
            .inc();
        metrics
            .counter("edgeway_x_total", "x", &[("route", "a")])
            .inc();
        metrics
            .counter("edgeway_x_total", "x", &[("route", "b")])
            .inc();
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("edgeway_x_total{route=\"a\"} 2"), "{text}");
        metrics.forget("edgeway_x_total", &[("route", "a")]);
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(!text.contains("route=\"a\""), "{text}");
        assert!(text.contains("route=\"b\""), "{text}");
    }

    #[test]
    fn series_of_names_that_are_no_more_go_and_do_not_come_back() {
        let metrics = Metrics::default();
        let requests = |route: &str| metrics.counter("edgeway_x_total", "x", &[("route", route)]);
        let text = || String::from_utf8(metrics.text()).unwrap();
        let known = |routes: &[&str]| {
            let routes = routes.iter().map(|route| (*route).to_owned()).collect();
            HashMap::from([("route", routes)])
        };
        let (a, b) = (requests("a"), requests("b"));
        a.inc();
        b.inc();
        metrics.gauge("edgeway_y", "y", &[]).set(1);
        metrics.gauge("edgeway_z", "z", &[("kind", "k")]).set(1);
        metrics.retain(known(&["a"]), |series| series.get("kind").is_none());
        a.inc();
        // Handles that are still held, or requested late, may count.
        b.inc();
        requests("b").inc();
        assert!(
            text().contains("edgeway_x_total{route=\"a\"} 2"),
            "{}",
            text()
        );
        assert!(text().contains("edgeway_y 1"), "{}", text());
        assert!(!text().contains("\"b\""), "{}", text());
        assert!(!text().contains("\"k\""), "{}", text());
        metrics.admit("route", "b");
        requests("b").inc();
        assert!(
            text().contains("edgeway_x_total{route=\"b\"} 1"),
            "{}",
            text()
        );
        // Other labels take any value.
        metrics.gauge("edgeway_z", "z", &[("kind", "k")]).set(2);
        assert!(text().contains("edgeway_z{kind=\"k\"} 2"), "{}", text());
    }
}
