//! `edgeway healthcheck`: probes of the parts of a site, restarts of units that stay bad, and a
//! line of JSON with the outcome.

mod backoff;
mod log;
mod mongodb;
mod probe;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use edgeway_base::{
    clock::{Clock, rfc3339},
    secret::Secret,
    units::{Span, millis},
};
use serde::Serialize;
use tokio::time::{sleep, timeout};

pub use self::log::older;
use self::{
    backoff::Restarts,
    probe::{Probe, ProbeKind},
};
use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    out,
    program::{Machine, Programs},
    runtime, state_file,
};

/// Time that systemd has for a restart until the outcome is reported. The unit of the timer allows
/// for it.
const RESTART_DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug, clap::Args)]
pub struct HealthcheckOptions {
    /// Fetch a URL; a status below 400 is good
    #[arg(long, value_name = "NAME=URL", value_parser = probe::http)]
    http: Vec<Probe>,
    /// Ask the running gateway whether it is ready; the probe's name is `gateway`
    #[arg(long)]
    gateway: bool,
    /// Send PING to Redis: redis://HOST:PORT, rediss:// for TLS
    #[arg(long, value_name = "NAME=URL", value_parser = probe::redis)]
    redis: Vec<Probe>,
    /// The file with the password of Redis, for URLs without one
    #[arg(long, value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// Send `ping` to MongoDB, which needs no user
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = probe::mongodb)]
    mongodb: Vec<Probe>,
    /// Open a connection
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = probe::tcp)]
    tcp: Vec<Probe>,
    /// Restart this systemd unit if the probe fails
    #[arg(long, value_name = "NAME=UNIT", value_parser = pair)]
    restart: Vec<(String, String)>,
    /// The file that remembers restarts, for the pauses between them
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/edgeway-healthcheck/restarts.json"
    )]
    state: PathBuf,
    /// The pause after the first restart of a unit; each further one doubles it, up to an hour
    #[arg(long, value_name = "TIME", default_value = "4min")]
    pause: Span,
    /// Attempts of a probe until it counts as failed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10))]
    attempts: u32,
    /// Time between two attempts: an app that a deploy restarts must be back after the last one
    #[arg(long, value_name = "TIME", default_value = "5s")]
    delay: Span,
    /// Time limit of an attempt
    #[arg(long, value_name = "TIME", default_value = "5s")]
    timeout: Span,
    /// Append the line to this file as well, for `edgeway uptime`
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Restart nothing, and say which units would be restarted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminOption,
}

fn pair(text: &str) -> Result<(String, String), String> {
    const EXAMPLE: &str = "UNIT, such as api=node-app@3000.service";
    let pair = probe::named(text, EXAMPLE)?;
    if pair.1.starts_with('-') {
        return Err(format!("write NAME={EXAMPLE}"));
    }
    Ok(pair)
}

/// Outcome of a run, as it is printed.
#[derive(Debug, Serialize)]
struct Outcome {
    /// RFC 3339, UTC.
    at: String,
    ok: bool,
    probes: Vec<ProbeOutcome>,
    restarts: Vec<RestartOutcome>,
}

