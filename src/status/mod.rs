//! Seen from outside: the state of a running gateway as plain data, the admin listener
//! that serves it, and the client that `edgeway status` reads it with. Read-only.

pub mod actions;
mod bounded;
pub mod client;
pub mod http;
pub mod metrics_page;
pub mod snapshot;
pub mod table;
#[cfg(test)]
mod tests;

pub use self::snapshot::{Snapshot, Source};
