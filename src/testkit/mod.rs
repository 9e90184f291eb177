//! Parts of the gateway for the end-to-end tests: they compile configurations and read lists that a
//! page or a table must agree with. No part of the public API.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod metrics_page;

pub use edgeway_base::trace_context::TraceContext;
pub use edgeway_core_filters::access_log::field_names as access_log_fields;
pub use edgeway_filters::FILTERS;
pub use edgeway_gateway::metrics::FilePart;
pub use edgeway_process::handover::Upgrades;
pub use edgeway_proxy::{connection::listener::ListenerMetrics, live::Live};
pub use edgeway_status::http::{RejectionMetrics, RejectionReason, paths};

pub use self::metrics_page::markdown as metrics_page;

/// Loading and compiling a configuration, with the built-in filters.
pub mod gateway {
    use std::path::Path;

    use edgeway_config::{diagnostic::Diagnostics, model::File};
    use edgeway_gateway::{Gateway, Loaded};

    pub use edgeway_gateway::{World, print::yaml as printed};

    /// Reads the configuration at `path`.
    pub fn load(path: &Path) -> Loaded {
        edgeway_filters::register();
        edgeway_gateway::load(path)
    }

    /// Reads a configuration from a text in place of the file `name`.
    pub fn load_text(name: &str, text: &str) -> Loaded {
        edgeway_filters::register();
        edgeway_gateway::load_text(name, text)
    }

    /// Compiles a configuration whose paths start at `folder`.
    pub fn compile(file: &File, folder: &Path, world: &World) -> (Option<Gateway>, Diagnostics) {
        edgeway_filters::register();
        edgeway_gateway::compile(file, folder, world)
    }

    /// Returns the schema of a configuration.
    pub fn schema() -> serde_json::Value {
        edgeway_filters::register();
        edgeway_gateway::schema::document()
    }
}
