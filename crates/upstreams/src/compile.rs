//! Compilation of a YAML section to a live upstream: every problem is reported, each at its place.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    Upstream,
    balance::{Balance, HashKey, Members, Sticky},
    canary::CanaryMetrics,
    health::Probing,
    members::{BackendSource, Sources},
    metrics::{OptionalMetrics, UpstreamMetrics},
    operator_decisions::DecisionStore,
    pool::Pool,
    releases::ReleaseSettings,
    restart_at::RestartAt,
    scale::Scale,
    target::{parse_name, parse_target},
    upstream_zone::{Shared, UpstreamZone},
    wire::Wire,
};
use crate::{
    chain::CompileContext,
    config::{
        diagnostic::{Diagnostic, Place, closest},
        model::{App, BackendConfig, BackendTarget, UpstreamConfig},
        tree::{Key, Spanned},
    },
    zones::Zones,
};

/// Idle timeout below that of Node.js, which closes idle connections after 5 s.
const NODE_IDLE: Duration = Duration::from_secs(4);
const OTHER_IDLE: Duration = Duration::from_mins(1);

/// Returns the name of an upstream's zone.
pub fn zone(upstream: &str) -> String {
    format!("upstream {upstream}")
}

impl Upstream {
    /// Checks and compiles an upstream. All problems are reported to `cx`; `None` means that one of
    /// them is an error.
    pub fn compile(
        key: &Key,
        config: &Spanned<UpstreamConfig>,
        zones: &Zones,
        keeper: &Arc<DecisionStore>,
        cx: &mut CompileContext<'_>,
    ) -> Option<Arc<Self>> {
        let (place, config) = (config.place, &config.value);
        let errors_before = cx.diagnostics.errors();
        let sources = sources(key, config, place, cx);
        let wire = Wire::compile(config, &sources, cx);
        let scale = Scale::compile(config, &sources, cx);
        let restart_at = RestartAt::compile(config, cx);
        let releases = ReleaseSettings::compile(config, cx);
        let balance = balance(config, cx);
        let sticky = sticky(config, cx);
        let probing = Probing::compile(config, cx);
        check_numbers(config, place, cx);
        let optional_metrics = OptionalMetrics::compile(&config.metrics, &key.name, zones, cx);
        if cx.diagnostics.errors() > errors_before {
            return None;
        }
        let (balance, wire) = (balance?, wire?);
        warn_of_blind_balance(config, &balance, &sources, cx);

        let name: Arc<str> = Arc::from(key.name.as_str());
        let live = || UpstreamZone::new(cx.clock.clone(), keeper.decisions(&name));
        let shared = Arc::new(Shared {
            live: zones.get_or_create(&zone(&name), live),
            keeper: keeper.clone(),
            clock: cx.clock.clone(),
            eject: config.eject,
            slow_start: config.slow_start.map_or(Duration::ZERO, |span| span.0),
            max_in_flight: config.max_in_flight.per_backend,
            max_streams: config.max_streams,
            metrics: UpstreamMetrics::new(cx.metrics, &name),
            canary: CanaryMetrics::new(cx.metrics, &name, config.releases.is_some()),
            roster: ArcSwap::default(),
            registry: cx.metrics.clone(),
            name: name.clone(),
        });
        let sources = Sources::new(sources);
        let known = shared.live.resolved();
        let awaiting_dns = sources
            .names()
            .iter()
            .any(|name| !known.contains_key(*name));
        let upstream = Arc::new(Self {
            awaiting_dns: AtomicBool::new(awaiting_dns),
            app: config.app,
            is_required: config.required,
            optional_metrics,
            timeouts: config.timeouts,
            wire,
            retry: config.retry.clone(),
            queue_limit: config.max_in_flight.queue,
            queue_wait: config.max_in_flight.wait.0,
            pool: Pool {
                fixed: config.pool.idle.map(|idle| idle.0),
                default: match config.app {
                    App::Node | App::Nextjs => NODE_IDLE,
                    App::None => OTHER_IDLE,
                },
            },
            members: ArcSwap::from_pointee(Members::new(Vec::new(), &balance, None)),
            rebuilding: Mutex::default(),
            probing: probing?,
            sources,
            scale,
            releases,
            restart_at,
            balance,
            sticky,
            shared,
            name,
        });
        upstream.rebuild();
        Some(upstream)
    }
}

