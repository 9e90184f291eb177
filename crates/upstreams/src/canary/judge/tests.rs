//! Verdicts on drawn traffic of releases that are as good as the current one, and of worse ones.

use super::*;
use crate::canary::latency::bucket;

/// Traffic of two releases.
struct Traffic {
    /// Requests per second, and the part of them that the new release gets.
    rate: f64,
    share: f64,
    errors: [f64; 2],
    /// Returns a latency, given a number drawn between 0 and 1.
    latency: [fn(f64) -> Duration; 2],
}

/// Latencies as those of an app: most are short, and a few are much longer.
fn usual(drawn: f64) -> Duration {
    Duration::from_secs_f64(0.02 * (1.0 / (1.001 - drawn)).powf(0.5))
}

fn doubled(drawn: f64) -> Duration {
    usual(drawn) * 2
}

impl Traffic {
    fn second(&self, random: &mut fastrand::Rng) -> Both {
        let mut seen = Both::default();
        // Requests come when they like: about a Poisson distribution.
        let draws = 400;
        for _ in 0..draws {
            if random.f64() >= self.rate / f64::from(draws) {
                continue;
            }
            let is_new = random.f64() < self.share;
            let index = usize::from(!is_new);
            let counts = if is_new {
                &mut seen.new
            } else {
                &mut seen.current
            };
            counts.requests += 1;
            counts.failed += u64::from(random.f64() < self.errors[index]);
            counts.latencies.0[bucket((self.latency[index])(random.f64()))] += 1;
        }
        seen
    }

    /// Returns the first fault within so many seconds, and its second.
    fn judged(&mut self, seconds: u32, shares: &[f64], seed: u64) -> Option<(Fault, u32)> {
        let mut random = fastrand::Rng::with_seed(seed);
        let step = seconds / u32::try_from(shares.len()).unwrap();
        let tolerance = Tolerance {
            errors: 1.5,
            p95: 1.3,
        };
        let mut judge = Judge::new(tolerance, Duration::from_secs(step.into()));
        for second in 0..seconds {
            self.share = shares[(second / step) as usize % shares.len()];
            judge.weigh(&self.second(&mut random), Duration::from_secs(1));
            if let Some(fault) = judge.fault() {
                return Some((fault, second));
            }
        }
        None
    }
}

fn traffic(rate: f64, errors: [f64; 2], latency: [fn(f64) -> Duration; 2]) -> Traffic {
    Traffic {
        rate,
        share: 0.0,
        errors,
        latency,
    }
}

fn judge(tolerance: Tolerance) -> Judge {
    Judge::new(tolerance, Duration::from_mins(1))
}

const STEPS: [f64; 3] = [0.05, 0.25, 0.5];
fn seeds() -> std::ops::Range<u64> {
    0..edgeway_testkit::cases(40, 300)
}

#[test]
fn a_release_as_good_as_the_current_one_stays() {
    for errors in [0.0, 0.005, 0.05] {
        let faults: Vec<_> = seeds()
            .filter_map(|seed| traffic(100.0, [errors; 2], [usual; 2]).judged(180, &STEPS, seed))
            .collect();
        assert!(faults.len() <= 3, "{errors}: {faults:?}");
    }
}

#[test]
fn a_release_with_six_times_the_errors_is_found_within_a_minute() {
    let late: Vec<_> = seeds()
        .map(|seed| traffic(100.0, [0.03, 0.005], [usual; 2]).judged(60, &STEPS, seed))
        .filter(|found| !matches!(found, Some((Fault::Errors, _))))
        .collect();
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn a_release_that_is_twice_as_slow_is_found() {
    let found =
        seeds().map(|seed| traffic(100.0, [0.005; 2], [doubled, usual]).judged(120, &STEPS, seed));
    let missed = found.filter(|found| !matches!(found, Some((Fault::Latency, _))));
    assert!(missed.count() <= 3);
}

/// A release that hangs has no latencies: its visitors leave. Of those who leave earlier than most
/// responses of the current release come, nothing follows.
#[test]
fn a_release_whose_visitors_leave_without_a_response_is_found() {
    for (after, fault) in [(2_000, Some(Fault::Latency)), (5, None)] {
        let mut random = fastrand::Rng::with_seed(7);
        let mut judge = judge(Tolerance {
            errors: 1.5,
            p95: 1.3,
        });
        for _ in 0..90 {
            let mut seen = traffic(100.0, [0.0; 2], [usual; 2]).second(&mut random);
            seen.new.left.0[bucket(Duration::from_millis(after))] = 3;
            seen.current.left.0[bucket(Duration::from_millis(5))] = 3;
            judge.weigh(&seen, Duration::from_secs(1));
        }
        assert_eq!(judge.fault(), fault, "after {after} ms");
        assert_eq!(judge.total.new.requests, 0);
    }
}

/// Otherwise each release that is a little worse would be rolled back in the end.
#[test]
fn a_release_that_is_a_little_worse_stays() {
    let faults: Vec<_> = (0..edgeway_testkit::cases(12, 30))
        .filter_map(|seed| traffic(100.0, [0.011, 0.01], [usual; 2]).judged(1800, &STEPS, seed))
        .collect();
    assert!(faults.len() <= 1, "{faults:?}");
}

/// Traffic of a small site, as long as the steps wait for requests of the new release.
#[test]
fn five_percent_of_errors_never_survive() {
    for errors in [0.0, 0.005, 0.01] {
        let survived: Vec<_> = seeds()
            .filter(|seed| {
                let mut traffic = traffic(10.0, [0.05, errors], [usual; 2]);
                traffic.judged(600, &STEPS, *seed).is_none()
            })
            .collect();
        assert!(survived.is_empty(), "{errors}: {survived:?}");
    }
}

#[test]
fn a_failure_of_both_releases_is_no_evidence_against_the_new_one() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut judge = judge(Tolerance {
        errors: 1.5,
        p95: 1.3,
    });
    for second in 0..300 {
        let is_failing = (60..90).contains(&second);
        let errors = if is_failing { 0.9 } else { 0.0 };
        let slow: fn(f64) -> Duration = if is_failing {
            |_| Duration::from_secs(9)
        } else {
            usual
        };
        let mut traffic = traffic(50.0, [errors; 2], [slow; 2]);
        traffic.share = 0.1;
        judge.weigh(&traffic.second(&mut random), Duration::from_secs(1));
        assert_eq!(judge.fault(), None, "second {second}");
    }
}

