//! Functions that the gateway runs in an isolate.
#![allow(elided_lifetimes_in_paths, reason = "what is derived here elides them")]

use rquickjs::{Function, JsLifetime};

#[derive(JsLifetime)]
pub(super) struct Entry<'js> {
    /// Functions that begin each hook, in the order of [`super::Hook::ALL`].
    pub(super) begin: Vec<Option<Function<'js>>>,
    /// Resolves or rejects a promise.
    pub(super) settle: Function<'js>,
    /// Drops promises that nothing will settle.
    pub(super) forget: Function<'js>,
}

/// Function that does nothing, see [`super::step_limit`].
#[derive(JsLifetime)]
pub(super) struct NoOp<'js>(pub(super) Function<'js>);
