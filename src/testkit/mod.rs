//! Parts of the gateway for the end-to-end tests: they compile configurations and read lists that a
//! page or a table must agree with. No part of the public API.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod metrics_page;

pub use edgeway_base::trace_context::TraceContext;
pub use edgeway_filters::{FILTERS, access_log::field_names as access_log_fields};
pub use edgeway_gateway::metrics::FilePart;
pub use edgeway_process::handover::Upgrades;
pub use edgeway_proxy::{connection::listener::ListenerMetrics, live::Live};
pub use edgeway_status::http::{RejectionMetrics, RejectionReason, paths};

pub use self::metrics_page::markdown as metrics_page;

/// Loading and compiling a configuration.
pub mod gateway {
    pub use edgeway_gateway::{
        World, compile, load, load_text, print::yaml as printed, schema::document as schema,
    };
}
