//! `edgeway scale`: starts or stops apps, one systemd unit each, until the requested number is
//! reached, or the one that their load needs. The upstream's backends follow.

pub(super) mod auto;
mod decision;
#[cfg(test)]
mod tests;

use std::{fmt::Display, net::SocketAddr, time::Duration};

use edgeway_base::shell::shown;
use edgeway_base::units::Span;
use edgeway_status::snapshot::{BackendStatus, Scale, UpstreamStatus};

use super::{
    Failure,
    admin::AdminOption,
    backends::{
        CheckBaseline, Gateway, Interrupt, Name, RequestFailure, WaitFailure, check_interrupt,
        is_drained, until_good, until_idle,
    },
    client, out,
    program::{Machine, Manager, Programs},
    progress::Progress,
};

#[derive(Debug, clap::Args)]
pub struct ScaleOptions {
    /// The upstream; its configuration has `scale`
    upstream: String,
    /// The number of backends to reach, including those in the configuration
    #[arg(value_name = "N", required_unless_present = "auto")]
    count: Option<usize>,
    /// Measure the CPU of the units, and start two, stop one, or change nothing
    #[arg(long, conflicts_with = "count")]
    auto: bool,
    #[command(flatten)]
    rule: auto::RuleOptions,
    /// Change nothing, and print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Good checks in a row until a new app gets requests
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    probes: u64,
    /// Time limit for a new app to pass its checks
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
    /// Time limit for the requests in flight before an app is stopped
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_timeout: Span,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &ScaleOptions) -> Result<(), Failure> {
    client::ask_interruptible(&options.admin, async |gateway, interrupt| {
        let upstream = gateway.upstream(&options.upstream).await?;
        let turn = auto::Turn::begin(options, &gateway, upstream).await?;
        let Some(mut turn) = turn else {
            return Ok(());
        };
        let plan = Plan::make(&turn.upstream, turn.count)?;
        if options.dry_run {
            out::data(&plan.text());
            return Ok(());
        }
        turn.begun(&plan)?;
        let scaling = Scaling {
            gateway: &gateway,
            programs: &Machine,
            progress: Progress::new(plan.changes()),
            probes: options.probes,
            timeout: options.timeout.0,
            drain_timeout: options.drain_timeout.0,
            interrupt,
        };
        scaling.run(&plan).await?;
        Ok(turn.done()?)
    })
}

/// Apps to start and to stop.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    upstream: String,
    up: Vec<App>,
    down: Vec<App>,
    /// Apps that have a backend and are down, as after a reboot: their units are started.
    revived: Vec<App>,
    /// Number of backends afterwards.
    count: usize,
    manager: Manager,
}

/// An app: a backend and its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct App {
    name: Name,
    unit: String,
    /// True if the upstream has the backend, even if drained.
    is_member: bool,
}

