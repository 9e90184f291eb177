//! Units of systemd that run the apps and the gateway: state, CPU, memory and restarts, from
//! `systemctl show` and from cgroup v2.

mod process;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use edgeway_base::clock::Clock;
use edgeway_status::{Snapshot, client::Target, snapshot::UpstreamStatus};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::{process::Command, time::timeout};

use self::process::is_process;
use super::program::Manager;

/// Units of apps that this project installs.
const APPS: &str = "node-app@*.service";

/// Mount point of cgroup v2.
const CGROUPS: &str = "/sys/fs/cgroup";
const PROCESSES: &str = "/proc";

const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,MainPID,NRestarts,\
                          ActiveEnterTimestampMonotonic,ControlGroup,MemoryCurrent,MemoryMax,\
                          CPUUsageNSec";

/// Time limit of systemctl: the manager may be busy.
const DEADLINE: Duration = Duration::from_secs(2);

/// Units around a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instances {
    pub list: Vec<Instance>,
    /// Why there may be more than those.
    pub problem: Option<String>,
}

/// A unit that runs an app or the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Instance {
    pub unit: String,
    /// `active`, `activating`, `failed` and others of systemd.
    pub state: String,
    /// The state in detail, such as `running` or `auto-restart`.
    pub detail: String,
    pub pid: Option<u32>,
    /// CPU time per second since the observation before: 1.0 is one processor in full use.
    pub cpu: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// `MemoryMax=`, at which the kernel kills the unit.
    pub memory_limit_bytes: Option<u64>,
    /// Restarts by systemd since the unit was started.
    pub restarts: u64,
    pub uptime_seconds: Option<u64>,
    /// Processes of the unit that the kernel killed because memory ran out.
    pub oom_kills: u64,
    #[serde(skip)]
    pub cpu_time: Option<Duration>,
}

/// Looks for units, and remembers their CPU times.
pub struct Units {
    /// `None` if the gateway runs on another machine.
    more: Option<Vec<String>>,
    systemctl: PathBuf,
    cgroups: PathBuf,
    processes: PathBuf,
    clock: Clock,
    last: HashMap<String, (Instant, Duration)>,
}

impl Units {
    pub fn new(targets: &[Target], more: &[String]) -> Self {
        let is_here = targets.iter().any(|target| match target {
            Target::Socket(_) => true,
            Target::Address(address) => address.ip().is_loopback(),
        });
        Self {
            more: is_here.then(|| more.to_vec()),
            systemctl: "systemctl".into(),
            cgroups: CGROUPS.into(),
            processes: PROCESSES.into(),
            clock: Clock::machine(),
            last: HashMap::new(),
        }
    }

    /// Returns the units of apps and that of the gateway itself.
    pub async fn instances(&mut self, snapshot: &Snapshot) -> Instances {
        // A socket, and an address on loopback, may be forwarded.
        let is_here = || is_process(&self.processes, snapshot);
        let Some(more) = self.more.as_ref().filter(|_| is_here()) else {
            let problem = "the gateway runs on another machine, or in a container: run \
                           `edgeway top` there";
            return Instances {
                problem: Some(problem.to_owned()),
                ..Instances::default()
            };
        };
        let wanted = wanted(snapshot, more, own_unit(snapshot.pid));
        let mut instances = self.find(&wanted).await;
        let retiring = snapshot.upstreams.iter().filter_map(retiring);
        instances.list.extend(retiring);
        instances
    }

    /// Returns the units of apps and those of the patterns, wherever a gateway runs.
    pub async fn of_this_machine(&mut self, patterns: &[String]) -> Instances {
        let wanted = wanted(&Snapshot::default(), patterns, None);
        self.find(&wanted).await
    }

    async fn find(&mut self, wanted: &BTreeSet<(Manager, String)>) -> Instances {
        let mut units = Instances::default();
        for manager in [Manager::System, Manager::User] {
            let of_manager = wanted.iter().filter(|(of, _)| *of == manager);
            let patterns: Vec<&str> = of_manager.map(|(_, pattern)| pattern.as_str()).collect();
            if patterns.is_empty() {
                continue;
            }
            match self.show(manager, &patterns).await {
                Ok(text) => units.list.extend(parse(&text, monotonic(), &self.cgroups)),
                Err(problem) => units.problem = Some(problem),
            }
        }
        let now = self.clock.now();
        self.measure(&mut units.list, now);
        units
    }

