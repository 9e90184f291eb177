//! Foundations of all other modules: units, addresses, HTTP grammar, time, metrics, secrets. Knows
//! nothing of gateways, routes or filters.

// Here, since all other crates need this one: one message instead of many about missing functions.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!(
    "Edgeway runs on Linux and macOS only: on another system, build and run it in a container (docs/containers.md)"
);

pub mod accept;
pub mod breaker;
pub mod clock;
pub mod credential;
pub mod descriptors;
pub mod encoding;
mod enum_table;
pub mod error;
pub mod evidence;
pub mod expression;
pub mod gateway_headers;
pub mod geo;
pub mod hop_by_hop;
pub mod host;
pub mod http;
pub mod http_date;
mod inner_stream;
pub mod known_secrets;
pub mod lanes;
pub mod loopback;
pub mod metrics;
pub mod named_file;
pub mod net;
pub mod node_app;
mod opaque_debug;
pub mod origin;
pub mod out;
pub mod private_file;
pub mod process_group;
pub mod query;
pub mod reach;
pub mod recent_values;
pub mod reserved_headers;
pub mod secret;
pub mod shared_copy;
pub mod shell;
pub mod signature;
pub mod spelling;
pub mod statuses;
pub mod system;
pub mod target;
mod text_form;
pub mod trace_context;
pub mod units;
pub mod user_metrics;

pub use system::listening;

/// Version of this build: the package's version, or the value of `EDGEWAY_VERSION` at build time.
pub const VERSION: &str = match option_env!("EDGEWAY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
