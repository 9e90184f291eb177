//! Background work of one upstream: checks, DNS, and the ends of ejections.
//!
//! One task per upstream and configuration, owned by the runtime. Its checks and lookups run
//! concurrently, and are handed on: a reload neither starts a check nor ends one, so that even with
//! frequent reloads checks and lookups keep their intervals.

use std::{
    collections::HashMap,
    future::{self, Future},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    task::{Id, JoinError, JoinSet},
};

use super::{
    Upstream,
    backend::Backend,
    backend_state::BackendState,
    dns::{DnsError, LookupChange, Resolve, Resolved, Schedule, SystemResolver},
    eject::{Cause, nanos},
    health::{
        FoundReport, HealthChange, NO_SOCKET, ProbeReport, Prober, Probing, REFUSED, jittered,
    },
};

/// Shortest sleep, so that a wrong due time cannot make the loop spin.
const MIN_SLEEP: Duration = Duration::from_millis(1);
/// Interval of looks at backends that another supervisor may have changed.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps `upstream` up to date until dropped.
pub async fn supervise(upstream: Arc<Upstream>) {
    supervise_with(upstream, Arc::new(SystemResolver)).await;
}

/// Keeps the backends of `upstream` up to date beside another upstream of the same name, which
/// [`supervise`] has and which decides everything else: both serve. The states of backends that both
/// have say when the next check is due.
pub async fn supervise_beside(upstream: Arc<Upstream>) {
    let work = Arc::<tokio::sync::Mutex<_>>::default().lock_owned().await;
    let resolver = Arc::new(SystemResolver);
    let mut supervisor = Supervisor::new(upstream, resolver, work);
    supervisor.is_beside = true;
    supervisor.keep_up().await;
}

/// Supervises like [`supervise`], with another resolver.
pub async fn supervise_with(upstream: Arc<Upstream>, resolver: Arc<dyn Resolve>) {
    let work = upstream.shared.live.work.clone().lock_owned().await;
    Supervisor::new(upstream, resolver, work).run().await;
}

/// State that one supervisor of an upstream hands to the next.
#[derive(Debug, Default)]
pub(super) struct SupervisorState {
    names: HashMap<String, Schedule>,
    lookups: JoinSet<Result<Resolved, DnsError>>,
    /// Names that are being resolved, by task.
    looking_up: HashMap<Id, String>,
    probes: JoinSet<Option<FinishedProbe>>,
    /// Backends that are being checked, by task. Their state only: backends hold the zone that
    /// contains this.
    probing: HashMap<Id, Arc<BackendState>>,
}

struct Supervisor {
    upstream: Arc<Upstream>,
    resolver: Arc<dyn Resolve>,
    work: OwnedMutexGuard<SupervisorState>,
    /// True if another one judges the trial of a release.
    is_beside: bool,
}

/// Check that ended.
struct FinishedProbe {
    report: FoundReport,
    passed: bool,
    text: String,
    took: Duration,
}

impl Supervisor {
    fn new(
        upstream: Arc<Upstream>,
        resolver: Arc<dyn Resolve>,
        mut work: OwnedMutexGuard<SupervisorState>,
    ) -> Self {
        let names = upstream.sources.names();
        work.names.retain(|name, _| names.contains(&name.as_str()));
        for name in names {
            work.names.entry(name.to_owned()).or_default();
        }
        Self {
            upstream,
            resolver,
            work,
            is_beside: false,
        }
    }

    async fn run(mut self) {
        // DNS results or an operator's decisions may have changed since it was compiled.
        self.upstream.rebuild();
        self.stop_awaiting_dns();
        self.take_over_verdicts();
        self.keep_up().await;
    }

    async fn keep_up(&mut self) {
        loop {
            let now = self.upstream.shared.now();
            if !self.is_beside {
                self.upstream.judge_canary(now);
            }
            self.start_lookups(now);
            self.start_probes(now);
            let sleep = self.sleep(now);
            let live = self.upstream.shared.live.clone();
            let work = &mut *self.work;
            tokio::select! {
                Some(done) = work.lookups.join_next_with_id(), if !work.lookups.is_empty() => {
                    self.end_lookup(done);
                }
                Some(done) = work.probes.join_next_with_id(), if !work.probes.is_empty() => {
                    self.end_probe(done);
                }
                // A signal wakes one supervisor.
                () = live.changed.notified(), if !self.is_beside => {}
                () = sleep => {}
            }
            self.upstream.look_round();
        }
    }

