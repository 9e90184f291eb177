//! A plugin as the gateway calls it: enough isolates for all hooks that run at a time.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use log::{Level, Record};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::{
    budget::{HookLimits, Isolation},
    call::{Call, Hook, Input, Output, first},
    capabilities::{Capabilities, SharedCapabilities},
    conditions::ClientRequest,
    error::{Failure, FailureKind},
    host::Log,
    isolate::Isolate,
    log_line::{PluginLogLine, one_line},
    matcher::{self, OwnPattern},
    schema::{ConfigSchema, Step},
    source::Source,
    threads::{MAX_STUCK, PluginThreads},
    wait_until::RemainingWork,
};
use crate::base::known_secrets::KnownSecrets;

/// Length of the shortest variable of the environment that is secret whatever its name is: shorter
/// ones may be words such as `production`.
const MIN_ENV_LEN: usize = 12;

/// Loaded plugin, for as long as a configuration has it.
pub struct Plugin {
    name: Arc<str>,
    pub source: Arc<Source>,
    /// Short hash of the plugin's files.
    pub version: Arc<str>,
    loaded: OnceLock<SystemTime>,
    /// `config` of the plugin, as JSON.
    config: String,
    pub(super) limits: HookLimits,
    pub(super) capabilities: SharedCapabilities,
    pub(super) log: Arc<dyn Log>,
    hooks: u8,
    /// Entries of the plugin's own `config.matcher`.
    matcher: Vec<OwnPattern>,
    /// Slots, one for each worker; a worker whose slot is in use takes the next.
    pub(super) slots: Box<[Slot]>,
    /// Threads of the plugin, in place of the slots.
    pub(super) threads: Option<PluginThreads>,
}

pub(super) struct Slot {
    isolate: ArcSwap<Isolate>,
    /// Held while the isolate runs.
    turn: Mutex<()>,
}

impl Slot {
    fn new(isolate: Arc<Isolate>) -> Self {
        Self {
            isolate: ArcSwap::new(isolate),
            turn: Mutex::default(),
        }
    }
}

static THREADS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    /// Number of this thread among those that call plugins.
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// Logs lines of `console` and of `ctx.log` under the name of the plugin.
struct PluginLog(Arc<str>);

impl PluginLog {
    fn write(&self, level: Level, text: &str, fields: &[(&str, &str)]) {
        let mut record = Record::builder();
        record
            .level(level)
            .target("edgeway::plugin")
            // Lines are limited by file: each plugin has its own.
            .file(Some(&self.0))
            .key_values(&fields);
        if level <= log::max_level() {
            log::logger().log(&record.args(format_args!("{text}")).build());
        }
    }
}

impl Log for PluginLog {
    fn line(&self, level: Level, text: &str) {
        self.write(level, &one_line(text), &[("plugin", &self.0)]);
    }

    fn request_line(&self, line: &PluginLogLine<'_>) {
        let labels = [("plugin", &*self.0), ("request_id", line.request_id)];
        let fields = line.fields.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<(&str, &str)> = labels.into_iter().chain(fields).collect();
        self.write(line.level, line.text, &all);
    }
}

impl Plugin {
    /// Loads a plugin once for each of `workers`.
    pub fn load(
        name: &str,
        source: Arc<Source>,
        config: String,
        limits: HookLimits,
        capabilities: Capabilities,
        workers: usize,
    ) -> Result<Self, Failure> {
        let log = Arc::new(PluginLog(name.into()));
        Self::load_logging(name, source, config, limits, capabilities, workers, log)
    }

