//! External view of a running gateway: its state and actions as plain data, the admin listener that
//! serves both, and the client of the command line.

pub(crate) mod actions;
pub(crate) mod admin_socket;
pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod latencies;
pub(crate) mod metrics_page;
mod plugins;
pub(crate) mod problems;
pub(crate) mod receipt;
pub(crate) mod sessions;
pub(crate) mod snapshot;
pub(crate) mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::snapshot::Snapshot;
