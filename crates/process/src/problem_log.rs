//! Log lines when a problem begins and when it ends, and the number of problems as a metric: what the
//! status page and `edgeway top` show, for those who look at neither.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use edgeway_base::{
    clock::{Clock, rfc3339},
    metrics::{IntGauge, Metrics},
    units::Span,
};
use edgeway_proxy::live::{ProblemMetric, ProcessMetrics};
use edgeway_status::{
    problems::{self, Problem, Severity},
    snapshot::ProblemOnset,
};
use log::{info, warn};

use super::{control::Control, source::RunningState};

/// Interval of looks.
const EVERY: Duration = Duration::from_secs(2);

/// Longest time without a look while no client sends anything and no problem is open: health
/// checks, names in DNS and certificates change without requests.
const AT_LATEST: Duration = Duration::from_secs(10);

/// Looks in a row without a problem after which it has ended.
const ENDED: u32 = 5;

/// Looks after which a problem of the predecessor that was not found again has ended.
const INHERITED: u32 = 30;

/// Maximum number of problems with a series of their own.
const MAX_SERIES: usize = 100;

/// Looks for problems, more often while clients send requests or a problem is open.
pub(super) async fn watch(control: Arc<Control>) {
    let activity = Arc::clone(control.live.connections.activity());
    let inherited = control.problem_onsets.lock().clone();
    let (process, metrics) = (&control.live.process, &control.live.world.metrics);
    let mut report = ProblemReport::new(process, metrics, inherited);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Right after the start, connections to Redis are only being made.
    ticks.tick().await;
    let mut is_alone = false;
    loop {
        ticks.tick().await;
        let quiet = activity.quiet();
        let state = RunningState::new(Arc::clone(&control));
        let clock = control.live.world.clock.clone();
        let look = move || problems::find(&state.read(), DateTime::<Utc>::from(clock.wall()));
        let problems = if is_alone {
            // Another thread would have to wake up, and this one has nothing else to do.
            Ok(look())
        } else {
            tokio::task::spawn_blocking(look).await
        };
        match problems {
            Ok(problems) => {
                report.look(&problems, &control.live.world.clock);
                *control.problem_onsets.lock() = report.onsets();
            }
            Err(error) => warn!(error:%; "cannot look for problems"),
        }
        is_alone = false;
        if let Some(quiet) = quiet.filter(|_| report.is_settled()) {
            let sign = activity.sign_after(quiet);
            is_alone = tokio::time::timeout(AT_LATEST, sign).await.is_err();
            if is_alone {
                ticks.reset_immediately();
            } else {
                ticks.reset();
            }
        }
    }
}

/// Problems that were reported and have not ended.
struct ProblemReport {
    open: HashMap<ProblemKey, OpenProblem>,
    /// Problems of the predecessor that were not found yet.
    inherited: Vec<ProblemOnset>,
    looks: u32,
    errors: IntGauge,
    warnings: IntGauge,
    metrics: Metrics,
}

