//! Rules of active health as a pure state machine: time and randomness are arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::model::HealthConfig,
    eject::nanos,
    handover::{millis, span},
};

/// Jitter of check intervals, so that many gateways and backends do not check in step: 10 % either
/// way.
const JITTER_PARTS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthRules {
    /// Passes in a row until a backend is up again.
    pub(crate) rise: u32,
    /// Failures in a row until a backend is down.
    pub(crate) fall: u32,
    pub(crate) interval: Duration,
    pub(crate) interval_down: Duration,
}

impl From<&HealthConfig> for HealthRules {
    fn from(config: &HealthConfig) -> Self {
        Self {
            rise: config.rise.max(1),
            fall: config.fall.max(1),
            interval: config.interval.0,
            interval_down: config.interval_down.0,
        }
    }
}

/// Results of the checks of one backend. Times are nanoseconds of the upstream's epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) up: bool,
    /// True until a check has ended: the first one that passes is enough.
    fresh: bool,
    /// Results in a row that contradict `up`.
    against: u32,
    /// Time of the next check.
    pub(crate) next: u64,
    /// Time at which a check made the state what it is. It may lie before the epoch, in a previous
    /// process.
    since: Option<i64>,
}

/// Form of [`Health`] in which one process sends it to its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HealthExport {
    up: bool,
    fresh: bool,
    against: u32,
    due_in_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ago_ms: Option<u64>,
}

impl Default for HealthExport {
    /// State of a backend without any results.
    fn default() -> Self {
        Health::default().export(0)
    }
}

impl HealthExport {
    /// Converts the export to a [`Health`], with times relative to `now`.
    pub(crate) fn import(&self, now: u64) -> Health {
        Health {
            up: self.up,
            fresh: self.fresh,
            against: self.against,
            next: now.saturating_add(span(self.due_in_ms)),
            // Not bounded: a backend may have been down for days.
            since: self
                .since_ago_ms
                .map(|ago| signed(now).saturating_sub(signed(ago.saturating_mul(NANOS_PER_MS)))),
        }
    }
}

/// Change of a backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthChange {
    Up,
    Down,
}

impl Default for Health {
    /// Up until checks find otherwise, and due at once.
    fn default() -> Self {
        Self::new(true)
    }
}

impl Health {
    pub(crate) fn new(up: bool) -> Self {
        Self {
            up,
            fresh: true,
            against: 0,
            next: 0,
            since: None,
        }
    }

    /// Time since checks found the backend down; `None` if they did not.
    pub(crate) fn down_for(&self, now: u64) -> Option<Duration> {
        self.since.filter(|_| !self.up).map(|since| age(since, now))
    }

    pub(crate) fn export(&self, now: u64) -> HealthExport {
        HealthExport {
            up: self.up,
            fresh: self.fresh,
            against: self.against,
            due_in_ms: millis(self.next.saturating_sub(now)),
            since_ago_ms: self.since.map(|since| millis(nanos(age(since, now)))),
        }
    }

    /// Discards all results. The time of the next check stays, or each reload would cause a check.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::new(true)
        };
    }

    /// Moves the next check to `time` if the check would come later.
    pub(crate) fn hurry(&mut self, time: u64) {
        self.next = self.next.min(time);
    }

    /// Records the result of a check that ended at `now`. `is_out` is true if the backend is out of
    /// rotation for another reason, so that it is checked as if down.
    pub(crate) fn observe(
        &mut self,
        rules: HealthRules,
        passed: bool,
        is_out: bool,
        now: u64,
        seed: u64,
    ) -> Option<HealthChange> {
        let needed = match (passed, self.fresh) {
            (true, true) => 1,
            (true, false) => rules.rise,
            (false, _) => rules.fall,
        };
        self.fresh = false;
        self.against = if passed == self.up {
            0
        } else {
            self.against + 1
        };
        let turned = self.against >= needed.max(1);
        if turned {
            self.up = passed;
            self.against = 0;
        }
        if turned || self.since.is_none() && passed == self.up {
            self.since = Some(signed(now));
        }
        let interval = if self.up && !is_out {
            rules.interval
        } else {
            rules.interval_down
        };
        self.next = now.saturating_add(jittered(interval, seed));
        turned.then_some(if passed {
            HealthChange::Up
        } else {
            HealthChange::Down
        })
    }
}

const NANOS_PER_MS: u64 = 1_000_000;

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

