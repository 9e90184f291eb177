//! The running gateway: the live configuration, its connections and its background work.

pub mod connection;
pub mod live;
pub mod supervisor;
pub mod text;
