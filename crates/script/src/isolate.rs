//! Instance of a plugin in an engine of its own.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rquickjs::{CatchResultExt, Context, Ctx, Function, Module, Object, Runtime, Value};

use super::{
    budget::{CpuBudget, HookLimits, Isolation},
    call::{Call, Hook, HookResult, Input, OperationResult},
    capabilities::SharedCapabilities,
    entry::Entry,
    error::{Failure, FailureKind},
    exports,
    host::{self, Log, State},
    source::{Modules, Source},
};

/// Modules of the Web API, in the order in which they are loaded.
const WEB: [(&str, &str); 11] = [
    ("edgeway/code.js", include_str!("web/code.js")),
    ("edgeway/console.js", include_str!("web/console.js")),
    ("edgeway/url.js", include_str!("web/url.js")),
    ("edgeway/encoding.js", include_str!("web/encoding.js")),
    ("edgeway/headers.js", include_str!("web/headers.js")),
    ("edgeway/http.js", include_str!("web/http.js")),
    ("edgeway/body.js", include_str!("web/body.js")),
    ("edgeway/next.js", include_str!("web/next.js")),
    ("edgeway/hooks.js", include_str!("web/hooks.js")),
    ("edgeway/fetch.js", include_str!("web/fetch.js")),
    ("edgeway/output.js", include_str!("web/output.js")),
];

/// Entry of a hook from which its time is counted from the start: most hooks are entered less
/// often, and need no clock.
const FIRST_TIMED_ENTRY: u32 = 8;

/// Bytes that the heap may exceed its limit by while a plugin is loaded.
const LOADING: usize = 32 << 20;
/// Free bytes up to which a heap counts as full.
const FULL_HEAP_MARGIN: u64 = 16 << 10;

/// Number of calls after which call numbers start again: twice a number plus 1 is still a small
/// integer to the engine.
const CALLS: u32 = 1 << 29;

/// Loaded plugin.
pub(super) struct Isolate {
    context: Context,
    runtime: Runtime,
    state: Arc<State>,
    budget: Arc<CpuBudget>,
    limits: HookLimits,
    pub(super) exports: Exports,
    calls: AtomicU32,
    /// Set once the isolate was interrupted midway.
    is_broken: AtomicBool,
}

/// Exports of a plugin's module.
pub(super) struct Exports {
    hooks: u8,
    /// `config.matcher`, as JSON.
    pub(super) matcher: Option<String>,
}

impl Isolate {
    /// Loads a plugin.
    pub(super) fn new(
        source: &Arc<Source>,
        limits: HookLimits,
        config: &str,
        capabilities: &SharedCapabilities,
        log: &Arc<dyn Log>,
    ) -> Result<Self, Failure> {
        let out_of_memory =
            |_| Failure::new(FailureKind::Memory, "not enough memory for an engine");
        let runtime = Runtime::new().map_err(out_of_memory)?;
        runtime.set_max_stack_size(limits.stack);
        let modules = Modules(Arc::clone(source));
        runtime.set_loader(modules.clone(), modules);
        let budget = Arc::new(CpuBudget::default());
        let allow = |bytes: usize| {
            runtime.set_memory_limit(bytes);
            budget.steps.set_memory(bytes);
        };
        // The engine reads a module as if memory never ran out.
        allow(limits.memory.saturating_add(LOADING));
        runtime.set_interrupt_handler(Some(Box::new(budget.interrupt_handler())));
        let context = Context::full(&runtime).map_err(out_of_memory)?;
        let state = Arc::new(State::new(Arc::clone(log), &budget, capabilities));
        let loaded = context.with(|ctx| {
            budget.enter(limits.load, Duration::ZERO, false);
            let prepared = budget.steps.prepare(&ctx);
            let failure = |error| Failure::from_error(error, &state);
            prepared.catch(&ctx).map_err(failure)?;
            load(&ctx, source, config, capabilities, &state, &budget)
                .catch(&ctx)
                .map_err(failure)
        });
        budget.leave();
        // Whatever it returned: it was interrupted midway.
        if budget.is_over() {
            let max = limits.load;
            return Err(Failure::load(format!(
                "loading used more than {max:?} of CPU time"
            )));
        }
        let exports = match loaded {
            Ok(exports) => exports,
            Err(failure) => {
                return Err(Failure {
                    kind: FailureKind::Load,
                    ..failure
                });
            }
        };
        allow(limits.memory);
        let isolate = Self {
            context,
            runtime,
            state,
            budget,
            limits,
            exports,
            calls: AtomicU32::new(0),
            is_broken: AtomicBool::new(false),
        };
        let (heap, max) = (isolate.heap(), limits.memory);
        if heap > max as u64 {
            let why = format!("its heap has {heap} bytes after loading, more than {max}");
            return Err(Failure::load(why));
        }
        Ok(isolate)
    }

