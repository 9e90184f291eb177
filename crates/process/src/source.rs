//! Data of the running gateway for the admin listener.

use std::{collections::HashMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use edgeway_base::{
    clock::rfc3339,
    descriptors,
    metrics::{self, Exposition},
};
use edgeway_cache::nextjs::Releases;
use edgeway_gateway::{
    Gateway,
    explain::{self, ExplainError, ExplainRequest, ExplainScope, Explanation},
};
use edgeway_net::{log_file, redis::Redis};
use edgeway_proxy::{
    connection::listener::ListenerMetrics,
    edge::{self, listeners::ListenerInfo},
    live::{
        Live, ServingConfiguration,
        history::RequestHistory,
        traffic::{RecentTraffic, RouteTraffic},
    },
};
use edgeway_status::snapshot::{
    BanStatus, BansStatus, ConfigCanaryStatus, ConfigStatus, ConfigVerdictStatus, ListenerStatus,
    NotReady, ProcessStatus, RouteStatus, Snapshot, Source, State,
};
use edgeway_upstreams::{ReleaseSettings, Upstream, UpstreamStatus};

use super::{bans, control::Control, plugins, totals};

/// Reads the state of a serving process.
pub(super) struct RunningState {
    control: Arc<Control>,
}

impl RunningState {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    fn live(&self) -> &Live {
        &self.control.live
    }

    fn uptime(&self) -> Duration {
        let live = self.live();
        live.world.clock.now() - live.started_at
    }

    fn config(&self, loaded: ServingConfiguration, gateway: &Gateway) -> ConfigStatus {
        let trials = self.live().trials.state();
        let path = self.control.path.as_deref();
        ConfigStatus {
            file: path.map_or_else(|| "(built in)".to_owned(), absolute),
            generation: loaded.generation,
            loaded_at: rfc3339(loaded.at),
            profile: gateway.profiles.active.as_deref().map(str::to_owned),
            profiles: gateway.profiles.names().map(ToString::to_string).collect(),
            last_error: loaded.last_error,
            canary: trials.trial.map(|trial| ConfigCanaryStatus {
                generation: trial.generation,
                until: rfc3339(trial.until),
                share: trial.share.0,
            }),
            canary_verdict: trials.verdict.map(|verdict| ConfigVerdictStatus {
                generation: verdict.generation,
                outcome: verdict.outcome,
                at: rfc3339(verdict.at),
                text: verdict.to_string(),
            }),
        }
    }

    /// Reads the complete state, for nobody who asked.
    pub(super) fn read(&self) -> Snapshot {
        let live = self.live();
        let gateway = live.gateway();
        let not_ready = self.ready().err().unwrap_or_default();
        let not_ready = not_ready.iter().map(ToString::to_string).collect();
        let mut upstreams: Vec<_> = gateway.upstreams.values().collect();
        upstreams.sort_by(|a, b| a.name.cmp(&b.name));
        let (active, struck) = gateway.bans.counts();
        let (cache, opened) = (gateway.cache.as_ref(), self.control.listeners.opened());
        let mut traffic = live.traffic.recent();
        let is_failing = |traffic: &RouteTraffic| traffic.server_error_rate > 0.0;
        let mut errors = if traffic.routes.values().any(is_failing) {
            live.history.most_errors(live.world.clock.wall())
        } else {
            HashMap::new()
        };
        Snapshot {
            bans: BansStatus { active, struck },
            version: edgeway_base::VERSION.to_owned(),
            pid: std::process::id(),
            at: rfc3339(live.world.clock.wall()),
            started: rfc3339(live.started),
            uptime_seconds: self.uptime().as_secs(),
            state: if self.control.is_stopping() {
                State::Draining
            } else if self.control.is_started() {
                State::Serving
            } else {
                State::Starting
            },
            not_ready,
            process: ProcessStatus {
                cpu: traffic.cpu,
                memory_bytes: metrics::resident_memory().unwrap_or(0),
                max_descriptors: descriptors::limit(),
                lacked_descriptors: descriptors::were_lacking(),
            },
            traffic: std::mem::take(&mut traffic.figures),
            reloads: live.reloads(),
            expiries: totals::expiries(&live.world.metrics),
            unusable_certificates: totals::unusable_certificates(&live.world.metrics),
            limits: totals::limits(&live.world.metrics),
            cache: cache.map(|_| totals::cache(&live.world.metrics)),
            config: self.config(live.loaded(), &gateway),
            predecessors: self.control.line.predecessors.list(),
            listeners: opened.iter().map(|open| self.listener(open)).collect(),
            certificates: gateway.acme.iter().flat_map(|acme| acme.status()).collect(),
            redis: gateway.redis.as_deref().map(Redis::status),
            purges: cache.map(|cache| cache.link().status()),
            cache_disk: cache.and_then(|cache| cache.disk()),
            plugins: plugins::status(&gateway),
            unsaved_decisions: live.world.keeper.unsaved(),
            failing_logs: log_file::failing(),
            problem_onsets: self.control.problem_onsets.lock().clone(),
            routes: gateway
                .routes
                .iter()
                .map(|route| RouteStatus {
                    upstream: explain::upstream(route).map(str::to_owned),
                    name: route.name.to_string(),
                    matches: route.matches.clone(),
                    action: explain::action(route),
                    filters: route
                        .chain
                        .filters()
                        .iter()
                        .map(|named| named.name.to_owned())
                        .collect(),
                    traffic: RouteTraffic {
                        most_errors: errors.remove(&*route.name),
                        ..traffic.routes.remove(&*route.name).unwrap_or_default()
                    },
                })
                .collect(),
            upstreams: self.upstreams(upstreams, &gateway, traffic),
        }
    }

    fn upstreams(
        &self,
        upstreams: Vec<&Arc<Upstream>>,
        gateway: &Gateway,
        mut traffic: RecentTraffic,
    ) -> Vec<UpstreamStatus> {
        let upstreams = upstreams.into_iter().map(|upstream| {
            let mut status = upstream.snapshot();
            let recent = traffic.upstreams.remove(&*upstream.name);
            status.traffic = Some(recent.unwrap_or_default());
            status.known_releases = known_releases(gateway, &upstream.name);
            let releases = status.releases.as_ref();
            status.retiring = releases.and_then(ReleaseSettings::retiring);
            let failures = traffic.backend_failures.remove(&*upstream.name);
            let failures = failures.unwrap_or_default();
            for backend in &mut status.backends {
                let recent = failures.get(&backend.address).copied();
                backend.recent_failures = Some(recent.unwrap_or_default());
                let older = &self.control.line.predecessors;
                backend.add_in_flight(older.in_flight(&upstream.name, &backend.address));
            }
            status
        });
        let mut upstreams: Vec<_> = upstreams.collect();
        let now = self.live().world.clock.now();
        self.control.app_processes.add_memory(&mut upstreams, now);
        upstreams
    }

    fn listener(&self, open: &ListenerInfo) -> ListenerStatus {
        let metrics = ListenerMetrics::new(&self.live().world.metrics, &open.name);
        ListenerStatus {
            name: open.name.to_string(),
            address: open.address.clone(),
            connections: u64::try_from(metrics.open.get()).unwrap_or(0),
            accepted: metrics.accepted.get(),
        }
    }
}

/// Returns the path in a form that means the same in every folder.
fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}

