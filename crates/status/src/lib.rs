//! External view of a running gateway: its state and actions as plain data, the admin listener that
//! serves both, and the client of the command line.

pub mod actions;
pub mod admin_socket;
pub mod client;
pub mod events;
pub mod http;
pub mod latencies;
pub mod logged_request;
mod plugins;
pub mod problems;
pub mod receipt;
pub mod sessions;
pub mod snapshot;
pub mod table;
#[cfg(test)]
mod tests;

pub use self::snapshot::Snapshot;
