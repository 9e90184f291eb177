//! Threads that belong to a plugin (`isolation: thread`): a caller waits for a hook no longer than
//! its wall limit, whatever the engine does meanwhile.
//!
//! A lane is a thread with an isolate; all lanes take hooks from one queue. A lane that is still in
//! the engine when a hook's time is over is stuck: it is given up and another replaces it. One
//! client may hold few lanes, so that some are left for others. A stuck lane ends when the engine
//! returns, which it does: each call of a native function ends at some time, and the engine checks
//! the CPU time after a number of them.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, thread};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::process::Pid;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    budget::HookLimits,
    call::{Call, Hook, Input, OperationResult, Output, first},
    error::{Failure, FailureKind},
    isolate::Isolate,
};
use crate::base::{net::subscriber, system};

/// Threads of a plugin that may be stuck before no more hooks begin. There are never more threads
/// than these and one for each worker.
pub(super) const MAX_STUCK: usize = 4;
/// Stuck threads that one client may hold before no more of its hooks begin.
const MAX_STUCK_OF_ONE: usize = MAX_STUCK / 2;
/// Most hooks that may wait for a lane.
const MAX_QUEUED: usize = 1024;
/// Nice value of a stuck thread, which uses the CPU for nothing: requests go first. It is not the
/// lowest priority: on a busy machine the thread would not return for minutes.
const STUCK_NICE: i32 = 10;

/// Creates another isolate of the plugin.
pub(super) type IsolateFactory = Box<dyn Fn() -> Result<Isolate, Failure> + Send + Sync>;

/// Lanes of a plugin. They end with it.
pub(super) struct PluginThreads(Arc<PoolState>);

struct PoolState {
    name: Arc<str>,
    limits: HookLimits,
    make: IsolateFactory,
    /// Number of lanes while none is missing.
    wanted: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    lanes: Vec<ThreadLane>,
    /// Lanes that were given up and have not returned, each with its client.
    stuck: Vec<(u64, Option<IpAddr>)>,
    /// Number of the next lane or job.
    next: u64,
    is_closed: bool,
}

#[derive(Default)]
struct ThreadLane {
    id: u64,
    isolate: Option<Arc<Isolate>>,
    thread: Option<Pid>,
    /// Running job and its start.
    running: Option<(u64, Instant)>,
    client: Option<IpAddr>,
}

struct Job {
    id: u64,
    client: Option<IpAddr>,
    what: JobKind,
    done: oneshot::Sender<Result<HookStep, Failure>>,
}

enum JobKind {
    Begin(Hook, Box<Input>),
    /// Resumes a call in the isolate that it began in, on that lane.
    Settle(HookStep, u32, OperationResult),
}

impl JobKind {
    /// Client of the call: an IPv4 address, or an IPv6 /64.
    fn client(&self) -> Option<IpAddr> {
        let input = match self {
            Self::Begin(_, input) => input,
            Self::Settle(step, ..) => &step.call.input,
        };
        input.ip.map(subscriber)
    }
}

/// Hook that has come out of the engine.
pub(super) struct HookStep {
    lane: u64,
    isolate: Arc<Isolate>,
    pub(super) call: Box<Call>,
}

impl PluginThreads {
    /// Starts one lane for each of these isolates.
    pub(super) fn start(
        name: Arc<str>,
        limits: HookLimits,
        isolates: Vec<Arc<Isolate>>,
        make: IsolateFactory,
    ) -> Result<Self, Failure> {
        let shared = Arc::new(PoolState {
            name,
            limits,
            make,
            wanted: isolates.len(),
            state: Mutex::default(),
            work: Condvar::new(),
        });
        // Dropping it ends the lanes already started if one fails to start.
        let threads = Self(shared);
        for isolate in isolates {
            let id = threads.0.state.lock().lane();
            let started = threads.0.start(id, Some(isolate));
            started.map_err(|error| {
                Failure::load(format!("its thread could not be started: {error}"))
            })?;
        }
        Ok(threads)
    }

