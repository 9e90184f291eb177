//! What the admin listener shows, read from the running gateway.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::watch;

use crate::{
    runtime::live::Live,
    status::snapshot::{
        CertificateStatus, ConfigStatus, ListenerStatus, RouteStatus, Snapshot, Source, State,
        UpstreamStatus,
    },
};

/// A process that serves.
pub(super) struct Running {
    live: Arc<Live>,
    path: Option<PathBuf>,
    /// Name and address of each bound listener.
    listeners: Vec<(Arc<str>, String)>,
    stopped: watch::Receiver<bool>,
}

impl Running {
    pub(super) fn new(
        live: Arc<Live>,
        path: Option<PathBuf>,
        listeners: Vec<(Arc<str>, String)>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            live,
            path,
            listeners,
            stopped,
        }
    }

    fn uptime(&self) -> Duration {
        self.live.world.clock.now() - self.live.started_at
    }

    fn listener(&self, name: &str, address: &str) -> ListenerStatus {
        let metrics = &self.live.world.metrics;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        ListenerStatus {
            name: name.to_owned(),
            address: address.to_owned(),
            connections: count(crate::edge::listener::open(metrics, name).get()),
            accepted: crate::edge::listener::accepted(metrics, name).get(),
        }
    }
}

impl Source for Running {
    fn snapshot(&self) -> Snapshot {
        let gateway = self.live.gateway();
        let not_ready = self.ready().err().unwrap_or_default();
        let mut upstreams: Vec<_> = gateway.upstreams.values().collect();
        upstreams.sort_by(|a, b| a.name.cmp(&b.name));
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.live.started),
            uptime_seconds: self.uptime().as_secs(),
            state: if *self.stopped.borrow() {
                State::Draining
            } else {
                State::Serving
            },
            not_ready,
            config: ConfigStatus {
                file: self
                    .path
                    .as_ref()
                    .map_or_else(|| "(built in)".to_owned(), |p| p.display().to_string()),
                generation: 1,
                loaded_at: rfc3339(self.live.started),
                last_error: None,
            },
            listeners: self
                .listeners
                .iter()
                .map(|(name, address)| self.listener(name, address))
                .collect(),
            certificates: gateway
                .acme
                .iter()
                .flat_map(|acme| acme.status())
                .map(|name| CertificateStatus {
                    name: name.name.to_string(),
                    expires: name.expires.map(rfc3339),
                    next: name.next.map(rfc3339),
                    failures: name.failures,
                    problem: name.problem,
                })
                .collect(),
            routes: gateway
                .routes
                .iter()
                .map(|route| RouteStatus {
                    name: route.name.to_string(),
                    matches: route.matches.clone(),
                    action: crate::gateway::explain::action(route),
                    filters: route
                        .chain
                        .filters()
                        .iter()
                        .map(|named| named.name.to_owned())
                        .collect(),
                })
                .collect(),
            upstreams: upstreams
                .into_iter()
                .map(|upstream| {
                    let value = serde_json::to_value(upstream.snapshot());
                    UpstreamStatus::from_value(value.unwrap_or_default())
                })
                .collect(),
        }
    }

    /// Not while draining: outer balancers are to look elsewhere. An upstream without a
    /// healthy backend is no reason, since others may be well and panic mode tries.
    fn ready(&self) -> Result<(), Vec<String>> {
        if *self.stopped.borrow() {
            return Err(vec!["draining".to_owned()]);
        }
        Ok(())
    }

    fn metrics_text(&self) -> Vec<u8> {
        for upstream in self.live.gateway().upstreams.values() {
            upstream.publish();
        }
        self.live.connections.publish();
        self.live.world.metrics.text()
    }
}

fn rfc3339(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true)
}
