//! The gateway that serves, swapped whole.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;

use super::{admission::Total, connections::Connections};
use crate::gateway::{Gateway, World, metrics::HttpMetrics};

/// What a running process has one of.
pub struct Live {
    gateway: ArcSwap<Gateway>,
    pub world: World,
    pub connections: Connections,
    pub total: Arc<Total>,
    pub http: HttpMetrics,
    pub started: SystemTime,
    pub started_at: Instant,
}

impl Live {
    pub fn new(gateway: Gateway, world: World) -> Self {
        world
            .metrics
            .gauge(
                "edgeway_build_info",
                "1; the labels say which build this is.",
                &[("version", env!("CARGO_PKG_VERSION"))],
            )
            .set(1);
        world
            .metrics
            .gauge(
                "edgeway_config_last_reload_success",
                "1 if the configuration last read is the one that serves.",
                &[],
            )
            .set(1);
        Self {
            gateway: ArcSwap::from_pointee(gateway),
            connections: Connections::new(world.clock.clone()),
            total: Arc::default(),
            http: HttpMetrics::new(&world.metrics),
            started: world.clock.wall(),
            started_at: world.clock.now(),
            world,
        }
    }

    /// The gateway as it is now; a request keeps it to its log line.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.gateway.load_full()
    }
}
