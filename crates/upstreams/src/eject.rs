//! Passive health: a backend that keeps failing leaves rotation for a while. A pure state machine.
//!
//! Two causes, since they call for different care:
//! - *refused*: no connection could be made. Such a backend serves no request, so it leaves after
//!   three attempts in a row at the latest, whatever share of the others is out, and comes back as
//!   soon as a probe can connect.
//! - *errors*: the backend resets, times out or responds with 502, 503, 504. It may be overloaded,
//!   and ejecting it moves its load to the others: never more than half of an upstream's backends
//!   are out for this cause, so never the last one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::handover::{millis, span};
use crate::config::model::EjectConfig;

/// Refused connections in a row that eject a backend.
const REFUSED_THRESHOLD: u32 = 3;

edgeway_base::enum_table! {
    /// Cause of an ejection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub(super) enum Cause => as_str {
        Refused = "refused",
        Errors = "errors",
    }
}

/// Failures of one backend so far. Times are nanoseconds of the upstream's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ejection {
    /// Failures in a row, up to now.
    pub(super) streak: u32,
    /// Refused connections in a row, up to now.
    pub(super) refused: u32,
    last: Option<LastEjection>,
}

/// Last ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastEjection {
    cause: Cause,
    span: Duration,
    until: u64,
}

/// Form of [`Ejection`] in which one process sends it to its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EjectionExport {
    streak: u32,
    refused: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<LastExport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LastExport {
    cause: Cause,
    span_ms: u64,
    /// Time left; 0 once the ejection has ended. While it lasts, `ended_ago_ms` is 0.
    ends_in_ms: u64,
    ended_ago_ms: u64,
}

impl EjectionExport {
    /// Converts the export to an [`Ejection`], with times relative to `now`.
    pub(super) fn import(&self, now: u64) -> Ejection {
        Ejection {
            streak: self.streak,
            refused: self.refused,
            last: self.last.map(|last| LastEjection {
                cause: last.cause,
                span: Duration::from_nanos(span(last.span_ms)),
                until: now
                    .saturating_add(span(last.ends_in_ms))
                    .saturating_sub(span(last.ended_ago_ms)),
            }),
        }
    }
}

impl Ejection {
    pub(super) fn export(&self, now: u64) -> EjectionExport {
        EjectionExport {
            streak: self.streak,
            refused: self.refused,
            last: self.last.map(|last| LastExport {
                cause: last.cause,
                span_ms: millis(nanos(last.span)),
                ends_in_ms: millis(last.until.saturating_sub(now)),
                ended_ago_ms: millis(now.saturating_sub(last.until)),
            }),
        }
    }

