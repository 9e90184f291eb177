//! Start and stop: log, configuration, listeners, background work, drain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edgeway_cache::purge::Purge;
use edgeway_config::{
    diagnostic::Diagnostics,
    model::File,
    source::{self, Overlay, Sources},
};
use edgeway_gateway::{self as gateway, World, profiles::ProfileSelection};
use edgeway_net::{log_file, redis::Redis};
use edgeway_proxy::{
    edge::worker::{self, Workers},
    live::{Live, audit::Actor},
};
use edgeway_status::actions::{Actions as _, Operation, SUCCEEDED};
use edgeway_upstreams::DecisionStore;
use log::{info, warn};
use rustix::process::Signal;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    actions::Operator,
    admin::AdminError,
    cache::InheritedCache,
    compile_thread::{CompileThread, Panicked},
    control::{Control, StartError},
    handover::LaunchState,
    last_good, log as own_log, problem_log,
    ready::{self, READY_FILE},
    signals::{SignalAction, Signals},
    state_folder::state_folder,
    upgrade::{Lineage, PROBLEMS, SESSIONS, SuccessionNotice},
    watch,
};

/// Time limit for writing the last log lines.
const FLUSH: Duration = Duration::from_secs(2);

/// Input of [`serve`].
pub struct BootOptions {
    /// Launch parameters and inherited files of this process.
    pub birth: LaunchState,
    pub file: File,
    /// Path of the file. `None` for a built-in configuration.
    pub path: Option<PathBuf>,
    pub threads: Option<usize>,
    /// Lines to print once the gateway serves.
    pub hello: Vec<String>,
    /// The texts of the file, to be stored once they serve. `None` if they need not be stored.
    pub sources: Option<Sources>,
    /// True if an earlier state of the file serves, as with `--last-good`.
    pub is_outdated: bool,
    /// Changes to the file at `path`, at this start and at each reload.
    pub overlay: Option<Arc<Overlay>>,
    /// Receives the warnings of a configuration that serves all the same.
    pub warn: Box<dyn Fn(&Diagnostics)>,
    /// Effect of SIGHUP.
    pub hangup: Hangup,
    /// True for a gateway of a terminal, with which what it left in the background ends.
    pub is_foreground: bool,
}

/// Effect of SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// The configuration is read again.
    Reload,
    /// The process ends, as other programs in a terminal that is closed.
    Stop,
}