    async fn show(&self, manager: Manager, patterns: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.systemctl);
        command
            .args(manager.option())
            .args(["show", "--no-pager", PROPERTIES, "--"])
            .args(patterns)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match timeout(DEADLINE, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err("there is no systemd on this machine, so no units are shown".to_owned());
            }
            Ok(Err(error)) => return Err(format!("cannot run systemctl: {error}")),
            Err(_) => {
                let seconds = DEADLINE.as_secs();
                return Err(format!("systemctl did not respond within {seconds} s"));
            }
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let first = stderr.lines().next().unwrap_or("it gave no reason").trim();
        if first.contains("not been booted with systemd") {
            return Err("systemd does not run on this machine, so no units are shown".to_owned());
        }
        Err(format!("systemctl cannot show the units: {first}"))
    }

    /// Computes the use of CPU since the last call.
    fn measure(&mut self, list: &mut [Instance], now: Instant) {
        let mut times = HashMap::new();
        for instance in list {
            let Some(time) = instance.cpu_time else {
                continue;
            };
            if let Some((then, before)) = self.last.get(&instance.unit) {
                let seconds = now.duration_since(*then).as_secs_f64();
                // A restart begins with a new cgroup, which counts from zero.
                let more = time.checked_sub(*before).filter(|_| seconds > 0.0);
                instance.cpu = more.map(|more| more.as_secs_f64() / seconds);
            }
            times.insert(instance.unit.clone(), (now, time));
        }
        self.last = times;
    }
}

/// Returns the process that ends replaced releases of an upstream, which is no unit.
fn retiring(upstream: &UpstreamStatus) -> Option<Instance> {
    let releases = upstream.replaced_releases().join(" ");
    Some(Instance {
        unit: format!("ends releases of {}: {releases}", upstream.name),
        state: "active".to_owned(),
        detail: "running".to_owned(),
        pid: Some(upstream.retiring?),
        ..Instance::default()
    })
}

/// Returns the patterns of units to show, by manager.
fn wanted(
    snapshot: &Snapshot,
    more: &[String],
    machine_unit: Option<(Manager, String)>,
) -> BTreeSet<(Manager, String)> {
    let mut wanted: BTreeSet<_> = [(Manager::System, APPS.to_owned())].into();
    wanted.extend(more.iter().map(|unit| (Manager::System, unit.clone())));
    wanted.extend(machine_unit);
    for scale in snapshot.upstreams.iter().filter_map(|u| u.scale.as_ref()) {
        let manager = Manager::named(&scale.manager);
        wanted.insert((manager, scale.unit.replace("{port}", "*")));
    }
    wanted
}

/// Returns the unit of a process, if it is a service.
fn own_unit(pid: u32) -> Option<(Manager, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_of(&text)
}

fn unit_of(cgroup: &str) -> Option<(Manager, String)> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (above, unit) = path.trim_end().rsplit_once('/')?;
    let manager = if above.contains("/user@") {
        Manager::User
    } else {
        Manager::System
    };
    let is_service = unit.ends_with(".service") && !unit.starts_with("user@");
    is_service.then(|| (manager, unit.to_owned()))
}

/// Time since the machine started, by which systemd tells when a unit did.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds)
}

/// Reads the output of `systemctl show`: a block of `KEY=VALUE` for each unit.
fn parse(text: &str, now: Duration, cgroups: &Path) -> Vec<Instance> {
    let blocks = text.split("\n\n").map(|block| {
        let lines = block.lines().filter_map(|line| line.split_once('='));
        lines.collect::<HashMap<&str, &str>>()
    });
    let mut instances: Vec<Instance> = blocks
        .filter(|block| block.get("LoadState") == Some(&"loaded"))
        .map(|block| instance(&block, now, cgroups))
        .collect();
    // Two patterns may match one unit.
    instances.sort_by(|a, b| a.unit.cmp(&b.unit));
    instances.dedup_by(|a, b| a.unit == b.unit);
    instances
}

