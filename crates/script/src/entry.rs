//! Functions that the gateway runs in an isolate.
//!
//! Their lifetimes are stated by hand: deriving them takes a macro that compiles the whole engine a
//! second time.

#![allow(unsafe_code, reason = "both types live as long as their functions")]

use rquickjs::{Function, JsLifetime};

pub(super) struct Entry<'js> {
    /// Functions that begin each hook, in the order of [`super::Hook::ALL`].
    pub(super) begin: Vec<Option<Function<'js>>>,
    /// Resolves or rejects a promise.
    pub(super) settle: Function<'js>,
    /// Drops promises that nothing will settle.
    pub(super) forget: Function<'js>,
}

// SAFETY: the lifetime is that of the functions, and `Changed` differs in nothing else.
unsafe impl<'js> JsLifetime<'js> for Entry<'js> {
    type Changed<'to> = Entry<'to>;
}

/// Function that does nothing, see [`super::step_limit`].
pub(super) struct NoOp<'js>(pub(super) Function<'js>);

// SAFETY: as above.
unsafe impl<'js> JsLifetime<'js> for NoOp<'js> {
    type Changed<'to> = NoOp<'to>;
}
