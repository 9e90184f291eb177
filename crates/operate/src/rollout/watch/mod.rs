//! `edgeway rollout --watch`: restarts the apps whose memory reaches the upstream's `restart_at`,
//! before the system kills them.
//!
//! A process of its own beside the gateway: it needs the right to restart units, which a process
//! that reads the requests of strangers must not have.
//!
//! Invariant: at any moment at most one backend is drained by the watch, and only one whose app has
//! reached its limit, or has not come back after that.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use edgeway_base::units::Span;
use edgeway_status::snapshot::{BackendStatus, RestartAt, UpstreamStatus};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Gateway, Interrupt, Name, Programs, Progress, RequestFailure, Rollout, RolloutError,
    RolloutOptions, RolloutStep,
};
use crate::{
    backends::{interrupted, is_drained},
    out,
};

/// Interval at which the status is read.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time until a backend that could not be drained is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Time after a restart before the same app is restarted again. It doubles each time the app reaches
/// its limit before half of it has passed: the limit may be below what the app needs.
const FIRST_BACK_OFF: Duration = Duration::from_mins(1);
const LONGEST_BACK_OFF: Duration = Duration::from_hours(1);
/// Failed restarts in a row after which a backend is left to an operator.
const MAX_FAILURES: u32 = 3;

/// Restarts of one backend, as far as the next one depends on them.
#[derive(Debug, Default)]
struct Record {
    /// Time before which reports do not count: the end of a restart, or the last time when the
    /// backend was out of rotation.
    reports_since: Option<Instant>,
    back_off: Duration,
    back_off_ends: Option<Instant>,
    /// True if the app has reached its limit again in the first half of the back-off.
    is_early: bool,
    /// End of the wait after a drain that was refused.
    retry_at: Option<Instant>,
    /// Failed restarts in a row.
    failures: u32,
    /// True if the watch has drained the backend, or may have.
    is_ours: bool,
    /// Reason against a restart that was printed last.
    reported: Option<Obstacle>,
}

/// Reason why an app that has reached its limit is not restarted now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Obstacle {
    BackOff,
    /// Another backend is drained by the watch.
    Other,
    NotDrained(String),
}

/// Watch over the memory of one upstream's apps.
pub(super) struct Watch<'a, G, P> {
    rollout: Rollout<'a, G, P>,
    /// Limits as of the last look; `None` before the first.
    limits: Option<RestartAt>,
    /// Records by address, of present backends only.
    records: BTreeMap<String, Record>,
    /// Trouble that was printed and lasts.
    trouble: Option<String>,
}