fn instance(block: &HashMap<&str, &str>, now: Duration, cgroups: &Path) -> Instance {
    let text = |key: &str| block.get(key).copied().unwrap_or_default();
    // `[not set]`, `infinity` and 2^64 - 1 are all said for "none".
    let number = |key: &str| text(key).parse::<u64>().ok().filter(|n| *n != u64::MAX);
    let state = text("ActiveState").to_owned();
    let entered = number("ActiveEnterTimestampMonotonic").filter(|at| *at > 0);
    let entered = entered.filter(|_| state == "active");
    let uptime = entered.map(|at| now.saturating_sub(Duration::from_micros(at)).as_secs());
    let group = Cgroup::read(cgroups, text("ControlGroup"));
    let cpu_time = number("CPUUsageNSec").map(Duration::from_nanos);
    Instance {
        unit: text("Id").to_owned(),
        state,
        detail: text("SubState").to_owned(),
        pid: text("MainPID").parse().ok().filter(|pid| *pid != 0),
        cpu: None,
        memory_bytes: group.memory.or_else(|| number("MemoryCurrent")),
        memory_limit_bytes: number("MemoryMax"),
        restarts: number("NRestarts").unwrap_or(0),
        uptime_seconds: uptime,
        oom_kills: group.oom_kills,
        cpu_time: group.cpu_time.or(cpu_time),
    }
}

/// Counts of a cgroup, as far as it has them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cgroup {
    cpu_time: Option<Duration>,
    memory: Option<u64>,
    oom_kills: u64,
}

