//! Plugins: JavaScript that runs on requests and answers, inside the gateway.
//!
//! A plugin is a folder with an ES module. [`source`] reads it, an [`isolate`] runs it, and
//! [`Plugin`] has as many isolates as there are workers. A hook is one [`call`]: it goes in
//! with what it may read, and comes out with what it wants changed, or with why it failed.
//! Nothing here knows routes or Pingora; the filter `plugin` and the command line do.
//!
//! What a plugin may do is in `web`: JavaScript that gives it the objects of the Web, on
//! top of the functions of [`host`].

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
