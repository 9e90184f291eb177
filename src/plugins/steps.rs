//! When the engine asks next whether a hook is to stop.
//!
//! It counts its steps (calls, and turns of loops) down from 10,000 and asks at zero; nothing
//! outside of it can set that number. Each call counts, so calls of a function that does
//! nothing bring the question nearer.

use std::{
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rquickjs::{Ctx, qjs};

use super::entry::Nothing;

/// Steps between two questions, as the engine has it.
pub(super) const ALL: u32 = 10_000;
/// What the heap may have beyond its limit once a hook is stopped: a stop that there is no
/// memory for could be caught, and ends the process where a promise is told of it.
const SPARE: usize = 1 << 20;
/// And while the engine reads code.
const READING: usize = 8 << 20;

#[derive(Default)]
pub(super) struct Steps {
    engine: OnceLock<Engine>,
    /// The steps are ours, not the hook's.
    is_passing: AtomicBool,
    was_asked: AtomicBool,
    has_spare: AtomicBool,
    /// Bytes that the heap may have.
    memory: AtomicUsize,
}

struct Engine {
    context: NonNull<qjs::JSContext>,
    /// A function that the engine has nothing to do for.
    nothing: qjs::JSValue,
}

#[allow(
    unsafe_code,
    reason = "pointers of the engine are passed with its lock"
)]
// SAFETY: only what runs in the engine uses them, and that has the engine's lock.
unsafe impl Send for Engine {}
#[allow(
    unsafe_code,
    reason = "pointers of the engine are passed with its lock"
)]
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Steps {
    /// For the engine of `ctx`.
    pub(super) fn count(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        // What resolves a promise that is resolved already does nothing, and needs no frame.
        let (_promise, resolve, _reject) = ctx.promise()?;
        resolve.call::<_, ()>(())?;
        let engine = Engine {
            context: ctx.as_raw(),
            nothing: resolve.as_value().as_raw(),
        };
        if ctx.store_userdata(Nothing(resolve)).is_err() || self.engine.set(engine).is_err() {
            return Err(rquickjs::Exception::throw_message(
                ctx,
                "its steps could not be counted",
            ));
        }
        Ok(())
    }

    /// What the heap of the engine may have from now on.
    pub(super) fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// The engine begins to read code, or has read it.
    pub(super) fn read(&self, is_reading: bool) {
        let Some(engine) = self.engine.get() else {
            return;
        };
        let most = self.memory.load(Ordering::Relaxed);
        let more = if is_reading {
            READING
        } else if self.has_spare.load(Ordering::Relaxed) {
            SPARE
        } else {
            0
        };
        engine.allow(most.saturating_add(more));
    }

    /// Whether the engine asks because of steps that are ours.
    pub(super) fn are_ours(&self) -> bool {
        let is_passing = self.is_passing.load(Ordering::Relaxed);
        if is_passing {
            self.was_asked.store(true, Ordering::Relaxed);
        }
        is_passing
    }

    /// The engine asks after `left` steps more at most, and some 5 ns for each that is passed.
    /// Only where the engine's lock is held.
    pub(super) fn leave(&self, left: u32) {
        let Some(engine) = self.engine.get() else {
            return;
        };
        self.is_passing.store(true, Ordering::Relaxed);
        self.was_asked.store(false, Ordering::Relaxed);
        // As many are ahead if the engine is just asking; else it may ask on the way, and
        // as many are ahead then.
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

    /// A hook is over, and must stop. What catches errors natively takes the engine's stop as
    /// well, as a promise does with what its function throws; so the next step is stopped too,
    /// and each after it.
    pub(super) fn stop(&self) {
        if let Some(engine) = self.engine.get()
            && !self.has_spare.swap(true, Ordering::Relaxed)
        {
            engine.allow(self.memory.load(Ordering::Relaxed).saturating_add(SPARE));
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
        // SAFETY: the context lives for as long as the engine that runs, which keeps the
        // function too; it gives back `undefined`, which is nobody's to free.
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
