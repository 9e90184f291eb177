//! Plugins: JavaScript that runs on requests and responses, inside the gateway.
//!
//! A plugin is a folder with an ES module. [`source`] reads it, an [`isolate`] runs it, and
//! [`Plugin`] has as many isolates as there are workers. A hook is one [`call`]: its input is what
//! it may read, its output the changes that it wants, or the reason why it failed. Nothing here
//! knows routes or Pingora; the filter `plugin` and the command line do.
//!
//! The API of plugins is in `web`: JavaScript that defines the objects of the Web, on top of the
//! functions of [`host`].

pub mod body;
mod budget;
pub mod call;
mod conditions;
mod entry;
mod error;
mod exports;
mod expression;
pub mod harness;
pub mod heads;
mod hints;
mod host;
mod host_pattern;
mod isolate;
mod known;
pub mod kv;
pub mod late;
pub mod matcher;
mod plugin;
pub mod powers;
mod reach;
pub mod report;
pub mod schema;
pub mod source;
mod steps;
#[cfg(test)]
mod tests;
mod text;
mod threads;
mod trial;
mod values;
mod words;

pub use self::{
    body::Body,
    budget::{Isolation, Limits},
    call::{Answer, Change, Hook, Input, Output, Response},
    conditions::Asked,
    error::{Failure, Kind},
    known::Known,
    plugin::Plugin,
    trial::{Line, Ran, Trial},
};