fn age(since: i64, now: u64) -> Duration {
    let nanos = signed(now).saturating_sub(since);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Returns `interval`, up to a tenth shorter or longer.
pub(crate) fn jittered(interval: Duration, seed: u64) -> u64 {
    let full = nanos(interval);
    let tenth = full / JITTER_PARTS;
    full - tenth + seed % (2 * tenth + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: HealthRules = HealthRules {
        rise: 2,
        fall: 3,
        interval: Duration::from_secs(5),
        interval_down: Duration::from_secs(1),
    };
    const SECOND: u64 = 1_000_000_000;

    fn run(health: &mut Health, results: &[bool]) -> Vec<Option<HealthChange>> {
        results
            .iter()
            .map(|passed| health.observe(RULES, *passed, false, 0, 0))
            .collect()
    }

    #[test]
    fn three_failures_are_down_and_two_passes_are_up() {
        let mut health = Health::default();
        let changes = run(
            &mut health,
            &[true, false, false, true, false, false, false],
        );
        assert_eq!(changes.iter().flatten().count(), 1);
        assert_eq!(changes[6], Some(HealthChange::Down));
        let changes = run(&mut health, &[true, false, true, true]);
        assert_eq!(changes, [None, None, None, Some(HealthChange::Up)]);
    }

    #[test]
    fn a_backend_that_starts_down_is_up_with_its_first_pass() {
        let mut health = Health::new(false);
        assert!(!health.up);
        assert_eq!(run(&mut health, &[true]), [Some(HealthChange::Up)]);
        let mut failing = Health::new(false);
        assert_eq!(
            run(&mut failing, &[false, true, true]),
            [None, None, Some(HealthChange::Up)]
        );
    }

    /// Invariant: a backend is down for as long as the last check that turned it is ago, in whichever
    /// process.
    #[test]
    fn the_time_of_a_failure_outlives_the_process() {
        let mut health = Health::default();
        assert_eq!(health.down_for(5 * SECOND), None);
        for at in 1..=9 {
            health.observe(RULES, false, false, at * SECOND, 0);
        }
        // The third failure turned it.
        assert_eq!(health.down_for(9 * SECOND), Some(Duration::from_secs(6)));
        let mut export = health.export(7203 * SECOND);
        for (now, down) in [(0, 7200), (5, 7205), (7300, 14_500)] {
            let next = export.import(0);
            let down = Duration::from_secs(down);
            assert_eq!(next.down_for(now * SECOND), Some(down), "{now}");
        }
        let mut next = export.import(SECOND);
        for at in 2..=3 {
            next.observe(RULES, true, false, at * SECOND, 0);
        }
        assert_eq!(next.down_for(4 * SECOND), None);
        // An earlier version does not send it.
        export.since_ago_ms = None;
        let mut next = export.import(SECOND);
        assert_eq!(next.down_for(2 * SECOND), None);
        next.observe(RULES, false, false, 2 * SECOND, 0);
        assert_eq!(next.down_for(4 * SECOND), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_backend_that_is_down_or_out_is_checked_every_second() {
        let mut health = Health::default();
        health.observe(RULES, true, false, 0, 0);
        assert_eq!(health.next, 4_500_000_000);
        health.observe(RULES, true, true, 0, 0);
        assert_eq!(health.next, 900_000_000);
        for _ in 0..3 {
            health.observe(RULES, false, false, 0, u64::MAX);
        }
        assert!(!health.up);
        assert!((900_000_000..=1_100_000_000).contains(&health.next));
    }

    #[test]
    fn jitter_covers_a_tenth_either_way() {
        let five = Duration::from_secs(5);
        assert_eq!(jittered(five, 0), 4_500_000_000);
        assert_eq!(jittered(five, 1_000_000_000), 5_500_000_000);
        assert_eq!(jittered(Duration::ZERO, 77), 0);
    }

    proptest! {
        #[test]
        fn the_verdict_turns_only_after_enough_in_a_row(
            up in any::<bool>(),
            steps in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<u64>()), 1..300)
        ) {
            let mut health = Health::new(up);
            let (mut now, mut row, mut last) = (0, 0u32, None);
            for (index, (passed, is_out, seed)) in steps.into_iter().enumerate() {
                row = if last == Some(passed) { row + 1 } else { 1 };
                last = Some(passed);
                let before = health.up;
                let change = health.observe(RULES, passed, is_out, now, seed);
                check_invariants(&health);
                match change {
                    None => prop_assert_eq!(before, health.up),
                    Some(HealthChange::Up) => prop_assert!(!before && (row >= RULES.rise || index == 0)),
                    Some(HealthChange::Down) => prop_assert!(before && row >= RULES.fall),
                }
                let gap = health.next - now;
                let expected = if health.up && !is_out { 5 * SECOND } else { SECOND };
                prop_assert!(gap >= expected - expected / 10 && gap <= expected + expected / 10);
                now = health.next;
            }
        }
    }

    fn check_invariants(health: &Health) {
        let bound = if health.up { RULES.fall } else { RULES.rise };
        assert!(
            health.against < bound.max(1),
            "{health:?} should have turned"
        );
        assert!(!health.fresh);
    }
}