/// Why the process could not serve.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the configuration has errors")]
    Config { diagnostics: Diagnostics },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("the configuration could not be compiled")]
    Compile(#[source] Panicked),
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot write {READY_FILE}")]
    Ready(#[source] io::Error),
}

impl BootError {
    /// Returns the address that could not be bound, of a listener or of the admin listener, and why.
    pub fn unbound_address(&self) -> Option<(String, io::ErrorKind)> {
        let (address, source) = match self {
            Self::Start(StartError::Listener(error)) => {
                (error.source.address.clone(), &error.source.source)
            }
            Self::Start(StartError::Admin(AdminError::Address(address, source))) => {
                (address.to_string(), source)
            }
            _ => return None,
        };
        Some((address, source.kind()))
    }

    /// Returns true if the admin listener is the problem.
    pub fn is_admin(&self) -> bool {
        matches!(self, Self::Start(StartError::Admin(_)))
    }
}

/// Serves until a stop signal or until a successor serves, then drains. Returns the exit status.
pub fn serve(setup: BootOptions) -> Result<u8, BootError> {
    let workers = Workers::start(setup.threads).map_err(BootError::Runtime)?;
    // Signals, deadlines, probes, DNS and the admin listener have this thread to themselves. An
    // idle worker then has no timers of ours to check.
    let runtime = worker::single().map_err(BootError::Runtime)?;
    own_log::detach();
    let outcome = runtime.block_on(run(setup, workers.handle()));
    // A disk that hangs must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    workers.stop(Duration::from_millis(100));
    log::logger().flush();
    outcome
}

fn live(gateway: gateway::Gateway, world: World, is_outdated: bool) -> Arc<Live> {
    let live = Live::new(gateway, world);
    if is_outdated {
        live.refused("`--last-good` was given at the start; repair the file and reload".to_owned());
    }
    Arc::new(live)
}

async fn run(setup: BootOptions, workers: &Handle) -> Result<u8, BootError> {
    let (path, mut inherited) = (setup.path, setup.birth.inherited);
    let folder = path.as_deref().and_then(state_folder);
    let world = World {
        keeper: folder
            .map(|folder| Arc::new(DecisionStore::open(folder.join("backends.json"))))
            .unwrap_or_default(),
        overlay: setup.overlay,
        workers: Some(workers.clone()),
        ..World::default()
    };
    let mut state = std::mem::take(&mut inherited.state);
    let sessions = state.remove(SESSIONS);
    let problems = state.remove(PROBLEMS);
    world.zones.inherit(state);
    let compiling = CompileThread::start(Handle::current()).map_err(BootError::Runtime)?;
    let (to_compile, folder) = (world.clone(), path.as_deref().and_then(Path::parent));
    let folder = folder.unwrap_or(Path::new("")).to_owned();
    let compiled = compiling.run(move || {
        let same = ProfileSelection::Same;
        let compiled = gateway::compile_with(&setup.file, &folder, &to_compile, same);
        (setup.file, compiled)
    });
    let (file, (gateway, diagnostics, referenced)) = compiled.await.map_err(BootError::Compile)?;
    let Some(gateway) = gateway else {
        return Err(BootError::Config { diagnostics });
    };
    if !diagnostics.list().is_empty() {
        (setup.warn)(&diagnostics);
    }
    Redis::connect_before_use(gateway.redis.as_ref()).await;
    let signals = Signals::listen().map_err(BootError::Signals)?;
    // With `--last-good`, changes count from the files on disk, which may stay as they are for now.
    let on_disk = || path.as_deref().map(|path| source::load(path).0);
    let mut read = setup.sources.clone().or_else(on_disk).unwrap_or_default();
    read.referenced = referenced;
    let inheritance = InheritedCache::prepare(inherited.cache.take(), &gateway);
    let live = live(gateway, world, setup.is_outdated);
    let (line, succeeded) = Lineage::new(setup.birth.launch, &mut inherited);
    let control = Control::new(&live, (file, read), path, line, compiling, workers.clone());
    if let Some(sessions) = sessions {
        control.sessions.import(&sessions);
    }
    let problems = problems.and_then(|it| serde_json::from_value(it).ok());
    *control.problem_onsets.lock() = problems.unwrap_or_default();
    control.start(&mut |place| inherited.socket(place)).await?;
    control.line.manager.orphaned(&inherited.close_rest());
    control.tasks().spawn("log", own_log::supervise());
    control
        .tasks()
        .spawn("problems", problem_log::watch(Arc::clone(&control)));

    if let Some(path) = std::env::var_os(READY_FILE) {
        ready::write(&control, path.as_ref()).map_err(BootError::Ready)?;
    }
    if let (Some(path), Some(sources)) = (&control.path, setup.sources) {
        let keeping = last_good::keep_later(path.clone(), Arc::new(sources));
        control.tasks().spawn("last good", keeping);
    }
    if let Some(path) = &control.path {
        let watching = watch::run(path.clone(), control.sources(), Operator::new(&control));
        control.tasks().spawn("watch", watching);
    }
    if !setup.hello.is_empty() {
        edgeway_base::out::note(&setup.hello.join("\n"));
    }

    control.succeed(&mut inherited, inheritance);
    let manager = Arc::clone(&control.line.manager);
    control
        .tasks()
        .spawn("watchdog", manager.watchdog(workers.clone()));

    let ends_by = (setup.hangup, setup.is_foreground);
    let status = serve_until_the_end(&control, signals, ends_by, succeeded).await;
    tokio::join!(
        control.give_up_lease(),
        control.release_disk(),
        control.export_traces()
    );
    control.end();
    let flushed = tokio::task::spawn_blocking(|| log_file::flush(FLUSH)).await;
    if !flushed.unwrap_or(false) {
        warn!("some lines of the access log or the audit log were lost");
    }
    info!("stopped");
    Ok(status)
}

/// Serves until a stop signal or a successor, and finishes the requests in flight.
async fn serve_until_the_end(
    control: &Arc<Control>,
    mut signals: Signals,
    (hangup, is_foreground): (Hangup, bool),
    mut hears: oneshot::Receiver<SuccessionNotice>,
) -> u8 {
    let succeeded = tokio::select! {
        () = until_stopped(control, &mut signals, hangup) => None,
        Ok(succeeded) = &mut hears => Some(succeeded),
    };
    let hurried = async {
        while signals.next_action().await != SignalAction::Stop {}
        warn!("stopping at once, not waiting for requests in flight");
    };
    match succeeded {
        None => {
            if is_foreground {
                end_retiring(control);
            }
            tokio::select! {
                () = control.stop() => {}
                () = hurried => {}
            }
            // An upgrade was too far on to be undone, but the successor was stopped, too.
            if let Ok(SuccessionNotice {
                pid,
                init: Some(init),
            }) = hears.try_recv()
            {
                control.end();
                return init.run_to_the_end(pid).await;
            }
        }
        // Signals are for the process that serves now.
        Some(SuccessionNotice {
            pid,
            init: Some(init),
        }) => {
            let leave = async {
                control.leave().await;
                tokio::join!(control.give_up_lease(), control.export_traces());
                if let Some(cache) = &control.live.gateway().cache {
                    // This process stays, but does not use the cache any more.
                    cache.store().forget(&Purge::ALL);
                }
                // The successor must not wait for this process any more.
                control.end();
            };
            let ((), status) = tokio::join!(leave, init.run(pid));
            return status;
        }
        Some(SuccessionNotice { init: None, .. }) => tokio::select! {
            () = control.leave() => {}
            () = hurried => {}
        },
    }
    0
}

/// Ends the processes that end replaced releases.
fn end_retiring(control: &Control) {
    for upstream in control.live.gateway().upstreams.values() {
        if let Some(releases) = upstream.snapshot().releases {
            releases.stop_retiring();
        }
    }
}

/// Handles signals until one requests a stop.
async fn until_stopped(control: &Arc<Control>, signals: &mut Signals, hangup: Hangup) {
    loop {
        match signals.next_action().await {
            SignalAction::Stop => return,
            SignalAction::Reopen => log_file::reopen(),
            SignalAction::Upgrade => {
                let operator = Operator::new(control);
                control.tasks().spawn("upgrade", async move {
                    drop(
                        operator
                            .perform(Actor::Signal, Operation::Upgrade(None))
                            .await,
                    );
                });
            }
            SignalAction::Reload if hangup == Hangup::Stop => return,
            SignalAction::Reload => {
                // The next signal is handled meanwhile. The outcome is in the log.
                let operator = Operator::new(control);
                let waiting = Arc::clone(control);
                control.tasks().spawn("reload", async move {
                    let outcome = operator
                        .perform(Actor::Signal, Operation::Reload(None))
                        .await;
                    if outcome.is_err_and(|refused| refused.reason == SUCCEEDED) {
                        waiting.line.pass_on(Signal::HUP);
                    }
                });
            }
        }
    }
}
