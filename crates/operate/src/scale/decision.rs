//! The rule of `edgeway scale --auto`: two apps more above the target, one less after a calm time.

use std::time::Duration;

/// Share of the target that the rest may reach if one app is stopped. Measured loads differ a
/// little from run to run, and the app must not be missed in the next one.
const MARGIN: f64 = 0.9;

/// Most apps that one run starts.
const STEP_UP: usize = 2;

/// Limits and target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) min: usize,
    pub(super) max: usize,
    /// CPU of an app on average; 1.0 is one processor in full use.
    pub(super) target: f64,
    /// Time for which the load must have been small before an app is stopped.
    pub(super) calm: Duration,
}

/// Load of the apps in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) apps: usize,
    /// CPU of an app on average.
    pub(super) cpu: f64,
    /// True if none may be stopped: requests wait for a permit of the upstream, or an app is down.
    pub(super) needs_all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Start so many apps.
    Up(usize),
    /// Stop one.
    Down,
    /// Change nothing. Contains the calm time so far, if there is any.
    Stay(Option<Duration>),
}

impl Rule {
    /// Returns true if one app less would stay below the target, with a margin.
    pub(super) fn is_calm(&self, load: Load) -> bool {
        let Some(rest) = load.apps.checked_sub(1).filter(|rest| *rest >= self.min) else {
            return false;
        };
        let all = load.cpu * number(load.apps);
        !load.needs_all && all <= MARGIN * self.target * number(rest)
    }

