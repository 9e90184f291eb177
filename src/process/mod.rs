//! The process: starting, signals, stopping.

mod actions;
mod admin;
mod bans;
pub mod boot;
mod cache;
mod control;
pub mod demo;
mod files;
pub mod handover;
mod init;
pub mod last_good;
pub mod log;
mod notify;
mod plugins;
mod predecessors;
mod profile;
mod purges;
mod ready;
mod signals;
mod source;
pub mod state_folder;
mod upgrade;
mod watch;
