//! Compiled configuration: listeners, routes with their filters, upstreams. It is immutable and
//! replaced as a whole. Every value in it was checked when the YAML was compiled.

mod acme;
mod address;
mod admin;
mod app_files;
mod app_images;
mod audit;
pub mod cache;
mod compile;
mod description;
mod effective;
mod error_pages;
pub mod explain;
mod explain_app;
mod explain_cache;
mod explain_rules;
mod fan_out;
mod fleet;
mod flood_guard;
mod geo;
mod guards;
mod identity_filters;
mod likely_mistakes;
mod limits;
mod listener;
mod maps;
mod media_types;
pub mod metrics;
mod open_routes;
pub mod print;
pub mod profiles;
mod query_forms;
mod rate_limits;
mod recognise;
mod redis;
mod releases;
mod reserved;
mod route_identity;
mod rules;
pub mod schema;
mod shared_filters;
#[doc(hidden)]
mod testkit;
mod tracing;
mod upstream_requests;
mod upstreams;
mod warm_up;
mod written;

use edgeway_config::model::DriverConfig;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Once},
    time::Duration,
};

use edgeway_base::{
    clock::Clock, metrics::Metrics, net::TrustedProxies, reserved_headers::ReservedHeaders,
};
use edgeway_cache::Cache;
use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    model::File,
    source::{self, Overlay, SourceTexts, Sources},
};
use edgeway_core::{
    chain::{BackgroundWork, Chain},
    limits::Bans,
    registry::{self, Entry},
    zones::Zones,
};
use edgeway_core_filters::{access_log::Redactor, error_pages::ErrorPages, plugins};
use edgeway_net::{redis::Redis, tasks::Tasks};
use edgeway_routes::{Action, RouteProtection, RouteTable, Rules, Slashes};
use edgeway_tls::acme::Acme;
use edgeway_tracing::Exporters;
use edgeway_upstreams::{DecisionStore, Upstream};
use http::HeaderName;

pub use edgeway_core_filters::plugins::manual::ManualSettings;

pub use self::compile::compile;
use self::metrics::RouteMetrics;
pub use self::{
    address::ListenAddress,
    admin::{Admin, AdminSocket},
    app_files::AppFiles,
    app_images::{
        AppImages, FetchPlace, FetchedSource, ImageFailure, ImageSource, MadeImage, Refusal,
        RemoteAccess, SourceFailure, WantedImage,
    },
    audit::AuditLog,
    cache::{RouteCache, UpstreamFetch},
    compile::compile_with,
    fan_out::FanOut,
    flood_guard::{Challenge, FloodGuard},
    guards::DetachedGuard,
    listener::{Listener, ToHttps},
    profiles::Profiles,
    recognise::RecognisedRequest,
    tracing::GatewayTracing,
    warm_up::{WarmUpRequest, address_on_machine},
};

/// Checked, compiled configuration.
pub struct Gateway {
    pub listeners: Vec<Arc<Listener>>,
    /// Certificates that are issued and renewed through ACME, if there are any.
    pub acme: Option<Arc<Acme>>,
    pub admin: Admin,
    pub drain: Drain,
    /// Time that changed files must stay unchanged before a reload; `None` if files are not
    /// watched.
    pub watch: Option<std::time::Duration>,
    pub audit: AuditLog,
    /// Redis client for state that is shared with other gateways.
    pub redis: Option<Arc<Redis>>,
    /// Traces of requests, if they are exported.
    pub tracing: Option<GatewayTracing>,
    pub trusted: TrustedProxies,
    /// Headers that clients may not send.
    pub reserved: ReservedHeaders,
    /// Handling of repeated slashes in a path.
    pub slashes: Slashes,
    /// Caller of the hooks of each request.
    pub driver: DriverConfig,
    /// Cache for responses, if any route uses one.
    pub cache: Option<Arc<Cache>>,
    /// App instances that receive purges, if any.
    pub fan_out: Option<FanOut>,
    /// Profiles that operators can switch on.
    pub profiles: Profiles,
    /// Banned clients, whose requests are all refused.
    pub bans: Arc<Bans>,
    /// Limits that apply to every client, if any.
    pub flood_guard: Option<FloodGuard>,
    /// Files of apps that are served without the app, by the app's upstream.
    pub app_files: Box<[(Arc<Upstream>, AppFiles)]>,
    /// Apps whose images are made without the app, by the app's upstream.
    pub app_images: Box<[(Arc<Upstream>, AppImages)]>,
    /// Builds of apps without releases.
    pub app_builds: Box<[(Arc<Upstream>, Arc<edgeway_cache::nextjs::BuildWatch>)]>,
    /// Releases of apps that have some.
    pub app_releases: Box<[(Arc<Upstream>, Arc<edgeway_cache::nextjs::Releases>)]>,
    /// True if each app gets the host that its client names.
    sends_hosts: bool,
    /// Upstreams that may send files of internal routes with `X-Accel-Redirect`.
    pub accel_upstreams: Box<[Arc<str>]>,
    pub table: RouteTable,
    /// Routes in the order of the file; the table's indices refer to it.
    pub routes: Box<[Route]>,
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// Routes that only their names lead to.
    pub named: HashMap<Arc<str>, usize>,
    /// Names of `rate_limits`.
    pub limits: Box<[Arc<str>]>,
    /// Properties of requests that match no route.
    pub fallback: Fallback,
    /// Background work of filters.
    pub work: BackgroundWork,
}

/// Timing of connection shutdown when the gateway stops or a listener is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Time that `/readyz` reports not ready before anything else happens.
    pub announce: Duration,
    /// Time that idle connections stay open.
    pub idle: Duration,
    /// Time after which requests in flight are aborted.
    pub deadline: Duration,
}

