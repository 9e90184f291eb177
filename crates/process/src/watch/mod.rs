//! `watch: true`: reloads the configuration when its files change. Events only trigger a check; the
//! contents of the files decide if anything changed.

mod folders;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use edgeway_config::source::{self, Sources};
use log::{debug, info, warn};
use notify::{Config, Event, EventKind, PollWatcher, RecursiveMode, Watcher, event::AccessKind};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use self::folders::{WatchedFolder, WatchedFolders};

/// A burst of changes that does not end is checked after this many pauses.
const MAX_BURST: u32 = 10;
/// Poll interval if the system does not report changes.
const POLL: Duration = Duration::from_secs(2);

/// Future of the action on a change.
pub(super) type Reaction<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Settings of a watch, and its action on a change.
pub(super) trait WatchSettings: Send + Sync {
    /// Time that files must be at rest before they are read. `None` while watching is off.
    fn debounce(&self) -> Option<Duration>;

    /// Called when the files' contents have changed.
    fn changed(&self) -> Reaction<'_>;
}

/// Watches the files of the configuration at `path` for ever. `read` has the sources read last, by
/// any reload, whether they were accepted or not. It changes with each reload.
pub(super) async fn run(
    path: PathBuf,
    mut read: watch::Receiver<Arc<Sources>>,
    watched: impl WatchSettings,
) {
    let (sender, mut events) = mpsc::channel(1);
    let mut eyes: Option<FolderWatcher> = None;
    loop {
        let Some(pause) = watched.debounce() else {
            if eyes.take().is_some() {
                info!("configuration no longer watched");
            }
            if read.changed().await.is_err() {
                return;
            }
            continue;
        };
        // Computed with each check: folders come and go, and links change their target.
        let places = WatchedFolders::new(&path, &read.borrow_and_update());
        if eyes.as_ref().is_none_or(|eyes| eyes.places != places) {
            if eyes.is_none() {
                info!(file:? = path; "configuration watched");
            }
            eyes = Some(FolderWatcher::open(places, &sender));
        }
        if is_changed(&path, &read).await {
            watched.changed().await;
            // A reload that failed is not retried until something changes.
            if !read.has_changed().unwrap_or(false) {
                wait(&mut read, &mut events, pause).await;
            }
            continue;
        }
        wait(&mut read, &mut events, pause).await;
    }
}

/// Waits until files have changed and are at rest again, or another configuration was read.
async fn wait(
    read: &mut watch::Receiver<Arc<Sources>>,
    events: &mut mpsc::Receiver<()>,
    pause: Duration,
) {
    tokio::select! {
        changed = read.changed() => {
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
        _event = events.recv() => {
            let at_latest = Instant::now() + pause * MAX_BURST;
            loop {
                let quiet = (Instant::now() + pause).min(at_latest);
                if timeout_at(quiet, events.recv()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns true if the files differ from what was read last.
async fn is_changed(path: &Path, read: &watch::Receiver<Arc<Sources>>) -> bool {
    let (path, before) = (path.to_owned(), Arc::clone(&read.borrow()));
    let looked = tokio::task::spawn_blocking(move || {
        let (now, ..) = source::load(&path);
        now.files != before.files || before.referenced.is_changed()
    });
    looked.await.unwrap_or_else(|error| {
        warn!(error:%; "cannot check the configuration's files");
        false
    })
}

/// File system watcher, active for as long as it lives.
struct FolderWatcher {
    places: WatchedFolders,
    _watcher: Box<dyn Watcher + Send>,
}

impl FolderWatcher {
    fn open(places: WatchedFolders, sender: &mpsc::Sender<()>) -> Self {
        let native = notify::recommended_watcher(forwarder(&places, sender));
        let watcher = native.and_then(|mut watcher| {
            look_at(&mut watcher, &places.places)?;
            Ok(Box::new(watcher) as Box<dyn Watcher + Send>)
        });
        let watcher = watcher.unwrap_or_else(|error| {
            warn!(error:%; "no notifications of changed files, polling them instead");
            poll(&places, sender)
        });
        Self {
            places,
            _watcher: watcher,
        }
    }
}

fn poll(places: &WatchedFolders, sender: &mpsc::Sender<()>) -> Box<dyn Watcher + Send> {
    let config = Config::default().with_poll_interval(POLL);
    match PollWatcher::new(forwarder(places, sender), config) {
        Ok(mut watcher) => {
            if let Err(error) = look_at(&mut watcher, &places.places) {
                warn!(error:%; "cannot watch a folder of the configuration");
            }
            Box::new(watcher)
        }
        Err(error) => {
            warn!(error:%; "cannot watch the configuration");
            Box::new(notify::NullWatcher)
        }
    }
}

fn look_at(watcher: &mut impl Watcher, places: &HashSet<WatchedFolder>) -> notify::Result<()> {
    for place in places {
        let mode = if place.is_deep {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        watcher.watch(&place.folder, mode)?;
    }
    Ok(())
}

/// Callback that forwards events which may concern the configuration. One pending event is enough.
fn forwarder(
    places: &WatchedFolders,
    sender: &mpsc::Sender<()>,
) -> impl FnMut(notify::Result<Event>) + use<> {
    let (names, sender) = (places.names.clone(), sender.clone());
    move |event| {
        let is_about_us = match event {
            // Opening and reading, which we do ourselves.
            Ok(Event {
                kind: EventKind::Access(kind),
                ref paths,
                ..
            }) => matches!(kind, AccessKind::Close(_)) && names.any(paths),
            Ok(event) => event.need_rescan() || names.any(&event.paths),
            Err(error) => {
                debug!(error:%; "file change notification failed");
                true
            }
        };
        if is_about_us {
            // Full: a check is pending anyway.
            let _sent = sender.try_send(());
        }
    }
}

#[cfg(test)]
mod tests;
