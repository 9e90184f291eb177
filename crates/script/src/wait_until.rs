//! Work that goes on after the end of its hook: `ctx.waitUntil`.
//!
//! It goes on in the instance that the hook ran in, with the limits of a hook but a longer wall
//! limit. Only a process that stops waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use edgeway_net::tasks::Tasks;
use tokio::time::Instant;

use super::{
    call::Call,
    error::{Failure, FailureKind},
    isolate::Isolate,
    plugin::{Plugin, Slot},
    threads::HookStep,
};
use crate::base::metrics::{IntCounter, Metrics};

/// Most work in flight at a time, of one plugin: each keeps a request in memory.
const MAX_IN_FLIGHT: usize = 256;

/// Tasks that run the work of `ctx.waitUntil`, and the counters of that work.
#[derive(Clone, Debug, Default)]
pub struct WaitUntil {
    tasks: Tasks,
    permits: WorkPermits,
    counts: Option<WaitUntilMetrics>,
}

edgeway_base::metric_handles! {
    #[derive(Clone, Debug)]
    struct WaitUntilMetrics(plugin) {
        done { outcome: "done" },
        failed { outcome: "failed" },
        dropped { outcome: "dropped" }: IntCounter = "edgeway_plugin_wait_until_total",
            "Background work of plugins (`ctx.waitUntil`) by outcome: `done`, `failed`, or \
             `dropped` because too much was running.";
    }
}

impl WaitUntil {
    /// Creates the tasks and counters of a plugin; a process that stops waits for `tasks`.
    pub fn new(plugin: &str, tasks: Tasks, metrics: &Metrics) -> Self {
        Self {
            tasks,
            permits: WorkPermits::default(),
            counts: Some(WaitUntilMetrics::new(metrics, plugin)),
        }
    }

    /// Waits for the work in flight.
    pub async fn join(&self) {
        self.tasks.join().await;
    }

    fn count(&self, of: impl Fn(&WaitUntilMetrics) -> &IntCounter) {
        if let Some(counts) = &self.counts {
            of(counts).inc();
        }
    }
}

/// Bounded number of places for work in flight.
#[derive(Clone, Debug, Default)]
pub struct WorkPermits(Arc<AtomicUsize>);

/// Place among the work in flight, until it is dropped.
#[derive(Debug)]
pub struct WorkPermit(Arc<AtomicUsize>);

impl WorkPermits {
    /// Takes a place, if one is free.
    pub fn one(&self) -> Option<WorkPermit> {
        let permit = WorkPermit(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < MAX_IN_FLIGHT).then_some(permit)
    }
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Call that is over but for its remaining work.
pub(super) enum RemainingWork {
    /// Call in the slot of this number.
    Worker(usize, Arc<Isolate>, Box<Call>),
    Thread(HookStep),
}

impl RemainingWork {
    fn call(&mut self) -> &mut Call {
        match self {
            Self::Worker(.., call) => call,
            Self::Thread(step) => &mut step.call,
        }
    }
}

impl Plugin {
    /// Runs the remaining work of a call; the hook does not wait for that work.
    pub(super) fn spawn_remaining(self: &Arc<Self>, mut rest: RemainingWork) {
        let wait_until = &self.capabilities.wait_until;
        let call = rest.call();
        let Some(permit) = wait_until.permits.one() else {
            wait_until.count(|counts| &counts.dropped);
            log::warn!(
                plugin = &**self.name(), request_id = &*call.input.request_id;
                "background work of a plugin dropped, too much is running"
            );
            return;
        };
        call.is_background = true;
        // It has as much CPU time as a hook, whose use does not count here.
        call.used = Duration::ZERO;
        let plugin = Arc::clone(self);
        let name = format!("work of plugin {}", self.name());
        wait_until.tasks.spawn(name, async move {
            let _permit = permit;
            plugin.finish(rest).await;
        });
    }

    async fn finish(&self, mut rest: RemainingWork) {
        let id = rest.call().input.request_id.clone();
        let failure = match rest {
            RemainingWork::Worker(at, isolate, call) => {
                let slot = &self.slots[at];
                let failure = self.worker(slot, &isolate, call).await;
                if isolate.is_broken() {
                    self.renew(slot, &isolate);
                }
                failure
            }
            RemainingWork::Thread(step) => self.thread(step).await,
        };
        let wait_until = &self.capabilities.wait_until;
        let Some(failure) = failure else {
            return wait_until.count(|counts| &counts.done);
        };
        wait_until.count(|counts| &counts.failed);
        self.log.background_failed(self.name(), &id, &failure);
    }

    async fn worker(&self, slot: &Slot, isolate: &Isolate, call: Box<Call>) -> Option<Failure> {
        let wall = self.limits.wait_until;
        let waited = tokio::time::timeout(wall, Self::wait(slot, isolate, call, wall)).await;
        if let Some(call) = waited.ok().flatten() {
            return failure_of(call);
        }
        // The promises that it waits for would stay in the engine for ever.
        isolate.condemn();
        Some(self.unfinished())
    }

    async fn thread(&self, step: HookStep) -> Option<Failure> {
        let until = Instant::now() + self.limits.wait_until;
        let ended = self.threads.as_ref()?.resume(step, until).await;
        match ended {
            Ok(step) => failure_of(step.call),
            Err(failure) if failure.kind == FailureKind::Wall => Some(self.unfinished()),
            Err(failure) => Some(failure),
        }
    }

    fn unfinished(&self) -> Failure {
        let wall = self.limits.wait_until;
        let why = format!("its background work did not end within {wall:?}");
        Failure::new(FailureKind::Wall, why)
    }
}

fn failure_of(mut call: Box<Call>) -> Option<Failure> {
    match call.outcome.take() {
        Some(Err(failure)) => Some(failure),
        _ => call.rejection.take(),
    }
}