    /// Decides. `calm_for` is the time since the load became calm, if it is.
    pub(super) fn decide(&self, load: Load, calm_for: Option<Duration>) -> Decision {
        let Load { apps, cpu, .. } = load;
        if apps < self.min {
            return Decision::Up((self.min - apps).min(STEP_UP));
        }
        if apps > self.max {
            return Decision::Down;
        }
        if cpu > self.target {
            return match (self.max - apps).min(STEP_UP) {
                0 => Decision::Stay(None),
                more => Decision::Up(more),
            };
        }
        match calm_for {
            Some(time) if self.is_calm(load) && time >= self.calm => Decision::Down,
            other => Decision::Stay(other.filter(|_| self.is_calm(load))),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "they are few")]
fn number(apps: usize) -> f64 {
    apps as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule {
        min: 2,
        max: 10,
        target: 0.7,
        calm: Duration::from_mins(10),
    };

    fn load(apps: usize, cpu: f64) -> Load {
        Load {
            apps,
            cpu,
            needs_all: false,
        }
    }

    #[test]
    fn above_the_target_two_are_started_and_when_calm_one_is_stopped() {
        let calm = Some(RULE.calm);
        for (apps, cpu, calm_for, expected) in [
            (2, 0.71, None, Decision::Up(2)),
            (2, 0.70, None, Decision::Stay(None)),
            (9, 0.71, None, Decision::Up(1)),
            (10, 1.0, None, Decision::Stay(None)),
            (4, 0.10, calm, Decision::Down),
            (
                4,
                0.10,
                Some(Duration::ZERO),
                Decision::Stay(Some(Duration::ZERO)),
            ),
            (2, 0.0, calm, Decision::Stay(None)),
            // 2.0 processors would be 0.67 for each of three: too near to the target.
            (4, 0.5, calm, Decision::Stay(None)),
            (0, 0.0, None, Decision::Up(2)),
            (1, 0.9, None, Decision::Up(1)),
            (12, 0.9, None, Decision::Down),
        ] {
            let decided = RULE.decide(load(apps, cpu), calm_for);
            assert_eq!(decided, expected, "{apps} {cpu} {calm_for:?}");
        }
    }

    #[test]
    fn no_app_is_stopped_while_all_are_needed() {
        let queueing = Load {
            needs_all: true,
            ..load(6, 0.05)
        };
        let decided = RULE.decide(queueing, Some(Duration::from_hours(1)));
        assert_eq!(decided, Decision::Stay(None));
    }

    /// Applies a decision to the number of apps.
    fn after(apps: usize, decision: Decision) -> usize {
        match decision {
            Decision::Up(more) => apps + more,
            Decision::Down => apps - 1,
            Decision::Stay(_) => apps,
        }
    }

    proptest! {
        #[test]
        fn the_number_of_apps_stays_within_its_bounds(
            (min, max) in (0_usize..12).prop_flat_map(|min| (Just(min), min..16)),
            target in 0.05_f64..1.0,
            mut apps in 0_usize..20,
            runs in proptest::collection::vec(
                (0.0_f64..2.0, any::<bool>(), proptest::option::of(0_u64..1200)), 1..60),
        ) {
            let rule = Rule { min, max, target, ..RULE };
            for (cpu, needs_all, calm_for) in runs {
                let load = Load { apps, cpu, needs_all };
                let decided = rule.decide(load, calm_for.map(Duration::from_secs));
                let next = after(apps, decided);
                prop_assert!(next <= apps + 2 && apps <= next + 1, "{apps} {next}");
                if (min..=max).contains(&apps) {
                    prop_assert!((min..=max).contains(&next), "{apps} {next}");
                } else {
                    // From outside it moves towards them.
                    prop_assert!((next > apps) == (apps < min) && next != apps);
                }
                apps = next;
            }
        }

        /// A load that does not change: once an app was stopped, none is started, so no two
        /// decisions undo each other, and the number comes to rest.
        #[test]
        fn a_constant_load_comes_to_rest_without_a_way_back(
            work in 0.0_f64..12.0,
            processors in 1_usize..16,
            target in 0.1_f64..0.95,
            apps in 2_usize..=10,
            period in 30_u64..900,
            calm in 1_u64..1200,
        ) {
            let rule = Rule { target, calm: Duration::from_secs(calm), ..RULE };
            let machine = Machine { work, processors, period };
            let decided = machine.run(rule, apps, |load, calm| rule.decide(load, calm));
            prop_assert!(!goes_back(&decided), "{:?}", decided);
            let at_once = decided.windows(2).any(|pair| {
                matches!(pair, [Decision::Up(_), Decision::Down])
            });
            prop_assert!(!at_once, "{:?}", decided);
            let is_change = |decision: &Decision| !matches!(decision, Decision::Stay(_));
            let last = decided.iter().rposition(is_change).unwrap_or(0) as u64;
            // 8 apps at most are stopped, each after its calm time.
            prop_assert!(last <= 10 * (calm / period + 3), "{:?}", decided);
        }
    }

    /// Apps under a constant load.
    struct Machine {
        /// Processors that all requests need.
        work: f64,
        processors: usize,
        /// Seconds between two runs.
        period: u64,
    }

    impl Machine {
        /// Returns the decisions of two hundred runs.
        fn run(
            &self,
            rule: Rule,
            mut apps: usize,
            decide: impl Fn(Load, Option<Duration>) -> Decision,
        ) -> Vec<Decision> {
            let mut calm_since = None;
            let mut decided = Vec::new();
            for run in 0..200_u64 {
                let now = run * self.period;
                // An app has one processor at most, and the machine no more than it has.
                let used = self.work.min(number(apps)).min(number(self.processors));
                let load = load(apps, used / number(apps));
                calm_since = rule.is_calm(load).then(|| calm_since.unwrap_or(now));
                let calm_for = calm_since.map(|since: u64| Duration::from_secs(now - since));
                let decision = decide(load, calm_for);
                if !matches!(decision, Decision::Stay(_)) {
                    calm_since = None;
                }
                apps = after(apps, decision);
                decided.push(decision);
            }
            decided
        }
    }

    /// Returns true if an app was started after one was stopped.
    fn goes_back(decided: &[Decision]) -> bool {
        let is_down = |decision: &Decision| *decision == Decision::Down;
        let is_up = |decision: &Decision| matches!(decision, Decision::Up(_));
        let first = decided.iter().position(is_down);
        first.is_some_and(|first| decided[first..].iter().any(is_up))
    }

    #[test]
    fn a_rule_without_a_look_ahead_goes_back_and_forth() {
        let machine = Machine {
            work: 1.5,
            processors: 8,
            period: 60,
        };
        let naive = |load: Load, _| {
            if load.cpu > RULE.target {
                Decision::Up(2)
            } else if load.apps > RULE.min {
                Decision::Down
            } else {
                Decision::Stay(None)
            }
        };
        assert!(goes_back(&machine.run(RULE, 2, naive)));
        let ours = machine.run(RULE, 2, |load, calm| RULE.decide(load, calm));
        assert!(!goes_back(&ours), "{ours:?}");
        assert!(ours.contains(&Decision::Down), "{ours:?}");
    }
}