    /// Returns the cause of the last ejection.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.last.map(|last| last.cause)
    }

    /// Time since the last ejection began.
    pub(super) fn began(&self, now: u64) -> Option<Duration> {
        // Its begin may lie before the epoch, in a previous process.
        self.last.map(|last| {
            (last.span + Duration::from_nanos(now)).saturating_sub(Duration::from_nanos(last.until))
        })
    }

    pub(super) fn success(&mut self) {
        self.streak = 0;
        self.refused = 0;
    }

    /// Records a failure of a backend in rotation. Returns the end of its ejection if that was one
    /// too many. `others_allow` returns true if one more backend may be out for errors.
    pub(super) fn failure(
        &mut self,
        policy: EjectConfig,
        cause: Cause,
        now: u64,
        others_allow: impl FnOnce() -> bool,
    ) -> Option<u64> {
        self.streak = self.streak.saturating_add(1);
        match cause {
            Cause::Refused => self.refused = self.refused.saturating_add(1),
            Cause::Errors => self.refused = 0,
        }
        if policy.errors == 0 {
            return None;
        }
        let cause = if self.refused >= REFUSED_THRESHOLD.min(policy.errors) {
            Cause::Refused
        } else if self.streak >= policy.errors && others_allow() {
            Cause::Errors
        } else {
            return None;
        };
        let span = self.next_span(policy, now);
        let until = now.saturating_add(nanos(span));
        self.last = Some(LastEjection { cause, span, until });
        self.success();
        Some(until)
    }

    /// Ends an ejection before its time, after a probe or an operator brought the backend back.
    pub(super) fn ended_early(&mut self, now: u64) {
        if let Some(last) = &mut self.last {
            last.until = last.until.min(now);
        }
        self.success();
    }

    /// Returns twice the last span if the backend failed again before it had served for as long as
    /// it was out; the first span otherwise.
    fn next_span(&self, policy: EjectConfig, now: u64) -> Duration {
        match self.last {
            Some(last) if now < last.until.saturating_add(nanos(last.span)) => last
                .span
                .saturating_mul(2)
                .min(policy.max.max(policy.span).0),
            _ => policy.span.0,
        }
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::units::Span;

    const POLICY: EjectConfig = EjectConfig {
        errors: 5,
        span: Span::secs(10),
        max: Span::secs(60),
    };
    const SECOND: u64 = 1_000_000_000;

    fn fail(ejection: &mut Ejection, cause: Cause, now: u64) -> Option<u64> {
        ejection.failure(POLICY, cause, now, || true)
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let mut ejection = Ejection::default();
        for _ in 0..4 {
            assert_eq!(fail(&mut ejection, Cause::Errors, 0), None);
        }
        ejection.success();
        for _ in 0..4 {
            assert_eq!(fail(&mut ejection, Cause::Errors, 0), None);
        }
        assert_eq!(fail(&mut ejection, Cause::Errors, 0), Some(10 * SECOND));
    }

    #[test]
    fn three_refused_connections_are_enough() {
        let mut ejection = Ejection::default();
        assert_eq!(fail(&mut ejection, Cause::Refused, 0), None);
        assert_eq!(fail(&mut ejection, Cause::Refused, 0), None);
        let out = ejection.failure(POLICY, Cause::Refused, 0, || false);
        assert_eq!(out, Some(10 * SECOND), "the others' state does not matter");
        assert_eq!(ejection.cause(), Some(Cause::Refused));
    }

    #[test]
    fn errors_do_not_eject_when_half_is_out() {
        let mut ejection = Ejection::default();
        for _ in 0..20 {
            let out = ejection.failure(POLICY, Cause::Errors, 0, || false);
            assert_eq!(out, None);
        }
        assert!(
            fail(&mut ejection, Cause::Errors, 0).is_some(),
            "as soon as they allow"
        );
    }

    #[test]
    fn each_ejection_is_twice_as_long_until_it_has_served_for_as_long() {
        let mut ejection = Ejection::default();
        let mut now = 0;
        let mut spans = Vec::new();
        for _ in 0..5 {
            let until = loop {
                if let Some(until) = fail(&mut ejection, Cause::Errors, now) {
                    break until;
                }
            };
            spans.push((until - now) / SECOND);
            now = until + SECOND;
        }
        assert_eq!(spans, [10, 20, 40, 60, 60]);
        now += 60 * SECOND;
        let until = (0..5)
            .find_map(|_| fail(&mut ejection, Cause::Errors, now))
            .unwrap();
        assert_eq!((until - now) / SECOND, 10);
    }

    #[test]
    fn zero_errors_is_never() {
        let never = EjectConfig {
            errors: 0,
            ..POLICY
        };
        let mut ejection = Ejection::default();
        for _ in 0..100 {
            assert_eq!(ejection.failure(never, Cause::Refused, 0, || true), None);
        }
    }

    proptest! {
        #[test]
        fn an_ejection_is_never_shorter_than_the_first_nor_longer_than_the_longest(
            steps in proptest::collection::vec((0u8..4, 0u64..30), 1..400)
        ) {
            let mut ejection = Ejection::default();
            let (mut now, mut row) = (0, 0u32);
            for (step, seconds) in steps {
                now += seconds * SECOND;
                let until = match step {
                    0 => { ejection.success(); row = 0; None }
                    1 => { row += 1; fail(&mut ejection, Cause::Refused, now) }
                    _ => { row += 1; fail(&mut ejection, Cause::Errors, now) }
                };
                prop_assert!(ejection.streak < POLICY.errors, "five in a row always eject");
                if let Some(until) = until {
                    prop_assert!(row >= REFUSED_THRESHOLD);
                    let span = Duration::from_nanos(until - now);
                    prop_assert!(span >= POLICY.span.0 && span <= POLICY.max.0);
                    row = 0;
                }
            }
        }
    }
}
