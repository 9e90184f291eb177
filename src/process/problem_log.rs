//! Log lines when a problem begins and when it ends, and the number of problems as a metric: what the
//! status page and `edgeway top` show, for those who look at neither.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use log::{info, warn};

use super::{control::Control, source::RunningState};
use crate::{
    base::{metrics::IntGauge, units::Span},
    live::ProcessMetrics,
    status::problems::{self, Problem, Severity},
};

/// Interval of looks.
const EVERY: Duration = Duration::from_secs(10);

/// Looks in a row without a problem after which it has ended.
const ENDED: u32 = 2;

/// Looks for problems while clients send requests.
pub(super) async fn watch(control: Arc<Control>) {
    let activity = Arc::clone(control.live.connections.activity());
    let mut report = ProblemReport::new(&control.live.process);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Right after the start, connections to Redis are only being made.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let quiet = activity.quiet();
        let state = RunningState::new(Arc::clone(&control));
        let clock = control.live.world.clock.clone();
        let found = tokio::task::spawn_blocking(move || {
            problems::of(&state.read(), DateTime::<Utc>::from(clock.wall()))
        });
        match found.await {
            Ok(found) => report.look(&found, control.live.world.clock.now()),
            Err(error) => warn!(error:%; "cannot look for problems"),
        }
        if let Some(quiet) = quiet {
            activity.sign_after(quiet).await;
            ticks.reset();
        }
    }
}

/// Problems that were reported and have not ended.
struct ProblemReport {
    open: HashMap<String, OpenProblem>,
    errors: IntGauge,
    warnings: IntGauge,
}

struct OpenProblem {
    text: String,
    since: Instant,
    looks_without: u32,
}

impl ProblemReport {
    fn new(metrics: &ProcessMetrics) -> Self {
        Self {
            open: HashMap::new(),
            errors: metrics.errors.clone(),
            warnings: metrics.warnings.clone(),
        }
    }

    fn look(&mut self, found: &[Problem], now: Instant) {
        let count = |severity| {
            let of_it = found.iter().filter(|problem| problem.severity == severity);
            i64::try_from(of_it.count()).unwrap_or(i64::MAX)
        };
        self.errors.set(count(Severity::Error));
        self.warnings.set(count(Severity::Warning));
        for open in self.open.values_mut() {
            open.looks_without += 1;
        }
        for problem in found {
            let Some(open) = self.open.get_mut(&key(problem)) else {
                warn!("problem began: {}", problem.text);
                let open = OpenProblem {
                    text: problem.text.clone(),
                    since: now,
                    looks_without: 0,
                };
                self.open.insert(key(problem), open);
                continue;
            };
            open.looks_without = 0;
        }
        self.open.retain(|_, open| {
            let is_open = open.looks_without < ENDED;
            if !is_open {
                let lasted = now.saturating_duration_since(open.since).as_secs();
                let lasted = Span::secs(lasted);
                info!("problem ended after {lasted}: {}", open.text);
            }
            is_open
        });
    }
}

/// Returns the text without the figures that change while the problem lasts.
fn key(problem: &Problem) -> String {
    let words = problem.text.split(' ').map(|word| {
        let is_figure = word.starts_with(|first: char| first.is_ascii_digit());
        // Addresses and times stay.
        let is_name = word.trim_end_matches([':', ',']).contains([':', '/']);
        if is_figure && !is_name { "#" } else { word }
    });
    let words: Vec<&str> = words.collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metrics::Metrics;

    fn problem(text: &str) -> Problem {
        Problem {
            severity: Severity::Warning,
            text: text.to_owned(),
            section: "upstreams",
        }
    }

    #[test]
    fn a_problem_is_one_while_its_figures_change() {
        let of = |text: &str| key(&problem(text));
        let slow = "backend api/127.0.0.1:14002 is slow: 823 ms, the others 18 ms";
        let slower = "backend api/127.0.0.1:14002 is slow: 1.2 ms, the others 9 ms";
        assert_eq!(of(slow), of(slower));
        assert_ne!(of(slow), of(&slow.replace("14002", "14003")));
        let down = "backend web/127.0.0.1:13002 is down for 21s: connection refused";
        assert_eq!(of(down), of(&down.replace("21s", "22s")));
        assert_ne!(of(down), of(&down.replace("refused", "reset")));
    }

    #[test]
    fn a_problem_ends_once_it_is_missing_twice() {
        let metrics = ProcessMetrics::new(&Metrics::default());
        let mut report = ProblemReport::new(&metrics);
        let now = crate::base::clock::Clock::test().now();
        report.look(&[problem("a is 1 s slow"), problem("b")], now);
        assert_eq!((report.open.len(), report.warnings.get()), (2, 2));
        report.look(&[problem("a is 2 s slow")], now);
        assert_eq!((report.open.len(), report.warnings.get()), (2, 1));
        report.look(&[problem("a is 3 s slow")], now);
        assert_eq!(report.open.len(), 1);
        report.look(&[], now);
        report.look(&[problem("a is 4 s slow")], now);
        report.look(&[], now);
        assert_eq!(report.open.len(), 1, "it was there in between");
        report.look(&[], now);
        assert_eq!((report.open.len(), report.warnings.get()), (0, 0));
    }
}
