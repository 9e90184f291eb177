//! Data plane: connections of clients, and the way of each request through Pingora's hooks
//! (`hooks`). Each request uses the configuration snapshot of its beginning and calls the filter
//! chain. The behaviour of a feature lives in its filter.

#![expect(clippy::unnecessary_box_returns, reason = "Pingora's errors are boxed")]

mod accel;
mod body;
mod cache;
pub mod connection;
mod context;
mod decision;
mod driver;
pub mod edge;
mod error;
mod exchange;
mod failed_exchange;
mod fetch;
mod files;
mod forward;
pub mod forwarded;
mod grpc;
mod guard;
mod hooks;
mod hop_by_hop;
mod host_header;
mod http2;
mod images;
pub mod live;
mod message;
pub mod page;
mod refuse;
mod reply;
mod request;
mod request_end;
mod respond;
mod retry;
mod session;
mod streams;
mod to_https;
mod trace;
mod upstream;
mod upstream_request;
mod websocket;
mod wire;

pub use self::driver::Driver;
