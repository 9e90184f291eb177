//! Series of a Node app that reports its load. Only such a backend has them.

use std::{mem, sync::Arc};

use parking_lot::Mutex;

use crate::{NodeStatus, RestartAt, base::metrics::Metrics};

pub(super) const OVER_LIMIT: &str = "edgeway_backend_node_over_limit";

/// Series of one backend in one configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMetrics(Arc<Mutex<Published>>);

#[derive(Debug, Default)]
struct Published {
    /// Gauges, once the app has reported.
    load: Option<LoadGauges>,
    over_limit: Option<LimitGauge>,
    /// True once there is nothing left that an earlier configuration has published.
    is_tidy: bool,
}

edgeway_base::metric_handles! {
    /// Handles: a backend that was removed keeps them, and cannot bring its series back.
    #[derive(Debug)]
    struct LoadGauges(upstream, backend) {
        utilisation: Gauge = "edgeway_backend_node_utilisation_ratio",
            "Part of the time in which a Node app's event loop was busy, by edgeway-node.";
        delay: Gauge = "edgeway_backend_node_delay_seconds",
            "Delay of a Node app's event loop, by edgeway-node.";
        age: Gauge = "edgeway_backend_node_report_age_seconds",
            "Time since the last report of edgeway-node.";
        heap: IntGauge = "edgeway_backend_node_heap_bytes",
            "Bytes of heap in use by a Node app, by edgeway-node.";
        rss: IntGauge = "edgeway_backend_node_rss_bytes",
            "Resident memory of a Node app, by edgeway-node.";
    }
}

edgeway_base::metric_handles! {
    /// Gauge of an app with `restart_at`.
    #[derive(Debug)]
    struct LimitGauge(upstream, backend) {
        is_over: IntGauge = OVER_LIMIT,
            "1 while the memory of a Node app has reached `restart_at`.";
    }
}

/// Drops the series of a backend.
pub(super) fn forget(metrics: &Metrics, upstream: &str, backend: &str) {
    LoadGauges::forget(metrics, upstream, backend);
    LimitGauge::forget(metrics, upstream, backend);
}

impl NodeMetrics {
    /// Sets the gauges by the status of an app; drops the series of one that does not report.
    pub(crate) fn publish(
        &self,
        metrics: &Metrics,
        (upstream, backend): (&str, &str),
        node: Option<&NodeStatus>,
        restart_at: Option<RestartAt>,
    ) {
        let mut published = self.0.lock();
        let was_tidy = mem::replace(&mut published.is_tidy, true);
        let Some(node) = node else {
            published.over_limit = None;
            if published.load.take().is_some() || !was_tidy {
                forget(metrics, upstream, backend);
            }
            return;
        };
        let gauges = published
            .load
            .get_or_insert_with(|| LoadGauges::new(metrics, upstream, backend));
        gauges.utilisation.set(node.utilisation);
        gauges.delay.set(node.delay_ms / 1e3);
        gauges.age.set(node.age);
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        gauges.heap.set(bytes(node.heap_bytes));
        gauges.rss.set(bytes(node.rss_bytes));
        if let Some(limits) = restart_at {
            let gauge = published
                .over_limit
                .get_or_insert_with(|| LimitGauge::new(metrics, upstream, backend));
            gauge.is_over.set(limits.excess(node).is_some().into());
        } else if published.over_limit.take().is_some() {
            LimitGauge::forget(metrics, upstream, backend);
        }
    }
}
