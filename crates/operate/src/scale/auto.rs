//! `edgeway scale --auto`: measures the CPU of the units, and remembers since when it was small.

use std::{
    env,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use edgeway_base::{
    clock::Clock,
    units::{Percent, Span},
};
use edgeway_cli::path::segment;
use edgeway_status::snapshot::{BackendStatus, Scale, UpstreamStatus};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::sleep;

use super::{
    Backends, Plan, ScaleOptions,
    decision::{Decision, Load, Rule},
    port_of,
};
use crate::{
    admin::INSTALLED,
    backends::{Gateway, is_drained},
    client::Remote,
    monitor::{as_number, interval},
    out, state_file,
    units::{Instance, Units},
};

/// Folder of the files that remember calm times; that of the unit.
const STATE_FOLDER: &str = "/var/lib/edgeway-scale";

#[derive(Debug, clap::Args)]
pub(super) struct RuleOptions {
    /// With --auto: the fewest backends
    #[arg(long, value_name = "N", default_value_t = 2, requires = "auto")]
    min: usize,
    /// With --auto: the most backends
    #[arg(long, value_name = "N", default_value_t = 10, requires = "auto")]
    max: usize,
    /// With --auto: average CPU of an app above which two more are started; 100% is one processor
    #[arg(long, value_name = "PERCENT", default_value = "70%", requires = "auto")]
    target_cpu: Percent,
    /// With --auto: time over which the CPU is measured
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = interval, requires = "auto")]
    interval: Span,
    /// With --auto: time for which the load must be low before an app is stopped
    #[arg(long, value_name = "TIME", default_value = "10min", requires = "auto")]
    calm: Span,
    /// The file that remembers since when the load is low [default: UPSTREAM.json
    /// below /var/lib/edgeway-scale]; other runs with it are waited for
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Upstream of a run, and the number of backends to reach.
pub(super) struct Turn {
    pub(super) upstream: UpstreamStatus,
    pub(super) count: usize,
    /// The file, with what the next run must know. `None` for a number by hand.
    memory: Option<(PathBuf, Memory)>,
    /// Held until the apps are started or stopped: two runs at once would do it twice.
    _lock: Option<File>,
}

impl Turn {
    /// Returns the number that the user wants, or that the load needs. `None` if nothing is to
    /// change; the decision was printed.
    pub(super) async fn begin(
        options: &ScaleOptions,
        gateway: &Remote,
        upstream: UpstreamStatus,
    ) -> Result<Option<Self>, String> {
        let file = match &options.rule.state {
            Some(file) => file.clone(),
            None => state_of(gateway, &format!("{}.json", segment(&upstream.name))).await?,
        };
        let Some(scale) = upstream.scale.clone().filter(|_| options.auto) else {
            let lock = by_hand(&file, options.dry_run).await?;
            // Without `scale` the plan says what is missing.
            return Ok(Some(Self {
                // Another run may have changed it before.
                upstream: gateway.upstream(&upstream.name).await?,
                count: options.count.unwrap_or(0),
                memory: None,
                _lock: lock.and_then(|(_, alone)| alone),
            }));
        };
        let lock = if options.dry_run {
            None
        } else {
            Some(state_file::lock(&file).await?)
        };
        let upstream = gateway.upstream(&upstream.name).await?;
        let mut memory: Memory = read_state(&file)?;
        if is_kept_by_others(&upstream, &memory) {
            return Ok(None);
        }
        let rule = rule(&options.rule, &upstream, &scale)?;
        let (upstream, load) = measure(options, gateway, &upstream, &scale).await?;
        // A rollout may have begun meanwhile.
        if is_kept_by_others(&upstream, &memory) {
            return Ok(None);
        }
        memory.forget_finished(&upstream);
        let now = Clock::machine().wall().into();
        let calm_for = memory.measured(rule.is_calm(load), rule.calm, now);
        let decision = rule.decide(load, calm_for);
        if !matches!(decision, Decision::Stay(_)) {
            memory.calm_ms = None;
        }
        if !options.dry_run {
            state_file::write(&file, &memory)?;
        }
        let down = Backends::new(&upstream, &scale).down;
        out::data(&text(&upstream.name, rule, load, down, decision));
        let is_leftover = !memory.begun.is_empty();
        let count = match decision {
            Decision::Up(more) => load.apps + more,
            Decision::Down => load.apps - 1,
            Decision::Stay(_) if down > 0 || is_leftover => load.apps,
            Decision::Stay(_) => return Ok(None),
        };
        Ok(Some(Self {
            upstream,
            count,
            memory: Some((file, memory)),
            _lock: lock,
        }))
    }

