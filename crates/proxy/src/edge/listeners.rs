//! Open listeners: bound from a configuration, kept if the next one has them too, drained if it
//! does not.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use edgeway_gateway::{Drain, Listener};
use edgeway_net::{tasks::Tasks, unix_socket::SocketFiles};
use log::{info, warn};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{
    listener::{self, BindError, BoundListener},
    serve::Shared,
};
use crate::{
    connection::{
        admission::Admission,
        listener::{ListenerFacts, ListenerId},
        registry::ConnectionSelection,
    },
    driver::Driver,
    live::Live,
};

/// All listeners of the process, including those that drain.
pub struct Listeners {
    driver: Arc<Driver>,
    live: Arc<Live>,
    workers: Handle,
    open: Mutex<Vec<OpenListener>>,
    /// Removed listeners, until their last connection ends.
    draining: Tasks,
}

/// Listener that accepts.
struct OpenListener {
    config: Arc<Listener>,
    id: ListenerId,
    bound: Arc<BoundListener>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    /// Ends when the socket is closed.
    closed: oneshot::Receiver<()>,
    serving: JoinHandle<()>,
}

/// Public information about a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    pub name: Arc<str>,
    /// Address with its real port, even where the configuration has 0.
    pub address: String,
}

/// Sockets for a configuration: new ones are bound and do not accept yet. Dropping this closes
/// them.
pub struct PreparedListeners {
    new: Vec<(Arc<Listener>, BoundListener)>,
}

/// Reason why the listeners of a configuration cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct PrepareError {
    /// Index of the listener, in the order of the configuration.
    pub index: usize,
    #[source]
    pub source: BindError,
}

/// Returns a socket that already listens on a place, if there is one.
pub type Inherit<'a> = &'a mut dyn FnMut(&str) -> Option<OwnedFd>;

impl Listeners {
    /// Creates the set of listeners, whose requests `driver` serves.
    pub fn new(driver: Arc<Driver>, live: &Arc<Live>, workers: Handle) -> Self {
        Self {
            driver,
            live: Arc::clone(live),
            workers,
            open: Mutex::default(),
            draining: Tasks::default(),
        }
    }

