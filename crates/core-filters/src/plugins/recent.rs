//! Failures of a plugin in the last minute, for the status: totals say nothing about now.

use std::time::{Duration, Instant};

use edgeway_base::clock::Clock;
use parking_lot::Mutex;

const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);

/// Longest text that is kept of a failure, in bytes.
const LONGEST: usize = 300;

/// Counts failures. Only a hook that failed waits for the lock.
#[derive(Debug)]
pub(super) struct RecentFailures {
    clock: Clock,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Count of each recent part of time, with the part's number.
    parts: [(u64, u64); PARTS],
    last: String,
}

impl RecentFailures {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            start: clock.now(),
            state: Mutex::default(),
        }
    }

    /// Returns the number of the present part of time.
    fn part(&self) -> u64 {
        self.clock.now().duration_since(self.start).as_secs() / PART.as_secs()
    }

    pub(super) fn count(&self, failure: &impl ToString) {
        let part = self.part();
        let mut state = self.state.lock();
        let index = usize::try_from(part % PARTS as u64).unwrap_or(0);
        let (number, count) = &mut state.parts[index];
        if *number != part {
            (*number, *count) = (part, 0);
        }
        *count += 1;
        // The text of a plugin that fails always is written once in each part.
        if *count == 1 {
            let mut text = failure.to_string();
            text.truncate(text.floor_char_boundary(LONGEST));
            state.last = text;
        }
    }

    /// Returns the failures of the last minute, and one of them.
    pub(super) fn recent(&self) -> Option<(u64, String)> {
        let now = self.part();
        let state = self.state.lock();
        let parts = state.parts.iter();
        let recent = parts.filter(|(number, _)| number + (PARTS as u64) > now);
        let count: u64 = recent.map(|(_, count)| count).sum();
        (count > 0).then(|| (count, state.last.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: the count is that of a minute, a part of it more or less.
    #[test]
    fn failures_count_for_a_minute() {
        let clock = Clock::test();
        let recent = RecentFailures::new(&clock);
        assert_eq!(recent.recent(), None);
        let mut at = Vec::new();
        for step in 0..600_u64 {
            clock.advance(Duration::from_secs(1));
            if step % 7 < 3 && (step / 100) % 2 == 0 {
                recent.count(&step);
                at.push(step);
            }
            let within = |seconds: u64| at.iter().filter(|at| *at + seconds > step).count() as u64;
            let count = recent.recent().map_or(0, |(count, _)| count);
            let bounds = within(PART.as_secs() * 5)..=within(PART.as_secs() * 6);
            assert!(bounds.contains(&count), "{step}: {count} {bounds:?}");
        }
        clock.advance(Duration::from_mins(1));
        assert_eq!(recent.recent(), None);
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let recent = RecentFailures::new(&Clock::test());
        recent.count(&"é".repeat(1000));
        let (count, text) = recent.recent().unwrap();
        assert_eq!((count, text.len()), (1, LONGEST));
    }
}