    /// Remembers what this run is going to start and to stop: the next one finishes or undoes it if
    /// this one is killed.
    pub(super) fn begun(&mut self, plan: &Plan) -> Result<(), String> {
        let apps = plan.up.iter().chain(&plan.down);
        self.remember(apps.map(|app| app.name.address.clone()).collect())
    }

    /// Forgets it.
    pub(super) fn done(&mut self) -> Result<(), String> {
        self.remember(Vec::new())
    }

    fn remember(&mut self, started: Vec<String>) -> Result<(), String> {
        let Some((file, memory)) = &mut self.memory else {
            return Ok(());
        };
        memory.begun = started;
        state_file::write(file, memory)
    }
}

/// Returns true, and prints it, if something else than an interrupted run has drained a backend.
fn is_kept_by_others(upstream: &UpstreamStatus, memory: &Memory) -> bool {
    let Some(backend) = memory.foreign_drain(upstream) else {
        return false;
    };
    let UpstreamStatus { name, .. } = upstream;
    let why = format!(
        "{name}: unchanged, since {} is {}; if no rollout is running: `edgeway undrain`, or \
         `edgeway scale {name} N`",
        backend.address, backend.state
    );
    out::data(&out::hints(&why));
    true
}

/// Returns the file of this name for a gateway: in a folder of its own, by the path of its
/// configuration, since another gateway of the machine may have an upstream of the same name. The
/// installed one needs none.
pub(crate) async fn state_of(gateway: &Remote, name: &str) -> Result<PathBuf, String> {
    let snapshot = gateway.snapshot().await?;
    let configuration = Path::new(&snapshot.config.file);
    let folder = configuration.strip_prefix("/").ok();
    let folder = folder.filter(|_| configuration != Path::new(INSTALLED));
    Ok(Path::new(STATE_FOLDER)
        .join(folder.unwrap_or(Path::new("")))
        .join(name))
}

/// Reads a file of [`state_of`], or the one that all gateways shared before there were such
/// folders.
pub(crate) fn read_state<T: Default + DeserializeOwned>(file: &Path) -> Result<T, String> {
    let is_new = file.starts_with(STATE_FOLDER) && !file.exists();
    let shared = file.file_name().filter(|_| is_new);
    let shared = shared.map(|name| Path::new(STATE_FOLDER).join(name));
    state_file::read(shared.as_deref().unwrap_or(file))
}

/// Locks the file of a command, so that no other run changes the upstream at the same time; a file
/// of this user where that one is another's.
pub(crate) async fn by_hand(
    file: &Path,
    is_dry_run: bool,
) -> Result<Option<(PathBuf, Option<File>)>, String> {
    let name = file.strip_prefix(STATE_FOLDER).ok();
    let user = env::var_os("XDG_RUNTIME_DIR").zip(name.or(file.file_name().map(Path::new)));
    let user = user.map(|(folder, name)| Path::new(&folder).join("edgeway-scale").join(name));
    for file in [Some(file.to_owned()), user].into_iter().flatten() {
        if is_dry_run && file.exists() {
            return Ok(Some((file, None)));
        }
        let lock = file.with_extension("lock");
        let folder = fs::create_dir_all(file.parent().unwrap_or(&file));
        let open = |()| OpenOptions::new().create(true).append(true).open(lock);
        if !is_dry_run && folder.and_then(open).is_ok() {
            let alone = state_file::lock(&file).await?;
            return Ok(Some((file, Some(alone))));
        }
    }
    Ok(None)
}

/// Fits the limits to what is possible: backends in the configuration are never stopped, and there
/// are no more than ports.
fn rule(options: &RuleOptions, upstream: &UpstreamStatus, scale: &Scale) -> Result<Rule, String> {
    let RuleOptions { min, max, .. } = *options;
    if min > max {
        return Err(format!("--min {min} is more than --max {max}"));
    }
    let room = usize::from(scale.last_port - scale.first_port) + 1;
    let min = min.max(Backends::new(upstream, scale).written).min(room);
    Ok(Rule {
        min,
        max: max.min(room).max(min),
        target: options.target_cpu.0 / 100.0,
        calm: options.calm.0,
    })
}

