//! What the connections of a listener share: its name, its configuration as it is now, and
//! what is counted of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use crate::{
    base::metrics::{IntCounter, IntGauge, Metrics},
    gateway::Listener,
};

/// What is the same for every connection of a listener.
#[derive(Debug)]
pub struct ListenerFacts {
    /// What it is called in logs and metrics.
    pub name: Arc<str>,
    /// The same for as long as the socket is, whatever it is called.
    pub id: ListenerId,
    /// Replaced when a new configuration has the same listener.
    config: ArcSwap<Listener>,
    /// 0 for a unix socket.
    pub port: u16,
    pub metrics: ListenerMetrics,
    is_draining: AtomicBool,
}

/// What is counted of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub accepted: IntCounter,
    pub open: IntGauge,
    /// Those of `open` without a request, counted when somebody asks.
    pub idle: IntGauge,
}

impl ListenerMetrics {
    pub fn new(metrics: &Metrics, name: &str) -> Self {
        let connections = |state| {
            metrics.gauge(
                "edgeway_connections",
                "Client connections by listener: all that are open, and those of them that are idle.",
                &[("listener", name), ("state", state)],
            )
        };
        Self {
            accepted: metrics.counter(
                "edgeway_connections_accepted_total",
                "Client connections accepted since the start.",
                &[("listener", name)],
            ),
            open: connections("open"),
            idle: connections("idle"),
        }
    }
}

/// Which listener a connection came in by, as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(u64);

impl ListenerId {
    /// One that no other listener has.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl ListenerFacts {
    pub fn new(config: Arc<Listener>, id: ListenerId, port: u16, metrics: &Metrics) -> Self {
        Self {
            name: Arc::clone(&config.name),
            metrics: ListenerMetrics::new(metrics, &config.name),
            id,
            config: ArcSwap::new(config),
            port,
            is_draining: AtomicBool::new(false),
        }
    }

    /// Nobody is accepted any more: each answer is its connection's last.
    pub fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// As the configuration that serves has it.
    #[inline]
    pub fn config(&self) -> arc_swap::Guard<Arc<Listener>> {
        self.config.load()
    }

    /// From the next look on, for connections that are open as well.
    pub fn set_config(&self, config: Arc<Listener>) {
        self.config.store(config);
    }
}

#[cfg(test)]
impl ListenerFacts {
    /// A listener with every default.
    pub(crate) fn test() -> Arc<Self> {
        let config = Arc::new(Listener::test());
        let id = ListenerId::next();
        Arc::new(Self::new(config, id, 0, &Metrics::default()))
    }
}
