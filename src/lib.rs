//! Edgeway: a programmable edge gateway for Node and Next.js apps, built on Pingora.
//!
//! The program is [`main`]. A program of one's own calls [`main_with`] and has the whole gateway,
//! with filters of its own beside the built-in ones: [`filter`] holds what those are made of, and
//! `docs/adding-a-filter.md` shows how.
//!
//! # Layout
//!
//! In reading order; a module imports only from above itself (`docs/architecture.md`).

use edgeway_base as base;
use edgeway_cache as cache;
use edgeway_config as config;
use edgeway_core::{chain, limits, zones};
use edgeway_files as files;
use edgeway_images as images;
use edgeway_script as plugins;
use edgeway_tls as tls;
use edgeway_tracing as tracing;
use edgeway_upstreams as upstreams;

mod cli;
mod connection;
mod edge;
mod filters;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod live;
mod process;
mod proxy;
mod routes;
mod status;
#[doc(hidden)]
pub mod testing;
mod values;

pub use self::{
    cli::{main, main_with},
    filters::custom::CustomFilter,
};

/// The contract of filters: what a filter of one's own implements, and what it gets.
pub mod filter {
    pub use edgeway_base::{
        clock::Clock,
        host::host_of,
        metrics::{Histogram, IntCounter, IntGauge, Metrics},
        query,
        secret::Secret,
        tasks::Tasks,
        units::{ByteSize, Span},
    };
    pub use edgeway_config::{
        diagnostic::Place,
        tree::{
            Spanned,
            short::{self, Short},
        },
    };
    pub use edgeway_core::{
        chain::{
            AuditNote, AuthMetrics, BackgroundWork, Body, BoxFuture, CacheFacts, CacheOutcome,
            Certificate, Claims, Class, Client, ClientCertificate, CompileContext, Exchange,
            Filter, FilterKind, FixedFields, Guard, Identity, KeyBuilder, LateFields, LogFields,
            LoggedRequest, Outcome, PageOfError, Phase, Phases, Protocol, ReadyLines, Refusal,
            Reply, ReplyBody, RequestChanges, RequestFacts, RequestId, RequestTrace, RerouteFacts,
            RouteRequest, RouteTarget, Scheme, Shared, Text, TlsParameters, TlsWords, TraceAttempt,
            TraceIds, TraceStep, UpstreamFacts, Verdict, host::public_host,
        },
        zones::{Zone, Zones},
    };
    pub use pingora::http::RequestHeader;
}

/// Version of this build: the package's version, or the value of `EDGEWAY_VERSION` at build time.
pub const VERSION: &str = match option_env!("EDGEWAY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Version of this build for people: in a release build with its commit and the date of it.
pub const LONG_VERSION: &str = env!("EDGEWAY_LONG_VERSION");