/// Measures the units of an upstream for some time, and reads the upstream again.
async fn measure(
    options: &ScaleOptions,
    gateway: &Remote,
    upstream: &UpstreamStatus,
    scale: &Scale,
) -> Result<(UpstreamStatus, Load), String> {
    let mut units = Units::new(&gateway.0.targets, &[]);
    let queued = upstream.queue > 0;
    // By its process the gateway is known to run on this machine, where the units are.
    let snapshot = gateway.snapshot().await?;
    units.instances(&snapshot).await;
    sleep(options.rule.interval.0).await;
    let instances = units.instances(&snapshot).await;
    let upstream = gateway.upstream(&options.upstream).await?;
    let backends = Backends::new(&upstream, scale);
    let cpu = average(&instances.list, &upstream, scale).or_else(|| backends.idle());
    let cpu = cpu.ok_or_else(|| {
        let why = instances.problem.unwrap_or_else(|| {
            format!(
                "no unit `{}` that runs has a measured CPU time; without cgroup v2 that takes \
                 `CPUAccounting=yes` in the unit",
                scale.unit
            )
        });
        format!(
            "cannot measure the CPU of upstream `{}`: {why}",
            options.upstream
        )
    })?;
    let load = Load {
        apps: backends.written + backends.added,
        cpu,
        needs_all: queued && upstream.queue > 0 || backends.down > 0,
    };
    Ok((upstream, load))
}

/// Returns the average CPU of the units behind an upstream's backends, those that serve: one that
/// hangs may use none, and says nothing about the others.
fn average(list: &[Instance], upstream: &UpstreamStatus, scale: &Scale) -> Option<f64> {
    let serving = upstream.backends.iter().filter(|backend| backend.healthy);
    let ports = serving.filter_map(|backend| port_of(backend, scale));
    let names = ports.map(|port| scale.unit.replace("{port}", &port.to_string()));
    // systemd takes a name without its type for a service.
    let is = |instance: &Instance, name: &str| {
        instance.unit == name || instance.unit.strip_suffix(".service") == Some(name)
    };
    let cpu = names.filter_map(|name| list.iter().find(|unit| is(unit, &name))?.cpu);
    let cpu: Vec<f64> = cpu.collect();
    (!cpu.is_empty()).then(|| cpu.iter().sum::<f64>() / as_number(cpu.len() as u64))
}

fn text(name: &str, rule: Rule, load: Load, down: usize, decision: Decision) -> String {
    let percent = |share: f64| (1000.0 * share).round() / 10.0;
    let (cpu, target) = (percent(load.cpu), percent(rule.target));
    let step = match decision {
        Decision::Up(more) => format!("+{more}"),
        Decision::Down => "-1".to_owned(),
        Decision::Stay(None) if load.cpu > rule.target => "unchanged, at the most".to_owned(),
        Decision::Stay(None) => "unchanged".to_owned(),
        Decision::Stay(Some(time)) => {
            let time = Span(Duration::from_secs(time.as_secs()));
            format!("unchanged, calm for {time} of {}", Span(rule.calm))
        }
    };
    let apps = out::counted(load.apps, "backend");
    let down = match down {
        0 => String::new(),
        down => format!(" ({down} down)"),
    };
    format!("{name}: {apps}{down}, CPU {cpu}% on average, target {target}%: {step}")
}

/// State that a run leaves to the next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    /// Time for which the load has been small, in milliseconds.
    calm_ms: Option<u64>,
    /// Time of the last measurement: RFC 3339, UTC.
    measured_at: Option<String>,
    /// Addresses of backends that the last run wanted to start or stop, if it did not end.
    begun: Vec<String>,
}

