//! Decides when to order a certificate: pure rules over times, so that tests control the clock.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// Inputs of a name's schedule.
#[derive(Clone, Debug)]
pub(super) struct ScheduleInputs {
    /// When the served certificate was signed, and until when it is valid.
    pub(super) validity: Range<SystemTime>,
    /// When the certificate was obtained.
    pub(super) obtained: SystemTime,
    /// A number from 0 to 1, fixed for the life of a certificate and different for each.
    pub(super) dice: f64,
    /// Renewal window suggested by the CA (RFC 9773).
    pub(super) window: Option<Range<SystemTime>>,
}

/// Kind of failure of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The CA refused. It counts refusals, so attempts must be few.
    Refused,
    /// There was no response, it could not be read, or we could not store the result.
    Unanswered,
}

impl ScheduleInputs {
    /// Time of renewal: two thirds of the lifetime, less up to a thirtieth so that names issued
    /// together are not renewed together, or a point in the window that the CA suggests.
    pub(super) fn renewal(&self) -> SystemTime {
        let lifetime = self.lifetime();
        if let Some(window) = &self.window {
            let width = window.end.duration_since(window.start).unwrap_or_default();
            let chosen = window.start + width.mul_f64(self.dice);
            // A late window must leave time for more than one attempt. A window that is always
            // "now" must not cause endless orders.
            let latest = self.validity.end - lifetime / 10;
            let earliest = self.obtained + MIN_WINDOW_DELAY;
            return chosen.min(latest).max(earliest);
        }
        let due = self.validity.start + lifetime.mul_f64(2.0 / 3.0 - self.dice / 30.0);
        // With a clock far off the CA's, each new certificate would seem due at once.
        due.max(self.obtained + lifetime / 2)
    }

    fn lifetime(&self) -> Duration {
        self.validity
            .end
            .duration_since(self.validity.start)
            .unwrap_or_default()
    }
}

const MIN_WINDOW_DELAY: Duration = Duration::from_hours(1);
/// Longest delay that a CA can impose.
const MAX_PAUSE: Duration = Duration::from_hours(7 * 24);

/// Delay after the `failures`th failure in a row (1 is the first one). `dice` is from 0 to 1,
/// `asked` is the CA's `Retry-After`.
///
/// Refusals: 2, 6, 18, 54 minutes …, up to 6 hours. Let's Encrypt allows five failed validations of
/// a name per hour, and this makes four in the first hour.
pub(super) fn pause(
    failure: Failure,
    failures: u32,
    retry_after: Option<Duration>,
    dice: f64,
) -> Duration {
    let (first, factor, longest) = match failure {
        Failure::Refused => (Duration::from_mins(2), 3_u32, Duration::from_hours(6)),
        Failure::Unanswered => (Duration::from_secs(30), 2, Duration::from_hours(1)),
    };
    let growth = factor.saturating_pow(failures.saturating_sub(1).min(16));
    let pause = first.saturating_mul(growth).min(longest);
    let pause = pause.mul_f64(1.0 + dice / 10.0);
    let retry_after = retry_after.unwrap_or_default().min(MAX_PAUSE);
    pause.max(retry_after)
}

/// Remaining delay after a restart. It is shortened, because operators restart after a change; a
/// process that restarts in a loop is still limited to a few attempts per hour.
pub(super) fn after_restart(next: SystemTime, now: SystemTime, was_asked: bool) -> SystemTime {
    let longest = if was_asked {
        MAX_PAUSE
    } else {
        Duration::from_mins(15)
    };
    next.min(now + longest)
}

