//! Starting and stopping: log, configuration, listeners, background work, drain.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use log::{info, warn};
use tokio::runtime::Handle;

use super::{
    actions::Operator,
    control::{Control, StartError},
    last_good, log as own_log,
    ready::{READY_FILE, Ready},
    signals::{Ask, Signals},
    state_folder::state_folder,
};
use crate::{
    base::log_file,
    config::{diagnostic::Diagnostics, model::File, source::Sources},
    edge::worker,
    gateway::{self, World},
    runtime::{audit::Who, live::Live},
    status::actions::Actions as _,
    upstreams::Keeper,
};

/// How long the last log lines may take.
const FLUSH: Duration = Duration::from_secs(2);

/// What to serve.
pub struct Setup {
    pub file: File,
    /// Where the file came from; `None` for one that is built in.
    pub path: Option<PathBuf>,
    pub threads: Option<usize>,
    /// Lines to print once we serve.
    pub hello: Vec<String>,
    /// The texts of the file, to be kept once they serve; `None` if they need not be.
    pub sources: Option<Sources>,
    /// Told what is worth changing in a configuration that serves all the same.
    pub warn: Box<dyn Fn(&Diagnostics)>,
}

/// Why nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the configuration has errors")]
    Config { diagnostics: Diagnostics },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot write {READY_FILE}")]
    Ready(#[source] io::Error),
}

/// Serves until told to stop, then drains.
pub fn serve(setup: Setup) -> Result<(), BootError> {
    let workers = worker::runtime(setup.threads).map_err(BootError::Runtime)?;
    // Signals, deadlines, probes, DNS and the admin listener have this thread to themselves.
    // A worker then has no timers of ours to look at whenever it runs out of work.
    let own = worker::single().map_err(BootError::Runtime)?;
    let outcome = own.block_on(run(setup, workers.handle()));
    workers.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn run(setup: Setup, workers: &Handle) -> Result<(), BootError> {
    let Setup {
        file,
        sources,
        path,
        hello,
        warn,
        ..
    } = setup;
    let kept = path.as_deref().and_then(state_folder);
    let world = World {
        keeper: kept
            .map(|folder| Arc::new(Keeper::open(folder.join("backends.json"))))
            .unwrap_or_default(),
        ..World::default()
    };
    let folder = path
        .as_deref()
        .and_then(std::path::Path::parent)
        .unwrap_or(std::path::Path::new(""));
    let (gateway, diagnostics) = gateway::compile(&file, folder, &world);
    let Some(gateway) = gateway else {
        return Err(BootError::Config { diagnostics });
    };
    if !diagnostics.list().is_empty() {
        warn(&diagnostics);
    }
    let mut signals = Signals::listen().map_err(BootError::Signals)?;
    let live = Arc::new(Live::new(gateway, world));
    let control = Control::new(&live, file, path, workers.clone());
    control.allow_files(&live.gateway());
    control.start(&mut |_| None).await?;
    control.tasks().spawn("log", own_log::supervise());

    if let Some(path) = std::env::var_os(READY_FILE) {
        let ready = Ready::of(&control);
        ready.write(path.as_ref()).map_err(BootError::Ready)?;
    }
    if let (Some(path), Some(sources)) = (&control.path, sources) {
        let keeping = last_good::keep_later(path.clone(), sources);
        control.tasks().spawn("last good", keeping);
    }
    if !hello.is_empty() {
        crate::cli::out::note(&hello.join("\n"));
    }

    until_stopped(&control, &mut signals).await;
    tokio::select! {
        () = control.stop() => {}
        () = told_to_stop(&mut signals) => warn!("told twice to stop: not waiting for requests under way"),
    }
    control.end();
    let flushed = tokio::task::spawn_blocking(|| log_file::flush(FLUSH)).await;
    if !flushed.unwrap_or(false) {
        warn!("some lines of the access log or the audit log were lost");
    }
    info!("stopped");
    log::logger().flush();
    Ok(())
}

/// Does what signals ask for, until one asks to stop.
async fn until_stopped(control: &Arc<Control>, signals: &mut Signals) {
    loop {
        match signals.next().await {
            Ask::Stop => return,
            Ask::Reopen => log_file::reopen(),
            Ask::Reload => {
                // The next signal is heard meanwhile; what came of it is in the log.
                let operator = Operator::new(control);
                control.tasks().spawn("reload", async move {
                    drop(operator.reload(Who::Signal).await);
                });
            }
        }
    }
}

async fn told_to_stop(signals: &mut Signals) {
    while signals.next().await != Ask::Stop {}
}
