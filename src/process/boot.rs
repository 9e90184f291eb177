//! Starting and stopping: log, configuration, listeners, background work, drain.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use log::{debug, info, warn};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use super::{
    files, last_good, log as own_log,
    ready::{READY_FILE, Ready, ReadyListener},
    signals::{Ask, Signals},
    state_folder::state_folder,
};
use crate::{
    base::{log_file, tasks::Tasks},
    config::{diagnostic::Diagnostics, model::File, source::Sources},
    edge::{
        listener::{BindError, Bound},
        worker,
    },
    gateway::{self, Gateway, World},
    proxy,
    runtime::{live::Live, supervisor},
    status,
    upstreams::Keeper,
};

/// Idle clients are told `Connection: close` for this long before they are cut.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// How long requests under way may take once we are to stop.
const DRAIN: Duration = Duration::from_secs(30);
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
    Bind(#[from] BindError),
    #[error("cannot open the admin listener on {address}")]
    Admin {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    AdminSocket(#[from] status::http::SocketError),
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
    let kept = setup.path.as_deref().and_then(state_folder);
    let world = World {
        keeper: kept
            .map(|folder| Arc::new(Keeper::open(folder.join("backends.json"))))
            .unwrap_or_default(),
        ..World::default()
    };
    let folder = setup
        .path
        .as_deref()
        .and_then(std::path::Path::parent)
        .unwrap_or(std::path::Path::new(""));
    let (gateway, diagnostics) = gateway::compile(&setup.file, folder, &world);
    let Some(gateway) = gateway else {
        return Err(BootError::Config { diagnostics });
    };
    if !diagnostics.list().is_empty() {
        (setup.warn)(&diagnostics);
    }
    let mut signals = Signals::listen().map_err(BootError::Signals)?;
    let live = Arc::new(Live::new(gateway, world));
    let gateway = live.gateway();
    allow_files(&live, &gateway);
    let bound = bind(&gateway, workers)?;

    let background = supervisor::start(&live);
    background.spawn("log", own_log::supervise());
    let (stop, stopped) = watch::channel(false);
    let mut ready = Ready {
        pid: std::process::id(),
        listeners: bound
            .iter()
            .map(|bound| ReadyListener {
                name: bound.name.to_string(),
                address: bound.address(),
            })
            .collect(),
        admin: None,
        admin_socket: None,
    };
    let admin = Tasks::default();
    let source = Arc::new(super::source::Running::new(
        Arc::clone(&live),
        setup.path.clone(),
        bound
            .iter()
            .map(|b| (Arc::clone(&b.name), b.address()))
            .collect(),
        stopped.clone(),
    ));
    start_admin(&gateway.admin, &source, &admin, &mut ready)?;

    let app = Arc::new(proxy::service(&live));
    let refuser = Arc::new(proxy::Refuser::new(&live));
    let mut listeners = JoinSet::new();
    for (bound, config) in bound.into_iter().zip(&gateway.listeners) {
        info!(listener = &*bound.name, address:% = bound; "listening");
        let serving = bound.serve(
            Arc::clone(config),
            Arc::clone(&app),
            Arc::clone(&refuser) as _,
            Arc::clone(&live),
            stopped.clone(),
        );
        listeners.spawn_on(serving, workers);
    }
    if let Some(path) = std::env::var_os(READY_FILE) {
        ready.write(path.as_ref()).map_err(BootError::Ready)?;
    }
    if let (Some(path), Some(sources)) = (setup.path, setup.sources) {
        background.spawn("last good", last_good::keep_later(path, sources));
    }
    if !setup.hello.is_empty() {
        crate::cli::out::note(&setup.hello.join("\n"));
    }

    loop {
        match signals.next().await {
            Ask::Stop => break,
            Ask::Reopen => log_file::reopen(),
        }
    }
    info!("stopping: no new connections, requests under way may finish");
    stop.send_replace(true);
    tokio::select! {
        () = drain(&live, &mut listeners) => {}
        _ = signals.next() => warn!("told twice to stop: not waiting for requests under way"),
    }
    background.stop();
    admin.stop();
    let flushed = tokio::task::spawn_blocking(|| log_file::flush(FLUSH)).await;
    if !flushed.unwrap_or(false) {
        warn!("some lines of the access log or the audit log were lost");
    }
    info!("stopped");
    log::logger().flush();
    Ok(())
}

/// Takes as many files as the system gives us, and says where connections may outgrow them.
fn allow_files(live: &Live, gateway: &Gateway) {
    let files = files::raise();
    let connections = live.total.allow_files(files);
    debug!(files, connections; "connections that may be open where no limit is written");
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

/// Binds every listener, for the workers to accept on.
fn bind(gateway: &Gateway, workers: &Handle) -> Result<Vec<Bound>, BindError> {
    let _accepting = workers.enter();
    gateway
        .listeners
        .iter()
        .map(|listener| Bound::bind(Arc::clone(&listener.name), &listener.address))
        .collect()
}

/// Waits for requests under way; idle connections go after a grace.
async fn drain(live: &Live, listeners: &mut JoinSet<()>) {
    let all_gone = async { while listeners.join_next().await.is_some() {} };
    let cut_idle = async {
        let mut waited = Duration::ZERO;
        while waited < DRAIN {
            tokio::time::sleep(IDLE_GRACE).await;
            waited += IDLE_GRACE;
            live.connections.cut(false);
        }
        warn!(connections = live.connections.open(); "cutting what is still under way");
        live.connections.cut(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all_gone => {}
        () = cut_idle => {}
    }
}

fn start_admin(
    config: &gateway::Admin,
    source: &Arc<super::source::Running>,
    tasks: &Tasks,
    ready: &mut Ready,
) -> Result<(), BootError> {
    if let Some(address) = config.address {
        let refuse = |source| BootError::Admin { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        ready.admin = Some(address.to_string());
        info!(address:%; "admin listening");
        let hosts = status::http::Hosts::Loopback(Vec::new());
        let serving = status::http::serve_tcp(listener, Arc::clone(source) as _, hosts);
        tasks.spawn("admin", ended(serving));
    }
    if let Some(path) = &config.socket {
        let listener = status::http::bind_unix(path)?;
        ready.admin_socket = Some(path.display().to_string());
        info!(path:? = path; "admin listening");
        let serving = status::http::serve_unix(listener, Arc::clone(source) as _);
        tasks.spawn("admin socket", ended(serving));
    }
    Ok(())
}

/// The admin listener is to last as long as the process.
async fn ended(serving: impl Future<Output = io::Result<()>>) {
    if let Err(error) = serving.await {
        log::error!(error:%; "the admin listener ended");
    }
}
