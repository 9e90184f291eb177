//! Prometheus families, registered once and handed out as ready handles.
//!
//! Handles are made when a configuration is compiled, so counting on the request
//! path is one atomic addition. Label values come from the configuration or from a
//! closed set, never from a client.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector as _,
};
pub use prometheus::{Histogram, IntCounter, IntGauge};

/// Latency buckets in seconds: half a millisecond to half a minute.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// One process's metrics. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    families: Mutex<HashMap<&'static str, Family>>,
}

#[derive(Clone, Debug)]
enum Family {
    Counter(IntCounterVec),
    Gauge(IntGaugeVec),
    Histogram(HistogramVec),
}

/// What is known of a family without looking at its series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FamilyInfo {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Metrics {
    /// A counter of the family `name`; the first call registers the family.
    ///
    /// # Panics
    /// When one name is used for two types or two sets of labels: a programming error.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> IntCounter {
        let (names, values) = split(labels);
        let family = self.family(name, || {
            Family::Counter(
                IntCounterVec::new(Opts::new(name, help), &names).expect("static name and labels"),
            )
        });
        match family {
            Family::Counter(vec) => vec.with_label_values(&values),
            Family::Gauge(_) | Family::Histogram(_) => unreachable!("{name} is not a counter"),
        }
    }

    /// A gauge of the family `name`; as [`Metrics::counter`].
    ///
    /// # Panics
    /// As [`Metrics::counter`].
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> IntGauge {
        let (names, values) = split(labels);
        let family = self.family(name, || {
            Family::Gauge(
                IntGaugeVec::new(Opts::new(name, help), &names).expect("static name and labels"),
            )
        });
        match family {
            Family::Gauge(vec) => vec.with_label_values(&values),
            Family::Counter(_) | Family::Histogram(_) => unreachable!("{name} is not a gauge"),
        }
    }

    /// A histogram in seconds of the family `name`, with the buckets of [`SECONDS`].
    ///
    /// # Panics
    /// As [`Metrics::counter`].
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Histogram {
        let (names, values) = split(labels);
        let family = self.family(name, || {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            Family::Histogram(HistogramVec::new(opts, &names).expect("static name and labels"))
        });
        match family {
            Family::Histogram(vec) => vec.with_label_values(&values),
            Family::Counter(_) | Family::Gauge(_) => unreachable!("{name} is not a histogram"),
        }
    }

    /// Drops one series, for a backend or route that is no more.
    pub fn forget(&self, name: &str, labels: Labels<'_>) {
        let (_, values) = split(labels);
        // A series that was never made is already gone: the error says no more than that.
        let _missing = match self.0.families.lock().get(name) {
            Some(Family::Counter(vec)) => vec.remove_label_values(&values),
            Some(Family::Gauge(vec)) => vec.remove_label_values(&values),
            Some(Family::Histogram(vec)) => vec.remove_label_values(&values),
            None => Ok(()),
        };
    }

    /// Every family that was asked for so far, by name.
    pub fn families(&self) -> Vec<FamilyInfo> {
        let mut found: Vec<FamilyInfo> = self
            .0
            .families
            .lock()
            .values()
            .flat_map(|family| {
                let (kind, descriptions) = match family {
                    Family::Counter(vec) => ("counter", vec.desc()),
                    Family::Gauge(vec) => ("gauge", vec.desc()),
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
        found.sort();
        found
    }

    /// Everything in Prometheus' text format 0.0.4.
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut out) {
            log::error!(error:%; "cannot print the metrics");
        }
        out
    }

    fn family(&self, name: &'static str, make: impl FnOnce() -> Family) -> Family {
        self.0
            .families
            .lock()
            .entry(name)
            .or_insert_with(|| {
                let family = make();
                let collector: Box<dyn prometheus::core::Collector> = match &family {
                    Family::Counter(vec) => Box::new(vec.clone()),
                    Family::Gauge(vec) => Box::new(vec.clone()),
                    Family::Histogram(vec) => Box::new(vec.clone()),
                };
                self.0
                    .registry
                    .register(collector)
                    .expect("a family is registered once, under its own name");
                family
            })
            .clone()
    }
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
}