    /// Loads like [`Plugin::load`]; lines of `console` go to `log`.
    pub(super) fn load_logging(
        name: &str,
        source: Arc<Source>,
        config: String,
        limits: HookLimits,
        mut capabilities: Capabilities,
        workers: usize,
        log: Arc<dyn Log>,
    ) -> Result<Self, Failure> {
        let name: Arc<str> = name.into();
        capabilities.secrets = secrets_of(&source, &config, &capabilities.env)?;
        let capabilities = Arc::new(capabilities);
        let mut isolates = Vec::with_capacity(workers.max(1));
        for _ in 0..workers.max(1) {
            let isolate = Isolate::new(&source, limits, &config, &capabilities, &log)?;
            isolates.push(Arc::new(isolate));
        }
        source.close();
        let first = Arc::clone(&isolates[0]);
        let of = |hook: &Hook| first.has(*hook).then(|| hook.bit());
        let hooks = Hook::ALL
            .iter()
            .filter_map(of)
            .fold(0, |all, bit| all | bit);
        let matcher = match &first.exports.matcher {
            Some(json) => matcher::read(json).map_err(Failure::load)?,
            None => Vec::new(),
        };
        drop(first);
        if hooks == 0 {
            return Err(Failure::load(
                "it exports none of the hooks (onRequest, onResponse, …), so it would do nothing",
            ));
        }
        let (slots, threads) = match limits.isolation {
            Isolation::Worker => (isolates.into_iter().map(Slot::new).collect(), None),
            Isolation::Thread => {
                let (source, config) = (Arc::clone(&source), config.clone());
                let (capabilities, log) = (Arc::clone(&capabilities), Arc::clone(&log));
                let make =
                    Box::new(move || Isolate::new(&source, limits, &config, &capabilities, &log));
                let threads = PluginThreads::start(Arc::clone(&name), limits, isolates, make)?;
                (Box::default(), Some(threads))
            }
        };
        Ok(Self {
            name,
            version: source.version().into(),
            source,
            loaded: OnceLock::new(),
            config,
            limits,
            capabilities,
            log,
            hooks,
            matcher,
            slots,
            threads,
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Time of loading; the first call sets it.
    pub fn loaded(&self, now: SystemTime) -> SystemTime {
        *self.loaded.get_or_init(|| now)
    }

    /// Returns true if the plugin's own `config.matcher` matches this path and the request.
    pub fn is_for<'r>(&self, path: &str, request: impl Fn() -> ClientRequest<'r>) -> bool {
        if self.matcher.is_empty() {
            return true;
        }
        let is_met = |path: &str| {
            let mut matchers = self.matcher.iter();
            matchers.any(|pattern| pattern.is_for(path, &request))
        };
        // Next.js compares the path as it was written, and as it is decoded if it can be.
        let decoded = || percent_decode_str(path).decode_utf8().ok();
        is_met(path) || path.contains('%') && decoded().is_some_and(|path| is_met(&path))
    }

    /// Matches like [`Plugin::is_for`], on a path as some app may read it.
    pub fn is_for_reading<'r>(
        &self,
        reading: &str,
        request: impl Fn() -> ClientRequest<'r>,
    ) -> bool {
        let mut patterns = self.matcher.iter();
        self.matcher.is_empty() || patterns.any(|pattern| pattern.is_for_reading(reading, &request))
    }

    /// Returns the matcher entries that a client can match or avoid at will, each with the
    /// condition that the client controls.
    pub fn clients_choice(&self) -> Vec<(&str, String)> {
        matcher::clients_choice(&self.matcher)
    }

    /// Returns true if the plugin has a `config.matcher`.
    pub fn has_matcher(&self) -> bool {
        !self.matcher.is_empty()
    }

    /// Returns true if a plainly written path may be another spelling of one in the plugin's
    /// matcher.
    pub fn has_odd_paths(&self) -> bool {
        self.matcher.iter().any(OwnPattern::has_odd_path)
    }

    pub fn has(&self, hook: Hook) -> bool {
        self.hooks & hook.bit() != 0
    }

    pub fn isolates(&self) -> usize {
        let threads = self.threads.as_ref();
        threads.map_or(self.slots.len(), PluginThreads::count)
    }

    /// Number of threads held inside the engine beyond the time limit of a hook.
    pub fn stuck(&self) -> usize {
        self.threads.as_ref().map_or(0, PluginThreads::stuck)
    }

    /// Returns true if as many threads are stuck as allowed: no hook begins until one comes back.
    pub fn is_out_of_threads(&self) -> bool {
        self.stuck() >= MAX_STUCK
    }

    /// Heap of all isolates, in bytes.
    pub fn heap(&self) -> u64 {
        if let Some(threads) = &self.threads {
            return threads.heap();
        }
        self.slots
            .iter()
            .map(|slot| slot.isolate.load().heap())
            .sum()
    }

    /// Runs a hook that the plugin exports.
    pub async fn call(self: &Arc<Self>, hook: Hook, input: Input) -> Result<Output, Failure> {
        if let Some(threads) = &self.threads {
            // Boxed: most plugins have no threads, and each call would carry the room for it.
            let (outcome, step) = Box::pin(threads.call(hook, input)).await?;
            if leaves_work(&outcome, &step.call) {
                self.spawn_remaining(RemainingWork::Thread(step));
            }
            return outcome;
        }
        let slot = self.slot();
        let (isolate, mut call) = self.begin(slot, hook, input)?;
        if call.outcome.is_none() {
            let waited = Self::wait(slot, &isolate, call, self.limits.wall);
            // Boxed: hardly any hook waits, and each call would carry the room for it.
            let waited = tokio::time::timeout(self.limits.wall, Box::pin(waited)).await;
            let Some(waited) = waited.ok().flatten() else {
                // The promises that it waits for would stay in the engine for ever.
                isolate.condemn();
                self.renew(slot, &isolate);
                return Err(self.limits.wall_exceeded());
            };
            call = waited;
        }
        if isolate.is_broken() {
            self.renew(slot, &isolate);
        }
        let outcome = match call.outcome.take() {
            Some(Ok(result)) => Ok(call.output(result)),
            Some(Err(failure)) => Err(failure),
            None => Err(Failure::new(FailureKind::Wall, "its promise never settles")),
        };
        if leaves_work(&outcome, &call) {
            let index = self.slots.iter().position(|own| std::ptr::eq(own, slot));
            self.spawn_remaining(RemainingWork::Worker(index.unwrap_or(0), isolate, call));
        }
        outcome
    }

    /// Begins a hook in the isolate that the slot holds once the lock is free: the previous isolate
    /// may have been interrupted meanwhile.
    fn begin(
        &self,
        slot: &Slot,
        hook: Hook,
        input: Input,
    ) -> Result<(Arc<Isolate>, Box<Call>), Failure> {
        let _turn = slot.turn.lock();
        let mut isolate = slot.isolate.load_full();
        if isolate.is_broken() {
            isolate = Arc::new(self.another()?);
            slot.isolate.store(Arc::clone(&isolate));
        }
        let call = isolate.begin(isolate.call(input), hook);
        Ok((isolate, call))
    }

    /// Resumes a hook until it is over; `None` if it does not end in time.
    pub(super) async fn wait(
        slot: &Slot,
        isolate: &Isolate,
        mut call: Box<Call>,
        wall: Duration,
    ) -> Option<Box<Call>> {
        let start = tokio::time::Instant::now();
        while !call.is_over() {
            // Operations that are ready at once never yield to other tasks, nor to the timer
            // outside.
            tokio::task::consume_budget().await;
            if start.elapsed() >= wall {
                return None;
            }
            if call.waiting.all.is_empty() {
                // Nothing will ever settle it; the caller ends the wait at the wall limit.
                std::future::pending::<()>().await;
            }
            let (promise, settled) = first(&mut call.waiting.all).await;
            let _turn = slot.turn.lock();
            call = isolate.settle(call, promise, settled);
        }
        Some(call)
    }

    /// Returns a free slot, if there is one; preferably the one whose heap is in the caches of this
    /// thread's CPU.
    fn slot(&self) -> &Slot {
        let from = THREAD.with(|number| *number);
        let count = self.slots.len();
        let free = (0..count).map(|step| &self.slots[(from + step) % count]);
        let mut free = free.filter(|slot| !slot.turn.is_locked());
        free.next().unwrap_or(&self.slots[from % count])
    }

    fn another(&self) -> Result<Isolate, Failure> {
        let (source, limits, config) = (&self.source, self.limits, &self.config);
        Isolate::new(source, limits, config, &self.capabilities, &self.log)
    }

    /// Replaces an isolate that was interrupted midway with a new one.
    pub(super) fn renew(&self, slot: &Slot, broken: &Arc<Isolate>) {
        let _turn = slot.turn.lock();
        if !Arc::ptr_eq(&slot.isolate.load(), broken) {
            return;
        }
        match self.another() {
            Ok(isolate) => slot.isolate.store(Arc::new(isolate)),
            Err(failure) => {
                log::error!(plugin = &*self.name, error:% = failure; "plugin could not be loaded again");
            }
        }
    }
}

/// Returns the secrets in the `config` and the environment of a plugin.
fn secrets_of(source: &Source, config: &str, env: &str) -> Result<KnownSecrets, Failure> {
    let read = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let (config, env) = (read(config), read(env));
    let mut secrets = KnownSecrets::default();
    secrets.add_data(&config, false);
    secrets.add_data(&env, false);
    let values = env.as_object().into_iter().flat_map(Map::values);
    let long = values
        .filter_map(Value::as_str)
        .filter(|value| value.len() >= MIN_ENV_LEN);
    long.for_each(|value| secrets.add(value));
    if let Some(schema) = ConfigSchema::beside(&source.folder)? {
        for path in schema.secrets(&config) {
            let value = path.iter().try_fold(&config, |value, step| match step {
                Step::Key(key) => value.get(key),
                Step::Item(index) => value.get(index),
            });
            secrets.add_data(value.unwrap_or(&Value::Null), true);
        }
    }
    // The first use compiles expressions, and no hook should pay for that with its CPU time.
    drop(secrets.hidden_in(""));
    Ok(secrets)
}

/// Returns true if a hook left work behind, or a failure to report, and can still go on.
fn leaves_work(outcome: &Result<Output, Failure>, call: &Call) -> bool {
    let is_stopped = matches!(outcome, Err(failure) if failure.kind.is_fatal());
    !is_stopped && (call.promises > 0 || call.rejection.is_some())
}

edgeway_base::opaque_debug!(Plugin, name);
