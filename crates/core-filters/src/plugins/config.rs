//! Configuration of `plugins` as written, and its compilation.

use std::{
    path::{Component, Path},
    sync::{Arc, Weak},
    time::Duration,
};

use edgeway_base::{
    breaker::Breaker,
    known_secrets::KnownSecrets,
    units::{ByteSize, Span},
    user_metrics::UserMetrics,
};
use edgeway_config::tree::{OneOrMany, Spanned};
use edgeway_core::{chain::CompileContext, zones::Zone};
use edgeway_net::{redis::Redis, tasks::Tasks};
use edgeway_script::{
    HookLimits, Isolation, Plugin,
    capabilities::{Capabilities, FETCH_DEADLINE, FetchOrigins, MAX_FETCHED_LEN},
    kv::{Kv, Memory},
    matcher::{HostPattern, Matcher, PathPattern},
    schema::{self, ConfigSchema},
    wait_until::{WaitUntil, WorkPermits},
};
use http::{HeaderName, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{
    PluginSelection, Plugins, RoutePlugin,
    body::BodyConfig,
    breaker::BreakerConfig,
    failure::{OnErrorConfig, RoleConfig},
    kv_owners,
    loaded::{LoadedPlugins, PluginIdentity},
    metrics::{PluginMetrics, VersionMetric},
    recent::RecentFailures,
    settings::{PluginSettings, some_bytes, some_name, some_time},
};

/// Plugins of a route, in their order.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct PluginsConfig(pub(super) Vec<PluginConfig>);

/// A plugin on a route.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginConfig {
    /// File of the plugin's main module, relative to the folder of this configuration.
    pub(super) file: Spanned<String>,
    /// Name in logs and metrics; the name of the plugin's folder if absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_name"
    )]
    name: Option<String>,
    /// Value of `ctx.config`.
    #[serde(default, skip_serializing_if = "PluginSettings::is_empty")]
    pub(super) config: PluginSettings,
    /// Requests of the route that the plugin handles, decided without JavaScript; its own
    /// `config.matcher` applies as well.
    #[serde(
        rename = "match",
        default,
        skip_serializing_if = "MatchConfig::is_empty"
    )]
    matches: MatchConfig,
    /// Time at which `onRequest` runs: before limits and authentication, or after both.
    #[serde(default)]
    run: RunConfig,
    /// Role of the plugin: `auth` if it decides who may pass. While it fails, no request passes.
    pub(super) role: Option<Spanned<RoleConfig>>,
    /// Headers that the plugin writes for the backend, such as `X-User-Id`. No client can send
    /// them, on any route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identity_headers: Vec<Spanned<String>>,
    /// Handling of a request whose plugin fails: continue without the plugin (`continue`), or 503
    /// (`refuse`). A plugin with `onRequest` must set this or a `role`.
    pub(super) on_error: Option<Spanned<OnErrorConfig>>,
    #[serde(default)]
    pub(super) limits: LimitsConfig,
    /// Threads that run the plugin's hooks: the worker that has the request, or threads of the
    /// plugin's own, for heavy plugins.
    #[serde(default)]
    isolation: IsolationConfig,
    /// Circuit breaker that skips a plugin with `on_error: continue`; any other plugin is always
    /// called.
    pub(super) breaker: Option<Spanned<BreakerConfig>>,
    /// Environment variables that the plugin gets in `ctx.env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) env: Vec<Spanned<String>>,
    /// Request bodies: JSON and forms are read before `onRequest`; no body is read if absent.
    pub(super) body: Option<BodyConfig>,
    /// Storage of `ctx.kv`; there is no `ctx.kv` if absent.
    kv: Option<Spanned<KvConfig>>,
    /// Origins that `fetch` may contact; none if absent.
    pub(super) fetch: Option<Spanned<FetchConfig>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum KvConfig {
    /// In this process, until it ends.
    Memory,
    /// In the Redis of the section `redis`, shared by all gateways.
    Redis,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FetchConfig {
    /// Origins such as `https://flags.example.com`.
    pub(super) origins: Vec<String>,
    /// Timeout of one response, including its body.
    #[serde(default = "deadline", deserialize_with = "some_time")]
    pub(super) deadline: Span,
    /// Maximum size of a response body.
    #[serde(default = "max_body", deserialize_with = "some_bytes")]
    pub(super) max_body: ByteSize,
}

fn deadline() -> Span {
    Span(FETCH_DEADLINE)
}

fn max_body() -> ByteSize {
    ByteSize(MAX_FETCHED_LEN as u64)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RunConfig {
    First,
    #[default]
    AfterAuth,
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum IsolationConfig => isolation: Isolation {
        #[default]
        Worker = Isolation::Worker,
        Thread = Isolation::Thread,
    }
}

/// Limits of one hook.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsConfig {
    /// CPU time.
    #[default(Span(HookLimits::default().cpu))]
    #[serde(deserialize_with = "some_time")]
    pub(super) cpu: Span,
    /// Elapsed time, including the time that the hook waits.
    #[default(Span(HookLimits::default().wall))]
    #[serde(deserialize_with = "some_time")]
    pub(super) wall: Span,
    /// Elapsed time of the work that the hook leaves behind (`ctx.waitUntil`).
    #[default(Span(HookLimits::default().wait_until))]
    #[serde(deserialize_with = "some_time")]
    wait_until: Span,
    /// Heap of each instance.
    #[default(ByteSize(HookLimits::default().memory as u64))]
    memory: ByteSize,
}

impl PluginsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Plugins {
        let headers = self.identity_headers(cx).into();
        let plugins = self.0.into_iter();
        Plugins {
            uses: plugins.filter_map(|plugin| plugin.compile(cx)).collect(),
            whose: PluginSelection::All,
            own: headers,
        }
    }

    /// Returns the headers that the plugins write for backends, and that no client may send.
    fn identity_headers(&self, cx: &mut CompileContext<'_>) -> Vec<HeaderName> {
        const CODE: &str = "edgeway::plugins::identity_headers";
        let mut names = Vec::new();
        for written in self.0.iter().flat_map(|plugin| &plugin.identity_headers) {
            match cx.own_header(written, CODE) {
                Some(header::AUTHORIZATION | header::COOKIE) => {
                    let what = format!("`{}` carries the client's own credentials", written.value);
                    let help = "write a header that clients do not use, such as `X-User-Id`";
                    cx.at(written.place, CODE).error(what, help);
                }
                Some(name) if !names.contains(&name) => names.push(name),
                _ => {}
            }
        }
        names
    }
}

