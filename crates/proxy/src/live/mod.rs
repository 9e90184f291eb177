//! The gateway that serves, swapped as a whole.

pub mod audit;
mod event_loop;
pub mod history;
mod purges;
pub mod reload;
pub mod split;
pub mod supervisor;
pub mod traffic;
pub mod trial;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use edgeway_base::{clock::rfc3339, metrics::Metrics};
use edgeway_gateway::{Gateway, World, metrics::HttpMetrics};
use edgeway_net::tasks::Tasks;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::{
    audit::LineBound, event_loop::EventLoops, history::RequestHistory, traffic::Traffic,
    trial::ConfigTrials,
};
use crate::connection::{admission::ConnectionTotal, registry::Connections};

/// State of a running process.
pub struct Live {
    gateway: ArcSwap<Gateway>,
    loaded: Mutex<ServingConfiguration>,
    metrics: ReloadMetrics,
    /// The last reloads, the newest first.
    reloads: Mutex<VecDeque<ReloadStatus>>,
    pub traffic: Traffic,
    pub trials: ConfigTrials,
    /// Limits of lines about clients in the audit log.
    noted: LineBound,
    banned: LineBound,
    purged: LineBound,
    pub world: World,
    pub connections: Connections,
    pub total: Arc<ConnectionTotal>,
    pub http: HttpMetrics,
    pub process: ProcessMetrics,
    event_loops: EventLoops,
    /// Requests that ended, for operators who look.
    pub history: Arc<RequestHistory>,
    /// Requests that the gateway sends on its own behalf.
    pub background: Tasks,
    pub started: SystemTime,
    pub started_at: Instant,
}

/// The configuration that serves, and the result of the last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingConfiguration {
    /// Number of configurations that this process has served, from 1.
    pub generation: u64,
    pub at: SystemTime,
    /// Error of the last configuration that was read, if it was refused.
    pub last_error: Option<String>,
}

/// Number of reloads that are remembered.
const MAX_RELOADS: usize = 20;

/// A reload, or an attempt at one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadStatus {
    /// RFC 3339, UTC.
    pub at: String,
    /// The configuration that serves since then.
    pub generation: u64,
    /// The changes, one line each.
    pub changes: Vec<String>,
    /// The error of a configuration that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reason why a configuration came to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchReason {
    /// The configuration was read from its files.
    Read,
    /// The configuration was read before, and another profile is switched on.
    Switched,
    /// The configuration served before another one, which has failed its trial.
    TakenBack,
}

edgeway_base::metric_handles! {
    /// Problem that lasts; there is a series while it does.
    pub struct ProblemMetric(problem, severity, subject) {
        pub lasts: IntGauge = "edgeway_problem",
            "1 while the problem lasts, for at most 100 problems of the status page; `subject` \
             names the backend, route, certificate or the like.";
    }
}

edgeway_base::metric_handles! {
    /// Metrics of this process beside those of its requests.
    pub struct ProcessMetrics() {
        pub ready: IntGauge = "edgeway_ready", "1 while `/readyz` reports ready.";
        /// Predecessors that still finish requests.
        pub predecessors: IntGauge = "edgeway_predecessors",
            "Processes before this one that still finish requests after an upgrade.";
        /// Problems that the status page shows.
        pub errors { severity: "error" },
        pub warnings { severity: "warning" }: IntGauge = "edgeway_problems",
            "Problems that the status page shows, by severity: `error` if requests fail or soon \
             will, `warning` otherwise.";
    }
}

impl ProcessMetrics {
    /// Creates the handles of the process, and registers the metrics that come and go.
    pub fn register(metrics: &Metrics) -> Self {
        // CPU time, memory and descriptors.
        metrics.serve_process();
        let _handles = ProblemMetric::new(metrics, "", "", "");
        ProblemMetric::forget(metrics, "", "", "");
        Self::new(metrics)
    }
}

