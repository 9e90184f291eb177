//! The process: starting, signals, stopping.

mod actions;
mod admin;
mod bans;
pub(crate) mod boot;
mod cache;
mod compile_thread;
mod control;
mod files;
pub(crate) mod handover;
mod init;
pub(crate) mod last_good;
pub(crate) mod log;
mod notify;
mod plugins;
mod predecessors;
mod problem_log;
mod profile;
mod purges;
mod ready;
mod signals;
mod source;
pub(crate) mod state_folder;
mod totals;
mod trial;
mod upgrade;
mod watch;
