//! Traces of requests: which ones are sampled, what their spans say, and how they reach a collector
//! over OTLP. Knows nothing of routes.
//!
//! [`Tracing::begin`] gives each request its ids. When the request is over, [`Tracing::is_wanted`]
//! decides if its spans are made: those of a sampled request, and of one that failed or was slow.
//! The [`Exporter`] queues them for its task, which sends them in batches.

mod collector;
mod exporter;
mod sampling;
mod spans;
#[cfg(test)]
mod tests;
mod wire;

use edgeway_base as base;
use edgeway_core::chain;

pub use self::{
    exporter::{ExportSettings, Exporter, Exporters, Transport},
    sampling::{ParentTrust, SamplingRules, Tracing},
    spans::FinishedRequest,
};