    pub(super) fn count(&self) -> usize {
        self.0.wanted
    }

    pub(super) fn stuck(&self) -> usize {
        self.0.state.lock().stuck.len()
    }

    /// Heap of the idle lanes in bytes: the others cannot be read. No hook begins meanwhile.
    pub(super) fn heap(&self) -> u64 {
        let state = self.0.state.lock();
        let idle = state.lanes.iter().filter(|lane| lane.running.is_none());
        idle.filter_map(|lane| lane.isolate.as_ref())
            .map(|isolate| isolate.heap())
            .sum()
    }

    /// Runs a hook, and gives up when its time is over. The work that it left behind is in the step
    /// beside its outcome.
    pub(super) async fn call(
        &self,
        hook: Hook,
        input: Input,
    ) -> Result<(Result<Output, Failure>, HookStep), Failure> {
        let until = Instant::now() + self.0.limits.wall;
        let step = self
            .step(until, JobKind::Begin(hook, Box::new(input)))
            .await?;
        let mut step = self.resume(step, until).await?;
        let outcome = match step.call.outcome.take() {
            Some(outcome) => outcome.map(|result| step.call.output(result)),
            None => Err(self.0.limits.wall_exceeded()),
        };
        Ok((outcome, step))
    }

    /// Resumes a call until it is over.
    pub(super) async fn resume(
        &self,
        mut step: HookStep,
        until: Instant,
    ) -> Result<HookStep, Failure> {
        while !step.call.is_over() {
            let waiting = &mut step.call.waiting.all;
            let settled = if waiting.is_empty() {
                // Nothing will ever settle it; the hook fails at the wall limit.
                sleep_until(until).await;
                None
            } else {
                timeout_at(until, first(waiting)).await.ok()
            };
            // Operations that are ready at once never let the timer fire.
            let settled = settled.filter(|_| Instant::now() < until);
            let Some((promise, settled)) = settled else {
                // The promises that it waits for would stay in the engine for ever.
                step.isolate.condemn();
                return Err(self.0.limits.wall_exceeded());
            };
            // Its time may be over before a lane takes it.
            step.call.waiting.settling = Some(promise);
            let next = JobKind::Settle(step, promise, settled);
            step = self.step(until, next).await?;
        }
        Ok(step)
    }

    /// Runs one step. However far away `until` is, the step holds the engine no longer than a hook
    /// may.
    async fn step(&self, until: Instant, what: JobKind) -> Result<HookStep, Failure> {
        let (done, mut result) = oneshot::channel();
        let id = self.0.post(what, done)?;
        let mut within = until.min(Instant::now() + self.0.limits.wall);
        loop {
            match timeout_at(within, &mut result).await {
                Ok(Ok(step)) => return step,
                Ok(Err(_)) => {
                    return Err(Failure::new(
                        FailureKind::Stuck,
                        "the instance that it waited in is stuck in another hook",
                    ));
                }
                Err(_) => {}
            }
            let longer = self.0.most(id).map(|most| until.min(most));
            match longer {
                Some(longer) if longer > Instant::now() => within = longer,
                _ => break,
            }
        }
        let is_stuck = self.0.give_up(id);
        let failure = self.0.limits.wall_exceeded();
        Err(if is_stuck {
            Failure::new(
                FailureKind::Stuck,
                format!("{failure}, and its thread is stuck"),
            )
        } else {
            failure
        })
    }
}

impl Drop for PluginThreads {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_closed = true;
        state.jobs.clear();
        self.0.work.notify_all();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds a lane that has no thread yet.
    fn lane(&mut self) -> u64 {
        let id = self.number();
        self.lanes.push(ThreadLane {
            id,
            ..ThreadLane::default()
        });
        id
    }

    /// Returns true if this client holds as many threads as allowed.
    fn is_held_by(&self, client: Option<IpAddr>) -> bool {
        let held = self.stuck.iter().filter(|(_, holder)| *holder == client);
        client.is_some() && held.count() >= MAX_STUCK_OF_ONE
    }

