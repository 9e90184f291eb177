//! Shared state of a listener's connections: its name, its current configuration and its counters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use edgeway_base::metrics::{IntCounter, IntGauge, Metrics};
use edgeway_gateway::Listener;
use http::HeaderValue;

use super::activity::Activity;

/// State shared by every connection of a listener.
#[derive(Debug)]
pub struct ListenerFacts {
    /// Name of the listener in logs and metrics.
    pub name: Arc<str>,
    /// Identity that lasts as long as the socket, even if the name changes.
    pub id: ListenerId,
    /// Replaced when a new configuration has the same listener.
    config: ArcSwap<Listener>,
    /// 0 for a unix socket.
    pub port: u16,
    /// The port in digits.
    pub port_text: HeaderValue,
    pub metrics: ListenerMetrics,
    /// That of all clients of the process.
    pub activity: Arc<Activity>,
    is_draining: AtomicBool,
}

/// Metrics of a listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub accepted: IntCounter,
    pub open: IntGauge,
    /// Open connections without a request, counted on demand.
    pub idle: IntGauge,
}

impl ListenerMetrics {
    pub fn new(metrics: &Metrics, name: &str) -> Self {
        Self {
            accepted: metrics.counter(
                "edgeway_connections_accepted_total",
                "Client connections accepted since the start.",
                &[("listener", name)],
            ),
            open: metrics.gauge(
                "edgeway_connections",
                "Open client connections, idle ones included.",
                &[("listener", name)],
            ),
            idle: metrics.gauge(
                "edgeway_connections_idle",
                "Client connections without a request.",
                &[("listener", name)],
            ),
        }
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
            name: Arc::clone(&config.name),
            metrics: ListenerMetrics::new(metrics, &config.name),
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

    /// Replaces the configuration, for open connections as well.
    pub fn set_config(&self, config: Arc<Listener>) {
        self.config.store(config);
    }
}
