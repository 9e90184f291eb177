//! `edgeway rollout`: restarts the apps behind an upstream one after the other, so that no request
//! meets one that is down.

#[cfg(test)]
mod tests;
mod watch;

use std::{fmt::Write as _, path::PathBuf};

use edgeway_base::shell::shown;
use edgeway_base::units::Span;
use edgeway_cli::path::segment;
use edgeway_status::snapshot::{BackendStatus, UpstreamStatus};
use serde::{Deserialize, Serialize};

use self::watch::Watch;
use super::{
    Failure,
    admin::AdminOption,
    backends::{
        CheckBaseline, Gateway, Interrupt, Name, RequestFailure, WaitFailure, is_drained,
        until_good, until_idle,
    },
    client::{self, Remote},
    out,
    program::{Machine, Placeholders, Programs, UntilInterrupted},
    progress::Progress,
    scale::auto::{by_hand, read_state, state_of},
    state_file,
};

#[derive(Debug, clap::Args)]
pub struct RolloutOptions {
    /// The upstream whose backends are restarted
    upstream: String,
    /// Good checks in a row until a backend counts as back
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    probes: u64,
    /// Time limit for a backend to come back
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
    /// Time limit for the requests in flight; then the command aborts them
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_timeout: Span,
    /// A shell command to run for a backend that does not come back
    #[arg(long, value_name = "COMMAND")]
    on_fail: Option<String>,
    /// Continue to run, and restart each app whose memory reaches the upstream's `restart_at`
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// Print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Continue even if users get 503 meanwhile
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    admin: AdminOption,
    /// The command that restarts one backend; {port}, {host}, {address} and {upstream} are filled
    /// in
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(options: &RolloutOptions) -> Result<(), Failure> {
    client::ask_interruptible(&options.admin, async |gateway, interrupt| {
        if options.watch {
            let watch = Watch::new(&gateway, &Machine, options, Progress::lines(), interrupt);
            return Ok(watch.run().await?);
        }
        roll_out(options, &gateway, interrupt).await
    })
}

async fn roll_out(
    options: &RolloutOptions,
    gateway: &Remote,
    interrupt: Interrupt,
) -> Result<(), Failure> {
    // Two rollouts at once might each drain a backend.
    let name = format!("{}.rollout.json", segment(&options.upstream));
    let file = state_of(gateway, &name).await?;
    let locked = by_hand(&file, options.dry_run).await?;
    let file = locked.as_ref().map(|(file, _)| file.clone());
    let left: LeftDrained = file
        .as_deref()
        .map_or(Ok(LeftDrained::default()), read_state)?;
    let upstream = gateway.upstream(&options.upstream).await?;
    let plan = Plan::make(options, &upstream, &left)?;
    if options.dry_run {
        out::data(&plan.to_text(options));
        return Ok(());
    }
    let rollout = Rollout {
        options,
        gateway,
        programs: &UntilInterrupted(interrupt.clone()),
        progress: Progress::new(plan.steps.len()),
        file,
        check_interrupt: interrupt.clone(),
        interrupt,
    };
    let done = rollout.run(&plan).await;
    done.map_err(|error| match error {
        RolloutError::Interrupted => Failure::INTERRUPTED,
        RolloutError::NotDrained(_) | RolloutError::NotRestarted | RolloutError::Failed => {
            Failure::FAILED
        }
    })
}

/// State of rollouts: the backend that one drains, or has left drained.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LeftDrained {
    address: Option<String>,
}

/// Steps of a rollout, backend by backend.
#[derive(Debug)]
struct Plan {
    steps: Vec<RolloutStep>,
    /// Backends that were drained before: they are left alone.
    skipped: Vec<Name>,
}

#[derive(Debug)]
struct RolloutStep {
    name: Name,
    command: Vec<String>,
    on_fail: Option<Vec<String>>,
    /// True if an earlier rollout has left it drained.
    is_left: bool,
}

impl RolloutStep {
    fn new(options: &RolloutOptions, name: Name) -> Result<Self, String> {
        let placeholders = Placeholders::new(&name);
        let on_fail = options.on_fail.as_deref();
        Ok(Self {
            command: placeholders.arguments(&options.command)?,
            on_fail: on_fail.map(|line| placeholders.shell(line)).transpose()?,
            is_left: false,
            name,
        })
    }
}

impl Plan {
    fn make(
        options: &RolloutOptions,
        upstream: &UpstreamStatus,
        left: &LeftDrained,
    ) -> Result<Self, String> {
        let is_left =
            |it: &BackendStatus| is_drained(it) && left.address.as_ref() == Some(&it.address);
        let (skipped, mut rolled): (Vec<_>, Vec<_>) = upstream
            .backends
            .iter()
            .partition(|backend| is_drained(backend) && !is_left(backend));
        // While it is drained, another one may be the last in rotation.
        rolled.sort_by_key(|backend| !is_left(backend));
        let name = |address: &str| Name::new(&upstream.name, address);
        let mut steps = Vec::new();
        for backend in rolled {
            let mut step = RolloutStep::new(options, name(&backend.address))?;
            step.is_left = is_left(backend);
            steps.push(step);
        }
        match steps.as_slice() {
            [] => {
                return Err(format!(
                    "upstream `{}` has no backend that is not drained: there is nothing to restart",
                    upstream.name
                ));
            }
            [_] if !options.force => {
                return Err(format!(
                    "upstream `{}` has one backend in use: users get 503 while it restarts; add \
                 `--force` if that is meant",
                    upstream.name
                ));
            }
            _ => {}
        }
        let skipped = skipped.iter().map(|backend| name(&backend.address));
        Ok(Self {
            skipped: skipped.collect(),
            steps,
        })
    }

