//! Support for the end-to-end tests: the gateway as a process, a plain HTTP/1 client, origins that
//! misbehave on purpose, and the real apps.
#![allow(
    dead_code,
    unused_imports,
    reason = "the integration tests and the drills share these files, each uses its part"
)]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::format_push_string,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

pub(crate) mod apps;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod grpc;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod mmdb;
pub(crate) mod namespaces;
pub(crate) mod nginx;
pub(crate) mod origins;
pub(crate) mod pebble;
pub(crate) mod ports;
pub(crate) mod prometheus;
pub(crate) mod races;
pub(crate) mod recorder;
pub(crate) mod redis;
pub(crate) mod relay;
pub(crate) mod releases;
pub(crate) mod scope;
pub(crate) mod seed;
pub(crate) mod server;
pub(crate) mod sockets;
pub(crate) mod verify;
pub(crate) mod wait;
