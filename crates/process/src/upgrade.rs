//! Upgrade to a new process: starts the successor with everything that it inherits, reports it to
//! the service manager, and drains this process while the successor serves.

use std::{
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use edgeway_base::{error, metrics::Metrics, units::millis};
use edgeway_cache::{
    Cache,
    purge::{Purge, SuccessorPurge},
};
use edgeway_status::actions::{ActionError, SUCCEEDED, UpgradeResult};
use futures_util::future::BoxFuture;
use log::{error, info, warn};
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::{oneshot, watch};

use super::{
    cache::{self, InheritedCache},
    control::Control,
    handover::{HandoverError, InheritedState, Launch, Successor, Upgrades},
    init::{self, InitProcess},
    notify::ServiceManager,
    predecessors::{self, PredecessorCommand, Predecessors, SuccessorNote},
};

/// Name of the status page's sessions in the state that a successor inherits.
pub(super) const SESSIONS: &str = "admin sessions";
/// Name of the files of unix sockets there.
pub(super) const SOCKET_FILES: &str = "unix sockets";
/// Name of the beginnings of problems there.
pub(super) const PROBLEMS: &str = "problems";

/// Time limit for a successor to begin serving.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for a successor that is stopped before it serves: to exit, or to serve all the same.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the first line to a successor, and for the last ones.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Position of this process between its predecessors, its successor and the service manager.
pub(super) struct Lineage {
    launch: Launch,
    pub(super) manager: Arc<ServiceManager>,
    pub(super) predecessors: Arc<Predecessors>,
    /// Pipe to process 1 of this container, if that is another process than the one that serves.
    init: Mutex<Option<OwnedFd>>,
    upgrades: Mutex<Upgrades>,
    /// The process that serves in place of this one.
    successor: OnceLock<Successor>,
    /// True while this process's cache is sent to the successor.
    giving: watch::Sender<bool>,
    /// Taken by the upgrade that succeeds.
    succeeded: Mutex<Option<oneshot::Sender<SuccessionNotice>>>,
}

/// Resources for the start of a successor.
struct SuccessorResources {
    /// Everything that the successor inherits.
    estate: InheritedState,
    /// Pipe for reports of this process to the successor.
    report_writer: OwnedFd,
    /// The next role of process 1.
    init: Option<InitProcess>,
    /// This process's cache, and the pipe to write it to.
    cache: Option<(Arc<Cache>, OwnedFd)>,
}

/// Notice that another process serves.
pub(super) struct SuccessionNotice {
    pub(super) pid: u32,
    /// Remaining duties of process 1 of a container.
    pub(super) init: Option<InitProcess>,
}

impl Lineage {
    /// Creates the line, with the receiver that is notified of a successful upgrade.
    pub(super) fn new(
        launch: Launch,
        inherited: &mut InheritedState,
    ) -> (Self, oneshot::Receiver<SuccessionNotice>) {
        let (succeeded, notice) = oneshot::channel();
        let line = Self {
            launch,
            manager: ServiceManager::new(inherited.is_succession()),
            predecessors: Arc::default(),
            init: Mutex::new(inherited.init.take()),
            upgrades: Mutex::new(inherited.upgrades),
            successor: OnceLock::new(),
            giving: watch::Sender::new(false),
            succeeded: Mutex::new(Some(succeeded)),
        };
        (line, notice)
    }

    /// Returns true if another process serves.
    pub(super) fn is_succeeded(&self) -> bool {
        self.successor.get().is_some()
    }

    /// Returns an error if a successor serves, which must be sent the request instead.
    pub(super) fn is_ours(&self) -> Result<(), ActionError> {
        self.successor.get().map_or(Ok(()), |successor| {
            let message = format!(
                "process {} serves now, at the same address: repeat the request",
                successor.pid()
            );
            Err(ActionError::new(409, SUCCEEDED, message))
        })
    }

    /// Forwards a signal that this process received to its successor.
    pub(super) fn pass_on(&self, signal: Signal) {
        if let Some(successor) = self.successor.get() {
            successor.signal(signal);
        }
    }

    /// Waits until this process's cache has been sent to the successor.
    async fn given(&self) {
        let mut giving = self.giving.subscribe();
        // The sender is a field of `self`, so it outlives this.
        drop(giving.wait_for(|giving| !*giving).await);
    }

    fn count(&self, metrics: &Metrics) {
        self.upgrades.lock().publish(metrics);
    }
}

impl Control {
    /// Takes over from the predecessor, if there is one, and reports to the service manager that we
    /// serve.
    pub(super) fn succeed(
        self: &Arc<Self>,
        inherited: &mut InheritedState,
        inheritance: Option<InheritedCache>,
    ) {
        self.line.count(&self.live.world.metrics);
        let pipes = std::mem::take(&mut inherited.predecessors);
        if !inherited.is_succession() {
            self.listeners.take_over(&inherited.socket_files);
            return self.notify_manager();
        }
        info!(processes = pipes.len(); "taking over from the previous process");
        let control = Arc::clone(self);
        let (live, sessions) = (Arc::clone(&self.live), Arc::clone(&self.sessions));
        let heeds = move |note| match note {
            SuccessorNote::Purge(purge) => cache::heed(&live, purge),
            SuccessorNote::Session(ended) => sessions.end_inherited(&ended),
            SuccessorNote::Unknown => {
                cache::heed(&live, SuccessorPurge::Purged(vec![Purge::ALL]));
                sessions.end_all();
            }
        };
        if let Some(cache) = &self.live.gateway().cache {
            let predecessors = Arc::clone(&self.line.predecessors);
            let apply = move |purges| -> BoxFuture<'static, ()> {
                let predecessors = Arc::clone(&predecessors);
                let command = PredecessorCommand::Purge(purges);
                Box::pin(async move { predecessors.tell(&command).await })
            };
            let _first = cache.link().draining.set(Box::new(apply));
        }
        self.line.predecessors.follow(pipes, heeds, move || {
            control.line.manager.succeed();
            control.notify_manager();
            if let Some(init) = &*control.line.init.lock() {
                init::report_pid(init);
            }
            info!("previous process no longer accepts connections, takeover complete");
        });
        inherited.report().serves();
        self.listeners.take_over(&inherited.socket_files);
        if let Some(inheritance) = inheritance {
            let taking = inheritance.take(Arc::clone(&self.live));
            self.tasks().spawn("cache of the predecessor", taking);
        }
    }

    /// Reports to the service manager that we serve, and the sockets that it must keep for the next
    /// process.
    pub(super) fn notify_manager(&self) {
        let manager = &self.line.manager;
        self.with_sockets(|sockets| manager.keep(sockets));
        let listeners: Vec<String> = self
            .listeners
            .opened()
            .into_iter()
            .map(|listener| listener.address)
            .collect();
        let generation = self.live.loaded().generation;
        let addresses = listeners.join(", ");
        manager.serving(&format!(
            "serving on {addresses}, configuration {generation}"
        ));
    }

    /// Calls `work` with every socket that a successor or the next process accepts on.
    fn with_sockets<T>(&self, work: impl FnOnce(&[(String, BorrowedFd<'_>)]) -> T) -> T {
        self.listeners.with_sockets(|listeners| {
            self.admin.with_sockets(|admin| {
                let all: Vec<_> = listeners.iter().chain(admin).cloned().collect();
                work(&all)
            })
        })
    }

    /// Replaces this process with a new one, started from `binary` or from our own program. This
    /// process serves until the new one does, and continues if that fails.
    ///
    /// Must be run to completion, even if the caller stops waiting for it.
    pub(super) async fn upgrade(
        self: &Arc<Self>,
        binary: Option<PathBuf>,
    ) -> Result<UpgradeResult, ActionError> {
        let handed_over = self.line.predecessors.handed_over();
        if tokio::time::timeout(READY_WITHIN, handed_over)
            .await
            .is_err()
        {
            let message = "the previous process has not handed over yet: try again later";
            return Err(ActionError::new(409, "not_handed_over", message));
        }
        let _turn = self.turn.lock().await;
        self.line.is_ours()?;
        if self.is_stopping() {
            let message = "the gateway is stopping: it cannot be upgraded";
            return Err(ActionError::new(409, "stopping", message));
        }
        if let Some(relative) = binary.as_deref().filter(|path| !path.is_absolute()) {
            let message = format!(
                "`{}` is not an absolute path: the gateway may run in another folder",
                relative.display()
            );
            return Err(ActionError::new(400, "binary", message));
        }
        let program = binary.as_deref().unwrap_or(&self.line.launch.program);
        info!(program:% = program.display(); "upgrade: starting the process that takes over");
        let start = self.live.world.clock.now();
        match self.hand_over(binary).await {
            Ok((pid, version)) => {
                let took = self.live.world.clock.now() - start;
                info!(
                    pid, version = version.as_str(), ms = millis(took);
                    "upgrade: successor serves, this process finishes its requests"
                );
                Ok(UpgradeResult {
                    pid,
                    version,
                    took_ms: millis(took),
                })
            }
            Err(failure) => {
                self.line.upgrades.lock().failed += 1;
                self.line.count(&self.live.world.metrics);
                let message = error::chain(&failure);
                if matches!(failure, HandoverError::Stopped(_)) {
                    warn!("upgrade given up: {message}");
                } else {
                    let error = message.as_str();
                    error!(error; "upgrade failed, this process keeps serving");
                }
                Err(ActionError::new(409, reason(&failure), message))
            }
        }
    }

    async fn hand_over(
        self: &Arc<Self>,
        binary: Option<PathBuf>,
    ) -> Result<(u32, String), HandoverError> {
        let prepared = self
            .estate()
            .map_err(|error| HandoverError::Prepare(self.line.launch.program.clone(), error))?;
        let cache = prepared.cache;
        let outcome = self.start_successor(binary, prepared.estate).await;
        let (successor, version) = match outcome {
            Ok(started) => started,
            Err(failure) => {
                self.line.predecessors.resume();
                if let Some((cache, _)) = cache {
                    cache.link().notes.end();
                }
                return Err(failure);
            }
        };
        let pid = successor.pid();
        // Set before anything reports that we leave, so that the reason is known.
        let _first = self.line.successor.set(successor);
        self.stopping.send_replace(true);
        self.line.manager.succeeded_by(pid, &version);
        self.listeners.hand_over();
        self.supervisor.retire();
        let releasing = Arc::clone(self);
        let release = async move { releasing.release_disk().await };
        self.tasks().spawn("release the disk", release);
        self.line.predecessors.leave();
        // To process 1, a closed pipe is the end of a gateway. The successor holds a pipe of its
        // own.
        self.line.init.lock().take();
        let (reported, has_reported) = oneshot::channel();
        let reporting = predecessors::report_to_successor(
            prepared.report_writer,
            Arc::clone(&self.live),
            Arc::clone(&self.sessions),
            reported,
        );
        self.tasks().spawn("tell the successor", reporting);
        if let Some((cache, pipe)) = cache {
            self.line.giving.send_replace(true);
            let control = Arc::clone(self);
            self.tasks().spawn("cache for the successor", async move {
                cache::give(&cache, pipe, &control.live).await;
                control.line.giving.send_replace(false);
            });
        }
        // This process may have nothing to finish, and exit at once.
        let _reported = tokio::time::timeout(REPORT_TIMEOUT, has_reported).await;
        if let Some(succeeded) = self.line.succeeded.lock().take()
            && let init = prepared.init
            && succeeded.send(SuccessionNotice { pid, init }).is_err()
        {
            error!("no process waits for the end of this one");
        }
        Ok((pid, version))
    }

    fn estate(&self) -> std::io::Result<SuccessorResources> {
        let sockets = self.with_sockets(|sockets| -> std::io::Result<_> {
            let owned = |(place, fd): &(String, BorrowedFd<'_>)| {
                Ok((place.clone(), fd.try_clone_to_owned()?))
            };
            sockets.iter().map(owned).collect()
        })?;
        let (report_reader, report_writer) = UnixStream::pair()?;
        let (init, to_init) = match &*self.line.init.lock() {
            Some(to_init) => (None, Some(to_init.try_clone()?)),
            None if init::is_needed() => {
                let (init, to_init) = InitProcess::new()?;
                (Some(init), Some(to_init))
            }
            None => (None, None),
        };
        let mut upgrades = *self.line.upgrades.lock();
        upgrades.succeeded += 1;
        let mut predecessors = self.line.predecessors.lend()?;
        predecessors.push(report_reader.into());
        let (cached, cache) = match &self.live.gateway().cache {
            Some(cache) => {
                let (cached, pipe) = cache::pipe()?;
                // Entries removed from here on may already have been sent.
                cache.link().notes.begin();
                (Some(cached), Some((Arc::clone(cache), pipe)))
            }
            None => (None, None),
        };
        let mut state = self.live.world.zones.export();
        state.insert(SESSIONS.to_owned(), self.sessions.export());
        state.insert(PROBLEMS.to_owned(), json!(*self.problem_onsets.lock()));
        state.insert(SOCKET_FILES.to_owned(), json!(self.listeners.files()));
        let estate = InheritedState {
            sockets,
            state,
            predecessors,
            init: to_init,
            cache: cached,
            upgrades,
            ..InheritedState::default()
        };
        Ok(SuccessorResources {
            estate,
            report_writer: report_writer.into(),
            init,
            cache,
        })
    }

    async fn start_successor(
        &self,
        binary: Option<PathBuf>,
        estate: InheritedState,
    ) -> Result<(Successor, String), HandoverError> {
        let launch = self.line.launch.clone();
        let program = binary.clone();
        // Forking copies the page tables of all our memory, so it must not block the thread of the
        // timers.
        let started = tokio::task::spawn_blocking(move || {
            Successor::start(&launch, program.as_deref(), &estate)
        });
        let mut successor = match started.await {
            Ok(started) => started?,
            Err(broken) => {
                let program = binary.unwrap_or_else(|| self.line.launch.program.clone());
                return Err(HandoverError::Start(program, broken.into()));
            }
        };
        let version = tokio::select! {
            // A successor that serves has accepted connections, which must not be lost.
            biased;
            serves = successor.serves(READY_WITHIN) => serves?,
            () = self.stop_requested() => successor.stops(STOP_TIMEOUT).await?,
        };
        Ok((successor, version))
    }

    pub(super) async fn stop_requested(&self) {
        // The sender is a field of `self`, so it outlives this.
        drop(self.stopping.subscribe().wait_for(|stops| *stops).await);
    }

    /// Finishes the requests in flight once another process serves.
    pub(super) async fn leave(&self) {
        let gateway = self.live.gateway();
        let drain = gateway.drain;
        // The same deadline as for requests.
        let outcome = tokio::time::timeout(drain.deadline, self.line.given());
        let ((), (), outcome) = tokio::join!(
            self.finish_requests(drain),
            self.admin.finish(drain.idle),
            outcome
        );
        if outcome.is_err() {
            warn!("cache handed over to the successor in part");
        }
        if let Some(cache) = &gateway.cache {
            // The last requests may have removed something.
            let reported = cache.link().notes.all_sent();
            if tokio::time::timeout(REPORT_TIMEOUT, reported)
                .await
                .is_err()
            {
                warn!("cannot send the last purges to the successor");
            }
        }
    }
}

/// Reason in response, audit log and metric.
fn reason(failure: &HandoverError) -> &'static str {
    match failure {
        HandoverError::System(_) | HandoverError::Start(..) | HandoverError::Prepare(..) => {
            "successor_start"
        }
        HandoverError::Refused(..) => "successor_refused",
        HandoverError::Ended(_) => "successor_ended",
        HandoverError::Late(..) => "successor_late",
        HandoverError::Unclear(..) => "successor_unclear",
        HandoverError::Stopped(_) => "stopping",
    }
}
