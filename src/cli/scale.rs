//! `edgeway scale`: starts or stops apps, one systemd unit each, until the requested number is
//! reached. The upstream's backends follow.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use super::{
    admin::AdminOption,
    backends::{
        CheckBaseline, Gateway, Interrupt, Name, RequestFailure, WaitFailure, interruptible,
        is_drained, requests, until_good, until_idle,
    },
    client::{self, failed},
    program::{Machine, Programs, shown},
    progress::Progress,
};
use crate::{
    base::units::Span,
    status::snapshot::{BackendStatus, Scale, UpstreamStatus},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The upstream; its configuration has `scale`
    upstream: String,
    /// The number of backends to reach, including those in the configuration
    #[arg(value_name = "N")]
    count: usize,
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

pub(super) fn run(options: &Options) -> ExitCode {
    client::ask(&options.admin, async |gateway| {
        let work = |interrupt| async move {
            let upstream = match gateway.upstream(&options.upstream).await {
                Ok(upstream) => upstream,
                Err(trouble) => return failed(&trouble),
            };
            let plan = match Plan::make(&upstream, options.count) {
                Ok(plan) => plan,
                Err(why) => return failed(&why),
            };
            let scaling = Scaling {
                gateway: &gateway,
                programs: &Machine,
                progress: Progress::of(plan.up.len() + plan.down.len()),
                probes: options.probes,
                timeout: options.timeout.0,
                drain_timeout: options.drain_timeout.0,
                interrupt,
            };
            match scaling.run(&plan).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(ScaleError::Failed) => ExitCode::FAILURE,
                Err(ScaleError::Interrupted) => ExitCode::from(130),
            }
        };
        interruptible(work).await
    })
}

/// Apps to start and to stop.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    upstream: String,
    up: Vec<App>,
    down: Vec<App>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    System,
    User,
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
        let own = |backend: &BackendStatus| port_of(backend, scale);
        let written = upstream.backends.iter().filter(|b| b.origin != "added");
        let written = written.filter_map(own).count();
        if count < written {
            return Err(format!(
                "{written} backends of upstream `{name}` are written in the configuration: \
                 remove {} of them there and reload, or keep them from requests with \
                 `edgeway drain`",
                written - count
            ));
        }
        let added = || upstream.backends.iter().filter(|b| b.origin == "added");
        let ports = |is_unfinished: bool| {
            let some = added().filter(|backend| is_drained(backend) == is_unfinished);
            let mut ports: Vec<u16> = some.filter_map(own).collect();
            ports.sort_unstable();
            ports
        };
        // Drained backends are left over from an earlier run, so they come first in either
        // direction.
        let (mut serving, mut unfinished) = (ports(false), ports(true));
        let wanted = count - written;
        let mut up = Vec::new();
        while serving.len() + up.len() < wanted && !unfinished.is_empty() {
            up.push((unfinished.remove(0), true));
        }
        let taken: Vec<u16> = upstream.backends.iter().filter_map(own).collect();
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
            name: Name {
                upstream: name.clone(),
                address: SocketAddr::new(scale.address, port).to_string(),
            },
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
            count,
            manager: match &*scale.manager {
                "user" => Manager::User,
                _ => Manager::System,
            },
        })
    }
}

/// Port of a backend, if it is in the range of `scale`.
fn port_of(backend: &BackendStatus, scale: &Scale) -> Option<u16> {
    let at: SocketAddr = backend.address.parse().ok()?;
    let is_own =
        at.ip() == scale.address && (scale.first_port..=scale.last_port).contains(&at.port());
    is_own.then_some(at.port())
}

/// Why scaling ended early. The messages have been printed.
#[derive(Debug, PartialEq, Eq)]
enum ScaleError {
    Failed,
    Interrupted,
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
    async fn run(mut self, plan: &Plan) -> Result<(), ScaleError> {
        let changes = plan.up.len() + plan.down.len();
        for app in &plan.up {
            self.start(app, plan.manager).await?;
            self.progress.step_done();
        }
        for app in &plan.down {
            self.stop(app, plan.manager).await?;
            self.progress.step_done();
        }
        self.progress.pause();
        let Plan {
            upstream, count, ..
        } = plan;
        let plural = if *count == 1 { "" } else { "s" };
        let already = if changes == 0 { " already" } else { "" };
        self.progress.say(&format!(
            "upstream `{upstream}` has {count} backend{plural}{already}"
        ));
        Ok(())
    }

