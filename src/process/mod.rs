//! The process: starting, signals, stopping.

pub mod boot;
pub mod demo;
mod files;
pub mod last_good;
pub mod log;
mod ready;
mod signals;
mod source;
pub mod state_folder;