impl PluginConfig {
    fn compile(mut self, cx: &mut CompileContext<'_>) -> Option<RoutePlugin> {
        let name = self.called(cx);
        let capabilities = cx.checked(|cx| self.capabilities(&name, cx));
        let path = cx.folder.join(&self.file.value);
        let shown = self
            .file
            .value
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let limits = HookLimits {
            cpu: self.limits.cpu.0,
            wall: self.limits.wall.0,
            wait_until: self.limits.wait_until.0,
            memory: usize::try_from(self.limits.memory.0).unwrap_or(usize::MAX),
            isolation: self.isolation.isolation(),
            ..HookLimits::default()
        };
        let matcher = self.matches.compile(cx);
        let body = self.body.as_ref().and_then(|body| body.compile(cx));
        let redis = self.redis(cx).map(|redis| Arc::as_ptr(&redis).addr());
        let schema = cx.checked(|cx| self.check_by_schema(&name, &path, cx));
        let config = std::mem::take(&mut self.config.json);
        let config = serde_json::Value::Object(config).to_string();
        let loaded = cx.zones.get_or_create("plugins", LoadedPlugins::default);
        let what = PluginIdentity {
            name: name.clone(),
            shown: shown.to_owned(),
            path,
            config,
            limits,
            env: self.env.iter().map(|name| name.value.clone()).collect(),
            secret_names: cx.secret_names.to_vec(),
            kv: self.kv.as_ref().map(|kv| kv.value),
            redis,
            fetch: self.fetch.as_ref().map(|fetch| fetch.value.clone()),
        };
        schema?;
        let capabilities = capabilities?;
        match loaded.get(what, capabilities, cx.referenced) {
            Ok(plugin) => {
                let on_error = self.on_error(&plugin, cx)?;
                plugin.loaded(cx.clock.wall());
                self::version(&plugin, cx);
                let metrics = Arc::new(PluginMetrics::new(cx.metrics, cx.route, plugin.name()));
                let watched = (Arc::downgrade(&plugin), Arc::clone(&metrics));
                cx.work.add(
                    format!("heap of plugin {name} on {}", cx.route),
                    move || {
                        let (plugin, metrics) = watched.clone();
                        if let Some(plugin) = plugin.upgrade() {
                            metrics.taken(&plugin);
                        }
                        look_at_heap(plugin, metrics)
                    },
                );
                Some(RoutePlugin {
                    recent: RecentFailures::new(cx.clock).into(),
                    file: self.file.value.as_str().into(),
                    has_odd_paths: plugin.has_odd_paths()
                        || matcher.as_ref().is_some_and(Matcher::has_odd_paths),
                    plugin,
                    matcher: matcher?,
                    after_auth: self.run == RunConfig::AfterAuth,
                    breaker: match on_error {
                        OnErrorConfig::Continue => {
                            let written = self.breaker.map(|written| written.value);
                            Some(Breaker::new(written.unwrap_or_default().rule()))
                        }
                        OnErrorConfig::Refuse => None,
                    },
                    upstreams: cx.upstreams.into(),
                    metrics,
                    clock: cx.clock.clone(),
                    // `role: auth` refuses as well.
                    is_guard: matches!(on_error, OnErrorConfig::Refuse),
                    slashes: cx.shared.get().map(|slashes| *slashes).unwrap_or_default(),
                    geo: cx.shared.get(),
                    body,
                    log_tasks: tasks(cx),
                    logs: WorkPermits::default(),
                })
            }
            Err(failure) => cx.at(self.file.place, "edgeway::plugins::load").refuse(
                format!("plugin `{name}` cannot be loaded: {failure}"),
                "the file must be an ES module that exports hooks such as `onRequest`; see \
                 `docs/plugins.md`",
            ),
        }
    }
}

