//! Operations on a running process: loading a configuration, and stopping.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgeway_base::{error, units::millis};
use edgeway_config::{
    changes::{Changes, Delta},
    diagnostic::Diagnostics,
    model::File,
    source::Sources,
};
use edgeway_gateway::{Drain, Gateway};
use edgeway_net::{redis::Redis, tasks::Tasks};
use edgeway_proxy::{
    self as proxy,
    edge::listeners::{Inherit, Listeners, PrepareError, PreparedListeners},
    live::{
        Live, SwitchReason,
        reload::{self, Candidate},
        split::TrialSplit,
        supervisor::Supervisor,
    },
};
use edgeway_status::{
    actions::{ActionError, NewConfigTrial, ReloadResult, ZoneChanges},
    http::AdminState,
    sessions::Sessions,
    snapshot::ProblemOnset,
};
use edgeway_upstreams::trial_name;
use log::{error, info, warn};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};

use super::{
    actions::Operator,
    admin::{Admin, AdminError, PreparedAdmin, SocketKeeper},
    app_memory::AppProcesses,
    compile_thread::CompileThread,
    last_good, plugins,
    source::RunningState,
    trial::{self, BeforeTrial},
    upgrade::Lineage,
};

/// Time to exit once no request is in flight. The last log lines take most of it.
const STOPPED: Duration = Duration::from_secs(5);

/// Time limit for sending the last traces.
const EXPORT: Duration = Duration::from_secs(2);

/// Time limit for giving up the purge lease.
const GIVE_UP: Duration = Duration::from_millis(500);

/// A running process.
pub(super) struct Control {
    pub(super) live: Arc<Live>,
    pub(super) listeners: Listeners,
    pub(super) admin: Admin,
    pub(super) supervisor: Supervisor,
    /// Sessions of the status page.
    pub(super) sessions: Arc<Sessions>,
    pub(super) compiling: CompileThread,
    /// `None` for a built-in configuration.
    pub(super) path: Option<PathBuf>,
    pub(super) line: Lineage,
    /// Processes of the apps on this machine.
    pub(super) app_processes: AppProcesses,
    pub(super) problem_onsets: Mutex<Vec<ProblemOnset>>,
    /// Lock on changes of the running configuration: reloads and upgrades happen one after the
    /// other. It holds the configuration that serves, the one on trial during a trial.
    pub(super) turn: tokio::sync::Mutex<Candidate>,
    /// The sources that were read last, whether they were accepted or not.
    pub(super) sources: watch::Sender<Arc<Sources>>,
    pub(super) stopping: watch::Sender<bool>,
    /// Set once all listeners of the first configuration are open.
    started: AtomicBool,
}

/// Why the process cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listener(#[from] PrepareError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Sockets that are bound for a gateway and do not accept yet.
pub(super) struct PreparedSockets {
    listeners: PreparedListeners,
    admin: PreparedAdmin,
}

impl Control {
    pub(super) fn new(
        live: &Arc<Live>,
        (file, sources): (File, Sources),
        path: Option<PathBuf>,
        line: Lineage,
        compiling: CompileThread,
        workers: Handle,
    ) -> Arc<Self> {
        let driver = proxy::Driver::new(live);
        let serving = Candidate {
            file,
            sources: Arc::new(sources),
            diagnostics: Diagnostics::default(),
            gateway: live.gateway(),
        };
        Arc::new(Self {
            live: Arc::clone(live),
            listeners: Listeners::new(driver, live, workers),
            admin: Admin::default(),
            supervisor: Supervisor::start(live),
            sessions: Arc::new(Sessions::new(live.world.clock.clone())),
            compiling,
            path,
            line,
            app_processes: AppProcesses::default(),
            problem_onsets: Mutex::default(),
            sources: watch::Sender::new(Arc::clone(&serving.sources)),
            turn: tokio::sync::Mutex::new(serving),
            stopping: watch::Sender::new(false),
            started: AtomicBool::new(false),
        })
    }

