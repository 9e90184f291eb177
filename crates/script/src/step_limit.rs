//! Control over when the engine next calls its interrupt handler.
//!
//! The engine counts its steps (calls, and iterations of loops) down from 10,000 and calls the
//! handler at zero. Nothing outside can set that number. Each call counts, so calls of a function
//! that does nothing bring the interrupt nearer.

use std::{
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rquickjs::{Ctx, qjs};

use super::entry::NoOp;

/// Steps between two interrupts, as the engine defines them.
pub(super) const ALL: u32 = 10_000;
/// Bytes that the heap may exceed its limit by once a hook is stopped: a stop without memory could
/// be caught, and ends the process if it rejects a promise.
const SPARE_HEAP: usize = 1 << 20;
/// The same while the engine parses code.
const READING: usize = 8 << 20;

#[derive(Default)]
pub(super) struct StepLimit {
    engine: OnceLock<Engine>,
    /// True while the gateway runs the steps, and not the hook.
    is_passing: AtomicBool,
    was_asked: AtomicBool,
    has_spare: AtomicBool,
    /// Heap limit, in bytes.
    memory: AtomicUsize,
}

struct Engine {
    context: NonNull<qjs::JSContext>,
    /// Function for which the engine has nothing to do.
    nothing: qjs::JSValue,
}

#[allow(
    unsafe_code,
    reason = "pointers of the engine are passed with its lock"
)]
// SAFETY: only code that runs in the engine uses them, and it holds the engine's lock.
unsafe impl Send for Engine {}
#[allow(
    unsafe_code,
    reason = "pointers of the engine are passed with its lock"
)]
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl StepLimit {
    /// Starts counting steps of the engine of `ctx`.
    pub(super) fn count(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        // Resolving a promise that is resolved already does nothing, and needs no frame.
        let (_promise, resolve, _reject) = ctx.promise()?;
        resolve.call::<_, ()>(())?;
        let engine = Engine {
            context: ctx.as_raw(),
            nothing: resolve.as_value().as_raw(),
        };
        if ctx.store_userdata(NoOp(resolve)).is_err() || self.engine.set(engine).is_err() {
            return Err(rquickjs::Exception::throw_message(
                ctx,
                "its steps could not be counted",
            ));
        }
        Ok(())
    }

    /// Sets the heap limit of the engine from now on.
    pub(super) fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Adjusts the heap limit as the engine starts or stops parsing code.
    pub(super) fn read(&self, is_reading: bool) {
        let Some(engine) = self.engine.get() else {
            return;
        };
        let most = self.memory.load(Ordering::Relaxed);
        let more = if is_reading {
            READING
        } else if self.has_spare.load(Ordering::Relaxed) {
            SPARE_HEAP
        } else {
            0
        };
        engine.allow(most.saturating_add(more));
    }

    /// Returns true if the gateway ran the steps that caused the interrupt.
    pub(super) fn are_ours(&self) -> bool {
        let is_passing = self.is_passing.load(Ordering::Relaxed);
        if is_passing {
            self.was_asked.store(true, Ordering::Relaxed);
        }
        is_passing
    }

    /// Brings the next interrupt to at most `left` steps from now, at some 5 ns for each skipped
    /// step. The caller must hold the engine's lock.
    pub(super) fn leave(&self, left: u32) {
        let Some(engine) = self.engine.get() else {
            return;
        };
        self.is_passing.store(true, Ordering::Relaxed);
        self.was_asked.store(false, Ordering::Relaxed);
        // Inside the interrupt handler the count has started again, so this many steps are skipped.
        // Elsewhere an interrupt may come on the way, and as many are skipped from there.
        let mut ahead = ALL.saturating_sub(left);
        while ahead > 0 {
            engine.step();
            ahead -= 1;
            if self.was_asked.swap(false, Ordering::Relaxed) {
                ahead = ALL.saturating_sub(left);
            }
        }
        self.is_passing.store(false, Ordering::Relaxed);
    }

    /// Stops a hook that is over its limit. Native code that catches errors also catches the
    /// engine's stop, as a promise does with errors of its function; so the next step is stopped
    /// too, and each after it.
    pub(super) fn stop(&self) {
        if let Some(engine) = self.engine.get()
            && !self.has_spare.swap(true, Ordering::Relaxed)
        {
            engine.allow(
                self.memory
                    .load(Ordering::Relaxed)
                    .saturating_add(SPARE_HEAP),
            );
        }
        self.leave(1);
    }
}

#[allow(
    unsafe_code,
    reason = "the engine's count and its limit have no other way in while it runs"
)]
impl Engine {
    fn step(&self) {
        // SAFETY: the context lives for as long as the engine that runs, which keeps the function
        // too; it returns `undefined`, which needs no freeing.
        unsafe {
            qjs::JS_Call(
                self.context.as_ptr(),
                self.nothing,
                qjs::JS_UNDEFINED,
                0,
                std::ptr::null_mut(),
            );
        }
    }

    fn allow(&self, bytes: usize) {
        // SAFETY: as above, and it sets a number.
        unsafe {
            let runtime = qjs::JS_GetRuntime(self.context.as_ptr());
            qjs::JS_SetMemoryLimit(runtime, bytes as qjs::size_t);
        }
    }
}
