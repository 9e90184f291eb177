//! Parts of the gateway for the end-to-end tests: they compile configurations and read lists that a
//! page or a table must agree with. No part of the public API.

pub use crate::{
    base::trace_context::TraceContext,
    connection::listener::ListenerMetrics,
    filters::{FILTERS, access_log::field_names as access_log_fields},
    gateway::metrics::FilePart,
    live::Live,
    process::handover::Upgrades,
    status::{
        http::{RejectionReason, paths},
        metrics_page::markdown as metrics_page,
    },
};

/// Loading and compiling a configuration.
pub mod gateway {
    pub use crate::gateway::{
        World, compile, load, load_text, print::yaml as printed, schema::document as schema,
    };
}