    pub(super) fn has(&self, hook: Hook) -> bool {
        self.exports.hooks & hook.bit() != 0
    }

    /// Creates the next call.
    pub(super) fn call(&self, input: Input) -> Box<Call> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed) % CALLS;
        Box::new(Call::new(id, input, Arc::clone(&self.state.forgotten)))
    }

    /// Stops further hooks from beginning in this isolate.
    pub(super) fn condemn(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Heap in use, in bytes.
    pub(super) fn heap(&self) -> u64 {
        u64::try_from(self.runtime.memory_usage().malloc_size).unwrap_or(0)
    }

    /// Begins a hook.
    pub(super) fn begin(&self, call: Box<Call>, hook: Hook) -> Box<Call> {
        let input = &call.input;
        let status = input.response.as_ref().map(|(status, _)| status.as_u16());
        let detail = input
            .entry
            .clone()
            .map(Cow::Owned)
            .or_else(|| input.reason.clone());
        self.enter(call, |entry, call| {
            let begin = entry.begin[hook as usize].as_ref();
            let Some(begin) = begin else { return Ok(true) };
            let is_over = match detail {
                Some(detail) => begin.call::<_, Option<bool>>((call, status, &*detail))?,
                None => begin.call::<_, Option<bool>>((call, status))?,
            };
            Ok(is_over == Some(true))
        })
    }

    /// Resumes a hook that has waited.
    pub(super) fn settle(
        &self,
        mut call: Box<Call>,
        promise: u32,
        settled: OperationResult,
    ) -> Box<Call> {
        call.waiting.settling = None;
        self.enter(call, |entry, _| {
            let (is_fulfilled, json) = match settled {
                Ok(json) => (true, json),
                Err(why) => (false, why),
            };
            entry.settle.call::<_, ()>((promise, is_fulfilled, json))?;
            Ok(false)
        })
    }

    /// Runs a part of a call in the engine, and all jobs that follow from it. `run` returns true
    /// if the hook is over and wants nothing.
    fn enter(
        &self,
        mut call: Box<Call>,
        run: impl FnOnce(&Entry<'_>, u32) -> rquickjs::Result<bool>,
    ) -> Box<Call> {
        call.entries = call.entries.saturating_add(1);
        // On a thread of its own a clock costs little beside getting there, and a hook that calls
        // expensive functions stops at the first interrupt.
        let is_counted =
            call.entries >= FIRST_TIMED_ENTRY || self.limits.isolation == Isolation::Thread;
        let (id, used) = (call.id, call.used);
        let (call, failed) = self.context.with(|ctx| {
            let state = &self.state;
            let entry = ctx.userdata::<Entry<'_>>();
            let forgotten = std::mem::take(&mut *state.forgotten.lock());
            if let (Some(entry), false) = (&entry, forgotten.is_empty()) {
                // Not counted against this hook.
                self.budget.enter(self.limits.load, Duration::ZERO, false);
                if entry.forget.call::<_, ()>((forgotten,)).is_err() {
                    self.condemn();
                }
            }
            *state.call.lock() = Some(call);
            self.budget.enter(self.limits.cpu, used, is_counted);
            let outcome = match &entry {
                Some(entry) => {
                    let ran = run(entry, id).catch(&ctx);
                    ran.map_err(|error| Failure::from_error(error, state))
                }
                None => Err(Failure::load("it has no entry")),
            };
            drop(entry);
            // Pending jobs belong to this hook, and to no later one.
            while !self.budget.is_over() && ctx.execute_pending_job() {}
            let mut call = state.call.lock().take();
            if let (Ok(true), Some(call)) = (&outcome, &mut call) {
                call.outcome.get_or_insert(Ok(HookResult::Nothing));
            }
            (call, outcome.err())
        });
        let used = self.budget.leave();
        let mut call = call.expect("nothing takes it out but this");
        call.used = used;
        let is_over = call.outcome.is_none() && used > self.limits.cpu;
        // A hook that returned anyway has used as much: its result is discarded.
        if call.entries > 1 || call.outcome.is_none() {
            call.held += self.budget.thread_time();
        }
        // Waiting in between does not reduce it.
        let is_twice_over = self.budget.is_twice_over() || call.held / 2 > self.limits.cpu;
        if self.budget.is_over() || is_over || is_twice_over {
            let max = self.limits.cpu;
            let why = format!("it used more than {max:?} of CPU time");
            call.outcome = Some(Err(Failure::new(FailureKind::Cpu, why)));
        } else if self.budget.elapsed() > self.limits.wall {
            call.outcome = Some(Err(self.limits.wall_exceeded()));
        } else if let Some(failure) = failed {
            call.outcome = Some(Err(failure));
        }
        if let Some(Err(failure)) = &mut call.outcome
            && failure.is_null()
            && self.heap() + FULL_HEAP_MARGIN >= self.limits.memory as u64
        {
            *failure = Failure::new(FailureKind::Memory, "out of memory");
        }
        if let Some(Err(failure)) = &call.outcome
            && failure.kind.is_fatal()
        {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        call
    }
}

fn load<'js>(
    ctx: &Ctx<'js>,
    source: &Source,
    config: &str,
    capabilities: &SharedCapabilities,
    state: &Arc<State>,
    budget: &CpuBudget,
) -> rquickjs::Result<Exports> {
    let host = host::functions(ctx, state, capabilities)?;
    let web = Object::new(ctx.clone())?;
    // Frozen: all requests of an isolate have the same objects.
    let frozen: Function<'js> =
        ctx.eval("json => JSON.parse(json, (key, value) => Object.freeze(value))")?;
    web.set("config", frozen.call::<_, Value<'js>>((config,))?)?;
    let env = if capabilities.env.is_empty() {
        "{}"
    } else {
        &capabilities.env
    };
    web.set("env", frozen.call::<_, Value<'js>>((env,))?)?;
    for (name, text) in WEB {
        let mut options = rquickjs::context::EvalOptions::default();
        options.filename = Some(name.to_owned());
        let part: Function<'js> = ctx.eval_with_options(text, options)?;
        part.call::<_, ()>((host.clone(), web.clone()))?;
    }
    state.log.extend(ctx, &host, &web, state)?;
    forget_traces(ctx)?;
    let import = Module::import(ctx, source.entry())?;
    while !budget.is_over() && ctx.execute_pending_job() {}
    let namespace: Object<'js> = match import.result() {
        Some(result) => result?,
        None => {
            return Err(rquickjs::Exception::throw_message(
                ctx,
                "its module waits at the top level (`await`), which plugins may not do",
            ));
        }
    };
    exports::demand(ctx, &namespace)?;
    let mut hooks = 0;
    let own: Object<'js> = web.get("hooks")?;
    let entry_of: Function<'js> = web.get("entryOf")?;
    let mut begin = Vec::with_capacity(Hook::ALL.len());
    for hook in Hook::ALL {
        let mut exported: Value<'js> = namespace.get(hook.name())?;
        if hook == Hook::Request {
            for alias in exports::ALIASES {
                if exported.is_undefined() {
                    exported = namespace.get(alias)?;
                }
            }
        }
        if exported.is_function() {
            hooks |= hook.bit();
        } else {
            exported = own.get(hook.name())?;
        }
        let is_there = exported.is_function();
        let entry = is_there.then(|| entry_of.call((hook.name(), exported)));
        begin.push(entry.transpose()?);
    }
    let entry = Entry {
        begin,
        settle: web.get("settle")?,
        forget: web.get("forget")?,
    };
    if ctx.store_userdata(entry).is_err() {
        return Err(rquickjs::Exception::throw_message(
            ctx,
            "its entry could not be stored",
        ));
    }
    Ok(Exports {
        hooks,
        matcher: exports::matcher(ctx, &namespace)?,
    })
}

/// Removes engine extensions that shape stack traces: they are not part of the Web API, and the
/// engine never releases the value of `stackTraceLimit`, so it could not be freed.
fn forget_traces(ctx: &Ctx<'_>) -> rquickjs::Result<()> {
    let errors: Object<'_> = ctx.globals().get("Error")?;
    errors.remove("stackTraceLimit")?;
    errors.remove("prepareStackTrace")
}
