//! The listeners that are live: bound as a configuration says, kept when the next one has
//! them too, drained when it does not.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use log::{info, warn};
use parking_lot::Mutex;
use pingora::{apps::HttpServerApp, protocols::Stream};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    listener::{self, BindError, Bound},
    serve::Shared,
};
use crate::{
    base::tasks::Tasks,
    gateway::{Drain, Listener},
    runtime::{
        admission::Admission,
        connections::Which,
        listener::{ListenerFacts, ListenerId},
        live::Live,
        refusal::Refuse,
        shortcut::Shortcut,
    },
};

/// Every listener of the process, those that drain included.
pub struct Listeners<A> {
    app: Arc<A>,
    shortcut: Arc<dyn Shortcut<Stream>>,
    refuser: Arc<dyn Refuse>,
    live: Arc<Live>,
    workers: Handle,
    open: Mutex<Vec<Open<A>>>,
    /// Those that a configuration dropped, until their last connection ends.
    draining: Tasks,
}

/// A listener that accepts.
struct Open<A> {
    config: Arc<Listener>,
    id: ListenerId,
    bound: Arc<Bound>,
    shared: Arc<Shared<A>>,
    stop: watch::Sender<bool>,
    /// Ends when the socket is let go of.
    closed: oneshot::Receiver<()>,
    serving: JoinHandle<()>,
}

/// A listener as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub name: Arc<str>,
    /// Its port is a real one even where the configuration says 0.
    pub address: String,
}

/// Sockets for a configuration: those that are new are bound and do not accept yet.
/// Dropping it lets go of them.
pub struct Prepared {
    new: Vec<(Arc<Listener>, Bound)>,
}

/// Why the listeners of a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct PrepareError {
    /// Which of them, in the order of the configuration.
    pub index: usize,
    #[source]
    pub source: BindError,
}

/// Gives a socket that listens on a place already, if there is one.
pub type Inherit<'a> = &'a mut dyn FnMut(&str) -> Option<OwnedFd>;

