//! Edgeway: a programmable edge gateway for Node and Next.js apps, built on Pingora.
//!
//! # Layout
//!
//! In reading order; a module imports only from above itself (`docs/architecture.md`).

pub use edgeway_base as base;
pub use edgeway_cache as cache;
pub use edgeway_config as config;
pub use edgeway_core::{chain, limits, zones};
pub use edgeway_script as plugins;
pub use edgeway_tls as tls;
pub use edgeway_upstreams as upstreams;

pub mod cli;
pub mod connection;
pub mod edge;
pub mod filters;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod live;
pub mod process;
pub mod proxy;
pub mod routes;
pub mod status;

/// Version of this build: the package's version, or the value of `EDGEWAY_VERSION` at build time.
pub const VERSION: &str = match option_env!("EDGEWAY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
