//! The running gateway: the live configuration, its connections and its background work.

pub mod admission;
pub mod audit;
pub mod connection;
pub mod connections;
mod cut;
pub mod deadline;
pub mod http2;
pub mod listener;
pub mod live;
pub mod pace;
pub mod progress;
pub mod refusal;
pub mod reload;
pub mod shortcut;
pub mod supervisor;
pub mod text;