impl Memory {
    /// Returns a backend that something else than an interrupted run has drained.
    fn foreign_drain<'a>(&self, upstream: &'a UpstreamStatus) -> Option<&'a BackendStatus> {
        let mut drained = upstream.backends.iter().filter(|b| is_drained(b));
        drained.find(|backend| backend.origin != "added" || !self.begun.contains(&backend.address))
    }

    /// Forgets the steps of an interrupted run that were finished or undone.
    fn forget_finished(&mut self, upstream: &UpstreamStatus) {
        let mut drained = upstream.backends.iter().filter(|b| is_drained(b));
        let is_left = |address: &String| drained.any(|backend| backend.address == *address);
        self.begun.retain(is_left);
    }

    /// Notes the load of a run, and returns the calm time until now. A pause between two runs
    /// counts for half of `enough` at most: nobody knows the load in it.
    fn measured(
        &mut self,
        is_calm: bool,
        enough: Duration,
        now: DateTime<Utc>,
    ) -> Option<Duration> {
        let last = self.measured_at.as_deref();
        let last = last.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        self.measured_at = Some(now.to_rfc3339_opts(SecondsFormat::Millis, true));
        if !is_calm {
            self.calm_ms = None;
            return None;
        }
        // A clock that was set back counts for nothing.
        let pause = last.and_then(|last| (now - DateTime::<Utc>::from(last)).to_std().ok());
        let pause = pause.unwrap_or_default().min(enough / 2);
        let before = self.calm_ms.map(Duration::from_millis);
        let calm = before.map_or(Duration::ZERO, |before| before + pause);
        self.calm_ms = Some(u64::try_from(calm.as_millis()).unwrap_or(u64::MAX));
        Some(calm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale() -> Scale {
        Scale {
            unit: "node-app@{port}.service".to_owned(),
            first_port: 3000,
            last_port: 3007,
            manager: "system".into(),
            address: "127.0.0.1".parse().unwrap(),
        }
    }

    fn upstream(backends: &[(u16, &'static str)]) -> UpstreamStatus {
        let backends = backends.iter().map(|(port, origin)| BackendStatus {
            address: format!("127.0.0.1:{port}"),
            origin: (*origin).into(),
            state: "healthy".into(),
            healthy: true,
            ..BackendStatus::default()
        });
        UpstreamStatus {
            name: "web".to_owned(),
            backends: backends.collect(),
            scale: Some(scale()),
            ..UpstreamStatus::default()
        }
    }

    fn unit(name: &str, cpu: Option<f64>) -> Instance {
        Instance {
            unit: name.to_owned(),
            cpu,
            ..Instance::default()
        }
    }

    #[test]
    fn only_units_of_the_upstream_are_measured() {
        let upstream = upstream(&[(3000, "file"), (3001, "added"), (4000, "file")]);
        let units = [
            unit("node-app@3000.service", Some(0.8)),
            unit("node-app@3001.service", Some(0.4)),
            unit("node-app@3002.service", Some(9.0)),
            unit("node-app@4000.service", Some(9.0)),
        ];
        let cpu = average(&units, &upstream, &scale()).unwrap();
        assert!((cpu - 0.6).abs() < 1e-9, "{cpu}");
        // One that is down hangs, and uses no CPU.
        let mut down = upstream.clone();
        down.backends[1].healthy = false;
        assert_eq!(average(&units, &down, &scale()), Some(0.8));
        // A unit that was restarted meanwhile has no rate.
        let units = [
            unit("node-app@3000.service", None),
            unit("node-app@3001.service", Some(0.4)),
        ];
        assert_eq!(average(&units, &upstream, &scale()), Some(0.4));
        assert_eq!(average(&units[..1], &upstream, &scale()), None);
        let short = Scale {
            unit: "node-app@{port}".to_owned(),
            ..scale()
        };
        assert_eq!(average(&units, &upstream, &short), Some(0.4));
    }

    /// Apps that run but were not measured have an unknown load.
    #[test]
    fn only_apps_that_are_all_down_use_no_cpu() {
        let mut upstream = upstream(&[(3000, "file"), (3001, "added")]);
        for (down, expected) in [(0, None), (1, None), (2, Some(0.0))] {
            for backend in upstream.backends.iter_mut().take(down) {
                backend.healthy = false;
            }
            assert_eq!(
                Backends::new(&upstream, &scale()).idle(),
                expected,
                "{down}"
            );
        }
        assert_eq!(
            Backends::new(&super::tests::upstream(&[]), &scale()).idle(),
            None
        );
    }

    fn limits(min: usize, max: usize, backends: &[(u16, &'static str)]) -> (usize, usize) {
        let options = RuleOptions {
            min,
            max,
            target_cpu: Percent(70.0),
            interval: Span::secs(1),
            calm: Span::secs(1),
            state: None,
        };
        let rule = rule(&options, &upstream(backends), &scale()).unwrap();
        (rule.min, rule.max)
    }

    #[test]
    fn limits_are_those_that_are_possible() {
        let written = [(3000, "file"), (3001, "file"), (3002, "file")];
        assert_eq!(limits(2, 10, &[]), (2, 8), "there are eight ports");
        assert_eq!(limits(2, 6, &written), (3, 6), "those are never stopped");
        assert_eq!(limits(1, 2, &written), (3, 3));
        assert_eq!(limits(20, 30, &[]), (8, 8));
    }

    #[test]
    fn calm_time_lasts_until_the_load_rises() {
        let clock = Clock::test();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.json");
        let minutes = |minutes| Some(Duration::from_mins(minutes));
        let run = |is_calm| {
            let mut memory: Memory = state_file::read(&file).unwrap();
            let enough = Duration::from_mins(10);
            let time = memory.measured(is_calm, enough, clock.wall().into());
            state_file::write(&file, &memory).unwrap();
            clock.advance(Duration::from_mins(1));
            time
        };
        assert_eq!(run(false), None);
        assert_eq!(run(true), minutes(0));
        assert_eq!(run(true), minutes(1));
        assert_eq!(run(true), minutes(2));
        // The timer was off: the load in that time is unknown.
        clock.advance(Duration::from_hours(15));
        assert_eq!(run(true), minutes(7));
        assert_eq!(run(false), None);
        assert_eq!(run(true), minutes(0));
        // A measurement in the future, by a clock that was set back.
        let later: DateTime<Utc> = (clock.wall() + Duration::from_hours(1)).into();
        let mut memory = Memory {
            calm_ms: Some(1000),
            measured_at: Some(later.to_rfc3339()),
            ..Memory::default()
        };
        let time = memory.measured(true, Duration::from_mins(10), clock.wall().into());
        assert_eq!(time, Some(Duration::from_secs(1)));
    }

    /// Runs each hour stop apps too, whatever the calm time.
    #[test]
    fn rare_runs_reach_the_calm_time() {
        let clock = Clock::test();
        let mut memory = Memory::default();
        let mut times = Vec::new();
        for _ in 0..3 {
            let enough = Duration::from_mins(10);
            times.extend(memory.measured(true, enough, clock.wall().into()));
            clock.advance(Duration::from_hours(1));
        }
        assert_eq!(times, [0, 5, 10].map(Duration::from_mins));
    }

    #[test]
    fn only_what_an_interrupted_run_drained_is_touched() {
        let mut upstream = upstream(&[(3000, "file"), (3001, "added"), (3002, "added")]);
        let mut memory = Memory {
            begun: vec!["127.0.0.1:3002".to_owned(), "127.0.0.1:3003".to_owned()],
            ..Memory::default()
        };
        assert_eq!(memory.foreign_drain(&upstream), None);
        upstream.backends[2].state = "drained".into();
        assert_eq!(memory.foreign_drain(&upstream), None);
        memory.forget_finished(&upstream);
        assert_eq!(memory.begun, ["127.0.0.1:3002"]);
        for (at, address) in [(1, "127.0.0.1:3001"), (0, "127.0.0.1:3000")] {
            upstream.backends[at].state = "draining".into();
            let foreign = memory.foreign_drain(&upstream).unwrap();
            assert_eq!(foreign.address, address);
        }
        upstream.backends.truncate(1);
        upstream.backends[0].state = "healthy".into();
        memory.forget_finished(&upstream);
        assert_eq!(memory.begun, [""; 0]);
    }

    #[test]
    fn the_decision_is_one_line() {
        let rule = rule_of_tests();
        let line = |cpu, decision| {
            let load = Load {
                apps: 4,
                cpu,
                needs_all: false,
            };
            text("web", rule, load, 0, decision)
        };
        let start = "web: 4 backends, CPU";
        assert_eq!(
            line(0.71, Decision::Up(2)),
            format!("{start} 71% on average, target 70%: +2")
        );
        assert_eq!(
            line(0.123_45, Decision::Down),
            format!("{start} 12.3% on average, target 70%: -1")
        );
        let calm = Some(Duration::from_secs(90));
        assert_eq!(
            line(0.1, Decision::Stay(calm)),
            format!("{start} 10% on average, target 70%: unchanged, calm for 1min30s of 10min")
        );
        let load = Load {
            apps: 6,
            cpu: 0.0,
            needs_all: true,
        };
        assert_eq!(
            text("web", rule, load, 4, Decision::Stay(None)),
            "web: 6 backends (4 down), CPU 0% on average, target 70%: unchanged"
        );
        let most = line(0.9, Decision::Stay(None));
        assert!(most.ends_with("unchanged, at the most"), "{most}");
    }

    fn rule_of_tests() -> Rule {
        Rule {
            min: 2,
            max: 4,
            target: 0.7,
            calm: Duration::from_mins(10),
        }
    }
}
