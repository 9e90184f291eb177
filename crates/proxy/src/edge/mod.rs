//! Entry of connections: listeners, accept loops, and the bytes of each connection up to a request.

mod body_remainder;
mod chunks;
mod conn;
mod deferral;
mod explain;
mod frames;
mod head;
mod http2;
mod listener;
pub mod listeners;
mod proxy_protocol;
mod serve;
#[doc(hidden)]
pub mod testkit;
mod transport;
mod websocket;
pub mod worker;

pub use self::explain::explain;
