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
mod transport;
mod websocket;
pub mod worker;

pub use self::explain::explain;

/// Functions that fuzz targets call.
#[doc(hidden)]
pub mod checks {
    pub use super::{
        chunks::check as chunks, head::check as head, proxy_protocol::check as proxy_protocol,
    };
}
