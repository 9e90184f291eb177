//! Replacement of a release on a machine that has the memory for one instance more: each new
//! instance takes the place of an old one.
//!
//! Invariant: never more than one instance above the configured number runs, whichever release it is
//! of; and visitors have at least half of the instances at any time.

use std::{mem, time::Duration};

use edgeway_status::snapshot::UpstreamStatus;
use tokio::sync::watch;

use super::{Deploy, instances::Instance, settings};
use crate::{
    Failure,
    backends::{Gateway as _, check_interrupt, serves, until_idle},
};

/// Time for requests in flight on an instance that is stopped.
const DRAIN: Duration = Duration::from_mins(1);

/// Next step of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OverlapStep {
    StopOld,
    StartNew,
    /// Makes the new release the current one.
    Switch,
    Done,
}

/// Next step back to the old release, after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepBack {
    StopNew,
    StartOld,
    SwitchBack,
    Done,
}

/// Instances that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InstanceCounts {
    old: usize,
    new: usize,
    is_switched: bool,
}

impl InstanceCounts {
    /// Returns the next step to a new release with `wanted` instances.
    fn next(self, wanted: usize) -> OverlapStep {
        let is_even = self.new > 0 && self.new >= self.old;
        if !self.is_switched && (is_even || self.new >= wanted) {
            OverlapStep::Switch
        } else if self.new >= wanted {
            OverlapStep::Done
        } else if self.old + self.new > wanted {
            OverlapStep::StopOld
        } else {
            OverlapStep::StartNew
        }
    }

    /// Returns the next step back to `before` instances of the old release.
    fn next_back(self, before: usize, wanted: usize) -> StepBack {
        if self.is_switched && self.old > 0 && (self.old >= self.new || self.old >= before) {
            StepBack::SwitchBack
        } else if self.old < before && (self.new == 0 || self.old + self.new <= wanted) {
            StepBack::StartOld
        } else if self.new > 0 {
            StepBack::StopNew
        } else {
            StepBack::Done
        }
    }
}

/// Replacement in progress.
struct Replacement {
    current: String,
    release: String,
    /// Running instances of the current release, after those that stand in for it, and their number
    /// at the beginning.
    old: Vec<Instance>,
    before: usize,
    new: Vec<Instance>,
    is_switched: bool,
    /// True if the new release has been a current one before.
    was_known: bool,
}

impl Replacement {
    fn counts(&self) -> InstanceCounts {
        InstanceCounts {
            old: self.old.len(),
            new: self.new.len(),
            is_switched: self.is_switched,
        }
    }
}

