//! Shared state of a listener's connections: its socket, its current configuration and its counters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use edgeway_base::metrics::Metrics;
use edgeway_gateway::Listener;
use http::HeaderValue;

use super::activity::Activity;

/// State shared by every connection of a listener, for as long as its socket is open.
#[derive(Debug)]
pub struct ListenerFacts {
    pub id: ListenerId,
    /// Replaced when a new configuration has the same listener, perhaps under another name.
    config: ArcSwap<Listener>,
    /// 0 for a unix socket.
    pub port: u16,
    /// The port in digits.
    pub port_text: HeaderValue,
    /// Counters of the current name.
    metrics: ArcSwap<ListenerMetrics>,
    /// That of all clients of the process.
    pub activity: Arc<Activity>,
    is_draining: AtomicBool,
}

edgeway_base::metric_handles! {
    /// Metrics of a listener.
    #[derive(Debug)]
    pub struct ListenerMetrics(listener) {
        pub accepted: IntCounter = "edgeway_connections_accepted_total",
            "Client connections accepted since the start.";
        pub open: IntGauge = "edgeway_connections", "Open client connections, idle ones included.";
        /// Open connections without a request, counted on demand.
        pub idle: IntGauge = "edgeway_connections_idle", "Client connections without a request.";
    }
}

/// Identity of a listener, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(u64);

impl ListenerId {
    /// Returns a new identity.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl ListenerFacts {
    pub fn new(
        config: Arc<Listener>,
        id: ListenerId,
        port: u16,
        metrics: &Metrics,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            metrics: ArcSwap::from_pointee(ListenerMetrics::new(metrics, &config.name)),
            id,
            config: ArcSwap::new(config),
            port,
            port_text: HeaderValue::from(port),
            activity,
            is_draining: AtomicBool::new(false),
        }
    }

    /// Begins the drain: no connection is accepted any more, and each response is the last of its
    /// connection.
    pub fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The listener's current configuration.
    #[inline]
    pub fn config(&self) -> arc_swap::Guard<Arc<Listener>> {
        self.config.load()
    }

    /// Returns the current name of the listener, for logs.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.config().name)
    }

    /// Returns the counters of the current name.
    pub fn metrics(&self) -> Arc<ListenerMetrics> {
        self.metrics.load_full()
    }

    /// Replaces the configuration, for open connections as well.
    pub fn set_config(&self, config: Arc<Listener>, metrics: &Metrics) {
        if self.config().name != config.name {
            let renamed = ListenerMetrics::new(metrics, &config.name);
            self.metrics.store(Arc::new(renamed));
        }
        self.config.store(config);
    }
}
