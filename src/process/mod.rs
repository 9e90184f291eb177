//! The process: starting, signals, stopping.

pub mod boot;
pub mod demo;
mod files;
mod ready;
mod signals;
mod source;