    /// Takes over the results of the previous configuration. If this one has checks, the results
    /// hold and the next check comes as it was due, but no later than after the new interval.
    /// Otherwise nothing would bring back a backend that was left down.
    fn take_over_verdicts(&self) {
        let now = self.upstream.shared.now();
        for backend in self.upstream.backends() {
            let mut health = backend.state.health.lock();
            match &self.upstream.probing {
                Probing::Active { rules, .. } => {
                    let wait = jittered(rules.interval, fastrand::u64(..));
                    health.hurry(now.saturating_add(wait));
                }
                Probing::Drained { .. } | Probing::Out { .. } => {
                    health.forget();
                    backend.state.set_healthy(true, now);
                }
            }
        }
    }

    fn start_lookups(&mut self, now: u64) {
        let work = &mut *self.work;
        for (name, schedule) in &work.names {
            let is_asked = work.looking_up.values().any(|looked_up| looked_up == name);
            if is_asked || schedule.next > now {
                continue;
            }
            let (looked_up, resolver) = (name.clone(), self.resolver.clone());
            let task = work
                .lookups
                .spawn(async move { resolver.resolve(&looked_up).await });
            work.looking_up.insert(task.id(), name.clone());
        }
    }

    fn end_lookup(&mut self, done: Ended<Result<Resolved, DnsError>>) {
        let (id, resolved) = unless_panicked(done);
        let Some(name) = self.work.looking_up.remove(&id) else {
            return;
        };
        let Some(schedule) = self.work.names.get_mut(&name) else {
            return;
        };
        let now = self.upstream.shared.now();
        let resolved = match resolved {
            Some(Ok(resolved)) if resolved.addresses.is_empty() => Err(DnsError::NoSuchHost),
            Some(resolved) => resolved,
            None => Err(DnsError::Other("the DNS lookup panicked".to_owned())),
        };
        let news = schedule.observe(resolved.as_ref().ok().map(|resolved| resolved.ttl), now);
        let upstream = &*self.upstream.name;
        match (&resolved, news) {
            (Err(error), LookupChange::Fails) => log::warn!(
                upstream, name = name.as_str(), error:%;
                "backend not resolved, keeping the previous addresses"
            ),
            (Ok(_), LookupChange::Works) => {
                log::info!(upstream, name = name.as_str(); "backend resolves again");
            }
            (Ok(_) | Err(_), LookupChange::None | LookupChange::Fails | LookupChange::Works) => {}
        }
        if let Ok(resolved) = resolved
            && self
                .upstream
                .shared
                .live
                .set_resolved(&name, &resolved.addresses)
        {
            let addresses = format!("{:?}", resolved.addresses);
            log::info!(upstream, name = name.as_str(), addresses; "backend addresses changed");
            self.upstream.rebuild();
        }
        self.stop_awaiting_dns();
    }

    /// Ends waits for an address once all names were tried.
    fn stop_awaiting_dns(&self) {
        if self.work.names.values().all(|schedule| schedule.is_tried) {
            self.upstream.stop_awaiting_dns();
        }
    }

    fn start_probes(&mut self, now: u64) {
        for backend in self.upstream.backends() {
            let is_due = self.due(&backend, now).is_some_and(|due| due <= now);
            if !is_due {
                continue;
            }
            let plan = self.upstream.probing.plan().clone();
            let protocol = self.upstream.wire.protocol;
            let (probed, clock) = (backend.clone(), self.upstream.shared.clock.clone());
            backend.state.probes.lock().begin();
            let task = self.work.probes.spawn(async move {
                let prober = Prober::new(&plan, protocol, &probed)?;
                let start = clock.now();
                let (passed, text) = prober.probe().await;
                if text == REFUSED {
                    probed.close_idle();
                }
                Some(FinishedProbe {
                    report: prober.take_report(),
                    passed,
                    text,
                    took: clock.now() - start,
                })
            });
            let state = backend.state.clone();
            self.work.probing.insert(task.id(), state);
        }
    }

    /// Returns the time of the next check of `backend`, if there is one and no check is running.
    fn due(&self, backend: &Backend, now: u64) -> Option<u64> {
        if self
            .work
            .probing
            .values()
            .any(|checked| checked.id == backend.id())
        {
            return None;
        }
        let probing = &self.upstream.probing;
        let is_ejected = backend.state.ejected_until(now).is_some();
        let is_drained = backend.is_drained();
        let mut health = backend.state.health.lock();
        match probing {
            Probing::Drained { .. } => is_drained.then(|| health.next),
            Probing::Out { .. } => (is_ejected || is_drained).then(|| health.next),
            Probing::Active { .. } => {
                if is_ejected || is_drained {
                    health.hurry(now.saturating_add(nanos(probing.interval_down())));
                }
                Some(health.next)
            }
        }
    }