    /// Opens the listeners of the gateway.
    pub(super) async fn start(self: &Arc<Self>, inherit: Inherit<'_>) -> Result<(), StartError> {
        let gateway = self.live.gateway();
        // State that the predecessor left and no zone claimed is dropped.
        let settle = || drop(self.live.world.zones.settle());
        let prepared = self.prepare(&gateway, inherit)?;
        self.apply(&gateway, prepared, settle).await;
        self.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Binds the sockets that a gateway needs and this process does not have. Nothing has changed if
    /// this fails.
    pub(super) fn prepare(
        &self,
        gateway: &Gateway,
        inherit: Inherit<'_>,
    ) -> Result<PreparedSockets, StartError> {
        Ok(PreparedSockets {
            listeners: self.listeners.prepare(&gateway.listeners, inherit)?,
            admin: self.admin.prepare(&gateway.admin, inherit)?,
        })
    }

    /// Serves a gateway, the first one and each later one: lets `swap` put it into service, then
    /// opens its listeners and drains those that it does not have.
    pub(super) async fn apply<T>(
        self: &Arc<Self>,
        gateway: &Gateway,
        prepared: PreparedSockets,
        swap: impl FnOnce() -> T,
    ) -> T {
        let swapped = swap();
        self.allow_files(gateway);
        self.admin.commit(prepared.admin, &self.served());
        let mut wanted = gateway.listeners.clone();
        // During a trial most clients have the configuration before, and its listeners.
        let serving = self.live.serving();
        for earlier in serving.iter().flat_map(|serving| &serving.listeners) {
            if !wanted.iter().any(|own| own.is_same(earlier)) {
                wanted.push(Arc::clone(earlier));
            }
        }
        self.listeners
            .commit(prepared.listeners, &wanted, gateway.drain)
            .await;
        swapped
    }

    /// The configuration sources read last, and those of each later read.
    pub(super) fn sources(&self) -> watch::Receiver<Arc<Sources>> {
        self.sources.subscribe()
    }

    /// State and actions for the admin listeners.
    fn served(self: &Arc<Self>) -> AdminState {
        AdminState {
            source: Arc::new(RunningState::new(Arc::clone(self))),
            actions: Arc::new(Operator::new(self)),
            sessions: Arc::clone(&self.sessions),
            sections: Arc::default(),
            tasks: self.tasks().clone(),
            configuration: self.path.clone(),
        }
    }

    /// Returns true once all listeners are open.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Returns true if the gateway is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Reads the configuration again and serves it if it is valid: for good, or on trial for a time.
    /// Reloads are serialized, so a second one waits.
    pub(super) async fn reload(
        self: &Arc<Self>,
        trial: Option<NewConfigTrial>,
    ) -> Result<ReloadResult, ActionError> {
        trial.map_or(Ok(()), trial::check)?;
        let mut serving = self.turn.lock().await;
        let Some(path) = &self.path else {
            let message = "this configuration is built in: there is no file to read";
            return Err(ActionError::new(409, "built_in", message));
        };
        self.line.is_ours()?;
        if self.is_stopping() {
            let message = "the gateway is stopping: no other configuration is loaded";
            return Err(ActionError::new(409, "stopping", message));
        }
        if trial.is_some() && self.live.trials.is_split() {
            let message = "another configuration is on trial: wait for its verdict, or end the \
                           trial with `edgeway reload`, which serves the file to all clients";
            return Err(ActionError::new(409, "canary_runs", message));
        }
        self.line.manager.reloading();
        let outcome = self.reload_from(path, &mut serving, trial).await;
        self.notify_manager();
        outcome
    }

    async fn reload_from(
        self: &Arc<Self>,
        path: &Path,
        serving: &mut Candidate,
        trial: Option<NewConfigTrial>,
    ) -> Result<ReloadResult, ActionError> {
        let start = self.live.world.clock.now();
        let candidate = match self.read(path).await {
            Ok(candidate) => candidate,
            Err(refused) => {
                self.report_refused(path, &refused);
                return Err(refused);
            }
        };
        let changes = changes(serving, &candidate);
        let lines = changes.lines();
        let warnings = warnings(serving, &candidate);
        let trial = trial.filter(|_| !lines.is_empty());
        let split = trial.map(|trial| self.split(&candidate, trial));
        let comparison = split
            .as_deref()
            .map(|split| self.live.traffic.compare(split));
        let before = self.live.serving();
        let (generation, zones) = match self.take(&candidate, SwitchReason::Read, split).await {
            Ok(taken) => taken,
            Err(refused) => {
                reload::refuse(&self.live, refused.message.clone());
                self.report_refused(path, &refused);
                self.sources.send_replace(candidate.sources);
                return Err(refused);
            }
        };
        self.sources.send_replace(Arc::clone(&candidate.sources));
        let earlier = std::mem::replace(serving, candidate);
        let took = self.live.world.clock.now() - start;
        for warning in &warnings {
            warn!("{warning}");
        }
        self.live.remember(generation, Ok(lines.clone()));
        info!(
            generation,
            changes = lines.len(),
            ms = millis(took);
            "configuration reloaded: {}",
            if lines.is_empty() { "nothing changed".to_owned() } else { lines.join(", ") }
        );
        if let (Some(trial), Some(comparison)) = (trial, comparison) {
            // It may be taken back.
            let before = BeforeTrial {
                earlier,
                comparison,
            };
            self.begin_trial(generation, trial, before);
        } else {
            self.settle(before, serving).await;
        }
        Ok(ReloadResult {
            generation,
            trial: trial.map(|trial| trial.length),
            share: trial.map(|trial| trial.share),
            took_ms: millis(took),
            changes,
            zones,
            warnings,
        })
    }

    /// Ends the reload to a configuration that all clients get from now on.
    pub(super) async fn settle(&self, before: Vec<Arc<Gateway>>, serving: &Candidate) {
        for before in before {
            self.reset_lifetimes(before, &serving.gateway).await;
        }
        self.store_last_good(&serving.sources);
    }

    /// Stores the texts of the configuration that serves, for `--last-good`.
    pub(super) fn store_last_good(&self, sources: &Arc<Sources>) {
        if let Some(path) = &self.path
            && self.live.world.overlay.is_none()
        {
            let keeping = last_good::keep_later(path.clone(), Arc::clone(sources));
            self.tasks().spawn("last good", keeping);
        }
    }

    /// Returns the split of requests between the configuration that serves and a candidate.
    fn split(&self, candidate: &Candidate, trial: NewConfigTrial) -> Arc<TrialSplit> {
        let texts = candidate.sources.files.iter().map(|(_, text)| &**text);
        let name = trial_name(&texts.collect::<String>());
        let clock = &self.live.world.clock;
        TrialSplit::new(
            name,
            trial.share,
            &candidate.gateway,
            self.live.gateway(),
            clock,
        )
    }

    /// Reads and compiles on the thread for that.
    async fn read(&self, path: &Path) -> Result<Candidate, ActionError> {
        let (live, path) = (Arc::clone(&self.live), path.to_owned());
        let read = self.compiling.run(move || {
            reload::read(&live, &path).inspect_err(|mistaken| {
                let refused = ActionError::configuration(&mistaken.sources, &mistaken.diagnostics);
                reload::refuse(&live, refused.message);
            })
        });
        match read.await {
            Ok(Ok(candidate)) => Ok(candidate),
            Ok(Err(mistaken)) => {
                let refused = ActionError::configuration(&mistaken.sources, &mistaken.diagnostics);
                self.sources.send_replace(Arc::new(mistaken.sources));
                Err(refused)
            }
            Err(broken) => {
                let message = format!("the configuration could not be compiled: {broken}");
                reload::refuse(&self.live, message.clone());
                Err(ActionError::new(500, "internal", message))
            }
        }
    }

    /// Binds new listeners, then swaps everything at once.
    pub(super) async fn take(
        self: &Arc<Self>,
        candidate: &Candidate,
        how: SwitchReason,
        split: Option<Arc<TrialSplit>>,
    ) -> Result<(u64, ZoneChanges), ActionError> {
        let gateway = &candidate.gateway;
        let prepared = self.prepare(gateway, &mut |_| None);
        let prepared = prepared.map_err(|error| match error {
            StartError::Listener(error) => cannot_bind(candidate, &error),
            StartError::Admin(error) => {
                ActionError::new(409, "admin_listener", error::chain(&error))
            }
        })?;
        Redis::connect_before_use(gateway.redis.as_ref()).await;
        let swap = || reload::take(&self.live, &self.supervisor, gateway, how, split);
        let (generation, zones) = self.apply(gateway, prepared, swap).await;
        Ok((
            generation,
            ZoneChanges {
                kept: zones.retained,
                added: zones.added,
                dropped: zones.dropped,
            },
        ))
    }

    fn report_refused(&self, path: &Path, refused: &ActionError) {
        let generation = self.live.loaded().generation;
        error!(
            file:% = path.display(), reason = &*refused.reason, generation;
            "new configuration rejected, still serving the previous one: {}", refused.message
        );
    }

    /// Raises the limit of open files, and warns where connections may exceed it.
    fn allow_files(&self, gateway: &Gateway) {
        let files = super::files::raise();
        let connections = self.live.total.allow_files(files);
        for listener in &gateway.listeners {
            if let Some(limit) = listener
                .limits
                .connections
                .filter(|most| *most > connections)
            {
                warn!(
                    listener = &*listener.name,
                    connections = limit,
                    files;
                    "open files limit too low for the allowed connections and their backends"
                );
            }
        }
    }

    /// Announces the stop, waits until balancers in front may have noticed, then lets every
    /// connection finish.
    pub(super) async fn stop(&self) {
        let drain = self.live.gateway().drain;
        self.stopping.send_replace(true);
        self.line
            .manager
            .stopping(drain.announce + drain.deadline + STOPPED);
        if !drain.announce.is_zero() {
            info!(ms = millis(drain.announce); "stopping: not ready from now on");
            tokio::time::sleep(drain.announce).await;
        }
        // From here on, no reload may open a listener.
        let _turn = self.turn.lock().await;
        info!(
            "stopping: no new connections, requests in flight may finish; a second signal stops at once"
        );
        if self.line.manager.is_there() {
            // The manager keeps the sockets for the next process, and their paths with them.
            self.listeners.hand_over();
        }
        let predecessors = self.line.predecessors.gone();
        let predecessors = tokio::time::timeout(drain.deadline, predecessors);
        if let ((), Err(_)) = tokio::join!(self.finish_requests(drain), predecessors) {
            warn!("previous processes not finished in time");
        }
    }

    /// Drains the connections, and then waits for the work that their requests left behind.
    pub(super) async fn finish_requests(&self, drain: Drain) {
        let clock = &self.live.world.clock;
        let start = clock.now();
        self.listeners.retire(drain).await;
        let left = drain.deadline.saturating_sub(clock.now() - start);
        let late = self.live.world.late.join();
        if tokio::time::timeout(left, late).await.is_err() {
            warn!("background work of plugins not finished in time");
        }
    }

    /// Sends the traces that wait. They are worth a moment only: the collector may be lost.
    pub(super) async fn export_traces(&self) {
        if !self.live.world.exporters.shut_down(EXPORT).await {
            warn!("some traces were lost, the collector was too slow");
        }
    }

    /// Gives up the lease: this process serves no requests any more, so purges must not wait for
    /// it.
    pub(super) async fn give_up_lease(&self) {
        let gateway = self.live.gateway();
        if let (Some(cache), Some(redis)) = (&gateway.cache, &gateway.redis) {
            let leaving = cache.link().leave(Arc::clone(redis));
            // Otherwise the lease expires by itself.
            let _in_time = tokio::time::timeout(GIVE_UP, leaving).await;
        }
    }

    /// Releases the cache's folder for the next process, once this one serves no requests any more
    /// or a successor serves.
    pub(super) async fn release_disk(&self) {
        if let Some(cache) = &self.live.gateway().cache {
            cache.release_disk().await;
        }
    }

    /// Stops everything that is left.
    pub(super) fn end(&self) {
        self.supervisor.stop();
        self.admin.close(
            if self.line.manager.is_there() || self.line.is_succeeded() {
                SocketKeeper::ByOthers
            } else {
                SocketKeeper::ByNobody
            },
        );
    }

    /// Tasks that last as long as the process.
    pub(super) fn tasks(&self) -> &Tasks {
        &self.supervisor.process
    }
}

/// Returns the differences of a candidate from the configuration that serves.
fn changes(serving: &Candidate, candidate: &Candidate) -> Changes {
    let before = plugins::versions(&serving.gateway);
    let after = plugins::versions(&candidate.gateway);
    let files = &candidate.sources.referenced;
    let folder = candidate.sources.folder();
    Changes {
        plugins: Delta::between_versions(&before, &after),
        files: files.changed_since(&serving.sources.referenced, &folder),
        ..Changes::between(&serving.file, &candidate.file)
    }
}

/// Returns the warnings about a candidate, and about what is lost with it.
fn warnings(serving: &Candidate, candidate: &Candidate) -> Vec<String> {
    let mut warnings = candidate.diagnostics.lines(&candidate.sources);
    warnings.extend(serving.gateway.lost_releases(&candidate.gateway));
    if let Some(gone) = &serving.gateway.profiles.active
        && candidate.gateway.profiles.active.is_none()
    {
        warnings.push(format!(
            "the active profile `{gone}` was removed: no profile is active now"
        ));
    }
    warnings
}

/// Describes a listener that cannot be bound, with its place in the file.
fn cannot_bind(candidate: &Candidate, error: &PrepareError) -> ActionError {
    let place = candidate
        .file
        .listeners
        .get(error.index)
        .map(|listener| listener.value.address.place)
        .unwrap_or_default();
    let help = match error.source.source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "find out who listens there (`ss -ltnp`); if it is a listener of this gateway, remove \
             that one first, with a separate reload"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        std::io::ErrorKind::AddrNotAvailable => "write an address that this machine has",
        _ => "nothing was changed; try again once it is free",
    };
    let mut diagnostics = Diagnostics::default();
    let message = error::chain(error);
    diagnostics
        .at(place, "edgeway::listener::bind")
        .error(message, help);
    ActionError {
        status: 409,
        reason: "listener".into(),
        ..ActionError::configuration(&candidate.sources, &diagnostics)
    }
}