/// A number from 0 to 1 that is the same for the same text.
pub(super) fn dice(text: &str) -> f64 {
    // Fixed keys: a restart must not change the number.
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(text);
    let high = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
    f64::from(high) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn start() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn ninety_days(dice: f64) -> ScheduleInputs {
        ScheduleInputs {
            validity: start()..start() + 90 * DAY,
            obtained: start(),
            dice,
            window: None,
        }
    }

    #[test]
    fn renewal_is_at_two_thirds_less_up_to_a_thirtieth() {
        let days = |dice| {
            let due = ninety_days(dice).renewal();
            due.duration_since(start()).unwrap().as_secs_f64() / 86_400.0
        };
        assert!((days(0.0) - 60.0).abs() < 0.001);
        assert!((days(1.0) - 57.0).abs() < 0.001);
    }

    #[test]
    fn a_clock_that_is_far_off_renews_no_sooner_than_after_half_a_lifetime() {
        let standing = ScheduleInputs {
            obtained: start() + 1000 * DAY,
            ..ninety_days(0.5)
        };
        assert_eq!(standing.renewal(), start() + 1045 * DAY);
    }

    #[test]
    fn the_ca_chooses_the_time_within_bounds() {
        let with = |window: Range<SystemTime>, dice| {
            let standing = ScheduleInputs {
                window: Some(window),
                ..ninety_days(dice)
            };
            standing.renewal().duration_since(start()).unwrap()
        };
        let window = start() + 30 * DAY..start() + 32 * DAY;
        assert_eq!(with(window.clone(), 0.0), 30 * DAY);
        assert_eq!(with(window, 0.5), 31 * DAY);
        // A revoked certificate is renewed at once, except one that was just obtained.
        assert_eq!(with(start() - DAY..start(), 0.5), MIN_WINDOW_DELAY);
        let late = start() + 200 * DAY..start() + 201 * DAY;
        assert_eq!(with(late, 0.5), 81 * DAY);
    }

    #[test]
    fn refusals_are_four_in_the_first_hour_and_never_hammered() {
        let mut at = Duration::ZERO;
        let mut within_an_hour = 0;
        for failures in 1..=40 {
            if at < Duration::from_hours(1) {
                within_an_hour += 1;
            }
            let pause = pause(Failure::Refused, failures, None, 0.0);
            assert!(pause <= Duration::from_hours(6), "{pause:?}");
            at += pause;
        }
        assert_eq!(within_an_hour, 4);
        assert!(at > Duration::from_hours(200));
    }

    #[test]
    fn the_ca_is_not_asked_before_its_retry_after() {
        let retry_after = Some(Duration::from_hours(20));
        assert_eq!(
            pause(Failure::Refused, 1, retry_after, 0.5),
            Duration::from_hours(20)
        );
        let endless = Some(Duration::MAX);
        assert_eq!(pause(Failure::Unanswered, 1, endless, 0.0), 7 * DAY);
        let next = start() + Duration::from_hours(20);
        assert_eq!(after_restart(next, start(), true), next);
        assert_eq!(
            after_restart(next, start(), false),
            start() + Duration::from_mins(15)
        );
    }

    #[test]
    fn the_dice_fall_the_same_for_the_same_and_spread() {
        assert_eq!(
            dice("a.example 01").to_bits(),
            dice("a.example 01").to_bits()
        );
        let low = (0..1000).filter(|n| dice(&format!("{n}")) < 0.5).count();
        assert!((400..600).contains(&low), "{low}");
    }

    proptest! {
        #[test]
        fn a_renewal_is_always_before_the_end(
            days in 1_u32..1000, dice in 0.0..=1.0_f64, from in 0_u32..2000, width in 0_u32..50,
        ) {
            let mut standing = ScheduleInputs {
                validity: start()..start() + days * DAY,
                obtained: start(),
                dice,
                window: None,
            };
            prop_assert!(standing.renewal() < standing.validity.end);
            standing.window = Some(start() + from * DAY..start() + (from + width) * DAY);
            prop_assert!(standing.renewal() < standing.validity.end);
            prop_assert!(standing.renewal() > start());
        }

        #[test]
        fn pauses_never_shrink(failures in 1_u32..u32::MAX, dice in 0.0..=1.0_f64) {
            for failure in [Failure::Refused, Failure::Unanswered] {
                let one = pause(failure, failures, None, dice);
                let next = pause(failure, failures.saturating_add(1), None, dice);
                prop_assert!(one <= next);
                prop_assert!(one >= Duration::from_secs(30));
            }
        }
    }
}