/// Filters and counts of requests that match no route.
pub struct Fallback {
    pub chain: Chain,
    /// Pages of errors, if there are any.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// Redactor of queries, also on routes without an access log.
    pub redactor: Arc<Redactor>,
    pub metrics: RouteMetrics,
}

/// Compiled route.
pub struct Route {
    pub name: Arc<str>,
    /// Host, path and predicates in one line, for display.
    pub matches: String,
    /// Its path as written if it has one, or else its name.
    pub template: Box<str>,
    pub place: Place,
    pub chain: Chain,
    /// Override headers, such as `X-HTTP-Method-Override`, that reach its backend.
    pub pass_headers: Box<[HeaderName]>,
    /// True if one of its filters reads headers that the gateway writes.
    pub reads_written: bool,
    /// Protection of the route by guards.
    pub guarding: RouteProtection,
    /// Guards of this route, for requests to its paths that another route takes.
    pub guards: Box<[DetachedGuard]>,
    pub action: Action,
    /// Upstream of the action, if it has one.
    pub upstream: Option<Arc<Upstream>>,
    pub metrics: RouteMetrics,
    /// Cache of the route, if it has one.
    pub cache: Option<RouteCache>,
    /// Pages in place of errors, if it has any.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// Redactor of its access log; `None` without one.
    pub redactor: Option<Arc<Redactor>>,
    /// Rules before the filters of the route.
    pub rules: Option<Rules>,
    /// Rules of the site that the route belongs to.
    pub site: Option<Arc<Rules>>,
    /// True if clients cannot ask for its paths.
    pub is_internal: bool,
    /// Warning that clients ask for WebSockets on a route without `websocket: true`, written once.
    pub websocket_hint: Once,
}

impl Route {
    /// Returns true if more than its filters is between a request and its action.
    pub fn leads_on(&self) -> bool {
        self.rules.is_some() || self.site.is_some() || self.is_internal
    }
}

/// State that outlives a configuration, and the environment for compiling one.
#[derive(Clone, Default)]
pub struct World {
    pub zones: Arc<Zones>,
    pub metrics: Metrics,
    pub clock: Clock,
    /// Tasks that requests leave behind. A process that stops finishes them.
    pub late: Tasks,
    /// Exporters of traces. A process that stops lets them send what they have.
    pub exporters: Exporters,
    /// Store for decisions of operators about backends.
    pub keeper: Arc<DecisionStore>,
    /// Changes of the program itself to each configuration that it reads.
    pub overlay: Option<Arc<Overlay>>,
    /// Runtime that serves requests; `None` if requests run on the caller's runtime.
    pub workers: Option<tokio::runtime::Handle>,
}

/// Configuration read from disk, with all problems found in its form.
pub struct Loaded {
    pub sources: Sources,
    pub diagnostics: Diagnostics,
    /// Parsed file; `None` if there were errors.
    pub file: Option<File>,
    /// Parsed file in spite of errors in its texts, such as an unset variable: for finding the rest
    /// of its problems, never for serving.
    flawed: Option<File>,
}

/// Reads a configuration and its includes. Compiling it (`compile`) finds the rest of its
/// problems.
pub fn load(path: &Path) -> Loaded {
    read(source::load(path))
}

/// Reads a configuration as [`load`] does, with changes laid over it, if there are any.
pub fn load_with(path: &Path, overlay: Option<&Overlay>) -> Loaded {
    match overlay {
        Some(overlay) => read(source::load_with(path, overlay)),
        None => load(path),
    }
}

/// Reads a configuration as [`load`] does, with the kept texts of the files at `path`.
pub fn load_stored(path: &Path, stored: &SourceTexts) -> Loaded {
    read(source::load_stored(path, stored))
}

/// Reads a configuration from a text in place of the file `name`.
pub fn load_text(name: &str, text: &str) -> Loaded {
    read(source::load_text(name, text))
}

/// Returns the filters of the process; unit tests have the built-in ones.
fn filter_kinds() -> &'static [Entry] {
    #[cfg(test)]
    edgeway_filters::register();
    registry::all()
}

fn read(
    (sources, tree, mut diagnostics): (Sources, Option<edgeway_config::tree::Node>, Diagnostics),
) -> Loaded {
    let names: Vec<&str> = filter_kinds().iter().map(|entry| entry.name).collect();
    let file = tree.and_then(|tree| File::read(&tree, &names, &mut diagnostics));
    diagnostics.is_partial = file.is_none();
    let (flawed, file) = if diagnostics.has_errors() {
        (file, None)
    } else {
        (None, file)
    };
    Loaded {
        sources,
        diagnostics,
        file,
        flawed,
    }
}

impl Loaded {
    /// Finds the problems that only compiling finds, of a file that cannot serve.
    pub fn find_rest(&mut self, folder: &Path) {
        if let Some(flawed) = self.flawed.take() {
            let (_, problems) = compile(&flawed, folder, &World::default());
            self.diagnostics.extend(problems);
        }
    }
}

/// Returns the settings of the plugin at `path` on a route of `file`, whose paths start at
/// `folder`.
pub fn plugin_settings(
    file: &File,
    route: &str,
    folder: &Path,
    path: &Path,
) -> Option<Result<ManualSettings, String>> {
    let node = file.routes.iter().find(|node| node.name == route)?;
    let mut filters = effective::filters(file, node.place, &node.filters);
    let (_, written) = filters.find(|(entry, _)| entry.name == "plugins")?;
    plugins::manual::settings(&written, folder, path)
}

impl Gateway {
    /// Returns the route at an index from the table.
    pub fn route(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }
}
