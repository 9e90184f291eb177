//! Families of series by type.

use std::collections::HashMap;

use prometheus::{
    GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, core::Collector as _, proto::MetricFamily,
};

#[derive(Clone, Debug)]
pub(super) enum Family {
    Counter(IntCounterVec),
    Gauge(IntGaugeVec),
    FloatGauge(GaugeVec),
    Histogram(HistogramVec),
}

impl Family {
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        match self {
            Self::Counter(vec) => vec.collect(),
            Self::Gauge(vec) => vec.collect(),
            Self::FloatGauge(vec) => vec.collect(),
            Self::Histogram(vec) => vec.collect(),
        }
    }

    pub(super) fn remove(&self, labels: &HashMap<&str, &str>) {
        // The only error is a series that does not exist, and so is already gone.
        let _missing = match self {
            Self::Counter(vec) => vec.remove(labels),
            Self::Gauge(vec) => vec.remove(labels),
            Self::FloatGauge(vec) => vec.remove(labels),
            Self::Histogram(vec) => vec.remove(labels),
        };
    }
}