/// Kind and subject.
type ProblemKey = (&'static str, String);

struct OpenProblem {
    text: String,
    severity: Severity,
    since: Instant,
    /// Time of the last look that found it.
    seen: Instant,
    /// The beginning, for people.
    onset: String,
    looks_without: u32,
}

impl ProblemReport {
    fn new(process: &ProcessMetrics, metrics: &Metrics, inherited: Vec<ProblemOnset>) -> Self {
        Self {
            open: HashMap::new(),
            inherited,
            looks: 0,
            errors: process.errors.clone(),
            warnings: process.warnings.clone(),
            metrics: metrics.clone(),
        }
    }

    /// Returns true if no problem is open, and none of the predecessor is awaited.
    fn is_settled(&self) -> bool {
        self.open.is_empty() && self.inherited.is_empty()
    }

    fn look(&mut self, problems: &[Problem], clock: &Clock) {
        let now = clock.now();
        self.looks = self.looks.saturating_add(1);
        if self.looks > INHERITED {
            self.inherited.clear();
        }
        let count = |severity| {
            let of_it = problems.iter().filter(|it| it.severity == severity);
            i64::try_from(of_it.count()).unwrap_or(i64::MAX)
        };
        self.errors.set(count(Severity::Error));
        self.warnings.set(count(Severity::Warning));
        for open in self.open.values_mut() {
            open.looks_without += 1;
        }
        for problem in problems {
            let key = (problem.kind, problem.subject.clone());
            let known = self.open.get_mut(&key);
            if let Some(open) = known {
                (open.looks_without, open.seen) = (0, now);
                if open.severity != problem.severity {
                    forget_problem(&self.metrics, &key, open.severity);
                    open.severity = problem.severity;
                    publish_problem(&self.metrics, &key, open.severity);
                }
                continue;
            }
            warn!(problem = problem.kind; "problem began: {}", problem.text);
            if self.open.len() < MAX_SERIES {
                publish_problem(&self.metrics, &key, problem.severity);
            }
            let open = OpenProblem {
                text: problem.text.clone(),
                severity: problem.severity,
                since: now,
                seen: now,
                onset: self
                    .inherited(&key)
                    .unwrap_or_else(|| rfc3339(clock.wall())),
                looks_without: 0,
            };
            self.open.insert(key, open);
        }
        self.open.retain(|key, open| {
            let is_open = open.looks_without < ENDED;
            if !is_open {
                let lasted = open.seen.saturating_duration_since(open.since);
                let lasted = Span::secs(lasted.as_secs());
                info!(problem = key.0; "problem ended after {lasted}: {}", open.text);
                forget_problem(&self.metrics, key, open.severity);
            }
            is_open
        });
    }

    /// Takes the beginning of a problem that the predecessor had as well.
    fn inherited(&mut self, (kind, subject): &ProblemKey) -> Option<String> {
        let is_it = |onset: &ProblemOnset| onset.kind == *kind && onset.subject == *subject;
        let index = self.inherited.iter().position(is_it)?;
        Some(self.inherited.swap_remove(index).since)
    }

    /// Returns the beginnings of the problems that have not ended, the predecessor's among them.
    fn onsets(&self) -> Vec<ProblemOnset> {
        let inherited = self.inherited.iter().cloned();
        let open = self
            .open
            .iter()
            .map(|((kind, subject), open)| ProblemOnset {
                kind: (*kind).to_owned(),
                subject: subject.clone(),
                since: open.onset.clone(),
            });
        inherited.chain(open).collect()
    }
}

/// Adds the series of a problem.
fn publish_problem(metrics: &Metrics, (kind, subject): &ProblemKey, severity: Severity) {
    let metric = ProblemMetric::new(metrics, kind, severity.name(), subject);
    metric.lasts.set(1);
}

/// Drops the series of a problem.
fn forget_problem(metrics: &Metrics, (kind, subject): &ProblemKey, severity: Severity) {
    ProblemMetric::forget(metrics, kind, severity.name(), subject);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(subject: &str, text: &str) -> Problem {
        Problem {
            severity: Severity::Warning,
            kind: "backend_slow",
            subject: subject.to_owned(),
            text: text.to_owned(),
            since: None,
            section: "upstreams",
        }
    }

    #[test]
    fn a_problem_is_one_while_its_figures_change_and_ends_once_it_is_missing_for_a_while() {
        let metrics = Metrics::default();
        let mut report = ProblemReport::new(&ProcessMetrics::new(&metrics), &metrics, Vec::new());
        let series = || {
            let mut subjects = Vec::new();
            metrics.each_gauge(ProblemMetric::FAMILIES[0], |series, value| {
                assert_eq!(value, 1);
                subjects.push(series.get("subject").unwrap_or_default().to_owned());
            });
            subjects.sort();
            subjects.join(" ")
        };
        let clock = Clock::test();
        let now = &clock;
        assert_eq!(series(), "");
        report.look(&[problem("a", "a is slow: 1 s"), problem("b", "b")], now);
        assert_eq!((report.open.len(), report.warnings.get()), (2, 2));
        assert_eq!(series(), "a b");
        report.look(&[problem("a", "a is slow: 2 s")], now);
        assert_eq!((report.open.len(), report.warnings.get()), (2, 1));
        for _ in 1..ENDED {
            report.look(&[problem("a", "a is slow: 3 s")], now);
        }
        assert_eq!((report.open.len(), series()), (1, "a".to_owned()));
        for _ in 1..ENDED {
            report.look(&[], now);
        }
        let mut worse = problem("a", "a is slow: 4 s");
        worse.severity = Severity::Error;
        report.look(&[worse], now);
        assert_eq!(series(), "a", "one series, with the new severity");
        for _ in 1..ENDED {
            report.look(&[], now);
        }
        assert_eq!(report.open.len(), 1, "it was there in between");
        report.look(&[], now);
        assert_eq!((report.open.len(), report.warnings.get()), (0, 0));
        assert_eq!(series(), "");
    }

    #[test]
    fn a_problem_of_the_predecessor_keeps_its_beginning_if_it_is_found_soon() {
        let metrics = Metrics::default();
        let inherited = ["a", "b"].map(|subject| ProblemOnset {
            kind: "backend_slow".to_owned(),
            subject: subject.to_owned(),
            since: "2027-01-16T09:45:00.000Z".to_owned(),
        });
        let process = ProcessMetrics::new(&metrics);
        let mut report = ProblemReport::new(&process, &metrics, inherited.to_vec());
        let clock = Clock::test();
        let since = |report: &ProblemReport| {
            let mut all = report.onsets();
            all.sort_by(|one, other| one.subject.cmp(&other.subject));
            let all = all
                .iter()
                .map(|it| (it.subject.clone(), it.since.starts_with("2027-01-16T09:45")));
            all.collect::<Vec<_>>()
        };
        report.look(
            &[problem("a", "a is slow"), problem("c", "c is slow")],
            &clock,
        );
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(
            since(&report),
            [(a.clone(), true), (b.clone(), true), (c, false)]
        );
        for _ in 0..INHERITED {
            report.look(&[problem("a", "a is slow")], &clock);
        }
        assert_eq!(since(&report), [(a, true)]);
        report.look(&[problem("b", "b is slow")], &clock);
        assert!(since(&report).contains(&(b, false)));
    }

    #[test]
    fn series_of_problems_are_bounded() {
        let metrics = Metrics::default();
        let mut report = ProblemReport::new(&ProcessMetrics::new(&metrics), &metrics, Vec::new());
        let many: Vec<Problem> = (0..3 * MAX_SERIES)
            .map(|number| problem(&number.to_string(), "slow"))
            .collect();
        report.look(&many, &Clock::test());
        let mut count = 0;
        metrics.each_gauge(ProblemMetric::FAMILIES[0], |_, _| count += 1);
        assert_eq!(count, MAX_SERIES);
        assert_eq!(report.warnings.get(), 300);
    }
}
