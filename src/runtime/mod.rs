//! The running gateway: the live configuration, its connections and its background work.

pub mod admission;
pub mod audit;
mod close_reason;
pub mod connection;
pub mod connections;
pub mod deadline;
pub mod fast_path;
pub mod header_texts;
pub mod http2;
pub mod listener;
pub mod live;
pub mod pace;
pub mod progress;
pub mod refusal;
pub mod reload;
pub mod supervisor;
