//! The background work of one upstream: checks, DNS, and the ends of ejections.
//!
//! One task per upstream, which the runtime owns. Its checks and look-ups run at the
//! same time and end with it.

use std::{
    collections::{HashMap, HashSet},
    future::{self, Future},
    sync::Arc,
    time::Duration,
};

use tokio::task::{JoinError, JoinSet};

use super::{
    Upstream,
    backend::{Backend, BackendId},
    dns::{DnsError, News, Resolve, Resolved, Schedule, SystemResolver},
    eject::{Cause, nanos},
    health::{Change, ProbeReport, Prober, Probing, jittered},
};

/// Never sleeps for less, so that no mistake in a due time can spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Keeps `upstream` up to date until dropped.
pub async fn supervise(upstream: Arc<Upstream>) {
    supervise_with(upstream, Arc::new(SystemResolver)).await;
}

/// As [`supervise`], with another source of addresses.
pub async fn supervise_with(upstream: Arc<Upstream>, resolver: Arc<dyn Resolve>) {
    Supervisor::new(upstream, resolver).run().await;
}

struct Supervisor {
    upstream: Arc<Upstream>,
    resolver: Arc<dyn Resolve>,
    names: HashMap<String, Schedule>,
    lookups: JoinSet<(String, Result<Resolved, DnsError>)>,
    looking_up: HashSet<String>,
    probers: HashMap<BackendId, Arc<Prober>>,
    probes: JoinSet<Probed>,
    probing: HashSet<BackendId>,
}

/// A check that ended.
struct Probed {
    backend: Arc<Backend>,
    passed: bool,
    text: String,
    since: u64,
}

impl Supervisor {
    fn new(upstream: Arc<Upstream>, resolver: Arc<dyn Resolve>) -> Self {
        let names = upstream.sources.names();
        let names = names
            .into_iter()
            .map(|name| (name.to_owned(), Schedule::default()))
            .collect();
        Self {
            upstream,
            resolver,
            names,
            lookups: JoinSet::new(),
            looking_up: HashSet::new(),
            probers: HashMap::new(),
            probes: JoinSet::new(),
            probing: HashSet::new(),
        }
    }

    async fn run(mut self) {
        self.forget_old_verdicts();
        loop {
            let now = self.upstream.shared.now();
            self.start_lookups(now);
            self.start_probes(now);
            let sleep = self.sleep(now);
            let live = self.upstream.shared.live.clone();
            tokio::select! {
                Some(done) = self.lookups.join_next(), if !self.lookups.is_empty() => {
                    self.end_lookup(done);
                }
                Some(done) = self.probes.join_next(), if !self.probes.is_empty() => {
                    self.end_probe(done);
                }
                () = live.ejected.notified() => {}
                () = sleep => {}
            }
            self.upstream.look_round();
        }
    }

    /// A configuration before this one may have had checks, and left backends down that
    /// nobody would find up again.
    fn forget_old_verdicts(&self) {
        if matches!(self.upstream.probing, Probing::Active { .. }) {
            return;
        }
        let now = self.upstream.shared.now();
        for backend in self.upstream.backends() {
            backend.state.health.lock().forget();
            backend.state.set_healthy(true, now);
        }
    }

    fn start_lookups(&mut self, now: u64) {
        for (name, schedule) in &self.names {
            if schedule.next() > now || !self.looking_up.insert(name.clone()) {
                continue;
            }
            let (name, resolver) = (name.clone(), self.resolver.clone());
            self.lookups.spawn(async move {
                let found = resolver.resolve(&name).await;
                (name, found)
            });
        }
    }

    fn end_lookup(&mut self, done: Result<(String, Result<Resolved, DnsError>), JoinError>) {
        let Some((name, found)) = unless_panicked(done) else {
            // Which one is not known: all that were under way may be asked again.
            self.looking_up.clear();
            return;
        };
        self.looking_up.remove(&name);
        let Some(schedule) = self.names.get_mut(&name) else {
            return;
        };
        let now = self.upstream.shared.now();
        let found = found.and_then(|found| match found.addresses.is_empty() {
            true => Err(DnsError::NoSuchHost),
            false => Ok(found),
        });
        let news = schedule.observe(found.as_ref().ok().map(|found| found.ttl), now);
        let upstream = &*self.upstream.name;
        match (&found, news) {
            (Err(error), News::Fails) => log::warn!(
                upstream, name = name.as_str(), error:%;
                "cannot resolve backend; addresses known before are kept"
            ),
            (Ok(_), News::Works) => {
                log::info!(upstream, name = name.as_str(); "backend resolves again");
            }
            (Ok(_) | Err(_), News::None | News::Fails | News::Works) => {}
        }
        if let Ok(found) = found
            && self
                .upstream
                .shared
                .live
                .set_resolved(&name, &found.addresses)
        {
            let addresses = format!("{:?}", found.addresses);
            log::info!(upstream, name = name.as_str(), addresses; "backend has new addresses");
            self.upstream.rebuild();
            let backends = self.upstream.backends();
            self.probers
                .retain(|id, _| backends.iter().any(|backend| backend.id() == *id));
        }
        if self.names.values().all(|schedule| schedule.is_tried) {
            self.upstream.stop_awaiting_dns();
        }
    }

