//! Edgeway: a programmable edge gateway for Node and Next.js apps, built on Pingora.
//!
//! The program is [`main`]. A program of one's own calls [`main_with`] and has the whole gateway,
//! with filters of its own beside the built-in ones: [`filter`] holds what those are made of, and
//! `docs/adding-a-filter.md` shows how.
//!
//! The code is in the crates of `crates/` (`docs/architecture.md`); this one joins them.

mod commands;
#[doc(hidden)]
pub mod testkit;

pub use edgeway_base::VERSION;
pub use edgeway_core::registry::CustomFilter;

pub use self::commands::{main, main_with};

/// The contract of filters: what a filter of one's own implements, and what it gets.
pub mod filter {
    pub use edgeway_base::{
        clock::Clock,
        host::host_of,
        metrics::{Histogram, IntCounter, IntGauge, Metrics},
        query,
        secret::Secret,
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
            AsyncFilter, AuditNote, AuthMetrics, BackgroundWork, Body, BoxFuture, CacheFacts,
            CacheOutcome, Certificate, Claims, Class, Client, ClientCertificate, CompileContext,
            Credential, CredentialPlace, Exchange, Filter, FilterKind, FixedFields, Guard,
            HeaderUse, Identity, KeyBuilder, LateFields, Leniency, LogFields, LoggedRequest,
            OpenRefusals, Outcome, PageOfError, Phase, Phases, Protocol, ReadyLines, Reply,
            ReplyBody, RequestChanges, RequestFacts, RequestId, RequestTrace, RerouteFacts,
            RouteRequest, RouteTarget, Scheme, Shared, Text, TlsParameters, TlsWords, TraceAttempt,
            TraceIds, TraceStep, Traits, UpstreamFacts, Verdict, host::public_host,
        },
        zones::{Zone, Zones},
    };
    pub use edgeway_net::tasks::Tasks;
    pub use pingora::http::RequestHeader;
}

/// Version of this build for people: in a release build with its commit and the date of it.
pub const LONG_VERSION: &str = env!("EDGEWAY_LONG_VERSION");
