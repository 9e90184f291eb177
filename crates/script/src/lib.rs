//! Plugins: JavaScript that runs on requests and responses, inside the gateway.
//!
//! A plugin is a folder with an ES module. [`source`] reads it, an `isolate` runs it, and
//! [`Plugin`] has as many isolates as there are workers. A hook is one [`call`]: its input is what
//! it may read, its output the changes that it wants, or the reason why it failed. Nothing here
//! knows routes or Pingora; the filter `plugin` and the command line do.
//!
//! The API of plugins is in `web`: JavaScript that defines the objects of the Web, on top of the
//! functions of `host`.

pub mod body;
mod budget;
pub mod call;
pub mod capabilities;
pub mod common_js;
mod conditions;
mod context_facts;
mod entry;
mod error;
mod exports;
mod expression;
mod fetch_loop;
pub mod harness;
pub mod header_changes;
mod hints;
mod host;
mod host_functions;
mod host_pattern;
mod isolate;
pub mod kv;
mod log_line;
mod manual_call;
pub mod matcher;
mod plugin;
pub mod report;
pub mod schema;
pub mod source;
mod step_limit;
#[cfg(test)]
mod tests;
mod threads;
mod usv_string;
mod values;
pub mod wait_until;

use edgeway_base as base;
use edgeway_config as config;

pub use self::{
    body::Body,
    budget::{HookLimits, Isolation},
    call::{HeaderChange, Hook, HookResult, Input, Output, Response},
    conditions::ClientRequest,
    context_facts::ContextFacts,
    error::{Failure, FailureKind},
    manual_call::{ConsoleLine, ManualPlugin, ManualResult},
    plugin::Plugin,
};