#[derive(Debug, Default, Serialize)]
struct ProbeOutcome {
    name: String,
    kind: &'static str,
    ok: bool,
    /// Time of the last attempt.
    took_ms: f64,
    /// Number of attempts.
    attempts: u32,
    error: Option<String>,
    /// True if a restart would not help: the gateway responds that it is not ready.
    #[serde(skip)]
    is_alive: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct RestartOutcome {
    unit: String,
    probe: String,
    outcome: RestartResult,
    error: Option<String>,
    /// End of the pause; RFC 3339, UTC.
    until: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum RestartResult {
    Restarted,
    Failed,
    /// Restarted shortly before, and left alone for now.
    Pausing,
    DryRun,
    /// The program responds, so a restart would not help.
    NotNeeded,
}

pub fn run(options: &HealthcheckOptions) -> Result<(), Failure> {
    if options.gateway {
        options.admin.client_or_report(OutputFormat::Text)?;
    }
    let probes = probes(options)?;
    if probes.is_empty() {
        return Err(Failure::usage(
            "there is nothing to probe: name at least one, such as `--gateway` or `--http \
             site=https://shop.example.com/`",
        ));
    }
    let runtime = runtime()?;
    let check = Check {
        options,
        programs: &Machine,
        clock: Clock::machine(),
    };
    let (outcome, problem) = runtime.block_on(check.run(&probes));
    let line = serde_json::to_string(&outcome).expect("plain data");
    out::data(&line);
    if let Some(why) = &problem {
        out::note(&format!("edgeway: {why}"));
    }
    if let Some(path) = &options.log {
        log::append(path, &line)
            .map_err(|error| format!("cannot append to `{}`: {error}", path.display()))?;
    }
    Failure::unless(outcome.ok && problem.is_none())
}

/// Collects the probes, and checks that they fit together.
fn probes(options: &HealthcheckOptions) -> Result<Vec<Probe>, String> {
    let mut probes: Vec<Probe> = options.http.clone();
    if options.gateway {
        probes.push(Probe {
            name: "gateway".to_owned(),
            kind: ProbeKind::Gateway(options.admin.client().map_err(|error| error.message)?),
        });
    }
    for more in [&options.redis, &options.mongodb, &options.tcp] {
        probes.extend(more.iter().cloned());
    }
    if let Some(path) = &options.redis_password_file {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
        let password = Secret::new(text.trim_end());
        for probe in &mut probes {
            probe.kind.set_password(&password);
        }
    }
    let mut names = BTreeSet::new();
    for probe in &probes {
        if !names.insert(probe.name.as_str()) {
            return Err(format!("two probes are named `{}`", probe.name));
        }
    }
    for (name, unit) in &options.restart {
        if !names.contains(name.as_str()) {
            return Err(format!(
                "`--restart {name}={unit}` names an unknown probe; there is {}",
                out::listed(&names)
            ));
        }
    }
    Ok(probes)
}

struct Check<'a, P> {
    options: &'a HealthcheckOptions,
    programs: &'a P,
    clock: Clock,
}

impl<P: Programs> Check<'_, P> {
    /// Runs the probes and the restarts. Returns a problem that kept units from being restarted.
    async fn run(&self, probes: &[Probe]) -> (Outcome, Option<String>) {
        // A slow probe must not delay the others.
        let all = probes.iter().map(|probe| self.probe(probe));
        let probes = futures_util::future::join_all(all).await;
        let time = rfc3339(self.clock.wall());
        let (restarts, problem) = self.restart(&probes).await;
        let outcome = Outcome {
            at: time,
            ok: probes.iter().all(|probe| probe.ok),
            probes,
            restarts,
        };
        (outcome, problem)
    }

    async fn probe(&self, probe: &Probe) -> ProbeOutcome {
        let mut outcome = ProbeOutcome {
            name: probe.name.clone(),
            kind: probe.kind.name(),
            ..ProbeOutcome::default()
        };
        loop {
            let start = self.clock.now();
            let result = probe.kind.ask(self.options.timeout.0).await;
            outcome.took_ms = millis(self.clock.now().duration_since(start));
            outcome.attempts += 1;
            outcome.ok = result.is_ok();
            outcome.is_alive = result.as_ref().is_err_and(|failure| failure.is_alive);
            outcome.error = result.err().map(|failure| failure.message);
            if outcome.ok || outcome.attempts >= self.options.attempts {
                return outcome;
            }
            sleep(self.options.delay.0).await;
        }
    }

    /// Restarts the units of probes that failed, unless they were restarted shortly before. Returns
    /// what was done, and the problem that kept the rest from being done.
    async fn restart(&self, probes: &[ProbeOutcome]) -> (Vec<RestartOutcome>, Option<String>) {
        let mut done = Vec::new();
        let outcome = if self.options.restart.is_empty() {
            Ok(())
        } else {
            self.restart_units(&self.bad_units(probes), &mut done).await
        };
        (done, outcome.err())
    }

