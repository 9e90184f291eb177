//! One checked configuration: listeners, routes with their filters, upstreams. Immutable,
//! swapped whole. Nothing in here came unchecked from the YAML.

mod acme;
mod address;
mod admin;
mod audit;
pub mod cache;
mod compile;
mod effective;
pub mod explain;
mod explain_cache;
mod fan_out;
mod fleet;
mod flood_guard;
mod geo;
mod guards;
mod limits;
mod listener;
pub mod metrics;
pub mod print;
pub mod profiles;
mod rate_limits;
mod recognise;
mod redis;
mod reserved;
mod route_identity;
pub mod schema;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use http::HeaderName;

use self::metrics::RouteMetrics;
pub use self::{
    address::ListenAddress,
    admin::{Admin, AdminSocket},
    audit::AuditLog,
    cache::{Fetching, RouteCache},
    compile::{compile, compile_noting, compile_with},
    fan_out::FanOut,
    flood_guard::{Challenge, FloodGuard},
    guards::GuardAlone,
    limits::Limits,
    listener::{ExceptPath, Listener, ProxyProtocol, ToHttps},
    profiles::Profiles,
    recognise::Recognised,
};
use crate::{
    base::{
        clock::Clock, metrics::Metrics, net::TrustedProxies, redis::Redis,
        reserved_headers::ReservedHeaders, tasks::Tasks,
    },
    cache::Cache,
    chain::{Chain, Work},
    config::{
        diagnostic::{Diagnostics, Place},
        model::File,
        source::{self, Kept, Sources},
    },
    filters,
    limits::Bans,
    routes::{Action, Guarding, RouteTable, Slashes},
    tls::acme::Acme,
    upstreams::{Keeper, Upstream},
    zones::Zones,
};

/// A checked, compiled configuration.
pub struct Gateway {
    pub listeners: Vec<Arc<Listener>>,
    /// Certificates that are asked for and renewed, if any are.
    pub acme: Option<Arc<Acme>>,
    pub admin: Admin,
    pub drain: Drain,
    /// How long changed files must be at rest before they are read; `None` if nobody watches.
    pub watch: Option<std::time::Duration>,
    pub audit: AuditLog,
    /// What is shared with other gateways is in it.
    pub redis: Option<Arc<Redis>>,
    pub trusted: TrustedProxies,
    /// What no client can send.
    pub reserved: ReservedHeaders,
    /// What becomes of repeated slashes in a path.
    pub slashes: Slashes,
    /// Where answers are kept, if any are.
    pub cache: Option<Arc<Cache>>,
    /// Who else is told of purges, if anybody.
    pub fan_out: Option<FanOut>,
    /// What operators may switch on.
    pub profiles: Profiles,
    /// Who may ask for nothing at all.
    pub bans: Arc<Bans>,
    /// What every client is bounded by, if anything.
    pub flood_guard: Option<FloodGuard>,
    pub table: RouteTable,
    /// In the order of the file; the table's indices point here.
    pub routes: Box<[Route]>,
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// The names of `rate_limits`.
    pub limits: Box<[Arc<str>]>,
    /// What requests pass that no route takes.
    pub fallback: Chain,
    pub fallback_metrics: RouteMetrics,
    /// What filters have running beside requests.
    pub work: Work,
}

/// How connections end when the gateway stops, or a listener is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// `/readyz` says no for this long before anything else happens.
    pub announce: Duration,
    /// What is idle stays open for this long.
    pub idle: Duration,
    /// What is under way is cut after this.
    pub deadline: Duration,
}

/// One compiled route.
pub struct Route {
    pub name: Arc<str>,
    /// Host, path and predicates in one line, for people.
    pub matches: String,
    pub place: Place,
    pub chain: Chain,
    /// Overrides of the request that reach its backend.
    pub pass_headers: Box<[HeaderName]>,
    /// One of its filters looks at headers that the gateway writes.
    pub reads_written: bool,
    /// How it is protected.
    pub guarding: Guarding,
    /// What guards it, for requests of its paths that another route takes.
    pub guards: Box<[GuardAlone]>,
    pub action: Action,
    /// The upstream of the action, if it has one.
    pub upstream: Option<Arc<Upstream>>,
    pub metrics: RouteMetrics,
    /// How its answers are kept, if they are.
    pub cache: Option<RouteCache>,
}

/// What outlives a configuration, and what it is compiled with.
#[derive(Clone, Default)]
pub struct World {
    pub zones: Arc<Zones>,
    pub metrics: Metrics,
    pub clock: Clock,
    /// What requests leave to be done; a process that stops finishes it.
    pub late: Tasks,
    /// Of what operators decided of backends.
    pub keeper: Arc<Keeper>,
    /// The runtime of requests; `None` where they run on that of whoever asks.
    pub workers: Option<tokio::runtime::Handle>,
}

/// A configuration read from disk, with all that was found wrong with its form.
pub struct Loaded {
    pub sources: Sources,
    pub diagnostics: Diagnostics,
    /// `None` if there were errors.
    pub file: Option<File>,
}

/// Reads a configuration and its includes. Compiling it ([`compile`]) finds the rest of
/// its problems.
pub fn load(path: &Path) -> Loaded {
    read(source::load(path))
}

/// As [`load`], with the texts that were kept of the files at `path`.
pub fn load_kept(path: &Path, kept: &Kept) -> Loaded {
    read(source::load_kept(path, kept))
}

/// Reads a configuration from a text that stands for the file `name`.
pub fn load_text(name: &str, text: &str) -> Loaded {
    read(source::load_text(name, text))
}

fn read(
    (sources, tree, mut diagnostics): (Sources, Option<crate::config::tree::Node>, Diagnostics),
) -> Loaded {
    let names: Vec<&str> = filters::all().iter().map(|entry| entry.name).collect();
    let file = tree.and_then(|tree| File::read(&tree, &names, &mut diagnostics));
    Loaded {
        sources,
        diagnostics,
        file,
    }
}

impl Gateway {
    /// The route at an index that the table gave.
    pub fn route(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }
}
