//! Access to an engine while it runs: a stop that code cannot catch, and the heap limit.
//!
//! The engine calls an interrupt handler after every 10,000 steps (calls, and iterations of loops),
//! and its stop cannot be caught by `catch`. Two things that holds do not suffice for:
//!
//! - Native code catches the stop: `for (;;) new Promise(() => { for (;;); })` makes a rejected
//!   promise of it and goes on. Each stop falls into the inner loop, so the outer one never ends.
//!   The remedy is to interrupt the next step too, and each after it. No function of the engine
//!   brings an interrupt nearer, but each call counts as a step: calls that do nothing are as good.
//! - The engine parses code as if memory never ran out, and makes a stop without memory one that
//!   can be caught. So the heap limit has to be raised while code is parsed, and for a stop. The
//!   safe function for that waits for the lock that whatever runs holds.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

use rquickjs::{Ctx, qjs};

use super::entry::NoOp;

/// Steps between two interrupts, as the engine defines them.
const STEPS: u32 = 10_000;
/// Bytes that the heap may exceed its limit by once a hook is stopped.
const SPARE_HEAP: usize = 1 << 20;
/// The same while the engine parses code.
const PARSER_HEAP: usize = 8 << 20;

#[derive(Default)]
pub(super) struct StepLimit {
    context: AtomicPtr<qjs::JSContext>,
    /// True while the gateway runs the steps, and not the hook.
    is_skipping: AtomicBool,
    was_interrupted: AtomicBool,
    is_stopped: AtomicBool,
    /// Heap limit, in bytes.
    memory: AtomicUsize,
}

impl StepLimit {
    /// Prepares stops of the engine of `ctx`.
    pub(super) fn prepare(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        // Resolving a promise that is resolved already does nothing, and needs no frame.
        let (_promise, resolve, _reject) = ctx.promise()?;
        resolve.call::<_, ()>(())?;
        if ctx.store_userdata(NoOp(resolve)).is_err() {
            return Err(rquickjs::Exception::throw_message(
                ctx,
                "its steps could not be counted",
            ));
        }
        self.context.store(ctx.as_raw().as_ptr(), Ordering::Relaxed);
        Ok(())
    }

    /// Sets the heap limit of the engine from now on.
    pub(super) fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Adjusts the heap limit as the engine starts or stops parsing code.
    pub(super) fn set_parsing(&self, ctx: &Ctx<'_>, is_parsing: bool) {
        let spare = if self.is_stopped.load(Ordering::Relaxed) {
            SPARE_HEAP
        } else {
            0
        };
        self.allow(ctx, if is_parsing { PARSER_HEAP } else { spare });
    }

    /// Returns true if the gateway ran the steps that caused the interrupt.
    pub(super) fn is_skipping(&self) -> bool {
        let is_skipping = self.is_skipping.load(Ordering::Relaxed);
        if is_skipping {
            self.was_interrupted.store(true, Ordering::Relaxed);
        }
        is_skipping
    }

    /// Has the engine interrupt its next step too, some 0.1 ms from now. Only the interrupt handler
    /// may call this.
    #[allow(unsafe_code, reason = "the engine calls its handler without a context")]
    pub(super) fn interrupt_next(&self) {
        let context = self.context.load(Ordering::Relaxed);
        let Some(context) = NonNull::new(context) else {
            return;
        };
        // SAFETY: the handler is called by the engine of this context, which runs with its lock
        // held; neither outlives this call.
        let ctx = unsafe { Ctx::from_raw(context) };
        if !self.is_stopped.swap(true, Ordering::Relaxed) {
            self.allow(&ctx, SPARE_HEAP);
        }
        let Some(no_op) = ctx.userdata::<NoOp<'_>>() else {
            return;
        };
        self.is_skipping.store(true, Ordering::Relaxed);
        self.was_interrupted.store(false, Ordering::Relaxed);
        // An interrupt by a step starts the count, so all steps but the last are skipped. One by a
        // regular expression does not: a second comes on the way, and as many are skipped from
        // there.
        let mut left = STEPS - 1;
        while left > 0 {
            // Its error is the one of a full stack, and the step still counts.
            let _counted = no_op.0.call::<_, ()>(());
            left -= 1;
            if self.was_interrupted.swap(false, Ordering::Relaxed) {
                left = STEPS - 1;
            }
        }
        self.is_skipping.store(false, Ordering::Relaxed);
    }

    /// Lets the heap exceed its limit by this many bytes.
    #[allow(unsafe_code, reason = "the safe function waits for the engine's lock")]
    fn allow(&self, ctx: &Ctx<'_>, more: usize) {
        let max = self.memory.load(Ordering::Relaxed).saturating_add(more);
        // SAFETY: the runtime is the one of a context that lives, and this sets a number.
        unsafe {
            let runtime = qjs::JS_GetRuntime(ctx.as_raw().as_ptr());
            qjs::JS_SetMemoryLimit(runtime, max as qjs::size_t);
        }
    }
}