impl PluginConfig {
    /// Returns the name of the plugin in logs and metrics: that of its folder, or of its file in a
    /// folder of plugins.
    fn called(&self, cx: &CompileContext<'_>) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let path = cx.folder.join(&self.file.value);
        // Absolute and without dots: the path as written may name no folder.
        let path = std::path::absolute(&path).unwrap_or(path);
        let mut folders = Vec::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            match part {
                Component::ParentDir => drop(folders.pop()),
                Component::Normal(name) => folders.push(name.to_string_lossy()),
                _ => {}
            }
        }
        let root = || path.file_stem().map(std::ffi::OsStr::to_string_lossy);
        let own = folders.pop().filter(|folder| folder != "plugins");
        let name = own.or_else(root).unwrap_or_default();
        name.into_owned()
    }

    /// Checks `config` by the plugin's own schema, if it has one; reports problems of either.
    fn check_by_schema(&self, name: &str, path: &Path, cx: &mut CompileContext<'_>) {
        let folder = path.parent().unwrap_or(Path::new(""));
        // Registered before it is read, so that a change in between is noticed. The file may also
        // be added later.
        cx.referenced.missed(folder.join(schema::FILE));
        let schema = match ConfigSchema::beside(folder) {
            Ok(Some(schema)) => schema,
            Ok(None) => return,
            Err(failure) => {
                return cx.at(self.file.place, "edgeway::plugins::schema").error(
                    format!("plugin `{name}` cannot be loaded: {failure}"),
                    "it must be a JSON Schema of draft 2020-12 for `config`",
                );
            }
        };
        let config = serde_json::Value::Object(self.config.json.clone());
        for secret in schema.secrets(&config) {
            if let Some(place) = self.config.place(&secret) {
                cx.diagnostics.hide(place);
            }
        }
        for wrong in schema.check(&config) {
            let place = self.config.place(&wrong.at);
            cx.at(place.unwrap_or(self.file.place), "edgeway::plugins::config")
                .error(
                    format!("{wrong}: invalid for plugin `{name}`"),
                    format!("the plugin's `{}` says what is valid", schema::FILE),
                );
        }
    }

    /// Returns the Redis that stores the plugin's kv.
    fn redis(&self, cx: &CompileContext<'_>) -> Option<Arc<Redis>> {
        let is_there = self
            .kv
            .as_ref()
            .is_some_and(|kv| kv.value == KvConfig::Redis);
        is_there.then(|| cx.shared.get::<Redis>()).flatten()
    }

    /// Returns the capabilities of the plugin; reports those that cannot be provided.
    fn capabilities(&self, plugin: &str, cx: &mut CompileContext<'_>) -> Capabilities {
        let mut env = serde_json::Map::new();
        for name in &self.env {
            if let Ok(value) = std::env::var(&name.value) {
                env.insert(name.value.clone(), value.into());
            } else {
                let what = format!("the environment has no variable `{}`", name.value);
                let help = "set it where the gateway is started, or remove it from `env`";
                cx.at(name.place, "edgeway::plugins::env").error(what, help);
            }
        }
        if let Some(kv) = &self.kv {
            kv_owners::claim(plugin, &self.file.value, kv.place, cx);
        }
        let kv = match &self.kv {
            None => None,
            Some(kv) if kv.value == KvConfig::Memory => {
                let name = format!("kv of plugin {plugin}");
                let memory = cx
                    .zones
                    .get_or_create(&name, || KvZone(Arc::new(Memory::new(cx.clock))));
                Some(Kv::memory(Arc::clone(&memory.0)))
            }
            Some(kv) => {
                let redis = self.redis(cx);
                if redis.is_none() {
                    let what = "`kv: redis` needs a `redis` section";
                    let help =
                        "add `redis: { url: redis://127.0.0.1:6379 }`, or write `kv: memory`";
                    cx.at(kv.place, "edgeway::plugins::kv").error(what, help);
                }
                redis.map(|redis| Kv::redis(redis, plugin))
            }
        };
        let fetch = self.fetch.as_ref().and_then(|fetch| {
            let help = "list origins: `fetch: { origins: [https://flags.example.com] }`";
            let reach = reach(&fetch.value).map_err(|why| (why, help.to_owned()));
            cx.at(fetch.place, "edgeway::plugins::fetch")
                .reported(reach)
        });
        Capabilities {
            env: serde_json::Value::Object(env).to_string(),
            secret_names: cx.secret_names.to_vec(),
            secrets: KnownSecrets::default(),
            kv,
            fetch,
            metrics: metrics(plugin, cx),
            wait_until: wait_until(plugin, cx),
        }
    }
}

