//! Series of a Node app that reports its load. Only such a backend has them.

use std::{mem, sync::Arc};

use parking_lot::Mutex;

use crate::{
    NodeStatus, RestartAt,
    base::metrics::{Gauge, IntGauge, Metrics},
};

const UTILISATION: &str = "edgeway_backend_node_utilisation_ratio";
const DELAY: &str = "edgeway_backend_node_delay_seconds";
const HEAP: &str = "edgeway_backend_node_heap_bytes";
const RSS: &str = "edgeway_backend_node_rss_bytes";
const AGE: &str = "edgeway_backend_node_report_age_seconds";
pub(super) const OVER_LIMIT: &str = "edgeway_backend_node_over_limit";

/// Names of all series.
pub(super) const NAMES: [&str; 6] = [UTILISATION, DELAY, HEAP, RSS, AGE, OVER_LIMIT];

/// Series of one backend in one configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMetrics(Arc<Mutex<Published>>);

#[derive(Debug, Default)]
struct Published {
    /// Gauges, once the app has reported.
    gauges: Option<Gauges>,
    /// True once there is nothing left that an earlier configuration has published.
    is_tidy: bool,
}

/// Handles: a backend that was removed keeps them, and cannot bring its series back.
#[derive(Debug)]
struct Gauges {
    utilisation: Gauge,
    delay: Gauge,
    age: Gauge,
    heap: IntGauge,
    rss: IntGauge,
    over_limit: Option<IntGauge>,
}

impl Gauges {
    fn new(metrics: &Metrics, labels: &[(&'static str, &str)]) -> Self {
        Self {
            utilisation: metrics.float_gauge(
                UTILISATION,
                "Part of the time in which a Node app's event loop was busy, by edgeway-node.",
                labels,
            ),
            delay: metrics.float_gauge(
                DELAY,
                "Delay of a Node app's event loop, by edgeway-node.",
                labels,
            ),
            age: metrics.float_gauge(AGE, "Time since the last report of edgeway-node.", labels),
            heap: metrics.gauge(
                HEAP,
                "Bytes of heap in use by a Node app, by edgeway-node.",
                labels,
            ),
            rss: metrics.gauge(
                RSS,
                "Resident memory of a Node app, by edgeway-node.",
                labels,
            ),
            over_limit: None,
        }
    }
}

impl NodeMetrics {
    /// Sets the gauges by the status of an app; drops the series of one that does not report.
    pub(crate) fn publish(
        &self,
        metrics: &Metrics,
        labels: &[(&'static str, &str)],
        node: Option<&NodeStatus>,
        restart_at: Option<RestartAt>,
    ) {
        let mut published = self.0.lock();
        let was_tidy = mem::replace(&mut published.is_tidy, true);
        let Some(node) = node else {
            if published.gauges.take().is_some() || !was_tidy {
                for name in NAMES {
                    metrics.forget(name, labels);
                }
            }
            return;
        };
        let gauges = published
            .gauges
            .get_or_insert_with(|| Gauges::new(metrics, labels));
        gauges.utilisation.set(node.utilisation);
        gauges.delay.set(node.delay_ms / 1e3);
        gauges.age.set(node.age);
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        gauges.heap.set(bytes(node.heap_bytes));
        gauges.rss.set(bytes(node.rss_bytes));
        if let Some(limits) = restart_at {
            let help = "1 while the memory of a Node app has reached `restart_at`.";
            let gauge = gauges
                .over_limit
                .get_or_insert_with(|| metrics.gauge(OVER_LIMIT, help, labels));
            gauge.set(limits.excess(node).is_some().into());
        } else if gauges.over_limit.take().is_some() {
            metrics.forget(OVER_LIMIT, labels);
        }
    }
}