impl<'a, G: Gateway, P: Programs> Watch<'a, G, P> {
    pub(super) fn new(
        gateway: &'a G,
        programs: &'a P,
        options: &'a RolloutOptions,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Self {
        // A restart that has begun is completed: nobody would undrain the backend later.
        let (_, never) = watch::channel(false);
        Self {
            rollout: Rollout {
                options,
                gateway,
                programs,
                progress,
                file: None,
                interrupt,
                check_interrupt: never,
            },
            limits: None,
            records: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Watches until the command is interrupted.
    ///
    /// # Errors
    ///
    /// If there is nothing to watch.
    pub(super) async fn run(mut self) -> Result<(), RequestFailure> {
        while !*self.rollout.interrupt.borrow() {
            self.look().await?;
            // An interrupt ends the pause as well.
            let _either = timeout(POLL_INTERVAL, interrupted(&self.rollout.interrupt)).await;
        }
        Ok(())
    }

    /// Reads the status, and restarts an app if one is due. Trouble is waited out, except at the
    /// beginning that of a wrong command line or configuration.
    async fn look(&mut self) -> Result<(), RequestFailure> {
        // Before the request: ages in the response count from a later moment.
        let asked = Instant::now();
        let Rollout {
            gateway, options, ..
        } = &self.rollout;
        let upstream = match gateway.upstream(&options.upstream).await {
            Ok(upstream) => upstream,
            Err(refused @ RequestFailure::Refused(_)) if self.limits.is_none() => {
                return Err(refused);
            }
            Err(trouble) => {
                self.wait_out(format!("{trouble}; waiting until that has changed"));
                return Ok(());
            }
        };
        match (upstream.restart_at, self.limits) {
            (None, None) => {
                return Err(RequestFailure::Refused(format!(
                    "upstream `{}` has no `restart_at`: write such as `restart_at: {{ rss: \
                     900MiB }}` and reload",
                    upstream.name
                )));
            }
            (None, Some(_)) => self.wait_out(format!(
                "upstream `{}` has no `restart_at` any more: no app is restarted until it has one",
                upstream.name
            )),
            (Some(limits), None) => self.begin(&upstream, limits)?,
            (Some(limits), Some(before)) => {
                if limits != before {
                    self.say(&format!("`restart_at` is now {limits}"));
                }
                if self.trouble.take().is_some() {
                    self.say(&format!("watching upstream `{}` again", upstream.name));
                }
                self.limits = Some(limits);
            }
        }
        let limits = upstream.restart_at.unwrap_or_default();
        if let Some((name, why)) = self.due(&upstream, limits, asked) {
            self.restart(name, &why).await;
        }
        Ok(())
    }

    /// Checks the command with every backend, and prints what is watched.
    fn begin(
        &mut self,
        upstream: &UpstreamStatus,
        limits: RestartAt,
    ) -> Result<(), RequestFailure> {
        for backend in &upstream.backends {
            let name = name(upstream, backend);
            if is_drained(backend) {
                self.say(&format!("{name}: is drained, so it is left alone"));
            }
            RolloutStep::new(self.rollout.options, name).map_err(RequestFailure::Refused)?;
        }
        self.say(&format!(
            "watching {} of upstream `{}`, restart at {limits}",
            out::counted(upstream.backends.len(), "backend"),
            upstream.name
        ));
        if upstream.backends.len() == 1 && !self.rollout.options.force {
            self.say(
                "edgeway: users would get 503 while the only backend restarts, so it is not \
                 restarted: add another one, or `--force` if that is meant",
            );
        }
        self.limits = Some(limits);
        self.trouble = None;
        Ok(())
    }

    fn say(&self, line: &str) {
        self.rollout.progress.say(line);
    }

    /// Prints trouble once for as long as it lasts.
    fn wait_out(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            self.say(&format!("edgeway: {trouble}"));
        }
        self.trouble = Some(trouble);
    }

    /// Returns the backend to restart now, and the reason.
    fn due(
        &mut self,
        upstream: &UpstreamStatus,
        limits: RestartAt,
        asked: Instant,
    ) -> Option<(Name, String)> {
        self.update_records(upstream, asked);
        let mut over: Vec<_> = upstream
            .backends
            .iter()
            .filter(|backend| self.has_report(backend, asked))
            .filter_map(|backend| {
                let node = backend.node.as_ref()?;
                Some((node.rss_bytes, backend, limits.excess(node)?))
            })
            .collect();
        // The largest first: it is the closest to its end.
        over.sort_by_key(|(bytes, ..)| Reverse(*bytes));
        let out = upstream.backends.iter().find(|backend| {
            let record = self.records.get(&backend.address);
            record.is_some_and(|record| record.is_ours)
        });
        if let Some(out) = out {
            // Where one does not come back, another one may not either.
            for (_, backend, excess) in over {
                let text = format!("{excess}; not restarted while {} is drained", out.address);
                self.obstacle(&name(upstream, backend), Obstacle::Other, &text);
            }
            let record = self.records.get(&out.address)?;
            let is_due = record.failures < MAX_FAILURES && !is_ahead(record.retry_at, asked);
            return is_due.then(|| (name(upstream, out), "it is still drained".to_owned()));
        }
        for (_, backend, excess) in over {
            let name = name(upstream, backend);
            let record = self.records.get_mut(&name.address)?;
            if is_ahead(record.retry_at, asked) {
                continue;
            }
            let Some(ends) = record.back_off_ends.filter(|ends| asked < *ends) else {
                return Some((name, excess.to_string()));
            };
            let left = ends - asked;
            record.is_early |= left > record.back_off / 2;
            let left = Span(Duration::from_secs(left.as_secs() + 1));
            let text = format!(
                "{excess}, again: it is restarted in {left} at the earliest; is the limit below \
                 what the app needs?"
            );
            self.obstacle(&name, Obstacle::BackOff, &text);
        }
        None
    }

    /// Follows changes by others: operators drain and undrain, DNS removes, apps crash.
    fn update_records(&mut self, upstream: &UpstreamStatus, asked: Instant) {
        let is_present = |address: &String| {
            let mut all = upstream.backends.iter();
            all.any(|backend| backend.address == *address)
        };
        self.records.retain(|address, _| is_present(address));
        for backend in &upstream.backends {
            let record = self.records.entry(backend.address.clone()).or_default();
            let is_drained = is_drained(backend);
            if is_drained || matches!(&*backend.state, "down" | "ejected") {
                record.reports_since = Some(asked);
            }
            if record.is_ours && !is_drained {
                record.is_ours = false;
                record.failures = 0;
            }
        }
    }

    /// Returns true if the backend's report is about the app that serves there now.
    fn has_report(&self, backend: &BackendStatus, asked: Instant) -> bool {
        let node = backend.node.as_ref().filter(|node| node.is_fresh());
        let age = node.and_then(|node| Duration::try_from_secs_f64(node.age).ok());
        let record = self.records.get(&backend.address);
        let since = record.and_then(|record| record.reports_since);
        !is_drained(backend)
            && age.is_some_and(|age| since.is_none_or(|since| age < asked.duration_since(since)))
    }

    /// Prints once why an app is not restarted.
    fn obstacle(&mut self, name: &Name, obstacle: Obstacle, text: &str) {
        let Some(record) = self.records.get_mut(&name.address) else {
            return;
        };
        if record.reported.as_ref() != Some(&obstacle) {
            record.reported = Some(obstacle);
            self.say(&format!("{name}: {text}"));
        }
    }

    async fn restart(&mut self, name: Name, why: &str) {
        let step = match RolloutStep::new(self.rollout.options, name.clone()) {
            Ok(step) => step,
            Err(why) => {
                self.defer(&name, why);
                return;
            }
        };
        let Some(record) = self.records.get_mut(&name.address) else {
            return;
        };
        let is_again = record.failures > 0;
        record.is_ours = true;
        if !matches!(record.reported, Some(Obstacle::NotDrained(_))) {
            self.say(&format!("{name}: {why}: restarting it"));
        }
        let outcome = if is_again {
            self.rollout.restart(&step).await
        } else {
            self.rollout.step(&step).await
        };
        let Some(record) = self.records.get_mut(&name.address) else {
            return;
        };
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                let back_off = if record.is_early {
                    (record.back_off * 2).min(LONGEST_BACK_OFF)
                } else {
                    FIRST_BACK_OFF
                };
                *record = Record {
                    reports_since: Some(now),
                    back_off,
                    back_off_ends: Some(now + back_off),
                    ..Record::default()
                };
            }
            Err(RolloutError::Failed) => {
                record.failures += 1;
                let wait = FIRST_BACK_OFF * (1 << (record.failures - 1).min(6));
                record.retry_at = Some(now + wait);
                let text = if record.failures < MAX_FAILURES {
                    format!("trying again in {}", Span(wait))
                } else {
                    format!("{MAX_FAILURES} restarts have failed, so it stays drained")
                };
                self.say(&format!("{name}: {text}"));
            }
            Err(RolloutError::NotDrained(trouble)) => {
                // The response may be lost after the gateway has drained it.
                record.is_ours = matches!(trouble, RequestFailure::Away(_));
                self.defer(&name, trouble.to_string());
            }
            Err(RolloutError::NotRestarted) => record.retry_at = Some(now + RETRY),
            // The next look does not come.
            Err(RolloutError::Interrupted) => {}
        }
    }

    /// Tries again later to restart an app, and prints once why.
    fn defer(&mut self, name: &Name, why: String) {
        if let Some(record) = self.records.get_mut(&name.address) {
            record.retry_at = Some(Instant::now() + RETRY);
        }
        let text = format!("not restarted: {why}; trying again every {}", Span(RETRY));
        self.obstacle(name, Obstacle::NotDrained(why), &text);
    }
}

fn name(upstream: &UpstreamStatus, backend: &BackendStatus) -> Name {
    Name::new(&upstream.name, &backend.address)
}

/// Returns true if a moment has not come yet.
fn is_ahead(moment: Option<Instant>, now: Instant) -> bool {
    moment.is_some_and(|moment| now < moment)
}
