//! Checks of the programs that the gateway needs: backends, Redis and the clock that all share.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use edgeway_base::{clock::Clock, out::counted};
use edgeway_config::model::{BackendTarget, File, ProtocolConfig, StatusSet, UpstreamConfig};
use edgeway_gateway::Gateway;
use edgeway_net::{
    fetch::{Fetch, FetchError},
    redis::{Redis, Unavailable, cmd},
    tasks::Tasks,
};
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, header};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::Findings;

/// Time limit of a connection or a response.
const PATIENCE: Duration = Duration::from_secs(3);
/// Offset of another clock that is no rounding: `Date` has whole seconds.
const MAX_OFFSET: Duration = Duration::from_secs(3);
/// Redis releases that have every command in use.
const MIN_REDIS: (u32, u32) = (6, 2);
/// Round trips that are timed.
const PINGS: usize = 9;

pub(super) async fn check(findings: &mut Findings, path: &Path, file: &File, gateway: &Gateway) {
    let mut clocks = Vec::new();
    let folder = path.parent().unwrap_or(Path::new(""));
    let backends = file.upstreams.iter().flat_map(|(name, upstream)| {
        let config = &upstream.value;
        config.backends.iter().map(move |backend| async move {
            let upstream = &name.name;
            let seen = Backend {
                upstream,
                config,
                folder,
            };
            let mut findings = Findings::default();
            let clock = seen.check(&mut findings, &backend.value.target).await;
            (findings, clock)
        })
    });
    // At the same time: each dead host takes all of its time.
    for (backend_findings, clock) in join_all(backends).await {
        findings.0.extend(backend_findings.0);
        clocks.extend(clock);
    }
    if let Some(redis) = &gateway.redis {
        clocks.extend(self::redis(findings, Arc::clone(redis)).await);
    }
    clock(findings, &clocks);
}

/// A clock and its offset from ours.
struct OtherClock {
    of: String,
    offset: Duration,
}

impl OtherClock {
    fn new(of: String, time: SystemTime) -> Self {
        let now = Clock::machine().wall();
        let offset = now
            .duration_since(time)
            .unwrap_or_else(|ahead| ahead.duration());
        Self { of, offset }
    }
}

fn clock(findings: &mut Findings, others: &[OtherClock]) {
    const CHECK: &str = "clock";
    let Some(farthest) = others.iter().max_by_key(|other| other.offset) else {
        findings.skipped(CHECK, "nothing to compare it with");
        return;
    };
    let (of, seconds) = (&farthest.of, farthest.offset.as_secs());
    if farthest.offset > MAX_OFFSET {
        findings.warning(
            CHECK,
            format!(
                "differs from the clock of {of} by {seconds} s: ages, tokens and certificates are \
                 judged wrongly"
            ),
            "run an NTP client, such as systemd-timesyncd or chrony, on both machines",
        );
    } else {
        findings.ok(
            CHECK,
            format!("in step with {}", counted(others.len(), "other")),
        );
    }
}

/// Backends of one upstream.
struct Backend<'a> {
    upstream: &'a str,
    config: &'a UpstreamConfig,
    folder: &'a Path,
}

