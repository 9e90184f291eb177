//! What a running process can be told to do: take in a configuration, and stop.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use log::{error, info, warn};
use tokio::{runtime::Handle, sync::watch};

use super::{
    actions::Operator,
    admin::{Admin, AdminError, Kept},
    last_good, plugins,
    source::Running,
    upgrade::Line,
};
use crate::{
    base::{error, tasks::Tasks, units::millis},
    config::{
        changes::{Changes, Delta},
        diagnostic::{Diagnostic, Diagnostics},
        model::File,
        source::Sources,
    },
    edge::listeners::{Inherit, Listeners, PrepareError},
    gateway::{Drain, Gateway},
    proxy,
    runtime::{
        live::{Live, Taken},
        reload::{self, Candidate, Mistaken},
        supervisor::Supervisor,
    },
    status::{
        actions::{Refused, Reloaded, ZoneChanges},
        http::Served,
    },
};

/// How long it takes to leave once nothing is under way: last log lines, mostly.
const STOPPED: Duration = Duration::from_secs(5);

/// How long it may take to say that no purge is to wait for this process.
const GIVE_UP: Duration = Duration::from_millis(500);

/// A running process.
pub(super) struct Control {
    pub(super) live: Arc<Live>,
    pub(super) listeners: Listeners<proxy::Service>,
    pub(super) admin: Admin,
    pub(super) supervisor: Supervisor,
    /// `None` for a configuration that is built in.
    pub(super) path: Option<PathBuf>,
    pub(super) line: Line,
    /// Whoever changes what serves has it: one reload or upgrade after the other. It holds
    /// the configuration that serves, as written.
    pub(super) turn: tokio::sync::Mutex<File>,
    /// What was read last, whether it was taken or not.
    sources: watch::Sender<Arc<Sources>>,
    pub(super) stopping: watch::Sender<bool>,
}