    /// Starts an app, and sends it requests once its checks pass.
    async fn start(&mut self, app: &App, manager: Manager) -> Result<(), ScaleError> {
        if *self.interrupt.borrow() {
            return Err(ScaleError::Interrupted);
        }
        let App { name, unit, .. } = app;
        self.progress.now(&format!("{name}: starting {unit}"));
        if let Err(why) = self.systemctl(manager, "start", unit).await {
            self.progress.say(&format!("edgeway: {name}: {why}"));
            // A unit that could not be started may be halfway up.
            self.take_back(app, manager).await;
            return Err(ScaleError::Failed);
        }
        let member = if app.is_member {
            self.gateway.backend(name).await
        } else {
            self.gateway.add(name, 1, true).await
        };
        let since = match member {
            Ok(backend) => CheckBaseline::now(&backend),
            Err(trouble) => {
                self.progress
                    .say(&format!("edgeway: cannot add {name}: {trouble}"));
                self.take_back(app, manager).await;
                return Err(ScaleError::Failed);
            }
        };
        let Self {
            probes, timeout, ..
        } = *self;
        self.progress
            .now(&format!("{name}: waiting for {probes} good checks"));
        let waited = until_good(self.gateway, name, since, probes, timeout, &self.interrupt).await;
        let outcome = match waited {
            Ok(()) => self
                .gateway
                .undrain(name)
                .await
                .map_err(WaitFailure::Trouble),
            Err(why) => Err(why),
        };
        let (why, stop) = match outcome {
            Ok(_) => {
                self.progress
                    .say(&format!("{name}: started and in rotation"));
                return Ok(());
            }
            Err(WaitFailure::TooLong(seen)) => {
                let timeout = Span(timeout);
                (
                    format!("is not healthy after {timeout}: {seen}"),
                    ScaleError::Failed,
                )
            }
            Err(WaitFailure::Trouble(trouble)) => (trouble.to_string(), ScaleError::Failed),
            Err(WaitFailure::Interrupted) => ("not waited for".to_owned(), ScaleError::Interrupted),
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
            self.progress.say(&format!("edgeway: {}: {why}", app.name));
        }
    }

    /// Drains an app, removes its backend and stops it.
    async fn stop(&mut self, app: &App, manager: Manager) -> Result<(), ScaleError> {
        if *self.interrupt.borrow() {
            return Err(ScaleError::Interrupted);
        }
        let App { name, unit, .. } = app;
        let failed = |progress: &Progress, trouble: &RequestFailure| {
            progress.say(&format!("edgeway: {name}: {trouble}"));
            ScaleError::Failed
        };
        self.progress.now(&format!("{name}: draining"));
        if let Err(trouble) = self.gateway.drain(name, false).await {
            return Err(failed(&self.progress, &trouble));
        }
        let deadline = self.drain_timeout;
        match until_idle(self.gateway, name, deadline, &self.interrupt).await {
            Ok(()) => {}
            Err(WaitFailure::TooLong(left)) => {
                let (left, deadline) = (requests(left), Span(deadline));
                self.progress.say(&format!(
                    "{name}: {left} still in flight after {deadline}: stopping the app cuts them"
                ));
            }
            Err(WaitFailure::Trouble(trouble)) => return Err(failed(&self.progress, &trouble)),
            Err(WaitFailure::Interrupted) => {
                let again = match self.gateway.undrain(name).await {
                    Ok(_) => "it gets requests again".to_owned(),
                    Err(trouble) => format!("it is still drained: {trouble}"),
                };
                self.progress.say(&format!("{name}: not stopped; {again}"));
                return Err(ScaleError::Interrupted);
            }
        }
        if let Err(trouble) = self.gateway.remove(name, true).await {
            return Err(failed(&self.progress, &trouble));
        }
        if let Err(why) = self.systemctl(manager, "stop", unit).await {
            self.progress.say(&format!(
                "edgeway: {name} gets no requests any more, but {why}"
            ));
            return Err(ScaleError::Failed);
        }
        self.progress.say(&format!("{name}: removed and stopped"));
        Ok(())
    }