    fn find_lane(&mut self, lane: u64) -> Option<&mut ThreadLane> {
        self.lanes.iter_mut().find(|each| each.id == lane)
    }

    /// Takes the next job that this lane may run.
    fn take(&mut self, lane: u64) -> Option<Job> {
        let is_for = |job: &Job| match &job.what {
            JobKind::Begin(..) => true,
            JobKind::Settle(step, ..) => step.lane == lane,
        };
        let index = self.jobs.iter().position(is_for)?;
        self.jobs.remove(index)
    }
}

impl PoolState {
    /// Queues a job, and returns its number.
    fn post(
        &self,
        what: JobKind,
        done: oneshot::Sender<Result<HookStep, Failure>>,
    ) -> Result<u64, Failure> {
        let mut state = self.state.lock();
        let begins = matches!(what, JobKind::Begin(..));
        let client = what.client();
        if begins && state.is_held_by(client) {
            let why = "this client already holds its maximum of threads";
            return Err(Failure::new(FailureKind::Stuck, why));
        }
        if begins && state.stuck.len() >= MAX_STUCK {
            let why = format!("{MAX_STUCK} of its threads are stuck, and it gets no more");
            return Err(Failure::new(FailureKind::Stuck, why));
        }
        if begins && state.jobs.len() >= MAX_QUEUED {
            let why = format!("{MAX_QUEUED} hooks already wait for its threads");
            return Err(Failure::new(FailureKind::Wall, why));
        }
        if let JobKind::Settle(step, ..) = &what {
            let lane = step.lane;
            if state.find_lane(lane).is_none() {
                let why = "the instance that it waited in is stuck in another hook";
                return Err(Failure::new(FailureKind::Stuck, why));
            }
        }
        let id = state.number();
        state.jobs.push_back(Job {
            id,
            client,
            what,
            done,
        });
        drop(state);
        if begins {
            self.work.notify_one();
        } else {
            // Only that lane can do it.
            self.work.notify_all();
        }
        Ok(id)
    }

    /// Returns the deadline of a job's result: its time in the engine begins when a lane takes it.
    /// `None` if no lane will.
    fn most(&self, job: u64) -> Option<Instant> {
        let state = self.state.lock();
        let mut running = state.lanes.iter().filter_map(|lane| lane.running);
        let since = running.find(|(running, _)| *running == job);
        let since = since.map(|(_, since)| since).or_else(|| {
            let is_queued = state.jobs.iter().any(|queued| queued.id == job);
            is_queued.then(Instant::now)
        });
        Some(since? + self.limits.wall)
    }

    /// Gives up a job whose caller has gone. Returns `true` if a lane is stuck in it. All other
    /// lanes over the time limit are given up too.
    fn give_up(self: &Arc<Self>, job: u64) -> bool {
        let mut state = self.state.lock();
        state.jobs.retain(|queued| queued.id != job);
        let is_stuck = |lane: &mut ThreadLane| {
            lane.running.is_some_and(|(running, since)| {
                running == job || since.elapsed() >= self.limits.wall
            })
        };
        let stuck: Vec<ThreadLane> = state.lanes.extract_if(.., is_stuck).collect();
        let is_own = |lane: &ThreadLane| lane.running.is_some_and(|(running, _)| running == job);
        let is_in_it = stuck.iter().any(is_own);
        for lane in stuck {
            state.stuck.push((lane.id, lane.client));
            if state.is_held_by(lane.client) {
                // Queued hooks of this client fail at once: it may hold no more lanes.
                let is_next =
                    |job: &Job| job.client == lane.client && matches!(job.what, JobKind::Begin(..));
                state.jobs.retain(|job| !is_next(job));
            }
            let is_of_lane =
                |job: &Job| matches!(&job.what, JobKind::Settle(step, ..) if step.lane == lane.id);
            state.jobs.retain(|job| !is_of_lane(job));
            if let Some(isolate) = &lane.isolate {
                isolate.condemn();
            }
            give_way(lane.thread);
        }
        self.fill(state);
        is_in_it
    }