impl Deploy<'_> {
    /// Replaces the current release by another one, instance by instance. After a failure the
    /// current release has its instances again.
    pub(super) async fn replace_one_by_one(&mut self, release: &str) -> Result<(), Failure> {
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        let current = status.current_release.clone();
        let Some(current) = current.filter(|current| current != release) else {
            return self.replace_at_once(release).await;
        };
        let new = self.running(&status, release).await?;
        let is_down = !serves(&status, &current);
        let (mut old, mut of_current) = (Vec::new(), Vec::new());
        for instance in self.instances(&status) {
            if new.iter().any(|it| it.port == instance.port) {
                continue;
            }
            if instance.release == current {
                of_current.push(instance);
            } else if is_down && serves(&status, &instance.release) {
                // It stands in for the current release, so it is the last to be stopped.
                old.push(instance);
            } else {
                // Another release that lingers: there is no memory for it.
                self.progress.now(&format!("stopping {instance}"));
                self.stop_instance(&instance).await?;
            }
        }
        old.append(&mut of_current);
        let mut replacement = Replacement {
            release: release.to_owned(),
            before: old.len(),
            current,
            old,
            new,
            is_switched: false,
            was_known: self.folder.state()?.releases.contains_key(release),
        };
        let replaced = self.advance(&mut replacement).await;
        // Without a response to the switch, nobody knows which one serves.
        if replaced.is_err() && self.may_serve == replacement.is_switched {
            self.go_back(replacement).await;
        }
        replaced
    }

    async fn advance(&mut self, replacement: &mut Replacement) -> Result<(), Failure> {
        let wanted = self.settings.instances as usize;
        loop {
            match replacement.counts().next(wanted) {
                OverlapStep::StartNew => {
                    let started = self.start(&replacement.release).await?;
                    replacement.new.push(started);
                    self.progress.step_done();
                }
                OverlapStep::StopOld => {
                    check_interrupt(&self.interrupt)?;
                    let Some(instance) = replacement.old.pop() else {
                        return Ok(());
                    };
                    self.progress.now(&format!("stopping {instance}"));
                    self.stop_instance(&instance).await?;
                }
                OverlapStep::Switch => {
                    self.switch(&replacement.release).await?;
                    replacement.is_switched = true;
                }
                OverlapStep::Done => return Ok(()),
            }
        }
    }

    /// Brings the instances of the current release back.
    async fn go_back(&mut self, mut replacement: Replacement) {
        let wanted = self.settings.instances as usize;
        // The user has interrupted the deploy, not this.
        let (_keeps_open, silent) = watch::channel(false);
        let interrupt = mem::replace(&mut self.interrupt, silent);
        loop {
            let step = replacement.counts().next_back(replacement.before, wanted);
            let done = match step {
                StepBack::StartOld => {
                    let started = self.start(&replacement.current).await;
                    started.map(|instance| replacement.old.push(instance))
                }
                StepBack::StopNew => match replacement.new.pop() {
                    Some(instance) => self.stop_instance(&instance).await,
                    None => Ok(()),
                },
                StepBack::SwitchBack => {
                    replacement.is_switched = false;
                    self.switch_back(&replacement).await
                }
                StepBack::Done => break,
            };
            let why = match done {
                Ok(()) => continue,
                Err(Failure::Message(why)) => why,
                Err(Failure::Status(_)) => "interrupted".to_owned(),
            };
            self.progress.say(&format!(
                "edgeway: cannot start the instances of release `{}` again: {why}",
                replacement.current
            ));
            break;
        }
        self.interrupt = interrupt;
    }

    async fn switch_back(&mut self, replacement: &Replacement) -> Result<(), Failure> {
        let Replacement {
            current, release, ..
        } = replacement;
        let switched = self.gateway.switch_release(&self.upstream, current);
        switched.await?;
        self.may_serve = false;
        self.folder
            .switched(current, Some(release), Duration::ZERO)?;
        if !replacement.was_known {
            self.folder.forget(release)?;
        }
        Ok(())
    }

    fn instances(&self, status: &UpstreamStatus) -> Vec<Instance> {
        let backends = status.backends.iter();
        backends
            .filter_map(|backend| {
                let release = backend.release.as_deref()?;
                Instance::at(&self.upstream, &backend.address, release)
            })
            .collect()
    }

    /// Takes an instance out of rotation, waits for its requests and stops it. The process that ends
    /// releases may do the same at the same time.
    async fn stop_instance(&self, instance: &Instance) -> Result<(), Failure> {
        let name = &instance.name;
        if let Ok(backend) = self.gateway.backend(name).await {
            // Visitors lose nothing by the end of one that is down.
            let drained = self.gateway.drain(name, !backend.healthy).await;
            if let Err(failure) = drained
                && self.gateway.backend(name).await.is_ok()
            {
                return Err(failure.into());
            }
            // What is still in flight then is aborted.
            drop(until_idle(self.gateway, name, DRAIN, &self.interrupt).await);
            let removed = self.gateway.remove(name, true).await;
            if let Err(failure) = removed
                && self.gateway.backend(name).await.is_ok()
            {
                return Err(failure.into());
            }
        }
        Ok(instance.stop(&self.settings, &self.folder).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instances that visitors have.
    fn serving(counts: InstanceCounts) -> usize {
        if counts.is_switched {
            counts.new
        } else {
            counts.old
        }
    }

    fn stepped(counts: InstanceCounts, step: OverlapStep) -> InstanceCounts {
        let InstanceCounts {
            mut old,
            mut new,
            mut is_switched,
        } = counts;
        match step {
            OverlapStep::StopOld => old -= 1,
            OverlapStep::StartNew => new += 1,
            OverlapStep::Switch => is_switched = true,
            OverlapStep::Done => {}
        }
        InstanceCounts {
            old,
            new,
            is_switched,
        }
    }

    fn stepped_back(counts: InstanceCounts, step: StepBack) -> InstanceCounts {
        let InstanceCounts {
            mut old,
            mut new,
            mut is_switched,
        } = counts;
        match step {
            StepBack::StopNew => new -= 1,
            StepBack::StartOld => old += 1,
            StepBack::SwitchBack => is_switched = false,
            StepBack::Done => {}
        }
        InstanceCounts {
            old,
            new,
            is_switched,
        }
    }

    /// Returns all states of a replacement, from `old` instances and perhaps one of the new release
    /// that still runs.
    fn course(old: usize, new: usize, wanted: usize) -> Vec<InstanceCounts> {
        let mut counts = InstanceCounts {
            old,
            new,
            is_switched: false,
        };
        let mut course = vec![counts];
        while counts.next(wanted) != OverlapStep::Done {
            counts = stepped(counts, counts.next(wanted));
            course.push(counts);
            assert!(course.len() < 100, "it ends");
        }
        course
    }

    /// Checks the invariant, for each number of instances and wherever a failure comes.
    #[test]
    fn one_more_runs_at_most_and_half_serve_at_least() {
        for wanted in 1..=9_usize {
            for (old, new) in [
                (wanted, 0),
                (wanted, 1),
                (1, 0),
                (1, wanted),
                (wanted - 1, 1),
            ] {
                if old == 0 {
                    continue;
                }
                let least = (wanted.min(old)).div_ceil(2);
                let course = course(old, new, wanted);
                let end = course[course.len() - 1];
                assert!(end.is_switched && end.new == wanted, "{course:?}");
                for (at, counts) in course.iter().enumerate() {
                    assert!(counts.old + counts.new <= wanted + 1, "{course:?}");
                    let serving = serving(*counts);
                    assert!(serving >= least, "{at}: {serving} of {course:?}");
                    let mut back = vec![*counts];
                    while back[back.len() - 1].next_back(old, wanted) != StepBack::Done {
                        let last = back[back.len() - 1];
                        back.push(stepped_back(last, last.next_back(old, wanted)));
                        assert!(back.len() < 100, "{back:?}");
                    }
                    for counts in &back {
                        assert!(counts.old + counts.new <= wanted + 1, "{back:?}");
                        assert!(self::serving(*counts) > 0, "{back:?}");
                    }
                    let end = back[back.len() - 1];
                    assert_eq!((end.old, end.new, end.is_switched), (old, 0, false));
                }
            }
        }
    }
}