#[test]
fn no_single_failure_and_no_slow_start_is_a_fault() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut judge = judge(Tolerance {
        errors: 1.5,
        p95: 1.3,
    });
    for second in 0..200 {
        let slow: fn(f64) -> Duration = if second < 15 {
            |_| Duration::from_millis(900)
        } else {
            usual
        };
        let mut traffic = traffic(300.0, [0.0; 2], [slow, usual]);
        traffic.share = 0.01;
        let mut seen = traffic.second(&mut random);
        if second == 20 || second == 120 {
            seen.new.requests += 1;
            seen.new.failed += 1;
        }
        judge.weigh(&seen, Duration::from_secs(1));
        assert_eq!(judge.fault(), None, "second {second}");
    }
}

/// Draws the requests of one second, given the failing share of each release.
fn seen(requests: [u64; 2], shares: [f64; 2], random: &mut fastrand::Rng) -> Both {
    let mut seen = Both::default();
    for (counts, (requests, share)) in [&mut seen.new, &mut seen.current]
        .into_iter()
        .zip(requests.into_iter().zip(shares))
    {
        counts.requests = requests;
        counts.failed = (0..requests).filter(|_| random.f64() < share).count() as u64;
    }
    seen
}

/// Invariant: whatever the two releases got and however it was spread over time, no release gets more
/// visitors while more of its requests fail than an absolute bound allows; with nothing beside it, one
/// that fails is rolled back, and a sound one passes.
#[test]
fn no_release_passes_above_an_absolute_bound() {
    let mut random = fastrand::Rng::with_seed(48);
    let mut alone = [0; 2];
    for case in 0..3_000 {
        let is_alone = random.bool();
        let shares = [random.f64() * random.f64(), random.f64() * random.f64()];
        let mut judge = judge(Tolerance {
            errors: 1.0 + random.f64() * 99.0,
            p95: 1.3,
        });
        for _ in 0..random.usize(1..60) {
            let current = if is_alone { 0 } else { random.u64(0..20) };
            let requests = [random.u64(0..40), current];
            judge.weigh(&seen(requests, shares, &mut random), Duration::from_secs(1));
        }
        let Both { new, current } = judge.total;
        let passes = judge.fault().is_none() && !judge.fails_too_often();
        let message = format!("case {case}: {new:?} {current:?}");
        assert!(!(passes && new.error_ratio() > MAX_FAILED), "{message}");
        if current.requests >= new.requests.min(MIN_KNOWN) {
            continue;
        }
        assert!(
            !(passes && new.error_ratio() > MAX_FAILED_ALONE),
            "{message}"
        );
        if new.requests >= 40 && new.error_ratio() > 5.0 * MAX_FAILED_ALONE {
            assert_eq!(judge.fault(), Some(Fault::Errors), "{message}");
            alone[0] += 1;
        }
        if current.requests == 0 && new.error_ratio() <= MAX_FAILED_ALONE {
            assert!(passes, "{message}");
            alone[1] += 1;
        }
    }
    // The control: both kinds were drawn.
    assert!(alone.iter().all(|count| *count > 50), "{alone:?}");
}

/// An outage of both releases at the begin of a trial is nothing against the new one.
#[test]
fn a_failure_of_both_at_the_begin_holds_the_new_release() {
    let mut judge = judge(Tolerance {
        errors: 1.5,
        p95: 1.3,
    });
    let mut random = fastrand::Rng::with_seed(1);
    judge.weigh(
        &seen([10, 10], [1.0; 2], &mut random),
        Duration::from_secs(1),
    );
    assert_eq!((judge.fault(), judge.fails_too_often()), (None, true));
}

/// While the current release is down there is no comparison: the absolute bound counts.
#[test]
fn a_release_beside_one_that_is_down_is_judged_alone() {
    let verdict = |share| {
        let mut judge = judge(Tolerance::default());
        let mut random = fastrand::Rng::with_seed(1);
        let second = Duration::from_secs(1);
        judge.weigh(&seen([60, 60], [0.0; 2], &mut random), second);
        judge.is_alone = true;
        for _ in 0..10 {
            judge.weigh(&seen([40, 0], [share, 0.0], &mut random), second);
        }
        (judge.fault(), judge.fails_too_often())
    };
    assert_eq!(verdict(0.0), (None, false));
    assert_eq!(verdict(0.5), (Some(Fault::Errors), true));
}

#[test]
fn latency_is_judged_in_steps_of_a_few_seconds() {
    let missed: Vec<_> = seeds()
        .map(|seed| traffic(300.0, [0.0; 2], [doubled, usual]).judged(15, &STEPS, seed))
        .filter(|found| !matches!(found, Some((Fault::Latency, _))))
        .collect();
    assert!(missed.len() <= 3, "{missed:?}");
}
