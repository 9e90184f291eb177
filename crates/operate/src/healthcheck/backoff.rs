//! Restarts of units: each one doubles the pause until the next, until the unit is good again.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use edgeway_base::clock::rfc3339;
use serde::{Deserialize, Serialize};

/// The longest pause.
const LONGEST: Duration = Duration::from_hours(1);

/// Restarts since each unit was last good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Restarts(BTreeMap<String, Restart>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Restart {
    count: u32,
    /// RFC 3339, UTC.
    until: String,
}

impl Restarts {
    /// Returns the end of the pause in which a unit is not restarted.
    pub(super) fn pausing(&self, unit: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let restart = self.0.get(unit)?;
        let until: DateTime<Utc> = DateTime::parse_from_rfc3339(&restart.until).ok()?.into();
        // A clock that was set back must not keep a unit from being restarted for long.
        (now < until && until - now <= delta(LONGEST)).then_some(until)
    }

    /// Counts a restart: each one doubles the pause after it.
    pub(super) fn count(&mut self, unit: &str, now: DateTime<Utc>, first: Duration) {
        let count = self.0.get(unit).map_or(0, |restart| restart.count) + 1;
        let pause = first.saturating_mul(1 << (count - 1).min(16)).min(LONGEST);
        let until = rfc3339((now + delta(pause)).into());
        self.0.insert(unit.to_owned(), Restart { count, until });
    }

    /// Forgets the restarts of all other units, which are good.
    pub(super) fn keep(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|unit, _| is_kept(unit));
    }
}

/// Converts a pause, which is an hour at most.
fn delta(pause: Duration) -> TimeDelta {
    TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX)
}