    /// Returns the units of probes that failed. Several probes may belong to one: it is restarted
    /// once, and not at all if one of them says that a restart would not help.
    fn bad_units<'a>(&'a self, probes: &'a [ProbeOutcome]) -> Vec<BadUnit<'a>> {
        let mut bad: Vec<BadUnit<'_>> = Vec::new();
        for (name, unit) in &self.options.restart {
            let Some(probe) = probes.iter().find(|p| p.name == *name && !p.ok) else {
                continue;
            };
            match bad.iter_mut().find(|other| other.unit == unit) {
                Some(other) => other.is_alive |= probe.is_alive,
                None => bad.push(BadUnit {
                    unit,
                    probe: &probe.name,
                    is_alive: probe.is_alive,
                }),
            }
        }
        bad
    }

    async fn restart_units(
        &self,
        bad: &[BadUnit<'_>],
        done: &mut Vec<RestartOutcome>,
    ) -> Result<(), String> {
        let state = &self.options.state;
        // Two runs at once would restart a unit twice.
        let _lock = if self.options.dry_run {
            None
        } else {
            Some(state_file::lock(state).await?)
        };
        let mut restarts: Restarts = state_file::read(state)?;
        restarts.keep(|unit| {
            let mut units = self.options.restart.iter();
            bad.iter().any(|bad| bad.unit == unit) || !units.any(|(_, units)| units == unit)
        });
        let now = self.clock.wall().into();
        for unit in bad {
            let outcome = self.decide(unit, &mut restarts, now);
            done.push(outcome);
        }
        if self.options.dry_run {
            return Ok(());
        }
        // Written first: a run that is killed while systemctl waits has made a restart as well.
        let written = state_file::write(state, &restarts);
        if let Err(why) = written {
            done.retain(|outcome| outcome.outcome != RestartResult::Restarted);
            return Err(why);
        }
        // At the same time: one that stops slowly must not delay the others.
        let all = done.iter_mut().map(|outcome| async move {
            if outcome.outcome == RestartResult::Restarted
                && let Err(why) = self.restart_unit(&outcome.unit).await
            {
                outcome.outcome = RestartResult::Failed;
                outcome.error = Some(why);
            }
        });
        futures_util::future::join_all(all).await;
        Ok(())
    }

    /// Decides about one unit, and counts a restart.
    fn decide(
        &self,
        bad: &BadUnit<'_>,
        restarts: &mut Restarts,
        now: DateTime<Utc>,
    ) -> RestartOutcome {
        let mut until = None;
        let outcome = if bad.is_alive {
            RestartResult::NotNeeded
        } else if let Some(end) = restarts.pausing(bad.unit, now) {
            until = Some(rfc3339(end.into()));
            RestartResult::Pausing
        } else if self.options.dry_run {
            RestartResult::DryRun
        } else {
            restarts.count(bad.unit, now, self.options.pause.0);
            RestartResult::Restarted
        };
        RestartOutcome {
            unit: bad.unit.to_owned(),
            probe: bad.probe.to_owned(),
            outcome,
            error: None,
            until,
        }
    }

    async fn restart_unit(&self, unit: &str) -> Result<(), String> {
        let command = ["systemctl", "restart", "--", unit].map(str::to_owned);
        let run = timeout(RESTART_DEADLINE, self.programs.run(&command)).await;
        run.unwrap_or_else(|_| {
            let seconds = RESTART_DEADLINE.as_secs();
            Err(format!("not restarted after {seconds} s; systemd retries"))
        })
    }
}

/// Unit of probes that failed.
struct BadUnit<'a> {
    unit: &'a str,
    /// The first of them.
    probe: &'a str,
    /// True if one of them says that the program responds.
    is_alive: bool,
}