    /// Starts missing lanes, up to the limit.
    fn fill(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut missing = Vec::new();
        let is_short = |state: &State| {
            !state.is_closed
                && state.lanes.len() < self.wanted
                && state.lanes.len() + state.stuck.len() < self.wanted + MAX_STUCK
        };
        while is_short(&state) {
            missing.push(state.lane());
        }
        drop(state);
        for id in missing {
            if let Err(error) = self.start(id, None) {
                log::error!(plugin = &*self.name, error:%; "stuck thread of a plugin could not be replaced");
                self.state.lock().lanes.retain(|lane| lane.id != id);
            }
        }
    }

    fn start(self: &Arc<Self>, id: u64, isolate: Option<Arc<Isolate>>) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name(format!("plugin {}", self.name));
        thread.spawn(move || shared.serve(id, isolate)).map(drop)
    }

    /// Runs jobs on the thread of a lane.
    fn serve(self: &Arc<Self>, id: u64, mut isolate: Option<Arc<Isolate>>) {
        if let Some(lane) = self.state.lock().find_lane(id) {
            lane.thread = system::this_thread();
            lane.isolate.clone_from(&isolate);
        }
        while let Some(Job { what, done, .. }) = self.next(id) {
            let outcome = match what {
                // No caller waits for it: its client is gone.
                JobKind::Begin(..) if done.is_closed() => continue,
                JobKind::Begin(hook, input) => self.whole(id, &mut isolate).map(|isolate| {
                    let call = isolate.begin(isolate.call(*input), hook);
                    HookStep {
                        lane: id,
                        isolate,
                        call,
                    }
                }),
                JobKind::Settle(step, promise, settled) => {
                    let call = step.isolate.settle(step.call, promise, settled);
                    Ok(HookStep { call, ..step })
                }
            };
            // Not counted in the hook's time: the rest prepares for the next hook.
            if !self.is_idle(id) {
                break;
            }
            // A caller that has gone leaves the call to be dropped.
            let _gone = done.send(outcome);
            if let Err(failure) = self.whole(id, &mut isolate) {
                log::error!(plugin = &*self.name, error:% = failure; "plugin could not be loaded again");
            }
        }
        self.leave(id);
    }

    /// Returns the lane's isolate, or a new one if the old one was interrupted midway.
    fn whole(&self, id: u64, isolate: &mut Option<Arc<Isolate>>) -> Result<Arc<Isolate>, Failure> {
        if let Some(isolate) = isolate.as_ref().filter(|isolate| !isolate.is_broken()) {
            return Ok(Arc::clone(isolate));
        }
        let new = Arc::new((self.make)()?);
        *isolate = Some(Arc::clone(&new));
        if let Some(lane) = self.state.lock().find_lane(id) {
            lane.isolate = Some(Arc::clone(&new));
        }
        Ok(new)
    }

    /// Marks the lane as idle; `false` if the lane was given up meanwhile.
    fn is_idle(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let lane = state.find_lane(id);
        lane.map(|lane| lane.running = None).is_some()
    }

    /// Waits for the next job of a lane; `None` if there will be none.
    fn next(&self, id: u64) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            state.find_lane(id)?.running = None;
            if let Some(job) = state.take(id) {
                let lane = state.find_lane(id)?;
                lane.running = Some((job.id, Instant::now()));
                lane.client = job.client;
                return Some(job);
            }
            self.work.wait(&mut state);
        }
    }

    /// Ends a thread. A stuck one makes room for a new one; it does not serve again, since only
    /// root may raise a priority that was lowered.
    fn leave(self: &Arc<Self>, id: u64) {
        let mut state = self.state.lock();
        state.stuck.retain(|(lane, _)| *lane != id);
        self.fill(state);
    }
}

/// Lowers the priority of a thread.
fn give_way(thread: Option<Pid>) {
    if let Some(thread) = thread {
        // On failure the thread keeps its share of the CPU.
        let _kept = rustix::process::setpriority_process(Some(thread), STUCK_NICE);
    }
}

edgeway_base::opaque_debug!(PluginThreads);