/// Why the process cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listener(#[from] PrepareError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Control {
    pub(super) fn new(
        live: &Arc<Live>,
        file: File,
        path: Option<PathBuf>,
        sources: Sources,
        line: Line,
        workers: Handle,
    ) -> Arc<Self> {
        let app = Arc::new(proxy::service(live));
        let shortcut = Arc::new(proxy::Past::new(live, &app));
        let refuser = Arc::new(proxy::Refuser::new(live));
        Arc::new(Self {
            live: Arc::clone(live),
            listeners: Listeners::new(app, shortcut, refuser, live, workers),
            admin: Admin::default(),
            supervisor: Supervisor::start(live),
            path,
            line,
            turn: tokio::sync::Mutex::new(file),
            sources: watch::Sender::new(Arc::new(sources)),
            stopping: watch::Sender::new(false),
        })
    }

    /// Listens as the gateway says.
    pub(super) async fn start(self: &Arc<Self>, inherit: Inherit<'_>) -> Result<(), StartError> {
        let gateway = self.live.gateway();
        let listeners = self.listeners.prepare(&gateway.listeners, inherit)?;
        let admin = self.admin.prepare(&gateway.admin, inherit)?;
        self.admin.commit(admin, &self.served());
        self.listeners
            .commit(listeners, &gateway.listeners, gateway.drain)
            .await;
        // What the predecessor left and nobody asked for is of no use.
        self.live.world.zones.settle();
        Ok(())
    }

    /// What was read of the configuration last, and from now on.
    pub(super) fn sources(&self) -> watch::Receiver<Arc<Sources>> {
        self.sources.subscribe()
    }

    /// What the admin listeners show and do.
    fn served(self: &Arc<Self>) -> Served {
        Served {
            source: Arc::new(Running::new(Arc::clone(self))),
            actions: Arc::new(Operator::new(self)),
            tasks: self.tasks().clone(),
        }
    }

    /// The gateway is on its way out.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Reads the configuration anew and serves it, if nothing is wrong with it. One after
    /// the other: what is asked for in the meantime waits.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<Reloaded, Refused> {
        let mut file = self.turn.lock().await;
        let Some(path) = &self.path else {
            let message = "this configuration is built in: there is no file to read";
            return Err(Refused::new(409, "built_in", message));
        };
        self.line.is_ours()?;
        if self.is_stopping() {
            let message = "the gateway is stopping: no other configuration is taken in";
            return Err(Refused::new(409, "stopping", message));
        }
        self.line.manager.reloading();
        let outcome = self.reload_from(path, &mut file).await;
        self.tell_manager();
        outcome
    }

    async fn reload_from(
        self: &Arc<Self>,
        path: &Path,
        file: &mut File,
    ) -> Result<Reloaded, Refused> {
        let begun = self.live.world.clock.now();
        let found = self.read(path).await;
        let candidate = match found {
            Ok(candidate) => candidate,
            Err(refused) => {
                self.tell_refused(path, &refused);
                return Err(refused);
            }
        };
        let (profile, before) = {
            let gateway = self.live.gateway();
            (gateway.profiles.active.clone(), plugins::versions(&gateway))
        };
        let (generation, zones) = match self.take(&candidate, Taken::Read).await {
            Ok(taken) => taken,
            Err(refused) => {
                reload::refuse(&self.live, refused.message.clone());
                self.tell_refused(path, &refused);
                self.sources.send_replace(Arc::new(candidate.sources));
                return Err(refused);
            }
        };
        let after = plugins::versions(&candidate.gateway);
        let changes = Changes {
            plugins: Delta::between_versions(&before, &after),
            ..Changes::between(file, &candidate.file)
        };
        *file = candidate.file;
        let keeping = last_good::keep_later(path.to_owned(), candidate.sources.clone());
        self.tasks().spawn("last good", keeping);
        self.sources
            .send_replace(Arc::new(candidate.sources.clone()));
        let took = self.live.world.clock.now() - begun;
        let mut warnings = lines(&candidate.diagnostics, &candidate.sources);
        if let Some(gone) = profile
            && candidate.gateway.profiles.active.is_none()
        {
            warnings.push(format!(
                "the profile `{gone}` is no longer there: it was switched on, and none is now"
            ));
        }
        for warning in &warnings {
            warn!("{warning}");
        }
        let lines = changes.lines();
        info!(
            generation,
            changes = lines.len(),
            ms = millis(took);
            "configuration reloaded: {}",
            if lines.is_empty() { "nothing changed".to_owned() } else { lines.join(", ") }
        );
        Ok(Reloaded {
            generation,
            took_ms: millis(took),
            changes,
            zones,
            warnings,
        })
    }

    /// Reads and compiles on a thread that may wait for files.
    async fn read(&self, path: &Path) -> Result<Candidate, Refused> {
        let (live, path) = (Arc::clone(&self.live), path.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            reload::read(&live, &path).inspect_err(|mistaken| {
                let refused = Refused::configuration(&mistaken.sources, &mistaken.diagnostics);
                reload::refuse(&live, refused.message);
            })
        });
        match read.await {
            Ok(Ok(candidate)) => Ok(candidate),
            Ok(Err(mistaken)) => {
                let Mistaken {
                    sources,
                    diagnostics,
                } = *mistaken;
                let refused = Refused::configuration(&sources, &diagnostics);
                self.sources.send_replace(Arc::new(sources));
                Err(refused)
            }
            Err(broken) => {
                let message = format!("the configuration could not be compiled: {broken}");
                reload::refuse(&self.live, message.clone());
                Err(Refused::new(500, "internal", message))
            }
        }
    }

    /// Binds what is new, then swaps all at once.
    pub(super) async fn take(
        self: &Arc<Self>,
        candidate: &Candidate,
        how: Taken,
    ) -> Result<(u64, ZoneChanges), Refused> {
        let gateway = &candidate.gateway;
        let listeners = self
            .listeners
            .prepare(&gateway.listeners, &mut |_| None)
            .map_err(|error| cannot_bind(candidate, &error))?;
        let admin = self
            .admin
            .prepare(&gateway.admin, &mut |_| None)
            .map_err(|error| Refused::new(409, "admin_listener", error::chain(&error)))?;
        let (generation, zones) = reload::take(&self.live, &self.supervisor, gateway, how);
        self.listeners
            .commit(listeners, &gateway.listeners, gateway.drain)
            .await;
        self.admin.commit(admin, &self.served());
        self.allow_files(gateway);
        Ok((
            generation,
            ZoneChanges {
                kept: zones.kept,
                added: zones.added,
                dropped: zones.dropped,
            },
        ))
    }

    fn tell_refused(&self, path: &Path, refused: &Refused) {
        let generation = self.live.loaded().generation;
        error!(
            file:% = path.display(), reason = &*refused.reason, generation;
            "configuration refused, the one before it goes on: {}", refused.message
        );
    }

    /// Takes as many files as the system gives us, and says where connections may outgrow
    /// them.
    pub(super) fn allow_files(&self, gateway: &Gateway) {
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
                    "more connections may be open than there are files for them and their backends"
                );
            }
        }
    }

    /// Says that it stops, waits for as long as balancers in front may take to notice, then
    /// lets every connection finish.
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
        // No reload may open a listener from here on.
        let _turn = self.turn.lock().await;
        info!("stopping: no new connections, requests under way may finish");
        if self.line.manager.is_there() {
            // It keeps the sockets for the next process, and their paths with them.
            self.listeners.hand_over();
        }
        let predecessors = self.line.predecessors.gone();
        let predecessors = tokio::time::timeout(drain.deadline, predecessors);
        if let ((), Err(_)) = tokio::join!(self.finish_requests(drain), predecessors) {
            warn!("processes before this one have not finished in time");
        }
    }

    /// Lets connections end, and then what their requests have left to be done.
    pub(super) async fn finish_requests(&self, drain: Drain) {
        let clock = &self.live.world.clock;
        let begun = clock.now();
        self.listeners.retire(drain).await;
        let left = drain.deadline.saturating_sub(clock.now() - begun);
        let late = self.live.world.late.join();
        if tokio::time::timeout(left, late).await.is_err() {
            warn!("what plugins left to be done has not ended in time");
        }
    }

    /// This process serves nobody any more: purges are not to wait for it.
    pub(super) async fn give_up_lease(&self) {
        let gateway = self.live.gateway();
        if let (Some(cache), Some(redis)) = (&gateway.cache, &gateway.redis) {
            let leaving = cache.link().leave(Arc::clone(redis));
            // It runs out by itself otherwise.
            let _in_time = tokio::time::timeout(GIVE_UP, leaving).await;
        }
    }

    /// This process serves nobody any more, or another one does: the cache's folder is for the
    /// next.
    pub(super) async fn release_disk(&self) {
        if let Some(cache) = &self.live.gateway().cache {
            cache.release_disk().await;
        }
    }

    /// Ends what is left.
    pub(super) fn end(&self) {
        self.supervisor.stop();
        self.admin.close(
            if self.line.manager.is_there() || self.line.is_succeeded() {
                Kept::ByOthers
            } else {
                Kept::ByNobody
            },
        );
    }

    /// Work that lasts as long as the process.
    pub(super) fn tasks(&self) -> &Tasks {
        self.supervisor.process()
    }
}

/// A listener that cannot be had, told at its place in the file.
fn cannot_bind(candidate: &Candidate, error: &PrepareError) -> Refused {
    let place = candidate
        .file
        .listeners
        .get(error.index)
        .map(|listener| listener.value.address.place)
        .unwrap_or_default();
    let help = match error.source.source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "find out who listens there (`ss -ltnp`); where it is a listener of this gateway's \
             own, remove that one first, with a reload of its own"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        std::io::ErrorKind::AddrNotAvailable => "write an address that this machine has",
        _ => "nothing was changed; try again once it is free",
    };
    let mut diagnostics = Diagnostics::default();
    let message = error::chain(error);
    diagnostics.push(Diagnostic::error("edgeway::listener::bind", place, message).help(help));
    Refused {
        status: 409,
        reason: "listener".into(),
        ..Refused::configuration(&candidate.sources, &diagnostics)
    }
}

fn lines(diagnostics: &Diagnostics, sources: &Sources) -> Vec<String> {
    let sorted = diagnostics.sorted();
    sorted.into_iter().map(|one| one.line(sources)).collect()
}