    fn to_text(&self, options: &RolloutOptions) -> String {
        let mut text = String::new();
        for name in &self.skipped {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{name}: skipped, it is drained");
        }
        for step in &self.steps {
            let _infallible = writeln!(
                text,
                "{}\n  drain it, wait up to {} for requests in flight\n  run: {}\n  \
                 wait up to {} for {} good checks in a row\n  send it requests again",
                step.name,
                options.drain_timeout,
                shown(&step.command),
                options.timeout,
                options.probes,
            );
            if let Some(on_fail) = &step.on_fail {
                let _infallible = writeln!(text, "  if it does not come back: {}", shown(on_fail));
            }
        }
        text
    }
}

/// Reason why a step ended early. All messages but that of a refused drain have been printed.
#[derive(Debug, PartialEq, Eq)]
enum RolloutError {
    /// The gateway refused to drain the backend, or could not be reached.
    NotDrained(RequestFailure),
    /// No command has run.
    NotRestarted,
    Failed,
    Interrupted,
}

struct Rollout<'a, G, P> {
    options: &'a RolloutOptions,
    gateway: &'a G,
    programs: &'a P,
    progress: Progress,
    /// File with [`LeftDrained`].
    file: Option<PathBuf>,
    interrupt: Interrupt,
    /// Interrupt of the wait for checks after the command.
    check_interrupt: Interrupt,
}