fn sources(
    key: &Key,
    config: &UpstreamConfig,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Vec<BackendSource> {
    if config.backends.is_empty() && config.releases.is_none() {
        cx.at(place, "edgeway::upstream::no_backends").error(
            format!("upstream `{}` has no backends", key.name),
            "write at least one, such as `backends: [127.0.0.1:3000]`",
        );
    }
    let mut seen: HashMap<String, Place> = HashMap::new();
    let mut sources = Vec::new();
    for backend in &config.backends {
        let Some(source) = source(backend, cx) else {
            continue;
        };
        let name = source.to_string();
        if let Some(first) = seen.insert(name.clone(), backend.place) {
            cx.diagnostics.push(
                Diagnostic::error(
                    "edgeway::upstream::duplicate_backend",
                    backend.place,
                    format!(
                        "backend `{name}` is listed twice in upstream `{}`",
                        key.name
                    ),
                )
                .help("remove one; for a larger share write `{ address: …, weight: 2 }`")
                .related(first, "first listed here"),
            );
            continue;
        }
        sources.push(source);
    }
    let is_backup = |backend: &Spanned<BackendConfig>| backend.value.backup;
    if let Some(first) = config.backends.first()
        && config.backends.iter().all(is_backup)
    {
        cx.at(first.place, "edgeway::upstream::only_backups").error(
            format!("every backend of upstream `{}` is a backup", key.name),
            "remove `backup: true` from backends that usually get requests",
        );
    }
    sources
}

fn source(backend: &Spanned<BackendConfig>, cx: &mut CompileContext<'_>) -> Option<BackendSource> {
    let (place, config) = (backend.place, &backend.value);
    if config.weight == 0 {
        cx.at(place, "edgeway::upstream::weight_zero").error(
            "a backend's weight must be at least 1",
            "remove the backend to send it nothing, or write `weight: 1`",
        );
    }
    let (weight, is_backup) = (config.weight, config.backup);
    let source = match &config.target {
        BackendTarget::Address(text) => parse_target(text).map(|target| BackendSource::Fixed {
            target,
            weight,
            is_backup,
        }),
        BackendTarget::Dns(text) => parse_name(text).map(|(name, port)| BackendSource::Dns {
            name,
            port,
            weight,
            is_backup,
        }),
    };
    cx.at(place, "edgeway::upstream::bad_address")
        .reported(source)
}

fn balance(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Balance> {
    const CODE: &str = "edgeway::upstream::unknown_balance";
    let Some(written) = &config.balance else {
        return Some(Balance::LeastConn);
    };
    let text = written.value.as_str();
    if let Some(key) = text.strip_prefix("hash:") {
        if let Some(key) = HashKey::parse(key) {
            return Some(Balance::Hash(key));
        }
        let help = match closest(key, HashKey::NAMES) {
            Some(near) => format!("did you mean `hash:{near}`?"),
            None => format!("one of `{}`", HashKey::NAMES.join("`, `")),
        };
        let message = format!("unknown hash key `{key}`");
        return cx.at(written.place, CODE).refuse(message, help);
    }
    match text {
        "round_robin" => return Some(Balance::RoundRobin),
        "least_conn" => return Some(Balance::LeastConn),
        "p2c" => return Some(Balance::P2c),
        "node" => return Some(Balance::Node),
        _ => {}
    }
    let help = match (text, closest(text, Balance::NAMES)) {
        ("hash" | "ip_hash", _) => "did you mean `hash:client.ip`?".to_owned(),
        ("sticky", _) => "write `sticky: { cookie: NAME }` beside `balance`".to_owned(),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (_, None) => format!("one of `{}`", Balance::NAMES.join("`, `")),
    };
    let message = format!("unknown balancing method `{text}`");
    cx.at(written.place, CODE).refuse(message, help)
}

fn sticky(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Sticky> {
    let written = config.sticky.as_ref()?;
    let sticky = Sticky::new(&written.cookie.value, written.max_age.map(|age| age.0));
    if sticky.is_none() {
        cx.at(written.cookie.place, "edgeway::upstream::bad_cookie_name")
            .error(
                format!("invalid cookie name `{}`", written.cookie.value),
                "write letters, digits, `-` and `_`, such as `backend`",
            );
    }
    sticky
}

fn check_numbers(config: &UpstreamConfig, place: Place, cx: &mut CompileContext<'_>) {
    let t = &config.timeouts;
    let sticky = config.sticky.as_ref().and_then(|own| own.max_age);
    let eject = (config.eject.errors > 0).then_some(config.eject.span);
    let wait = "write how long to wait at most, such as `30s`";
    for (name, span, help) in [
        (
            "sticky.max_age",
            sticky,
            "write a time such as `1d`, or leave it out: until the browser is closed",
        ),
        ("timeouts.connect", Some(t.connect), wait),
        ("timeouts.first_byte", Some(t.first_byte), wait),
        ("timeouts.idle", Some(t.idle), wait),
        ("timeouts.stream_idle", Some(t.stream_idle), wait),
        ("timeouts.total", t.total, wait),
        (
            "eject.for",
            eject,
            "write how long a failing backend stays ejected, or `errors: 0` to never eject",
        ),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            report_zero(place, name, help, cx);
        }
    }
}

pub(super) fn report_zero(place: Place, name: &str, help: &str, cx: &mut CompileContext<'_>) {
    let message = format!("`{name}` must be more than zero");
    cx.at(place, "edgeway::upstream::zero").error(message, help);
}

/// Warns of a balancing method without effect: behind one port there may be many workers, each with
/// its own load, and these balancers see only the sum.
fn warn_of_blind_balance(
    config: &UpstreamConfig,
    balance: &Balance,
    sources: &[BackendSource],
    cx: &mut CompileContext<'_>,
) {
    let Some(written) = &config.balance else {
        return;
    };
    let is_one_address = matches!(sources, [BackendSource::Fixed { .. }]);
    if is_one_address && matches!(balance, Balance::LeastConn | Balance::P2c | Balance::Node) {
        cx.at(written.place, "edgeway::upstream::blind_balance")
            .warn(
                format!("`{balance}` needs more than one address to choose from"),
                "if several workers share this port (PM2 cluster mode), give each its own and list \
                 them all; otherwise leave `balance` out",
            );
    }
}