edgeway_base::metric_handles! {
    /// Metrics of configurations.
    struct ReloadMetrics() {
        is_current: IntGauge = "edgeway_config_last_reload_success",
            "1 if the configuration last read is the active one.";
        generation: IntGauge = "edgeway_config_generation",
            "Generation of the active configuration, counted from 1.";
        loaded_at: IntGauge = "edgeway_config_last_reload_success_timestamp_seconds",
            "Time when the active configuration was loaded, in seconds since 1970.";
        // Both series exist from the start, so that a first reload shows as an increase.
        ok { outcome: "ok" },
        refused { outcome: "refused" }: IntCounter = "edgeway_config_reloads_total",
            "Configurations that were read while the gateway served, by outcome: `ok` or `refused`.";
    }
}

impl ReloadMetrics {
    fn set(&self, loaded: &ServingConfiguration) {
        let since = loaded.at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        let gauge = |value| i64::try_from(value).unwrap_or(i64::MAX);
        self.loaded_at.set(gauge(seconds));
        self.generation.set(gauge(loaded.generation));
        self.is_current.set(loaded.last_error.is_none().into());
    }
}

impl Live {
    pub fn new(gateway: Gateway, world: World) -> Self {
        world
            .metrics
            .gauge(
                "edgeway_build_info",
                "Always 1; the labels identify the build.",
                &[("version", edgeway_base::VERSION)],
            )
            .set(1);
        let loaded = ServingConfiguration {
            generation: 1,
            at: world.clock.wall(),
            last_error: None,
        };
        gateway.profiles.hold();
        let metrics = ReloadMetrics::new(&world.metrics);
        metrics.set(&loaded);
        Self {
            gateway: ArcSwap::from_pointee(gateway),
            loaded: Mutex::new(loaded),
            metrics,
            reloads: Mutex::default(),
            traffic: Traffic::new(world.metrics.clone(), world.clock.clone()),
            trials: ConfigTrials::new(&world.metrics),
            noted: LineBound::default(),
            banned: LineBound::default(),
            purged: LineBound::default(),
            connections: Connections::new(world.clock.clone()),
            total: Arc::default(),
            http: HttpMetrics::new(&world.metrics),
            process: ProcessMetrics::register(&world.metrics),
            event_loops: EventLoops::new(&world.metrics),
            history: Arc::default(),
            background: Tasks::default(),
            started: world.clock.wall(),
            started_at: world.clock.now(),
            world,
        }
    }

    /// The current gateway. A request keeps it up to its log line.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.gateway.load_full()
    }

    /// Counts a connection, or a request without a route, that was refused or failed.
    pub fn refuse(&self, reason: &'static str) {
        self.gateway.load().fallback.metrics.refuse(reason);
    }

    /// Replaces the gateway from the next request on. Returns the number of the configuration.
    fn swap(&self, gateway: Arc<Gateway>, how: SwitchReason) -> u64 {
        gateway.profiles.hold();
        self.gateway.store(gateway);
        let mut loaded = self.loaded.lock();
        loaded.generation += 1;
        if how == SwitchReason::Read {
            loaded.at = self.world.clock.wall();
            loaded.last_error = None;
            self.metrics.ok.inc();
        }
        self.metrics.set(&loaded);
        loaded.generation
    }

    /// Records that a configuration was refused.
    pub fn refused(&self, why: String) {
        let generation = {
            let mut loaded = self.loaded.lock();
            loaded.last_error = Some(why.clone());
            self.metrics.set(&loaded);
            loaded.generation
        };
        self.metrics.refused.inc();
        self.remember(generation, Err(why));
    }

    /// Remembers a reload, and forgets the oldest of many.
    pub fn remember(&self, generation: u64, outcome: Result<Vec<String>, String>) {
        let (changes, error) = match outcome {
            Ok(changes) => (changes, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut reloads = self.reloads.lock();
        reloads.truncate(MAX_RELOADS - 1);
        reloads.push_front(ReloadStatus {
            at: rfc3339(self.world.clock.wall()),
            generation,
            changes,
            error,
        });
    }

    /// The last reloads, the newest first.
    pub fn reloads(&self) -> Vec<ReloadStatus> {
        self.reloads.lock().iter().cloned().collect()
    }

    pub fn loaded(&self) -> ServingConfiguration {
        self.loaded.lock().clone()
    }
}