    fn end_probe(&mut self, done: Ended<Option<FinishedProbe>>) {
        let (id, done) = unless_panicked(done);
        let Some(state) = self.work.probing.remove(&id) else {
            return;
        };
        let (passed, text, took) = match done.flatten() {
            Some(done) => {
                let now = self.upstream.shared.now();
                match done.report {
                    FoundReport::Valid(report) => state.node.observe(&report, now),
                    FoundReport::Absent => state.node.responded_without_report(now),
                    FoundReport::Unknown => {}
                }
                (done.passed, done.text, done.took)
            }
            None => (
                false,
                "the health check panicked".to_owned(),
                Duration::ZERO,
            ),
        };
        let now = self.upstream.shared.now();
        let seed = fastrand::u64(..);
        let wait = jittered(self.upstream.probing.interval_down(), seed);
        if text == NO_SOCKET {
            // The backend was not checked.
            state.health.lock().next = now.saturating_add(wait);
            state.probes.lock().is_running = false;
            return;
        }
        self.judge_ejection(&state, passed, now);
        let is_out = state.ejected_until(now).is_some() || state.is_drained();
        let change = match &self.upstream.probing {
            Probing::Drained { .. } | Probing::Out { .. } => {
                state.health.lock().next = now.saturating_add(wait);
                None
            }
            Probing::Active { rules, .. } => state
                .health
                .lock()
                .observe(*rules, passed, is_out, now, seed),
        };
        if let Some(change) = change {
            let (upstream, address) = (&*self.upstream.name, &*state.address);
            match change {
                HealthChange::Up => log::info!(upstream, backend = address; "backend is healthy"),
                HealthChange::Down => log::warn!(
                    upstream, backend = address, found = text.as_str(); "backend is down"
                ),
            }
            state.set_healthy(change == HealthChange::Up, now);
        }
        state.probes.lock().end(ProbeReport {
            passed,
            text,
            took,
            at: now,
        });
    }

    /// Ends the ejection of a backend that refused connections once a check can connect, and
    /// extends it past the next check while none can. (Where checks end, so does this.)
    fn judge_ejection(&self, state: &BackendState, passed: bool, now: u64) {
        if state.ejected_until(now).is_none() {
            return;
        }
        let mut ejection = state.ejection.lock();
        if ejection.cause() != Some(Cause::Refused) {
            return;
        }
        if passed {
            ejection.ended_early(now);
            state.readmit(now);
            log::info!(
                upstream = &*self.upstream.name, backend = &*state.address;
                "backend accepts connections again, returned to rotation"
            );
        } else {
            let probing = &self.upstream.probing;
            let past_next = nanos(probing.interval_down() * 2 + probing.plan().timeout);
            state.eject(now.saturating_add(past_next));
        }
    }

    /// Sleeps until the next event is due.
    fn sleep(&self, now: u64) -> impl Future<Output = ()> + use<> {
        let backends = self.upstream.backends();
        let probes = backends.iter().filter_map(|backend| self.due(backend, now));
        let ends = backends.iter().filter_map(|b| b.state.ejected_until(now));
        let lookups = self
            .work
            .names
            .iter()
            .filter(|(name, _)| !self.work.looking_up.values().any(|asked| asked == *name))
            .map(|(_, schedule)| schedule.next);
        let look = if self.is_beside {
            Some(now.saturating_add(nanos(LOOK)))
        } else {
            self.upstream.canary_due()
        };
        let next = probes.chain(ends).chain(lookups).chain(look).min();
        async move {
            match next {
                Some(next) => {
                    let span = Duration::from_nanos(next.saturating_sub(now));
                    tokio::time::sleep(span.max(MIN_SLEEP)).await;
                }
                None => future::pending().await,
            }
        }
    }
}

/// Result of a task in a set.
type Ended<T> = Result<(Id, T), JoinError>;

/// Returns the task and its result. A panic is a bug: it is logged, and counts as a failure of the
/// check or lookup.
fn unless_panicked<T>(done: Ended<T>) -> (Id, Option<T>) {
    match done {
        Ok((id, given)) => (id, Some(given)),
        Err(error) => {
            log::error!(error:%; "a background check panicked");
            (error.id(), None)
        }
    }
}