impl<A> Listeners<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// `shortcut` leads past `app`.
    pub fn new(
        app: Arc<A>,
        shortcut: Arc<dyn Shortcut<Stream>>,
        refuser: Arc<dyn Refuse>,
        live: &Arc<Live>,
        workers: Handle,
    ) -> Self {
        Self {
            app,
            shortcut,
            refuser,
            live: Arc::clone(live),
            workers,
            open: Mutex::default(),
            draining: Tasks::default(),
        }
    }

    /// Binds what `wanted` has and is not open yet.
    pub fn prepare(
        &self,
        wanted: &[Arc<Listener>],
        inherit: Inherit<'_>,
    ) -> Result<Prepared, PrepareError> {
        let _accepting = self.workers.enter();
        let open = self.open.lock();
        let mut new = Vec::new();
        for (index, listener) in wanted.iter().enumerate() {
            if open.iter().any(|open| is_same(&open.config, listener)) {
                continue;
            }
            let bound = match inherit(&place(listener)) {
                Some(socket) => Bound::adopt(&listener.address, socket),
                None => Bound::bind(&listener.address),
            };
            let bound = bound.map_err(|source| PrepareError { index, source })?;
            new.push((Arc::clone(listener), bound));
        }
        Ok(Prepared { new })
    }

    /// From now on `wanted` is what is open. The listeners that it has not drain; nobody
    /// can connect to them any more once this is done.
    pub async fn commit(&self, prepared: Prepared, wanted: &[Arc<Listener>], drain: Drain) {
        for removed in self.put(prepared, wanted) {
            let (name, address) = (Arc::clone(&removed.config.name), removed.bound.address());
            info!(listener = &*name, address:%; "no longer listening: its connections are being finished");
            let mut retiring = removed.close();
            // The error says that the other end is gone, and that is all that it ever does.
            let _closed = (&mut retiring.closed).await;
            let live = Arc::clone(&self.live);
            let task = format!("drain of {name}");
            self.draining.spawn(task, async move {
                retiring.finish(&live, drain).await;
                info!(listener = &*name, address:%; "the last connection of a removed listener has ended");
            });
        }
    }

    /// Gives those that are not wanted any more.
    fn put(&self, prepared: Prepared, wanted: &[Arc<Listener>]) -> Vec<Open<A>> {
        let mut open = self.open.lock();
        let mut before = std::mem::take(&mut *open);
        let mut new = prepared.new;
        for listener in wanted {
            if let Some(at) = before.iter().position(|o| is_same(&o.config, listener)) {
                let mut kept = before.swap_remove(at);
                kept.update(listener, &self.live);
                open.push(kept);
            } else if let Some(at) = new.iter().position(|(l, _)| Arc::ptr_eq(l, listener)) {
                let (listener, bound) = new.swap_remove(at);
                open.push(self.begin(listener, bound));
            }
        }
        before
    }

    fn begin(&self, config: Arc<Listener>, bound: Bound) -> Open<A> {
        info!(listener = &*config.name, address:% = bound.address(); "listening");
        bound.take_over();
        let (stop, stopped) = watch::channel(false);
        let id = ListenerId::next();
        let metrics = &self.live.world.metrics;
        let facts = ListenerFacts::new(Arc::clone(&config), id, bound.port(), metrics);
        let shared = Arc::new(Shared {
            app: Arc::clone(&self.app),
            shortcut: Arc::clone(&self.shortcut),
            refuser: Arc::clone(&self.refuser),
            facts: ArcSwap::from_pointee(facts),
            admission: Admission::new(&config.limits, &self.live.total),
            connections: self.live.connections.clone(),
            stop: stopped,
        });
        let bound = Arc::new(bound);
        let (closing, closed) = oneshot::channel();
        let live = Arc::clone(&self.live);
        let serving = Arc::clone(&bound).serve(Arc::clone(&shared), live, closing);
        Open {
            config,
            id,
            bound,
            shared,
            stop,
            closed,
            serving: self.workers.spawn(serving),
        }
    }

    /// Those that accept, in the order of the configuration.
    pub fn opened(&self) -> Vec<Opened> {
        let open = self.open.lock();
        let opened = open.iter().map(|open| Opened {
            name: Arc::clone(&open.config.name),
            address: open.bound.address(),
        });
        opened.collect()
    }

    /// Does something with the sockets that accept, each with its place.
    pub fn with_sockets<T>(&self, work: impl FnOnce(&[(String, BorrowedFd<'_>)]) -> T) -> T {
        let open = self.open.lock();
        let sockets: Vec<_> = open
            .iter()
            .map(|open| (place(&open.config), open.bound.as_fd()))
            .collect();
        work(&sockets)
    }

    /// Another process accepts on the same sockets: letting go of them removes nothing.
    pub fn hand_over(&self) {
        for open in &*self.open.lock() {
            open.bound.hand_over();
        }
    }

    /// Accepts no more, and waits until every connection has ended, those included of
    /// listeners that were removed before.
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

impl<A> Open<A> {
    /// The next configuration has this listener too.
    fn update(&mut self, config: &Arc<Listener>, live: &Live) {
        let facts = self.shared.facts.load();
        facts.set_config(Arc::clone(config));
        if facts.name != config.name {
            let renamed =
                ListenerFacts::new(Arc::clone(config), self.id, facts.port, &live.world.metrics);
            self.shared.facts.store(Arc::new(renamed));
        }
        self.shared.admission.set_limits(&config.limits);
        if self.config.address != config.address {
            listener::follow(&config.address);
        }
        self.config = Arc::clone(config);
    }

    /// Accepts no more.
    fn close(self) -> Closing {
        let Self {
            config,
            id,
            bound,
            shared,
            stop,
            closed,
            serving,
        } = self;
        drop(bound);
        shared.facts.load().begin_draining();
        stop.send_replace(true);
        Closing {
            name: Arc::clone(&config.name),
            id,
            closed,
            serving,
            _stop: stop,
        }
    }
}

/// How often what is left at the deadline is cut, a second apart. What has a worker to itself,
/// such as a plugin in a native call, cannot be: the process leaves without it.
const CUTS: u32 = 5;

/// A listener that accepts no more, and whose connections are still there.
struct Closing {
    name: Arc<str>,
    id: ListenerId,
    closed: oneshot::Receiver<()>,
    serving: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl Closing {
    /// Lets requests under way finish, and ends what is idle.
    async fn finish(mut self, live: &Live, drain: Drain) {
        let connections = &live.connections;
        let cut = async {
            let mut waited = Duration::ZERO;
            while waited < drain.deadline {
                // A client that had its last answer just now may have sent its next request:
                // it is to see that answer's `Connection: close` first.
                let step = drain.idle.min(drain.deadline.saturating_sub(waited));
                tokio::time::sleep(step).await;
                waited += step;
                connections.end(self.id, Which::Idle);
            }
            warn!(listener = &*self.name; "cutting what is still under way");
            for _ in 0..CUTS {
                connections.end(self.id, Which::All);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            warn!(listener = &*self.name; "leaving connections that do not end: what they run does not come back");
        };
        tokio::select! {
            ended = &mut self.serving => {
                if let Err(error) = ended {
                    log::error!(listener = &*self.name, error:%; "a listener broke");
                }
            }
            () = cut => {}
        }
    }
}

/// Whether a listener of the next configuration is this one: the same place, whatever it is
/// called; where the system gives the port, the same name.
fn is_same(open: &Listener, wanted: &Listener) -> bool {
    open.address.is_same(&wanted.address)
        && (!open.address.is_any_port() || open.name == wanted.name)
}

/// What a listener's socket is known by to other processes.
fn place(listener: &Listener) -> String {
    if listener.address.is_any_port() {
        format!("{} {}", listener.address, listener.name)
    } else {
        listener.address.to_string()
    }
}