impl Backend<'_> {
    async fn check(&self, findings: &mut Findings, target: &BackendTarget) -> Option<OtherClock> {
        const CHECK: &str = "backend";
        let (BackendTarget::Address(address) | BackendTarget::Dns(address)) = target;
        let name = format!("{}/{address}", self.upstream);
        let start = Clock::machine().now();
        if let Err(why) = connect(address).await {
            findings.error(
                CHECK,
                format!("{name}: {why}"),
                "start the app, or correct the address; check that it listens on that interface",
            );
            return None;
        }
        let took = Clock::machine().now() - start;
        if address.starts_with("unix:") || self.config.protocol == ProtocolConfig::H2 {
            findings.ok(CHECK, format!("{name}: accepts connections"));
            return None;
        }
        let headers = match self.request(address).await {
            Ok(Some((status, headers))) => {
                // A query may have a key.
                let path = self.path().split('?').next().unwrap_or_default();
                let millis = took.as_millis();
                let message = format!("{name}: {status} for {path}, connected in {millis} ms");
                if self.expects(status) {
                    findings.ok(CHECK, message);
                } else {
                    findings.error(
                        CHECK,
                        message,
                        "look into the app's log: with this status the gateway takes it out of \
                         rotation; `health: { expect }` names other statuses",
                    );
                }
                headers
            }
            Ok(None) => {
                findings.ok(CHECK, format!("{name}: accepts connections"));
                return None;
            }
            Err(why) => {
                findings.error(
                    CHECK,
                    format!("{name}: {why}"),
                    "look into the app's log; set `health: { path }` to a path that responds quickly",
                );
                return None;
            }
        };
        self.keep_alive(findings, &name, &headers);
        let date = headers.get(header::DATE)?.to_str().ok()?;
        Some(OtherClock::new(name, httpdate::parse_http_date(date).ok()?))
    }

    /// Path of the health check, or else `/`.
    fn path(&self) -> &str {
        let health = self.config.health.as_ref();
        let path = health.and_then(|health| health.value.path.as_ref());
        path.map_or("/", |path| path.value.as_str())
    }

    /// Returns true for a status that the gateway's own check accepts.
    fn expects(&self, status: u16) -> bool {
        let checked = self.config.health.as_ref().map(|health| &health.value);
        let checked = checked.filter(|health| health.enabled && health.path.is_some());
        checked.is_none_or(|health| match &health.expect {
            Some(expected) => expected.value.contains(status),
            None => StatusSet::default().contains(status),
        })
    }

    /// Requests the path as the gateway's check does. `None`: the backend's certificate is for
    /// another name than its address, so there is no response, but a connection.
    async fn request(&self, address: &str) -> Result<Option<(u16, HeaderMap)>, String> {
        let tls = self.config.tls.as_ref().filter(|tls| tls.value.enabled);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let health = self.config.health.as_ref().map(|health| &health.value);
        let host = health
            .and_then(|health| health.host.as_deref())
            .or_else(|| Some(tls?.value.name.as_ref()?.value.as_str()))
            .unwrap_or(address);
        let url = format!("{scheme}://{address}{}", self.path());
        let mut request = Request::new(());
        if health.is_none_or(|health| health.path.is_none()) {
            *request.method_mut() = Method::HEAD;
        }
        *request.uri_mut() = url.parse().map_err(|_| format!("invalid URL {url}"))?;
        if let Ok(host) = host.parse() {
            request.headers_mut().insert(header::HOST, host);
        }
        let ca = tls.and_then(|tls| tls.value.ca.as_ref());
        let ca = ca.map(|ca| ca.value.as_path());
        let client =
            Fetch::to(request.uri(), self.folder, ca).map_err(|error| error.to_string())?;
        match client.send(request, PATIENCE, 1 << 20).await {
            Ok(response) => {
                let (head, _body) = response.into_parts();
                Ok(Some((head.status.as_u16(), head.headers)))
            }
            Err(FetchError::Exchange(_)) if tls.is_some() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Compares the time after which the app closes idle connections with ours.
    fn keep_alive(&self, findings: &mut Findings, name: &str, headers: &HeaderMap) {
        const CHECK: &str = "keep-alive";
        let Some(theirs) = headers
            .get("keep-alive")
            .and_then(|value| idle(value.to_str().ok()?))
        else {
            return;
        };
        // The gateway closes its connections a second earlier than the app would.
        let seconds = theirs.as_secs();
        match self.config.pool.idle.map(|idle| idle.0) {
            Some(ours) if ours >= theirs => findings.warning(
                CHECK,
                format!("{name} closes idle connections after {seconds} s, so `pool: {{ idle: {}s }}` is never reached", ours.as_secs()),
                "set `server.keepAliveTimeout` of the app above it, which also saves connections",
            ),
            _ => findings.ok(CHECK, format!("{name} keeps idle connections for {seconds} s, the gateway closes them before")),
        }
    }
}

/// Reads `timeout=5` of a `Keep-Alive` header.
fn idle(value: &str) -> Option<Duration> {
    let mut parts = value.split(',').map(str::trim);
    let seconds = parts.find_map(|part| part.strip_prefix("timeout="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

async fn connect(address: &str) -> Result<(), String> {
    let connected = async {
        match address.strip_prefix("unix:") {
            Some(path) => UnixStream::connect(path).await.map(drop),
            None => TcpStream::connect(address).await.map(drop),
        }
    };
    match timeout(PATIENCE, connected).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("cannot connect: {error}")),
        Err(_) => Err(format!("no connection within {} s", PATIENCE.as_secs())),
    }
}

async fn redis(findings: &mut Findings, redis: Arc<Redis>) -> Option<OtherClock> {
    const CHECK: &str = "redis";
    let tasks = Tasks::default();
    tasks.spawn("redis", Arc::clone(&redis).supervise());
    let up = async {
        while !redis.is_up() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let address = redis.status().address;
    if timeout(PATIENCE, up).await.is_err() {
        let why = redis
            .status()
            .last_error
            .unwrap_or_else(|| "no response".to_owned());
        findings.error(
            CHECK,
            format!("{address}: {why}"),
            "start it, or correct `redis:`; until then each gateway counts and caches by itself",
        );
        return None;
    }
    match examine(findings, &redis, &address).await {
        Ok(clock) => Some(clock),
        Err(error) => {
            findings.error(
                CHECK,
                format!("{address}: {error}"),
                "grant the user INFO, PING, TIME, EVAL and EVALSHA, or look into the log of Redis",
            );
            None
        }
    }
}

async fn examine(
    findings: &mut Findings,
    redis: &Redis,
    address: &str,
) -> Result<OtherClock, Unavailable> {
    const CHECK: &str = "redis";
    let info: String = redis.run(b"", cmd("INFO").arg("server")).await?;
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let version = version.unwrap_or("unknown").trim();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < MIN_REDIS {
        findings.error(
            CHECK,
            format!("{address} is version {version}"),
            "upgrade to Redis 6.2 or later, or to Valkey",
        );
    }
    // Counters are in scripts.
    let _one: u64 = redis.run(b"", cmd("EVAL").arg("return 1").arg(0)).await?;
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let start = Clock::machine().now();
        let _pong: String = redis.run(b"", &cmd("PING")).await?;
        times.push(Clock::machine().now() - start);
    }
    times.sort_unstable();
    let median = times[PINGS / 2];
    let limit = redis.settings.timeout;
    let micros = median.as_micros();
    if median > limit / 4 {
        findings.warning(
            CHECK,
            format!(
                "{address} responds in {micros} µs, and requests wait for at most {} ms",
                limit.as_millis()
            ),
            "move Redis closer, or raise `redis: { timeout }`",
        );
    } else {
        findings.ok(
            CHECK,
            format!("{address}, version {version}, responds in {micros} µs"),
        );
    }
    let (seconds, micros): (u64, u64) = redis.run(b"", &cmd("TIME")).await?;
    let time =
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
    Ok(OtherClock::new(format!("redis {address}"), time))
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn the_idle_time_of_an_app_is_read() {
        assert_eq!(idle("timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(idle("max=100, timeout=72"), Some(Duration::from_secs(72)));
        assert_eq!(idle("max=100"), None);
    }

    #[test]
    fn a_clock_that_is_off_is_a_warning() {
        let mut findings = Findings::default();
        clock(&mut findings, &[]);
        let near = OtherClock::new("a".to_owned(), Clock::machine().wall());
        clock(&mut findings, std::slice::from_ref(&near));
        let past = Clock::machine().wall() - Duration::from_mins(1);
        clock(
            &mut findings,
            &[near, OtherClock::new("b".to_owned(), past)],
        );
        let levels: Vec<_> = findings.0.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Skipped, Level::Ok, Level::Warning]);
        assert!(findings.0[2].message.contains("the clock of b"));
    }
}
