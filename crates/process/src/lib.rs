//! The process: starting, signals, stopping.

mod actions;
mod admin;
mod app_memory;
mod bans;
pub mod boot;
mod cache;
mod compile_thread;
mod control;
mod files;
pub mod handover;
mod init;
pub mod last_good;
pub mod log;
mod notify;
mod plugins;
mod predecessors;
mod problem_log;
mod profile;
mod purges;
mod ready;
mod signals;
mod source;
pub mod state_folder;
mod totals;
mod trial;
mod upgrade;
mod watch;