    async fn systemctl(&mut self, manager: Manager, verb: &str, unit: &str) -> Result<(), String> {
        let mut line = vec!["systemctl"];
        if manager == Manager::User {
            line.push("--user");
        }
        line.extend([verb, "--", unit]);
        let line: Vec<String> = line.into_iter().map(str::to_owned).collect();
        self.progress.pause();
        let outcome = self.programs.run(&line).await;
        self.progress.resume();
        outcome.map_err(|why| format!("`{}` failed: {why}", shown(&line)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::backends::tests::{FakeGateway, backend, interrupt},
        *,
    };

    /// Creates a gateway with two configured backends, and `added` ones with their states.
    fn gateway(added: &[(&str, &str)]) -> FakeGateway {
        let gateway = FakeGateway::new(&["127.0.0.1:3000", "127.0.0.1:3001"]);
        let mut state = gateway.state.borrow_mut();
        state.upstream.scale = Some(Scale {
            unit: "node-app@{port}.service".to_owned(),
            first_port: 3000,
            last_port: 3007,
            manager: "user".into(),
            address: "127.0.0.1".parse().unwrap(),
        });
        for (address, is) in added {
            let mut added = backend(address, "added");
            added.state = (*is).to_owned().into();
            state.upstream.backends.push(added);
        }
        drop(state);
        gateway
    }

    fn plan(gateway: &FakeGateway, count: usize) -> Result<Plan, String> {
        let upstream = gateway.state.borrow().upstream.clone();
        Plan::make(&upstream, count)
    }

    /// The ports to start and to stop.
    fn ports(added: &[(&str, &str)], count: usize) -> (Vec<String>, Vec<String>) {
        let plan = plan(&gateway(added), count).unwrap();
        let list = |apps: Vec<App>| -> Vec<String> {
            let ports = apps
                .iter()
                .filter_map(|app| app.name.address.split(':').nth(1));
            ports.map(str::to_owned).collect()
        };
        (list(plan.up), list(plan.down))
    }

    #[test]
    fn free_ports_are_taken_from_the_first_and_given_back_from_the_last() {
        let none: [&str; 0] = [];
        let (up, down) = ports(&[], 4);
        assert_eq!((up, down), (vec!["3002".into(), "3003".into()], vec![]));
        let four = [("127.0.0.1:3003", "healthy"), ("127.0.0.1:3002", "down")];
        let (up, down) = ports(&four, 3);
        assert_eq!((up, down), (vec![], vec!["3003".to_owned()]));
        assert_eq!(ports(&four, 2).1, ["3003", "3002"]);
        assert_eq!(ports(&four, 4), (vec![], vec![]));
        assert_eq!(ports(&[("127.0.0.1:3003", "healthy")], 4).0, ["3002"]);
        let elsewhere = [("127.0.0.1:4000", "healthy"), ("10.0.0.1:3002", "healthy")];
        assert_eq!(ports(&elsewhere, 3).0, ["3002"], "those are not counted");
        assert_eq!(ports(&elsewhere, 2).1, none, "nor stopped");
    }

    #[test]
    fn what_was_left_halfway_is_finished_or_taken_back() {
        let left = [("127.0.0.1:3002", "drained"), ("127.0.0.1:3004", "healthy")];
        assert_eq!(ports(&left, 4), (vec!["3002".to_owned()], vec![]));
        assert_eq!(ports(&left, 5).0, ["3002", "3003"]);
        assert_eq!(ports(&left, 3), (vec![], vec!["3002".to_owned()]));
        assert_eq!(ports(&left, 2).1, ["3002", "3004"]);
    }

    #[test]
    fn an_impossible_scale_is_reported_with_a_remedy() {
        let refused = plan(&gateway(&[]), 1).unwrap_err();
        assert!(
            refused.starts_with("2 backends of upstream `web` are written"),
            "{refused}"
        );
        assert!(
            refused.contains("remove 1 of them there and reload"),
            "{refused}"
        );
        let refused = plan(&gateway(&[]), 9).unwrap_err();
        assert!(refused.contains("room for 8 backends"), "{refused}");
        let without = FakeGateway::new(&["127.0.0.1:3000"]);
        let refused = plan(&without, 2).unwrap_err();
        assert!(refused.contains("has no `scale`"), "{refused}");
    }

    struct Fake<'a> {
        gateway: &'a FakeGateway,
        /// The `systemctl` verb that fails.
        fails: Option<&'static str>,
    }

    impl Programs for Fake<'_> {
        async fn run(&self, arguments: &[String]) -> Result<(), String> {
            let line = shown(arguments);
            let is_bad = self.fails.is_some_and(|verb| line.contains(verb));
            self.gateway.state.borrow_mut().log.push(line);
            if is_bad {
                Err("exit status: 1".to_owned())
            } else {
                Ok(())
            }
        }
    }