    /// Binds the listeners in `listeners` that are not open yet.
    pub fn prepare(
        &self,
        listeners: &[Arc<Listener>],
        inherit: Inherit<'_>,
    ) -> Result<PreparedListeners, PrepareError> {
        let _accepting = self.workers.enter();
        let open = self.open.lock();
        let mut new = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            if open.iter().any(|open| open.config.is_same(listener)) {
                continue;
            }
            let bound = match inherit(&place(listener)) {
                Some(socket) => BoundListener::adopt(&listener.address, socket),
                None => BoundListener::bind(&listener.address),
            };
            let bound = bound.map_err(|source| PrepareError { index, source })?;
            new.push((Arc::clone(listener), bound));
        }
        Ok(PreparedListeners { new })
    }

    /// Makes `listeners` the open listeners. Others drain, and accept no connections once this
    /// returns.
    pub async fn commit(
        &self,
        prepared: PreparedListeners,
        listeners: &[Arc<Listener>],
        drain: Drain,
    ) {
        for removed in self.put(prepared, listeners) {
            let (name, address) = (Arc::clone(&removed.config.name), removed.bound.address());
            info!(listener = &*name, address:%; "no longer listening, finishing its connections");
            removed.bound.refuse_new();
            let mut retiring = removed.close();
            // The only error is that the other end is gone.
            let _closed = (&mut retiring.closed).await;
            let live = Arc::clone(&self.live);
            let task = format!("drain of {name}");
            self.draining.spawn(task, async move {
                retiring.finish(&live, drain).await;
                info!(listener = &*name, address:%; "last connection of a removed listener ended");
            });
        }
    }

    /// Opens the wanted listeners, and returns those that are no longer wanted.
    fn put(&self, prepared: PreparedListeners, listeners: &[Arc<Listener>]) -> Vec<OpenListener> {
        let mut open = self.open.lock();
        let mut before = std::mem::take(&mut *open);
        let mut new = prepared.new;
        for listener in listeners {
            if let Some(index) = before.iter().position(|o| o.config.is_same(listener)) {
                let mut same = before.swap_remove(index);
                same.update(listener, &self.live);
                open.push(same);
            } else if let Some(index) = new.iter().position(|(l, _)| Arc::ptr_eq(l, listener)) {
                let (listener, bound) = new.swap_remove(index);
                open.push(self.begin(listener, bound));
            }
        }
        before
    }

    fn begin(&self, config: Arc<Listener>, bound: BoundListener) -> OpenListener {
        info!(listener = &*config.name, address:% = bound.address(); "listening");
        let (stop, stopped) = watch::channel(false);
        let id = ListenerId::next();
        let metrics = &self.live.world.metrics;
        let activity = Arc::clone(self.live.connections.activity());
        let facts = ListenerFacts::new(Arc::clone(&config), id, bound.port(), metrics, activity);
        let shared = Arc::new(Shared {
            driver: Arc::clone(&self.driver),
            facts: Arc::new(facts),
            admission: Admission::new(&config.limits, &self.live.total),
            connections: self.live.connections.clone(),
            stop: stopped,
        });
        let bound = Arc::new(bound);
        let (closing, closed) = oneshot::channel();
        let live = Arc::clone(&self.live);
        let serving = Arc::clone(&bound).serve(Arc::clone(&shared), live, closing);
        OpenListener {
            config,
            id,
            bound,
            shared,
            stop,
            closed,
            serving: self.workers.spawn(serving),
        }
    }

    /// Returns the listeners that accept, in the order of the configuration.
    pub fn opened(&self) -> Vec<ListenerInfo> {
        let open = self.open.lock();
        let opened = open.iter().map(|open| ListenerInfo {
            name: Arc::clone(&open.config.name),
            address: open.bound.address(),
        });
        opened.collect()
    }

    /// Runs `work` with the sockets that accept, each with its place.
    pub fn with_sockets<T>(&self, work: impl FnOnce(&[(String, BorrowedFd<'_>)]) -> T) -> T {
        let open = self.open.lock();
        let sockets: Vec<_> = open
            .iter()
            .map(|open| (place(&open.config), open.bound.as_fd()))
            .collect();
        work(&sockets)
    }

    /// Makes this process the owner of the sockets that it adopted. `files` are those of the
    /// predecessor's unix sockets.
    pub fn take_over(&self, files: &SocketFiles) {
        for open in &*self.open.lock() {
            open.bound.take_over(&open.config.address, files);
        }
    }

    /// Returns the files of the unix sockets of this process.
    pub fn files(&self) -> SocketFiles {
        let open = self.open.lock();
        open.iter().filter_map(|open| open.bound.file()).collect()
    }

    /// Makes another process the owner of the sockets: closing them here removes no path.
    pub fn hand_over(&self) {
        for open in &*self.open.lock() {
            open.bound.hand_over();
        }
    }

    /// Stops accepting, and waits until every connection has ended, including those of listeners
    /// that were removed before.
    pub async fn retire(&self, drain: Drain) {
        let open = std::mem::take(&mut *self.open.lock());
        let mut retiring = JoinSet::new();
        for open in open {
            let live = Arc::clone(&self.live);
            let closing = open.close();
            retiring.spawn(async move { closing.finish(&live, drain).await });
        }
        while retiring.join_next().await.is_some() {}
        self.draining.join().await;
    }
}

impl OpenListener {
    /// Applies the next configuration, which has this listener too.
    fn update(&mut self, config: &Arc<Listener>, live: &Live) {
        let facts = &self.shared.facts;
        facts.set_config(Arc::clone(config), &live.world.metrics);
        // Its limits may end idle connections sooner.
        facts.activity.touch();
        self.shared.admission.set_limits(&config.limits);
        if self.config.address != config.address {
            listener::follow(&config.address);
        }
        self.config = Arc::clone(config);
    }

    /// Stops accepting.
    fn close(self) -> DrainingListener {
        drop(self.bound);
        self.shared.facts.begin_draining();
        self.stop.send_replace(true);
        DrainingListener {
            name: Arc::clone(&self.config.name),
            id: self.id,
            closed: self.closed,
            serving: self.serving,
            _stop: self.stop,
        }
    }
}

/// Number of attempts, a second apart, to close the connections left at the deadline. A task that
/// occupies a worker, such as a plugin in a native call, cannot be stopped: the process exits
/// without it.
const CLOSE_ATTEMPTS: u32 = 5;

/// Listener that accepts no more, but still has connections.
struct DrainingListener {
    name: Arc<str>,
    id: ListenerId,
    closed: oneshot::Receiver<()>,
    serving: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl DrainingListener {
    /// Waits for requests in flight, and closes idle connections.
    async fn finish(mut self, live: &Live, drain: Drain) {
        let connections = &live.connections;
        let deadline = async {
            let end = Instant::now() + drain.deadline;
            while Instant::now() < end {
                // A client that has just received its last response may have sent its next request:
                // it must see `Connection: close` in that response first.
                tokio::time::sleep(drain.idle.min(end - Instant::now())).await;
                connections.end(self.id, ConnectionSelection::Idle);
            }
            warn!(listener = &*self.name; "closing connections with requests still in flight");
            for _ in 0..CLOSE_ATTEMPTS {
                connections.end(self.id, ConnectionSelection::All);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            warn!(listener = &*self.name; "connections abandoned, their filters or plugins do not return");
        };
        tokio::select! {
            ended = &mut self.serving => {
                if let Err(error) = ended {
                    log::error!(listener = &*self.name, error:%; "listener panicked");
                }
            }
            () = deadline => {}
        }
    }
}

/// Returns the key that identifies a listener's socket to other processes.
fn place(listener: &Listener) -> String {
    if listener.address.is_any_port() {
        format!("{} {}", listener.address, listener.name)
    } else {
        listener.address.to_string()
    }
}