impl Plan {
    fn make(upstream: &UpstreamStatus, count: usize) -> Result<Self, String> {
        let name = &upstream.name;
        let scale = upstream.scale.as_ref().ok_or_else(|| {
            format!(
                "upstream `{name}` has no `scale`: write such as \
                 `scale: {{ unit: \"node-app@{{port}}.service\", ports: 3000-3031 }}` and reload"
            )
        })?;
        let port_of_unit = |backend: &BackendStatus| port_of(backend, scale);
        let Backends { written, .. } = Backends::new(upstream, scale);
        if count < written {
            return Err(format!(
                "{written} backends of upstream `{name}` are written in the configuration: \
                 remove {} of them there and reload, or keep them from requests with \
                 `edgeway drain`",
                written - count
            ));
        }
        let ports = |is_wanted: fn(&BackendStatus) -> bool| {
            let added = upstream.backends.iter().filter(|b| b.origin == "added");
            let wanted = added.filter(|backend| is_wanted(backend));
            let mut ports: Vec<u16> = wanted.filter_map(port_of_unit).collect();
            ports.sort_unstable();
            ports
        };
        // Drained backends are left over from an earlier run, so they come first in either
        // direction.
        let mut unfinished = ports(is_drained);
        // The last one is stopped first, and one that is down before one that serves.
        let mut serving = ports(|backend| !is_drained(backend) && backend.healthy);
        let healthy = serving.len();
        serving.extend(ports(|backend| !is_drained(backend) && !backend.healthy));
        let wanted = count - written;
        let mut up = Vec::new();
        while serving.len() + up.len() < wanted && !unfinished.is_empty() {
            up.push((unfinished.remove(0), true));
        }
        let taken: Vec<u16> = upstream.backends.iter().filter_map(port_of_unit).collect();
        let mut free = (scale.first_port..=scale.last_port).filter(|port| !taken.contains(port));
        while serving.len() + up.len() < wanted {
            let port = free.next().ok_or_else(|| {
                format!(
                    "`scale.ports` of upstream `{name}` has room for {} backends: make the range \
                     longer and reload",
                    usize::from(scale.last_port - scale.first_port) + 1
                )
            })?;
            up.push((port, false));
        }
        let mut down: Vec<u16> = unfinished.into_iter().rev().collect();
        while serving.len() + up.len() > wanted {
            down.extend(serving.pop());
        }
        let app = |port: u16, is_member| App {
            name: Name::new(name, SocketAddr::new(scale.address, port)),
            unit: scale.unit.replace("{port}", &port.to_string()),
            is_member,
        };
        Ok(Self {
            upstream: name.clone(),
            up: up
                .into_iter()
                .map(|(port, is_member)| app(port, is_member))
                .collect(),
            down: down.into_iter().map(|port| app(port, true)).collect(),
            revived: serving
                .into_iter()
                .skip(healthy)
                .map(|port| app(port, true))
                .collect(),
            count,
            manager: Manager::named(&scale.manager),
        })
    }

    fn changes(&self) -> usize {
        self.revived.len() + self.up.len() + self.down.len()
    }

    /// Formats the steps, for a dry run.
    fn text(&self) -> String {
        let start = |app: &App| format!("start {}", app.unit);
        let stop = |app: &App| format!("drain, remove and stop {}", app.unit);
        let up = self.revived.iter().chain(&self.up).map(start);
        let steps: Vec<String> = up.chain(self.down.iter().map(stop)).collect();
        if steps.is_empty() {
            return format!("nothing to do for {}", out::counted(self.count, "backend"));
        }
        steps.join("\n")
    }
}

/// Numbers of backends in the range of `scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backends {
    /// Backends in the configuration, and others that DNS named.
    written: usize,
    /// Added ones that are not drained.
    added: usize,
    /// Backends of both kinds that are down.
    down: usize,
}

impl Backends {
    fn new(upstream: &UpstreamStatus, scale: &Scale) -> Self {
        let scaled = upstream.backends.iter();
        let scaled = scaled.filter(|backend| port_of(backend, scale).is_some());
        let (added, written): (Vec<_>, Vec<_>) = scaled.partition(|b| b.origin == "added");
        let in_use = |all: &[&BackendStatus], is_wanted: fn(&BackendStatus) -> bool| {
            let in_use = all.iter().filter(|backend| !is_drained(backend));
            in_use.filter(|backend| is_wanted(backend)).count()
        };
        let is_down = |backend: &BackendStatus| !backend.healthy;
        Self {
            written: written.len(),
            added: in_use(&added, |_| true),
            down: in_use(&added, is_down) + in_use(&written, is_down),
        }
    }

    /// Returns the CPU of apps that are all down, as after a reboot: there is nothing to measure,
    /// and all of them are to be started.
    fn idle(&self) -> Option<f64> {
        (self.down > 0 && self.down == self.written + self.added).then_some(0.0)
    }
}

/// Port of a backend, if it is in the range of `scale`.
fn port_of(backend: &BackendStatus, scale: &Scale) -> Option<u16> {
    let address: SocketAddr = backend.address.parse().ok()?;
    let is_own = address.ip() == scale.address
        && (scale.first_port..=scale.last_port).contains(&address.port());
    is_own.then_some(address.port())
}