    async fn scale(
        gateway: &FakeGateway,
        count: usize,
        fails: Option<&'static str>,
    ) -> (Result<(), ScaleError>, Vec<String>, Vec<String>) {
        let plan = plan(gateway, count).unwrap();
        let (progress, lines) = Progress::recorded(plan.up.len());
        let (_sender, interrupt) = interrupt();
        let scaling = Scaling {
            gateway,
            programs: &Fake { gateway, fails },
            progress,
            probes: 3,
            timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            interrupt,
        };
        let outcome = scaling.run(&plan).await;
        let lines = lines.borrow().clone();
        (outcome, gateway.log(), lines)
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_app_is_started_added_and_checked_before_it_serves() {
        let gateway = gateway(&[]);
        let (outcome, log, lines) = scale(&gateway, 3, None).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            log,
            [
                "systemctl --user start -- node-app@3002.service",
                "add 127.0.0.1:3002",
                "undrain 127.0.0.1:3002",
            ]
        );
        assert_eq!(lines.last().unwrap(), "upstream `web` has 3 backends");
        let (_, _, lines) = scale(&gateway, 3, None).await;
        assert_eq!(lines, ["upstream `web` has 3 backends already"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_goes_is_drained_removed_and_stopped() {
        let gateway = gateway(&[("127.0.0.1:3002", "healthy")]);
        gateway.with("127.0.0.1:3002", |backend| backend.in_flight = 4);
        gateway.state.borrow_mut().finishes = 1;
        let (outcome, log, _) = scale(&gateway, 2, None).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            log,
            [
                "drain 127.0.0.1:3002",
                "remove 127.0.0.1:3002",
                "systemctl --user stop -- node-app@3002.service",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_does_not_come_up_leaves_nothing_behind() {
        let gateway = gateway(&[]);
        let bad = ("127.0.0.1:3002".to_owned(), "connection refused".to_owned());
        gateway.state.borrow_mut().broken.extend([bad]);
        let (outcome, log, lines) = scale(&gateway, 4, None).await;
        assert_eq!(outcome, Err(ScaleError::Failed));
        assert_eq!(
            log,
            [
                "systemctl --user start -- node-app@3002.service",
                "add 127.0.0.1:3002",
                "remove 127.0.0.1:3002",
                "systemctl --user stop -- node-app@3002.service",
            ]
        );
        let lines = lines.join("\n");
        assert!(lines.contains("is not healthy after 10s"), "{lines}");
        assert!(lines.contains("connection refused"), "{lines}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_that_cannot_be_started_is_reported_with_the_command() {
        let gateway = gateway(&[("127.0.0.1:3002", "drained")]);
        let (outcome, log, lines) = scale(&gateway, 3, Some("start")).await;
        assert_eq!(outcome, Err(ScaleError::Failed));
        assert_eq!(
            log[1..],
            [
                "remove 127.0.0.1:3002",
                "systemctl --user stop -- node-app@3002.service"
            ]
        );
        assert!(
            lines.iter().any(|line| line.contains(
                "`systemctl --user start -- node-app@3002.service` failed: exit status: 1"
            )),
            "{lines:?}"
        );
    }
}