impl Source for RunningState {
    fn snapshot(&self) -> Snapshot {
        // Certificate files are looked at for operators as well as for clients.
        self.live().connections.activity().touch();
        self.read()
    }

    /// Not ready while draining, so that outer balancers choose another gateway. An upstream
    /// without a healthy backend is a reason only if it is `required`: the gateway still serves the
    /// others and what is stored, and the gateways beside it usually have the same backends, so a
    /// balancer would have none left.
    fn ready(&self) -> Result<(), Vec<NotReady>> {
        if self.control.is_stopping() {
            return Err(vec![NotReady::Draining]);
        }
        if !self.control.is_started() {
            return Err(vec![NotReady::Starting]);
        }
        let gateway = self.live().gateway();
        let down = gateway.upstreams.values();
        let down = down.filter(|upstream| upstream.is_required && !upstream.is_ready());
        let mut names: Vec<String> = down.map(|upstream| upstream.name.to_string()).collect();
        if names.is_empty() {
            return Ok(());
        }
        names.sort_unstable();
        Err(names.into_iter().map(NotReady::Upstream).collect())
    }

    fn upstream_ready(&self, upstream: &str) -> Option<bool> {
        let gateway = self.live().gateway();
        let upstream = gateway.upstreams.get(upstream)?;
        let is_serving = self.control.is_started() && !self.control.is_stopping();
        Some(is_serving && upstream.is_ready())
    }

    fn bans(&self) -> Vec<BanStatus> {
        let bans = self.live().gateway().bans.list();
        bans.iter().map(|ban| bans::status(ban)).collect()
    }

    fn explain(&self, question: &ExplainRequest) -> Result<Explanation, ExplainError> {
        edge::explain(&self.live().gateway(), question, ExplainScope::IntoTheStore)
    }

    fn admin_address(&self) -> Option<SocketAddr> {
        self.control.admin.address()
    }

    fn history(&self) -> Arc<RequestHistory> {
        Arc::clone(&self.live().history)
    }

    fn metrics(&self, format: Exposition) -> Vec<u8> {
        self.live().connections.activity().touch();
        let gauges = &self.live().process;
        gauges.ready.set(self.ready().is_ok().into());
        let draining = self.control.line.predecessors.list().len();
        gauges
            .predecessors
            .set(i64::try_from(draining).unwrap_or(i64::MAX));
        for upstream in self.live().gateway().upstreams.values() {
            upstream.publish();
        }
        // Expired bans are removed from the gauge.
        self.live().gateway().bans.counts();
        self.live().connections.publish();
        self.live().world.metrics.exposition(format)
    }
}

/// Returns the names of the releases that were read for an upstream.
fn known_releases(gateway: &Gateway, upstream: &str) -> Vec<String> {
    let mut apps = gateway.app_releases.iter();
    let app = apps.find(|(own, _)| *own.name == *upstream);
    let names = |releases: &Releases| releases.now().names().map(ToString::to_string).collect();
    app.map(|(_, releases)| names(releases)).unwrap_or_default()
}