    fn start_probes(&mut self, now: u64) {
        for backend in self.upstream.backends() {
            let is_due = self.due(&backend, now).is_some_and(|due| due <= now);
            if !is_due {
                continue;
            }
            let Some(prober) = self.prober(&backend) else {
                continue;
            };
            self.probing.insert(backend.id());
            self.probes.spawn(async move {
                let (passed, text) = prober.probe().await;
                Probed {
                    backend,
                    passed,
                    text,
                    since: now,
                }
            });
        }
    }

    fn prober(&mut self, backend: &Backend) -> Option<Arc<Prober>> {
        if let Some(prober) = self.probers.get(&backend.id()) {
            return Some(prober.clone());
        }
        let plan = self.upstream.probing.plan()?;
        let prober = Arc::new(Prober::new(plan, &backend.target, &backend.authority)?);
        self.probers.insert(backend.id(), prober.clone());
        Some(prober)
    }

    /// When to check `backend` next, if at all and if no check is under way.
    fn due(&self, backend: &Backend, now: u64) -> Option<u64> {
        if self.probing.contains(&backend.id()) {
            return None;
        }
        let probing = &self.upstream.probing;
        let is_ejected = backend.state.ejected_until(now).is_some();
        let mut health = backend.state.health.lock();
        match probing {
            Probing::Off => None,
            Probing::Ejected { .. } => is_ejected.then(|| health.next()),
            Probing::Active { .. } => {
                if is_ejected {
                    health.hurry(now.saturating_add(nanos(probing.interval_down())));
                }
                Some(health.next())
            }
        }
    }

    fn end_probe(&mut self, done: Result<Probed, JoinError>) {
        let Some(Probed {
            backend,
            passed,
            text,
            since,
        }) = unless_panicked(done)
        else {
            self.probing.clear();
            return;
        };
        self.probing.remove(&backend.id());
        let now = self.upstream.shared.now();
        let state = &backend.state;
        self.judge_ejection(&backend, passed, now);
        let is_out = state.ejected_until(now).is_some();
        let seed = fastrand::u64(..);
        let change = match &self.upstream.probing {
            Probing::Off => None,
            Probing::Ejected { .. } => {
                let wait = jittered(self.upstream.probing.interval_down(), seed);
                state.health.lock().schedule(now.saturating_add(wait));
                None
            }
            Probing::Active { rules, .. } => state
                .health
                .lock()
                .observe(*rules, passed, is_out, now, seed),
        };
        if let Some(change) = change {
            let (upstream, address) = (&*self.upstream.name, &**backend.address());
            match change {
                Change::Up => log::info!(upstream, backend = address; "backend is healthy"),
                Change::Down => log::warn!(
                    upstream, backend = address, found = text.as_str(); "backend is down"
                ),
            }
            state.set_healthy(change == Change::Up, now);
        }
        *state.last_probe.lock() = Some(ProbeReport {
            passed,
            text,
            took: Duration::from_nanos(now.saturating_sub(since)),
            at: now,
        });
    }

    /// A backend that refused connections is back once a check can connect, and stays
    /// out past the next check while none can. (Where checks end, so does this.)
    fn judge_ejection(&self, backend: &Backend, passed: bool, now: u64) {
        let state = &backend.state;
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
                upstream = &*self.upstream.name, backend = &**backend.address();
                "backend accepts connections again and is back in rotation"
            );
        } else {
            let probing = &self.upstream.probing;
            let timeout = probing.plan().map_or(Duration::ZERO, |plan| plan.timeout);
            let past_next = nanos(probing.interval_down() * 2 + timeout);
            state.eject(now.saturating_add(past_next));
        }
    }

    /// Until the next thing is due.
    fn sleep(&self, now: u64) -> impl Future<Output = ()> + use<> {
        let backends = self.upstream.backends();
        let probes = backends.iter().filter_map(|backend| self.due(backend, now));
        let ends = backends.iter().filter_map(|b| b.state.ejected_until(now));
        let lookups = self
            .names
            .iter()
            .filter(|(name, _)| !self.looking_up.contains(*name))
            .map(|(_, schedule)| schedule.next());
        let next = probes.chain(ends).chain(lookups).min();
        async move {
            match next {
                Some(next) => {
                    let span = Duration::from_nanos(next.saturating_sub(now));
                    tokio::time::sleep(span.max(SHORTEST_SLEEP)).await;
                }
                None => future::pending().await,
            }
        }
    }
}

fn unless_panicked<T>(done: Result<T, JoinError>) -> Option<T> {
    done.inspect_err(|error| log::error!(error:%; "a background check panicked"))
        .ok()
}