impl Cgroup {
    /// Reads the files of a cgroup: they are of this moment, while the manager's counts may be
    /// switched off.
    fn read(root: &Path, group: &str) -> Self {
        let group = group.trim_start_matches('/');
        if group.is_empty() {
            return Self::default();
        }
        let folder = root.join(group);
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let value = |file: &str, key: &str| {
            let text = read(file);
            let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
            pairs.find_map(|(name, n)| (name == key).then(|| n.parse::<u64>().ok())?)
        };
        Self {
            cpu_time: value("cpu.stat", "usage_usec").map(Duration::from_micros),
            memory: read("memory.current").trim().parse().ok(),
            oom_kills: value("memory.events", "oom_kill").unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{
        process::tests::{gateway, write_process},
        *,
    };

    /// Output of systemctl 255, with an instance that runs, one that failed, and one unknown.
    const SHOWN: &str = "\
MainPID=4321
NRestarts=2
ActiveEnterTimestampMonotonic=1000000000
ControlGroup=/app.slice/node-app@3000.service
MemoryCurrent=104857600
MemoryMax=1073741824
CPUUsageNSec=5000000000
Id=node-app@3000.service
LoadState=loaded
ActiveState=active
SubState=running

MainPID=0
NRestarts=7
ActiveEnterTimestampMonotonic=2000000000
ControlGroup=
MemoryCurrent=[not set]
MemoryMax=infinity
CPUUsageNSec=18446744073709551615
Id=node-app@3001.service
LoadState=loaded
ActiveState=failed
SubState=failed

MainPID=0
Id=shop.service
LoadState=not-found
ActiveState=inactive
SubState=dead
";

    #[test]
    fn units_are_read_from_systemctl_and_cgroups() {
        let cgroups = tempfile::tempdir().unwrap();
        let now = Duration::from_secs(4600);
        let found = parse(SHOWN, now, cgroups.path());
        let expected = [
            Instance {
                unit: "node-app@3000.service".into(),
                state: "active".into(),
                detail: "running".into(),
                pid: Some(4321),
                memory_bytes: Some(100 << 20),
                memory_limit_bytes: Some(1 << 30),
                restarts: 2,
                uptime_seconds: Some(3600),
                cpu_time: Some(Duration::from_secs(5)),
                ..Instance::default()
            },
            Instance {
                unit: "node-app@3001.service".into(),
                state: "failed".into(),
                detail: "failed".into(),
                restarts: 7,
                ..Instance::default()
            },
        ];
        assert_eq!(found, expected);

        let folder = cgroups.path().join("app.slice/node-app@3000.service");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cpu.stat"), "usage_usec 7000000\nuser_usec 1\n").unwrap();
        fs::write(folder.join("memory.current"), "209715200\n").unwrap();
        fs::write(folder.join("memory.events"), "low 0\noom 1\noom_kill 3\n").unwrap();
        let found = parse(SHOWN, now, cgroups.path());
        assert_eq!(found[0].cpu_time, Some(Duration::from_secs(7)));
        assert_eq!(found[0].memory_bytes, Some(200 << 20));
        assert_eq!(found[0].oom_kills, 3);
    }

    #[test]
    fn a_unit_that_two_patterns_match_is_listed_once() {
        let twice = format!("{SHOWN}\n{SHOWN}");
        assert_eq!(
            parse(&twice, Duration::ZERO, Path::new("/nowhere")).len(),
            2
        );
        assert_eq!(parse("", Duration::ZERO, Path::new("/nowhere")), []);
    }

    #[test]
    fn the_use_of_cpu_is_the_difference_of_two_times() {
        let mut units = Units::new(&[], &[]);
        let start = units.clock.now();
        let unit = |milliseconds| Instance {
            unit: "a.service".into(),
            cpu_time: Some(Duration::from_millis(milliseconds)),
            ..Instance::default()
        };
        let mut cpu = |milliseconds, at| {
            let mut list = [unit(milliseconds)];
            units.measure(&mut list, start + Duration::from_secs(at));
            list[0].cpu
        };
        assert_eq!(cpu(1000, 0), None);
        assert_eq!(cpu(3000, 2), Some(1.0));
        // After a restart the first time has nothing to compare with.
        assert_eq!(cpu(10, 3), None);
        assert_eq!(cpu(510, 4), Some(0.5));
    }

    #[test]
    fn units_of_scale_and_the_gateways_own_are_asked_for() {
        let mut snapshot = Snapshot::default();
        let upstream = serde_json::json!({ "name": "shop", "scale": {
            "unit": "shop@{port}.service", "first_port": 1, "last_port": 2, "manager": "user",
            "address": "127.0.0.1",
        } });
        snapshot.upstreams = vec![serde_json::from_value(upstream).unwrap()];
        let own = unit_of("0::/system.slice/edgeway.service\n");
        let all = wanted(&snapshot, &["more.service".to_owned()], own);
        let all: Vec<_> = all.iter().map(|(m, unit)| (*m, unit.as_str())).collect();
        let expected = [
            (Manager::System, "edgeway.service"),
            (Manager::System, "more.service"),
            (Manager::System, APPS),
            (Manager::User, "shop@*.service"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn only_a_service_is_the_gateways_unit() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/edgeway.service\n";
        assert_eq!(
            unit_of(user),
            Some((Manager::User, "edgeway.service".into()))
        );
        for other in [
            "0::/\n",
            "",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/user.slice/user-1000.slice/user@1000.service\n",
            "1:cpu:/system.slice/edgeway.service\n",
        ] {
            assert_eq!(unit_of(other), None, "{other}");
        }
    }

    async fn problem(script: Option<&str>) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("systemctl");
        if let Some(script) = script {
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut units = Units::new(&[Target::Socket("/x".into())], &[]);
        units.systemctl = program;
        write_process(folder.path(), 7, "edgeway", 500);
        units.processes = folder.path().into();
        let found = units.instances(&gateway()).await;
        assert_eq!(found.list, []);
        found.problem
    }

    #[tokio::test]
    async fn the_reason_why_there_are_no_units_is_kept() {
        let lost = problem(None).await.unwrap();
        assert!(lost.contains("no systemd on this machine"), "{lost}");
        let message = "echo 'System has not been booted with systemd as init system' >&2; exit 1";
        let lost = problem(Some(message)).await.unwrap();
        assert!(lost.contains("systemd does not run"), "{lost}");
        let lost = problem(Some("echo denied >&2; exit 4")).await.unwrap();
        assert_eq!(lost, "systemctl cannot show the units: denied");
        assert_eq!(problem(Some("exit 0")).await, None);
        let mut elsewhere = Units::new(&[Target::Address("192.0.2.7:9900".parse().unwrap())], &[]);
        let found = elsewhere.instances(&Snapshot::default()).await;
        assert!(found.problem.unwrap().contains("another machine"));
        // A forwarded socket, whose gateway is no process of this machine.
        let mut forwarded = Units::new(&[Target::Socket("/x".into())], &[]);
        forwarded.processes = "/nowhere".into();
        let found = forwarded.instances(&gateway()).await;
        assert_eq!(found.list, []);
        assert!(found.problem.unwrap().contains("another machine"));
    }
}
