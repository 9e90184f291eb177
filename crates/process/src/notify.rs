//! Notifications to systemd, and the file descriptor store: our state, the main process, the
//! watchdog, and the listening sockets, so that a crash refuses no connection.
//!
//! Everything here is a no-op without a service manager (`NOTIFY_SOCKET`).

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use log::{debug, error, info, warn};
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::{runtime::Handle, task::JoinSet};

use super::handover::name_of;

/// Longest name in systemd's descriptor store.
const MAX_NAME: usize = 255;

/// The service manager that started us or a predecessor, if there is one.
pub(super) struct ServiceManager {
    is_there: bool,
    /// The manager listens to the main process only.
    is_main: AtomicBool,
    /// Names of the sockets that the manager stores.
    stored: Mutex<BTreeSet<String>>,
    /// Names of stored sockets of a predecessor that we do not use.
    orphaned: Mutex<BTreeSet<String>>,
}

impl ServiceManager {
    /// Creates it. A successor becomes the main process once its predecessor reports so.
    pub(super) fn new(is_succession: bool) -> Arc<Self> {
        Arc::new(Self {
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            is_main: AtomicBool::new(!is_succession),
            stored: Mutex::default(),
            orphaned: Mutex::default(),
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    fn send(&self, state: &[NotifyState<'_>]) {
        self.send_with(state, None);
    }

    fn send_with(&self, state: &[NotifyState<'_>], socket: Option<BorrowedFd<'_>>) {
        if !self.is_there || !self.is_main.load(Ordering::Acquire) {
            return;
        }
        let sent = match socket {
            Some(socket) => sd_notify::notify_with_fds(state, &[socket]),
            None => sd_notify::notify(state),
        };
        if let Err(error) = sent {
            warn!(error:%; "cannot report our state to the service manager");
        }
    }

    /// Reports that we serve.
    pub(super) fn serving(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports that the configuration is being read again. [`ServiceManager::serving`] follows in any
    /// case.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => debug!(error:%; "the clock cannot be read"),
        }
    }

    /// Reports that requests in flight are finishing, for at most `at_most`.
    pub(super) fn stopping(&self, at_most: Duration) {
        let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
        self.send(&[
            NotifyState::Stopping,
            NotifyState::Status("finishing requests in flight"),
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    /// Reports another process as the main one. From now on the manager listens only to that one.
    pub(super) fn succeeded_by(&self, pid: u32, version: &str) {
        let status = format!("serving, upgraded to version {version}");
        self.send(&[
            NotifyState::MainPid(pid),
            NotifyState::Ready,
            NotifyState::Status(&status),
        ]);
        self.is_main.store(false, Ordering::Release);
    }

    /// Becomes the main process, after the predecessor has reported so.
    pub(super) fn succeed(&self) {
        self.is_main.store(true, Ordering::Release);
        // The predecessor's last sign of life may be half of the limit old, and the manager has
        // ignored ours. The next one is due only after another half.
        self.send(&[NotifyState::Watchdog]);
    }

    /// Records sockets that the manager may still store and that we do not use.
    pub(super) fn orphaned(&self, names: &[String]) {
        let names = names.iter().filter_map(|name| store_name(name));
        self.orphaned.lock().extend(names);
    }

    /// Stores these sockets with the manager, and no others of ours. It passes them to the next
    /// process that it starts, and clients that connect in between wait.
    pub(super) fn keep(&self, sockets: &[(String, BorrowedFd<'_>)]) {
        if !self.is_there || !self.is_main.load(Ordering::Acquire) {
            return;
        }
        let mut stored = self.stored.lock();
        // This comes first: a new socket in place of an orphaned one has the same name.
        for name in std::mem::take(&mut *self.orphaned.lock()) {
            self.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
            stored.remove(&name);
        }
        let mut wanted = BTreeSet::new();
        for (place, socket) in sockets {
            let Some(name) = store_name(place) else {
                debug!(place = place.as_str(); "systemd keeps no socket of this name");
                continue;
            };
            if !stored.contains(&name) {
                let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
                self.send_with(&state, Some(socket.as_fd()));
            }
            wanted.insert(name);
        }
        // Without a listener, the port would stay open and accept nothing.
        for name in stored.difference(&wanted) {
            self.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
        *stored = wanted;
    }

    /// Feeds the watchdog for as long as this thread and one of the workers respond.
    pub(super) async fn watchdog(self: Arc<Self>, workers: Handle) {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        let Some(limit) = limit.filter(|_| self.is_there) else {
            return;
        };
        debug!(seconds = limit.as_secs_f64(); "service manager watchdog enabled");
        beat((limit / 2).max(MIN_BEAT), &workers, || {
            self.send(&[NotifyState::Watchdog]);
        })
        .await;
    }
}

/// Shortest time between two signs of life, whatever the manager's limit.
const MIN_BEAT: Duration = Duration::from_millis(100);

/// Name of a socket in the manager's store, if it can be represented there.
fn store_name(place: &str) -> Option<String> {
    let name = name_of(place);
    let fits = name.len() <= MAX_NAME && name.bytes().all(|b| (b' '..127).contains(&b));
    fits.then_some(name)
}

/// Calls `alive` in each `period` in which a worker has responded.
async fn beat(period: Duration, workers: &Handle, alive: impl Fn()) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Kept across ticks, so that a check that gets no response is sent once.
    let mut tasks = JoinSet::new();
    let mut was_silent = false;
    loop {
        tick.tick().await;
        if tasks.is_empty() {
            tasks.spawn_on(async {}, workers);
        }
        let result = tokio::time::timeout(period / 2, tasks.join_next()).await;
        if result.is_err() {
            error!("no worker responds, leaving the restart to the service manager");
            was_silent = true;
            continue;
        }
        if std::mem::take(&mut was_silent) {
            info!("workers respond again");
        }
        alive();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_workers_respond() {
        let fed = AtomicUsize::new(0);
        let count = || {
            fed.fetch_add(1, Ordering::Relaxed);
        };
        let workers = Handle::current();
        let beating = beat(Duration::from_secs(1), &workers, count);
        let ended = tokio::time::timeout(Duration::from_millis(4500), beating).await;
        assert!(ended.is_err());
        assert_eq!(fed.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn the_watchdog_is_not_fed_while_every_worker_hangs() {
        let workers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let hung = workers.spawn(async move {
            started.send(()).unwrap();
            held.recv().unwrap_err();
        });
        has_started.await.unwrap();
        let fed = AtomicUsize::new(0);
        let count = || {
            fed.fetch_add(1, Ordering::Relaxed);
        };
        let period = Duration::from_millis(20);
        let handle = workers.handle().clone();
        let mut beating = std::pin::pin!(beat(period, &handle, count));
        let silent = tokio::time::timeout(Duration::from_millis(200), &mut beating).await;
        assert!(silent.is_err());
        assert_eq!(fed.load(Ordering::Relaxed), 0);
        // The watchdog is fed again once the worker responds.
        drop(hold);
        let fed_again = async {
            while fed.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = &mut beating => {}
            () = fed_again => {}
        }
        hung.await.unwrap();
        workers.shutdown_background();
    }
}