struct Scaling<'a, G, P> {
    gateway: &'a G,
    programs: &'a P,
    progress: Progress,
    probes: u64,
    timeout: Duration,
    drain_timeout: Duration,
    interrupt: Interrupt,
}

impl<G: Gateway, P: Programs> Scaling<'_, G, P> {
    async fn run(mut self, plan: &Plan) -> Result<(), Failure> {
        let mut revived = Vec::new();
        for app in &plan.revived {
            revived.push((app, self.revive(app, plan.manager).await?));
        }
        for app in &plan.up {
            self.start(app, plan.manager).await?;
            self.progress.step_done();
        }
        for app in &plan.down {
            self.stop(app, plan.manager).await?;
            self.progress.step_done();
        }
        // Last, so that an app that hangs does not keep others from being started.
        for (app, since) in revived {
            self.returned(app, since).await?;
            self.progress.step_done();
        }
        self.progress.pause();
        let Plan {
            upstream, count, ..
        } = plan;
        let count = out::counted(*count, "backend");
        let already = if plan.changes() == 0 { " already" } else { "" };
        self.progress
            .say(&format!("upstream `{upstream}` has {count}{already}"));
        Ok(())
    }

    /// Starts the unit of a backend that is down. Nothing happens if it runs.
    async fn revive(&mut self, app: &App, manager: Manager) -> Result<CheckBaseline, Failure> {
        check_interrupt(&self.interrupt)?;
        let App { name, unit, .. } = app;
        self.progress
            .now(&format!("{name} is down: starting {unit}"));
        if let Err(why) = self.start_unit(manager, unit).await {
            return Err(self.failed(name, &why));
        }
        match self.gateway.backend(name).await {
            Ok(backend) => Ok(CheckBaseline::now(&backend)),
            Err(RequestFailure::Away(_)) => Ok(CheckBaseline::return_of_gateway()),
            Err(trouble) => Err(self.failed(name, &trouble)),
        }
    }

    /// Waits until a backend that was down passes its checks. It stays if it does not.
    async fn returned(&mut self, app: &App, since: CheckBaseline) -> Result<(), Failure> {
        let App { name, unit, .. } = app;
        match self.pass(name, since, &format!("; look at `{unit}`")).await {
            Ok(()) => {
                self.progress
                    .say(&format!("{name}: started again and in rotation"));
                Ok(())
            }
            Err((why, stop)) => {
                self.failed(name, &why);
                Err(stop)
            }
        }
    }

    /// Waits until the checks of a backend pass.
    ///
    /// # Errors
    ///
    /// Why they do not, and how the command ends; with a hint if the time is over.
    async fn pass(
        &self,
        name: &Name,
        since: CheckBaseline,
        hint: &str,
    ) -> Result<(), (String, Failure)> {
        let (probes, timeout) = (self.probes, self.timeout);
        self.progress
            .now(&format!("{name}: waiting for {probes} good checks"));
        let waited = until_good(self.gateway, name, since, probes, timeout, &self.interrupt).await;
        waited.map_err(|failure| match failure {
            WaitFailure::TooLong(seen) => {
                let timeout = Span(timeout);
                let why = format!("is not healthy after {timeout}: {seen}{hint}");
                (why, Failure::FAILED)
            }
            WaitFailure::Trouble(trouble) => (trouble.to_string(), Failure::FAILED),
            WaitFailure::Interrupted => ("not waited for".to_owned(), Failure::INTERRUPTED),
        })
    }

    fn failed(&self, name: &Name, why: &impl Display) -> Failure {
        self.progress.say(&format!("edgeway: {name}: {why}"));
        Failure::FAILED
    }

    /// Starts an app, and sends it requests once its checks pass.
    async fn start(&mut self, app: &App, manager: Manager) -> Result<(), Failure> {
        check_interrupt(&self.interrupt)?;
        let App { name, unit, .. } = app;
        self.progress.now(&format!("{name}: starting {unit}"));
        if let Err(why) = self.start_unit(manager, unit).await {
            let failure = self.failed(name, &why);
            // A unit that could not be started may be halfway up.
            self.take_back(app, manager).await;
            return Err(failure);
        }
        let member = if app.is_member {
            self.gateway.backend(name).await
        } else {
            self.gateway.add(name, 1, true, None).await
        };
        let since = match member {
            Ok(backend) => CheckBaseline::now(&backend),
            Err(trouble) => {
                self.progress
                    .say(&format!("edgeway: cannot add {name}: {trouble}"));
                self.take_back(app, manager).await;
                return Err(Failure::FAILED);
            }
        };
        let mut passed = self.pass(name, since, "").await;
        if passed.is_ok()
            && let Err(trouble) = self.gateway.undrain(name).await
        {
            passed = Err((trouble.to_string(), Failure::FAILED));
        }
        let Err((why, stop)) = passed else {
            self.progress
                .say(&format!("{name}: started and in rotation"));
            return Ok(());
        };
        self.progress.say(&format!(
            "edgeway: {name}: {why}; it is removed and stopped again"
        ));
        self.take_back(app, manager).await;
        Err(stop)
    }

    /// Cleans up after an app that did not come up. It never got a request.
    async fn take_back(&mut self, app: &App, manager: Manager) {
        match self.gateway.remove(&app.name, true).await {
            // The backend may not have been added.
            Ok(_) | Err(RequestFailure::Refused(_)) => {}
            Err(trouble @ RequestFailure::Away(_)) => {
                self.progress
                    .say(&format!("edgeway: cannot remove {}: {trouble}", app.name));
            }
        }
        if let Err(why) = self.systemctl(manager, "stop", &app.unit).await {
            self.failed(&app.name, &why);
        }
    }

    /// Drains an app, removes its backend and stops it.
    async fn stop(&mut self, app: &App, manager: Manager) -> Result<(), Failure> {
        check_interrupt(&self.interrupt)?;
        let App { name, unit, .. } = app;
        self.progress.now(&format!("{name}: draining"));
        if let Err(trouble) = self.gateway.drain(name, false).await {
            return Err(self.failed(name, &trouble));
        }
        let deadline = self.drain_timeout;
        match until_idle(self.gateway, name, deadline, &self.interrupt).await {
            Ok(()) => {}
            Err(WaitFailure::TooLong(left)) => {
                let (left, deadline) = (out::counted(left, "request"), Span(deadline));
                self.progress.say(&format!(
                    "{name}: {left} still in flight after {deadline}: stopping the app cuts them"
                ));
            }
            Err(WaitFailure::Trouble(trouble)) => return Err(self.failed(name, &trouble)),
            Err(WaitFailure::Interrupted) => {
                let again = match self.gateway.undrain(name).await {
                    Ok(_) => "it gets requests again".to_owned(),
                    Err(trouble) => format!("it is still drained: {trouble}"),
                };
                self.progress.say(&format!("{name}: not stopped; {again}"));
                return Err(Failure::INTERRUPTED);
            }
        }
        if let Err(trouble) = self.gateway.remove(name, true).await {
            return Err(self.failed(name, &trouble));
        }
        if let Err(why) = self.systemctl(manager, "stop", unit).await {
            self.progress.say(&format!(
                "edgeway: {name} gets no requests any more, but {why}"
            ));
            return Err(Failure::FAILED);
        }
        self.progress.say(&format!("{name}: removed and stopped"));
        Ok(())
    }

    /// Starts a unit. One that ended again and again has used up its starts: it gets new ones.
    async fn start_unit(&mut self, manager: Manager, unit: &str) -> Result<(), String> {
        let Err(why) = self.systemctl(manager, "start", unit).await else {
            return Ok(());
        };
        if self.systemctl(manager, "reset-failed", unit).await.is_err() {
            return Err(why);
        }
        self.systemctl(manager, "start", unit).await
    }

    async fn systemctl(&mut self, manager: Manager, verb: &str, unit: &str) -> Result<(), String> {
        let line = manager.systemctl(&[verb, "--", unit]);
        self.progress.pause();
        let outcome = self.programs.run(&line).await;
        self.progress.resume();
        outcome.map_err(|why| format!("`{}` failed: {why}", shown(&line)))
    }
}
