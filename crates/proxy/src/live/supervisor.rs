//! Background work: of the process (deadlines), and of the gateway that serves (probes, DNS,
//! certificates), which is replaced with it.

use std::{sync::Arc, time::Duration};

use edgeway_gateway::Gateway;
use edgeway_net::tasks::Tasks;
use edgeway_upstreams as upstreams;
use parking_lot::Mutex;

use super::Live;
use crate::connection::activity::Activity;

/// Longest time between two looks at certificate files while no client connects.
const QUIET_INTERVAL: Duration = Duration::from_secs(10);

/// Tasks beside the requests. Dropping it stops all of them.
pub struct Supervisor {
    /// Tasks of the process, to which callers add their own.
    pub process: Tasks,
    gateway: Mutex<Tasks>,
    /// Tasks of the configuration that serves beside one on trial.
    beside: Mutex<Tasks>,
    activity: Arc<Activity>,
}

impl Supervisor {
    /// Starts the tasks of the live gateway.
    pub fn start(live: &Live) -> Self {
        live.gateway().work.serves_alone();
        let process = Tasks::default();
        process.spawn("deadlines", live.connections.clone().supervise());
        let activity = live.connections.activity();
        let traffic = live.traffic.clone();
        process.spawn("traffic", traffic.supervise(Arc::clone(activity)));
        let event_loops = live.event_loops.clone();
        let workers = live.world.workers.clone();
        process.spawn(
            "event loops",
            event_loops.watch(workers, Arc::clone(activity)),
        );
        Self {
            process,
            gateway: Mutex::new(work_of(&live.gateway(), activity)),
            beside: Mutex::default(),
            activity: Arc::clone(activity),
        }
    }

    /// Switches to the tasks of another gateway.
    pub(super) fn follow(&self, gateway: &Gateway) {
        // The old tasks stop first: no certificate is ordered twice and no backend is judged twice.
        self.end_beside();
        let mut tasks = self.gateway.lock();
        tasks.stop();
        *tasks = work_of(gateway, &self.activity);
    }

    /// Keeps the backends of a configuration up to date that serves beside the one on trial, and does
    /// the work that the latter does not do.
    pub(super) fn follow_beside(&self, earlier: &Gateway, candidate: &Gateway) {
        let tasks = Tasks::default();
        for upstream in earlier.upstreams.values() {
            let name = format!("upstream {} before the trial", upstream.name);
            tasks.spawn(name, upstreams::supervise_beside(upstream.clone()));
        }
        for (name, work) in earlier.work.begin_beside(&candidate.work) {
            tasks.spawn(name, work);
        }
        std::mem::replace(&mut *self.beside.lock(), tasks).stop();
    }

    /// Stops what [`Supervisor::follow_beside`] started.
    pub(super) fn end_beside(&self) {
        self.beside.lock().stop();
    }

    /// Stops the tasks of the gateway, so that a successor alone probes backends and orders
    /// certificates.
    pub fn retire(&self) {
        self.gateway.lock().stop();
        self.end_beside();
    }

    /// Stops all tasks.
    pub fn stop(&self) {
        self.process.stop();
        self.retire();
    }
}

fn work_of(gateway: &Gateway, activity: &Arc<Activity>) -> Tasks {
    let tasks = Tasks::default();
    for listener in &gateway.listeners {
        if let Some(tls) = &listener.tls {
            let name = format!("certificates of {}", listener.name);
            let activity = Arc::clone(activity);
            let rest = move |pause| rest(Arc::clone(&activity), pause);
            tasks.spawn(name, Arc::clone(tls).supervise(rest));
        }
    }
    if let Some(acme) = &gateway.acme {
        tasks.spawn("acme", Arc::clone(acme).supervise());
    }
    for upstream in gateway.upstreams.values() {
        let name = format!("upstream {}", upstream.name);
        tasks.spawn(name, upstreams::supervise(upstream.clone()));
    }
    for (name, work) in gateway.work.begin() {
        tasks.spawn(name, work);
    }
    tasks
}

/// Waits for `pause`, or for [`QUIET_INTERVAL`] while no client sends anything.
async fn rest(activity: Arc<Activity>, pause: Duration) {
    if let Some(quiet) = activity.quiet() {
        let sign = activity.sign_after(quiet);
        let longer = QUIET_INTERVAL.max(pause);
        if tokio::time::timeout(longer, sign).await.is_err() {
            return;
        }
    }
    tokio::time::sleep(pause).await;
}