/// Returns the plugin's own metrics, which continue over reloads.
fn metrics(plugin: &str, cx: &CompileContext<'_>) -> Arc<UserMetrics> {
    let name = format!("metrics of plugin {plugin}");
    let counted = cx.zones.get_or_create(&name, || {
        let counted = Arc::new(UserMetrics::new(plugin, cx.metrics));
        cx.metrics.serve_too(&counted);
        CountedMemory(counted)
    });
    Arc::clone(&counted.0)
}

/// Returns the bounded background work of a plugin (`ctx.waitUntil`), shared by all routes with
/// this plugin's name.
fn wait_until(plugin: &str, cx: &CompileContext<'_>) -> WaitUntil {
    let name = format!("work of plugin {plugin}");
    let shared = cx.zones.get_or_create(&name, || {
        RemainingBudget(WaitUntil::new(plugin, tasks(cx), cx.metrics))
    });
    shared.0.clone()
}

/// Returns the tasks that a stopping process waits for.
fn tasks(cx: &CompileContext<'_>) -> Tasks {
    let tasks = cx.shared.get::<Tasks>();
    tasks.map_or_else(Tasks::default, |tasks| Tasks::clone(&tasks))
}

/// Creates the series of a version, which ends with the last configuration that has it.
fn version(plugin: &Plugin, cx: &CompileContext<'_>) {
    let (name, version) = (&**plugin.name(), &*plugin.version);
    let zone = format!("version {version} of plugin {name} on {}", cx.route);
    let known = || VersionMetric::new(cx.metrics, [cx.route, name, version]);
    cx.zones.get_or_create(&zone, known);
}

struct RemainingBudget(WaitUntil);

impl Zone for RemainingBudget {}

struct CountedMemory(Arc<UserMetrics>);

impl Zone for CountedMemory {}

/// Memory of a plugin's kv, kept over reloads.
struct KvZone(Arc<Memory>);

impl Zone for KvZone {}

pub(super) fn reach(config: &FetchConfig) -> Result<FetchOrigins, String> {
    let longest = usize::try_from(config.max_body.0).unwrap_or(usize::MAX);
    FetchOrigins::new(&config.origins, config.deadline.0, longest)
}

/// Interval between two measurements of the heap, each of which walks the whole heap.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

async fn look_at_heap(plugin: Weak<Plugin>, metrics: Arc<PluginMetrics>) {
    while let Some(plugin) = plugin.upgrade() {
        let metrics = Arc::clone(&metrics);
        // Runs on a thread that may block: a hook may be running in an instance.
        let looked = tokio::task::spawn_blocking(move || metrics.heap(&plugin));
        if looked.await.is_err() {
            return;
        }
        tokio::time::sleep(MEASURE_INTERVAL).await;
    }
}

#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct MatchConfig {
    /// Hosts such as `shop.example.com` or `*.example.com`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    host: OneOrMany<Spanned<String>>,
    /// Paths such as `/exact`, `/prefix/*` or `/users/{id}`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    path: OneOrMany<Spanned<String>>,
    /// `GET`, or a list of methods.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    method: OneOrMany<Spanned<String>>,
}

impl MatchConfig {
    fn is_empty(&self) -> bool {
        self.host.is_empty() && self.path.is_empty() && self.method.is_empty()
    }

    fn compile(&self, cx: &mut CompileContext<'_>) -> Option<Matcher> {
        let hosts = each(&self.host, cx, HostPattern::parse);
        let paths = each(&self.path, cx, PathPattern::of_route);
        let methods = cx.checked(|cx| edgeway_routes::methods(&self.method.0, cx.diagnostics));
        Some(Matcher {
            hosts: hosts?,
            paths: paths?,
            methods: methods?,
        })
    }
}

/// Parses each value; reports a problem at the place of the value.
fn each<T>(
    written: &OneOrMany<Spanned<String>>,
    cx: &mut CompileContext<'_>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let help = "`match` takes `host`, `path` and `method`, as in routes";
    cx.checked(|cx| {
        let all = written.0.iter().filter_map(|one| {
            let read = read(&one.value).map_err(|why| (why, help.to_owned()));
            cx.at(one.place, "edgeway::plugins::match").reported(read)
        });
        all.collect()
    })
}
