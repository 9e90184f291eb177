//! Compilation of a YAML section to a live upstream: every problem is reported, each at its place.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    Timeouts, Upstream,
    balance::{Balance, HashKey, Members, Sticky},
    canary::CanaryMetrics,
    eject::EjectPolicy,
    health::Probing,
    members::{Source, Sources},
    metrics::{OptionalMetrics, UpstreamMetrics},
    operator_decisions::DecisionStore,
    pool::Pool,
    releases::ReleaseSettings,
    restart_at::RestartAt,
    retry::RetryPolicy,
    scale::Scale,
    target::{InvalidTarget, Target, parse_name, parse_target},
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

const BAD_ADDRESS: &str = "edgeway::upstream::bad_address";

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
        let errors_before = errors(cx);
        let timeouts = Timeouts::from(&config.timeouts);
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
        if errors(cx) > errors_before {
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
            eject: EjectPolicy::from(&config.eject),
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
        let awaiting_dns = sources.unresolved(&shared.live.resolved());
        let upstream = Arc::new(Self {
            awaiting_dns: AtomicBool::new(awaiting_dns),
            app: config.app,
            is_required: config.required,
            optional_metrics,
            timeouts,
            wire,
            retry: RetryPolicy::from(&config.retry),
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

fn errors(cx: &CompileContext<'_>) -> usize {
    use crate::config::diagnostic::Severity;
    let list = cx.diagnostics.list().iter();
    list.filter(|d| d.severity == Severity::Error).count()
}

fn sources(
    key: &Key,
    config: &UpstreamConfig,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Vec<Source> {
    if config.backends.is_empty() && config.releases.is_none() {
        cx.report_at(
            place,
            "edgeway::upstream::no_backends",
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
        cx.report_at(
            first.place,
            "edgeway::upstream::only_backups",
            format!("every backend of upstream `{}` is a backup", key.name),
            "remove `backup: true` from backends that usually get requests",
        );
    }
    sources
}

fn source(backend: &Spanned<BackendConfig>, cx: &mut CompileContext<'_>) -> Option<Source> {
    let (place, config) = (backend.place, &backend.value);
    if config.weight == 0 {
        cx.report_at(
            place,
            "edgeway::upstream::weight_zero",
            "a backend's weight must be at least 1",
            "remove the backend to send it nothing, or write `weight: 1`",
        );
    }
    let (weight, is_backup) = (config.weight, config.backup);
    let refuse = |cx: &mut CompileContext<'_>, InvalidTarget { message, help }: InvalidTarget| {
        cx.report_at(place, BAD_ADDRESS, message, help);
    };
    match &config.target {
        BackendTarget::Address(text) => match parse_target(text) {
            Ok(target @ Target::Unix(_)) if target.socket_address().is_none() => {
                let message = format!("unix socket path `{text}` is too long");
                let help = "write a path of at most 107 bytes".to_owned();
                refuse(cx, InvalidTarget { message, help });
                None
            }
            Ok(target) => Some(Source::Fixed {
                target,
                weight,
                is_backup,
            }),
            Err(why) => {
                refuse(cx, why);
                None
            }
        },
        BackendTarget::Dns(text) => match parse_name(text) {
            Ok((name, port)) => Some(Source::Dns {
                name,
                port,
                weight,
                is_backup,
            }),
            Err(why) => {
                refuse(cx, why);
                None
            }
        },
    }
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
        cx.report_at(written.place, CODE, message, help);
        return None;
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
    cx.report_at(written.place, CODE, message, help);
    None
}

fn sticky(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Sticky> {
    let written = config.sticky.as_ref()?;
    let sticky = Sticky::new(&written.cookie.value, written.max_age.map(|age| age.0));
    if sticky.is_none() {
        cx.report_at(
            written.cookie.place,
            "edgeway::upstream::bad_cookie_name",
            format!("invalid cookie name `{}`", written.cookie.value),
            "write letters, digits, `-` and `_`, such as `backend`",
        );
    }
    sticky
}

fn check_numbers(config: &UpstreamConfig, place: Place, cx: &mut CompileContext<'_>) {
    let t = &config.timeouts;
    let zero = [
        ("timeouts.connect", t.connect.0.is_zero()),
        ("timeouts.first_byte", t.first_byte.0.is_zero()),
        ("timeouts.idle", t.idle.0.is_zero()),
        ("timeouts.stream_idle", t.stream_idle.0.is_zero()),
        (
            "timeouts.total",
            t.total.is_some_and(|total| total.0.is_zero()),
        ),
        (
            "eject.for",
            config.eject.errors > 0 && config.eject.span.0.is_zero(),
        ),
    ];
    for (name, _) in zero.iter().filter(|(_, is_zero)| *is_zero) {
        let help = match *name {
            "eject.for" => {
                "write how long a failing backend stays ejected, or `errors: 0` to never eject"
            }
            _ => "write how long to wait at most, such as `30s`",
        };
        report_zero(place, name, help, cx);
    }
}

pub(super) fn report_zero(place: Place, name: &str, help: &str, cx: &mut CompileContext<'_>) {
    let message = format!("`{name}` must be more than zero");
    cx.report_at(place, "edgeway::upstream::zero", message, help);
}

/// Warns of a balancing method without effect: behind one port there may be many workers, each with
/// its own load, and these balancers see only the sum.
fn warn_of_blind_balance(
    config: &UpstreamConfig,
    balance: &Balance,
    sources: &[Source],
    cx: &mut CompileContext<'_>,
) {
    let Some(written) = &config.balance else {
        return;
    };
    let is_one_address = matches!(sources, [Source::Fixed { .. }]);
    if is_one_address && matches!(balance, Balance::LeastConn | Balance::P2c | Balance::Node) {
        let name = balance.name();
        cx.diagnostics.push(
            Diagnostic::warning(
                "edgeway::upstream::blind_balance",
                written.place,
                format!("`{name}` needs more than one address to choose from"),
            )
            .help(
                "if several workers share this port (PM2 cluster mode), give each its own and \
                 list them all; otherwise leave `balance` out",
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;

    /// Returns the diagnostics of `yaml`, each as `message; help`, errors and warnings.
    #[track_caller]
    fn messages(yaml: &str) -> Vec<String> {
        let (upstream, diagnostics) = Bench::new().try_compile(yaml);
        assert_eq!(
            upstream.is_none(),
            diagnostics.has_errors(),
            "{diagnostics:#?}"
        );
        let list = diagnostics.list().iter();
        list.map(|d| format!("{}; {}", d.message, d.help.as_deref().unwrap_or("")))
            .collect()
    }

    #[test]
    fn invalid_addresses_are_reported_with_a_remedy() {
        for (address, message) in [
            (
                "127.0.0.1",
                "invalid backend address `127.0.0.1`; the port is missing: write `127.0.0.1:3000`",
            ),
            (
                "::1",
                "invalid backend address `::1`; the port is missing: write `[::1]:3000`",
            ),
            (
                "localhost:3000",
                "invalid backend address `localhost:3000`; write `127.0.0.1:3000`, or `[::1]:3000`: `localhost` may be either",
            ),
            (
                "http://127.0.0.1:3000/x",
                "invalid backend address `http://127.0.0.1:3000/x`; write `127.0.0.1:3000`, without scheme and path",
            ),
            (
                "api:3000",
                "invalid backend address `api:3000`; for a name write `{ dns: \"api:3000\" }`",
            ),
            (
                "127.0.0.1:0",
                "`127.0.0.1:0` has port 0, which nothing listens on; write the port that the app listens on",
            ),
            (
                "0.0.0.0:80",
                "`0.0.0.0:80` is an address to listen on, not one to connect to; write `127.0.0.1:80` for this machine",
            ),
            (
                "unix:app.sock",
                "invalid unix socket path `unix:app.sock`; write an absolute path, such as `unix:/run/app.sock`",
            ),
            (
                "?",
                "invalid backend address `?`; write `IP:PORT`, `unix:PATH` or `{ dns: \"NAME:PORT\" }`",
            ),
        ] {
            assert_eq!(
                messages(&format!("{{ backends: ['{address}'] }}")),
                [message]
            );
        }
        let long = format!("{{ backends: ['unix:/{}'] }}", "x".repeat(120));
        assert!(
            messages(&long)[0].contains("too long"),
            "{:?}",
            messages(&long)
        );
    }

    #[test]
    fn invalid_names_are_reported_with_a_remedy() {
        for (name, message) in [
            (
                "10.0.0.1:80",
                "`10.0.0.1:80` is an address, not a name to look up; write `- 10.0.0.1:80` instead of `- { dns: … }`",
            ),
            (
                "10.0.0.1",
                "`10.0.0.1` is an address, not a name to look up; write `- 10.0.0.1` instead of `- { dns: … }`",
            ),
            (
                "api.internal",
                "`api.internal` has no port; write `{ dns: \"api.internal:3000\" }`",
            ),
            (
                "api.internal:http",
                "`api.internal:http` does not end in a port; write `NAME:PORT` with a port from 1 to 65535",
            ),
            (
                "api..x:80",
                "invalid host name `api..x`; write letters, digits and hyphens, with dots between, such as `api.internal`",
            ),
        ] {
            assert_eq!(
                messages(&format!("{{ backends: [{{ dns: '{name}' }}] }}")),
                [message]
            );
        }
    }

    #[test]
    fn ways_to_balance_are_guessed() {
        for (balance, help) in [
            (
                "least_con",
                "unknown balancing method `least_con`; did you mean `least_conn`?",
            ),
            (
                "roundrobin",
                "unknown balancing method `roundrobin`; did you mean `round_robin`?",
            ),
            (
                "ip_hash",
                "unknown balancing method `ip_hash`; did you mean `hash:client.ip`?",
            ),
            (
                "hash:client_ip",
                "unknown hash key `client_ip`; did you mean `hash:client.ip`?",
            ),
            (
                "hash:jwt.sub.of.someone",
                "unknown hash key `jwt.sub.of.someone`; one of `client.ip`, `path`, `uri`, `header:NAME`, `cookie:NAME`, `query:NAME`",
            ),
        ] {
            let yaml = format!("{{ backends: [10.0.0.1:80], balance: '{balance}' }}");
            assert_eq!(messages(&yaml), [help]);
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let lines = messages(
            "{ backends: [10.0.0.1:80, 10.0.0.1:80, 10.0.0.2], balance: fastest, \
               sticky: { cookie: 'a b' }, timeouts: { connect: 0s }, \
               eject: { for: 0s }, health: { json: true, interval: 0s } }",
        );
        let messages: Vec<&str> = lines.iter().map(|s| s.split(';').next().unwrap()).collect();
        assert_eq!(
            messages,
            [
                "backend `10.0.0.1:80` is listed twice in upstream `web`",
                "invalid backend address `10.0.0.2`",
                "unknown balancing method `fastest`",
                "invalid cookie name `a b`",
                "`health.interval` must be more than zero",
                "`health.json` needs an HTTP check, and this is a TCP one",
                "`timeouts.connect` must be more than zero",
                "`eject.for` must be more than zero",
            ]
        );
    }

    #[test]
    fn an_upstream_needs_a_backend() {
        assert!(messages("{ backends: [] }")[0].contains("has no backends"));
    }

    #[test]
    fn one_port_with_many_workers_is_pointed_out() {
        let warned = |yaml| messages(yaml).len();
        assert_eq!(
            warned("{ backends: [127.0.0.1:3000], balance: least_conn }"),
            1
        );
        assert_eq!(warned("{ backends: [127.0.0.1:3000], balance: p2c }"), 1);
        assert_eq!(warned("{ backends: [127.0.0.1:3000], balance: node }"), 1);
        assert_eq!(
            warned("{ backends: [127.0.0.1:3000] }"),
            0,
            "nothing was asked for"
        );
        assert_eq!(
            warned("{ backends: [127.0.0.1:3000], balance: round_robin }"),
            0
        );
        assert_eq!(
            warned("{ backends: [{ dns: 'web:3000' }], balance: least_conn }"),
            0
        );
        assert_eq!(
            warned("{ backends: [127.0.0.1:3000, 127.0.0.1:3001], balance: least_conn }"),
            0
        );
    }

    #[test]
    fn invalid_metrics_are_reported_with_a_remedy() {
        let many: Vec<String> = (0..17).map(|n| format!("m{n}")).collect();
        let many = format!("{{ server_timing: [{}] }}", many.join(", "));
        for (metrics, message) in [
            (
                "{ server_timing: ['a b'] }",
                "invalid name `a b` in `server_timing`; write a name as the app sends it, such as `db` of `Server-Timing: db;dur=53`",
            ),
            (
                "{ server_timing: [db, db] }",
                "`db` is listed twice in `server_timing`; remove one",
            ),
            (
                &many,
                "more than 16 names in `server_timing`; list those that a dashboard or an alert uses; each name is a histogram",
            ),
            (
                "{ sessions: { cookie: 'a;b' } }",
                "invalid cookie name `a;b`; write the name of the app's session cookie, such as `connect.sid`",
            ),
            (
                "{ sessions: { cookie: sid, window: 10ms } }",
                "`sessions.window` must be at least 1s; write the time after which a session counts as inactive, such as `15m`",
            ),
        ] {
            assert_eq!(
                messages(&format!(
                    "{{ backends: [10.0.0.1:80], metrics: {metrics} }}"
                )),
                [message]
            );
        }
    }

    #[test]
    fn invalid_checks_are_reported_with_a_remedy() {
        for (health, message) in [
            (
                "{ path: health }",
                "invalid path `health`; write a path that starts with `/`, percent-encoded: `/api/health`",
            ),
            (
                "{ path: '/a b' }",
                "invalid path `/a b`; write a path that starts with `/`, percent-encoded: `/api/health`",
            ),
            (
                "{ path: /, host: 'a b' }",
                "invalid host `a b`; write a name, with a port if it needs one: `shop.example.com`",
            ),
        ] {
            assert_eq!(
                messages(&format!("{{ backends: [10.0.0.1:80], health: {health} }}")),
                [message]
            );
        }
    }
}