impl<G: Gateway, P: Programs> Rollout<'_, G, P> {
    async fn run(mut self, Plan { steps, skipped }: &Plan) -> Result<(), RolloutError> {
        for name in skipped {
            self.say_skipped(name);
        }
        let mut restarted = 0;
        for (index, step) in steps.iter().enumerate() {
            if *self.interrupt.borrow() {
                self.say_interrupted(&steps[index..]);
                return Err(RolloutError::Interrupted);
            }
            match self.step_unless_drained(step).await {
                Ok(is_restarted) => restarted += usize::from(is_restarted),
                Err(stop) => {
                    if let RolloutError::NotDrained(trouble) = &stop {
                        let name = &step.name;
                        self.progress
                            .say(&format!("edgeway: cannot drain {name}: {trouble}"));
                    }
                    let others: Vec<&str> = steps[index + 1..]
                        .iter()
                        .map(|step| step.name.address.as_str())
                        .collect();
                    if !others.is_empty() {
                        let others = others.join(", ");
                        self.progress.say(&format!("not restarted: {others}"));
                    }
                    return Err(stop);
                }
            }
            self.progress.step_done();
        }
        self.progress.pause();
        let all = out::counted(restarted, "backend");
        self.progress.say(&format!("{all} restarted"));
        Ok(())
    }

    /// Takes a step. Returns false if someone else has drained the backend since the plan was made.
    async fn step_unless_drained(&mut self, step: &RolloutStep) -> Result<bool, RolloutError> {
        let backend = self.gateway.backend(&step.name).await;
        if is_drained(&backend.map_err(RolloutError::NotDrained)?) && !step.is_left {
            self.say_skipped(&step.name);
            return Ok(false);
        }
        self.record(Some(step.name.address.clone()));
        let done = self.step(step).await;
        let is_left = matches!(done, Err(RolloutError::Failed | RolloutError::Interrupted));
        if !is_left {
            self.record(None);
        }
        done.map(|()| true)
    }

    /// Records what is drained, for the rollout after one that fails or is killed.
    fn record(&self, address: Option<String>) {
        let written = |file: &PathBuf| state_file::write(file, &LeftDrained { address });
        if let Some(Err(why)) = self.file.as_ref().map(written) {
            self.progress.say(&format!("edgeway: {why}"));
        }
    }

    async fn step(&mut self, step: &RolloutStep) -> Result<(), RolloutError> {
        self.drain(&step.name).await?;
        self.restart(step).await
    }

    fn say_skipped(&self, name: &Name) {
        self.progress
            .say(&format!("{name}: skipped, it is drained"));
    }

    /// Restarts the app of a drained backend, and waits until it is back in rotation.
    async fn restart(&mut self, step: &RolloutStep) -> Result<(), RolloutError> {
        let name = &step.name;
        self.progress
            .now(&format!("{name}: running `{}`", shown(&step.command)));
        self.progress.pause();
        let outcome = self.programs.run(&step.command).await;
        self.progress.resume();
        let why = match outcome {
            Err(why) if *self.interrupt.borrow() => {
                self.progress.say(&format!(
                    "{name}: stopped during its command ({why}); it stays drained; to send it \
                     requests again: `edgeway undrain {name}`"
                ));
                return Err(RolloutError::Interrupted);
            }
            Err(why) => format!("`{}` failed: {why}", shown(&step.command)),
            Ok(()) => match self.come_back(name).await? {
                Ok(()) => {
                    self.progress.say(&format!("{name}: back in rotation"));
                    return Ok(());
                }
                Err(why) => why,
            },
        };
        self.progress.say(&format!(
            "{name}: {why}; it stays drained, so no user reaches it"
        ));
        self.mend(step).await;
        Err(RolloutError::Failed)
    }

    /// Drains a backend and waits until no request is in flight.
    async fn drain(&mut self, name: &Name) -> Result<(), RolloutError> {
        let drained = self.gateway.drain(name, self.options.force).await;
        drained.map_err(RolloutError::NotDrained)?;
        self.progress
            .now(&format!("{name}: drained, waiting for requests in flight"));
        let deadline = self.options.drain_timeout;
        match until_idle(self.gateway, name, deadline.0, &self.interrupt).await {
            Ok(()) => Ok(()),
            Err(WaitFailure::TooLong(left)) => {
                let left = out::counted(left, "request");
                self.progress.say(&format!(
                    "{name}: {left} still in flight after {deadline}: the command aborts them"
                ));
                Ok(())
            }
            Err(WaitFailure::Interrupted) => {
                self.undo(name).await;
                Err(RolloutError::Interrupted)
            }
            Err(WaitFailure::Trouble(trouble)) => {
                self.progress.say(&format!("edgeway: {trouble}"));
                self.undo(name).await;
                Err(RolloutError::NotRestarted)
            }
        }
    }

    /// Sends requests to a backend again whose app was not touched.
    async fn undo(&mut self, name: &Name) {
        match self.gateway.undrain(name).await {
            Ok(_) => self
                .progress
                .say(&format!("{name}: not restarted; it gets requests again")),
            Err(trouble) => self.progress.say(&format!(
                "edgeway: {name} was not restarted and is still drained: {trouble}"
            )),
        }
    }

    /// Waits for passed checks, then sends the backend requests again. The inner error is the
    /// reason why it is not back.
    async fn come_back(&mut self, name: &Name) -> Result<Result<(), String>, RolloutError> {
        let RolloutOptions {
            probes, timeout, ..
        } = *self.options;
        self.progress
            .now(&format!("{name}: waiting for {probes} good checks"));
        let since = match self.gateway.backend(name).await {
            Ok(backend) => CheckBaseline::now(&backend),
            Err(RequestFailure::Away(_)) => CheckBaseline::return_of_gateway(),
            Err(RequestFailure::Refused(why)) => return Ok(Err(why)),
        };
        let interrupt = &self.check_interrupt;
        match until_good(self.gateway, name, since, probes, timeout.0, interrupt).await {
            Ok(()) => {}
            Err(WaitFailure::TooLong(seen)) => {
                return Ok(Err(format!("did not come back within {timeout}: {seen}")));
            }
            Err(WaitFailure::Trouble(trouble)) => return Ok(Err(trouble.to_string())),
            Err(WaitFailure::Interrupted) => {
                self.progress.say(&format!(
                    "{name}: restarted, but still drained, because no check has passed yet; once \
                     one passes: `edgeway undrain {name}`"
                ));
                return Err(RolloutError::Interrupted);
            }
        }
        match self.gateway.undrain(name).await {
            Ok(_) => Ok(Ok(())),
            Err(trouble) => Ok(Err(format!("is healthy, but not in use: {trouble}"))),
        }
    }

    /// Runs the `--on-fail` command for a backend that does not come back, and sends it requests
    /// again if that helped.
    async fn mend(&mut self, step: &RolloutStep) {
        let name = &step.name;
        let Some(on_fail) = &step.on_fail else {
            self.progress
                .say(&format!("once it is fixed: `edgeway undrain {name}`"));
            return;
        };
        self.progress
            .now(&format!("{name}: running `{}`", shown(on_fail)));
        self.progress.pause();
        let outcome = self.programs.run(on_fail).await;
        self.progress.resume();
        if let Err(why) = outcome {
            self.progress
                .say(&format!("{name}: `{}` failed: {why}", shown(on_fail)));
        }
        match self.come_back(name).await {
            Ok(Ok(())) => {
                self.progress
                    .say(&format!("{name}: back in rotation after `--on-fail`"));
            }
            Ok(Err(why)) => self.progress.say(&format!(
                "{name}: {why}; it stays drained; once it is fixed: `edgeway undrain {name}`"
            )),
            // The message has been printed.
            Err(_) => {}
        }
    }

    fn say_interrupted(&self, left: &[RolloutStep]) {
        let left: Vec<&str> = left.iter().map(|step| step.name.address.as_str()).collect();
        self.progress
            .say(&format!("stopped; not restarted: {}", left.join(", ")));
    }
}
